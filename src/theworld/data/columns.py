"""The roles of a row's columns: recognised by name, or named by the user."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from theworld.utils.errors import TheWorldError
from theworld.utils.image_decoding import looks_like_image
from theworld.utils.settings import nearest

from .schema import IMAGE_SUFFIXES, BadSample

COLUMN_NAMES = {
    "image": ("image", "images", "file_name"),
    "question": ("question", "prompt", "text", "caption"),
    "answer": ("answer", "label", "response"),
}
"""Role of a column -> the names that it is recognised by."""
CAPTIONS = ("caption", "text")  # the answer if no column is recognised as one: images with captions
CONVERSATION_KEYS = ("messages", "conversations")
ROLES = (*COLUMN_NAMES, "choices", "id")  # roles that a column can have

CAPTION_QUESTION = "Describe this image."
CLASS_QUESTION = "What does this image show? Answer with one of: {names}."


def choose_columns(
    columns: Sequence[str], named: Mapping[str, str], template: str | None, classes: Sequence[str] | None = None
) -> dict[str, Any]:
    """The keys and the template of a `RowReader` of rows with these `columns`.

    `named` are the columns that the user names for `ROLES`; `COLUMN_NAMES` recognises others. `classes` are the
    class names if the answer is a class number.

    ValueError, which lists the columns, if `named` or `template` do not fit, or question and answer are not recognised.
    """
    # 1. Columns that the user names, then columns that are recognised
    for role, column in named.items():
        if role not in ROLES:
            raise TheWorldError(f"columns: unknown key {role!r}; expected some of {', '.join(ROLES)}")
        check_columns([column], columns)
    image, question, answer = (column_of(role, named, columns) for role in COLUMN_NAMES)
    keys: dict[str, Any] = {f"{role}_key": named.get(role, role) for role in ("choices", "id")}
    # 2. Conversations, captions, or class names
    conversation = next((key for key in CONVERSATION_KEYS if key in columns), None)
    if conversation is not None:
        unused = [f"column {role!r}" for role in ("question", "answer") if role in named]
        if template is not None or unused:
            what = ", ".join(unused) or "question_template"
            raise TheWorldError(f"{what}: the data are conversations, in {conversation!r}; leave it out")
    elif answer is None and image is not None:
        answer = next((name for name in CAPTIONS if name in columns), None)
        question = None if question == answer else question
        template = template or (CAPTION_QUESTION if question is None else None)
    elif classes and question is None:
        template = template or CLASS_QUESTION.format(names=", ".join(classes)).replace("{", "{{").replace("}", "}}")
    # 3. Check that a question and an answer are known
    if template is not None:
        check_columns(template_fields(template), columns)
    if conversation is None and (answer is None or (question is None and template is None)):
        raise TheWorldError(
            f"no question and answer recognised in the columns {', '.join(columns)}; expected messages or "
            f"conversations, or one of {', '.join(COLUMN_NAMES['question'])} (or a question_template) and one of "
            f"{', '.join(COLUMN_NAMES['answer'])}; or name them with columns"
        )
    keys |= {"image_key": image or "image", "image_named": "image" in named}  # later rows may have an `image`
    return keys | {"question_key": question, "answer_key": answer, "question_template": template}


def column_of(role: str, named: Mapping[str, str], columns: Sequence[str]) -> str | None:
    """The column that the user names for a role, or the first of `columns` that `COLUMN_NAMES` lists for it."""
    return named.get(role) or next((name for name in COLUMN_NAMES[role] if name in columns), None)


def check_columns(wanted: Iterable[str], columns: Sequence[str]) -> None:
    """Raise a ValueError for names that the rows do not have."""
    missing = [name for name in dict.fromkeys(wanted) if name not in columns]
    if missing:
        shown = f"no column {', '.join(map(repr, missing))} in the data, which has {', '.join(columns) or 'none'}"
        raise TheWorldError(f"{shown}; {nearest(missing[0], columns)}".removesuffix("; "))


def template_fields(template: str) -> list[str]:
    """The columns in a `str.format` template; ValueError if it is not valid."""
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise TheWorldError(f"question_template={template!r}: {error}; write {{{{ and }}}} for braces") from error
    return [field.partition(".")[0].partition("[")[0] for field in fields]


def plain_text(value: Any) -> str | None:
    """The text of a value that has exactly one: text, a number, a boolean (as in JSON), a date or time; else None."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, date | time):
        return value.isoformat() if value == value else None
    if isinstance(value, Decimal | float | np.floating):
        return str(value) if (value.is_finite() if isinstance(value, Decimal) else np.isfinite(value)) else None
    return str(value) if isinstance(value, int | np.integer) and not isinstance(value, np.timedelta64) else None


class _Template(string.Formatter):
    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        value, key = super().get_field(field_name, args, kwargs)
        if plain_text(value) is None and not isinstance(value, Mapping | list | tuple):
            raise TheWorldError(f"{{{field_name}}} is {str(value)[:80]!r}; expected a text")
        return value, key


def fill_template(template: str, row: Mapping[Any, Any]) -> str:
    """The prompt of a `str.format` template and a row; BadSample if a field is empty or does not fit."""
    try:
        return _Template().vformat(template, (), row)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
        raise BadSample("bad_row", f"question_template does not fit the row: {error}") from error


def image_columns(rows: Iterable[Any], known: Iterable[str | None], template: str | None) -> list[str]:
    """Columns whose values look like images, except `known` ones and those of conversations and the template."""
    skip = {*known, *CONVERSATION_KEYS, *template_fields(template or "")}
    pairs = ((name, value) for row in rows if isinstance(row, Mapping) for name, value in row.items())
    return list(dict.fromkeys(name for name, value in pairs if name not in skip and _is_image(value)))


def _is_image(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_is_image, value[:8]))
    if isinstance(value, Mapping):  # an undecoded image of Hugging Face datasets
        return any(_is_image(value.get(key)) for key in ("bytes", "path"))
    if isinstance(value, str | Path):
        return str(value).lower().endswith(IMAGE_SUFFIXES) or str(value).startswith("data:image/")
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 and value.ndim == 3
    return isinstance(value, Image.Image) or (isinstance(value, bytes) and looks_like_image(value))
