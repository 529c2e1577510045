"""The mnist network in ONNX Runtime, for every peer the same: one thread, as spinning or sharing threads would take the cores
from the server itself. MODEL names the file."""

from __future__ import annotations

import os

import numpy
import onnxruntime

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


class Network:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def run(self, images: numpy.ndarray) -> numpy.ndarray:
        """N×28×28×1 → N×10."""
        return self.session.run(None, {self.input: images})[0]

    def classify(self, image_arr: list) -> dict:
        """The first MLServe's answer to its body."""
        row = self.run(numpy.asarray(image_arr, dtype=numpy.float32).reshape(1, 28, 28, 1))[0]
        best = int(row.argmax())
        return {"cls": best, "value": float(row[best])}
