"""A checkpoint and a task -> predictions of every arm, on disk as they come.

Killed at any time, the same command goes on where it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from theworld.model import TheWorld
from theworld.utils.devices import best_device
from theworld.utils.errors import TheWorldError
from theworld.utils.logging import logger

from .ask.arms import ARMS, BASE, MODEL, plan
from .ask.asker import Asker, EvaluationSettings
from .store.predictions import Prediction
from .store.refusals import FULL
from .tasks.base import Task, TaskItems


@dataclass(frozen=True)
class Evaluation:
    """What was done.

    Args:
        folder: <output>/<task>.
        items: Of the task.
        arms: Predictions by arm, in the items' order.
        not_run: By arm, why it did not run and what it needs.
        num_world_steps: Future latent frames of the full model; `None` if it did not run.
    """

    folder: Path
    items: TaskItems
    arms: dict[str, list[Prediction]]
    not_run: dict[str, str]
    num_world_steps: int | None = None


def evaluate(task: Task, settings: EvaluationSettings) -> Evaluation:
    """Ask every item of `task` in every arm that can run; what is on disk already is not asked again.

    Raises:
        ValueError: Settings contradict each other or the task, the output holds predictions of other settings, or an
            arm is refused: all its outputs are empty, or it should have consumed world tokens and did not.
        FileNotFoundError: The task's data or a checkpoint is missing.
    """
    plan(settings.arms, settings.model, (0,), settings.controls)  # names are checked before anything is loaded
    items = task.load(settings.source)
    _check_items(task, items, settings)
    model = _load_model(settings)
    steps = settings.num_world_steps or tuple(sorted({0, model.config.num_world_steps}))
    planned, not_run = plan(settings.arms, settings.model, steps, settings.controls)
    config = model.config
    where = {"subfolder": config.gemma_subfolder, "revision": config.gemma_revision}
    base = config.gemma_model_name, {**where, "enable_world": False}
    done: dict[str, list[Prediction]] = {}
    for checkpoint in sorted({arm.arm.checkpoint for arm in planned}, key=lambda name: (name != MODEL, name)):
        group = [arm for arm in planned if arm.arm.checkpoint == checkpoint]
        if checkpoint != MODEL:
            del model  # the next one may not fit beside it
            other = group[0].checkpoint, _world_options(group[0].num_world_steps)
            name, options = base if checkpoint == BASE else other
            assert name is not None
            model = load(name, **options)
        done |= Asker(task, items, settings, model, max(steps)).run(group)
    for name, reason in not_run.items():
        logger.warning("arm %s not run: %s", name, reason)
    full = next((arm.num_world_steps for arm in planned if arm.arm.name == FULL), None)
    arms = {arm.arm.name: done[arm.arm.name] for arm in planned}
    return Evaluation(settings.output / task.name, items, arms, not_run, full)


def _check_items(task: Task, items: TaskItems, settings: EvaluationSettings) -> None:
    ids = [row.id for row in (*items.items, *items.skipped)]
    if len(set(ids)) < len(ids):
        twice = next(id for id in ids if ids.count(id) > 1)
        raise TheWorldError(
            f"task {task.name!r}: item {twice!r} is there more than once: give every item an id of its own"
        )
    opened = [item.id for item in items.items if not item.choices]
    if settings.scorer == "choices" and opened:
        raise TheWorldError(
            f"task {task.name!r}: {len(opened)} of {len(items.items)} items, such as {opened[0]!r}, allow any answer: "
            "use --scorer auto or generate"
        )


def _load_model(settings: EvaluationSettings) -> TheWorld:
    """The model that is evaluated, without its world if no arm needs it."""
    asked = [ARMS[name] for name in settings.arms if ARMS[name].checkpoint == MODEL]
    world = any(arm.world != "none" for arm in asked)
    largest = max(settings.num_world_steps) if settings.num_world_steps else None
    options = {"num_world_steps": largest} if world and largest is not None else {}
    return load(settings.model, enable_world=world, **options)


def _world_options(num_world_steps: int | None) -> dict[str, Any]:
    if num_world_steps is None:
        return {"enable_world": False}
    return {"enable_world": True, "num_world_steps": num_world_steps}


def load(name: str, **options: Any) -> TheWorld:
    """The checkpoint or Gemma 3 that `name` says, ready to be asked on the best device of this machine."""
    device, dtype = best_device()
    return TheWorld.from_pretrained(name, dtype=dtype, device_map={"": device}, **options).eval()


__all__ = ["Evaluation", "evaluate", "load"]
