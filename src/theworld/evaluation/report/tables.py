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
from ..judges.judge import SUMMARY
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
        return require("eval", "pandas").DataFrame(rows).fillna("")

    def html(self) -> Markup:
        """A `<table>`, all cells escaped."""
        with require("eval", "pandas").option_context("display.max_colwidth", None):
            table = self.frame.to_html(index=False, border=0, classes=f"text{self.text}", justify="unset")
        return Markup(re.sub(r"(\[[-+.\d]+), ", r"\1,&nbsp;", table))  # an interval stays on one line

    def markdown(self) -> str:
        """A table of Markdown, all cells escaped."""
        frame = self.frame
        ruler = ["---"] * self.text + ["---:"] * (len(frame.columns) - self.text)
        header, *rows = ([plain(cell) for cell in line] for line in (frame.columns, *frame.to_numpy()))
        return "\n".join(f"| {' | '.join(line)} |" for line in (header, ruler, *rows))

    def terminal(self) -> str:
        """Columns of spaces, under the title."""
        frame = self.frame
        for name in frame.columns[: self.text]:
            width = max(len(name), frame[name].str.len().max())
            frame = frame.assign(**{name: frame[name].str.ljust(width)}).rename(columns={name: name.ljust(width)})
        lines = frame.to_string(index=False).splitlines()
        return "\n".join([self.title, *(line.rstrip() for line in lines)])


def terminal_report(metrics: Metrics) -> str:
    """What a command prints about a task: the verdict of each kind of questions, warnings, and all tables."""
    told = [f"{metrics['title']}: {metrics['n']} items", *(f"{about}: {text}" for about, _, text in claims(metrics))]
    told += [f"Warning: {line}" for line in warning_lines(metrics)]
    return "\n\n".join(["\n".join(told), *(table.terminal() for table in task_tables(metrics))])


def claims(metrics: Metrics) -> list[tuple[str, str, str]]:
    """Of each kind of questions: its name, the outcome in a word, and why in a sentence."""
    return [(_kind(kind), told["outcome"], told["text"]) for kind, told in metrics["verdicts"].items()]


def warning_lines(metrics: Metrics) -> list[str]:
    """The warnings of every arm, with its name."""
    return [f"{name}: {warning}" for name, arm in metrics["arms"].items() for warning in arm["warnings"]]


def key_table(metrics: Metrics) -> Table:
    """The full models, Gemma alone, and those arms that decide which come closest to the full model."""

    def closeness(name: str) -> tuple[bool, float]:
        found = [
            metrics["comparisons"][kind][name] for kind in metrics["kinds"] if name in metrics["comparisons"][kind]
        ]
        return name.rpartition("/")[2] != REFERENCE, min((them["difference"] for them in found), default=1.0)

    full = sorted((name for name in metrics["arms"] if name.rpartition("/")[2] == FULL), key=metrics["full"].__ne__)
    arms = [*full, *sorted(deciding(metrics), key=closeness)] or list(metrics["arms"])
    rows = [{"Accuracy in %": title(n, metrics), **_by_kind(metrics["arms"][n], metrics)} for n in arms[:KEY_ROWS]]
    more = len(arms) - KEY_ROWS
    left_out = f" {more} more that a verdict needs are further behind." if more > 0 else ""
    return Table("", rows, f"With 95 % intervals.{left_out}")


def task_tables(metrics: Metrics) -> list[Table]:
    """Every table of a task that has something to say."""
    several = len(metrics["kinds"]) > 1
    compared = [kind for kind in metrics["comparisons"] if several or kind in metrics["kinds"]]
    tables = [arm_table(metrics), *(comparison_table(metrics, kind) for kind in compared), measure_table(metrics)]
    return [table for table in (*tables, family_table(metrics), *beside_tables(metrics)) if table.rows]


def arm_table(metrics: Metrics) -> Table:
    """Accuracy of every arm with its interval, and how it answered; below, what is reached without a model."""
    arms, several = metrics["arms"].values(), len(metrics["kinds"]) > 1
    rows: list[dict[str, str]] = []
    for name, arm in metrics["arms"].items():
        counts = {"Unparsed": arm["unparsed"], "Failed": arm["failed"], "Answers": len(arm["answers"])}
        counts["Tokens"] = arm["world_tokens"]
        if any(one["seeds"] > 1 for one in arms):
            counts |= {"Seeds": arm["seeds"], "SD of seeds": arm["between_seed_sd"]}
        total = {_kind(ALL): _cell(arm["accuracy"])} if several else {}
        numbers = {**_by_kind(arm, metrics), **total, **{key: _cell(value) for key, value in counts.items()}}
        rows.append({"Arm": name, "What it is": arm["label"], **numbers})
    whole = _kind(ALL if several else metrics["kinds"][0])
    rows += [{"Arm": "baseline", "What it is": _words(n), whole: _cell(v)} for n, v in metrics["floors"].items()]
    note = (
        f"Accuracy in % with its 95 % interval ({', '.join(sorted({arm['accuracy']['method'] for arm in arms}))}). "
        "Answers: how many different ones were given. Tokens: the most world tokens of an item. Baselines use no "
        "model. A score below them suggests that the image was not used."
    )
    same = "; ".join(f"{one} = {other}" for one, other in metrics["identical"])
    return Table("Arms", rows, f"{note} Same output for every item: {same}." if same else note, text=2)


def comparison_table(metrics: Metrics, kind: str) -> Table:
    """The full model against every other arm on one kind of questions, item by item."""
    rows = [
        {
            "Full model against": name,
            "Difference": _range(them, "difference", "+.1f"),
            **{column: "" if them[column] is None else str(them[column]) for column in ("b", "c")},
            "p (Holm)": p_text(them["p_holm"], "").removeprefix(" = ").strip(),
            "Detectable": "none" if them["smallest_difference"] >= 1.0 else _cell(them["smallest_difference"]),
            "Decides": "yes" if name in deciding(metrics) else "",
            **{_words(key): _range(figure, "difference", "+.3f", 1) for key, figure in them.get("figures", {}).items()},
        }
        for name, them in metrics["comparisons"][kind].items()
        if name in metrics["arms"]
    ]
    family = metrics["holm_family"]
    note = (
        "Paired difference in points with its 95 % interval, positive where the full model is better. b: items that "
        "only the full model gets right; c: only the other arm; neither with several seeds. p: corrected over "
        f"{family['comparisons']} comparisons on {', '.join(family['tasks'])}; below {ALPHA} counts. Detectable: the "
        "smallest difference that the items show with 80 % power."
    )
    return Table(f"Full model against each arm: {_kind(kind)}", rows, note)


def measure_table(metrics: Metrics) -> Table:
    """The benchmark's official measures and the means of figures, an arm a row."""
    rows = [
        {
            "Arm": name,
            **{_words(key): _range(value, digits=".3f", scale=1) for key, value in arm["measures"].items()},
            **{f"mean {_words(key)}": f"{value['mean']:.3f} (n={value['n']})" for key, value in arm["figures"].items()},
        }
        for name, arm in metrics["arms"].items()
    ]
    return Table("The task's own measures", rows if any(len(row) > 1 for row in rows) else [])


def family_table(metrics: Metrics) -> Table:
    """Accuracy by family for the full model and the arms that decide."""
    names = [name for name in metrics["arms"] if name in (metrics["full"], *deciding(metrics))] or list(metrics["arms"])
    by_arm = {name: metrics["arms"][name]["families"] for name in names}
    rows: list[dict[str, str]] = []
    for family in dict.fromkeys(family for families in by_arm.values() for family in families):
        first = next(families[family] for families in by_arm.values() if family in families)
        about = {"Family": family + " *" * first["one_answer"], "Items": str(first["n"])}
        found = {name: families[family]["estimate"] for name, families in by_arm.items() if family in families}
        rows.append(about | {name: _cell(found.get(name)) for name in names})
    return Table("Families", rows, "Accuracy in %. *: one right answer for all items, so it counts in no total.")


def beside_tables(metrics: Metrics) -> list[Table]:
    """What static learners reached, and whether answers follow the imagined future, where a task has these."""
    learned = [_told(row) for row in metrics.get("learners") or ()]
    traced = [{"family": family, **_told(row)} for family, row in (metrics.get("tracing") or {}).items()]
    note = "Accuracy in % on validation scenes; the chosen learner of a family answers it."
    return [
        Table("Static learners", learned, note, text=3),
        Table("Do answers follow the imagined future?", traced, "Shares in % with 95 % intervals."),
    ]


def judge_table(folders: Mapping[str, Sequence[Path]]) -> Table:
    """A row for every judge of every arm, from the arms' folders (one a seed); a ValueError if a summary is no JSON."""
    rows: list[dict[str, str]] = []
    for name, path in (
        (n, p) for n, seeds in folders.items() for f in seeds for p in sorted(f.glob(f"judges/*/{SUMMARY}"))
    ):
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TheWorldError(f"{path}: not JSON ({error}); judge again, which keeps the judgements") from error
        shown = ("accuracy", "agreement", "judged", "unreadable", "failed", "not_asked")
        rows.append({"Arm": name, "Judge": path.parent.name, **_told({key: summary.get(key) for key in shown})})
    note = "In % of the answers that were judged; agreement is that with the rules. No verdict uses a judge."
    return Table("Language models as judges", rows, note, text=2)


def deciding(metrics: Metrics) -> list[str]:
    """The arms of the full model's run that it has to beat."""
    label = metrics["full"].rpartition("/")[0]
    names = [f"{label}/{name}" if label else name for name in metrics["decides"]]
    return [name for name in metrics["arms"] if name in names]


def title(name: str, metrics: Metrics) -> str:
    """An arm in words, with the label of its run where there are several."""
    run, label = name.rpartition("/")[0], metrics["arms"][name]["label"]
    return f"{run}: {label}" if run else label


def plain(text: str) -> str:
    """Text of a data set on one line, none of which Markdown reads as HTML, a link, an image or emphasis."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"[\\`*~|]|\](?=\()|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def _by_kind(arm: Mapping[str, Any], metrics: Metrics) -> dict[str, str]:
    return {_kind(kind): _cell(arm["kinds"].get(kind)) for kind in metrics["kinds"]}


def _kind(kind: str) -> str:
    return f"{kind.capitalize()} questions"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _told(row: Mapping[str, Any]) -> dict[str, str]:
    return {_words(key): _cell(value) for key, value in row.items()}


def _cell(value: Any) -> str:
    """A count, a share in per cent, with its interval where it has one, or text; empty for `None`."""
    if value is None or isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, Mapping):
        return _range(value)
    return f"{100 * value:.1f}" if isinstance(value, float) else str(value)


def _range(numbers: Mapping[str, Any], middle: str = "estimate", digits: str = ".1f", scale: float = 100) -> str:
    """A number with its interval."""
    value, low, high = (format(scale * numbers[key], digits) for key in (middle, "low", "high"))
    return f"{value} [{low}, {high}]"


__all__ = ["Table", "claims", "deciding", "judge_table", "key_table", "plain", "task_tables", "terminal_report"]
__all__ += ["title", "warning_lines"]
