"""The arms of an evaluation: variants that the full model is compared with, to attribute a gain to the world tokens.

All arms get the same items with the same words. They differ in the checkpoint that answers, in the source of the world
tokens, and in whether the image is shown. A new arm is one entry of `ARMS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from theworld.constants import NANO
from theworld.utils.hub import NANO_WEIGHTS

MODEL, BASE, LEARNER = "model", "base", "learner"


@dataclass(frozen=True)
class Arm:
    """One arm."""

    name: str  # key of `ARMS`, and the folder of its predictions
    label: str  # its name in a report
    # What answers: `MODEL`, `BASE` (the Gemma 3 that the model was built on), `LEARNER` (the task's best static
    # learner), or the name of a control, which is a separately trained checkpoint
    checkpoint: str = MODEL
    # Source of the world tokens: a key of `WORLD_SOURCES` (ask/worlds.py), or `none` for plain Gemma 3
    world: str = "own"
    steps: Literal["K"] | int = "K"  # future latent frames: `K`, as many as the full model has, or a number
    image: bool = True  # whether the image is shown
    needs_future: bool = False  # whether the arm does not exist for `K = 0`
    decides: bool = False  # whether the full model must beat it for the verdict *helps*
    ceiling: bool = False  # whether it uses the true future, so it need not be beaten
    futures: bool = False  # whether it averages several rollouts of the full model, so it need not be beaten


FULL = "world"
"""The full model, with which all other arms are compared."""

# fmt: off
ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm(FULL, "World, rollout (full model)"),
        Arm("futures", "World, mean of several rollouts", needs_future=True, futures=True),
        Arm("world_0", "World, current frame", steps=0),
        Arm("world_off", "World off", world="none"),
        Arm("gemma", "Plain Gemma 3", BASE, "none", decides=True),
        Arm("gemma_tuned", "Gemma 3 without a world, trained alike", "gemma_tuned", "none", decides=True),
        Arm("current_frame", "Current frame repeated, trained alike", "current_frame", needs_future=True, decides=True),
        Arm("other_future", "Own current frame, another image's future", world="other_future", needs_future=True,
            decides=True),
        Arm("other_image", "World of another image", world="other_image", decides=True),
        Arm("other_source", "As many image-patch tokens, trained alike", "other_source", decides=True),
        Arm("random_encoder", "Random world encoder, trained alike", "random_encoder", decides=True),
        Arm("static_learner", "Best static learner", LEARNER, "none", decides=True),
        Arm("random_projection", "Untrained projector", world="random_projection"),
        Arm("zeroed", "World tokens zeroed", world="zeros"),
        Arm("noise", "Noise of equal norm", world="noise"),
        Arm("no_image", "No image", world="none", image=False),
        Arm("true_future", "True future", world="true_future", needs_future=True, ceiling=True),
    )
}
# fmt: on
"""Arms by name, in the order of reports."""

CONTROLS = tuple(arm.checkpoint for arm in ARMS.values() if arm.checkpoint not in (MODEL, BASE, LEARNER))
"""Names of the controls: checkpoints that have to be trained separately and given by `--control`."""


@dataclass(frozen=True)
class PlannedArm:
    """An arm that will run."""

    arm: Arm
    checkpoint: str | None  # Hub id or folder; `None` for the base Gemma 3 and for the static learner
    num_world_steps: int | None  # future latent frames; `None` without a world


def plan(
    names: Sequence[str], model: str, steps: Sequence[int], controls: Mapping[str, str], num_futures: int = 1
) -> tuple[list[PlannedArm], dict[str, str]]:
    """The arms of `names` that run, and by arm name the reason why it does not run.

    Args:
        names: Keys of `ARMS`.
        model: Folder or Hub id of the model.
        steps: Numbers of future latent frames to compare. The largest is `K`, 0 adds the arm `world_0`, and any other
            number an arm `world_<steps>`. With `K = 0` the full model uses only the current frame.
        controls: Folder of control checkpoints by name. Other controls are searched in `controls/` beside the model.
        num_futures: Number of rollouts of the arm `futures`.
    """
    largest = max(steps)
    running: list[PlannedArm] = []
    not_run: dict[str, str] = {}
    arms = [arm for name, arm in ARMS.items() if name in names]
    if FULL in names:  # it is the first of `arms`
        if not largest:
            arms[0] = replace(arms[0], label="World, current frame (full model)")
        between = sorted({count for count in steps if 0 < count < largest}, reverse=True)
        arms[1:1] = [replace(arms[0], name=f"{FULL}_{k}", label=f"World, {k} steps", steps=k) for k in between]
    for arm in arms:
        own = largest if arm.steps == "K" else arm.steps
        checkpoint, control = model if arm.checkpoint == MODEL else None, arm.checkpoint in CONTROLS
        if control:
            checkpoint = controls.get(arm.checkpoint) or _beside(model, arm.checkpoint)
        if control and checkpoint is None:
            not_run[arm.name] = f"needs a checkpoint that was trained for it: --control {arm.checkpoint}=PATH"
        elif arm.needs_future and not largest:
            not_run[arm.name] = "does not exist without a future: --num_world_steps is 0"
        elif arm.futures and num_futures < 2:
            not_run[arm.name] = "needs several rollouts: --num_futures is 1"
        elif arm.name == "world_0" and not largest:
            not_run[arm.name] = f"is the same as the arm {FULL}: --num_world_steps is 0"
        elif arm.name == "world_0" and 0 not in steps:
            not_run[arm.name] = "0 is not among --num_world_steps"
        else:
            running.append(PlannedArm(arm, checkpoint, None if arm.world == "none" else own))
    return running, not_run


def _beside(model: str, control: str) -> str | None:
    """The control in `controls/` beside a model's folder, or in the package for the nano model; else `None`."""
    if model == NANO:
        return f"{NANO}/controls/{control}" if (NANO_WEIGHTS / "controls" / control).is_dir() else None
    folder = Path(model).parent / "controls" / control
    return str(folder) if Path(model).is_dir() and folder.is_dir() else None
