"""Recomputes the model card's figures from the exported graph, without PyTorch.

    python evaluate.py --data DIR --model ../../models/leukemia/1/model.onnx
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime

from cells import as_input, read_manifest, read_pixels
from figures import describe, figures


def main() -> None:
    options = parse_arguments()
    session = onnxruntime.InferenceSession(options.model, providers=["CPUExecutionProvider"])
    cells = read_manifest(options.data, options.split)
    probabilities = np.concatenate(
        [
            session.run(["probabilities"], {"image": as_input(read_pixels(options.data, cell))[None]})[0]
            for cell in cells
        ]
    )
    result = figures(np.array([cell.target for cell in cells]), [cell.group for cell in cells], probabilities)
    print(json.dumps(result, indent=1) if options.json else describe(result))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder with manifest.csv, train/ and test/")
    parser.add_argument("--model", type=Path, required=True, help="the ONNX file")
    parser.add_argument("--split", choices=["train", "test"], default="test", help="train was seen: for a check only")
    parser.add_argument("--json", action="store_true", help="print JSON with the figures per subject group")
    return parser.parse_args()


if __name__ == "__main__":
    main()
