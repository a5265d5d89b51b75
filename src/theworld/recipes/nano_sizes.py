"""Whether the sizes of a recipe make models: each is run once on the meta device, without weights or arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from theworld.nano.dynamics import build_transformer, prompt_embedding
from theworld.nano.vae import LATENT_CHANNELS, build_vae
from theworld.nano.vision import TOKEN_PIXELS
from theworld.nano.vlm import TEXT_CONFIG, VISION_CONFIG
from theworld.utils.errors import TheWorldError, brief, one_line

VOCABULARY = 300  # any number


def check_models(sizes: Mapping[str, Mapping[str, Any]], image_size: int, frames: int) -> None:
    """Run the models with overridden sizes on clips (1, 3, F, H, W) of `frames` and `image_size`.

    Args:
        sizes: Overrides by key of the recipe: `vae`, `transformer`, `text`, `vision`.

    Raises:
        ValueError: A model cannot be built or run with its sizes.
    """
    text, vision = (sizes.get(name, {}) for name in ("text", "vision"))
    runs: dict[str, Callable[[], object]] = {
        "vae": lambda: build_vae(sizes["vae"]).encode(torch.zeros(1, 3, frames, image_size, image_size)),
        "transformer": lambda: _run_transformer(sizes["transformer"], image_size, frames),
        "text": lambda: _run_gemma(text, vision, image_size),
        "vision": lambda: _run_gemma(text, vision, image_size),
    }
    for name in sizes:
        try:
            with torch.device("meta"), torch.no_grad():
                runs[name]()
        except (ValueError, RuntimeError, ZeroDivisionError, StrictDataclassError) as error:
            told = f"{name}={brief(repr(dict(sizes[name])))}: no model has these sizes ({brief(one_line(error))})"
            raise TheWorldError(f"{told}; docs/nano-world.md names the nano sizes") from error


def _run_transformer(sizes: Mapping[str, Any], image_size: int, frames: int) -> None:
    length, side = 1 + (frames - 1) // 4, image_size // 8
    build_transformer(sizes)(
        hidden_states=torch.zeros(1, LATENT_CHANNELS, length, side, side),
        timestep=torch.zeros(1, 1, length, 1, 1),
        encoder_hidden_states=prompt_embedding(),
        fps=8,
        condition_mask=torch.zeros(1, 1, length, side, side),
        return_dict=False,
    )


def _run_gemma(text: Mapping[str, Any], vision: Mapping[str, Any], image_size: int) -> None:
    places = (image_size // TOKEN_PIXELS) ** 2
    config = Gemma3Config(
        text_config={**TEXT_CONFIG, "vocab_size": VOCABULARY, **text},
        vision_config={**VISION_CONFIG, "image_size": image_size, **vision},
        mm_tokens_per_image=places,
        image_token_index=VOCABULARY - 1,
    )
    model = Gemma3ForConditionalGeneration(config)
    model(inputs_embeds=torch.zeros(1, 2, config.get_text_config().hidden_size))
    seen: Any = model.model.get_image_features(torch.zeros(1, 3, image_size, image_size))
    found = seen.pooler_output.shape[-2]
    if found != places:
        patch = {**VISION_CONFIG, **vision}["patch_size"]
        raise ValueError(f"patches of {patch} pixels give {found} image tokens, not {places}")


__all__ = ["check_models"]
