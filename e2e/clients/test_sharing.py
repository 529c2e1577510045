"""All routes share one cache: a result computed for one route is a hit for the others."""

from __future__ import annotations

import gzip
import json
import queue
from typing import Callable

import grpc
import numpy as np
import pytest
import requests
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton

from client import result_of, predict
from images import new_image
from inference_requests import inputs, random
from services import Service, wait_until


class Runs:
    """How many runs of the model there have been since the last look."""

    def __init__(self, model_server: Service):
        self.server = model_server
        self.seen = self.count()

    def count(self) -> float:
        return self.server.count("model_api_runs_total")

    def new(self) -> float:
        before, self.seen = self.seen, self.count()
        return self.seen - before


@pytest.fixture
def runs(model_server: Service) -> Runs:
    return Runs(model_server)


def infer(web: Service, model: str, body: bytes, **headers: str) -> requests.Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    response = requests.post(f"{web.url}/v2/models/{model}/infer", data=body, headers=headers, timeout=30)
    assert response.status_code == 200, response.text
    return response


def in_json(x: np.ndarray, name: str = "x", **more: object) -> bytes:
    tensor = {"name": name, "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
    return json.dumps({"inputs": [tensor], **more}).encode()


def test_one_tensor_over_six_ways_is_one_run(web: Service, runs: Runs):
    x = random(2, 3)
    first = infer(web, "versioned", in_json(x))
    assert first.headers["Cache-Status"] == "mlserve; fwd=miss; stored"
    assert runs.new() == 1

    nested = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 3], "data": x.tolist()}], "id": "another"})
    again = [
        infer(web, "versioned", nested.encode()),
        infer(web, "versioned", gzip.compress(in_json(x)), Content_Encoding="gzip"),
        infer(web, "versioned", x.tobytes(), Inference_Header_Content_Length="0"),
    ]
    assert {response.headers["Cache-Status"] for response in again} == {"mlserve; hit"}
    assert {response.headers["ETag"] for response in again} == {first.headers["ETag"]}

    binary = triton.InferenceServerClient(f"127.0.0.1:{web.port}").infer("versioned", inputs(triton, x=x))
    grpc = triton_grpc.InferenceServerClient(f"127.0.0.1:{web.port}").infer("versioned", inputs(triton_grpc, x=x))
    assert np.array_equal(binary.as_numpy("y"), x * 10) and np.array_equal(grpc.as_numpy("y"), x * 10)
    assert runs.new() == 0


def test_one_image_over_the_page_and_the_protocols_is_one_run(web: Service, runs: Runs):
    image_file = new_image()
    page = result_of(predict(web.url, image_file))
    assert runs.new() == 1

    image_files = np.array([image_file], dtype=object)
    binary = triton.InferenceServerClient(f"127.0.0.1:{web.port}").infer("mnist", inputs(triton, image=image_files))
    grpc = triton_grpc.InferenceServerClient(f"127.0.0.1:{web.port}").infer("mnist", inputs(triton_grpc, image=image_files))
    body = infer(web, "mnist", image_file, Content_Type="image/png")
    assert body.headers["Cache-Status"] == "mlserve; hit"
    for answer in (binary, grpc):
        assert int(answer.as_numpy("probabilities").argmax()) == page["cls"]
    assert result_of(predict(web.url, image_file))["cached"]
    assert runs.new() == 0


def test_what_is_only_written_differently_is_not_run_again(web: Service, runs: Runs):
    x = random(1, 3)
    infer(web, "versioned", in_json(x))
    wanted = {"outputs": [{"name": "y", "parameters": {"classification": 2}}]}
    classes = infer(web, "versioned", in_json(x, **wanted))
    assert classes.json()["outputs"][0]["datatype"] == "BYTES"
    assert runs.new() == 1


def test_other_versions_models_and_shapes_are_other_requests(web: Service, runs: Runs):
    x = random(1, 3)
    infer(web, "versioned", in_json(x))
    infer(web, "versioned/versions/1", in_json(x))
    infer(web, "rows", in_json(x))
    assert runs.new() == 3
    pairs = random(2, 8)
    for shape in ((2, 8), (8, 2), (4, 4)):
        infer(web, "transposed", in_json(pairs.reshape(shape)))
    assert runs.new() == 3


def test_the_version_that_answers_by_default_shares_with_its_own_name(web: Service, runs: Runs):
    x = random(1, 3)
    infer(web, "versioned", in_json(x))
    infer(web, "versioned/versions/10", in_json(x))
    assert runs.new() == 1


def test_a_hundred_at_the_same_moment_are_one_run(web: Service, runs: Runs):
    client = triton.InferenceServerClient(f"127.0.0.1:{web.port}", concurrency=32)
    # Long enough for all of them to have come.
    steps = np.array(2_000_000 + np.random.default_rng().integers(1_000_000))
    pending = [client.async_infer("slow", inputs(triton, steps=steps)) for _ in range(32)]
    assert {int(answer.get_result().as_numpy("counted")) for answer in pending} == {int(steps)}
    assert runs.new() == 1


@pytest.mark.parametrize("name", ["web_api", "model_api"])
def test_requests_that_are_cancelled_while_they_wait_are_not_run(web: Service, model_server: Service, runs: Runs, name: str):
    server = {"web_api": web, "model_api": model_server}[name]
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{server.port}")
    steps = 2_000_000 + int(np.random.default_rng().integers(1_000_000))
    answers: queue.Queue = queue.Queue()

    def predict(number: int) -> triton_grpc.CallContext:
        heard = lambda result, error: answers.put((result, error))  # noqa: E731
        return client.async_infer("slow", inputs(triton_grpc, steps=np.array(number)), heard)

    predict(steps)
    wait_until(lambda: model_server.count("model_api_in_flight") == 1, "the first has come")
    waiting = [predict(steps + more) for more in range(1, 9)]
    wait_until(lambda: model_server.count("model_api_in_flight") == 9, "the others wait")
    for call in waiting:
        call.cancel()
    wait_until(lambda: model_server.count("model_api_in_flight") == 1, "they have left")
    heard = [answers.get(timeout=30) for _ in range(9)]
    assert sorted(str(error) for result, error in heard if error) == ["[StatusCode.CANCELLED] Locally cancelled by application!"] * 8
    (counted,) = [int(result.as_numpy("counted")) for result, error in heard if result]
    assert (counted, runs.new()) == (steps, 1)


def test_grpc_is_controlled_and_reported_in_its_metadata(web: Service, runs: Runs):
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{web.port}")
    x = random(1, 3)
    payload = triton_grpc.service_pb2.ModelInferRequest(model_name="versioned", raw_input_contents=[x.tobytes()])
    payload.inputs.add(name="x", datatype="FP32", shape=[1, 3])

    def status(*metadata: tuple[str, str]) -> str:
        _, call = client._client_stub.ModelInfer.with_call(payload, metadata=metadata)
        listed = dict(call.initial_metadata()) | dict(call.trailing_metadata())
        assert listed["etag"]
        return listed["cache-status"]

    with pytest.raises(grpc.RpcError) as unknown:
        status(("cache-control", "only-if-cached"))
    assert unknown.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert status() == "mlserve; fwd=miss; stored"
    assert status() == "mlserve; hit"
    assert status(("cache-control", "no-cache")) == "mlserve; fwd=request; stored"
    assert runs.new() == 2


# ---- Rows -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def rows_run(web: Service, model_server: Service) -> Callable[[], int]:
    """How many rows of the model `rows` were computed since the last look."""
    statistics = triton.InferenceServerClient(f"127.0.0.1:{model_server.port}").get_inference_statistics

    def count() -> int:
        return sum(each["inference_count"] for each in statistics()["model_stats"] if each["name"] == "rows")

    seen = [count()]

    def new() -> int:
        seen.append(count())
        return seen[-1] - seen[-2]

    return new


def test_a_batch_with_thirty_known_rows_of_thirty_two_runs_two(web: Service, rows_run: Callable[[], int]):
    x = random(32, 3)
    known = [x[:20], x[20:29], x[29:30]]
    for part in known:
        infer(web, "rows", in_json(part))
    assert rows_run() == 30
    mixed = np.random.default_rng(0).permutation(x)
    partly = infer(web, "rows", in_json(mixed))
    assert partly.headers["Cache-Status"].startswith("mlserve; fwd=partial")
    answer = partly.json()
    assert np.array_equal(np.float32(answer["outputs"][0]["data"]).reshape(32, 3), mixed * 2)
    assert rows_run() == 2
    infer(web, "rows", in_json(mixed[5:6]))
    infer(web, "rows", in_json(x[30:]))
    assert rows_run() == 0


def test_rows_are_not_shared_unless_declared_independent(web: Service, runs: Runs):
    x = random(2, 3)
    for part in (x, x[:1], x[1:]):
        infer(web, "versioned", in_json(part))
    assert runs.new() == 3
