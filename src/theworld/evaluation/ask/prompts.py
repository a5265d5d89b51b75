"""Items -> one left-padded batch of prompts, in the same way for every arm.

Shape legend: `B` items that could be asked, `L` sequence, `M` images of all of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from theworld.data.images import open_image
from theworld.data.prompts import Turn, chat_turns, reserved_tokens
from theworld.data.regions import draw_regions
from theworld.data.schema import IMAGE_MARKER, BadSample, Message
from theworld.model import TheWorld
from theworld.model.fusion import FUSIONS
from theworld.utils.devices import input_device

from ..store.predictions import Item

WORLD_INPUTS = ("world_pixel_values", "num_world_steps")
"""Inputs that the processor makes for the world, the second one for `gated` fusion alone."""


@dataclass(frozen=True)
class Batch:
    """Prompts of the items that could be asked."""

    items: list[Item]  # (B)
    # `input_ids`, `attention_mask`, `token_type_ids` (B, L) and `pixel_values`, on the model's device; without world
    # pixels, which cached latents replace
    inputs: dict[str, torch.Tensor]
    prompts: list[str]  # as text (B), see `render`
    world_tokens: list[int]  # number of world tokens that each prompt calls for (B)


@dataclass(frozen=True)
class PromptBuilder:
    """Makes the prompts of one arm."""

    model: TheWorld  # its processor and its limit of positions are used
    num_world_steps: int | None  # future latent frames of the world blocks; `None` for prompts without a world
    image: bool = True  # whether prompts contain the images
    instruction: str = ""  # appended to the question on a new line
    room: int = 0  # tokens reserved for the answer after a prompt
    image_folder: Path | None = None  # folder of relative image names

    def build(self, items: Sequence[Item]) -> tuple[Batch | None, dict[str, str]]:
        """The batch (`None` if no item is left), and by item id the reason why it could not be asked."""
        failed: dict[str, str] = {}
        turns: dict[str, list[Turn]] = {}
        for item in items:
            try:
                turns[item.id] = self.turns(item)
            except BadSample as error:
                failed[item.id] = f"{error.cause}: {error.detail}"
        limit = self.model.config.get_text_config().max_position_embeddings
        while turns:
            inputs = self.encode(list(turns.values()))
            lengths = dict(zip(turns, inputs["attention_mask"].sum(-1).tolist(), strict=True))
            long = {id: n for id, n in lengths.items() if n + self.room > limit}  # rare, so running again is cheap
            told = f"tokens and {self.room} to answer, but the model has {limit} positions"
            failed |= {id: f"too_long: {n} {told}" for id, n in long.items()}
            turns = {id: own for id, own in turns.items() if id not in long}
            if not long:
                ids, masks = inputs["input_ids"], inputs["attention_mask"].bool()
                prompts = [render(self.model.processor, row[mask]) for row, mask in zip(ids, masks, strict=True)]
                asked = [item for item in items if item.id in turns]
                return Batch(asked, inputs, prompts, self.count_world_tokens(asked, ids)), failed
        return None, failed

    def count_world_tokens(self, items: Sequence[Item], ids: torch.Tensor) -> list[int]:
        """World tokens that prompts (B, L) call for: their placeholders, or those of each image in `gated` fusion."""
        config = self.model.config
        if FUSIONS[config.fusion].block:
            return (ids == config.world_token_id).sum(-1).tolist()
        if self.num_world_steps is None or not self.image:
            return [0] * len(items)
        return [len(item.images) * config.world_tokens(self.num_world_steps) for item in items]

    @cached_property
    def reserved(self) -> re.Pattern[str]:
        """Pattern of tokens that a text must not contain."""
        return reserved_tokens(self.model.processor.tokenizer)

    def turns(self, item: Item) -> list[Turn]:
        """The item as turns for the chat template. Raises `BadSample` if they cannot be built."""
        messages = list(item.messages)
        if self.instruction:
            messages[-1] = replace(messages[-1], content=f"{messages[-1].content}\n{self.instruction}")
        if not self.image:
            messages = [Message(message.role, message.content.replace(IMAGE_MARKER, "")) for message in messages]
        return chat_turns(messages, open_images(item, self.image_folder) if self.image else [], self.reserved)

    def encode(self, conversations: list[list[Turn]]) -> dict[str, torch.Tensor]:
        """Model inputs of conversations, left-padded, on the model's input device, without `WORLD_INPUTS`."""
        world = {"use_world": False} if self.num_world_steps is None else {"num_world_steps": self.num_world_steps}
        options: dict[str, Any] = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
        options["processor_kwargs"] = {"padding": True, "padding_side": "left", **world}
        inputs = self.model.processor.apply_chat_template(conversations, return_tensors="pt", **options)
        device = input_device(self.model)
        return {name: value.to(device) for name, value in inputs.items() if name not in WORLD_INPUTS}


def open_images(item: Item, image_folder: Path | None) -> list[Image.Image]:
    """The item's images, with regions drawn if the task requests it. Raises `BadSample` if one cannot be opened."""
    images = [open_image(image, image_folder) for image in item.images]
    if images and item.metadata.get("draw_regions"):
        images[0] = draw_regions(images[0], item.metadata["regions"])
    return images


def render(processor: Any, ids: torch.Tensor) -> str:
    """A prompt (L,) as text with special tokens. A repeated placeholder is written once, with its count."""
    tokenizer = processor.tokenizer
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    placeholders = [tokenizer.image_token, tokenizer.convert_ids_to_tokens(processor.world_token_id)]
    for token in filter(None, placeholders):
        run = re.compile(f"(?:{re.escape(token)}){{2,}}")
        text = run.sub(lambda match, token=token: f"{token}*{len(match[0]) // len(token)}", text)
    return text
