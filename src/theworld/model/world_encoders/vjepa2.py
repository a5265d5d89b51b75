"""V-JEPA 2 as a world encoder: tokens of the current frame, and predicted tokens of future positions, in one pass.

V-JEPA 2 (arXiv:2506.09985) predicts in the space of its own features: it has neither noise nor prompt. A still image is
one tubelet, the same frame twice; `K` future latent frames are the `K` tubelets after it.

Shape legend: `B` images, `C` width of a token, `F` video frames, `T = 1 + K` tubelets, `h, w` rows and columns of
patches, `N = h w`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from transformers import VJEPA2Config, VJEPA2Model
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2RopeAttention
from transformers.utils.generic import maybe_autocast
from typing_extensions import override

from theworld.utils.errors import TheWorldError
from theworld.utils.hub import damage_named
from theworld.utils.weights import load_checked

from .base import WorldEncoder
from .hidden_states import check_one_forward, normalised

if TYPE_CHECKING:
    from collections.abc import Mapping

    from theworld.utils.hub import Source

    from ..configuration_theworld import TheWorldConfig


class VJEPA2WorldEncoder(WorldEncoder):
    """Encoder tokens of the current frame, and `K` predicted tubelets. The prediction has no seed.

    Args:
        model: Encoder and predictor.
        source: Source of the weights.

    Raises:
        ValueError: The config has a prompt or guidance, which V-JEPA 2 does not support; or as `read_config`.
    """

    kind = "vjepa2"  # key of `WORLD_ENCODERS`, for `fingerprint`
    probe_file = "config.json"
    seeded = False
    suggested_model = "facebook/vjepa2-vitl-fpc64-256"
    licence = ("mit-or-apache-2.0", "V-JEPA 2 under MIT or Apache-2.0, as its model card says")
    temporal_compression = 2  # frames of a tubelet, in all released weights
    fps = 4  # of its training clips (`fps` in configs/train of facebookresearch/vjepa2)

    def __init__(self, model: VJEPA2Model, source: Source) -> None:
        super().__init__()
        self.model = model
        self.source = {"model": source.name, "revision": source.revision}
        self._attentions = [module for module in model.modules() if isinstance(module, VJEPA2RopeAttention)]

    @override
    @classmethod
    def from_pretrained(cls, config: TheWorldConfig, source: Source, *, dtype: torch.dtype, **hub: Any) -> Self:
        check_one_forward(config)
        read_config(source, **hub)
        where: dict[str, Any] = {**source.where, **hub}
        return cls(load_checked(VJEPA2Model, source.name, dtype=dtype, **where), source)

    @override
    @classmethod
    def clip_rate(cls, settings: Mapping[str, Any]) -> tuple[int, float]:
        return cls.temporal_compression, cls.fps

    @property
    @override
    def feature_dim(self) -> int:
        return self.model.config.hidden_size

    @override
    def grid(self, height: int, width: int, num_world_steps: int) -> tuple[int, int, int]:
        patch = cast(int, self.model.config.patch_size)
        if height != width or height % patch:
            raise TheWorldError(
                f"an image of {height} x {width}: V-JEPA 2 takes squares, set world_image_size to a multiple of {patch}"
            )
        return 1 + num_world_steps, height // patch, width // patch

    @override
    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: it is frozen, and its configuration may have dropout."""
        return super().train(False)

    @override
    def fingerprint(self) -> dict[str, Any]:
        return {"encoder": self.kind, **self.source, "dtype": str(self.model.dtype).removeprefix("torch.")}

    @override
    def latent_weights(self, num_world_steps: int) -> dict[str, torch.Tensor]:
        left_out = () if num_world_steps else ("model.predictor.",)
        return {name: value for name, value in self.state_dict().items() if not name.startswith(left_out)}

    @override
    @torch.no_grad()
    def encode(self, pixels: torch.Tensor, num_world_steps: int = 0, seed: int | None = None) -> torch.Tensor:
        height, width = pixels.shape[-2:]
        grid = self.grid(height, width, num_world_steps)
        with maybe_autocast(self.model.device.type, enabled=False):  # the same features in training and inference
            present = self._encode_video(pixels.unsqueeze(2).expand(-1, -1, self.temporal_compression, -1, -1))
            tokens = [present]
            if num_world_steps > 0:
                # Future positions follow those of the current frame
                places = torch.arange(grid[0] * present.shape[1], device=present.device).expand(len(present), -1)
                given, asked = places[:, : present.shape[1]], places[:, present.shape[1] :]
                predicted = self.model.predictor(
                    encoder_hidden_states=present, context_mask=[given], target_mask=[asked]
                )
                tokens.append(predicted.last_hidden_state)
        return self._features(torch.cat(tokens, dim=1), grid)

    @override
    @torch.no_grad()
    def encode_clip(self, clips: torch.Tensor) -> torch.Tensor:
        """Index 0 is the first frame encoded alone, as by `encode`; the others are encoded with the whole clip.

        The encoder attends in both directions of time. The predictor was trained to predict tokens of the whole clip.
        Tokens of the current frame must not contain later frames.
        """
        if clips.shape[2] == 1:
            return self.encode(clips[:, :, 0])
        frames, height, width = clips.shape[2:]
        steps, rest = divmod(frames - 1, self.temporal_compression)
        if rest:
            raise TheWorldError(f"a clip of {frames} frames: V-JEPA 2 takes 1 + {self.temporal_compression} K")
        grid = self.grid(height, width, steps)
        with maybe_autocast(self.model.device.type, enabled=False):
            still = clips[:, :, :1].expand(-1, -1, self.temporal_compression, -1, -1)
            tokens = self._encode_video(torch.cat([still, clips[:, :, 1:]], dim=2))
        return torch.cat([self.encode(clips[:, :, 0]), self._features(tokens, grid)[:, :, 1:]], dim=2)

    def _encode_video(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, 3, F, H, W) in [-1, 1] -> (B, T N, C), F = 2 T."""
        mean, std = (
            torch.tensor(values, device=self.model.device).view(-1, 1, 1)
            for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        )
        video = (frames.transpose(1, 2).to(self.model.device).float() / 2 + 0.5 - mean) / std  # (B, F, 3, H, W)
        # Rotary positions assume rows of `crop_size`; another image size needs its own row length
        for attention in self._attentions:
            attention.grid_size = frames.shape[-1] // cast(int, self.model.config.patch_size)
        return cast(Any, self.model)(video.to(self.model.dtype), skip_predictor=True).last_hidden_state

    def _features(self, tokens: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        """(B, T N, C) -> (B, C, T, h, w), normalised as the targets of its training were."""
        return normalised(tokens, grid).to(self.model.dtype)

    @override
    def save_source(self, folder: Path, num_world_steps: int) -> None:
        self.model.save_pretrained(folder)

    @override
    @classmethod
    def from_config(cls, config: TheWorldConfig, source: Source, **hub: Any) -> Self:
        check_one_forward(config)
        settings = read_config(source, **hub)
        if config.num_world_steps:  # its predictor computes with the values of positions
            raise TheWorldError(
                f"num_world_steps={config.num_world_steps}: plan has V-JEPA 2 without future frames only; set it to 0"
            )
        with damage_named(source.name), torch.device("meta"):
            return cls(VJEPA2Model(settings), source).eval().requires_grad_(False)

    @override
    @classmethod
    def parameter_count(cls, config: TheWorldConfig, source: Source, **hub: Any) -> int:
        settings = read_config(source, **hub)
        with damage_named(source.name), torch.device("meta"):
            model = VJEPA2Model(settings)
        parts = model.parameters() if config.num_world_steps else model.encoder.parameters()
        return sum(parameter.numel() for parameter in parts)


def read_config(source: Source, **hub: Any) -> VJEPA2Config:
    """The configuration in `source`; a ValueError if it is of another model, or has tubelets of another length."""
    where: dict[str, Any] = {**source.where, **hub}
    with damage_named(source.name):
        found = VJEPA2Config.get_config_dict(source.name, **where)[0]
        if found.get("model_type") != VJEPA2Config.model_type:
            raise TheWorldError(
                f"{source.name}: model type {found.get('model_type')!r}; world_encoder='vjepa2' expects a V-JEPA 2: "
                f"set cosmos_model_name to one, such as {VJEPA2WorldEncoder.suggested_model}"
            )
        config = VJEPA2Config(**found)
    if config.tubelet_size != VJEPA2WorldEncoder.temporal_compression:
        raise TheWorldError(
            f"{source.name}: tubelet_size={config.tubelet_size}; world_encoder='vjepa2' expects "
            f"{VJEPA2WorldEncoder.temporal_compression}, as all released V-JEPA 2 have"
        )
    return config
