"""Which plots there are."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Iterator

from .plots import bars, lines


def draw(results: dict, folder: Path) -> list[tuple[str, str]]:
    """Writes what can be drawn, and gives (file, title) of each."""
    drawn = []
    for name, title, plot in PLOTS:
        try:
            svg = plot(title, results)
        except (KeyError, ValueError, IndexError):
            continue
        (folder / f"bench-{name}.svg").write_text(svg)
        drawn.append((f"bench-{name}.svg", title))
    return drawn


def at_64(results: dict, *sections: str) -> Iterator[tuple[str, float, float, float]]:
    for section in sections:
        for name, row in results[section]["rows"].items():
            if name.endswith(" @64"):
                yield name.removesuffix(" @64"), row["per_second"], row["least"], row["most"]


def bars_of(*sections: str) -> Callable[[str, dict], str]:
    return lambda title, results: bars(title, sorted(at_64(results, *sections), key=lambda row: -row[1]), "/s")


def latency(title: str, results: dict) -> str:
    series = {}
    for name, curve in results["curve"].items():
        for quantile in ("p50", "p99"):
            series[f"{name}, {quantile}"] = [(point["rate"], point[quantile]) for point in curve["points"]]
    return lines(title, "arrivals per second", "µs", series)


def overload(title: str, results: dict) -> str:
    series, at = {"p99 of the accepted": [], "refused per second": []}, 0
    for spell in ("before", "during", "after"):
        for _, refused, _, p99 in results["overload"]["20"][spell]["series"]:
            at += 1
            series["p99 of the accepted"].append((at, p99))
            series["refused per second"].append((at, max(refused, 1)))
    return lines(title, "seconds", "µs, or refusals", series)


def growth(what: str, x_name: str) -> Callable[[str, dict], str]:
    def plot(title: str, results: dict) -> str:
        points = results["growth"][what]
        series = {
            "answers per second": [(point["count"], point["per_second"]) for point in points],
            "p99, µs": [(point["count"], point["p99"]) for point in points],
        }
        return lines(title, x_name, "", series, log_x=True)

    return plot


def soak(title: str, results: dict) -> str:
    samples = results["soak"]["samples"]
    series = {part: [(sample["at"], sample[part]) for sample in samples] for part in samples[0] if part != "at"}
    return lines(title, "seconds", "MB", series, log_y=False)


PLOTS = [
    ("hits", "Remembered answers at 64 connections", bars_of("hits")),
    ("misses", "Computed answers at 64 connections", bars_of("misses")),
    ("peers", "Others and ours, the same questions, 64 connections", bars_of("peers")),
    ("latency", "Latency at fixed rates of arrival", latency),
    ("overload", "Ten times capacity for a minute", overload),
    ("models", "More models", growth("models", "models")),
    ("inputs", "Larger inputs", growth("inputs", "bytes")),
    ("remembered", "More remembered answers", growth("remembered", "answers")),
    ("soak", "Memory at full load", soak),
]
