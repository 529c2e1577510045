"""The containers without each other, and jobs through the crash of Redis."""

from __future__ import annotations

import subprocess

import requests

from client import assert_problem, predict, result_of
from containers import Containers, docker
from images import new_image
from services import wait_until

UNREACHABLE = "The model server is unreachable; only cached results are available."


def submit(stack: Containers, images: list[bytes]) -> str:
    files = [("file", (f"{number}.png", image)) for number, image in enumerate(images)]
    accepted = requests.post(f"{stack.url}/jobs", files=files, timeout=30)
    assert (accepted.status_code, accepted.json().get("durable")) == (202, True), accepted.text
    return accepted.json()["id"]


def end_of(stack: Containers, job: str) -> dict:
    def ended() -> dict | None:
        reported = requests.get(f"{stack.url}/jobs/{job}", timeout=30)
        return reported.json() if reported.status_code == 200 and reported.json()["finished"] else None

    return wait_until(ended, "the job has ended", 90)


def run_job(stack: Containers, images: list[bytes]) -> None:
    job = end_of(stack, submit(stack, images))
    assert (job["status"], job["done"]) == ("succeeded", len(images)), job


class TestFailures:
    app_type, model = "ui", "mnist"

    # ---- Without each other ----

    def test_the_health_script_reports_for_each_part_that_it_runs_and_is_ready(self, stack: Containers):
        health = stack.run("check_health.sh")
        assert health.returncode == 0, health.stdout
        running = {"Web_API running: true", "Model_API running: true", "DB_API running: true"}
        assert running <= set(health.stdout.splitlines())

    def test_without_redis_answers_are_right_and_health_is_honest(self, stack: Containers):
        known = new_image()
        result_of(predict(stack.url, known))
        docker("stop", "--time", "5", stack.id_of("db_api"))
        assert result_of(predict(stack.url, new_image()))["label"] == "7"
        wait_until(lambda: stack.health().json()["degraded"] == ["redis"], "it is reported")
        assert stack.health().status_code == 200
        slowest = max(predict(stack.url, new_image()).elapsed.total_seconds() for _ in range(20))
        assert slowest < 1
        assert result_of(predict(stack.url, known))["cached"], "the local cache still has it"
        health = stack.run("check_health.sh")
        assert (health.returncode, "DB_API running: false" in health.stdout.splitlines()) == (1, True), health.stdout

        docker("start", stack.id_of("db_api"))
        wait_until(lambda: stack.health().json()["degraded"] == [], "Redis is back", 20)
        wait_until(lambda: stack.run("check_health.sh").returncode == 0, "all is well", 20)

    def test_without_model_api_cached_answers_are_given_and_others_a_clear_503(self, stack: Containers):
        known = new_image()
        result_of(predict(stack.url, known))
        docker("stop", "--time", "5", stack.id_of("model_api"))
        assert result_of(predict(stack.url, known))["cached"]
        assert_problem(predict(stack.url, new_image()), 503, UNREACHABLE)
        wait_until(lambda: stack.health().status_code == 503, "it is not ready")
        assert stack.health().json()["model_api"]["running"] is False
        health = stack.run("check_health.sh")
        assert (health.returncode, "Model_API running: false" in health.stdout.splitlines()) == (1, True), health.stdout

        docker("start", stack.id_of("model_api"))
        wait_until(lambda: stack.health().status_code == 200, "it is ready again", 60)
        assert result_of(predict(stack.url, new_image()))["label"] == "7"

    def test_a_part_that_is_killed_comes_back_by_itself(self, stack: Containers):
        known = new_image()
        result_of(predict(stack.url, known))
        before = stack.inspect("web_api")["RestartCount"]
        pid = stack.inspect("web_api")["State"]["Pid"]
        subprocess.run(["kill", "-9", str(pid)], check=True)
        wait_until(lambda: stack.inspect("web_api")["RestartCount"] > before, "it is started again")
        again = wait_until(lambda: (answer := predict(stack.url, known)).status_code == 200 and answer.json(), "it answers")
        assert again["cached"]

    # ---- Jobs ----

    def test_jobs_are_done_also_by_more_workers_and_survive_the_death_of_redis(self, stack: Containers):
        run_job(stack, [new_image() for _ in range(20)])
        scaled = stack.run("start_all.sh", self.app_type, self.model, "--workers", "1")
        assert scaled.returncode == 0, scaled.stderr
        assert "Job_Worker running: true" in stack.run("check_health.sh").stdout.splitlines()
        health = lambda: stack.inspect("job_worker")["State"]["Health"]["Status"]
        wait_until(lambda: health() == "healthy", "the worker is well", 60)
        docker("pause", stack.id_of("model_api"))
        job = submit(stack, [new_image() for _ in range(60)])
        pid = stack.inspect("db_api")["State"]["Pid"]
        subprocess.run(["kill", "-9", str(pid)], check=True)
        docker("unpause", stack.id_of("model_api"))
        assert end_of(stack, job)["status"] == "succeeded"
        assert stack.run("start_all.sh", self.app_type, self.model, "--workers", "0").returncode == 0
