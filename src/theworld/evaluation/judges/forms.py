"""What a judge is asked about an answer, and how its reply is read: as JSON of the agreed form, or not at all.

Readers that take the first digit or the first two numbers of a reply have scored one set of answers anywhere from 19 to
78 %: a reply that thinks aloud about "Region [0]" begins with a 0. So a reply counts when it is one JSON object with
the agreed keys and values in range, and is counted apart when it is not.
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

Number = Annotated[float, BeforeValidator(str), Field(allow_inf_nan=False)]  # as text, `true` is none


class Mark(BaseModel):
    """A reply that says whether the response is right."""

    mark: Annotated[Number, Field(ge=0, le=1, multiple_of=1)]


class Metres(BaseModel):
    """A reply that reads a length."""

    said: Annotated[Number, Field(ge=0)] | None = Field(alias="metres")


class Hour(BaseModel):
    """A reply that reads a direction."""

    said: Annotated[Number, Field(ge=1, le=12, multiple_of=1)] | None = Field(alias="hour")


KINDS: dict[str, type[Mark | Metres | Hour]] = {"answer": Mark, "metres": Metres, "clock": Hour}
PROMPTS = {
    path.stem: path.read_text(encoding="utf-8").strip() for path in Path(__file__).with_name("prompts").iterdir()
}
FORMS = {form: (f"{PROMPTS['opening']} {PROMPTS[form]}", kind) for form, kind in KINDS.items()}
"""What a judge is told, and what its reply holds, by kind of question; lengths and hours are compared by the official
rules of SpatialRGPT-Bench, not by the judge."""

USER_TURN = re.compile(r"<start_of_turn>user\n(.*?)<end_of_turn>", re.DOTALL)
CONTROL = re.compile(r"<start_of_turn>(?:user|model)\n?|<(?:bos|pad|unused\d+|image_soft_token|\w+_of_\w+)>(?:\*\d+)?")
"""Gemma's control tokens, runs of them with their count."""
THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
FENCE = re.compile(r"^```(?:json)?\s*\n(.*)\n\s*```$", re.DOTALL)


def form_of(task: str, family: str) -> str:
    """The key of `FORMS` that fits a prediction: the last word of a SpatialRGPT-Bench category tells it."""
    number = {"data": "metres", "direction": "clock"} if task == "spatial_rgpt" else {}
    return number.get(family.rpartition("_")[2], "answer")


def messages_for(form: str, prediction: Prediction) -> list[dict[str, str]]:
    """The chat that asks about `prediction`."""
    question = question_of(prediction.prompt)
    asked = {"question": question, "right_answer": prediction.answer, "response": prediction.output}
    user = json.dumps(asked, ensure_ascii=False)
    return [{"role": "system", "content": FORMS[form][0]}, {"role": "user", "content": user}]


def question_of(prompt: str) -> str:
    """The last question of a rendered prompt, without turns, images and worlds; the whole text if it has no turns."""
    return readable((USER_TURN.findall(prompt) or [prompt])[-1])


def readable(prompt: str) -> str:
    """A rendered prompt without the tokens that frame it."""
    return CONTROL.sub("", prompt).strip()


def read_reply(form: str, text: str, answer: str) -> dict[str, Any]:
    """The `mark` of a reply, 1.0 for a right answer and 0.0 for a wrong one, and further `figures` by name.

    Raises:
        ValueError: It is not one JSON object of the form.
    """
    # 1. One JSON object of the form, alone or in a fence, behind a thought
    text = THOUGHT.sub("", text).strip()
    fenced = FENCE.match(text)
    try:
        found = FORMS[form][1].model_validate(parse_json(fenced[1] if fenced else text))
    except ValidationError as error:
        told = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False)]
        raise TheWorldError("; ".join(told)) from error
    # 2. The judge's own mark, or the official rule for the number that it read
    if isinstance(found, Mark):
        return {"mark": found.mark, "figures": {}}
    kind, truth = ("data", parse_metres(answer)) if form == "metres" else ("direction", parse_clock(answer))
    if truth is None:
        raise TheWorldError(f"no number in the right answer {answer[:80]!r}")
    if found.said is None:
        return {"mark": 0.0, "figures": {}}
    return {"mark": float(is_right(kind, found.said, truth)), "figures": error_of(kind, found.said, truth)}
