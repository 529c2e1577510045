"""From nothing to the first answer."""

from __future__ import annotations

import http.client
import statistics
import time

from ..paths import SAMPLES, Effort
from ..processes import Stack

PATIENCE_S = 30


def run(effort: Effort) -> dict:
    seconds = [first_answer() for _ in range(3 if effort.quick else 7)]
    print(f"  first answer after {statistics.median(seconds) * 1e3:.0f} ms", flush=True)
    return {"seconds": seconds}


def first_answer() -> float:
    """Both processes are started at the same time, and a digit is asked for until there is an answer."""
    picture = (SAMPLES / "digit-7.png").read_bytes()
    stack = Stack()
    begun = time.monotonic()
    stack.start()
    try:
        while time.monotonic() - begun < PATIENCE_S:
            if ask(stack.web_api.port, picture) == 200:
                return time.monotonic() - begun
            time.sleep(0.005)
        raise TimeoutError(f"no answer within {PATIENCE_S} s")
    finally:
        stack.stop()


def ask(port: int, picture: bytes) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", "/predict/mnist", image, {"Content-Type": "image/png"})
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()
