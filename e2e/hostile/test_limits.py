"""Every attack against the containers, under the limits of docker-compose.yml: no process dies, the others are answered, and the
memory comes back."""

from __future__ import annotations

import contextlib
import time
from typing import Iterator

import pytest

import attacks_memory
import attacks_model
from attacks import Client, all_attacks
from containers import PARTS, Containers
from services import wait_until

MIB = 1 << 20
# A cgroup counts in pages, and an allocator keeps some: what a part may hold above a tenth more than before, bytes.
SLACK = 16 * MIB


@pytest.fixture(scope="module")
def stack(engine: None, own_checkout: None) -> Iterator[Containers]:
    containers = Containers()
    containers.remove()
    try:
        containers.start("ui", "mnist")
        yield containers
        assert "panicked" not in containers.logs()
    finally:
        containers.remove()


@pytest.fixture(scope="module")
def client(stack: Containers) -> Client:
    return Client(stack.url)


def accounts(stack: Containers, part: str) -> dict[str, int]:
    """The container's cgroup counters, of either version: `anon`, bytes, and `oom_kill`, a number."""
    files = "cd /sys/fs/cgroup; cat memory.stat memory.events memory/memory.stat memory/memory.oom_control 2>/dev/null"
    lines = (line.split() for line in stack.inside(part, "sh", "-c", files).splitlines())
    numbers = {line[0]: int(line[1]) for line in lines if len(line) == 2}
    return {"anon": numbers.get("anon", numbers.get("total_rss")), "oom_kill": numbers["oom_kill"]}


def memory(stack: Containers, part: str) -> int:
    """Bytes that the processes of a part hold; without files that the kernel keeps in memory."""
    return accounts(stack, part)["anon"]


def kills(stack: Containers, part: str) -> tuple[int, int]:
    """Processes that the kernel ended for the limit, and starts of the container."""
    return accounts(stack, part)["oom_kill"], stack.inspect(part)["RestartCount"]


@pytest.mark.parametrize("name", all_attacks())
def test_an_attack_ends_no_process_and_no_other_client_notices(stack: Containers, client: Client, name: str):
    before = {part: kills(stack, part) for part in PARTS}
    with client:
        all_attacks()[name](stack.url)
    assert {part: kills(stack, part) for part in PARTS} == before
    assert client.record.wrong == []
    assert client.record.failed == []
    assert client.record.seconds
    assert client.record.refused <= len(client.record.seconds) / 2


def test_the_memory_comes_back(stack: Containers, client: Client):
    # What is kept on purpose, such as the in-process cache and warm connections, is there after the first round. Redis keeps jobs
    # until they expire or are deleted: it must only stay below its limit.
    warm = {part: memory(stack, part) for part in PARTS if part != "db_api"}
    for attack in (attacks_memory.ATTACKS | attacks_model.ATTACKS).values():
        attack(stack.url)

    def above() -> dict[str, tuple[int, int]]:
        now = {part: (memory(stack, part), bytes_) for part, bytes_ in warm.items()}
        return {part: both for part, both in now.items() if both[0] > both[1] * 1.1 + SLACK}

    # What is still too much is shown below.
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not above(), "the memory is at most a tenth above what it was", seconds=60)
    assert above() == {}
    with client:
        time.sleep(1)
    assert client.record.wrong == client.record.failed == []
