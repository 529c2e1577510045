"""Other servers, each in its own virtual environment with pinned packages."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from .paths import MNIST, PEERS, STATE
from .processes import NotStarted, Process, Redis, free_port, get, listens

PEERS_ENVIRONMENT = {
    "ORT_DISABLE_TELEMETRY": "1",
    "MODEL": str(MNIST),
    "PYTHONPATH": str(PEERS),
    "DO_NOT_TRACK": "1",
    "BENTOML_DO_NOT_TRACK": "True",
}

# The peers' wheels are made for it, Triton's among them.
PYTHON = "3.11"


def venv_of(name: str) -> Path:
    return STATE / "peers" / f"venv-{name}"


def program_of(name: str, program: str) -> Path:
    return venv_of(name) / "bin" / program


def packages_of(name: str) -> Path:
    return next((venv_of(name) / "lib").glob("python3.*")) / "site-packages"


def install(name: str) -> str | None:
    """Installs the pinned packages into the peer's virtual environment, unless they are; returns the reason of a failure."""
    pins, venv = PEERS / f"{name}.txt", venv_of(name)
    installed = venv / "pins.txt"
    if installed.exists() and installed.read_text() == pins.read_text():
        return None
    print(f"  installing {name}", flush=True)
    shutil.rmtree(venv, ignore_errors=True)
    python = shutil.which(f"python{PYTHON}") or shutil.which("python3")
    for command in (
        [python, "-m", "venv", venv],
        [venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", pins],
    ):
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode != 0:
            return f"cannot be installed: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1][-300:]}"
    shutil.copy(pins, installed)
    return None


class Peer(Process):
    """A server in a virtual environment."""

    def __init__(
        self, name: str, pins: str, program: str, *words: object, cwd: Path | None = None, **environment: object
    ):
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.ready_path: str | None = None
        command = [program_of(pins, program), *(str(word).replace("{port}", str(self.port)) for word in words)]
        settings = {key: str(value).replace("{port}", str(self.port)) for key, value in environment.items()}
        super().__init__(name, command, {**PEERS_ENVIRONMENT, **settings}, cwd)

    def start(self) -> Peer:
        if not Path(self.command[0]).exists():
            raise NotStarted("it is not installed")
        super().start()
        if self.ready_path:
            self.wait_for(lambda: get(self.port, self.ready_path)[0] == 200)
        else:
            self.wait_for(lambda: listens(self.port))
        return self


class Original:
    """The first MLServe: two processes and a Redis."""

    def __init__(self) -> None:
        words = ("--port", "{port}", "--log-level", "warning")
        self.redis = Redis()
        self.model = Peer("original-model", "original", "uvicorn", "original_model:app", *words)
        addresses = {"REDIS_URL": self.redis.url, "MODEL_URL": f"http://{self.model.address}"}
        self.web = Peer("original-web", "original", "uvicorn", "original_web:app", *words, **addresses)
        self.address = self.web.address

    def start(self) -> Original:
        for process in (self.redis, self.model, self.web):
            process.start()
        return self

    def stop(self) -> None:
        for process in (self.web, self.model, self.redis):
            process.stop()


class MlServer(Peer):
    """With the model in the server's process, which on two cores is the faster of its two modes."""

    def __init__(self, kind: str, batch: int = 0, cache: bool = False):
        folder = STATE / "peers" / f"mlserver-{kind}"
        super().__init__(f"mlserver-{kind}", "mlserver", "mlserver", "start", ".", cwd=folder)
        self.grpc_port = free_port()
        self.grpc_address = f"127.0.0.1:{self.grpc_port}"
        self.ready_path = "/v2/models/mnist/ready"
        self.settings = {
            **{"host": "127.0.0.1", "http_port": self.port, "grpc_port": self.grpc_port, "metrics_endpoint": None},
            **{"debug": False, "parallel_workers": 0, "cache_enabled": cache, "cache_size": 100000},
        }
        batching = {"max_batch_size": batch, "max_batch_time": 0.001 if batch else 0}
        self.model = {"name": "mnist", "implementation": "mlserver_runtime.Mnist", "cache_enabled": cache, **batching}

    def start(self) -> MlServer:
        self.cwd.mkdir(parents=True, exist_ok=True)
        (self.cwd / "settings.json").write_text(json.dumps(self.settings))
        (self.cwd / "model-settings.json").write_text(json.dumps(self.model))
        super().start()
        return self


def lit_serve(batch: int) -> Peer:
    name = f"litserve-{batch}"
    return Peer(name, "litserve", "python", PEERS / "litserve_server.py", PORT="{port}", BATCH=batch)


def bento_ml() -> Peer:
    words = ("serve", "bentoml_service:Mnist", "--host", "127.0.0.1", "--port", "{port}", "--quiet")
    return Peer("bentoml", "bentoml", "bentoml", *words, cwd=PEERS, BENTOML_HOME=STATE / "peers" / "bentoml")
