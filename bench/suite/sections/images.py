"""Images of several sizes; each request is a new file."""

from __future__ import annotations

from ..limits import one_process
from ..load import at_each, measure
from ..paths import MODELS, SAMPLES, Effort
from ..processes import Stack, running

IMAGES = [
    ("28×28 gray, 0.3 KB", "digit-7.png", 7),
    ("240×240 gray, 35 KB", "photographed-5.png", 5),
    ("320×320 with alpha, 6 KB", "transparent-8.png", 8),
    ("400×400 gray, 2 KB", "off-centre-4.png", 4),
    ("1600×1600 gray, 36 KB", "large-2.png", 2),
]


def run(effort: Effort) -> dict:
    limit = one_process()
    counts = [1, effort.connections[-1]]
    with running(limit), Stack(model="mnist,leukemia") as ours:
        limit.start()
        rows = []
        for name, file, digit in IMAGES:
            shown = {"image": SAMPLES / file, "cache": "miss"}
            rows += at_each(counts, f"ours: {name}", ours.address, **shown, **{"class": digit})
            # Its preprocessing differs, so its results are not verified.
            rows += at_each(counts, f"one process: {name}", limit.address, **shown)
        cell = MODELS / "leukemia" / "samples" / "normal-1.png"
        rows += at_each(
            counts,
            "ours: a blood cell, 450×450 RGB, 35 KB",
            ours.address,
            image=cell,
            model="leukemia",
            cache="miss",
        )
        return {"rows": measure(rows, effort.less())}
