"""Runs the load generator in several alternating rounds, so that changes of the machine's speed affect all rows alike."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, field

from .paths import BINARIES, ROOT, Effort


class InvalidRun(Exception):
    """A run whose figures are not valid."""


def run_load(address: str, **options: object) -> dict:
    """One run; the keys are names of options with `_` for `-`."""
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [str(BINARIES / "load"), address, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise InvalidRun(done.stderr.strip().splitlines()[0])
    return json.loads(done.stdout)


@dataclass
class Row:
    """A kind of request, with the figures of each round."""

    name: str
    address: str
    options: dict
    runs: list[dict] = field(default_factory=list)

    def measure(self, effort: Effort) -> None:
        time = {"seconds": effort.seconds, "warm_up": effort.warm_up}
        run = run_load(self.address, **{**time, **self.options})
        trouble = {**run["failures"], **{status: n for status, n in run["statuses"].items() if status != "200"}}
        if run["wrong"] or trouble:
            print(f"  {self.name}: {run['wrong']} wrong, {trouble}", file=sys.stderr)
        self.runs.append(run)

    def figures(self) -> dict:
        """Medians over the rounds, with the least and the most."""
        rates = sorted(run["per_second"] for run in self.runs)
        latencies = {
            name: statistics.median(run["latency_us"][name] for run in self.runs)
            for name in ("p50", "p90", "p99", "max")
        }
        failed = sum(sum(run["failures"].values()) + run["wrong"] for run in self.runs)
        refused = sum(n for run in self.runs for status, n in run["statuses"].items() if status != "200")
        return {
            "name": self.name,
            "options": self.options,
            "per_second": statistics.median(rates),
            "least": rates[0],
            "most": rates[-1],
            "latency_us": latencies,
            "failed": failed,
            "refused": refused,
            "cache_hits": sum(run["cache_hits"] for run in self.runs),
            "checked": sum(run["checked"] for run in self.runs),
            "client_us": statistics.median(run["client_cpu_us_each"] for run in self.runs),
        }


def measure(rows: list[Row], effort: Effort) -> dict[str, dict]:
    """All rows, round by round."""
    for number in range(effort.rounds):
        for row in rows:
            row.measure(effort)
        print(f"  round {number + 1} of {effort.rounds}", flush=True)
    for row in rows:
        figures = row.figures()
        print(f"  {row.name:58} {figures['per_second']:10.0f}/s  p50 {figures['latency_us']['p50']:8.0f} µs", flush=True)
    return {row.name: row.figures() for row in rows}


def at_each(connections: list[int], name: str, address: str, **options: object) -> list[Row]:
    return [Row(f"{name} @{count}", address, {**options, "connections": count}) for count in connections]
