"""Number of runs when 64 clients send the same new input concurrently (single flight)."""

from __future__ import annotations

import time

from ..load import run_load
from ..paths import MODELS, Effort
from ..processes import Stack

CLIENTS = 64
CELL = MODELS / "leukemia" / "samples" / "blast-1.png"


def run(effort: Effort) -> dict:
    rounds = 5 if effort.quick else 50
    with Stack(model="leukemia") as ours:
        before = ours.model_api.count("model_api_runs_total")
        slowest = []
        for number in range(rounds):
            options = {"model": "leukemia", "image": CELL, "seed": time.time_ns() % 10**12 + number}
            run = run_load(ours.address, **options, connections=CLIENTS, requests=CLIENTS)
            assert run["answered"] == CLIENTS, run
            slowest.append(run["latency_us"]["max"])
        runs = ours.model_api.count("model_api_runs_total") - before
    print(f"  {rounds * CLIENTS} requests, {rounds} inputs, {runs:.0f} runs", flush=True)
    return {"inputs": rounds, "requests": rounds * CLIENTS, "runs": runs, "slowest_us": slowest}
