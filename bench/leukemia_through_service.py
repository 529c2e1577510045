#!/usr/bin/env python3
"""The test split of the blood cells through a running service, for comparison with the model card.

    python bench/leukemia_through_service.py --data DIR --url http://localhost:5000

DIR holds manifest.csv (path, label, subject_group, …) and the images. Prints balanced accuracy, ROC AUC, the confusion
matrix and each subject group. Ends with 1 when a figure differs from --figures, the figures that the training wrote.
Needs the packages of e2e/requirements.txt.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import requests

FIGURES = Path(__file__).resolve().parent.parent / "model_api" / "models" / "leukemia" / "figures.json"


@dataclass
class Cell:
    """An image, its true class and the service's result."""

    group: str
    is_blast: bool
    predicted_blast: bool
    share: float

    @property
    def is_right(self) -> bool:
        return self.is_blast == self.predicted_blast


def predict(options: argparse.Namespace, row: dict[str, str]) -> Cell:
    image = (options.data / row["path"]).read_bytes()
    headers = {"Content-Type": "image/png"}
    response = requests.post(f"{options.url}/predict/{options.model}", data=image, headers=headers, timeout=60)
    response.raise_for_status()
    answer = response.json()
    shares = {score["label"]: score["value"] for score in answer["probabilities"]}
    blast = options.positive
    return Cell(row["subject_group"], row["label"] == "all", answer["label"] == blast, shares[blast])


def share_right(cells: list[Cell]) -> float:
    return sum(cell.is_right for cell in cells) / len(cells)


def area_under_roc(blasts: list[Cell], normal: list[Cell]) -> float:
    """The share of pairs of a blast and a normal cell in which the blast has the larger value; ties count half."""
    wins = sum((b.share > n.share) + (b.share == n.share) / 2 for b in blasts for n in normal)
    return wins / len(blasts) / len(normal)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of manifest.csv")
    parser.add_argument("--url", required=True, help="of web_api")
    parser.add_argument("--model", default="leukemia")
    parser.add_argument("--positive", default="leukaemic blast", help="the model's label for a blast")
    parser.add_argument("--clients", type=int, default=4, help="requests at the same time")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="what the training measured")
    options = parser.parse_args()
    options.url = options.url.rstrip("/")

    with (options.data / "manifest.csv").open(newline="") as manifest:
        rows = [row for row in csv.DictReader(manifest) if row["path"].startswith("test/")]
    begun = time.monotonic()
    with ThreadPoolExecutor(options.clients) as clients:
        cells = list(clients.map(lambda row: predict(options, row), rows))
    print(f"{len(cells)} cells, {len(cells) / (time.monotonic() - begun):.0f}/s")

    blasts, normal = ([cell for cell in cells if cell.is_blast is kind] for kind in (True, False))
    balanced = (share_right(blasts) + share_right(normal)) / 2
    area = area_under_roc(blasts, normal)
    confusion = [[sum(cell.predicted_blast is predicted for cell in truth) for predicted in (False, True)] for truth in (normal, blasts)]
    print(f"balanced accuracy {balanced * 100:.1f} %, ROC AUC {area:.3f}")
    print("             predicted normal   predicted blast")
    for name, (predicted_normal, predicted_blast) in zip(("normal", "blast"), confusion):
        print(f"  {name:13} {predicted_normal:16} {predicted_blast:17}")

    groups = defaultdict(list)
    for cell in cells:
        groups[cell.is_blast, cell.group].append(cell)
    for (is_blast, group), members in sorted(groups.items()):
        mean = sum(cell.share for cell in members) / len(members)
        kind = "blast" if is_blast else "normal"
        print(f"  {kind:6} {group:16} {len(members):4} cells, {share_right(members) * 100:5.1f} % right, mean {mean:.2f}")
    return compare(options.figures, balanced, area, confusion)


def compare(file: Path, balanced: float, area: float, confusion: list[list[int]]) -> int:
    """Whether the service reproduces the figures of the training, to the digits of the model card."""
    figures = json.loads(file.read_text())["test"]
    same = (
        abs(figures["balanced_accuracy"] - balanced) < 0.0005
        and abs(figures["roc_auc"] - area) < 0.0005
        and figures["confusion"] == confusion
    )
    print(f"{'the same as' if same else 'NOT the same as'} {file.name} of the training")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
