"""The three real containers: results and cache, isolation, and behaviour without each other."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from ipaddress import ip_network
from typing import Iterator

import pytest
import requests

from client import result_of, predict, assert_problem
from containers import BASE, PARTS, PROJECT, Containers, docker, image_size, inspect
from images import new_image, reopened, samples
from services import ROOT, wait_until
from test_folders import blocks

NETWORK = f"{PROJECT}_stack_api"
UNREACHABLE = "The model server is unreachable; only cached results are available."


@pytest.fixture(scope="module")
def containers(engine: None, own_checkout: None) -> Iterator[Containers]:
    containers = Containers()
    containers.remove()
    try:
        yield containers
        assert "panicked" not in containers.logs()
    finally:
        containers.remove()


@pytest.fixture(scope="class")
def stack(containers: Containers, request: pytest.FixtureRequest) -> Containers:
    """Runs what the test class names."""
    containers.stop()
    reported = containers.start(request.cls.app_type, request.cls.model)
    assert f"http://localhost:{containers.environment['PORT']}" in reported
    assert "survives stop_all.sh" in reported
    return containers


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

    # ---- Isolation ----

    def test_only_port_5000_of_web_api_is_published(self, stack: Containers):
        published = {part: stack.inspect(part)["HostConfig"]["PortBindings"] for part in PARTS}
        assert published["model_api"] == published["db_api"] == {}
        assert list(published["web_api"]) == ["5000/tcp"]
        # This machine only, unless PUBLISH is set.
        assert published["web_api"]["5000/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": stack.environment["PORT"]}]
        listed = docker("ps", "--filter", f"label=com.docker.compose.project={PROJECT}", "--format", "{{.Ports}}")
        assert set(re.findall(r":(\d+)->(\d+)", listed)) == {(stack.environment["PORT"], "5000")}

    def test_the_private_network_is_internal_and_only_web_api_has_another(self, stack: Containers):
        network = inspect(NETWORK)
        assert network["Internal"]
        assert {member[:12] for member in network["Containers"]} == {stack.id_of(part) for part in PARTS}
        networks = {part: set(stack.inspect(part)["NetworkSettings"]["Networks"]) for part in PARTS}
        assert networks["model_api"] == networks["db_api"] == {NETWORK}
        assert len(networks["web_api"]) == 2

    @pytest.mark.parametrize(
        ("part", "port", "payload", "answer"),
        [
            ("model_api", 5050, "GET / HTTP/1.0\r\n\r\n", "Can curl model api!"),
            ("model_api", 9100, "GET /metrics HTTP/1.0\r\n\r\n", "model_api_"),
            ("db_api", 6379, "PING\r\n", "NOAUTH"),
        ],
    )
    def test_the_host_does_not_reach_the_private_parts(self, stack: Containers, part: str, port: int, payload: str, answer: str):
        address = stack.inspect(part)["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]
        # Checked by the response and not by the connection: the gateways of some machines accept any.
        talk = f"exec 3<>/dev/tcp/{address}/{port}; printf '{payload}' >&3; timeout 1 cat <&3"
        assert answer in docker("run", "--rm", "--network", NETWORK, BASE, "bash", "-c", talk, check=False)
        talked = subprocess.run(["timeout", "3", "bash", "-c", talk], capture_output=True, text=True)
        assert answer not in talked.stdout

    def test_there_is_no_way_out_of_the_private_network(self, stack: Containers):
        gateway = ip_network(inspect("bridge")["IPAM"]["Config"][0]["Subnet"])[1]
        with socket.create_server(("", 0)) as outside:
            port = outside.getsockname()[1]
            call = f"timeout 4 bash -c 'exec 3<>/dev/tcp/{gateway}/{port}' && echo reached"
            assert docker("run", "--rm", "--network", "bridge", BASE, "bash", "-c", call, check=False) == "reached"
            for part in ("model_api", "db_api"):
                beside = f"container:{stack.id_of(part)}"
                assert "reached" not in docker("run", "--rm", "--network", beside, BASE, "bash", "-c", call, check=False)

    def test_redis_answers_no_client_without_the_password_and_does_nothing_dangerous(self, stack: Containers):
        assert stack.inside("db_api", "redis-cli", "PING").startswith("NOAUTH")
        assert stack.inside("db_api", "ask", "PING") == "PONG"
        for command in ("FLUSHALL", "KEYS *", "CONFIG GET *", "SHUTDOWN", "MODULE LIST", "ACL LIST", "EVAL return(1) 0"):
            assert stack.inside("db_api", "ask", *command.split()).startswith("NOPERM"), command
        assert stack.inside("db_api", "ask", "SET", "other", "x").startswith("NOPERM")

    def test_what_is_cached_has_a_time_to_live(self, stack: Containers):
        key = result_of(predict(stack.url, new_image()))["key"].removeprefix("sha256:")
        place = f"mlserve:answer:mnist:{key}"
        wait_until(lambda: stack.inside("db_api", "ask", "GETRANGE", place, "0", "3") == "MLSA", "it is written")
        for each in stack.inside("db_api", "ask", "--scan").split():
            left = int(stack.inside("db_api", "ask", "TTL", each))
            # What has one may be evicted; jobs never may.
            assert left == -1 if each.startswith("mlserve:{jobs}:") else 0 < left <= 7 * 24 * 3600, each

    @pytest.mark.parametrize("part", PARTS)
    def test_a_container_may_do_nothing_but_its_work(self, stack: Containers, part: str):
        reported = stack.inspect(part)
        host = reported["HostConfig"]
        assert reported["Config"]["User"] == "10001:10001"
        assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert host["Memory"] > 0 and host["PidsLimit"] > 0
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        assert {"max-size", "max-file"} <= host["LogConfig"]["Config"].keys()
        assert reported["Config"]["StopTimeout"] > 20
        assert [mount for mount in reported["Mounts"] if mount["RW"] and mount["Destination"] != "/data"] == []
        # And so it is in fact.
        status = dict(line.split(":", 1) for line in stack.inside(part, "cat", "/proc/1/status").splitlines())
        assert status["Uid"].split() == ["10001"] * 4
        assert (int(status["CapEff"], 16), int(status["CapBnd"], 16), status["NoNewPrivs"].strip()) == (0, 0, "1")
        assert "Read-only file system" in stack.inside(part, "touch", "/bin/x")
        wait_until(lambda: stack.inspect(part)["State"]["Health"]["Status"] == "healthy", "its own check says so", 30)

    @pytest.mark.parametrize(("part", "megabytes"), [("web_api", 40), ("model_api", 120)])
    def test_an_image_is_little_larger_than_its_base(self, stack: Containers, part: str, megabytes: int):
        over = image_size(f"mlserve/{part}:latest") - image_size(BASE)
        print(f"{part}: {over:.1f} MB over {BASE}")
        assert 0 < over <= megabytes

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
        wait_until(lambda: stack.health().json()["degraded"] == ["redis"], "it says so")
        assert stack.health().status_code == 200
        slowest = max(predict(stack.url, new_image()).elapsed.total_seconds() for _ in range(20))
        assert slowest < 1
        assert result_of(predict(stack.url, known))["cached"], "near still knows"
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


def compose_as_a_user(*words: str) -> subprocess.CompletedProcess:
    """As in a shell of the user's: in the folder, with none of the settings that the stack was started with."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(["docker", "compose", *words], cwd=ROOT, env=kept, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)


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


class TestStarting:
    """What may be in a start's way, and what it makes of it."""

    @pytest.fixture(autouse=True)
    def stopped(self, containers: Containers) -> Iterator[None]:
        containers.stop()
        yield
        containers.stop()

    def test_a_network_that_exists_is_used_and_kept(self, containers: Containers):
        name = f"{PROJECT}_of_its_own"
        docker("network", "create", name)
        try:
            started = containers.run("start_all.sh", "cli", "mnist", "--docker", "--device", "cpu", STACK_NETWORK=name)
            assert started.returncode == 0, started.stdout + started.stderr
            assert f"the network {name} exists and is used" in started.stdout and "is not internal" in started.stderr
            assert len(inspect(name)["Containers"]) == 3
            assert result_of(predict(containers.url, new_image()))["label"] == "7"
            ids = [containers.id_of(part) for part in PARTS]
            assert compose_as_a_user("up", "--detach").returncode == 0
            assert [containers.id_of(part) for part in PARTS] == ids
            stopped = containers.run("stop_all.sh", STACK_NETWORK=name)
            assert stopped.returncode == 0, stopped.stderr
            assert inspect(name)["Containers"] == {}
        finally:
            containers.run("stop_all.sh", STACK_NETWORK=name)
            docker("network", "rm", name, check=False)

    def test_a_network_that_others_use_is_refused_with_a_remedy(self, containers: Containers):
        name, other = f"{PROJECT}_of_others", f"{PROJECT}_other"
        docker("network", "create", name)
        docker("run", "--detach", "--name", other, "--network", name, BASE, "sleep", "60")
        try:
            refused = containers.run("start_all.sh", "cli", "mnist", "--docker", STACK_NETWORK=name)
            assert refused.returncode == 1
            assert other in refused.stderr and "STACK_NETWORK=" in refused.stderr
        finally:
            docker("rm", "--force", other)
            docker("network", "rm", name)
        assert all(containers.id_of(part) == "" for part in PARTS)

    @pytest.mark.parametrize("publish", ["127.0.0.2", "0.0.0.0"])
    def test_a_port_that_is_taken_leaves_nothing_behind(self, containers: Containers, publish: str):
        port = containers.environment["PORT"]
        with socket.create_server(("127.0.0.2", int(port))):
            refused = containers.run("start_all.sh", "cli", "mnist", "--docker", PUBLISH=publish)
        assert (refused.returncode, f"port {port} is in use" in refused.stderr) == (1, True), refused.stderr
        assert all(containers.id_of(part) == "" for part in PARTS)

    def test_an_address_of_another_machine_is_named_and_leaves_nothing_behind(self, containers: Containers):
        refused = containers.run("start_all.sh", "cli", "mnist", "--docker", "--device", "cpu", PUBLISH="192.0.2.1")
        assert refused.returncode == 1
        assert "PUBLISH '192.0.2.1' is no address of this machine" in refused.stderr
        assert all(containers.id_of(part) == "" for part in PARTS)

    def test_published_on_all_addresses_it_reports_it(self, containers: Containers):
        started = containers.run("start_all.sh", "cli", "mnist", "--docker", "--device", "cpu", PUBLISH="0.0.0.0")
        assert started.returncode == 0, started.stderr
        assert "this machine only" not in started.stdout and "0.0.0.0" in started.stdout
        assert requests.get(containers.url.replace("127.0.0.1", "127.0.0.2"), timeout=10).json() == "Can curl web api!"

    def test_the_lines_of_db_apis_readme(self, containers: Containers):
        (block,) = [block for block in blocks("db_api") if "docker" in block]
        name = f"{PROJECT}_readme"
        script = re.sub(r"\bdb_api\b(?!:|/)", name, block).replace("docker exec", f"until docker exec {name} health; do sleep 0.2; done; docker exec", 1)
        done = subprocess.run(["bash", "-euc", script], cwd=ROOT / "db_api", capture_output=True, text=True, timeout=60)
        docker("rm", "--force", "--volumes", name, check=False)
        assert (done.returncode, "PONG" in done.stdout) == (0, True), done.stdout + done.stderr
