"""What an evaluation set shares with training sets, and how far one gets on it without looking at an image.

VSR writes its captions in pairs, of which one is true of its image and one is false of another: in the random split,
"the opposite of what this caption was in training" beats models that look.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from theworld.data.images import open_image
from theworld.data.schema import BadSample
from theworld.utils.errors import MissingFileError, TheWorldError

from .rows import NO, YES, AuditRow, read_audit_rows


def audit(
    training: Sequence[str | Path],
    evaluation: str | Path,
    training_images: str | Path | None = None,
    evaluation_images: str | Path | None = None,
) -> dict[str, Any]:
    """Compare training files, which are one training set, with an evaluation file (`read_audit_rows`).

    With both folders of images, images are compared by their pixels, too: a copy that was renamed or stored without
    loss in another format is found, one that was compressed anew is not.

    Returns:
        `training_rows`, `rows`, `images` (distinct names in the evaluation file), `overlap` and `shortcuts`
        (`blind_rules`; `None` unless all answers are yes or no).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file has a row that cannot be read, or only one of the folders was given.
    """
    if (training_images is None) != (evaluation_images is None):
        raise TheWorldError("images can be compared only with both folders: the training and the evaluation images")
    train = [row for path in training for row in read_audit_rows(path)]
    rows = read_audit_rows(evaluation)
    # 1. What both sets hold
    ids = {row.id for row in train} & {row.id for row in rows} - {""}
    statements = {row.statement for row in train} & {row.statement for row in rows} - {""}
    answered = {(row.statement, row.answer) for row in train}
    pairs = {(row.statement, name) for row in train for name in row.names}
    known, names = (set[str]().union(*(row.names for row in side)) for side in (train, rows))
    same, unread = set[str](), 0
    if training_images is not None and evaluation_images is not None:
        old, new = _pixels(train, training_images), _pixels(rows, evaluation_images)
        unread = [*old.values(), *new.values()].count(None)
        digests = set(old.values()) - {None}
        same = {image for image, digest in new.items() if digest in digests}
    # 2. The evaluation rows that this concerns
    by_statement = [row for row in rows if row.statement in statements]
    by_image = [row for row in rows if not known.isdisjoint(row.names) or not same.isdisjoint(row.images)]
    overlap = {
        "ids": sorted(ids),
        "statements": sorted(statements),
        "images": sorted(known & names),  # names without folders and endings
        "same_images": None if training_images is None else sorted(same),  # by their pixels
        "unread_images": unread,  # that the folders do not hold or that cannot be decoded
        "id_rows": sum(row.id in ids for row in rows),
        "statement_rows": len(by_statement),
        "same_answer_rows": sum((row.statement, row.answer) in answered for row in by_statement),
        "image_rows": len(by_image),
        "pair_rows": sum(any((row.statement, name) in pairs for name in row.names) for row in rows),
        "clean_rows": len(rows) - len({*map(id, by_statement), *map(id, by_image)}),
    }
    binary = {row.answer for row in (*train, *rows)} <= {YES, NO}
    shortcuts = blind_rules(train, rows) if binary else None
    counts = {"training_rows": len(train), "rows": len(rows), "images": len(names)}
    return {**counts, "overlap": overlap, "shortcuts": shortcuts}


def blind_rules(train: Sequence[AuditRow], rows: Sequence[AuditRow]) -> dict[str, Any]:
    """Accuracies on `rows`, whose answers are yes or no, of rules that know only the training rows.

    Returns:
        `decidable` (rows whose statement has more of one answer than of the other in training); of these,
        `opposite_right` by the opposite of that answer; `opposite`, the accuracy of this rule over all rows, and `same`
        of the answer itself; `relation_prior` of the more frequent answer of the relation (`None` without relations);
        `always_yes`. A rule that says nothing of a row says yes.
    """
    by_statement = _majorities((row.statement, row.answer) for row in train)
    by_relation = _majorities((row.relation, row.answer) for row in train if row.relation)
    opposites = {statement: NO if answer == YES else YES for statement, answer in by_statement.items()}

    def accuracy(said: Callable[[AuditRow], str]) -> float:
        return sum(row.answer == said(row) for row in rows) / len(rows)

    return {
        "decidable": sum(row.statement in opposites for row in rows),
        "opposite_right": sum(row.answer == opposites.get(row.statement) for row in rows),
        "opposite": accuracy(lambda row: opposites.get(row.statement, YES)),
        "same": accuracy(lambda row: by_statement.get(row.statement, YES)),
        "relation_prior": accuracy(lambda row: by_relation.get(row.relation, YES)) if by_relation else None,
        "always_yes": accuracy(lambda row: YES),
    }


def _majorities(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The more frequent answer of every key; keys of a tie are left out."""
    balance: Counter[str] = Counter()
    for key, answer in pairs:
        balance[key] += 1 if answer == YES else -1
    return {key: YES if count > 0 else NO for key, count in balance.items() if count}


def _pixels(rows: Iterable[AuditRow], folder: str | Path) -> dict[str, str | None]:
    """Hash of the pixels of every image by its name in the file; `None` where it cannot be read."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder of images")
    found: dict[str, str | None] = dict.fromkeys(name for row in rows for name in row.images)
    for name in found:
        try:
            image = open_image(name, folder)
        except BadSample:
            continue
        found[name] = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
    return found


def audit_text(found: dict[str, Any]) -> str:
    """What `audit` found, as text."""
    overlap, rules = found["overlap"], found["shortcuts"]

    def share(count: str, examples: str = "") -> str:
        shown = ", ".join(map(repr, overlap[examples][:3])) if examples else ""
        return f"{overlap[count]} rows ({overlap[count] / found['rows']:.1%}){f', such as {shown}' if shown else ''}"

    lines = [
        f"{found['rows']} evaluation rows with {found['images']} images, {found['training_rows']} training rows",
        f"ids in training        {share('id_rows', 'ids')}",
        f"statements in training {share('statement_rows', 'statements')}",
        f"  with the same answer {share('same_answer_rows')}",
        f"  on the same image    {share('pair_rows')}",
        f"images in training     {share('image_rows')}: {len(overlap['images'])} by name"
        + ("" if overlap["same_images"] is None else f", {len(overlap['same_images'])} by pixels")
        + (f"; {overlap['unread_images']} could not be read" if overlap["unread_images"] else ""),
        f"neither                {share('clean_rows')}",
    ]
    if rules is not None:
        named = f"{rules['opposite_right']} of {rules['decidable']} decidable rows, yes elsewhere"
        prior = rules["relation_prior"]
        lines += [
            "accuracy without an image:",
            f"  opposite of training   {rules['opposite']:.1%} ({named})",
            f"  same as in training    {rules['same']:.1%}",
            f"  always yes             {rules['always_yes']:.1%}",
            *([] if prior is None else [f"  more frequent answer of the relation {prior:.1%}"]),
        ]
    return "\n".join(lines)
