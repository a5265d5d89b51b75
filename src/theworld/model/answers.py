"""Probabilities of the possible answers to a question, the margin of an answer, and answers from several futures.

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
    """The supervised tokens of a model turn that is `choice`: without the header, with the `<end_of_turn>`."""
    turn = f"{START_OF_TURN}{MODEL_HEADER}{choice.strip()}{END_OF_TURN}"
    header = tokenizer.encode(MODEL_HEADER, add_special_tokens=False)
    return tokenizer.encode(turn, add_special_tokens=False)[1 + len(header) :]


@torch.no_grad()
def choice_logprobs(
    model: Any, inputs: Mapping[str, Any], choices: Sequence[Sequence[str]], **world: Any
) -> list[dict[str, float]]:
    """Joint log-probability of every allowed answer, for each prompt.

    An answer is the whole assistant turn, including its `<end_of_turn>`. So the probabilities of all possible answers
    sum to 1, and an answer that is the beginning of a longer one has no advantage.

    The prompts run once; the answers share their keys and values.

    Args:
        inputs: Output of the processor for B prompts, padded on the left, so that each ends where its answer begins.
        choices: (B,) lists of answers, which may differ in length.
        world: The world arguments of `forward`.

    Raises:
        ValueError: A prompt is padded on the right.
    """
    # 1. Tokens of the answers
    ids_of = {choice: answer_ids(model.processor.tokenizer, choice) for allowed in choices for choice in allowed}
    answers = [ids_of[choice] for allowed in choices for choice in allowed]
    counts = torch.tensor([len(allowed) for allowed in choices])
    mask = inputs["attention_mask"]
    if not mask[:, -1].all():
        raise TheWorldError("a prompt is padded on the right, so its answer would follow padding: pad on the left")
    owner = torch.arange(len(counts)).repeat_interleave(counts).to(mask.device)  # (R,)
    tokens = pad_sequence([torch.tensor(ids) for ids in answers], batch_first=True).to(mask.device)  # (R, A)
    lengths = torch.tensor([len(ids) for ids in answers], device=mask.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)  # as `generate` counts them: padding has no position

    # 2. Run the prompts once, then the answers without their last token, which nothing follows
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
    """Probability of each answer among the given ones, averaged over the futures; sums to 1."""
    shares = [_softmax([*of_future.values()]) for of_future in logprobs]
    means = [math.fsum(of_choice) / len(shares) for of_choice in zip(*shares, strict=True)]
    return dict(zip(logprobs[0], means, strict=True))


def _softmax(values: Sequence[float]) -> list[float]:
    """The softmax of a few numbers, in plain Python, which is faster than a tensor for them."""
    largest = max(values)
    powers = [math.exp(value - largest) for value in values]
    total = math.fsum(powers)
    return [power / total for power in powers]


def margin(shares: Sequence[float] | torch.Tensor) -> float:
    """The largest probability minus the second largest, in [0, 1]; 1 if there is only one."""
    top = torch.as_tensor(shares).topk(min(2, len(shares))).values.tolist()
    return top[0] - top[1] if len(top) > 1 else 1.0


def with_futures(
    inputs: Mapping[str, Any], latents: torch.Tensor, worlds: Sequence[int], images: Sequence[int]
) -> dict[str, Any]:
    """Repeat the inputs of B prompts for F futures, to B * F prompts; the copies of one prompt are adjacent.

    Args:
        latents: (M, F, C, T, h, w), the futures of each image.
        worlds: (B,) number of world images of each prompt, M in total.
        images: (B,) number of Gemma's images of each prompt; a crop counts as an image.
    """
    count = latents.shape[1]
    of_worlds = repeated_groups(worlds, count)
    # All other inputs have one row per prompt
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
    """Row indices that repeat every group of consecutive rows `count` times in place; `sizes` are the group sizes."""
    return torch.cat([group.repeat(count) for group in torch.arange(sum(sizes)).split(list(sizes))])


class MeanOverFutures(LogitsProcessor):
    """Gives the F rows of a prompt the mean of their next-token probabilities, so that all generate the same tokens."""

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
    """The most frequent of the F sequences of each prompt, (B * F, L) -> (B, L); the first one of a tie."""
    chosen: list[int] = []
    for start in range(0, len(sequences), futures):
        rows = [tuple(row) for row in sequences[start : start + futures].tolist()]
        chosen.append(start + rows.index(Counter(rows).most_common(1)[0][0]))
    return sequences[chosen]


__all__ = ["MeanOverFutures", "answer_ids", "choice_logprobs", "margin", "probabilities", "repeated_groups", "vote"]
__all__ += ["with_futures"]
