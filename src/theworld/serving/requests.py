"""What a request of OpenAI's chat API may ask for: its fields, its messages and their images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from theworld.model import TheWorld
from theworld.utils.errors import TheWorldError
from theworld.utils.image_decoding import MAX_PIXELS, shown
from theworld.utils.images import open_image

URLS = ("data:", "http://", "https://")
ROLES = ("system", "user", "assistant")
WORLD = {"num_world_steps": int, "use_world": bool}
NUMBERS: dict[str, tuple[type, float, float]] = {
    "max_tokens": (int, 1, 2**31),
    "max_completion_tokens": (int, 1, 2**31),
    "seed": (int, 0, 2**63 - 1),
    "temperature": (float, 0, 2),
    "top_p": (float, 0, 1),
}
COLDEST = 1e-4  # logits divided by less overflow; 0 is greedy
MAX_STOPS, LONGEST_STOP = 4, 64
MAX_PIXELS_TOGETHER = 8 * MAX_PIXELS
"""Of all images of a request: they are in memory at one time, in three bytes a pixel."""

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "generation_config": (),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "prediction": (),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "web_search_options": (),
}
"""Fields of OpenAI's API that would change the answer and are not supported, with the values that change nothing."""


def check_unicode(body: Mapping[str, Any]) -> None:
    """Refuse half a surrogate pair, which JSON can escape; no tokenizer takes it, and no answer can repeat it.

    Raises:
        ValueError: Shows where it is.
    """
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        found = ascii(error.object[max(0, error.start - 40) : error.end])
        raise TheWorldError(f"not Unicode text: {found}: expected whole surrogate pairs, or UTF-8") from error


def check_fields(body: Mapping[str, Any]) -> None:
    """Refuse fields that are out of range, or that would be ignored.

    Raises:
        ValueError: Names the field.
    """
    for name, harmless in UNSUPPORTED.items():
        if body.get(name) is not None and body[name] not in harmless:
            raise TheWorldError(f"{name} is not supported: leave it out")
    for name, (kind, low, high) in NUMBERS.items():
        value = body.get(name)
        kinds = (int, float) if kind is float else (int,)
        if value is not None and (type(value) not in kinds or not low <= value <= high):
            raise TheWorldError(f"{name}={value!r}: expected a number from {low} to {high}")
    if 0 < (body.get("temperature") or 0) < COLDEST:
        raise TheWorldError(f"temperature={body['temperature']!r}: expected 0 (greedy), or {COLDEST} to 2")
    stops = body.get("stop")
    stops = [stops] if isinstance(stops, str) else stops or []
    fits = isinstance(stops, list) and len(stops) <= MAX_STOPS
    if not fits or not all(isinstance(stop, str) and 0 < len(stop) <= LONGEST_STOP for stop in stops):
        raise TheWorldError(f"stop: expected at most {MAX_STOPS} texts of 1 to {LONGEST_STOP} characters")


def world_settings(given: Any) -> dict[str, Any]:
    """`num_world_steps` and `use_world` of a request's `chat_template_kwargs`.

    Nothing else is taken from there: transformers would run a `chat_template` of the request.

    Raises:
        ValueError: It holds another key, or a value of another type.
    """
    given = {} if given is None else given
    if not isinstance(given, dict) or not given.keys() <= WORLD.keys():
        raise TheWorldError(f"chat_template_kwargs: expected an object with {' and '.join(WORLD)}, and no other key")
    for name, kind in WORLD.items():
        if given.get(name) is not None and type(given[name]) is not kind:
            raise TheWorldError(f"chat_template_kwargs: {name}={given[name]!r}: expected {kind.__name__}")
    return {name: given.get(name) for name in WORLD}


def read_messages(messages: Any, model: TheWorld, *, max_images: int) -> list[dict[str, Any]]:
    """OpenAI's messages as the processor takes them, with their images opened.

    Images are data URIs or public http(s) URLs. Control tokens in a text are text.

    Raises:
        ValueError: A message is not as OpenAI's API describes it, or an image cannot be used.
    """
    if not isinstance(messages, list) or not messages:
        raise TheWorldError("messages: expected a list of at least one message")
    parts = [(position, _parts(position, message)) for position, message in enumerate(messages)]
    images = sum(part["type"] == "image_url" for _, content in parts for part in content)
    if images > max_images:
        raise TheWorldError(
            f"the conversation has {images} images and the model reads at most {max_images}: give fewer"
        )
    turns: list[dict[str, Any]] = []
    pixels = 0
    for position, content in parts:
        turns.append({"role": messages[position]["role"], "content": []})
        for part in content:
            opened = _opened(part, model)
            turns[-1]["content"].append(opened)
            if opened["type"] == "image":
                pixels += opened["image"].width * opened["image"].height
            if pixels > MAX_PIXELS_TOGETHER:
                allowed = f"more than {MAX_PIXELS_TOGETHER:,} pixels together"
                raise TheWorldError(f"the images of the conversation have {allowed}: scale them down or give fewer")
    return turns


def _parts(position: int, message: Any) -> list[dict[str, Any]]:
    """The content of a message as a list of texts and images, validated, nothing opened."""
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise TheWorldError(f"messages[{position}]: expected an object with a role of {', '.join(ROLES)}")
    content = message.get("content")
    content = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(content, list) or not content or not all(isinstance(part, dict) for part in content):
        raise TheWorldError(f"messages[{position}]: expected a text, or a list of contents")
    for part in content:
        kind = part.get("type")
        value = part.get("image_url") if kind == "image_url" else part.get("text")
        value = value.get("url") if kind == "image_url" and isinstance(value, dict) else value
        if kind not in ("text", "image_url") or not isinstance(value, str):
            raise TheWorldError(
                f'messages[{position}]: a content of type {kind!r}: expected {{"type": "text", "text": ...}} or '
                '{"type": "image_url", "image_url": {"url": ...}}'
            )
        if kind == "image_url" and not value[:8].lower().startswith(URLS):
            raise TheWorldError(
                f"messages[{position}]: image {shown(value)}: expected a data: URI or a public http(s) URL"
            )
    return content


def _opened(part: dict[str, Any], model: TheWorld) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": model.as_text(part["text"])}
    return {"type": "image", "image": open_image({"image_url": part["image_url"]})}


__all__ = ["check_fields", "check_unicode", "read_messages", "world_settings"]
