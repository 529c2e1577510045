"""Fixtures. What is missing on the machine skips tests, or fails them with REQUIRE_ALL=1."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Callable, Iterator

import pytest

pytest.register_assert_rewrite("client", "services")

from browser import Browser
from requirements import missing
from services import BINARIES, MODELS, ROOT, Process, Redis, Service

started: list[Process] = []


@pytest.fixture(scope="session")
def own_checkout() -> None:
    """The scripts keep one record of started processes per checkout: the tests would stop a stack that runs."""
    for part in ("web_api", "model_api"):
        file = ROOT / ".mlserve" / f"{part}.pid"
        program = Path("/proc") / (file.read_text().strip() if file.exists() else "none") / "exe"
        if os.path.lexists(program) and os.readlink(program).removesuffix(" (deleted)").endswith(f"/{part}"):
            pytest.fail("MLServe runs in this checkout: ./stop_all.sh first", pytrace=False)


@pytest.fixture(scope="session")
def engine(models: Path) -> None:
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True).returncode:
        missing("a Docker engine that answers")
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        missing("Compose v2")


@pytest.fixture(scope="session")
def onnxruntime() -> str:
    """The library's path."""
    library = Path(os.environ.get("ORT_DYLIB_PATH") or ROOT / ".mlserve" / "onnxruntime-cpu" / "libonnxruntime.so")
    if not library.exists():
        missing("ONNX Runtime: scripts/fetch_onnxruntime.sh cpu .mlserve/onnxruntime-cpu")
    return str(library)


@pytest.fixture(scope="session")
def binaries() -> Path:
    if not all((BINARIES / name).exists() for name in ("web_api", "model_api")):
        missing("the release binaries: cargo build --release --locked")
    return BINARIES


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of the shipped models."""
    for name in ("mnist", "leukemia"):
        if not list((MODELS / name).glob("**/model.onnx")):
            missing(f"the model {name} in {MODELS}")
    return MODELS


Spawn = Callable[..., Service]


def spawner(folder: Path, onnxruntime: str) -> Iterator[Spawn]:
    """Starts services that are stopped with the requesting scope, in reverse order."""
    ours: list[Service] = []

    def spawn(name: str, wait: bool = True, **settings: object) -> Service:
        if name == "model_api":
            settings = {"MODEL_NAME": "mnist", "MODELS_DIR": MODELS, "ORT_DYLIB_PATH": onnxruntime, "DEVICE": "cpu"} | settings
        service = Service(name, folder, **settings)
        started.append(service)
        ours.append(service)
        service.start()
        return service.wait_ready() if wait else service

    yield spawn
    errors = []
    for service in reversed(ours):
        try:
            service.end()
        except AssertionError as error:
            errors.append(error)
        started.remove(service)
    if errors:
        raise errors[0]


@pytest.fixture
def spawn(tmp_path: Path, binaries: Path, models: Path, onnxruntime: str) -> Iterator[Spawn]:
    yield from spawner(tmp_path, onnxruntime)


@pytest.fixture(scope="session")
def spawn_shared(tmp_path_factory: pytest.TempPathFactory, binaries: Path, models: Path, onnxruntime: str) -> Iterator[Spawn]:
    yield from spawner(tmp_path_factory.mktemp("shared"), onnxruntime)


@pytest.fixture(scope="session")
def model_api(spawn_shared: Spawn) -> Service:
    """One model_api with all models, for tests that leave it as it is."""
    return spawn_shared("model_api", MODEL_NAME="all")


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    programs = [os.environ.get(name.upper()) or shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(programs):
        missing("Chromium: apt install chromium chromium-driver")
    browser = Browser(*programs, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(autouse=True)
def leave_the_page(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "chromium" in request.fixturenames:
        request.getfixturevalue("chromium").leave()


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[[], Redis]]:
    program = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
    if not program or not shutil.which("redis-cli"):
        missing("Redis: apt install redis-server")
    ours: list[Redis] = []

    def start() -> Redis:
        redis = Redis(program, tmp_path)
        ours.append(redis)
        started.append(redis)
        return redis.start()

    yield start
    for redis in ours:
        redis.end()
        started.remove(redis)


@pytest.fixture
def redis(start_redis: Callable[[], Redis]) -> Redis:
    return start_redis()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """A failed test shows the end of the processes' logs."""
    report = yield
    if report.failed:
        for process in started:
            lines = [line[:300] for line in process.log().splitlines()[-10:]]
            report.sections.append((f"{process.name}, the end of its log", "\n".join(lines)))
    return report
