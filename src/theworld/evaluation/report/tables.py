"""The numbers of a task as tables, for Markdown, for HTML and for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..ask.arms import ARMS
from ..verdict import ALPHA, p_text


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Args:
        title: What it shows.
        header: One name a column.
        rows: One cell a column.
        note: What a reader has to know beside.
        strong: Rows whose first number is stressed.
        left: How many columns are text; the others are numbers, and stand to the right.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    strong: frozenset[int] = frozenset()
    left: int = 1


def task_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Every table of a task that has something to say: arms, comparisons, the task's own measures, families."""
    tables = [arm_table(metrics), comparison_table(metrics), measure_table(metrics), figure_table(metrics)]
    return [table for table in (*tables, family_table(metrics)) if table.rows]


def arm_table(metrics: Mapping[str, Any]) -> Table:
    """Accuracy of every arm with its interval, and how it answered; below, what is reached without looking."""
    arms: Mapping[str, Mapping[str, Any]] = metrics["arms"]
    header = ("Arm", "What it is", "Accuracy", "95 % interval", "Unparsed", "Failed", "Answers", "World tokens")
    rows: list[tuple[str, ...]] = [_arm_row(name, arm) for name, arm in arms.items()]
    if any(arm["seeds"] > 1 for arm in arms.values()):
        header = (*header, "Seeds", "SD of seeds")
        rows = [(*row, str(arm["seeds"]), _sd(arm)) for row, arm in zip(rows, arms.values(), strict=True)]
    for name, value in metrics["floors"].items():
        rows.append(("floor", _words(name), f"{100 * value:.1f}", *[""] * (len(header) - 3)))
    accuracies = [arm["accuracy"] for arm in arms.values()]
    methods = ", ".join(sorted({accuracy["method"] for accuracy in accuracies}))
    note = (
        f"{accuracies[0]['n']} items in {accuracies[0]['n_clusters']} clusters, which share a picture. Accuracy in per "
        f"cent; interval: {methods}. Answers: how many different ones were given. World tokens: the most that an item "
        "consumed. A floor needs no model: what is below it has not seen."
    )
    return Table("Arms", header, tuple(rows), note, left=2)


def comparison_table(metrics: Mapping[str, Any]) -> Table:
    """The full model against every other arm, item by item."""
    comparisons: Mapping[str, Mapping[str, Any]] = metrics["comparisons"]["all"]
    header = (
        *("Full model against", "Difference", "95 % interval", "b", "c", "p", "p (Holm)"),
        *("Detectable", "Decides"),
    )
    rows = tuple(
        (
            name,
            f"{100 * numbers['difference']:+.1f}",
            f"[{100 * numbers['low']:+.1f}, {100 * numbers['high']:+.1f}]",
            _count(numbers["b"]),
            _count(numbers["c"]),
            _p(numbers["p"]),
            _p(numbers["p_holm"]),
            _points(numbers["smallest_difference"]),
            "yes" if decides(name, metrics) else "",
        )
        for name, numbers in comparisons.items()
    )
    family = metrics["holm_family"]
    tasks = f" on {len(family['tasks'])} tasks" if len(family["tasks"]) > 1 else ""
    test = "exact sign-flip test over clusters, McNemar's where each item is one"
    note = (
        "Differences in points of accuracy, positive where the full model is better; interval: paired bootstrap over "
        f"clusters and seeds. b: items that only the full model gets right, c: only the other arm; p: {test}. Holm "
        f"over {family['comparisons']} comparisons{tasks}; bold: below {ALPHA}. Detectable: the smallest difference "
        "that the items show with 80 % power, at the discordance seen; none where they are too few."
    )
    strong = frozenset(place for place, numbers in enumerate(comparisons.values()) if numbers["p_holm"] < ALPHA)
    return Table("Comparisons", header, rows, note, strong)


def measure_table(metrics: Mapping[str, Any]) -> Table:
    """The benchmark's official measures and the means of figures, where there are any."""
    arms: Mapping[str, Mapping[str, Any]] = metrics["arms"]
    measures = list(dict.fromkeys(name for arm in arms.values() for name in arm["measures"]))
    figures = list(dict.fromkeys(name for arm in arms.values() for name in arm["figures"]))
    header = ("Measure", *arms)
    rows = [
        (name, *(_number(arm["measures"].get(name, {}).get("estimate")) for arm in arms.values())) for name in measures
    ]
    rows += [
        (f"mean {_words(name)}", *(_figure(arm["figures"].get(name), arm) for arm in arms.values())) for name in figures
    ]
    return Table("The task's own measures", header, tuple((_words(row[0]), *row[1:]) for row in rows))


def figure_table(metrics: Mapping[str, Any]) -> Table:
    """The full model's figures, such as an error, against those of every other arm."""
    rows = tuple(
        (
            name,
            _words(figure),
            f"{them['difference']:+.3f}",
            f"[{them['low']:+.3f}, {them['high']:+.3f}]",
            str(them["n"]),
        )
        for name, numbers in (metrics["comparisons"]["all"]).items()
        for figure, them in numbers["figures"].items()
    )
    note = "Paired bootstrap over clusters, on the items of which both arms have the figure; not corrected."
    header = ("Full model against", "Figure", "Difference", "95 % interval", "Items")
    return Table("Figures, full model minus arm", header, rows, note, left=2)


def family_table(metrics: Mapping[str, Any]) -> Table:
    """Accuracy of every arm by family."""
    arms: Mapping[str, Mapping[str, Any]] = metrics["arms"]
    families = list(next(iter(arms.values()))["families"])
    rows: list[tuple[str, ...]] = []
    for family in families:
        cells = [arm["families"].get(family) for arm in arms.values()]
        first = next(cell for cell in cells if cell)
        values = (f"{100 * cell['estimate']:.1f}" if cell else "" for cell in cells)
        rows.append((family, str(first["n"]), _points(first["smallest_difference"]), *values))
    note = (
        "Accuracy in per cent. Detectable: the smallest difference in points that this many items show with 80 % "
        "power, if two arms differ on a fifth of them; none where they are too few."
    )
    return Table("Families", ("Family", "Items", "Detectable", *arms), tuple(rows), note)


def markdown(table: Table) -> str:
    """A table for Markdown, its title apart."""
    ruler = ["---"] * table.left + ["---:"] * (len(table.header) - table.left)
    lines = [table.header, ruler, *(_stressed(table, place) for place in range(len(table.rows)))]
    text = "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)
    return f"{text}\n\n{table.note}\n" if table.note else f"{text}\n"


def verdict_lines(metrics: Mapping[str, Any]) -> list[str]:
    """A line a kind of questions, with its name where there are several."""
    verdicts = metrics["verdicts"].items()
    return [told["text"] if len(verdicts) == 1 else f"{kind}: {told['text']}" for kind, told in verdicts]


def warning_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Every arm's warnings, with its name."""
    return [f"{name}: {warning}" for name, arm in metrics["arms"].items() for warning in arm["warnings"]]


def decides(name: str, metrics: Mapping[str, Any]) -> bool:
    """Whether the verdict rests on the comparison with this arm."""
    label, _, arm = name.rpartition("/")
    return arm in metrics["decides"] and label == metrics["full"].rpartition("/")[0]


def label_of(name: str) -> str:
    """What an arm is, in words; empty for one that is in no table."""
    arm = ARMS.get(name.rpartition("/")[2])
    return arm.label if arm else ""


def _arm_row(name: str, arm: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy = arm["accuracy"]
    return (
        name,
        label_of(name),
        f"{100 * accuracy['estimate']:.1f}",
        f"[{100 * accuracy['low']:.1f}, {100 * accuracy['high']:.1f}]",
        str(arm["unparsed"]),
        str(arm["failed"]),
        str(len(arm["answers"])),
        str(arm["world_tokens"]),
    )


def _sd(arm: Mapping[str, Any]) -> str:
    return "" if arm["between_seed_sd"] is None else f"{100 * arm['between_seed_sd']:.1f}"


def _points(value: float) -> str:
    return "none" if value >= 1.0 else f"{100 * value:.1f}"


def _count(value: int | None) -> str:
    return "" if value is None else str(value)


def _p(value: float) -> str:
    return p_text(value, "").replace(" = ", "").strip()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _figure(figure: Mapping[str, float] | None, arm: Mapping[str, Any]) -> str:
    """A mean, and over how many answers where it is not all of them."""
    if figure is None:
        return ""
    whole = figure["n"] == arm["accuracy"]["n"] * arm["seeds"]
    return f"{figure['mean']:.3f}" if whole else f"{figure['mean']:.3f} ({figure['n']})"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _stressed(table: Table, place: int) -> Sequence[str]:
    row = table.rows[place]
    if place not in table.strong:
        return row
    return (*row[: table.left], f"**{row[table.left]}**", *row[table.left + 1 :])


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("|", "\\|").replace("<", "&lt;").split())


__all__ = [
    "Table",
    "arm_table",
    "comparison_table",
    "decides",
    "family_table",
    "figure_table",
    "label_of",
    "markdown",
    "measure_table",
    "task_tables",
    "verdict_lines",
    "warning_lines",
]
