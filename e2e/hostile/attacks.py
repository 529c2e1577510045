"""All attacks of this folder, and a client that checks every response while they run.

Each `attacks_TOPIC.py` has a dict `ATTACKS`: a name, and a function of a base URL that sends the attack and returns within about 20 s.
"""

from __future__ import annotations

import importlib
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import requests

from images import encode, reopened, samples

Attack = Callable[[str], None]

# How far two computations of one image may be apart: results of batches differ in the last bits.
TOLERANCE = 1e-4

# What the threads of one client wait between two requests, s: steady traffic that the machine serves with ease.
PAUSE = 0.05


def all_attacks() -> dict[str, Attack]:
    """The attacks of every topic, in the order of their names."""
    found: dict[str, Attack] = {}
    for file in sorted(Path(__file__).parent.glob("attacks_*.py")):
        found |= importlib.import_module(file.stem).ATTACKS
    return found


def distinct_images(count: int, seed: int) -> list[bytes]:
    """Images of digits with noise, no two alike."""
    noise = random.Random(seed)
    digits = [reopened(sample.image).convert("L") for sample in samples("mnist") if sample.name.startswith("digit-")]
    made = []
    for number in range(count):
        image = digits[number % len(digits)].copy()
        for _ in range(12):
            image.putpixel((noise.randrange(image.width), noise.randrange(image.height)), noise.randrange(256))
        made.append(encode(image))
    return made


def probabilities(response: requests.Response) -> list[float]:
    return [each["value"] for each in response.json()["probabilities"]]


@dataclass
class Record:
    """What a client saw."""

    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    refused: int = 0
    failed: list[str] = field(default_factory=list)

    def p99_ms(self) -> float:
        ordered = sorted(self.seconds)
        return 1e3 * ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] if ordered else 0.0


class Client:
    """Sends images whose results are known, from several threads, with a cache and past it, and compares each result."""

    def __init__(self, url: str, images: int = 100, threads: int = 4, seed: int = 1):
        self.url, self.threads = url, threads
        self.images = distinct_images(images, seed)
        # Computed while nothing else runs, and neither cached nor taken from the cache.
        self.expected = [probabilities(self.send(requests.Session(), image, "no-store")) for image in self.images]
        self.record = Record()
        self._stopping = threading.Event()
        self._running: list[threading.Thread] = []

    def send(self, session: requests.Session, image: bytes, cache_control: str) -> requests.Response:
        headers = {"Content-Type": "image/png", "Cache-Control": cache_control}
        return session.post(f"{self.url}/predict/mnist", data=image, headers=headers, timeout=60)

    def __enter__(self) -> "Client":
        self.record = Record()
        self._stopping.clear()
        self._running = [threading.Thread(target=self._run, args=(number,)) for number in range(self.threads)]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._running:
            thread.join()

    def _run(self, seed: int) -> None:
        choose, session = random.Random(seed), requests.Session()
        while not self._stopping.is_set():
            number = choose.randrange(len(self.images))
            self._check(session, number, choose.choice(["no-cache", "max-age=3600"]))
            time.sleep(PAUSE)

    def _check(self, session: requests.Session, number: int, cache_control: str) -> None:
        begun = time.monotonic()
        try:
            response = self.send(session, self.images[number], cache_control)
        except requests.RequestException as error:
            self.record.failed.append(repr(error))
            return
        self.record.seconds.append(time.monotonic() - begun)
        if response.status_code == 503 and response.headers.get("Retry-After"):
            self.record.refused += 1
        elif response.status_code != 200:
            self.record.failed.append(f"{response.status_code} {response.text[:200]}")
        elif max(abs(a - b) for a, b in zip(probabilities(response), self.expected[number], strict=True)) > TOLERANCE:
            self.record.wrong.append(f"image {number}, {cache_control}")
