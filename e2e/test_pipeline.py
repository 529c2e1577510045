"""The pipeline in `examples/pipeline`: an image of a number → its digits, with the real ONNX Runtime."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Callable, Iterator

import pytest
import requests

from client import result_of, predict, assert_problem
from images import encode, new_image, number, reopened, samples
from services import ROOT, Service

EXAMPLE = ROOT / "examples" / "pipeline"
Spawn = Callable[..., Service]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    for model in (models / "mnist", models / "leukemia", EXAMPLE / "find-digits", EXAMPLE / "digits"):
        shutil.copytree(model, folder / model.name)
    return folder


@pytest.fixture(scope="module")
def model_server(spawn_shared: Spawn, repository: Path) -> Service:
    return spawn_shared("model_api", MODELS_DIR=repository, MODEL_NAME="digits", MODEL_WATCH="off")


@pytest.fixture
def web(spawn: Spawn, model_server: Service) -> Service:
    """With an empty memory."""
    return spawn("web_api", APP_TYPE="ui", MODEL_API_URL=model_server.url)


@pytest.fixture
def settings(repository: Path, model_server: Service) -> Iterator[Callable[[dict], requests.Response]]:
    """Writes the pipeline's settings and has them loaded; what was there is put back."""
    file = repository / "digits" / "model-settings.json"
    shipped = file.read_text()

    def load() -> requests.Response:
        return requests.post(f"{model_server.url}/v2/repository/models/digits/load", timeout=30)

    def change(new: dict) -> requests.Response:
        file.write_text(json.dumps(new))
        return load()

    yield change
    file.write_text(shipped)
    assert load().status_code == 200


def reported(answer: dict) -> str:
    return "".join(row["label"] for row in answer["rows"])


def infer(url: str, model: str, image: bytes, **headers: str) -> requests.Response:
    data = [base64.b64encode(image).decode()]
    body = {"inputs": [{"name": "picture", "datatype": "BYTES", "shape": [1], "data": data}]}
    return requests.post(f"{url}/v2/models/{model}/infer", json=body, headers=headers, timeout=30)


def test_a_start_gets_its_steps_and_no_other_model(web: Service):
    names = [model["name"] for model in web.health().json()["models"]]
    assert names == ["digits", "find-digits", "mnist"]
    index = requests.post(f"{web.url}/v2/repository/index", timeout=10).json()
    ready = [line["name"] for line in index if line["state"] == "READY"]
    assert ready == names
    metadata = requests.get(f"{web.url}/v2/models/digits", timeout=10).json()
    assert [tensor["name"] for tensor in metadata["outputs"]] == ["probabilities", "boxes"]
    assert "A line of digits" in requests.get(web.url, timeout=10).text


@pytest.mark.parametrize("digits", ["7", "40817", "1234567890", "2222"])
def test_a_number_is_read_digit_by_digit(web: Service, digits: str):
    answer = result_of(predict(web.url, new_image(number(digits)), "digits"))
    # A list of rows is there where there are several.
    assert (reported(answer) if "rows" in answer else answer["label"]) == digits
    assert (answer["model"], answer["device"]) == ("digits", "cpu")


def test_the_image_that_ships_with_it_is_read(web: Service):
    answer = result_of(predict(web.url, (EXAMPLE / "number.png").read_bytes(), "digits"))
    assert reported(answer) == "40817"


def test_the_image_is_shown_as_its_first_step_sees_it(web: Service):
    seen = requests.post(f"{web.url}/input/digits", files={"image": ("number.png", encode(number("42")))}, timeout=30)
    assert (seen.status_code, reopened(seen.content).size) == (200, (512, 128))


def test_an_empty_sheet_has_no_digits(web: Service):
    blank = infer(web.url, "digits", encode(number(""))).json()
    assert [output["shape"] for output in blank["outputs"]] == [[0, 10], [0, 4]]


def test_it_is_cached_as_a_whole_and_step_by_step(web: Service):
    image = encode(number("4081"))
    first = infer(web.url, "digits", image)
    assert first.headers["Cache-Status"] == "mlserve; fwd=miss; stored", first.text
    assert first.json()["outputs"][0]["shape"] == [4, 10]
    again = predict(web.url, image, "digits")
    assert (again.headers["Cache-Status"], again.headers["ETag"]) == ("mlserve; hit", first.headers["ETag"])
    # Every crop was a separate request.
    assert web.count("web_api_inferences_total", model="mnist") == 4
    assert web.count("web_api_inferences_total", model="find-digits") == 1
    assert web.count("web_api_inferences_total", model="digits") == 0
    assert infer(web.url, "digits", image, **{"Cache-Control": "no-cache"}).status_code == 200
    assert web.count("web_api_inferences_total", model="mnist") == 8


def test_a_changed_step_is_another_pipeline_and_the_digits_are_still_cached(
    web: Service, model_server: Service, repository: Path
):
    image = encode(number("4081"))
    first = infer(web.url, "digits", image).json()
    file = repository / "find-digits" / "model-settings.json"
    file.write_text(file.read_text() + "\n")
    load = requests.post(f"{web.url}/v2/repository/models/find-digits/load", timeout=30)
    assert load.status_code == 200, load.text
    second = infer(web.url, "digits", image)
    assert second.headers["Cache-Status"] == "mlserve; fwd=miss; stored"
    digest = second.json()["parameters"]["model_digest"]
    assert digest != first["parameters"]["model_digest"]
    assert web.count("web_api_inferences_total", model="find-digits") == 2
    assert web.count("web_api_inferences_total", model="mnist") == 4, "the crops are cached"


def test_model_api_gives_the_same_answer_without_a_cache(web: Service, model_server: Service):
    image = encode(number("4081"))
    cached, direct = (infer(url, "digits", image).json() for url in (web.url, model_server.url))
    for one, other in zip(cached["outputs"], direct["outputs"], strict=True):
        assert one["data"] == pytest.approx(other["data"], abs=1e-5)
    assert cached["parameters"]["model_digest"] == direct["parameters"]["model_digest"]


def test_one_file_is_for_models_that_see_it_in_different_sizes(web: Service, model_server: Service, repository: Path):
    (repository / "both").mkdir()
    models = ("leukemia", "mnist")
    steps = [{"model": model, "inputs": {"image": "picture"}} for model in models]
    outputs = [{"name": model, "from": f"{model}.probabilities"} for model in models]
    settings = {"implementation": "pipeline", "steps": steps, "outputs": outputs}
    (repository / "both" / "model-settings.json").write_text(json.dumps(settings))
    for name in ("both", "leukemia", "both"):
        load = requests.post(f"{web.url}/v2/repository/models/{name}/load", timeout=60)
        assert (load.status_code, "leukemia is not loaded" in load.text) in [(200, False), (422, True)], load.text
    sample = samples("leukemia")[0]
    answer = result_of(predict(web.url, sample.image, "both"))
    assert answer["label"] == sample.label
    assert answer["notice"].startswith("Not for clinical use."), "every result of that model has it"
    for name in ("both", "leukemia"):
        assert requests.post(f"{web.url}/v2/repository/models/{name}/unload", timeout=30).status_code == 200


def test_an_error_names_the_step(web: Service):
    answer = predict(web.url, b"no image", "digits")
    assert answer.status_code == 415
    assert answer.json()["detail"].startswith('step "find": ')


def test_settings_that_do_not_fit_are_reported_and_what_was_served_goes_on(web: Service, model_server: Service, settings):
    shipped = json.loads((EXAMPLE / "digits" / "model-settings.json").read_text())
    shipped["steps"][1]["inputs"]["image"] = "find.boxes"
    refused = settings(shipped)
    reason = 'model-settings.json: step "read": inputs.image: "find.boxes" is INT64, and mnist takes FP32'
    assert (refused.status_code, refused.json()["error"]) == (422, f"digits cannot be loaded: version 1: {reason}.")
    index = requests.post(f"{web.url}/v2/repository/index", timeout=10).json()
    line = next(line for line in index if line["name"] == "digits")
    assert line["state"] == "READY" and reason in line["reason"], line
    assert reported(result_of(predict(web.url, new_image(number("42")), "digits"))) == "42"


def test_a_pipeline_whose_step_is_unloaded_waits_for_it(web: Service, model_server: Service):
    def of_mnist(verb: str) -> None:
        assert requests.post(f"{web.url}/v2/repository/models/mnist/{verb}", timeout=30).status_code == 200

    cached = new_image(number("42"))
    result_of(predict(web.url, cached, "digits"))
    of_mnist("unload")
    try:
        health = {model["name"]: model for model in web.health().json()["models"]}
        assert health["digits"]["state"] == "UNAVAILABLE"
        assert health["digits"]["reason"] == 'model-settings.json: step "read": model: mnist is not loaded'
        assert result_of(predict(web.url, cached, "digits"))["cached"], "cached results are still returned"
        fresh = predict(web.url, new_image(number("24")), "digits")
        assert_problem(fresh, 503, 'step "read": mnist is not available: it is not loaded.')
    finally:
        of_mnist("load")
    assert reported(result_of(predict(web.url, new_image(number("24")), "digits"))) == "24"
