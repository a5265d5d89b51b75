"""Runs an evaluation: a checkpoint and tasks -> predictions of every arm, and metrics, written to disk as they come.

Runs in one process or under `accelerate launch` or `torchrun`; all processes share the output folder. If interrupted,
the same command resumes and produces identical predictions, even with another number of processes.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from theworld.data.latent_cache import LatentCache
from theworld.data.schema import SourceSettings
from theworld.model import TheWorld
from theworld.model.checkpoints.load import Plan, make_plan
from theworld.model.world_encoders import WORLD_ENCODERS, WorldEncoder
from theworld.utils.devices import best_device, check_device
from theworld.utils.errors import FileError, TheWorldError, one_line
from theworld.utils.folders import locked
from theworld.utils.io import write_json
from theworld.utils.logging import logger
from theworld.utils.quantization import quantization

from .ask.arms import ARMS, BASE, CONTROLS, FULL, LEARNER, MODEL, PlannedArm, plan
from .ask.asker import Asker, merged, open_file
from .result import REPORTERS, Result, card_of
from .score import read_metrics, scored, write_metrics
from .settings import EvaluationSettings, listed
from .store.predictions import NO_LEARNER, Item, Prediction, images_digest
from .tasks import find_task
from .tasks.base import Task, TaskItems, kind_of

PATIENCE = timedelta(hours=12)
"""Timeout of processes that wait while the main one simulates, fits learners or scores (torch's default: 10 min)."""


def evaluate(model: str | Path, task: str | Task, arms: str | Sequence[str] = "all", **settings: Any) -> Result:
    """Evaluate a checkpoint on a benchmark, in arms that show whether the world tokens are the reason for a gain.

        result = theworld.evaluate("nano", "micro_world", arms="gemma,world", num_samples=100)
        print(result.table())

    Args:
        model: Folder or Hub id of a TheWorld checkpoint or a Gemma 3, or `nano`.
        task: Name of a benchmark, `path/to/file.py:NAME`, or a `Task`.
        arms: Names of arms, as a list or a comma-separated string, or `all`.
        settings: Fields of `EvaluationSettings`, the same as the options of `theworld evaluate`: `output`, `data`,
            `num_world_steps`, `control`, ...

    Raises:
        ValueError: Settings are invalid or contradict each other or the task, the output folder holds predictions made
            with other settings, or an arm is refused (`store/refusals.py`).
        FileNotFoundError: The task's data or a checkpoint is missing.
    """
    known = EvaluationSettings(model=str(model), arms=arms if isinstance(arms, str) else list(arms), **settings)
    return evaluate_tasks([task if isinstance(task, Task) else find_task(task)], known)[0]


def evaluate_tasks(tasks: Sequence[Task], settings: EvaluationSettings) -> list[Result]:
    """`evaluate` for several tasks, which loads each checkpoint once. Also writes to `settings.reporters`."""
    # 1. Check the settings before anything is simulated, downloaded or loaded
    _check(tasks, settings)
    cpu = settings.device == "cpu" or not torch.accelerator.is_available()
    state = PartialState(cpu=cpu, timeout=PATIENCE)
    chosen = _choose(settings)
    with locked(settings.folder, is_main=state.is_main_process, option="output"):
        state.wait_for_everyone()
        # 2. Load the items and choose the arms; first for tasks without kinds, whose families are not yet checked
        prepared = {task.name: _prepare(task, settings, chosen) for task in sorted(tasks, key=lambda t: bool(t.kinds))}
        jobs = [prepared[task.name] for task in tasks]
        # 3. Ask one checkpoint at a time, since two may not fit into memory
        for checkpoint in (MODEL, BASE, *CONTROLS):
            model = None
            for job in jobs:
                if group := [planned for planned in job.arms if planned.arm.checkpoint == checkpoint]:
                    model = model if model is not None else _load(group[0], settings, chosen)
                    job.ask(model, group)
        # 4. Learners, tracing and scores, which need no model
        for job in jobs:
            job.finish()
        metrics = read_metrics(settings.folder)  # after all are scored, since Holm's correction is over all tasks
        results = [job.result(metrics[job.task.name]) for job in jobs]
    for result in results if state.is_main_process else ():
        for name in settings.reporters:
            REPORTERS[name](result)
    return results


@dataclass(frozen=True)
class _Chosen:
    """Choices that do not depend on the task."""

    arms: list[PlannedArm]  # arms that can run
    not_run: dict[str, str]  # by arm, why it does not run
    found: Plan  # config and sources of the model and its base
    num_world_steps: int  # largest of any arm


@dataclass
class _Job:
    """The evaluation of one task."""

    task: Task
    items: TaskItems
    arms: list[PlannedArm]  # arms that run on this task
    not_run: dict[str, str]  # by arm, why it does not run
    settings: EvaluationSettings
    source: SourceSettings  # where the items come from
    num_world_steps: int  # largest of any arm
    done: dict[str, list[Prediction]] = field(default_factory=dict[str, list[Prediction]])  # by arm
    rolled_out: tuple[LatentCache, Mapping[str, list[bytes]]] | None = None  # full model's latents, and keys by item

    def ask(self, model: TheWorld, group: list[PlannedArm]) -> None:
        """Run the arms of one checkpoint."""
        asker = Asker(self.task, self.items, self.settings, model, self.num_world_steps)
        done, not_run = asker.run(group)
        self.done |= done
        self.not_run |= not_run
        worlds = asker.worlds.get((self.num_world_steps, 0))
        if worlds is not None and FULL in self.done and self.rolled_out is None:
            self.rolled_out = worlds.cache, worlds.keys

    def finish(self) -> None:
        """Run the static learners, trace errors, and score."""
        state = PartialState()
        for planned in self.arms:
            if planned.arm.checkpoint == LEARNER:
                self.learn(planned)
        if state.is_main_process:
            self.trace()
            write_metrics(self.settings.folder, self.task, self.items.items)
            for name, reason in self.not_run.items():
                logger.warning("arm %s not run: %s", name, reason)
        state.wait_for_everyone()

    def result(self, metrics: dict[str, Any]) -> Result:
        """The `Result` of this task."""
        done = {planned.arm.name: self.done[planned.arm.name] for planned in self.arms if planned.arm.name in self.done}
        return Result(self.task, self.items, done, self.not_run, metrics, self.settings, self.num_world_steps)

    def learn(self, planned: PlannedArm) -> None:
        """Run the arm of the best static learner, on the main process."""
        items, settings = self.items.items, self.settings
        file = open_file(self.task, self.items, settings, planned)
        if PartialState().is_main_process and any(item.id not in file.done for item in items):
            assert self.task.learn is not None
            learned = self.task.learn(items, self.source, settings.folder, settings.seed)
            write_json(settings.folder / self.task.name / "learners.json", list(learned.table))
            rows: list[Prediction] = []
            for item in items:
                why = None if item.id in learned.answers else f"{NO_LEARNER}: no static learner answers {item.family}"
                row = Prediction.of(item, output=learned.answers.get(item.id, ""), failed=why)
                rows.append(scored(self.task, item, row))
            file.append(rows)
        self.done[planned.arm.name] = merged(file, self.items)

    def trace(self) -> None:
        """Write tracing.json: whether the full model's answers follow its rollout."""
        if self.task.trace is None or self.rolled_out is None or not self.num_world_steps:
            return
        cache, keys = self.rolled_out

        def last_latents(items: Sequence[Item]) -> torch.Tensor:
            return cache.get([key for item in items for key in keys[item.id]])

        answers = {row.id: row.parsed for row in self.done[FULL] if row.parsed is not None}
        seen = [item for item in self.items.items if keys.get(item.id)]
        traced = self.task.trace(seen, last_latents, answers)
        write_json(self.settings.folder / self.task.name / "tracing.json", traced)


def _check(tasks: Sequence[Task], settings: EvaluationSettings) -> None:
    """Check what needs neither a model nor data."""
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise TheWorldError(f"tasks {', '.join(names)}: give every task once")
    if len(tasks) > 1 and (settings.data or settings.split):
        raise TheWorldError("--data and --split are those of one task: give one task, or leave them out")
    for task, family in itertools.product(tasks, listed(settings.families)):
        if task.kinds and family.partition("/")[0] not in task.kinds:
            expected = ", ".join(task.kinds)
            raise TheWorldError(f"family {family!r}: the questions of {task.name} are of the kinds {expected}")
    if settings.device:
        check_device(settings.device)
    quantization(settings, torch.bfloat16)  # raises if bitsandbytes is not installed
    if "card" in settings.reporters:
        card_of(settings.model)


def _choose(settings: EvaluationSettings) -> _Chosen:
    """Choose the arms to run. Reads the configs of the model and the controls, but no weights."""
    world = any(ARMS[name].world != "none" and ARMS[name].checkpoint == MODEL for name in settings.arm_names)
    options = _world(max(settings.steps)) if world and settings.steps else {"enable_world": world}
    found = make_plan(settings.model, {"revision": settings.revision, **options})
    steps = settings.steps or tuple(sorted({0, found.config.num_world_steps}))
    arms, not_run = plan(settings.arm_names, settings.model, steps, settings.controls, settings.num_futures)
    for planned in arms:
        if planned.arm.checkpoint in CONTROLS:
            try:
                make_plan(str(planned.checkpoint), _world(planned.num_world_steps))
            except (OSError, ValueError) as error:
                raise FileError(f"control {planned.arm.checkpoint}: {one_line(error)}") from error
    return _Chosen(arms, not_run, found, max(steps))


def _prepare(task: Task, settings: EvaluationSettings, chosen: _Chosen) -> _Job:
    """Load the items of a task and choose the arms that can run on them."""
    # 1. Load the items; the main process first, since it simulates or downloads missing data
    source, state, wanted = settings.source, PartialState(), listed(settings.families)
    count = None if wanted else settings.num_samples
    with state.main_process_first():
        if source.path is None:
            default = task.default_source
            source = replace(source, path=default(settings.folder, count) if callable(default) else default)
        items = task.load(replace(source, num_samples=count))
    # 2. Choose and check them
    families = sorted({item.family for item in items.items})
    if foreign := [name for name in families if task.kinds and kind_of(name, task.kinds) not in task.kinds]:
        raise TheWorldError(
            f"task {task.name!r}: family {foreign[0]!r} belongs to no kind of the task: expected <kind>/<name> with a "
            f"kind of {', '.join(task.kinds)}"
        )
    for name in wanted:
        if name not in (*families, *task.kinds):
            known = ", ".join((*task.kinds, *families))
            raise TheWorldError(f"family {name!r}: expected one of {known}, the families of task {task.name!r}")
    if wanted:  # skipped rows stay, since their family is unknown
        kept = [i for i in items.items if {i.family, kind_of(i.family, task.kinds)} & set(wanted)]
        items = replace(items, items=tuple(kept[: settings.num_samples]))
    items = replace(items, images=images_digest(items.items, source.image_folder))
    id, times = Counter(row.id for row in (*items.items, *items.skipped)).most_common(1)[0]
    if times > 1:
        raise TheWorldError(f"task {task.name!r}: item {id!r} occurs more than once: give every item its own id")
    opened = [item.id for item in items.items if not item.choices]
    if settings.scorer == "choices" and opened:
        raise TheWorldError(
            f"task {task.name!r}: {len(opened)} of {len(items.items)} items, such as {opened[0]!r}, have no choices: "
            "use --scorer auto or generate"
        )
    closed = [item for item in items.items if item.choices and settings.scorer != "generate"]
    wrong = [item for item in closed if not any(task.score(item, choice).right for choice in item.choices)]
    if wrong:
        told = f"answer {wrong[0].answer!r}, choices {', '.join(map(repr, wrong[0].choices))}"
        raise TheWorldError(
            f"task {task.name!r}: {len(wrong)} of {len(items.items)} items, such as {wrong[0].id!r}, have no choice "
            f"that the task's score() rates right ({told}): correct the answers or score()"
        )
    # 3. Leave out arms that cannot run on this task
    not_run, encoder = dict(chosen.not_run), chosen.found.config.world_encoder
    for arm in (planned.arm for planned in chosen.arms):
        if arm.checkpoint == LEARNER and task.learn is None:
            not_run[arm.name] = f"task {task.name!r} has no labels to learn from"
        elif arm.checkpoint == LEARNER and len(items.items) < task.questions_to_learn:
            not_run[arm.name] = f"needs at least {task.questions_to_learn} questions, got {len(items.items)}"
        elif arm.world == "true_future" and not all(item.clip and len(item.images) == 1 for item in items.items):
            not_run[arm.name] = f"task {task.name!r} has no video of the true future"
        elif arm.world == "true_future" and WORLD_ENCODERS[encoder].encode_clip is WorldEncoder.encode_clip:
            not_run[arm.name] = f"the world encoder {encoder!r} encodes no clips"
        elif arm.futures and not WORLD_ENCODERS[encoder].seeded:
            not_run[arm.name] = f"the world encoder {encoder!r} predicts one future"
    arms = [planned for planned in chosen.arms if planned.arm.name not in not_run]
    return _Job(task, items, arms, not_run, settings, source, chosen.num_world_steps)


def _load(planned: PlannedArm, settings: EvaluationSettings, chosen: _Chosen) -> TheWorld:
    """Load the checkpoint of an arm; it also answers the other arms of its group."""
    if planned.arm.checkpoint == BASE:
        return load(chosen.found.gemma.name, settings, enable_world=False, **chosen.found.gemma.where)
    if planned.arm.checkpoint != MODEL:
        return load(str(planned.checkpoint), settings, **_world(planned.num_world_steps))
    steps = chosen.num_world_steps if chosen.found.config.enable_world else None
    return load(settings.model, settings, revision=settings.revision, **_world(steps))


def _world(num_world_steps: int | None) -> dict[str, Any]:
    """Arguments of `from_pretrained`. `None` turns the world off."""
    off = num_world_steps is None
    return {"enable_world": False} if off else {"enable_world": True, "num_world_steps": num_world_steps}


def load(name: str, settings: EvaluationSettings, **options: Any) -> TheWorld:
    """Load a TheWorld checkpoint or Gemma 3 in evaluation mode, on the device and in the dtype of the settings."""
    state = PartialState()
    device, dtype = best_device()
    if settings.device is not None or state.num_processes > 1:
        device = torch.device(settings.device or str(state.device))
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    if settings.dtype != "auto":
        dtype = getattr(torch, settings.dtype)
    if settings.attn_implementation is not None:
        options["attn_implementation"] = settings.attn_implementation
    options |= quantization(settings, dtype)
    return TheWorld.from_pretrained(name, dtype=dtype, device_map={"": device}, **options).eval()
