"""Prompts for judges, and parsing of their replies.

A reply must be one JSON object with the expected keys and values in range; any other reply is counted as unreadable.
Taking the first digits of a free-form reply is unreliable: it scored one set of answers from 19 to 78 %, since a reply
that discusses "Region [0]" begins with a 0.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from theworld.data.text_rows import parse_json
from theworld.utils.errors import TheWorldError

from ..store.predictions import Prediction
from ..tasks.answers import parse_clock, parse_metres
from ..tasks.spatial_rgpt import error_of, is_right

Number = Annotated[float, BeforeValidator(str), Field(allow_inf_nan=False)]  # `str` first, so `true` is not a number


class Mark(BaseModel):
    """Reply with a mark: 1 if the response is right, else 0."""

    mark: Annotated[Number, Field(ge=0, le=1, multiple_of=1)]


class Metres(BaseModel):
    """Reply with the length that the response states, in metres."""

    said: Annotated[Number, Field(ge=0)] | None = Field(alias="metres")


class Hour(BaseModel):
    """Reply with the direction that the response states, as a clock hour from 1 to 12."""

    said: Annotated[Number, Field(ge=1, le=12, multiple_of=1)] | None = Field(alias="hour")


KINDS: dict[str, type[Mark | Metres | Hour]] = {"answer": Mark, "metres": Metres, "clock": Hour}
PROMPTS = {
    path.stem: path.read_text(encoding="utf-8").strip() for path in Path(__file__).with_name("prompts").iterdir()
}
FORMS = {form: (f"{PROMPTS['opening']} {PROMPTS[form]}", kind) for form, kind in KINDS.items()}
"""By form of question: the judge's system prompt, and the schema of its reply. Lengths and hours are compared by the
official rules of SpatialRGPT-Bench, not by the judge."""

USER_TURN = re.compile(r"<start_of_turn>user\n(.*?)<end_of_turn>", re.DOTALL)
CONTROL = re.compile(r"<start_of_turn>(?:user|model)\n?|<(?:bos|pad|unused\d+|image_soft_token|\w+_of_\w+)>(?:\*\d+)?")
"""Gemma's control tokens; a repeated token is followed by `*` and its count."""
THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
FENCE = re.compile(r"^```(?:json)?\s*\n(.*)\n\s*```$", re.DOTALL)


def form_of(task: str, family: str) -> str:
    """The key of `FORMS` for a family, by the last word of a SpatialRGPT-Bench category; `answer` for other tasks."""
    number = {"data": "metres", "direction": "clock"} if task == "spatial_rgpt" else {}
    return number.get(family.rpartition("_")[2], "answer")


def messages_for(form: str, prediction: Prediction) -> list[dict[str, str]]:
    """The messages that ask a judge about `prediction`."""
    question = question_of(prediction.prompt)
    asked = {"question": question, "right_answer": prediction.answer, "response": prediction.output}
    user = json.dumps(asked, ensure_ascii=False)
    return [{"role": "system", "content": FORMS[form][0]}, {"role": "user", "content": user}]


def question_of(prompt: str) -> str:
    """The last user turn of a rendered prompt without control tokens; the whole text if it has no turns."""
    return readable((USER_TURN.findall(prompt) or [prompt])[-1])


def readable(prompt: str) -> str:
    """A rendered prompt without control tokens."""
    return CONTROL.sub("", prompt).strip()


def read_reply(form: str, text: str, answer: str) -> dict[str, Any]:
    """The `mark` of a reply (1.0 right, 0.0 wrong), and further `figures` by name.

    Raises:
        ValueError: The reply is not one JSON object of the form.
    """
    # 1. Parse one JSON object, alone or in a code fence, after an optional <think> block
    text = THOUGHT.sub("", text).strip()
    fenced = FENCE.match(text)
    try:
        found = FORMS[form][1].model_validate(parse_json(fenced[1] if fenced else text))
    except ValidationError as error:
        told = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False)]
        raise TheWorldError("; ".join(told)) from error
    # 2. Take the judge's mark, or apply the official rule to the number that it read
    if isinstance(found, Mark):
        return {"mark": found.mark, "figures": {}}
    kind, truth = ("data", parse_metres(answer)) if form == "metres" else ("direction", parse_clock(answer))
    if truth is None:
        raise TheWorldError(f"no number in the right answer {answer[:80]!r}")
    if found.said is None:
        return {"mark": 0.0, "figures": {}}
    return {"mark": float(is_right(kind, found.said, truth)), "figures": error_of(kind, found.said, truth)}
