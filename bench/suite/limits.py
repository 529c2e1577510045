"""Upper bounds of throughput, as servers."""

from __future__ import annotations

import json
import subprocess

from .paths import BINARIES, MNIST, RUNTIME
from .processes import Process, free_port, listens

ENVIRONMENT = {"ORT_DYLIB_PATH": RUNTIME, "ORT_DISABLE_TELEMETRY": 1}


class Limit(Process):
    def __init__(self, kind: str, *words: object):
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        super().__init__(f"limit-{kind}", [BINARIES / "limits", kind, self.port, *words], ENVIRONMENT)

    def start(self) -> Limit:
        super().start()
        self.wait_for(lambda: listens(self.port))
        return self


def one_process() -> Limit:
    return Limit("one-process", MNIST)


def measure_alone(*words: object) -> dict:
    """A measurement without a server; the program prints its figures."""
    environment = {key: str(value) for key, value in ENVIRONMENT.items()}
    command = [str(word) for word in (BINARIES / "limits", *words)]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
