"""Where the cells come from: the manifest, the split by subject, the pixels."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

LABELS = ["normal", "leukaemic blast"]
CLASSES = ["hem", "all"]  # the data set's names for LABELS, in the same order
SIDE = 450


@dataclass(frozen=True)
class Cell:
    path: str
    target: int  # index into LABELS
    group: str  # cells of one patient, or of patients whose published ids overlap

    @property
    def name(self) -> str:
        return Path(self.path).name


def read_manifest(data: Path, split: str) -> list[Cell]:
    """The cells of `split` ("train" or "test"), in the manifest's order."""
    with open(data / "manifest.csv", newline="") as file:
        return [
            Cell(row["path"], CLASSES.index(row["label"]), row["subject_group"])
            for row in csv.DictReader(file)
            if row["path"].startswith(split + "/")
        ]


def read_pixels(data: Path, cell: Cell) -> np.ndarray:
    """uint8 (450, 450, 3), RGB."""
    with Image.open(data / cell.path) as image:
        pixels = np.asarray(image.convert("RGB"))
    if pixels.shape != (SIDE, SIDE, 3):
        raise ValueError(f"{cell.path} is {pixels.shape}, not {SIDE}x{SIDE}")
    return pixels


def as_input(pixels: np.ndarray) -> np.ndarray:
    """What the service feeds the graph: float32 (3, 450, 450), pixel / 255."""
    return pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
