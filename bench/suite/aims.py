"""The aims, and whether the results meet them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

from .figures import (
    CPP_SERVER,
    TRITON_CACHE,
    TRITON_ONNX,
    Missing,
    best_raw,
    constant_ratio,
    count,
    micros,
    rate,
    raw,
    raw_ratio,
    row,
)

Verdict = tuple[str, bool]


@dataclass
class Aim:
    path: str
    aim: str
    judge: Callable[[dict], Verdict]

    def evaluate(self, results: dict) -> tuple[str, str, str, str]:
        try:
            figure, met = self.judge(results)
            return self.path, self.aim, figure, "met" if met else "**missed**"
        except Missing as missing:
            return self.path, self.aim, f"not measured ({missing})", "not measured"


def against(ours: float, theirs: float, aim: float, words: str = "") -> Verdict:
    ratio = ours / theirs
    return f"{ratio:.2f} × ({count(ours)}/s against {count(theirs)}/s{words})", ratio >= aim


def local_hit(results: dict) -> Verdict:
    return against(
        rate(results, "hits", "ours: local hit, image"), rate(results, "hits", "limit: SHA-256 and moka"), 0.8
    )


def redis_hit(results: dict) -> Verdict:
    return against(
        rate(results, "hits", "ours: Redis hit, image"), rate(results, "hits", "limit: SHA-256 and Redis"), 0.8
    )


def miss_binary(results: dict) -> Verdict:
    return against(rate(results, "misses", "ours: miss, V2 binary"), best_raw(results), 0.5)


def added(results: dict) -> Verdict:
    run = 1e6 / raw(results, "1x1")
    median = row(results, "misses", "ours: miss, V2 binary", 1)["latency_us"]["p50"]
    return f"{micros(median - run)} ({micros(median)} minus a run of {micros(run)})", median - run <= 250


def miss_image(results: dict) -> Verdict:
    return against(
        rate(results, "misses", "ours: miss, image"), rate(results, "misses", "limit: one process, image"), 1.0
    )


def miss_large_image(results: dict) -> Verdict:
    limit = rate(results, "misses", "limit: one process, 400×400 image")
    return against(rate(results, "misses", "ours: miss, 400×400 image"), limit, 1.0)


def isolation(results: dict) -> Verdict:
    try:
        here = results["isolation"]
    except KeyError:
        raise Missing("isolation") from None
    ratio, added = here["ratio"], here["added_us"]
    return f"{ratio:.2f} × at 64, {added:.0f} µs at one connection", ratio >= 0.95 and added <= 60


def cache_on(results: dict) -> Verdict:
    kinds = ("image", "V2 JSON", "V2 binary")
    ratios = {
        kind: rate(results, "misses", f"ours: miss, {kind}") / rate(results, "misses", f"ours: no-store, {kind}")
        for kind in kinds
    }
    return ", ".join(f"{kind} {ratio:.2f} ×" for kind, ratio in ratios.items()), min(ratios.values()) >= 0.9


def best_peer(results: dict) -> tuple[str, float]:
    """The fastest peer in Python on cache misses."""
    rows = results.get("peers", {}).get("rows", {})
    rates = {
        name: row["per_second"]
        for name, row in rows.items()
        if name.endswith("miss @64") and not name.startswith("ours")
    }
    if not rates:
        raise Missing("peers")
    return max(rates.items(), key=lambda item: item[1])


def peer_miss(results: dict) -> Verdict:
    name, theirs = best_peer(results)
    return against(rate(results, "misses", "ours: miss, V2 binary"), theirs, 8, f", {name.split(' @')[0]}")


def peer_hit(results: dict) -> Verdict:
    name, theirs = best_peer(results)
    figure, met = against(rate(results, "hits", "ours: local hit, image"), theirs, 20, f", {name.split(' @')[0]}")
    cached = max(rate(results, "peers", f"MLServer, its response cache, {way}, hit") for way in ("REST", "gRPC"))
    return f"{figure}; its own cache serves {count(cached)}/s", met


def cpp_server(results: dict) -> Verdict:
    scaled = CPP_SERVER * raw_ratio(results)
    return against(rate(results, "misses", "ours: miss, V2 binary"), scaled, 4, ", scaled")


def triton_miss(kind: str) -> Callable[[dict], Verdict]:
    def judge(results: dict) -> Verdict:
        scaled = TRITON_ONNX[kind] * raw_ratio(results)
        return against(rate(results, "misses", f"model_api alone, {kind}"), scaled, 1.1, ", scaled")

    return judge


def triton_hit(kind: str) -> Callable[[dict], Verdict]:
    def judge(results: dict) -> Verdict:
        ours, scaled = rate(results, "hits", f"ours: local hit, {kind}"), TRITON_CACHE[kind] * constant_ratio(results)
        figure, met = against(ours, scaled, 1.2, ", scaled")
        try:
            here = rate(results, "hits", f"Triton's response cache, {kind}")
        except Missing:
            return figure, met
        return f"{figure}; {ours / here:.2f} × in this run ({count(here)}/s)", met

    return judge


def memory(results: dict) -> Verdict:
    try:
        here = results["memory"]["loaded"]
    except KeyError:
        raise Missing("memory") from None
    web, parent = here["web_api"], here["model_api parent"]
    return (
        f"{web:.0f} MB / {parent:.0f} MB after {count(results['memory']['requests'])} requests",
        web <= 40 and parent <= 60,
    )


def cold_start(results: dict) -> Verdict:
    try:
        seconds = sorted(results["start"]["seconds"])
    except KeyError:
        raise Missing("start") from None
    median = seconds[len(seconds) // 2]
    return f"{median:.2f} s ({seconds[0]:.2f}–{seconds[-1]:.2f})", median <= 1


def overload(ms: str) -> Callable[[dict], Verdict]:
    def judge(results: dict) -> Verdict:
        try:
            here = results["overload"][ms]
        except KeyError:
            raise Missing("overload") from None
        during, before, back = here["during"], here["before"], here["seconds back"]
        accepted, normal = during["latency_us"]["p99"], before["latency_us"]["p99"]
        refused = during.get("refused_us", {"p99": 0})["p99"]
        statuses = during["statuses"]
        others = sum(n for status, n in statuses.items() if status not in ("200", "503"))
        others += sum(during["failures"].values())
        figure = f"""p99 {micros(accepted)}, {accepted / normal:.1f} × normal ({micros(normal)}); {count(statuses.get("503", 0))} \
times 503, p99 {micros(refused)}; {others} other failures; normal again after {"more than 10" if back is None else back} s"""
        return figure, accepted <= 2 * normal and refused < 50_000 and others == 0 and back is not None and back <= 5

    return judge


AIMS = [
    Aim("local cache hit (an image through `/predict`)", "≥ 0.8 × the naive moka route", local_hit),
    Aim("Redis hit", "≥ 0.8 × the naive Redis route", redis_hit),
    Aim(
        "miss, binary tensor, through both hops, 64 connections",
        "≥ 0.5 × raw ONNX Runtime at its best batch size",
        miss_binary,
    ),
    Aim("miss, one connection, time added to the raw run", "≤ 250 µs at the median through both hops", added),
    Aim("miss by PNG (28×28), 64 connections", "≥ 1.0 × one process: axum + ort + `image`", miss_image),
    Aim("miss by PNG (400×400), 64 connections", "≥ 1.0 × one process: axum + ort + `image`", miss_large_image),
    Aim(
        "isolation (child process against the same session in process)",
        "≥ 0.95 at 64 connections, ≤ 60 µs at one connection",
        isolation,
    ),
    Aim("misses with the cache on against `no-store`", "≥ 0.9", cache_on),
    Aim("against the best Python peer, miss", "≥ 8 ×", peer_miss),
    Aim("against the best Python peer, hit", "≥ 20 ×", peer_hit),
    Aim("against the C++ onnxruntime-server, miss", "≥ 4 ×", cpp_server),
    *(
        Aim(f"model_api alone against Triton's ONNX Runtime backend, {kind}, miss", "≥ 1.1 ×", triton_miss(kind))
        for kind in TRITON_ONNX
    ),
    *(
        Aim(f"web_api against Triton's response cache, {kind}, hit", "≥ 1.2 ×", triton_hit(kind))
        for kind in TRITON_CACHE
    ),
    Aim("RSS of web_api / model_api's parent after 10⁶ requests", "≤ 40 MB / ≤ 60 MB", memory),
    Aim("cold start of the native stack to the first result", "≤ 1 s", cold_start),
    *(
        Aim(
            f"10 × capacity for 60 s, {ms} ms per row",
            "accepted p99 ≤ 2 × normal, the rest 503 in < 50 ms, normal again within 5 s",
            overload(ms),
        )
        for ms in ("4", "20")
    ),
]
