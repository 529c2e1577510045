"""Answers that must be computed: through both hops, at model_api alone, beside ONNX Runtime, one process, and Triton."""

from __future__ import annotations

from ..limits import measure_alone, one_process
from ..load import at_each, measure
from ..paths import MNIST, SAMPLES, Effort
from ..processes import Stack, running
from ..triton import Triton
from .hits import start_or_reason

LARGE = {"image": SAMPLES / "off-centre-4.png"}


def run(effort: Effort) -> dict:
    raw = [measure_alone("raw", MNIST, effort.seconds / 2) for _ in range(effort.rounds)]
    limit, triton = one_process(), Triton()
    with running(limit, triton), Stack() as ours:
        limit.start()
        why_not = start_or_reason(triton)
        all_counts, most = effort.connections, effort.connections[-1:]
        new, unstored = {"cache": "miss"}, {"cache": "no-store"}
        engine = ours.engine_address
        rows = [
            # Its preprocessing of large images differs, so its results are not verified.
            *at_each(all_counts, "limit: one process, image", limit.address, **new),
            *at_each(most, "limit: one process, 400×400 image", limit.address, **new, **LARGE),
            *at_each(all_counts, "limit: one process, binary", limit.address, format="binary", **new),
            *at_each(all_counts, "ours: miss, image", ours.address, **new),
            *at_each(most, "ours: miss, 400×400 image", ours.address, **new, **LARGE, **{"class": 4}),
            *at_each(all_counts, "ours: miss, V2 JSON", ours.address, format="json", **new),
            *at_each(all_counts, "ours: miss, V2 binary", ours.address, format="binary", **new),
            *at_each(all_counts, "ours: miss, gRPC", ours.address, format="grpc", **new),
            *at_each(most, "ours: miss, V2 binary, 8 rows each", ours.address, format="binary", rows=8, **new),
            *at_each(most, "ours: no-store, image", ours.address, **unstored),
            *at_each(most, "ours: no-store, V2 binary", ours.address, format="binary", **unstored),
            *at_each(most, "ours: no-store, V2 JSON", ours.address, format="json", **unstored),
            *at_each(all_counts, "model_api alone, V2 binary", engine, format="binary", **new),
            *at_each(most, "model_api alone, V2 JSON", engine, format="json", **new),
            *at_each(most, "model_api alone, gRPC", engine, format="grpc", **new),
            *at_each(most, "model_api alone, image", engine, path="/v2/models/mnist/infer", **new),
        ]
        if not why_not:
            rows += [
                *at_each(most, "Triton's Python backend, V2 JSON", triton.address, format="json", **new),
                *at_each(most, "Triton's Python backend, V2 binary", triton.address, format="binary", **new),
                *at_each(most, "Triton's Python backend, gRPC", triton.grpc_address, format="grpc", **new),
            ]
        return {"raw": raw, "rows": measure(rows, effort), "not measured": {"Triton": why_not} if why_not else {}}
