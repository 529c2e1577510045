"""Writes docs/BENCHMARKS.md from the results."""

from __future__ import annotations

from .aims import AIMS
from .drawings import draw
from .figures import Missing, constant_ratio, count, micros, raw_ratio
from .paths import ROOT

DOCS = ROOT / "docs"

# Written by hand: what limits the figures. The history of optimisations is in bench/notes.md.
LIMITS = ROOT / "bench" / "limits.md"


def write(results: dict) -> None:
    plots = draw(results, DOCS)
    parts = [
        head(results),
        aims(results),
        limits(),
        *(f"![{title}]({file})" for file, title in plots),
        *sections(results),
        measured(results),
    ]
    (DOCS / "BENCHMARKS.md").write_text("\n\n".join(part.strip() for part in parts if part) + "\n")


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1) if len(columns) > 2 else ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def head(results: dict) -> str:
    about = results["about"]
    effort = about["effort"]
    quick = (
        "**A quick run: one short round each. Its figures show that everything can be measured, and no more.**\n\n"
        if effort["quick"]
        else ""
    )
    return f"""# Benchmarks

Written by `./bench/run.sh` on {about["date"]}. Figures of one section were measured side by side, unless marked "scaled". The last
section lists the date and commit of each measurement.

{quick}{table(["", ""], [[name, value] for name, value in about["machine"].items()])}

**Method.** The load generator (`bench/src`) runs on the same cores as the servers. It has one thread and persistent connections, each with one
request in flight ("@64": 64 connections). There are {effort["rounds"]} rounds of {effort["seconds"]:g} s after {effort["warm_up"]:g} s of warm-up. Rounds alternate between limit, MLServe and
peer. Tables show medians, with the minimum and maximum of the rounds. Every status is counted, and one response in 64 is verified.

Each miss is a new input: a file with other bytes behind its end, or a tensor with other values in its darkest pixels. The model is the
shipped mnist, and the image is `samples/digit-7.png` unless stated otherwise. All settings are the defaults. ONNX Runtime has one thread per
session everywhere. `./bench/run.sh SECTION…` measures sections again; `./bench/run.sh report` only writes this file."""


def aims(results: dict) -> str:
    rows = [list(aim.evaluate(results)) for aim in AIMS]
    text = "## Aims\n\n" + "\n".join(
        ["| path | aim | result | |", "|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    )
    try:
        misses, hits = f"{raw_ratio(results):.2f}", f"{constant_ratio(results):.2f}"
    except Missing:
        return text
    return f"""{text}

"ours" is MLServe. "Scaled": Triton's ONNX Runtime backend and response cache, and the C++ onnxruntime-server, were measured on another day on a
similar machine. Their figures are multiplied by the ratio of the two machines. For misses it is {misses} (raw ONNX Runtime at batch 8, 46,000 rows/s there), for hits {hits}
(constant response, 123,000/s there)."""


def limits() -> str:
    return LIMITS.read_text() if LIMITS.exists() else ""


def measured(results: dict) -> str:
    rows = [[name, when] for name, when in results.get("measured", {}).items()]
    return "## Dates and commits\n\n" + table(["section", "date, commit"], rows)


def sections(results: dict) -> list[str]:
    tables = [f"## {title}\n\n{write_rows(results[name])}" for name, title in ROWS.items() if name in results]
    return tables + [write_one(results) for name, write_one in OTHERS.items() if name in results]


ROWS = {
    "hits": "Cache hits",
    "misses": "Cache misses",
    "peers": "Other servers",
    "images": "Image sizes",
    "containers": "Containers",
}


def write_rows(section: dict) -> str:
    rows = []
    for name, row in section["rows"].items():
        latency = row["latency_us"]
        problems = f"{row['failed']} failed, {row['refused']} refused" if row["failed"] or row["refused"] else ""
        spread = f"{count(row['least'])}–{count(row['most'])}"
        rows.append(
            [
                name,
                count(row["per_second"]),
                spread,
                micros(latency["p50"]),
                micros(latency["p99"]),
                f"{row['client_us']:.0f} µs",
                problems,
            ]
        )
    rows += [
        [name, "not measured", reason, "", "", "", ""] for name, reason in section.get("not measured", {}).items()
    ]
    if "raw" in section:
        for kind in section["raw"][0]:
            rates = sorted(once[kind] for once in section["raw"])
            name = (
                f"limit: ONNX Runtime alone, {kind[0]} session{'s' if kind[0] != '1' else ''}, batch {kind[2:]}, rows"
            )
            rows.insert(
                0, [name, count(rates[len(rates) // 2]), f"{count(rates[0])}–{count(rates[-1])}", "", "", "", ""]
            )
    return table(["", "per second", "min–max", "p50", "p99", "client CPU per request", ""], rows)


def write_curve(results: dict) -> str:
    rows = [
        [
            name,
            count(point["rate"]),
            count(point["answered"]),
            micros(point["p50"]),
            micros(point["p99"]),
            count(point["refused"]),
            count(point["unsent"]),
        ]
        for name, curve in results["curve"].items()
        for point in curve["points"]
    ]
    return "## Latency at fixed request rates\n\nMeasured from the scheduled time of a request, with at most 256 in flight.\n\n" + table(
        ["", "requests/s", "responses/s", "p50", "p99", "rejected", "not sent"], rows
    )


def write_overload(results: dict) -> str:
    rows = []
    phases = [(ms, name) for ms in results["overload"] for name in ("closed", "before", "during", "after")]
    for ms, name in phases:
        phase = results["overload"][ms][name]
        refused = phase.get("refused_us", {"p50": 0, "p99": 0})
        statuses = ", ".join(f"{n} × {status}" for status, n in phase["statuses"].items())
        rows.append(
            [
                f"{ms} ms per row, {name}",
                count(phase["per_second"]),
                micros(phase["latency_us"]["p50"]),
                micros(phase["latency_us"]["p99"]),
                micros(refused["p99"]),
                statuses,
            ]
        )
    words = """Models that take about this time per row. Closed: 64 connections. Before and after: requests at 0.7 of that rate. During: at ten
times that rate, for a minute."""
    return f"## Overload\n\n{words}\n\n" + table(["", "accepted/s", "p50", "p99", "p99 of rejections", "statuses"], rows)


def write_cost(results: dict) -> str:
    parts = ["web_api", "model_api", "sessions", "client", "available"]
    rows = [[row["name"], *(f"{row[part]:.1f}" for part in parts)] for row in results["cost"]]
    words = """µs of CPU per request, including kernel time, and the CPU time available on all cores per request at that rate. The
difference was idle."""
    return f"## CPU time per request\n\n{words}\n\n" + table(["", *parts], rows)


def write_flight(results: dict) -> str:
    here = results["flight"]
    return f"## Single flight\n\n{here['requests']} requests for {here['inputs']} new inputs, each from 64 connections concurrently: {here['runs']:.0f} runs of the model."


def write_memory(results: dict) -> str:
    here = results["memory"]
    rows = [[part, *(f"{here[when][part]:.0f} MB" for when in ("idle", "loaded"))] for part in here["idle"]]
    return "## Memory\n\nRSS without the local cache, which adds up to `NEAR_CACHE_BYTES`.\n\n" + table(
        ["", "idle", f"after {count(here['requests'])} requests"], rows
    )


def write_growth(results: dict) -> str:
    rows = []
    for what, points in results["growth"].items():
        for point in points:
            more = f"{point['web_api_mb']:.0f} MB in web_api" if "web_api_mb" in point else ""
            rows.append(
                [f"{count(point['count'])} {UNITS[what]}", count(point["per_second"]), micros(point["p99"]), more]
            )
    return "## Scaling\n\n" + table(["", "per second", "p99", ""], rows)


UNITS = {
    "models": "models, concurrently",
    "inputs": "bytes in a request",
    "cached_results": "cached results, requested at random",
}


def write_soak(results: dict) -> str:
    here = results["soak"]
    rounds = here["rounds"]
    rows = [
        [part, f"{slope:+.2f} MB/min", f"{rounds[0][part]:.1f} MB", f"{rounds[-1][part]:.1f} MB"]
        for part, slope in here["mb_per_minute"].items()
    ]
    words = f"{here['seconds']:g} s at full load ({count(here['load']['per_second'])}/s computed); then {len(rounds)} rounds of unloading and loading."
    return f"## Memory growth\n\n{words}\n\n" + table(
        ["", "slope at full load", "after one round", f"after {len(rounds)}"], rows
    )


def write_start(results: dict) -> str:
    seconds = sorted(results["start"]["seconds"])
    return f"## Cold start\n\nTime from the start of both processes to the first result: {seconds[len(seconds) // 2]:.2f} s ({seconds[0]:.2f}–{seconds[-1]:.2f}, {len(seconds)} runs)."


def write_isolation(results: dict) -> str:
    here = results["isolation"]
    rows = [[name, count(run["per_second"]), micros(run["p50_us"])] for name, run in here["runs"].items()]
    return "## Isolation\n\nThe same session, called by the same pool in this process and in a child process.\n\n" + table(
        ["", "per second", "p50"], rows
    )


def write_jobs(results: dict) -> str:
    here = results["jobs"]
    alone, beside = here["alone"], here["beside"]
    rows = [
        [f"interactive, {count(here['rate'])} misses/s: p50", micros(alone["p50"]), micros(beside["p50"])],
        ["interactive: p99", micros(alone["p99"]), f"{micros(beside['p99'])} ({beside['p99'] / alone['p99']:.1f} ×)"],
        ["interactive: rejected", "", count(here["refused"])],
        ["job inputs per second", count(here["jobs alone"]), count(here["jobs beside"])],
    ]
    again = here["again"]
    words = "New images for the same model: interactive requests at a fixed rate, and jobs whose queue is never empty, with Redis."
    more = f"A job of 1,000 digits took {again['first_s']:.2f} s, and {again['second_s'] * 1e3:.0f} ms when it was submitted again ({again['first_s'] / again['second_s']:.0f} ×)."
    killer = here["killer"]
    ratios = f"{min(killer['ratios']):.2f}–{max(killer['ratios']):.2f}"
    more += (
        f"\n\nBeside a job whose input crashes its session, other jobs kept {killer['ratio']:.2f} ({ratios}) of their rate over {killer['seconds']} s."
        f" The crashing job failed alone, after {killer['took_s']:.2f} s."
    )
    return f"## Jobs beside interactive requests\n\n{words}\n\n" + table(["", "alone", "both"], rows) + f"\n\n{more}"


OTHERS = {
    "cost": write_cost,
    "curve": write_curve,
    "overload": write_overload,
    "flight": write_flight,
    "isolation": write_isolation,
    "start": write_start,
    "memory": write_memory,
    "growth": write_growth,
    "jobs": write_jobs,
    "soak": write_soak,
}
