"""Time from the start of the processes to the first result."""

from __future__ import annotations

import http.client
import statistics
import time

from ..paths import SAMPLES, Effort
from ..processes import Stack

TIMEOUT_S = 30


def run(effort: Effort) -> dict:
    seconds = [first_answer() for _ in range(3 if effort.quick else 7)]
    print(f"  first answer after {statistics.median(seconds) * 1e3:.0f} ms", flush=True)
    return {"seconds": seconds}


def first_answer() -> float:
    """Starts both processes concurrently and sends a digit until there is a result."""
    image = (SAMPLES / "digit-7.png").read_bytes()
    stack = Stack()
    begun = time.monotonic()
    stack.start()
    try:
        while time.monotonic() - begun < TIMEOUT_S:
            if status_of(stack.web_api.port, image) == 200:
                return time.monotonic() - begun
            time.sleep(0.005)
        raise TimeoutError(f"no answer within {TIMEOUT_S} s")
    finally:
        stack.stop()


def status_of(port: int, image: bytes) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", "/predict/mnist", image, {"Content-Type": "image/png"})
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()
