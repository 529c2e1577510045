"""MNIST as it is published: four gzipped IDX files."""

import gzip
from pathlib import Path

import numpy as np
import torch

VALIDATION = 5000  # of the 60,000 training images


def idx(path: Path) -> np.ndarray:
    """Reads an IDX file of bytes: two zeros, the datatype 8, the rank, the lengths as big-endian words, the bytes."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path.name} is no IDX file of bytes")
    rank = data[3]
    shape = np.frombuffer(data, ">u4", rank, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def read(folder: Path, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """`part` is `train` or `t10k`; images float32 (N, 1, 28, 28) with ink = 1, labels int64 (N)."""
    images = idx(folder / f"{part}-images-idx3-ubyte.gz")
    labels = idx(folder / f"{part}-labels-idx1-ubyte.gz")
    return torch.tensor(images).float().div(255)[:, None], torch.tensor(labels).long()


def split(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of the training images and of the validation images."""
    order = torch.randperm(60000, generator=torch.Generator().manual_seed(seed))
    return order[VALIDATION:], order[:VALIDATION]
