"""Triton from the wheel nvidia-pytriton: its server and Python backend, without a GPU."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from .peers import PEERS_ENVIRONMENT, install, packages_of, venv_of
from .paths import MNIST, PEERS, STATE
from .processes import NotStarted, Process, free_port, get

PINS = "triton"


class Triton(Process):
    def __init__(self, cache: bool = False):
        self.port, self.grpc_port = free_port(), free_port()
        self.address, self.grpc_address = f"127.0.0.1:{self.port}", f"127.0.0.1:{self.grpc_port}"
        self.cache = cache
        super().__init__(f"triton{'-cache' if cache else ''}", [])

    def start(self) -> Triton:
        why_not = install(PINS)
        if why_not:
            raise NotStarted(why_not)
        packages = packages_of(PINS)
        server = packages / "pytriton" / "tritonserver"
        provide_stub(server)
        models = self.write_models()
        self.command = [
            *(str(server / "bin" / "tritonserver"), "--model-repository", str(models)),
            *("--backend-directory", str(server / "backends"), "--cache-directory", str(server / "caches")),
            *("--http-address", "127.0.0.1", "--http-port", str(self.port)),
            *("--grpc-address", "127.0.0.1", "--grpc-port", str(self.grpc_port)),
            *("--allow-metrics", "false"),
            *(("--cache-config", "local,size=67108864") if self.cache else ()),
        ]
        self.environment = {
            **PEERS_ENVIRONMENT,
            "MODEL": str(MNIST),
            "PYTHONPATH": f"{PEERS}:{packages}",
            "LD_LIBRARY_PATH": f"{library_folder()}:{packages / 'nvidia_pytriton.libs'}",
        }
        super().start()
        self.wait_for(lambda: get(self.port, "/v2/health/ready")[0] == 200)
        return self

    def write_models(self) -> Path:
        models = STATE / "peers" / self.name
        shutil.rmtree(models, ignore_errors=True)
        shutil.copytree(PEERS / "triton", models)
        if self.cache:
            with (models / "mnist" / "config.pbtxt").open("a") as config:
                config.write("response_cache { enable: true }\n")
        return models


def provide_stub(server: Path) -> None:
    """The backend looks for the program that runs Python beside itself; the wheel has one for each version of Python."""
    command = [str(venv_of(PINS) / "bin" / "python"), "-c", "import json, sys; print(json.dumps(sys.version_info[:2]))"]
    major, minor = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    stub = server / "python_backend_stubs" / f"{major}.{minor}" / "triton_python_backend_stub"
    if not stub.exists():
        raise NotStarted(f"the wheel has no Python backend for Python {major}.{minor}")
    shutil.copy2(stub, server / "backends" / "python")


def library_folder() -> str:
    """Where libpython is, for the stub."""
    command = [str(venv_of(PINS) / "bin" / "python"), "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
