"""KServe's own clients find here what they find at KServe."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from services import MODELS, Service

PROGRAM = Path(__file__).with_name("kserve_program.py")


@pytest.mark.parametrize("transport", ["rest", "grpc"])
def test_a_program_with_kserves_clients_gets_what_it_expects(server: Service, transport: str):
    image = MODELS / "mnist" / "samples" / "digit-7.png"
    command = [sys.executable, str(PROGRAM), transport, str(server.port), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "ready": [True, True, True, False],
        "named": ["versioned", "me"],
        "exact": [True, True],
        "words": [2, 3, -1],
        "classes": [7, 7],
        "refused": 'input "x" has the shape [-1, 3] (-1: any length), not [2, 2]',
    }
