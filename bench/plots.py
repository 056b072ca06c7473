"""Pictures of the last full run for docs/performance.md: bars on a logarithmic axis, as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import ceil, floor, log10
from pathlib import Path
from typing import Final

from bench.figures import Row
from bench.report import Report, table

FOLDER: Final = Path(__file__).resolve().parent.parent / "docs" / "performance"
LABEL, AXIS, VALUE, HEIGHT, TOP = 470, 400, 110, 22, 46
"""Pixels: the name, the axis, the figure behind the bar; of a row; above the first."""
OURS, OTHERS = "#2f6f4f", "#9a9a9a"
CHARTS: Final = {
    "round-trips-one-cpu": "round trips, same CPU",
    "round-trips-two-cpus": "round trips, two CPUs",
    "scale-sockets": "exits outstanding, sockets",
    "scale-slots": "exits outstanding, slots",
    "boot-server": "boot of server: stall",
    "boot-microvm": "boot of microvm: stall",
}
"""File -> subject."""


def write(report: Report) -> None:
    """Every picture whose subject the report has, and the tables."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "figures.txt").write_text("\n".join(table(report)) + "\n")
    subjects = dict(report.subjects)
    for name, subject in CHARTS.items():
        if subject in subjects:
            caption = f"{subject}; {report.computer.processor}, {report.computer.cores} cores"
            (FOLDER / f"{name}.svg").write_text("\n".join(chart(caption, subjects[subject])) + "\n")


def chart(caption: str, rows: Sequence[Row]) -> Iterator[str]:
    """Bars of p50, one for a row."""
    values = [row.p50 for row in rows if row.p50 > 0]
    low = floor(log10(min(values)))
    powers = range(low, max(ceil(log10(max(values))), low + 1) + 1)
    width, height = LABEL + AXIS + VALUE, TOP + HEIGHT * len(rows) + 10
    size = f'width="{width}" height="{height}"'
    yield f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    yield f'<rect {size} fill="white"/>'
    yield _text(8, 18, caption, 'font-weight="bold"')
    for power in powers:
        x = LABEL + _place(10.0**power, powers)
        yield f'<line x1="{x:.0f}" x2="{x:.0f}" y1="{TOP - 4}" y2="{height - 6}" stroke="#dddddd"/>'
        yield _text(x, TOP - 8, f"{10.0**power:g} {rows[0].unit}", 'text-anchor="middle" fill="#666666"')
    for number, row in enumerate(rows):
        yield from _bar(TOP + HEIGHT * number, row, _place(row.p50, powers))
    yield "</svg>"


def _place(value: float, powers: range) -> float:
    return AXIS * max(0.0, log10(value or 10.0 ** powers[0]) - powers[0]) / (powers[-1] - powers[0])


def _bar(y: float, row: Row, length: float) -> Iterator[str]:
    colour = OURS if row.name.startswith("mmiod") or not row.ratios.keys() - {row.name} else OTHERS
    yield _text(LABEL - 8, y + 15, row.name, 'text-anchor="end"')
    yield f'<rect x="{LABEL}" y="{y + 3}" width="{length:.1f}" height="{HEIGHT - 6}" fill="{colour}"/>'
    yield _text(
        LABEL + length + 6,
        y + 15,
        f"{row.p50:,.0f} {row.unit}" if row.p50 >= 100 else f"{row.p50:.3g} {row.unit}",
    )


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" {more}>{escape(text)}</text>'
