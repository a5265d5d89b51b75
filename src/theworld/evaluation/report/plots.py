"""The figure of a report as SVG: text stays text, and the ink takes the colour of the page around it."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from textwrap import wrap

from theworld.utils.imports import require

from .tables import Metrics, deciding

INK = "#1a1b1c"
"""Drawn as `currentColor` in a page, so that it shows on light and on dark."""

GRID = "#94a3b8"
PALETTE = ("#c2410c", "#0284c7", "#059669", "#a855f7", "#b45309", "#db2777")
"""One colour a kind of questions; all can be read on light and on dark."""

WIDTH, ROW, LABEL = 4.9, 0.17, 26
"""Inches, which a screen of 390 pixels can show without small print; inches for a kind of an arm; characters a line."""

STYLE = Path(__file__).with_name("report.mplstyle")


def draw(metrics: Metrics) -> tuple[str, str]:
    """The full model's paired difference to every arm by kind of questions, or the accuracies where it has no rival.

    Returns:
        What the figure shows, and the figure as an `<svg>` element.
    """
    # 1. The numbers: by kind, those of each arm
    kinds = metrics["kinds"]
    compared = {kind: metrics["comparisons"][kind] for kind in kinds}
    middle, about, unit = "difference", "Full model minus each arm, paired", "points of accuracy"
    if not any(compared.values()):
        of_kind = {kind: {name: arm["kinds"].get(kind) for name, arm in metrics["arms"].items()} for kind in kinds}
        compared = {kind: {name: told for name, told in them.items() if told} for kind, them in of_kind.items()}
        middle, about, unit = "estimate", "Accuracy", "per cent"
    arms = [name for name in metrics["arms"] if any(name in them for them in compared.values())] or [*metrics["arms"]]
    decisive = deciding(metrics) if middle == "difference" else []
    # 2. Down the page an arm, and within it a kind
    with require("eval", "matplotlib").rc_context(fname=STYLE):
        height = len(arms) * (len(kinds) * ROW + 0.14) + 0.9
        figure = require("eval", "matplotlib.figure").Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots()
        if middle == "difference":
            axes.axvline(0, color=INK, linewidth=0.8)
        for number, (kind, them) in enumerate(compared.items()):
            colour, shift = PALETTE[number % len(PALETTE)], (number - (len(kinds) - 1) / 2) * 0.8 / len(kinds)
            places = [place + shift for place, name in enumerate(arms) if name in them]
            shown = [[100 * them[name][key] for name in arms if name in them] for key in (middle, "low", "high")]
            axes.hlines(places, *shown[1:], color=colour, linewidth=1.6)
            axes.plot(shown[0], places, "o", color=colour, markersize=5, label=kind)
        labels = [wrap(metrics["arms"][name]["label"], LABEL, max_lines=2, placeholder="…") for name in arms]
        stars = [" *" * (name in decisive) for name in arms]
        axes.set_yticks(range(len(arms)), ["\n".join(told) + star for told, star in zip(labels, stars, strict=True)])
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.set_xlabel(unit)
        axes.grid(axis="x", color=GRID, alpha=0.3, linewidth=0.8)
        if len(kinds) > 1:
            figure.legend(loc="outside upper left", frameon=False, ncols=3)
        # 3. Without a date or an author, so that the same numbers give the same bytes
        text = StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    needed = " The verdict needs the arms with *." if decisive else ""
    return f"{about}, with 95 % intervals.{needed}", text.getvalue()


__all__ = ["INK", "draw"]
