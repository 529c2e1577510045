"""Measured programs; each is stopped together with its children."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Callable, Iterator

from .paths import BINARIES, MODELS, RUNTIME, STATE

# The first port; BENCH_PORT changes it.
ports = iter(range(int(os.environ.get("BENCH_PORT", "22000")), 65535))


class NotStarted(Exception):
    """Why a program cannot be measured."""


def free_port() -> int:
    for port in ports:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise NotStarted("no port is free")


class Process:
    """A program in its own session. Its output is written to a file."""

    def __init__(
        self, name: str, command: list[object], environment: dict[str, object] | None = None, cwd: Path | None = None
    ):
        self.name, self.cwd = name, cwd
        self.command = [str(word) for word in command]
        self.environment = {key: str(value) for key, value in (environment or {}).items()}
        self.log = STATE / "logs" / f"{name}.log"
        self.running: subprocess.Popen | None = None

    def start(self) -> Process:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self.running = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **self.environment},
                cwd=self.cwd or STATE,
                start_new_session=True,
            )
        return self

    @property
    def pid(self) -> int:
        return self.running.pid

    def wait_for(self, ready: Callable[[], bool], seconds: float = 60, pause: float = 0.05) -> Process:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.running.poll() is not None:
                raise NotStarted(f"{self.name} ended at its start: {self.last_line()}")
            with contextlib.suppress(OSError):
                if ready():
                    return self
            time.sleep(pause)
        raise NotStarted(f"{self.name} did not answer within {seconds:.0f} s: {self.last_line()}")

    def last_line(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][-300:] if lines else "no output"

    def stop(self) -> None:
        if self.running is None:
            return
        self.signal_all(signal.SIGTERM)
        try:
            self.running.wait(20)
        except subprocess.TimeoutExpired:
            pass
        # Its children too, which may outlive it.
        self.signal_all(signal.SIGKILL)
        self.running.wait()

    def signal_all(self, what: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, what)


@contextlib.contextmanager
def running(*processes: Process) -> Iterator[None]:
    """Stops the started processes at the end, in reverse order."""
    try:
        yield
    finally:
        for process in reversed(processes):
            process.stop()


def get(port: int, path: str) -> tuple[int, bytes]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.status, answer.read()


def listens(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


class Service(Process):
    """web_api or model_api."""

    def __init__(self, name: str, **settings: object):
        self.port, self.metrics_port = free_port(), free_port()
        environment = {
            "HOST": "127.0.0.1",
            "PORT": self.port,
            "METRICS_ADDR": f"127.0.0.1:{self.metrics_port}",
            "LAME_DUCK_MS": 0,
            **settings,
        }
        super().__init__(f"{name}-{self.port}", [BINARIES / name], environment)

    def wait_ready(self) -> Service:
        self.wait_for(lambda: get(self.port, "/health/ready")[0] == 200)
        return self

    def count(self, metric: str) -> float:
        """The sum over all labels."""
        lines = get(self.metrics_port, "/metrics")[1].decode().splitlines()
        named = (line for line in lines if line.startswith((f"{metric}{{", f"{metric} ")))
        return sum(float(line.rsplit(" ", 1)[1]) for line in named)


class Stack:
    """Both services, as start_all.sh starts them in native mode."""

    def __init__(
        self, model: str = "mnist", models: Path = MODELS, web: dict | None = None, engine: dict | None = None
    ):
        self.model_api = Service(
            "model_api",
            MODEL_NAME=model,
            MODELS_DIR=models,
            DEVICE="cpu",
            ORT_DYLIB_PATH=RUNTIME,
            LD_LIBRARY_PATH=RUNTIME.parent,
            **(engine or {}),
        )
        url = f"http://127.0.0.1:{self.model_api.port}"
        self.web_api = Service("web_api", APP_TYPE="cli", MODEL_API_URL=url, **(web or {}))

    def start(self) -> Stack:
        self.model_api.start()
        self.web_api.start()
        return self

    def stop(self) -> None:
        self.web_api.stop()
        self.model_api.stop()

    def __enter__(self) -> Stack:
        self.start()
        try:
            self.model_api.wait_ready()
            self.web_api.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.web_api.port}"

    @property
    def engine_address(self) -> str:
        return f"127.0.0.1:{self.model_api.port}"


class Redis(Process):
    """Redis without persistence, on a free port."""

    def __init__(self) -> None:
        self.port = free_port()
        options = ["--port", self.port, "--bind", "127.0.0.1", "--dir", STATE, "--save", "", "--appendonly", "no"]
        super().__init__(f"redis-{self.port}", ["redis-server", *options])
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Redis:
        super().start()
        self.wait_for(lambda: listens(self.port))
        return self


def memory_of(pid: int) -> float:
    """RSS in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def children_of(pid: int) -> list[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for text in lists for child in text.read_text().split()]
