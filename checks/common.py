"""Shared by the checks: the tracked files, the text of a Markdown file, and the report."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Iterable, Iterator

ROOT = Path(__file__).resolve().parent.parent

FENCE = re.compile(r"^\s*(```|~~~)")


def tracked(*patterns: str) -> list[Path]:
    """The files that Git tracks or would track, relative to the root, that match one of the patterns."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [Path(name) for name in sorted(set(names)) if (ROOT / name).is_file()]


def outside_fences(text: str) -> Iterator[tuple[int, str]]:
    """The numbered lines of a Markdown text, with an empty line in place of each line of a code block."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if FENCE.match(line):
            fenced = not fenced
            yield number, ""
        else:
            yield number, "" if fenced else line


def report(check: str, faults: Iterable[str]) -> int:
    """Prints the faults; the exit code."""
    faults = list(faults)
    for fault in faults:
        print(fault)
    print(f"{check}: {len(faults)} fault{'' if len(faults) == 1 else 's'}", file=sys.stderr)
    return 1 if faults else 0
