"""Ten times more than can be answered, for a minute; before and after, seven tenths of what can be.

Two models of about 4 and 20 ms per row: ten times the rate of mnist is not possible, since the load generator runs on the same
cores. It and the refusals take one of two cores at ten times the first one's rate, and a seventh of that at the second's.
"""

from __future__ import annotations

import shutil

from ..graphs import write_slow
from ..load import run_load
from ..paths import STATE, Effort
from ..processes import Stack

# About so many ms for a row: so many steps.
STEPS = {4: 350, 20: 1750}


def run(effort: Effort) -> dict:
    return {str(ms): overload(steps, effort) for ms, steps in STEPS.items()}


def overload(steps: int, effort: Effort) -> dict:
    folder = STATE / "models"
    shutil.rmtree(folder, ignore_errors=True)
    write_slow(folder / "slow", steps)
    options = {"format": "binary", "model": "slow", "input": "x", "shape": 64, "cache": "miss", "series": "true"}
    spell = 3 if effort.quick else 10
    with Stack(model="slow", models=folder) as ours:
        closed = run_load(ours.address, **options, connections=64, seconds=spell, warm_up=1)
        capacity = closed["per_second"]
        normal = {**options, "connections": 700, "warm_up": 0, "rate": round(capacity * 0.7)}
        much = {**normal, "rate": round(capacity * 10)}
        before = run_load(ours.address, **normal, seconds=spell)
        during = run_load(ours.address, **much, seconds=5 if effort.quick else 60)
        after = run_load(ours.address, **normal, seconds=10)
    for name, phase in (("closed", closed), ("before", before), ("during", during), ("after", after)):
        refused = phase.get("refused_us", {"p99": 0})
        print(
            f"  {name:7} {phase['statuses']} p99 {phase['latency_us']['p99']:.0f} µs, refused in {refused['p99']:.0f} µs",
            flush=True,
        )
    back = seconds_back(before, after)
    return {
        "capacity": capacity,
        "closed": closed,
        "before": before,
        "during": during,
        "after": after,
        "seconds back": back,
    }


def seconds_back(before: dict, after: dict) -> int | None:
    """After how many seconds no second is worse any more than twice the normal p99, nor refuses anything."""
    bad = [refused > 0 or p99 > 2 * before["latency_us"]["p99"] for _, refused, _, p99 in after["series"]]
    good_from = len(bad) - next((index for index, is_bad in enumerate(reversed(bad)) if is_bad), len(bad))
    return good_from if good_from < len(bad) else None
