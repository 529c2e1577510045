"""CPU time of each process per request, at full load."""

from __future__ import annotations

import os
from pathlib import Path

from ..load import run_load
from ..paths import Effort
from ..processes import Stack, children_of

REQUESTS = {
    "local hit, image": {"format": "png"},
    "local hit, V2 binary": {"format": "binary"},
    "local hit, gRPC": {"format": "grpc"},
    "miss, image": {"format": "png", "cache": "miss"},
    "miss, V2 binary": {"format": "binary", "cache": "miss"},
    "miss, V2 JSON": {"format": "json", "cache": "miss"},
    "miss, gRPC": {"format": "grpc", "cache": "miss"},
}


def run(effort: Effort) -> list[dict]:
    with Stack() as ours:
        return [measure(ours, name, options, 64, effort) for name, options in REQUESTS.items()] + [
            measure(ours, "miss, V2 binary", REQUESTS["miss, V2 binary"], 1, effort)
        ]


def measure(ours: Stack, name: str, options: dict, connections: int, effort: Effort) -> dict:
    """µs per request; the rest of the available CPU time was idle, or kernel time of no process."""
    run_load(ours.address, **options, connections=connections, seconds=effort.warm_up)
    before = seconds(ours)
    run = run_load(ours.address, **options, connections=connections, seconds=effort.seconds, warm_up=0)
    spent = {part: (after - before[part]) * 1e6 / run["answered"] for part, after in seconds(ours).items()}
    row = {"name": f"{name} @{connections}", **spent, "client": run["client_cpu_us_each"]}
    row["available"] = os.cpu_count() * run["seconds"] * 1e6 / run["answered"]
    print("  {name:26} web_api {web_api:6.1f} µs".format(**row), flush=True)
    return row


def seconds(ours: Stack) -> dict[str, float]:
    engine = ours.model_api.pid
    children = sum(cpu_of(child) for child in children_of(engine))
    return {"web_api": cpu_of(ours.web_api.pid), "model_api": cpu_of(engine), "sessions": children}


def cpu_of(pid: int) -> float:
    """Seconds of CPU, including kernel time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
