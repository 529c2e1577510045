"""What the scripts do before anything is started: settings for Compose, ports, arguments."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from services import ROOT, free_port


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts with a .env of their own."""
    folder = tmp_path / "check out"
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    for file in [*ROOT.glob("*.sh"), *ROOT.glob("docker-compose*.yml")]:
        shutil.copy(file, folder)
    (folder / "models" / "mnist").mkdir(parents=True)
    (folder / "models" / "mnist" / "model.onnx").touch()
    return folder


def bash(checkout: Path, script: str, **settings: str) -> str:
    sourced = f"source '{checkout}/scripts/lib.sh'\n{script}"
    environment = {"PATH": os.environ["PATH"], **settings}
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", sourced], env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def run(checkout: Path, script: str, *words: str, **settings: str) -> subprocess.CompletedProcess:
    environment = {"PATH": os.environ["PATH"], "MODELS_DIR": "models", "COMPOSE_PROJECT_NAME": "mlserve_nowhere", **settings}
    return subprocess.run([str(checkout / script), *words], env=environment, capture_output=True, text=True, timeout=30)


# ---- Settings -------------------------------------------------------------------------------------------------------


def test_the_stack_is_recorded_for_compose_and_the_users_own_lines_stay(checkout: Path):
    env = checkout / ".env"
    env.write_text("# mine\nREDIS_PASSWORD=secret\nPORT=6000")  # without a last newline
    started = {"APP_TYPE": "cli", "PORT": "8080", "LOG_LEVEL": 'info,a="b c$"', "WEB_API_SOURCES": "x", "UNKNOWN": "y"}
    bash(checkout, "record_stack docker-compose.yml:docker-compose.gpu.yml", **started)
    bash(checkout, "record_stack docker-compose.yml", **started)
    bash(checkout, "change_stack JOB_WORKERS 2; change_stack JOB_WORKERS 3")
    lines = env.read_text().splitlines()
    assert lines[:3] == ["# mine", "REDIS_PASSWORD=secret", "PORT=6000"]
    assert lines[3].startswith("# >>> start_all.sh") and lines[-1] == "# <<< start_all.sh"
    assert sorted(lines[4:-1]) == sorted(
        ["COMPOSE_PROJECT_NAME=mlserve", "COMPOSE_FILE=docker-compose.yml", "APP_TYPE=cli", "PORT=8080", 'LOG_LEVEL="info,a=\\"b c\\$\\""', "JOB_WORKERS=3"]
    )
    assert stat.S_IMODE(env.stat().st_mode) == 0o600


def test_what_a_start_recorded_is_no_setting_of_the_next_one(checkout: Path):
    (checkout / ".env").write_text("REDIS_PASSWORD=secret\nCACHE_TTL_S=7\n")
    bash(checkout, "record_stack docker-compose.yml", PORT="8080", CACHE_TTL_S="9")
    assert bash(checkout, "setting PORT 5000; setting CACHE_TTL_S 1; setting REDIS_PASSWORD none") == "5000\n7\nsecret"
    # Lines that the user adds below what the scripts wrote are settings, too.
    with (checkout / ".env").open("a") as env:
        env.write("PORT=7000\n")
    bash(checkout, "record_stack docker-compose.yml", PORT="8080")
    assert bash(checkout, "setting PORT 5000") == "7000"


def test_every_variable_of_the_compose_file_is_recorded(checkout: Path):
    names = bash(checkout, "compose_variables").split()
    assert {"APP_TYPE", "MODEL_NAME", "PORT", "PUBLISH", "DEVICE", "STACK_NETWORK", "MODELS_DIR", "JOB_WORKERS", "REDIS_PASSWORD"} <= set(names)


# ---- Ports ----------------------------------------------------------------------------------------------------------


def test_a_port_is_taken_on_the_address_where_something_listens(checkout: Path):
    port = free_port()
    taken = f"for at in 127.0.0.1 127.0.0.2 0.0.0.0; do port_is_taken $at {port} && echo $at; done; true"
    assert bash(checkout, taken) == ""
    with socket.create_server(("127.0.0.2", port)):
        assert bash(checkout, taken).split() == ["127.0.0.2", "0.0.0.0"]
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True):
        assert bash(checkout, taken).split() == ["127.0.0.1", "127.0.0.2", "0.0.0.0"]


@pytest.mark.parametrize("publish", ["127.0.0.2", "0.0.0.0"])
def test_a_port_that_is_taken_on_the_published_address_stops_a_start_before_anything_else(checkout: Path, publish: str):
    port = free_port()
    with socket.create_server(("127.0.0.2", port)):
        stopped = run(checkout, "start_all.sh", "cli", "mnist", "--native", PORT=str(port), PUBLISH=publish)
    assert (stopped.returncode, stopped.stdout) == (1, "")
    assert f"port {port} is in use" in stopped.stderr and f"PORT={port + 1}" in stopped.stderr
    assert not (checkout / ".mlserve" / "stack").exists()


def test_a_build_that_does_not_fit_on_the_disk_is_named_before_it_begins(checkout: Path):
    assert bash(checkout, f"need_disk '{checkout}' 1 building remedy; need_disk /nowhere 1000000000 building remedy") == ""
    sourced = f"source '{checkout}/scripts/lib.sh'; need_disk '{checkout}' 1000000000 'building the images' 'docker system prune'"
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", sourced], capture_output=True, text=True, timeout=30)
    assert (done.returncode, "needs about 1000000000 MB" in done.stderr, "docker system prune" in done.stderr) == (1, True, True)


# ---- Arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "settings", "reported"),
    [
        (["--workers", "many"], {}, "--workers 'many' is no number"),
        (["--workers"], {}, "--device and --workers need a value"),
        (["--native", "--workers", "2"], {}, "--workers needs containers"),
        ([], {"PUBLISH": "localhost"}, "PUBLISH 'localhost' is no address"),
    ],
)
def test_a_wrong_argument_is_named_and_ends_with_64(checkout: Path, words: list[str], settings: dict[str, str], reported: str):
    refused = run(checkout, "start_all.sh", "cli", "mnist", *words, **settings)
    assert (refused.returncode, refused.stdout) == (64, ""), refused
    assert refused.stderr.startswith(f"start_all.sh: {reported}")


def test_the_health_of_nothing_is_json_too(checkout: Path):
    health = run(checkout, "check_health.sh", "--json")
    assert (health.returncode, health.stderr) == (1, "")
    parts = [{"name": name, "running": False, "ready": False, "reason": None} for name in ("Web_API", "Model_API", "DB_API")]
    assert json.loads(health.stdout) == {"mode": "", "ready": False, "parts": parts, "models": []}
