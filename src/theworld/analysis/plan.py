"""What a model will cost, before its weights are there: from configuration files alone, on the meta device.

Parameters are those of the modules themselves. Operations are counted by `torch.utils.flop_counter` while the modules
run on tensors without content: a multiplication and an addition are 2, and attention is counted in full, without masks.

Shape legend: `L` tokens of a prompt with one image, `D` language-model width, `C` channels, `T` latent frames, `h, w`
latent height and width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from theworld.model import TheWorld, TheWorldConfig
from theworld.model.checkpoints.load import Plan, make_plan, take_sizes
from theworld.model.checkpoints.lora import inject_lora
from theworld.model.components import component_sizes
from theworld.model.fusion import FUSIONS
from theworld.model.training_hooks import trains
from theworld.model.world_encoders import WORLD_ENCODERS, WorldEncoder
from theworld.utils.errors import TheWorldError, brief
from theworld.utils.hub import Source, shown

from .plan_files import Download, downloads_of

MARKERS = 2  # around a world block, and around the tokens of an image
BF16, TRAINED = 2, 4 + 4 + 8  # bytes a parameter: frozen; trained: fp32 weight, gradient and the two moments of Adam

SETTINGS = (
    *("world_encoder", "fusion", "num_world_steps", "world_image_size", "world_pooling"),
    *("world_inference_steps", "world_guidance_scale"),
)


@dataclass(frozen=True)
class Gpu:
    """A GPU as its maker states it: dense bf16 TFLOPS, and memory in GB."""

    tflops: float
    memory: float


GPUS: dict[str, Gpu] = {
    "H200": Gpu(989, 141),
    "H100": Gpu(989, 80),
    "A100": Gpu(312, 80),
    "L40S": Gpu(362, 48),
    "RTX4090": Gpu(165, 24),
}


@dataclass(frozen=True)
class ComponentCost:
    """Parameters of one component, and the GB that they take: all in bf16, and in training."""

    component: str
    parameters: int
    trainable: int

    @property
    def loaded_gb(self) -> float:
        """GB of all weights in bf16."""
        return BF16 * self.parameters / 1e9

    @property
    def training_gb(self) -> float:
        """GB of weights, gradients and optimiser state in training."""
        return (BF16 * (self.parameters - self.trainable) + TRAINED * self.trainable) / 1e9


@dataclass(frozen=True)
class Cost:
    """What one setting of a model costs.

    Args:
        settings: The fields of the config that decide.
        downloads: What is fetched, by repository and component.
        components: Parameters and memory.
        tokens: By kind, of a prompt with one image: `world`, `image`, `text`, and `answer` in training.
        tflop: By phase, for one image: `encode`, `rollout`, `prefill`, `training step`.
        gpu: Key of `GPUS`.
        share: Of its peak that `seconds` assumes.
    """

    settings: dict[str, Any]
    downloads: list[Download]
    components: list[ComponentCost]
    tokens: dict[str, int]
    tflop: dict[str, float]
    gpu: str
    share: float

    @property
    def total(self) -> ComponentCost:
        """All components as one."""
        every = self.components
        return ComponentCost("all", sum(one.parameters for one in every), sum(one.trainable for one in every))

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds for one image, by phase."""
        return {phase: value / (GPUS[self.gpu].tflops * self.share) for phase, value in self.tflop.items()}


def plan(
    name: str | Path,
    *,
    gpu: str = "H200",
    share: float = 0.4,
    text_tokens: int = 64,
    answer_tokens: int = 16,
    **fields: Any,
) -> Cost:
    """Compute what a model costs to download, hold, ask and train. Reads configuration files only.

    Args:
        name: A base Gemma 3 or a TheWorld checkpoint: Hub id, folder (weights may be absent), or `nano`.
        gpu: Key of `GPUS`.
        share: Of the GPU's peak that the arithmetic reaches, above 0 and at most 1.
        text_tokens: Tokens of the prompt beside image and world.
        answer_tokens: Supervised tokens of a training sample.
        fields: As of `TheWorld.from_pretrained`: fields of `TheWorldConfig`, `operating_point`, `token`, ...

    Raises:
        ValueError: An argument or a field is out of range, or the world encoder cannot be planned.
        OSError: A configuration file is missing, or its repository is gated and its terms were not accepted.
    """
    # 1. Check the arguments
    if gpu not in GPUS:
        raise TheWorldError(f"gpu={brief(repr(gpu))}: expected one of {', '.join(GPUS)}")
    if not 0 < share <= 1:
        raise TheWorldError(f"share={share}: expected a share of the GPU's peak, above 0 and at most 1")
    for argument, value in (("text_tokens", text_tokens), ("answer_tokens", answer_tokens)):
        if value < 1:
            raise TheWorldError(f"{argument}={value}: expected at least 1")
    # 2. Build the model without weights
    loading = make_plan(name, fields, weights=False)
    if fields:
        raise TheWorldError(f"plan got {brief(', '.join(fields))}: not a field of TheWorldConfig")
    model = model_on_meta(loading)
    # 3. Count
    tokens = prompt_tokens(model.config, text_tokens, answer_tokens)
    flops = phase_flops(model, loading.cosmos, tokens)
    return Cost(
        {"model": shown(str(name)), **settings_of(model.config)},
        downloads_of(loading, model),
        [ComponentCost(component, size.total, size.trainable) for component, size in component_sizes(model).items()],
        tokens,
        {phase: value / 1e12 for phase, value in flops.items()},
        gpu,
        share,
    )


def settings_of(config: TheWorldConfig) -> dict[str, Any]:
    """The fields of a config that decide the cost."""
    if not config.enable_world:
        return {"enable_world": False}
    fields = {name: getattr(config, name) for name in SETTINGS}
    return {"cosmos_model_name": shown(config.cosmos_model_name), **fields}


def model_on_meta(loading: Plan) -> TheWorld:
    """The model that `from_pretrained` would load, without weights."""
    config, encoder = loading.config, None
    if loading.cosmos is not None:
        encoder = encoder_on_meta(config, loading.cosmos)
        take_sizes(config, encoder, loading.cosmos, loading.stated)
    with torch.device("meta"):
        model = TheWorld(config)
        model.model.world_encoder = encoder
        if config.lora is not None:
            inject_lora(config, model.model.language_model)
    model.freeze()
    return model


def encoder_on_meta(config: TheWorldConfig, source: Source) -> WorldEncoder:
    """The world encoder of `config` without weights."""
    return WORLD_ENCODERS[config.world_encoder].from_config(config, source, **source.hub)


def prompt_tokens(config: TheWorldConfig, text_tokens: int, answer_tokens: int) -> dict[str, int]:
    """Tokens of a prompt with one image, by kind."""
    world = config.enable_world and FUSIONS[config.fusion].block
    return {
        "world": config.world_tokens(config.num_world_steps) + MARKERS if world else 0,
        "image": cast(int, config.mm_tokens_per_image) + MARKERS,
        "text": text_tokens,
        "answer": answer_tokens,
    }


def phase_flops(model: TheWorld, source: Source | None, tokens: dict[str, int]) -> dict[str, float]:
    """Operations for one image, by phase."""
    encode, rollout = (0.0, 0.0) if source is None else encoder_flops(model, source)
    prompt = tokens["world"] + tokens["image"] + tokens["text"]
    with torch.no_grad():
        prefill = count(lambda: run_model(model, prompt)[:, -1:], model.lm_head)
    step = count(lambda: run_model(model, prompt + tokens["answer"])[:, -tokens["answer"] :], model.lm_head, train=True)
    frozen = 0.0 if trains(model.model.world_encoder) else encode  # what trains runs in the step
    return {"encode": encode, "rollout": rollout, "prefill": prefill, "training step": frozen + rollout + step}


def count(run: Callable[[], torch.Tensor], head: Any = None, *, train: bool = False) -> float:
    """Operations of `run`, of `head` on what it gives, and, to train, of the gradients of both."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        output = run()
        output = output if head is None else head(output)
        if train:
            output.sum().backward()
    return float(counter.get_total_flops())


def encoder_flops(model: TheWorld, source: Source) -> tuple[float, float]:
    """Operations of one frame's features, and of predicting `num_world_steps` frames.

    A rollout is linear in its denoising steps, so one and two of them tell the cost of any number.
    """
    config, steps = model.config, model.config.num_world_steps
    pixels = torch.zeros(1, 3, *config.world_image_shape, device="meta")
    found: list[float] = []
    for inference_steps in (1, 2) if steps else ():
        short = copy.copy(config)
        short.world_inference_steps = inference_steps
        encoder = encoder_on_meta(short, source)
        found.append(count(lambda encoder=encoder: encoder.encode(pixels, steps)))
    encoder = cast(WorldEncoder, model.model.world_encoder)
    present = count(lambda: encoder.encode(pixels, 0))
    if not steps:
        return present, 0.0
    one, two = found
    return present, one + (config.world_inference_steps - 1) * (two - one) - present


def run_model(model: TheWorld, length: int) -> torch.Tensor:
    """Last hidden states (1, L, D) of a prompt of `length` tokens with one image; its world's latents are given."""
    config, inner = model.config, model.model
    side = cast(Any, config.vision_config).image_size
    # 1. Image and world tokens
    image = cast(Any, inner.get_image_features)(torch.zeros(1, 3, side, side, device="meta")).pooler_output  # (1, I, D)
    parts = [image]
    if inner.world_encoder is not None:
        world = inner.project_latents(latents_of(inner.world_encoder, config)).pooler_output  # (1, N, D)
        parts = [world, image] if FUSIONS[config.fusion].block else [inner.gate_images(image, world)]
    # 2. The language model on them and on text
    rest = torch.zeros(1, length - sum(part.shape[1] for part in parts), dtype=torch.long, device="meta")
    embeds = torch.cat([*parts, cast(Any, inner.get_input_embeddings())(rest)], dim=1)  # (1, L, D)
    mask = torch.ones(1, 1, length, length, dtype=torch.bool, device="meta")
    masks = dict.fromkeys(("full_attention", "sliding_attention"), mask)
    positions = torch.arange(length, device="meta")[None]
    language = cast(Any, inner.language_model)
    return language(inputs_embeds=embeds, attention_mask=masks, position_ids=positions, use_cache=False)[0]


def latents_of(encoder: WorldEncoder, config: TheWorldConfig) -> torch.Tensor:
    """Latents (1, C, T, h, w) without content; those of the current frame have the gradient of a VAE that trains."""
    shape = encoder.grid(*config.world_image_shape, config.num_world_steps)
    latents = torch.zeros(1, encoder.feature_dim, *shape, device="meta")
    if not (trains(encoder) and torch.is_grad_enabled()):
        return latents
    first = encoder.encode(torch.zeros(1, 3, *config.world_image_shape, device="meta"))
    return torch.cat([first, latents[:, :, 1:]], dim=2)


__all__ = ["GPUS", "ComponentCost", "Cost", "Gpu", "plan"]
