"""Jobs on the page: archives, folders, many images, reloads and the list of jobs."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from typing import Callable

import pytest
import requests
from selenium.webdriver.common.keys import Keys

from browser import Browser, job_shows, wait_for_job
from images import encode, new_image, samples, seven
from services import Redis, Service, wait_until

DAMAGED = encode(seven())[:-40]


def zipped(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as folder:
        for name, content in files.items():
            folder.writestr(name, content)
    return archive.getvalue()


def sevens(number: int) -> dict[str, bytes]:
    return {f"seven-{place}.png": new_image() for place in range(number)}


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
    assert seen[0] == ("failed", "damaged.png", ""), "a failed input needs attention, so it comes first"
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
    wait_until(lambda: page.focused().get_attribute("id") == "predict", "the images are chosen")
    assert len(page.parts("#chosen img")) == 3
    page.press(Keys.ENTER)
    wait_for_job(page, "Finished")
    wait_until(lambda: len(table(page)) == 3, "every result has its row")
    assert table(page) == [("answered", f"images/{name}", "7") for name in ("10.png", "a/1.png", "a/2.png")]
    assert job_shows(page, "name") == "images"
    assert "2 files skipped (images/.hidden.png, images/notes.txt)" in job_shows(page, "facts")


def test_many_images_are_a_job_of_which_some_hundreds_are_shown(page: Browser):
    page.choose_files({f"{number}.png": encode(seven()) for number in range(320)})
    page.predict()
    wait_for_job(page, "Finished")
    wait_until(lambda: job_shows(page, "more") == "And 120 more in the CSV.", "the number of rows that are not shown is reported")
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
        wait_until(lambda: [name for _, name, _ in table(page)] == known, "cached results are shown")
        assert job_shows(page, "progress-label") == "6 of 15 images"
        assert float(page.part("#job-progress").get_property("value")) == 6
        assert job_shows(page, "csv") == "CSV so far" and len(downloaded(page)) == 6
        page.open(page.chrome.current_url)
    wait_for_job(page, "Waiting")
    page.part("#job [data-slot=cancel]").click()
    wait_for_job(page, "Cancelled")
    assert page.focused().get_attribute("id") == "result-heading"
    assert not page.part("#job [data-slot=cancel]").is_displayed()
    wait_until(lambda: page.part("#jobs .pill").text == "Cancelled", "the list shows it as well")


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
    page.choose_files({"images.zip": b"This is no archive."})
    page.predict()
    wait_until(lambda: "is not a format for the inputs of a job" in page.part("#error").text, "it is reported")
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
    wait_until(lambda: page.part("#error").text == "The job has expired or was deleted, and its results with it.", "it is reported")
    assert not page.part("#jobs").is_displayed()
    assert "job=" not in page.chrome.current_url
