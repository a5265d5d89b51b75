"""The nano vision-language model: stock Gemma 3 with SigLIP at toy size, trained from random weights on the nano world.

The vision stage (`vision.py`) comes first. Two language stages follow with frozen vision, on conversations in Gemma's
chat format.
"""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoProcessor, Gemma3Config, Gemma3ForConditionalGeneration, GenerationConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from theworld.constants import END_OF_TURN, IGNORE_INDEX
from theworld.utils.folders import read_object
from theworld.utils.io import write_text
from theworld.utils.weights import read_weights

from .asking import evaluate_vlm
from .batches import Batches
from .conversations import ChatEncoder
from .fit import Group, Progress, fit
from .questions import all_texts
from .scenes import load
from .tokenizer import BOI_TOKEN, EOI_TOKEN, IMAGE_TOKEN, build_processor, build_tokenizer
from .vision import IMAGE_SIZE, IMAGE_TOKENS, TOKEN_PIXELS, encode_images, take_vision, train_vision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from transformers import Gemma3Processor, GemmaTokenizer

    from .scenes import SceneSet

logger = logging.getLogger(__name__)

CONVERSATIONS_PER_STEP = 12
TURNS = 8
ALL_KINDS = {"drop": 0.16, "race": 0.24, "stack": 0.16, "pegs": 0.2, "bumpers": 0.24}
MOSTLY_RACES = {"drop": 0.1, "race": 0.55, "stack": 0.1, "pegs": 0.1, "bumpers": 0.15}

TEXT_CONFIG: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 512,
    "sliding_window_pattern": 5,
    "max_position_embeddings": 2048,
}
VISION_CONFIG: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": IMAGE_SIZE,
    "patch_size": 4,
    "vision_use_head": False,
}


def build_gemma(
    tokenizer: GemmaTokenizer,
    *,
    text: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] | None = None,
    image_tokens: int = IMAGE_TOKENS,
) -> Gemma3ForConditionalGeneration:
    """Build a random Gemma 3 with the token ids of `tokenizer`; `text` and `vision` override the nano sizes.

    The initialisation suits a narrow model. Embeddings have unit size after Gemma's sqrt(D) scaling. The output of
    every block is scaled so that the sum of the residual stream has unit size. The image projection is not zero.
    """
    width = {**TEXT_CONFIG, **(text or {})}["hidden_size"]
    ids: dict[str, Any] = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id}
    end_of_turn = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    tokens = {"boi_token_index": BOI_TOKEN, "eoi_token_index": EOI_TOKEN, "image_token_index": IMAGE_TOKEN}
    markers: dict[str, Any] = {name: tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}
    common: dict[str, Any] = {**ids, "eos_token_id": tokenizer.eos_token_id, "initializer_range": width**-0.5}
    config = Gemma3Config(
        text_config={**TEXT_CONFIG, **common, "vocab_size": len(tokenizer), **(text or {})},
        vision_config={**VISION_CONFIG, **(vision or {})},
        mm_tokens_per_image=image_tokens,
        **markers,
        **common,
    )
    model = Gemma3ForConditionalGeneration(config)
    projection = model.model.multi_modal_projector.mm_input_projection_weight
    nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
    layers = model.model.language_model.layers
    for layer in layers:  # Gemma's norms multiply by 1 + weight
        for norm in (layer.post_attention_layernorm, layer.post_feedforward_layernorm):
            nn.init.constant_(norm.weight, (2 * len(layers)) ** -0.5 - 1)
    model.generation_config = GenerationConfig(eos_token_id=[tokenizer.eos_token_id, end_of_turn], **ids)
    return model


def train_language(
    model: Gemma3ForConditionalGeneration,
    processor: Gemma3Processor,
    scenes: SceneSet,
    *,
    steps: int,
    shares: Mapping[str, float] = ALL_KINDS,
    turns: int = TURNS,
    learning_rate: float = 1.5e-3,
    progress: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Train the language model on conversations, with a frozen vision tower, on the device of `model`.

    Args:
        shares: Share of conversations by kind of scene.
        turns: Maximum number of questions in a conversation.
        progress: Progress file, see `fit`.

    Returns the figures of `fit`.
    """
    rng, device = np.random.default_rng(seed), model.device
    batches = Batches(scenes, ChatEncoder(processor), CONVERSATIONS_PER_STEP, turns, shares, rng)
    end_of_turn = processor.tokenizer.convert_tokens_to_ids(END_OF_TURN)

    def step_function(_: int) -> tuple[Tensor, dict[str, float]]:
        # 1. Image tokens and hidden states of a batch of conversations
        batch = next(batches)
        features = encode_images(model, scenes, batch.images)
        ids = batch.ids.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            hidden = model.model(
                input_ids=ids,
                attention_mask=batch.mask.to(device),
                token_type_ids=(ids == processor.tokenizer.image_token_id).long(),
                mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=features)},
                use_cache=False,
            ).last_hidden_state
            # 2. Logits of the supervised tokens only
            targets = batch.labels[:, 1:].to(device)
            supervised = targets != IGNORE_INDEX
            logits = model.lm_head(hidden[:, :-1][supervised]).float()
        # 3. Loss, and accuracy without the token that ends a turn
        targets = targets[supervised]
        loss = F.cross_entropy(logits, targets)
        words = targets != end_of_turn
        right = (logits.argmax(-1) == targets)[words].float().mean().item()
        return loss, {"right": right, "samples": words.sum().item()}

    language = model.model.language_model.parameters()
    kept = None if progress is None else Progress(progress, batches)
    return fit("language", step_function, [Group(language, learning_rate)], steps=steps, warmup=200, progress=kept)


def save_vlm(model: Gemma3ForConditionalGeneration, processor: Gemma3Processor, out: Path) -> None:
    """Write a folder in the layout of the Hub. Weights are stored in bf16 and loaded in fp32, which suits a CPU."""
    weights = {name: value.bfloat16() for name, value in model.state_dict().items()}
    del weights["lm_head.weight"]  # tied to the embeddings
    model.save_pretrained(out, state_dict=weights)
    processor.save_pretrained(out)


def train_vlm(
    scenes_folder: Path,
    out: Path,
    *,
    vision_steps: int = 3000,
    language_steps: int = 4000,
    comparison_steps: int = 1800,
    vision_learning_rate: float = 1.5e-3,
    language_learning_rate: float = 1.5e-3,
    per_family: int = 300,
    text: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] | None = None,
    start_from: Path | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> dict[str, Any]:
    """Train the nano Gemma on `scenes_folder`/train, save it to `out`, and evaluate it on `scenes_folder`/validation.

    The last stage, comparison, continues the language stage mostly on races, because comparing two named balls is
    learned last. The weights and figures of each stage are saved as `<out>-<stage>.*`, and so is the progress of an
    interrupted stage. A second call continues from these files.

    Args:
        per_family: Maximum number of validation questions of a family, in each setting of `evaluate_vlm`.
        text, vision: Override the nano sizes.
        start_from: Folder of a nano Gemma whose vision tower and projector are trained further instead of new ones.

    Returns the figures, which are also written to `out`/vlm.json: the curve of every stage and the accuracies of
    `evaluate_vlm`.
    """
    # 1. The model
    torch.manual_seed(seed)
    scenes = load(scenes_folder / "train")
    size = scenes.frames.shape[2]
    tokens = (size // TOKEN_PIXELS) ** 2
    processor = build_processor(build_tokenizer(all_texts()), size, tokens)
    vision = {"image_size": size, **(vision or {})}
    model = build_gemma(processor.tokenizer, text=text, vision=vision, image_tokens=tokens)
    if start_from is not None:
        take_vision(model, start_from)
    cast(nn.Module, model).to(device)
    model.set_attn_implementation("eager")  # 2.5 times faster than sdpa with a mask, in bf16 autocast on a CPU
    # 2. The stages
    rates = {"vision": vision_learning_rate, "language": language_learning_rate}
    comparison: dict[str, Any] = {
        "steps": comparison_steps,
        "shares": MOSTLY_RACES,
        "turns": 10,
        "learning_rate": 2 / 3 * language_learning_rate,
        "seed": seed + 1,
    }
    language: dict[str, Any] = {"steps": language_steps, "learning_rate": rates["language"], "seed": seed}
    seeing: dict[str, Any] = {"steps": vision_steps, "learning_rate": rates["vision"], "seed": seed}
    stages: dict[str, Callable[..., dict[str, Any]]] = {
        "vision": partial(train_vision, model, scenes, **seeing),
        "language": partial(train_language, model, processor, scenes, **language),
        "comparison": partial(train_language, model, processor, scenes, **comparison),
    }
    figures: dict[str, Any] = {name: _run_stage(model, out, name, train) for name, train in stages.items()}
    # 3. Save the model, load it again and evaluate it
    save_vlm(model, processor, out)
    saved = Gemma3ForConditionalGeneration.from_pretrained(out)
    cast(nn.Module, saved).to(device)
    validation = load(scenes_folder / "validation")
    figures["validation"] = evaluate_vlm(saved, AutoProcessor.from_pretrained(out), validation, per_family, seed=seed)
    write_text(out / "vlm.json", json.dumps(figures, indent=2))
    return figures


def _run_stage(
    model: Gemma3ForConditionalGeneration, out: Path, name: str, train: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    """Train a stage, or load its weights into `model` if an earlier call finished it. Returns the figures."""
    weights, record, progress = (
        out.with_name(f"{out.name}-{name}.{suffix}") for suffix in ("safetensors", "json", "progress")
    )
    if record.is_file():
        logger.info("%s: loaded from %s", name, weights)
        state = read_weights([str(weights)])
        model.load_state_dict({**state, "lm_head.weight": state["model.language_model.embed_tokens.weight"]})
        return read_object(record, cure="remove the file to train this stage again")
    figures = train(progress=progress)
    trained = {key: value for key, value in model.state_dict().items() if key != "lm_head.weight"}  # tied
    save_file(trained, weights)
    write_text(record, json.dumps(figures))
    progress.unlink()
    return figures
