"""`./start_all.sh cli all --native`: the two release binaries, the shipped models, the memory in front of them."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import pytest
import requests

from client import result_of, predict, assert_problem
from images import encode, new_image, old_array, samples, seven
from services import MODELS, ROOT, count, free_port, wait_until

PIDS = ROOT / ".mlserve"


@dataclass
class Stack:
    """What start_all.sh started."""

    url: str
    environment: dict[str, str]
    # The output of start_all.sh.
    started: str = ""

    def run(self, script: str, *words: str, **settings: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [str(ROOT / script), *words],
            env=self.environment | settings,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def runs(self, model: str) -> float:
        """Number of inference runs, as model_api counts them."""
        return self.count("MODEL_METRICS_PORT", "model_api_runs_total", model=model)

    def inferences(self, model: str) -> float:
        """Number of rows sent by web_api."""
        return self.count("METRICS_PORT", "web_api_inferences_total", model=model)

    def count(self, port: str, metric: str, **labels: str) -> float:
        return count(f"http://127.0.0.1:{self.environment[port]}/metrics", metric, **labels)


def new_stack(onnxruntime: str) -> Stack:
    ports = {name: str(free_port()) for name in ("PORT", "MODEL_PORT", "METRICS_PORT", "MODEL_METRICS_PORT")}
    # A separate project: containers that run here are not the test's.
    settings = {"COMPOSE_PROJECT_NAME": "mlserve_native_e2e", "ORT_DYLIB_PATH": onnxruntime, "MODELS_DIR": str(MODELS)}
    kept = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "MODEL_NAME", "APP_TYPE")}
    return Stack(f"http://127.0.0.1:{ports['PORT']}", kept | settings | ports)


@pytest.fixture(scope="module")
def stack(own_checkout: None, binaries: Path, models: Path, onnxruntime: str) -> Iterator[Stack]:
    stack = new_stack(onnxruntime)
    started = stack.run("start_all.sh", "cli", "all", "--native", "--device", "cpu")
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        stack.started = started.stdout
        yield stack
    finally:
        stopped = stack.run("stop_all.sh")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    for part in ("web_api", "model_api"):
        assert "panicked" not in (PIDS / f"{part}.log").read_text(errors="replace")


# ---- Starting -------------------------------------------------------------------------------------------------------


def test_it_greets_and_is_ready_with_both_models(stack: Stack):
    assert requests.get(stack.url, timeout=10).json() == "Can curl web api!"
    health = requests.get(f"{stack.url}/health/ready", timeout=10).json()
    assert (health["ready"], health["degraded"], health["memory"]) == (True, [], {"kind": "near", "redis": "off"})
    assert [(model["name"], model["state"]) for model in health["models"]] == [("leukemia", "READY"), ("mnist", "READY")]


def test_the_health_script_reports_it_in_its_text_format(stack: Stack):
    health = stack.run("check_health.sh")
    assert health.returncode == 0, health.stdout
    assert {"Web_API running: true", "Model_API running: true"} <= set(health.stdout.splitlines())
    assert {"Model leukemia 1: ready on cpu", "Model mnist 1: ready on cpu"} <= set(health.stdout.splitlines())


def test_the_health_script_prints_json(stack: Stack):
    health = stack.run("check_health.sh", "--json")
    assert health.returncode == 0, health.stdout
    report = json.loads(health.stdout)
    assert (report["mode"], report["ready"]) == ("native", True)
    assert [(part["name"], part["running"], part["ready"]) for part in report["parts"]] == [
        ("Web_API", True, True), ("Model_API", True, True), ("DB_API", None, None)
    ]
    model = {"version": "1", "state": "READY", "device": "cpu", "reason": None}
    assert report["models"] == [{"name": "leukemia", **model}, {"name": "mnist", **model}]


def test_a_start_names_a_sample_that_exists_and_where_it_is_reached(stack: Stack):
    (example,) = re.findall(r"try it +(curl .*)", stack.started)
    assert example.endswith(f"{stack.url.replace('127.0.0.1', 'localhost')}/predict/mnist")
    done = subprocess.run(["bash", "-c", f"{example} --silent --fail-with-body"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, '"label":"' in done.stdout) == (0, True), done.stdout + done.stderr
    assert "this machine only" in stack.started


def test_logs_are_private_and_show_no_polls(stack: Stack):
    for part in ("web_api", "model_api"):
        log = PIDS / f"{part}.log"
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
        assert log.stat().st_size > 0 and "/health/" not in log.read_text() and "path=\"/models\"" not in log.read_text()


def test_workers_need_containers(stack: Stack):
    refused = stack.run("start_all.sh", "cli", "all", "--workers", "1")
    assert (refused.returncode, "--workers needs containers" in refused.stderr) == (64, True), refused.stderr


def test_starting_twice_reports_that_it_runs(stack: Stack):
    again = stack.run("start_all.sh", "cli", "all", "--native")
    assert (again.returncode, "runs already" in again.stdout) == (0, True), again.stdout + again.stderr
    other = stack.run("start_all.sh", "ui", "mnist", "--native")
    assert (other.returncode, "./stop_all.sh" in other.stderr) == (1, True), other.stdout + other.stderr


def test_a_wrong_app_type_or_model_stops_before_anything_else(stack: Stack):
    for words, named in ((["gui", "mnist"], "ui and cli"), (["ui", "nope"], "leukemia mnist"), (["ui"], "usage:")):
        wrong = stack.run("start_all.sh", *words)
        assert (wrong.returncode, named in wrong.stderr) == (64, True), wrong.stdout + wrong.stderr


# ---- Answering ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["mnist", "leukemia"])
def test_the_shipped_models_answer_their_samples_as_their_trainer_did(stack: Stack, model: str):
    for sample in samples(model):
        answer = result_of(predict(stack.url, sample.image, model))
        assert answer["label"] == sample.label, sample.name
        got = [score["value"] for score in answer["probabilities"]]
        assert got == pytest.approx(sample.probabilities, abs=sample.tolerance), sample.name
        assert answer["value"] == max(got)
        assert (answer["model"], answer["device"]) == (model, "cpu")


def test_results_of_a_medical_model_carry_its_notice(stack: Stack):
    answer = result_of(predict(stack.url, samples("leukemia")[0].image, "leukemia"))
    assert answer["notice"].startswith("Not for clinical use.")
    assert "notice" not in result_of(predict(stack.url, encode(seven())))


def test_a_drawn_digit_is_read(stack: Stack):
    answer = result_of(predict(stack.url, new_image()))
    assert (answer["label"], answer["cls"]) == ("7", 7)


def test_the_old_clients_are_answered_and_share_no_key_with_the_spelling_of_their_numbers(stack: Stack):
    array = old_array(seven())
    first = requests.post(f"{stack.url}/web_api/mnist", json={"image_arr": array}, timeout=10)
    assert result_of(first).keys() == {"cls", "value"}
    assert first.json()["cls"] == 7
    # 1.0 as 1, and a space more.
    spelled = str(array).replace("1.0]", "1]").replace("0.0]", "0]")
    again = requests.post(f"{stack.url}/web_api/mnist", data=f'{{"image_arr" : {spelled} }}', timeout=10)
    assert (again.json(), again.headers["Cache-Status"]) == (first.json(), "mlserve; hit")


def test_the_image_as_the_model_sees_it_comes_as_png(stack: Stack):
    seen = requests.post(f"{stack.url}/input/mnist", files={"image": encode(seven())}, timeout=10)
    assert (seen.status_code, seen.headers["Content-Type"]) == (200, "image/png")
    assert seen.content.startswith(b"\x89PNG")


def test_several_models_and_none_named_is_answered_with_their_names(stack: Stack):
    nameless = requests.post(f"{stack.url}/predict", files={"image": encode(seven())}, timeout=10)
    assert_problem(nameless, 422, "Several models are served; name one in the path: leukemia, mnist.")


# ---- Cache ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["mnist", "leukemia"])
def test_an_image_is_cached_on_the_second_request(stack: Stack, model: str):
    image = new_image() if model == "mnist" else samples(model)[0].image
    requests.delete(f"{stack.url}/cache/{model}", timeout=10)
    first = predict(stack.url, image, model)
    second = predict(stack.url, image, model)
    assert [result_of(each)["cached"] for each in (first, second)] == [False, True]
    assert first.headers["Cache-Status"] == "mlserve; fwd=miss; stored"
    assert second.headers["Cache-Status"] == "mlserve; hit"
    assert "Age" not in first.headers
    assert int(second.headers["Age"]) >= 0
    assert first.json()["probabilities"] == second.json()["probabilities"]


def test_a_form_and_a_plain_body_share_the_cache(stack: Stack):
    image = new_image()
    form = predict(stack.url, image)
    body = requests.post(f"{stack.url}/predict/mnist", data=image, headers={"Content-Type": "image/png"}, timeout=10)
    assert result_of(body)["key"] == result_of(form)["key"]
    assert body.json()["cached"]


def test_a_hundred_identical_simultaneous_requests_cost_one_inference(stack: Stack):
    image = new_image()
    runs, inferences = stack.runs("mnist"), stack.inferences("mnist")
    together = threading.Barrier(100)

    def one(_: int) -> dict:
        together.wait(30)
        return result_of(predict(stack.url, image))

    with ThreadPoolExecutor(100) as clients:
        answers = list(clients.map(one, range(100)))
    assert len({answer["key"] for answer in answers}) == 1
    assert {answer["label"] for answer in answers} == {"7"}
    assert (stack.runs("mnist") - runs, stack.inferences("mnist") - inferences) == (1, 1)


def test_no_cache_computes_and_stores(stack: Stack):
    image = new_image()
    before = stack.runs("mnist")
    for _ in range(2):
        assert predict(stack.url, image, Cache_Control="no-cache").headers["Cache-Status"] == "mlserve; fwd=request; stored"
    assert stack.runs("mnist") - before == 2
    assert result_of(predict(stack.url, image))["cached"]


def test_no_store_leaves_no_trace(stack: Stack):
    image = new_image()
    assert predict(stack.url, image, Cache_Control="no-store").headers["Cache-Status"] == "mlserve; fwd=request"
    unknown = predict(stack.url, image, Cache_Control="only-if-cached")
    assert_problem(unknown, 504, "The result is not cached, or the request forbids a cached result, and only-if-cached forbids inference.")


def test_a_matching_etag_gets_304_without_a_body(stack: Stack):
    image = new_image()
    tag = predict(stack.url, image).headers["ETag"]
    known = predict(stack.url, image, If_None_Match=tag)
    assert (known.status_code, known.content, known.headers["ETag"]) == (304, b"", tag)
    assert predict(stack.url, new_image(), If_None_Match=tag).status_code == 200


def test_deleting_invalidates_one_model_and_no_other(stack: Stack):
    cell = samples("leukemia")[0].image
    predict(stack.url, encode(seven()))
    predict(stack.url, cell, "leukemia")
    deleted = result_of(requests.delete(f"{stack.url}/cache/mnist", timeout=10))
    assert (deleted["model"], deleted["forgotten"] >= 1) == ("mnist", True)
    assert predict(stack.url, encode(seven()), Cache_Control="only-if-cached").status_code == 504
    assert result_of(predict(stack.url, cell, "leukemia"))["cached"]


# ---- Stopping -------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_reported_with_the_remedy_and_everything_stops_and_starts_again(stack: Stack):
    stopped = stack.run("stop_all.sh")
    assert (stopped.returncode, "stopped" in stopped.stdout) == (0, True), stopped.stderr
    with pytest.raises(requests.ConnectionError):
        requests.get(stack.url, timeout=10)
    health = stack.run("check_health.sh")
    assert (health.returncode, health.stdout.splitlines()[:3]) == (
        1,
        ["Web_API running: false", "Model_API running: false", "DB_API running: false"],
    )

    with socket.create_server(("127.0.0.1", int(stack.environment["PORT"]))):
        taken = stack.run("start_all.sh", "cli", "mnist", "--native")
    assert taken.returncode == 1
    assert f"port {stack.environment['PORT']} is in use" in taken.stderr
    assert "PORT=" in taken.stderr

    begun = time.monotonic()
    started = stack.run("start_all.sh", "cli", "mnist", "--native")
    assert started.returncode == 0, started.stdout + started.stderr
    assert f"http://localhost:{stack.environment['PORT']}" in started.stdout
    print(f"start_all.sh --native came back after {time.monotonic() - begun:.1f} s")
    # Where there is no card, `auto` misses none.
    if not os.path.exists("/dev/nvidiactl"):
        assert "stepped down" not in started.stdout + stack.run("check_health.sh").stdout
        assert requests.get(f"{stack.url}/health/ready", timeout=10).json()["degraded"] == []
    # The only model needs no name.
    wait_until(lambda: requests.post(f"{stack.url}/predict", files={"file": new_image()}, timeout=10).ok, "it answers")
