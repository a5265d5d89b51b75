"""What an evaluation set shares with training sets, and how far one gets on it without looking at a picture.

VSR writes its captions in pairs, of which one is true of its picture and one is false of another: in the random split,
"the opposite of what this caption was in training" beats models that look.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from theworld.data.images import open_image
from theworld.data.schema import BadSample
from theworld.utils.errors import MissingFileError, TheWorldError

from .rows import AuditRow, picture_name, read_audit_rows

YES, NO = "yes", "no"


@dataclass(frozen=True)
class Overlap:
    """What of the evaluation set is in training, too. Rows are evaluation rows; lists are sorted and without repeats.

    Args:
        ids: That both files give.
        statements: Questions and captions of both.
        pictures: Names of both, without folders and endings.
        same_pictures: Evaluation pictures whose pixels are in training, by name; `None` if no folders were given.
        unread_pictures: Pictures that the folders do not hold or that cannot be decoded.
        id_rows: Rows with such an id.
        statement_rows: Rows with such a statement.
        same_answer_rows: Those with the same answer in training.
        picture_rows: Rows with such a picture, by name or pixels.
        pair_rows: Rows whose statement is in training about a picture of the same name.
        clean_rows: Rows with neither statement nor picture in training.
    """

    ids: tuple[str, ...]
    statements: tuple[str, ...]
    pictures: tuple[str, ...]
    same_pictures: tuple[str, ...] | None
    unread_pictures: int
    id_rows: int
    statement_rows: int
    same_answer_rows: int
    picture_rows: int
    pair_rows: int
    clean_rows: int


@dataclass(frozen=True)
class Shortcuts:
    """Accuracies on yes/no statements without a picture. A rule that says nothing of a row says yes.

    Args:
        decidable: Rows whose statement has more of one answer than of the other in training.
        opposite_right: Of these, right by the opposite of the more frequent answer.
        opposite: Accuracy of that rule over all rows: the blind floor of contrastive pairs.
        same: Accuracy of the more frequent answer itself.
        relation_prior: Accuracy of the more frequent answer of the relation; `None` without relations.
        always_yes: Accuracy of yes.
    """

    decidable: int
    opposite_right: int
    opposite: float
    same: float
    relation_prior: float | None
    always_yes: float


@dataclass(frozen=True)
class Audit:
    """All that `theworld audit` prints.

    Args:
        training_rows: Questions of the training files.
        rows: Questions of the evaluation file.
        pictures: Distinct names of its pictures.
        twice: Statements that training and evaluation have exactly twice, together.
        contrasted: Those whose two answers differ.
        overlap: What both sets have.
        shortcuts: `None` unless all answers are yes or no.
    """

    training_rows: int
    rows: int
    pictures: int
    twice: int
    contrasted: int
    overlap: Overlap
    shortcuts: Shortcuts | None


def audit(
    training: Sequence[str | Path],
    evaluation: str | Path,
    training_images: str | Path | None = None,
    evaluation_images: str | Path | None = None,
) -> Audit:
    """Compare training files with an evaluation file.

    Args:
        training: Files, as `read_audit_rows` takes them; more than one are one training set.
        evaluation: File.
        training_images: Folder of the training pictures. With both folders pictures are compared by their pixels, too:
            a copy that was renamed or stored without loss in another format is found, one that was compressed anew is
            not.
        evaluation_images: Folder of the evaluation pictures.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file has a row that cannot be read, or only one of the folders was given.
    """
    if (training_images is None) != (evaluation_images is None):
        raise TheWorldError("pictures can be compared only with both folders: the training and the evaluation pictures")
    train = [row for path in training for row in read_audit_rows(path)]
    rows = read_audit_rows(evaluation)
    contents = None
    if training_images is not None and evaluation_images is not None:
        contents = _contents(train, training_images), _contents(rows, evaluation_images)
    answers: dict[str, list[str]] = defaultdict(list)
    for row in (*train, *rows):
        answers[row.statement].append(row.answer)
    twice = [given for given in answers.values() if len(given) == 2]
    binary = all(row.answer in (YES, NO) for row in (*train, *rows))
    return Audit(
        training_rows=len(train),
        rows=len(rows),
        pictures=len(_pictures(rows)),
        twice=len(twice),
        contrasted=sum(first != second for first, second in twice),
        overlap=_overlap(train, rows, contents),
        shortcuts=blind_rules(train, rows) if binary else None,
    )


def _overlap(
    train: Sequence[AuditRow], rows: Sequence[AuditRow], contents: tuple[dict[str, str], dict[str, str]] | None
) -> Overlap:
    ids = {row.id for row in train if row.id} & {row.id for row in rows}
    known = {row.statement for row in train if row.statement}
    answered = {(row.statement, row.answer) for row in train if row.statement}
    pairs = {(row.statement, name) for row in train for name in _pictures([row])}
    names = _pictures(train) & _pictures(rows)
    same = None
    if contents is not None:
        seen = set(contents[0].values())
        same = {name for name, digest in contents[1].items() if digest in seen}
    unread = (
        0
        if contents is None
        else sum(
            len({name for row in side for name in row.images} - found.keys())
            for side, found in zip((train, rows), contents, strict=True)
        )
    )

    def shown(row: AuditRow) -> bool:
        return bool(_pictures([row]) & names) or bool(same and same.intersection(row.images))

    return Overlap(
        ids=tuple(sorted(ids)),
        statements=tuple(sorted(known & {row.statement for row in rows})),
        pictures=tuple(sorted(names)),
        same_pictures=None if same is None else tuple(sorted(same)),
        unread_pictures=unread,
        id_rows=sum(row.id in ids for row in rows),
        statement_rows=sum(row.statement in known for row in rows),
        same_answer_rows=sum((row.statement, row.answer) in answered for row in rows),
        picture_rows=sum(shown(row) for row in rows),
        pair_rows=sum(any((row.statement, name) in pairs for name in _pictures([row])) for row in rows),
        clean_rows=sum(row.statement not in known and not shown(row) for row in rows),
    )


def blind_rules(train: Sequence[AuditRow], rows: Sequence[AuditRow]) -> Shortcuts:
    """What rules that know only the training rows reach on `rows`, whose answers are yes or no."""
    by_statement = _majorities((row.statement, row.answer) for row in train)
    by_relation = _majorities((row.relation, row.answer) for row in train if row.relation)
    decidable = [row for row in rows if row.statement in by_statement]
    opposite_right = sum(row.answer != by_statement[row.statement] for row in decidable)
    opposites = {statement: NO if answer == YES else YES for statement, answer in by_statement.items()}
    return Shortcuts(
        decidable=len(decidable),
        opposite_right=opposite_right,
        opposite=_accuracy(rows, [opposites.get(row.statement, YES) for row in rows]),
        same=_accuracy(rows, [by_statement.get(row.statement, YES) for row in rows]),
        relation_prior=_accuracy(rows, [by_relation.get(row.relation, YES) for row in rows]) if by_relation else None,
        always_yes=_accuracy(rows, [YES] * len(rows)),
    )


def _majorities(pairs: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """The more frequent answer of every key; keys of a tie are left out."""
    balance: Counter[str] = Counter()
    for key, answer in pairs:
        balance[key] += 1 if answer == YES else -1
    return {key: YES if count > 0 else NO for key, count in balance.items() if count}


def _accuracy(rows: Sequence[AuditRow], said: Sequence[str]) -> float:
    return sum(row.answer == answer for row, answer in zip(rows, said, strict=True)) / len(rows)


def _pictures(rows: Iterable[AuditRow]) -> set[str]:
    return {picture_name(name) for row in rows for name in row.images}


def _contents(rows: Iterable[AuditRow], folder: str | Path) -> dict[str, str]:
    """Hash of the pixels of every picture that can be read, by its name in the file."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder of pictures")
    found: dict[str, str] = {}
    for name in dict.fromkeys(name for row in rows for name in row.images):
        try:
            picture = open_image(name, folder)
        except BadSample:
            continue  # counted by the caller: a set may lie here in part
        found[name] = hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()
    return found


def audit_text(found: Audit) -> str:
    """What `audit` found, as text."""
    overlap = found.overlap
    lines = [
        f"{found.rows} evaluation rows with {found.pictures} pictures, {found.training_rows} training rows",
        f"ids in training        {_share(overlap.id_rows, found.rows)}{_examples(overlap.ids)}",
        f"statements in training {_share(overlap.statement_rows, found.rows)}{_examples(overlap.statements)}",
        f"  with the same answer {_share(overlap.same_answer_rows, found.rows)}",
        f"  on the same picture  {_share(overlap.pair_rows, found.rows)}",
        f"pictures in training   {_share(overlap.picture_rows, found.rows)}: {len(overlap.pictures)} by name"
        + ("" if overlap.same_pictures is None else f", {len(overlap.same_pictures)} by pixels")
        + (f"; {overlap.unread_pictures} could not be read" if overlap.unread_pictures else ""),
        f"neither                {_share(overlap.clean_rows, found.rows)}",
        f"statements that occur twice: {found.twice}, with both answers: {found.contrasted}",
    ]
    return "\n".join(lines + ([] if found.shortcuts is None else _shortcuts(found.shortcuts)))


def _shortcuts(rules: Shortcuts) -> list[str]:
    named = f"{rules.opposite_right} of {rules.decidable} decidable rows, yes elsewhere"
    lines = [
        "accuracy without a picture:",
        f"  opposite of training   {rules.opposite:.1%} ({named})",
        f"  same as in training    {rules.same:.1%}",
        f"  always yes             {rules.always_yes:.1%}",
    ]
    if rules.relation_prior is not None:
        lines.append(f"  more frequent answer of the relation {rules.relation_prior:.1%}")
    return lines


def _share(count: int, rows: int) -> str:
    return f"{count} rows ({count / rows:.1%})"


def _examples(found: tuple[str, ...]) -> str:
    return f", such as {', '.join(map(repr, found[:3]))}" if found else ""


__all__ = ["Audit", "Overlap", "Shortcuts", "audit", "audit_text", "blind_rules"]
