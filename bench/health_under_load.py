#!/usr/bin/env python3
"""Latency of the health routes while a model is under full load.

    bench/health_under_load.py [URL] [SECONDS]

Needs a service that serves mnist (./start_all.sh cli mnist). Clients and the health probe are separate processes
on the same machine, so the printed figures are an upper bound."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import os
import statistics
import struct
import sys
import time
from urllib.parse import urlsplit

CLIENTS = 32
HEALTH = ("/health/live", "/health/ready", "/v2/health/ready")


def keep_requesting(host: str, until: float, answered) -> None:
    """Each request has a new input, so that each is computed."""
    head = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 28, 28, 1], "parameters": {"binary_data_size": 3136}}]}
    text = json.dumps(head).encode()
    headers = {"Inference-Header-Content-Length": str(len(text)), "Content-Type": "application/octet-stream"}
    connection = http.client.HTTPConnection(host, timeout=30)
    noise = struct.pack("<16f", *os.urandom(16))
    number = 0
    while time.time() < until:
        number += 1
        body = text + struct.pack("<f", number) + noise + bytes(3136 - 68)
        connection.request("POST", "/v2/models/mnist/infer", body, headers)
        answer = connection.getresponse()
        answer.read()
        with answered.get_lock():
            answered.value += answer.status == 200


def main() -> None:
    host = urlsplit(sys.argv[1] if len(sys.argv) > 1 else "http://localhost:5000").netloc
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 10
    answered = multiprocessing.Value("Q", 0)
    until = time.time() + seconds
    clients = [multiprocessing.Process(target=keep_requesting, args=(host, until, answered)) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    took: dict[str, list[float]] = {path: [] for path in HEALTH}
    connection = http.client.HTTPConnection(host, timeout=30)
    while time.time() < until - 0.2:
        for path, times in took.items():
            begun = time.perf_counter()
            connection.request("GET", path)
            connection.getresponse().read()
            times.append((time.perf_counter() - begun) * 1e3)
        time.sleep(0.01)
    for client in clients:
        client.join()
    print(f"{answered.value / seconds:.0f} answers/s, {CLIENTS} clients")
    for path, times in took.items():
        ninety_nine = statistics.quantiles(times, n=100)[98]
        print(f"{path:18} {len(times)} requests, ms: median {statistics.median(times):.1f}, p99 {ninety_nine:.1f}, max {max(times):.1f}")


if __name__ == "__main__":
    main()
