"""An image of model_api that carries its models: build_all.sh --models DIR --tag NAME."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Iterator

import pytest
import requests

from containers import docker, inspect
from services import MODELS, ROOT, free_port, wait_until

IMAGE = "mlserve_e2e/baked:with-models"


def build(*words: str) -> subprocess.CompletedProcess:
    # Building model_api itself is a matter of many minutes where nothing is built yet.
    command = [str(ROOT / "build_all.sh"), *words]
    return subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=3600)


@pytest.fixture(scope="module")
def folder(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a space in its name, a file that only its owner may read, and things that are no models."""
    folder = tmp_path_factory.mktemp("baking") / "my models"
    shutil.copytree(MODELS / "mnist", folder / "mnist")
    (folder / "digits").mkdir()
    shutil.copy(next(MODELS.glob("mnist/**/model.onnx")), folder / "digits" / "model.onnx")
    (folder / "digits" / "model.onnx").chmod(0o600)
    for name in (".git/secret", "notes/plan.txt"):
        (folder / name).parent.mkdir()
        (folder / name).write_text("not for an image")
    return folder


@pytest.fixture(scope="module")
def image(engine: None, folder: Path) -> Iterator[str]:
    built = build("--models", str(folder), "--tag", IMAGE)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    assert f"{IMAGE} serves digits mnist" in built.stdout
    yield IMAGE
    docker("image", "rm", "--force", IMAGE)


@pytest.fixture(scope="module")
def baked(image: str) -> Iterator[str]:
    """The address of a container of it, with nothing mounted and nothing set."""
    port = free_port()
    words = ["--detach", "--read-only", "--cap-drop", "ALL", "--publish", f"127.0.0.1:{port}:5050"]
    container = docker("run", *words, image)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: requests.get(f"{url}/health/ready", timeout=5).status_code == 200, docker("logs", container, check=False), 60)
        yield url
    finally:
        docker("rm", "--force", container)


def test_it_serves_its_models_without_a_mount(baked: str):
    models = requests.get(f"{baked}/health/ready", timeout=10).json()["models"]
    assert [(model["name"], model["state"]) for model in models] == [("digits", "READY"), ("mnist", "READY")]
    image_file = next((MODELS / "mnist" / "samples").glob("*7*.png")).read_bytes()
    answer = requests.post(f"{baked}/v2/models/mnist/infer", data=image_file, headers={"Content-Type": "image/png"}, timeout=10)
    assert answer.status_code == 200, answer.text
    values = answer.json()["outputs"][0]["data"]
    assert values.index(max(values)) == 7


def test_it_holds_the_models_and_nothing_else_of_the_folder(image: str):
    assert docker("run", "--rm", "--network", "none", image, "ls", "-A", "/models").split() == ["digits", "mnist"]
    config = inspect("--type", "image", image)["Config"]
    assert (config["User"], config["Labels"]["mlserve.models"]) == ("10001:10001", "digits mnist")
    assert {"MODELS_DIR=/models", "MODEL_NAME=all", "MODEL_WATCH=off"} <= set(config["Env"])
    left = docker("image", "ls", "--format", "{{.Repository}}", "mlserve/baking")
    assert left == "", "the name under which it was built"


def test_a_model_that_cannot_be_loaded_gets_no_image_and_its_reason_is_reported(image: str, folder: Path):
    (folder / "broken").mkdir()
    (folder / "broken" / "model.onnx").write_bytes(b"This is no graph.")
    try:
        refused = build("--models", str(folder), "--tag", f"{IMAGE}-broken")
    finally:
        shutil.rmtree(folder / "broken")
    assert refused.returncode == 1, refused.stdout[-2000:]
    assert "not every model" in refused.stderr and "\nbroken 1 unavailable: " in refused.stderr, refused.stderr
    assert "serves" not in refused.stdout
    assert docker("image", "ls", "--quiet", f"{IMAGE}-broken") == ""
    assert docker("ps", "--all", "--quiet", "--filter", "name=mlserve_baking") == ""


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["--models", "/nowhere", "--tag", "x"], "--models: there is no folder /nowhere"),
        (["--models", str(ROOT / "docs"), "--tag", "x"], "--models: there is no model in "),
        (["--models", str(MODELS)], "--models DIR and --tag NAME go together"),
        (["--tag", "x"], "--models DIR and --tag NAME go together"),
        (["--models"], "--models and --tag need a value"),
    ],
)
def test_what_cannot_be_baked_is_listedbefore_anything_is_built(words: list[str], reported: str):
    refused = build(*words)
    assert (refused.returncode, refused.stdout) == (64, "")
    assert refused.stderr.startswith(f"build_all.sh: {reported}")
