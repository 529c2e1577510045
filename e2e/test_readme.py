"""What the README tells people to type works as it stands there."""

from __future__ import annotations

import re
import subprocess
from typing import Callable

import pytest

from services import ROOT, Service

# Blocks that talk to a server that runs. What installs or starts one (`pip`, `./start_all.sh`) has tests of its own.
BLOCKS = [
    re.sub(r"^(pip|\./).*\n", "", block, flags=re.MULTILINE)
    for block in re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    if "curl" in block and "localhost:5000" in block
]


@pytest.fixture(scope="module")
def web(spawn_shared: Callable[..., Service]) -> Service:
    """In front of a model_api of its own: some lines load and unload."""
    model_api = spawn_shared("model_api", MODEL_NAME="all")
    return spawn_shared("web_api", APP_TYPE="cli", MODEL_API_URL=model_api.url)


def test_the_readme_has_such_lines():
    assert BLOCKS


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[-1][:60])
def test_lines_of_the_readme(web: Service, block: str):
    # An error of the server is to fail the line.
    curl = 'curl() { command curl --silent --show-error --fail-with-body --max-time 30 "$@"; }\nset -eu\n'
    script = curl + block.replace("localhost:5000", f"127.0.0.1:{web.port}")
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout.decode(errors="replace") + done.stderr.decode()
    assert done.stdout
