"""Which column of a row holds what: told by its name, or named by the user."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image

from theworld.utils.errors import TheWorldError
from theworld.utils.image_decoding import looks_like_image

from .images import IMAGE_SUFFIXES

TOLD = {
    "image": ("image", "images", "file_name"),
    "question": ("question", "prompt", "text", "caption"),
    "answer": ("answer", "label", "response"),
}
"""What a column is named for -> the names that tell it."""
CAPTIONS = ("caption", "text")  # the answer where no column is told to be one: images with captions
CONVERSATION_KEYS = ("messages", "conversations")
ROLES = (*TOLD, "choices", "id")  # what a column can be named for

CAPTION_QUESTION = "Describe this image."
CLASS_QUESTION = "What does this image show? Answer with one of: {names}."


def choose_columns(
    columns: Sequence[str], named: Mapping[str, str], template: str | None, classes: Sequence[str] | None = None
) -> dict[str, Any]:
    """The keys and the template of a `RowReader` of rows with these `columns`.

    `named` are the columns that the user names for `ROLES`; the others are told by `TOLD`. `classes` are the names of
    the classes, where the answer is a class number.

    ValueError, which lists them, if `named` or `template` do not fit, or question and answer cannot be told.
    """
    for role, column in named.items():
        if role not in ROLES:
            raise TheWorldError(f"columns: unknown key {role!r}; expected some of {', '.join(ROLES)}")
        check_columns([column], columns)
    image, question, answer = (column_of(role, named, columns) for role in TOLD)
    keys: dict[str, Any] = {f"{role}_key": named.get(role, role) for role in ("choices", "id")}
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
    if template is not None:
        check_columns(template_fields(template), columns)
    if conversation is None and (answer is None or (question is None and template is None)):
        raise TheWorldError(
            f"cannot tell what to ask and answer from the columns {', '.join(columns)}; expected messages or "
            f"conversations, or one of {', '.join(TOLD['question'])} (or a question_template) and one of "
            f"{', '.join(TOLD['answer'])}; or name them with columns"
        )
    # Every reader reads `images` as well; a column that only later rows have is called `image`
    image = None if image == "images" else image or "image"
    return keys | {"image_key": image, "question_key": question, "answer_key": answer, "question_template": template}


def column_of(role: str, named: Mapping[str, str], columns: Sequence[str]) -> str | None:
    """The column that the user names for a role of `TOLD`, or the first of `columns` that its name tells."""
    return named.get(role) or next((name for name in TOLD[role] if name in columns), None)


def check_columns(wanted: Iterable[str], columns: Sequence[str]) -> None:
    """Raise a ValueError for names that the rows do not have."""
    missing = [name for name in dict.fromkeys(wanted) if name not in columns]
    if missing:
        raise TheWorldError(
            f"no column {', '.join(map(repr, missing))} in the data, which has {', '.join(columns) or 'none'}"
        )


def template_fields(template: str) -> list[str]:
    """The columns that a `str.format` template names; ValueError where it is none."""
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise TheWorldError(f"question_template={template!r}: {error}; write {{{{ and }}}} for braces") from error
    return [field.partition(".")[0].partition("[")[0] for field in fields]


def image_columns(rows: Iterable[Any], known: Iterable[str | None]) -> list[str]:
    """Columns beside the `known` ones whose values look like images."""
    skip = set(known)
    pairs = ((name, value) for row in rows if isinstance(row, Mapping) for name, value in row.items())
    return list(dict.fromkeys(name for name, value in pairs if name not in skip and _is_image(value)))


def _is_image(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and _is_image(value[0])
    if isinstance(value, Mapping):  # of Hugging Face datasets, undecoded
        return {"bytes", "path"} <= set(value)
    if isinstance(value, str):
        return value.lower().endswith(IMAGE_SUFFIXES) or value.startswith("data:image/")
    return isinstance(value, Image.Image) or (isinstance(value, bytes) and looks_like_image(value))
