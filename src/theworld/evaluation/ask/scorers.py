"""Two ways to ask a batch: compare the log-probabilities of the allowed answers, or let the model say something.

Shape legend: `B` items, `R` answers of all items, `L` prompt, `A` longest answer, `M` images, `N` world tokens of one
image, `D` width, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import BaseModelOutputWithPooling

from theworld.data.collator import END_OF_TURN, MODEL_HEADER, START_OF_TURN
from theworld.model import TheWorld

from .prompts import Batch

DIGITS = 6  # of a log-probability that is written down


@dataclass(frozen=True)
class Answer:
    """What came back for one item: fields of its `Prediction`."""

    output: str  # what the model said, or the likeliest of the allowed answers
    choice_logprobs: dict[str, float] | None = None  # of every allowed answer, when they were compared


@torch.no_grad()
def choices(model: TheWorld, batch: Batch, world: torch.Tensor | None) -> list[Answer]:
    """The likeliest of the answers that each item allows, as one joint log-probability each.

    An answer is the assistant's whole turn: its tokens and the `<end_of_turn>` behind them. So the probabilities of all
    possible answers sum to one, and a short answer is not preferred for being the beginning of a longer one.

    The prompts run once; their keys and values are then shared by the answers, which differ in number by item. `world`
    are the world tokens (M, N, D) of the batch's images; `None` without a world.
    """
    # 1. The answers' tokens
    allowed = {choice for item in batch.items for choice in item.choices}
    ids_of = {choice: answer_ids(model.processor.tokenizer, choice) for choice in allowed}
    answers = [ids_of[choice] for item in batch.items for choice in item.choices]
    counts = torch.tensor([len(item.choices) for item in batch.items])
    mask = batch.inputs["attention_mask"]
    owner = torch.arange(len(counts)).repeat_interleave(counts).to(mask.device)  # (R,)
    tokens = pad_sequence([torch.tensor(ids) for ids in answers], batch_first=True).to(mask.device)  # (R, A)
    lengths = torch.tensor([len(ids) for ids in answers], device=mask.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)  # as `generate` counts them: padding is no place

    # 2. The prompts once, then all answers but their last token, which predicts nothing that counts
    prefill = model(**batch.inputs, **world_inputs(world), position_ids=positions, use_cache=True, logits_to_keep=1)
    logits = prefill.logits[owner]  # (R, 1, V)
    if tokens.shape[1] > 1:
        cache = prefill.past_key_values
        cache.batch_select_indices(owner)
        steps = torch.arange(1, tokens.shape[1], device=mask.device)
        behind = model(
            input_ids=tokens[:, :-1],
            attention_mask=torch.cat([mask[owner], torch.ones_like(tokens[:, :-1])], dim=1),
            position_ids=positions[owner, -1:] + steps,
            past_key_values=cache,
            use_cache=True,
        )
        logits = torch.cat([logits, behind.logits], dim=1)  # (R, A, V)
    # 3. The joint log-probability of every answer
    logprobs = logits.float().log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)  # (R, A)
    within = torch.arange(tokens.shape[1], device=mask.device) < lengths[:, None]
    joint = (logprobs * within).sum(-1).split(counts.tolist())
    known = [
        dict(zip(item.choices, values.tolist(), strict=True)) for item, values in zip(batch.items, joint, strict=True)
    ]
    # The first of the likeliest, chosen before the digits are cut
    return [Answer(max(one, key=one.__getitem__), {c: round(v, DIGITS) for c, v in one.items()}) for one in known]


@torch.no_grad()
def generate(model: TheWorld, batch: Batch, world: torch.Tensor | None, max_new_tokens: int) -> list[Answer]:
    """What the model says by itself, greedily; see `choices` for `world`."""
    output = model.generate(**batch.inputs, **world_inputs(world), max_new_tokens=max_new_tokens, do_sample=False)
    said = output[:, batch.inputs["input_ids"].shape[1] :]
    return [Answer(text.strip()) for text in model.processor.batch_decode(said, skip_special_tokens=True)]


def answer_ids(tokenizer: Any, choice: str) -> list[int]:
    """The tokens that training supervises of a turn that says `choice`: without header, with its `<end_of_turn>`."""
    turn = f"{START_OF_TURN}{MODEL_HEADER}{choice.strip()}{END_OF_TURN}"
    header = tokenizer.encode(MODEL_HEADER, add_special_tokens=False)
    return tokenizer.encode(turn, add_special_tokens=False)[1 + len(header) :]


def world_inputs(world: torch.Tensor | None) -> dict[str, Any]:
    """World tokens (M, N, D) as what `forward` and `generate` take; without any, plain Gemma 3 is asked for."""
    if world is None:
        return {"use_world": False}
    return {"mm_encoder_outputs": {"world": BaseModelOutputWithPooling(pooler_output=cast(Any, world))}}


@contextmanager
def consumed_world_tokens(model: TheWorld) -> Generator[list[int]]:
    """Count, in a list of one number a call of the model, the world tokens that reached its embeddings."""
    counts: list[int] = []

    def note(module: Any, inputs: Any, output: Any) -> None:
        world = output.world_hidden_states
        counts.append(0 if world is None else world.shape[0] * world.shape[1])

    handle = model.model.register_forward_hook(note)
    try:
        yield counts
    finally:
        handle.remove()
