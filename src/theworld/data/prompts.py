"""Turns an example into the conversation that a chat template takes, for training and inference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

from theworld.constants import MARKERS
from theworld.utils.control_tokens import control_tokens

from .schema import IMAGE_MARKER, BadSample, Message

Turn = dict[str, Any]


class ChatProcessor(Protocol):
    """Interface of a processor: Gemma 3's or TheWorld's."""

    tokenizer: Any

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any: ...  # noqa: D102


def reserved_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Matches tokens that a text must not hold, because a tokenizer reads them as structure.

    These are tokens of turns, images and worlds, spare slots, and lone surrogates, which JSON can hold but for which
    tokenizers raise a TypeError.
    """
    special = control_tokens(tokenizer) | set(MARKERS)
    return re.compile("|".join([*map(re.escape, sorted(special)), r"<unused\d+>", r"[\ud800-\udfff]"]))


def chat_turns(messages: Sequence[Message], images: Sequence[Any], reserved: re.Pattern[str]) -> list[Turn]:
    """Messages as the turns of a chat template, with each image at its marker, or all before the first user text.

    `images` fill the template's `image` entries; `reserved` are the `reserved_tokens` of the tokenizer.

    Raises:
        BadSample: `turn_order` unless turns are an optional system message, then user and assistant alternating;
            `image_count` if markers and images differ in number; `special_token` if a text holds a reserved token.
    """
    roles = [message.role for message in messages]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken or spoken != [("user", "assistant")[place % 2] for place in range(len(spoken))]:
        raise BadSample("turn_order", f"turns {', '.join(roles) or 'none'}: expected user, assistant, user, ...")
    for message in messages:
        token = reserved.search(message.content)
        if token or (message.role != "user" and IMAGE_MARKER in message.content):
            name = token[0] if token else IMAGE_MARKER
            raise BadSample("special_token", f"the {message.role}'s text holds {name!r}, which is reserved")
    markers = sum(message.content.count(IMAGE_MARKER) for message in messages)
    if markers and markers != len(images):
        raise BadSample("image_count", f"{markers} {IMAGE_MARKER} in the text, but {len(images)} images")
    rest = iter(images)
    turns: list[Turn] = []
    for message in messages:
        content: list[Turn] = []
        if message.role == "user" and not markers:
            content += [{"type": "image", "image": image} for image in rest]
        for place, text in enumerate(message.content.split(IMAGE_MARKER)):
            content += [{"type": "image", "image": next(rest)}] if place else []
            content += [{"type": "text", "text": text.strip()}] if text.strip() else []
        turns.append({"role": message.role, "content": content})
    return [turn for turn in turns if turn["content"] or turn["role"] != "system"]
