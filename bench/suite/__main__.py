"""Measures the sections that are named, or all; keeps what it found; writes docs/BENCHMARKS.md."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from importlib import import_module

from . import machine, report
from .aims import AIMS
from .paths import RESULTS, STATE, Effort, read_results, write_results

SECTIONS = [
    "hits",
    "misses",
    "cost",
    "peers",
    "curve",
    "overload",
    "images",
    "flight",
    "isolation",
    "start",
    "memory",
    "growth",
    "jobs",
    "soak",
    "containers",
]


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench/run.sh", description=__doc__)
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}, or report: write it anew"
    )
    parser.add_argument("--quick", action="store_true", help="one short round each, less than three minutes")
    parser.add_argument(
        "--soak", type=float, metavar="SECONDS", help="measure also how memory fares at full load for so long"
    )
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS) - {"report"}
    if unknown:
        parser.error(f"there is no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    effort = Effort.of(options.quick, options.soak)
    sections = options.sections or (
        QUICK if options.quick else [name for name in SECTIONS if name != "soak" or options.soak]
    )
    STATE.mkdir(parents=True, exist_ok=True)
    # All of it begins anew; a part replaces that part. Where the rest is not, a report of the part alone would be in its place.
    is_kept = not options.sections or RESULTS.exists()
    if sections == ["report"] and not is_kept:
        parser.error(f"there is nothing to report: {RESULTS} is what bench/run.sh leaves when it measures all of it")
    results = read_results() if options.sections else {}
    if sections != ["report"]:
        about = {"date": time.strftime("%Y-%m-%d"), "machine": machine.describe(), "effort": dataclasses.asdict(effort)}
        results["about"] = about
    failed = [name for name in sections if name != "report" and not measure(name, results, effort)]
    if is_kept:
        write_results(results)
        report.write(results)
    for aim in AIMS:
        print("{:75} {:14} {}".format(*(aim.evaluate(results)[index] for index in (0, 3, 2))))
    print(
        "written: docs/BENCHMARKS.md and bench/results.json"
        if is_kept
        else f"not written: docs/BENCHMARKS.md, since {RESULTS} with the rest of it is not there; bench/run.sh measures all"
    )
    return 1 if failed else 0


# What shows that everything works, within three minutes.
QUICK = ["hits", "misses", "curve", "flight", "isolation", "start"]


def measure(name: str, results: dict, effort: Effort) -> bool:
    print(f"==== {name} ====", flush=True)
    begun = time.monotonic()
    try:
        results[name] = import_module(f".sections.{name}", __package__).run(effort)
    except Exception as error:  # The others are measured all the same.
        print(f"  {name} was not measured: {error!r}", file=sys.stderr, flush=True)
        return False
    print(f"  {time.monotonic() - begun:.0f} s", flush=True)
    results.setdefault("measured", {})[name] = f"{time.strftime('%Y-%m-%d %H:%M')}, {machine.commit()}"
    return True


if __name__ == "__main__":
    sys.exit(main())
