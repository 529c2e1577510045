"""Jobs for models of others' making, some inputs of which no session survives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable

import onnx
import requests
from onnx import helper

import graphs
from services import Redis, Service, wait_until

# The one division of whole numbers whose result is none ends the process that tries it.
INT64_MIN = -(1 << 63)


def division(a: int, b: int) -> dict:
    return {"inputs": [{"name": name, "datatype": "INT64", "shape": [1], "data": [value]} for name, value in (("a", a), ("b", b))]}


def run(web: Service, payloads: list[dict]) -> dict:
    body = "\n".join(map(json.dumps, payloads))
    headers = {"Content-Type": "application/x-ndjson"}
    job = requests.post(f"{web.url}/jobs?model=quotient", data=body, headers=headers, timeout=60).json()["id"]

    def ended() -> dict | None:
        reported = requests.get(f"{web.url}/jobs/{job}?limit=1000", timeout=30).json()
        return reported if reported["finished"] else None

    return wait_until(ended, "the job has ended", 30)


def test_an_input_that_kills_its_session_fails_alone(
    spawn: Callable[..., Service], start_redis: Callable[[], Redis], tmp_path: Path
):
    numbers = ("INT64", ["n"])
    node = helper.make_node("Div", ["a", "b"], ["y"])
    (tmp_path / "models").mkdir()
    onnx.save(graphs.graph([node], {"a": numbers, "b": numbers}, {"y": numbers}), tmp_path / "models" / "quotient.onnx")
    engine = spawn("model_api", MODEL_NAME="all", MODELS_DIR=tmp_path / "models", SESSION_THREADS=1)
    web = spawn("web_api", MODEL_API_URL=engine.url, REDIS_URL=start_redis().url)
    payloads = [division(number, 2) for number in range(500)]
    payloads[100], payloads[400] = division(INT64_MIN, -1), division(INT64_MIN, -1)
    job = run(web, payloads)
    assert (job["status"], job["done"], job["failed"], job["dead"]) == ("failed", 498, 2, 0), job
    for number, result in enumerate(job["results"]):
        if number in (100, 400):
            assert result["error"] == {"status": 500, "detail": "The model crashed on this request."}
        else:
            assert result["answer"]["outputs"][0]["data"] == [number // 2], result
