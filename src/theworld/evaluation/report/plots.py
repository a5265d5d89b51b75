"""The figure of a report as SVG: text stays text, and the ink takes the colour of the page around it."""

from __future__ import annotations

from io import StringIO

from theworld.utils.imports import require

from .tables import Metrics, deciding, title

INK = "#1a1b1c"
"""Drawn as `currentColor` in a page, so that it shows on light and on dark."""

GRID = "#94a3b8"
PALETTE = ("#c2410c", "#0284c7", "#059669", "#a855f7", "#b45309", "#db2777")
"""One colour a kind of questions; all can be read on light and on dark."""

WIDTH, ROW, MAX_LABEL = 4.9, 0.17, 48
"""Inches, which a screen of 390 pixels can show without small print; inches for a kind of an arm; characters."""

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "theworld",  # the same numbers give the same file
    "text.parse_math": False,  # a dollar sign in a label is one
    "font.family": "sans-serif",
    "font.size": 10.0,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "ytick.left": False,
}


def draw(metrics: Metrics) -> tuple[str, str]:
    """The full model's paired difference to every arm by kind of questions, or the accuracies where it has no rival.

    Returns:
        What the figure shows, and the figure as an `<svg>` element.
    """
    # 1. The numbers: by arm, one for each kind
    compared = {kind: metrics["comparisons"][kind] for kind in metrics["kinds"]}
    arms = [name for name in metrics["arms"] if any(name in them for them in compared.values())]
    middle, about, unit = "difference", "Full model minus each arm, paired", "points of accuracy"
    if not arms:
        compared = {
            kind: {name: arm["kinds"][kind] for name, arm in metrics["arms"].items() if kind in arm["kinds"]}
            for kind in metrics["kinds"]
        }
        arms, middle, about, unit = list(metrics["arms"]), "estimate", "Accuracy", "per cent"
    # 2. Down the page an arm, and within it a kind
    kinds, decisive = metrics["kinds"], deciding(metrics) if middle == "difference" else []
    with require("eval", "matplotlib").rc_context(STYLE):
        height = len(arms) * (len(kinds) * ROW + 0.14) + 0.9
        figure = require("eval", "matplotlib.figure").Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots()
        if middle == "difference":
            axes.axvline(0, color=INK, linewidth=0.8)
        for number, kind in enumerate(kinds):
            colour, shift = PALETTE[number % len(PALETTE)], (number - (len(kinds) - 1) / 2) * 0.8 / len(kinds)
            axes.plot([], [], color=colour, marker="o", markersize=5, label=kind)
            for place, name in enumerate(arms):
                if them := compared[kind].get(name):
                    value, low, high = (100 * them[key] for key in (middle, "low", "high"))
                    style = {"color": colour, "solid_capstyle": "butt", "linewidth": 1.6, "markersize": 5}
                    axes.plot([low, high], [place + shift] * 2, **style)
                    axes.plot([value], [place + shift], marker="o", **style)
        axes.set_yticks(range(len(arms)), [f"{_short(title(n, metrics))}{' *' * (n in decisive)}" for n in arms])
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.set_xlabel(unit)
        axes.grid(axis="x", color=GRID, alpha=0.3, linewidth=0.8)
        if len(kinds) > 1:
            figure.legend(loc="outside upper left", frameon=False, ncols=3)
        # 3. Without a date or an author, so that the same numbers give the same bytes
        text = StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    stars = " The verdict needs the arms with *." if decisive else ""
    return f"{about}, with 95 % intervals.{stars}", text.getvalue()


def _short(text: str) -> str:
    """On two lines at most."""
    text = " ".join(text.split())
    text = text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 1]}…"
    middle = text.find(" ", len(text) // 2)
    return text if len(text) < 24 or middle < 0 else f"{text[:middle]}\n{text[middle + 1 :]}"


__all__ = ["INK", "draw"]
