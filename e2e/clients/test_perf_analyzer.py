"""Triton's load generator runs unmodified: it reads metadata, configuration and statistics, and its numbers must add up."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from requirements import missing
from services import ROOT, Service

FOLDER = Path(os.environ.get("PERF_ANALYZER") or ROOT / ".mlserve" / "perf_analyzer")

PROTOCOLS = ["http", "grpc"]


@pytest.fixture(scope="session")
def perf_analyzer() -> list[str]:
    """The command, with the library of CUDA that it needs even where nothing runs on a card."""
    found = list(FOLDER.glob("tritonclient-*.data/data/bin/perf_analyzer"))
    if not found:
        missing("perf_analyzer: ./test_all.sh clients fetches it")
    command = ["env", f"LD_LIBRARY_PATH={FOLDER / 'nvidia' / 'cuda_runtime' / 'lib'}", str(found[0])]
    if subprocess.run([*command, "--version"], capture_output=True).returncode:
        missing("a library of perf_analyzer: apt install libb64-0d")
    return command


def measure(perf_analyzer: list[str], server: Service, protocol: str, *options: str) -> str:
    """What it prints after 40 requests or more, twice within a wide range of each other."""
    limits = ["--measurement-mode", "count_windows", "--measurement-request-count", "40", "--stability-percentage", "999"]
    command = [*perf_analyzer, "-u", f"127.0.0.1:{server.port}", "-i", protocol, "--shared-memory", "none", *limits, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Concurrency: \d+, throughput: [\d.]+ infer/sec", done.stdout), done.stdout
    return done.stdout


def number(reported: str, of: str) -> int:
    return int(re.search(rf"{of}: (\d+)", reported)[1])


@pytest.fixture
def inputs(tmp_path: Path) -> Iterator[Path]:
    """The same tensor in every request, for the model `versioned`."""
    file = tmp_path / "inputs.json"
    file.write_text(json.dumps({"data": [{"x": {"content": [0.5, 1.5, 2.5], "shape": [1, 3]}}]}))
    yield file


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_equal_requests_are_counted_as_cache_hits(perf_analyzer: list[str], web: Service, protocol: str, inputs: Path):
    reported = measure(perf_analyzer, web, protocol, "-m", "versioned", "--input-data", str(inputs), "--concurrency-range", "2")
    requests, hits = number(reported, "Successful request count"), number(reported, "Cache hit count")
    assert requests == hits + number(reported, "Cache miss count")
    assert hits > 0 and number(reported, "Inference count") == number(reported, "Cache miss count")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_batch_of_images_is_measured(perf_analyzer: list[str], web: Service, protocol: str):
    reported = measure(perf_analyzer, web, protocol, "-m", "mnist", "-b", "4", "--concurrency-range", "1:2")
    assert reported.count("throughput:") >= 2 and number(reported, "Successful request count") > 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_without_a_cache_counts_every_request_as_run(perf_analyzer: list[str], model_server: Service, protocol: str, inputs: Path):
    reported = measure(perf_analyzer, model_server, protocol, "-m", "versioned", "--input-data", str(inputs))
    assert number(reported, "Inference count") == number(reported, "Successful request count") > 0
    assert "Cache hit count" not in reported


def test_a_stream_of_grpc_is_measured(perf_analyzer: list[str], web: Service, inputs: Path):
    reported = measure(perf_analyzer, web, "grpc", "-m", "versioned", "--streaming", "--input-data", str(inputs))
    assert number(reported, "Successful request count") > 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_random_text_is_measured(perf_analyzer: list[str], web: Service, protocol: str):
    reported = measure(perf_analyzer, web, protocol, "-m", "numbered_words", "--shape", "word:4", "--string-length", "8")
    assert number(reported, "Successful request count") > 0
