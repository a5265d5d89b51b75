"""The numbers of a task as tables, for Markdown, HTML and a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from theworld.utils.errors import TheWorldError
from theworld.utils.imports import require

from ..ask.arms import FULL
from ..judges import SUMMARY
from ..tasks.base import ALL
from ..verdict import ALPHA, REFERENCE, p_text

if TYPE_CHECKING:
    import pandas as pd

KEY_ROWS = 5
"""Most rows of the table that a reader sees first."""

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Args:
        title: What it shows.
        rows: By column, the cells of each row; a column that a row lacks is empty.
        note: What a reader has to know beside.
        text: How many columns from the left are text; the others are numbers.
    """

    title: str
    rows: Sequence[Mapping[str, str]]
    note: str = ""
    text: int = 1

    @property
    def frame(self) -> pd.DataFrame:
        """The cells on one line each."""
        rows = [{key: " ".join(value.split()) for key, value in row.items()} for row in self.rows]
        return require("eval", "pandas").DataFrame(rows).fillna("").astype(str)

    def html(self) -> Markup:
        """A `<table>`, all cells escaped."""
        with require("eval", "pandas").option_context("display.max_colwidth", None):
            table = self.frame.to_html(index=False, border=0, classes=f"text{self.text}", justify="unset")
        return Markup(re.sub(r"(\[[-+.\d]+), ", r"\1,&nbsp;", table))  # an interval stays on one line

    def markdown(self) -> str:
        """A table of Markdown, all cells escaped."""
        frame = self.frame
        ruler = ["---"] * self.text + ["---:"] * (len(frame.columns) - self.text)
        lines = [list(frame.columns), *frame.to_numpy().tolist()]
        cells = [[plain(cell) for cell in line] for line in lines]
        return "\n".join(f"| {' | '.join(line)} |" for line in (cells[0], ruler, *cells[1:]))

    def terminal(self) -> str:
        """Columns of spaces, under the title."""
        frame = self.frame
        for name in frame.columns[: self.text]:
            width = max(len(name), frame[name].str.len().max())
            frame = frame.assign(**{name: frame[name].str.ljust(width)}).rename(columns={name: name.ljust(width)})
        lines = frame.to_string(index=False, line_width=None).splitlines()
        return "\n".join([self.title, *(line.rstrip() for line in lines)])


def terminal_report(metrics: Metrics) -> str:
    """What a command prints about a task: the verdict of each kind of questions, warnings, and all tables."""
    parts = [f"{metrics['title']}: {metrics['n']} items", *(f"{about}: {text}" for about, _, text in claims(metrics))]
    parts += [f"Warning: {line}" for line in warning_lines(metrics)]
    return "\n\n".join(["\n".join(parts), *(table.terminal() for table in task_tables(metrics))])


def claims(metrics: Metrics) -> list[tuple[str, str, str]]:
    """Of each kind of questions: its name, the outcome in a word, and why in a sentence."""
    return [(_kind(kind), told["outcome"], told["text"]) for kind, told in metrics["verdicts"].items()]


def warning_lines(metrics: Metrics) -> list[str]:
    """The warnings of every arm, with its name."""
    return [f"{name}: {warning}" for name, arm in metrics["arms"].items() for warning in arm["warnings"]]


def key_table(metrics: Metrics) -> Table:
    """The full models, Gemma alone, and those arms that decide which come closest to the full model."""
    closest = sorted(deciding(metrics), key=lambda name: (not is_arm(name, REFERENCE), _least(name, metrics)))
    first = sorted((name for name in metrics["arms"] if is_arm(name, FULL)), key=lambda name: name != metrics["full"])
    arms = [*first, *closest] or list(metrics["arms"])
    rows = [
        {"Accuracy in %": title(name, metrics), **_by_kind(metrics["arms"][name], metrics)} for name in arms[:KEY_ROWS]
    ]
    more = len(arms) - KEY_ROWS
    left_out = f" {more} more that a verdict needs are further behind." if more > 0 else ""
    return Table("", rows, f"With 95 % intervals.{left_out}")


def task_tables(metrics: Metrics) -> list[Table]:
    """Every table of a task that has something to say."""
    tables = [arm_table(metrics), *(comparison_table(metrics, kind) for kind in metrics["comparisons"])]
    tables += [measure_table(metrics), family_table(metrics), *beside_tables(metrics)]
    return [table for table in tables if table.rows]


def arm_table(metrics: Metrics) -> Table:
    """Accuracy of every arm with its interval, and how it answered; below, what is reached without a model."""
    rows = [{"Arm": name, "What it is": arm["label"], **_arm_row(arm, metrics)} for name, arm in once(metrics).items()]
    total = ALL if len(metrics["kinds"]) > 1 else metrics["kinds"][0]
    for name, value in metrics["floors"].items():
        rows.append({"Arm": "baseline", "What it is": _words(name), _kind(total): _percent(value)})
    methods = ", ".join(sorted({arm["accuracy"]["method"] for arm in metrics["arms"].values()}))
    same = "; ".join(f"{one} = {other}" for one, other in metrics["identical"])
    note = (
        f"Accuracy in % with its 95 % interval ({methods}). Answers: how many different ones were given. Tokens: the "
        "most world tokens of an item. Baselines use no model. A score below them suggests that the image was not used."
    )
    return Table("Arms", rows, f"{note} Same output for every item, shown once: {same}." if same else note, text=2)


def comparison_table(metrics: Metrics, kind: str) -> Table:
    """The full model against every other arm on one kind of questions, item by item."""
    comparisons = metrics["comparisons"][kind] if kind in metrics["kinds"] or len(metrics["kinds"]) > 1 else {}
    rows = [
        {
            "Full model against": name,
            "Difference": _range(them, "difference", "+.1f"),
            **{column: "" if them[column] is None else str(them[column]) for column in ("b", "c")},
            "p (Holm)": p_text(them["p_holm"], "").replace(" = ", "").strip(),
            "Detectable": _points(them["smallest_difference"]),
            "Decides": "yes" if name in deciding(metrics) else "",
            **{_words(key): _range(figure, "difference", "+.3f", 1) for key, figure in them.get("figures", {}).items()},
        }
        for name, them in comparisons.items()
        if name in once(metrics)
    ]
    family = metrics["holm_family"]
    tasks = f" on {len(family['tasks'])} tasks" if len(family["tasks"]) > 1 else ""
    note = (
        "Paired difference in points, positive where the full model is better, with its 95 % interval. b: items that "
        "only the full model gets right; c: only the other arm; both only without training seeds. p: corrected over "
        f"{family['comparisons']} comparisons{tasks}; below {ALPHA} counts. Detectable: the smallest difference that "
        "the items show with 80 % power."
    )
    return Table(f"Full model against each arm: {_kind(kind)}", rows, note)


def measure_table(metrics: Metrics) -> Table:
    """The benchmark's official measures and the means of figures, an arm a row."""
    rows = [
        {
            "Arm": name,
            **{_words(key): _range(value, "estimate", ".3f", 1) for key, value in arm["measures"].items()},
            **{f"mean {_words(key)}": f"{value['mean']:.3f} (n={value['n']})" for key, value in arm["figures"].items()},
        }
        for name, arm in once(metrics).items()
        if arm["measures"] or arm["figures"]
    ]
    return Table("The task's own measures", rows)


def family_table(metrics: Metrics) -> Table:
    """Accuracy by family for the full model and the arms that decide."""
    arms = once(metrics)
    names = [name for name in arms if name in (metrics["full"], *deciding(metrics))] or list(arms)
    families = list(dict.fromkeys(family for name in names for family in arms[name]["families"]))
    rows: list[dict[str, str]] = []
    for family in families:
        found = {name: arms[name]["families"].get(family) for name in names}
        first = next(numbers for numbers in found.values() if numbers)
        about = {"Family": f"{family} *" if first["one_answer"] else family, "Items": str(first["n"])}
        rows.append(about | {name: _percent(them["estimate"]) if them else "" for name, them in found.items()})
    return Table("Families", rows, "Accuracy in %. *: one right answer for all items, so it counts in no total.")


def beside_tables(metrics: Metrics) -> list[Table]:
    """What static learners reached, and whether answers follow the imagined future, where a task has these."""
    learned = [{_words(key): _cell(value) for key, value in row.items()} for row in metrics.get("learners") or ()]
    traced = [
        {"family": family, **{_words(key): _cell(value) for key, value in row.items()}}
        for family, row in (metrics.get("tracing") or {}).items()
    ]
    note = "Accuracy in % on validation scenes; the chosen learner of a family answers it."
    return [
        Table("Static learners", learned, note, text=3),
        Table("Do answers follow the imagined future?", traced, "Shares in % with 95 % intervals."),
    ]


def judge_table(folders: Mapping[str, Sequence[Path]]) -> Table:
    """A row for every judge of every arm; no row where nothing was judged.

    Args:
        folders: Of the predictions, by the arm's name; one a seed.

    Raises:
        ValueError: A judge's summary is not JSON.
    """
    rows: list[dict[str, str]] = []
    for name, seeds in folders.items():
        for path in (path for folder in seeds for path in sorted(folder.glob(f"judges/*/{SUMMARY}"))):
            try:
                summary = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise TheWorldError(f"{path}: not JSON ({error}); judge again, which keeps the judgements") from error
            about = {"Arm": name, "Judge": path.parent.name, "Accuracy": "", "Agrees": ""}
            if "accuracy" in summary:
                about |= {"Accuracy": _range(summary["accuracy"]), "Agrees": _percent(summary["agreement"])}
            counts = ("judged", "unreadable", "failed", "not_asked")
            rows.append(about | {_words(key).capitalize(): str(summary[key]) for key in counts})
    note = (
        "In % of the answers that were judged. A judge's failures and unreadable replies are counted separately. "
        "Agrees: with the rules. No comparison and no verdict uses a judge."
    )
    return Table("Language models as judges", rows, note, text=2)


def once(metrics: Metrics) -> dict[str, Any]:
    """The arms, but for those with the same output for every item as an earlier one."""
    repeated = {other for _, other in metrics["identical"]}
    return {name: arm for name, arm in metrics["arms"].items() if name not in repeated or name == metrics["full"]}


def deciding(metrics: Metrics) -> list[str]:
    """The arms that the full model has to beat: those of its own run."""
    label = metrics["full"].rpartition("/")[0]
    own = [name for name in metrics["arms"] if name.rpartition("/")[0] == label]
    return [name for name in own if name.rpartition("/")[2] in metrics["decides"]]


def is_arm(name: str, arm: str) -> bool:
    """Whether `name`, which may be `label/arm`, is of this arm."""
    return name.rpartition("/")[2] == arm


def title(name: str, metrics: Metrics) -> str:
    """An arm in words, with the label of its run where there are several."""
    run, label = name.rpartition("/")[0], metrics["arms"][name]["label"]
    return f"{run}: {label}" if run else label


def plain(text: str) -> str:
    """Text of a data set on one line, none of which Markdown reads as HTML, a link, an image or emphasis."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"[\\`*~|]|\](?=\()|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def _arm_row(arm: Mapping[str, Any], metrics: Metrics) -> dict[str, str]:
    more = {_kind(ALL): _range(arm["accuracy"])} if len(metrics["kinds"]) > 1 else {}
    told = {"Unparsed": arm["unparsed"], "Failed": arm["failed"], "Answers": len(arm["answers"])}
    told["Tokens"] = arm["world_tokens"]
    if any(other["seeds"] > 1 for other in metrics["arms"].values()):
        told["Seeds"] = arm["seeds"]
        told["SD of seeds"] = "" if arm["between_seed_sd"] is None else _percent(arm["between_seed_sd"])
    return {**_by_kind(arm, metrics), **more, **{key: str(value) for key, value in told.items()}}


def _by_kind(arm: Mapping[str, Any], metrics: Metrics) -> dict[str, str]:
    return {_kind(kind): _range(arm["kinds"].get(kind)) for kind in metrics["kinds"]}


def _least(name: str, metrics: Metrics) -> float:
    """The smallest difference of the full model to an arm on any kind of questions."""
    found = (metrics["comparisons"][kind].get(name) for kind in metrics["kinds"])
    return min((them["difference"] for them in found if them), default=1.0)


def _kind(kind: str) -> str:
    return f"{kind.capitalize()} questions"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _points(value: float) -> str:
    return "none" if value >= 1.0 else _percent(value)


def _range(numbers: Mapping[str, Any] | None, middle: str = "estimate", digits: str = ".1f", scale: float = 100) -> str:
    """A number with its interval; empty for `None`."""
    if not numbers:
        return ""
    value, low, high = (format(scale * numbers[key], digits) for key in (middle, "low", "high"))
    return f"{value} [{low}, {high}]"


def _cell(value: Any) -> str:
    """Of a learner or a trace: shares in per cent."""
    if isinstance(value, bool) or value is None:
        return "yes" if value else ""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return _range(value) if isinstance(value, Mapping) else _percent(value) if isinstance(value, float) else str(value)


__all__ = [
    "Table",
    "claims",
    "deciding",
    "judge_table",
    "key_table",
    "once",
    "plain",
    "task_tables",
    "terminal_report",
    "title",
    "warning_lines",
]
