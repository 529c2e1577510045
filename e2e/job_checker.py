"""Nothing lost: jobs are submitted while processes are killed, stopped and started again, and then held against what was promised.

    python e2e/job_checker.py [--rounds 200] [--seed N] [--signals all|term] [--inputs 5]

First the history, then the verdict, as Jepsen does it. In each round some jobs are submitted with idempotency keys, and one of web_api,
its workers, model_api, model_api's session and Redis is killed with SIGKILL, or stopped with SIGTERM, and started again. A client that gets
no response retries under the same key, as documented. Finally, every accepted job must have ended; each result must be the one
that model_api computes by itself; every input must have ended once; and none may have failed because of crashed workers,
unless as many of them were killed in its time as that takes.

With `--signals term` nothing is killed, and an input fails as soon as one worker dies over it (`JOB_MAX_DELIVERIES=1`): each process that is
stopped must end well, with its inputs recorded or handed back.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import uuid
import zipfile
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Callable

import requests
from PIL import Image

from images import encode, new_image, reopened, samples
from services import ROOT, Redis, Service, children_of, wait_until

JOBS_IN_A_ROUND = 10
MAX_INPUTS = 5
# All is judged after so many rounds, so that inputs need not be kept for longer.
ROUNDS_BETWEEN_JUDGEMENTS = 20
WORKERS = ["web_api", "worker 1", "worker 2"]
KILLS = [("SIGKILL", name) for name in [*WORKERS, "model_api", "session", "redis"]]
STOPS = [("SIGTERM", name) for name in [*WORKERS, "model_api", "redis"]]
# What cannot be read is to fail, with its reason, and nothing else is.
DAMAGED = b"\x89PNG\r\n\x1a\n and no more"

# Short enough for a test, long enough that a live worker is not declared dead on a busy machine.
CLAIM_AFTER_MS = 3000
DEATH = "the worker died"


@dataclass
class Submitted:
    """A job as its client submitted it."""

    key: str
    # Images, or the bodies of requests for inference.
    inputs: list[bytes]
    media_type: str
    body: bytes
    id: str | None = None
    tries: int = 0


@dataclass
class Signalled:
    """A process that was killed or stopped, and when."""

    signal: str
    name: str
    at: float


@dataclass
class Verdict:
    seed: int
    rounds: int = 0
    kills: collections.Counter = field(default_factory=collections.Counter)
    accepted: int = 0
    inputs: int = 0
    succeeded: int = 0
    failed: int = 0
    dead: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    dead_without_cause: list[str] = field(default_factory=list)
    ended_badly: list[str] = field(default_factory=list)
    runs: int = 0
    tries: int = 0

    def table(self) -> str:
        kills = ", ".join(f"{count} × {name}" for name, count in sorted(self.kills.items()))
        rows = [
            ("seed", self.seed),
            ("rounds, and who was killed or stopped", f"{self.rounds}: {kills}"),
            ("accepted: jobs, inputs", f"{self.accepted}, {self.inputs}"),
            ("finished: inputs with the right answer", self.succeeded),
            ("failed with a reason: inputs", self.failed),
            ("lost: jobs", len(self.lost)),
            ("doubled in effect: jobs", len(self.doubled)),
            ("wrong: inputs", len(self.wrong)),
            ("failed because their workers were killed: inputs", self.dead),
            ("dead without cause: inputs", len(self.dead_without_cause)),
            ("processes that did not stop well", len(self.ended_badly)),
            ("runs for each input", f"{self.runs / max(self.inputs, 1):.3f}"),
            ("requests for each submission", f"{self.tries / max(self.accepted, 1):.3f}"),
        ]
        return "\n".join(f"| {name} | {value} |" for name, value in rows)

    def holds(self) -> bool:
        return self.accepted > 0 and not self.problems()

    def problems(self) -> list[str]:
        return [*self.lost, *self.doubled, *self.wrong, *self.dead_without_cause, *self.ended_badly]


class Checker:
    """The stack under test, one process each, and the clients."""

    def __init__(
        self,
        seed: int,
        redis: Redis,
        model_api: Service,
        spawn: Callable[..., Service],
        calm: Service,
        only_stops: bool = False,
        max_inputs: int = MAX_INPUTS,
    ):
        self.random = random.Random(seed)
        self.verdict = Verdict(seed)
        self.redis, self.calm = redis, calm
        self.victims = STOPS if only_stops else [*KILLS, *STOPS]
        self.max_deliveries, self.max_inputs = 1 if only_stops else 3, max_inputs
        settings = {
            "REDIS_URL": redis.url,
            "MODEL_API_URL": model_api.url,
            # If no process is killed, no worker may be declared dead.
            "JOB_CLAIM_AFTER_MS": CLAIM_AFTER_MS * (10 if only_stops else 1),
            "JOB_MAX_DELIVERIES": self.max_deliveries,
            "LOG_LEVEL": "warn",
        }
        web = spawn("web_api", **settings, JOB_CONCURRENCY=4)
        workers = [self.spawn_worker(spawn, settings) for _ in range(2)]
        self.services = {"web_api": web, "worker 1": workers[0], "worker 2": workers[1], "model_api": model_api}
        self.web = web
        self.jobs: list[Submitted] = []
        self.signalled: list[Signalled] = []
        self.originals = [sample.image for sample in samples("mnist")]

    @staticmethod
    def spawn_worker(spawn: Callable[..., Service], settings: dict) -> Service:
        worker = spawn("web_api", wait=False, **settings, JOB_CONCURRENCY=4)
        # As `web_api worker`: started anew with its word.
        worker.kill()
        worker.command.append("worker")
        return worker.start()

    def run(self, rounds: int) -> Verdict:
        for number in range(1, rounds + 1):
            self.verdict.rounds += 1
            clients = [threading.Thread(target=self.submit, args=(self.make_job(),)) for _ in range(JOBS_IN_A_ROUND)]
            pauses = [self.random.uniform(0, 0.3) for _ in clients]
            end = self.random.choice(self.victims)
            killer = threading.Thread(target=self.end, args=(*end, self.random.uniform(0, 0.5)))
            killer.start()
            for client, pause in zip(clients, pauses):
                client.start()
                time.sleep(pause / JOBS_IN_A_ROUND)
            for thread in [*clients, killer]:
                thread.join()
            if number % ROUNDS_BETWEEN_JUDGEMENTS == 0 or number == rounds:
                self.judge()
        return self.verdict

    def make_job(self) -> Submitted:
        """A form with images, a ZIP of images (one of them may be a photo of 1.5 MB), or a list of requests for inference."""
        count = self.random.randint(1, self.max_inputs)
        kind = self.random.choice(["form", "zip", "list"])
        key = uuid.UUID(int=self.random.getrandbits(128)).hex
        if kind == "list":
            inputs = [self.make_request() for _ in range(count)]
            body = b"[" + b",".join(inputs) + b"]"
            job = Submitted(key, inputs, "application/json", body)
        else:
            inputs = [new_image(reopened(self.random.choice(self.originals))) for _ in range(count)]
            if self.random.random() < 0.05:
                inputs.append(DAMAGED)
            if kind == "zip" and self.random.random() < 0.5:
                inputs[0] = self.make_photo()
            job = Submitted(key, inputs, *(zipped(inputs) if kind == "zip" else form(inputs)))
        self.jobs.append(job)
        return job

    def make_request(self) -> bytes:
        values = [round(self.random.random(), 4) for _ in range(28 * 28)]
        tensor = {"name": "image", "datatype": "FP32", "shape": [1, 28, 28, 1], "data": values}
        return json.dumps({"inputs": [tensor]}).encode()

    def make_photo(self) -> bytes:
        """A digit of 700 × 700 pixels in noise, which is why it has 1.5 MB."""
        digit = reopened(self.random.choice(self.originals)).convert("RGB").resize((700, 700))
        noise = Image.frombytes("RGB", digit.size, self.random.randbytes(3 * 700 * 700))
        return encode(Image.blend(digit, noise, 0.25), compress_level=1)

    def submit(self, job: Submitted) -> None:
        """Until it is answered. An error does not mean that it was not accepted."""
        headers = {"Idempotency-Key": job.key, "Content-Type": job.media_type}
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            job.tries += 1
            with contextlib.suppress(requests.RequestException):
                url = f"{self.web.url}/jobs?model=mnist"
                answer = requests.post(url, data=job.body, headers=headers, timeout=15)
                if answer.status_code in (200, 202):
                    job.id = answer.json()["id"]
                    return
                # Nothing but "later" is allowed, and that only while something is dead.
                assert answer.status_code in (503, 504), f"{answer.status_code}: {answer.text}"
            time.sleep(0.1)

    def end(self, how: str, victim: str, pause: float) -> None:
        time.sleep(pause)
        self.verdict.kills[f"{how} {victim}"] += 1
        self.signalled.append(Signalled(how, victim, time.time()))
        if victim == "session":
            for child in children_of(self.services["model_api"].pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            return
        process = self.redis if victim == "redis" else self.services[victim]
        if how == "SIGKILL":
            process.kill()
        elif (code := process.terminate(40)) != 0:
            self.verdict.ended_badly.append(f"{victim} ended with {code}")
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
            verdict.inputs += len(job.inputs)
            self.judge_job(job)
        self.jobs.clear()

    def judge_job(self, job: Submitted) -> None:
        verdict = self.verdict

        def ended() -> dict | None:
            body = requests.get(f"{self.web.url}/jobs/{job.id}?limit=1000", timeout=15).json()
            return body if body.get("finished") else None

        try:
            body = wait_until(ended, f"{job.id} has ended", 60)
        except AssertionError as error:
            verdict.lost.append(str(error))
            return
        verdict.runs += body["runs"]
        events = self.redis.execute("XRANGE", f"mlserve:{{jobs}}:events:{job.id}", "-", "+").split("\n")
        ends = sorted(int(value) for name, value in zip(events, events[1:]) if name == "index")
        once_each = list(range(len(job.inputs)))
        if ends != once_each or body["done"] + body["failed"] != len(once_each) or body["total"] != len(once_each):
            verdict.doubled.append(f"{job.id}: {ends} of {len(once_each)}; {body}")
        for result, input in zip(body["results"], job.inputs, strict=True):
            if DEATH in result.get("error", {}).get("detail", ""):
                self.judge_death(job, body)
            else:
                self.judge_result(job, result, input)

    def judge_death(self, job: Submitted, body: dict) -> None:
        """As many workers must have been killed between the job's creation and its end as have to die."""
        created, finished = (datetime.fromisoformat(body[when]).timestamp() for when in ("created", "finished"))
        killed = [one for one in self.signalled if one.signal == "SIGKILL" and one.name in WORKERS]
        if sum(created <= one.at <= finished for one in killed) >= self.max_deliveries:
            self.verdict.dead += 1
        else:
            self.verdict.dead_without_cause.append(f"{job.id}: {body}")

    def judge_result(self, job: Submitted, result: dict, input: bytes) -> None:
        if input == DAMAGED:
            if result["status"] == "failed" and result["error"]["status"] in (400, 415, 422):
                self.verdict.failed += 1
            else:
                self.verdict.wrong.append(f"{job.id}: a damaged image: {result}")
            return
        is_image = job.media_type != "application/json"
        expected = requests.post(
            f"{self.calm.url}/v2/models/mnist/infer",
            data=input,
            headers={"Content-Type": "image/png" if is_image else "application/json"},
            timeout=15,
        ).json()["outputs"][0]["data"]
        answer = result.get("answer", {})
        if is_image:
            given = [one["value"] for one in answer.get("probabilities", [])]
        else:
            given = answer.get("outputs", [{"data": []}])[0]["data"]
        if len(given) == len(expected) and all(abs(a - b) < 1e-5 for a, b in zip(given, expected)):
            self.verdict.succeeded += 1
        else:
            self.verdict.wrong.append(f"{job.id}: {result}")


def zipped(images: list[bytes]) -> tuple[str, bytes]:
    """Media type and body."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        for index, image in enumerate(images):
            writer.writestr(f"{index}.png", image)
    return "application/zip", archive.getvalue()


def form(images: list[bytes]) -> tuple[str, bytes]:
    """Media type and body."""
    files = [("file", (f"{index}.png", image)) for index, image in enumerate(images)]
    prepared = requests.Request("POST", "http://localhost/", files=files).prepare()
    return prepared.headers["Content-Type"], prepared.body


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments.add_argument("--signals", choices=["all", "term"], default="all")
    arguments.add_argument("--inputs", type=int, default=MAX_INPUTS, help="the most of a job")
    given = arguments.parse_args()
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
            services = (spawn("model_api"), spawn, spawn("model_api"))
            checker = Checker(given.seed, redis, *services, given.signals == "term", given.inputs)
            verdict = checker.run(given.rounds)
        finally:
            for process in reversed(running):
                with contextlib.suppress(AssertionError):
                    process.end()
    print(verdict.table())
    for problem in verdict.problems():
        print(problem, file=sys.stderr)
    return 0 if verdict.holds() else 1


if __name__ == "__main__":
    sys.exit(main())
