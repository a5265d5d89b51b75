"""Overlap of an evaluation set with training sets, and the accuracy of rules that do not look at an image.

VSR has its captions in pairs: true of one image, false of another. In the random split, the opposite of a caption's
label in training is right more often than models that see the image.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

from theworld.data.columns import COLUMN_NAMES, CONVERSATION_KEYS
from theworld.data.schema import BadSample
from theworld.data.sources.records import read_conversation
from theworld.data.text_rows import TextFile
from theworld.utils.errors import MissingFileError, TheWorldError

IDS = ("id", "idx", "question_id")
QUESTIONS = ("prompt", "query", "question", "caption", "statement", "text")  # BLINK's prompt has the options
ANSWERS = COLUMN_NAMES["answer"]
IMAGES = (*COLUMN_NAMES["image"], "filename", "image_1", "image_2", "image_3", "image_4")
YES, NO = "yes", "no"

_OPTION = re.compile(r"^\(([A-Z])\)\s*(.+)$", re.MULTILINE)
_AROUND = re.compile(
    r"<[^>]*>|select from the following choices\.?|^statement:|^answer\s*(?:\(only[^)]*\))?:?\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_BARE = {"contains": "contain", "consists": "consist", "has": "have", "is": "", "are": "", "does": "", "do": ""}


class AuditRow(NamedTuple):
    """One question of a file."""

    id: str  # as in the file; empty if it has none
    statement: str  # the question or caption, normalised by `normalise`
    answer: str  # `yes`, `no`, or the answer's words in lower case
    images: tuple[str, ...] = ()  # names as in the file
    relation: str = ""  # the relation of a VSR statement; empty for other data

    @property
    def names(self) -> set[str]:
        """Names of the images, without folders and endings."""
        return {Path(name).stem.casefold() for name in self.images}


def audit(training: Sequence[str | Path], evaluation: str | Path) -> dict[str, Any]:
    """Compare a training set of one or more files with an evaluation file. Both are read by `read_audit_rows`.

    Images are compared by their names, without folders and endings.

    Returns:
        `training_rows` and `rows`: numbers of rows. `images`: number of distinct names in the evaluation file.
        `overlap`: what both sets contain, and the number of evaluation rows affected. `shortcuts`: the result of
        `blind_rules`; `None` unless all answers are yes or no.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A row cannot be read.
    """
    train, rows = [row for path in training for row in read_audit_rows(path)], read_audit_rows(evaluation)

    def shared(keys: Callable[[AuditRow], set[Any]]) -> list[set[Any]]:
        """For every evaluation row, its keys that training rows have too."""
        known = set[Any]().union(*map(keys, train)) - {""}
        return [known & keys(row) for row in rows]

    found = {
        "id": shared(lambda row: {row.id}),
        "statement": shared(lambda row: {row.statement}),
        "same_answer": shared(lambda row: {(row.statement, row.answer)} if row.statement else set()),
        "pair": shared(lambda row: {(row.statement, name) for name in row.names}),
        "image": shared(lambda row: row.names),
    }
    overlap: dict[str, Any] = {f"{of}s": sorted(set().union(*found[of])) for of in ("id", "statement", "image")}
    overlap |= {f"{of}_rows": sum(map(bool, each)) for of, each in found.items()}
    both = zip(found["statement"], found["image"], strict=True)
    overlap["clean_rows"] = sum(not statement and not image for statement, image in both)
    binary = {row.answer for row in (*train, *rows)} <= {YES, NO}
    shortcuts = blind_rules(train, rows) if binary else None
    counts = {"training_rows": len(train), "rows": len(rows), "images": len(set().union(*(row.names for row in rows)))}
    return {**counts, "overlap": overlap, "shortcuts": shortcuts}


def blind_rules(train: Sequence[AuditRow], rows: Sequence[AuditRow]) -> dict[str, Any]:
    """Accuracies on `rows`, whose answers are yes or no, of rules that use only the training rows.

    A rule answers yes where it does not apply.

    Returns:
        `decidable`: number of rows whose statement has one answer more often than the other in training.
        `opposite_right`: how many of these the opposite answer gets right. Accuracies over all rows: `opposite` of the
        opposite answer, `same` of the answer itself, `relation_prior` of the relation's more frequent answer (`None`
        without relations), and `always_yes`.
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
    """The more frequent answer of every key. Keys with a tie are left out."""
    balance: Counter[str] = Counter()
    for key, answer in pairs:
        balance[key] += 1 if answer == YES else -1
    return {key: YES if count > 0 else NO for key, count in balance.items() if count}


def audit_text(found: dict[str, Any]) -> str:
    """The result of `audit` as text."""
    overlap, rules = found["overlap"], found["shortcuts"]
    ids, statements = (", ".join(map(repr, overlap[of][:3])) for of in ("ids", "statements"))
    lines = [f"{found['rows']} evaluation rows with {found['images']} images, {found['training_rows']} training rows"]
    for about, of, more in (
        ("ids in training", "id", ids and f", such as {ids}"),
        ("statements in training", "statement", statements and f", such as {statements}"),
        ("  with the same answer", "same_answer", ""),
        ("  on the same image", "pair", ""),
        ("images in training", "image", f": {len(overlap['images'])} by name"),
        ("neither", "clean", ""),
    ):
        count = overlap[f"{of}_rows"]
        lines.append(f"{about:<22} {count} rows ({count / found['rows']:.1%}){more}")
    if rules is not None:
        named = f"{rules['opposite_right']} of {rules['decidable']} decidable rows, yes elsewhere"
        lines += [
            "accuracy without an image:",
            f"  opposite of training   {rules['opposite']:.1%} ({named})",
            f"  same as in training    {rules['same']:.1%}",
            f"  always yes             {rules['always_yes']:.1%}",
        ]
        if rules["relation_prior"] is not None:
            lines.append(f"  more frequent answer of the relation {rules['relation_prior']:.1%}")
    return "\n".join(lines)


def read_audit_rows(path: str | Path) -> list[AuditRow]:
    """The questions of a JSON, JSON lines, CSV or TSV file.

    A row has a question or caption (a column of `QUESTIONS`), an answer (`ANSWERS`) and images (`IMAGES`). A row with a
    conversation gives one question per turn. BLINK's letters are replaced by the text of their options.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is of another format, is empty, or has a row without question or answer. The message names
            the line or row.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; expected a .jsonl file or a .json array")
    raw = enumerate(TextFile.of(path).rows(), 1)
    found = [row for number, (_, fields) in raw for row in _rows_of(fields, f"{path}, row {number}")]
    if not found:
        raise TheWorldError(f"{path}: no rows")
    return found


def _rows_of(row: Any, where: str) -> list[AuditRow]:
    """The questions of one row of a file."""
    if not isinstance(row, Mapping):
        raise TheWorldError(f"{where}: expected an object, got {type(row).__name__}")
    keys = (IDS, QUESTIONS, ANSWERS, CONVERSATION_KEYS)
    id, question, answer, conversation = (next((k for k in of if row.get(k) is not None), None) for of in keys)
    # 1. A conversation, or one question
    if conversation is not None:
        try:
            turns = read_conversation(row[conversation])[0]
        except BadSample as bad:
            raise TheWorldError(f"{where}: {bad}") from bad
        asked = [(ask.content, tell.content) for ask, tell in pairwise(turns) if ask.role == "user"]
    elif question is None or answer is None:
        raise TheWorldError(
            f"{where}: expected one of {', '.join(QUESTIONS)} and one of {', '.join(ANSWERS)}, it has {', '.join(row)}"
        )
    else:
        value = str(row[answer])
        vsr = {"0": NO, "1": YES} if answer == "label" else {}  # VSR's label: 1 if the caption is true
        asked = [(str(row[question]), vsr.get(value, value))]
    # 2. Fields that all questions of the row share
    given = [row.get(key) for key in IMAGES]
    listed = [name for value in given for name in (value if isinstance(value, list) else [value])]
    shared: dict[str, Any] = {
        "id": "" if id is None else str(row[id]),
        "images": tuple(name for name in listed if isinstance(name, str)),
        "relation": str(row.get("relation") or ""),
    }
    choices = row.get("choices")
    return [AuditRow(statement=normalise(ask), answer=_answer(tell, ask, choices), **shared) for ask, tell in asked]


def normalise(text: str) -> str:
    """Words in lower case, without options, surrounding prompt, and words that distinguish questions from statements.

    "Is the car beneath the cat?" and "The car is beneath the cat." both become "the car beneath the cat".
    """
    words: list[str] = _WORD.findall(_AROUND.sub(" ", _OPTION.sub(" ", text)).casefold())
    return " ".join(filter(None, (_BARE.get(word, word) for word in words)))


def _answer(text: str, asked: str, choices: Any) -> str:
    """The answer in lower case; a letter is replaced by its option."""
    options = dict(_OPTION.findall(asked))
    if not options and isinstance(choices, Sequence) and not isinstance(choices, str):
        options = dict(zip(ascii_uppercase, map(str, choices), strict=False))
    text = options.get(text.strip().strip("()"), text.strip()).casefold().rstrip(".")
    return {"true": YES, "false": NO}.get(text, text)
