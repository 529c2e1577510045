"""What the page shows of each kind of result, with and without JavaScript, alone and in a job."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from browser import Browser
from images import encode
from services import ROOT, Service, wait_until

sys.path.append(str(ROOT / "e2e" / "clients"))

import graphs

SIDE = 16
COLOURS = ["red", "green", "blue"]
IMAGE = {"content_type": "image", "image": {"color": "rgb", "fit": "stretch"}}

# The mean of each colour over an image of SIDE × SIDE pixels.
MEAN = helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2], keepdims=0)
SHARP = [MEAN, helper.make_node("Mul", ["mean", "ten"], ["sharp"])]
TEN = graphs.constant("ten", "FP32", 10)


def model(nodes: list, outputs: dict[str, list], *constants: onnx.TensorProto) -> onnx.ModelProto:
    """A graph from images to these outputs, which are FP32."""
    declared = {name: ("FP32", shape) for name, shape in outputs.items()}
    return graphs.graph(nodes, {"x": ("FP32", ["n", SIDE, SIDE, 3])}, declared, *constants)


def matrix(columns: int) -> onnx.TensorProto:
    return graphs.constant("weights", "FP32", np.linspace(-1, 1, 3 * columns).reshape(3, columns))


def write_models(folder: Path) -> None:
    node = helper.make_node

    def write(name: str, made: onnx.ModelProto, *outputs: dict, extra: dict | None = None) -> None:
        settings = {
            "inputs": [{"name": "x", "parameters": IMAGE}],
            "outputs": [{"name": made.graph.output[place].name, "parameters": output} for place, output in enumerate(outputs)],
            "parallel_workers": 1,
            "parameters": {"extra": extra or {}},
        }
        graphs.write(made, folder / name, **settings)

    softmax = model([*SHARP, node("Softmax", ["sharp"], ["y"])], {"y": ["n", 3]}, TEN)
    write("probabilities", softmax, {"task": "classification", "labels": COLOURS, "activation": "none"})
    write("scores", model(SHARP, {"sharp": ["n", 3]}, TEN), {"task": "classification", "labels": COLOURS})
    many = [MEAN, node("MatMul", ["mean", "weights"], ["z"]), node("Softmax", ["z"], ["y"])]
    labels = [f"class {number}" for number in range(30)]
    write("many", model(many, {"y": ["n", 30]}, matrix(30)), {"task": "classification", "labels": labels, "activation": "none"})
    sides = [MEAN, node("Sub", ["mean", "half"], ["centred"]), node("Mul", ["centred", "ten"], ["z"]), node("Sigmoid", ["z"], ["y"])]
    half = graphs.constant("half", "FP32", 0.5)
    several = model(sides, {"y": ["n", 3]}, half, TEN)
    write("several", several, {"task": "multi_label", "labels": COLOURS, "threshold": 0.4, "activation": "none"})
    brightness = [node("ReduceMean", ["x"], ["bright"], axes=[1, 2, 3], keepdims=0), node("Unsqueeze", ["bright", "one"], ["y"])]
    one = graphs.constant("one", "INT64", [1])
    bright = model(brightness, {"y": ["n", 1]}, one)
    write("binary", bright, {"task": "classification", "labels": ["dark", "bright"], "threshold": 0.4, "activation": "none"})
    write("brightness", bright, {"task": "regression", "unit": "cd"})
    vector = model([MEAN, node("MatMul", ["mean", "weights"], ["y"])], {"y": ["n", 64]}, matrix(64))
    write("vector", vector, {"task": "embedding"})
    negative = model([node("Sub", ["white", "x"], ["y"])], {"y": ["n", SIDE, SIDE, 3]}, graphs.constant("white", "FP32", 1))
    write("negative", negative, {"task": "image"})
    regions = model([node("Identity", ["x"], ["y"])], {"y": ["n", SIDE, SIDE, 3]})
    write("regions", regions, {"task": "segmentation", "labels": COLOURS})
    tensors = model([MEAN, node("MatMul", ["mean", "weights"], ["y"])], {"y": ["n", 64], "mean": ["n", 3]}, matrix(64))
    write("tensors", tensors, extra={"notice": "Only for tests."})
    boxes = [MEAN, node("Slice", ["mean", "zero", "zero", "zero"], ["boxes"])]
    nothing = model(boxes, {"boxes": ["found", 3]}, graphs.constant("zero", "INT64", [0]))
    write("boxes", nothing, {"task": "detection"})
    graphs.write(model([node("Identity", ["x"], ["y"])], {"y": ["n", SIDE, SIDE, 3]}), folder / "bare")
    open_size = graphs.graph([node("Identity", ["x"], ["y"])], {"x": ("FP32", ["n", 3, "h", "w"])}, {"y": ("FP32", ["n", 3, "h", "w"])})
    (folder / "open.onnx").write_bytes(open_size.SerializeToString())


@pytest.fixture(scope="module")
def web(spawn_shared: Callable[..., Service], tmp_path_factory: pytest.TempPathFactory) -> Service:
    folder = tmp_path_factory.mktemp("models-of-each-task")
    write_models(folder)
    model_api = spawn_shared("model_api", MODEL_NAME="all", MODELS_DIR=folder)
    return spawn_shared("web_api", APP_TYPE="ui", MODEL_API_URL=model_api.url)


@pytest.fixture(params=[True, False], ids=["scripts", "no_scripts"])
def show(request: pytest.FixtureRequest, chromium: Browser, web: Service) -> Iterator[Callable[..., Browser]]:
    """Shows a model's result for an image."""
    chromium.complaints()

    def show(name: str, image: Image.Image, **look: object) -> Browser:
        chromium.look(scripts=request.param, **look)
        chromium.open(f"{web.url}/?model={name}")
        chromium.choose(encode(image))
        chromium.predict()
        wait_until(lambda: chromium.parts("#answer article"), "the answer is there")
        if request.param:
            wait_until(lambda: chromium.part("#answer [data-slot=preview]").is_displayed(), "it is shown as the model saw it")
        chromium.screenshot(f"result-{name}-{'with' if request.param else 'without'}-scripts")
        return chromium

    yield show
    chromium.look()
    assert chromium.complaints() == []


def error_of(page: Browser) -> str:
    return page.part("#error").get_attribute("textContent")


def plain(red: int, green: int, blue: int) -> Image.Image:
    return Image.new("RGB", (64, 64), (red, green, blue))


def thirds() -> Image.Image:
    """Half red, a quarter each green and blue."""
    image = plain(255, 0, 0)
    image.paste((0, 255, 0), (32, 0, 48, 64))
    image.paste((0, 0, 255), (48, 0, 64, 64))
    return image


def bars(page: Browser, slot: str = "bars") -> list[tuple[str, str, bool]]:
    """Label, text, and whether it is marked, of each."""
    return [
        tuple(bar)
        for bar in page.run(
            """
            return [...document.querySelectorAll(`#answer [data-slot=${arguments[0]}] li`)].map((bar) => (
              [bar.firstElementChild.textContent, bar.lastElementChild.textContent, bar.hasAttribute("data-marked")]));
            """,
            slot,
        )
    ]


def outputs(page: Browser) -> list[list[str]]:
    return page.run(
        "return [...document.querySelectorAll('#answer [data-slot=outputs] tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    )


def image_of(page: Browser) -> Image.Image:
    """What is saved by the link beside the result."""
    encoded = page.chrome.execute_async_script(
        """
        const [done] = arguments;
        const image = document.querySelector("#answer [data-slot=result] img");
        const draw = () => {
          const canvas = Object.assign(document.createElement("canvas"), { width: image.naturalWidth, height: image.naturalHeight });
          canvas.getContext("2d").drawImage(image, 0, 0);
          done(canvas.toDataURL("image/png"));
        };
        image.complete ? draw() : image.addEventListener("load", draw);
        """
    )
    return Image.open(io.BytesIO(base64.b64decode(encoded.split(",")[1]))).convert("RGB")


# ---- Classes --------------------------------------------------------------------------------------------------------


def test_probabilities_are_shown_in_per_cent(show: Callable[..., Browser]):
    page = show("probabilities", plain(255, 0, 0))
    assert (page.slot("label"), page.slot("percent")) == ("red", "99.99 %")
    assert bars(page) == [("red", "99.99 %", True), ("green", "< 0.01 %", False), ("blue", "< 0.01 %", False)]
    assert not page.part("#answer [data-slot=all]").is_displayed()


def test_scores_are_numbers_and_never_per_cent(show: Callable[..., Browser]):
    page = show("scores", plain(0, 51, 0))
    assert (page.slot("label"), page.slot("percent")) == ("green", "score 2")
    assert bars(page) == [("green", "2", True), ("red", "0", False), ("blue", "0", False)]
    assert "%" not in page.part("#answer article header").text


def test_of_many_classes_ten_are_shown_and_the_others_on_request(show: Callable[..., Browser]):
    page = show("many", plain(255, 255, 255))
    assert page.slot("label") == "class 29"
    assert [label for label, _, _ in bars(page)] == [f"class {number}" for number in range(29, 19, -1)]
    assert len(json.loads(page.slot("json"))["probabilities"]) == 10
    assert page.slot("all-label") == "All 30 classes"
    page.part("#answer [data-slot=all-label]").click()
    wait_until(lambda: len(bars(page, "all-bars")) == 30, "all are listed")
    assert [label for label, _, _ in bars(page, "all-bars")] == [f"class {number}" for number in range(29, -1, -1)]
    assert page.slot("all-rest") == ""


def test_one_value_for_two_classes_is_shown_as_both(show: Callable[..., Browser]):
    page = show("binary", plain(153, 153, 153))
    assert (page.slot("label"), page.slot("percent")) == ("bright", "60.00 %")
    assert bars(page) == [("bright", "60.00 %", True), ("dark", "40.00 %", False)]
    assert page.slot("threshold") == "The second of two classes from 40 % on."


def test_the_labels_that_are_present_are_shown_with_the_threshold(show: Callable[..., Browser]):
    page = show("several", plain(255, 0, 255))
    assert (page.slot("label"), page.slot("percent")) == ("red, blue", "2 of 3 present")
    assert bars(page) == [("red", "99.33 %", True), ("blue", "99.33 %", True), ("green", "0.67 %", False)]
    assert page.slot("threshold") == "Present from 40 % on."
    assert page.part("#answer [data-slot=bars] line").get_attribute("x1") == "40%"
    assert show("several", plain(0, 0, 0)).slot("label") == "None of the classes"


# ---- Numbers --------------------------------------------------------------------------------------------------------


def test_a_regression_is_a_value_with_its_unit(show: Callable[..., Browser]):
    page = show("brightness", plain(255, 255, 255))
    assert (page.slot("label"), page.slot("percent"), bars(page)) == ("1", "cd", [])
    assert "%" not in page.part("#answer article").text


def test_of_an_embedding_the_length_and_the_first_values_are_shown(show: Callable[..., Browser]):
    page = show("vector", plain(255, 255, 255))
    assert (page.slot("label"), page.slot("percent")) == ("64 numbers", "embedding")
    assert re.fullmatch(r"\[-?[\d.e-]+(, -?[\d.e-]+){7}, … 56 more\]", page.slot("vector-text"))
    first = float(page.slot("vector-text")[1:].split(",")[0])
    assert json.loads(page.slot("json"))["embedding"][0] == first


def test_all_of_an_embedding_is_copied(chromium: Browser, web: Service):
    chromium.look()
    chromium.open(f"{web.url}/?model=vector")
    chromium.run("window.copied = ''; navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    chromium.choose(encode(plain(255, 255, 255)))
    chromium.predict()
    chromium.wait_for("answer")
    chromium.part("#answer [data-slot=vector-copy]").click()
    wait_until(lambda: chromium.part("#answer [data-slot=vector-copy]").text == "Copied", "it is copied")
    assert json.loads(chromium.run("return window.copied")) == json.loads(chromium.slot("json"))["embedding"]


# ---- Images ---------------------------------------------------------------------------------------------------------


def test_an_image_is_shown_beside_the_image_and_can_be_saved(show: Callable[..., Browser]):
    page = show("negative", plain(255, 0, 51))
    assert (page.slot("label"), page.slot("percent")) == ("Image", f"{SIDE} × {SIDE}")
    shown = image_of(page)
    assert shown.size == (SIDE, SIDE) and shown.getpixel((3, 3)) == (0, 255, 204)
    save = page.part("#answer [data-slot=result] a")
    assert save.get_attribute("download") == "image-0-result.png"
    assert save.get_property("href").startswith(("blob:", "data:image/png;base64,"))
    assert bars(page) == [] and not page.part("#answer [data-slot=layers]").is_displayed()
    assert len(page.slot("json")) < 20_000


def test_a_segmentation_is_a_map_with_a_legend_and_lies_over_the_image(show: Callable[..., Browser]):
    page = show("regions", thirds())
    assert (page.slot("label"), page.slot("percent")) == ("3 classes", f"{SIDE} × {SIDE}")
    assert bars(page) == [("red", "50.00 %", False), ("green", "25.00 %", False), ("blue", "25.00 %", False)]
    # The legend has the map's colours.
    colours = page.run("return [...document.querySelectorAll('#answer [data-slot=bars] rect')].map((bar) => bar.getAttribute('fill'))")
    shown = image_of(page)
    assert ["#%02x%02x%02x" % shown.getpixel((x, 3)) for x in (2, 9, 14)] == colours
    over = page.part("#answer [data-slot=layers]")
    wait_until(over.is_displayed, "the map lies over the image")
    assert len(over.find_elements("css selector", "img")) == 2


# ---- Tensors --------------------------------------------------------------------------------------------------------


def test_outputs_without_a_task_are_shown_as_they_are(show: Callable[..., Browser]):
    page = show("tensors", plain(255, 0, 255))
    assert (page.slot("label"), page.slot("percent"), bars(page)) == ("2 outputs", "y 1 × 64, mean 1 × 3", [])
    assert "Declare it with “task” of an output in model-settings.json" in page.slot("hint")
    (name, kind, values), mean = outputs(page)
    assert (name, kind, values.endswith(", … 56 more")) == ("y", "FP32 1 × 64", True)
    assert mean == ["mean", "FP32 1 × 3", "1, 0, 1"]
    assert page.slot("notice") == "Only for tests."
    assert "%" not in page.part("#answer article").text


def test_nothing_found_is_a_result_and_not_an_error(show: Callable[..., Browser]):
    page = show("boxes", plain(255, 0, 255))
    assert (page.slot("label"), page.slot("hint")) == (
        "Empty result",
        "The model returned an empty result: it found nothing in this input.",
    )
    assert outputs(page) == [["boxes", "FP32 0 × 3", "empty"]]
    assert error_of(page) == ""


# ---- Jobs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "label", "value"),
    [
        ("probabilities", "red", "99.99 %"),
        ("scores", "red", "score 10"),
        ("several", "red", "1 of 3 present"),
        ("brightness", "0.33333334", "cd"),
        ("vector", "64 numbers", "embedding"),
        ("negative", "Image", f"{SIDE} × {SIDE}"),
        ("regions", "1 class", f"{SIDE} × {SIDE}"),
        ("tensors", "2 outputs", "y 1 × 64, mean 1 × 3"),
        ("boxes", "Empty result", ""),
    ],
)
def test_a_job_shows_each_result_by_its_task(chromium: Browser, web: Service, name: str, label: str, value: str):
    chromium.look()
    chromium.open(f"{web.url}/?model={name}")
    chromium.choose(*[encode(plain(255, 0, 0)) for _ in range(13)])
    chromium.predict()
    chromium.wait_for("job")
    wait_until(lambda: chromium.part("#job [data-slot=status]").text == "Finished", "the job has ended", 30)
    wait_until(lambda: len(chromium.parts("#job tbody tr")) == 13, "every result has its row")
    seen = chromium.run(
        "return [...document.querySelectorAll('#job tbody tr')].map((r) => [r.querySelector('strong').textContent, r.cells[1].querySelector('small').textContent])"
    )
    assert seen == [[label, value]] * 13
    assert len(chromium.parts("#job tbody td img")) == (13 if name in ("negative", "regions") else 0)
    chromium.screenshot(f"job-{name}")
    assert chromium.complaints() == []


# ---- A model that could take images ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "shape"), [("bare", None), ("open", [-1, 3, 224, 224])])
def test_a_model_that_looks_as_if_it_takes_images_shows_what_is_missing(chromium: Browser, web: Service, name: str, shape: list | None):
    chromium.look()
    chromium.open(f"{web.url}/?model={name}")
    hint = chromium.part(f"[data-about={name}] .image-hint")
    assert hint.is_displayed() and f"{name}/model-settings.json" in hint.text
    settings = json.loads(hint.find_element("css selector", "pre code").text)
    parameters = {"parameters": {"content_type": "image"}}
    assert settings == {"inputs": [{"name": "x", **({"shape": shape} if shape else {}), **parameters}]}
    chromium.screenshot(f"hint-{name}")


def test_with_the_settings_that_the_page_shows_a_model_takes_images(chromium: Browser, spawn: Callable[..., Service], tmp_path: Path):
    write_models(tmp_path / "all")
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "all" / "open.onnx").rename(folder / "open.onnx")
    model_api = spawn("model_api", MODEL_NAME="all", MODELS_DIR=folder)
    web = spawn("web_api", APP_TYPE="ui", MODEL_API_URL=model_api.url)
    chromium.look()
    chromium.open(f"{web.url}/?model=open")
    settings = chromium.part(".image-hint pre code").text
    (tmp_path / "open").mkdir()
    (folder / "open.onnx").rename(tmp_path / "open" / "model.onnx")
    (tmp_path / "open" / "model-settings.json").write_text(settings)
    (tmp_path / "open").rename(folder / "open")

    def takes_images() -> bool:
        chromium.open(f"{web.url}/?model=open")
        return chromium.part("#form").is_displayed() and not chromium.parts(".image-hint")

    wait_until(takes_images, "the form is there", 30)


# ---- How it looks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["many", "several", "vector", "negative", "regions", "tensors", "boxes"])
def test_on_a_telephone_no_result_needs_sideways_scrolling(chromium: Browser, web: Service, name: str, scheme: str):
    chromium.look(width=390, height=844, scheme=scheme)
    chromium.open(f"{web.url}/?model={name}")
    chromium.choose(encode(thirds()))
    chromium.predict()
    chromium.wait_for("answer")
    chromium.screenshot(f"390-{scheme}-{name}")
    assert chromium.run("return document.documentElement.scrollWidth") <= 390
    chromium.look()
