"""Trains the blood cell model and exports it for the service, in one command.

    python train.py --data DIR --out DIR

DIR holds `manifest.csv` and the images (README.md here has their source). texture.py measures every cell, and an ensemble of
small networks is trained on the measurements (network.py). The output in --out:

    1/model.onnx            the graph: pixels / 255 in, probabilities out
    figures.json            cross-validated over patients, and on the test split
    samples/                six test images and, in expected.json, PyTorch's results for them

All choices were made on patients held out of the training split; the test split is evaluated once, at the end.
"""

import argparse
import collections
import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import torch
from torch import nn
from torch.nn import functional

from cells import CLASSES, LABELS, SIDE, Cell, as_input, read_manifest, read_pixels
from figures import describe, figures
from network import Classifier, Head, Measurement, Panel

# Subject groups that are held out together, every group once. The first set is the one to compare figures with.
HELD_OUT = [
    {"26", "28", "43", "H11", "H19"},
    {"45", "35", "22", "3", "H12", "H16"},
    {"48", "5", "14", "19", "H15", "H17"},
    {"50", "52", "11", "1+15+17+20+21", "4", "H24"},
]
HEADS = 8
HIDDEN = 32
DROPOUT = 0.5
STEPS = 200
BATCH = 768
LEARNING_RATE = 5e-3
WEIGHT_DECAY = 0.3
SMOOTHING = 0.05
MIXUP = 1.0
AGREEMENT = 1e-4  # how far ONNX Runtime may be from PyTorch, in probability
OPSET = 17


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(1)  # the networks are too small to gain by a second thread
    cells = read_manifest(options.data, "train")
    measurements = measure_all(options.data, cells, options.workers)
    held_out = cross_validate(cells, measurements, options.seed)

    model = Classifier(train_panel(cells, measurements, options.seed)).eval()
    path = options.out / "1" / "model.onnx"
    export(model, path)

    test_cells = read_manifest(options.data, "test")
    probabilities = answers(model, path, options.data, test_cells)
    test = figures_of(test_cells, probabilities)
    print("test split\n" + describe(test))
    (options.out / "figures.json").write_text(json.dumps({"test": test, **held_out}, indent=1) + "\n")
    write_samples(options.out / "samples", options.data, test_cells, probabilities)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder with manifest.csv, train/ and test/")
    parser.add_argument("--out", type=Path, required=True, help="where the graph, figures and samples are written")
    parser.add_argument("--seed", type=int, default=20261120, help="of the networks' beginnings and draws")
    parser.add_argument("--workers", type=int, default=2, help="processes that measure cells, one core each")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def targets_of(cells: list[Cell]) -> torch.Tensor:
    return torch.tensor([cell.target for cell in cells])


def measure_all(data: Path, cells: list[Cell], workers: int) -> torch.Tensor:
    """(cells, measurements), the longest part. ONNX Runtime takes a quarter of PyTorch's time for it."""
    parts = [cells[start : start + 100] for start in range(0, len(cells), 100)]
    rows = []
    with TemporaryDirectory() as folder, ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        path = Path(folder) / "measurement.onnx"
        export(Measurement(), path, output="measurements")
        for part in pool.map(measure_some, [path] * len(parts), [data] * len(parts), parts):
            rows += part
            print(f"measured {len(rows)} of {len(cells)} cells", flush=True)
    return torch.tensor(rows)


def measure_some(path: Path, data: Path, cells: list[Cell]) -> list[list[float]]:
    session = open_session(path)
    pictures = (as_input(read_pixels(data, cell)) for cell in cells)
    return [session.run(["measurements"], {"image": picture[None]})[0][0].tolist() for picture in pictures]


def open_session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def cross_validate(cells: list[Cell], measurements: torch.Tensor, seed: int) -> dict:
    """Results for every training patient of an ensemble that was trained without that patient."""
    probabilities = np.zeros((len(cells), len(CLASSES)), dtype=np.float32)
    sets = []
    for groups in HELD_OUT:
        seen = [index for index, cell in enumerate(cells) if cell.group not in groups]
        unseen = [index for index, cell in enumerate(cells) if cell.group in groups]
        panel = train_panel([cells[index] for index in seen], measurements[seen], seed).eval()
        with torch.inference_mode():
            probabilities[unseen] = panel(measurements[unseen]).numpy()
        sets.append(figures_of([cells[index] for index in unseen], probabilities[unseen]))
        print(f"held out {', '.join(sorted(groups))}\n{describe(sets[-1])}", flush=True)
    everyone = figures_of(cells, probabilities)
    print(f"all held-out cells together\n{describe(everyone)}", flush=True)
    return {"validation": sets[0], "cross_validation": everyone, "cross_validation_sets": sets}


def figures_of(cells: list[Cell], probabilities: np.ndarray) -> dict:
    return figures(targets_of(cells).numpy(), [cell.group for cell in cells], probabilities)


def train_panel(cells: list[Cell], measurements: torch.Tensor, seed: int) -> Panel:
    mean, deviation = measurements.mean(dim=0), measurements.std(dim=0) + 1e-6
    targets, weights = targets_of(cells), draw_weights(cells)
    heads = []
    for index in range(HEADS):
        torch.manual_seed(seed + index)
        head = Head(mean, deviation, HIDDEN, DROPOUT)
        train_head(head, head.standardise(measurements), targets, weights)
        heads.append(head)
    return Panel(heads)


def train_head(head: Head, standardised: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> None:
    optimiser = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    head.train()
    for _ in range(STEPS):
        batch = torch.multinomial(weights, BATCH, replacement=True)
        inputs, wanted = mixed(standardised[batch], smoothed(targets[batch]))
        loss = functional.cross_entropy(head.decide(inputs), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def draw_weights(cells: list[Cell]) -> torch.Tensor:
    """The chance of each cell to be drawn: both classes alike, and within one a group by the root of its size,
    so that a patient with many cells does not become what the class looks like."""
    sizes = collections.Counter((cell.target, cell.group) for cell in cells)
    weights = torch.tensor([sizes[cell.target, cell.group] ** -0.5 for cell in cells], dtype=torch.float32)
    targets = targets_of(cells)
    for target in range(len(CLASSES)):
        weights[targets == target] /= weights[targets == target].sum()
    return weights


def smoothed(targets: torch.Tensor) -> torch.Tensor:
    return functional.one_hot(targets, len(CLASSES)).float() * (1 - SMOOTHING) + SMOOTHING / len(CLASSES)


def mixed(inputs: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixup (Zhang et al. 2018): cells between two cells, with answers between their answers."""
    share = torch.distributions.Beta(MIXUP, MIXUP).sample((len(inputs), 1))
    order = torch.randperm(len(inputs))
    return torch.lerp(inputs[order], inputs, share), torch.lerp(wanted[order], wanted, share)


def export(model: nn.Module, path: Path, output: str = "probabilities") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        model,
        (torch.rand(2, 3, SIDE, SIDE),),
        path,
        input_names=["image"],
        output_names=[output],
        dynamic_axes={"image": {0: "batch"}, output: {0: "batch"}},
        opset_version=OPSET,
        dynamo=False,
    )


@torch.inference_mode()
def answers(model: nn.Module, path: Path, data: Path, cells: list[Cell]) -> np.ndarray:
    """PyTorch's probabilities; stops if ONNX Runtime does not agree on every cell."""
    session = open_session(path)
    found = []
    for start in range(0, len(cells), 4):
        batch = np.stack([as_input(read_pixels(data, cell)) for cell in cells[start : start + 4]])
        ours = model(torch.from_numpy(batch)).numpy()
        theirs = session.run(["probabilities"], {"image": batch})[0]
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=AGREEMENT)
        found.append(ours)
    return np.concatenate(found)


def write_samples(folder: Path, data: Path, cells: list[Cell], probabilities: np.ndarray) -> None:
    """Three test cells per class, named by their truth: every group's first in turn, whether answered right or wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    expected = {}
    for target, truth in enumerate(["normal", "blast"]):
        for number, index in enumerate(first_of_each_group(cells, target, count=3), start=1):
            name = f"{truth}-{number}.png"
            shutil.copyfile(data / cells[index].path, folder / name)
            expected[name] = {
                "label": LABELS[int(probabilities[index].argmax())],
                "probabilities": [round(float(value), 6) for value in probabilities[index]],
            }
    (folder / "expected.json").write_text(json.dumps({"tolerance": 0.001, "samples": expected}, indent=1) + "\n")


def first_of_each_group(cells: list[Cell], target: int, count: int) -> list[int]:
    """Indices: every group's first cell, then every group's second, until there are `count`."""
    rank = collections.Counter()
    ranked = []
    for index, cell in enumerate(cells):
        if cell.target == target:
            ranked.append((rank[cell.group], cell.group, index))
            rank[cell.group] += 1
    return [index for _, _, index in sorted(ranked)[:count]]


if __name__ == "__main__":
    main()
