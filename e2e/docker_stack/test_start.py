"""Obstacles to a start: networks, ports and addresses in use."""

from __future__ import annotations

import re
import socket
import subprocess
from typing import Iterator

import pytest
import requests

from client import predict, result_of
from containers import BASE, PARTS, PROJECT, Containers, compose_as_a_user, docker, inspect
from images import new_image
from services import ROOT
from test_folders import blocks


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
