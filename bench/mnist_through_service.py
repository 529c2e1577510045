#!/usr/bin/env python3
"""The 10,000 MNIST test pictures as PNG files through a running service.

    python bench/mnist_through_service.py --data DIR --url http://localhost:5000

DIR holds the idx files t10k-images and t10k-labels. Every picture is asked for twice: the first pass computes each answer,
whatever is remembered already; in the second all must be remembered. Ends with 1 when less than 99.5 % are right or less than
100 % remembered. Needs the packages of e2e/requirements.txt.
"""

from __future__ import annotations

import argparse
import gzip
import io
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local

import requests
from PIL import Image

RIGHT, REMEMBERED = 99.5, 100.0

here = local()


def read_idx(folder: Path, name: str) -> bytes:
    """The bytes after the header."""
    (file,) = folder.glob(f"{name}*")
    content = file.read_bytes()
    if file.suffix == ".gz":
        content = gzip.decompress(content)
    axes = content[3]
    lengths = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    assert lengths[0] == 10_000, f"{file.name} holds {lengths[0]}, not the 10,000 of the test set"
    return content[4 + 4 * axes :]


def png(pixels: bytes) -> bytes:
    file = io.BytesIO()
    Image.frombytes("L", (28, 28), pixels).save(file, "PNG")
    return file.getvalue()


def ask(url: str, model: str, picture: bytes, headers: dict[str, str]) -> dict:
    if not hasattr(here, "session"):
        here.session = requests.Session()
    headers = {"Content-Type": "image/png", **headers}
    response = here.session.post(f"{url}/predict/{model}", data=picture, headers=headers, timeout=60)
    response.raise_for_status()
    return response.json()


def run(name: str, options: argparse.Namespace, pictures: list[bytes], labels: bytes, **headers: str) -> tuple[float, float]:
    """Per cent right and per cent remembered."""
    begun = time.monotonic()
    with ThreadPoolExecutor(options.clients) as clients:
        answers = list(clients.map(lambda picture: ask(options.url, options.model, picture, headers), pictures))
    seconds = time.monotonic() - begun
    right = sum(answer["label"] == str(label) for answer, label in zip(answers, labels)) / len(labels) * 100
    remembered = sum(answer["cached"] for answer in answers) / len(answers) * 100
    print(f"{name}: {right:.2f} % right, {remembered:.2f} % remembered, {len(answers) / seconds:.0f} pictures/s", flush=True)
    return right, remembered


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the idx files")
    parser.add_argument("--url", required=True, help="of web_api")
    parser.add_argument("--model", default="mnist")
    parser.add_argument("--clients", type=int, default=8, help="requests at the same time")
    options = parser.parse_args()
    options.url = options.url.rstrip("/")

    pixels, labels = read_idx(options.data, "t10k-images"), read_idx(options.data, "t10k-labels")
    pictures = [png(pixels[start : start + 784]) for start in range(0, len(pixels), 784)]
    right, _ = run("first pass ", options, pictures, labels, **{"Cache-Control": "no-cache"})
    again, remembered = run("second pass", options, pictures, labels)
    return 0 if min(right, again) >= RIGHT and remembered >= REMEMBERED else 1


if __name__ == "__main__":
    sys.exit(main())
