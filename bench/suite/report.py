"""docs/BENCHMARKS.md out of the results."""

from __future__ import annotations

from .aims import AIMS
from .drawings import draw
from .figures import Missing, constant_ratio, count, micros, raw_ratio
from .place import ROOT

DOCS = ROOT / "docs"

# Written by hand: why an aim was missed, and what was tried.
NOTES = ROOT / "bench" / "notes.md"


def write(results: dict) -> None:
    plots = draw(results, DOCS)
    parts = [
        head(results),
        aims(results),
        notes(),
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

Written by `./bench/run.sh` on {about["date"]}. What is compared was measured side by side within one section, except where it says
"scaled"; the end says when each section was measured, and of which commit.

{quick}{table(["", ""], [[name, value] for name, value in about["machine"].items()])}

**How.** The load generator (`bench/src`) runs on the same cores as what it asks: one thread, kept connections, each with one
request at a time ("@64": 64 connections). {effort["rounds"]} rounds of {effort["seconds"]:g} s after {effort["warm_up"]:g} s of warm-up, in turn: limit, ours, peer,
limit, ours, peer; medians, with the least and the most of the rounds. Every status is counted, and one answer of 64 is read to see
whether it is right. A miss is another question every time: a file with other bytes behind its end, or a tensor with other
values in its darkest pixels. The network is the shipped mnist; the picture is `samples/digit-7.png` unless something else is said; all
settings are the shipped ones. ONNX Runtime has one thread for each session, everywhere. `./bench/run.sh SECTION…` measures a part again."""


def aims(results: dict) -> str:
    rows = [list(aim.told(results)) for aim in AIMS]
    text = "## Aims\n\n" + "\n".join(
        ["| path | aim | figure | |", "|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    )
    try:
        ratios = f"{raw_ratio(results):.2f} (46,000 rows/s of raw ONNX Runtime at batch 8 then) and {constant_ratio(results):.2f} (123,000/s of the constant answer then)"
    except Missing:
        return text
    return f"""{text}

"Scaled": Triton's ONNX Runtime backend and response cache and the C++ onnxruntime-server were measured beforehand, on another day on such a
machine; what they did then is multiplied by what this machine does now of what the machine then did: {ratios}, for misses and for hits."""


def notes() -> str:
    return NOTES.read_text() if NOTES.exists() else ""


def measured(results: dict) -> str:
    rows = [[name, when] for name, when in results.get("measured", {}).items()]
    return "## When\n\n" + table(["section", "when, and of which commit"], rows)


def sections(results: dict) -> list[str]:
    tables = [f"## {title}\n\n{write_rows(results[name])}" for name, title in ROWS.items() if name in results]
    return tables + [write_one(results) for name, write_one in OTHERS.items() if name in results]


ROWS = {
    "hits": "Remembered answers",
    "misses": "Computed answers",
    "peers": "Others",
    "images": "Sizes of pictures",
    "containers": "In containers",
}


def write_rows(section: dict) -> str:
    rows = []
    for name, row in section["rows"].items():
        latency = row["latency_us"]
        trouble = f"{row['failed']} failed, {row['refused']} refused" if row["failed"] or row["refused"] else ""
        spread = f"{count(row['least'])}–{count(row['most'])}"
        rows.append(
            [
                name,
                count(row["per_second"]),
                spread,
                micros(latency["p50"]),
                micros(latency["p99"]),
                f"{row['client_us']:.0f} µs",
                trouble,
            ]
        )
    rows += [
        [name, "not measured", why_not, "", "", "", ""] for name, why_not in section.get("not measured", {}).items()
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
    return table(["", "per second", "least–most", "p50", "p99", "client, each", ""], rows)


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
    return "## Latency at fixed rates\n\nFrom when a request should have been sent, at most 256 at a time.\n\n" + table(
        ["", "arrivals/s", "answered/s", "p50", "p99", "refused", "never sent"], rows
    )


def write_overload(results: dict) -> str:
    rows = []
    spells = [(ms, name) for ms in results["overload"] for name in ("closed", "before", "during", "after")]
    for ms, name in spells:
        said = results["overload"][ms][name]
        refused = said.get("refused_us", {"p50": 0, "p99": 0})
        statuses = ", ".join(f"{n} × {status}" for status, n in said["statuses"].items())
        rows.append(
            [
                f"{ms} ms a row, {name}",
                count(said["per_second"]),
                micros(said["latency_us"]["p50"]),
                micros(said["latency_us"]["p99"]),
                micros(refused["p99"]),
                statuses,
            ]
        )
    words = """Networks that take about so long for a row. Closed: 64 connections. Before and after: arrivals at 0.7 of that rate. During: at ten
times that rate, for a minute."""
    return f"## Overload\n\n{words}\n\n" + table(["", "answered/s", "p50", "p99", "p99 of refusals", "statuses"], rows)


def write_cost(results: dict) -> str:
    parts = ["web_api", "model_api", "its sessions", "client", "there is"]
    rows = [[row["name"], *(f"{row[part]:.1f}" for part in parts)] for row in results["cost"]]
    words = """µs of CPU per request, the kernel's for it included; and how much CPU all cores had per request at that rate: what the
parts do not add up to was idle."""
    return f"## Where the time goes\n\n{words}\n\n" + table(["", *parts], rows)


def write_flight(results: dict) -> str:
    here = results["flight"]
    return f"## One flight\n\n{here['requests']} requests, {here['questions']} new questions, each from 64 connections at the same moment: {here['runs']:.0f} runs of the model."


def write_memory(results: dict) -> str:
    here = results["memory"]
    rows = [[part, *(f"{here[when][part]:.0f} MB" for when in ("idle", "loaded"))] for part in here["idle"]]
    return f"## Memory\n\nRSS; what is remembered near comes on top, up to `NEAR_CACHE_BYTES`.\n\n" + table(
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
    return "## As things grow\n\n" + table(["", "per second", "p99", ""], rows)


UNITS = {
    "models": "models, asked together",
    "inputs": "bytes in a question",
    "remembered": "remembered answers, asked at random",
}


def write_soak(results: dict) -> str:
    here = results["soak"]
    rounds = here["rounds"]
    rows = [
        [part, f"{slope:+.2f} MB/min", f"{rounds[0][part]:.1f} MB", f"{rounds[-1][part]:.1f} MB"]
        for part, slope in here["mb_per_minute"].items()
    ]
    words = f"{here['seconds']:g} s at full load ({count(here['load']['per_second'])}/s computed); then {len(rounds)} rounds of unloading and loading."
    return f"## Leaks\n\n{words}\n\n" + table(
        ["", "slope at full load", "after one round", f"after {len(rounds)}"], rows
    )


def write_start(results: dict) -> str:
    seconds = sorted(results["start"]["seconds"])
    return f"## Cold start\n\nBoth processes started at the same time, to the first answer: {seconds[len(seconds) // 2]:.2f} s ({seconds[0]:.2f}–{seconds[-1]:.2f}, {len(seconds)} times)."


def write_isolation(results: dict) -> str:
    here = results["isolation"]
    rows = [[name, count(run["per_second"]), micros(run["p50_us"])] for name, run in here["runs"].items()]
    return "## Isolation\n\nThe same session asked by the same pool, in this process and in a child.\n\n" + table(
        ["", "per second", "p50"], rows
    )


def write_jobs(results: dict) -> str:
    here = results["jobs"]
    alone, beside = here["alone"], here["beside"]
    rows = [
        [f"people, {count(here['rate'])} misses/s: p50", micros(alone["p50"]), micros(beside["p50"])],
        ["people: p99", micros(alone["p99"]), f"{micros(beside['p99'])} ({beside['p99'] / alone['p99']:.1f} ×)"],
        ["people: refused", "", count(here["refused"])],
        ["inputs of jobs per second", count(here["jobs alone"]), count(here["jobs beside"])],
    ]
    again = here["again"]
    words = "New pictures for the same model, by people at a fixed rate and by jobs whose queue is never empty, with Redis."
    more = f"A job of 1,000 digits took {again['first_s']:.2f} s, and {again['second_s'] * 1e3:.0f} ms when it was sent again ({again['first_s'] / again['second_s']:.0f} ×)."
    killer = here["killer"]
    ratios = f"{min(killer['ratios']):.2f}–{max(killer['ratios']):.2f}"
    more += (
        f"\n\nBeside a job whose input kills its session the others kept {killer['ratio']:.2f} ({ratios}) of their pace over {killer['seconds']} s;"
        f" that job had failed, alone, after {killer['took_s']:.2f} s."
    )
    return f"## Jobs beside people\n\n{words}\n\n" + table(["", "alone", "both"], rows) + f"\n\n{more}"


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
