"""Tiny models, written byte by byte: ONNX files are Protocol Buffers, and these need no package."""

from __future__ import annotations

from pathlib import Path

# Of attributes.
INT, INTS = 2, 7
# Of elements (TensorProto.DataType).
FLOAT, INT64 = 1, 7


def field(number: int, value: int | bytes | str) -> bytes:
    """A field of a message: a varint, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def tensor(name: str, *shape: int | str, elements: int = FLOAT) -> bytes:
    """ValueInfoProto; a text is an axis of any length."""
    axes = b"".join(field(1, field(2, axis) if isinstance(axis, str) else field(1, axis)) for axis in shape)
    return field(1, name) + field(2, field(1, field(1, elements) + field(2, axes)))


def node(operator: str, inputs: list[str], output: str, **attributes: int | list[int]) -> bytes:
    """NodeProto with attributes that are whole numbers or lists of them."""
    message = b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, operator)
    for name, value in attributes.items():
        if isinstance(value, int):
            message += field(5, field(1, name) + field(3, value) + field(20, INT))
        else:
            message += field(5, field(1, name) + b"".join(field(8, one) for one in value) + field(20, INTS))
    return message


def write(folder: Path, nodes: list[bytes], given: list[bytes], answer: bytes) -> None:
    """As a model of model_api's repository."""
    graph = b"".join(field(1, one) for one in nodes) + field(2, folder.name)
    graph += b"".join(field(11, one) for one in given) + field(12, answer)
    model = field(1, 7) + field(7, graph) + field(8, field(1, "") + field(2, 12))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model)


def write_largest(folder: Path) -> None:
    """N×E → N×1, the largest of each row."""
    write(folder, [node("ReduceMax", ["x"], "y", axes=[1], keepdims=1)], [tensor("x", "N", "E")], tensor("y", "N", 1))


def write_slow(folder: Path, steps: int) -> None:
    """N×64 → N×1: from each row a matrix, multiplied by itself so often. Rows together take as long as one after the other."""
    nodes = [
        node("Unsqueeze", ["x"], "column", axes=[2]),
        node("Unsqueeze", ["x"], "row", axes=[1]),
        node("MatMul", ["column", "row"], "m0"),
    ]
    for step in range(steps):
        # Kept between -1 and 1, or it would overflow.
        nodes += [node("MatMul", [f"m{step}", f"m{step}"], f"p{step}"), node("Tanh", [f"p{step}"], f"m{step + 1}")]
    nodes.append(node("ReduceMax", [f"m{steps}"], "largest", axes=[1, 2], keepdims=0))
    nodes.append(node("Unsqueeze", ["largest"], "y", axes=[1]))
    write(folder, nodes, [tensor("x", "N", 64)], tensor("y", "N", 1))


def write_division(folder: Path) -> None:
    """N×2: a / b, whole numbers of 64 bits. The smallest one divided by -1 has no result, and ends the process (SIGFPE) that tries."""
    a, b, quotient = (tensor(name, "N", 2, elements=INT64) for name in ("a", "b", "q"))
    write(folder, [node("Div", ["a", "b"], "q")], [a, b], quotient)
