"""Latency at fixed request rates, up to 1.1 times capacity."""

from __future__ import annotations

from ..limits import one_process
from ..load import run_load
from ..paths import Effort
from ..processes import Stack, running

SHARES = [0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1]


def run(effort: Effort) -> dict:
    limit = one_process()
    with running(limit), Stack() as ours:
        limit.start()
        series = {
            "ours: miss, binary": (ours.address, {"format": "binary", "cache": "miss"}),
            "ours: local hit, image": (ours.address, {"format": "png"}),
            "one process: binary": (limit.address, {"format": "binary", "cache": "miss"}),
        }
        return {name: curve(name, address, options, effort) for name, (address, options) in series.items()}


def curve(name: str, address: str, options: dict, effort: Effort) -> dict:
    capacity = run_load(address, **options, seconds=effort.seconds, warm_up=effort.warm_up)["per_second"]
    points = []
    for share in SHARES:
        rate = round(capacity * share)
        run = run_load(address, **options, rate=rate, connections=256, seconds=effort.seconds, warm_up=effort.warm_up)
        latency = run["latency_us"]
        refused = sum(n for status, n in run["statuses"].items() if status != "200")
        points.append(
            {"rate": rate, **latency, "answered": run["per_second"], "refused": refused, "unsent": run["unsent"]}
        )
        print(f"  {name:26} {rate:7}/s  p50 {latency['p50']:9.0f} µs  p99 {latency['p99']:9.0f} µs", flush=True)
    return {"capacity": capacity, "points": points}
