"""What lies in the models' folder: files in ONNX Runtime's own format, inputs with a default, files that cannot be read."""

from __future__ import annotations

import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
import onnx
import onnxruntime
import pytest
import requests
import tritonclient.grpc
import tritonclient.http
from onnx import TensorProto, helper, numpy_helper

from inference_requests import inputs
from services import Service, wait_until


def doubled(gain: float = 2) -> onnx.ModelProto:
    """`y = x × gain`, where `gain` may be given."""
    side = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "gain"], ["y"])],
        "doubled",
        [side("x", ["N", 2]), side("gain", [])],
        [side("y", ["N", 2])],
        [numpy_helper.from_array(np.float32(gain), "gain")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model


def write_ort(model: onnx.ModelProto, path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    path.parent.mkdir(parents=True, exist_ok=True)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, spawn_shared: Callable[..., Service]) -> str:
    models = tmp_path_factory.mktemp("models")
    onnx.save(doubled(), models / "bare.onnx")
    (models / "bare.onnx").rename(models / "upper.ONNX")
    write_ort(doubled(), models / "own.ort")
    write_ort(doubled(), models / "folder" / "1" / "model.ort")
    (models / "folder" / "1" / "model.ort").rename(models / "folder" / "1" / "model.ORT")
    (models / "resnet.pt").write_bytes(b"PK")
    settings = '{"max_batch_size": 16, "parameters": {"independent_rows": true}}'
    (models / "rows").mkdir()
    onnx.save(doubled(), models / "rows" / "model.onnx")
    (models / "rows" / "model-settings.json").write_text(settings)
    model_api = spawn_shared("model_api", MODEL_NAME="all", MODELS_DIR=models)
    return spawn_shared("web_api", APP_TYPE="cli", MODEL_API_URL=model_api.url).url


def index(url: str) -> dict[str, dict]:
    return {line["name"]: line for line in requests.post(f"{url}/v2/repository/index", timeout=10).json()}


@pytest.mark.parametrize("model", ["upper", "own", "folder", "rows"])
@pytest.mark.parametrize("transport", [tritonclient.http, tritonclient.grpc])
def test_an_input_with_a_default_may_be_left_out_or_given(url: str, model: str, transport):
    client = transport.InferenceServerClient(url.removeprefix("http://"))
    x = np.float32([[1, 2], [3, 4]])
    left_out = client.infer(model, inputs(transport, x=x)).as_numpy("y")
    given = client.infer(model, inputs(transport, x=x, gain=np.array(5, np.float32))).as_numpy("y")
    np.testing.assert_array_equal(left_out, x * 2)
    np.testing.assert_array_equal(given, x * 5)


@pytest.mark.parametrize("model", ["upper", "own"])
def test_metadata_and_configuration_show_which_inputs_are_optional(url: str, model: str):
    metadata = requests.get(f"{url}/v2/models/{model}", timeout=10).json()
    assert [(each["name"], each.get("parameters")) for each in metadata["inputs"]] == [("x", None), ("gain", {"optional": True})]
    config = requests.get(f"{url}/v2/models/{model}/config", timeout=10).json()
    assert [each["optional"] for each in config["input"]] == [False, True]
    client = tritonclient.grpc.InferenceServerClient(url.removeprefix("http://"))
    assert [each.optional for each in client.get_model_config(model).config.input] == [False, True]


def test_requests_of_many_callers_keep_the_gain_that_each_gave(url: str):
    def infer_once(number: int) -> tuple[list, list]:
        x = [float(number), float(number % 7)]
        gain = [None, 3.0, 4.0][number % 3]
        tensors = [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": x}]
        if gain is not None:
            tensors.append({"name": "gain", "datatype": "FP32", "shape": [], "data": [gain]})
        answer = requests.post(f"{url}/v2/models/rows/infer", json={"inputs": tensors}, timeout=30).json()
        return answer["outputs"][0]["data"], [value * (gain or 2) for value in x]

    with ThreadPoolExecutor(24) as callers:
        for found, right in callers.map(infer_once, [*range(300), *range(300)]):
            assert found == right


def test_a_file_of_another_library_is_in_the_index_with_the_reason(url: str):
    line = index(url)["resnet.pt"]
    assert line["state"] == "UNAVAILABLE"
    assert "a file of PyTorch: only .onnx and .ort files are served" in line["reason"]


@pytest.fixture
def readable() -> Iterator[Path]:
    """A folder that every user may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_file_that_the_service_may_not_read_is_named_with_the_remedy(readable: Path, spawn: Callable[..., Service], binaries: Path):
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root may read everything, and setpriv is missing")
    for name in ("open", "closed"):
        (readable / name).mkdir()
        onnx.save(doubled(), readable / name / "model.onnx")
    (readable / "closed" / "model.onnx").chmod(0o600 if os.geteuid() == 0 else 0)
    (readable / "shut").mkdir(mode=0o700 if os.geteuid() == 0 else 0)
    model_api = spawn("model_api", wait=False, MODEL_NAME="all", MODELS_DIR=readable)
    if os.geteuid() == 0:
        model_api.end()
        model_api.command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *model_api.command]
        model_api.start()

    def reasons() -> dict[str, str]:
        lines = index(model_api.url)
        settled = lines["open"]["state"] == "READY" and lines["closed"]["state"] == "UNAVAILABLE"
        return {name: line.get("reason", "") for name, line in lines.items()} if settled else {}

    listed = wait_until(reasons, "the models are looked at", 60)
    assert listed["closed"].startswith("model.onnx cannot be read by the user that the service runs as (uid "), listed
    assert "chmod a+r" in listed["closed"]
    assert listed["shut"].startswith("folder shut cannot be read by the user that the service runs as"), listed
    assert "chmod a+rx" in listed["shut"]
