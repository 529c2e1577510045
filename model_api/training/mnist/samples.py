"""Writes the sample images and PyTorch's results for them: `python samples.py --data DIR --out DIR`.

Ten are test digits as published, one per class. Four are test digits in realistic form. The network takes
*preprocessed* images, so the service's own preprocessing (`cargo run --example fit`) is run over the files first: the
expected results are then PyTorch's for the same pixels as ONNX Runtime's.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.nn import functional

from digits import read
from network import Network

# On the same pixels ONNX Runtime and PyTorch agree to 1e-6. But the fit's resampling is vectorised for the processor
# at hand and may round a gray level up on one and down on another. `main` changes every inked pixel by one level at
# random and refuses samples whose answer moves further than this.
TOLERANCE = 0.01
FIT = "cargo run --release --quiet -p model_api --example fit --"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's four gzipped IDX files")
    parser.add_argument("--out", type=Path, required=True, help="the model's folder; its samples/ is written")
    parser.add_argument("--weights", type=Path, default=Path("weights.pt"), help="what train.py kept")
    parser.add_argument("--fit", default=FIT, help="command that takes a folder and pictures and fits these into that")
    return parser.parse_args()


def drawn(digit: np.ndarray, side: int) -> Image.Image:
    """A digit at another size with a pen's crisp edge, light on dark."""
    large = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    large = large.filter(ImageFilter.GaussianBlur(side / 36))
    return large.point(lambda value: max(0, min(255, (value - 127) * 4 + 127)))


def on_canvas(digit: np.ndarray, canvas: int, side: int, left: int, top: int) -> Image.Image:
    sheet = Image.new("L", (canvas, canvas), 0)
    sheet.paste(drawn(digit, side), (left, top))
    return sheet


def photographed(digit: np.ndarray) -> Image.Image:
    """Dark pencil on paper, light from the left, grain, slightly out of focus."""
    sheet = on_canvas(digit, 240, 170, 40, 30).filter(ImageFilter.GaussianBlur(1))
    ink = np.asarray(sheet) / 255
    light = np.linspace(1.1, 0.75, 240)[None, :] * np.linspace(1.0, 0.92, 240)[:, None]
    grain = np.random.default_rng(7).normal(0, 5, ink.shape)
    return Image.fromarray(np.clip((205 - 130 * ink) * light + grain, 0, 255).astype(np.uint8))


def pictures(digits: np.ndarray, labels: np.ndarray) -> dict[str, tuple[Image.Image, int]]:
    """File name -> image and true label."""
    place = {label: np.flatnonzero(labels == label) for label in range(10)}
    found = {f"digit-{label}.png": (Image.fromarray(digits[place[label][0]]), label) for label in range(10)}
    black = Image.new("L", (320, 320), 20)
    found |= {
        "photographed-5.png": (photographed(digits[place[5][1]]), 5),
        "off-centre-4.png": (on_canvas(digits[place[4][1]], 400, 110, 270, 20).point(lambda value: 255 - value), 4),
        "transparent-8.png": (Image.merge("LA", (black, on_canvas(digits[place[8][1]], 320, 260, 30, 40))), 8),
        "large-2.png": (on_canvas(digits[place[2][1]], 1600, 1500, 60, 40), 2),
    }
    return found


@torch.no_grad()
def main() -> None:
    options = arguments()
    torch.manual_seed(1)
    network = Network()
    network.load_state_dict(torch.load(options.weights))
    network.eval()
    digits, labels = read(options.data, "t10k")
    samples = pictures((digits[:, 0] * 255).round().byte().numpy(), labels.numpy())

    folder = options.out / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (picture, _) in samples.items():
        picture.save(folder / name, optimize=True)
    expected = {}
    with tempfile.TemporaryDirectory() as fitted:
        subprocess.run([*options.fit.split(), fitted, *(folder / name for name in samples)], check=True)
        for name, (_, label) in samples.items():
            pixels = torch.tensor(np.asarray(Image.open(Path(fitted) / name)).copy()).float()[None, None]
            answer = functional.softmax(network(pixels / 255), dim=1)[0]
            assert answer.argmax() == label, f"{name} is read as {answer.argmax()}"
            shaken = pixels.repeat(64, 1, 1, 1)
            shaken = (shaken + (shaken > 0) * torch.randint(-1, 2, shaken.shape)).clamp(0, 255)
            moved = (functional.softmax(network(shaken / 255), dim=1) - answer).abs().max().item()
            assert moved < TOLERANCE, f"{name} moves by {moved}"
            print(f"{name}: {label} with {answer.max():.4f}, moves by {moved:.5f} when shaken")
            expected[name] = {"label": str(label), "probabilities": [round(value, 7) for value in answer.tolist()]}
    text = json.dumps({"tolerance": TOLERANCE, "samples": expected}, indent=1)
    (folder / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
