"""Figures of the experiment, as SVG and PNG on white, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from theworld.evaluation.report.plots import GRID, INK, PALETTE, STYLE
from theworld.nano.places import MIRRORED
from theworld.utils.imports import require

from .tables import ARMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS: dict[str, tuple[str, str]] = {
    "rollout": (PALETTE[0], "o"),
    "current_frame": (PALETTE[1], "s"),
    "static_learner": (PALETTE[2], "^"),
    "gemma_tuned": (PALETTE[3], "D"),
}
"""Colour and marker by arm."""
LAW_ARMS = {
    "new_dynamics": "rollout, dynamics of\nthe new law",
    "old_dynamics": "rollout, dynamics of\nthe old law",
    "current_frame": "current frame",
    "gemma_tuned": "Gemma 3, trained alike",
    "static_learner": "best static learner",
}
NAMES = {
    "peg_bin": "which bin? (pegs)",
    "wall": "which wall? (bumpers)",
    "bumper_touch": "red bumper touched?",
    "peg_touch": "red peg or ramp touched?",
}
"""Titles of the families."""
OTHER = "#cbd5e1"


def draw_figures(evidence: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write every figure as <name>.svg and <name>.png to `folder`. Returns the paths of the SVG files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []
    for name, (draw, size) in FIGURES.items():
        with _figure(folder / name, size) as figure:
            draw(figure, evidence)
        drawn.append(folder / f"{name}.svg")
    return drawn


def _labels(figure: Any, evidence: Mapping[str, Any]) -> None:
    """Draw accuracy over the number of labels."""
    curves = evidence["gain"]["curve"]
    learned = {family: row["labels"] for family, row in evidence["bars"].items()}
    for axes, family in zip(_panels(figure, [*learned]), learned, strict=True):
        for arm, of in (
            ("rollout", curves["rollout"]),
            ("current_frame", curves["current_frame"]),
            ("static_learner", learned),
        ):
            _curve(axes, arm, [int(label) for label in of[family]], [*of[family].values()])
        ticks = [int(label) for label in learned[family]]
        axes.set_xscale("log")
        axes.set_xticks([ticks[0], *ticks[3:4], ticks[-1]] if len(ticks) > 4 else ticks)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.minorticks_off()
        _align_ends(axes)
    _shared_labels(figure, "labelled scenes of each kind")


def _difficulty(figure: Any, evidence: Mapping[str, Any]) -> None:
    """Draw accuracy over difficulty. All labels are of the easiest scenes."""
    levels = evidence["transfer"]["levels"]
    families = [*levels["rollout"]]
    for axes, family in zip(_panels(figure, families), families, strict=True):
        for arm in MARKERS:
            _curve(axes, arm, range(1, 1 + len(levels[arm][family])), levels[arm][family])
        count = len(levels["rollout"][family])
        axes.set_xlim(0.8, count + 0.2)
        axes.set_xticks(range(1, count + 1), ["easiest", *[""] * (count - 2), "hardest"])
        _align_ends(axes)
    _shared_labels(figure, "difficulty of the scenes asked about; all labels are of the easiest")


def _laws(figure: Any, evidence: Mapping[str, Any]) -> None:
    """Draw which law the answers follow, on scenes whose answer differs between the two laws."""
    law = evidence["law"]
    panels = figure.subplots(1, len(law), sharey=True, squeeze=False)[0]
    for axes, (family, arms) in zip(panels, law.items(), strict=True):
        new, old = ([100 * arms[arm][which]["estimate"] for arm in LAW_ARMS] for which in ("new", "old"))
        rest = [100 - a - b for a, b in zip(new, old, strict=True)]
        _stacked(axes, [*LAW_ARMS.values()], {"new law": new, "old law": old, "another": rest})
        _title(axes, f"{_name(family)}\nn = {arms['new_dynamics']['new']['n']}")
        axes.set_xticks((0, 50, 100))
        _align_ends(axes)
    panels[0].invert_yaxis()
    _legend(figure, panels[0], 3, "answer of the")
    figure.supxlabel("answers in percent", fontsize=9)


def _tracing(figure: Any, evidence: Mapping[str, Any]) -> None:
    """Draw the accuracy of imagined ends and answers, and which outcome answers follow if the imagined end is wrong."""
    traced = evidence["tracing"]
    left, right = figure.subplots(1, 2, sharey=True)
    marks = {
        "imagined_right": "imagined end right",
        "answer_right": "answer right",
        "answer_is_imagined": "answer = imagined end",
    }
    for number, (key, label) in enumerate(marks.items()):
        rows = [row[key] for row in traced.values()]
        places = [place + (number - 1) * 0.24 for place in range(len(rows))]
        colour = PALETTE[(1, 2, 0)[number]]
        left.hlines(
            places, [100 * row["low"] for row in rows], [100 * row["high"] for row in rows], color=colour, lw=1.6
        )
        left.plot([100 * row["estimate"] for row in rows], places, "sDo"[number], color=colour, label=label, ms=5)
    left.set_yticks(range(len(traced)), [_name(family) for family in traced])
    left.set_xlim(right=100.5)
    left.tick_params(labelsize=8)
    left.grid(axis="x", color=GRID, alpha=0.3, linewidth=0.8)
    _title(left, "all scenes, in percent")
    left.legend(loc="upper left", bbox_to_anchor=(0, -0.12), frameon=False, fontsize=8)
    # Only wrong imagined ends
    shares = [[row[f"wrong_follows_{which}"] for row in traced.values()] for which in ("imagined", "truth")]
    follows, truth = ([100 * row["estimate"] if row else 0.0 for row in rows] for rows in shares)
    rest = [100 - a - b if row["wrong"] else 0.0 for a, b, row in zip(follows, truth, traced.values(), strict=True)]
    _stacked(right, [""] * len(traced), {"answer = imagined end": follows, "answer = truth": truth, "neither": rest})
    right.set_yticks(range(len(traced)), [_name(family) for family in traced])
    for place, row in enumerate(traced.values()):
        right.text(102, place, f"n = {row['wrong']}", va="center", fontsize=8)
    _title(right, "where the imagined end is wrong, in percent")
    right.legend(loc="upper left", bbox_to_anchor=(0, -0.12), frameon=False, fontsize=8)
    left.invert_yaxis()


def _dose(figure: Any, evidence: Mapping[str, Any]) -> None:
    """Draw the accuracy of answers over the accuracy of imagined ends, one point per dynamics."""
    dose = evidence["dose"]
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], "--", color=INK, linewidth=0.8, label="equal")
    shown = [family for family in NAMES if any(family in model["families"] for model in dose["models"])]
    for number, family in enumerate(shown):
        points = [model["families"][family] for model in dose["models"] if family in model["families"]]
        values = ([100 * point[key] for point in points] for key in ("imagined", "answer"))
        look: dict[str, Any] = {"color": PALETTE[number], "markersize": 6, "mfc": "none", "mew": 1.5}
        axes.plot(*values, "os^D"[number], label=_name(family), **look)
    means = [model for model in dose["models"] if model["families"]]
    if dose["fit"]:
        told = f"mean of families:\nslope {dose['fit']['slope']:.2f}, r = {dose['fit']['r']:.3f}"
        axes.plot(
            [100 * m["imagined"] for m in means], [100 * m["answer"] for m in means], "o", color=INK, ms=4, label=told
        )
    values = [100 * row[key] for model in means for row in model["families"].values() for key in ("imagined", "answer")]
    low = 10 * (min(values, default=0) // 10)
    axes.set(xlim=(low, 101), ylim=(low, 101))
    axes.set_xlabel("imagined end right, in percent", fontsize=9)
    axes.set_ylabel("answer right, in percent", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.set_aspect("equal", anchor="W")
    axes.grid(color=GRID, alpha=0.3, linewidth=0.8)
    axes.legend(loc="upper left", bbox_to_anchor=(1.03, 1), frameon=False, fontsize=9)


FIGURES = {
    "accuracy-over-labels": (_labels, (8.6, 2.7)),
    "accuracy-over-difficulty": (_difficulty, (8.6, 2.7)),
    "answers-under-two-laws": (_laws, (8.6, 2.7)),
    "answer-against-imagined-end": (_tracing, (8.6, 3.4)),
    "dose-response": (_dose, (6.2, 3.6)),
}
"""By file name: the function that draws it, and its width and height in inches."""


@contextmanager
def _figure(path: Path, size: tuple[float, float]) -> Generator[Any]:
    with require("eval", "matplotlib").rc_context(fname=STYLE):
        figure = require("eval", "matplotlib.figure").Figure(figsize=size, layout="constrained")
        yield figure
        # No date and no author, so that the same numbers give the same bytes
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(path.with_name(f"{path.name}.svg"), facecolor="white", metadata=nothing)
        figure.savefig(path.with_name(f"{path.name}.png"), facecolor="white", dpi=160, metadata={"Software": None})


def _panels(figure: Any, families: Sequence[str]) -> Sequence[Axes]:
    """Return one panel per family, side by side with a shared scale."""
    panels = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
    for axes, family in zip(panels, families, strict=True):
        axes.grid(axis="y", color=GRID, alpha=0.3, linewidth=0.8)
        _title(axes, _name(family))
        axes.set_ylim(0, 103)
        axes.axhline(100 / len(MIRRORED[family]), color=INK, linewidth=0.8, linestyle=":", label="chance")
        axes.tick_params(labelsize=8)
    return panels


def _curve(axes: Axes, arm: str, places: Sequence[int], shares: Sequence[Mapping[str, float]]) -> None:
    label, (colour, marker) = ARMS[arm], MARKERS[arm]
    middle, low, high = ([100 * share[key] for share in shares] for key in ("estimate", "low", "high"))
    axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(places, middle, f"-{marker}", color=colour, label=label, markersize=4, linewidth=1.4)


def _shared_labels(figure: Any, below: str) -> None:
    _legend(figure, figure.axes[0], 5)
    figure.supxlabel(below, fontsize=9)
    figure.axes[0].set_ylabel("accuracy in percent", fontsize=9)


def _stacked(axes: Axes, rows: Sequence[str], parts: Mapping[str, Sequence[float]]) -> None:
    """Draw horizontal bars whose segments add up to 100. Wide segments show their number."""
    left = [0.0] * len(rows)
    for (label, values), colour in zip(parts.items(), (PALETTE[0], PALETTE[1], OTHER), strict=True):
        axes.barh(range(len(rows)), values, left=left, color=colour, label=label, height=0.62)
        for place, (start, value) in enumerate(zip(left, values, strict=True)):
            if value >= 12:
                ink = INK if colour == OTHER else "white"
                axes.text(start + value / 2, place, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=8)
        left = [start + value for start, value in zip(left, values, strict=True)]
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.set_xlim(0, 100)
    axes.tick_params(labelsize=8)


def _align_ends(axes: Axes) -> None:
    """Keep the first and last label of the x axis inside the panel, so that labels of two panels do not overlap."""
    for text, side in zip((axes.get_xticklabels()[0], axes.get_xticklabels()[-1]), ("left", "right"), strict=True):
        text.set_horizontalalignment(side)


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=9, loc="left")


def _legend(figure: Any, axes: Axes, columns: int, title: str | None = None) -> None:
    handles, labels = axes.get_legend_handles_labels()
    labels = [f"{title} {label}" if title and label != "another" else label for label in labels]
    figure.legend(handles, labels, loc="outside upper left", frameon=False, ncols=columns, fontsize=9)


def _name(family: str) -> str:
    return NAMES.get(family, family)
