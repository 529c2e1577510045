"""Nothing lost: jobs are submitted while processes are killed at random moments, and then held against what was promised.

    python e2e/job_checker.py [--rounds 200] [--seed N]

First the history, then the verdict, as Jepsen does it. In each round some jobs are submitted with idempotency keys, and one of web_api,
its workers, model_api, model_api's session and Redis is killed with SIGKILL and started again. Whoever submits tries again under the same key until
he is answered, as the documentation tells him. When all is quiet, every job that was accepted must have ended; each answer must be the one
that model_api, asked alone and in peace, gives; and every input must have ended once.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import requests

from pictures import never_seen, reopened, samples
from services import ROOT, Redis, Service, children_of, wait_until

JOBS_IN_A_ROUND = 10
MOST_INPUTS = 5
VICTIMS = ["web_api", "worker 1", "worker 2", "model_api", "session", "redis"]
# What cannot be read is to fail, with its reason, and nothing else is.
DAMAGED = b"\x89PNG\r\n\x1a\n and no more"

# Short enough for a test, long enough that who is alive is not taken for dead on a busy machine.
SETTINGS = {"JOB_CLAIM_AFTER_MS": 3000, "JOB_MAX_DELIVERIES": 20, "LOG_LEVEL": "warn"}


@dataclass
class Submitted:
    """A job as its client remembers it."""

    key: str
    pictures: list[bytes]
    id: str | None = None
    tries: int = 0


@dataclass
class Verdict:
    seed: int
    rounds: int = 0
    kills: collections.Counter = field(default_factory=collections.Counter)
    accepted: int = 0
    inputs: int = 0
    succeeded: int = 0
    failed: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    runs: int = 0
    tries: int = 0

    def table(self) -> str:
        kills = ", ".join(f"{count} × {name}" for name, count in sorted(self.kills.items()))
        rows = [
            ("seed", self.seed),
            ("rounds, and who was killed", f"{self.rounds}: {kills}"),
            ("accepted: jobs, inputs", f"{self.accepted}, {self.inputs}"),
            ("finished: inputs with the right answer", self.succeeded),
            ("failed with a reason: inputs", self.failed),
            ("lost: jobs", len(self.lost)),
            ("doubled in effect: jobs", len(self.doubled)),
            ("wrong: inputs", len(self.wrong)),
            ("runs for each input", f"{self.runs / max(self.inputs, 1):.3f}"),
            ("requests for each submission", f"{self.tries / max(self.accepted, 1):.3f}"),
        ]
        return "\n".join(f"| {name} | {value} |" for name, value in rows)

    def holds(self) -> bool:
        return self.accepted > 0 and not (self.lost or self.doubled or self.wrong)


class Checker:
    """The stack under test, one process each, and the clients."""

    def __init__(self, seed: int, redis: Redis, model_api: Service, spawn: Callable[..., Service], calm: Service):
        self.random = random.Random(seed)
        self.verdict = Verdict(seed)
        self.redis, self.calm = redis, calm
        settings = {"REDIS_URL": redis.url, "MODEL_API_URL": model_api.url, **SETTINGS}
        web = spawn("web_api", **settings, JOB_CONCURRENCY=4)
        workers = [self.spawn_worker(spawn, settings) for _ in range(2)]
        self.services = {"web_api": web, "worker 1": workers[0], "worker 2": workers[1], "model_api": model_api}
        self.web = web
        self.jobs: list[Submitted] = []

    @staticmethod
    def spawn_worker(spawn: Callable[..., Service], settings: dict) -> Service:
        worker = spawn("web_api", wait=False, **settings, JOB_CONCURRENCY=4)
        # As `web_api worker`: started anew with its word.
        worker.kill()
        worker.command.append("worker")
        return worker.start()

    def run(self, rounds: int) -> Verdict:
        originals = samples("mnist")
        for _ in range(rounds):
            self.verdict.rounds += 1
            clients = [threading.Thread(target=self.submit, args=(self.make_job(originals),)) for _ in range(JOBS_IN_A_ROUND)]
            pauses = [self.random.uniform(0, 0.3) for _ in clients]
            killer = threading.Thread(target=self.kill, args=(self.random.choice(VICTIMS), self.random.uniform(0, 0.5)))
            killer.start()
            for client, pause in zip(clients, pauses):
                client.start()
                time.sleep(pause / JOBS_IN_A_ROUND)
            for thread in [*clients, killer]:
                thread.join()
        self.judge()
        return self.verdict

    def make_job(self, originals: list) -> Submitted:
        count = self.random.randint(1, MOST_INPUTS)
        pictures = [never_seen(reopened(self.random.choice(originals).picture)) for _ in range(count)]
        if self.random.random() < 0.05:
            pictures.append(DAMAGED)
        job = Submitted(uuid.UUID(int=self.random.getrandbits(128)).hex, pictures)
        self.jobs.append(job)
        return job

    def submit(self, job: Submitted) -> None:
        """Until it is answered. An error does not mean that it was not accepted."""
        files = [("file", (f"{index}.png", picture)) for index, picture in enumerate(job.pictures)]
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            job.tries += 1
            with contextlib.suppress(requests.RequestException):
                url = f"{self.web.url}/jobs?model=mnist"
                answer = requests.post(url, files=files, headers={"Idempotency-Key": job.key}, timeout=15)
                if answer.status_code in (200, 202):
                    job.id = answer.json()["id"]
                    return
                # Nothing but "later" is allowed, and that only while something is dead.
                assert answer.status_code in (503, 504), f"{answer.status_code}: {answer.text}"
            time.sleep(0.1)

    def kill(self, victim: str, pause: float) -> None:
        time.sleep(pause)
        self.verdict.kills[victim] += 1
        if victim == "session":
            for child in children_of(self.services["model_api"].pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            return
        process = self.redis if victim == "redis" else self.services[victim]
        process.kill()
        time.sleep(pause / 5)
        process.start()

    def judge(self) -> None:
        verdict = self.verdict
        for job in self.jobs:
            verdict.tries += job.tries
            if job.id is None:
                verdict.lost.append(f"{job.key} was never accepted")
                continue
            verdict.accepted += 1
            verdict.inputs += len(job.pictures)
            self.judge_job(job)

    def judge_job(self, job: Submitted) -> None:
        verdict = self.verdict

        def ended() -> dict | None:
            body = requests.get(f"{self.web.url}/jobs/{job.id}", timeout=15).json()
            return body if body.get("finished") else None

        try:
            body = wait_until(ended, f"{job.id} has ended", 60)
        except AssertionError as error:
            verdict.lost.append(str(error))
            return
        verdict.runs += body["runs"]
        events = self.redis.ask("XRANGE", f"mlserve:{{jobs}}:events:{job.id}", "-", "+").split("\n")
        ends = sorted(int(value) for name, value in zip(events, events[1:]) if name == "index")
        once_each = list(range(len(job.pictures)))
        if ends != once_each or body["done"] + body["failed"] != len(once_each) or body["total"] != len(once_each):
            verdict.doubled.append(f"{job.id}: {ends} of {len(once_each)}; {body}")
        for result, picture in zip(body["results"], job.pictures, strict=True):
            self.judge_result(job, result, picture)

    def judge_result(self, job: Submitted, result: dict, picture: bytes) -> None:
        if picture == DAMAGED:
            if result["status"] == "failed" and result["error"]["status"] in (400, 415, 422):
                self.verdict.failed += 1
            else:
                self.verdict.wrong.append(f"{job.id}: a damaged picture: {result}")
            return
        expected = requests.post(
            f"{self.calm.url}/v2/models/mnist/infer", data=picture, headers={"Content-Type": "image/png"}, timeout=15
        ).json()["outputs"][0]["data"]
        given = [one["value"] for one in result.get("answer", {}).get("probabilities", [])]
        if len(given) == len(expected) and all(abs(a - b) < 1e-5 for a, b in zip(given, expected)):
            self.verdict.succeeded += 1
        else:
            self.verdict.wrong.append(f"{job.id}: {result}")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    wished = arguments.parse_args()
    library = os.environ.get("ORT_DYLIB_PATH") or str(ROOT / ".mlserve" / "onnxruntime-cpu" / "libonnxruntime.so")
    running: list = []
    with tempfile.TemporaryDirectory() as folder:

        def spawn(name: str, wait: bool = True, **settings: object) -> Service:
            if name == "model_api":
                models = {"MODEL_NAME": "mnist", "MODELS_DIR": ROOT / "model_api" / "models", "DEVICE": "cpu"}
                settings = models | {"ORT_DYLIB_PATH": library} | settings
            service = Service(name, Path(folder), **settings)
            running.append(service)
            service.start()
            return service.wait_ready() if wait else service

        try:
            redis = Redis(os.environ.get("REDIS_SERVER", "redis-server"), Path(folder))
            running.append(redis.start())
            verdict = Checker(wished.seed, redis, spawn("model_api"), spawn, spawn("model_api")).run(wished.rounds)
        finally:
            for process in reversed(running):
                with contextlib.suppress(AssertionError):
                    process.end()
    print(verdict.table())
    for problem in [*verdict.lost, *verdict.doubled, *verdict.wrong]:
        print(problem, file=sys.stderr)
    return 0 if verdict.holds() else 1


if __name__ == "__main__":
    sys.exit(main())
