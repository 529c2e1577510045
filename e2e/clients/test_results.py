"""Result types from the graph and from the settings, compared with ONNX Runtime in this process."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Callable

import numpy as np
import onnx
import pytest
import requests
from onnx import helper
from PIL import Image

from graphs import constant, graph
from services import Service

SIDE = 8
IMAGE_FILE = {"name": "x", "parameters": {"content_type": "image", "image": {"fit": "stretch", "scale": 1 / 255}}}
NAMES = ["cat", "dog", "owl"]
WEIGHTS = np.random.default_rng(7).normal(size=(SIDE * SIDE, 3)).astype(np.float32)


def node(kind: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def of_image(nodes: list, outputs: dict, *constants: onnx.TensorProto) -> onnx.ModelProto:
    return graph(nodes, {"x": ("FP32", ["N", SIDE, SIDE, 1])}, outputs, *constants)


def logits(nodes: list, outputs: dict, weights: np.ndarray = WEIGHTS, *constants: onnx.TensorProto) -> onnx.ModelProto:
    head = [node("Flatten", "x", "flat"), node("MatMul", "flat weights", "logits")]
    return of_image(head + nodes, outputs, constant("weights", "FP32", weights), *constants)


def detector() -> onnx.ModelProto:
    """Finds a box where the image is bright."""
    nodes = [
        node("ReduceMax", "x", "light", axes=[1, 2, 3], keepdims=0),
        node("Reshape", "light cube", "scores"),
        node("NonMaxSuppression", "boxes scores most overlap least", "chosen"),
        node("Gather", "chosen two", "places", axis=1),
        node("Gather", "flat places", "found", axis=0),
    ]
    constants = [
        constant("cube", "INT64", [1, 1, 1]),
        constant("boxes", "FP32", [[[0, 0, 1, 1]]]),
        constant("flat", "FP32", [[0, 0, 1, 1]]),
        constant("most", "INT64", [10]),
        constant("overlap", "FP32", [0.5]),
        constant("least", "FP32", [0.3]),
        constant("two", "INT64", 2),
    ]
    inputs = {"x": ("FP32", [1, SIDE, SIDE, 1])}
    return graph(nodes, inputs, {"found": ("FP32", ["K", 4]), "chosen": ("INT64", ["K", 3])}, *constants)


def labelled(**parameters: object) -> list[dict]:
    return [{"name": "y", "parameters": parameters}]


def models() -> dict[str, tuple[onnx.ModelProto, list[dict]]]:
    """Name → graph, and the settings of its outputs."""
    classes = {"y": ("FP32", ["N", 3])}
    pair = [node("ArgMax", "logits", "label", axis=1, keepdims=0), node("Softmax", "logits", "y", axis=1)]
    one = {"y": ("FP32", ["N", 1])}
    planes = [node("Transpose", "x", "plane", perm=[0, 3, 1, 2])]
    mask = planes + [node("Concat", "plane plane", "two", axis=1), node("Mul", "two signs", "y")]
    return {
        "label-first": (logits(pair, {"label": ("INT64", ["N"]), **classes}), []),
        "logits": (logits([node("Identity", "logits", "y")], classes), []),
        "named-logits": (logits([node("Identity", "logits", "y")], classes), labelled(labels=NAMES)),
        "softmax": (logits([node("Identity", "logits", "y")], classes), labelled(labels=NAMES, activation="softmax")),
        "deep": (
            logits([node("Softmax", "logits", "p", axis=1), node("Reshape", "p shape", "y")], {"y": ("FP32", ["N", 3, 1, 1])},
                   WEIGHTS, constant("shape", "INT64", [-1, 3, 1, 1])),
            labelled(task="classification", labels=NAMES),
        ),
        "binary": (logits([node("Sigmoid", "logits", "y")], one, WEIGHTS[:, :1]), labelled(labels=["good", "defect"], threshold=0.9)),
        "tags": (logits([node("Sigmoid", "logits", "y")], classes), labelled(labels=NAMES)),
        "amount": (logits([node("Identity", "logits", "y")], one, WEIGHTS[:, :1]), labelled(task="regression", unit="kg")),
        "enlarge": (
            of_image([node("Resize", "x none twice", "y", mode="nearest")], {"y": ("FP32", ["N", 16, 16, 1])},
                     constant("none", "FP32", []), constant("twice", "FP32", [1, 2, 2, 1])),
            labelled(task="image"),
        ),
        "mask": (of_image(mask, {"y": ("FP32", ["N", 2, SIDE, SIDE])}, constant("signs", "FP32", [[[[0.0]], [[1.0]]]])),
                 labelled(task="segmentation", labels=["dark", "light"])),
        "detector": (detector(), []),
    }  # fmt: skip


def write(folder: Path, name: str, model: onnx.ModelProto, outputs: list[dict]) -> None:
    (folder / name).mkdir()
    (folder / name / "model.onnx").write_bytes(model.SerializeToString())
    (folder / name / "model-settings.json").write_text(json.dumps({"inputs": [IMAGE_FILE], "outputs": outputs}))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, spawn_shared: Callable[..., Service]) -> Service:
    folder = tmp_path_factory.mktemp("results")
    for name, (model, outputs) in models().items():
        write(folder, name, model, outputs)
    model_api = spawn_shared("model_api", MODEL_NAME="all", MODELS_DIR=folder, SESSION_THREADS=1)
    return spawn_shared("web_api", APP_TYPE="cli", MODEL_API_URL=model_api.url)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def predict(served: Service, model: str, pixels: np.ndarray, **headers: str) -> requests.Response:
    headers = {"Content-Type": "image/png", **headers}
    return requests.post(f"{served.url}/predict/{model}", data=png(pixels), headers=headers, timeout=60)


def scores(pixels: np.ndarray, columns: int = 3) -> np.ndarray:
    return pixels.reshape(-1).astype(np.float32) / np.float32(255) @ WEIGHTS[:, :columns]


def softmax(values: np.ndarray) -> np.ndarray:
    shares = np.exp(values - values.max())
    return shares / shares.sum()


@pytest.mark.parametrize(
    ("model", "scale"),
    [("label-first", "probability"), ("softmax", "probability"), ("deep", "probability"), ("named-logits", "score")],
)
def test_a_class_is_that_of_the_scores_wherever_they_stand(served: Service, pixels: np.ndarray, model: str, scale: str):
    answer = predict(served, model, pixels).json()
    values = scores(pixels) if scale == "score" else softmax(scores(pixels))
    assert (answer["task"], answer["output"], answer["scale"]) == ("classification", "y", scale)
    assert answer["cls"] == int(values.argmax())
    assert [one["value"] for one in answer["probabilities"]] == pytest.approx(values.tolist(), abs=1e-5)
    assert answer["label"] == (str(answer["cls"]) if model == "label-first" else NAMES[answer["cls"]])


def test_logits_without_a_task_are_no_class(served: Service, pixels: np.ndarray):
    answer = predict(served, "logits", pixels).json()
    assert answer["task"] == "none" and "cls" not in answer
    assert answer["outputs"][0]["data"] == pytest.approx(scores(pixels).tolist(), abs=1e-5)


def test_one_value_decides_between_two_classes(served: Service, pixels: np.ndarray):
    probability = 1 / (1 + np.exp(-scores(pixels, 1)[0]))
    answer = predict(served, "binary", pixels).json()
    assert answer["label"] == ("defect" if probability >= 0.9 else "good")
    assert [one["label"] for one in answer["probabilities"]] == ["good", "defect"]
    assert answer["probabilities"][1]["value"] == pytest.approx(probability, abs=1e-5)


def test_several_labels_may_be_present(served: Service, pixels: np.ndarray):
    answer = predict(served, "tags", pixels).json()
    assert (answer["task"], answer["labels"]) == ("multi_label", [name for name, score in zip(NAMES, scores(pixels)) if score >= 0])


def test_a_regression_has_its_value_and_unit(served: Service, pixels: np.ndarray):
    answer = predict(served, "amount", pixels).json()
    assert (answer["task"], answer["unit"]) == ("regression", "kg")
    assert answer["value"] == pytest.approx(float(scores(pixels, 1)[0]), abs=1e-5)


def test_an_image_comes_in_json_and_alone(served: Service, pixels: np.ndarray):
    answer = predict(served, "enlarge", pixels).json()
    alone = predict(served, "enlarge", pixels, Accept="image/png")
    assert alone.headers["Content-Type"] == "image/png"
    assert base64.b64decode(answer["image"]) == alone.content
    assert (np.asarray(Image.open(io.BytesIO(alone.content))) == pixels.repeat(2, 0).repeat(2, 1)).all()


def test_a_segmentation_is_a_map_of_class_numbers(served: Service, pixels: np.ndarray):
    answer = predict(served, "mask", pixels).json()
    classes = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["image"]))))
    assert (classes == (pixels > 0)).all()
    shares = {one["label"]: one["share"] for one in answer["classes"]}
    assert shares["light"] == pytest.approx((pixels > 0).mean())


def test_nothing_found_is_a_result_and_a_job_that_succeeds(served: Service, pixels: np.ndarray):
    found = predict(served, "detector", pixels).json()
    assert found["task"] == "detection" and found["outputs"][0]["shape"] == [1, 4]
    nothing = predict(served, "detector", pixels * 0)
    assert nothing.status_code == 200 and nothing.json()["outputs"][0]["shape"] == [0, 4]
    files = [("file", (f"{name}.png", png(image))) for name, image in [("a", pixels * 0), ("b", pixels)]]
    job = requests.post(f"{served.url}/jobs", params={"model": "detector"}, files=files, timeout=30).json()
    wait = {"Prefer": "wait=20"}
    for _ in range(10):
        job = requests.get(f"{served.url}/jobs/{job['id']}", headers=wait, timeout=30).json()
        if job["status"] not in ("queued", "running"):
            break
    assert job["status"] == "succeeded", job
    assert [one["answer"]["outputs"][0]["shape"] for one in job["results"]] == [[0, 4], [1, 4]]


def test_metadata_show_the_tasks(served: Service):
    def parameters(model: str) -> dict[str, dict]:
        outputs = requests.get(f"{served.url}/v2/models/{model}", timeout=10).json()["outputs"]
        return {output["name"]: output.get("parameters", {}) for output in outputs}

    assert parameters("label-first") == {"label": {}, "y": {"task": "classification", "activation": "none"}}
    assert parameters("detector")["found"]["task"] == "detection"
    assert parameters("logits") == {"y": {}}
