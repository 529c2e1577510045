"""No cycle between the top-level modules of a crate, by its `use` lines and `crate::` and `super::` paths outside tests."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Iterator

from common import ROOT, report, tracked

Graph = dict[str, dict[str, str]]


def strip(source: str) -> str:
    """The source without comments, strings and test modules."""
    source = re.sub(r"//[^\n]*|/\*.*?\*/", "", source, flags=re.DOTALL)
    source = re.sub(r'"(?:[^"\\]|\\.)*"', '""', source)
    while test := re.search(r"#\[cfg\((?:all\()?test\b[^\]]*\]\s*(?:pub(?:\([a-z]+\))? )?mod \w+ \{", source):
        depth, end = 1, test.end()
        while depth and end < len(source):
            depth += {"{": 1, "}": -1}.get(source[end], 0)
            end += 1
        source = source[: test.start()] + source[end:]
    return re.sub(r"#\[cfg\(test\)\]\s*(?:use|(?:pub(?:\([a-z]+\))? )?mod) [^;]*;", "", source)


def expand(tree: str) -> Iterator[list[str]]:
    """The paths of a use tree: a::{b, c::d} gives a::b and a::c::d."""
    tree = re.sub(r"\s+as\s+\w+", "", tree)
    tree = re.sub(r"\s", "", tree)
    opening = tree.find("{")
    if opening < 0:
        yield [part for part in tree.split("::") if part]
        return
    prefix = [part for part in tree[:opening].split("::") if part]
    depth, item = 0, ""
    for char in tree[opening + 1 : tree.rfind("}")] + ",":
        depth += {"{": 1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            if item:
                yield from (prefix + path for path in expand(item))
            item = ""
        else:
            item += char


def is_test(file: Path) -> bool:
    names = [*file.parts[:-1], file.stem]
    return any(name == "tests" or name.endswith("_tests") or name == "test" for name in names)


def module_of(file: Path) -> list[str]:
    """The module's path within the crate: src/a/b.rs and src/a/b/mod.rs are a::b."""
    parts = list(file.with_suffix("").parts)
    return parts[:-1] if parts[-1] in ("mod", "lib", "main") else parts


def paths(source: str, here: list[str]) -> Iterator[list[str]]:
    """The absolute paths within the crate that the source names."""
    uses = [path for tree in re.findall(r"\buse\s+([^;]+);", source) for path in expand(tree)]
    inline = [path.split("::") for path in re.findall(r"\b(?:crate|super)(?:::\w+)+", re.sub(r"\buse\s+[^;]+;", "", source))]
    for path in uses + inline:
        base, rest = list(here), list(path)
        if rest[:1] == ["self"]:
            continue
        if rest[:1] == ["crate"]:
            base, rest = [], rest[1:]
        elif rest[:1] == ["super"]:
            while rest[:1] == ["super"]:
                base, rest = base[:-1], rest[1:]
        else:
            continue
        yield base + rest


def graph_of(source_folder: Path) -> Graph:
    """For each top-level module those that it imports, each with one place where it does."""
    files = [file for file in tracked(f"{source_folder}/*.rs", f"{source_folder}/**/*.rs") if not is_test(file)]
    sources = {file: strip((ROOT / file).read_text()) for file in files}
    roots = [file for file in files if file.parent == source_folder and file.stem in ("lib", "main")]
    modules = {module_of(file.relative_to(source_folder))[0] for file in files if file not in roots}
    # What the crate's root exports belongs to the module that it comes from.
    exported = {
        path[-1]: path[0]
        for root in roots
        for tree in re.findall(r"\bpub(?:\([a-z]+\))?\s+use\s+([^;]+);", sources[root])
        for path in expand(tree.strip().removeprefix("crate::").removeprefix("self::"))
        if len(path) > 1 and path[0] in modules
    }
    graph: Graph = {module: {} for module in modules}
    for file in files:
        if file in roots:
            continue
        here = module_of(file.relative_to(source_folder))
        for path in paths(sources[file], here):
            if not path:
                continue
            target = path[0] if path[0] in modules else exported.get(path[0])
            if target and target != here[0]:
                graph[here[0]].setdefault(target, str(file))
    return graph


def rings(graph: Graph) -> list[list[str]]:
    """The strongly connected groups of more than one module (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph[node]:
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            ring = []
            while not ring or ring[-1] != node:
                ring.append(stack.pop())
            if len(ring) > 1:
                found.append(sorted(ring))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def faults() -> Iterator[str]:
    sources = [file.parent / "src" for file in tracked("Cargo.toml", "*/Cargo.toml", "**/Cargo.toml") if (ROOT / file.parent / "src").is_dir()]
    for source_folder in sources:
        graph = graph_of(source_folder)
        for ring in rings(graph):
            edges = [f"{a} → {b} ({where})" for a in ring for b, where in sorted(graph[a].items()) if b in ring]
            yield f"{source_folder}: a cycle between {len(ring)} modules: {', '.join(ring)}\n  " + "\n  ".join(edges)


if __name__ == "__main__":
    sys.exit(report("cycles", faults()))
