"""The memory of the native web_api under attack: it stays below the sum of its bounds, others are answered, and it comes back."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Callable

import pytest
import requests
from requests.adapters import HTTPAdapter

from attacks_memory import ATTACKS, MIB, TIMEOUT, long_names, post, stalled
from images import new_image
from services import Redis, Service, wait_until

# The sum of web_api's bounds (web_api::memory_bound) with Redis, as docker-compose.yml allows it; without Redis 256 MiB of jobs beside.
LIMIT_WITH_REDIS = 768 * MIB
LIMIT = LIMIT_WITH_REDIS + 256 * MIB

# Lifetime of the tests' jobs, seconds.
JOB_TTL = 2


@pytest.fixture(scope="module")
def web(spawn_shared: Callable[..., Service], model_api: Service) -> Service:
    return spawn_shared("web_api", APP_TYPE="cli", MODEL_API_URL=model_api.url, JOB_TTL_S=JOB_TTL)


def status(service: Service, field: str) -> int:
    """`VmRSS` or `VmHWM` of a service, bytes."""
    text = Path(f"/proc/{service.pid}/status").read_text()
    return int(re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)[1]) << 10


def reset_the_peak(service: Service) -> None:
    Path(f"/proc/{service.pid}/clear_refs").write_text("5")


class Other:
    """A client at another address, which sends an image every now and then."""

    def __init__(self, url: str):
        self.url, self.statuses = url, []
        self.session = requests.Session()
        self.session.mount("http://", FromAddress("127.0.0.2"))
        self._stop = threading.Event()
        self._running = threading.Thread(target=self._run)

    def send(self, image: bytes) -> int:
        headers = {"Content-Type": "image/png"}
        return self.session.post(f"{self.url}/predict/mnist", data=image, headers=headers, timeout=TIMEOUT).status_code

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            self.statuses.append(self.send(new_image()))

    def __enter__(self) -> "Other":
        self._running.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._running.join()


class FromAddress(HTTPAdapter):
    def __init__(self, address: str):
        self.address = address
        super().__init__()

    def init_poolmanager(self, *args: object, **options: object) -> None:
        super().init_poolmanager(*args, source_address=(self.address, 0), **options)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_stays_within_the_bounds_and_others_are_answered(web: Service, name: str):
    reset_the_peak(web)
    with Other(web.url) as other:
        ATTACKS[name](web.url)
    peak = status(web, "VmHWM")
    print(f"{name}: VmHWM {peak // MIB} MiB, VmRSS {status(web, 'VmRSS') // MIB} MiB")
    assert peak <= LIMIT
    assert other.statuses and set(other.statuses) == {200}


def test_the_memory_comes_back(web: Service):
    # Threads, tables and the cache are there after a first round.
    ATTACKS["H5 packed bodies of sixteen clients"](web.url)
    wait_until(lambda: status(web, "VmRSS") < 200 * MIB, "the first round is over", 60)
    time.sleep(JOB_TTL)
    before = status(web, "VmRSS")
    for name in ("H2 twelve archives in one form", "H3 a list of millions", "W5 a ZIP of 1.2 million entries"):
        ATTACKS[name](web.url)
    wait_until(lambda: status(web, "VmRSS") <= before * 1.1 + 16 * MIB, f"at most a tenth above {before >> 20} MiB", 60)


def test_stalled_uploads_leave_room_for_other_addresses_and_end_soon(web: Service):
    uploads = stalled(web.url, 4, "127.0.0.3")
    try:
        begun = time.monotonic()
        # An image that cannot be read: it is taken, and refused by the model.
        assert Other(web.url).send(b"\x89PNG\r\n\x1a\n" + bytes(3 * MIB)) == 422
        assert time.monotonic() - begun < 5, "it was not kept waiting by those that stall"
        reported = [upload.recv(64) for upload in uploads]
        assert all(b" 408 " in words or b" 503 " in words or not words for words in reported), reported
        assert any(b" 408 " in words for words in reported), reported
    finally:
        for upload in uploads:
            upload.close()


def test_listeners_of_one_job_cost_one_poll(spawn: Callable[..., Service], model_api: Service, redis: Redis):
    web = spawn("web_api", MODEL_API_URL=model_api.url, REDIS_URL=redis.url, JOB_CONCURRENCY=0)
    job = post(web.url, "/jobs?model=mnist", long_names(5), "application/zip").json()["id"]

    def calls() -> int:
        return int(re.search(r"^total_commands_processed:(\d+)", redis.execute("INFO", "stats"), re.MULTILINE)[1])

    def listen() -> requests.Response:
        stream = requests.get(f"{web.url}/jobs/{job}/events", stream=True, timeout=TIMEOUT)
        assert next(stream.iter_lines()), "the job's first event"
        return stream

    def calls_in_two_seconds() -> int:
        before = calls()
        time.sleep(2)
        return calls() - before

    streams = [listen()]
    one = calls_in_two_seconds()
    streams += [listen() for _ in range(99)]
    hundred = calls_in_two_seconds()
    for stream in streams:
        stream.close()
    print(f"commands in two seconds: {one} with one listener, {hundred} with a hundred")
    # Ten looks a second, and what the service does beside.
    assert hundred <= one + 30
