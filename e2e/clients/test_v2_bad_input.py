"""Invalid input to the protocol's routes gets its exact status and message, without internal details, and affects no other client."""

from __future__ import annotations

import gzip
import json
import re
import socket
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Callable, Iterator

import grpc
import pytest
import requests
from tritonclient.grpc import service_pb2, service_pb2_grpc

from client import INTERNAL
from inference_requests import no_version
from services import Service

Json = dict[str, object]


@pytest.fixture(autouse=True)
def other_clients_are_served(server: Service, model_server: Service) -> Iterator[None]:
    before = server.pid, model_server.count("model_api_session_restarts_total")
    yield
    answer = infer(server, "versioned", request(x([1, 3], [1, 2, 3])))
    assert (answer.status_code, answer.json()["outputs"][0]["data"]) == (200, [10, 20, 30])
    assert requests.get(f"{server.url}/v2/health/ready", timeout=10).status_code == 200
    assert (server.pid, server.running.poll()) == (before[0], None)
    assert model_server.count("model_api_session_restarts_total") == before[1]


def x(shape: list[int], data: object = None, datatype: str = "FP32", **more: object) -> Json:
    return {"name": "x", "shape": shape, "datatype": datatype, **({} if data is None else {"data": data}), **more}


def request(*inputs: Json, **more: object) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


def behind(size: int, **more: object) -> Json:
    """An input whose elements stand behind the JSON."""
    return x([1, 3], parameters={"binary_data_size": size}, **more)


def infer(server: Service, model: str, body: object, **headers: str) -> requests.Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.post(f"{server.url}/v2/models/{model}/infer", data=body, headers=headers, timeout=60)


def assert_refused(response: requests.Response, status: int, words: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    assert response.json() == {"error": words}
    assert not INTERNAL.search(response.text), response.text


# ---- Shapes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensor", "status", "words"),
    [
        (x([1, 3], [1, 2]), 400, 'input "x": shape [1, 3] has 3 elements, but 2 were sent'),
        (x([1, 3], [1, 2, 3, 4]), 400, 'input "x": shape [1, 3] has 3 elements, but more were sent'),
        (x([-1, 3], [1, 2, 3]), 400, 'input "x": shape [-1, 3] has a negative length'),
        (x([2**62, 4], [1]), 400, f'input "x": shape [{2**62}, 4] has too many elements'),
        (x([2**62, 4, 0], []), 400, f'input "x": shape [{2**62}, 4, 0] has too many elements'),
        (x([1] * 9, [1]), 400, 'input "x": shape has 9 axes, at most 8 are supported'),
        (x([3], [1, 2, 3]), 422, 'input "x" has the shape [-1, 3] (-1: any length), not [3]'),
        (x([1, 4], [1, 2, 3, 4]), 422, 'input "x" has the shape [-1, 3] (-1: any length), not [1, 4]'),
        (
            x([0, 3], []),
            422,
            'input "x" of the shape [0, 3] has no elements, which the model\'s settings do not allow (allow_empty)',
        ),
    ],
)
def test_a_shape_that_goes_with_nothing(server: Service, tensor: Json, status: int, words: str):
    assert_refused(infer(server, "versioned", request(tensor)), status, words)


def test_a_shape_that_promises_more_than_a_body_may_hold(server: Service):
    words = f"the tensors of the request take more than {(64 << 20) - (64 << 10)} bytes"
    assert_refused(infer(server, "versioned", request(x([1 << 40, 3], [1]))), 413, words)
    many = b'{"inputs":[{"name":"x","datatype":"FP64","shape":[10000000],"data":[' + b"1," * 9_999_999 + b"1]}]}"
    assert_refused(infer(server, "identity_fp64", many), 413, words)


def test_bytes_that_are_not_as_many_as_the_shape_requires(server: Service):
    words = 'input "x": shape [1, 3] of FP32 takes 12 bytes, but 8 were sent'
    body = request(behind(8))
    response = infer(server, "versioned", body + bytes(8), Inference_Header_Content_Length=str(len(body)))
    assert_refused(response, 400, words)


# ---- Names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "inputs", "status", "words"),
    [
        ("versioned", [], 422, 'input "x" is missing; model "versioned" has the inputs "x"'),
        ("arithmetic", [x([1, 2], [1, 2], name="a")], 422, 'input "b" is missing; model "arithmetic" has the inputs "a", "b"'),
        ("versioned", [x([1, 3], [1, 2, 3], name="z")], 422, 'model "versioned" has no input "z"; its inputs are "x"'),
        ("versioned", [x([1, 3], [1, 2, 3])] * 2, 400, 'input "x" is given twice'),
        ("versioned", [x([1, 3], [1, 2, 3], "INT64")], 422, 'input "x" is FP32, not INT64'),
        (
            "versioned",
            [x([1, 3], [1, 2, 3], "FLOAT")],
            400,
            'input "x": "FLOAT" is not a datatype; valid datatypes are: BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, '
            "FP64, BYTES",
        ),
    ],
)
def test_inputs_that_are_not_the_models(server: Service, model: str, inputs: list[Json], status: int, words: str):
    assert_refused(infer(server, model, request(*inputs)), status, words)


def test_outputs_that_are_not_the_models(server: Service):
    good = x([1, 3], [1, 2, 3])
    no_output = 'model "versioned" has no output "z"; its outputs are "y"'
    assert_refused(infer(server, "versioned", request(good, outputs=[{"name": "z"}])), 422, no_output)
    twice = request(good, outputs=[{"name": "y"}, {"name": "y"}])
    assert_refused(infer(server, "versioned", twice), 400, 'output "y" is requested twice')


def test_a_model_or_a_version_that_is_not_there(server: Service):
    good = request(x([1, 3], [1, 2, 3]))
    version = infer(server, "versioned/versions/3", good)
    assert_refused(version, 404, no_version(server))
    nope = infer(server, "nope", good)
    assert nope.status_code == 404 and "no" in nope.json()["error"], nope.text
    assert not INTERNAL.search(nope.text)


def raw(server: Service, target: str, body: bytes = b"") -> tuple[int, str]:
    """Sends a path as it is, where clients would tidy it up first."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "%2F..%2Fversioned", "%2e%2e", "versioned%00", "a%5cb", "%ff%fe", "x" * 1000])
def test_a_name_that_leads_elsewhere(server: Service, name: str):
    for target in (f"/v2/models/{name}/infer", f"/v2/models/versioned/versions/{name}/infer", f"/v2/repository/models/{name}/load"):
        status, text = raw(server, target, b"" if "load" in target else request(x([1, 3], [1, 2, 3])))
        assert status in (400, 404), (target, text)
        assert list(json.loads(text)) == ["error"] and not INTERNAL.search(text), text


# ---- What is behind the JSON ----------------------------------------------------------------------------------------


def test_a_header_length_that_cannot_be(server: Service):
    body = request(behind(12))
    for length, words in (
        (str(len(body) + 100), f"inference-header-content-length is {len(body) + 100}, but the body has only {len(body) + 12} bytes"),
        ("-1", 'inference-header-content-length is not a length: "-1"'),
        ("12 apples", 'inference-header-content-length is not a length: "12 apples"'),
        (str(2**64), f'inference-header-content-length is not a length: "{2**64}"'),
    ):
        response = infer(server, "versioned", body + bytes(12), Inference_Header_Content_Length=length)
        assert_refused(response, 400, words)


def test_a_size_that_cannot_be(server: Service):
    for tensor, words in (
        (behind(2**62), f'binary_data_size of "x" is {2**62}, but only 12 bytes are left'),
        (behind(-1), 'binary_data_size of "x" is not a number of bytes'),
        (behind(4), "8 bytes after the JSON belong to no tensor"),
        (behind(12, data=[1, 2, 3]), 'input "x" has both data in the JSON and binary data'),
        (x([1, 3]), 'input "x" has neither data nor a binary_data_size'),
    ):
        body = request(tensor)
        response = infer(server, "versioned", body + bytes(12), Inference_Header_Content_Length=str(len(body)))
        assert_refused(response, 400, words)


def test_strings_that_end_beyond_the_body(server: Service):
    for strings, count, words in (
        (struct.pack("<I", 5) + b"a", 1, "element 0 of BYTES has a length of 5 bytes, but only 1 are left"),
        (struct.pack("<I", 2**32 - 1), 1, "element 0 of BYTES has a length of 4294967295 bytes, but only 0 are left"),
        (struct.pack("<I", 0), 2, "shape [2] of BYTES has 2 elements, but 1 were sent"),
    ):
        tensor = x([count], datatype="BYTES", parameters={"binary_data_size": len(strings)})
        body = request(tensor)
        response = infer(server, "identity_bytes", body + strings, Inference_Header_Content_Length=str(len(body)))
        assert_refused(response, 400, f'input "x": {words}')


# ---- JSON -----------------------------------------------------------------------------------------------------------

NO_JSON = "the body is not a valid inference request: "


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", f"{NO_JSON}EOF while parsing a value at line 1 column 0"),
        (b"{}", f"{NO_JSON}missing field `inputs` at line 1 column 2"),
        (b"[]", None),
        (b"\xff\xfe", "the JSON is encoded as UTF-16 or UTF-32; send it as UTF-8"),
        (request(x([1, 3], [1, 2, 3]))[:-5], None),
        (request(x([1, 3], "text")), 'input "x": element 0: "text" is not a valid FP32'),
        (request(x([1, 3], [1, [2], 3])), 'input "x": its data is nested unevenly'),
        (request(x([1, 3], [1, {}, 3])), 'input "x": its data contains an object'),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [NaN, 1, 2]}]}', None),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1e39, 1, 2]}]}', 'input "x": element 0: 1e39 is not a valid FP32'),
    ],
)
def test_json_that_is_no_request(server: Service, body: bytes, words: str | None):
    response = infer(server, "versioned", body)
    assert_refused(response, 400, words or response.json()["error"])
    assert words or response.json()["error"].startswith(NO_JSON)


def test_numbers_that_a_datatype_cannot_hold(server: Service):
    for datatype, number in (("INT64", 2**63), ("UINT64", -1), ("UINT8", 256), ("INT8", 1.5), ("FP16", 70000), ("BOOL", 2)):
        response = infer(server, f"identity_{datatype.lower()}", request(x([1], [number], datatype)))
        assert_refused(response, 400, f'input "x": element 0: {number} is not a valid {datatype}')


def test_json_nested_a_quarter_of_a_million_deep(server: Service):
    deep = b"[" * 250_000 + b"]" * 250_000
    data = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": ' + deep + b"}]}"
    assert_refused(infer(server, "versioned", data), 400, 'input "x": its data is nested deeper than the 2 axes of its shape')
    for body in (deep, b'{"inputs": ' + deep + b"}", b'{"parameters": {"a": ' + deep + b'}, "inputs": []}'):
        response = infer(server, "versioned", body)
        assert response.status_code in (400, 422) and list(response.json()) == ["error"], response.text


# ---- Sizes ----------------------------------------------------------------------------------------------------------


def peak(server: Service) -> int:
    """The most memory that the process has held, bytes."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
    return 1024 * int(kilobytes)


@pytest.mark.parametrize("declared", [True, False], ids=["with its length", "in chunks"])
def test_a_body_of_64_mebibytes_and_a_byte(server: Service, declared: bool):
    size = (64 << 20) + 1
    body = bytes(size) if declared else iter([bytes(1 << 20)] * 64 + [b"\0"])
    assert_refused(infer(server, "versioned", body), 413, "The body is larger than 67108864 bytes; send less in one request.")


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_bomb_that_unpacks_to_a_gibibyte(server: Service, algorithm: str):
    before = peak(server)
    response = infer(server, "versioned", bomb(algorithm), Content_Encoding=algorithm)
    assert_refused(response, 413, "The body is larger than 67108864 bytes; send less in one request.")
    assert peak(server) - before < 256 << 20


@cache
def bomb(algorithm: str) -> bytes:
    packer = zlib.compressobj(9, wbits=31 if algorithm == "gzip" else 15)
    return b"".join([packer.compress(bytes(1 << 20)) for _ in range(1024)]) + packer.flush()


def test_a_body_that_is_not_packed_as_declared(server: Service):
    for packed in (b"not gzip", gzip.compress(request(x([1, 3], [1, 2, 3])))[:-12]):
        response = infer(server, "versioned", packed, Content_Encoding="gzip")
        assert response.status_code == 400 and list(response.json()) == ["error"], response.text
    unknown = 'content encoding "zstd" is not supported; supported encodings are: gzip, deflate'
    assert_refused(infer(server, "versioned", b"", Content_Encoding="zstd"), 415, unknown)


# ---- Routes ---------------------------------------------------------------------------------------------------------


def test_a_path_that_is_not_there_and_a_method_that_a_path_does_not_answer(server: Service):
    for method, path, status in (("GET", "nowhere", 404), ("GET", "models/versioned/infer", 405), ("DELETE", "models/versioned", 405)):
        response = requests.request(method, f"{server.url}/v2/{path}", timeout=10)
        assert response.status_code == status and list(response.json()) == ["error"], response.text


def test_a_load_that_brings_its_own_files(server: Service):
    body = json.dumps({"parameters": {"config": "{}", "file:1/model.onnx": "AAAA"}})
    response = requests.post(f"{server.url}/v2/repository/models/versioned/load", data=body, timeout=10)
    assert_refused(response, 501, 'a load with "config" is not supported: put it into the model\'s folder')


# ---- gRPC -----------------------------------------------------------------------------------------------------------


Grpc = Callable[..., None]


@pytest.fixture
def refused_over_grpc(server: Service) -> Grpc:
    def assert_rejected(words: str, raw: list[bytes] = (), model: str = "versioned", code: str = "INVALID_ARGUMENT", **tensor: object) -> None:
        payload = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=raw)
        payload.inputs.add(**{"name": "x", "datatype": "FP32", "shape": [1, 3], **tensor})
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            with pytest.raises(grpc.RpcError) as refused:
                service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(payload)
        assert (refused.value.code().name, refused.value.details()) == (code, words)

    return assert_rejected


def test_messages_that_are_no_request(refused_over_grpc: Grpc):
    refused_over_grpc('input "x": shape [1, 3] of FP32 takes 12 bytes, but 8 were sent', [bytes(8)])
    refused_over_grpc('input "x": shape [-1, 3] has a negative length', [bytes(12)], shape=[-1, 3])
    refused_over_grpc(f'input "x": shape [{2**62}, 4] has too many elements', [b""], shape=[2**62, 4])
    refused_over_grpc('model "versioned" has no input "z"; its inputs are "x"', [bytes(12)], name="z")
    words = 'input "x": element 0 of BYTES has a length of 5 bytes, but only 1 are left'
    refused_over_grpc(words, [struct.pack("<I", 5) + b"a"], "identity_bytes", shape=[1], datatype="BYTES")


def test_a_message_of_64_mebibytes_and_a_byte(refused_over_grpc: Grpc):
    size = (64 << 20) + 1
    words = "The body is larger than 67108864 bytes; send less in one request."
    refused_over_grpc(words, [bytes(size)], "identity_uint8", "RESOURCE_EXHAUSTED", shape=[size], datatype="UINT8")
