"""One repository of small models, a model_api that serves it, a web_api in front; and clients of others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable, Iterator

import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

import graphs
from services import Service

pytest.register_assert_rewrite("inference_requests")

# XGBoost and LightGBM spin for each other's threads; on a machine that is busy that takes longer than all of the training.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    """Left as it is by every test."""
    folder = tmp_path_factory.mktemp("repository")
    graphs.write_all(folder)
    return folder


@pytest.fixture(scope="session")
def model_server(spawn_shared: Callable[..., Service], repository: Path) -> Service:
    return spawn_shared("model_api", MODEL_NAME="all", MODELS_DIR=repository, SESSION_THREADS=1)


@pytest.fixture(scope="session")
def web(spawn_shared: Callable[..., Service], model_server: Service) -> Service:
    return spawn_shared("web_api", APP_TYPE="cli", MODEL_API_URL=model_server.url)


@pytest.fixture(scope="session", params=["web_api", "model_api"])
def server(request: pytest.FixtureRequest) -> Service:
    """Both speak the protocol, with the same words."""
    return request.getfixturevalue({"web_api": "web", "model_api": "model_server"}[request.param])


@pytest.fixture
def http(server: Service) -> Iterator[triton_http.InferenceServerClient]:
    with triton_http.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=4) as client:
        yield client


@pytest.fixture
def grpc(server: Service) -> Iterator[triton_grpc.InferenceServerClient]:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        yield client
