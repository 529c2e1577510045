"""Trains the digit reader and exports it: `python train.py --data DIR --out DIR`.

DIR of --data holds MNIST's four `*-ubyte.gz` files. Into --out go `1/model.onnx` and `figures.json`; the weights go to
--weights, for `samples.py`. About forty minutes on one core. The epochs' figures are of the validation split; the test
images are evaluated once, at the end.
"""

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch.nn import functional

from augment import augment
from digits import read, split
from network import SIDE, Network, Served

OPSET = 17  # the oldest with all operators of the graph; ONNX Runtime supports it since 1.12


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's four gzipped IDX files")
    parser.add_argument("--out", type=Path, required=True, help="the model's folder, e.g. ../../models/mnist")
    parser.add_argument("--weights", type=Path, default=Path("weights.pt"), help="where PyTorch's weights are kept")
    parser.add_argument("--epochs", type=int, default=50, help="passes over the 55,000 training pictures")
    parser.add_argument("--batch", type=int, default=128, help="pictures a step")
    parser.add_argument("--rate", type=float, default=0.003, help="peak learning rate, reached after two epochs")
    parser.add_argument("--decay", type=float, default=0.02, help="AdamW's weight decay")
    parser.add_argument("--average", type=float, default=0.999, help="how slowly the averaged weights follow, per step")
    parser.add_argument("--seed", type=int, default=20, help="of split, weights, order and augmentation")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; more pay only where cores are idle")
    return parser.parse_args()


def rate_at(step: int, steps: int, warm: int) -> float:
    """A linear rise, then half a cosine down to nothing."""
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


@torch.no_grad()
def follow(average: Network, network: Network, slowness: float) -> None:
    """Exponential moving average of the weights; the norms' running figures as they are."""
    for kept, new in zip(average.parameters(), network.parameters()):
        kept.lerp_(new, 1 - slowness)
    for kept, new in zip(average.buffers(), network.buffers()):
        kept.copy_(new)


@torch.no_grad()
def probabilities(network: Network, digits: torch.Tensor) -> torch.Tensor:
    network.eval()
    return torch.cat([functional.softmax(network(part), dim=1) for part in digits.split(1000)])


def accuracy(network: Network, digits: torch.Tensor, labels: torch.Tensor) -> float:
    return (probabilities(network, digits).argmax(1) == labels).float().mean().item()


def train(options: argparse.Namespace, digits: torch.Tensor, labels: torch.Tensor) -> tuple[Network, dict]:
    learn, choose = split(options.seed)
    choose_digits, choose_labels = digits[choose], labels[choose]
    # The same distortions every epoch, so that the epochs' figures compare.
    torch.manual_seed(options.seed)
    choose_hard = augment(choose_digits)

    network = Network().to(memory_format=torch.channels_last)  # a third faster on a CPU
    average = copy.deepcopy(network)
    steps_each = len(learn) // options.batch
    steps = options.epochs * steps_each
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.rate, weight_decay=options.decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate_at(step, steps, 2 * steps_each))
    for epoch in range(options.epochs):
        began = time.monotonic()
        network.train()
        order = learn[torch.randperm(len(learn))]
        total = 0.0
        for batch in order[: steps_each * options.batch].split(options.batch):
            loss = functional.cross_entropy(network(augment(digits[batch])), labels[batch], label_smoothing=0.02)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            follow(average, network, options.average)
            total += loss.item()
        clean = accuracy(average, choose_digits, choose_labels)
        hard = accuracy(average, choose_hard, choose_labels)
        print(
            f"epoch {epoch + 1}: loss {total / steps_each:.4f}, validation {clean:.4f}, distorted {hard:.4f},"
            f" {time.monotonic() - began:.0f} s",
            flush=True,
        )
    return average.eval(), {"validation": clean, "validation_distorted": hard}


def export(network: Network, path: Path) -> onnxruntime.InferenceSession:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        Served(network).eval(),
        (torch.zeros(1, SIDE, SIDE, 1),),
        path,
        input_names=["image"],
        output_names=["probabilities"],
        dynamic_axes={"image": {0: "batch"}, "probabilities": {0: "batch"}},
        opset_version=OPSET,
        dynamo=False,  # the newer exporter writes more nodes and a second file for the same graph
    )
    onnx.checker.check_model(onnx.load(path), full_check=True)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    digits, labels = read(options.data, "train")
    network, figures = train(options, digits, labels)
    torch.save(network.state_dict(), options.weights)

    session = export(network, options.out / "1" / "model.onnx")
    test_digits, test_labels = read(options.data, "t10k")
    expected = probabilities(network, test_digits).numpy()
    served = session.run(None, {"image": test_digits.numpy().reshape(-1, SIDE, SIDE, 1)})[0]
    difference = float(np.abs(served - expected).max())
    assert difference < 1e-4, f"ONNX Runtime differs from PyTorch by {difference}"

    guesses = served.argmax(1)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (test_labels.numpy(), guesses), 1)
    figures |= {
        "test": float((guesses == test_labels.numpy()).mean()),
        "test_confusion": [" ".join(map(str, row)) for row in confusion],  # a row for each true digit
        "onnxruntime_difference": difference,
        "bytes": (options.out / "1" / "model.onnx").stat().st_size,
        "weights": sum(weight.numel() for weight in network.parameters()),
    }
    (options.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps({key: value for key, value in figures.items() if key != "test_confusion"}, indent=1))


if __name__ == "__main__":
    main()
