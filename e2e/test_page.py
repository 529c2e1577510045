"""The page in a real browser, with and without JavaScript."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Callable, Iterator

import pytest
import requests
from PIL import Image
from selenium.webdriver.common.keys import Keys

from browser import Browser, drop
from images import encode, new_image, number, samples, seven
from services import MODELS, ROOT, Redis, Service, wait_until


@pytest.fixture(scope="module")
def web(spawn_shared: Callable[..., Service], model_api: Service) -> Service:
    return spawn_shared("web_api", APP_TYPE="ui", MODEL_API_URL=model_api.url)


@pytest.fixture
def page(chromium: Browser, web: Service, request: pytest.FixtureRequest) -> Iterator[Browser]:
    """The page of the digit reader; nothing on it may make the browser complain."""
    chromium.look()
    chromium.open(f"{web.url}/?model=mnist")
    yield chromium
    complaints = chromium.complaints()
    if "an_error" in request.node.name:
        # Such a test expects an error of the server, which the browser logs.
        complaints = [each for each in complaints if not re.search(r"network: .* the server responded with a status of 4", each)]
    assert complaints == []


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
    assert re.fullmatch(r"curl -F image=@picture-0\.png http://127\.0\.0\.1:\d+/predict/mnist", page.slot("curl"))
    for image in ("uploaded", "preview"):
        shown = page.part(f"#answer [data-slot={image}] img")
        wait_until(lambda: int(shown.get_property("naturalWidth")) > 0, f"the picture as {image} is shown")
    assert page.part("#status").text.startswith("7, ")

    page.predict()
    wait_until(lambda: page.slot("cache").startswith("Cached"), "it is remembered")


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


# ---- Jobs -----------------------------------------------------------------------------------------------------------

DAMAGED = encode(seven())[:-40]


def zipped(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as folder:
        for name, content in files.items():
            folder.writestr(name, content)
    return archive.getvalue()


def sevens(number: int) -> dict[str, bytes]:
    return {f"seven-{place}.png": new_image() for place in range(number)}


def job_shows(page: Browser, slot: str) -> str:
    return page.part(f"#job [data-slot={slot}]").get_attribute("textContent")


def wait_for_job(page: Browser, status: str) -> None:
    page.wait_for("job")
    wait_until(lambda: job_shows(page, "status") == status, f"the job is: {status}", 30)


def table(page: Browser) -> list[tuple[str, str, str]]:
    """State, name and label of each row."""
    return [
        tuple(row)
        for row in page.run(
            """
            const text = (row, part) => row.querySelector(part).textContent;
            return [...document.querySelectorAll("#job tbody tr")].map((r) => [r.dataset.state, text(r, "th span"), text(r, "strong")]);
            """
        )
    ]


def downloaded(page: Browser) -> list[dict[str, str]]:
    answer = requests.get(page.part("#job [data-slot=csv]").get_property("href"), timeout=10)
    assert answer.headers["Content-Disposition"].startswith("attachment")
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_a_zip_becomes_a_job_with_a_table_and_a_csv_and_a_reload_shows_them_again(page: Browser):
    shipped = {sample.name: sample for sample in samples("mnist")}
    page.choose_files({"digits.zip": zipped({"damaged.png": DAMAGED} | {name: one.image for name, one in shipped.items()})})
    page.predict()
    wait_for_job(page, "Some failed")
    everything = len(shipped) + 1
    wait_until(lambda: len(table(page)) == everything, "every result has its row")
    seen = table(page)
    assert seen[0] == ("failed", "damaged.png", ""), "somebody has to look at it, so it comes first"
    assert "damaged or truncated" in page.part("#job tr[data-state=failed] small").text
    assert seen[1:] == [("answered", name, sample.label) for name, sample in shipped.items()]
    assert job_shows(page, "name") == "digits.zip"
    assert job_shows(page, "progress-label") == f"{everything} of {everything} images · 1 failed"
    assert [float(page.part("#job-progress").get_property(name)) for name in ("value", "max")] == [everything] * 2
    assert job_shows(page, "facts").endswith("in this process only")
    wait_until(lambda: page.part("#status").text == f"Finished: {len(shipped)} of {everything} succeeded.", "it is announced")

    rows = {row["name"]: row for row in downloaded(page)}
    assert {name: row["label"] for name, row in rows.items() if row["status"] == "succeeded"} == {
        name: sample.label for name, sample in shipped.items()
    }
    assert rows["damaged.png"]["status"] == "failed" and rows["damaged.png"]["error"]

    page.open(page.chrome.current_url)
    wait_for_job(page, "Some failed")
    wait_until(lambda: table(page) == seen, "the same table is there again")
    assert job_shows(page, "name") == "digits.zip"
    page.screenshot("job")


def test_what_failed_can_be_tried_again(page: Browser, web: Service):
    page.choose_files({"digits.zip": zipped({"damaged.png": DAMAGED, "seven.png": new_image()})})
    page.predict()
    wait_for_job(page, "Some failed")
    job = re.search(r"job=(\w+)", page.chrome.current_url)[1]

    def runs() -> int:
        return requests.get(f"{web.url}/jobs/{job}", timeout=10).json()["runs"]

    before = runs()
    page.part("#job [data-slot=retry]").click()
    wait_until(lambda: runs() == before + 1, "the damaged one, and no other, has been begun once more")
    wait_for_job(page, "Some failed")
    wait_until(lambda: len(table(page)) == 2, "both are shown again")
    assert page.part("#error").text == ""


@pytest.mark.parametrize("how", ["choose", "drop"])
def test_a_folder_becomes_a_job_of_its_images_under_their_paths(page: Browser, how: str):
    folder = {"a/1.png": new_image(), "a/2.png": new_image(), "10.png": new_image(), "notes.txt": b"7 7 7", ".hidden.png": b"?"}
    (page.choose_folder if how == "choose" else page.drop_folder)(folder)
    wait_until(lambda: page.focused().get_attribute("id") == "predict", "the pictures are chosen")
    assert len(page.parts("#chosen img")) == 3
    page.press(Keys.ENTER)
    wait_for_job(page, "Finished")
    wait_until(lambda: len(table(page)) == 3, "every result has its row")
    assert table(page) == [("answered", f"pictures/{name}", "7") for name in ("10.png", "a/1.png", "a/2.png")]
    assert job_shows(page, "name") == "pictures"
    assert "2 files skipped (pictures/.hidden.png, pictures/notes.txt)" in job_shows(page, "facts")


def test_many_images_are_a_job_of_which_some_hundreds_are_shown(page: Browser):
    page.choose_files({f"{number}.png": encode(seven()) for number in range(320)})
    page.predict()
    wait_for_job(page, "Finished")
    wait_until(lambda: job_shows(page, "more") == "And 120 more in the CSV.", "it says how many are not shown")
    assert len(table(page)) == 200
    assert job_shows(page, "name") == "320 images"
    assert len(downloaded(page)) == 320


@pytest.fixture
def web_without_workers(spawn_shared: Callable[..., Service], model_api: Service) -> Service:
    """Without workers: only cached inputs of jobs end."""
    settings = {"APP_TYPE": "ui", "MODEL_API_URL": model_api.url, "JOB_CONCURRENCY": 0, "MAX_JOB_INPUTS": 20}
    return spawn_shared("web_api", **settings)


def test_a_reload_in_the_middle_shows_how_far_it_is_and_it_can_be_cancelled(page: Browser, web_without_workers: Service):
    url = web_without_workers.url
    images = sevens(15)
    known = list(images)[:6]
    for name in known:
        assert requests.post(f"{url}/predict/mnist", files={"image": images[name]}, timeout=10).status_code == 200
    page.open(f"{url}/?model=mnist")
    page.choose_files(images)
    page.predict()
    for _ in range(2):
        wait_for_job(page, "Waiting")
        wait_until(lambda: [name for _, name, _ in table(page)] == known, "what is remembered is shown")
        assert job_shows(page, "progress-label") == "6 of 15 images"
        assert float(page.part("#job-progress").get_property("value")) == 6
        assert job_shows(page, "csv") == "CSV so far" and len(downloaded(page)) == 6
        page.open(page.chrome.current_url)
    wait_for_job(page, "Waiting")
    page.part("#job [data-slot=cancel]").click()
    wait_for_job(page, "Cancelled")
    assert page.focused().get_attribute("id") == "result-heading"
    assert not page.part("#job [data-slot=cancel]").is_displayed()
    wait_until(lambda: page.part("#jobs .pill").text == "Cancelled", "the list says so, too")


def test_the_page_finds_back_to_a_job_when_the_server_is_started_anew(
    page: Browser, spawn: Callable[..., Service], start_redis: Callable[[], Redis], model_api: Service
):
    settings = {"APP_TYPE": "ui", "MODEL_API_URL": model_api.url, "REDIS_URL": start_redis().url, "JOB_CONCURRENCY": 0}
    web = spawn("web_api", **settings)
    page.open(f"{web.url}/?model=mnist")
    page.choose_files(sevens(15))
    page.predict()
    wait_for_job(page, "Waiting")
    assert "this process" not in job_shows(page, "facts")
    web.terminate()
    wait_until(lambda: "reconnecting" in job_shows(page, "progress-label"), "the page notices")
    web.environment["JOB_CONCURRENCY"] = "1"
    web.start().wait_ready()
    wait_for_job(page, "Finished")
    wait_until(lambda: len(table(page)) == 15, "every result has its row")
    page.complaints()  # of the connection that broke off


def test_an_error_of_the_server_to_a_job_is_shown_in_its_words(page: Browser, web_without_workers: Service):
    page.open(f"{web_without_workers.url}/?model=mnist")
    page.choose_files(sevens(21))
    page.predict()
    page.wait_for("failed")
    assert page.part("#error").text.startswith("21 or more inputs are too many for one job; the maximum is 20")
    page.choose_files({"pictures.zip": b"This is no archive."})
    page.predict()
    wait_until(lambda: "is not a format for the inputs of a job" in page.part("#error").text, "it says so")
    assert not page.part("#jobs").is_displayed()


def test_what_is_sent_once_more_is_not_called_fresh(page: Browser):
    archive = zipped(sevens(3))
    for reported in ("Computed", "Cached"):
        page.choose_files({"sevens.zip": archive})
        page.predict()
        wait_until(lambda: [row.text.split(" · ")[0] for row in page.parts("#job tbody th small")] == [reported] * 3, reported)


def test_the_list_keeps_this_browsers_jobs_until_they_expire_an_error(page: Browser, spawn: Callable[..., Service], model_api: Service):
    web = spawn("web_api", APP_TYPE="ui", MODEL_API_URL=model_api.url, JOB_TTL_S=10)
    page.open(f"{web.url}/?model=mnist")
    for name in ("one.zip", "two.zip"):
        page.choose_files({name: zipped(sevens(2))})
        page.predict()
        wait_for_job(page, "Finished")
    links = [link.text for link in page.parts("#jobs li a")]
    assert links == ["two.zip", "one.zip"], "the newest first"
    wait_until(lambda: page.part("#jobs li small + small, #jobs li > small").text == "2 of 2", "with its counts")
    page.part("#jobs li:last-child a").click()
    wait_until(lambda: job_shows(page, "name") == "one.zip", "it is opened")
    wait_for_job(page, "Finished")
    page.parts("#jobs li button")[0].click()
    assert [link.text for link in page.parts("#jobs li a")] == ["one.zip"], "the other has been removed"
    job = re.search(r"job=(\w+)", page.chrome.current_url)[1]
    wait_until(lambda: requests.get(f"{web.url}/jobs/{job}", timeout=10).status_code == 410, "it has expired", 40)
    page.open(page.chrome.current_url)
    wait_until(lambda: page.part("#error").text == "The job has expired or was deleted, and its results with it.", "it says so")
    assert not page.part("#jobs").is_displayed()
    assert "job=" not in page.chrome.current_url


# ---- Errors ---------------------------------------------------------------------------------------------------------


def test_without_an_image_it_requests_upload_an_image_first(page: Browser):
    page.predict()
    page.wait_for("failed")
    assert page.part("#error").text == "Upload an image first!"


def test_an_error_of_the_server_is_shown_in_its_words(page: Browser):
    page.choose(b"This is no picture.")
    page.predict()
    page.wait_for("failed")
    assert page.part("#error").text.startswith("The image format is not supported: it must be PNG, JPEG")
    assert page.part("#error").get_attribute("role") == "alert"


def test_an_error_among_several_files_leaves_the_others_answered(page: Browser):
    page.choose(new_image(), b"This is no picture.", new_image())
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


# ---- Without JavaScript ---------------------------------------------------------------------------------------------


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
    wait_until(lambda: plain_page.part("#error").text == "Upload an image first!", "it says so")
    choose_plainly(plain_page, b"This is no picture.")
    plain_page.predict()
    wait_until(lambda: plain_page.part("#error").text.startswith("The image format is not supported"), "it says so")


# ---- Accessibility --------------------------------------------------------------------------------------------------


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
