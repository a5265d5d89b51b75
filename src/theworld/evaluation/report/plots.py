"""The figures of a report as SVG: text stays text, and the ink takes the colour of the page around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from theworld.utils.imports import require

from ..store.refusals import FULL
from ..verdict import ALPHA
from .tables import decides

INK = "#1a1b1c"
"""Drawn as `currentColor` in a page, so that it shows on light and on dark."""

FULL_COLOUR, OTHER_COLOUR, FLOOR_COLOUR = "#c2410c", "#64748b", "#94a3b8"
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6d31", "#7570b3")
"""Told apart by most colour-blind readers (Okabe and Ito)."""

MAX_FAMILIES, MAX_ANSWERS = 20, 7
WIDTH, ROW = 9.0, 0.34
"""Inches."""

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "theworld",  # the same numbers give the same file
    "text.parse_math": False,  # a dollar sign in an answer is one
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
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
}


def forest_plot(metrics: Mapping[str, Any]) -> str:
    """Accuracy of every arm with its interval and the floors, beside the full model's paired difference to it."""
    arms: Mapping[str, Mapping[str, Any]] = metrics["arms"]
    comparisons: Mapping[str, Mapping[str, Any]] = metrics["comparisons"]["all"]
    with require("eval", "matplotlib").rc_context(STYLE):
        figure = _figure(len(arms) * ROW + 1.3)
        left, right = figure.subplots(1, 2, sharey=True)
        left.set_title("Accuracy, 95 % interval")
        for place, (name, arm) in enumerate(arms.items()):
            accuracy = arm["accuracy"]
            colour = FULL_COLOUR if name == metrics["full"] else OTHER_COLOUR
            _whisker(left, place, [100 * accuracy[key] for key in ("estimate", "low", "high")], colour, filled=True)
        for name, value in metrics["floors"].items():
            left.axvline(100 * value, color=FLOOR_COLOUR, linestyle=":", linewidth=1.4, label=name.replace("_", " "))
        if metrics["floors"]:
            figure.legend(loc="outside lower left", frameon=False, fontsize=8.5, ncols=3)
        left.set_yticks(range(len(arms)), [_arm_label(name, metrics) for name in arms])
        left.set_xlabel("per cent")
        left.invert_yaxis()
        right.set_title("Full model minus arm, paired")
        right.axvline(0, color=INK, linewidth=0.8)
        for place, name in enumerate(arms):
            if name in comparisons:
                numbers = comparisons[name]
                sure = numbers["p_holm"] < ALPHA
                points = [100 * numbers[key] for key in ("difference", "low", "high")]
                _whisker(right, place, points, FULL_COLOUR if sure else OTHER_COLOUR, filled=sure)
        right.set_xlabel("points of accuracy")
        right.tick_params(labelleft=False)
        for axes in (left, right):
            axes.grid(axis="x", color=FLOOR_COLOUR, alpha=0.25, linewidth=0.8)
            axes.set_axisbelow(True)
        return _svg(figure)


def family_plot(metrics: Mapping[str, Any]) -> str:
    """Accuracy by family: bars with intervals for the full model, points for the arms that it has to beat."""
    arms: Mapping[str, Mapping[str, Any]] = metrics["arms"]
    main = metrics["full"] if metrics["full"] in arms else next(iter(arms))
    others = [name for name in arms if name != main and name.rpartition("/")[2] in (*metrics["decides"], FULL)]
    families = arms[main]["families"]
    shown = sorted(families, key=lambda family: -families[family]["n"])[:MAX_FAMILIES]
    shown = [family for family in families if family in shown]
    with require("eval", "matplotlib").rc_context(STYLE):
        figure = _figure(len(shown) * 0.42 + 1.4)
        axes = figure.subplots()
        values = [families[family] for family in shown]
        bars, sizes = range(len(shown)), [100 * value["estimate"] for value in values]
        axes.barh(bars, sizes, height=0.62, color=FULL_COLOUR, alpha=0.3, label=main)
        for place, value in enumerate(values):
            ends = [100 * value["low"], 100 * value["high"]]
            axes.plot(ends, [place - 0.17] * 2, color=FULL_COLOUR, linewidth=1.6, solid_capstyle="butt")
        for number, name in enumerate(others[: len(PALETTE)]):
            known = arms[name]["families"]
            points = [100 * known[family]["estimate"] if family in known else float("nan") for family in shown]
            style = {"clip_on": False, "marker": "oDs^vP*X"[number], "color": PALETTE[number]}
            axes.plot(points, [place + 0.1 for place in bars], linestyle="none", markersize=5.5, label=name, **style)
        axes.set_yticks(
            bars, [f"{_shortened(family)} ({value['n']})" for family, value in zip(shown, values, strict=True)]
        )
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("accuracy in per cent; family (items)")
        axes.grid(axis="x", color=FLOOR_COLOUR, alpha=0.25, linewidth=0.8)
        axes.set_axisbelow(True)
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(
            handles[-1:] + handles[:-1],
            labels[-1:] + labels[:-1],
            loc="upper left",
            bbox_to_anchor=(1.01, 1),
            frameon=False,
            fontsize=9,
        )
        return _svg(figure)


def answer_plot(metrics: Mapping[str, Any]) -> str:
    """What share of the items got which answer, by arm; the first bar is the right answers."""
    arms: Mapping[str, Mapping[str, Any]] = metrics["arms"]
    given = {"right answers": metrics["right_answers"], **{name: arm["answers"] for name, arm in arms.items()}}
    totals: Counter[str] = Counter()
    for answers in given.values():
        totals.update(answers)
    common = sorted(answer for answer, _ in totals.most_common(MAX_ANSWERS))
    items = {name: metrics["n"] * arm["seeds"] for name, arm in arms.items()}
    items["right answers"] = metrics["n"]
    silent = {name: arm["unparsed"] + arm["failed"] for name, arm in arms.items()}
    with require("eval", "matplotlib").rc_context(STYLE):
        figure = _figure(len(given) * ROW + 1.1)
        axes = figure.subplots()
        parts: list[tuple[str, str, list[int]]] = [
            (_shortened(answer), PALETTE[number], [answers.get(answer, 0) for answers in given.values()])
            for number, answer in enumerate(common)
        ]
        rest = [sum(n for answer, n in answers.items() if answer not in common) for answers in given.values()]
        parts.append(("other answers", FLOOR_COLOUR, rest))
        parts.append(("unparsed or failed", "#dc2626", [silent.get(name, 0) for name in given]))
        starts = [0.0] * len(given)
        for label, colour, counts in parts:
            if not any(counts):
                continue
            shares = [100 * count / items[name] for name, count in zip(given, counts, strict=True)]
            axes.barh(range(len(given)), shares, left=starts, height=0.66, color=colour, label=label)
            starts = [start + share for start, share in zip(starts, shares, strict=True)]
        axes.set_yticks(range(len(given)), list(given))
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("per cent of the items")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
        return _svg(figure)


def task_plots(metrics: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Every figure of a task by a short name: what it shows, and the SVG."""
    plots = {
        "differences": (
            "Accuracy of the arms, and the full model against each. Filled: Holm-corrected p below 0.05; *: the "
            "verdict rests on it",
            forest_plot(metrics),
        )
    }
    if next(iter(metrics["arms"].values()))["families"]:
        plots["families"] = ("Accuracy by family", family_plot(metrics))
    plots["answers"] = ("Which answers were given", answer_plot(metrics))
    return plots


def _whisker(axes: Any, place: int, points: Sequence[float], colour: str, *, filled: bool) -> None:
    middle, low, high = points
    axes.plot([low, high], [place, place], color=colour, linewidth=1.8, solid_capstyle="butt")
    face = colour if filled else "none"
    axes.plot([middle], [place], marker="o", markersize=6.5, color=colour, markerfacecolor=face, linestyle="none")


def _figure(height: float) -> Any:
    """A figure of its own, which no state of pyplot knows."""
    return require("eval", "matplotlib.figure").Figure(figsize=(WIDTH, height), layout="constrained")


def _svg(figure: Any) -> str:
    """The figure as an `<svg>` element without a size of its own."""
    text = StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _arm_label(name: str, metrics: Mapping[str, Any]) -> str:
    return f"{name} *" if decides(name, metrics) else name


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 28 else f"{text[:27]}…"


__all__ = ["INK", "answer_plot", "family_plot", "forest_plot", "task_plots"]
