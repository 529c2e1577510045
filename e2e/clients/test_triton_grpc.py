"""NVIDIA's own gRPC client finds here what it finds at Triton."""

from __future__ import annotations

import queue
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc import insecure_channel as grpc_channel
from tritonclient.grpc import InferenceServerClient

import graphs
from images import samples
from inference_requests import assert_refused, inputs, no_version, random
from services import Service


# ---- What there is --------------------------------------------------------------------------------------------------


def test_the_server_is_live_and_ready_and_lists_its_extensions(grpc: InferenceServerClient):
    assert grpc.is_server_live() and grpc.is_server_ready()
    metadata = grpc.get_server_metadata()
    assert metadata.name == "mlserve" and metadata.version
    assert {"classification", "model_configuration", "model_repository", "statistics"} <= {*metadata.extensions}


def test_a_model_and_each_of_its_versions_are_ready_and_others_are_not(grpc: InferenceServerClient):
    assert grpc.is_model_ready("versioned")
    assert all(grpc.is_model_ready("versioned", version) for version in ("1", "2", "10"))
    assert not grpc.is_model_ready("versioned", "3")
    assert not grpc.is_model_ready("nope")


def test_a_models_metadata_and_configuration_are_its_graphs(grpc: InferenceServerClient):
    arithmetic = grpc.get_model_metadata("arithmetic")
    assert [(x.name, x.datatype, list(x.shape)) for x in arithmetic.inputs] == [(name, "FP32", [-1, 2]) for name in "ab"]
    assert [x.name for x in arithmetic.outputs] == ["sum", "difference"]
    assert list(grpc.get_model_metadata("versioned").versions) == ["1", "2", "10"]
    config = grpc.get_model_config("mnist").config
    assert config.name == "mnist" and config.max_batch_size > 1
    assert triton.model_config_pb2.DataType.Name(config.input[0].data_type) == "TYPE_FP32"
    assert list(config.input[0].dims) == [28, 28, 1]
    assert triton.model_config_pb2.ModelInput.Format.Name(config.input[0].format) == "FORMAT_NHWC"


def test_statistics_grow_with_each_request(grpc: InferenceServerClient):
    def counted() -> tuple[int, int, int]:
        statistics = grpc.get_inference_statistics("versioned", "1").model_stats
        if not statistics:
            return 0, 0, 0
        (only,) = statistics
        return only.inference_count, only.execution_count, only.inference_stats.success.count

    before = counted()
    grpc.infer("versioned", inputs(triton, x=random(4, 3)), "1")
    assert counted() == (before[0] + 4, before[1] + 1, before[2] + 1)


def test_the_repository_is_listed(grpc: InferenceServerClient, repository: Path):
    index = grpc.get_model_repository_index().models
    assert {entry.name for entry in index} == {path.name for path in repository.iterdir()}
    assert {entry.state for entry in index} == {"READY"}


# ---- Every datatype -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", graphs.DATATYPES)
def test_tensors_come_back_bit_for_bit(grpc: InferenceServerClient, repository: Path, datatype: str):
    x = graphs.extremes(datatype)
    model = f"identity_{datatype.lower()}"
    answer = grpc.infer(model, inputs(triton, x=x)).as_numpy("y")
    expected = x if datatype == "BYTES" else graphs.run(repository / model / "model.onnx", x=x)["y"]
    assert graphs.same_bits(answer, expected), (answer, expected)


TYPED = {
    "BOOL": ("bool_contents", [True, False]),
    "UINT8": ("uint_contents", [0, 255]),
    "UINT16": ("uint_contents", [0, 65535]),
    "UINT32": ("uint_contents", [0, 2**32 - 1]),
    "UINT64": ("uint64_contents", [0, 2**64 - 1]),
    "INT8": ("int_contents", [-128, 127]),
    "INT16": ("int_contents", [-32768, 32767]),
    "INT32": ("int_contents", [-(2**31), 2**31 - 1]),
    "INT64": ("int64_contents", [-(2**63), 2**63 - 1]),
    "FP32": ("fp32_contents", [0.5, float("-inf")]),
    "FP64": ("fp64_contents", [1 / 3, float("-inf")]),
    "BYTES": ("bytes_contents", [b"\0\xff", b""]),
}


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_contents_are_answered_with_typed_contents(grpc: InferenceServerClient, datatype: str):
    """Which this client does not send, but others do."""
    field, values = TYPED[datatype]
    request = triton.service_pb2.ModelInferRequest(model_name=f"identity_{datatype.lower()}")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[2])
    getattr(tensor.contents, field).extend(values)
    answer = grpc._client_stub.ModelInfer(request)
    assert not answer.raw_output_contents
    assert list(getattr(answer.outputs[0].contents, field)) == values


def test_scalars_empty_tensors_and_eight_axes(grpc: InferenceServerClient):
    for model, x in (
        ("scalar", np.array(-7)),
        ("may_be_empty", np.empty(0, np.float32)),
        ("rank_8", np.arange(256, dtype=np.int32).reshape([2] * 8)),
    ):
        assert graphs.same_bits(grpc.infer(model, inputs(triton, x=x)).as_numpy("y"), x), model


# ---- Requests -------------------------------------------------------------------------------------------------------


def test_a_batch_with_two_inputs_and_only_the_output_that_is_requested(grpc: InferenceServerClient, repository: Path):
    a, b = random(5, 2), random(5, 2)
    wanted = [triton.InferRequestedOutput("difference")]
    answer = grpc.infer("arithmetic", inputs(triton, b=b, a=a), outputs=wanted)
    assert [output.name for output in answer.get_response().outputs] == ["difference"]
    expected = graphs.run(repository / "arithmetic" / "model.onnx", a=a, b=b)
    assert graphs.same_bits(answer.as_numpy("difference"), expected["difference"])


def test_each_version_answers_and_the_largest_number_is_the_default(grpc: InferenceServerClient):
    x = random(1, 3)
    for version, factor in (("1", 1), ("2", 2), ("10", 10), ("", 10)):
        answer = grpc.infer("versioned", inputs(triton, x=x), version, request_id="me")
        assert (answer.get_response().model_version, answer.get_response().id) == (version or "10", "me")
        assert graphs.same_bits(answer.as_numpy("y"), x * np.float32(factor))


def test_the_best_classes_of_images_with_their_labels(grpc: InferenceServerClient):
    rows = samples("mnist")[:2]
    image_files = np.array([sample.image for sample in rows], dtype=object)
    wanted = [triton.InferRequestedOutput("probabilities", class_count=3)]
    answer = grpc.infer("mnist", inputs(triton, image=image_files), outputs=wanted).as_numpy("probabilities")
    assert answer.shape == (2, 3)
    assert [best.decode().split(":")[2] for best in answer[:, 0]] == [sample.label for sample in rows]


def test_many_requests_at_once(grpc: InferenceServerClient):
    payloads, answers = [random(2, 3) for _ in range(16)], queue.Queue()
    for number, x in enumerate(payloads):
        heard = lambda result, error, number=number: answers.put((number, result, error))  # noqa: E731
        grpc.async_infer("versioned", inputs(triton, x=x), heard, "2")
    for _ in payloads:
        number, result, error = answers.get(timeout=30)
        assert error is None, error
        assert graphs.same_bits(result.as_numpy("y"), payloads[number] * 2)


def test_each_response_of_a_stream_is_the_last_of_its_request(grpc: InferenceServerClient):
    responses: queue.Queue = queue.Queue()
    grpc.start_stream(lambda result, error: responses.put((result, error)))
    for number, opted_in in enumerate([False, True]):
        x = inputs(triton, x=random(2, 3))
        grpc.async_stream_infer("versioned", x, "2", request_id=str(number), enable_empty_final_response=opted_in)
    for number in range(2):
        result, error = responses.get(timeout=10)
        response = result.get_response()
        assert error is None and response.id == str(number) and result.as_numpy("y").shape == (2, 3)
        assert response.parameters["triton_final_response"].bool_param
    grpc.stop_stream()
    assert responses.empty()


def test_millions_of_short_typed_strings_are_read_as_raw_ones_are(server: Service):
    words = [b"a"] * 2_100_000
    request = triton.service_pb2.ModelInferRequest(model_name="identity_bytes")
    request.inputs.add(name="x", datatype="BYTES", shape=[len(words)]).contents.bytes_contents.extend(words)
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        response = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
    # Typed contents are answered in kind.
    assert not response.raw_output_contents
    assert response.outputs[0].contents.bytes_contents == words


def test_a_stream_answers_each_request_and_outlives_a_bad_one(grpc: InferenceServerClient):
    answers = queue.Queue()
    grpc.start_stream(lambda result, error: answers.put((result, error)))
    good = [random(2, 3) for _ in range(3)]
    for number, x in enumerate(good):
        grpc.async_stream_infer("versioned", inputs(triton, x=x), "2", request_id=str(number))
        if number == 0:
            grpc.async_stream_infer("versioned", inputs(triton, x=random(2, 4)), "2", request_id="bad")
    heard = [answers.get(timeout=30) for _ in range(4)]
    grpc.stop_stream()
    (error,) = [str(error) for _, error in heard if error]
    assert error == 'input "x" has the shape [-1, 3] (-1: any length), not [2, 4]'
    results = {result.get_response().id: result.as_numpy("y") for result, error in heard if not error}
    assert all(graphs.same_bits(results[str(number)], x * 2) for number, x in enumerate(good))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(grpc: InferenceServerClient, algorithm: str):
    x = np.arange(3 * 4096, dtype=np.float32).reshape(-1, 3)
    answer = grpc.infer("versioned", inputs(triton, x=x), "2", compression_algorithm=algorithm)
    assert graphs.same_bits(answer.as_numpy("y"), x * 2)


def test_a_message_of_many_megabytes(grpc: InferenceServerClient):
    """gRPC's own limit is four."""
    x = np.arange(8 << 20, dtype=np.uint8)
    assert graphs.same_bits(grpc.infer("identity_uint8", inputs(triton, x=x)).as_numpy("y"), x)


# ---- Refusals -------------------------------------------------------------------------------------------------------


def test_requests_that_do_not_fit(grpc: InferenceServerClient, server: Service):
    invalid, x = "StatusCode.INVALID_ARGUMENT", inputs(triton, x=random(1, 3))
    assert_refused("StatusCode.NOT_FOUND", no_version(server), grpc.infer, "versioned", x, "3")
    assert_refused("StatusCode.NOT_FOUND", no_version(server), grpc.get_model_metadata, "versioned", "3")
    shape = 'input "x" has the shape [-1, 3] (-1: any length), not [1, 2]'
    assert_refused(invalid, shape, grpc.infer, "versioned", inputs(triton, x=random(1, 2)))
    datatype = 'input "x" is FP32, not INT64'
    assert_refused(invalid, datatype, grpc.infer, "versioned", inputs(triton, x=np.zeros((1, 3), np.int64)))
    missing = 'input "b" is missing; model "arithmetic" has the inputs "a", "b"'
    assert_refused(invalid, missing, grpc.infer, "arithmetic", inputs(triton, a=random(1, 2)))


def test_a_request_that_does_not_wait_any_longer(grpc: InferenceServerClient):
    def endless() -> list:
        return inputs(triton, steps=np.array(2_000_000 + np.random.default_rng().integers(1000)))

    for limit in ({"client_timeout": 0.1}, {"timeout": 100_000}):
        with pytest.raises(triton.InferenceServerException) as late:
            grpc.infer("slow", endless(), **limit)
        assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    assert grpc.infer("slow", inputs(triton, steps=np.array(10))).as_numpy("counted") == 10
