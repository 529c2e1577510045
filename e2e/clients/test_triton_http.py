"""NVIDIA's own HTTP client finds here what it finds at Triton."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from PIL import ImageOps
from tritonclient.http import InferenceServerClient

import graphs
from images import samples, seven
from inference_requests import assert_refused, inputs, no_version, random
from services import Service


# ---- What there is --------------------------------------------------------------------------------------------------


def test_the_server_is_live_and_ready_and_lists_its_extensions(http: InferenceServerClient):
    assert http.is_server_live() and http.is_server_ready()
    metadata = http.get_server_metadata()
    assert metadata["name"] == "mlserve" and metadata["version"]
    assert {"binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"} <= {*metadata["extensions"]}


def test_a_model_and_each_of_its_versions_are_ready_and_others_are_not(http: InferenceServerClient):
    assert http.is_model_ready("versioned")
    assert all(http.is_model_ready("versioned", version) for version in ("1", "2", "10"))
    assert not http.is_model_ready("versioned", "3")
    assert not http.is_model_ready("nope")


def test_a_models_metadata_is_its_graphs(http: InferenceServerClient):
    arithmetic = http.get_model_metadata("arithmetic")
    assert arithmetic["name"] == "arithmetic" and arithmetic["platform"].startswith("onnx")
    pairs = [{"datatype": "FP32", "shape": [-1, 2]}] * 2
    for side, names in (("inputs", ["a", "b"]), ("outputs", ["sum", "difference"])):
        assert [tensor["name"] for tensor in arithmetic[side]] == names
        assert [{key: tensor[key] for key in ("datatype", "shape")} for tensor in arithmetic[side]] == pairs
    assert http.get_model_metadata("versioned")["versions"] == ["1", "2", "10"]
    assert http.get_model_metadata("rank_8")["inputs"][0]["shape"] == [-1] * 8
    assert http.get_model_metadata("scalar")["inputs"][0]["shape"] == []


def test_a_models_configuration_is_what_load_tools_read(http: InferenceServerClient):
    config = http.get_model_config("mnist")
    assert config["name"] == "mnist" and config["max_batch_size"] > 1
    (image,) = config["input"]
    assert (image["data_type"], image["dims"]) == ("TYPE_FP32", [28, 28, 1])
    for datatype in graphs.DATATYPES:
        (x,) = http.get_model_config(f"identity_{datatype.lower()}")["input"]
        assert x["data_type"] == f"TYPE_{'STRING' if datatype == 'BYTES' else datatype}"


def image_format(config: dict, metadata: dict) -> str:
    """What a client that classifies images needs of a model: one image of three axes in, one vector of classes out."""
    (image,), (classes,) = metadata["inputs"], metadata["outputs"]
    batch_axes = 1 if config["max_batch_size"] else 0
    assert len(image["shape"]) == batch_axes + 3 and sum(length != 1 for length in classes["shape"][batch_axes:]) == 1
    (declared,) = config["input"]
    assert declared["format"] in ("FORMAT_NHWC", "FORMAT_NCHW"), "it would not know where the channels are"
    return declared["format"]


def test_the_axes_of_an_image_are_described_as_image_clients_need_them(http: InferenceServerClient):
    assert image_format(http.get_model_config("mnist"), http.get_model_metadata("mnist")) == "FORMAT_NHWC"
    assert http.get_model_config("versioned")["input"][0]["format"] == "FORMAT_NONE"


def test_an_image_client_classifies_by_the_configuration(http: InferenceServerClient):
    metadata = http.get_model_metadata("mnist")
    (image,), (classes,) = metadata["inputs"], metadata["outputs"]
    axes = dict(zip(image_format(http.get_model_config("mnist"), metadata).removeprefix("FORMAT_")[1:], image["shape"][1:]))
    digit = ImageOps.invert(seven()).resize((axes["W"], axes["H"]))
    pixels = np.asarray(digit, np.float32).reshape(1, *image["shape"][1:]) / 255
    wanted = triton.InferRequestedOutput(classes["name"], class_count=3)
    best = http.infer("mnist", inputs(triton, **{image["name"]: pixels}), outputs=[wanted]).as_numpy(classes["name"])
    assert best.shape == (1, 3)
    assert [each.decode().split(":")[1:] for each in best[0]][0] == ["7", "7"]


def test_only_a_server_with_a_cache_declares_one(http: InferenceServerClient, server: Service):
    assert http.get_model_config("mnist")["response_cache"] == {"enable": server.name == "web_api"}


def test_an_asynchronous_client_that_accepts_compression_reads_every_answer(server: Service):
    async def call() -> None:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
            statistics = await client.get_inference_statistics()
            assert len(json.dumps(statistics)) > 4096 and statistics["model_stats"]
            assert await client.get_model_repository_index()
            assert (await client.get_model_metadata("rank_8"))["name"] == "rank_8"
            x = random(2000, 3)
            answer = await client.infer("versioned", inputs(triton, x=x), "2", response_compression_algorithm="gzip")
            assert np.array_equal(answer.as_numpy("y"), x * 2)

    asyncio.run(call())


def test_classes_of_an_output_without_a_batch_axis_are_those_of_each_row(http: InferenceServerClient):
    x = np.arange(32, dtype=np.float32).reshape(8, 4)
    wanted = triton.InferRequestedOutput("y", class_count=2)
    best = http.infer("fixed_rows", inputs(triton, x=x), outputs=[wanted]).as_numpy("y")
    assert http.get_model_config("fixed_rows")["max_batch_size"] == 0
    assert best.tolist() == [[f"{4 * row + 3}:3".encode(), f"{4 * row + 2}:2".encode()] for row in range(8)]


def test_statistics_grow_with_each_request(http: InferenceServerClient):
    def counted() -> tuple[int, int, int, int]:
        statistics = http.get_inference_statistics("versioned", "2")["model_stats"]
        if not statistics:
            return 0, 0, 0, 0
        (only,) = statistics
        stats = only["inference_stats"]
        return only["inference_count"], only["execution_count"], stats["success"]["count"], stats["fail"]["count"]

    before = counted()
    http.infer("versioned", inputs(triton, x=random(4, 3)), "2")
    assert counted() == (before[0] + 4, before[1] + 1, before[2] + 1, before[3])
    named = [only["name"] for only in http.get_inference_statistics()["model_stats"]]
    assert "versioned" in named


def test_the_repository_is_listed(http: InferenceServerClient, repository: Path):
    index = http.get_model_repository_index()
    assert {entry["name"] for entry in index} == {path.name for path in repository.iterdir()}
    assert {entry["version"] for entry in index if entry["name"] == "versioned"} == {"1", "2", "10"}
    assert {entry["state"] for entry in index} == {"READY"}


# ---- Every datatype -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", graphs.DATATYPES)
def test_binary_tensors_come_back_bit_for_bit(http: InferenceServerClient, repository: Path, datatype: str):
    x = graphs.extremes(datatype)
    model = f"identity_{datatype.lower()}"
    answer = http.infer(model, inputs(triton, x=x)).as_numpy("y")
    # From Python, ONNX Runtime takes text and not any bytes.
    expected = x if datatype == "BYTES" else graphs.run(repository / model / "model.onnx", x=x)["y"]
    assert graphs.same_bits(answer, expected), (answer, expected)


@pytest.mark.parametrize("datatype", [datatype for datatype in graphs.DATATYPES if datatype != "BF16"])
def test_json_tensors_come_back_bit_for_bit(http: InferenceServerClient, repository: Path, datatype: str):
    x = graphs.extremes(datatype)
    if datatype == "BYTES":
        x = np.array(["word", "", "\0", "Größe, 数", '"\\\n'], dtype=object)
    elif x.dtype.kind == "f":
        # This client writes NaN, which is no JSON.
        x = x[np.isfinite(x)]
    model = f"identity_{datatype.lower()}"
    wanted = [triton.InferRequestedOutput("y", binary_data=False)]
    answer = http.infer(model, inputs(triton, binary=False, x=x), outputs=wanted)
    assert "data" in answer.get_output("y")
    expected = graphs.run(repository / model / "model.onnx", x=x)["y"]
    assert graphs.same_bits(answer.as_numpy("y"), expected), (answer.as_numpy("y"), expected)


def test_nan_and_the_infinities_are_words_in_json(http: InferenceServerClient):
    wanted = [triton.InferRequestedOutput("y", binary_data=False)]
    answer = http.infer("divided_by_zero", inputs(triton, x=np.float32([1, 0, -1])), outputs=wanted)
    assert answer.get_output("y")["data"] == ["Infinity", "NaN", "-Infinity"]
    assert np.array_equal(answer.as_numpy("y"), [np.inf, np.nan, -np.inf], equal_nan=True)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_scalars_empty_tensors_and_eight_axes(http: InferenceServerClient, binary: bool):
    for model, x in (
        ("scalar", np.array(-7)),
        ("may_be_empty", np.empty(0, np.float32)),
        ("rank_8", np.arange(256, dtype=np.int32).reshape([2] * 8)),
    ):
        wanted = [triton.InferRequestedOutput("y", binary_data=binary)]
        answer = http.infer(model, inputs(triton, binary, x=x), outputs=wanted).as_numpy("y")
        assert graphs.same_bits(answer, x), model


def test_strings_in_and_numbers_out(http: InferenceServerClient):
    words = np.array(["zwei", "三", "four"], dtype=object)
    for binary in (True, False):
        assert http.infer("numbered_words", inputs(triton, binary, word=words)).as_numpy("number").tolist() == [2, 3, -1]


# ---- Requests -------------------------------------------------------------------------------------------------------


def test_a_batch_is_answered_as_its_rows_are(http: InferenceServerClient):
    x = random(3, 3)
    together = http.infer("versioned", inputs(triton, x=x)).as_numpy("y")
    one_by_one = [http.infer("versioned", inputs(triton, x=row[None])).as_numpy("y")[0] for row in x]
    assert graphs.same_bits(together, np.stack(one_by_one))


def test_each_version_answers_and_the_largest_number_is_the_default(http: InferenceServerClient):
    x = random(1, 3)
    for version, factor in (("1", 1), ("2", 2), ("10", 10), ("", 10)):
        answer = http.infer("versioned", inputs(triton, x=x), version)
        assert answer.get_response()["model_version"] == (version or "10")
        assert graphs.same_bits(answer.as_numpy("y"), x * np.float32(factor))


def test_two_inputs_in_any_order_and_only_the_outputs_that_are_requested(http: InferenceServerClient, repository: Path):
    a, b = random(5, 2), random(5, 2)
    expected = graphs.run(repository / "arithmetic" / "model.onnx", a=a, b=b)
    wanted = [triton.InferRequestedOutput("difference"), triton.InferRequestedOutput("sum", binary_data=False)]
    both = http.infer("arithmetic", inputs(triton, b=b, a=a), outputs=wanted)
    assert [output["name"] for output in both.get_response()["outputs"]] == ["difference", "sum"]
    assert all(graphs.same_bits(both.as_numpy(name), expected[name]) for name in expected)
    one = http.infer("arithmetic", inputs(triton, a=a, b=b), outputs=wanted[:1])
    assert [output["name"] for output in one.get_response()["outputs"]] == ["difference"]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_the_best_classes_with_their_labels(http: InferenceServerClient, binary: bool):
    rows = [sample for sample in samples("mnist")][:2]
    image_files = np.array([sample.image for sample in rows], dtype=object)
    wanted = [triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=3)]
    answer = http.infer("mnist", inputs(triton, image=image_files), outputs=wanted).as_numpy("probabilities")
    assert answer.shape == (2, 3)
    for sample, classes in zip(rows, answer):
        best = classes[0].decode() if binary else classes[0]
        value, index, label = best.split(":")
        assert (index, label) == (sample.label, sample.label)
        assert float(value) == pytest.approx(max(sample.probabilities), abs=sample.tolerance)


def test_an_id_comes_back_and_one_is_made_where_none_is_given(http: InferenceServerClient):
    x = random(1, 3)
    assert http.infer("rows", inputs(triton, x=x), request_id="me, №1").get_response()["id"] == "me, №1"
    assert http.infer("rows", inputs(triton, x=x)).get_response()["id"]


def test_many_requests_at_once(http: InferenceServerClient):
    payloads = [random(2, 3) for _ in range(16)]
    pending = [http.async_infer("versioned", inputs(triton, x=x), "2") for x in payloads]
    for x, answer in zip(payloads, pending):
        assert graphs.same_bits(answer.get_result().as_numpy("y"), x * 2)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_both_ways(http: InferenceServerClient, algorithm: str):
    x = np.arange(3 * 4096, dtype=np.float32).reshape(-1, 3)
    for binary in (True, False):
        answer = http.infer(
            "versioned",
            inputs(triton, binary, x=x),
            "2",
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
        assert graphs.same_bits(answer.as_numpy("y"), x * 2)


# ---- Refusals -------------------------------------------------------------------------------------------------------


def test_models_and_versions_that_are_not_there(http: InferenceServerClient, server: Service):
    x = inputs(triton, x=random(1, 3))
    for call in (http.get_model_metadata, http.get_model_config, http.get_inference_statistics):
        assert_refused("404", no_version(server), call, "versioned", "3")
    assert_refused("404", no_version(server), http.infer, "versioned", x, "3")


def test_requests_that_do_not_fit(http: InferenceServerClient):
    shape = 'input "x" has the shape [-1, 3] (-1: any length), not [1, 2]'
    assert_refused("422", shape, http.infer, "versioned", inputs(triton, x=random(1, 2)))
    datatype = 'input "x" is FP32, not INT64'
    assert_refused("422", datatype, http.infer, "versioned", inputs(triton, x=np.zeros((1, 3), np.int64)))
    unknown = 'model "versioned" has no input "z"; its inputs are "x"'
    assert_refused("422", unknown, http.infer, "versioned", inputs(triton, z=random(1, 3)))
    missing = 'input "b" is missing; model "arithmetic" has the inputs "a", "b"'
    assert_refused("422", missing, http.infer, "arithmetic", inputs(triton, a=random(1, 2)))
    no_output = 'model "versioned" has no output "z"; its outputs are "y"'
    wanted = [triton.InferRequestedOutput("z")]
    assert_refused("422", no_output, http.infer, "versioned", inputs(triton, x=random(1, 3)), outputs=wanted)


def test_a_request_that_does_not_wait_any_longer(http: InferenceServerClient):
    steps = np.array(2_000_000 + np.random.default_rng().integers(1000))
    with pytest.raises(triton.InferenceServerException) as late:
        http.infer("slow", inputs(triton, steps=steps), timeout=100_000)
    assert late.value.status() == "504"
    # The test does not wait for the cancelled result.
    assert http.infer("slow", inputs(triton, steps=np.array(10))).as_numpy("counted") == 10
