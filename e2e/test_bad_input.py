"""Invalid input gets its exact status and message, without internal details, and affects no other client."""

from __future__ import annotations

import json
import socket
from typing import Callable, Iterator

import pytest
import requests

from client import result_of, predict, assert_problem
from images import bomb, encode, new_image, reopened, samples, seven
from services import Service

PNG = encode(seven())
JPEG = encode(seven(), "JPEG")
MODELS = "available models: leukemia, mnist."
NO_IMAGE = "Upload an image first!"
FORMATS = "PNG, JPEG, BMP, GIF, WebP, TIFF or PNM"
NO_ARRAY = 'the body is not {"image_arr": <nested list of numbers>}: '


@pytest.fixture(scope="module")
def web(spawn_shared: Callable[..., Service], model_api: Service) -> Service:
    return spawn_shared("web_api", APP_TYPE="cli", MODEL_API_URL=model_api.url)


@pytest.fixture(autouse=True)
def other_clients_are_served(web: Service, model_api: Service) -> Iterator[None]:
    before = web.pid, model_api.count("model_api_session_restarts_total")
    yield
    assert result_of(predict(web.url, new_image()))["label"] == "7"
    assert web.health().status_code == 200
    assert (web.pid, model_api.count("model_api_session_restarts_total")) == before


def form(web: Service, *files: tuple[str, bytes], model: str = "mnist", **fields: str) -> requests.Response:
    parts = [(name, ("image.png", content)) for name, content in files]
    return requests.post(f"{web.url}/predict/{model}", files=parts or None, data=fields, timeout=60)


def body(web: Service, content: object, media_type: str = "image/png") -> requests.Response:
    return requests.post(f"{web.url}/predict/mnist", data=content, headers={"Content-Type": media_type}, timeout=60)


def array(web: Service, content: str) -> requests.Response:
    return requests.post(f"{web.url}/web_api/mnist", data=content, headers={"Content-Type": "application/json"}, timeout=60)


def raw(web: Service, target: str) -> tuple[int, str]:
    """Sends a path as it is, where clients would tidy it up first."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as connection:
        head = ["POST {target} HTTP/1.1", "Host: localhost", "Connection: close", "Content-Type: image/png", "Content-Length: {length}"]
        connection.sendall("\r\n".join([*head, "", ""]).format(target=target, length=len(PNG)).encode() + PNG)
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]


# ---- Files ----------------------------------------------------------------------------------------------------------


def test_an_empty_body(web: Service):
    assert_problem(body(web, b""), 400, NO_IMAGE)
    assert_problem(form(web, ("image", b"")), 400, NO_IMAGE)


def test_text_that_calls_itself_png(web: Service):
    text = body(web, b"This is no image.\n")
    assert_problem(text, 415, f"The image format is not supported: it must be {FORMATS}; this looks like text.")


def test_a_body_that_is_neither_image_nor_form(web: Service):
    wanted = "is neither a form nor an image: send -F image=@FILE, or --data-binary @FILE with -H 'Content-Type: image/png'."
    assert_problem(body(web, b"{}", "application/json"), 415, f'"application/json" {wanted}')
    assert_problem(body(web, PNG, "nonsense"), 415, f'"nonsense" {wanted}')


def test_a_truncated_png(web: Service):
    broken = body(web, PNG[: len(PNG) // 2])
    assert_problem(broken, 422, "The PNG image cannot be decoded: it is damaged or truncated.")


def test_a_truncated_jpeg(web: Service):
    """In its header, and in the middle of its pixels, where decoders would fill up the rest with gray."""
    for part in (0.25, 0.5, 0.9):
        broken = body(web, JPEG[: int(len(JPEG) * part)])
        assert broken.status_code == 422, f"{part} of the file: {broken.text}"
        assert_problem(broken, 422, f"The JPEG image cannot be decoded: {broken.json()['detail'].partition(': ')[2]}")


def test_a_bomb_of_20_000_by_20_000_pixels(web: Service):
    small = bomb()
    assert len(small) < 100_000
    limit = "The image is too large: 20000 pixels wide, and the limit is 16384 (MAX_IMAGE_SIDE). Send a smaller image, or raise the limit."
    assert_problem(body(web, small), 413, limit)


def test_a_bomb_within_the_limit_of_its_sides(web: Service):
    limit = "The image is too large: 256000000 pixels, and the limit is 67108864 (MAX_IMAGE_PIXELS). Send a smaller image, or raise the limit."
    assert_problem(body(web, bomb(16_000)), 413, limit)


@pytest.mark.parametrize("declared", [True, False], ids=["with its length", "in chunks"])
def test_an_upload_of_100_megabytes(web: Service, declared: bool):
    megabyte = bytes(1 << 20)
    upload = megabyte * 100 if declared else (megabyte for _ in range(100))
    assert_problem(body(web, upload), 413, "The body is larger than 67108864 bytes; send less in one request.")


# ---- Forms ----------------------------------------------------------------------------------------------------------


def test_a_form_with_a_wrong_field_name(web: Service):
    assert_problem(form(web, ("picture", PNG)), 400, 'The form has no field "image" or "file"; it has picture.')


def test_a_form_with_two_files(web: Service):
    several = "The form contains several files; send one file per request."
    assert_problem(form(web, ("image", PNG), ("image", JPEG)), 400, several)
    assert_problem(form(web, ("image", PNG), ("file", JPEG)), 400, several)


def test_a_form_that_ends_early(web: Service):
    cut = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + PNG[:50]
    incomplete = 'The form cannot be read: field "image" received with incomplete data.'
    assert_problem(body(web, cut, "multipart/form-data; boundary=x"), 400, incomplete)
    boundless = "The form cannot be read: multipart boundary not found in Content-Type."
    assert_problem(body(web, PNG, "multipart/form-data"), 400, boundless)


# ---- Names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("nope", '"nope"'),
        ("..%2fmnist", '"../mnist"'),
        ("..%2f..%2f..%2fetc%2fpasswd", '"../../../etc/passwd"'),
        ("mnist%00", r'"mnist\0"'),
        ("mnist%00.png", r'"mnist\0.png"'),
        ("%2e%2e", '".."'),
        ("x" * 1000, f'"{"x" * 128}"'),
    ],
)
def test_a_model_that_is_not_there(web: Service, path: str, named: str):
    status, problem = raw(web, f"/predict/{path}")
    assert (status, json.loads(problem)["detail"]) == (404, f"There is no model {named}; {MODELS}")


def test_a_model_that_is_not_there_in_a_field_of_the_form(web: Service):
    for name, shown in (("nope", '"nope"'), ("../mnist", '"../mnist"'), ("mnist\0", r'"mnist\0"')):
        form_ = requests.post(f"{web.url}/predict", files={"image": PNG}, data={"model": name}, timeout=10)
        assert_problem(form_, 404, f"There is no model {shown}; {MODELS}")


def test_a_model_name_that_is_not_even_text(web: Service):
    for route in ("predict", "web_api", "input"):
        status, problem = raw(web, f"/{route}/%ff%fe")
        assert (status, json.loads(problem)["status"]) == (404, 404), route


def test_a_path_with_dots_leads_nowhere(web: Service):
    nothing, no_post = (404, "No such route."), (405, "Method POST is not allowed for this path.")
    for path, reported in (
        ("/predict/../mnist", nothing),
        ("/static/../Cargo.toml", nothing),
        ("/static/..%2f..%2fCargo.toml", no_post),
        ("/%2e%2e/%2e%2e/etc/passwd", nothing),
    ):
        status, problem = raw(web, path)
        assert (status, json.loads(problem)["detail"]) == reported, path


# ---- Arrays ---------------------------------------------------------------------------------------------------------


def test_a_ragged_array(web: Service):
    rows = [[[0.5]] * 28 for _ in range(28)]
    rows[27] = rows[27][:-1]
    ragged = array(web, json.dumps({"image_arr": rows}))
    assert_problem(ragged, 400, f"{NO_ARRAY}image_arr is ragged: a list of 27 where the others have 28 at line 1 column 5550")


def test_an_array_that_holds_nan(web: Service):
    assert_problem(array(web, '{"image_arr": [[NaN, 0.5]]}'), 400, f"{NO_ARRAY}expected value at line 1 column 17")
    large = "image_arr holds a number that no 32-bit float can hold at line 1 column 20"
    assert_problem(array(web, '{"image_arr": [[1e39]]}'), 400, f"{NO_ARRAY}{large}")
    null = "invalid type: null, expected a number or a list of numbers at line 1 column 20"
    assert_problem(array(web, '{"image_arr": [[null]]}'), 400, f"{NO_ARRAY}{null}")


def test_an_array_nested_a_thousand_deep(web: Service):
    deep = '{"image_arr": ' + "[" * 1000 + "1" + "]" * 1000 + "}"
    assert_problem(array(web, deep), 400, f"{NO_ARRAY}image_arr is nested more than 8 deep at line 1 column 23")


def test_an_array_that_does_not_fit_the_model(web: Service):
    wrong = "image_arr has the shape [2, 2], which does not fit the model's [-1, 28, 28, 1]."
    assert_problem(array(web, '{"image_arr": [[1, 2], [3, 4]]}'), 422, wrong)


def test_json_without_an_array(web: Service):
    assert_problem(array(web, '{"image": []}'), 400, f"{NO_ARRAY}missing field `image_arr` at line 1 column 13")
    assert_problem(array(web, ""), 400, f"{NO_ARRAY}EOF while parsing a value at line 1 column 0")


# ---- Routes ---------------------------------------------------------------------------------------------------------


def test_a_path_that_is_not_there_and_a_method_that_a_path_does_not_answer(web: Service):
    assert_problem(requests.get(f"{web.url}/nowhere", timeout=10), 404, "No such route.")
    assert_problem(requests.get(f"{web.url}/predict", timeout=10), 405, "Method GET is not allowed for this path.")
    assert_problem(requests.delete(f"{web.url}/cache/nope", timeout=10), 404, f'There is no model "nope"; {MODELS}')


def test_errors_are_never_cached(web: Service):
    broken = new_image()[:-200]
    statuses = [body(web, broken).status_code for _ in range(3)]
    known = predict(web.url, broken, Cache_Control="only-if-cached")
    assert (statuses, known.status_code) == ([422] * 3, 504)


def test_a_whole_image_of_the_other_model_is_answered_and_not_mixed_up(web: Service):
    cell = samples("leukemia")[0].image
    assert reopened(cell).size == (450, 450)
    keys = {result_of(predict(web.url, cell, model))["key"] for model in ("mnist", "leukemia")}
    assert len(keys) == 2
