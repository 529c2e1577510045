"""Other servers with the same model and the same image. One at a time: an idle Python server still has timers."""

from __future__ import annotations

from ..load import Row, at_each, measure
from ..peers import MlServer, Original, bento_ml, install, lit_serve
from ..paths import Effort
from ..processes import Stack, running
from .hits import start_or_reason


def run(effort: Effort) -> dict:
    rows, missing = {}, {}
    for name, pins, make, rows_of in PEERS:
        why_not = install(pins)
        peer = None if why_not else make()
        if peer:
            with running(peer):
                why_not = start_or_reason(peer)
                if not why_not:
                    print(f"  {name}", flush=True)
                    rows.update(measure(rows_of(name, peer, effort.connections), effort.less()))
        if why_not:
            missing[name] = why_not
    with Stack() as ours:
        rows.update(measure(ours_beside(ours.address, effort.connections), effort.less()))
    return {"rows": rows, "not measured": missing}


def rows_of_original(name: str, peer: Original, counts: list[int]) -> list[Row]:
    return [
        *at_each(counts, f"{name}, miss", peer.address, format="array", cache="miss"),
        *at_each(counts, f"{name}, hit", peer.address, format="array"),
    ]


def rows_of_v2(name: str, peer: MlServer, counts: list[int], cache: str = "miss") -> list[Row]:
    return [
        *at_each(counts, f"{name}, REST, {cache}", peer.address, format="json", cache=cache),
        *at_each(counts, f"{name}, gRPC, {cache}", peer.grpc_address, format="grpc", cache=cache),
    ]


def rows_of_hits(name: str, peer: MlServer, counts: list[int]) -> list[Row]:
    return rows_of_v2(name, peer, counts[-1:], "hit")


def rows_of_array(name: str, peer: object, counts: list[int]) -> list[Row]:
    return at_each(counts, f"{name}, miss", peer.address, format="array", cache="miss", path="/predict")


def rows_of_bento(name: str, peer: object, counts: list[int]) -> list[Row]:
    batched = {"format": "array", "cache": "miss", "path": "/predict_batched"}
    return [*rows_of_array(name, peer, counts), *at_each(counts, f"{name}, batching, miss", peer.address, **batched)]


def ours_beside(address: str, counts: list[int]) -> list[Row]:
    """The same requests to MLServe, measured in the same minutes."""
    return [
        *at_each(counts, "ours, the first MLServe's body, miss", address, format="array", cache="miss"),
        *at_each(counts, "ours, the first MLServe's body, hit", address, format="array"),
        *at_each(counts, "ours, REST, miss", address, format="json", cache="miss"),
        *at_each(counts, "ours, gRPC, miss", address, format="grpc", cache="miss"),
        *at_each(counts[-1:], "ours, REST, hit", address, format="json"),
        *at_each(counts[-1:], "ours, gRPC, hit", address, format="grpc"),
    ]


PEERS = [
    ("the first MLServe (FastAPI pair)", "original", Original, rows_of_original),
    ("MLServer", "mlserver", lambda: MlServer("plain"), rows_of_v2),
    ("MLServer, batching", "mlserver", lambda: MlServer("batching", batch=64), rows_of_v2),
    ("MLServer, its response cache", "mlserver", lambda: MlServer("cache", cache=True), rows_of_hits),
    ("LitServe", "litserve", lambda: lit_serve(1), rows_of_array),
    ("LitServe, batching", "litserve", lambda: lit_serve(32), rows_of_array),
    ("BentoML", "bentoml", bento_ml, rows_of_bento),
]
