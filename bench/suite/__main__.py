"""Measures the named sections, or all; stores the results; writes docs/BENCHMARKS.md."""

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
        "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}, or report: only write it"
    )
    parser.add_argument("--quick", action="store_true", help="one short round each, less than three minutes")
    parser.add_argument(
        "--soak", type=float, metavar="SECONDS", help="also measure memory growth at full load for this time"
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
    # A full run starts from empty results, a section replaces its own part. Without the other sections the report is not written.
    is_kept = not options.sections or RESULTS.exists()
    if sections == ["report"] and not is_kept:
        parser.error(f"there is nothing to report: bench/run.sh writes {RESULTS} when it measures all sections")
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
        else f"not written: docs/BENCHMARKS.md, because {RESULTS} is missing; bench/run.sh measures all sections"
    )
    return 1 if failed else 0


# Sections of a quick run of three minutes.
QUICK = ["hits", "misses", "curve", "flight", "isolation", "start"]


def measure(name: str, results: dict, effort: Effort) -> bool:
    print(f"==== {name} ====", flush=True)
    begun = time.monotonic()
    try:
        results[name] = import_module(f".sections.{name}", __package__).run(effort)
    except Exception as error:  # The other sections are still measured.
        print(f"  {name} was not measured: {error!r}", file=sys.stderr, flush=True)
        return False
    print(f"  {time.monotonic() - begun:.0f} s", flush=True)
    results.setdefault("measured", {})[name] = f"{time.strftime('%Y-%m-%d %H:%M')}, {machine.commit()}"
    return True


if __name__ == "__main__":
    sys.exit(main())
