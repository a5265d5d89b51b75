"""The arms of one checkpoint, asked batch by batch.

Items are asked in batches that their order alone decides, since kernels round differently in batches of another
composition: a run that was killed ends with the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from theworld.data.schema import SourceSettings
from theworld.model import TheWorld
from theworld.utils.errors import TheWorldError
from theworld.utils.reproducibility import environment
from theworld.utils.tensors import weights_digest

from ..store.predictions import Item, Prediction, PredictionFile, items_digest
from ..store.refusals import ArmRun, check_arm
from ..tasks.base import Task, TaskItems
from .arms import ARMS, PlannedArm
from .prompts import PromptBuilder
from .scorers import SCORERS, Answer, answer_ids, choices, consumed_world_tokens, generate
from .worlds import Worlds, encode_worlds

_Builders = Mapping[bool, PromptBuilder]
_WorldOf = Callable[[Sequence[Item]], torch.Tensor | None]

LATENTS = "latents"
"""Folder in the output where the world's latents are kept, unless one is named."""


@dataclass(frozen=True)
class EvaluationSettings:
    """What is asked of an evaluation.

    Args:
        model: Name or folder of a TheWorld checkpoint, or of a Gemma 3.
        output: Folder; predictions go to <output>/<task>/<arm>.
        source: Where the task's items come from.
        arms: Keys of `ARMS`.
        scorer: One of `SCORERS`.
        num_world_steps: Future latent frames to compare, see `arms.plan`; `None`: 0 and the model's own.
        controls: Folder of each control checkpoint by name.
        latent_cache: Where world latents are kept; `None`: in the output.
        batch_size: Items asked at once. It decides the last bits of the log-probabilities.
        seed: Of what is random in the arms.

    Raises:
        ValueError: The scorer is unknown, or a number is out of range.
    """

    model: str
    output: Path
    source: SourceSettings = field(default_factory=SourceSettings)
    arms: tuple[str, ...] = tuple(ARMS)
    scorer: str = "auto"
    num_world_steps: tuple[int, ...] | None = None
    controls: dict[str, str] = field(default_factory=dict[str, str])
    latent_cache: Path | None = None
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scorer not in SCORERS:
            raise TheWorldError(f"scorer={self.scorer!r}: expected one of {', '.join(SCORERS)}")
        if self.batch_size < 1:
            raise TheWorldError(f"batch_size={self.batch_size}: expected at least 1")
        if self.num_world_steps is not None and (not self.num_world_steps or min(self.num_world_steps) < 0):
            raise TheWorldError(f"num_world_steps={self.num_world_steps}: expected one or more numbers from 0 on")


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
        self.weights = weights_digest(
            {name: value for name, value in model.state_dict().items() if not name.startswith("model.world_encoder.")}
        )
        self.worlds: dict[int, Worlds] = {}

    def run(self, group: Sequence[PlannedArm]) -> dict[str, list[Prediction]]:
        """The predictions of every arm of the group, complete and checked."""
        return {planned.arm.name: self.run_arm(planned) for planned in group}

    def run_arm(self, planned: PlannedArm) -> list[Prediction]:
        """The predictions of one arm, complete and checked."""
        arm, items, size = planned.arm, self.items.items, self.settings.batch_size
        worlds = None if planned.num_world_steps is None else self.worlds_of(planned.num_world_steps)
        folder = self.settings.output / self.task.name / arm.name
        builders = {closed: self.builder(planned, closed=closed) for closed in (True, False)}

        def world_of(asked: Sequence[Item]) -> torch.Tensor | None:
            steps = planned.num_world_steps
            return None if worlds is None or steps is None else worlds.tokens(asked, arm, steps)

        file = PredictionFile(folder, self.identity(planned, worlds), self.manifest(planned))
        with tqdm(total=len(items), initial=min(len(file.done), len(items)), desc=arm.name, unit="item") as bar:
            # A kill between two rows of a batch: the same batch is formed again for the rows that are missing
            begin = len(file.done) // size * size if len(file.done) < len(items) else len(items)
            for start in range(begin, len(items), size):
                rows = self.ask(items[start : start + size], builders, world_of)[len(file.done) - start :]
                file.append(rows)
                bar.update(len(rows))
        failed = [Prediction(row.id, "", "", "", failed=f"{row.cause}: {row.detail}") for row in self.items.skipped]
        file.append(failed[len(file.done) - len(items) :])
        check_arm(ArmRun(arm.name, {"identity": file.identity}, file.done))
        return file.done

    def worlds_of(self, num_world_steps: int) -> Worlds:
        """The worlds of a number of steps; the present alone is part of the longest rollout."""
        steps = num_world_steps or self.largest_steps
        if steps not in self.worlds:
            self.model.config.num_world_steps = steps
            folder = self.settings.latent_cache or self.settings.output / LATENTS
            source, batch_size, seed = self.settings.source, self.settings.batch_size, self.settings.seed
            self.worlds[steps] = encode_worlds(
                self.model, self.items.items, source.image_folder, folder, batch_size, seed
            )
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
        batch, failed = builder.build(items)
        found = {item.id: _failed(item, failed[item.id]) for item in items if item.id in failed}
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
            found[item.id] = self.prediction(item, batch.prompts[place], answers[place], batch.world_tokens[place])
        return found

    def prediction(self, item: Item, prompt: str, answer: Answer, world_tokens: int) -> Prediction:
        """An answer, read by the task's rules."""
        score = self.task.score(item, answer.output)
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

    def identity(self, planned: PlannedArm, worlds: Worlds | None) -> dict[str, Any]:
        """All that decides the predictions."""
        items = self.items.items
        return {
            "task": self.task.name,
            "arm": planned.arm.name,
            "scorer": self.settings.scorer,
            "items": {"count": len(items) + len(self.items.skipped), "digest": items_digest(items)},
            "weights": self.weights,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "num_world_steps": planned.num_world_steps,
            "world_encoder": None if worlds is None else worlds.cache.fingerprint,
            "instruction": self.task.instruction,
            "max_new_tokens": self.task.max_new_tokens,
            "batch_size": self.settings.batch_size,
            "seed": self.settings.seed,
        }

    def manifest(self, planned: PlannedArm) -> dict[str, Any]:
        """What a reader of the predictions may want to know beside."""
        template = str(self.model.processor.chat_template)
        source = {name: value for name, value in asdict(self.settings.source).items() if value is not None}
        return {
            "label": planned.arm.label,
            "model": self.settings.model,
            "checkpoint": planned.checkpoint or self.model.config.gemma_model_name,
            "chat_template": hashlib.sha256(template.encode()).hexdigest()[:16],
            "source": {name: value if isinstance(value, int) else str(value) for name, value in source.items()},
            "environment": environment(),
        }


def _failed(item: Item, reason: str) -> Prediction:
    return Prediction(item.id, "", item.answer, "", item.family, item.cluster, failed=reason)


__all__ = ["Asker", "EvaluationSettings"]
