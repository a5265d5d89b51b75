"""What a command prints about a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import compress
from typing import Any

from ..ask.arms import ARMS
from ..store.refusals import FULL
from .tables import Table, task_tables, verdict_lines, warning_lines


def terminal(table: Table) -> str:
    """A table in columns of spaces."""
    lines = [table.header, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < table.left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def terminal_report(metrics: Mapping[str, Any]) -> str:
    """What a command prints about a task: arms, comparisons, measures, families, warnings, and a verdict a kind."""
    first = next(iter(metrics["arms"].values()))["accuracy"]
    parts = [f"{metrics['title']}: {first['n']} items in {first['n_clusters']} clusters"]
    parts += [f"{table.title}\n{terminal(_narrowed(table, metrics))}" for table in task_tables(metrics)]
    warnings = warning_lines(metrics)
    if warnings:
        parts.append("\n".join(["Warnings", *warnings]))
    return "\n\n".join([*parts, "\n".join(verdict_lines(metrics))])


def _narrowed(table: Table, metrics: Mapping[str, Any]) -> Table:
    """A table that has a column an arm, with those of the full model and what it has to beat alone."""
    arms = [name.rpartition("/")[2] in (FULL, *metrics["decides"]) or name not in ARMS for name in table.header]
    rows = tuple(tuple(compress(row, arms)) for row in table.rows)
    return replace(table, header=tuple(compress(table.header, arms)), rows=rows)


__all__ = ["terminal", "terminal_report"]
