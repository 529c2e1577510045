"""Every link in Markdown leads to a file and a heading that exist, and so does every path of this repository in a code span."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Iterator

from common import ROOT, outside_fences, report, tracked

LINK = re.compile(r"\]\(([^)\s]+)\)")
# A path in a code span: a tracked folder first, a file with an extension last, and no placeholder in between.
PATH = re.compile(r"`((?:\.ci|bench|checks|crates|db_api|docs|e2e|examples|fuzz|model_api|scripts|web_api)/[\w./-]+\.[a-z]+)`")


# Parts of another file, whose links are relative to that: bench/suite/report.py puts them together.
PARTS = {Path("bench/limits.md")}


def anchors(file: Path) -> set[str]:
    """The anchors of a file's headings, as GitHub makes them."""
    found: set[str] = set()
    for _, line in outside_fences(file.read_text()):
        if heading := re.match(r"#+\s+(.*)", line):
            text = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading[1]).strip().lower()
            anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            found.add(anchor if anchor not in found else f"{anchor}-1")
    return found


def faults() -> Iterator[str]:
    for file in tracked("*.md"):
        if file in PARTS:
            continue
        for number, line in outside_fences((ROOT / file).read_text()):
            where = f"{file}:{number}"
            for target in LINK.findall(re.sub(r"`[^`]*`", "", line)):
                if re.match(r"[a-z]+:", target):
                    continue
                path, _, anchor = target.partition("#")
                linked = ROOT / file.parent / path if path else ROOT / file
                if not linked.exists():
                    yield f"{where}: the link {target} leads to no file"
                elif anchor and linked.suffix == ".md" and anchor not in anchors(linked):
                    yield f"{where}: the link {target} leads to no heading"
            if file.parts[0] in ("docs", "README.md", "CONTRIBUTING.md"):
                yield from (f"{where}: there is no file {path}" for path in PATH.findall(line) if not (ROOT / path).exists())


if __name__ == "__main__":
    sys.exit(report("links", faults()))
