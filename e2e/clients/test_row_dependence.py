"""Rows of different callers run together only where each row's result depends on that row alone.

Three collections of models, each served from one folder: graphs in which rows are coupled, of which none may be mixed;
exports and graphs in which they are not, all of which are mixed; and real models out of wheels.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import numpy as np
import onnxruntime
import pytest
import requests
import tritonclient.http as triton

import coupling_graphs
import graphs
from coupling_graphs import Rows
from independent_models import ALL as INDEPENDENT
from inference_requests import inputs
from requirements import missing
from services import ROOT, Service, made_locale, wait_until

CALLERS = 48

# The largest difference that rounding may make, as a part of the output's largest value: kernels add in another order for another
# number of rows. Requests that run alone need none of it, but for the optimisations of another number of threads.
ROUNDING = 1e-4


class Served:
    """All models of a folder, behind web_api."""

    def __init__(self, web: Service):
        self.url = web.url
        self.client = triton.InferenceServerClient(f"127.0.0.1:{web.port}", concurrency=CALLERS, network_timeout=120)

    def batching(self, model: str) -> dict:
        def parameters() -> dict | None:
            answer = requests.get(f"{self.url}/v2/models/{model}", timeout=30)
            return answer.json().get("parameters", {}).get("batching") if answer.status_code == 200 else None

        return wait_until(parameters, f"{model} is served", 300)

    def send_at_once(self, model: str, given: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """The outputs of each of these requests, which are all sent before the first is answered."""
        headers = {"Cache-Control": "no-store"}
        sent = [self.client.async_infer(model, inputs(triton, **arrays), headers=headers) for arrays in given]
        answers = [each.get_result() for each in sent]
        return [{output["name"]: answer.as_numpy(output["name"]) for output in answer.get_response()["outputs"]} for answer in answers]

    def assert_alone(self, model: str, graph: bytes, rows: Rows, disabled_optimizers: list[str] | None = None) -> None:
        """Each of many callers at once has what ONNX Runtime gives in this process for that caller's rows alone."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled_optimizers)
        served = [output.name for output in session.get_outputs() if output.type.startswith("tensor")]
        rng = np.random.default_rng(5)
        requests_of = [rows(rng) for _ in range(CALLERS)]
        for given, found in zip(requests_of, self.send_at_once(model, requests_of)):
            for name, alone in zip(served, session.run(served, given)):
                assert_same(found[name], alone, f"{model}: {name}")


def assert_same(found: np.ndarray, alone: np.ndarray, what: str) -> None:
    assert found.shape == alone.shape, what
    if alone.dtype == object:
        assert [word.decode() for word in found.ravel()] == alone.ravel().tolist(), what
    elif not np.issubdtype(alone.dtype, np.floating):
        assert np.array_equal(found, alone), what
    else:
        largest = np.abs(alone, where=np.isfinite(alone), out=np.zeros_like(alone)).max(initial=0)
        np.testing.assert_allclose(found, alone, rtol=0, atol=ROUNDING * largest, err_msg=what)


@contextmanager
def serving(models: dict[str, bytes], folder: Path, onnxruntime_library: str) -> Iterator[Served]:
    repository = folder / "repository"
    for name, graph in models.items():
        graphs.write(graph, repository / name)
    locale = made_locale(folder / "locale")
    # ONNX Runtime in this process needs it as well.
    os.environ.update(locale)
    library = {"ORT_DYLIB_PATH": onnxruntime_library, "DEVICE": "cpu", "SESSION_THREADS": 1, **locale}
    model_api = Service("model_api", folder, MODEL_NAME="all", MODELS_DIR=repository, **library).start()
    web = None
    try:
        model_api.wait_ready(600)
        web = Service("web_api", folder, APP_TYPE="cli", MODEL_API_URL=model_api.url).start().wait_ready()
        yield Served(web)
    finally:
        for service in filter(None, (web, model_api)):
            service.end()


@pytest.fixture(scope="class")
def coupled(tmp_path_factory: pytest.TempPathFactory, binaries: Path, onnxruntime: str) -> Iterator[Served]:
    models = {name: case.model.SerializeToString() for name, case in coupling_graphs.ALL.items()}
    with serving(models, tmp_path_factory.mktemp("coupled"), onnxruntime) as served:
        yield served


class TestCoupledRows:
    def test_there_are_graphs_of_many_kinds(self):
        assert len(coupling_graphs.ALL) >= 50

    @pytest.mark.parametrize("name", coupling_graphs.ALL)
    def test_they_are_never_mixed(self, coupled: Served, name: str):
        batching = coupled.batching(name)
        assert (batching["enabled"], batching["rows"]) == (False, "dependent"), batching
        case = coupling_graphs.ALL[name]
        coupled.assert_alone(name, case.model.SerializeToString(), case.rows, case.disabled_optimizers)


def independent(tmp_path: Path, library: str, with_torch: bool) -> Iterator[tuple[Served, dict[str, bytes]]]:
    cases = {name: case for name, case in INDEPENDENT.items() if case.needs_torch == with_torch}
    models = {name: case.make().SerializeToString() for name, case in cases.items()}
    with serving(models, tmp_path, library) as served:
        yield served, models


@pytest.fixture(scope="class")
def apart(tmp_path_factory: pytest.TempPathFactory, binaries: Path, onnxruntime: str) -> Iterator[tuple[Served, dict[str, bytes]]]:
    yield from independent(tmp_path_factory.mktemp("apart"), onnxruntime, with_torch=False)


@pytest.fixture(scope="class")
def torch_apart(tmp_path_factory: pytest.TempPathFactory, binaries: Path, onnxruntime: str) -> Iterator[tuple[Served, dict[str, bytes]]]:
    yield from independent(tmp_path_factory.mktemp("torch"), onnxruntime, with_torch=True)


def assert_mixed(collection: tuple[Served, dict[str, bytes]], name: str) -> None:
    served, models = collection
    batching = served.batching(name)
    how = "independent_by_analysis" if INDEPENDENT[name].is_proved else "independent_by_probe"
    assert (batching["enabled"], batching["rows"]) == (True, how), batching
    served.assert_alone(name, models[name], INDEPENDENT[name].rows)


class TestIndependentRows:
    @pytest.mark.parametrize("name", [name for name, case in INDEPENDENT.items() if not case.needs_torch])
    def test_they_are_mixed(self, apart: tuple[Served, dict[str, bytes]], name: str):
        assert_mixed(apart, name)


@pytest.mark.pytorch
class TestIndependentRowsOfPyTorch:
    @pytest.mark.parametrize("name", [name for name, case in INDEPENDENT.items() if case.needs_torch])
    def test_they_are_mixed(self, torch_apart: tuple[Served, dict[str, bytes]], name: str):
        assert_mixed(torch_apart, name)


# ---- Real models ----------------------------------------------------------------------------------------------------

# Unpacked by scripts/setup_tests.sh.
WHEELS = Path(os.environ.get("WHEEL_MODELS") or ROOT / ".mlserve" / "wheels")


def of(**shapes: tuple) -> Rows:
    """Numbers between 0 and 1 of these shapes; a name that begins with `state` holds zeros."""

    def rows(rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {name: rng.random(shape, np.float32) * (name not in ("state", "h", "c")) for name, shape in shapes.items()}

    return rows


def file_bytes(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"bytes": rng.integers(0, 257, (1, 2048)).astype(np.int32)}


def with_rate(rows: Rows) -> Rows:
    return lambda rng: {**rows(rng), "sr": np.array(16_000)}


# File → inputs of one row, and how the rows are: a state that holds the batch on its second axis, and an input for one image only, leave
# no first axis to mix on.
SPEECH = of(input=(1, 576), state=(2, 1, 128))
REAL: dict[str, tuple[str, Rows, str]] = {
    "rapidocr-detection": ("rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", of(x=(1, 3, 64, 96)), "independent_by_analysis"),
    "rapidocr-recognition": ("rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", of(x=(1, 3, 48, 96)), "independent_by_analysis"),
    "rapidocr-direction": ("rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", of(x=(1, 3, 48, 192)), "independent_by_analysis"),
    "magika": ("magika/models/standard_v3_3/model.onnx", file_bytes, "independent_by_analysis"),
    "ddddocr": ("ddddocr/common.onnx", of(input1=(1, 1, 64, 96)), "no_batch_axis"),
    "ddddocr-old": ("ddddocr/common_old.onnx", of(input1=(1, 1, 64, 96)), "no_batch_axis"),
    "ddddocr-detection": ("ddddocr/common_det.onnx", of(images=(1, 3, 416, 416)), "no_batch_axis"),
    "silero": ("silero_vad/data/silero_vad.onnx", with_rate(SPEECH), "no_batch_axis"),
    "silero-16k": ("silero_vad/data/silero_vad_16k_op15.onnx", with_rate(SPEECH), "no_batch_axis"),
    "silero-without-if": ("silero_vad/data/silero_vad_op18_ifless.onnx", with_rate(SPEECH), "no_batch_axis"),
    "silero-half": ("silero_vad/data/silero_vad_half.onnx", SPEECH, "no_batch_axis"),
    "silero-sequence": ("silero_vad/data/silero_vad_16k_sequence.onnx", of(input=(1, 576), h=(1, 1, 128), c=(1, 1, 128)), "no_batch_axis"),
}


@pytest.fixture(scope="class")
def real(tmp_path_factory: pytest.TempPathFactory, binaries: Path, onnxruntime: str) -> Iterator[Served]:
    for file, *_ in REAL.values():
        if not (WHEELS / file).exists():
            missing(f"{WHEELS / file}: scripts/setup_tests.sh unpacks it")
    models = {name: (WHEELS / file).read_bytes() for name, (file, *_) in REAL.items()}
    with serving(models, tmp_path_factory.mktemp("real"), onnxruntime) as served:
        yield served


class TestRealModels:
    @pytest.mark.parametrize("name", REAL)
    def test_they_are_mixed_where_their_inputs_hold_a_batch(self, real: Served, name: str):
        file, rows, how = REAL[name]
        batching = real.batching(name)
        assert (batching["enabled"], batching["rows"]) == (how == "independent_by_analysis", how), batching
        real.assert_alone(name, (WHEELS / file).read_bytes(), rows)
