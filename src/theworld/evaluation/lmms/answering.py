"""Answers prompts of lmms-eval in batches. This module does not import lmms-eval.

Shape legend: `B` prompts, `L` sequence, `M` images of all prompts, `N` world tokens of one image, `D` width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from theworld.data.prompts import Turn
from theworld.model import TheWorld
from theworld.utils.errors import TheWorldError
from theworld.utils.logging import logger

from ..ask.prompts import Batch, PromptBuilder
from ..ask.scorers import choices, consumed_world_tokens, world_inputs
from ..store.predictions import Item

MAX_NEW_TOKENS = 128
"""Default of tasks that set none; the same as for lmms-eval's own Gemma 3."""

HARNESS_STOP = "\n\n"
"""Stop string that lmms-eval adds to tasks without one. It is ignored, since answers may have two paragraphs."""

SAMPLING = ("temperature", "top_p", "top_k")
OPTIONS = ("max_new_tokens", "num_beams", "do_sample", "until", *SAMPLING)

Conversation = Callable[[], list[Turn]]
"""Returns the turns of a prompt. It is called when the batch is due, so that images are opened late."""


@dataclass(frozen=True)
class Answering:
    """A model with the settings of one run."""

    model: TheWorld  # with the world enabled, or plain Gemma 3 through the same code
    num_world_steps: int | None = None  # future latent frames K; `None`: the model's own
    batch_size: int = 1  # prompts per batch

    @torch.no_grad()
    def generate(self, prompts: Sequence[Conversation], settings: Sequence[dict[str, Any]]) -> list[str]:
        """The generated answer to each prompt, with the task's generation settings.

        Raises:
            ValueError: A prompt with an image has no world tokens, or they did not reach the model.
        """
        if unknown := sorted(set[str]().union(*settings) - set(OPTIONS)):
            logger.warning("the task's generation_kwargs %s have no meaning here: left out", ", ".join(unknown))
        said: dict[int, str] = {}
        for batch in self._batches(settings):
            chosen = settings[batch[0]]
            with self._encoded([prompts[place]() for place in batch]) as (inputs, world):
                output = self.model.generate(**inputs, **world_inputs(world), **generation_options(chosen))
            new = output[:, inputs["input_ids"].shape[1] :]
            texts = self.model.processor.batch_decode(new, skip_special_tokens=True)
            said |= zip(batch, (cut(text.strip(), chosen.get("until", [])) for text in texts), strict=True)
        return [said[place] for place in range(len(prompts))]

    @torch.no_grad()
    def losses(self, prompts: Sequence[Conversation], answers: Sequence[tuple[str, ...]]) -> list[dict[str, float]]:
        """By prompt, the negative log-probability of every answer as a complete assistant turn.

        Raises:
            ValueError: As `generate`.
        """
        found: list[dict[str, float]] = []
        for batch in self._batches([{}] * len(prompts)):
            items = [Item(str(place), (), (), "", choices=answers[place]) for place in batch]
            with self._encoded([prompts[place]() for place in batch]) as (inputs, world):
                scored = choices(self.model, Batch(items, inputs, [], []), world)
            found += [{text: -value for text, value in (one.choice_logprobs or {}).items()} for one in scored]
        return found

    def _batches(self, settings: Sequence[dict[str, Any]]) -> list[list[int]]:
        """Batches of indices of prompts with the same settings."""
        alike: dict[str, list[int]] = {}
        for place, chosen in enumerate(settings):
            alike.setdefault(json.dumps(chosen, sort_keys=True), []).append(place)
        size = self.batch_size
        return [places[start : start + size] for places in alike.values() for start in range(0, len(places), size)]

    @contextmanager
    def _encoded(
        self, conversations: list[list[Turn]]
    ) -> Generator[tuple[dict[str, torch.Tensor], torch.Tensor | None]]:
        """Left-padded inputs of a batch, and world tokens (M, N, D) of its images.

        On exit, checks that all world tokens of the prompts reached the model's embeddings.
        """
        # 1. Build the prompts
        config, processor, world = self.model.config, self.model.processor, None
        steps = config.num_world_steps if self.num_world_steps is None else self.num_world_steps
        inputs = PromptBuilder(self.model, steps if config.enable_world else None).encode(conversations)
        is_world = inputs["input_ids"] == config.world_token_id  # (B, L)
        parts = [[part for turn in turns for part in turn["content"]] for turns in conversations]
        images = [[part["image"] for part in row if part["type"] == "image"] for row in parts]
        # 2. Compute the world tokens of their images
        if config.enable_world and any(images):
            blind = [row for row, tokens in zip(images, is_world.any(-1).tolist(), strict=True) if row and not tokens]
            if blind:
                raise TheWorldError(
                    f"a prompt with {len(blind[0])} images has no world tokens although enable_world=true: the "
                    "checkpoint's processor makes none; save the checkpoint with its world, or give enable_world=false"
                )
            world = self.model.model.get_world_features(processor.world_pixels(images), steps).pooler_output
        # 3. Run the caller, and check that the world tokens were consumed
        with consumed_world_tokens(self.model) as counts:
            yield inputs, world
        if sum(counts) < is_world.sum():  # beams consume more
            raise TheWorldError(
                f"the model consumed {sum(counts)} of {int(is_world.sum())} world tokens: the answers would be plain "
                "Gemma 3's"
            )


def text_prompt(text: str, images: Sequence[Any]) -> list[Turn]:
    """A user turn with all images, then the text. The `<image>` marker of other models' templates is removed."""
    content: list[Turn] = [{"type": "image", "url": image} for image in images]
    return chat_prompt([{"role": "user", "content": [*content, {"type": "text", "text": text}]}])


def chat_prompt(messages: Sequence[Turn]) -> list[Turn]:
    """Messages of lmms-eval converted for a chat template. Images are passed on as the task gives them.

    Raises:
        ValueError: A message has content other than text and images.
    """

    def part(given: Turn) -> Turn:
        if given["type"] == "image":
            return {"type": "image", "image": given["url"]}
        if given["type"] == "text":
            return {"type": "text", "text": given["text"].replace("<image>", "")}
        raise TheWorldError(
            f"a message has content of type {given['type']!r}: TheWorld takes only text and images; choose another task"
        )

    return [{"role": turn["role"], "content": [part(given) for given in turn["content"]]} for turn in messages]


def generation_options(settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `generate` from the task's `generation_kwargs`. Greedy unless the temperature is above 0."""
    options = {name: settings[name] for name in ("max_new_tokens", "num_beams") if settings.get(name)}
    options = {"max_new_tokens": MAX_NEW_TOKENS, "num_beams": 1, "do_sample": False, **options}
    if settings.get("temperature"):
        options |= {"do_sample": True, **{name: settings[name] for name in SAMPLING if settings.get(name) is not None}}
    return options


def cut(answer: str, until: str | Sequence[str]) -> str:
    """`answer` up to the first stop string that the task sets."""
    for stop in [until] if isinstance(until, str) else until:
        if stop and stop != HARNESS_STOP:
            answer = answer.partition(stop)[0]
    return answer.strip()
