"""Held-out accuracy of the nano model with the controls that say why: what `theworld nano evaluate` prints.

Every arm answers the same questions, in the same words, through the same processor and `generate`. The arms of one
model differ in the world tokens alone: none, the rollout, the rollout of another scene, the true future. The control is
a second model, trained alike on the current frame repeated.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from scipy.stats import binomtest
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from theworld.constants import NANO
from theworld.model import TheWorld
from theworld.model.world_encoders import CosmosWorldEncoder
from theworld.utils.devices import input_device

from .asking import Item, decode_answers, draw_items, encode_items
from .conversations import FIRST
from .recipe import CONTROLS, WEIGHTS, Recipe
from .scenes import SceneSet, generate, load
from .vae import encode_clips

logger = logging.getLogger(__name__)

BATCH = 100
ARMS = {
    "majority": "the most frequent answer",
    "gemma": "Gemma alone, no world tokens",
    "current": "current frame repeated, trained alike",
    "rollout": "current frame and rollout",
    "shuffled": "rollout of another scene",
    "future_shuffled": "own current frame, future of another scene",
    "true_future": "current frame and true future",
}
PROBES = {
    "current": "the current latent",
    "true_last": "the true last latent",
    "rollout": "the last latent of the rollout",
}
MODEL_ARMS = {"predictive": tuple(ARMS)[1:], "static": ("gemma", "current", "rollout")}


@dataclass(frozen=True)
class Accuracy:
    """Right answers of `n`, with a 95 % Wilson interval."""

    right: int
    n: int
    accuracy: float
    low: float
    high: float


def accuracy(right: int, n: int) -> Accuracy:
    """Share of right answers with its interval."""
    interval = binomtest(right, n).proportion_ci(0.95, method="wilson")
    return Accuracy(right, n, right / n, float(interval.low), float(interval.high))


def held_out_scenes(folder: Path, split: str = "test", workers: int = 2) -> SceneSet:
    """The scenes of `folder`/`split`, simulated first if they are not there."""
    if (folder / split).is_dir():
        return load(folder / split)
    return generate(folder / split, split, Recipe().counts(split), workers)


def load_for_evaluation(model: str | Path) -> TheWorld:
    """The model in fp32, as the recipe trained it; stored weights are bf16."""
    return TheWorld.from_pretrained(model, dtype=torch.float32)


def control_of(model: str | Path) -> Path:
    """The matched control that the recipe puts beside a model."""
    return (WEIGHTS if str(model) == NANO else Path(model).parent) / CONTROLS / "current_frame"


def evaluate_nano(
    scenes: SceneSet,
    model: TheWorld,
    control: TheWorld,
    *,
    per_predictive: int = 1000,
    per_static: int = 500,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Accuracy per arm and family.

    Args:
        scenes: Held-out scenes.
        model: The fusion with the rollout.
        control: The fusion trained alike on the repeated current frame.
        per_predictive: Questions per predictive family.
        per_static: Questions per static family.

    Returns:
        `{"predictive" | "static": {arm: {family: Accuracy as a dict}}}`.
    """
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for kind, count in (("predictive", per_predictive), ("static", per_static)):
        items = draw_items(scenes, (FIRST,), count, predictive=kind == "predictive", seed=seed)
        worlds = _worlds(model, scenes, items, seed) if kind == "predictive" else {}
        results[kind] = {"majority": by_family(items, majority_answers(items))}
        for arm in MODEL_ARMS[kind]:
            logger.info("%s questions: %s, %d answers", kind, ARMS[arm], len(items))
            asked = control if arm == "current" else model
            answers = answer(asked, items, use_world=arm != "gemma", latents=worlds.get(arm))
            results[kind][arm] = by_family(items, answers)
    return results


def _worlds(model: TheWorld, scenes: SceneSet, items: list[Item], seed: int) -> dict[str, Tensor]:
    """Latents (items, C, T, h, w) of the arms whose world is not what the model makes of the item's own image."""
    encoder = cast(CosmosWorldEncoder, model.model.world_encoder)  # the nano world has no other
    clips = [item.clip for item in items]
    true = encode_clips(encoder.vae, scenes.frames[clips])
    pixels = model.processor.world_pixels([Image.fromarray(item.frames[0]) for item in items])
    rolled = torch.cat([encoder.encode(batch, model.config.num_world_steps) for batch in pixels.split(BATCH)])
    other = _another_scene(items, np.random.default_rng(seed))
    mixed = torch.cat([rolled[:, :, :1], rolled[other][:, :, 1:]], dim=2)
    return {"shuffled": rolled[other], "future_shuffled": mixed, "true_future": true}


def _another_scene(items: list[Item], rng: np.random.Generator) -> Tensor:
    """For each item the index of another of its family: a random cycle through the family."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        members[item.question.family].append(index)
    other = torch.arange(len(items))
    for indices in members.values():
        cycle = torch.from_numpy(rng.permutation(indices))
        other[cycle] = cycle.roll(1)
    return other


@torch.no_grad()
def answer(model: TheWorld, items: list[Item], *, use_world: bool = True, latents: Tensor | None = None) -> list[str]:
    """Greedy answers; `latents` replace what the world encoder would make of the images.

    Raises:
        RuntimeError: The world was asked for and no world token reached the model.
    """
    answers: list[str] = []
    for start in range(0, len(items), BATCH):
        batch = items[start : start + BATCH]
        padding = {"padding": True, "padding_side": "left"}
        inputs = encode_items(model.processor, batch, use_world=use_world, processor_kwargs=padding)
        inputs = inputs.to(input_device(model))
        if use_world and not (inputs["input_ids"] == model.config.world_token_id).any():
            raise RuntimeError("a world arm without world tokens in its prompts")
        options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
        if latents is not None:
            inputs.pop("world_pixel_values")
            world = model.model.project_latents(latents[start : start + BATCH])
            options["mm_encoder_outputs"] = {"world": BaseModelOutputWithPooling(pooler_output=world.pooler_output)}
        output = model.generate(**inputs, use_world=None if use_world else False, **options)
        answers += decode_answers(model.processor, output, inputs["input_ids"].shape[1])
    return answers


def majority_answers(items: list[Item]) -> list[str]:
    """For each item the answer that its family has most often: what guessing well is worth."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        counts[item.question.family][item.question.answer] += 1
    return [counts[item.question.family].most_common(1)[0][0] for item in items]


def by_family(items: list[Item], answers: list[str]) -> dict[str, dict[str, Any]]:
    """Accuracy of every family and of all together, as dicts."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for item, given in zip(items, answers, strict=True):
        for family in (item.question.family, "all"):
            hits[family].append(given == item.question.answer)
    order = [*sorted(family for family in hits if family != "all"), "all"]
    return {family: asdict(accuracy(sum(hits[family]), len(hits[family]))) for family in order}


def results_text(results: dict[str, Any]) -> str:
    """Markdown tables, percent with half the interval's width: predictive, static (families down), probes."""
    blocks = [_predictive_table(results["predictive"]), _static_table(results["static"])]
    if "probes" in results:
        blocks.append(_probes_table(results["probes"]))
    return "\n\n".join(blocks)


def _predictive_table(arms: dict[str, dict[str, dict[str, Any]]]) -> str:
    families = next(iter(arms.values()))
    lines = [_row("predictive questions", *(f"{family} (n={figures['n']})" for family, figures in families.items()))]
    lines.append(_rule(len(families)))
    lines += [_row(ARMS[arm], *map(_percent, figures.values())) for arm, figures in arms.items()]
    return "\n".join(lines)


def _static_table(arms: dict[str, dict[str, dict[str, Any]]]) -> str:
    lines = [_row("static questions", *(ARMS[arm] for arm in arms)), _rule(len(arms))]
    for family, figures in next(iter(arms.values())).items():
        lines.append(_row(f"{family} (n={figures['n']})", *(_percent(arm[family]) for arm in arms.values())))
    return "\n".join(lines)


def _percent(figures: dict[str, Any]) -> str:
    return f"{100 * figures['accuracy']:.1f} ± {50 * (figures['high'] - figures['low']):.1f}"


def _rule(columns: int) -> str:
    return "|---" * (columns + 1) + "|"


def _probes_table(probes: dict[str, dict[str, float]]) -> str:
    lines = [_row("outcome by probe, from", *(f"{family} (n={row['clips']})" for family, row in probes.items()))]
    lines.append(_rule(len(probes)))
    for name, label in PROBES.items():
        lines.append(_row(label, *(f"{100 * row[name]:.1f}" for row in probes.values())))
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
