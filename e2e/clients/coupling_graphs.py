"""Small graphs in which a row's result depends on the other rows of its batch, each by another operator or on another way.

`ALL` maps a name to a graph and to what makes one row of its inputs. None of them may be run on rows of several requests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

Rows = Callable[[np.random.Generator], dict[str, np.ndarray]]


@dataclass
class Case:
    model: onnx.ModelProto
    rows: Rows
    """Makes the inputs of a request of one row."""
    disabled_optimizers: list[str] = field(default_factory=list)
    """Optimisations with which ONNX Runtime gives wrong results."""


ALL: dict[str, Case] = {}


def nodes_of(nodes: list[tuple]) -> list[onnx.NodeProto]:
    """From (operator, inputs, outputs, attributes), with names separated by spaces; a dot is an input that is left out."""
    made = []
    for kind, inputs, outputs, *attributes in nodes:
        domain, _, kind = kind.rpartition(":")
        names = ["" if name == "." else name for name in inputs.split()]
        made.append(helper.make_node(kind, names, outputs.split(), domain=domain, **(attributes[0] if attributes else {})))
    return made


def constants_of(values: dict[str, object]) -> list[onnx.TensorProto]:
    return [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]


def model(
    nodes: list[tuple],
    inputs: dict[str, tuple[int, list]],
    outputs: dict[str, tuple[int, list]],
    opset: int = 17,
    functions: list[onnx.FunctionProto] | None = None,
    **constants: object,
) -> onnx.ModelProto:
    def values(of: dict[str, tuple[int, list]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in of.items()]

    graph = helper.make_graph(nodes_of(nodes), "made_by_tests", values(inputs), values(outputs), constants_of(constants))
    domains = {"com.microsoft": 1, "ai.onnx.ml": 3, "made.by.tests": 1}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(*each) for each in domains.items())]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions or [])


def scattered(*shape: int) -> Rows:
    """Rows whose scale differs by up to a factor of a million, of both signs: some are quiet, some are loud."""
    return lambda rng: {"x": (rng.standard_normal((1, *shape)) * 10.0 ** rng.integers(-3, 4)).astype(np.float32)}


def add(name: str, nodes: list[tuple], shape: tuple = (4,), y: tuple | None = None, kind: int = TensorProto.FLOAT, **more: object) -> None:
    """A graph from x to y, of the same shape unless another is given."""
    assert name not in ALL
    given, result = ["n", *shape], ["n", *(shape if y is None else y)]
    made = model(nodes, {"x": (TensorProto.FLOAT, given)}, {"y": (kind, result)}, **more)
    ALL[name] = Case(made, scattered(*shape))


W = np.random.default_rng(7).standard_normal((4, 4)).astype(np.float32)
ZERO, ONE = np.array([0]), np.array([1])
EPSILON = np.float32(1e-6)

# ---- Statistics of the batch ----------------------------------------------------------------------------------------

add("peak", [("Abs", "x", "size"), ("ReduceMax", "size", "peak", {"keepdims": 0}), ("Div", "x peak", "y")])
add("mean-over-the-batch", [("ReduceMean", "x", "m", {"axes": [0]}), ("Sub", "x m", "y")])
add("sum-over-minus-two", [("ReduceSum", "x axes", "s"), ("Add", "x s", "y")], axes=np.array([-2]))
add("least-without-axis", [("ReduceMin", "x", "m", {"axes": [0], "keepdims": 0}), ("Sub", "x m", "y")])
add("length-of-a-column", [("ReduceL2", "x", "l", {"axes": [0]}), ("Div", "x l", "y")])
add("log-sum-exp", [("ReduceLogSumExp", "x", "l", {"axes": [0]}), ("Sub", "x l", "y")])
add("l1-of-everything", [("ReduceL1", "x", "l"), ("Div", "x l", "y")])
add("product-of-signs", [("Sign", "x", "s"), ("ReduceProd", "s", "p", {"axes": [0]}), ("Mul", "x p", "y")])
add("sum-of-squares", [("ReduceSumSquare", "x", "q", {"axes": [0, 1]}), ("Sqrt", "q", "r"), ("Div", "x r", "y")])
add(
    "standardised",
    [("ReduceMean", "x", "m"), ("Sub", "x m", "c"), ("Mul", "c c", "q"), ("ReduceMean", "q", "v"), ("Sqrt", "v", "s"), ("Div", "c s", "y")],
)
add(
    "floor-below-the-peak",
    [("Abs", "x", "a"), ("Add", "a tiny", "b"), ("Log", "b", "l"), ("ReduceMax", "l", "p"), ("Sub", "p range", "f"), ("Max", "l f", "y")],
    tiny=EPSILON, range=np.float32(8),
)
add("threshold-at-the-mean", [("ReduceMean", "x", "m"), ("Greater", "x m", "g"), ("Cast", "g", "y", {"to": 1})])
add(
    "only-loud-batches",
    [("ReduceMax", "x", "p"), ("Greater", "p limit", "loud"), ("Div", "x p", "quiet"), ("Where", "loud quiet x", "y")],
    limit=np.float32(100),
)
add("in-the-middle", [("MatMul", "x w", "h"), ("ReduceMax", "h", "p", {"axes": [0]}), ("Sub", "h p", "c"), ("Tanh", "c", "t"), ("MatMul", "t w", "y")], w=W)
add("behind-a-transpose", [("Transpose", "x", "t"), ("ReduceMean", "t", "m", {"axes": [1]}), ("Sub", "t m", "c"), ("Transpose", "c", "y")])
add("behind-a-reshape", [("Reshape", "x flat", "f"), ("ReduceMax", "f", "p", {"axes": [0]}), ("Div", "x p", "y")], flat=np.array([-1]))
add(
    "axes-from-shape",
    [("Shape", "x", "s"), ("Shape", "s", "rank"), ("Sub", "rank rank", "axes"), ("ReduceSum", "x axes", "t"), ("Add", "x t", "y")],
)
add("any-is-negative", [("Less", "x zero", "n"), ("Cast", "n", "i", {"to": 1}), ("ReduceMax", "i", "any"), ("Add", "x any", "y")], zero=np.float32(0))
add("second-output", [("Mul", "x x", "y"), ("ReduceMean", "x", "m", {"axes": [0]}), ("Sub", "x m", "z")])
ALL["second-output"].model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 4]))
add("mean-of-another-input", [("ReduceMean", "other", "m", {"axes": [0]}), ("Sub", "x m", "y")])
ALL["mean-of-another-input"].model.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["n", 4]))
ALL["mean-of-another-input"].rows = lambda rng: {name: scattered(4)(rng)["x"] for name in ("x", "other")}

# ---- Normalisation --------------------------------------------------------------------------------------------------

add("softmax-over-the-batch", [("Softmax", "x", "y", {"axis": 0})])
add("softmax-of-everything", [("Softmax", "x", "y", {"axis": 0})], opset=11)
add("log-softmax", [("LogSoftmax", "x", "y", {"axis": -2})])
add("hardmax", [("Hardmax", "x", "y", {"axis": 0})])
add("softmax-behind-a-transpose", [("Transpose", "x", "t"), ("Softmax", "t", "s"), ("Transpose", "s", "y")])
add("lp-normalised", [("LpNormalization", "x", "y", {"axis": 0, "p": 2})])
add("one-long-row", [("Reshape", "x row", "r"), ("ai.onnx.ml:Normalizer", "r", "n", {"norm": "MAX"}), ("Reshape", "n back", "y")], row=np.array([1, -1]), back=np.array([-1, 4]))
add("mean-variance", [("MeanVarianceNormalization", "x", "y")], (2, 3, 3))
add(
    "training-batch-norm",
    [("BatchNormalization", "x s b m v", "y rm rv", {"training_mode": 1})], (4, 3, 3), opset=15,
    s=np.ones(4, np.float32), b=np.zeros(4, np.float32), m=np.zeros(4, np.float32), v=np.ones(4, np.float32),
)
# The running mean and variance are updated in place. ONNX Runtime by itself merges the constants of equal values, so that each run
# would change scale and bias: 0.8 off after one run, 15 after seven. The served session does not merge them, and neither must the
# one that it is compared with.
ALL["training-batch-norm"].disabled_optimizers = ["ConstantSharing"]
add(
    "instance-norm-of-the-batch",
    [("Transpose", "x", "t", {"perm": [1, 2, 0]}), ("InstanceNormalization", "t s b", "i"), ("Transpose", "i", "y", {"perm": [2, 0, 1]})], (4, 3),
    s=np.ones(3, np.float32), b=np.zeros(3, np.float32),
)
add(
    "group-norm-of-the-batch",
    [("Reshape", "x groups", "g"), ("InstanceNormalization", "g s b", "i"), ("Reshape", "i back", "y")], (4, 3),
    groups=np.array([1, 2, -1]), back=np.array([-1, 4, 3]), s=np.ones(2, np.float32), b=np.zeros(2, np.float32),
)
add("neighbouring-rows", [("Transpose", "x", "t", {"perm": [1, 0, 2, 3]}), ("LRN", "t", "l", {"size": 3, "alpha": 1.0}), ("Transpose", "l", "y", {"perm": [1, 0, 2, 3]})], (4, 2, 2))

# ---- Quantisation ranges --------------------------------------------------------------------------------------------

QUANTISED = np.random.default_rng(8).integers(-127, 127, (4, 4)).astype(np.int8)
add("dynamic-quantisation", [("DynamicQuantizeLinear", "x", "q s z"), ("DequantizeLinear", "q s z", "y")])
add(
    "dynamic-matmul",
    [("DynamicQuantizeLinear", "x", "q s z"), ("MatMulInteger", "q w z", "i"), ("Cast", "i", "f", {"to": 1}), ("Mul", "f s", "y")],
    w=QUANTISED,
)
add("fused-dynamic-matmul", [("com.microsoft:DynamicQuantizeMatMul", "x w s", "y")], w=QUANTISED, s=np.float32(0.02))
add(
    "dynamic-convolution",
    [("DynamicQuantizeLinear", "x", "q s z"), ("ConvInteger", "q k z", "i"), ("Cast", "i", "f", {"to": 1}), ("Mul", "f s", "y")], (2, 4, 4), (3, 4, 4),
    k=np.random.default_rng(9).integers(-127, 127, (3, 2, 1, 1)).astype(np.int8),
)
add(
    "own-quantisation-range",
    [("Abs", "x", "a"), ("ReduceMax", "a", "p", {"keepdims": 0}), ("Div", "p levels", "s"), ("QuantizeLinear", "x s z", "q"), ("DequantizeLinear", "q s z", "y")],
    levels=np.float32(127), z=np.int8(0),
)

# ---- Order ----------------------------------------------------------------------------------------------------------

BATCH = [("Shape", "x", "s"), ("Gather", "s zero", "n")]
add("best-row", [("ArgMax", "x", "i", {"axis": 0}), ("Cast", "i", "f", {"to": 1}), ("Add", "x f", "y")])
add("worst-row", [("ArgMin", "x", "i", {"axis": 0, "keepdims": 0}), ("Cast", "i", "f", {"to": 1}), ("Add", "x f", "y")])
add("sorted", [*BATCH, ("TopK", "x n", "y i", {"axis": 0})], zero=ZERO)
add("largest-of-the-batch", [("Reshape", "x flat", "f"), ("TopK", "f one", "v i"), ("Sub", "x v", "y")], flat=np.array([-1]), one=ONE)
add("running-sum", [("CumSum", "x axis", "y")], axis=np.int64(0))
add("running-sum-in-the-middle", [("MatMul", "x w", "h"), ("CumSum", "h axis", "c", {"reverse": 1}), ("Relu", "c", "y")], axis=np.int64(0), w=W)
add("first-row", [("Slice", "x zero one zero", "f"), ("Sub", "x f", "y")], zero=ZERO, one=ONE)
add("last-row", [("Gather", "x last", "l", {"axis": 0}), ("Sub", "x l", "y")], last=np.array([-1]))
add("reversed", [("Slice", "x start end zero start", "r"), ("Add", "x r", "y")], start=np.array([-1]), end=np.array([-(2**62)]), zero=ZERO)
add("reversed-by-length", [*BATCH, ("ReverseSequence", "x lengths", "r", {"time_axis": 0, "batch_axis": 1}), ("Add", "x r", "y"), ("Expand", "n four", "lengths")], zero=ZERO, four=np.array([4]))
add("row-before", [("Slice", "x zero last zero", "b"), ("Concat", "start b", "c", {"axis": 0}), ("Sub", "x c", "y")], zero=ZERO, last=np.array([-1]), start=np.zeros((1, 4), np.float32))
add(
    "best-row-for-all",
    [("ReduceSum", "x one", "t", {"keepdims": 0}), ("ArgMax", "t", "i", {"axis": 0}), ("Gather", "x i", "b"), ("Sub", "x b", "y")], one=ONE,
)
add("rank-among-rows", [("ReduceSum", "x one", "t"), ("Transpose", "t", "u"), ("Less", "t u", "l"), ("Cast", "l", "f", {"to": 1}), ("ReduceSum", "f one", "y")], (4,), (1,), one=ONE)

# ---- Products between rows ------------------------------------------------------------------------------------------

add("gram-matrix", [("Transpose", "x", "t"), ("MatMul", "x t", "g"), ("MatMul", "g x", "y")])
add("attention-over-the-batch", [("Transpose", "x", "t"), ("MatMul", "x t", "g"), ("Softmax", "g", "p"), ("MatMul", "p x", "y")])
add("covariance", [("Transpose", "x", "t"), ("MatMul", "t x", "c"), ("MatMul", "x c", "y")])
add("transposed-gemm", [("Gemm", "x x", "c", {"transA": 1}), ("MatMul", "x c", "y")])
add("einsum-of-pairs", [("Einsum", "x x", "g", {"equation": "ij,kj->ik"}), ("ReduceMax", "g one", "y", {"keepdims": 1})], (4,), (1,), opset=18, one=ONE)
add("einsum-over-the-batch", [("Einsum", "x x", "q", {"equation": "ij,ij->j"}), ("Div", "x q", "y")])
add("nearest-other-row", [("ReduceSum", "x one", "t"), ("Transpose", "t", "u"), ("Sub", "t u", "d"), ("Abs", "d", "a"), ("ReduceMax", "a", "y", {"axes": [1]})], (4,), (1,), one=ONE)

# ---- Windows and sequences ------------------------------------------------------------------------------------------

TO_SEQUENCE, BACK = {"perm": [1, 2, 0]}, {"perm": [2, 0, 1]}
add("convolution-over-the-batch", [("Transpose", "x", "t", TO_SEQUENCE), ("Conv", "t k", "c", {"pads": [1, 1]}), ("Transpose", "c", "y", BACK)], (1, 4), k=np.random.default_rng(3).random((4, 4, 3)).astype(np.float32))
add("pooling-over-the-batch", [("Transpose", "x", "t", TO_SEQUENCE), ("MaxPool", "t", "c", {"kernel_shape": [3], "pads": [1, 1]}), ("Transpose", "c", "y", BACK)], (1, 4))
add("global-pool", [("Transpose", "x", "t", TO_SEQUENCE), ("GlobalAveragePool", "t", "c"), ("Sub", "t c", "d"), ("Transpose", "d", "y", BACK)], (1, 4))

RECURRENT = np.random.default_rng(4).standard_normal((1, 16, 4)).astype(np.float32)
for kind, gates in ("LSTM", 4), ("GRU", 3), ("RNN", 1):
    add(
        f"{kind.lower()}-over-the-batch",
        [(kind, "x w r", "h", {"hidden_size": 4}), ("Squeeze", "h one", "y")], (1, 4),
        w=RECURRENT[:, : 4 * gates], r=RECURRENT[:, : 4 * gates], one=ONE,
    )

# ---- The number of rows ---------------------------------------------------------------------------------------------

add("divided-by-their-number", [*BATCH, ("Cast", "n", "f", {"to": 1}), ("Div", "x f", "y")], zero=ZERO)
add("numbered", [*BATCH, ("Squeeze", "n", "k"), ("Range", "start k step", "r"), ("Cast", "r", "f", {"to": 1}), ("Unsqueeze", "f one", "u"), ("Add", "x u", "y")], zero=ZERO, one=ONE, start=np.int64(0), step=np.int64(1))
add("from-two-rows-on", [*BATCH, ("Greater", "n one", "many"), ("Mul", "x x", "q"), ("Where", "many q x", "y")], zero=ZERO, one=ONE)
add("size", [("Size", "x", "k"), ("Cast", "k", "f", {"to": 1}), ("Div", "x f", "y")])
add("mean-by-shape", [*BATCH, ("Cast", "n", "f", {"to": 1}), ("ReduceSum", "x zero", "t"), ("Div", "t f", "m"), ("Sub", "x m", "y")], zero=ZERO)

# ---- Lengths --------------------------------------------------------------------------------------------------------


def sequences(rng: np.random.Generator) -> dict[str, np.ndarray]:
    x = rng.standard_normal((1, 8)).astype(np.float32)
    return {"x": x, "length": rng.integers(1, 9, (1,))}


def with_lengths(name: str, nodes: list[tuple], shape: list, **constants: object) -> None:
    inputs = {"x": (TensorProto.FLOAT, ["n", "s"]), "length": (TensorProto.INT64, ["n"])}
    ALL[name] = Case(model(nodes, inputs, {"y": (TensorProto.FLOAT, shape)}, **constants), sequences)


with_lengths("trimmed-to-the-longest", [("ReduceMax", "length", "m", {"axes": [0]}), ("Slice", "x zero m one", "y")], ["n", "t"], zero=ZERO, one=ONE)
with_lengths(
    "padded-to-the-longest",
    [
        ("ReduceMax", "length", "m", {"axes": [0]}), ("Add", "m one", "e"), ("Sub", "e one", "room"), ("Concat", "zeros room", "p", {"axis": 0}),
        ("Pad", "x p", "y"),
    ],
    ["n", "t"], zeros=np.array([0, 0, 0]), one=ONE,
)
with_lengths("divided-by-the-longest", [("ReduceMax", "length", "m"), ("Cast", "m", "f", {"to": 1}), ("Div", "x f", "y")], ["n", "s"])
with_lengths(
    "mean-of-the-trimmed",
    [("ReduceMax", "length", "m", {"axes": [0]}), ("Slice", "x zero m one", "t"), ("ReduceMean", "t", "y", {"axes": [1]})], ["n", 1],
    zero=ZERO, one=ONE,
)

# ---- Elements that are found ----------------------------------------------------------------------------------------

POSITIVE = [("Greater", "x null", "g"), ("NonZero", "g", "z")]
add("how-many-are-positive", [*POSITIVE, ("Shape", "z", "s"), ("Gather", "s one", "c"), ("Cast", "c", "f", {"to": 1}), ("Add", "x f", "y")], null=np.float32(0), one=ONE)
add("positive-ones", [*POSITIVE, ("Transpose", "z", "t"), ("GatherND", "x t", "y")], (4,), (), null=np.float32(0))
add("different-values", [("Round", "x", "r"), ("Unique", "r", "u"), ("Shape", "u", "s"), ("Cast", "s", "f", {"to": 1}), ("Add", "x f", "y")])
add("rows-above-zero", [("ReduceSum", "x one", "t", {"keepdims": 0}), ("Greater", "t null", "g"), ("Compress", "x g", "y", {"axis": 0})], null=np.float32(0), one=ONE)
add("histogram", [("Sign", "x", "s"), ("Cast", "s", "i", {"to": 7}), ("OneHot", "i depth values", "h"), ("ReduceSum", "h zero", "y")], (4,), (4, 3), depth=np.int64(3), values=np.array([0, 1], np.float32), zero=ZERO)
add("loss", [("Abs", "x", "a"), ("ReduceSum", "a one", "t", {"keepdims": 0}), ("Cast", "t", "c", {"to": 7}), ("Mul", "c no", "label"), ("NegativeLogLikelihoodLoss", "x label", "l"), ("Add", "x l", "y")], one=ONE, no=np.int64(0))
add("sequence-of-rows", [("SplitToSequence", "x . ", "q", {"axis": 0}), ("SequenceAt", "q start", "f"), ("Sub", "x f", "y")], start=np.int64(0))
ALL["sequence-of-rows"].model.graph.node[0].input.pop()

# ---- Graphs within the graph ----------------------------------------------------------------------------------------


def body(nodes: list[tuple], inputs: list[tuple], outputs: list[tuple], **constants: object) -> onnx.GraphProto:
    def values(of: list[tuple]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(*each) for each in of]

    return helper.make_graph(nodes_of(nodes), "body", values(inputs), values(outputs), constants_of(constants))


FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
TWICE = body([("Add", "x x", "d")], [], [("d", FLOAT, None)])
SAME = body([("Identity", "x", "i")], [], [("i", FLOAT, None)])
CENTRED = body([("ReduceMean", "x", "m", {"axes": [0]}), ("Sub", "x m", "c")], [], [("c", FLOAT, None)])
add("branch-by-the-batch", [("ReduceMax", "x", "p", {"keepdims": 0}), ("Greater", "p limit", "loud"), ("If", "loud", "y", {"then_branch": TWICE, "else_branch": SAME})], limit=np.float32(3))
add("branch-that-centres", [("If", "always", "y", {"then_branch": CENTRED, "else_branch": SAME})], always=np.array(True))
add("either-branch", [("ReduceMax", "w", "p", {"keepdims": 0}), ("Greater", "p limit", "on"), ("If", "on", "y", {"then_branch": CENTRED, "else_branch": SAME})], limit=np.float32(0), w=W)
RUNNING = body(
    [("Max", "before row", "after"), ("Identity", "after", "out")],
    [("before", FLOAT, [4]), ("row", FLOAT, [4])], [("after", FLOAT, [4]), ("out", FLOAT, [4])],
)
add("scan-over-the-batch", [("Scan", "first x", "last y", {"body": RUNNING, "num_scan_inputs": 1})], first=np.zeros(4, np.float32))
STEP = body(
    [("Gather", "x i", "row", {"axis": 0}), ("Max", "before row", "after"), ("Identity", "on", "still"), ("Identity", "after", "out")],
    [("i", INT64, []), ("on", BOOL, []), ("before", FLOAT, [4])], [("still", BOOL, []), ("after", FLOAT, [4]), ("out", FLOAT, [4])],
)
add("loop-over-the-batch", [*BATCH, ("Squeeze", "n", "k"), ("Loop", "k . first", "last y", {"body": STEP})], zero=ZERO, first=np.zeros(4, np.float32))
CENTRE = body(
    [("ReduceMean", "before", "m", {"axes": [0]}), ("Sub", "before m", "c"), ("Tanh", "c", "after"), ("Identity", "on", "still")],
    [("i", INT64, []), ("on", BOOL, []), ("before", FLOAT, None)], [("still", BOOL, []), ("after", FLOAT, None)],
)
add("loop-that-centres", [("Loop", "three . x", "y", {"body": CENTRE})], three=np.int64(3))
PEAK = helper.make_function(
    "made.by.tests", "Peak", ["a"], ["b"],
    nodes_of([("ReduceMax", "a", "p"), ("Div", "a p", "b")]), [helper.make_opsetid("", 17)],
)
add("own-operator", [("Sigmoid", "x", "s"), ("made.by.tests:Peak", "s", "y")], functions=[PEAK])
INNER = body([("If", "always", "c", {"then_branch": CENTRED, "else_branch": SAME})], [], [("c", FLOAT, None)])
add("branch-in-a-branch", [("If", "always", "y", {"then_branch": INNER, "else_branch": SAME})], always=np.array(True))
