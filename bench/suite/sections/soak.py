"""Whether memory grows: at full load, and over loading and unloading."""

from __future__ import annotations

import http.client
import threading
import time

from ..load import run_load
from ..paths import Effort
from ..processes import Stack
from .memory import sizes


def run(effort: Effort) -> dict:
    with Stack() as ours:
        # Not cached: a growing local cache would hide other growth.
        options = {"format": "binary", "cache": "no-store", "seconds": effort.soak, "warm_up": 1}
        runs: list[dict] = []
        load = threading.Thread(target=lambda: runs.append(run_load(ours.address, **options)))
        load.start()
        samples, begun = [], time.monotonic()
        while load.is_alive():
            samples.append({"at": time.monotonic() - begun, **sizes(ours)})
            time.sleep(min(1.0, effort.soak / 10))
        load.join()
        rounds = load_and_unload(ours, 5 if effort.quick else 100)
    # The last sample may have been taken while the load went away, which changes nothing; the first third is warming up.
    steady = [sample for sample in samples if sample["at"] > effort.soak / 3]
    slopes = {part: slope([(sample["at"], sample[part]) for sample in steady]) for part in sizes_of(samples)}
    print(f"  MB per minute at full load: {slopes}", flush=True)
    return {"seconds": effort.soak, "load": runs[0], "samples": samples, "mb_per_minute": slopes, "rounds": rounds}


def sizes_of(samples: list[dict]) -> list[str]:
    return [name for name in samples[0] if name != "at"]


def slope(points: list[tuple[float, float]]) -> float:
    """MB per minute, by least squares."""
    if len(points) < 2:
        return 0.0
    x_mean = sum(x for x, _ in points) / len(points)
    y_mean = sum(y for _, y in points) / len(points)
    spread = sum((x - x_mean) ** 2 for x, _ in points)
    return 60 * sum((x - x_mean) * (y - y_mean) for x, y in points) / spread


def load_and_unload(stack: Stack, rounds: int) -> list[dict]:
    """MB after each round."""
    after = []
    for _ in range(rounds):
        for verb in ("unload", "load"):
            connection = http.client.HTTPConnection("127.0.0.1", stack.model_api.port, timeout=60)
            connection.request("POST", f"/v2/repository/models/mnist/{verb}", b"")
            status = connection.getresponse().status
            assert status == 200, f"{verb}: {status}"
            connection.close()
        after.append(sizes(stack))
    return after
