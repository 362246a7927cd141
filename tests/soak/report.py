"""The report in Markdown: how to repeat it, tables of what was done and how it ended, plots, and the conclusion."""

from __future__ import annotations

import platform
import textwrap
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final

import plotille

from soak.findings import Findings
from soak.measure import MEBIBYTE, quarters

WIDTH: Final = 72
HEIGHT: Final = 8
"""The size of a plot in characters."""
LINE: Final = 120
"""The most characters in a line."""


def report(command: str, found: Sequence[Findings], broken: Sequence[str]) -> str:
    """Return the whole report.

    Args:
        command: The command that repeats the run.
        found: The results of each backend.
        broken: Descriptions of backends whose run itself failed, so that there are no results.
    """
    parts = [
        f"`{command}`",
        *(_tables(found) if found else []),
        *map(_plots, found),
        _verdict(found, broken),
    ]
    return "\n\n".join(parts)


def _tables(found: Sequence[Findings]) -> list[str]:
    return [
        _setting(found[0]),
        _table("faults", found, lambda one: one.faults, total="faults"),
        _table("calls", found, lambda one: one.ends, total="calls"),
        _table("compared with the ledgers", found, lambda one: one.ledgers),
        _table("additional pools closed", found, lambda one: one.blocks, total="blocks"),
        _table("programs ended", found, lambda one: one.programs, total="programs"),
        _table("figures", found, _figures),
    ]


def _setting(one: Findings) -> str:
    kinds = ", ".join(f"{number} {wire}" for wire, number in one.servers.items())
    servers = f"{sum(one.servers.values())} servers ({kinds}), {one.seconds / 60:.3g} minutes on each backend."
    return f"Python {platform.python_version()} on {platform.system()}. {servers}"


def _table(
    title: str, found: Sequence[Findings], take: Callable[[Findings], dict[str, Any]], total: str | None = None
) -> str:
    """Return a table with a column for each backend. With a total, that comes first, and rows are sorted by size."""
    columns = [take(one) for one in found]
    rows = list(dict.fromkeys(chain.from_iterable(columns)))
    lines = [
        f"| {title} | {' | '.join(one.backend for one in found)} |",
        f"|---|{'--:|' * len(found)}",
    ]
    if total is not None:
        rows.sort(key=lambda row: -sum(column.get(row, 0) for column in columns))
        lines.append(f"| **{total}** | {' | '.join(f'**{sum(column.values()):,}**' for column in columns)} |")
    lines += [f"| {row} | {' | '.join(f'{column.get(row, 0):,}' for column in columns)} |" for row in rows]
    return "\n".join(lines)


def _figures(one: Findings) -> dict[str, Any]:
    samples = one.samples
    memory = [round(median / MEBIBYTE, 1) for median in quarters(samples)]
    return {
        **{name: _whole(number) for name, number in one.figures.items()},
        **{f"log lines, {level}": number for level, number in sorted(one.logged.items())},
        **{f"memory, median of quarter {n}, MiB": value for n, value in enumerate(memory, 1)},
        "most descriptors": max(sample.descriptors for sample in samples),
        "most tasks": max(sample.tasks for sample in samples),
        "longest delay of the event loop, s": max(sample.lag for sample in samples),
        "violations": one.violations.counts.total(),
    }


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number


def _plots(one: Findings) -> str:
    minutes = [sample.time / 60 for sample in one.samples]
    shown: list[tuple[str, list[float]]] = [
        ("resident memory, MiB", [sample.memory / MEBIBYTE for sample in one.samples]),
        ("open descriptors", [float(sample.descriptors) for sample in one.samples]),
        ("servers connected", [float(sample.connected) for sample in one.samples]),
    ]
    plots = "\n\n".join(_plot(f"{one.backend}: {title}", minutes, values) for title, values in shown)
    return f"```\n{plots}\n```"


def _plot(title: str, minutes: list[float], values: list[float]) -> str:
    figure = plotille.Figure()
    figure.width, figure.height, figure.with_colors, figure.origin = WIDTH, HEIGHT, False, False
    figure.set_x_limits(min_=0, max_=max(minutes) or 1)
    figure.set_y_limits(min_=0, max_=max(values) * 1.1 or 1)
    figure.x_label, figure.y_label = "minutes", ""
    figure.register_label_formatter(float, _label)
    figure.plot(minutes, values)
    text: str = figure.show()
    return "\n".join([title, *(line.rstrip(" \u2800") for line in text.splitlines()[1:])])


def _label(value: float, chars: int, delta: float, left: bool = False) -> str:
    text = f"{value:.2f}" if left else f"{value:.0f}"
    return text.ljust(chars) if left else text.rjust(chars)


def _verdict(found: Sequence[Findings], broken: Sequence[str]) -> str:
    lines = list(broken)
    for one in found:
        if one.violations.texts:
            lines.append(f"{one.backend}: {one.violations.counts.total()} violations")
            lines += [f"* {text}" for text in one.violations.texts]
    if not lines:
        lines.append(
            "No violations: no call hung or ran twice without permission, every error gave its cause, every server "
            "reconnected, and tasks, descriptors, processes and memory ended where they started."
        )
    return "\n".join(
        chain.from_iterable(textwrap.wrap(line, LINE, subsequent_indent="  " * line.startswith("*")) for line in lines)
    )
