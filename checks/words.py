"""No word of words.txt in comments and documents, except where words_allowed.txt allows it. `words.py PATH…` checks these paths alone."""

from __future__ import annotations

import fnmatch
import io
import re
import sys
import tokenize
from pathlib import Path
from typing import Iterator

from common import ROOT, outside_fences, report, tracked

HERE = Path(__file__).parent

# What begins a comment, by the file's extension.
MARKS = {".rs": "//", ".js": "//", ".proto": "//", ".lua": "--", ".sh": "#", ".yml": "#", ".yaml": "#", ".toml": "#", ".conf": "#", "": "#"}


def entries(name: str, separator: str) -> list[tuple[str, str]]:
    lines = [line for line in (HERE / name).read_text().splitlines() if line.strip() and not line.startswith("#")]
    return [(left.strip(), right.strip()) for left, _, right in (line.partition(separator) for line in lines)]


def comments(file: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a file's comments, or of a document's text."""
    text = (ROOT / file).read_text()
    if file.suffix == ".md":
        yield from ((number, re.sub(r"`[^`]*`|\]\([^)]*\)", " ", line)) for number, line in outside_fences(text))
    elif file.suffix == ".py":
        yield from python_comments(text)
    else:
        mark = re.escape(MARKS[file.suffix])
        comment = re.compile(rf"(?:^|\s){mark}(?!!/)(.*)" if mark != "//" else r"(?:^|\s)//[/!]?(.*)")
        for number, line in enumerate(text.splitlines(), 1):
            if found := comment.search(re.sub(r'"(?:[^"\\]|\\.)*"', '""', line)):
                yield number, re.sub(r"`[^`]*`", " ", found[1])


def python_comments(text: str) -> Iterator[tuple[int, str]]:
    before, depth = tokenize.NEWLINE, 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        statement = depth == 0 and before in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.NL)
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token.string, 0) if token.type == tokenize.OP else 0
        if token.type == tokenize.COMMENT or token.type == tokenize.STRING and statement:
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, re.sub(r"`[^`]*`", " ", line)
        if token.type != tokenize.COMMENT:
            before = token.type


def faults(chosen: list[str]) -> Iterator[str]:
    words = entries("words.txt", " → ")
    allowed = entries("words_allowed.txt", " | ")
    pattern = re.compile("|".join(rf"(?P<w{index}>\b(?:{word})\b)" for index, (word, _) in enumerate(words)), re.IGNORECASE)
    suffixes = {*MARKS, ".md", ".py"} - {""}
    for file in tracked(*chosen):
        if file.suffix not in suffixes and file.name != "Dockerfile" or file.name == "LICENSE":
            continue
        for number, line in comments(file):
            for found in pattern.finditer(line):
                if not any(fnmatch.fnmatch(str(file), path) and (text == "*" or text in line) for path, text in allowed):
                    yield f"{file}:{number}: {found[0]!r}: write {words[int(found.lastgroup[1:])][1]}"


if __name__ == "__main__":
    sys.exit(report("words", faults(sys.argv[1:])))
