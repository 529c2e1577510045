"""The commands in the READMEs of web_api/, model_api/ and db_api/ work in those folders as written."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from services import BINARIES, ROOT, free_port

FOLDERS = ("web_api", "model_api", "db_api")

# Nothing is compiled anew: the tests run in a step of their own, and the programs are those that are built. A server runs until it
# answers. The test that a line names must be there, with tests of the topic.
CARGO = """
cargo() {
  local target='' topic='' program=''
  case $1 in
    test)
      shift
      while (($#)); do
        case $1 in
          --test) target=$2 && shift ;;
          --*) ;;
          *) topic=$1 ;;
        esac
        shift
      done
      [[ -z $target ]] || grep -rqE "^mod $topic;|fn [a-z_]*$topic" "tests/$target"
      ;;
    run)
      while [[ $1 != --bin ]]; do shift; done
      program=$BINARIES/$2
      shift 2
      if [[ ${1:-} == -- ]]; then "$program" "${@:2}"; return; fi
      "$program" &
      until curl --silent --fail "http://127.0.0.1:$PORT/health/live"; do kill -0 $! && sleep 0.2; done
      kill $! && wait $!
      ;;
  esac
}
set -euo pipefail
"""


def blocks(folder: str) -> list[str]:
    readme = (ROOT / folder / "README.md").read_text()
    return re.findall(r"^```sh\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)


def run(folder: str, script: str) -> subprocess.CompletedProcess:
    ports = {"PORT": str(free_port()), "METRICS_ADDR": f"127.0.0.1:{free_port()}"}
    environment = os.environ | ports | {"LAME_DUCK_MS": "0", "BINARIES": str(BINARIES)}
    command = ["bash", "-c", script]
    return subprocess.run(command, cwd=ROOT / folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1200)


@pytest.mark.parametrize(
    ("folder", "block"),
    [(folder, block) for folder in FOLDERS for block in blocks(folder) if "docker" not in block],
    ids=lambda words: words.splitlines()[0][:40],
)
def test_lines_of_a_folders_readme(binaries: Path, folder: str, block: str):
    done = run(folder, CARGO + block)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_has_a_readme_that_describes_how_it_is_tested_alone(folder: str):
    assert any("cargo test --locked" in block for block in blocks(folder))
    # What it names to read is there.
    text = (ROOT / folder / "README.md").read_text().partition("## Where to start reading")[2]
    named = [name for name in re.findall(r"`([\w./*]+)`", text) if "/" in name or "." in name]
    assert named and [name for name in named if not list((ROOT / folder).glob(name.rstrip("/")))] == []
