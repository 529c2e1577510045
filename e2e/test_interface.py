"""What others depend on, held against the record in `e2e/interface/`: HTTP, metrics, settings, exit codes, Redis keys and stored bytes.

gRPC is in `test_interface_grpc.py`.

`RECORD_INTERFACE=1 pytest e2e/test_interface.py` writes the record anew; its diff is then the change of the interface. The file
`stored.json` holds what an earlier release has written to Redis. It is recorded anew only when a release may discard what an earlier
one has stored.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Callable
from urllib.parse import urlsplit

import pytest
import redis as redis_client
import requests

from services import BINARIES, ROOT, Redis, Service, free_port

RECORD = Path(__file__).parent / "interface"
RECORDING = bool(os.environ.get("RECORD_INTERFACE"))
SAMPLES = ROOT / "model_api" / "models" / "mnist" / "samples"
IMAGE = sorted(SAMPLES.glob("*.png"))[0].read_bytes()
OTHER_IMAGE = sorted(SAMPLES.glob("*.png"))[1].read_bytes()

Spawn = Callable[..., Service]

# Headers that the server or the network adds to each response, or that differ from run to run.
IGNORED_HEADERS = {"date", "connection", "transfer-encoding", "keep-alive"}

# Responses of which not only the structure is on record: the server's extensions, and a model's signature and parameters.
BY_VALUE = {"/v2", "/v2/models/mnist"}


def compare(name: str, found: object) -> None:
    """`found` must be what is on record."""
    file = RECORD / f"{name}.json"
    if RECORDING:
        RECORD.mkdir(exist_ok=True)
        file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    assert json.loads(json.dumps(found)) == json.loads(file.read_text())


def structure(value: object) -> object:
    """The keys of a JSON value with the type of each; of a list, the structure of its elements."""
    if isinstance(value, dict):
        return {key: structure(element) for key, element in value.items()}
    if isinstance(value, list):
        elements = [structure(element) for element in value]
        return [element for index, element in enumerate(elements) if element not in elements[:index]]
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return "number" if isinstance(value, (int, float)) else "string"


def constant(value: object) -> object:
    """A JSON value without what a release or the text of a reason may change."""
    if isinstance(value, dict):
        return {key: structure(element) if key in ("version", "reason") else constant(element) for key, element in value.items()}
    return [constant(element) for element in value] if isinstance(value, list) else value


def response_of(response: requests.Response) -> dict[str, object]:
    kind = response.headers.get("Content-Type", "")
    body: object = len(response.content) > 0
    path = urlsplit(response.url).path
    if path == "/openapi.json":
        body = {route: sorted({*methods} - {"parameters"}) for route, methods in response.json()["paths"].items()}
    elif path in BY_VALUE:
        body = constant(response.json())
    elif "json" in kind and "ndjson" not in kind:
        body = structure(response.json())
    elif "ndjson" in kind:
        body = structure([json.loads(line) for line in response.text.splitlines()])
    elif "csv" in kind:
        body = response.text.splitlines()[0]
    headers = sorted(name.lower() for name in response.headers if name.lower() not in IGNORED_HEADERS)
    return {
        "status": response.status_code,
        "content_type": kind,
        "cache_status": response.headers.get("Cache-Status"),
        "headers": headers,
        "body": body,
    }


@pytest.fixture
def web(spawn: Spawn, redis: Redis) -> Service:
    """A web_api with both shipped models and Redis."""
    model_api = spawn("model_api", MODEL_NAME="all")
    return spawn("web_api", MODEL_API_URL=model_api.url, REDIS_URL=redis.url)


def finished(web: Service, job: str) -> dict:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        body = requests.get(f"{web.url}/jobs/{job}", headers={"Prefer": "wait=5"}, timeout=30).json()
        if body.get("finished"):
            return body
    raise AssertionError(f"the job {job} has not ended within 60 s")


def submit(web: Service, key: str) -> requests.Response:
    """A job of two images."""
    files = [("file", ("first.png", IMAGE, "image/png")), ("file", ("second.png", OTHER_IMAGE, "image/png"))]
    return requests.post(
        f"{web.url}/jobs", params={"model": "mnist"}, files=files, headers={"Idempotency-Key": key}, timeout=30
    )


TENSOR = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 28, 28, 1], "data": [0.5] * 784}]}


# ---- HTTP ----------------------------------------------------------------------------------------------------------


def test_http_responses_have_the_recorded_structure(web: Service):
    image = {"image": ("seven.png", IMAGE, "image/png")}
    job = submit(web, "http").json()["id"]
    finished(web, job)
    steps: list[tuple[str, str, dict]] = [
        ("GET", "/", {"headers": {"Accept": "application/json"}}),
        ("GET", "/", {"headers": {"Accept": "text/html"}}),
        ("GET", "/health/live", {}),
        ("GET", "/health/ready", {}),
        ("GET", "/openapi.json", {}),
        ("GET", "/docs", {}),
        ("GET", "/models", {}),
        ("GET", "/nothing", {}),
        ("GET", "/predict/mnist", {}),
        ("POST", "/predict/mnist", {"files": {"image": ("other.png", OTHER_IMAGE, "image/png")}, "headers": {"Cache-Control": "no-cache"}}),
        ("POST", "/predict/mnist", {"files": image}),
        ("POST", "/predict/mnist", {"files": image, "headers": {"Cache-Control": "no-store"}}),
        ("POST", "/predict/mnist", {"data": IMAGE, "headers": {"Content-Type": "image/png"}}),
        ("POST", "/predict/mnist", {"data": b"no image", "headers": {"Content-Type": "image/png"}}),
        ("POST", "/predict/mnist?top_k=3", {"files": image}),
        ("POST", "/predict/mnist?top_k=none", {"files": image}),
        ("POST", "/predict/nothing", {"files": image}),
        ("POST", "/predict", {"files": image}),
        ("POST", "/predict/leukemia", {"files": image, "headers": {"Cache-Control": "only-if-cached"}}),
        ("POST", "/predict/mnist", {"files": image, "headers": {"Accept": "image/png"}}),
        ("POST", "/input/mnist", {"files": image}),
        ("POST", "/web_api/mnist", {"json": {"image_arr": [[0.25] * 28] * 28}}),
        ("GET", "/v2", {}),
        ("GET", "/v2/health/live", {}),
        ("GET", "/v2/health/ready", {}),
        ("GET", "/v2/models/mnist", {}),
        ("GET", "/v2/models/mnist/ready", {}),
        ("GET", "/v2/models/mnist/config", {}),
        ("GET", "/v2/models/mnist/stats", {}),
        ("GET", "/v2/models", {}),
        ("GET", "/v2/models/stats", {}),
        ("GET", "/v2/models/mnist/versions/1", {}),
        ("GET", "/v2/models/nothing", {}),
        ("GET", "/v2/nothing", {}),
        ("POST", "/v2/repository/index", {"json": {}}),
        ("POST", "/v2/models/mnist/infer", {"json": TENSOR}),
        ("POST", "/v2/models/mnist/infer", {"json": TENSOR | {"outputs": [{"name": "probabilities", "parameters": {"classification": 3}}]}}),
        ("POST", "/v2/models/mnist/infer", {"json": TENSOR | {"parameters": {"binary_data_output": True}}}),
        ("POST", "/v2/models/mnist/infer", {"data": bytes(4 * 784), "headers": {"Inference-Header-Content-Length": "0"}}),
        ("POST", "/v2/models/mnist/infer", {"data": IMAGE, "headers": {"Content-Type": "image/png"}}),
        ("POST", "/v2/models/mnist/versions/1/infer", {"json": TENSOR}),
        ("POST", "/v2/models/mnist/infer_stream", {"json": TENSOR}),
        ("POST", "/v2/models/mnist/infer", {"json": {"inputs": []}}),
        ("POST", "/v2/models/mnist/infer", {"data": b"{", "headers": {"Content-Type": "application/json"}}),
        ("GET", "/jobs", {}),
        ("GET", f"/jobs/{job}", {}),
        ("GET", f"/jobs/{job}/results", {}),
        ("GET", f"/jobs/{job}/results", {"headers": {"Accept": "text/csv"}}),
        ("GET", f"/jobs/{job}/results", {"headers": {"Accept": "application/x-ndjson"}}),
        ("GET", f"/jobs/{job}/events", {}),
        ("POST", f"/jobs/{job}/retry", {}),
        ("GET", "/jobs/nothing", {}),
        ("DELETE", f"/jobs/{job}", {}),
        ("POST", "/jobs?model=mnist", {"data": IMAGE, "headers": {"Content-Type": "text/plain"}}),
        ("OPTIONS", "/predict/mnist", {}),
        ("POST", "/predict/mnist", {"files": image, "headers": {"Origin": "http://elsewhere.example"}}),
        ("GET", "/", {"headers": {"Host": "elsewhere.example"}}),
        ("POST", "/predict/mnist", {"files": image, "headers": {"Prefer": "respond-async"}}),
        ("DELETE", "/cache/mnist", {}),
        ("POST", "/v2/repository/models/leukemia/unload", {"json": {}}),
        ("POST", "/v2/repository/models/leukemia/load", {"json": {}}),
    ]
    found = []
    for method, path, options in steps:
        response = requests.request(method, web.url + path, timeout=30, **options)
        headers = options.get("headers", {})
        request = f"{method} {path.replace(job, 'JOB')}" + "".join(f" {name}: {value}" for name, value in headers.items())
        found.append({"request": request} | response_of(response))
    compare("http", found)


# ---- Metrics, settings, exit codes ---------------------------------------------------------------------------------


def metrics_of(service: Service) -> dict[str, object]:
    """Type of each metric, and the names of its labels."""
    text = requests.get(f"http://127.0.0.1:{service.metrics_port}/metrics", timeout=10).text
    found: dict[str, object] = {}
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        given = re.findall(rf"^{name}(?:_bucket|_sum|_count)?(?:{{(.*)}})? ", text, re.MULTILINE)
        labels = {label for sample in given for label in re.findall(r'(\w+)="', sample)}
        found[name] = {"type": kind, "labels": sorted(labels - {"le"})}
    return found


def test_metrics_have_the_recorded_names_and_labels(spawn: Spawn, redis: Redis):
    model_api = spawn("model_api", MODEL_NAME="mnist")
    web = spawn("web_api", MODEL_API_URL=model_api.url, REDIS_URL=redis.url)
    finished(web, submit(web, "metrics").json()["id"])
    for _ in range(2):
        requests.post(f"{web.url}/predict/mnist", files={"image": IMAGE}, timeout=30)
    compare("metrics", {"web_api": metrics_of(web), "model_api": metrics_of(model_api)})


def test_settings_have_the_recorded_names_and_defaults(binaries: Path):
    found = {}
    for program in ("web_api", "model_api"):
        help_text = subprocess.run([BINARIES / program, "--help"], capture_output=True, text=True, check=True).stdout
        found[program] = re.findall(r"^  ([A-Z][A-Z_]+=\S*)", help_text, re.MULTILINE)
    compare("settings", found)


def test_exit_codes_are_the_recorded_ones(binaries: Path, onnxruntime: str):
    found = {}
    for program in ("web_api", "model_api"):
        port, metrics_port = free_port(), free_port()
        base = {"PATH": os.environ["PATH"], "PORT": str(port), "METRICS_ADDR": f"127.0.0.1:{metrics_port}", "ORT_DYLIB_PATH": onnxruntime}
        cases: dict[str, tuple[list[str], dict[str, str]]] = {
            "--help": (["--help"], {}),
            "--version": (["--version"], {}),
            "unknown argument": (["nothing"], {}),
            "PORT is not a number": ([], {"PORT": "x"}),
            "health without a service": (["health"], {}),
        }
        for case, (arguments, settings) in cases.items():
            run = subprocess.run([BINARIES / program, *arguments], env=base | settings, capture_output=True, timeout=30)
            found[f"{program}: {case}"] = run.returncode
    compare("exit_codes", found)


# ---- Redis ---------------------------------------------------------------------------------------------------------


def pattern(text: str) -> str:
    """A key or a field without what differs from run to run."""
    text = re.sub(r"[0-9a-f]{64}", "SHA256", text)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID", text)
    text = re.sub(r"[0-9a-f]{32}", "ID", text)
    return re.sub(r"\d+", "N", text)


def fields_of(client: redis_client.Redis, key: bytes) -> tuple[str, list[str]]:
    kind = client.type(key).decode()
    fields: set[bytes] = set()
    if kind == "hash":
        fields = set(client.hkeys(key))
    elif kind == "stream":
        fields = {field for _, entry in client.xrange(key) for field in entry}
    return kind, sorted({pattern(field.decode(errors="replace")) for field in fields})


def test_redis_holds_the_recorded_keys_and_fields(web: Service, redis: Redis):
    job = submit(web, "keys").json()["id"]
    finished(web, job)
    requests.post(f"{web.url}/predict/leukemia", files={"image": IMAGE}, timeout=30)
    requests.post(f"{web.url}/jobs", params={"model": "leukemia"}, data=IMAGE, headers={"Content-Type": "image/png"}, timeout=30)
    time.sleep(1)
    client = redis_client.Redis(port=redis.port)
    found: dict[str, dict[str, object]] = {}
    for key in client.scan_iter():
        kind, fields = fields_of(client, key)
        name = pattern(key.decode().replace(job, "JOB"))
        kept = found.setdefault(name, {"type": kind, "fields": []})
        kept["fields"] = sorted({*kept["fields"], *fields})
    functions = [function[b"name"].decode() for library in client.function_list() for function in map(pairs, pairs(library)[b"functions"])]
    compare("redis", {"keys": found, "functions": sorted(functions)})


def pairs(flat: object) -> dict:
    """A reply of alternating names and values."""
    return flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2]))


def test_what_an_earlier_release_stored_is_read(web: Service, redis: Redis):
    client = redis_client.Redis(port=redis.port)
    file = RECORD / "stored.json"
    if RECORDING:
        record(web, client, file)
    stored = json.loads(file.read_text())
    client.flushdb()
    for key, value in stored["keys"].items():
        client.restore(base64.b64decode(key), 0, base64.b64decode(value))
    # The recorded job ended long ago: without a new time it is deleted at once.
    client.zadd("mlserve:{jobs}:expiring", {stored["job"]["id"]: time.time() * 1000 + 3_600_000})
    for request in stored["predictions"]:
        response = requests.post(f"{web.url}{request['path']}", files={"image": IMAGE}, headers={"Cache-Control": "only-if-cached"}, timeout=30)
        assert (response.status_code, response.headers.get("Cache-Status")) == (200, "mlserve; hit")
        assert response.json() | {"timing_ms": 0} == request["body"] | {"timing_ms": 0, "cached": True}
    job = stored["job"]
    again = submit(web, "stored")
    assert (again.status_code, again.json()["id"]) == (200, job["id"])
    assert requests.get(f"{web.url}/jobs/{job['id']}/results", timeout=30).text == job["results"]


def record(web: Service, client: redis_client.Redis, file: Path) -> None:
    """Writes what this release stores, for a later one to read."""
    client.flushdb()
    paths = ["/predict/mnist", "/predict/leukemia"]
    predictions = [{"path": path, "body": requests.post(f"{web.url}{path}", files={"image": IMAGE}, timeout=30).json()} for path in paths]
    job = submit(web, "stored").json()["id"]
    finished(web, job)
    results = requests.get(f"{web.url}/jobs/{job}/results", timeout=30).text
    time.sleep(1)
    keys = {base64.b64encode(key).decode(): base64.b64encode(client.dump(key)).decode() for key in sorted(client.scan_iter())}
    found = {"keys": keys, "predictions": predictions, "job": {"id": job, "results": results}}
    file.write_text(json.dumps(found, indent=1) + "\n")
