"""The page shows which models are available, also while they change."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Callable, Iterator

import pytest

from browser import Browser
from images import new_image
from services import MODELS, Service, wait_until

Spawn = Callable[..., Service]


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    chromium.look()
    yield chromium
    chromium.look()
    chromium.complaints()  # of routes that return 503 for a while


@pytest.fixture
def with_broken(tmp_path: Path) -> Path:
    """A folder of two models, of which one is broken."""
    shutil.copytree(MODELS / "mnist", tmp_path / "models" / "mnist")
    (tmp_path / "models" / "broken").mkdir()
    (tmp_path / "models" / "broken" / "model.onnx").write_bytes(b"This is no graph.")
    return tmp_path / "models"


def facts(page: Browser, model: str) -> str:
    return page.part(f"[data-about={model}] .facts li").text


def test_a_stopped_model_server_is_named_before_and_after_an_image_is_sent(browser: Browser, spawn: Spawn):
    model = spawn("model_api")
    web = spawn("web_api", APP_TYPE="ui", MODEL_API_URL=model.url)
    browser.open(web.url)
    assert facts(browser, "mnist") == "Ready"
    known = new_image()
    browser.choose(known)
    browser.predict()
    browser.wait_for("answer")
    model.kill()

    wait_until(lambda: facts(browser, "mnist") == "Model server not reachable", "the open page notices", 15)
    assert browser.part("[data-about=mnist] .error").text.startswith("The model server does not respond.")
    browser.predict()
    browser.wait_for("answer")
    assert browser.slot("cache").startswith("Cached"), "cached results are still given"
    browser.choose(new_image())
    browser.predict()
    wait_until(lambda: "The model server is unreachable" in browser.part("#status").text, "the reason is shown, not that the server is busy")
    browser.screenshot("model-server-stopped")
    browser.open(web.url)
    assert facts(browser, "mnist") == "Model server not reachable", "a page that is opened now says the same"

    model.start().wait_ready()
    wait_until(lambda: facts(browser, "mnist") == "Ready", "and so does its return", 15)
    assert browser.parts("[data-about=mnist] .error") == []


@pytest.mark.parametrize("scripts", [True, False])
def test_the_form_of_a_broken_model_is_disabled_with_the_reason(browser: Browser, spawn: Spawn, with_broken: Path, scripts: bool):
    shutil.rmtree(with_broken / "mnist")
    model = spawn("model_api", MODEL_NAME="all", MODELS_DIR=with_broken, wait=False)
    web = spawn("web_api", APP_TYPE="ui", MODEL_API_URL=model.url, wait=False)
    wait_until(lambda: web.health().json()["models"], "the broken model is listed", 30)
    browser.look(scripts=scripts)
    browser.open(web.url)
    assert browser.part("[data-about=broken] .error").text.startswith("This model cannot be used: ")
    assert not browser.part("#predict").is_enabled() and not browser.part("#file").is_enabled()
    browser.screenshot(f"broken-model-{'with' if scripts else 'without'}-javascript")


def test_beside_a_broken_model_the_others_are_usable_and_a_repair_is_noticed(browser: Browser, spawn: Spawn, with_broken: Path):
    model = spawn("model_api", MODEL_NAME="all", MODELS_DIR=with_broken, wait=False)
    web = spawn("web_api", APP_TYPE="ui", MODEL_API_URL=model.url, wait=False)
    wait_until(lambda: len(web.health().json()["models"]) == 2 and "READY" in web.health().text, "mnist is ready", 30)
    browser.open(f"{web.url}/?model=broken")
    assert not browser.part("#predict").is_enabled()
    browser.run("const m = document.getElementById('model'); m.value = 'mnist'; m.dispatchEvent(new Event('change'))")
    assert browser.part("#predict").is_enabled()
    browser.choose(new_image())
    browser.predict()
    browser.wait_for("answer")
    assert browser.slot("label") == "7"
    browser.run("const m = document.getElementById('model'); m.value = 'broken'; m.dispatchEvent(new Event('change'))")
    repaired = with_broken / "broken" / "model.new"
    shutil.copy(next(MODELS.glob("mnist/**/model.onnx")), repaired)
    repaired.rename(with_broken / "broken" / "model.onnx")
    wait_until(lambda: facts(browser, "broken") == "Ready", "the repair is shown", 30)
    assert browser.part("#predict").is_enabled()
