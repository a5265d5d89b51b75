"""Rows of training and evaluation files brought to one form, so that a question and a caption can be compared."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

from theworld.data.columns import CONVERSATION_KEYS
from theworld.data.schema import BadSample
from theworld.data.sources.records import read_conversation
from theworld.data.text_rows import TextFile
from theworld.utils.errors import MissingFileError, TheWorldError

IDS = ("id", "idx", "question_id")
QUESTIONS = ("prompt", "query", "question", "caption", "statement", "text")
ANSWERS = ("answer", "label", "response")
IMAGES = ("image", "images", "file_name", "filename", "image_1", "image_2", "image_3", "image_4")

_OPTION = re.compile(r"^\(([A-Z])\)\s*(.+)$", re.MULTILINE)
_AROUND = re.compile(
    r"<[^>]*>|select from the following choices\.?|^statement:|^answer\s*(?:\(only[^)]*\))?:?\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_BARE: dict[str, str] = {"contains": "contain", "consists": "consist", "has": "have"}
YES, NO = "yes", "no"


class AuditRow(NamedTuple):
    """One question of a file."""

    id: str  # the file's own; empty if it gives none
    statement: str  # the question or caption in the form of `normalise`
    answer: str  # `yes`, `no`, or the answer's words in lower case
    images: tuple[str, ...]  # names as the file gives them
    relation: str = ""  # of VSR; empty elsewhere

    @property
    def names(self) -> set[str]:
        """What the images are called, without folders and endings."""
        return {Path(name).stem.casefold() for name in self.images}


def read_audit_rows(path: str | Path) -> list[AuditRow]:
    """The questions of a JSON, JSON lines, CSV or TSV file.

    A row has a question (`QUESTIONS`; a caption counts), an answer (`ANSWERS`) and images (`IMAGES`), or is a
    conversation, of which every turn is a question. BLINK's letters are replaced by the options they stand for.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is neither, is empty, or a row has no question and answer; names the line or row.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; expected a .jsonl file or a .json array")
    raw = enumerate(TextFile.of(path).rows(), 1)
    found = [row for number, (_, fields) in raw for row in _rows_of(fields, f"{path}, row {number}")]
    if not found:
        raise TheWorldError(f"{path}: no rows")
    return found


def normalise(text: str) -> str:
    """Words in lower case, without what tells a question from a statement, options and the prompt around it.

    "Is the car beneath the cat?" and "The car is beneath the cat." both become "the car beneath the cat".
    """
    words: list[str] = _WORD.findall(_AROUND.sub(" ", _OPTION.sub(" ", text)).casefold())
    return " ".join(_BARE.get(word, word) for word in words if word not in ("is", "are", "does", "do"))


def _rows_of(row: Any, where: str) -> list[AuditRow]:
    """The questions of one row of a file."""
    if not isinstance(row, Mapping):
        raise TheWorldError(f"{where}: expected an object, got {type(row).__name__}")
    # 1. What a question shares with the others of its row
    id = str(next((row[key] for key in IDS if row.get(key) is not None), ""))
    given = [row.get(key) for key in IMAGES]
    listed = [name for value in given for name in (value if isinstance(value, list) else [value])]
    images, relation = tuple(name for name in listed if isinstance(name, str)), str(row.get("relation") or "")
    # 2. A conversation, or one question
    conversation = next((row[key] for key in CONVERSATION_KEYS if row.get(key)), None)
    if conversation is not None:
        try:
            turns = read_conversation(conversation)[0]
        except BadSample as bad:
            raise TheWorldError(f"{where}: {bad}") from bad
        asked = [(ask.content, tell.content) for ask, tell in pairwise(turns) if ask.role == "user"]
    else:
        question, answer = (next((k for k in keys if row.get(k) is not None), None) for keys in (QUESTIONS, ANSWERS))
        if question is None or answer is None:
            raise TheWorldError(
                f"{where}: expected one of {', '.join(QUESTIONS)} and one of {', '.join(ANSWERS)}, "
                f"it has {', '.join(row)}"
            )
        value = str(row[answer])
        vsr = {"0": NO, "1": YES} if answer == "label" else {}  # is the caption true?
        asked = [(str(row[question]), vsr.get(value, value))]
    return [
        AuditRow(id, normalise(ask), _answer(tell, ask, row.get("choices")), images, relation) for ask, tell in asked
    ]


def _answer(text: str, asked: str, choices: Any) -> str:
    """An answer's words; a letter stands for its option."""
    options = dict(_OPTION.findall(asked))
    if not options and isinstance(choices, Sequence) and not isinstance(choices, str):
        options = dict(zip(ascii_uppercase, map(str, choices), strict=False))
    text = options.get(text.strip().strip("()"), text.strip()).casefold().rstrip(".")
    return {"true": YES, "false": NO}.get(text, text)
