"""The page without JavaScript."""

from __future__ import annotations

import json
from typing import Iterator

import pytest

from browser import Browser
from images import new_image
from services import Service, wait_until


@pytest.fixture
def plain_page(page: Browser, web: Service) -> Iterator[Browser]:
    page.look(scripts=False)
    page.open(web.url)
    yield page
    page.look()


def choose_plainly(page: Browser, image: bytes) -> None:
    page.part("#model option[value=mnist]").click()
    page.choose(image)


def test_the_form_works_without_javascript(plain_page: Browser):
    assert not plain_page.part("#draw").is_displayed()
    assert not any(part.is_displayed() for part in plain_page.parts(".js"))
    choose_plainly(plain_page, new_image())
    plain_page.predict()
    wait_until(lambda: plain_page.part("#answer article"), "the page comes back with the answer")
    assert (plain_page.slot("label"), plain_page.slot("cache")) == ("7", "Computed")
    for image in ("uploaded", "preview"):
        assert plain_page.part(f"#answer [data-slot={image}] img").get_attribute("src").startswith("data:image/png")
    assert json.loads(plain_page.slot("json"))["label"] == "7"
    assert plain_page.part("#model").get_attribute("value") == "mnist", "the same model stays chosen"
    plain_page.screenshot("without-javascript")


def test_the_form_uses_the_cache_without_javascript(plain_page: Browser):
    image = new_image()
    for reported in ("Computed", "Cached"):
        choose_plainly(plain_page, image)
        plain_page.predict()
        wait_until(lambda: plain_page.slot("cache") == reported, f"the answer is marked: {reported}")


def test_the_form_shows_the_error_without_javascript_an_error(plain_page: Browser):
    plain_page.predict()
    wait_until(lambda: plain_page.part("#error").text == "Upload an image first!", "it is reported")
    choose_plainly(plain_page, b"This is no image.")
    plain_page.predict()
    wait_until(lambda: plain_page.part("#error").text.startswith("The image format is not supported"), "it is reported")
