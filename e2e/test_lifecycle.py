"""How the two programs start, stop, break and come back, as processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import time
from typing import Callable

import pytest
import requests

from client import result_of, predict, assert_problem
from images import new_image
from services import BINARIES, Process, Service, children_of, free_port, wait_until

Spawn = Callable[..., Service]
UNREACHABLE = "The model server is unreachable; only cached results are available."


# ---- Settings -------------------------------------------------------------------------------------------------------


def words_at_the_end(name: str, tmp_path, **settings: object) -> tuple[int, str]:
    process = Process(name, [str(BINARIES / name)], tmp_path, {key: str(value) for key, value in settings.items()})
    process.start()
    try:
        return process.running.wait(20), process.log()
    finally:
        process.end()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("APP_TYPE", "gui"),
        ("PORT", "70000"),
        ("HOST", "nowhere"),
        ("METRICS_ADDR", "9100"),
        ("MODEL_API_URL", "model_api:5050"),
        ("MAX_BODY_BYTES", "1"),
        ("BODY_MEMORY_BYTES", "2048"),
        ("HEADER_TIMEOUT_MS", "-1"),
        ("IDLE_TIMEOUT_MS", "0"),
        ("MAX_CONNECTIONS", "0"),
        ("CACHE_TTL_S", "0"),
        ("NEAR_CACHE_BYTES", "much"),
        ("REDIS_URL", "nonsense"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "a=b=c"),
    ],
)
def test_web_api_names_a_bad_setting_in_one_line_and_ends_with_64(tmp_path, binaries, variable: str, value: str):
    code, words = words_at_the_end("web_api", tmp_path, **{"PORT": free_port(), variable: value})
    assert (code, words.startswith(f"{variable}: "), words.count("\n")) == (64, True, 1), words


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MODEL_NAME", ""),
        ("MODEL_NAME", "../mnist"),
        ("MODELS_DIR", "/nowhere"),
        ("DEVICE", "tpu"),
        ("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so"),
        ("QUEUE_LENGTH", "0"),
        ("RUN_TIMEOUT_MS", "soon"),
        ("MAX_IMAGE_SIDE", "0"),
        ("PORT", "x"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_model_api_names_a_bad_setting_in_one_line_and_ends_with_64(
    tmp_path, binaries, models, onnxruntime, variable: str, value: str
):
    good = {"MODEL_NAME": "mnist", "MODELS_DIR": models, "ORT_DYLIB_PATH": onnxruntime, "PORT": free_port()}
    code, words = words_at_the_end("model_api", tmp_path, **good | {variable: value})
    assert (code, words.startswith(f"{variable}: "), words.count("\n")) == (64, True, 1), words


def test_an_unknown_model_ends_with_64_and_names_those_there_are(tmp_path, binaries, models, onnxruntime):
    settings = {"MODEL_NAME": "mnist,nope", "MODELS_DIR": models, "ORT_DYLIB_PATH": onnxruntime}
    code, words = words_at_the_end("model_api", tmp_path, **settings)
    assert (code, words) == (64, 'MODEL_NAME: there is no model "nope"; available models: leukemia, mnist\n')


def test_cuda_alone_is_refused_where_there_is_none(tmp_path, binaries, models, onnxruntime):
    if os.path.exists("/proc/driver/nvidia"):
        pytest.skip("there is an NVIDIA card")
    settings = {"MODEL_NAME": "mnist", "MODELS_DIR": models, "ORT_DYLIB_PATH": onnxruntime, "DEVICE": "cuda"}
    addresses = {"PORT": free_port(), "METRICS_ADDR": f"127.0.0.1:{free_port()}"}
    code, words = words_at_the_end("model_api", tmp_path, **settings | addresses)
    assert (code, "DEVICE=cuda" in words) == (1, True), words


def test_a_port_in_use_is_named(tmp_path, binaries):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, words = words_at_the_end("web_api", tmp_path, PORT=port, METRICS_ADDR=f"127.0.0.1:{free_port()}")
    assert (code, f"PORT 127.0.0.1:{port}" in words) == (1, True), words


def test_the_health_subcommand_prints_the_reason(spawn: Spawn, tmp_path):
    web = spawn("web_api", wait=False, APP_TYPE="cli", MODEL_API_URL=f"http://127.0.0.1:{free_port()}")
    wait_until(lambda: web.health().status_code == 503, "it listens")
    process = Process("health", [str(BINARIES / "web_api"), "health"], tmp_path, {"PORT": str(web.port)})
    process.start()
    assert process.running.wait(10) == 1
    assert '"reason":"model_api does not answer"' in process.log()


@pytest.mark.parametrize("name", ["web_api", "model_api"])
def test_the_metrics_subcommand_prints_the_running_services_metrics(spawn: Spawn, model_api: Service, tmp_path, name: str):
    service = spawn("web_api", MODEL_API_URL=model_api.url) if name == "web_api" else model_api
    printed = Process("metrics", [str(BINARIES / name), "metrics"], tmp_path, {"METRICS_ADDR": f"127.0.0.1:{service.metrics_port}"})
    printed.start()
    assert printed.running.wait(10) == 0
    assert f"# TYPE {name}_requests counter" in printed.log() and printed.log().endswith("# EOF\n")
    service_gone = Process("metrics", [str(BINARIES / name), "metrics"], tmp_path, {"METRICS_ADDR": f"127.0.0.1:{free_port()}"})
    service_gone.start()
    assert (service_gone.running.wait(10), "does not answer" in service_gone.log()) == (1, True)


# ---- Logs -----------------------------------------------------------------------------------------------------------


def test_polls_and_health_checks_are_not_in_the_log_and_requests_are(spawn: Spawn):
    model = spawn("model_api")
    web = spawn("web_api", MODEL_API_URL=model.url)
    assert result_of(predict(web.url, new_image()))["label"] == "7"
    wait_until(lambda: model.count("model_api_requests_total", route="/models") >= 3, "web_api polls", 20)
    wait_until(lambda: "request completed" in model.log(), "the request is logged")
    about_requests = [line for line in model.log().splitlines() if "request completed" in line]
    assert len(about_requests) == 1 and 'path="/v2/models/mnist' in about_requests[0], about_requests


def test_a_log_that_is_not_read_stalls_no_request(spawn: Spawn, model_api: Service, tmp_path):
    port = free_port()
    # A pipe that is never read holds 64 KB; each of these requests has a line of more than 100 bytes.
    settings = {"PORT": port, "METRICS_ADDR": f"127.0.0.1:{free_port()}", "MODEL_API_URL": model_api.url, "LOG_LEVEL": "debug"}
    stalled = Process("stalled", ["sh", "-c", f"exec {BINARIES}/web_api 2>{tmp_path}/log"], tmp_path, {key: str(value) for key, value in settings.items()})
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    stalled.start()
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: requests.get(f"{url}/health/ready", timeout=10).status_code == 200, "it is ready", 30)
        with requests.Session() as session:
            for _ in range(1500):
                assert session.get(f"{url}/health/live", timeout=10).status_code == 200
        assert result_of(predict(url, new_image()))["label"] == "7"
        log = b""

        def goes_on() -> bool:
            nonlocal log
            assert requests.get(f"{url}/nowhere", timeout=10).status_code == 404
            log += os.read(reader, 1 << 20)
            return b'path="/nowhere"' in log

        wait_until(goes_on, "the log goes on")
    finally:
        stalled.end()
        os.close(reader)


def test_the_log_file_is_bounded_private_and_keeps_the_end(tmp_path, binaries):
    file = tmp_path / "service.log"
    writer = subprocess.Popen([str(BINARIES / "web_api"), "log"], stdin=subprocess.PIPE, env={"LOG_FILE": str(file)})
    lines = 300_000
    for number in range(lines):
        writer.stdin.write(b"%0100d\n" % number)
    writer.stdin.close()
    assert writer.wait(30) == 0
    kept = (tmp_path / "service.log.1").read_bytes() + file.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["service.log", "service.log.1"]
    assert all(path.stat().st_size <= 10 << 20 and stat.S_IMODE(path.stat().st_mode) == 0o600 for path in tmp_path.iterdir())
    numbers = [int(line) for line in kept.splitlines()]
    assert numbers == list(range(lines - len(numbers), lines)) and len(numbers) > 100_000


# ---- Slow clients ---------------------------------------------------------------------------------------------------


def test_a_client_that_never_finishes_its_head_is_cut_off(spawn: Spawn, model_api: Service):
    web = spawn("web_api", MODEL_API_URL=model_api.url, HEADER_TIMEOUT_MS=700)
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as slow:
        begun = time.monotonic()
        slow.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        assert result_of(predict(web.url, new_image()))["label"] == "7"
        while slow.recv(1024):
            pass
        assert 0.6 < time.monotonic() - begun < 5


def test_an_idle_connection_outlives_the_time_for_a_header(spawn: Spawn, model_api: Service):
    web = spawn("web_api", MODEL_API_URL=model_api.url, HEADER_TIMEOUT_MS=300, IDLE_TIMEOUT_MS=2000)
    live = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as idle:
        for _ in range(2):
            idle.sendall(live)
            assert idle.recv(4096).startswith(b"HTTP/1.1 200 ")
            time.sleep(1)
        idle.sendall(live)
        assert idle.recv(4096).startswith(b"HTTP/1.1 200 ")
        begun = time.monotonic()
        assert idle.recv(4096) == b"" and time.monotonic() - begun > 1.5


def test_an_idle_connection_does_not_keep_a_service_from_stopping(spawn: Spawn, model_api: Service):
    web = spawn("web_api", MODEL_API_URL=model_api.url)
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as idle:
        idle.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert web.terminate(10) == 0


def test_a_client_that_never_finishes_its_body_gets_a_timeout(spawn: Spawn, model_api: Service):
    web = spawn("web_api", MODEL_API_URL=model_api.url, BODY_TIMEOUT_MS=500)
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as slow:
        slow.sendall(head(1000) + b"x")
        assert slow.recv(1024).startswith(b"HTTP/1.1 408 ")
    assert result_of(predict(web.url, new_image()))["label"] == "7"


def test_one_connection_too_many_is_refused_where_all_are_busy_and_the_others_are_served(spawn: Spawn, model_api: Service):
    web = spawn("web_api", MODEL_API_URL=model_api.url, MAX_CONNECTIONS=5)
    image = new_image()
    busy = []

    def is_refused() -> bool:
        # One more each time: connections that were closed a moment ago may still count.
        busy.append(socket.create_connection(("127.0.0.1", web.port), timeout=10))
        busy[-1].sendall(head(len(image)))
        return requests.get(web.url, timeout=10).status_code == 503

    wait_until(is_refused, "one too many is refused")
    assert len(busy) >= 3, "refused although there was room"
    busy[0].sendall(image)
    assert busy[0].recv(1024).startswith(b"HTTP/1.1 200 ")
    for connection in busy:
        connection.close()
    assert wait_until(lambda: web.health().status_code == 200, "there is room again")


# ---- Stopping -------------------------------------------------------------------------------------------------------


def head(length: int, path: str = "/predict/mnist") -> bytes:
    lines = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: image/png\r\nContent-Length: {length}\r\n\r\n"
    return lines.encode()


@pytest.mark.parametrize(
    ("name", "path", "answers"),
    [("web_api", "/predict/mnist", b'"label":"7"'), ("model_api", "/v2/models/mnist/infer", b'"model_name":"mnist"')],
)
def test_sigterm_during_an_upload_finishes_it_after_readiness_is_gone(
    spawn: Spawn, model_api: Service, name: str, path: str, answers: bytes
):
    service = spawn(name, MODEL_API_URL=model_api.url, LAME_DUCK_MS=2500)
    image = new_image()
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as upload:
        upload.sendall(head(len(image), path) + image[:100])
        wait_until(lambda: service.count(f"{name}_in_flight") == 1, "the upload has begun")
        service.signal(signal.SIGTERM)
        unready = wait_until(lambda: (health := service.health()).status_code == 503 and health.json(), "it is unready", 2)
        assert (unready["ready"], unready["live"], unready["reason"]) == (False, True, "stopping")
        # No longer than the lame duck lasts are others let in.
        wait_until(lambda: not listens(service.port), "new connections are refused")
        assert service.running.poll() is None
        upload.sendall(image[100:])
        answer = b"".join(iter(lambda: upload.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answers in answer
    assert service.running.wait(10) == 0


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except ConnectionRefusedError:
        return False


def test_an_upload_that_never_ends_is_cut_when_the_drain_has_lasted_long_enough(spawn: Spawn, model_api: Service):
    web = spawn("web_api", MODEL_API_URL=model_api.url, DRAIN_TIMEOUT_MS=500)
    with socket.create_connection(("127.0.0.1", web.port), timeout=20) as upload:
        upload.sendall(head(1000) + b"x")
        wait_until(lambda: web.count("web_api_in_flight") == 1, "the upload has begun")
        web.signal(signal.SIGTERM)
        assert web.running.wait(5) == 1


def test_model_api_takes_its_children_with_it(spawn: Spawn):
    for end in (Service.kill, Service.terminate):
        model = spawn("model_api", MODEL_NAME="all", SESSION_THREADS="2")
        children = children_of(model.pid)
        assert len(children) == 4, "two models, each with a session for each of two cores"
        end(model)
        wait_until(lambda: not any(os.path.exists(f"/proc/{child}") for child in children), "the sessions have ended")


# ---- Breaking -------------------------------------------------------------------------------------------------------


def test_a_session_killed_is_replaced_and_the_next_request_is_answered(spawn: Spawn):
    model = spawn("model_api", SESSION_THREADS="1")
    web = spawn("web_api", MODEL_API_URL=model.url)
    (child,) = children_of(model.pid)
    os.kill(child, signal.SIGKILL)
    assert result_of(predict(web.url, new_image()))["label"] == "7"
    assert model.count("model_api_session_restarts_total", model="mnist") == 1
    assert children_of(model.pid) != [child]


def test_without_model_api_cached_answers_are_given_and_others_a_clear_503(spawn: Spawn):
    model = spawn("model_api")
    web = spawn("web_api", MODEL_API_URL=model.url)
    known = new_image()
    result_of(predict(web.url, known))

    model.kill()
    assert_problem(predict(web.url, new_image()), 503, UNREACHABLE)
    assert result_of(predict(web.url, known))["cached"]
    health = wait_until(lambda: (health := web.health()).status_code == 503 and health.json(), "health reports it")
    assert health["model_api"] == {"running": False, "ready": False, "reason": "model_api does not answer"}
    assert result_of(predict(web.url, known))["cached"]

    model.start()
    fresh = wait_until(lambda: (answer := predict(web.url, new_image())).status_code == 200 and answer.json(), "it is back")
    assert (fresh["label"], fresh["cached"]) == ("7", False)
    web.wait_ready(5)


def test_web_api_starts_before_model_api(spawn: Spawn):
    port = free_port()
    web = spawn("web_api", wait=False, MODEL_API_URL=f"http://127.0.0.1:{port}")
    wait_until(lambda: web.health().status_code == 503, "it listens and is not ready")
    assert_problem(predict(web.url, new_image()), 503, UNREACHABLE)
    spawn("model_api", PORT=port, wait=False)
    web.wait_ready()
    assert result_of(predict(web.url, new_image()))["label"] == "7"


def test_a_replica_killed_under_load_costs_no_request(spawn: Spawn, model_api: Service):
    doomed = spawn("model_api", MODEL_NAME="all")
    web = spawn("web_api", MODEL_API_URL=f"{model_api.url},{doomed.url}")
    statuses = []
    for number in range(60):
        if number == 20:
            doomed.kill()
        statuses.append(predict(web.url, new_image()).status_code)
    assert statuses == [200] * 60
    assert web.health().status_code == 200
