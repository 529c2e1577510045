"""The real stack in Docker, under a project name of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import requests

from services import ROOT, free_port

PARTS = ("web_api", "model_api", "db_api")
PROJECT = "mlserve_e2e"
BASE = "debian:bookworm-slim"


def docker(*words: str, check: bool = True) -> str:
    """The output of a docker command, with stderr if it may fail."""
    reported = subprocess.run(["docker", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    if check:
        assert reported.returncode == 0, f"docker {' '.join(words)}: {reported.stderr}"
        return reported.stdout.strip()
    return (reported.stdout + reported.stderr).strip()


def inspect(*what: str) -> dict:
    return json.loads(docker("inspect", *what))[0]


def image_size(name: str) -> float:
    """In megabytes."""
    return inspect("--type", "image", name)["Size"] / 1e6


def compose_as_a_user(*words: str) -> subprocess.CompletedProcess:
    """As in a shell of the user's: in the folder, with none of the settings that the stack was started with."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(["docker", "compose", *words], cwd=ROOT, env=kept, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)


class Containers:
    """What start_all.sh --docker brings up."""

    def __init__(self) -> None:
        self.environment = os.environ | {"COMPOSE_PROJECT_NAME": PROJECT, "PORT": str(free_port())}
        self.url = f"http://127.0.0.1:{self.environment['PORT']}"
        # What the scripts write for the next start: put back in the end, as it is not this project's.
        self.kept = {path: path.read_bytes() if path.exists() else None for path in (ROOT / ".env", ROOT / ".mlserve" / "stack")}

    def run(self, script: str, *words: str, **settings: str) -> subprocess.CompletedProcess:
        # Building the images is a matter of many minutes where nothing is built yet.
        command = [str(ROOT / script), *words]
        channels = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
        return subprocess.run(command, env=self.environment | settings, cwd="/", timeout=3600, **channels)

    def start(self, app_type: str, model: str) -> str:
        started = self.run("start_all.sh", app_type, model, "--docker", "--device", "cpu")
        assert started.returncode == 0, started.stdout[-3000:] + started.stderr[-3000:]
        return started.stdout

    def stop(self) -> None:
        stopped = self.run("stop_all.sh")
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr

    def remove(self) -> None:
        """Nothing of it stays, the results neither."""
        self.stop()
        for volume in docker("volume", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}").split():
            docker("volume", "rm", volume)
        for path, content in self.kept.items():
            self.put_back(path, content)

    def put_back(self, path: Path, content: bytes | None) -> None:
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(content)

    def id_of(self, part: str) -> str:
        labels = [f"label=com.docker.compose.{key}={value}" for key, value in (("project", PROJECT), ("service", part))]
        return docker("ps", "--all", "--quiet", "--filter", labels[0], "--filter", labels[1])

    def inspect(self, part: str) -> dict:
        return inspect(self.id_of(part))

    def inside(self, part: str, *command: str) -> str:
        """The output of a command in the part's container; it may fail."""
        return docker("exec", self.id_of(part), *command, check=False)

    def health(self) -> requests.Response:
        return requests.get(f"{self.url}/health/ready", timeout=10)

    def logs(self) -> str:
        return "\n".join(docker("logs", self.id_of(part), check=False) for part in PARTS)
