"""`--help`, `--version` and unknown arguments of the two programs and of the scripts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from services import ROOT

PROGRAMS = {"web_api": ["worker", "health", "metrics"], "model_api": ["models", "health", "metrics"]}
SCRIPTS = ["start_all.sh", "stop_all.sh", "check_health.sh", "build_all.sh", "test_all.sh"]

# A variable and its default, as settings are read in the programs.
READ = re.compile(r'\b(?:parse|optional|at_least|between|millis)\(\s*"([A-Z_]+)"((?:[^()]|\([^()]*\))*)\)')


def run(*command: str | Path) -> subprocess.CompletedProcess:
    # No setting of this machine, and none of the program's: help needs none.
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=20, env={"PATH": "/usr/bin:/bin"})


def read_in(*folders: Path) -> dict[str, str]:
    """Each variable that the sources read, with the text of the last argument: its default, where it has one."""
    sources = [path for folder in folders for path in folder.rglob("*.rs")]
    found = [READ.findall(path.read_text().partition("#[cfg(test)]")[0]) for path in sources]
    return {name: rest.rpartition(",")[2].strip() for match in found for name, rest in match}


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_names_each_command_and_each_setting_with_its_default(binaries: Path, name: str):
    for requested in ("--help", "-h"):
        done = run(binaries / name, requested)
        assert (done.returncode, done.stderr) == (0, ""), done
    commands = re.findall(r"^  ([a-z]+) ", done.stdout, re.MULTILINE)
    assert commands == PROGRAMS[name] and f"usage: {name} [{'|'.join(commands)}]" in done.stdout
    listed = dict(re.findall(r"^  ([A-Z_]+)=(\S*) +\S", done.stdout, re.MULTILINE))
    read = read_in(ROOT / name / "src", ROOT / "crates" / "service" / "src")
    assert set(listed) == set(read)
    numbers = {name: eval(default) for name, default in read.items() if re.fullmatch(r"[0-9_ *<]+", default)}
    assert len(numbers) > 10
    assert {name: int(listed[name]) for name in numbers} == numbers


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_version_is_the_workspaces(binaries: Path, name: str):
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    for requested in ("--version", "-V"):
        done = run(binaries / name, requested)
        assert (done.returncode, done.stdout) == (0, f"{name} {version}\n")


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("arguments", [["serve"], ["--port=1"], ["health", "now"]])
def test_a_program_refuses_an_unknown_argument_with_its_usage(binaries: Path, name: str, arguments: list[str]):
    done = run(binaries / name, *arguments)
    assert (done.returncode, done.stdout) == (64, "")
    assert f'unknown argument "{arguments[-1]}"' in done.stderr and f"usage: {name} [" in done.stderr


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_help_and_refuses_an_unknown_argument_with_its_usage(name: str):
    for requested in ("--help", "-h"):
        done = run(ROOT / name, requested)
        assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(f"usage: {name}"), done
    done = run(ROOT / name, "--nonsense")
    assert (done.returncode, done.stdout) == (64, "")
    assert "'--nonsense'" in done.stderr and f"usage: {name}" in done.stderr
