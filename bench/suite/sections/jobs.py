"""Jobs beside people: both at the same model, alone and together; and the same job once more.

People ask at a fixed rate, two tenths of what 16 connections get when they are alone, so that what the jobs do to them shows and
not what they do to each other. The queue is filled anew before it is empty.
"""

from __future__ import annotations

import io
import json
import statistics
import threading
import time
import urllib.request
import zipfile

from ..load import run_load
from ..place import SAMPLES, Effort
from ..processes import Redis, Stack, running

# Inputs of a job that fills the queue, and how many must wait at least.
FULL, LEAST = 5000, 2000


def run(effort: Effort) -> dict:
    redis = Redis()
    with running(redis):
        redis.start()
        with Stack(web={"REDIS_URL": redis.url}) as ours:
            return beside_people(ours, effort) | {"again": again(ours, 3 if effort.quick else 7)}


def beside_people(ours: Stack, effort: Effort) -> dict:
    spell = 3 if effort.quick else 10
    asked = {"memory": "miss", "warm_up": 0.5}
    closed = run_load(ours.address, **asked, connections=16, seconds=spell)
    rate = round(closed["per_second"] * 0.2)
    people, jobs, together = [], [], []
    for number in range(effort.rounds):
        people.append(run_load(ours.address, **asked, connections=64, rate=rate, seconds=spell, seed=1000 + number))
        with Queue(ours) as queue:
            time.sleep(0.5)
            jobs.append(queue.pace(lambda: time.sleep(spell)))
            both = []
            pace = queue.pace(
                lambda: both.append(
                    run_load(ours.address, **asked, connections=64, rate=rate, seconds=spell, seed=2000 + number)
                )
            )
            together.append({"people": both[0], "jobs": pace})
        print(
            f"  people p99 {people[-1]['latency_us']['p99']:.0f} → {both[0]['latency_us']['p99']:.0f} µs, jobs {jobs[-1]:.0f} → {pace:.0f}/s",
            flush=True,
        )

    def middle(runs: list[dict], which: str) -> float:
        return statistics.median(run["latency_us"][which] for run in runs)

    beside = [each["people"] for each in together]
    return {
        "rate": rate,
        "closed": closed["per_second"],
        "alone": {which: middle(people, which) for which in ("p50", "p99")},
        "beside": {which: middle(beside, which) for which in ("p50", "p99")},
        "refused": sum(sum(n for status, n in run["statuses"].items() if status != "200") for run in beside),
        "jobs alone": statistics.median(jobs),
        "jobs beside": statistics.median(each["jobs"] for each in together),
    }


class Queue:
    """Never empty while this is open."""

    def __init__(self, ours: Stack):
        self.ours, self.jobs, self.is_open = ours, [], True
        self.filler = threading.Thread(target=self.fill)

    def __enter__(self) -> Queue:
        self.jobs.append(submit(self.ours, FULL)["id"])
        self.filler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_open = False
        self.filler.join()
        for job in self.jobs:
            ask(self.ours, f"/jobs/{job}", method="DELETE")

    def fill(self) -> None:
        while self.is_open:
            last = ask(self.ours, f"/jobs/{self.jobs[-1]}?limit=1")
            if last["total"] - last["done"] < LEAST:
                self.jobs.append(submit(self.ours, FULL)["id"])
            time.sleep(0.1)

    def done(self) -> int:
        return sum(ask(self.ours, f"/jobs/{job}?limit=1")["done"] for job in self.jobs)

    def pace(self, meanwhile: object) -> float:
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
                job = ask(ours, f"/jobs/{job['id']}?limit=1")
            seconds.append(time.monotonic() - begun)
            assert job["status"] == "succeeded", job
    return {"first_s": statistics.median(first), "second_s": statistics.median(second)}


def pack(count: int) -> bytes:
    """Digits that no memory has met: each has other bytes behind its end."""
    digits = [(SAMPLES / f"digit-{digit}.png").read_bytes() for digit in range(10)]
    archive, stamp = io.BytesIO(), time.time_ns()
    with zipfile.ZipFile(archive, "w") as writer:
        for number in range(count):
            writer.writestr(f"{number}.png", digits[number % 10] + f"{stamp}-{number}".encode())
    return archive.getvalue()


def submit(ours: Stack, count: int) -> dict:
    return post(ours, pack(count))


def post(ours: Stack, archive: bytes) -> dict:
    return ask(ours, "/jobs?model=mnist", archive, "POST")


def ask(ours: Stack, path: str, body: bytes | None = None, method: str = "GET") -> dict:
    headers = {"Content-Type": "application/zip"} if body else {}
    request = urllib.request.Request(f"http://{ours.address}{path}", body, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
