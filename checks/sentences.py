"""No sentence of README.md and docs/ has more than 30 words. Code blocks do not count; a code span is one word."""

from __future__ import annotations

import re
import sys
from typing import Iterator

from common import ROOT, outside_fences, report, tracked

MAX_WORDS = 30

# What begins a block of its own: a heading, an item of a list, a row of a table, a quotation.
BLOCK = re.compile(r"^\s*(#+ |[-*] |\d+\. |> |\|)")
END = re.compile(r"(?<=[.!?])[)\"*_]*\s+(?=[\"(*_`A-Z0-9])")


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Each paragraph, item and cell on one line, with the number of its first line."""
    start, parts = 0, []
    for number, line in [*outside_fences(text), (0, "")]:
        if not line.strip() or BLOCK.match(line):
            if parts:
                yield start, " ".join(parts)
            parts = []
        if line.lstrip().startswith("|"):
            yield from ((number, cell.strip()) for cell in line.strip().strip("|").split("|"))
        elif line.strip():
            start = start if parts else number
            parts.append(line.strip())


def plain(text: str) -> str:
    text = re.sub(r"`[^`]*`", "CODE", text)
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"<[^>]*>|https?://\S+", "LINK", text)


def faults() -> Iterator[str]:
    for file in tracked("README.md", "docs/*.md"):
        for line, paragraph in paragraphs((ROOT / file).read_text()):
            for sentence in END.split(plain(paragraph)):
                words = re.findall(r"[^\s—–/·|→]*\w[^\s—–/·|→]*", sentence)
                if len(words) > MAX_WORDS:
                    yield f"{file}:{line}: a sentence of {len(words)} words (at most {MAX_WORDS}): {' '.join(words[:8])} …"


if __name__ == "__main__":
    sys.exit(report("sentences", faults()))
