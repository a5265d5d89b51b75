"""The arms of one checkpoint, asked batch by batch.

The items' order alone decides which items form a batch, since kernels round differently in other batches. So a resumed
run, and one of several processes, which ask every `W`-th batch each, end with the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tqdm import tqdm

from theworld.model import TheWorld
from theworld.utils.errors import TheWorldError
from theworld.utils.reproducibility import environment
from theworld.utils.tensors import weights_digest

from ..settings import EvaluationSettings
from ..store.predictions import Item, Prediction, PredictionFile, items_digest, read_predictions
from ..store.refusals import ArmRun, check_arm
from ..tasks.base import Task, TaskItems
from .arms import PlannedArm
from .prompts import PromptBuilder
from .scorers import Answer, answer_ids, choices, consumed_world_tokens, generate
from .worlds import Worlds, encode_worlds

_Builders = Mapping[bool, PromptBuilder]
_WorldOf = Callable[[Sequence[Item]], torch.Tensor | None]

LATENTS = "latents"
"""Folder in the output where the world's latents are kept, unless one is named."""


class Asker:
    """Asks the arms of one checkpoint.

    Args:
        task: What is asked.
        items: Of the task.
        settings: Of the evaluation.
        model: Which answers.
        largest_steps: Most future latent frames of any arm.
    """

    def __init__(
        self, task: Task, items: TaskItems, settings: EvaluationSettings, model: TheWorld, largest_steps: int
    ) -> None:
        self.task, self.items, self.settings, self.model = task, items, settings, model
        self.largest_steps = largest_steps
        own = {name: v for name, v in model.state_dict().items() if not name.startswith("model.world_encoder.")}
        self.weights = weights_digest(own)
        self.worlds: dict[int, Worlds] = {}  # what was encoded, by number of future latent frames

    def run(self, group: Sequence[PlannedArm]) -> dict[str, list[Prediction]]:
        """The predictions of every arm of the group, complete and checked."""
        clips = any(planned.arm.world == "true_future" for planned in group)
        return {planned.arm.name: self.run_arm(planned, clips=clips) for planned in group}

    def run_arm(self, planned: PlannedArm, *, clips: bool = False) -> list[Prediction]:
        """The predictions of one arm, complete and checked."""
        items, size, state = self.items.items, self.settings.batch_size, PartialState()
        # 1. What the arm needs
        steps = planned.num_world_steps
        worlds = None if steps is None else self.worlds_of(steps, clips=clips)
        builders = {closed: self.builder(planned, closed=closed) for closed in (True, False)}
        file = open_file(self.settings, self.identity(planned, worlds), self.manifest(planned))

        def world_of(asked: Sequence[Item]) -> torch.Tensor | None:
            return None if worlds is None or steps is None else worlds.tokens(asked, planned.arm, steps)

        # 2. This process's share of the batches
        mine = range(size * state.process_index, len(items), size * state.num_processes)
        for start in tqdm(mine, planned.arm.name, unit="batch", disable=not state.is_main_process):
            batch = items[start : start + size]
            # A kill between two rows of a batch: the whole batch is formed again for the rows that are missing
            if any(item.id not in file.done for item in batch):
                file.append(self.ask(batch, builders, world_of))
        # 3. All rows in one file
        return merged(file, self.items)

    def worlds_of(self, num_world_steps: int, *, clips: bool = False) -> Worlds:
        """The worlds of a number of steps; the present alone is part of the longest rollout."""
        steps, settings = num_world_steps or self.largest_steps, self.settings
        if steps not in self.worlds:
            self.model.config.num_world_steps = steps
            folder = Path(settings.latent_cache or settings.folder / LATENTS)
            asked = (self.items.items, settings.source.image_folder, folder, settings.batch_size, settings.seed)
            self.worlds[steps] = encode_worlds(self.model, *asked, clips=clips and steps == self.largest_steps)
        return self.worlds[steps]

    def builder(self, planned: PlannedArm, *, closed: bool) -> PromptBuilder:
        """Makes the prompts of an arm's closed questions, or of its open ones."""
        room, tokenizer = self.task.max_new_tokens, self.model.processor.tokenizer
        if closed:
            answers = {choice for item in self.items.items for choice in item.choices}
            room = max((len(answer_ids(tokenizer, choice)) for choice in answers), default=0)
        instruction = "" if closed else self.task.instruction
        folder = self.settings.source.image_folder
        return PromptBuilder(self.model, planned.num_world_steps, planned.arm.image, instruction, room, folder)

    def ask(self, items: Sequence[Item], builders: _Builders, world_of: _WorldOf) -> list[Prediction]:
        """Predictions of one batch: of its closed questions and of its open ones."""
        found: dict[str, Prediction] = {}
        for closed, builder in builders.items():
            alike = [item for item in items if self.is_closed(item) == closed]
            if alike:
                found |= self.ask_alike(alike, builder, world_of, closed=closed)
        return [found[item.id] for item in items]

    def is_closed(self, item: Item) -> bool:
        """Whether the item's choices are compared."""
        return bool(item.choices) and self.settings.scorer != "generate"

    def ask_alike(
        self, items: Sequence[Item], builder: PromptBuilder, world_of: _WorldOf, *, closed: bool
    ) -> dict[str, Prediction]:
        """Predictions by id of items that are scored in one way."""
        batch, reasons = builder.build(items)
        found = {item.id: failed(item, reasons[item.id]) for item in items if item.id in reasons}
        if batch is None:
            return found
        world = world_of(batch.items)
        with consumed_world_tokens(self.model) as consumed:
            if closed:
                answers = choices(self.model, batch, world)
            else:
                answers = generate(self.model, batch, world, self.task.max_new_tokens)
        if sum(consumed) != sum(batch.world_tokens):
            raise TheWorldError(
                f"{sum(consumed)} world tokens reached the model, but the prompts from {batch.items[0].id!r} on have "
                f"{sum(batch.world_tokens)}: give a checkpoint with a world"
            )
        for place, item in enumerate(batch.items):
            found[item.id] = scored(self.task, item, answers[place], batch.prompts[place], batch.world_tokens[place])
        return found

    def identity(self, planned: PlannedArm, worlds: Worlds | None) -> dict[str, Any]:
        """All that decides the predictions."""
        return {
            **asked(self.task, self.items, self.settings, planned),
            "weights": self.weights,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "attn_implementation": self.settings.attn_implementation,
            "num_world_steps": planned.num_world_steps,
            "world_encoder": None if worlds is None else worlds.cache.fingerprint,
            "batch_size": self.settings.batch_size,
        }

    def manifest(self, planned: PlannedArm) -> dict[str, Any]:
        """More that a reader of the predictions may want to know."""
        template = str(self.model.processor.chat_template)
        return {
            "label": planned.arm.label,
            "model": self.settings.model,
            "checkpoint": planned.checkpoint or self.model.config.gemma_model_name,
            "chat_template": hashlib.sha256(template.encode()).hexdigest()[:16],
        }


def asked(task: Task, items: TaskItems, settings: EvaluationSettings, planned: PlannedArm) -> dict[str, Any]:
    """The identity of predictions, as far as no model decides it."""
    return {
        "task": task.name,
        "arm": planned.arm.name,
        "scorer": settings.scorer,
        "items": {"count": len(items.items) + len(items.skipped), "digest": items_digest(items.items)},
        "instruction": task.instruction,
        "max_new_tokens": task.max_new_tokens,
        "seed": settings.seed,
    }


def open_file(settings: EvaluationSettings, identity: dict[str, Any], manifest: dict[str, Any]) -> PredictionFile:
    """This process's file of the predictions of an arm."""
    source = {name: value for name, value in asdict(settings.source).items() if value is not None}
    described = {name: value if isinstance(value, int) else str(value) for name, value in source.items()}
    manifest = {**manifest, "source": described, "environment": environment()}
    folder = settings.folder / identity["task"] / identity["arm"]
    return PredictionFile(folder, identity, manifest, PartialState().process_index)


def merged(file: PredictionFile, items: TaskItems) -> list[Prediction]:
    """The predictions of an arm that every process has asked its share of, complete and checked."""
    state = PartialState()
    state.wait_for_everyone()
    if state.is_main_process:
        file.append(Prediction(row.id, "", "", "", failed=f"{row.cause}: {row.detail}") for row in items.skipped)
        file.merge([row.id for row in (*items.items, *items.skipped)])
    state.wait_for_everyone()
    manifest, rows = read_predictions(file.folder)
    check_arm(ArmRun(file.identity["arm"], manifest, rows))
    return rows


def scored(task: Task, item: Item, answer: Answer, prompt: str = "", world_tokens: int = 0) -> Prediction:
    """An answer, read by the task's rules."""
    score = task.score(item, answer.output)
    return Prediction(
        item.id,
        prompt,
        item.answer,
        answer.output,
        item.family,
        item.cluster,
        score.parsed,
        score.right,
        dict(score.figures),
        answer.choice_logprobs,
        world_tokens,
    )


def failed(item: Item, reason: str) -> Prediction:
    """An item that could not be asked."""
    return Prediction(item.id, "", item.answer, "", item.family, item.cluster, failed=reason)


__all__ = ["Asker", "asked", "failed", "merged", "open_file", "scored"]
