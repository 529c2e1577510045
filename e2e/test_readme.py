"""Every command and program of the README works as written."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable

import onnx
import pytest
from onnx import TensorProto, helper

from services import MODELS, ROOT, Service

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The code blocks that talk to a running server, without the lines that install or start one: those have tests of their own."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [re.sub(r"^(pip|\./).*\n", "", block, flags=re.MULTILINE) for block in found if "localhost:5000" in re.sub(r"#.*", "", block)]


SHELL, PYTHON = blocks("sh"), blocks("python")


def iris() -> onnx.ModelProto:
    """Three class scores for rows of four numbers."""
    weights = helper.make_tensor("weights", TensorProto.FLOAT, [4, 3], [0.1] * 12)
    rows = helper.make_tensor_value_info("X", TensorProto.FLOAT, ["batch", 4])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph([helper.make_node("MatMul", ["X", "weights"], ["scores"])], "iris", [rows], [scores], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with a copy of its models, and with the user's own files that the README names."""
    folder = tmp_path_factory.mktemp("checkout")
    for entry in ROOT.iterdir():
        if entry.name not in ("model_api", ".git", ".mlserve", "target"):
            (folder / entry.name).symlink_to(entry)
    shutil.copytree(MODELS, folder / "model_api" / "models")
    onnx.save(iris(), folder / "iris.onnx")
    shutil.copy(MODELS / "mnist" / "1" / "model.onnx", folder / "photos.onnx")
    shutil.copy(MODELS / "mnist" / "samples" / "digit-7.png", folder / "photo.png")
    return folder


@pytest.fixture(scope="module")
def web(spawn_shared: Callable[..., Service], checkout: Path) -> Service:
    """In front of a model_api of its own: some lines load models."""
    settings = {"MODEL_NAME": "all", "MODELS_DIR": checkout / "model_api" / "models", "MODEL_WATCH_INTERVAL_MS": 200}
    model_api = spawn_shared("model_api", **settings)
    return spawn_shared("web_api", APP_TYPE="cli", MODEL_API_URL=model_api.url)


def run(web: Service, checkout: Path, *command: str) -> None:
    done = subprocess.run([word.replace("localhost:5000", f"127.0.0.1:{web.port}") for word in command], cwd=checkout, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout.decode(errors="replace") + done.stderr.decode()
    assert done.stdout


def test_the_readme_has_blocks_of_both_languages():
    assert len(SHELL) >= 5 and len(PYTHON) >= 2


def test_the_readme_is_short():
    assert len(README.splitlines()) < 200


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.splitlines()[-1][:60])
def test_shell_block(web: Service, checkout: Path, block: str):
    # An error of the server fails the line; a model that is still being loaded is requested again.
    retries = "--retry 20 --retry-delay 1 --retry-all-errors" if ".onnx" in block else ""
    curl = f'curl() {{ command curl --silent --show-error --fail-with-body --max-time 30 {retries} "$@"; }}\nset -eu\n'
    run(web, checkout, "bash", "-c", curl + block)


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.splitlines()[0])
def test_python_block(web: Service, checkout: Path, block: str):
    run(web, checkout, sys.executable, "-c", block)
