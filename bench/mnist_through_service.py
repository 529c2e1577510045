#!/usr/bin/env python3
"""The 10,000 MNIST test images as PNG files through a running service.

    python bench/mnist_through_service.py --data DIR --url http://localhost:5000

DIR holds the idx files t10k-images and t10k-labels. Every image is sent twice: the first pass computes each result, even if
it is cached; in the second all must be cached. Ends with 1 when less than 99.5 % are right or less than 100 % are cached.
Needs the packages of e2e/requirements.txt.
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

RIGHT, CACHED = 99.5, 100.0

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


def predict(url: str, model: str, image: bytes, headers: dict[str, str]) -> dict:
    if not hasattr(here, "session"):
        here.session = requests.Session()
    headers = {"Content-Type": "image/png", **headers}
    response = here.session.post(f"{url}/predict/{model}", data=image, headers=headers, timeout=60)
    response.raise_for_status()
    return response.json()


def run(name: str, options: argparse.Namespace, images: list[bytes], labels: bytes, **headers: str) -> tuple[float, float]:
    """Percentages of right and of cached results."""
    begun = time.monotonic()
    with ThreadPoolExecutor(options.clients) as clients:
        answers = list(clients.map(lambda image: predict(options.url, options.model, image, headers), images))
    seconds = time.monotonic() - begun
    right = sum(answer["label"] == str(label) for answer, label in zip(answers, labels)) / len(labels) * 100
    cached = sum(answer["cached"] for answer in answers) / len(answers) * 100
    print(f"{name}: {right:.2f} % right, {cached:.2f} % cached, {len(answers) / seconds:.0f} images/s", flush=True)
    return right, cached


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the idx files")
    parser.add_argument("--url", required=True, help="of web_api")
    parser.add_argument("--model", default="mnist")
    parser.add_argument("--clients", type=int, default=8, help="requests at the same time")
    options = parser.parse_args()
    options.url = options.url.rstrip("/")

    pixels, labels = read_idx(options.data, "t10k-images"), read_idx(options.data, "t10k-labels")
    images = [png(pixels[start : start + 784]) for start in range(0, len(pixels), 784)]
    right, _ = run("first pass ", options, images, labels, **{"Cache-Control": "no-cache"})
    again, cached = run("second pass", options, images, labels)
    return 0 if min(right, again) >= RIGHT and cached >= CACHED else 1


if __name__ == "__main__":
    sys.exit(main())
