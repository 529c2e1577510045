"""`examples/pipeline`: its graph is reproducible, and clients of the protocol can call it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable

import numpy as np
import tritonclient.grpc as triton

from images import encode, number
from services import ROOT, Service

EXAMPLE = ROOT / "examples" / "pipeline"


def test_the_graph_that_ships_is_the_one_that_its_program_makes(tmp_path: Path):
    made = tmp_path / "model.onnx"
    subprocess.run([sys.executable, str(EXAMPLE / "make.py"), str(made)], check=True, timeout=60)
    assert made.read_bytes() == (EXAMPLE / "find-digits" / "model.onnx").read_bytes()


def test_a_client_of_triton_calls_the_pipeline_over_grpc(spawn: Callable[..., Service], tmp_path: Path, models: Path):
    for model in (models / "mnist", EXAMPLE / "find-digits", EXAMPLE / "digits"):
        shutil.copytree(model, tmp_path / "models" / model.name)
    model_api = spawn("model_api", MODELS_DIR=tmp_path / "models", MODEL_NAME="all")
    web = spawn("web_api", APP_TYPE="cli", MODEL_API_URL=model_api.url)
    with triton.InferenceServerClient(f"127.0.0.1:{web.port}") as client:
        metadata = client.get_model_metadata("digits")
        assert [(tensor.name, list(tensor.shape)) for tensor in metadata.outputs] == [("probabilities", [-1, 10]), ("boxes", [-1, 4])]
        image = triton.InferInput("picture", [1], "BYTES")
        image.set_data_from_numpy(np.array([encode(number("31415"))], dtype=object))
        answer = client.infer("digits", [image])
    assert answer.as_numpy("probabilities").argmax(axis=1).tolist() == [3, 1, 4, 1, 5]
    boxes = answer.as_numpy("boxes")
    assert boxes.dtype == np.int64 and np.all(np.diff(boxes[:, 0]) > 0), "from left to right"
