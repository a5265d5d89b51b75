"""Ask a model questions through its processor and `generate`, and compute the accuracy per family."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from theworld.utils.devices import input_device

from .conversations import FIRST, world_views
from .families import Question
from .questions import conversational_questions, predictive_questions, static_questions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from .scenes import SceneSet


@dataclass(frozen=True)
class Item:
    """One question about one clip. `frames`, uint8 (V, H, W, 3), are its V views in the order of the prompt."""

    clip: int
    frames: NDArray[np.uint8]
    question: Question


def draw_items(
    scenes: SceneSet, views: tuple[int, ...], per_family: int, *, predictive: bool, seed: int = 0
) -> list[Item]:
    """Draw questions about `views` of the scenes, in order: at most `per_family` of a family and one of it per clip."""
    rng = np.random.default_rng(seed)
    counts: dict[str, int] = defaultdict(int)
    items: list[Item] = []
    for clip, record in enumerate(scenes.records):
        if predictive:
            questions = [*predictive_questions(record, rng), *conversational_questions(record, rng)]
        else:
            questions = static_questions(record, views[-1], rng)
        by_family: dict[str, list[Question]] = defaultdict(list)
        for question in questions:
            by_family[question.family].append(question)
        for family, choices in by_family.items():
            if counts[family] < per_family:
                counts[family] += 1
                items.append(Item(clip, scenes.frames[clip, list(views)], choices[rng.integers(len(choices))]))
    return items


@torch.no_grad()
def answer_items(
    model: Any, processor: Any, items: Sequence[Item], *, batch_size: int = 64, **generate_options: Any
) -> list[str]:
    """Return the greedy answers of the model to `items`, in order.

    `model` needs `generate` and `processor` a chat template. All outputs of the processor are passed to `generate`.
    """
    options = {"max_new_tokens": 24, "do_sample": False, **generate_options}
    answers: list[str] = []
    for start in range(0, len(items), batch_size):
        inputs = encode_items(processor, items[start : start + batch_size], processor_kwargs={"padding": True})
        inputs = inputs.to(input_device(model))
        output = model.generate(**inputs, **options)
        answers += decode_answers(processor, output, inputs["input_ids"].shape[1])
    return answers


def encode_items(processor: Any, items: Sequence[Item], **template_options: Any) -> Any:
    """Return the prompts of the items as one batch of model inputs, the output of the processor."""
    return processor.apply_chat_template(
        [[_user_turn(item)] for item in items],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        **template_options,
    )


def decode_answers(processor: Any, output: torch.Tensor, prompt_length: int) -> list[str]:
    """Decode the tokens after the prompts, one text per row of `output` (B, L)."""
    decoded = processor.batch_decode(output[:, prompt_length:], skip_special_tokens=True)
    return [text.strip() for text in decoded]


def score(items: Sequence[Item], answers: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return per family `n` and `accuracy`, the share of answers that equal the right answer exactly."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for item, answer in zip(items, answers, strict=True):
        hits[item.question.family].append(answer == item.question.answer)
    return {family: {"n": len(rows), "accuracy": float(np.mean(rows))} for family, rows in sorted(hits.items())}


def evaluate_vlm(
    model: Any, processor: Any, scenes: SceneSet, per_family: int, *, batch_size: int = 64, seed: int = 0
) -> dict[str, dict[str, dict[str, float]]]:
    """Return accuracies of a model that sees every frame it is asked about, by setting and family (see `score`).

    Settings:
        static: Static questions about the first frame, the only view.
        static_final: Static questions about the final frame, the only view.
        predictive: Predictive and conversational questions with the views of `world_views`, which show the final frame.
        static_many: Static questions about the last of these views, which is the present one.
    """
    frames = scenes.frames.shape[1]
    settings: dict[str, tuple[tuple[int, ...], bool]] = {
        "static": ((FIRST,), False),
        "static_final": ((frames - 1,), False),
        "predictive": (world_views(frames), True),
        "static_many": (world_views(frames), False),
    }
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for name, (views, predictive) in settings.items():
        items = draw_items(scenes, views, per_family, predictive=predictive, seed=seed)
        figures[name] = score(items, answer_items(model, processor, items, batch_size=batch_size))
    return figures


def _user_turn(item: Item) -> dict[str, Any]:
    images = [{"type": "image", "image": Image.fromarray(frame)} for frame in item.frames]
    return {"role": "user", "content": [*images, {"type": "text", "text": item.question.text}]}
