"""The tables of docs/CONFIGURATION.md are those of the programs' own definitions of their settings (`--help`), and the page names
every variable of docker-compose.yml and of the scripts. `configuration.py --write` writes the tables."""

from __future__ import annotations

import re
import sys
from typing import Iterator

from common import ROOT, report, tracked

PAGE = ROOT / "docs" / "CONFIGURATION.md"

# A definition: setting("NAME", "default", "meaning").
SETTING = re.compile(r'\bsetting\(\s*"([A-Z_0-9]+)",\s*"([^"]*)",\s*"([^"]*)",?\s*\)')
TABLE = re.compile(r"(<!-- settings of (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

# Variables of the build and of the tests, which set nothing of a stack.
OTHER = {"WEB_API_SOURCES", "MODEL_API_SOURCES", "DB_API_SOURCES"}


def settings_of(folder: str) -> list[tuple[str, str, str]]:
    sources = [(ROOT / file).read_text().partition("#[cfg(test)]")[0] for file in tracked(f"{folder}/src/*.rs", f"{folder}/src/**/*.rs")]
    return [found for source in sources for found in SETTING.findall(source)]


def readable(default: str) -> str:
    """A default in readable form: bytes in MiB, and none for an empty one."""
    if not default:
        return "none"
    if default.isdigit() and int(default) >= 1 << 20 and int(default) % (1 << 20) == 0:
        return f"`{default}` ({int(default) >> 20} Mi)"
    return f"`{default}`"


def table(folder: str) -> str:
    rows = [f"| `{name}` | {readable(default)} | {meaning} |" for name, default, meaning in settings_of(folder)]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows]) + "\n"


def current(page: str) -> str:
    return TABLE.sub(lambda found: found[1] + table(found[2]) + found[3], page)


def variables() -> set[str]:
    """Those of docker-compose.yml, and those that the scripts read as settings."""
    compose = {name for file in tracked("docker-compose*.yml") for name in re.findall(r"\$\{([A-Z_0-9]+)", (ROOT / file).read_text())}
    scripts = {name for file in tracked("*.sh", "scripts/*.sh") for name in re.findall(r"\(setting ([A-Z_]+) ", (ROOT / file).read_text())}
    return compose | scripts - {"PORT"}


def faults() -> Iterator[str]:
    page = PAGE.read_text()
    folders = [found[2] for found in TABLE.finditer(page)]
    for folder in folders:
        if len(settings_of(folder)) < 5:
            yield f"{folder}/src: fewer than five settings are defined there: is a definition still setting(\"NAME\", \"default\", \"meaning\")?"
    if current(page) != page:
        yield "docs/CONFIGURATION.md: its tables are not those of the programs: python3 checks/configuration.py --write"
    named = set(re.findall(r"`([A-Z_0-9]+)`", page))
    yield from (f"docs/CONFIGURATION.md does not name {name}" for name in sorted(variables() - named - OTHER))


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(current(PAGE.read_text()))
    sys.exit(report("configuration", faults()))
