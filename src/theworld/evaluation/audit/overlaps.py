"""What an evaluation set shares with training sets, and how far one gets on it without looking at an image.

VSR writes its captions in pairs, of which one is true of its image and one is false of another: in the random split,
"the opposite of what this caption was in training" beats models that look.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from theworld.data.images import open_image
from theworld.data.schema import BadSample
from theworld.utils.errors import MissingFileError, TheWorldError

from .rows import NO, YES, AuditRow, read_audit_rows


@dataclass(frozen=True)
class Overlap:
    """What of the evaluation set is in training, too; `*_rows` count evaluation rows, names are sorted."""

    ids: tuple[str, ...]
    statements: tuple[str, ...]
    images: tuple[str, ...]  # names without folders and endings
    same_images: tuple[str, ...] | None  # whose pixels are in training; `None` if no folders were given
    unread_images: int  # that the folders do not hold or that cannot be decoded
    id_rows: int
    statement_rows: int
    same_answer_rows: int  # with the same answer to the statement in training
    image_rows: int  # by name or pixels
    pair_rows: int  # whose statement is in training about an image of the same name
    clean_rows: int  # with neither statement nor image in training


@dataclass(frozen=True)
class Shortcuts:
    """Accuracies on yes/no statements without an image. A rule that says nothing of a row says yes."""

    decidable: int  # rows whose statement has more of one answer than of the other in training
    opposite_right: int  # of these, right by the opposite of the more frequent answer
    opposite: float  # accuracy of that rule over all rows: the blind floor of contrastive pairs
    same: float  # of the more frequent answer itself
    relation_prior: float | None  # of the more frequent answer of the relation; `None` without relations
    always_yes: float


@dataclass(frozen=True)
class Audit:
    """All that `theworld audit` prints."""

    training_rows: int
    rows: int
    images: int  # distinct names in the evaluation file
    twice: int  # statements that training and evaluation have exactly twice, together
    contrasted: int  # those whose two answers differ
    overlap: Overlap
    shortcuts: Shortcuts | None  # `None` unless all answers are yes or no


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
        training_images: Folder of the training images. With both folders images are compared by their pixels, too: a
            copy that was renamed or stored without loss in another format is found, one that was compressed anew is
            not.
        evaluation_images: Folder of the evaluation images.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file has a row that cannot be read, or only one of the folders was given.
    """
    if (training_images is None) != (evaluation_images is None):
        raise TheWorldError("images can be compared only with both folders: the training and the evaluation images")
    train = [row for path in training for row in read_audit_rows(path)]
    rows = read_audit_rows(evaluation)
    pixels = None
    if training_images is not None and evaluation_images is not None:
        pixels = _pixels(train, training_images), _pixels(rows, evaluation_images)
    answers: dict[str, list[str]] = defaultdict(list)
    for row in (*train, *rows):
        answers[row.statement].append(row.answer)
    twice = [given for given in answers.values() if len(given) == 2]
    binary = all(row.answer in (YES, NO) for row in (*train, *rows))
    return Audit(
        training_rows=len(train),
        rows=len(rows),
        images=len(_names(rows)),
        twice=len(twice),
        contrasted=sum(first != second for first, second in twice),
        overlap=_overlap(train, rows, pixels),
        shortcuts=blind_rules(train, rows) if binary else None,
    )


def _overlap(
    train: Sequence[AuditRow], rows: Sequence[AuditRow], pixels: tuple[dict[str, str], dict[str, str]] | None
) -> Overlap:
    ids = {row.id for row in train} & {row.id for row in rows} - {""}
    statements = {row.statement for row in train} & {row.statement for row in rows} - {""}
    answered = {(row.statement, row.answer) for row in train}
    pairs = {(row.statement, name) for row in train for name in row.names}
    names = _names(train) & _names(rows)
    same = set[str]()
    unread = 0
    if pixels is not None:
        same = {image for image, digest in pixels[1].items() if digest in set(pixels[0].values())}
        wanted = [len({image for row in side for image in row.images}) for side in (train, rows)]
        unread = sum(wanted) - sum(map(len, pixels))

    def count(holds: Callable[[AuditRow], bool]) -> int:
        return sum(map(holds, rows))

    def seen(row: AuditRow) -> bool:
        return not names.isdisjoint(row.names) or not same.isdisjoint(row.images)

    return Overlap(
        ids=tuple(sorted(ids)),
        statements=tuple(sorted(statements)),
        images=tuple(sorted(names)),
        same_images=None if pixels is None else tuple(sorted(same)),
        unread_images=unread,
        id_rows=count(lambda row: row.id in ids),
        statement_rows=count(lambda row: row.statement in statements),
        same_answer_rows=count(lambda row: row.statement in statements and (row.statement, row.answer) in answered),
        image_rows=count(seen),
        pair_rows=count(lambda row: any((row.statement, name) in pairs for name in row.names)),
        clean_rows=count(lambda row: row.statement not in statements and not seen(row)),
    )


def blind_rules(train: Sequence[AuditRow], rows: Sequence[AuditRow]) -> Shortcuts:
    """What rules that know only the training rows reach on `rows`, whose answers are yes or no."""
    by_statement = _majorities((row.statement, row.answer) for row in train)
    by_relation = _majorities((row.relation, row.answer) for row in train if row.relation)
    decidable = [row for row in rows if row.statement in by_statement]
    opposites = {statement: NO if answer == YES else YES for statement, answer in by_statement.items()}

    def accuracy(said: Callable[[AuditRow], str]) -> float:
        return sum(row.answer == said(row) for row in rows) / len(rows)

    return Shortcuts(
        decidable=len(decidable),
        opposite_right=sum(row.answer == opposites[row.statement] for row in decidable),
        opposite=accuracy(lambda row: opposites.get(row.statement, YES)),
        same=accuracy(lambda row: by_statement.get(row.statement, YES)),
        relation_prior=accuracy(lambda row: by_relation.get(row.relation, YES)) if by_relation else None,
        always_yes=accuracy(lambda row: YES),
    )


def _majorities(pairs: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """The more frequent answer of every key; keys of a tie are left out."""
    balance: Counter[str] = Counter()
    for key, answer in pairs:
        balance[key] += 1 if answer == YES else -1
    return {key: YES if count > 0 else NO for key, count in balance.items() if count}


def _names(rows: Iterable[AuditRow]) -> set[str]:
    return {name for row in rows for name in row.names}


def _pixels(rows: Iterable[AuditRow], folder: str | Path) -> dict[str, str]:
    """Hash of the pixels of every image that can be read, by its name in the file."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder of images")
    found: dict[str, str] = {}
    for name in dict.fromkeys(name for row in rows for name in row.images):
        try:
            image = open_image(name, folder)
        except BadSample:
            continue  # counted by the caller: a set may lie here in part
        found[name] = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
    return found


def audit_text(found: Audit) -> str:
    """What `audit` found, as text."""
    overlap, rules = found.overlap, found.shortcuts

    def share(count: int, examples: tuple[str, ...] = ()) -> str:
        shown = f", such as {', '.join(map(repr, examples[:3]))}" if examples else ""
        return f"{count} rows ({count / found.rows:.1%}){shown}"

    lines = [
        f"{found.rows} evaluation rows with {found.images} images, {found.training_rows} training rows",
        f"ids in training        {share(overlap.id_rows, overlap.ids)}",
        f"statements in training {share(overlap.statement_rows, overlap.statements)}",
        f"  with the same answer {share(overlap.same_answer_rows)}",
        f"  on the same image    {share(overlap.pair_rows)}",
        f"images in training     {share(overlap.image_rows)}: {len(overlap.images)} by name"
        + ("" if overlap.same_images is None else f", {len(overlap.same_images)} by pixels")
        + (f"; {overlap.unread_images} could not be read" if overlap.unread_images else ""),
        f"neither                {share(overlap.clean_rows)}",
        f"statements that occur twice: {found.twice}, with both answers: {found.contrasted}",
    ]
    if rules is not None:
        named = f"{rules.opposite_right} of {rules.decidable} decidable rows, yes elsewhere"
        prior = rules.relation_prior
        lines += [
            "accuracy without an image:",
            f"  opposite of training   {rules.opposite:.1%} ({named})",
            f"  same as in training    {rules.same:.1%}",
            f"  always yes             {rules.always_yes:.1%}",
            *([] if prior is None else [f"  more frequent answer of the relation {prior:.1%}"]),
        ]
    return "\n".join(lines)


__all__ = ["Audit", "Overlap", "Shortcuts", "audit", "audit_text", "blind_rules"]
