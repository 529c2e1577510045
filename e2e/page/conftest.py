"""The page of the digit reader in a real browser."""

from __future__ import annotations

import re
from typing import Callable, Iterator

import pytest

from browser import Browser
from services import Service


@pytest.fixture(scope="module")
def web(spawn_shared: Callable[..., Service], model_api: Service) -> Service:
    return spawn_shared("web_api", APP_TYPE="ui", MODEL_API_URL=model_api.url)


@pytest.fixture
def page(chromium: Browser, web: Service, request: pytest.FixtureRequest) -> Iterator[Browser]:
    """The page of the digit reader; nothing on it may make the browser complain."""
    chromium.look()
    chromium.open(f"{web.url}/?model=mnist")
    yield chromium
    complaints = chromium.complaints()
    if "an_error" in request.node.name:
        # Such a test expects an error of the server, which the browser logs.
        complaints = [each for each in complaints if not re.search(r"network: .* the server responded with a status of 4", each)]
    assert complaints == []
