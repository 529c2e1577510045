"""A client for images, and assertions that hold for all responses."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import requests

from services import ROOT

# Internal details that no response may contain: paths, source files, addresses, traces.
INTERNAL = re.compile(
    "|".join(
        [*map(re.escape, {str(ROOT), str(Path.home()), tempfile.gettempdir()}), r"\.rs\b", r"\b127\.0\.0\.1\b"]
        + [r"\bredis://", r"\bhttp://", r"\bmodel_api\b", r"\bonnxruntime::", r"\bpanicked\b", r"\bstack backtrace\b", r"\.onnx\b"]
    )
)


def predict(url: str, image: bytes, model: str = "mnist", **headers: str) -> requests.Response:
    """Like `curl -F image=@image.png …/predict/MODEL`; Cache_Control="no-cache" becomes that header."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.post(f"{url}/predict/{model}", files={"image": ("image.png", image)}, headers=headers, timeout=60)


def result_of(response: requests.Response) -> dict:
    assert response.status_code == 200, f"{response.status_code}: {response.text}"
    return response.json()


def assert_problem(response: requests.Response, status: int, detail: str) -> None:
    """An RFC 9457 document with exactly this text, and no internal details."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["detail"] == detail
    assert not INTERNAL.search(response.text), response.text
    if status == 503:
        assert int(response.headers["Retry-After"]) >= 1
