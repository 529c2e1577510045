"""Attacks on the queue for jobs, against any base URL that serves mnist."""

from __future__ import annotations

import gzip
import io
import json
import os
import threading
import time
import zipfile
from typing import Callable

import requests

from images import new_image

MIB = 1 << 20
SECONDS = 12


def noise(files: int, size: int = MIB) -> bytes:
    """A ZIP of files that are called images and are none."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        for number in range(files):
            writer.writestr(f"{number}.png", os.urandom(size))
    return archive.getvalue()


def post(url: str, body: bytes, media_type: str, **headers: str) -> requests.Response | None:
    """The response, or nothing where the connection is closed."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()} | {"Content-Type": media_type}
    try:
        return requests.post(f"{url}/jobs?model=mnist", data=body, headers=headers, timeout=20)
    except requests.RequestException:
        return None


def repeatedly(attack: Callable[[], None], threads: int) -> None:
    until = time.monotonic() + SECONDS

    def run() -> None:
        while time.monotonic() < until:
            attack()

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def fill_with_noise(url: str) -> None:
    """170 MB of inputs that fail, each of which is kept for a retry."""
    for _ in range(4):
        post(url, noise(44), "application/zip")


def fill_with_small_jobs(url: str) -> None:
    """As many jobs of one image as fit into the time."""
    repeatedly(lambda: post(url, new_image(), "image/png"), 16)


def fill_with_deleted_jobs(url: str) -> None:
    """Jobs that are deleted at once: of each there stays an id."""

    def submit_and_delete() -> None:
        response = post(url, new_image(), "image/png")
        if response is not None and response.status_code in (200, 202):
            for _ in range(2):
                requests.delete(url + response.headers["Location"], timeout=20)

    repeatedly(submit_and_delete, 8)


def fill_with_results(url: str) -> None:
    """Requests that are packed into a thousandth of their length, and whose results are not."""
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 28, 28, 1], "data": [0] * 784}
    line = json.dumps({"inputs": [tensor]}).encode() + b"\n"
    body = gzip.compress(line * 10_000)
    repeatedly(lambda: post(url, body, "application/x-ndjson", Content_Encoding="gzip"), 4)


def repeat_a_large_job(url: str) -> None:
    """One job of thousands of inputs, submitted repeatedly: each repetition is a copy of all results."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        for number in range(2000):
            writer.writestr(f"{number}.png", new_image())
    body = archive.getvalue()
    repeatedly(lambda: post(url, body, "application/zip"), 4)


ATTACKS: dict[str, Callable[[str], None]] = {
    "H7 noise that fails": fill_with_noise,
    "H7 jobs of one image": fill_with_small_jobs,
    "H7 jobs that are deleted": fill_with_deleted_jobs,
    "H11 results of packed requests": fill_with_results,
    "H11 repetitions of a large job": repeat_a_large_job,
}
