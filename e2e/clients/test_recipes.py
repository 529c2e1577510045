"""The recipes of docs/BRING_YOUR_MODEL.md work as written. The results of the served model are compared with those of the
library."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import tritonclient.http as triton

import graphs
from inference_requests import inputs
from services import ROOT, Service, made_locale, wait_until

DOCUMENT = (ROOT / "docs" / "BRING_YOUR_MODEL.md").read_text()

# The library's results for the first rows, in terms of the recipe's variables.
LIBRARY = {
    "sklearn": "model.predict_proba(X[:50])",
    "xgboost": "model.predict_proba(X[:50])",
    "lightgbm": "model.predict_proba(X[:50])",
    "pytorch": "model(torch.from_numpy(X)).detach().numpy()",
    "text": "model.predict_proba(X[:4])",
    "tfidf": "model.predict_proba(X[:4].ravel())",
}
NAMES = {"sklearn": "iris-sklearn", "xgboost": "iris-xgboost", "lightgbm": "iris-lightgbm", "pytorch": "iris-pytorch", "text": "fruit", "tfidf": "opinions"}
recipes = pytest.mark.parametrize("recipe", [pytest.param(it, marks=pytest.mark.pytorch) if it == "pytorch" else it for it in NAMES])


def block(words: str) -> str:
    """The code block with this info string."""
    (code,) = re.findall(rf"^```{words}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    return code


class RecipeRunner:
    """The repository's root, but with an empty folder of models, and a server that watches that. Recipes run there as they are
    written."""

    def __init__(self, folder: Path, url: str):
        self.folder, self.url = folder, url

    def address(self) -> str:
        return self.url.removeprefix("http://")

    def run(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def export(self, recipe: str) -> tuple[np.ndarray, np.ndarray]:
        """Runs the recipe; returns its rows and the library's results."""
        rows = "import numpy as np\nX = np.random.default_rng(0).random((50, 4), np.float32)\n" if recipe == "pytorch" else ""
        compare = f"{rows}import numpy\nnumpy.savez('results.npz', X=X[:50], results={LIBRARY[recipe]})\n"
        self.run(sys.executable, "-W", "ignore", "-c", block(f"python export {recipe}") + compare)
        reported = np.load(self.folder / "results.npz", allow_pickle=True)
        return reported["X"][: len(reported["results"])], reported["results"]

    def wait_for(self, model: str) -> None:
        client = triton.InferenceServerClient(self.address())
        wait_until(lambda: client.is_model_ready(model), f"{model} is served", 60)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, spawn_shared: Callable[..., Service]) -> RecipeRunner:
    folder = tmp_path_factory.mktemp("recipes")
    for entry in ROOT.iterdir():
        if entry.name not in ("model_api", ".git", ".mlserve", "target"):
            (folder / entry.name).symlink_to(entry)
    models = folder / "model_api" / "models"
    # A server with MODEL_NAME=all needs one model when it starts.
    graphs.write(graphs.scaled(1), models / "first")
    settings = {"MODEL_NAME": "all", "MODELS_DIR": models, "MODEL_WATCH": "poll", "MODEL_WATCH_INTERVAL_MS": 200}
    model_api = spawn_shared("model_api", **settings, **made_locale(tmp_path_factory.mktemp("locale")))
    return RecipeRunner(folder, spawn_shared("web_api", APP_TYPE="cli", MODEL_API_URL=model_api.url).url)


@recipes
def test_a_recipe_is_served_and_answers_as_its_library_does(runner: RecipeRunner, recipe: str):
    X, reported = runner.export(recipe)
    runner.wait_for(NAMES[recipe])

    client = triton.InferenceServerClient(runner.address())
    answer = client.infer(NAMES[recipe], inputs(triton, X=X))
    np.testing.assert_allclose(answer.as_numpy("probabilities"), reported, atol=1e-5)
    assert answer.as_numpy("probabilities").shape == reported.shape

    shell = block(f"sh ask {recipe}").replace("localhost:5000", runner.address()).replace("curl ", "curl --silent --show-error --fail-with-body ")
    outputs = {output["name"]: output for output in json.loads(runner.run("bash", "-c", shell))["outputs"]}
    assert outputs["probabilities"]["shape"] == [1, reported.shape[1]]
    if recipe in ("text", "tfidf"):
        assert outputs["label"]["data"] == ["apple" if recipe == "text" else "good"]
    elif recipe != "pytorch":
        assert outputs["label"]["data"] == [0]


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_the_client_program_runs_over_both_transports(runner: RecipeRunner, transport: str):
    runner.export("sklearn")
    runner.wait_for("iris-sklearn")
    program = block("python ask").replace("localhost:5000", runner.address()).replace("tritonclient.http as", f"tritonclient.{transport} as")
    printed = runner.run(sys.executable, "-c", program)
    rows = [[float(number) for number in re.findall(r"[\d.e-]+", row)] for row in printed.strip().splitlines()]
    assert [int(np.argmax(row)) for row in rows] == [0, 2]


def test_a_classifier_that_kept_its_zipmap_is_served_without_it(runner: RecipeRunner):
    code = block("python export sklearn").replace(', options={"zipmap": False}', "").replace("iris-sklearn", "iris-zipmap")
    runner.run(sys.executable, "-c", code)
    runner.wait_for("iris-zipmap")
    client = triton.InferenceServerClient(runner.address())
    metadata = client.get_model_metadata("iris-zipmap")
    assert [output["name"] for output in metadata["outputs"]] == ["output_label"]
    (reason,) = [each["reason"] for each in client.get_model_repository_index() if each["name"] == "iris-zipmap"]
    assert "output_probability" in reason
    rows = np.float32([[5.1, 3.5, 1.4, 0.2]])
    assert client.infer("iris-zipmap", inputs(triton, X=rows)).as_numpy("output_label").tolist() == [0]
