"""Conversations, processor calls and models in one line each."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from PIL import Image
from transformers import Gemma3Processor

from theworld import TheWorld
from theworld.model import components
from theworld.model.world_encoders import CosmosWorldEncoder

WORLD: dict[str, Any] = {
    "world_image_size": 32,  # a 4 x 4 latent grid
    "world_inference_steps": 3,
    "world_guidance_scale": 1.0,
    "max_world_steps": 4,
}
FRAME_TOKENS = 16
ANSWER: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}

Message = dict[str, Any]


def load_world(gemma: Path, cosmos: Path, **overrides: Any) -> TheWorld:
    """A fused model with fresh, but always the same, world parts, which count as trained: it answers with its world."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TheWorld.from_pretrained(gemma, **{**WORLD, "cosmos_model_name": str(cosmos), **overrides})
    model.config.trained_steps = {"projector": 1}
    return model


def component_of(name: str) -> str:
    """The component of a parameter of a model with the Cosmos encoder."""
    encoder: Any = SimpleNamespace(components=lambda: CosmosWorldEncoder.components(cast(Any, None)))
    found = components.component_of(name, components.component_table(encoder))
    assert found is not None, f"{name} belongs to no component"
    return found


def user(text: str, *images: Any) -> Message:
    content = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*content, {"type": "text", "text": text}]}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def system(text: str) -> Message:
    return {"role": "system", "content": [{"type": "text", "text": text}]}


def encode(
    processor: Gemma3Processor,
    *conversations: list[Message],
    side: str = "left",
    processor_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Every model input of a padded batch of conversations."""
    return processor.apply_chat_template(
        list(conversations),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": side, **(processor_kwargs or {})},
        **{"add_generation_prompt": True, **kwargs},
    )


def answer_ids(model: Any, inputs: Any, **kwargs: Any) -> torch.Tensor:
    """What `generate` adds to the prompt: (B, new)."""
    output = model.generate(**inputs, **{**ANSWER, **kwargs})
    length = inputs["input_ids"].shape[1]
    assert torch.equal(
        output[:, :length], inputs["input_ids"].repeat_interleave(len(output) // len(inputs["input_ids"]), 0)
    )
    return output[:, length:]


def real_tokens(inputs: Any) -> list[list[int]]:
    """Token ids without padding, a list a prompt."""
    pairs = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
    return [ids[mask].tolist() for ids, mask in pairs]


def without_block(model: TheWorld, ids: torch.Tensor) -> torch.Tensor:
    """True where a token is no part of a world block."""
    config = model.config
    block = [config.start_of_world_token_id, config.world_token_id, config.end_of_world_token_id]
    return ~torch.isin(ids, torch.tensor(block))


def images_of(conversations: list[list[Message]]) -> list[Image.Image]:
    """All images, in reading order."""
    return [
        part["image"]
        for conversation in conversations
        for message in conversation
        for part in message["content"]
        if part["type"] == "image"
    ]
