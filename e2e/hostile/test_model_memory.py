"""The memory of model_api and its sessions, natively: requests of many rows, and a model that takes memory without end."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
import onnx
import pytest
import requests
from onnx import TensorProto, helper

from attacks_model import ROWS, send_many_rows
from services import Service, children_of, wait_until

MIB = 1 << 20

# Far below the 4 GiB that 21,000 rows of mnist in one run take, and far above what pieces take.
MAX_BYTES = 1200 * MIB
SESSION_LIMIT = 512 * MIB


def anonymous(pid: int) -> int:
    """Bytes that a process alone holds; 0 when it has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


class Peak:
    """The most that a service and its sessions held together, bytes, looked at while the block runs."""

    def __init__(self, service: Service):
        self.pid, self.bytes, self.ended = service.running.pid, 0, threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def now(self) -> int:
        return sum(map(anonymous, [self.pid, *children_of(self.pid)]))

    def look(self) -> None:
        while not self.ended.wait(0.01):
            self.bytes = max(self.bytes, self.now())

    def __enter__(self) -> "Peak":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()


def grows() -> onnx.ModelProto:
    """Takes a mebibyte for each of `steps` and gives the number of all elements."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still_on"]), helper.make_node("Expand", ["i_as_float", "length"], ["piece"])],
        "step",
        [value("i", TensorProto.INT64, []), value("on", TensorProto.BOOL, [])],
        [value("still_on", TensorProto.BOOL, []), value("piece", TensorProto.FLOAT, [262144])],
    )
    body.node.insert(0, helper.make_node("Cast", ["i"], ["i_as_float"], to=TensorProto.FLOAT))
    nodes = [
        helper.make_node("Squeeze", ["steps"], ["count"]),
        helper.make_node("Loop", ["count", ""], ["pieces"], body=body),
        helper.make_node("Size", ["pieces"], ["size"]),
        helper.make_node("Unsqueeze", ["size", "first"], ["elements"]),
    ]
    constants = [onnx.numpy_helper.from_array(np.array([262144]), "length"), onnx.numpy_helper.from_array(np.array([0]), "first")]
    graph = helper.make_graph(
        nodes, "made_by_tests", [value("steps", TensorProto.INT64, [1])], [value("elements", TensorProto.INT64, [1])], constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


@pytest.fixture
def growing(spawn: Callable[..., Service], tmp_path: Path) -> Iterator[Service]:
    folder = tmp_path / "models"
    folder.mkdir()
    onnx.save(grows(), folder / "grows.onnx")
    yield spawn("model_api", MODELS_DIR=folder, MODEL_NAME="all", SESSION_MEMORY_BYTES=SESSION_LIMIT, RUN_TIMEOUT_MS=60_000)


def run(service: Service, steps: int) -> requests.Response:
    body = {"inputs": [{"name": "steps", "datatype": "INT64", "shape": [1], "data": [steps]}]}
    return requests.post(f"{service.url}/v2/models/grows/infer", json=body, timeout=60)


def test_a_model_that_takes_memory_without_end_is_ended_at_the_limit(growing: Service):
    with Peak(growing) as peak:
        assert run(growing, 3).json()["outputs"][0]["data"] == [3 * 262144]
        response = run(growing, 1_000_000)
    assert response.status_code == 500, response.text
    error = response.json()["error"]
    assert f"more than {SESSION_LIMIT} bytes" in error and "SESSION_MEMORY_BYTES" in error, error
    assert peak.bytes < 2 * SESSION_LIMIT, f"{peak.bytes / MIB:.0f} MiB"
    assert run(growing, 3).status_code == 200
    assert peak.now() < SESSION_LIMIT
    # Once it is known, it takes no memory again.
    with Peak(growing) as peak:
        assert run(growing, 1_000_000).status_code == 500
    assert peak.bytes < SESSION_LIMIT, f"{peak.bytes / MIB:.0f} MiB"


def test_requests_of_many_rows_are_answered_within_the_memory_of_pieces(spawn: Callable[..., Service]):
    model_api = spawn("model_api")
    metadata = requests.get(f"{model_api.url}/v2/models/mnist", timeout=10).json()
    given, wanted = metadata["inputs"][0], metadata["outputs"][0]["name"]
    rows = np.zeros((ROWS, *given["shape"][1:]), np.float32)
    rows[::2] = 1
    head = {
        "inputs": [{**{key: given[key] for key in ("name", "datatype")}, "shape": rows.shape, "parameters": {"binary_data_size": rows.nbytes}}],
        "outputs": [{"name": wanted, "parameters": {"binary_data": True}}],
    }
    head = json.dumps(head).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    with Peak(model_api) as peak:
        for _ in range(3):
            response = requests.post(f"{model_api.url}/v2/models/mnist/infer", head + rows.tobytes(), headers=headers, timeout=60)
            assert response.status_code == 200, response.text[:300]
    length = int(response.headers["Inference-Header-Content-Length"])
    assert json.loads(response.content[:length])["outputs"][0]["shape"][0] == ROWS
    found = np.frombuffer(response.content[length:], np.float32).reshape(ROWS, -1)
    for first in (0, 1):
        assert np.abs(found[first::2] - found[first]).max() < 1e-4, "equal rows have equal results"
    assert np.abs(found[0] - found[1]).max() > 1e-3, "and others have others"
    assert peak.bytes < MAX_BYTES, f"{peak.bytes / MIB:.0f} MiB"
    wait_until(lambda: peak.now() < MAX_BYTES / 2, f"memory comes back, now {peak.now() / MIB:.0f} MiB")


def test_compressed_requests_of_many_rows_leave_the_service_ready(spawn: Callable[..., Service]):
    model_api = spawn("model_api")
    with Peak(model_api) as peak:
        send_many_rows(model_api.url)
    assert peak.bytes < 2 * MAX_BYTES, f"{peak.bytes / MIB:.0f} MiB"
    wait_until(lambda: peak.now() < MAX_BYTES / 2, "memory comes back", seconds=40)
    assert model_api.health().status_code == 200
