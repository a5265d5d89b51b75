"""Write results of commands into the pages that show them.

python scripts/write_results.py
python scripts/write_results.py --evidence runs/nano/evidence.json

Reads these files in docs/results: arms.json (metrics.json of `theworld evaluate --task micro_world --arms
all`), choices.json and features.json of benchmarks/nano_choices.py, and futures.json of
benchmarks/futures.py. With `--evidence`, copies evidence.json of `theworld nano evidence` there, and its
figures to docs/evidence. Also draws docs/figures/results-*.svg.
"""

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from theworld.evaluation.report.plots import INK, draw
from theworld.evaluation.verdict import p_text
from theworld.recipes.evidence import LINES
from theworld.recipes.evidence.tables import evidence_text, percent, points, table
from theworld.recipes.evidence.tables import tracing_text as traced_families
from theworld.utils.errors import TheWorldError
from theworld.utils.folders import read_object
from theworld.utils.hub import NANO_WEIGHTS
from theworld.utils.io import write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
SHOWN_ARMS = ("gemma", "gemma_tuned", "current_frame", "world")
CALIBRATED_ARMS = ("world", "futures", "world_off", "gemma")
DRAWN_ARMS = ("world", "static_learner", "other_source", "current_frame", "gemma_tuned", "gemma", "no_image")
MEASURES = {"brier": "Brier score (lower is better)", "accuracy": "accuracy", "calibration_error": "calibration error"}
FIGURES = ROOT / "docs" / "figures"
INKS = {"light": "#1b1f27", "dark": "#e6e9ef"}
"""Text and axes of a figure, on a page of that kind."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Write results of commands into the pages that show them.")
    parser.add_argument("--evidence", type=Path, help="evidence.json of `theworld nano evidence`")
    if path := parser.parse_args().evidence:
        take_evidence(path)
    metrics = read(RESULTS / "arms.json", "arms", "comparisons", "kinds", "verdicts")
    put(ROOT / "README.md", "results", verdicts_text(metrics))
    for name, figure in results_figures(metrics).items():
        write_text(FIGURES / name, figure)
    put(NANO_WEIGHTS / "README.md", "results", results_text(metrics))
    put(ROOT / "docs" / "results.md", "arms", page_text(metrics))
    if (choices := RESULTS / "choices.json").is_file():
        put(ROOT / "docs" / "nano-world.md", "choices", choices_text(read(choices, "rows")))
    if (features := RESULTS / "features.json").is_file():
        put(ROOT / "docs" / "nano-world.md", "features", features_text(read(features, "rows", "seeds")))
    if (futures := RESULTS / "futures.json").is_file():
        put(ROOT / "docs" / "results.md", "futures", futures_text(read(futures, "futures", "n", *MEASURES)))
    if (evidence := RESULTS / "evidence.json").is_file():
        put(ROOT / "docs" / "results.md", "evidence", evidence_text(read(evidence, *LINES, "claims")))


def read(path: Path, *keys: str) -> dict[str, Any]:
    """The JSON object in a file of results, which has `keys`."""
    if not path.is_file():
        raise SystemExit(f"{path}: no such file; the command that this script's help names for it writes it")
    try:
        found = read_object(path, cure="write it again with its command")
    except TheWorldError as error:
        raise SystemExit(str(error)) from error
    if missing := [key for key in keys if key not in found]:
        raise SystemExit(f"{path}: has no {', '.join(missing)}; write it again with its command")
    return found


def take_evidence(path: Path) -> None:
    """Copy evidence.json of an experiment, and its figures, beside the pages, if both are complete."""
    evidence_text(read(path, *LINES, "claims"))
    if not (path.parent / "figures").is_dir():
        raise SystemExit(f"{path.parent / 'figures'}: no such folder; `theworld nano evidence` writes it")
    shutil.copyfile(path, RESULTS / "evidence.json")
    shutil.copytree(path.parent / "figures", ROOT / "docs" / "evidence", dirs_exist_ok=True)


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
            *(percent(arm["families"].get(name)) for name in predictive),
            percent(arm["kinds"]["predictive"]),
        ]
        for arm in arms.values()
        if arm["kinds"].get("predictive")
    ]
    return "\n\n".join([verdicts_text(metrics), table(header, rows), families_text(metrics, "static")])


def families_text(metrics: Mapping[str, Any], kind: str) -> str:
    """Accuracy of a few arms on the questions of a kind, one row per family that counts."""
    arms = metrics["arms"]
    shown = [name for name in SHOWN_ARMS if name in arms]
    families = [n for n, row in arms["world"]["families"].items() if n.startswith(f"{kind}/") and not row["one_answer"]]
    rows = [
        [f"{_name(name)} (n={_n(arms, name)})", *(percent(arms[arm]["families"][name]) for arm in shown)]
        for name in families
    ]
    rows.append(["all", *(percent(arms[name]["kinds"][kind]) for name in shown)])
    return table([f"{kind} questions", *(arms[name]["label"] for name in shown)], rows)


def page_text(metrics: Mapping[str, Any]) -> str:
    """Verdicts, accuracies, comparisons by kind, static learners, error tracing, and calibration if present."""
    tables = [families_text(metrics, "conversational")]
    tables += [comparisons_text(metrics, kind) for kind in metrics["kinds"]]
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
    return table([f"{kind}: full model against", "n", "difference", "low", "high", "p (Holm)", "must be run"], rows)


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
    return traced_families({_name(family): row for family, row in (metrics["tracing"] or {}).items()})


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


def choices_text(choices: Mapping[str, Any]) -> str:
    """One row per choice: accuracy by kind, the difference to the first row in points, and time per image."""
    kinds = [kind for kind in ("predictive", "static") if kind in choices["rows"][0]]
    rows: list[list[Any]] = []
    for row in choices["rows"]:
        cells: list[str] = []
        for accuracy in (row[kind] for kind in kinds):
            cells += [percent(accuracy), points(accuracy["to_first"]) if "to_first" in accuracy else ""]
        rows.append([row["choice"], row["value"], *cells, f"{row['milliseconds']:.1f}"])
    header = ["choice", "changed to", *(name for kind in kinds for name in (kind, "difference")), "ms an image"]
    return table(header, rows)


def features_text(choices: Mapping[str, Any]) -> str:
    """One row per choice: accuracy on predictive questions by seed and over seeds, and the share of the gain.

    The gain is that of the first row, the rollout, over the row without latent frames ahead.
    """
    rollout = choices["rows"][0]["predictive"]["estimate"]
    without = [row["predictive"]["estimate"] for row in choices["rows"] if row["value"] == "0"]
    if not without:
        raise SystemExit("docs/results/features.json: has no row without latent frames ahead; add that choice")
    none = without[0]
    rows: list[list[Any]] = []
    for row in choices["rows"]:
        own = row["predictive"]
        share = (own["estimate"] - none) / (rollout - none)
        by_seed = [f"{100 * one:.1f}" for one in own["by_seed"]]
        difference = points(own["to_first"]) if "to_first" in own else ""
        title = f"{row['choice']}: {row['value']}"
        rows.append([title, *by_seed, percent(own), difference, f"{100 * share:.0f} %", f"{row['milliseconds']:.1f}"])
    seeds = [f"seed {seed}" for seed in choices["seeds"]]
    header = ["predictive questions", *seeds, "all seeds", "difference", "share of the gain", "ms an image"]
    return table(header, rows)


def futures_text(found: Mapping[str, Any]) -> str:
    """One row per measure: of one rollout, of the mean of several, and the difference with its interval."""
    rows: list[list[Any]] = []
    for name, label in MEASURES.items():
        row = found[name]
        told = [row["one"], row["several"], row["several"] - row["one"]]
        interval = f" [{row['low']:+.4f}, {row['high']:+.4f}]" if "low" in row else ""
        rows.append([label, f"{told[0]:.4f}", f"{told[1]:.4f}", f"{told[2]:+.4f}{interval}"])
    count = found["futures"]
    return table([f"predictive questions (n={found['n']})", "1 rollout", f"{count} rollouts", "difference"], rows)


def put(page: Path, name: str, text: str) -> None:
    """Replace the text between the page's markers of `name`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    if not found or end not in rest:
        raise SystemExit(f"{page}: expected {begin} and {end}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def _name(family: str) -> str:
    return family.partition("/")[2]


def _n(arms: Mapping[str, Any], family: str) -> int:
    return arms["world"]["families"][family]["n"]


if __name__ == "__main__":
    main()
