"""The numbers of a task as tables, for Markdown, HTML and a terminal."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from theworld.utils.folders import read_object
from theworld.utils.imports import require

from ..ask.arms import FULL
from ..judges.judge import SUMMARY
from ..tasks.base import ALL
from ..verdict import ALPHA, REFERENCE, p_text

if TYPE_CHECKING:
    import pandas as pd

KEY_ROWS = 5
"""Largest number of rows of the first table."""

BESIDE = ("learners", "tracing")
"""Optional keys of metrics: static learners, and error tracing."""

ON_DEMAND = "Rollouts on demand"

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Args:
        title: Title of the table.
        rows: Values by column, formatted by `_cell`. A missing value is an empty cell; a column without values is left
            out.
        note: Explanation below the table.
        text: Number of text columns from the left; the others are numbers.
    """

    title: str
    rows: Sequence[Mapping[str, Any]]
    note: str = ""
    text: int = 1

    @property
    def frame(self) -> pd.DataFrame:
        """The formatted cells, each on one line."""
        rows = [{key: " ".join(_cell(value).split()) for key, value in row.items()} for row in self.rows]
        frame = require("eval", "pandas").DataFrame(rows).fillna("")
        return frame.loc[:, (frame != "").any()]

    def html(self) -> Markup:
        """A `<table>`, all cells escaped."""
        with require("eval", "pandas").option_context("display.max_colwidth", None):
            table = self.frame.to_html(index=False, border=0, classes=f"text{self.text}", justify="unset")
        return Markup(re.sub(r"(\[[-+.\d]+), ", r"\1,&nbsp;", table))  # do not break lines inside an interval

    def markdown(self) -> str:
        """A Markdown table, all cells escaped."""
        frame = self.frame
        ruler = ["---"] * self.text + ["---:"] * (len(frame.columns) - self.text)
        header, *rows = ([plain(cell) for cell in line] for line in (frame.columns, *frame.to_numpy()))
        return "\n".join(f"| {' | '.join(line)} |" for line in (header, ruler, *rows))

    def terminal(self) -> str:
        """The title and columns aligned by spaces."""
        frame = self.frame
        widths = {name: max(len(name), frame[name].str.len().max()) for name in frame.columns[: self.text]}
        header = [name.ljust(widths.get(name, 0)) for name in frame.columns]
        left = {name: f"{{:<{width}}}".format for name, width in widths.items()}
        lines = frame.to_string(index=False, header=header, formatters=left).splitlines()
        return "\n".join([self.title, *(line.rstrip() for line in lines)])


def terminal_report(metrics: Metrics) -> str:
    """A task's report for the terminal: verdicts by kind of question, warnings, and all tables."""
    told = [f"{metrics['title']}: {metrics['n']} items", *(f"{about}: {text}" for about, _, text in claims(metrics))]
    told += [f"Warning: {line}" for line in warning_lines(metrics)]
    return "\n\n".join(["\n".join(told), *(table.terminal() for table in task_tables(metrics))])


def claims(metrics: Metrics) -> list[tuple[str, str, str]]:
    """Distinct verdicts: the kinds of questions that have it, the outcome, and the reason in a sentence."""
    same = defaultdict[tuple[str, str], list[str]](list)  # kinds often lack the same arms
    for kind, told in metrics["verdicts"].items():
        same[told["outcome"], told["text"]].append(_kind(kind))
    return [(", ".join(kinds), outcome, text) for (outcome, text), kinds in same.items()]


def warning_lines(metrics: Metrics) -> list[str]:
    """The warnings of all arms, with the arm's name."""
    return [f"{name}: {warning}" for name, arm in metrics["arms"].items() for warning in arm["warnings"]]


def key_table(metrics: Metrics) -> Table:
    """The full models, plain Gemma 3, and the decisive arms that are closest to the full model."""

    def closeness(name: str) -> tuple[bool, float]:
        kinds = [metrics["comparisons"][kind] for kind in metrics["kinds"]]
        found = [them[name]["difference"] for them in kinds if name in them]
        return name.rpartition("/")[2] != REFERENCE, min(found, default=1.0)

    full = sorted((name for name in metrics["arms"] if name.rpartition("/")[2] == FULL), key=metrics["full"].__ne__)
    names = [*full, *sorted(deciding(metrics), key=closeness)] or list(metrics["arms"])
    arms = [metrics["arms"][name] for name in names[:KEY_ROWS]]
    rows = [{"Accuracy in %": arm["label"], **_by_kind(arm, metrics)} for arm in arms]
    return Table("", rows, "With 95 % intervals.")


def task_tables(metrics: Metrics) -> list[Table]:
    """All tables of a task that are not empty."""
    several = len(metrics["kinds"]) > 1
    compared = [kind for kind in metrics["comparisons"] if several or kind in metrics["kinds"]]
    tables = [arm_table(metrics), *(comparison_table(metrics, kind) for kind in compared), measure_table(metrics)]
    return [
        table
        for table in (*tables, family_table(metrics), on_demand_table(metrics), *beside_tables(metrics))
        if table.rows
    ]


def arm_table(metrics: Metrics) -> Table:
    """Accuracy of every arm with its interval and counts of answers, followed by the baselines."""
    arms, several = metrics["arms"].values(), len(metrics["kinds"]) > 1
    rows: list[dict[str, Any]] = [
        {
            "Arm": name,
            "What it is": arm["label"],
            **_by_kind(arm, metrics),
            **({_kind(ALL): arm["accuracy"]} if several else {}),
            "Unparsed": arm["unparsed"],
            "Failed": arm["failed"],
            "Answers": len(arm["answers"]),
            "Tokens": arm["world_tokens"],
            "Seeds": arm["seeds"] if any(one["seeds"] > 1 for one in arms) else None,
            "SD of seeds": arm["between_seed_sd"],
        }
        for name, arm in metrics["arms"].items()
    ]
    whole = _kind(ALL if several else metrics["kinds"][0])
    rows += [{"Arm": "baseline", "What it is": _words(n), whole: value} for n, value in metrics["baselines"].items()]
    note = (
        f"Accuracy in % with its 95 % interval ({', '.join(sorted({arm['accuracy']['method'] for arm in arms}))}). "
        "Answers: number of different answers. Tokens: largest number of world tokens of an item. Baselines use no "
        "model; of balanced answers, the majority is right less often than by chance. A score below them suggests that "
        "the image was not used."
    )
    same = "; ".join(f"{one} = {other}" for one, other in metrics["identical"])
    return Table("Arms", rows, f"{note} Same output for every item: {same}." if same else note, text=2)


def comparison_table(metrics: Metrics, kind: str) -> Table:
    """The full model against every other arm on one kind of question, paired by item."""
    rows = [
        {
            "Full model against": name,
            "Difference": _difference(them),
            "b": them["b"],
            "c": them["c"],
            "p (Holm)": p_text(them["p_holm"], "").removeprefix(" = ").strip(),
            "Detectable": "none" if them["smallest_difference"] >= 1.0 else them["smallest_difference"],
            "Decides": name in deciding(metrics),
            **{_words(key): _range(figure, "difference", "+.3f", 1) for key, figure in them.get("figures", {}).items()},
        }
        for name, them in metrics["comparisons"][kind].items()
        if name in metrics["arms"]
    ]
    family = metrics["holm_family"]
    note = (
        "Paired difference in points with its 95 % interval, positive where the full model is better. b: items that "
        "only the full model gets right; c: only the other arm; both empty for several seeds. p: corrected over "
        f"{family['comparisons']} comparisons on {', '.join(family['tasks'])}; significant below {ALPHA}. Detectable: "
        "the smallest difference that the items show with 80 % power."
    )
    return Table(f"Full model against each arm: {_kind(kind)}", rows, note)


def measure_table(metrics: Metrics) -> Table:
    """The benchmark's official measures and the means of figures, one row per arm."""
    rows: list[dict[str, str]] = []
    for name, arm in metrics["arms"].items():
        measures = {_words(key): _range(value, digits=".3f", scale=1) for key, value in arm["measures"].items()}
        figures = {f"mean {_words(key)}": f"{of['mean']:.3f} (n={of['n']})" for key, of in arm["figures"].items()}
        known = arm.get("calibration")
        sure = {"calibration error (lower is better)": f"{known['error']:.3f} (n={known['n']})"} if known else {}
        rows.append({"Arm": name, **measures, **figures, **sure})
    return Table("The task's own measures", rows if any(len(row) > 1 for row in rows) else [])


def family_table(metrics: Metrics) -> Table:
    """Accuracy by family for the full model and the decisive arms."""
    names = [name for name in metrics["arms"] if name in (metrics["full"], *deciding(metrics))] or list(metrics["arms"])
    by_family: dict[str, dict[str, Any]] = {}
    for name in names:
        for family, told in metrics["arms"][name]["families"].items():
            about = {"Family": family + " *" * told["one_answer"], "Items": told["n"], **dict.fromkeys(names)}
            by_family.setdefault(family, about)[name] = told["estimate"]
    note = "Accuracy in %. *: all items have the same right answer, so the family does not count in totals."
    return Table("Families", list(by_family.values()), note)


def on_demand_table(metrics: Metrics) -> Table:
    """Accuracy by share of items with a rollout, with the best point and the point of the model's own margin."""
    told = metrics.get("on_demand")
    if not told:
        return Table(ON_DEMAND, [])
    points = {of["rollouts"]: ("", of) for of in told["curve"]}
    for key, name in (("best", "best"), ("at_margin", "model's margin")):
        known = points.get(told[key]["rollouts"], ("", {}))[0]
        points[told[key]["rollouts"]] = (f"{known}, {name}".removeprefix(", "), told[key])
    rows = [
        {"Rollouts": share, "Accuracy": of["accuracy"], "Margin below": f"{of['margin']:.6g}", "Point": name}
        for share, (name, of) in sorted(points.items())
    ]
    note = (
        "In %. Items whose answer without the world (world_off) has a smaller margin than the row get the full model's "
        "answer; the others keep theirs. The margin is the difference of the two highest probabilities of choices. "
        "Best: the highest accuracy with the fewest rollouts on these items; choose a model's margin on validation "
        "items. Model's margin: auto_world_margin of the checkpoint."
    )
    return Table(ON_DEMAND, rows, note)


def beside_tables(metrics: Metrics) -> list[Table]:
    """Tables of static learners and of error tracing, for each run that has them."""
    tables: list[Table] = []
    for told in metrics.get("runs", [metrics]):
        whose = f": {told['run']}" if "run" in told else ""
        learned = [_in_words(row) for row in told.get("learners") or ()]
        traced = [_in_words({"family": family, **row}) for family, row in (told.get("tracing") or {}).items()]
        note = "Accuracy in % on validation scenes. The chosen learner answers the questions of its family."
        tables.append(Table(f"Static learners{whose}", learned, note, text=3))
        note = "Shares in % with 95 % intervals."
        tables.append(Table(f"Do answers follow the imagined future?{whose}", traced, note))
    return tables


def judge_table(folders: Sequence[tuple[str, Path]]) -> Table:
    """One row per judge and arm, from the arms' names and folders."""
    columns = ("accuracy", "agreement", "judged", "unreadable", "failed", "not_asked")
    rows: list[dict[str, Any]] = []
    for name, folder in folders:
        for path in sorted(folder.glob(f"judges/*/{SUMMARY}")):
            summary = read_object(path, cure="judge again; existing judgements are reused")
            told = _in_words({key: summary.get(key) for key in columns})
            rows.append({"Arm": name, "Judge": path.parent.name, **told})
    note = "In % of the judged answers. Agreement: with the rules. Verdicts do not use judges."
    return Table("Language models as judges", rows, note, text=2)


def deciding(metrics: Metrics) -> list[str]:
    """The arms that the full model has to beat, of its own run."""
    label = metrics["full"].rpartition("/")[0]
    names = [f"{label}/{name}" if label else name for name in metrics["decides"]]
    return [name for name in metrics["arms"] if name in names]


def plain(text: str) -> str:
    """Text of a dataset on one line, escaped so that Markdown shows it literally."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"[\\`*~|]|\](?=\()|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def _by_kind(arm: Mapping[str, Any], metrics: Metrics) -> dict[str, Any]:
    return {_kind(kind): arm["kinds"].get(kind) for kind in metrics["kinds"]}


def _kind(kind: str) -> str:
    return f"{kind.capitalize()} questions"


def _words(name: str) -> str:
    return "Brier (lower is better)" if name == "brier" else name.replace("_", " ")


def _in_words(row: Mapping[str, Any]) -> dict[str, Any]:
    return {_words(key): value for key, value in row.items()}


def _cell(value: Any) -> str:
    """A count, a share in per cent with its interval if it has one, or text; empty for `None`."""
    if value is None or isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, Mapping):
        return _range(value)
    return f"{100 * value:.1f}" if isinstance(value, float) else str(value)


def _difference(numbers: Mapping[str, Any]) -> str:
    """A difference in points with its interval, or "too few items" if the interval covers the whole range."""
    if numbers["high"] - numbers["low"] >= 2:
        return f"{100 * numbers['difference']:+.1f} (too few items)"
    return _range(numbers, "difference", "+.1f")


def _range(numbers: Mapping[str, Any], middle: str = "estimate", digits: str = ".1f", scale: float = 100) -> str:
    """A number with its interval."""
    value, low, high = (format(scale * numbers[key], digits) for key in (middle, "low", "high"))
    return f"{value} [{low}, {high}]"


__all__ = ["Table", "claims", "deciding", "judge_table", "key_table", "plain", "task_tables", "terminal_report"]
__all__ += ["warning_lines"]
