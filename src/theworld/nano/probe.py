"""How much of an outcome a latent holds: small classifiers read it from the current, the true last, the imagined last.

Shapes: `n` clips, `C` latent channels, `L` latent frames, `h`, `w` latent pixels.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from diffusers import CosmosTransformer3DModel, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file
from torch import Tensor, nn

from theworld.model import TheWorld
from theworld.model.world_encoders import CosmosWorldEncoder
from theworld.model.world_encoders.cosmos_sampler import sample_rollout

from .dynamics import FPS
from .fit import Group, fit
from .scenes import Record, SceneSet
from .vae import encode_clips

logger = logging.getLogger(__name__)

FAMILIES = ("bin", "touch", "race", "topple")
NOT_ASKED = -1
_CHOICES = {"touch": ("no", "yes"), "topple": ("left", "no", "right")}


def outcome_label(record: Record, family: str) -> int:
    """Class of a scene's outcome, or `NOT_ASKED`: by place (bin 0 to 3, lane 0 or 1), since colours are shuffled."""
    answer, scene = record["outcomes"].get(family), record["scene"]
    if answer is None:
        return NOT_ASKED
    if family == "bin":
        return scene["bins"].index(answer)
    if family == "race":
        return [ball["colour"] for ball in scene["balls"]].index(answer)
    return _CHOICES[family].index(answer)


def outcome_labels(records: Sequence[Record]) -> dict[str, Tensor]:
    """Classes (n,) of every family."""
    return {family: torch.tensor([outcome_label(record, family) for record in records]) for family in FAMILIES}


def _build_probe(inputs: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 256), nn.GELU(), nn.Dropout(0.1), nn.Linear(256, classes)
    )  # (n, C, L, h, w) -> (n, classes)


def fit_probe(latents: Tensor, labels: Tensor, *, steps: int = 800, batch_size: int = 256, seed: int = 0) -> nn.Module:
    """A two-layer classifier of latents (n, ...) into `labels` (n,); clips that are `NOT_ASKED` are left out."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    asked = labels != NOT_ASKED
    latents, labels = latents[asked], labels[asked]
    probe = _build_probe(latents[0].numel(), int(labels.max()) + 1)

    def step(_: int) -> tuple[Tensor, dict[str, float]]:
        picked = torch.randint(0, len(labels), (batch_size,), generator=generator)
        return nn.functional.cross_entropy(probe(latents[picked]), labels[picked]), {}

    groups = [Group(probe.parameters(), 2e-3, weight_decay=0.05)]
    fit("probe", step, groups, steps=steps, warmup=20, betas=(0.9, 0.999), log_every=steps)
    return probe.eval()


@torch.no_grad()
def probe_accuracy(probe: nn.Module, latents: Tensor, labels: Tensor) -> float:
    """Share of the asked clips that `probe` classifies right; nan where none is asked."""
    asked = labels != NOT_ASKED
    return float((probe(latents[asked]).argmax(1) == labels[asked]).float().mean())


def probe_outcomes(
    train_latents: Tensor,
    train_labels: Mapping[str, Tensor],
    latents: Tensor,
    labels: Mapping[str, Tensor],
    rollouts: Mapping[str, Tensor] | None = None,
) -> dict[str, dict[str, float]]:
    """Accuracies `{family: {"clips", "current", "true_last", <name of each rollout>}}` on held-out `latents`.

    Probes learn from true latents (n, C, L, h, w) alone. That of the first frame says what can be told without
    simulating; that of the last is the judge of the `rollouts`, each of them latents of the same held-out clips.
    """
    results: dict[str, dict[str, float]] = {}
    for family, wanted in labels.items():
        if not (wanted != NOT_ASKED).any():
            continue
        first = fit_probe(train_latents[:, :, 0], train_labels[family])
        last = fit_probe(train_latents[:, :, -1], train_labels[family])
        results[family] = {
            "clips": int((wanted != NOT_ASKED).sum()),
            "current": probe_accuracy(first, latents[:, :, 0], wanted),
            "true_last": probe_accuracy(last, latents[:, :, -1], wanted),
        }
        for name, rollout in (rollouts or {}).items():
            results[family][name] = probe_accuracy(last, rollout[:, :, -1], wanted)
        logger.info("probe %s: %s", family, {key: round(value, 4) for key, value in results[family].items()})
    return results


def roll_out(
    transformer: CosmosTransformer3DModel,
    scheduler: FlowMatchEulerDiscreteScheduler,
    latents: Tensor,
    *,
    prompt_embeds: Tensor,
    num_inference_steps: int,
    seed: int = 0,
    batch_size: int = 250,
) -> Tensor:
    """Imagine the future of latents (n, C, L, h, w), of which only the first frame is read; one noise serves all."""
    noise = torch.randn((1, *latents.shape[1:]), generator=torch.Generator().manual_seed(seed))
    rolled = [
        sample_rollout(
            transformer,
            scheduler,
            batch[:, :, :1],
            noise.expand(len(batch), -1, -1, -1, -1),
            prompt_embeds=prompt_embeds,
            num_inference_steps=num_inference_steps,
            fps=FPS,
        )
        for batch in latents.split(batch_size)
    ]
    return torch.cat(rolled)


def probe_model(model: TheWorld, train: SceneSet, held_out: SceneSet) -> dict[str, dict[str, float]]:
    """`probe_outcomes` of a model's own VAE and rollout (`rollout`), learned on `train`, judged on `held_out`."""
    encoder = cast(CosmosWorldEncoder, model.model.world_encoder)  # the nano world has no other
    latents = encode_clips(encoder.vae, held_out.frames)
    steps, seed = model.config.num_world_steps, model.config.world_seed
    rolled = torch.cat([encoder.rollout(first, steps, seed) for first in latents[:, :, :1].split(250)])
    return probe_outcomes(
        encode_clips(encoder.vae, train.frames),
        outcome_labels(train.records),
        latents,
        outcome_labels(held_out.records),
        {"rollout": rolled},
    )


def load_dynamics(folder: Path) -> tuple[CosmosTransformer3DModel, FlowMatchEulerDiscreteScheduler, Tensor]:
    """Transformer, scheduler and prompt embedding (1, 1, 32) of a Cosmos folder that the recipe wrote."""
    transformer = CosmosTransformer3DModel.from_pretrained(folder / "transformer").eval()
    scheduler = cast(
        FlowMatchEulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    )
    return transformer, scheduler, load_file(folder / "prompt_embeds.safetensors")["prompt_embeds"]
