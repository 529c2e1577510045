"""Content types: images in and out, text, dates and tables; and the protocol's forms that Triton's clients do not use."""

from __future__ import annotations

import base64
import io
import json

import grpc
import numpy as np
import pytest
import requests
from PIL import Image

from images import encode, samples
from services import Service


def send(server: Service, model: str, body: object, call: str = "infer", **headers: str) -> requests.Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = requests.post(f"{server.url}/v2/models/{model}/{call}", data=body, headers=headers, timeout=30)
    assert response.status_code == 200, response.text
    return response


def tensor(name: str, datatype: str, shape: list[int], data: object, **parameters: object) -> dict:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data, "parameters": parameters}


def values(response: requests.Response) -> dict[str, list]:
    return {output["name"]: output["data"] for output in response.json()["outputs"]}


# ---- Images ---------------------------------------------------------------------------------------------------------


def test_an_image_as_body_and_several_as_base64(server: Service):
    seven, three = samples("mnist")[7], samples("mnist")[3]
    alone = values(send(server, "mnist", seven.image, Content_Type="image/png"))["probabilities"]
    images = [base64.b64encode(sample.image).decode() for sample in (seven, three)]
    batch = send(server, "mnist", {"inputs": [tensor("image", "BYTES", [2], images, content_type="image")]})
    rows = np.float32(values(batch)["probabilities"]).reshape(2, 10)
    assert [str(row.argmax()) for row in rows] == [seven.label, three.label]
    np.testing.assert_allclose(alone, rows[0], atol=1e-6)
    np.testing.assert_allclose(rows[0], seven.probabilities, atol=seven.tolerance)


@pytest.fixture
def half_bright() -> Image.Image:
    image = Image.new("L", (16, 16), 0)
    image.paste(255, (0, 0, 8, 16))
    return image


def test_a_mask_comes_back_as_an_image(server: Service, half_bright: Image.Image):
    png = send(server, "mask", encode(half_bright), Content_Type="image/png", Accept="image/png")
    assert png.headers["Content-Type"] == "image/png"
    assert Image.open(io.BytesIO(png.content)).convert("L").tobytes() == half_bright.tobytes()


def test_a_mask_comes_back_as_an_image_in_json_and_as_numbers(server: Service, half_bright: Image.Image):
    image = tensor("image", "BYTES", [1], [base64.b64encode(encode(half_bright)).decode()])
    wanted = [{"name": "mask", "parameters": {"content_type": "image"}}]
    (in_json,) = values(send(server, "mask", {"inputs": [image], "outputs": wanted}))["mask"]
    assert Image.open(io.BytesIO(base64.b64decode(in_json))).convert("L").tobytes() == half_bright.tobytes()
    assert bytes(values(send(server, "mask", {"inputs": [image]}))["mask"]) == half_bright.tobytes()


# ---- Other contents -------------------------------------------------------------------------------------------------


def test_strings_as_base64_in_and_out(server: Service):
    """JSON has no other way for what is not text."""
    anything = base64.b64encode(b"\0\xff\xfe").decode()
    wanted = [{"name": "y", "parameters": {"content_type": "base64"}}]
    payload = {"inputs": [tensor("x", "BYTES", [1], [anything], content_type="base64")]}
    assert values(send(server, "identity_bytes", payload | {"outputs": wanted}))["y"] == [anything]
    refused = requests.post(f"{server.url}/v2/models/identity_bytes/infer", json=payload, timeout=10)
    assert refused.status_code == 422 and "base64" in refused.json()["error"]


def test_a_table_of_columns(server: Service):
    """As MLServer's clients write a data frame."""
    columns = [tensor("a", "FP32", [2, 2], [1, 2, 3, 4]), tensor("b", "FP32", [2, 2], [1, 1, 1, 1])]
    answer = send(server, "arithmetic", {"parameters": {"content_type": "pd"}, "inputs": columns})
    assert values(answer)["sum"] == [2, 3, 4, 5]


# ---- Other forms ----------------------------------------------------------------------------------------------------


def test_a_body_that_is_one_tensor_and_nothing_else(server: Service):
    x = np.float32([[1, 2, 3], [4, 5, 6]])
    answer = send(server, "versioned", x.tobytes(), Inference_Header_Content_Length="0")
    length = int(answer.headers["Inference-Header-Content-Length"])
    (output,) = json.loads(answer.content[:length])["outputs"]
    assert output["shape"] == [2, 3] and output["parameters"]["binary_data_size"] == 24
    assert answer.content[length:] == (x * 10).tobytes()


def test_a_stream_of_events_has_one_for_the_answer(server: Service):
    answer = send(server, "versioned", {"id": "me", "inputs": [tensor("x", "FP32", [1, 3], [1, 2, 3])]}, "infer_stream")
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.text.startswith("data: ") and answer.text.endswith("\n\n")
    event = json.loads(answer.text.removeprefix("data: "))
    assert (event["id"], event["outputs"][0]["data"]) == ("me", [10, 20, 30])


def test_every_answer_names_its_model_and_device(server: Service):
    answer = send(server, "versioned", {"inputs": [tensor("x", "FP32", [1, 3], [1, 2, 3])]}).json()
    assert (answer["model_name"], answer["model_version"]) == ("versioned", "10")
    listed = answer["parameters"]
    assert listed["model_digest"].startswith("sha256:") and listed["device"] == "cpu"
    assert all(listed[f"{stage}_ms"] >= 0 for stage in ("decode", "queue", "infer"))


def test_the_list_of_models_is_kserves(server: Service):
    names = requests.get(f"{server.url}/v2/models", timeout=10).json()["models"]
    assert {"mnist", "versioned", "identity_bf16"} <= {*names}


# ---- What every gRPC server has -------------------------------------------------------------------------------------


def test_grpcs_own_health_check_and_reflection(server: Service):
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        # `status: SERVING`, as bytes: nothing generated is needed for one number.
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10) == b"\x08\x01"
        # `list_services: ""`
        reflect = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        (services,) = reflect(iter([b"\x3a\x00"]), timeout=10)
    assert b"inference.GRPCInferenceService" in services
