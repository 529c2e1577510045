"""Small models, made with `onnx` at test time, each for one property of the protocol; and ONNX Runtime in this process, to compare."""

from __future__ import annotations

import ctypes
import json
import shutil
from pathlib import Path
from typing import Sequence

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from services import MODELS

# What the protocol calls it → what ONNX does, and NumPy.
DATATYPES = {
    "BOOL": (TensorProto.BOOL, np.bool_),
    "UINT8": (TensorProto.UINT8, np.uint8),
    "UINT16": (TensorProto.UINT16, np.uint16),
    "UINT32": (TensorProto.UINT32, np.uint32),
    "UINT64": (TensorProto.UINT64, np.uint64),
    "INT8": (TensorProto.INT8, np.int8),
    "INT16": (TensorProto.INT16, np.int16),
    "INT32": (TensorProto.INT32, np.int32),
    "INT64": (TensorProto.INT64, np.int64),
    "FP16": (TensorProto.FLOAT16, np.float16),
    "BF16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    "FP32": (TensorProto.FLOAT, np.float32),
    "FP64": (TensorProto.DOUBLE, np.float64),
    "BYTES": (TensorProto.STRING, np.object_),
}

Shape = Sequence[int | str]


def extremes(datatype: str) -> np.ndarray:
    """What a datatype can hold at its ends, and what is easily lost on the way."""
    numpy = DATATYPES[datatype][1]
    if datatype == "BOOL":
        return np.array([True, False, False, True])
    if datatype == "BYTES":
        return np.array([b"word", b"", b"\0", b"\xff\xfe\0\x80", "Größe, 数".encode(), bytes(range(256))], dtype=object)
    if np.issubdtype(numpy, np.integer):
        ends = np.iinfo(numpy)
        return np.array([ends.min, ends.max, 0, 1, ends.max - 1], numpy)
    ends = ml_dtypes.finfo(numpy)
    finite = [ends.min, ends.max, 0.0, -0.0, 1 / 3, float(ends.tiny), float(ends.smallest_subnormal)]
    return np.array([*finite, np.inf, -np.inf, np.nan], numpy)


# ---- Graphs ---------------------------------------------------------------------------------------------------------


def graph(nodes: list, inputs: dict[str, tuple[str, Shape]], outputs: dict[str, tuple[str, Shape]], *constants) -> onnx.ModelProto:
    """A checked model; inputs and outputs are name → (datatype, shape)."""

    def values(of: dict[str, tuple[str, Shape]]) -> list:
        return [helper.make_tensor_value_info(name, DATATYPES[datatype][0], shape) for name, (datatype, shape) in of.items()]

    made = helper.make_graph(nodes, "made_by_tests", values(inputs), values(outputs), list(constants))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    return model


def constant(name: str, datatype: str, values: object) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.array(values, DATATYPES[datatype][1]), name)


def identity(datatype: str, shape: Shape = ("n",)) -> onnx.ModelProto:
    return graph([helper.make_node("Identity", ["x"], ["y"])], {"x": (datatype, shape)}, {"y": (datatype, shape)})


def arithmetic() -> onnx.ModelProto:
    """Two inputs, two outputs."""
    pairs = ("FP32", ["n", 2])
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    return graph(nodes, {"a": pairs, "b": pairs}, {"sum": pairs, "difference": pairs})


def scaled(by: float) -> onnx.ModelProto:
    """A model whose result identifies its version."""
    return graph(
        [helper.make_node("Mul", ["x", "by"], ["y"])], {"x": ("FP32", ["n", 3])}, {"y": ("FP32", ["n", 3])}, constant("by", "FP32", by)
    )


def divided_by_zero() -> onnx.ModelProto:
    nodes = [helper.make_node("Div", ["x", "zero"], ["y"])]
    return graph(nodes, {"x": ("FP32", ["n"])}, {"y": ("FP32", ["n"])}, constant("zero", "FP32", 0))


def transposed() -> onnx.ModelProto:
    """Its output's first axis is not its input's."""
    return graph([helper.make_node("Transpose", ["x"], ["y"])], {"x": ("FP32", ["n", "m"])}, {"y": ("FP32", ["m", "n"])})


def numbered_words() -> onnx.ModelProto:
    node = helper.make_node(
        "LabelEncoder", ["word"], ["number"], domain="ai.onnx.ml", keys_strings=["one", "zwei", "三"], values_int64s=[1, 2, 3], default_int64=-1
    )
    return graph([node], {"word": ("BYTES", ["n"])}, {"number": ("INT64", ["n"])})


def mask() -> onnx.ModelProto:
    """Image in, image out: white where the input is bright."""
    nodes = [
        helper.make_node("Greater", ["image", "half"], ["bright"]),
        helper.make_node("Cast", ["bright"], ["ones"], to=TensorProto.UINT8),
        helper.make_node("Mul", ["ones", "white"], ["mask"]),
    ]
    constants = constant("half", "FP32", 0.5), constant("white", "UINT8", 255)
    return graph(nodes, {"image": ("FP32", ["n", 16, 16, 1])}, {"mask": ("UINT8", ["n", 16, 16, 1])}, *constants)


def slow() -> onnx.ModelProto:
    """Counts up to its input, about a million per second."""
    state = [helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", TensorProto.INT64), ("on", TensorProto.BOOL))]
    before, after = (helper.make_tensor_value_info(name, TensorProto.INT64, []) for name in ("before", "after"))
    still_on = helper.make_tensor_value_info("still_on", TensorProto.BOOL, [])
    steps = [helper.make_node("Identity", ["on"], ["still_on"]), helper.make_node("Add", ["before", "one"], ["after"])]
    body = helper.make_graph(steps, "step", [*state, before], [still_on, after], [constant("one", "INT64", 1)])
    node = helper.make_node("Loop", ["steps", "", "zero"], ["counted"], body=body)
    return graph([node], {"steps": ("INT64", [])}, {"counted": ("INT64", [])}, constant("zero", "INT64", 0))


def sequence_input() -> onnx.ModelProto:
    """Correct ONNX, but no client can send a sequence."""
    tensors = helper.make_tensor_sequence_value_info("tensors", TensorProto.FLOAT, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    node = helper.make_node("ConcatFromSequence", ["tensors"], ["y"], axis=0)
    made = helper.make_graph([node], "made_by_tests", [tensors], [y])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


# ---- Folders --------------------------------------------------------------------------------------------------------


def write(model: onnx.ModelProto | bytes, folder: Path, **settings: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    if settings:
        (folder / "model-settings.json").write_text(json.dumps(settings))


def write_all(folder: Path) -> list[str]:
    """The models that are served to every test, and mnist, which ships; their names."""
    for datatype in DATATYPES:
        write(identity(datatype), folder / f"identity_{datatype.lower()}")
    write(identity("INT64", ()), folder / "scalar")
    write(identity("INT32", [f"d{axis}" for axis in range(8)]), folder / "rank_8")
    write(identity("FP32", (8, 4)), folder / "fixed_rows")
    write(identity("FP32"), folder / "may_be_empty", inputs=[{"name": "x", "parameters": {"allow_empty": True}}])
    write(arithmetic(), folder / "arithmetic")
    write(scaled(2), folder / "rows", parameters={"independent_rows": True})
    write(divided_by_zero(), folder / "divided_by_zero")
    write(transposed(), folder / "transposed")
    write(numbered_words(), folder / "numbered_words")
    image = {"content_type": "image", "image": {"color": "gray", "fit": "stretch", "scale": 1 / 255}}
    write(
        mask(),
        folder / "mask",
        inputs=[{"name": "image", "parameters": image}],
        outputs=[{"name": "mask", "parameters": {"task": "image"}}],
    )
    write(slow(), folder / "slow")
    for version in ("1", "2", "10"):
        write(scaled(float(version)), folder / "versioned" / version)
    shutil.copytree(MODELS / "mnist", folder / "mnist")
    return sorted(path.name for path in folder.iterdir())


# ---- ONNX Runtime ---------------------------------------------------------------------------------------------------


def run(model: Path, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """What ONNX Runtime answers in this process; strings come back as text."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.read_bytes(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    if all(array.dtype != ml_dtypes.bfloat16 for array in inputs.values()):
        return dict(zip(names, session.run(None, inputs)))
    binding = session.io_binding()
    for name, array in inputs.items():
        value = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), TensorProto.BFLOAT16)
        binding.bind_ortvalue_input(name, value)
    for name in names:
        binding.bind_output(name)
    session.run_with_iobinding(binding)
    return {name: bfloats(value) for name, value in zip(names, binding.get_outputs())}


def bfloats(value: onnxruntime.OrtValue) -> np.ndarray:
    """NumPy has no such type of its own, so ONNX Runtime gives none: these are the bytes where they lie."""
    shape = value.shape()
    return np.frombuffer(ctypes.string_at(value.data_ptr(), 2 * int(np.prod(shape))), ml_dtypes.bfloat16).reshape(shape)


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Also the sign of zero and what is in a NaN."""
    return (one.dtype, one.shape) == (other.dtype, other.shape) and (
        one.tolist() == other.tolist() if one.dtype == object else one.tobytes() == other.tobytes()
    )
