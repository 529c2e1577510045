"""The plots of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Iterator

from .plots import bars, lines


def draw(results: dict, folder: Path) -> list[tuple[str, str]]:
    """Writes the plots whose results exist; returns file and title of each."""
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
    return lines(title, "requests per second", "µs", series)


def overload(title: str, results: dict) -> str:
    series, at = {"p99 of the accepted": [], "rejected per second": []}, 0
    for phase in ("before", "during", "after"):
        for _, rejected, _, p99 in results["overload"]["20"][phase]["series"]:
            at += 1
            series["p99 of the accepted"].append((at, p99))
            series["rejected per second"].append((at, max(rejected, 1)))
    return lines(title, "seconds", "µs, or rejections", series)


def growth(what: str, x_name: str) -> Callable[[str, dict], str]:
    def plot(title: str, results: dict) -> str:
        points = results["growth"][what]
        series = {
            "results per second": [(point["count"], point["per_second"]) for point in points],
            "p99, µs": [(point["count"], point["p99"]) for point in points],
        }
        return lines(title, x_name, "", series, log_x=True)

    return plot


def soak(title: str, results: dict) -> str:
    samples = results["soak"]["samples"]
    series = {part: [(sample["at"], sample[part]) for sample in samples] for part in samples[0] if part != "at"}
    return lines(title, "seconds", "MB", series, log_y=False)


PLOTS = [
    ("hits", "Cache hits at 64 connections", bars_of("hits")),
    ("misses", "Cache misses at 64 connections", bars_of("misses")),
    ("peers", "MLServe and other servers, the same requests, 64 connections", bars_of("peers")),
    ("latency", "Latency at fixed request rates", latency),
    ("overload", "Ten times capacity for a minute", overload),
    ("models", "More models", growth("models", "models")),
    ("inputs", "Larger inputs", growth("inputs", "bytes")),
    ("cached-results", "More cached results", growth("cached_results", "results")),
    ("soak", "Memory at full load", soak),
]
