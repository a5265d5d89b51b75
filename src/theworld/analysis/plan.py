"""Computes what a model costs from its configuration files, on the meta device, without weights.

Parameters are those of the modules themselves; `plan_flops` counts operations, `plan_files` lists downloads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from theworld.model import TheWorld, TheWorldConfig
from theworld.model.checkpoints.load import Plan, make_plan, take_sizes
from theworld.model.checkpoints.lora import inject_lora
from theworld.model.components import component_sizes
from theworld.model.fusion import FUSIONS
from theworld.utils.errors import TheWorldError, brief
from theworld.utils.hub import shown

from .plan_files import Download, downloads_of
from .plan_flops import encoder_on_meta, phase_flops

LONGEST = 2**17  # positions of Gemma 3
MARKERS = 2  # around a world block, and around the tokens of an image
BF16, TRAINED = 2, 4 + 4 + 8  # bytes per parameter: frozen; trained: fp32 weight, gradient and the two moments of Adam

SETTINGS = (
    *("world_encoder", "fusion", "num_world_steps", "world_image_size", "world_pooling", "world_unpooling"),
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
    """Parameters of one component, and their memory in GB: all in bf16, and in training."""

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
    """Cost of a model with given settings.

    Args:
        settings: The fields of the config that determine the cost.
        downloads: Files to download, by repository and component.
        components: Parameters and memory.
        tokens: By kind, of a prompt with one image: `world`, `image`, `text`, and `answer` in training.
        tflop: By phase, for one image: `encode`, `rollout`, `prefill`, `training step`.
        gpu: Key of `GPUS`.
        share: Share of its peak that `seconds` assumes.
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
        share: Share of the GPU's peak that computations reach, above 0 and at most 1.
        text_tokens: Tokens of the prompt besides image and world.
        answer_tokens: Supervised tokens of a training sample.
        fields: Arguments of `TheWorld.from_pretrained`: fields of `TheWorldConfig`, `operating_point`, `token`, ...

    Raises:
        ValueError: An argument or a field is out of range, or the world encoder cannot be planned.
        OSError: A configuration file is missing, or its repository is gated and its terms were not accepted.
    """
    # 1. Check the arguments
    if gpu not in tuple(GPUS):
        raise TheWorldError(f"gpu={brief(repr(gpu))}: expected one of {', '.join(GPUS)}")
    if type(share) not in (int, float) or not 0 < share <= 1:
        raise TheWorldError(f"share={share!r}: expected a share of the GPU's peak, above 0 and at most 1")
    for argument, value in (("text_tokens", text_tokens), ("answer_tokens", answer_tokens)):
        if type(value) is not int or not 1 <= value <= LONGEST:
            raise TheWorldError(f"{argument}={value!r}: expected a whole number from 1 to {LONGEST}")
    # 2. Build the model without weights
    loading = make_plan(name, fields, weights=False)
    if fields:
        raise TheWorldError(f"plan got {brief(', '.join(fields))}: not a field of TheWorldConfig")
    model = model_on_meta(loading)
    # 3. Count operations, files and parameters
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
    """The fields of a config that determine the cost."""
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


def prompt_tokens(config: TheWorldConfig, text_tokens: int, answer_tokens: int) -> dict[str, int]:
    """Tokens of a prompt with one image, by kind."""
    world = config.enable_world and FUSIONS[config.fusion].block
    return {
        "world": config.world_tokens(config.num_world_steps) + MARKERS if world else 0,
        "image": cast(int, config.mm_tokens_per_image) + MARKERS,
        "text": text_tokens,
        "answer": answer_tokens,
    }


__all__ = ["GPUS", "ComponentCost", "Cost", "Gpu", "plan"]
