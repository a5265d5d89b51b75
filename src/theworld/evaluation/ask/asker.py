"""Runs the arms of one checkpoint, batch by batch.

The composition of batches depends only on the order of the items, since kernels round differently in other batches. So
a resumed run, or a run of `W` processes that each take every `W`-th batch, produces identical bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from accelerate import PartialState
from tqdm import tqdm

from theworld.model import TheWorld
from theworld.model.answers import answer_ids
from theworld.model.world_encoders import cache_fingerprint
from theworld.utils.errors import TheWorldError
from theworld.utils.reproducibility import environment
from theworld.utils.tensors import weights_digest

from ..score import scored
from ..settings import EvaluationSettings
from ..store.predictions import MANIFEST, Item, Prediction, PredictionFile, digest_of, items_digest, read_predictions
from ..store.refusals import ArmRun, check_arm
from ..tasks.base import Task, TaskItems
from .arms import PlannedArm
from .prompts import PromptBuilder
from .scorers import Answer, choices, consumed_world_tokens, generate, joined
from .worlds import OF_OTHERS, NoOtherImage, Worlds, encode_worlds


class Asker:
    """Runs the arms of one checkpoint. `largest_steps` is the largest number of future latent frames of any arm."""

    def __init__(
        self, task: Task, items: TaskItems, settings: EvaluationSettings, model: TheWorld, largest_steps: int
    ) -> None:
        self.task, self.items, self.settings, self.model = task, items, settings, model
        self.largest_steps, self.clips = largest_steps, False
        own = {name: v for name, v in model.state_dict().items() if not name.startswith("model.world_encoder.")}
        self.weights = weights_digest(own)
        # Encoded worlds by number of future latent frames and index of the future
        self.worlds: dict[tuple[int, int], Worlds] = {}

    def run(self, group: Sequence[PlannedArm]) -> tuple[dict[str, list[Prediction]], dict[str, str]]:
        """Complete, checked predictions by arm, and by arm the reason why it was not run."""
        self.clips = any(planned.arm.world == "true_future" for planned in group)
        not_run: dict[str, str] = {}
        for planned in group:  # refuse predictions made with other settings before any image is encoded
            if (self.settings.folder / self.task.name / planned.arm.name / MANIFEST).is_file():
                self.open(planned)
        for planned in group:  # before any question is asked
            if planned.arm.world in OF_OTHERS and planned.num_world_steps is not None:
                try:
                    _ = self.worlds_of(planned.num_world_steps).others
                except NoOtherImage as error:
                    not_run[planned.arm.name] = str(error)
        return {one.arm.name: self.run_arm(one) for one in group if one.arm.name not in not_run}, not_run

    def run_arm(self, planned: PlannedArm) -> list[Prediction]:
        """The predictions of one arm, complete and checked."""
        items, size, state = self.items.items, self.settings.batch_size, PartialState()
        # 1. Prepare worlds, prompt builders for closed and open questions, and the file of predictions
        steps = planned.num_world_steps
        worlds = [] if steps is None else [self.worlds_of(steps, future) for future in range(self.futures_of(planned))]
        build = partial(PromptBuilder, self.model, steps, planned.arm.image)
        answers = {choice for item in items for choice in item.choices}
        longest = max((len(answer_ids(self.model.processor.tokenizer, choice)) for choice in answers), default=0)
        folder, task = self.settings.source.image_folder, self.task
        builders = {True: build("", longest, folder), False: build(task.instruction, task.max_new_tokens, folder)}
        file = self.open(planned)
        # 2. Ask this process's share of the batches
        mine = range(size * state.process_index, len(items), size * state.num_processes)
        for start in tqdm(mine, planned.arm.name, unit="batch", disable=not state.is_main_process):
            batch = items[start : start + size]
            # If some rows are missing after an interruption, the whole batch is run again, since batches fix rounding
            if any(item.id not in file.done for item in batch):
                file.append(self.ask(batch, builders, worlds, planned))
        # 3. Merge the rows of all processes into one file
        return merged(file, self.items)

    def open(self, planned: PlannedArm) -> PredictionFile:
        """The file of an arm's predictions. Raises a ValueError if it holds predictions made with other settings."""
        steps, encoder, config = planned.num_world_steps, self.model.model.world_encoder, self.model.config
        if steps is not None:
            config.num_world_steps = self.rolled_out(steps)
        identity = {
            "weights": self.weights,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "attn_implementation": self.settings.attn_implementation,
            "num_world_steps": steps,
            "world_encoder": None if steps is None or encoder is None else cache_fingerprint(encoder, config),
            "batch_size": self.settings.batch_size,
            **({"num_futures": self.futures_of(planned)} if planned.arm.futures else {}),
        }
        about = {
            "model": self.settings.model,
            "checkpoint": planned.checkpoint or config.gemma_model_name,
            "auto_world_margin": config.auto_world_margin,
            "chat_template": hashlib.sha256(str(self.model.processor.chat_template).encode()).hexdigest()[:16],
        }
        return open_file(self.task, self.items, self.settings, planned, identity, about)

    def futures_of(self, planned: PlannedArm) -> int:
        """Number of rollouts that an arm answers from."""
        return self.settings.num_futures if planned.arm.futures else 1

    def rolled_out(self, num_world_steps: int) -> int:
        """Steps of the rollout to use. A causal encoder gives the current frame from the longest one."""
        encoder = self.model.model.world_encoder
        return num_world_steps or (self.largest_steps if encoder is not None and encoder.causal else 0)

    def worlds_of(self, num_world_steps: int, future: int = 0) -> Worlds:
        """The worlds for a number of steps."""
        steps, settings = self.rolled_out(num_world_steps), self.settings
        if (steps, future) not in self.worlds:
            self.model.config.num_world_steps = steps
            folder = Path(settings.latent_cache or settings.folder / "latents")
            asked = (self.items.items, settings.source.image_folder, folder, settings.batch_size, settings.seed)
            clips = self.clips and steps == self.largest_steps and not future
            self.worlds[steps, future] = encode_worlds(self.model, *asked, clips=clips, future=future)
        return self.worlds[steps, future]

    def ask(
        self,
        items: Sequence[Item],
        builders: Mapping[bool, PromptBuilder],
        worlds: Sequence[Worlds],
        planned: PlannedArm,
    ) -> list[Prediction]:
        """Predictions of one batch, in the order of `items`.

        Args:
            items: The items of the batch, closed and open questions.
            builders: Prompt builders for closed (`True`) and open (`False`) questions.
            worlds: The futures that the arm answers from; empty without a world.
            planned: The arm.
        """
        steps, found = planned.num_world_steps, dict[str, Prediction]()
        for closed, builder in builders.items():
            # 1. Build the prompts of items with the same scorer
            alike = [i for i in items if (bool(i.choices) and self.settings.scorer != "generate") == closed]
            batch, reasons = builder.build(alike)
            found |= {item.id: Prediction.of(item, failed=reasons[item.id]) for item in alike if item.id in reasons}
            if batch is None:
                continue
            # 2. Answer from every future, and check that all world tokens were consumed
            tokens = [] if steps is None else [one.tokens(batch.items, planned.arm, steps) for one in worlds]
            by_future: list[list[Answer]] = []
            for world in tokens or [None]:
                with consumed_world_tokens(self.model) as consumed:
                    if closed:
                        by_future.append(choices(self.model, batch, world))
                    else:
                        by_future.append(generate(self.model, batch, world, self.task.max_new_tokens))
                if sum(consumed) != sum(batch.world_tokens):
                    raise TheWorldError(
                        f"the model consumed {sum(consumed)} world tokens, but the prompts of the batch that starts "
                        f"with {batch.items[0].id!r} have {sum(batch.world_tokens)}: give a checkpoint with a world"
                    )
            # 3. Join the answers of all futures and score them
            answers = [joined(futures) for futures in zip(*by_future, strict=True)]
            rows = zip(batch.items, answers, batch.prompts, batch.world_tokens, strict=True)
            for item, answer, prompt, count in rows:
                row = Prediction.of(item, prompt=prompt, world_tokens=count, **vars(answer))
                found[item.id] = scored(self.task, item, row)
        return [found[item.id] for item in items]


def open_file(
    task: Task,
    items: TaskItems,
    settings: EvaluationSettings,
    planned: PlannedArm,
    identity: Mapping[str, Any] = MappingProxyType({}),
    about: Mapping[str, Any] = MappingProxyType({}),
) -> PredictionFile:
    """Open this process's prediction file of an arm.

    Args:
        identity: Properties of the model that determine the predictions; an existing file must agree.
        about: Further information for the manifest.
    """
    arm, source = planned.arm, asdict(settings.source)
    decides = {
        "task": task.name,
        "arm": arm.name,
        "scorer": settings.scorer,
        "items": {"count": len(items.items) + len(items.skipped), "digest": items_digest(items.items)},
        "images": items.images,
        "groups": digest_of([[item.family, item.cluster, item.metadata] for item in items.items]),
        "quantization": next((key for key in ("load_in_4bit", "load_in_8bit") if getattr(settings, key)), None),
        "instruction": task.instruction,
        "max_new_tokens": task.max_new_tokens,
        "seed": settings.seed,
        **identity,
    }
    described = {name: v if isinstance(v, int) else str(v) for name, v in source.items() if v is not None}
    manifest = {"label": arm.label, **about, "source": described, "environment": environment()}
    return PredictionFile(settings.folder / task.name / arm.name, decides, manifest, PartialState().process_index)


def merged(file: PredictionFile, items: TaskItems) -> list[Prediction]:
    """Merge the predictions of an arm from all processes; returns them complete and checked."""
    state = PartialState()
    state.wait_for_everyone()
    if state.is_main_process:
        file.append(Prediction(row.id, "", "", "", failed=f"{row.cause}: {row.detail}") for row in items.skipped)
        file.merge([row.id for row in (*items.items, *items.skipped)])
    state.wait_for_everyone()
    manifest, rows = read_predictions(file.folder)
    check_arm(ArmRun(file.identity["arm"], manifest, rows))
    return rows
