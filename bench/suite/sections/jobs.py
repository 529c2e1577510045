"""Jobs beside interactive requests: both for the same model, alone and together; a repeated job; and jobs beside one that crashes.

Interactive requests have a fixed rate, two tenths of that of 16 connections alone, so that they are affected by the jobs and
not by each other. The queue is refilled before it is empty.
"""

from __future__ import annotations

import io
import itertools
import json
import shutil
import statistics
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable

from ..graphs import write_division
from ..load import run_load
from ..paths import SAMPLES, STATE, Effort
from ..processes import Redis, Stack, running

# Inputs of a job that fills the queue, and how many must wait at least.
FULL, LEAST = 5000, 2000

# Of 64 bits.
SMALLEST = -(2**63)


def run(effort: Effort) -> dict:
    redis = Redis()
    with running(redis):
        redis.start()
        with Stack(web={"REDIS_URL": redis.url}) as ours:
            found = beside_interactive(ours, effort) | {"again": again(ours, 3 if effort.quick else 7)}
        folder = STATE / "models"
        shutil.rmtree(folder, ignore_errors=True)
        write_division(folder / "division")
        with Stack(model="division", models=folder, web={"REDIS_URL": redis.url}) as ours:
            return found | {"killer": beside_a_killer(ours, effort)}


def beside_interactive(ours: Stack, effort: Effort) -> dict:
    spell = 3 if effort.quick else 10
    options = {"cache": "miss", "warm_up": 0.5}
    closed = run_load(ours.address, **options, connections=16, seconds=spell)
    rate = round(closed["per_second"] * 0.2)
    interactive, jobs, together = [], [], []
    for number in range(effort.rounds):
        interactive.append(run_load(ours.address, **options, connections=64, rate=rate, seconds=spell, seed=1000 + number))
        with Queue(ours, lambda: submit(ours, FULL)) as queue:
            time.sleep(0.5)
            jobs.append(queue.pace(lambda: time.sleep(spell)))
            both = []
            pace = queue.pace(
                lambda: both.append(
                    run_load(ours.address, **options, connections=64, rate=rate, seconds=spell, seed=2000 + number)
                )
            )
            together.append({"interactive": both[0], "jobs": pace})
        print(
            f"  interactive p99 {interactive[-1]['latency_us']['p99']:.0f} → {both[0]['latency_us']['p99']:.0f} µs, jobs {jobs[-1]:.0f} → {pace:.0f}/s",
            flush=True,
        )

    def middle(runs: list[dict], which: str) -> float:
        return statistics.median(run["latency_us"][which] for run in runs)

    beside = [each["interactive"] for each in together]
    return {
        "rate": rate,
        "closed": closed["per_second"],
        "alone": {which: middle(interactive, which) for which in ("p50", "p99")},
        "beside": {which: middle(beside, which) for which in ("p50", "p99")},
        "refused": sum(sum(n for status, n in run["statuses"].items() if status != "200") for run in beside),
        "jobs alone": statistics.median(jobs),
        "jobs beside": statistics.median(each["jobs"] for each in together),
    }


class Queue:
    """Never empty while this is open."""

    def __init__(self, ours: Stack, another: Callable[[], dict]):
        self.ours, self.another, self.jobs, self.is_open = ours, another, [], True
        self.filler = threading.Thread(target=self.fill)

    def __enter__(self) -> Queue:
        self.jobs.append(self.another()["id"])
        self.filler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_open = False
        self.filler.join()
        for job in self.jobs:
            send(self.ours, f"/jobs/{job}", method="DELETE")

    def fill(self) -> None:
        while self.is_open:
            last = send(self.ours, f"/jobs/{self.jobs[-1]}?limit=1")
            if last["total"] - last["done"] < LEAST:
                self.jobs.append(self.another()["id"])
            time.sleep(0.1)

    def done(self) -> int:
        return sum(send(self.ours, f"/jobs/{job}?limit=1")["done"] for job in self.jobs)

    def pace(self, meanwhile: Callable[[], object]) -> float:
        before, begun = self.done(), time.monotonic()
        meanwhile()
        return (self.done() - before) / (time.monotonic() - begun)


def again(ours: Stack, rounds: int) -> dict:
    """A thousand digits, from the request to the end of the job; and the same once more."""
    first, second = [], []
    for _ in range(rounds):
        archive = pack(1000)
        for seconds in (first, second):
            begun = time.monotonic()
            job = post(ours, archive)
            while not job["finished"]:
                time.sleep(0.005)
                job = send(ours, f"/jobs/{job['id']}?limit=1")
            seconds.append(time.monotonic() - begun)
            assert job["status"] == "succeeded", job
    return {"first_s": statistics.median(first), "second_s": statistics.median(second)}


def beside_a_killer(ours: Stack, effort: Effort) -> dict:
    """Jobs of divisions, while another has one that kills its session: how fast they go on, and when that one has ended."""
    spell = 3 if effort.quick else 5
    numbers = itertools.count(1)
    took, ratios, kills = [], [], itertools.count(1)

    def divisions() -> dict:
        return divide(ours, [([next(numbers), 1], [1, 1]) for _ in range(FULL)])

    def kill() -> None:
        begun = time.monotonic()
        # Another one each time: what has killed once is not run again.
        job = divide(ours, [([SMALLEST, next(kills)], [-1, 1])])
        while not job["finished"]:
            time.sleep(0.02)
            job = send(ours, f"/jobs/{job['id']}")
        took.append(time.monotonic() - begun)
        assert job["results"][0]["error"]["status"] == 500, job
        time.sleep(max(0.0, begun + spell - time.monotonic()))

    with Queue(ours, divisions) as queue:
        time.sleep(1)
        for _ in range(effort.rounds):
            alone = queue.pace(lambda: time.sleep(spell))
            beside = queue.pace(kill)
            ratios.append(beside / alone)
            print(f"  beside a killer {alone:.0f} → {beside:.0f}/s, it ended after {took[-1]:.2f} s", flush=True)
    return {"seconds": spell, "ratio": statistics.median(ratios), "ratios": ratios, "took_s": statistics.median(took)}


def divide(ours: Stack, pairs: list[tuple[list[int], list[int]]]) -> dict:
    def tensor(name: str, row: list[int]) -> dict:
        return {"name": name, "datatype": "INT64", "shape": [1, 2], "data": row}

    lines = (json.dumps({"inputs": [tensor("a", a), tensor("b", b)]}) for a, b in pairs)
    return send(ours, "/jobs?model=division", "\n".join(lines).encode(), "POST", "application/x-ndjson")


def pack(count: int) -> bytes:
    """Digits that no cache contains: each file has other bytes behind its end."""
    digits = [(SAMPLES / f"digit-{digit}.png").read_bytes() for digit in range(10)]
    archive, stamp = io.BytesIO(), time.time_ns()
    with zipfile.ZipFile(archive, "w") as writer:
        for number in range(count):
            writer.writestr(f"{number}.png", digits[number % 10] + f"{stamp}-{number}".encode())
    return archive.getvalue()


def submit(ours: Stack, count: int) -> dict:
    return post(ours, pack(count))


def post(ours: Stack, archive: bytes) -> dict:
    return send(ours, "/jobs?model=mnist", archive, "POST")


def send(
    ours: Stack, path: str, body: bytes | None = None, method: str = "GET", media_type: str = "application/zip"
) -> dict:
    headers = {"Content-Type": media_type} if body else {}
    request = urllib.request.Request(f"http://{ours.address}{path}", body, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
