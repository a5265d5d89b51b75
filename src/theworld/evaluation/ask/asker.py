"""The arms of one checkpoint, asked batch by batch.

The items' order alone decides which items form a batch, since kernels round differently in other batches. So a resumed
run, and one of several processes, which ask every `W`-th batch each, end with the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm import tqdm

from theworld.model import TheWorld
from theworld.utils.errors import TheWorldError
from theworld.utils.reproducibility import environment
from theworld.utils.tensors import weights_digest

from ..score import scored
from ..settings import EvaluationSettings
from ..store.predictions import Item, Prediction, PredictionFile, digest_of, items_digest, read_predictions
from ..store.refusals import ArmRun, check_arm
from ..tasks.base import Task, TaskItems
from .arms import PlannedArm
from .prompts import PromptBuilder
from .scorers import answer_ids, choices, consumed_world_tokens, generate
from .worlds import Worlds, encode_worlds


class Asker:
    """Asks the arms of one checkpoint; `largest_steps` is the most future latent frames of any arm."""

    def __init__(
        self, task: Task, items: TaskItems, settings: EvaluationSettings, model: TheWorld, largest_steps: int
    ) -> None:
        self.task, self.items, self.settings, self.model = task, items, settings, model
        self.largest_steps, self.clips = largest_steps, False
        own = {name: v for name, v in model.state_dict().items() if not name.startswith("model.world_encoder.")}
        self.weights = weights_digest(own)
        self.worlds: dict[int, Worlds] = {}  # what was encoded, by number of future latent frames

    def run(self, group: Sequence[PlannedArm]) -> dict[str, list[Prediction]]:
        """The predictions of every arm of the group, complete and checked."""
        self.clips = any(planned.arm.world == "true_future" for planned in group)
        return {planned.arm.name: self.run_arm(planned) for planned in group}

    def run_arm(self, planned: PlannedArm) -> list[Prediction]:
        """The predictions of one arm, complete and checked."""
        items, size, state = self.items.items, self.settings.batch_size, PartialState()
        # 1. What the arm needs
        worlds = None if planned.num_world_steps is None else self.worlds_of(planned.num_world_steps)
        builders = {closed: self.builder(planned, closed=closed) for closed in (True, False)}
        identity = {
            **asked(self.task, self.items, self.settings, planned),
            "weights": self.weights,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "attn_implementation": self.settings.attn_implementation,
            "num_world_steps": planned.num_world_steps,
            "world_encoder": None if worlds is None else worlds.cache.fingerprint,
            "batch_size": size,
        }
        about = {
            "label": planned.arm.label,
            "model": self.settings.model,
            "checkpoint": planned.checkpoint or self.model.config.gemma_model_name,
            "chat_template": hashlib.sha256(str(self.model.processor.chat_template).encode()).hexdigest()[:16],
        }
        file = open_file(self.settings, identity, about)
        # 2. This process's share of the batches
        mine = range(size * state.process_index, len(items), size * state.num_processes)
        for start in tqdm(mine, planned.arm.name, unit="batch", disable=not state.is_main_process):
            batch = items[start : start + size]
            # A kill between two rows of a batch: the whole batch is formed again for the rows that are missing
            if any(item.id not in file.done for item in batch):
                file.append(self.ask(batch, builders, worlds, planned))
        # 3. All rows in one file
        return merged(file, self.items)

    def worlds_of(self, num_world_steps: int) -> Worlds:
        """The worlds of a number of steps; the present alone is part of the longest rollout if it is the same there."""
        encoder, steps, settings = self.model.model.world_encoder, num_world_steps, self.settings
        if encoder is not None and encoder.causal:
            steps = steps or self.largest_steps
        if steps not in self.worlds:
            self.model.config.num_world_steps = steps
            folder = Path(settings.latent_cache or settings.folder / "latents")
            asked = (self.items.items, settings.source.image_folder, folder, settings.batch_size, settings.seed)
            clips = self.clips and steps == self.largest_steps
            self.worlds[steps] = encode_worlds(self.model, *asked, clips=clips)
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

    def ask(
        self, items: Sequence[Item], builders: Mapping[bool, PromptBuilder], worlds: Worlds | None, planned: PlannedArm
    ) -> list[Prediction]:
        """Predictions of one batch: of its closed questions, whose choices are compared, and of its open ones."""
        steps, found = planned.num_world_steps, dict[str, Prediction]()
        for closed, builder in builders.items():
            # 1. The prompts of items that are scored in one way
            alike = [i for i in items if (bool(i.choices) and self.settings.scorer != "generate") == closed]
            batch, reasons = builder.build(alike)
            found |= {item.id: Prediction.of(item, failed=reasons[item.id]) for item in alike if item.id in reasons}
            if batch is None:
                continue
            # 2. What the model answers
            world = None if worlds is None or steps is None else worlds.tokens(batch.items, planned.arm, steps)
            with consumed_world_tokens(self.model) as consumed:
                if closed:
                    answers = choices(self.model, batch, world)
                else:
                    answers = generate(self.model, batch, world, self.task.max_new_tokens)
            if sum(consumed) != sum(batch.world_tokens):
                raise TheWorldError(
                    f"{sum(consumed)} world tokens reached the model, but the prompts from {batch.items[0].id!r} on "
                    f"have {sum(batch.world_tokens)}: give a checkpoint with a world"
                )
            # 3. How it reads
            rows = zip(batch.items, answers, batch.prompts, batch.world_tokens, strict=True)
            for item, answer, prompt, count in rows:
                row = Prediction.of(item, prompt=prompt, world_tokens=count, **vars(answer))
                found[item.id] = scored(self.task, item, row)
        return [found[item.id] for item in items]


def asked(task: Task, items: TaskItems, settings: EvaluationSettings, planned: PlannedArm) -> dict[str, Any]:
    """The identity of predictions, as far as no model decides it."""
    return {
        "task": task.name,
        "arm": planned.arm.name,
        "scorer": settings.scorer,
        "items": {"count": len(items.items) + len(items.skipped), "digest": items_digest(items.items)},
        "images": items.images,
        "groups": digest_of([[item.family, item.cluster, item.metadata] for item in items.items]),
        "quantization": next((key for key in ("load_in_4bit", "load_in_8bit") if getattr(settings, key)), None),
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
