"""Other servers with the same model and the same image. One at a time: an idle Python server still has timers."""

from __future__ import annotations

from ..load import Row, at_each, measure
from ..peers import MlServer, Original, bento_ml, install, lit_serve
from ..paths import Effort
from ..processes import Stack, running
from .hits import start_or_say


def run(effort: Effort) -> dict:
    rows, missing = {}, {}
    for name, pins, make, ask in PEERS:
        why_not = install(pins)
        peer = None if why_not else make()
        if peer:
            with running(peer):
                why_not = start_or_say(peer)
                if not why_not:
                    print(f"  {name}", flush=True)
                    rows.update(measure(ask(name, peer, effort.connections), effort.less()))
        if why_not:
            missing[name] = why_not
    with Stack() as ours:
        rows.update(measure(ours_beside(ours.address, effort.connections), effort.less()))
    return {"rows": rows, "not measured": missing}


def ask_original(name: str, peer: Original, counts: list[int]) -> list[Row]:
    return [
        *at_each(counts, f"{name}, miss", peer.address, ask="array", memory="miss"),
        *at_each(counts, f"{name}, hit", peer.address, ask="array"),
    ]


def ask_v2(name: str, peer: MlServer, counts: list[int], memory: str = "miss") -> list[Row]:
    return [
        *at_each(counts, f"{name}, REST, {memory}", peer.address, ask="json", memory=memory),
        *at_each(counts, f"{name}, gRPC, {memory}", peer.grpc_address, ask="grpc", memory=memory),
    ]


def ask_hits(name: str, peer: MlServer, counts: list[int]) -> list[Row]:
    return ask_v2(name, peer, counts[-1:], "hit")


def ask_array(name: str, peer: object, counts: list[int]) -> list[Row]:
    return at_each(counts, f"{name}, miss", peer.address, ask="array", memory="miss", path="/predict")


def ask_bento(name: str, peer: object, counts: list[int]) -> list[Row]:
    batched = {"ask": "array", "memory": "miss", "path": "/predict_batched"}
    return [*ask_array(name, peer, counts), *at_each(counts, f"{name}, batching, miss", peer.address, **batched)]


def ours_beside(address: str, counts: list[int]) -> list[Row]:
    """The same requests to MLServe, measured in the same minutes."""
    return [
        *at_each(counts, "ours, the first MLServe's body, miss", address, ask="array", memory="miss"),
        *at_each(counts, "ours, the first MLServe's body, hit", address, ask="array"),
        *at_each(counts, "ours, REST, miss", address, ask="json", memory="miss"),
        *at_each(counts, "ours, gRPC, miss", address, ask="grpc", memory="miss"),
        *at_each(counts[-1:], "ours, REST, hit", address, ask="json"),
        *at_each(counts[-1:], "ours, gRPC, hit", address, ask="grpc"),
    ]


PEERS = [
    ("the first MLServe (FastAPI pair)", "original", Original, ask_original),
    ("MLServer", "mlserver", lambda: MlServer("plain"), ask_v2),
    ("MLServer, batching", "mlserver", lambda: MlServer("batching", batch=64), ask_v2),
    ("MLServer, its response cache", "mlserver", lambda: MlServer("cache", cache=True), ask_hits),
    ("LitServe", "litserve", lambda: lit_serve(1), ask_array),
    ("LitServe, batching", "litserve", lambda: lit_serve(32), ask_array),
    ("BentoML", "bentoml", bento_ml, ask_bento),
]
