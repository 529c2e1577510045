"""Connections that are opened and left, requests of other web sites, and headers that are long, missing or doubled."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Callable

import pytest
import requests
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from client import result_of, predict
from attacks_connections import ATTACKS, EVIL, HTTP2, connections
from images import new_image
from services import BINARIES, Service, free_port, wait_until

Spawn = Callable[..., Service]

MAX_CONNECTIONS = 16
SECRET = "a secret-of-the-stack".replace(" ", "-")


@pytest.fixture(scope="module")
def web(spawn_shared: Spawn, model_api: Service) -> Service:
    return spawn_shared("web_api", MODEL_API_URL=model_api.url)


def raw(port: int, sent: bytes) -> bytes:
    """All that the server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(sent)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def status(port: int, *lines: str, version: str = "1.1") -> int:
    head = "\r\n".join([f"GET /health/live HTTP/{version}", *lines, "Connection: close", "", ""])
    return int(raw(port, head.encode()).split()[1])


# ---- Places ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [HTTP2, b"", HTTP2[:10], b"GET / HTTP/1.1\r\nX-Slow: "], ids=["HTTP/2", "silent", "preface", "header"])
def test_idle_connections_give_way_to_new_clients(spawn: Spawn, model_api: Service, sent: bytes):
    web = spawn("web_api", MODEL_API_URL=model_api.url, MAX_CONNECTIONS=MAX_CONNECTIONS, IDLE_TIMEOUT_MS=60_000, HEADER_TIMEOUT_MS=60_000)
    with connections(web.url, sent, 2 * MAX_CONNECTIONS):
        for _ in range(3):
            assert result_of(predict(web.url, new_image()))["label"] == "7"


def test_a_connection_with_a_request_in_flight_keeps_its_place(spawn: Spawn, model_api: Service):
    web = spawn("web_api", MODEL_API_URL=model_api.url, MAX_CONNECTIONS=MAX_CONNECTIONS)
    image = new_image()
    head = f"POST /predict/mnist HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {len(image)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as busy:
        busy.sendall(head.encode() + image[:10])
        for sent in (b"", HTTP2):
            with connections(web.url, sent, 3 * MAX_CONNECTIONS):
                assert result_of(predict(web.url, new_image()))["label"] == "7"
        busy.sendall(image[10:])
        assert busy.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_health_check_needs_none_of_the_clients_places(spawn: Spawn, model_api: Service):
    web = spawn("web_api", MODEL_API_URL=model_api.url, MAX_CONNECTIONS=MAX_CONNECTIONS)
    upload = b"POST /predict/mnist HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
    with connections(web.url, upload, 2 * MAX_CONNECTIONS):
        wait_until(lambda: requests.get(web.url, timeout=10).status_code == 503, "all places are taken by busy connections")
        requested = subprocess.run([*web.command, "health"], env=web.environment, capture_output=True, text=True, timeout=30)
        assert (requested.returncode, '"ready":true' in requested.stdout) == (0, True), requested.stdout
    metrics = f"http://127.0.0.1:{model_api.metrics_port}"
    assert [requests.get(f"{metrics}/health/{what}", timeout=10).status_code for what in ("live", "ready")] == [200, 200]


def limits(pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line for line in lines if line.startswith("Max open files")).split()[3:5]


@pytest.mark.parametrize("name", ["web_api", "model_api"])
def test_the_limit_of_open_files_is_raised_or_the_service_does_not_start(tmp_path: Path, spawn: Spawn, name: str):
    def limited(ulimit: str) -> list[str]:
        return ["bash", "-c", f'ulimit {ulimit} && exec "$0"', str(BINARIES / name)]

    service = spawn(name, wait=False, MODEL_API_URL=f"http://127.0.0.1:{free_port()}")
    wait_until(lambda: service.health().status_code, "it listens")
    service.terminate()
    service.command = limited("-Sn 300")
    service.start()
    wait_until(lambda: service.health().status_code, "it listens")
    assert int(limits(service.pid)[0]) > 1024
    environment = service.environment | {"PORT": str(free_port()), "METRICS_ADDR": f"127.0.0.1:{free_port()}"}
    refused = subprocess.run(limited("-n 1024"), env=environment, capture_output=True, text=True, timeout=60)
    reported = refused.stdout + refused.stderr
    assert refused.returncode == 64 and "MAX_CONNECTIONS: 1024 connections need" in reported, reported


# ---- Other web sites ------------------------------------------------------------------------------------------------


def test_a_page_of_another_origin_changes_nothing(web: Service, model_api: Service):
    ATTACKS["H8 requests of another web site"](web.url)
    refused = requests.post(f"{web.url}/v2/repository/models/mnist/unload", headers=EVIL, timeout=10)
    assert refused.status_code == 403 and "CORS_ALLOW_ORIGINS" in refused.json()["error"]
    for service in (web, model_api):
        assert requests.get(f"{service.url}/v2/models/mnist/ready", timeout=10).status_code == 200
    assert requests.get(f"{web.url}/jobs", timeout=10).json() == {"jobs": []}
    for headers in (EVIL, {"Origin": model_api.url}, {"Sec-Fetch-Site": "same-origin"}):
        for path in ("/", "/models", "/v2/models/mnist"):
            assert requests.get(model_api.url + path, headers=headers, timeout=10).status_code == 403


def test_a_call_of_grpc_is_refused_in_its_own_words(web: Service):
    with triton_grpc.InferenceServerClient(web.url.removeprefix("http://")) as client:
        assert client.is_server_live()
        with pytest.raises(InferenceServerException, match="CORS_ALLOW_ORIGINS"):
            client.is_server_live(headers={"origin": "https://evil.example"})


def test_a_name_of_another_web_site_is_misdirected_unless_it_is_allowed_or_the_port_is_published(spawn: Spawn, model_api: Service):
    rebound = "Host: rebound.example:5000"
    settings = [({}, 421), ({"ALLOWED_HOSTS": "a.example,Rebound.example"}, 200), ({"PUBLISH": "0.0.0.0"}, 200)]
    for setting, expected in settings:
        web = spawn("web_api", MODEL_API_URL=model_api.url, **setting)
        assert status(web.port, rebound) == expected, setting
        assert status(web.port, f"Host: localhost:{web.port}") == status(web.port, "Host: [::1]") == 200
    assert status(model_api.port, rebound) == 421


def test_an_origin_that_is_allowed_may_use_the_service(spawn: Spawn, model_api: Service):
    web = spawn("web_api", MODEL_API_URL=model_api.url, CORS_ALLOW_ORIGINS="https://app.example")
    headers = {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}
    preflight = headers | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for path in ("/predict", "/v2/models/mnist/infer", "/jobs"):
        allowed = requests.options(web.url + path, headers=preflight, timeout=10)
        assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (200, "https://app.example")
    predicted = requests.post(f"{web.url}/predict/mnist", files={"image": new_image()}, headers=headers, timeout=60)
    assert result_of(predicted)["label"] == "7"
    assert "cache-status" in predicted.headers["Access-Control-Expose-Headers"]
    assert requests.post(f"{web.url}/predict/mnist", files={"image": new_image()}, headers=EVIL, timeout=60).status_code == 403


def test_models_are_loaded_with_the_secret_alone(spawn: Spawn):
    models = spawn("model_api", MODEL_API_SECRET=SECRET)
    web = spawn("web_api", MODEL_API_URL=models.url, MODEL_API_SECRET=SECRET)
    for verb in ("load", "unload", "load"):
        path = f"/v2/repository/models/mnist/{verb}"
        refused = requests.post(models.url + path, timeout=30)
        assert (refused.status_code, "MODEL_API_SECRET" in refused.json()["error"]) == (403, True)
        assert requests.post(web.url + path, timeout=60).status_code == 200
    with triton_grpc.InferenceServerClient(models.url.removeprefix("http://")) as client:
        with pytest.raises(InferenceServerException, match="MODEL_API_SECRET"):
            client.unload_model("mnist")
    other = spawn("web_api", MODEL_API_URL=models.url)
    refused = requests.post(f"{other.url}/v2/repository/models/mnist/unload", timeout=30)
    assert (refused.status_code, "MODEL_API_SECRET" in refused.json()["error"]) == (403, True)
    # Without a secret, a service that others can reach takes no such request.
    reachable = spawn("model_api", HOST="0.0.0.0")
    assert requests.post(f"{reachable.url}/v2/repository/models/mnist/unload", timeout=30).status_code == 403
    assert SECRET not in models.log() + web.log()


# ---- Headers --------------------------------------------------------------------------------------------------------


def test_a_request_has_exactly_one_host(web: Service, model_api: Service):
    for port in (web.port, model_api.port):
        assert status(port, "Host: localhost") == 200
        assert status(port) == status(port, "Host: localhost", "Host: localhost") == status(port, "Host: a b") == 400
        assert status(port, version="1.0") == 200


def test_what_is_repeated_of_a_request_is_bounded(web: Service):
    before = len(web.log())
    long = requests.get(f"{web.url}/health/live", headers={"X-Request-Id": "x" * 60_000}, timeout=10)
    assert len(long.headers["X-Request-Id"]) == 36
    kept = requests.get(f"{web.url}/health/live", headers={"X-Request-Id": "x" * 128}, timeout=10)
    assert kept.headers["X-Request-Id"] == "x" * 128
    refused = requests.request("A" * 30_000, f"{web.url}/predict", timeout=10)
    assert refused.status_code == 405 and len(refused.text) < 500
    assert requests.get(f"{web.url}/{'a' * 50_000}", timeout=10).status_code == 404
    wait_until(lambda: "/aaaa" in web.log()[before:], "the last request is in the log")
    assert len(web.log()) - before < 5_000


def test_credentials_of_an_address_are_not_printed(tmp_path: Path, binaries: Path):
    for url in ("https://user:hunter2@model_api:5050", "user:hunter2@model_api"):
        environment = {"MODEL_API_URL": url, "PORT": str(free_port())}
        refused = subprocess.run([str(BINARIES / "web_api")], env=environment, capture_output=True, text=True, timeout=30)
        reported = refused.stdout + refused.stderr
        assert refused.returncode == 64 and "MODEL_API_URL" in reported and "hunter2" not in reported, reported
