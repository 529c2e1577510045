"""Writes find-digits/model.onnx: an image of a line of digits → one crop of 28×28 pixels for each digit, in the format of mnist,
and its box.

    pip install -r requirements.txt && python make.py

The graph is not trained. Digits are separated by the empty columns between them. Each is normalised as in MNIST: its box is
scaled to 20 pixels, and its centre of mass is the centre of 28. The output is deterministic.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HEIGHT, WIDTH = 128, 512  # of the image
SIDE, BOX = 28, 20  # of a crop, and of the digit in it
SUPERSAMPLING = 4  # samples per pixel and axis of a crop, so that thin strokes are kept
MAX_DIGITS = 32  # digits
MIN_INK = 0.25  # of the darkest ink; lighter is paper
MIN_CONTRAST = 0.1  # paper is not perfectly uniform
MIN_RELATIVE_HEIGHT = 0.4  # of the tallest digit; lower segments are dust, dots or commas
MIN_WIDTH = 2  # pixels


class Graph:
    """`graph.Add(a, b)` adds a node and returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[bytes, onnx.TensorProto] = {}

    def __getattr__(self, operator: str):
        def node(*inputs: str | np.ndarray | list | int | float, name: str | None = None, **attributes: object) -> str:
            output = name or f"{operator.lower()}_{len(self.nodes)}"
            names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
            self.nodes.append(helper.make_node(operator, names, [output], **attributes))
            return output

        return node

    def constant(self, value: np.ndarray | list | int | float) -> str:
        array = np.asarray(value)
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        name = f"constant_{len(self.constants)}"
        value = numpy_helper.from_array(array).SerializeToString()
        return self.constants.setdefault(value, numpy_helper.from_array(array, name)).name


def ink_of(g: Graph, image: str) -> str:
    """[HEIGHT, WIDTH]: 1 where the stroke is darkest, 0 on paper. The mean decides whether ink is dark or light."""
    x = g.Reshape(image, [HEIGHT, WIDTH])
    # Padding outside of the image is black and not ink: on paper no column is all black.
    covered = g.Cast(
        g.And(g.Greater(g.ReduceMax(x, [0]), 0.0), g.Greater(g.ReduceMax(x, [1]), 0.0)), to=TensorProto.FLOAT
    )
    paper = g.Div(g.ReduceSum(g.Mul(x, covered)), g.Max(g.ReduceSum(covered), 1.0))
    dark_on_light = g.Mul(g.Relu(g.Sub(paper, x)), covered)
    ink = g.Where(g.Greater(paper, 0.5), dark_on_light, x)
    darkest = g.Max(g.ReduceMax(ink), MIN_CONTRAST / MIN_INK)
    relative = g.Div(ink, darkest)
    return g.Where(g.Greater(relative, MIN_INK), relative, 0.0)


def segments_of(g: Graph, ink: str) -> tuple[str, str]:
    """[K + 1] each: the first column of every digit and the one after its last. The last segment is not a digit: it avoids empty
    tensors if no digit is found."""
    inked = g.Cast(g.Greater(g.ReduceMax(ink, [0], keepdims=0), 0.0), to=TensorProto.INT64)
    framed = g.Pad(inked, [1, 1])
    change = g.Sub(g.Slice(framed, [1], [WIDTH + 2]), g.Slice(framed, [0], [WIDTH + 1]))
    starts, ends = g.NonZero(g.Greater(change, 0)), g.NonZero(g.Less(change, 0))
    return g.Concat(g.Reshape(starts, [-1]), [0], axis=0), g.Concat(g.Reshape(ends, [-1]), [1], axis=0)


def make() -> onnx.ModelProto:
    g = Graph()
    ink = ink_of(g, "image")
    first, after = segments_of(g, ink)

    # Ink of each segment in every row and in every column: [K + 1, HEIGHT], [K + 1, WIDTH].
    belongs = g.And(
        g.GreaterOrEqual(np.arange(WIDTH), g.Unsqueeze(first, [1])), g.Less(np.arange(WIDTH), g.Unsqueeze(after, [1]))
    )
    belongs = g.Cast(belongs, to=TensorProto.FLOAT)
    rows = g.MatMul(belongs, g.Transpose(ink, perm=[1, 0]))
    columns = g.Mul(belongs, g.ReduceSum(ink, [0]))
    inked = g.Cast(g.Greater(rows, 0.0), to=TensorProto.INT64)
    top = g.ArgMax(inked, axis=1, keepdims=0)
    bottom = g.Add(g.ArgMax(inked, axis=1, keepdims=0, select_last_index=1), 1)

    # Removes dust; the last segment, which is not a digit, stays.
    height, width = g.Slice(g.Sub(bottom, top), [0], [-1]), g.Slice(g.Sub(after, first), [0], [-1])
    tallest = g.Cast(g.ReduceMax(g.Concat(height, [1], axis=0)), to=TensorProto.FLOAT)
    is_tall = g.GreaterOrEqual(g.Cast(height, to=TensorProto.FLOAT), g.Mul(tallest, MIN_RELATIVE_HEIGHT))
    is_digit = g.And(is_tall, g.GreaterOrEqual(width, MIN_WIDTH))
    chosen = g.NonZero(g.Concat(g.Cast(is_digit, to=TensorProto.INT64), [1], axis=0))
    chosen = g.Slice(g.Reshape(chosen, [-1]), [0], [MAX_DIGITS + 1])

    def pick(tensor: str) -> str:
        return g.Gather(tensor, chosen, axis=0)

    def number(vector: str) -> str:
        return g.Cast(pick(vector), to=TensorProto.FLOAT)

    def middle(mass: str, positions: np.ndarray) -> str:
        total = g.Max(g.ReduceSum(mass, [1], keepdims=0), 1e-6)
        return g.Div(g.ReduceSum(g.Mul(mass, positions), [1], keepdims=0), total)

    def stepped(centre: str) -> str:
        return g.Add(g.Unsqueeze(centre, [1]), g.Mul(offsets, g.Unsqueeze(step, [1])))

    def scaled(positions: str, length: int) -> str:
        return g.Sub(g.Div(g.Add(g.Mul(positions, 2.0), 1.0), float(length)), 1.0)

    # The centre of mass, and the image's pixels per pixel of the crop.
    left, right, upper, lower = (number(side) for side in (first, after, top, bottom))
    x, y = middle(pick(columns), np.arange(WIDTH, dtype=np.float32)), middle(pick(rows), np.arange(HEIGHT, dtype=np.float32))
    step = g.Div(g.Max(g.Sub(right, left), g.Sub(lower, upper)), float(BOX))

    # The position of each sample, in pixels of the image and in GridSample's -1 … 1.
    fine = SIDE * SUPERSAMPLING
    offsets = ((np.arange(fine, dtype=np.float32) + 0.5) / SUPERSAMPLING - 0.5) - (SIDE - 1) / 2
    across, down = stepped(x), stepped(y)
    # Excludes the ink of neighbouring digits.
    inside = g.And(
        g.GreaterOrEqual(across, g.Unsqueeze(g.Sub(left, 0.5), [1])),
        g.LessOrEqual(across, g.Unsqueeze(g.Sub(right, 0.5), [1])),
    )
    square = [1, fine, fine]
    grid_x = g.Expand(g.Unsqueeze(scaled(across, WIDTH), [1]), square)
    grid_y = g.Expand(g.Unsqueeze(scaled(down, HEIGHT), [2]), square)
    grid = g.Concat(g.Unsqueeze(grid_x, [3]), g.Unsqueeze(grid_y, [3]), axis=3)
    # All crops are below each other, so that the image is not copied for each of them.
    grid = g.Reshape(grid, [1, -1, fine, 2])
    canvas = g.Reshape(ink, [1, 1, HEIGHT, WIDTH])
    samples = g.GridSample(canvas, grid, mode="linear", padding_mode="zeros", align_corners=0)
    samples = g.Reshape(samples, [-1, 1, fine, fine])
    samples = g.Mul(samples, g.Unsqueeze(g.Cast(inside, to=TensorProto.FLOAT), [1, 2]))
    crops = g.AveragePool(samples, kernel_shape=[SUPERSAMPLING, SUPERSAMPLING], strides=[SUPERSAMPLING, SUPERSAMPLING])
    crops = g.Div(crops, g.Max(g.ReduceMax(crops, [1, 2, 3]), 1e-6))
    crops = g.Reshape(crops, [-1, SIDE, SIDE, 1])
    boxes = g.Concat(*(g.Unsqueeze(pick(side), [1]) for side in (first, top, after, bottom)), axis=1)
    g.Slice(crops, [0], [-1], name="crops")
    g.Slice(boxes, [0], [-1], name="boxes")

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        g.nodes,
        "find_digits",
        [value("image", TensorProto.FLOAT, [1, HEIGHT, WIDTH, 1])],
        [value("crops", TensorProto.FLOAT, ["digits", SIDE, SIDE, 1]), value("boxes", TensorProto.INT64, ["digits", 4])],
        list(g.constants.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9, producer_name="mlserve")
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    file = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "find-digits" / "model.onnx")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(make().SerializeToString(deterministic=True))
