"""The figures of a report as SVG. Texts stay text, and `INK` becomes the text colour of the page."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from theworld.utils.imports import require

from ..ask.arms import FULL
from .tables import ON_DEMAND, Metrics, deciding

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#1a1b1c"
"""Replaced by `currentColor` in a page, so that it is visible in light and dark mode."""

GRID = "#94a3b8"
PALETTE = ("#c2410c", "#0284c7", "#059669", "#a855f7", "#b45309", "#db2777")
"""One colour per kind of question or arm; readable in light and dark mode."""

WIDTH, ROW, LABEL = 4.9, 0.17, 26
"""Width of a figure in inches (readable on a screen of 390 pixels); inches per kind and arm; characters per line."""

STYLE = Path(__file__).with_name("report.mplstyle")
CALIBRATED = {"futures": "s", "world_off": "^", "gemma": "D"}
"""Arms whose calibration is drawn in addition to the full model's, with their markers."""

Drawn = tuple[str, str]
"""Caption, and the figure as an `<svg>` element."""


def draw_all(metrics: Metrics) -> dict[str, Drawn]:
    """The figures of a task by title. The first one is shown unfolded."""
    found = {"Accuracy": draw(metrics), "Calibration": draw_calibration(metrics), ON_DEMAND: draw_on_demand(metrics)}
    return {title: drawn for title, drawn in found.items() if drawn}


def draw(metrics: Metrics) -> Drawn:
    """Paired differences of the full model to every arm by kind, or accuracies if there is no comparison."""
    # 1. Collect the numbers by kind and arm
    kinds = metrics["kinds"]
    compared = {kind: metrics["comparisons"][kind] for kind in kinds}
    middle, about, unit = "difference", "Full model minus each arm, paired", "points of accuracy"
    if not any(compared.values()):
        of_kind = {kind: {name: arm["kinds"].get(kind) for name, arm in metrics["arms"].items()} for kind in kinds}
        compared = {kind: {name: told for name, told in them.items() if told} for kind, them in of_kind.items()}
        middle, about, unit = "estimate", "Accuracy", "accuracy in per cent"
    arms = [name for name in metrics["arms"] if any(name in them for them in compared.values())] or [*metrics["arms"]]
    decisive = deciding(metrics) if middle == "difference" else []
    # 2. Draw one row per arm, and within it one interval per kind
    with _axes(len(arms) * (len(kinds) * ROW + 0.14) + 0.9, "x") as (axes, text):
        if middle == "difference":
            axes.axvline(0, color=INK, linewidth=0.8)
        for number, (kind, them) in enumerate(compared.items()):
            colour, shift = PALETTE[number % len(PALETTE)], (number - (len(kinds) - 1) / 2) * 0.8 / len(kinds)
            places = [place + shift for place, name in enumerate(arms) if name in them]
            shown = [[100 * them[name][key] for name in arms if name in them] for key in (middle, "low", "high")]
            axes.hlines(places, *shown[1:], color=colour, linewidth=1.6)
            axes.plot(shown[0], places, "o", color=colour, markersize=5, label=kind)
        labels = [_label(metrics, name, LABEL) for name in arms]
        stars = [" *" * (name in decisive) for name in arms]
        axes.set_yticks(range(len(arms)), [told + star for told, star in zip(labels, stars, strict=True)])
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.set_xlabel(unit)
        if len(kinds) > 1:
            _legend(axes, 3)
    needed = " The verdict needs the arms with *." if decisive else ""
    return f"{about}, with 95 % intervals.{needed}", text.getvalue()


def draw_calibration(metrics: Metrics) -> Drawn | None:
    """Accuracy by probability of the most probable choice, for the full model and the arms of `CALIBRATED`."""
    full, arms = metrics["full"], metrics["arms"]
    markers = {full: "o", **{f"{full.removesuffix(FULL)}{name}": marker for name, marker in CALIBRATED.items()}}
    bins = {name: arms[name]["calibration"]["bins"] for name in markers if arms.get(name, {}).get("calibration")}
    if not bins:
        return None
    with _axes(WIDTH + 0.2 * len(bins), "both") as (axes, text):
        axes.plot([0, 100], [0, 100], "--", color=INK, linewidth=0.8, label="calibrated")
        for colour, (name, found) in zip(PALETTE, bins.items(), strict=False):
            shown = [[100 * one[key] for one in found] for key in ("confidence", "accuracy")]
            axes.plot(*shown, color=colour, linewidth=1.2, alpha=0.8)
            # Hollow markers, so that arms do not hide each other; the area grows with the number of items
            look: dict[str, Any] = {"facecolors": "none", "edgecolors": colour, "linewidths": 1.6, "clip_on": False}
            sizes = [16 + 64 * one["n"] / max(one["n"] for one in found) for one in found]
            axes.scatter(*shown, sizes, marker=markers[name], label=_label(metrics, name, 2 * LABEL), **look)
        axes.set(
            xlim=(0, 100), ylim=(0, 100), xlabel="probability of the answer in per cent", ylabel="right in per cent"
        )
        _legend(axes, 1)
    about = (
        "How often answers are right, by the probability that the model gives them. On the dashed line both are equal; "
        "below it the model is overconfident, above it underconfident. Larger points have more items of the arm."
    )
    return about, text.getvalue()


def draw_on_demand(metrics: Metrics) -> Drawn | None:
    """Accuracy by share of items with a rollout, with the best point and the point of the model's own margin."""
    told = metrics.get("on_demand")
    if not told:
        return None
    points = sorted([*told["curve"], told["best"], told["at_margin"]], key=lambda point: point["rollouts"])
    styles: tuple[tuple[list[dict[str, float]], dict[str, Any]], ...]
    with _axes(0.7 * WIDTH, "both") as (axes, text):
        styles = (
            (points, {"color": PALETTE[1], "linewidth": 1.6, "label": "least sure answers first"}),
            ([points[0], points[-1]], {"color": INK, "linewidth": 0.8, "linestyle": "--", "label": "random items"}),
            ([told["best"]], {"color": PALETTE[0], "marker": "o", "markersize": 11, "mfc": "none", "label": "best"}),
            ([told["at_margin"]], {"color": PALETTE[2], "marker": "D", "label": "model's margin"}),
        )
        for shown, look in styles:
            values = ([100 * point[key] for point in shown] for key in ("rollouts", "accuracy"))
            axes.plot(*values, **{"linestyle": "-" if len(shown) > 1 else "", "clip_on": False, **look})
        axes.set(xlim=(0, 100), xlabel="items with a rollout in per cent", ylabel="accuracy in per cent")
        _legend(axes, 2)
    about = (
        "Accuracy if only the questions with the least sure answers without the world are asked again with a rollout. "
        "The dashed line is the mean for the same number of rollouts on random items: a curve above it shows that the "
        "margin selects questions that benefit from a rollout."
    )
    return about, text.getvalue()


@contextmanager
def _axes(height: float, grid: str) -> Generator[tuple[Any, StringIO]]:
    """Axes of a figure of this height in inches, and a buffer that holds its SVG after the block."""
    text = StringIO()
    with require("eval", "matplotlib").rc_context(fname=STYLE):
        figure = require("eval", "matplotlib.figure").Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots()
        axes.grid(axis=grid, color=GRID, alpha=0.3, linewidth=0.8)
        yield axes, text
        # No date and no author, so that the same numbers give the same bytes
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)


def _legend(axes: Axes, columns: int) -> None:
    axes.figure.legend(loc="outside upper left", frameon=False, ncols=columns)


def _label(metrics: Metrics, arm: str, width: int) -> str:
    """Label of an arm, on two lines at most."""
    return "\n".join(wrap(metrics["arms"][arm]["label"], width, max_lines=2, placeholder="…"))


__all__ = ["INK", "Drawn", "draw", "draw_all", "draw_calibration", "draw_on_demand"]
