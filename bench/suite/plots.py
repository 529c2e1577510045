"""Plots as SVG, drawn by hand: bars beside each other, and lines over logarithmic axes."""

from __future__ import annotations

import math
from html import escape

WIDTH, MARGIN = 860, 14
COLOURS = ["#3465a4", "#cc5500", "#4e9a06", "#75507b", "#c4a000"]
STYLE = "<style>text{font:12px sans-serif;fill:#333}.h{font-weight:bold;font-size:14px}.n{fill:#777;font-size:11px}.g{stroke:#ddd}</style>"


def svg(height: float, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}">'
    return "\n".join([head, STYLE, f'<rect width="{WIDTH}" height="{height:.0f}" fill="#fff"/>', *parts, "</svg>\n"])


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="g" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def bars(title: str, rows: list[tuple[str, float, float, float]], unit: str) -> str:
    """A bar for each (name, value, least, most). Names that begin with "ours" have a colour of their own."""
    left, step, top = 330, 22, 40
    most = max(row[3] for row in rows) or 1
    scale = (WIDTH - left - 110) / most
    parts = [text(MARGIN, 22, title, "h")]
    for index, (name, value, least, highest) in enumerate(rows):
        y = top + index * step
        colour = COLOURS[0] if name.startswith(("ours", "model_api")) else "#aaa"
        parts += [
            text(left - 8, y + 13, name, anchor="end"),
            f'<rect x="{left}" y="{y}" width="{max(value * scale, 1):.1f}" height="16" fill="{colour}"/>',
            f'<path d="M{left + least * scale:.1f} {y + 8}H{left + highest * scale:.1f}" stroke="#000"/>',
            text(left + highest * scale + 6, y + 13, f"{value:,.0f} {unit}", "n"),
        ]
    return svg(top + len(rows) * step + MARGIN, parts)


Series = dict[str, list[tuple[float, float]]]


def lines(title: str, x_name: str, y_name: str, series: Series, log_x: bool = False, log_y: bool = True) -> str:
    """A line for each name; points are (x, y)."""
    height, left, right, top, bottom = 380, 70, 230, 40, 50
    xs = [x for points in series.values() for x, _ in points]
    ys = [max(y, 1e-9) for points in series.values() for _, y in points]
    to_x = axis(0 if not log_x else min(xs), max(xs), left, WIDTH - right, log_x)
    to_y = axis(min(ys) if log_y else 0, max(ys), height - bottom, top, log_y)
    parts = [
        text(MARGIN, 22, title, "h"),
        text((left + WIDTH - right) / 2, height - 12, x_name, "n", "middle"),
        text(MARGIN, top - 4, y_name, "n"),
    ]
    for value in ticks(0 if not log_x else min(xs), max(xs), log_x):
        parts += [
            line(to_x(value), top, to_x(value), height - bottom),
            text(to_x(value), height - bottom + 16, short(value), "n", "middle"),
        ]
    for value in ticks(min(ys) if log_y else 0, max(ys), log_y):
        parts += [
            line(left, to_y(value), WIDTH - right, to_y(value)),
            text(left - 6, to_y(value) + 4, short(value), "n", "end"),
        ]
    for index, (name, points) in enumerate(series.items()):
        colour, dash = COLOURS[index // 2 % len(COLOURS)], ' stroke-dasharray="5 4"' if index % 2 else ""
        path = " ".join(f"{to_x(x):.1f},{to_y(max(y, 1e-9)):.1f}" for x, y in points)
        y = top + 8 + index * 18
        parts += [
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>',
            f'<path d="M{WIDTH - right + 10} {y}h24" stroke="{colour}" stroke-width="2"{dash}/>',
            text(WIDTH - right + 40, y + 4, name, "n"),
        ]
    return svg(height, parts)


def axis(low: float, high: float, begin: float, end: float, is_log: bool):
    """A function from values to places."""
    if is_log:
        low, high = math.log10(low), math.log10(high)
    span = (high - low) or 1
    return lambda value: begin + ((math.log10(value) if is_log else value) - low) / span * (end - begin)


def ticks(low: float, high: float, is_log: bool) -> list[float]:
    if is_log:
        return [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    step = 10 ** math.floor(math.log10(high or 1))
    step = step if high / step >= 4 else step / 2 if high / step >= 2 else step / 5
    return [step * index for index in range(int(high / step) + 1)]


def short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {letter}"
    return f"{value:g}"
