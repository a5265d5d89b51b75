"""Evaluations on disk whose arms are right and wrong as a test says."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from theworld.data.schema import Message
from theworld.evaluation.store.predictions import Item, Prediction, PredictionFile, items_digest
from theworld.evaluation.store.refusals import WITHOUT_WORLD
from theworld.evaluation.tasks.base import Score, Task, TaskItems

PICTURE = Image.new("RGB", (64, 64), (40, 80, 160))


def make_items(count: int, per_picture: int = 1, families: Sequence[str] = ("drop", "roll")) -> list[Item]:
    """Yes/no questions; `per_picture` of them in a row share a picture, and the right answer changes every third."""
    return [
        Item(
            f"q{number}",
            (Message("user", f"Does ball {number} fall?"),),
            (PICTURE,),
            "yes" if number % 3 else "no",
            choices=("yes", "no"),
            family=families[number % len(families)],
            cluster=f"scene{number // per_picture}",
        )
        for number in range(count)
    ]


def read_answer(item: Item, output: str) -> Score:
    word = output.strip().lower()
    parsed = word if word in ("yes", "no") else None
    return Score(parsed, float(parsed == item.answer))


def make_task(items: Sequence[Item], name: str = "balls") -> Task:
    return Task(
        name=name,
        title=f"Do the {name} fall?",
        load=lambda settings: TaskItems(tuple(items)),
        score=read_answer,
        measures=lambda rows: {"share_yes": sum(row.parsed == "yes" for row in rows) / len(rows)},
        baselines=lambda all_items: {"always_yes": sum(item.answer == "yes" for item in all_items) / len(all_items)},
    )


def other(answer: str) -> str:
    return "no" if answer == "yes" else "yes"


def identity(items: Sequence[Item], arm: str, task: str = "balls", **more: Any) -> dict[str, Any]:
    return {
        "task": task,
        "arm": arm,
        "scorer": "likelihood",
        "model": "tiny",
        "items": {"count": len(items), "digest": items_digest(items)},
        "settings": {"num_world_steps": 2},
        **more,
    }


def answer_rows(items: Sequence[Item], arm: str, right: Sequence[bool], **fields: Any) -> list[Prediction]:
    rows: list[Prediction] = []
    for item, is_right in zip(items, right, strict=True):
        output = item.answer if is_right else other(item.answer)
        row: dict[str, Any] = {
            "prompt": f"<bos>{item.messages[0].content}",
            "choice_logprobs": {"yes": -0.1, "no": -2.5 - zlib.crc32(arm.encode()) / 2**32},
            "world_tokens": 0 if arm in WITHOUT_WORLD else 16,
            "family": item.family,
            "cluster": item.cluster,
            **fields,
        }
        rows.append(
            Prediction(id=item.id, answer=item.answer, output=output, parsed=output, score=float(is_right), **row)
        )
    return rows


def write_arm(
    output: Path, items: Sequence[Item], arm: str, rows: Sequence[Prediction], task: str = "balls", **more: Any
) -> Path:
    """<output>/<task>/<arm> as an evaluation leaves it."""
    folder = output / task / arm
    PredictionFile(folder, identity(items, arm, task, **more)).append(rows)
    return folder


def write_arms(
    output: Path, items: Sequence[Item], patterns: Mapping[str, Sequence[bool]], task: str = "balls", **more: Any
) -> None:
    for arm, right in patterns.items():
        write_arm(output, items, arm, answer_rows(items, arm, right), task, **more)
