"""The page in a real browser: what people see and do, with and without JavaScript."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Callable, Iterator

import pytest
import requests
from PIL import Image
from selenium.webdriver.common.keys import Keys

from browser import Browser, drop
from pictures import encode, never_seen, number, samples, seven
from requirements import missing
from services import MODELS, ROOT, Service, wait_until


@pytest.fixture(scope="module")
def web(spawn_shared: Callable[..., Service], model_api: Service) -> Service:
    return spawn_shared("web_api", APP_TYPE="ui", MODEL_API_URL=model_api.url)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    programs = [os.environ.get(name.upper()) or shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(programs):
        missing("Chromium: apt install chromium chromium-driver")
    browser = Browser(*programs, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def page(chromium: Browser, web: Service, request: pytest.FixtureRequest) -> Iterator[Browser]:
    """The page of the digit reader; nothing on it may make the browser complain."""
    chromium.look()
    chromium.open(f"{web.url}/?model=mnist")
    yield chromium
    complaints = chromium.complaints()
    if "an_error" in request.node.name:
        # A refusal of the server is what such a test wants; the browser notes it.
        complaints = [each for each in complaints if not re.search(r"network: .* the server responded with a status of 4", each)]
    assert complaints == []


# ---- Asking ---------------------------------------------------------------------------------------------------------


def test_a_picture_that_is_uploaded_gets_its_answer(page: Browser):
    page.choose(never_seen())
    assert len(page.parts("#chosen img")) == 1
    page.predict()
    page.wait_for("answer")
    assert (page.slot("label"), page.slot("memory"), page.slot("device")) == ("7", "Fresh", "CPU")
    assert page.slot("percent").endswith("%")
    assert page.slot("total").endswith("ms")
    assert len(page.parts("#answer [data-slot=bars] li")) == 5
    assert json.loads(page.slot("json"))["label"] == "7"
    assert re.fullmatch(r"curl -F image=@picture-0\.png http://127\.0\.0\.1:\d+/predict/mnist", page.slot("curl"))
    for picture in ("sent", "seen"):
        shown = page.part(f"#answer [data-slot={picture}] img")
        wait_until(lambda: int(shown.get_property("naturalWidth")) > 0, f"the picture as {picture} is shown")
    assert page.part("#status").text.startswith("7, ")

    page.predict()
    wait_until(lambda: page.slot("memory").startswith("Remembered"), "it is remembered")


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_pictures_can_be_dropped_and_pasted(page: Browser, how: str):
    drop(page, never_seen(), how=how)
    assert page.focused().get_attribute("id") == "predict"
    page.press(Keys.ENTER)
    page.wait_for("answer")
    assert page.slot("label") == "7"


def test_several_files_at_once_show_their_progress_and_one_row_each(page: Browser):
    known = never_seen()
    page.choose(known, *[never_seen() for _ in range(5)], known)
    page.predict()
    page.wait_for("several")
    wait_until(lambda: page.part("#status").text == "Finished: 7 of 7 answered.", "all are answered")
    assert [float(page.part("#progress").get_property(name)) for name in ("value", "max")] == [7, 7]
    assert page.part("#progress-label").text.startswith("7 of 7 pictures")
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
    page.choose(samples("leukemia")[0].picture)
    page.predict()
    page.wait_for("answer")
    assert page.slot("label") == samples("leukemia")[0].label
    assert "Not for clinical use" in page.slot("notice")
    page.screenshot("leukemia")


# ---- Being told what is wrong ---------------------------------------------------------------------------------------


def test_without_a_picture_it_says_upload_an_image_first(page: Browser):
    page.predict()
    page.wait_for("failed")
    assert page.part("#error").text == "Upload an image first!"


def test_an_error_of_the_server_is_shown_in_its_words(page: Browser):
    page.choose(b"This is no picture.")
    page.predict()
    page.wait_for("failed")
    assert page.part("#error").text.startswith("not a picture that is read here: it must be PNG, JPEG")
    assert page.part("#error").get_attribute("role") == "alert"


def test_an_error_among_several_files_leaves_the_others_answered(page: Browser):
    page.choose(never_seen(), b"This is no picture.", never_seen())
    page.predict()
    page.wait_for("several")
    wait_until(lambda: page.part("#status").text == "Finished: 2 of 3 answered.", "all have come back")
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


# ---- Without JavaScript ---------------------------------------------------------------------------------------------


@pytest.fixture
def plain_page(page: Browser, web: Service) -> Iterator[Browser]:
    page.look(scripts=False)
    page.open(web.url)
    yield page
    page.look()


def choose_plainly(page: Browser, picture: bytes) -> None:
    page.part("#model option[value=mnist]").click()
    page.choose(picture)


def test_the_form_works_without_javascript(plain_page: Browser):
    assert not plain_page.part("#draw").is_displayed()
    assert not any(part.is_displayed() for part in plain_page.parts(".js"))
    choose_plainly(plain_page, never_seen())
    plain_page.predict()
    wait_until(lambda: plain_page.part("#answer article"), "the page comes back with the answer")
    assert (plain_page.slot("label"), plain_page.slot("memory")) == ("7", "Fresh")
    for picture in ("sent", "seen"):
        assert plain_page.part(f"#answer [data-slot={picture}] img").get_attribute("src").startswith("data:image/png")
    assert json.loads(plain_page.slot("json"))["label"] == "7"
    assert plain_page.part("#model").get_attribute("value") == "mnist", "the same model stays chosen"
    plain_page.screenshot("without-javascript")


def test_the_form_remembers_without_javascript(plain_page: Browser):
    picture = never_seen()
    for said in ("Fresh", "Remembered"):
        choose_plainly(plain_page, picture)
        plain_page.predict()
        wait_until(lambda: plain_page.slot("memory") == said, f"the answer is marked: {said}")


def test_the_form_says_what_is_wrong_without_javascript_an_error(plain_page: Browser):
    plain_page.predict()
    wait_until(lambda: plain_page.part("#error").text == "Upload an image first!", "it says so")
    choose_plainly(plain_page, b"This is no picture.")
    plain_page.predict()
    wait_until(lambda: plain_page.part("#error").text.startswith("not a picture that is read here"), "it says so")


# ---- For everybody --------------------------------------------------------------------------------------------------


def test_everything_can_be_done_by_keyboard_and_one_always_sees_where_one_is(page: Browser):
    passed = []
    while (here := page.focused().get_attribute("id")) != "predict":
        page.press(Keys.TAB)
        focused = page.focused()
        passed.append(focused.get_attribute("id"))
        assert len(passed) < 20, passed
        seen = page.run(
            """
            const places = [arguments[0], arguments[0].closest(".drop, label")].filter(Boolean).map((e) => getComputedStyle(e));
            return places.some((style) => style.outlineStyle !== "none" || style.boxShadow !== "none");
            """,
            focused,
        )
        assert seen, f"where the keyboard is cannot be seen: {focused.get_attribute('outerHTML')[:200]}"
        if focused.get_attribute("id") == "file":
            page.choose(never_seen())
    assert passed.index("model") < passed.index("file") < passed.index("predict") == len(passed) - 1, here
    page.press(Keys.ENTER)
    page.wait_for("answer")
    assert page.slot("label") == "7"


def test_every_picture_field_and_button_has_a_name_for_screen_readers(page: Browser):
    page.choose(never_seen())
    page.predict()
    page.wait_for("answer")
    nameless = page.run(
        """
        const shown = (e) => e.checkVisibility();
        const named = (e) => e.labels?.length || e.ariaLabel || e.textContent.trim() || e.title;
        return [...document.querySelectorAll("input:not([type=hidden]), select, button, canvas, a, progress")].filter(shown)
          .filter((e) => !named(e)).concat([...document.images].filter((i) => !i.hasAttribute("alt"))).map((e) => e.outerHTML);
        """
    )
    assert nameless == []
    assert page.part("html").get_attribute("lang") == "en"
    assert len([heading for heading in page.parts("h1") if heading.is_displayed()]) == 1


@pytest.mark.parametrize("what", ["empty", "answer", "several"])
def test_a_telephone_needs_no_sideways_scrolling(page: Browser, web: Service, what: str):
    page.look(width=390, height=844)
    page.open(f"{web.url}/?model=mnist")
    if what != "empty":
        page.choose(*[never_seen() for _ in range(1 if what == "answer" else 4)])
        page.predict()
        page.wait_for(what)
    if what == "several":
        wait_until(lambda: page.part("#status").text.startswith("Finished"), "all are answered")
    page.screenshot(f"390-{what}")
    assert page.run("return document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_light_by_day_and_dark_by_night(page: Browser, web: Service, scheme: str):
    page.look(scheme=scheme)
    page.open(f"{web.url}/?model=mnist")
    page.choose(encode(seven()))
    page.predict()
    page.wait_for("answer")
    page.screenshot(scheme)
    red, green, blue = map(int, re.findall(r"\d+", page.run("return getComputedStyle(document.body).backgroundColor"))[:3])
    brightness = (red + green + blue) / 3
    assert brightness < 60 if scheme == "dark" else brightness > 200


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


def test_a_model_as_it_sees_the_picture_is_shown_at_its_own_size(web: Service):
    seen = requests.post(f"{web.url}/input/mnist", files={"image": encode(seven())}, timeout=10)
    assert Image.open(io.BytesIO(seen.content)).size == (28, 28)
