"""Attention of an answer's tokens to the world tokens, the image and the text.

Attention does not prove what caused an answer: values can be ignored, moved between positions in earlier layers, or
read from a position that only collects them (Jain and Wallace 2019, arXiv 1902.10186). The arms of `theworld evaluate`
measure whether world tokens change answers.

Shape legend: `A` answer tokens, `L` sequence, `T = 1 + K` latent frames, `R, C` rows and columns of world tokens.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from theworld.model import TheWorld
from theworld.model.world_encoders import WorldEncoder
from theworld.utils.errors import TheWorldError

GROUPS = ("world", "image", "text", "start")


@dataclass(frozen=True)
class Explanation:
    """An answer, and the attention that predicted each of its tokens.

    Args:
        question: The question.
        answer: The answer, as from `model.ask`.
        tokens: The answer's `A` tokens.
        attention: (layers, A, L) mean over heads; every row sums to 1. Row `a` is the attention of the position that
            predicts answer token `a`: the prompt's last one for the first, the token before it for the others.
        groups: By name of `GROUPS`, a mask (L) of its positions: world tokens; image tokens; text with all markers and
            the answer so far; and the first token, which receives attention that is not needed elsewhere (arXiv
            2309.17453).
        grid: `(T, R, C)` of the world tokens.
        sliding: For each layer, whether it attends within a window only; attention outside of it is 0.
        latents: (1, channels, T, h, w) of the world tokens.
    """

    question: str
    answer: str
    tokens: list[str]
    attention: Tensor
    groups: dict[str, Tensor]
    grid: tuple[int, int, int]
    sliding: list[bool]
    latents: Tensor

    def world_attention(self, layer: int | None = None) -> Tensor:
        """Attention (T, R, C) to each world token, the mean over the answer's tokens, of one layer or over all.

        Raises:
            ValueError: There is no such layer.
        """
        layers = len(self.attention)
        if layer is not None and not -layers <= layer < layers:
            raise TheWorldError(f"layer {layer}: expected 0 to {layers - 1}, or -1 for the last")
        chosen = self.attention if layer is None else self.attention[layer][None]
        return chosen.mean((0, 1))[self.groups["world"]].view(self.grid)

    def shares(self) -> dict[str, list[float]]:
        """Share of attention to each group, per layer; the shares of a layer sum to 1."""
        mean = self.attention.mean(1)  # (layers, L)
        return {name: mean[:, positions].sum(1).tolist() for name, positions in self.groups.items()}

    def to_dict(self) -> dict[str, Any]:
        """The data of the figure, for JSON."""
        return {
            "question": self.question,
            "answer": self.answer,
            "answer_tokens": self.tokens,
            "positions": {name: int(positions.sum()) for name, positions in self.groups.items()},
            "sliding_layers": [layer for layer, sliding in enumerate(self.sliding) if sliding],
            "shares": self.shares(),
            "world_attention": self.world_attention().tolist(),
            "world_attention_of_layers": [self.world_attention(layer).tolist() for layer in range(len(self.sliding))],
        }


@torch.no_grad()
def explain(
    model: TheWorld, image: Any, question: str, *, num_world_steps: int | None = None, **generate_kwargs: Any
) -> Explanation:
    """Answer `question` about `image`, and record the attention of the answer.

    The answer is generated as usual. Then prompt and answer run again in one pass without a cache, with the attention
    implementation that returns weights. Only the answer's rows are kept.

    Args:
        image: Any kind of image that `theworld.utils.images.open_image` opens.
        num_world_steps: Future latent frames to imagine; `None` takes the config's.
        generate_kwargs: Arguments of `generate`, such as `max_new_tokens`.

    Raises:
        ValueError: The world is off, the question is empty or holds a reserved token, or the image cannot be read.
    """
    encoder = model.model.world_encoder
    if encoder is None:
        raise TheWorldError("explain shows attention to world tokens: load the model with enable_world=True")
    # 1. Generate the answer
    inputs, latents = _prompt(model, encoder, image, question, num_world_steps)
    length = inputs["input_ids"].shape[1]
    options = {"max_new_tokens": 100, "do_sample": False, **generate_kwargs}
    output = cast(Any, model.generate)(**inputs, world_latents=latents, **options)
    answer = model.processor.decode(output[0, length:], skip_special_tokens=True).strip()
    # 2. Run prompt and answer again, and keep the answer's attention
    answered = _without_end(model, output[0, length:].tolist())
    ids = torch.cat([inputs["input_ids"][0], inputs["input_ids"].new_tensor(answered[:-1])])[None]  # (1, L)
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "token_type_ids" in inputs:
        inputs["token_type_ids"] = _extended(inputs["token_type_ids"], ids.shape[1])
    attention = answer_attention(model, {**inputs, "world_latents": latents}, first=length - 1)
    return Explanation(
        question,
        answer,
        [model.processor.decode([token]) for token in answered],
        attention,
        _groups(model, ids[0].cpu()),
        (latents.shape[2], *model.config.world_grid),
        [kind == "sliding_attention" for kind in model.config.get_text_config().layer_types],
        latents,
    )


def answer_attention(model: TheWorld, inputs: dict[str, Any], first: int) -> Tensor:
    """Attention (layers, L - first, L) of the positions from `first` of one prompt, averaged over heads, in fp32.

    Only one layer's weights are in memory at a time; for a long rollout, all would be gigabytes.
    """
    rows: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, outputs: tuple[Tensor, Tensor]) -> None:
        rows.append(outputs[1][0, :, first:].float().mean(0).cpu())  # (A, L) of (1, heads, L, L)

    layers = cast(Any, model.model.language_model).layers
    hooks = [layer.self_attn.register_forward_hook(keep) for layer in layers]
    try:
        with eager_attention(model):
            model(**inputs, use_cache=False, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(rows)


@contextmanager
def eager_attention(model: TheWorld) -> Generator[None]:
    """Run the language model with the attention that returns its weights; restores the previous one at the end.

    The vision tower's does not change, so image tokens stay bit-identical.
    """
    before = cast(Any, model.config.get_text_config())._attn_implementation
    model.set_attn_implementation({"text_config": "eager"})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": before})


def _prompt(
    model: TheWorld, encoder: WorldEncoder, image: Any, question: str, num_world_steps: int | None
) -> tuple[dict[str, Any], Tensor]:
    """The inputs of `model.ask`, and the latents of its world: encoded once for both passes."""
    inputs = dict(model.question_inputs(image, question, num_world_steps=num_world_steps))
    steps = model.config.num_world_steps if num_world_steps is None else num_world_steps
    return inputs, encoder.encode(inputs.pop("world_pixel_values"), steps)


def _without_end(model: TheWorld, tokens: list[int]) -> list[int]:
    """The answer's tokens without end tokens; an empty answer keeps one end token."""
    end = model.generation_config.eos_token_id
    special = {*model.processor.tokenizer.all_special_ids, *(end if isinstance(end, list) else [end])}
    kept = len(tokens)
    while kept > 1 and tokens[kept - 1] in special:
        kept -= 1
    return tokens[:kept]


def _extended(token_types: Tensor, length: int) -> Tensor:
    """Token types of the prompt, and 0 for the answer, which has causal attention."""
    return torch.nn.functional.pad(token_types, (0, length - token_types.shape[1]))


def _groups(model: TheWorld, ids: Tensor) -> dict[str, Tensor]:
    world, image = ids == model.config.world_token_id, ids == model.config.image_token_index
    start = torch.arange(len(ids)) == 0
    return {"world": world, "image": image, "text": ~(world | image | start), "start": start}


__all__ = ["GROUPS", "Explanation", "answer_attention", "eager_attention", "explain"]
