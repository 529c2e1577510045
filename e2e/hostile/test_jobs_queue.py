"""The job queue over the shipped Redis: large inputs, large results, and clients that try to fill it."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import time
import uuid
import zipfile
from pathlib import Path
from typing import Callable

import pytest
import requests
from requests.adapters import HTTPAdapter

from client import assert_problem
from attacks_jobs import ATTACKS, noise
from images import new_image, reopened, samples
from services import Redis, Service, wait_until

Start = Callable[..., Service]
MIB = 1 << 20
# 200 is the whole form; this is the short one.
PHOTOS = int(os.environ.get("QUEUE_PHOTOS", "24"))
ROUNDS = max(4, PHOTOS // 12)


@pytest.fixture
def start_web(spawn: Start, model_api: Service, redis: Redis) -> Start:
    def start(**settings: object) -> Service:
        return spawn("web_api", MODEL_API_URL=model_api.url, REDIS_URL=redis.url, **settings)

    return start


class From(HTTPAdapter):
    """Sends from this address of the machine."""

    def __init__(self, address: str):
        self.address = address
        super().__init__()

    def init_poolmanager(self, *arguments: object, **options: object) -> None:
        super().init_poolmanager(*arguments, **options, source_address=(self.address, 0))


def client(address: str) -> requests.Session:
    session = requests.Session()
    session.mount("http://", From(address))
    return session


def photos(count: int, side: int = 720) -> list[tuple[str, bytes, str]]:
    """Digits as bitmaps of 1.5 MB, no two alike: name, file, what they show."""
    digits = [sample for sample in samples("mnist") if sample.name.startswith("digit-")]
    made = []
    for number in range(count):
        digit = digits[number % len(digits)]
        image = reopened(digit.image).convert("RGB").resize((side, side))
        image.putpixel((number % side, number // side), (1, 2, 3))
        file = io.BytesIO()
        image.save(file, "BMP")
        made.append((f"{number}.bmp", file.getvalue(), digit.label))
    return made


def zipped(files: list[tuple[str, bytes, str]]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        for name, content, _ in files:
            writer.writestr(name, content)
    return archive.getvalue()


def submit(session: requests.Session, web: Service, body: bytes, media_type: str = "application/zip", **params: str) -> requests.Response:
    params = {"model": "mnist"} | params
    return session.post(f"{web.url}/jobs", params=params, data=body, headers={"Content-Type": media_type}, timeout=60)


def submit_until_accepted(web: Service, body: bytes, seconds: float = 240) -> str:
    """As documented: repeated under the same key after any error."""
    headers = {"Content-Type": "application/zip", "Idempotency-Key": uuid.uuid4().hex}

    def accepted() -> str | None:
        response = requests.post(f"{web.url}/jobs?model=mnist", data=body, headers=headers, timeout=60)
        assert response.status_code in (200, 202, 503), response.text
        return response.json().get("id")

    return wait_until(accepted, "the job is accepted", seconds)


def end_of(web: Service, job: str, seconds: float = 60) -> dict:
    def ended() -> dict | None:
        body = requests.get(f"{web.url}/jobs/{job}?limit=1000", timeout=30).json()
        return body if body.get("finished") else None

    return wait_until(ended, f"{job} has ended", seconds)


def labels_of(web: Service, job: str) -> list[str]:
    lines = requests.get(f"{web.url}/jobs/{job}/results", timeout=60).text.splitlines()
    return [json.loads(line)["answer"]["label"] for line in lines]


# ---- Large inputs ---------------------------------------------------------------------------------------------------


def test_two_archives_of_photos_that_wait_at_a_restart_succeed(start_web: Start):
    """All at once they are more than Redis lets a client have, and more than three of them end its connection."""
    front = start_web(JOB_CONCURRENCY=0)
    files = photos(24)
    jobs = [submit(requests, front, zipped(half)).json()["id"] for half in (files[:12], files[12:])]
    start_web(REQUEST_TIMEOUT_MS=120_000)
    for job, half in zip(jobs, (files[:12], files[12:])):
        ended = end_of(front, job, 120)
        assert (ended["status"], ended["dead"]) == ("succeeded", 0), ended
        assert labels_of(front, job) == [label for _, _, label in half]


def test_photos_survive_kills_and_restarts(start_web: Start, redis: Redis):
    seed = int(os.environ.get("JOB_CHECKER_SEED") or time.time())
    chance = random.Random(seed)
    print(f"JOB_CHECKER_SEED={seed} QUEUE_PHOTOS={PHOTOS}")
    settings = {"JOB_CLAIM_AFTER_MS": 3000, "REQUEST_TIMEOUT_MS": 120_000}
    front = start_web(JOB_CONCURRENCY=0, **settings)
    worker = start_web(**settings)
    files = photos(PHOTOS)
    parts = [files[first : first + 12] for first in range(0, PHOTOS, 12)]
    jobs, deaths = [], 0
    for number in range(max(ROUNDS, len(parts))):
        if number < len(parts):
            jobs.append(submit_until_accepted(front, zipped(parts[number])))
        time.sleep(chance.uniform(0, 1))
        # Twice at most: an input over which three workers have died fails, as documented.
        what = chance.choice(["kill", "stop", "redis"] if deaths < 2 else ["stop", "redis"])
        process = redis if what == "redis" else worker
        if what == "stop":
            process.signal(signal.SIGTERM)
            process.running.wait(30)
        else:
            deaths += what == "kill"
            process.kill()
        process.start()
    for job, part in zip(jobs, parts, strict=True):
        ended = end_of(front, job, 240)
        assert (ended["status"], ended["dead"]) == ("succeeded", 0), ended
        assert labels_of(front, job) == [label for _, _, label in part]


def test_an_image_that_is_too_large_for_the_queue_is_refused_for_its_length(start_web: Start):
    web = start_web()
    [(_, image, label)] = photos(1, side=2500)
    assert len(image) > 18 * MIB - MIB
    predicted = requests.post(f"{web.url}/predict/mnist", data=image, headers={"Content-Type": "image/bmp"}, timeout=60)
    assert (predicted.status_code, predicted.json()["label"]) == (200, label)
    again = submit(requests, web, photos(2, side=2500)[1][1], "image/bmp")
    reported = f"An input has {len(image)} bytes; the job queue accepts at most {16 * MIB} bytes per input. POST /predict accepts larger ones."
    assert_problem(again, 413, reported)


# ---- Large results --------------------------------------------------------------------------------------------------


def expanding(folder: Path) -> None:
    """A model whose input is the length of its output."""
    onnx = pytest.importorskip("onnx")
    made = onnx.helper
    node = made.make_node("Expand", ["one", "count"], ["y"])
    count = made.make_tensor_value_info("count", onnx.TensorProto.INT64, [1])
    y = made.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n"])
    one = made.make_tensor("one", onnx.TensorProto.FLOAT, [1], [0.1])
    graph = made.make_graph([node], "expanding", [count], [y], [one])
    onnx.save(made.make_model(graph, opset_imports=[made.make_opsetid("", 17)], ir_version=8), folder / "expanding.onnx")


def test_results_that_are_too_large_fail_and_the_others_are_collected_in_pages(spawn: Start, redis: Redis, tmp_path: Path):
    (tmp_path / "models").mkdir()
    expanding(tmp_path / "models")
    engine = spawn("model_api", MODEL_NAME="all", MODELS_DIR=tmp_path / "models", SESSION_THREADS=1)
    web = spawn("web_api", MODEL_API_URL=engine.url, REDIS_URL=redis.url)
    counts = [10, 600_000, 4_500_000, 600_001, 10]
    lines = [json.dumps({"inputs": [{"name": "count", "datatype": "INT64", "shape": [1], "data": [count]}]}) for count in counts]
    job = submit(requests, web, "\n".join(lines).encode(), "application/x-ndjson", model="expanding").json()["id"]
    ended = end_of(web, job, 60)
    assert (ended["status"], ended["done"], ended["failed"]) == ("failed", 4, 1), ended["results"][2:3]
    seen, page, pages = [], f"/jobs/{job}", 0
    while page:
        body = requests.get(web.url + page, timeout=60).json()
        seen, page, pages = seen + body["results"], body["next"], pages + 1
    assert [result["index"] for result in seen] == list(range(5))
    assert pages > 1, "a page has a bound in bytes"
    assert seen[2]["error"]["status"] == 413 and "exceeds the limit" in seen[2]["error"]["detail"], seen[2]
    lines = list(map(json.loads, requests.get(f"{web.url}/jobs/{job}/results", timeout=60).text.splitlines()))
    assert [line["answer"]["outputs"][0]["shape"] if "answer" in line else None for line in lines] == [[10], [600_000], None, [600_001], [10]]
    assert requests.get(f"{web.url}/jobs", timeout=30).status_code == 200


# ---- Clients that fill the queue ------------------------------------------------------------------------------------


def test_a_client_that_fills_the_queue_leaves_room_for_others(start_web: Start, redis: Redis):
    redis.execute("CONFIG", "SET", "maxmemory", "60mb")
    web = start_web(JOB_CONCURRENCY=0)
    greedy, other = client("127.0.0.1"), client("127.0.0.2")
    accepted = []
    while (response := submit(greedy, web, noise(8))).status_code == 202:
        accepted.append(response.json()["id"])
    assert 3 <= len(accepted) <= 4
    assert response.status_code == 503 and "The jobs from this address use" in response.json()["detail"], response.text
    assert int(response.headers["Retry-After"]) >= 1
    assert submit(other, web, zipped(photos(2))).status_code == 202
    # Once cancels, twice deletes.
    for _ in range(2):
        assert greedy.delete(f"{web.url}/jobs/{accepted[0]}", timeout=30).status_code == 200
    assert requests.get(f"{web.url}/jobs/{accepted[0]}", timeout=30).status_code == 410
    assert greedy.delete(f"{web.url}/jobs/{accepted[0]}", timeout=30).status_code == 410
    assert submit(greedy, web, noise(8)).status_code == 202


def test_inputs_that_have_failed_make_room(start_web: Start, redis: Redis):
    redis.execute("CONFIG", "SET", "maxmemory", "60mb")
    web = start_web()
    for _ in range(6):
        job = wait_until(lambda: submit(requests, web, noise(8)).json().get("id"), "noise is accepted", 30)
        assert end_of(web, job, 30)["status"] == "failed"
    response = submit(requests, web, zipped([("a.png", new_image(), "7")]))
    assert end_of(web, response.json()["id"], 30)["status"] == "succeeded"


def test_a_client_with_many_small_jobs_leaves_room_for_others(start_web: Start, redis: Redis):
    redis.execute("CONFIG", "SET", "maxmemory", "20mb")
    web = start_web(JOB_CONCURRENCY=0, JOB_QUEUE_LENGTH=50)
    greedy, other = client("127.0.0.1"), client("127.0.0.2")
    statuses = [submit(greedy, web, new_image(), "image/png").status_code for _ in range(45)]
    assert statuses == [202] * 40 + [503] * 5
    assert submit(other, web, new_image(), "image/png").status_code == 202


@pytest.mark.parametrize("name", ["H7 jobs that are deleted"])
def test_jobs_work_after_an_attack(start_web: Start, redis: Redis, name: str):
    web = start_web()
    ATTACKS[name](web.url)
    response = submit(client("127.0.0.2"), web, new_image(), "image/png")
    assert end_of(web, response.json()["id"], 60)["status"] == "succeeded"
    assert int(redis.execute("ZCARD", "mlserve:{jobs}:gone")) <= 50_000
