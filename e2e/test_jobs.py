"""Jobs over a real Redis: they end whatever process is killed, and workers in any language take part."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Callable, Iterator

import pytest
import requests

from client import assert_problem
from job_checker import Checker
from images import new_image, reopened, samples
from services import ROOT, Process, Redis, Service, wait_until

Spawn = Callable[..., Service]
EXAMPLE = ROOT / "examples" / "python_worker"


@pytest.fixture
def start_web(spawn: Spawn, model_api: Service, redis: Redis) -> Callable[..., Service]:
    def start(**settings: object) -> Service:
        return spawn("web_api", MODEL_API_URL=model_api.url, REDIS_URL=redis.url, **settings)

    return start


@pytest.fixture
def start_python(redis: Redis, tmp_path: Path) -> Iterator[Callable[[], Process]]:
    """Starts the worker of examples/."""
    ours: list[Process] = []

    def start() -> Process:
        worker = Process("worker", [sys.executable, str(EXAMPLE / "worker.py")], tmp_path, {"REDIS_URL": redis.url})
        worker.start()
        ours.append(worker)
        return worker

    yield start
    for worker in ours:
        if worker.running.poll() is None:
            worker.kill()


def digits(count: int) -> list[tuple[str, bytes, str]]:
    """`count` different images of digits, shifted samples: name, file, class."""
    originals = [sample for sample in samples("mnist") if sample.name.startswith("digit-")]
    found = []
    for number in range(count):
        sample = originals[number % len(originals)]
        image = reopened(sample.image).convert("L")
        moved = image.rotate((number // 10) % 13 - 6, fillcolor=image.getpixel((0, 0)))
        found.append((f"{number}.png", new_image(moved), sample.label))
    return found


def zipped(files: list[tuple[str, bytes]]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        for name, content in files:
            writer.writestr(name, content)
    return archive.getvalue()


def submit(web: Service, body: bytes, media_type: str = "application/zip", model: str = "mnist", **headers: str) -> requests.Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()} | {"Content-Type": media_type}
    return requests.post(f"{web.url}/jobs", params={"model": model}, data=body, headers=headers, timeout=60)


@pytest.mark.parametrize(("top_k", "listed"), [("3", 3), ("all", 10), (None, 10)])
def test_top_k_travels_with_the_job(start_web: Callable[..., Service], top_k: str | None, listed: int):
    web = start_web()
    params = {"model": "mnist", "top_k": top_k}
    submitted = requests.post(f"{web.url}/jobs", params=params, data=new_image(), headers={"Content-Type": "image/png"}, timeout=30)

    def ended() -> dict | None:
        job = requests.get(f"{web.url}/jobs/{submitted.json()['id']}", headers={"Prefer": "wait=10"}, timeout=30).json()
        return None if job["status"] in ("queued", "running") else job

    job = wait_until(ended, "it ends", 30)
    classes = job["results"][0]["answer"]["probabilities"]
    assert (job["status"], len(classes), "cls" in classes[0]) == ("succeeded", listed, top_k is not None)


def end_of(web: Service, job: str, seconds: float = 60) -> dict:
    def ended() -> dict | None:
        body = requests.get(f"{web.url}/jobs/{job}", timeout=30).json()
        return body if body.get("finished") else None

    return wait_until(ended, f"{job} has ended", seconds)


def queue_in_health(web: Service) -> dict:
    return web.health().json()["jobs"]


def results_of(web: Service, job: str) -> str:
    return requests.get(f"{web.url}/jobs/{job}/results", timeout=60).text


def texts(values: list[str]) -> bytes:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1]}
    return json.dumps([{"inputs": [tensor | {"data": [value]}]} for value in values]).encode()


# ---- Many inputs ----------------------------------------------------------------------------------------------------


def test_a_thousand_digits_are_one_job_and_are_computed_once(start_web: Callable[..., Service]):
    web = start_web()
    images = digits(1000)
    archive = zipped([(name, image) for name, image, _ in images])
    accepted = submit(web, archive)
    assert (accepted.status_code, accepted.json()["total"]) == (202, 1000), accepted.text
    job = end_of(web, accepted.json()["id"])
    assert (job["status"], job["done"], job["runs"], job["durable"]) == ("succeeded", 1000, 1000, True)
    table = requests.get(f"{web.url}/jobs/{job['id']}/results?format=csv", timeout=60).text
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["name"] for row in rows] == [name for name, _, _ in images]
    right = sum(row["label"] == label for row, (_, _, label) in zip(rows, images, strict=True))
    assert right >= 990, right
    again = submit(web, archive)
    assert (again.status_code, again.json()["status"], again.json()["runs"]) == (200, "succeeded", 0)
    assert web.count("web_api_inferences_total") == 1000


def bitmaps(count: int, side: int) -> list[tuple[str, bytes]]:
    """`count` different digits as bitmaps of `side` × `side` pixels, which a ZIP makes small."""
    files = []
    for name, image, _ in digits(count):
        file = io.BytesIO()
        reopened(image).convert("RGB").resize((side, side)).save(file, "BMP")
        files.append((name.replace(".png", ".bmp"), file.getvalue()))
    return files


def peak_bytes(service: Service) -> int:
    """The most memory that the process has had."""
    status = Path(f"/proc/{service.pid}/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1])


def test_an_archive_may_unpack_to_much_more_than_a_body_may_have(start_web: Callable[..., Service]):
    front = start_web(JOB_CONCURRENCY=0)
    files = bitmaps(300, 450)
    unpacked = sum(len(content) for _, content in files)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        for name, content in [*files[:150], ("Thumbs.db", b"\xd0\xcf\x11\xe0" + bytes(600)), ("README", b"Digits."), *files[150:]]:
            writer.writestr(name, content)
    assert unpacked > 180_000_000 and len(archive.getvalue()) < 64 << 20
    accepted = submit(front, archive.getvalue())
    assert (accepted.status_code, accepted.json()["total"]) == (202, 300), accepted.text
    assert peak_bytes(front) < unpacked, "it never holds all that it unpacks"
    web = start_web()
    job = end_of(web, accepted.json()["id"], 240)
    assert (job["status"], job["done"], job["dead"]) == ("succeeded", 300, 0)
    assert job["skipped"] == {"count": 2, "names": ["Thumbs.db", "README"]}
    names = [line["name"] for line in map(json.loads, results_of(web, job["id"]).splitlines())]
    assert names == [name for name, _ in files]


def test_large_inputs_reach_their_workers_over_the_shipped_redis(start_web: Callable[..., Service]):
    """All at once they would be more than Redis lets a client hold (`maxmemory-clients`), which closes its connection."""
    front = start_web(JOB_CONCURRENCY=0)
    files = bitmaps(20, 1100)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        for name, content in files:
            writer.writestr(name, content)
    job = submit(front, archive.getvalue()).json()["id"]
    start_web(REQUEST_TIMEOUT_MS=120_000)
    ended = end_of(front, job, 240)
    assert (ended["status"], ended["done"], ended["dead"], ended["runs"]) == ("succeeded", 20, 0, 20)


def test_workers_of_their_own_do_the_work(start_web: Callable[..., Service], redis: Redis):
    front = start_web(JOB_CONCURRENCY=0)
    job = submit(front, zipped([(name, image) for name, image, _ in digits(20)])).json()["id"]
    time.sleep(1.5)
    assert requests.get(f"{front.url}/jobs/{job}", timeout=30).json()["status"] == "queued"
    worker = start_web(JOB_CONCURRENCY=8)
    worker.kill()
    worker.command.append("worker")
    worker.start().wait_ready()
    assert end_of(front, job)["status"] == "succeeded"
    assert requests.post(f"{worker.url}/predict", timeout=30).status_code == 404, "it serves no requests"
    assert worker.terminate() == 0


def test_a_worker_needs_a_queue_that_others_see(spawn: Spawn, model_api: Service):
    worker = spawn("web_api", MODEL_API_URL=model_api.url)
    done = subprocess.run([*worker.command, "worker"], env=worker.environment | {"PORT": "0"}, capture_output=True, timeout=30)
    assert done.returncode == 64
    assert b"REDIS_URL: a separate worker needs the job queue in Redis" in done.stderr


# ---- Nothing lost ---------------------------------------------------------------------------------------------------


def test_nothing_is_lost_whatever_is_killed(spawn: Spawn, redis: Redis, model_api: Service):
    """The short version: `python e2e/job_checker.py` is the long one."""
    seed = int(os.environ.get("JOB_CHECKER_SEED") or time.time())
    verdict = Checker(seed, redis, spawn("model_api"), spawn, model_api).run(rounds=20)
    print(verdict.table())
    assert verdict.holds(), f"{verdict.table()}\n{verdict.problems()}"
    assert verdict.accepted == 200


def test_a_stop_under_load_loses_nothing_and_is_no_death(spawn: Spawn, redis: Redis, model_api: Service):
    """`JOB_CHECKER_ROUNDS=50` is the long version. One death of a worker over an input would fail it."""
    seed = int(os.environ.get("JOB_CHECKER_SEED") or time.time())
    rounds = int(os.environ.get("JOB_CHECKER_ROUNDS") or 5)
    checker = Checker(seed, redis, spawn("model_api"), spawn, model_api, only_stops=True, max_inputs=40)
    verdict = checker.run(rounds)
    print(verdict.table())
    assert verdict.holds(), f"{verdict.table()}\n{verdict.problems()}"
    assert (verdict.accepted, verdict.dead) == (rounds * 10, 0)


def test_without_redis_there_are_no_jobs_and_no_job_is_reported_as_unknown(start_web: Callable[..., Service], redis: Redis):
    web = start_web()
    job = submit(web, zipped([("a.png", new_image())])).json()["id"]
    end_of(web, job)
    assert wait_until(lambda: queue_in_health(web)["ready"], "the queue has been probed")
    redis.kill()
    for answer in (submit(web, zipped([("a.png", new_image())])), requests.get(f"{web.url}/jobs/{job}", timeout=30)):
        assert_problem(answer, 503, "The job queue does not respond; try again shortly.")
    wait_until(lambda: not queue_in_health(web)["ready"], "the probe has failed", 20)
    assert (queue_in_health(web)["reason"], queue_in_health(web)["waiting"]) == ("the job queue does not respond", None)
    assert web.count("web_api_jobs_ready") == 0
    redis.start()
    wait_until(lambda: queue_in_health(web)["ready"], "the queue is back", 20)
    assert queue_in_health(web) | {"bytes": 0, "bytes_limit": 0} == {
        "durable": True, "ready": True, "reason": None, "waiting": 0, "bytes": 0, "bytes_limit": 0,
    }
    assert end_of(web, job)["status"] == "succeeded"
    assert end_of(web, submit(web, zipped([("a.png", new_image())])).json()["id"])["status"] == "succeeded"


def test_a_job_that_has_expired_is_gone_and_not_unknown(start_web: Callable[..., Service]):
    web = start_web(JOB_TTL_S=1)
    job = submit(web, zipped([("a.png", new_image())])).json()["id"]
    end_of(web, job)
    wait_until(lambda: requests.get(f"{web.url}/jobs/{job}", timeout=30).status_code == 410, "it is gone", 20)
    assert_problem(requests.get(f"{web.url}/jobs/{'0' * 32}", timeout=30), 404, "There is no such job, or it expired long ago.")


# ---- In any language ------------------------------------------------------------------------------------------------


def test_a_worker_in_python_serves_a_model_beside_the_others(
    start_web: Callable[..., Service], start_python: Callable[[], Process], redis: Redis
):
    web = start_web()
    start_python()
    models = f"{web.url}/v2/models"
    wait_until(lambda: "keywords" in requests.get(models, timeout=30).json()["models"], "the model is listed")
    assert requests.get(f"{models}/keywords", timeout=30).json()["platform"] == "queue"
    request = json.loads(texts(["the memory of a model is no model of memory"]))[0]
    answer = requests.post(f"{models}/keywords/infer", json=request, timeout=30)
    assert (answer.status_code, answer.json()["outputs"][0]["data"]) == (200, ["memory", "model"]), answer.text
    assert requests.post(f"{models}/keywords/infer", json={"inputs": []}, timeout=30).status_code == 422
    job = submit(web, texts(["hello hello world", "other words"]), "application/json", "keywords").json()["id"]
    ended = end_of(web, job)
    assert [result["answer"]["outputs"][0]["data"] for result in ended["results"]] == [["hello", "world"], ["other", "words"]]
    producer = [sys.executable, str(EXAMPLE / "producer.py"), "keywords", "without any HTTP"]
    reported = subprocess.run(producer, env=os.environ | {"REDIS_URL": redis.url}, capture_output=True, timeout=60)
    assert reported.stdout.decode() == "0 ['without', 'http']\n", reported.stderr.decode()


def test_a_worker_in_python_that_is_killed_in_the_middle_loses_nothing(
    start_web: Callable[..., Service], start_python: Callable[[], Process], redis: Redis
):
    web = start_web()
    workers = [start_python(), start_python()]
    wait_until(lambda: requests.get(f"{web.url}/v2/models/keywords", timeout=30).status_code == 200, "the model is listed")
    count = 4000
    job = submit(web, texts([f"number{'x' * (index % 7)} word" for index in range(count)]), "application/json", "keywords").json()["id"]
    wait_until(lambda: requests.get(f"{web.url}/jobs/{job}?limit=1", timeout=30).json()["done"] > 100, "it has begun")
    workers[0].kill()
    workers[1].kill()
    held = [int(line) for line in redis.execute("XPENDING", "mlserve:{jobs}:queue:keywords", "workers").split("\n")[:1]]
    start_python()
    # What the dead held is taken over half a minute after they were last heard of.
    ended = end_of(web, job, 90)
    assert (ended["status"], ended["done"], ended["total"]) == ("succeeded", count, count)
    assert ended["runs"] <= count + held[0]


def test_a_model_whose_workers_are_all_gone_reports_it(
    start_web: Callable[..., Service], start_python: Callable[[], Process]
):
    web = start_web(REQUEST_TIMEOUT_MS=500)
    worker = start_python()
    wait_until(lambda: requests.get(f"{web.url}/v2/models/keywords", timeout=30).status_code == 200, "the model is listed")
    worker.kill()
    answer = requests.post(f"{web.url}/v2/models/keywords/infer", json=json.loads(texts(["hello"]))[0], timeout=30)
    assert (answer.status_code, answer.json()["error"]) == (504, "The model did not respond in time.")
