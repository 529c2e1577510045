"""The containers: results and cache, and Compose's own commands."""

from __future__ import annotations

import pytest
import requests

from client import assert_problem, predict, result_of
from containers import PARTS, Containers, compose_as_a_user, docker
from images import new_image, reopened, samples
from services import ROOT


def assert_cached(stack: Containers, model: str, image: bytes) -> None:
    """Computed, then cached, and still cached after a stop and a start."""
    first = result_of(predict(stack.url, image, model))
    assert [first["cached"], result_of(predict(stack.url, image, model))["cached"]] == [False, True]
    app_type = stack.health().json()["app_type"]
    stack.stop()
    assert all(stack.id_of(part) == "" for part in PARTS)
    stack.start(app_type, model)
    again = predict(stack.url, image, model)
    assert result_of(again) | {"timing_ms": 0, "cached": False} == first | {"timing_ms": 0}
    assert (again.json()["cached"], again.headers["Cache-Status"]) == (True, "mlserve; hit")


class TestUiMnist:
    app_type, model = "ui", "mnist"

    # ---- Results and cache ----

    def test_it_shows_the_page_and_is_ready(self, stack: Containers):
        page = requests.get(stack.url, timeout=10)
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "Make a prediction" in page.text
        health = stack.health().json()
        assert (health["ready"], health["app_type"], health["degraded"]) == (True, "ui", [])
        assert health["memory"] == {"kind": "near+redis", "redis": "ready"}
        assert [(model["name"], model["state"]) for model in health["models"]] == [("mnist", "READY")]

    def test_an_image_is_cached_even_after_stop_all_and_start_all(self, stack: Containers):
        assert_cached(stack, "mnist", new_image())

    def test_the_shipped_model_answers_its_samples(self, stack: Containers):
        for sample in samples("mnist"):
            answer = result_of(predict(stack.url, sample.image))
            got = [score["value"] for score in answer["probabilities"]]
            assert got == pytest.approx(sample.probabilities, abs=sample.tolerance), sample.name

    def test_starting_twice_reports_that_it_runs(self, stack: Containers):
        before = [stack.id_of(part) for part in PARTS]
        again = stack.run("start_all.sh", "ui", "mnist")
        assert (again.returncode, "runs already (docker: ui mnist)" in again.stdout) == (0, True), again.stderr
        assert [stack.id_of(part) for part in PARTS] == before

    # ---- Compose's own commands ----

    def test_a_plain_compose_up_changes_nothing(self, stack: Containers):
        ids = [stack.id_of(part) for part in PARTS]
        done = compose_as_a_user("up", "--detach")
        assert done.returncode == 0, done.stderr
        assert [stack.id_of(part) for part in PARTS] == ids
        health = stack.health().json()
        assert (health["app_type"], [model["name"] for model in health["models"]]) == (self.app_type, [self.model])
        assert {stack.id_of(part) for part in PARTS} == {line[:12] for line in compose_as_a_user("ps", "--quiet").stdout.split()}

    def test_workers_come_and_go_and_nothing_else_changes(self, stack: Containers):
        ids = [stack.id_of(part) for part in PARTS]
        for number in (2, 1, 0):
            scaled = stack.run("start_all.sh", self.app_type, self.model, "--workers", str(number))
            assert (scaled.returncode, f"workers: {number}" in scaled.stdout) == (0, True), scaled.stdout + scaled.stderr
            assert len(stack.id_of("job_worker").split()) == number
            workers = stack.id_of("job_worker")
            assert compose_as_a_user("up", "--detach").returncode == 0
            assert stack.id_of("job_worker") == workers
        assert [stack.id_of(part) for part in PARTS] == ids

    @pytest.mark.parametrize("part", ["web_api", "model_api"])
    def test_metrics_are_reached_from_the_host_by_one_line(self, stack: Containers, part: str):
        line = f"docker compose exec {part} {part} metrics"
        assert line in (ROOT / "README.md").read_text()
        done = compose_as_a_user(*line.split()[2:])
        assert (done.returncode, f"# TYPE {part}_requests counter" in done.stdout) == (0, True), done.stderr

    def test_the_locale_that_text_models_need_is_there(self, stack: Containers):
        # An unknown locale is taken for "C", whose characters are those of ASCII.
        reported = docker("exec", "--env", "LC_ALL=en_US.UTF-8", stack.id_of("model_api"), "locale", "charmap")
        assert reported.strip() == "UTF-8"


class TestCliLeukemia:
    app_type, model = "cli", "leukemia"

    def test_it_greets_and_is_ready(self, stack: Containers):
        assert requests.get(stack.url, timeout=10).json() == "Can curl web api!"
        health = stack.health().json()
        assert (health["ready"], health["app_type"]) == (True, "cli")
        assert [(model["name"], model["state"]) for model in health["models"]] == [("leukemia", "READY")]

    def test_an_image_is_cached_even_after_stop_all_and_start_all(self, stack: Containers):
        assert_cached(stack, "leukemia", new_image(reopened(samples("leukemia")[0].image)))

    def test_the_shipped_model_answers_its_samples_with_its_notice(self, stack: Containers):
        for sample in samples("leukemia"):
            # The only model needs no name; the way of curl --data-binary.
            headers = {"Content-Type": "image/png"}
            answer = result_of(requests.post(f"{stack.url}/predict", data=sample.image, headers=headers, timeout=30))
            got = [score["value"] for score in answer["probabilities"]]
            assert got == pytest.approx(sample.probabilities, abs=sample.tolerance), sample.name
            assert answer["notice"].startswith("Not for clinical use")

    def test_the_other_model_is_gone_and_its_answers_are_not_given(self, stack: Containers):
        digit = samples("mnist")[0].image
        remedy = "Add it there and restart, or load it with POST /v2/repository/models/mnist/load."
        assert_problem(predict(stack.url, digit), 404, f"mnist is not served: MODEL_NAME=leukemia does not select it. {remedy}")
        assert result_of(predict(stack.url, digit, "leukemia"))["model"] == "leukemia"

    def test_errors_are_json_for_every_request(self, stack: Containers):
        wrong = requests.post(f"{stack.url}/predict", headers={"Accept": "text/html", "Content-Type": "image/png"}, timeout=10)
        assert_problem(wrong, 400, "Upload an image first!")
