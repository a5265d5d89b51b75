"""The arms of an evaluation: what the full model is compared with, so that a gain can be put down to the world.

All arms get the same items in the same words. They differ in the checkpoint that answers, in what stands in the place
of the world tokens, and in whether there is a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from theworld.constants import NANO
from theworld.utils.errors import MissingFileError, TheWorldError
from theworld.utils.hub import NANO_WEIGHTS

MODEL, BASE, LEARNER = "model", "base", "learner"

WorldSource = Literal[
    "none", "own", "random_projection", "zeros", "noise", "other_image", "other_future", "true_future"
]


@dataclass(frozen=True)
class Arm:
    """One way to ask.

    Args:
        name: Key of `ARMS`, and the folder of its predictions.
        label: What a report calls it.
        checkpoint: What answers: `MODEL`, `BASE` (the Gemma 3 that the model was built on), or a control by name: a
            checkpoint that was trained apart.
        world: What stands in the place of the world tokens. `none`: nothing, plain Gemma 3. `own`: what the model makes
            of the picture. `random_projection`: the same latents through an untrained projector. `zeros`. `noise`:
            Gaussian, each token of the norm that it has of its own. `other_image`: another picture's. `other_future`:
            the own present and another picture's future.
        steps: Future latent frames: `K` as the evaluation says, or a number.
        image: Whether the image is shown.
        needs_future: Whether it exists only where future latent frames are predicted.
        decides: Whether the full model has to beat it to help.
        same_for_all: Whether it is the same for every checkpoint.
        ceiling: Whether it knows the future, so that the full model never has to beat it.
    """

    name: str
    label: str
    checkpoint: str = MODEL
    world: WorldSource = "own"
    steps: Literal["K"] | int = "K"
    image: bool = True
    needs_future: bool = False
    decides: bool = False
    same_for_all: bool = False
    ceiling: bool = False


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("world", "World, rollout (full model)"),
        Arm("world_0", "World, current frame", steps=0),
        Arm("gemma", "Gemma alone", BASE, "none", decides=True, same_for_all=True),
        Arm("gemma_tuned", "Gemma trained equally, no world", "gemma_tuned", "none", decides=True),
        Arm(
            *("current_frame", "Current latent repeated, trained alike", "current_frame"),
            needs_future=True,
            decides=True,
        ),
        Arm("other_image", "World of another image", world="other_image", decides=True),
        Arm(
            *("other_future", "Own present, another image's future", MODEL, "other_future"),
            needs_future=True,
            decides=True,
        ),
        Arm("other_source", "As many tokens from no world, trained alike", "other_source", decides=True),
        Arm("random_encoder", "Random world encoder, trained alike", "random_encoder", decides=True),
        Arm("static_learner", "Best static learner", LEARNER, "none", decides=True),
        Arm("random_projection", "Untrained projector", world="random_projection"),
        Arm("zeroed", "World tokens zeroed", world="zeros"),
        Arm("noise", "Noise of equal norm", world="noise"),
        Arm("no_image", "No image", world="none", image=False, same_for_all=True),
        Arm("true_future", "True future (ceiling)", world="true_future", needs_future=True, ceiling=True),
    )
}

CONTROLS = tuple(arm.checkpoint for arm in ARMS.values() if arm.checkpoint not in (MODEL, BASE, LEARNER))
"""Checkpoints that have to be trained apart, and given."""


@dataclass(frozen=True)
class PlannedArm:
    """An arm that will run.

    Args:
        arm: Of the table.
        checkpoint: Name or folder of what answers; `None` for the base Gemma 3, which the model names.
        num_world_steps: Future latent frames; `None` without a world.
    """

    arm: Arm
    checkpoint: str | None
    num_world_steps: int | None


def plan(
    names: Sequence[str], model: str, steps: Sequence[int], controls: Mapping[str, str]
) -> tuple[list[PlannedArm], dict[str, str]]:
    """The arms that run, and why others of `names` do not.

    Args:
        names: Keys of `ARMS`.
        model: Name or folder of the model.
        steps: Numbers of future latent frames to compare. The largest is `K`; 0 asks for the arm `world_0`, and any
            other for an arm `world_<steps>`.
        controls: Folder of each control checkpoint by name; others are looked for in `controls/` beside the model.

    Raises:
        ValueError: A name is unknown.
        FileNotFoundError: A control is no folder.
    """
    for kind, known, given in (("arm", ARMS, names), ("control", CONTROLS, controls)):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise TheWorldError(f"{kind} {unknown[0]!r}: expected one of {', '.join(known)}")
    for name, path in controls.items():  # now, not after the hours that the arms before it take
        if path.startswith(("/", ".")) and not Path(path).is_dir():
            raise MissingFileError(f"--control {name}={path}: no such folder")
    largest = max(steps)
    running: list[PlannedArm] = []
    not_run: dict[str, str] = {}
    for arm in _with_more_steps([ARMS[name] for name in ARMS if name in names], steps):
        own = largest if arm.steps == "K" else arm.steps
        world = None if arm.world == "none" else own
        checkpoint = {MODEL: model, BASE: None}.get(arm.checkpoint) or controls.get(arm.checkpoint)
        if arm.checkpoint in CONTROLS and checkpoint is None:
            checkpoint = _beside(model, arm.checkpoint)
            if checkpoint is None:
                not_run[arm.name] = f"needs a checkpoint that was trained for it: --control {arm.checkpoint}=PATH"
                continue
        if arm.name == "world_0" and 0 not in steps:
            not_run[arm.name] = "0 is not among --num_world_steps"
        elif arm.checkpoint == LEARNER or arm.world == "true_future":
            not_run[arm.name] = f"the task has no {arm.label[0].lower()}{arm.label[1:]}"
        elif (arm.needs_future or arm.name == "world") and not own:
            not_run[arm.name] = "there is no future to see with --num_world_steps 0"
        else:
            running.append(PlannedArm(arm, checkpoint, world))
    return running, not_run


def _with_more_steps(arms: list[Arm], steps: Sequence[int]) -> list[Arm]:
    """With the arm `world`, one more for each number of steps between 0 and the largest."""
    between = sorted({count for count in steps if 0 < count < max(steps)})
    found: list[Arm] = []
    for arm in arms:
        if arm.name == "world":
            found += [
                replace(arm, name=f"world_{count}", label=f"World, {count} steps", steps=count) for count in between
            ]
        found.append(arm)
    return found


def _beside(model: str, control: str) -> str | None:
    """The control in `controls/` beside a model's folder; that of the nano model lies in the package."""
    if model == NANO:
        return f"{NANO}/controls/{control}" if (NANO_WEIGHTS / "controls" / control).is_dir() else None
    folder = Path(model).parent / "controls" / control
    return str(folder) if Path(model).is_dir() and folder.is_dir() else None


__all__ = ["ARMS", "BASE", "CONTROLS", "LEARNER", "MODEL", "Arm", "PlannedArm", "plan"]
