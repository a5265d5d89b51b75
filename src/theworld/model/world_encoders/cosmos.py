"""NVIDIA Cosmos-Predict2 as a world encoder: Wan VAE latents and their diffusion rollout.

Components are loaded one by one: no text encoder without a prompt, no diffusion transformer without future frames.
Images are rolled out as one batch.

Shape legend: `B` images, `C` latent channels, `T = 1 + K` latent frames, `h, w` latent height and width, `S` prompt
tokens, `E` prompt width.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from diffusers import AutoencoderKLWan, CosmosTransformer3DModel, FlowMatchEulerDiscreteScheduler
from typing_extensions import override

from theworld.utils.errors import TheWorldError
from theworld.utils.hub import damage_named, forget_origin
from theworld.utils.logging import quiet_third_party
from theworld.utils.tensors import snapshot
from theworld.utils.weights import load_checked

from .base import Component, WorldEncoder
from .cosmos_sampler import SIGMA_DATA, padding_channels, sample_rollout, without_padding_mask
from .prompt_embeds import load_prompt_embeds, no_text, save_prompt_embeds
from .single_frame import posterior_mode, runs_as_image

if TYPE_CHECKING:
    from theworld.utils.hub import Source

    from ..configuration_theworld import TheWorldConfig

MODELS: dict[str, Any] = {"vae": AutoencoderKLWan, "transformer": CosmosTransformer3DModel}

SETTINGS = {  # of the encoder, and the config field of each
    **{"num_inference_steps": "world_inference_steps", "guidance_scale": "world_guidance_scale", "fps": "world_fps"},
    **{"seed": "world_seed", "prompt": "world_prompt", "negative_prompt": "world_negative_prompt"},
}

Dynamics = tuple[CosmosTransformer3DModel, FlowMatchEulerDiscreteScheduler]


class CosmosWorldEncoder(WorldEncoder):
    """VAE latents of the current frame, and `K` predicted latent frames.

    Args:
        vae: The VAE; frames in [-1, 1].
        config: Its fields `world_...` are the settings of a rollout.
        origin: Where the diffusion transformer and the text encoder lie, which only a rollout loads.
        hub: Arguments for loading them: `token`, `cache_dir`, `local_files_only`.
    """

    kind = "cosmos"  # key of `WORLD_ENCODERS`, for `fingerprint`
    probe_file = "vae/config.json"
    can_decode = True

    num_inference_steps: int
    guidance_scale: float
    seed: int
    negative_prompt: str | None

    def __init__(self, vae: AutoencoderKLWan, config: TheWorldConfig, origin: Source, hub: dict[str, Any]) -> None:
        super().__init__()
        self.vae = vae
        self.transformer: CosmosTransformer3DModel | None = None
        self.scheduler: FlowMatchEulerDiscreteScheduler | None = None
        self.source = {"model": origin.name, "revision": origin.revision}
        self.temporal_compression = vae.config["scale_factor_temporal"]
        self._origin, self._hub, self._dtype = origin, hub, vae.dtype
        self._prompt_embeds: list[torch.Tensor] = []
        for name, field in SETTINGS.items():
            setattr(self, name, getattr(config, field))

    @override
    @classmethod
    def from_pretrained(cls, config: TheWorldConfig, source: Source, *, dtype: torch.dtype, **hub: Any) -> Self:
        return cls(load_component(source, "vae", dtype, **hub), config, source, hub)

    @property
    @override
    def feature_dim(self) -> int:
        return self.vae.config["z_dim"]

    @property
    def spatial_compression(self) -> int:
        """Pixels per latent position and side."""
        return self.vae.config["scale_factor_spatial"]

    @override
    def grid(self, height: int, width: int, num_world_steps: int) -> tuple[int, int, int]:
        return 1 + num_world_steps, height // self.spatial_compression, width // self.spatial_compression

    @override
    def components(self) -> dict[str, Component]:
        return {
            # Runs between frames only, and a world encoder encodes one: without a gradient, DDP would refuse it
            "vae_temporal": Component(("vae.encoder.",), trains=False, part=".time_conv."),
            "vae_encoder": Component(("vae.encoder.", "vae.quant_conv."), "freeze_cosmos_vae"),
            "vae_decoder": Component(("vae.decoder.", "vae.post_quant_conv."), trains=False),
            "world_transformer": Component(("transformer.",), trains=False),
        }

    @override
    def fingerprint(self) -> dict[str, Any]:
        # The two ways to encode a frame differ in the last bits, and a cache promises the same bits
        settings = {name: getattr(self, name) for name in SETTINGS} | {"encodes_as_image": runs_as_image(self.vae)}
        if self.negative_prompt is None:
            del settings["negative_prompt"]
        return {"encoder": self.kind, **self.source, "dtype": str(self.vae.dtype).removeprefix("torch."), **settings}

    @override
    def latent_weights(self, num_world_steps: int) -> dict[str, torch.Tensor]:
        left_out = ("vae.decoder.", "vae.post_quant_conv.", *(() if num_world_steps else ("transformer.",)))
        return {name: value for name, value in self.state_dict().items() if not name.startswith(left_out)}

    @override
    def encode(self, pixels: torch.Tensor, num_world_steps: int = 0, seed: int | None = None) -> torch.Tensor:
        with torch.autocast(self.vae.device.type, enabled=False):  # the same latents in training and inference
            latents = first = self.encode_frame(pixels)  # (B, C, 1, h, w)
            if num_world_steps > 0:
                rolled = self.rollout(first, num_world_steps, self.seed if seed is None else seed)
                latents = torch.cat([first, rolled[:, :, 1:]], dim=2)  # a trained VAE has a gradient in `first`
        return latents.to(self.vae.dtype)

    def encode_frame(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised mode of the VAE's distribution: (B, 3, H, W) in [-1, 1] -> (B, C, 1, h, w)."""
        trained = any(parameter.requires_grad for parameter in self.vae.encoder.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            return self._encode_video(pixels.unsqueeze(2))

    @override
    @torch.no_grad()
    def encode_clip(self, clips: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.vae.device.type, enabled=False):
            return self._encode_video(clips).to(self.vae.dtype)

    def _encode_video(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, 3, F, H, W) in [-1, 1] -> (B, C, T, h, w), F = 1 + 4 (T - 1)."""
        frames = frames.to(self.vae.device, self.vae.dtype)
        if frames.shape[2] == 1 and runs_as_image(self.vae):
            latents = posterior_mode(self.vae, frames).float()
        else:
            latents = self.vae.encode(frames, return_dict=False)[0].mode().float()
        mean, std = latent_statistics(self.vae, latents)
        return (latents - mean) / std * SIGMA_DATA  # as the generator normalises

    @torch.no_grad()
    def rollout(self, first: torch.Tensor, num_world_steps: int, seed: int) -> torch.Tensor:
        """Roll the current latent frame out: (B, C, 1, h, w) -> (B, C, T, h, w).

        Every image gets the noise of the same seed, so an image's future does not depend on its batch.
        """
        transformer, scheduler = self.dynamics()
        patch = transformer.config["patch_size"][1:]
        if any(side % size for side, size in zip(first.shape[-2:], patch, strict=True)):
            raise TheWorldError(
                f"a latent grid of {tuple(first.shape[-2:])} does not divide into patches of {patch}: "
                f"set world_image_size to a multiple of {self.spatial_compression * max(patch)}"
            )
        shape = (1, self.feature_dim, 1 + num_world_steps, *first.shape[-2:])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(first.device)
        noise = noise.expand(len(first), -1, -1, -1, -1)
        settings = {name: getattr(self, name) for name in ("num_inference_steps", "guidance_scale", "fps")}
        return sample_rollout(transformer, scheduler, first, noise, *self.prompt_embeds(), **settings)

    @override
    def prepare(self, num_world_steps: int) -> None:
        if num_world_steps > 0:
            self.dynamics()

    def dynamics(self) -> Dynamics:
        """The diffusion transformer and its scheduler, loaded on the first call."""
        if self.transformer is None or self.scheduler is None:
            transformer, self.scheduler = self.load_dynamics()
            self.transformer = cast(Any, transformer).to(self.vae.device).eval().requires_grad_(False)
            self.late_weights = {f"transformer.{key}": snapshot(value) for key, value in transformer.named_parameters()}
        assert self.transformer is not None
        return self.transformer, self.scheduler

    def load_dynamics(self) -> Dynamics:
        """The diffusion transformer and its scheduler from their repository."""
        transformer = load_component(self._origin, "transformer", self._dtype, **self._hub)
        where: dict[str, Any] = {**self._origin.place("scheduler"), **self._hub}
        with quiet_third_party(), damage_named(self._origin.name, "scheduler"):
            scheduler = cast(Any, FlowMatchEulerDiscreteScheduler).from_pretrained(self._origin.name, **where)
        return without_padding_mask(transformer), scheduler

    def prompts(self) -> list[str | None]:
        """The texts of a rollout: the prompt, and with guidance the one to guide away from; `None` is no text."""
        if self.guidance_scale <= 1:
            return [self.prompt]
        return [self.prompt, stock_negative_prompt() if self.negative_prompt is None else self.negative_prompt]

    def prompt_embeds(self) -> list[torch.Tensor]:
        """Embeddings (1, S, E) of `prompts` on the transformer's device, computed once."""
        transformer, _ = self.dynamics()
        if not self._prompt_embeds:
            prompts, width = self.prompts(), transformer.config["text_embed_dim"]
            texts = [prompt for prompt in prompts if prompt is not None]
            origin, device = self._origin, self.vae.device
            where: dict[str, Any] = {"subfolder": origin.subfolder, "revision": origin.revision, **self._hub}
            loaded = iter(load_prompt_embeds(origin.name, texts, device=device, **where) if texts else ())
            self._prompt_embeds = [no_text(width) if prompt is None else next(loaded) for prompt in prompts]
        return [embeds.to(transformer.device, transformer.dtype) for embeds in self._prompt_embeds]

    @override
    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        # Frames of NVIDIA's weights fall under the NVIDIA Open Model Licence, which asks for a guardrail wherever they
        # are shown; see the `cosmos-guardrail` extra
        latents = latents.float()
        mean, std = latent_statistics(self.vae, latents)
        frames = self.vae.decode((latents * std + mean).to(self.vae.dtype), return_dict=False)[0]  # (B, 3, F, H, W)
        return (frames.float().clamp(-1, 1) / 2 + 0.5).transpose(1, 2)

    @override
    def save_source(self, folder: Path, num_world_steps: int) -> None:
        """A Cosmos-Predict2 repository with what is loaded or `num_world_steps` needs; embeddings in place of a T5."""
        self.vae.save_pretrained(folder / "vae")
        if num_world_steps > 0 or self.transformer is not None:
            transformer, scheduler = self.dynamics()
            transformer.register_to_config(concat_padding_mask=padding_channels(transformer) > 0)
            transformer.save_pretrained(folder / "transformer")
            without_padding_mask(transformer)
            scheduler.save_pretrained(folder / "scheduler")
            for prompt, embeds in zip(self.prompts(), self.prompt_embeds(), strict=True):
                if prompt is not None:
                    save_prompt_embeds(folder, prompt, embeds)
        forget_origin(folder)

    @override
    @classmethod
    def parameter_count(cls, config: TheWorldConfig, source: Source, **hub: Any) -> int:
        total = 0
        for name in ("vae", "transformer") if config.num_world_steps else ("vae",):
            with damage_named(source.name, name), torch.device("meta"):
                settings = MODELS[name].load_config(source.name, **source.place(name), **hub)
                total += sum(parameter.numel() for parameter in MODELS[name].from_config(settings).parameters())
        return total


def load_component(source: Source, name: str, dtype: torch.dtype, **hub: Any) -> Any:
    """The diffusers model in the folder `name` of `source`; a ValueError if it is missing or its weights are wrong."""
    source = source.pinned(f"{name}/config.json")
    return load_checked(MODELS[name], source.name, torch_dtype=dtype, **source.place(name), **hub)


def latent_statistics(vae: AutoencoderKLWan, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The VAE's latent mean and standard deviation per channel, each (1, C, 1, 1, 1)."""
    mean, std = (like.new_tensor(vae.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    return mean, std


def stock_negative_prompt() -> str:
    """The text that the stock pipeline guides away from."""
    # That module imports NVIDIA's guardrail where it is installed, and the guardrail turns gradients off for good
    with torch.set_grad_enabled(torch.is_grad_enabled()):
        from diffusers.pipelines.cosmos.pipeline_cosmos2_video2world import DEFAULT_NEGATIVE_PROMPT

    return DEFAULT_NEGATIVE_PROMPT
