"""Reads figures from the results and formats them."""

from __future__ import annotations

# Figures of systems that cannot run here, measured on a similar machine on another day.
REFERENCE = {"raw, batch 8, two sessions": 46_000, "constant": 123_000}
TRITON_ONNX = {"V2 binary": 18_200, "V2 JSON": 13_800, "gRPC": 13_700}
TRITON_CACHE = {"V2 binary": 46_100, "V2 JSON": 25_500, "gRPC": 36_900}
CPP_SERVER = 5_200


class Missing(Exception):
    """A figure that has not been measured."""


def row(results: dict, section: str, name: str, connections: int = 64) -> dict:
    try:
        return results[section]["rows"][f"{name} @{connections}"]
    except KeyError:
        raise Missing(f"{section}: {name} @{connections}") from None


def rate(results: dict, section: str, name: str, connections: int = 64) -> float:
    return row(results, section, name, connections)["per_second"]


def raw(results: dict, kind: str) -> float:
    """Rows per second of ONNX Runtime alone: the median over the rounds of "sessions x batch"."""
    try:
        rates = sorted(once[kind] for once in results["misses"]["raw"])
    except KeyError:
        raise Missing("misses: raw") from None
    return rates[len(rates) // 2]


def best_raw(results: dict) -> float:
    return max(raw(results, kind) for kind in results.get("misses", {}).get("raw", [{}])[0] or [""])


def raw_ratio(results: dict) -> float:
    """Speed of this machine relative to the reference, by raw ONNX Runtime."""
    return raw(results, "2x8") / REFERENCE["raw, batch 8, two sessions"]


def constant_ratio(results: dict) -> float:
    """The same by the constant response over HTTP."""
    return rate(results, "hits", "limit: constant answer") / REFERENCE["constant"]


def count(number: float) -> str:
    """12,345, or 12.3 below a hundred."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def micros(number: float) -> str:
    return f"{number / 1e3:,.1f} ms" if number >= 10_000 else f"{number:,.0f} µs"
