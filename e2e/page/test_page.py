"""The page with JavaScript: images, errors, pipelines, and what it consists of."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Callable

import pytest
import requests
from PIL import Image
from selenium.webdriver.common.keys import Keys

from browser import Browser, drop
from images import encode, new_image, number, samples, seven
from services import MODELS, ROOT, Service, wait_until


# ---- Images ---------------------------------------------------------------------------------------------------------


def test_an_image_that_is_uploaded_gets_its_answer(page: Browser):
    page.choose(new_image())
    assert len(page.parts("#chosen img")) == 1
    page.predict()
    page.wait_for("answer")
    assert (page.slot("label"), page.slot("cache"), page.slot("device")) == ("7", "Computed", "CPU")
    assert page.slot("percent").endswith("%")
    assert page.slot("total").endswith("ms")
    assert len(page.parts("#answer [data-slot=bars] li")) == 5
    assert json.loads(page.slot("json"))["label"] == "7"
    assert re.fullmatch(r"curl -F image=@image-0\.png http://127\.0\.0\.1:\d+/predict/mnist", page.slot("curl"))
    for image in ("uploaded", "preview"):
        shown = page.part(f"#answer [data-slot={image}] img")
        wait_until(lambda: int(shown.get_property("naturalWidth")) > 0, f"the image as {image} is shown")
    assert page.part("#status").text.startswith("7, ")

    page.predict()
    wait_until(lambda: page.slot("cache").startswith("Cached"), "it is cached")


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_images_can_be_dropped_and_pasted(page: Browser, how: str):
    drop(page, new_image(), how=how)
    assert page.focused().get_attribute("id") == "predict"
    page.press(Keys.ENTER)
    page.wait_for("answer")
    assert page.slot("label") == "7"


def test_several_files_at_once_show_their_progress_and_one_row_each(page: Browser):
    known = new_image()
    page.choose(known, *[new_image() for _ in range(5)], known)
    page.predict()
    page.wait_for("several")
    wait_until(lambda: page.part("#status").text == "Finished: 7 of 7 succeeded.", "all are answered")
    assert [float(page.part("#progress").get_property(name)) for name in ("value", "max")] == [7, 7]
    assert page.part("#progress-label").text.startswith("7 of 7 images")
    rows = page.parts("#results tbody tr")
    assert [row.get_attribute("data-state") for row in rows] == ["answered"] * 7
    assert {row.find_element("css selector", "strong").text for row in rows} == {"7"}
    page.part("#results tbody button").click()
    wait_until(lambda: page.slot("label") == "7", "the first is shown in full")
    assert page.focused().get_attribute("id") == "result-heading"


def test_a_digit_that_is_drawn_with_the_mouse_is_read_without_pressing_a_button(page: Browser):
    page.draw_seven()
    page.wait_for("answer")
    assert page.slot("label") == "7"
    assert page.part("#quick").get_attribute("textContent").startswith("7"), "on a telephone the answer is beside the drawing"
    page.screenshot("drawn")
    page.part("#clear").click()
    page.wait_for("empty")


def test_a_model_that_reads_no_digits_offers_no_drawing_and_shows_its_notice(page: Browser):
    page.run("const m = document.getElementById('model'); m.value = 'leukemia'; m.dispatchEvent(new Event('change'))")
    assert not page.part("#draw").is_displayed()
    assert "Not for clinical use" in page.part("[data-about=leukemia] .notice").text
    page.choose(samples("leukemia")[0].image)
    page.predict()
    page.wait_for("answer")
    assert page.slot("label") == samples("leukemia")[0].label
    assert "Not for clinical use" in page.slot("notice")
    page.screenshot("leukemia")


# ---- Errors ---------------------------------------------------------------------------------------------------------


def test_without_an_image_it_requests_upload_an_image_first(page: Browser):
    page.predict()
    page.wait_for("failed")
    assert page.part("#error").text == "Upload an image first!"


def test_an_error_of_the_server_is_shown_in_its_words(page: Browser):
    page.choose(b"This is no image.")
    page.predict()
    page.wait_for("failed")
    assert page.part("#error").text.startswith("The image format is not supported: it must be PNG, JPEG")
    assert page.part("#error").get_attribute("role") == "alert"


def test_an_error_among_several_files_leaves_the_others_answered(page: Browser):
    page.choose(new_image(), b"This is no image.", new_image())
    page.predict()
    page.wait_for("several")
    wait_until(lambda: page.part("#status").text == "Finished: 2 of 3 succeeded.", "all have come back")
    states = [row.get_attribute("data-state") for row in page.parts("#results tbody tr")]
    assert states == ["answered", "failed", "answered"]


# ---- Pipelines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scripts", [True, False], ids=["with_scripts", "without"])
def test_every_row_of_a_pipelines_answer_is_shown(chromium: Browser, spawn: Callable[..., Service], tmp_path: Path, scripts: bool):
    example = ROOT / "examples" / "pipeline"
    for model in (MODELS / "mnist", example / "find-digits", example / "digits"):
        shutil.copytree(model, tmp_path / "models" / model.name)
    model_api = spawn("model_api", MODEL_NAME="digits", MODELS_DIR=tmp_path / "models")
    web = spawn("web_api", APP_TYPE="ui", MODEL_API_URL=model_api.url)
    chromium.look(scripts=scripts)
    chromium.open(f"{web.url}/?model=digits")
    assert "find (find-digits), read (mnist)" in chromium.part("[data-about=digits] .facts").text
    chromium.choose(encode(number("4081")))
    chromium.predict()
    wait_until(lambda: chromium.parts("#answer article"), "the answer is there")
    assert (chromium.slot("label"), chromium.slot("model")) == ("4 0 8 1", "digits")
    assert [bar.text.split()[0] for bar in chromium.parts("#answer [data-slot=bars] li")] == ["4", "0", "8", "1"]
    chromium.screenshot(f"pipeline-{'with' if scripts else 'without'}-scripts")
    chromium.look()
    assert chromium.complaints() == []


# ---- What it is made of ---------------------------------------------------------------------------------------------


def test_everything_comes_from_the_server_itself_under_a_strict_policy(page: Browser, web: Service):
    fetched = page.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert fetched and all(address.startswith((web.url, "data:")) for address in fetched)
    policy = requests.get(web.url, timeout=10).headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    page.run("const s = document.createElement('script'); s.textContent = 'window.broken = 1'; document.body.append(s)")
    assert page.run("return window.broken ?? null") is None
    assert any("Content Security Policy" in each for each in page.complaints())


def test_a_model_as_it_sees_the_image_is_shown_at_its_own_size(web: Service):
    seen = requests.post(f"{web.url}/input/mnist", files={"image": encode(seven())}, timeout=10)
    assert Image.open(io.BytesIO(seen.content)).size == (28, 28)
