"""Paths, and the number and length of rounds."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
STATE = ROOT / ".mlserve" / "bench"
BINARIES = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "release"
RUNTIME = Path(os.environ.get("ORT_DYLIB_PATH") or ROOT / ".mlserve" / "onnxruntime-cpu" / "libonnxruntime.so")
MODELS = ROOT / "model_api" / "models"
MNIST = MODELS / "mnist" / "1" / "model.onnx"
SAMPLES = MODELS / "mnist" / "samples"
PEERS = ROOT / "bench" / "peers"
# Committed with the report, so that single sections can be measured again.
RESULTS = ROOT / "bench" / "results.json"


@dataclass
class Effort:
    """Number and length of rounds."""

    quick: bool
    rounds: int
    seconds: float
    warm_up: float
    soak: float

    @classmethod
    def of(cls, quick: bool, soak: float | None) -> Effort:
        if quick:
            return cls(True, 1, 1.0, 0.3, soak or 5)
        return cls(False, 3, 2.0, 0.5, soak or 600)

    def less(self) -> Effort:
        """One round fewer, for less important rows."""
        return replace(self, rounds=max(1, self.rounds - 1))

    @property
    def connections(self) -> list[int]:
        return [1, 64] if self.quick else [1, 16, 64]


def read_results() -> dict:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def write_results(results: dict) -> None:
    part = RESULTS.with_suffix(".part")
    # One section per line, so that a difference shows the sections that were measured.
    lines = (f"{json.dumps(name)}: {json.dumps(section, default=as_relative)}" for name, section in results.items())
    part.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    part.replace(RESULTS)


def as_relative(value: object) -> str:
    """Paths relative to the repository."""
    inside = isinstance(value, Path) and value.is_relative_to(ROOT)
    return str(value.relative_to(ROOT) if inside else value)
