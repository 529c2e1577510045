"""The machine and the versions of a measurement."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

from .paths import PEERS, ROOT, RUNTIME


def describe() -> dict[str, str]:
    return {
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{distribution()}, Linux {platform.release()}",
        "Rust": output_of("rustc", "--version"),
        "ONNX Runtime": RUNTIME.resolve().name.split(".so.")[-1],
        "Redis": output_of("redis-server", "--version").split(" sha")[0],
        "Python": platform.python_version(),
        "peers": ", ".join(peers()),
    }


def commit() -> str:
    return output_of("git", "-C", str(ROOT), "describe", "--always", "--dirty") or "unknown commit"


def output_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def processor() -> str:
    found = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def distribution() -> str:
    found = re.search(r'PRETTY_NAME="(.*)"', Path("/etc/os-release").read_text())
    return found[1] if found else "Linux"


def peers() -> list[str]:
    """The packages that name a peer, with their versions."""
    named = re.compile(r"^(fastapi|mlserver|litserve|bentoml|nvidia-pytriton)==(.*)$", re.MULTILINE)
    pins = sorted(PEERS.glob("*.txt"))
    return sorted({f"{name} {version}" for file in pins for name, version in named.findall(file.read_text())})
