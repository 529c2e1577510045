"""Throughput with more models, larger inputs and more cached results."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ..graphs import write_largest
from ..load import run_load
from ..paths import MODELS, STATE, Effort
from ..processes import Stack, memory_of


def run(effort: Effort) -> dict:
    return {"models": models(effort), "inputs": inputs(effort), "cached_results": cached_results(effort)}


def models(effort: Effort) -> list[dict]:
    """1 to 8 models, called concurrently over 64 connections in all."""
    points = []
    folder = STATE / "models"
    for count in (1, 2, 8) if effort.quick else (1, 2, 4, 8):
        shutil.rmtree(folder, ignore_errors=True)
        names = [f"mnist{number}" for number in range(count)]
        for name in names:
            shutil.copytree(MODELS / "mnist", folder / name)
            settings = folder / name / "model-settings.json"
            settings.write_text(settings.read_text().replace('"name": "mnist"', f'"name": "{name}"'))
        with Stack(model="all", models=folder) as ours, ThreadPoolExecutor(count) as clients:
            runs = list(clients.map(partial(load_one, ours.address, 64 // count, effort), names))
        points.append(
            point(
                "models", count, sum(run["per_second"] for run in runs), max(run["latency_us"]["p99"] for run in runs)
            )
        )
    return points


def load_one(address: str, connections: int, effort: Effort, name: str) -> dict:
    time = {"seconds": effort.seconds, "warm_up": effort.warm_up}
    return run_load(address, format="binary", cache="miss", model=name, connections=connections, **time)


def inputs(effort: Effort) -> list[dict]:
    """1 KB to 10 MB for a model with negligible computation."""
    points = []
    folder = STATE / "models"
    shutil.rmtree(folder, ignore_errors=True)
    write_largest(folder / "largest")
    with Stack(model="largest", models=folder) as ours:
        for elements in (256, 2_560, 25_600, 256_000, 2_560_000):
            options = {"format": "binary", "model": "largest", "input": "x", "shape": elements, "cache": "miss"}
            many = 4 if elements > 1_000_000 else 16
            run = run_load(ours.address, **options, connections=many, seconds=effort.seconds, warm_up=effort.warm_up)
            points.append(point("bytes", elements * 4, run["per_second"], run["latency_us"]["p99"]))
            points[-1]["connections"] = many
    return points


def cached_results(effort: Effort) -> list[dict]:
    """10³ to 10⁶ results, all in the local cache, requested at random."""
    points = []
    options = {"format": "binary", "seed": 1}
    with Stack(web={"NEAR_CACHE_BYTES": 4 << 30}) as ours:
        filled = 0
        for count in (1_000, 10_000) if effort.quick else (1_000, 10_000, 100_000, 1_000_000):
            run_load(ours.address, **options, cache="miss", first=filled, requests=count - filled)
            filled = count
            run = run_load(ours.address, **options, distinct=count, seconds=effort.seconds, warm_up=effort.warm_up)
            points.append(point("results", count, run["per_second"], run["latency_us"]["p99"]))
            points[-1].update(web_api_mb=memory_of(ours.web_api.pid), hits=run["cache_hits"], checked=run["checked"])
    return points


def point(what: str, count: int, per_second: float, p99: float) -> dict:
    print(f"  {count:9} {what:10} {per_second:9.0f}/s  p99 {p99:9.0f} µs", flush=True)
    return {"count": count, "per_second": per_second, "p99": p99}
