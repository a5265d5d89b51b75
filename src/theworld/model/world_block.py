"""Inserts world blocks into token ids, or removes them, before the model runs. Pure torch.

For prompts that a plain Gemma 3 processor made (`images=`), and for calls with `use_world=False`. A block stands
between special tokens, so the ids are exactly those that `TheWorldProcessor` makes with and without it.

Shape legend: `B` batch, `L` the caller's length, `L'` the length after rewriting.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from theworld.constants import IGNORE_INDEX
from theworld.utils.errors import TheWorldError

from .configuration_theworld import TheWorldConfig


@dataclass(frozen=True)
class Prompt:
    """The tensors of a prompt with one value per token, each (B, L)."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None = None
    token_type_ids: torch.Tensor | None = None
    labels: torch.Tensor | None = None


@dataclass(frozen=True)
class RewrittenPrompt:
    """A prompt with its blocks inserted or removed, (B, L'), and the new positions of the caller's tokens."""

    prompt: Prompt
    positions: torch.Tensor  # (B, L), of each of the caller's tokens in `prompt`; -1 for removed ones and padding

    def restore(self, values: torch.Tensor) -> torch.Tensor:
        """Values at the caller's positions: (B, L', ...) -> (B, L, ...); zero where a token was removed."""
        positions = self.positions.to(values.device).view(*self.positions.shape, *[1] * (values.ndim - 2))
        index = positions.clamp(min=0).expand(-1, -1, *values.shape[2:])
        return values.gather(1, index).masked_fill(positions < 0, 0)


def insert_world_blocks(
    config: TheWorldConfig, prompt: Prompt, num_images: int, num_world_steps: int
) -> RewrittenPrompt:
    """Insert one block per image of every prompt, at `config.world_position`.

    Raises:
        ValueError: The prompts do not have `num_images` images; names both counts.
    """
    ids = prompt.input_ids
    images = ids == config.boi_token_index
    if int(images.sum()) != num_images:
        raise TheWorldError(
            f"the prompts have {int(images.sum())} image placeholders but images= holds {num_images}: "
            "give one image per placeholder"
        )
    world = [config.world_token_id] * config.world_tokens(num_world_steps)
    block = ids.new_tensor([config.start_of_world_token_id, *world, config.end_of_world_token_id])
    keep = torch.ones_like(ids, dtype=torch.bool) if prompt.attention_mask is None else prompt.attention_mask.bool()
    before = images.int()  # number of blocks directly before each token
    if config.world_position == "after_bos":
        order = keep.cumsum(1)
        starts_with_bos = ((ids == config.get_text_config().bos_token_id) & (order == 1) & keep).any(1)
        first = order == 1 + starts_with_bos.int()[:, None]
        before = (first & keep).int() * images.sum(1, keepdim=True)
    return _rewrite(config, prompt, keep, before, block)


def remove_world_blocks(config: TheWorldConfig, prompt: Prompt) -> RewrittenPrompt:
    """Remove every world block, which leaves the ids of plain Gemma 3."""
    ids = prompt.input_ids
    block = ids.new_tensor([config.start_of_world_token_id, config.world_token_id, config.end_of_world_token_id])
    keep = ~torch.isin(ids, block)
    if prompt.attention_mask is not None:
        keep &= prompt.attention_mask.bool()
    return _rewrite(config, prompt, keep, torch.zeros_like(ids), block[:0])


def _rewrite(
    config: TheWorldConfig, prompt: Prompt, keep: torch.Tensor, before: torch.Tensor, block: torch.Tensor
) -> RewrittenPrompt:
    """Move the kept tokens, put blocks into the gaps, and pad on the caller's side."""
    # 1. New lengths and positions, with the padding on the caller's side
    lengths = keep.sum(1) + len(block) * before.sum(1)  # (B,)
    width = int(lengths.max())
    column = torch.arange(width, device=keep.device).expand(len(keep), -1)  # (B, L')
    left = prompt.attention_mask is not None and bool((prompt.attention_mask[:, 0] == 0).any())
    padding = width - lengths[:, None] if left else torch.zeros_like(lengths[:, None])
    real = (column >= padding) & (column < padding + lengths[:, None])
    positions = (keep.cumsum(1) - 1 + len(block) * before.cumsum(1) + padding).masked_fill(~keep, -1)
    rows = torch.arange(len(keep), device=keep.device)[:, None].expand_as(keep)
    taken = torch.zeros_like(real)
    taken[rows[keep], positions[keep]] = True
    gaps = real & ~taken

    # 2. Move every tensor

    def move(values: torch.Tensor, in_block: torch.Tensor, in_padding: int) -> torch.Tensor:
        moved = values.new_full(real.shape, in_padding)
        moved[rows[keep], positions[keep]] = values[keep]
        return moved.masked_scatter(gaps, in_block.to(values.dtype).repeat(int(before.sum())))

    ids, mask, types, labels = prompt.input_ids, prompt.attention_mask, prompt.token_type_ids, prompt.labels
    bidirectional = (block == config.world_token_id) & (config.world_attention == "bidirectional")
    rewritten = Prompt(
        move(ids, block, config.get_text_config().pad_token_id or 0),
        real.to(ids.dtype if mask is None else mask.dtype),
        None if types is None else move(types, bidirectional, 0),
        None if labels is None else move(labels, torch.full_like(block, IGNORE_INDEX), IGNORE_INDEX),
    )
    return RewrittenPrompt(rewritten, positions)
