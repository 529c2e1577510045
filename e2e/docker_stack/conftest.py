"""The containers, under a project name of their own."""

from __future__ import annotations

from typing import Iterator

import pytest

from containers import Containers


@pytest.fixture(scope="module")
def containers(engine: None, own_checkout: None) -> Iterator[Containers]:
    containers = Containers()
    containers.remove()
    try:
        yield containers
        assert "panicked" not in containers.logs()
    finally:
        containers.remove()


@pytest.fixture(scope="class")
def stack(containers: Containers, request: pytest.FixtureRequest) -> Containers:
    """Runs what the test class names."""
    containers.stop()
    reported = containers.start(request.cls.app_type, request.cls.model)
    assert f"http://localhost:{containers.environment['PORT']}" in reported
    assert "survives stop_all.sh" in reported
    return containers
