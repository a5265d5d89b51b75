"""The label-free objective: regress the world tokens of each latent frame on Gemma's image tokens of that frame.

A projector that is trained on answers alone barely learns. Alignment first gives world tokens that the language model
can already use. It needs videos without labels, and no language model in memory. The projector's input is the rollout
of a clip's first frame or, for a share of the clips, the latents of the clip itself.

Shape legend: `B` clips, `C` latent channels, `T = 1 + K` latent frames, `F = 1 + 4K` video frames, `h, w` latent height
and width, `N` world tokens of a latent frame, `S` world image size, `P` side of Gemma's image, `D` width.
"""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
from PIL import Image
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Dataset, StackDataset
from transformers.utils import ModelOutput

from theworld.data.images import open_image
from theworld.data.latent_cache import LatentCache
from theworld.data.schema import BadSample, Example, Skipped
from theworld.data.skips import SkipLog
from theworld.model import TheWorld
from theworld.model.fusion import fit_grid
from theworld.model.processing_theworld import TheWorldProcessor
from theworld.utils.devices import input_device
from theworld.utils.errors import TheWorldError
from theworld.utils.logging import logger

ENCODED_TOGETHER = 64  # clips per batch


@dataclass
class AlignOutput(ModelOutput):
    """`loss`, and the squared error of each latent frame's tokens, (T,), in units of the targets' variance."""

    loss: Tensor | None = None
    frame_errors: Tensor | None = None


class AlignModel(TheWorld):
    """A TheWorld without the language model's weights, whose forward is the alignment loss.

    It saves TheWorld checkpoints, which the next stage loads like any other.
    """

    true_future_share: float

    @classmethod
    def from_pretrained(cls, *args: Any, true_future_share: float = 0.25, **kwargs: Any) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        """`TheWorld.from_pretrained` without the language model.

        Args:
            true_future_share: Share of training clips whose own latents are used in place of the rollout's.
        """
        model = super().from_pretrained(*args, language_model=False, **kwargs)
        config = model.config
        if not (config.enable_world and config.freeze_gemma_vision and config.freeze_cosmos_vae):
            raise TheWorldError(
                "objective='align' trains the projector alone: set enable_world, freeze_gemma_vision and "
                "freeze_cosmos_vae to true, and train other components in a later stage"
            )
        if not 0 <= true_future_share <= 1:
            raise TheWorldError(f"true_future_share={true_future_share}: expected 0 to 1")
        if model.model.world_markers is None:
            raise TheWorldError("objective='align' with fusion='gated': expected fusion='tokens'")
        model.model.world_markers.requires_grad_(False)  # markers are part of a prompt, which alignment does not have
        model.true_future_share = true_future_share
        return model

    def forward(self, return_loss: bool = True, **batch: Tensor) -> AlignOutput:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The loss of a batch of `AlignCollator`, or of features that `encode` computed from one.

        The parameter `return_loss` tells transformers' Trainer that the model computes a loss without labels.
        """
        assert self.model.world_projector is not None
        # 1. No usable clip
        if not all(len(value) for value in batch.values()):
            # DistributedDataParallel waits for all gradients; FSDP (DTensor) does not wait for single ones
            trainable = [p for p in self.parameters() if p.requires_grad and not isinstance(p, DTensor)]
            return AlignOutput(loss=sum((p.reshape(-1)[:0].sum().float() for p in trainable), torch.zeros(())))
        # 2. Rollouts; in training, a share of them is replaced by the clips' own latents
        features = batch if "targets" in batch else self.encode(**batch)
        rolled, true = features.get("world_latents"), features.get("clip_latents")
        latents = true if rolled is None else rolled
        if self.training and rolled is not None and true is not None:
            seen = torch.rand(len(true)) < self.true_future_share  # checkpoints save this generator's state
            latents = torch.where(seen.view(-1, 1, 1, 1, 1).to(true.device), true, rolled)
        # 3. Squared error of the tokens
        targets = features["targets"].float()
        tokens = self.model.world_projector(latents).float().view(targets.shape)  # (B, T, N, D)
        errors = (tokens - targets).square().mean((0, 2, 3)) / targets.var()
        return AlignOutput(loss=errors.mean(), frame_errors=errors.detach())

    @torch.no_grad()
    def encode(
        self,
        target_pixel_values: Tensor,
        world_pixel_values: Tensor | None = None,
        clip_pixel_values: Tensor | None = None,
        world_latents: Tensor | None = None,
        clip_latents: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Run the frozen components.

        Args:
            target_pixel_values: (B, T, 3, P, P), Gemma's inputs of frames 0, 4, 8, ...
            world_pixel_values: (B, 3, S, S) in [-1, 1], the first frames, to be rolled out.
            clip_pixel_values: (B, F, 3, S, S) in [-1, 1], the whole clips.
            world_latents: (B, C, T, h, w) of the first frames, from a cache.
            clip_latents: (B, C, T, h, w) of the clips, from a cache.

        Returns:
            `targets` (B, T, N, D), and `world_latents` and `clip_latents` where they or their pixels were given.
        """
        encoder = self.model.world_encoder
        assert encoder is not None
        clips, frames = target_pixel_values.shape[:2]
        if world_pixel_values is not None:
            world_latents = encoder.encode(world_pixel_values, frames - 1)
        if clip_pixel_values is not None:
            clip_latents = encoder.encode_clip(clip_pixel_values.transpose(1, 2))
        side = math.isqrt(cast(int, self.config.mm_tokens_per_image))
        tokens = cast(Any, self.get_image_features)(target_pixel_values.flatten(0, 1), return_dict=True).pooler_output
        tokens = fit_grid(tokens, (side, side), self.config.world_grid)  # (B * T, N, D)
        features = {"world_latents": world_latents, "clip_latents": clip_latents}
        features["targets"] = tokens.unflatten(0, (clips, frames))
        return {name: value for name, value in features.items() if value is not None}


@dataclass
class AlignCollator:
    """Clips -> the inputs of `AlignModel`.

    A call opens the frames and returns `target_pixel_values` (B, T, 3, P, P), `world_pixel_values` (B, 3, S, S),
    `clip_pixel_values` (B, F, 3, S, S), and `skipped`, the unusable rows. Pixels that `true_future_share` does not need
    are left out. If no row is usable, B is 0. An example without a clip, or one that the latent cache lacks, raises a
    ValueError.

    Args:
        num_world_steps: Future latent frames `K`; the processor's own by default.
        frames_per_step: Video frames per latent frame after the first.
        image_folder: Folder of frames with relative names.
        latent_cache: Source of `world_latents` and `clip_latents` (B, C, T, h, w), which then replace those pixels.
    """

    processor: TheWorldProcessor
    _: KW_ONLY
    num_world_steps: int | None = None
    frames_per_step: int = 4
    true_future_share: float = 0.25
    image_folder: Path | None = None
    latent_cache: LatentCache | None = None

    def __call__(self, items: Sequence[Example | Skipped]) -> dict[str, Any]:
        """One batch; see the class."""
        # 1. Open the frames of usable clips
        clips: list[list[Image.Image]] = []
        skipped: list[Skipped] = []
        for item in items:
            try:
                if isinstance(item, Skipped):
                    skipped.append(item)
                else:
                    clips.append(self._open_clip(item))
            except BadSample as error:
                skipped.append(error.skipped(item.id))
        if not clips:
            return {"target_pixel_values": torch.empty(0), "skipped": skipped}
        # 2. Make the model's inputs
        targets = [frame for clip in clips for frame in clip[:: self.frames_per_step]]
        pixels = self.processor.image_processor(targets, do_pan_and_scan=False, return_tensors="pt")["pixel_values"]
        batch = {"target_pixel_values": pixels.unflatten(0, (len(clips), -1)), "skipped": skipped}
        if self.true_future_share < 1:
            batch |= self._world("world", self.processor.world_pixels([clip[0] for clip in clips]))
        if self.true_future_share > 0:
            batch |= self._world("clip", self.processor.world_pixels(clips).unflatten(0, (len(clips), -1)))
        return batch

    def _open_clip(self, example: Example) -> list[Image.Image]:
        """The clip's first F frames."""
        if not example.clip:
            raise TheWorldError(
                f"example {example.id!r} has no clip: objective 'align' needs a source of videos, such as dataset_name "
                "'video' or 'micro_world'"
            )
        steps = self.processor.num_world_steps if self.num_world_steps is None else self.num_world_steps
        needed = 1 + steps * self.frames_per_step
        frames = example.clip[:needed]
        if len(frames) < needed:
            raise BadSample("short_clip", f"a clip of {len(frames)} frames: {steps} future latent frames need {needed}")
        return [open_image(frame, self.image_folder) for frame in frames]

    def _world(self, name: str, pixels: Tensor) -> dict[str, Tensor]:
        if self.latent_cache is None:
            return {f"{name}_pixel_values": pixels}
        return {f"{name}_latents": self.latent_cache.lookup(pixels)}


def encode_rows(
    model: AlignModel, rows: Dataset[Example | Skipped], collator: AlignCollator, skips: SkipLog | None = None
) -> StackDataset[dict[str, Tensor]]:
    """The features of `AlignModel.encode` for all clips, in memory, one row per clip. Saves time over many epochs."""
    encoded: dict[str, list[Tensor]] = {}
    skipped: list[Skipped] = []
    device = input_device(model)
    for batch in DataLoader(rows, ENCODED_TOGETHER, collate_fn=collator):
        skipped += batch.pop("skipped")
        if len(batch["target_pixel_values"]):
            inputs = {name: value.to(device) for name, value in batch.items()}
            for name, value in model.encode(**inputs).items():
                encoded.setdefault(name, []).append(value.cpu())
    if skips is not None:
        skips.record(skipped)
    if not encoded:
        raise TheWorldError(f"none of the {len(skipped)} clips can be used: {skipped[0].detail}")
    tensors: dict[str, Any] = {name: torch.cat(values) for name, values in encoded.items()}
    size = sum(value.nbytes for value in tensors.values())
    logger.info("%d clips encoded, %.0f MB in memory", len(tensors["targets"]), size / 1e6)
    return StackDataset(**tensors)
