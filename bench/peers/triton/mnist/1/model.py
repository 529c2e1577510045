"""A model for Triton's Python backend, as its documentation describes: a batch of requests in, as many responses out."""

import os
import sys

# The process that runs this does not look there by itself.
sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)

import numpy
import triton_python_backend_utils as triton
from network import Network


class TritonPythonModel:
    def initialize(self, args: dict) -> None:
        self.network = Network()

    def execute(self, requests: list) -> list:
        images = [triton.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        rows = self.network.run(numpy.concatenate(images))
        ends = numpy.cumsum([len(image) for image in images])[:-1]
        return [triton.InferenceResponse([triton.Tensor("probabilities", part)]) for part in numpy.split(rows, ends)]
