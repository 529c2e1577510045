"""The page by keyboard, for screen readers, on a telephone, light and dark."""

from __future__ import annotations

import re

import pytest
from selenium.webdriver.common.keys import Keys

from browser import Browser, wait_for_job
from images import encode, new_image, seven
from services import Service, wait_until


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
            page.choose(new_image())
    assert passed.index("model") < passed.index("file") < passed.index("predict") == len(passed) - 1, here
    page.press(Keys.ENTER)
    page.wait_for("answer")
    assert page.slot("label") == "7"


@pytest.mark.parametrize("what", ["answer", "job"])
def test_every_image_field_and_button_has_a_name_for_screen_readers(page: Browser, what: str):
    page.choose(*[new_image() for _ in range({"answer": 1, "job": 13}[what])])
    page.predict()
    page.wait_for(what)
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


@pytest.mark.parametrize("what", ["empty", "answer", "several", "job"])
def test_a_telephone_needs_no_sideways_scrolling(page: Browser, web: Service, what: str):
    page.look(width=390, height=844)
    page.open(f"{web.url}/?model=mnist")
    if what != "empty":
        page.choose(*[new_image() for _ in range({"answer": 1, "several": 4, "job": 30}[what])])
        page.predict()
        page.wait_for(what)
    if what == "several":
        wait_until(lambda: page.part("#status").text.startswith("Finished"), "all are answered")
    if what == "job":
        wait_for_job(page, "Finished")
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
