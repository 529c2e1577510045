"""Memory that the processes hold: idle, and after a million requests."""

from __future__ import annotations

from ..load import run_load
from ..paths import Effort
from ..processes import Stack, children_of, memory_of


def run(effort: Effort) -> dict:
    """Half are hits of one result, half are computed and not cached. The local cache is not included; it is in the section `growth`."""
    million = 20_000 if effort.quick else 1_000_000
    with Stack() as ours:
        run_load(ours.address, requests=64)
        idle = sizes(ours)
        for options in ({"format": "png"}, {"format": "binary", "cache": "no-store"}):
            run_load(ours.address, requests=million // 2, **options)
        loaded = sizes(ours)
    print(f"  idle {idle}, after {million} requests {loaded}", flush=True)
    return {"requests": million, "idle": idle, "loaded": loaded}


def sizes(stack: Stack) -> dict:
    """MB."""
    engine = stack.model_api.pid
    children = sum(memory_of(child) for child in children_of(engine))
    return {
        "web_api": memory_of(stack.web_api.pid),
        "model_api parent": memory_of(engine),
        "model_api children": children,
    }
