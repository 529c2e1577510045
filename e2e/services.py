"""The two programs and Redis as processes on loopback, each with its own ports."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Callable, TypeVar

import requests
from selenium.common.exceptions import WebDriverException

ROOT = Path(__file__).resolve().parent.parent
MODELS = Path(os.environ.get("MODELS_DIR") or ROOT / "model_api" / "models")
BINARIES = Path(os.environ.get("MLSERVE_BIN") or Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "release")

T = TypeVar("T")


def made_locale(state: Path) -> dict[str, str]:
    """What start_all.sh adds to model_api's environment so that StringNormalizer finds its locale; nothing where the system has it."""
    script = f'source {ROOT}/scripts/lib.sh; source {ROOT}/scripts/native.sh; state={state}; make_locale; printf %s "${{LOCPATH:-}}"'
    made = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, check=True).stdout
    return {"LOCPATH": made} if made else {}


# Of log files.
numbers = itertools.count()


def wait_until(condition: Callable[[], T], what: str, seconds: float = 10) -> T:
    """Polls until the condition is true, and returns its value. Connection errors, and a page that is being replaced, count as
    false."""
    deadline = time.monotonic() + seconds
    reported: object = None
    while time.monotonic() < deadline:
        try:
            reported = condition()
            if reported:
                return reported
        except (requests.RequestException, OSError, WebDriverException) as error:
            reported = error
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}; last: {reported!r}")


# Below the range from which the kernel takes the ports of outgoing connections: one of those must not be in the way.
ports = itertools.cycle(random.sample(range(20_000, 32_000), 12_000))


def free_port() -> int:
    """A port without a listener, a different one every time."""
    while True:
        with socket.socket() as listener, contextlib.suppress(OSError):
            port = next(ports)
            listener.bind(("127.0.0.1", port))
            return port


class Process:
    """A program that is stopped with its test. Its output is written to a file, which a failed test shows."""

    def __init__(self, name: str, command: list[str], folder: Path, environment: dict[str, str] | None = None):
        self.name, self.command = name, command
        self.log_file = folder / f"{name}-{next(numbers)}.log"
        # No setting of the machine except PATH.
        self.environment = {"PATH": os.environ["PATH"], **(environment or {})}
        self.running: subprocess.Popen | None = None

    def start(self) -> None:
        with self.log_file.open("ab") as log:
            self.running = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
            )

    @property
    def pid(self) -> int:
        return self.running.pid

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def signal(self, which: signal.Signals) -> None:
        self.running.send_signal(which)

    def kill(self) -> None:
        self.running.kill()
        self.running.wait()

    def terminate(self, seconds: float = 30) -> int:
        """Sends SIGTERM and returns the exit code."""
        self.running.terminate()
        return self.running.wait(seconds)

    def end(self) -> None:
        if self.running is None or self.running.poll() is not None:
            return
        self.signal(signal.SIGCONT)
        try:
            self.terminate()
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end after SIGTERM") from None


class Service(Process):
    """web_api or model_api."""

    def __init__(self, name: str, folder: Path, **settings: object):
        self.port, self.metrics_port = free_port(), free_port()
        environment = {
            "PORT": self.port,
            "METRICS_ADDR": f"127.0.0.1:{self.metrics_port}",
            "LAME_DUCK_MS": 0,
            **settings,
        }
        super().__init__(name, [str(BINARIES / name)], folder, {key: str(value) for key, value in environment.items()})
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> "Service":
        super().start()
        return self

    def health(self) -> requests.Response:
        return requests.get(f"{self.url}/health/ready", timeout=10)

    def wait_ready(self, seconds: float = 60) -> "Service":
        def ready() -> bool:
            assert self.running.poll() is None, f"{self.name} has ended:\n{self.log()}"
            return self.health().status_code == 200

        wait_until(ready, f"{self.name} is ready", seconds)
        return self

    def count(self, metric: str, **labels: str) -> float:
        return count(f"http://127.0.0.1:{self.metrics_port}/metrics", metric, **labels)

    def end(self) -> None:
        super().end()
        assert "panicked" not in self.log(), self.log()[-4000:]


def count(metrics_url: str, metric: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    text = requests.get(metrics_url, timeout=10).text
    total = 0.0
    for given, value in re.findall(rf"^{metric}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE):
        if labels.items() <= dict(re.findall(r'(\w+)="([^"]*)"', given)).items():
            total += float(value)
    return total


def children_of(pid: int) -> list[int]:
    """Whichever of its threads started them."""
    return [int(child) for list_ in Path(f"/proc/{pid}/task").glob("*/children") for child in list_.read_text().split()]


class Redis(Process):
    """A real Redis with the settings that ship, but for its address and its folder."""

    def __init__(self, program: str, folder: Path):
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        settings = folder / f"redis-{self.port}.conf"
        shipped = (ROOT / "db_api" / "redis.conf").read_text()
        ours = f"bind 127.0.0.1\nport {self.port}\ndir {folder}\n"
        settings.write_text(re.sub(r"^(bind|port|dir) .*$", "", shipped, flags=re.MULTILINE) + ours)
        super().__init__("redis", [program, str(settings)], folder)

    def start(self) -> "Redis":
        super().start()
        wait_until(lambda: self.running.poll() is not None or self.execute("PING") == "PONG", "Redis answers")
        assert self.running.poll() is None, self.log()
        return self

    def execute(self, *words: str, stdin: bytes | None = None) -> str:
        """What redis-cli prints. With `stdin`, that is the last word of the command."""
        command = ["redis-cli", "-p", str(self.port), "--raw", *(["-x"] if stdin is not None else []), *words]
        reported = subprocess.run(command, input=stdin or b"", capture_output=True, timeout=10)
        return reported.stdout.decode(errors="replace").strip()

    def value(self, key: str) -> bytes:
        """What stands there, byte for byte."""
        reported = subprocess.run(["redis-cli", "-p", str(self.port), "--raw", "GET", key], capture_output=True, timeout=10)
        return reported.stdout.removesuffix(b"\n")

    def keys(self, pattern: str = "*") -> list[str]:
        return self.execute("--scan", "--pattern", pattern).split()
