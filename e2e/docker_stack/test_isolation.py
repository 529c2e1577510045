"""The containers are isolated: ports, networks, Redis, and what each may do."""

from __future__ import annotations

import re
import socket
import subprocess
from ipaddress import ip_network

import pytest

from client import predict, result_of
from containers import BASE, PARTS, PROJECT, Containers, docker, image_size, inspect
from images import new_image
from services import wait_until

NETWORK = f"{PROJECT}_stack_api"


class TestIsolation:
    app_type, model = "ui", "mnist"

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
        wait_until(lambda: stack.inspect(part)["State"]["Health"]["Status"] == "healthy", "its own health check succeeds", 30)

    @pytest.mark.parametrize(("part", "megabytes"), [("web_api", 40), ("model_api", 120)])
    def test_an_image_is_little_larger_than_its_base(self, stack: Containers, part: str, megabytes: int):
        over = image_size(f"mlserve/{part}:latest") - image_size(BASE)
        print(f"{part}: {over:.1f} MB over {BASE}")
        assert 0 < over <= megabytes
