"""Folders that come while the server runs are served without a restart, and answer as the libraries do that made them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
import onnx
import onnxmltools
import pytest
import requests
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton
from onnx import helper
from onnxmltools.convert.common.data_types import FloatTensorType
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.ensemble import GradientBoostingClassifier
from xgboost import XGBClassifier

import graphs
from inference_requests import inputs, random
from services import Service, wait_until

X, y = load_iris(return_X_y=True)
X = X.astype(np.float32)


class WatchedStack:
    """A server that was started with one model, and its folder."""

    def __init__(self, folder: Path, model_api: Service, web: Service):
        self.folder, self.model_api, self.web = folder, model_api, web
        self.http = triton.InferenceServerClient(f"127.0.0.1:{web.port}")
        self.grpc = triton_grpc.InferenceServerClient(f"127.0.0.1:{web.port}")
        self.pids = model_api.pid, web.pid

    def wait_for(self, model: str, version: str = "") -> None:
        wait_until(lambda: self.http.is_model_ready(model, version), f"{model} is served", 30)

    def infer(self, model: str, output: str, **arrays: np.ndarray) -> np.ndarray:
        """Over both transports, which must agree."""
        answer = self.http.infer(model, inputs(triton, **arrays)).as_numpy(output)
        over_grpc = self.grpc.infer(model, inputs(triton_grpc, **arrays)).as_numpy(output)
        assert graphs.same_bits(answer, over_grpc)
        return answer

    def reason(self, model: str) -> str:
        return "; ".join(each["reason"] for each in self.http.get_model_repository_index() if each["name"] == model)


@contextmanager
def always_ready(*services: Service) -> Iterator[None]:
    """Whatever is loaded meanwhile, or cannot be, is no reason to send traffic elsewhere."""
    over, unready = threading.Event(), []

    def look(service: Service) -> None:
        while not over.wait(0.02):
            if (answer := service.health()).status_code != 200:
                unready.append((service.name, answer.text))

    with ThreadPoolExecutor() as lookouts:
        lookouts.map(look, services)
        try:
            yield
        finally:
            over.set()
    assert unready == []


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, spawn_shared: Callable[..., Service]) -> WatchedStack:
    folder = tmp_path_factory.mktemp("watched")
    graphs.write(graphs.scaled(3), folder / "first" / "1")
    model_api = spawn_shared("model_api", MODEL_NAME="all", MODELS_DIR=folder, MODEL_WATCH="poll", MODEL_WATCH_INTERVAL_MS=200)
    return WatchedStack(folder, model_api, spawn_shared("web_api", APP_TYPE="cli", MODEL_API_URL=model_api.url))


@pytest.fixture(autouse=True)
def nothing_was_restarted(stack: WatchedStack):
    with always_ready(stack.model_api, stack.web):
        yield
    assert (stack.model_api.running.poll(), stack.web.running.poll()) == (None, None)
    assert (stack.model_api.pid, stack.web.pid) == stack.pids
    x = random(1, 3)
    assert graphs.same_bits(stack.infer("first", "y", x=x), x * np.float32(3))


def test_a_scikit_learn_model_with_its_zipmap_is_served_with_its_labels(stack: WatchedStack):
    model = GradientBoostingClassifier(n_estimators=10).fit(X, y)
    graphs.write(to_onnx(model, X[:1]), stack.folder / "sklearn")
    stack.wait_for("sklearn")
    assert stack.infer("sklearn", "output_label", X=X).tolist() == model.predict(X).tolist()


def test_an_xgboost_model_is_served(stack: WatchedStack):
    model = XGBClassifier(n_estimators=10).fit(X, y)
    graphs.write(onnxmltools.convert_xgboost(model, initial_types=[("X", FloatTensorType([None, 4]))]), stack.folder / "xgboost")
    stack.wait_for("xgboost")
    np.testing.assert_allclose(stack.infer("xgboost", "probabilities", X=X), model.predict_proba(X), atol=1e-6)


def test_a_model_that_takes_strings_is_served(stack: WatchedStack):
    graphs.write(graphs.numbered_words(), stack.folder / "words" / "1")
    stack.wait_for("words", "1")
    assert stack.infer("words", "number", word=np.array(["三", "one", ""], dtype=object)).tolist() == [3, 1, -1]


def test_a_bare_file_with_two_inputs_is_served(stack: WatchedStack):
    (stack.folder / "two-inputs.onnx").write_bytes(graphs.arithmetic().SerializeToString())
    stack.wait_for("two-inputs")
    a, b = random(3, 2), random(3, 2)
    assert graphs.same_bits(stack.infer("two-inputs", "difference", a=a, b=b), a - b)


def test_weights_that_come_after_their_graph_are_waited_for(stack: WatchedStack, tmp_path: Path):
    """Two files, as PyTorch writes them, copied slowly."""
    weights = np.arange(3 * 100_000, dtype=np.float32).reshape(3, -1)
    model = graphs.graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        {"x": ("FP32", ["n", 3])},
        {"y": ("FP32", ["n", weights.shape[1]])},
        graphs.constant("weights", "FP32", weights),
    )
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="model.onnx.data")
    folder = stack.folder / "two-files"
    folder.mkdir()
    for name in ("model.onnx", "model.onnx.data"):
        content = (tmp_path / name).read_bytes()
        with (folder / name).open("wb", buffering=0) as file:
            for begin in range(0, len(content), len(content) // 5 + 1):
                file.write(content[begin : begin + len(content) // 5 + 1])
                time.sleep(0.3)
    stack.wait_for("two-files")
    x = np.float32([[1, 2, 3], [0, 0, 1]])
    np.testing.assert_allclose(stack.infer("two-files", "y", x=x), x @ weights, rtol=1e-6)


def test_a_newer_version_takes_over_and_the_older_one_still_answers(stack: WatchedStack):
    graphs.write(graphs.scaled(1), stack.folder / "growing" / "1")
    stack.wait_for("growing", "1")
    graphs.write(graphs.scaled(5), stack.folder / "growing" / "2")
    stack.wait_for("growing", "2")
    x = random(1, 3)
    assert graphs.same_bits(stack.infer("growing", "y", x=x), x * np.float32(5))
    assert graphs.same_bits(stack.http.infer("growing", inputs(triton, x=x), "1").as_numpy("y"), x)


def test_a_changed_file_is_another_model_and_a_broken_one_leaves_the_last_good_one(stack: WatchedStack):
    x = random(1, 3)
    graphs.write(graphs.scaled(7), stack.folder / "changing")
    stack.wait_for("changing")
    assert graphs.same_bits(stack.infer("changing", "y", x=x), x * np.float32(7))

    graphs.write(graphs.scaled(8), stack.folder / "changing")
    # One transport alone: the change may come between two.
    over_http = lambda: stack.http.infer("changing", inputs(triton, x=x)).as_numpy("y")
    wait_until(lambda: graphs.same_bits(over_http(), x * np.float32(8)), "the changed file answers", 30)
    assert graphs.same_bits(stack.infer("changing", "y", x=x), x * np.float32(8))

    graphs.write(b"This is no graph.", stack.folder / "changing")
    wait_until(lambda: stack.reason("changing"), "the index says what is wrong with the new file", 30)
    assert graphs.same_bits(stack.infer("changing", "y", x=x), x * np.float32(8))


def test_fifty_changes_under_load_cost_no_request_and_mix_nothing_up(stack: WatchedStack):
    """Each answer is one version's or another's, and the last one's in the end."""
    graphs.write(graphs.scaled(100), stack.folder / "swapped")
    stack.wait_for("swapped")
    wrong, stop = [], threading.Event()

    def infer() -> None:
        client = triton.InferenceServerClient(f"127.0.0.1:{stack.web.port}")
        while not stop.is_set():
            x = random(2, 3)
            factors = client.infer("swapped", inputs(triton, x=x)).as_numpy("y") / x
            if not (np.ptp(factors) < 0.01 and 99.9 < factors.mean() < 150.1):
                wrong.append(factors)

    with ThreadPoolExecutor() as others:
        sending = [others.submit(infer) for _ in range(4)]
        for factor in range(101, 151):
            graphs.write(graphs.scaled(factor), stack.folder / "swapped")
            stack.http.load_model("swapped")
        stop.set()
    for each in sending:
        each.result()
    assert not wrong
    x = random(1, 3)
    assert graphs.same_bits(stack.infer("swapped", "y", x=x), x * np.float32(150))


def test_what_cannot_be_served_is_listed_with_the_reason_and_affects_no_other(stack: WatchedStack):
    graphs.write(b"This is no graph.", stack.folder / "garbage")
    graphs.write(graphs.sequence_input(), stack.folder / "sequence")
    for model in ("garbage", "sequence"):
        words = {"garbage": "ONNX", "sequence": "sequence"}[model]
        wait_until(lambda: words in stack.reason(model), f"{model} has a reason", 30)
        assert not stack.http.is_model_ready(model)
    assert requests.get(f"{stack.web.url}/health/live", timeout=5).ok


def test_a_folder_that_goes_is_no_longer_served(stack: WatchedStack):
    graphs.write(graphs.scaled(4), stack.folder / "going")
    stack.wait_for("going")
    (stack.folder / "going" / "model.onnx").unlink()
    (stack.folder / "going").rmdir()
    wait_until(lambda: not stack.http.is_model_ready("going"), "it is gone", 30)
