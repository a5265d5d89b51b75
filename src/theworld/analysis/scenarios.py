"""One question, three answers: plain Gemma 3, with the current frame's world tokens, and with a rollout."""

from __future__ import annotations

from typing import Any

from theworld.model import TheWorld
from theworld.utils.images import open_image

SCENARIOS: dict[str, dict[str, Any]] = {
    "plain Gemma 3": {"use_world": False},
    "current frame": {"num_world_steps": 0},
    "rollout": {},
}


def rollout_steps(model: TheWorld, num_world_steps: int | None = None) -> int:
    """Future latent frames of the rollout: the given number, or the model's, which is raised to at least 1."""
    return max(1, model.config.num_world_steps) if num_world_steps is None else num_world_steps


def answer_three_ways(model: TheWorld, image: Any, question: str, num_world_steps: int | None = None) -> dict[str, str]:
    """The answer to `question` about `image` in each of `SCENARIOS`.

    Args:
        num_world_steps: Future latent frames of the rollout; see `rollout_steps`.

    Raises:
        ValueError: As `model.ask`.
    """
    answers: dict[str, str] = {}
    image = open_image(image)
    for name, how in SCENARIOS.items():
        options: dict[str, Any] = {"num_world_steps": rollout_steps(model, num_world_steps), **how}
        answers[name] = model.ask(image, question, **options)
    return answers


__all__ = ["SCENARIOS", "answer_three_ways", "rollout_steps"]
