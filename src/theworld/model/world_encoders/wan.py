"""Wan 2.1 and 2.2 as world encoders: VAE latents, or hidden states of the diffusion transformer in one forward.

Wan is trained by flow matching. Its input is `(1 - t) x + t n` for latents `x`, noise `n` and a time `t` from 0 to 1,
and it is told the timestep `1000 t`. The config gives the level of noise as `world_feature_sigma`, the ratio of noise
to signal, as for every encoder of features: `t = sigma / (sigma + 1)`. So 80 is timestep 988, and 0.43 timestep 300.

Shape legend: `B` images, `C` latent channels, `D` transformer width, `T = 1 + K` latent frames, `G` given ones, `H, W`
latent height and width, `h, w` rows and columns of patches.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn
from torch.nn import functional
from typing_extensions import override

from theworld.utils.errors import MissingFileError, TheWorldError
from theworld.utils.folders import read_object
from theworld.utils.hub import forget_origin
from theworld.utils.io import write_json
from theworld.utils.weights import find_file, load_checked

from .base import WorldEncoder
from .cosmos import CosmosWorldEncoder, load_component, parameters_of
from .prompt_embeds import save_prompt_embeds

if TYPE_CHECKING:
    from theworld.utils.hub import Source

    from ..configuration_theworld import TheWorldConfig

INDEX = "model_index.json"
INDEX_FIELDS = ("_class_name", "expand_timesteps", "boundary_ratio")
"""What is read of a repository's index: its pipeline, and how its transformers were trained."""

TIMESTEPS = 1000  # of Wan's training
LOST = 0.9
"""Time from which an image is lost in noise. Wan 2.2 changes near it to a second transformer, which lays frames out."""

Conditioning = Literal["timesteps", "channels", "noisy"]
"""How a transformer was trained to take the frames that are given:

`timesteps`: clean, each token with a timestep of its own, which is 0 for a given frame (Wan 2.2 TI2V).
`channels`: clean, in channels beside the noisy frames, which share one timestep (image to video of Wan 2.2).
`noisy`: not at all. All frames share one timestep, so a given one is as noisy as the others (text to video).
"""


class WanLatentsWorldEncoder(CosmosWorldEncoder):
    """VAE latents of the current frame, 8 or, in Wan 2.2 TI2V, 16 pixels a side. Arguments as `CosmosWorldEncoder`.

    Raises:
        ValueError: The repository is not Wan's, or future frames are asked for.
    """

    kind = "wan_latents"
    licence = ("apache-2.0", "Wan under the Apache License 2.0")
    probe_file = INDEX

    @override
    @classmethod
    def from_pretrained(cls, config: TheWorldConfig, source: Source, *, dtype: torch.dtype, **hub: Any) -> Self:
        read_index(source)
        return super().from_pretrained(config, source, dtype=dtype, **hub)

    @property
    def cell(self) -> int:
        """Pixels of a feature and side."""
        return self.spatial_compression

    @override
    def grid(self, height: int, width: int, num_world_steps: int) -> tuple[int, int, int]:
        if height % self.cell or width % self.cell:
            given = f"world_image_size={[height, width]}"
            raise TheWorldError(f"{given}: {self.kind} of this Wan model needs multiples of {self.cell}")
        return 1 + num_world_steps, height // self.cell, width // self.cell

    @override
    def fingerprint(self) -> dict[str, Any]:
        return {"encoder": self.kind, **self.source, "dtype": str(self.vae.dtype).removeprefix("torch.")}

    @override
    def prepare(self, num_world_steps: int) -> None:
        if num_world_steps > 0:
            raise TheWorldError(
                f"num_world_steps={num_world_steps}: {self.kind} encodes the current frame only; set it to 0, or use "
                "world_encoder='wan', which has features of future frames in one forward"
            )

    @override
    def rollout(self, first: torch.Tensor, num_world_steps: int, seed: Any) -> torch.Tensor:
        self.prepare(num_world_steps)
        return first


class WanWorldEncoder(WanLatentsWorldEncoder):
    """Hidden states of one block of the diffusion transformer, in one forward.

    The current frame enters as the transformer was trained to take it (`Conditioning`), future frames as noise of the
    level `world_feature_sigma`. With `K = 0`, and for a clip, all frames are given. Where given frames are `noisy`,
    they have that level too, and a level that hides the image is refused. All frames attend to each other, so the
    features of the current frame depend on `K`.

    Without a prompt the embedding of the text is zero, and no text encoder is needed. Wan's pipelines always have one:
    that of "" is zero but for 1 of 512 tokens, and `world_prompt=""` takes it. There is no guidance.

    Args:
        vae: The VAE; frames in [-1, 1].
        transformer: The diffusion transformer; blocks behind the one of the config are removed.
        index: `INDEX_FIELDS` of the repository's `model_index.json`.
        config: `world_feature_...`, `world_seed` and `world_prompt` are used.
        origin: Where the text encoder lies, which only a prompt loads.
        hub: Arguments for loading it: `token`, `cache_dir`, `local_files_only`.

    Raises:
        ValueError: As `conditioning_of`.
    """

    kind = "wan"
    can_decode, causal = False, False

    def __init__(
        self,
        vae: AutoencoderKLWan,
        transformer: WanTransformer3DModel,
        index: dict[str, Any],
        config: TheWorldConfig,
        origin: Source,
        hub: dict[str, Any],
    ) -> None:
        super().__init__(vae, config, origin, hub)
        self.index, self.sigma = index, config.world_feature_sigma
        self.conditioning, self.block = conditioning_of(vae, transformer.config, index, config)
        del transformer.blocks[self.block + 1 :]
        transformer.register_to_config(num_layers=self.block + 1)
        self.transformer = cast(Any, transformer)

    @override
    @classmethod
    def from_pretrained(cls, config: TheWorldConfig, source: Source, *, dtype: torch.dtype, **hub: Any) -> Self:
        index, vae = read_index(source), load_component(source, "vae", dtype, **hub)
        name = transformer_name(index, config.world_feature_sigma)
        where: dict[str, Any] = {**source.place(name), **hub}
        settings = cast(Any, WanTransformer3DModel).load_config(source.name, **where)
        conditioning_of(vae, settings, index, config)  # before a large download
        transformer = load_checked(WanTransformer3DModel, source.name, torch_dtype=dtype, **where)
        return cls(vae, transformer, index, config, source, hub)

    @property
    @override
    def feature_dim(self) -> int:
        settings = cast(Any, self.transformer).config
        return settings["num_attention_heads"] * settings["attention_head_dim"]

    @property
    @override
    def cell(self) -> int:
        return self.spatial_compression * cast(Any, self.transformer).config["patch_size"][1]

    @override
    def fingerprint(self) -> dict[str, Any]:
        settings = {"block": self.block, "sigma": self.sigma, "seed": self.seed, "prompt": self.prompt}
        return {**super().fingerprint(), **settings}

    @override
    def prepare(self, num_world_steps: int) -> None:
        pass

    @override
    def latent_weights(self, num_world_steps: int) -> dict[str, torch.Tensor]:
        return super().latent_weights(1)

    @override
    def encode(self, pixels: torch.Tensor, num_world_steps: int = 0, seed: int | None = None) -> torch.Tensor:
        with torch.autocast(self.vae.device.type, enabled=False):  # the same features in training and inference
            given, image = self.encode_frame(pixels), pixels.unsqueeze(2)
            return self.features(given, image, 1 + num_world_steps, self.seed if seed is None else seed)

    @override
    @torch.no_grad()
    def encode_clip(self, clips: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.vae.device.type, enabled=False):
            given = self._encode_video(clips)
            return self.features(given, clips[:, :, :1], given.shape[2], self.seed)

    @override
    def rollout(self, first: torch.Tensor, num_world_steps: int, seed: Any) -> torch.Tensor:
        raise TheWorldError(f"{self.kind} has features of future frames, and no rollout")

    decode = WorldEncoder.decode

    def features(self, given: torch.Tensor, image: torch.Tensor, frames: int, seed: int) -> torch.Tensor:
        """Normalised hidden states of `frames` latent frames: (B, D, T, h, w). A trained VAE gets its gradient.

        Args:
            given: (B, C, G, H, W) normalised latents of the first frames.
            image: (B, 3, 1, height, width) the first frame in [-1, 1].
            frames: Latent frames `T`; those that are not given are predicted.
            seed: Of the noise, the same for every image, so that features do not depend on the batch.
        """
        transformer = cast(Any, self.transformer)
        batch, channels, known, height, width = given.shape
        _, rows, columns = self.grid(image.shape[-2], image.shape[-1], frames - 1)
        # 1. Every frame at its time; of a frame that is not given there is only noise
        times = given.new_tensor(self.times(known, frames))  # (T,)
        noise = torch.randn(1, channels, frames, height, width, generator=torch.Generator().manual_seed(seed)).to(given)
        level = times.view(-1, 1, 1)
        noisy = (1 - level) * functional.pad(given, (0, 0, 0, 0, 0, frames - known)) + level * noise  # (B, C, T, H, W)
        timestep = TIMESTEPS * times
        timestep = timestep.repeat_interleave(rows * columns) if self.conditioning == "timesteps" else timestep[0]
        # 2. The image, in channels of its own
        if self.conditioning == "channels":
            noisy = torch.cat([noisy, self.image_channels(image, frames)], dim=1)  # (B, 2 C + 4, T, H, W)
        # 3. One forward up to the block
        (text,) = self.prompt_embeds()
        with torch.set_grad_enabled(given.requires_grad):
            hidden = last_hidden_states(
                transformer,
                hidden_states=noisy.to(transformer.dtype),
                timestep=timestep.expand(batch, *timestep.shape),
                encoder_hidden_states=text.expand(batch, -1, -1),
            )  # (B, T h w, D)
            # 4. Zero mean and unit variance over the channels of a position: a block adds to its input without bound
            hidden = functional.layer_norm(hidden.float(), hidden.shape[-1:])
        return hidden.unflatten(1, (frames, rows, columns)).movedim(-1, 1).to(self.vae.dtype)

    def times(self, known: int, frames: int) -> list[float]:
        """The time of each of `frames` latent frames, of which the first `known` are given."""
        time = flow_time(self.sigma)
        if self.conditioning == "noisy" or (self.conditioning == "channels" and known < frames):
            return [time] * frames
        return [0.0] * known + [time] * (frames - known)

    @torch.no_grad()
    def image_channels(self, image: torch.Tensor, frames: int) -> torch.Tensor:
        """What Wan's image-to-video models see of the first frame: a mask, and latents of it and grey frames behind it.

        (B, 3, 1, height, width) in [-1, 1] -> (B, 4 + C, T, H, W).
        """
        latents = self._encode_video(functional.pad(image, (0, 0, 0, 0, 0, self.temporal_compression * (frames - 1))))
        mask = torch.zeros_like(latents[:, :1]).repeat(1, self.temporal_compression, 1, 1, 1)
        mask[:, :, 0] = 1
        return torch.cat([mask, latents], dim=1)

    @override
    def prompts(self) -> list[str | None]:
        return [self.prompt]

    @override
    def prompt_embeds(self) -> list[torch.Tensor]:
        return self.embeds_for(self.transformer, "text_dim")

    @override
    def save_source(self, folder: Path, num_world_steps: int) -> None:
        """A Wan repository with the blocks that are used; an embedding in place of the text encoder."""
        self.vae.save_pretrained(folder / "vae")
        cast(Any, self.transformer).save_pretrained(folder / transformer_name(self.index, self.sigma))
        write_json(folder / INDEX, self.index)
        if self.prompt is not None:
            save_prompt_embeds(folder, self.prompt, *self.prompt_embeds())
        forget_origin(folder)

    @override
    @classmethod
    def parameter_count(cls, config: TheWorldConfig, source: Source, **hub: Any) -> int:
        name, block = transformer_name(read_index(source), config.world_feature_sigma), config.world_feature_block
        used = {} if block is None else {"num_layers": block + 1}
        transformer = parameters_of(WanTransformer3DModel, source, name, used, **hub)
        return transformer + parameters_of(AutoencoderKLWan, source, "vae", **hub)


class Kept(nn.Module):
    """Stands in for the output norm of a transformer, and keeps the hidden states of its last block."""

    hidden: torch.Tensor  # (B, N, D)

    @override
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.hidden = hidden
        return hidden


def last_hidden_states(transformer: WanTransformer3DModel, **inputs: torch.Tensor) -> torch.Tensor:
    """The hidden states (B, N, D) of the last block. Unlike a hook it is of one call, so calls may run side by side."""
    view, kept = copy.copy(transformer), Kept()
    vars(view)["_modules"] = {**vars(transformer)["_modules"], "norm_out": kept}
    view(**inputs)
    return kept.hidden


def flow_time(sigma: float) -> float:
    """Wan's time from 0 to 1 at `sigma`, the ratio of noise to signal."""
    return sigma / (sigma + 1)


def read_index(source: Source) -> dict[str, Any]:
    """`INDEX_FIELDS` of the index of a Wan repository; a ValueError for another model's."""
    path = find_file(source.name, INDEX, **source.where)
    if path is None:
        raise MissingFileError(f"{source.name}: no {INDEX} there")
    index = read_object(Path(path), cure="download it again")
    if not str(index.get("_class_name")).startswith("Wan"):
        raise TheWorldError(
            f"{source.name}: holds a {index.get('_class_name')}; set cosmos_model_name to a Wan repository in the "
            "format of diffusers, such as Wan-AI/Wan2.2-TI2V-5B-Diffusers"
        )
    return {name: index[name] for name in INDEX_FIELDS if name in index}


def transformer_name(index: dict[str, Any], sigma: float) -> str:
    """The folder of the transformer that was trained for `sigma`: Wan 2.2 A14B has a second one for little noise."""
    boundary = index.get("boundary_ratio")
    return "transformer" if boundary is None or flow_time(sigma) >= boundary else "transformer_2"


def conditioning_of(vae: Any, settings: Any, index: dict[str, Any], config: TheWorldConfig) -> tuple[Conditioning, int]:
    """How a transformer takes given frames, and the index of the block whose hidden states are the features.

    Args:
        settings: The transformer's config.

    Raises:
        ValueError: The transformer needs inputs that there are not, has no such block, or would not see the image; or
            the config asks for guidance.
    """
    channels, blocks, sigma = settings["in_channels"], settings["num_layers"], config.world_feature_sigma
    latent, mask = vae.config["z_dim"], vae.config["scale_factor_temporal"]
    if (
        settings["image_dim"] is not None
        or channels not in (latent, 2 * latent + mask)
        or settings["patch_size"][0] != 1
    ):
        raise TheWorldError(
            f"in_channels={channels}, image_dim={settings['image_dim']}: expected a Wan transformer that takes text or "
            "a first frame, and needs no image encoder, such as that of Wan-AI/Wan2.2-TI2V-5B-Diffusers"
        )
    if config.world_guidance_scale > 1:
        given = f"world_guidance_scale={config.world_guidance_scale}"
        raise TheWorldError(f"{given}: world_encoder='wan' takes one forward without guidance; leave it out")
    block = blocks - 1 if config.world_feature_block is None else config.world_feature_block
    if block >= blocks:
        raise TheWorldError(f"world_feature_block={block}: the transformer has the blocks 0 to {blocks - 1}")
    if channels > latent:
        return "channels", block
    if index.get("expand_timesteps"):
        return "timesteps", block
    if flow_time(sigma) > LOST:
        raise TheWorldError(
            f"world_feature_sigma={sigma}: this Wan model has one noise level for all frames, and at that the image is "
            f"lost; set it to at most {LOST / (1 - LOST):.0f}, such as 0.43 (timestep 300)"
        )
    return "noisy", block
