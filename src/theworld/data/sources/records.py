"""Rows that are dicts of a question and an answer, chat messages, or a LLaVA conversation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from huggingface_hub import HfFileSystem
from torch.utils.data import Subset

from theworld.utils.errors import TheWorldError
from theworld.utils.image_decoding import MAX_BYTES

from ..columns import (
    COLUMN_NAMES,
    CONVERSATION_KEYS,
    choose_columns,
    column_of,
    fill_template,
    image_columns,
    plain_text,
)
from ..images import located
from ..schema import IMAGE_MARKER, BadSample, Example, Message, Skipped, SourceSettings
from ..text_rows import parse_json

Row = Mapping[Any, Any]
SAMPLE = 200  # rows that are read first, to find the columns

ROLE_OF: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
"""Names of the roles of turns, here and in LLaVA's files."""


@dataclass(frozen=True)
class RowReader:
    """Makes an example of a row.

    A row with `messages` or `conversations` is that conversation. `images` holds more images of any row. Other fields
    become the example's `metadata`. None or blank text is no image. A row that is an `Example` or `Skipped` is returned
    unchanged.
    """

    image_key: str | None = "image"  # one image, a list, or nothing: paths, bytes, PIL images, uint8 arrays (H, W, 3)
    question_key: str | None = "question"  # not needed with a complete `question_template`
    answer_key: str | None = "answer"  # an integer may be an index into the row's `choices`
    question_template: str | None = None  # `str.format` template of the prompt, with the row's own fields
    choices: tuple[str, ...] = ()  # the allowed answers of every row, if questions are closed
    base_folder: Path | None = None  # folder of image names if the run has no image folder
    choices_key: str = "choices"  # column of the allowed answers
    id_key: str = "id"
    class_numbers: bool = False  # whether an integer always is an index into `choices`, even if a choice has that text
    image_named: bool = False  # the user named the image's column; other columns with images are ignored

    @property
    def keys(self) -> tuple[str | None, ...]:
        """The columns that are read, except conversations."""
        return (self.image_key, self.question_key, self.answer_key, self.choices_key, self.id_key, "images")

    def read(self, row: Any, fallback_id: str) -> Example | Skipped:
        """The example, or a `Skipped` with the cause; `fallback_id` is the id of a row without one."""
        if isinstance(row, Example | Skipped):
            return row
        id = fallback_id
        try:
            if not isinstance(row, Mapping):
                raise BadSample("bad_row", f"expected a dict, got {type(row).__name__}")
            if row.get(self.id_key) is not None:
                id = str(row[self.id_key])
            return self._example(row, id)
        except BadSample as bad:
            return bad.skipped(id)

    def _example(self, row: Row, id: str) -> Example:
        choices = self.choices or read_choices(row.get(self.choices_key))
        conversation = next((key for key in CONVERSATION_KEYS if row.get(key) is not None), None)
        if conversation is None:
            messages, inline = self._question_and_answer(row, choices), ()
        else:
            messages, inline = read_conversation(row[conversation])
        own = [image for key in dict.fromkeys((self.image_key, "images")) for image in _images(row.get(key))]
        if own and inline:
            raise BadSample("bad_row", f"images both in {conversation} and beside it: their order is unknown")
        if self.image_key is not None and not (self.image_named and (own or inline)):
            # The URL of an image beside the image is not another image
            rest = {
                name: value for name, value in row.items() if not (own and isinstance(value, str) and "://" in value)
            }
            if found := image_columns([rest], self.keys, self.question_template):
                name = f'name the column of the image, as in columns={{"image": "{self.image_key}"}}'
                raise BadSample("bad_row", f"column {found[0]!r} holds an image that is not read: remove it, or {name}")
        return Example(
            id=id,
            messages=messages,
            images=located(own or inline, self.base_folder),
            choices=choices,
            metadata={key: value for key, value in row.items() if key not in (*self.keys, conversation)},
        )

    def _question_and_answer(self, row: Row, choices: tuple[str, ...]) -> tuple[Message, ...]:
        answer = row.get(self.answer_key)
        text = plain_text(answer)
        if text is None and answer is not None:
            raise BadSample("bad_row", f"answer {str(answer)[:100]!r}: expected text or a number")
        if text is None or not text.strip():
            raise BadSample("bad_row", f"no answer in {self.answer_key!r}")
        if isinstance(answer, bool | np.bool_):
            known = {choice.casefold(): choice for choice in choices}
            text = ("no", "yes")[bool(answer)] if known.keys() == {"yes", "no"} else text
            text = known.get(text, text)
        elif choices and isinstance(answer, int | np.integer):
            named = dict(enumerate(choices)).get(int(answer))
            if self.class_numbers or text not in choices:
                if named is None:
                    raise BadSample("bad_row", f"answer {text}: there are {len(choices)} choices, counted from 0")
                text = named
            elif named not in (None, text):
                what = f"answer {text} is a choice, and as a number the index of {named!r}"
                raise BadSample("bad_row", f"{what}: write the choice as text")
        if choices and text not in choices:
            raise BadSample("bad_row", f"answer {text[:100]!r}: expected one of {', '.join(choices[:10])}")
        return Message("user", self._prompt(row)), Message("assistant", text)

    def _prompt(self, row: Row) -> str:
        question = row.get(self.question_key)
        if self.question_template is not None:
            question = fill_template(self.question_template, row)
        if not isinstance(question, str) or not question.strip():
            raise BadSample("bad_row", f"no question in {self.question_key or 'question_template'!r}")
        return question


class Reader(Protocol):
    """Makes an example of a row, or a `Skipped` with the cause; `fallback_id` is the id of a row without one."""

    def read(self, row: Any, fallback_id: str) -> Example | Skipped: ...  # noqa: D102


class SourceRows:
    """Base of indexed and streamed sources. `features` describes the columns; None: they are read from rows."""

    def __init__(self, reader: Reader, features: Mapping[str, Any] | None = None) -> None:
        self.reader = reader
        self.features = features

    def sample(self) -> Iterator[Any]:
        """About `SAMPLE` stored rows: evenly spaced ones, or the first ones of a stream."""
        raise NotImplementedError

    def columns(self) -> list[str]:
        """The names of the columns, from the features or the sample; ValueError if there are none."""
        if self.features:
            return list(self.features)
        rows = list(self.sample())
        names = list(dict.fromkeys(name for row in rows if isinstance(row, Mapping) for name in row))
        if not names:
            found = f"expected rows with columns, the first is {str(rows[0])[:80]!r}" if rows else "no rows"
            raise TheWorldError(found)
        return names


class IndexedRows(SourceRows):
    """A map-style source: `rows` in their order, each read on access."""

    def __init__(self, rows: Any, reader: Reader, features: Mapping[str, Any] | None = None) -> None:
        super().__init__(reader, features)
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example | Skipped:
        index = range(len(self.rows))[index]
        return self.reader.read(self.rows[index], str(index))

    def sample(self) -> Iterator[Any]:
        """Evenly spaced rows."""
        return (self.rows[place] for place in range(0, len(self.rows), max(1, len(self.rows) // SAMPLE)))

    def take(self, count: int) -> IndexedRows:
        """The first `count` rows."""
        return IndexedRows(Subset(self.rows, range(min(count, len(self.rows)))), self.reader, self.features)


class TheWorldDataset(IndexedRows):
    """A list of dicts as a data source: `[{"image": "a.png", "question": "...", "answer": "..."}]`.

    Arguments and rows are those of `RowReader`; for a Hugging Face dataset use `HFDatasetWrapper`. A key that is not
    given is recognised by the column's name, as in files: for example `image`, `text`, `label`. The id of a row without
    an `id` is its index. An unusable row gives a `Skipped`.

    ValueError if the rows have neither a conversation nor the columns of the keys and the template.
    """

    def __init__(
        self,
        records: Sequence[Row],
        *,
        image_key: str | None = None,
        question_key: str | None = None,
        answer_key: str | None = None,
        question_template: str | None = None,
        choices: Iterable[str] = (),
    ) -> None:
        super().__init__(records, RowReader(choices=tuple(choices)))
        if len(records):
            keys = {"image": image_key, "question": question_key, "answer": answer_key}
            named = {role: key for role, key in keys.items() if key is not None}
            settings = SourceSettings(columns=named, question_template=question_template)
            self.reader = reader_of(self, settings, tuple(choices))


def reader_of(source: SourceRows, settings: SourceSettings, choices: tuple[str, ...] = ()) -> RowReader:
    """The reader of the rows of `source`. Columns that `settings.columns` does not name are recognised by name.

    ValueError, which lists the columns, if they are not recognised or images would not be read.
    """
    columns, named, template = source.columns(), settings.columns or {}, settings.question_template
    base_folder = settings.base_folder
    answer = column_of("answer", named, columns) or ""
    classes: Sequence[str] | None = getattr((source.features or {}).get(answer), "names", None)  # of a ClassLabel
    choices = choices or tuple(classes or ())
    keys = choose_columns(columns, named, template, classes)
    reader = RowReader(**keys, choices=choices, base_folder=base_folder, class_numbers=bool(classes))
    usable = False
    for row in source.sample():
        example = reader.read(row, "")
        if isinstance(example, Example) and example.images:
            return reader
        usable |= isinstance(example, Example)  # if every row is skipped, that is counted later
    # No row has an image: an image column that is not read is an error
    found = image_columns(source.sample(), reader.keys, template)
    if found or (usable and settings.image_folder is not None):
        no_image = f"no image in the columns {', '.join(columns)}, but image_folder={settings.image_folder} is given"
        name = "NAME" if not found else reader.image_key if reader.image_key in columns else found[0]
        raise TheWorldError(
            f"{f'{found[0]} holds images' if found else no_image}; expected one of {', '.join(columns)} called "
            f'{", ".join(COLUMN_NAMES["image"])}, or its name: columns={{"image": "{name}"}}'
        )
    return reader


def read_conversation(turns: Any) -> tuple[tuple[Message, ...], tuple[Any, ...]]:
    """Messages, and the images in them.

    Turns are `{role, content}` or LLaVA's `{from, value}`; content is text, or a list of `{type: "text", text}` and
    `{type: "image"}` entries, the latter with or without its `image`.
    """
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise BadSample("bad_row", f"conversation of type {type(turns).__name__}: expected a list of turns")
    messages: list[Message] = []
    images: list[Any] = []
    for turn in turns:
        if not isinstance(turn, Mapping):
            raise BadSample("bad_row", f"turn of type {type(turn).__name__}: expected a dict")
        name, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if not isinstance(name, str) or name not in ROLE_OF:
            raise BadSample("bad_row", f"role {name!r}: expected one of {', '.join(ROLE_OF)}")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        messages.append(Message(ROLE_OF[name], _text_of(parts, images)))
    if not any(message.role == "assistant" and message.content.strip() for message in messages):
        raise BadSample("bad_row", "the assistant says nothing")
    return tuple(messages), tuple(images)


def _text_of(parts: Any, images: list[Any]) -> str:
    if not isinstance(parts, Sequence):
        raise BadSample("bad_row", f"content of type {type(parts).__name__}: expected text or a list of parts")
    text = ""
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            text += part["text"]
        elif kind == "image":
            text += IMAGE_MARKER
            images += _images(part.get("image"))
        else:
            raise BadSample("bad_row", f"content part {str(part)[:100]}: expected a text or an image")
    return text


def read_choices(value: Any) -> tuple[str, ...]:
    """The texts of a list of choices, or of the JSON of one; BadSample `bad_row` for anything else."""
    shown = str(value)[:100]
    if isinstance(value, str):  # a table of texts holds JSON
        try:
            value = parse_json(value or "[]")
        except ValueError:
            value = ""
    if value is not None and (not isinstance(value, Sequence) or isinstance(value, str | bytes)):
        raise BadSample("bad_row", f'choices {shown!r}: expected a list; as text in JSON: ["yes", "no"]')
    texts = [plain_text(choice) for choice in value or ()]
    if None in texts:
        raise BadSample("bad_row", f"choices {shown!r}: expected texts or numbers")
    return tuple(cast(list[str], texts))


def _images(value: Any) -> list[Any]:
    """The images in a field, as inputs of `open_image`."""
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return [image for item in value for image in _images(item)]
    if isinstance(value, Mapping):  # an undecoded image of Hugging Face datasets
        if not value.keys() & {"bytes", "path"}:
            keys = ", ".join(map(str, value)) or "no keys"
            raise BadSample("bad_row", f"an image with {keys}: expected bytes or path")
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
        if not value:
            raise BadSample("bad_row", "an image with neither bytes nor path; export it again")
    if isinstance(value, str) and "://" in value:
        return [_from_hub(value)]
    return [] if value is None or (isinstance(value, str) and not value.strip()) else [value]


def _from_hub(url: str) -> bytes:
    """The content of a file of a dataset that is streamed from the Hub."""
    if not url.startswith("hf://"):
        raise BadSample("bad_row", f"{url}: only dataset 'datacomp' downloads images; expected a file name")
    try:
        with HfFileSystem().open(url) as file:
            return cast(bytes, file.read(MAX_BYTES + 1))
    except OSError as error:
        raise BadSample("connection", f"{url}: {error}") from error
