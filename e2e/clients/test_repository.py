"""Load, unload and index over Triton's clients."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
import pytest
import requests
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

import graphs
from client import INTERNAL
from inference_requests import assert_refused, inputs, random
from services import Service, children_of, wait_until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    graphs.write(graphs.scaled(2), folder / "served")
    graphs.write(graphs.scaled(3), folder / "waiting" / "1")
    graphs.write(graphs.slow(), folder / "slow")
    graphs.write(b"This is no graph.", folder / "garbage")
    graphs.write(graphs.sequence_input(), folder / "sequence")
    graphs.write(graphs.scaled(2), folder / "contradiction", inputs=[{"name": "x", "datatype": "INT64"}])
    return folder


@pytest.fixture(scope="module")
def model_api(spawn_shared: Callable[..., Service], folder: Path) -> Service:
    return spawn_shared("model_api", MODEL_NAME="served,slow", MODELS_DIR=folder, MODEL_WATCH="off")


@pytest.fixture(scope="module")
def web_api(spawn_shared: Callable[..., Service], model_api: Service) -> Service:
    return spawn_shared("web_api", APP_TYPE="cli", MODEL_API_URL=model_api.url)


class Client:
    """What both of Triton's clients can do, with the same answers."""

    def __init__(self, module, port: int):
        self.module, self.client = module, module.InferenceServerClient(f"127.0.0.1:{port}")
        self.load, self.unload = self.client.load_model, self.client.unload_model
        self.is_ready = self.client.is_model_ready

    def index(self) -> dict[str, tuple[str, str]]:
        index = self.client.get_model_repository_index()
        entries = index if self.module is triton else [
            {"name": entry.name, "state": entry.state, "reason": entry.reason} for entry in index.models
        ]
        return {entry["name"]: (entry["state"], entry["reason"]) for entry in entries}

    def infer(self, model: str, **arrays: np.ndarray) -> np.ndarray:
        return self.client.infer(model, inputs(self.module, **arrays)).as_numpy("y")


@pytest.fixture(params=[triton, triton_grpc], ids=["http", "grpc"])
def client(request: pytest.FixtureRequest, web_api: Service) -> Iterator[Client]:
    client = Client(request.param, web_api.port)
    yield client
    x = random(1, 3)
    assert graphs.same_bits(client.infer("served", x=x), x * 2), "what is served goes on being served"
    client.client.close()


def test_a_model_is_loaded_called_and_unloaded(client: Client):
    x = random(2, 3)
    assert client.index()["waiting"][0] == "UNAVAILABLE" and not client.is_ready("waiting")
    client.load("waiting")
    assert client.index()["waiting"] == ("READY", "") and client.is_ready("waiting")
    assert graphs.same_bits(client.infer("waiting", x=x), x * 3)
    client.unload("waiting")
    assert client.index()["waiting"] == ("UNAVAILABLE", "it was unloaded") and not client.is_ready("waiting")
    with pytest.raises(InferenceServerException) as gone:
        client.infer("waiting", x=random(1, 3))
    assert gone.value.status() in ("404", "StatusCode.NOT_FOUND")


def test_loading_again_brings_what_has_changed(client: Client, folder: Path):
    x = random(1, 3)
    client.load("waiting")
    assert graphs.same_bits(client.infer("waiting", x=x), x * 3)
    graphs.write(graphs.scaled(4), folder / "waiting" / "1")
    client.load("waiting")
    assert graphs.same_bits(client.infer("waiting", x=x), x * 4), "a result of the changed model, not a cached one"
    graphs.write(graphs.scaled(3), folder / "waiting" / "1")
    client.load("waiting")
    client.unload("waiting")


@pytest.mark.parametrize(
    ("model", "words"),
    [("garbage", "ONNX"), ("sequence", "sequence"), ("contradiction", "datatype")],
)
def test_what_cannot_be_served_is_refused_with_the_reason(client: Client, model: str, words: str):
    with pytest.raises(InferenceServerException) as refused:
        client.load(model)
    reported = refused.value.message()
    assert words in reported and model in reported, reported
    assert not INTERNAL.search(reported), reported
    assert not client.is_ready(model)
    state, reason = client.index()[model]
    assert state == "UNAVAILABLE" and words in reason, reason


def test_a_model_that_is_not_there_is_neither_loaded_nor_unloaded(client: Client):
    for call in (client.load, client.unload):
        with pytest.raises(InferenceServerException) as refused:
            call("nope")
        assert refused.value.status() in ("404", "StatusCode.NOT_FOUND"), refused.value.message()


def test_a_request_that_has_begun_is_answered_by_the_model_that_is_unloaded(client: Client, web_api: Service, model_api: Service):
    steps = 2_000_000 + int(np.random.default_rng().integers(1_000_000))
    with ThreadPoolExecutor() as elsewhere:
        pending = elsewhere.submit(post, f"{web_api.url}/v2/models/slow/infer", steps)
        wait_until(lambda: model_api.count("model_api_in_flight") > 0, "the request has arrived")
        client.unload("slow")
        assert pending.result()["outputs"][0]["data"] == [steps]
    client.load("slow")
    assert client.is_ready("slow")


def post(url: str, steps: int) -> dict:
    tensor = {"name": "steps", "datatype": "INT64", "shape": [], "data": steps}
    return requests.post(url, json={"inputs": [tensor]}, timeout=30).json()


def test_only_what_is_ready_is_listed_on_request(client: Client, web_api: Service):
    ready = requests.post(f"{web_api.url}/v2/repository/index", json={"ready": True}, timeout=10).json()
    assert {entry["name"] for entry in ready} == {"served", "slow"}


def test_the_memory_of_unloaded_models_comes_back(client: Client, model_api: Service):
    """A model lives in a process of its own, which ends; what remains with the parent must not add up."""

    def resident() -> int:
        return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{model_api.pid}/status").read_text())[1])

    def load_and_unload(times: int) -> None:
        for _ in range(times):
            client.load("waiting")
            client.unload("waiting")

    processes = len(children_of(model_api.pid))
    load_and_unload(5)
    before = resident()
    load_and_unload(20)
    wait_until(lambda: len(children_of(model_api.pid)) == processes, "their processes have ended")
    assert resident() - before < 8 << 10


@pytest.mark.parametrize("module", [triton, triton_grpc], ids=["http", "grpc"])
def test_a_repository_that_is_closed_is_listed_and_not_changed(spawn: Callable[..., Service], model_api: Service, module):
    closed = Client(module, spawn("web_api", APP_TYPE="cli", MODEL_API_URL=model_api.url, REPOSITORY_API="off").port)
    status = "403" if module is triton else "StatusCode.PERMISSION_DENIED"
    for call in (closed.load, closed.unload):
        assert_refused(status, "Models cannot be loaded or unloaded over this port: REPOSITORY_API is off.", call, "served")
    assert closed.index()["served"] == ("READY", "") and closed.is_ready("served")
