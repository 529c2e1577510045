"""Every attack against the containers, under the limits of docker-compose.yml: no process dies, the others are answered, and the
memory comes back."""

from __future__ import annotations

import time
from typing import Iterator

import pytest

import attacks_memory
import attacks_model
from attacks import Client, all_attacks
from containers import PARTS, Containers

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


def attack_memory(stack: Containers) -> None:
    for attack in (attacks_memory.ATTACKS | attacks_model.ATTACKS).values():
        attack(stack.url)


def settled(stack: Containers) -> dict[str, int]:
    """Memory of each part once it has stopped falling, at most a minute later. Redis keeps jobs until they expire or are deleted: it
    must only stay below its limit."""
    now = {part: memory(stack, part) for part in PARTS if part != "db_api"}
    for _ in range(6):
        time.sleep(10)
        before, now = now, {part: memory(stack, part) for part in now}
        if all(now[part] > before[part] * 0.99 for part in now):
            break
    return now


def test_the_memory_comes_back(stack: Containers, client: Client):
    # Memory that is kept on purpose, such as the in-process cache, warm connections and the arenas of ONNX Runtime, grows in the
    # first rounds. How many freed pages an allocator has returned differs from one moment to the next: hence two rounds.
    warm: dict[str, int] = {}
    for _ in range(2):
        attack_memory(stack)
        for part, bytes_ in settled(stack).items():
            warm[part] = max(warm.get(part, 0), bytes_)
    attack_memory(stack)
    now = settled(stack)
    above = {part: (now[part], warm[part]) for part in now if now[part] > warm[part] * 1.1 + SLACK}
    assert above == {}
    with client:
        time.sleep(1)
    assert client.record.wrong == client.record.failed == []
