"""Cost of a separate process for a model."""

from __future__ import annotations

import statistics

from ..limits import measure_alone
from ..paths import BINARIES, MNIST, Effort


def run(effort: Effort) -> dict:
    rounds = [measure_alone("isolation", BINARIES / "model_api", MNIST, effort.seconds) for _ in range(effort.rounds)]
    runs = {
        name: {figure: statistics.median(once[name][figure] for once in rounds) for figure in ("per_second", "p50_us")}
        for name in rounds[0]
    }
    ratio = runs["in children, 64"]["per_second"] / runs["in process, 64"]["per_second"]
    added = runs["in children, 1"]["p50_us"] - runs["in process, 1"]["p50_us"]
    print(f"  {ratio:.2f} × at 64, {added:.0f} µs at one", flush=True)
    return {"runs": runs, "rounds": rounds, "ratio": ratio, "added_us": added}
