"""Write results of commands into the pages that show them.

python scripts/write_results.py

Reads these files in the folder of the weights: arms.json (metrics.json of `theworld evaluate --task micro_world --arms
all`), layouts.json of benchmarks/nano_layouts.py, and encoders.json of benchmarks/nano_encoders.py. Also draws
docs/figures/results-*.svg.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from theworld.evaluation.report.plots import INK, draw
from theworld.evaluation.verdict import p_text
from theworld.utils.hub import NANO_WEIGHTS
from theworld.utils.io import write_text
from theworld.utils.tables import markdown_table

ROOT = Path(__file__).parents[1]
STATIC_ARMS = ("gemma", "gemma_tuned", "current_frame", "world")
CALIBRATED_ARMS = ("world", "futures", "world_off", "gemma")
DRAWN_ARMS = ("world", "static_learner", "current_frame", "gemma_tuned", "gemma", "other_future", "no_image")
FIGURES = ROOT / "docs" / "figures"
INKS = {"light": "#1b1f27", "dark": "#e6e9ef"}
"""Text and axes of a figure, on a page of that kind."""


def main() -> None:
    metrics = json.loads((NANO_WEIGHTS / "arms.json").read_text(encoding="utf-8"))
    layouts = json.loads((NANO_WEIGHTS / "layouts.json").read_text(encoding="utf-8"))
    put(ROOT / "README.md", "results", verdicts_text(metrics))
    for name, figure in results_figures(metrics).items():
        write_text(FIGURES / name, figure)
    put(NANO_WEIGHTS / "README.md", "results", results_text(metrics))
    put(ROOT / "docs" / "results.md", "arms", page_text(metrics))
    put(ROOT / "docs" / "nano-world.md", "layouts", layouts_text(layouts))
    encoders = json.loads((NANO_WEIGHTS / "encoders.json").read_text(encoding="utf-8"))
    put(ROOT / "docs" / "nano-world.md", "encoders", encoders_text(encoders))


def results_figures(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Accuracy by kind of questions of a few arms, as SVG by file name: one for light pages, one for dark ones."""
    arms = {name: metrics["arms"][name] for name in DRAWN_ARMS if name in metrics["arms"]}
    # Without comparisons, `draw` shows accuracies in place of differences
    _, figure = draw({**metrics, "arms": arms, "comparisons": {kind: {} for kind in metrics["kinds"]}})
    return {f"results-{page}.svg": figure.replace(INK, ink) for page, ink in INKS.items()}


def verdicts_text(metrics: Mapping[str, Any]) -> str:
    """A line for each kind of questions."""
    return "\n".join(f"- *{kind}*: {row['text']}" for kind, row in metrics["verdicts"].items())


def results_text(metrics: Mapping[str, Any]) -> str:
    """The verdict of each kind, predictive questions (arms down), and static questions (families down)."""
    arms = metrics["arms"]
    counted = [name for name, row in arms["world"]["families"].items() if not row["one_answer"]]
    predictive = [name for name in counted if name.startswith("predictive/")]
    header = ["predictive questions", *(f"{_name(name)} (n={_n(arms, name)})" for name in predictive), "all"]
    rows = [
        [
            arm["label"],
            *(_percent(arm["families"].get(name)) for name in predictive),
            _percent(arm["kinds"]["predictive"]),
        ]
        for arm in arms.values()
        if arm["kinds"].get("predictive")
    ]
    shown = [name for name in STATIC_ARMS if name in arms]
    static = [name for name in counted if name.startswith("static/")]
    below = [
        [f"{_name(name)} (n={_n(arms, name)})", *(_percent(arms[a]["families"][name]) for a in shown)]
        for name in static
    ]
    below.append(["all", *(_percent(arms[name]["kinds"]["static"]) for name in shown)])
    tables = (table(header, rows), table(["static questions", *(arms[name]["label"] for name in shown)], below))
    return "\n\n".join([verdicts_text(metrics), *tables])


def page_text(metrics: Mapping[str, Any]) -> str:
    """Verdicts, accuracies, comparisons by kind, static learners, error tracing, and calibration if present."""
    tables = [comparisons_text(metrics, kind) for kind in metrics["kinds"]]
    tables += [learners_text(metrics), tracing_text(metrics), calibration_text(metrics), on_demand_text(metrics)]
    return "\n\n".join([results_text(metrics), *filter(None, tables)])


def comparisons_text(metrics: Mapping[str, Any], kind: str) -> str:
    """The full model against each arm on the questions of a kind, in points of accuracy."""
    arms, decides = metrics["arms"], metrics["decides"]
    rows: list[list[Any]] = []
    for name, row in metrics["comparisons"][kind].items():
        p = p_text(row["p_holm"], "").removeprefix(" = ").strip()
        points = (f"{100 * row[key]:+.1f}" for key in ("difference", "low", "high"))
        rows.append([arms[name]["label"], row["n"], *points, p, "yes" if name in decides else ""])
    return table([f"{kind}: full model against", "n", "difference", "low", "high", "p (Holm)", "decides"], rows)


def learners_text(metrics: Mapping[str, Any]) -> str:
    """One row per learner and family: what it reads, labels, accuracy on validation scenes, and which answers."""
    shown = ("family", "learner", "features", "setting", "labels")
    rows = [
        [*(row[key] for key in shown), f"{100 * row['validation_accuracy']:.1f}", "yes" if row["chosen"] else ""]
        for row in metrics["learners"] or ()
    ]
    return table(["family", "static learner", "reads", "setting", "scenes", "validation", "answers"], rows)


def tracing_text(metrics: Mapping[str, Any]) -> str:
    """One row per family: accuracy of the reader, and how often the imagined end and the answer are right and agree."""
    shares = ("reader_right", "imagined_right", "answer_right", "answer_is_imagined")
    rows = [
        [_name(family), row["n"], *(_percent(row[name]) for name in shares), row["wrong"]]
        + [_percent(row[f"wrong_follows_{name}"]) for name in ("imagined", "truth")]
        for family, row in (metrics["tracing"] or {}).items()
    ]
    header = ["error tracing", "n", "reader right on true ends", "imagined end right", "answer right"]
    header += ["answer = imagined end", "wrong imaginations", "of these, answer = imagined", "answer = truth"]
    return table(header, rows)


def calibration_text(metrics: Mapping[str, Any]) -> str:
    """One row per arm: Brier score and calibration error; empty if no arm has them."""
    rows: list[list[Any]] = []
    for arm in (metrics["arms"].get(name, {}) for name in CALIBRATED_ARMS):
        if found := arm.get("calibration"):
            numbers = (arm["figures"]["brier"]["mean"], found["error"])
            rows.append([arm["label"], found["n"], *(f"{number:.3f}" for number in numbers)])
    header = ["[calibration](evaluation.md#calibration)", "n", "Brier score (lower is better)"]
    return table([*header, "calibration error (lower is better)"], rows) if rows else ""


def on_demand_text(metrics: Mapping[str, Any]) -> str:
    """One row per point of the curve, the best point, and the point of the model's margin; empty without a curve."""
    told = metrics.get("on_demand")
    if not told:
        return ""
    named = {"best": told["best"], "model's margin": told["at_margin"]}
    rows = [
        [name, f"{100 * of['rollouts']:.1f}", f"{100 * of['accuracy']:.1f}", f"{of['margin']:.3f}"]
        for name, of in (*(("", of) for of in told["curve"]), *named.items())
    ]
    link = "[rollouts on demand](evaluation.md#rollouts-on-demand)"
    return table([link, "items with a rollout in %", "accuracy in %", "margin below"], rows)


def layouts_text(layouts: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """One row for each of the four layouts."""
    rows = (
        [layout, *(_percent({**row, "estimate": row["accuracy"]}) for row in kinds.values())]
        for layout, kinds in layouts.items()
    )
    return table(["layout", "predictive", "static"], rows)


def encoders_text(encoders: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per world encoder: accuracy by kind, accuracy per seed on predictive questions, and time per image."""
    rows: list[list[Any]] = []
    for key, row in encoders.items():
        seeds = ", ".join(f"{100 * value:.1f}" for value in row["predictive"]["by_seed"])
        kinds = (_percent(row[kind]) for kind in ("predictive", "static"))
        rows.append([f"`{key}`", *kinds, seeds, f"{row['milliseconds']:.1f}"])
    return table(["world encoder", "predictive", "static", "predictive, by seed", "ms an image"], rows)


def table(header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table of any values."""
    return markdown_table([*map(str, header)], [[*map(str, row)] for row in rows])


def put(page: Path, name: str, text: str) -> None:
    """Replace the text between the page's markers of `name`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def _name(family: str) -> str:
    return family.partition("/")[2]


def _n(arms: Mapping[str, Any], family: str) -> int:
    return arms["world"]["families"][family]["n"]


def _percent(share: Mapping[str, Any] | None) -> str:
    """Percent with the ends of the 95 % interval."""
    if not share:
        return "-"
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * share[key] for key in ("estimate", "low", "high")))


if __name__ == "__main__":
    main()
