"""Hits and misses with the stack in containers: with Redis, over Docker's bridge network."""

from __future__ import annotations

import os
import subprocess
import time

from ..load import at_each, measure
from ..paths import ROOT, Effort
from ..processes import NotStarted, free_port


def run(effort: Effort) -> dict:
    if subprocess.run(["docker", "info"], capture_output=True).returncode != 0:
        return {"rows": {}, "not measured": {"containers": "no Docker engine responds"}}
    port = free_port()
    settings = {**os.environ, "PORT": str(port), "COMPOSE_PROJECT_NAME": "mlserve_bench"}
    try:
        took = start(settings)
        address = f"127.0.0.1:{port}"
        most = effort.connections[-1:]
        rows = [
            *at_each(effort.connections, "containers: local hit, image", address),
            *at_each(effort.connections, "containers: miss, image", address, cache="miss"),
            *at_each(effort.connections, "containers: miss, V2 binary", address, format="binary", cache="miss"),
            *at_each(most, "containers: miss, gRPC", address, format="grpc", cache="miss"),
        ]
        return {"rows": measure(rows, effort.less()), "start_seconds": took, "not measured": {}}
    except NotStarted as error:
        return {"rows": {}, "not measured": {"containers": str(error)}}
    finally:
        subprocess.run([ROOT / "stop_all.sh"], env=settings, capture_output=True)


def start(settings: dict) -> float:
    """Seconds of a start with existing images."""
    build = subprocess.run([ROOT / "build_all.sh"], env=settings, capture_output=True, text=True)
    if build.returncode != 0:
        raise NotStarted(f"the images were not built: {build.stderr.strip().splitlines()[-1][-300:]}")
    begun = time.monotonic()
    done = subprocess.run(
        [ROOT / "start_all.sh", "cli", "mnist", "--docker"], env=settings, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise NotStarted(f"start_all.sh: {done.stderr.strip().splitlines()[-1][-300:]}")
    return time.monotonic() - begun
