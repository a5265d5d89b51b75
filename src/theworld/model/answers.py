"""Answers to a closed question by their probabilities, how sure an answer is, and answers from several futures.

Shape legend: `B` prompts, `F` futures, `R` answers of all prompts, `L` prompt, `A` longest answer, `M` images of all
prompts, `V` vocabulary, `C` feature channels, `T = 1 + K` latent frames, `h, w` feature rows and columns.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessor

from theworld.constants import END_OF_TURN, MODEL_HEADER, START_OF_TURN
from theworld.utils.errors import TheWorldError


def answer_ids(tokenizer: Any, choice: str) -> list[int]:
    """The tokens that training supervises of a turn that says `choice`: without header, with its `<end_of_turn>`."""
    turn = f"{START_OF_TURN}{MODEL_HEADER}{choice.strip()}{END_OF_TURN}"
    header = tokenizer.encode(MODEL_HEADER, add_special_tokens=False)
    return tokenizer.encode(turn, add_special_tokens=False)[1 + len(header) :]


@torch.no_grad()
def choice_logprobs(
    model: Any, inputs: Mapping[str, Any], choices: Sequence[Sequence[str]], **world: Any
) -> list[dict[str, float]]:
    """The joint log-probability of every answer that a prompt allows, by prompt.

    An answer is the assistant's whole turn: its tokens and the `<end_of_turn>` behind them. So the probabilities of all
    possible answers sum to one, and a short answer is not preferred for being the beginning of a longer one.

    The prompts run once; their keys and values are then shared by the answers.

    Args:
        inputs: Of the processor, for B prompts that end where the answer begins: padding is on the left.
        choices: (B,) lists of answers, which may differ in length.
        world: The world's arguments of `forward`.

    Raises:
        ValueError: A prompt is padded on the right.
    """
    # 1. The answers' tokens
    ids_of = {choice: answer_ids(model.processor.tokenizer, choice) for allowed in choices for choice in allowed}
    answers = [ids_of[choice] for allowed in choices for choice in allowed]
    counts = torch.tensor([len(allowed) for allowed in choices])
    mask = inputs["attention_mask"]
    if not mask[:, -1].all():
        raise TheWorldError("a prompt ends with padding, and its answer would begin behind it: pad on the left")
    owner = torch.arange(len(counts)).repeat_interleave(counts).to(mask.device)  # (R,)
    tokens = pad_sequence([torch.tensor(ids) for ids in answers], batch_first=True).to(mask.device)  # (R, A)
    lengths = torch.tensor([len(ids) for ids in answers], device=mask.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)  # as `generate` counts them: padding is no place

    # 2. The prompts once, then all answers but their last token, which predicts nothing that counts
    prefill = model(**inputs, **world, position_ids=positions, use_cache=True, logits_to_keep=1)
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
    return [dict(zip(allowed, values.tolist(), strict=True)) for allowed, values in zip(choices, joint, strict=True)]


def probabilities(logprobs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Probability of each of the same answers among them, as the mean over several futures; sums to 1."""
    shares = [torch.tensor([*of_future.values()], dtype=torch.float64).softmax(0) for of_future in logprobs]
    return dict(zip(logprobs[0], torch.stack(shares).mean(0).tolist(), strict=True))


def margin(shares: Sequence[float] | torch.Tensor) -> float:
    """The largest of some probabilities less the second largest, from 0 to 1; 1 of a single one."""
    top = torch.as_tensor(shares).topk(min(2, len(shares))).values.tolist()
    return top[0] - top[1] if len(top) > 1 else 1.0


def with_futures(
    inputs: Mapping[str, Any], latents: torch.Tensor, worlds: Sequence[int], images: Sequence[int]
) -> dict[str, Any]:
    """The inputs of B prompts repeated for F futures, those of one prompt side by side: B F prompts.

    Args:
        latents: (M, F, C, T, h, w), the futures of each image.
        worlds: (B,) numbers of world images of the prompts, of together M.
        images: (B,) numbers of Gemma's images, which has crops of an image as well.
    """
    count = latents.shape[1]
    of_worlds = repeated_groups(worlds, count)
    # The others have a row a prompt
    per_image = {"pixel_values": repeated_groups(images, count), "num_world_steps": of_worlds}
    future = torch.cat([torch.arange(count).repeat_interleave(number) for number in worlds])  # (M F,)
    device = latents.device
    repeated: dict[str, Any] = {"world_latents": latents[of_worlds.to(device), future.to(device)]}
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor) and name != "world_pixel_values":
            index = per_image.get(name)
            repeated[name] = value.repeat_interleave(count, 0) if index is None else value[index.to(value.device)]
    return repeated


def repeated_groups(sizes: Sequence[int], count: int) -> torch.Tensor:
    """Places of rows that stand in groups of these sizes, with every group repeated `count` times at its place."""
    return torch.cat([group.repeat(count) for group in torch.arange(sum(sizes)).split(list(sizes))])


class MeanOverFutures(LogitsProcessor):
    """Gives the F rows of a prompt the mean of their next-token probabilities, so that they say the same."""

    def __init__(self, futures: int) -> None:
        self.futures = futures

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor
    ) -> torch.FloatTensor:
        """Scores (B F, V) of the next token, the same for all rows of a prompt."""
        by_prompt = scores.float().log_softmax(-1).unflatten(0, (-1, self.futures))  # (B, F, V)
        mean = by_prompt.logsumexp(1) - math.log(self.futures)
        return mean.repeat_interleave(self.futures, 0).to(scores)  # type: ignore[return-value]


def vote(sequences: torch.Tensor, futures: int) -> torch.Tensor:
    """Of the F sequences (B F, L) of each prompt the most frequent one, the first of those that tie: (B, L)."""
    chosen: list[int] = []
    for start in range(0, len(sequences), futures):
        rows = [tuple(row) for row in sequences[start : start + futures].tolist()]
        chosen.append(start + rows.index(Counter(rows).most_common(1)[0][0]))
    return sequences[chosen]


__all__ = ["MeanOverFutures", "answer_ids", "choice_logprobs", "margin", "probabilities", "repeated_groups", "vote"]
__all__ += ["with_futures"]
