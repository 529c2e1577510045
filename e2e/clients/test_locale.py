"""Text is normalised in the locale en_US.UTF-8: start_all.sh makes it where the system lacks it, and the reason names it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Callable

import onnx
import pytest
import requests
from onnx import TensorProto, helper

from services import ROOT, Service, made_locale, wait_until


def write_lowering(folder: Path) -> None:
    """`y` is `x` in lower case."""
    node = helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER", locale="en_US.UTF-8", is_case_sensitive=1)
    side = lambda name: helper.make_tensor_value_info(name, TensorProto.STRING, [None])
    graph = helper.make_graph([node], "lower", [side("x")], [side("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")


def lowered(url: str, text: str) -> str:
    request = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": [text]}]}
    answer = requests.post(f"{url}/v2/models/lower/infer", json=request, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()["outputs"][0]["data"][0]


def test_text_is_normalised_with_the_locale_that_the_start_makes(tmp_path: Path, spawn: Callable[..., Service]):
    write_lowering(tmp_path / "models" / "lower")
    model_api = spawn("model_api", MODELS_DIR=tmp_path / "models", MODEL_NAME="all", **made_locale(tmp_path / "state"))
    assert lowered(model_api.url, "GRÜSSE, ÉLAN") == "grüsse, élan"


def test_the_locale_is_made_without_the_sources_of_locales(tmp_path: Path, spawn: Callable[..., Service]):
    if has_locale():
        pytest.skip("the system has the locale")
    # A localedef that fails, as it does where the package of locales is missing.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "localedef").write_text("#!/bin/sh\nexit 4\n")
    (tmp_path / "bin" / "localedef").chmod(0o755)
    script = f'source {ROOT}/scripts/lib.sh; source {ROOT}/scripts/native.sh; state={tmp_path}/state; PATH={tmp_path}/bin:$PATH; make_locale; printf %s "$LOCPATH"'
    made = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, check=True).stdout
    write_lowering(tmp_path / "models" / "lower")
    model_api = spawn("model_api", MODELS_DIR=tmp_path / "models", MODEL_NAME="all", LOCPATH=made)
    assert lowered(model_api.url, "GRÜSSE, ÉLAN") == "grüsse, élan"


def test_a_missing_locale_is_named_with_the_remedy(tmp_path: Path, spawn: Callable[..., Service]):
    if has_locale():
        pytest.skip("the system has the locale")
    write_lowering(tmp_path / "models" / "lower")
    model_api = spawn("model_api", wait=False, MODELS_DIR=tmp_path / "models", MODEL_NAME="all")

    def reason() -> str:
        (line,) = requests.post(f"{model_api.url}/v2/repository/index", timeout=10).json()
        return line.get("reason", "") if line["state"] == "UNAVAILABLE" else ""

    listed = wait_until(reason, "the model is unavailable", 60)
    assert listed.startswith("the model needs the locale en_US.UTF-8, which this machine does not have"), listed
    assert "localedef -i en_US -f UTF-8 en_US.UTF-8" in listed


def has_locale() -> bool:
    if not shutil.which("locale"):
        return False
    known = subprocess.run(["locale", "-a"], capture_output=True, text=True).stdout.lower().split()
    return any(name in known for name in ("en_us.utf8", "en_us.utf-8"))
