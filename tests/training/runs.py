"""A dataset of random pictures and the config of a run on it that takes a second on tiny models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests import tiny
from theworld.training.config import TrainingConfig
from theworld.training.resume import STATE

QUESTION = "What colour is the ball?"


def write_rows(folder: Path, count: int = 10, name: str = "train.jsonl") -> Path:
    """A JSONL file of closed questions about pictures beside it; returns its path."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        picture = f"{index}.png"
        pixels = rng.integers(0, 256, (tiny.WORLD_SIZE, tiny.WORLD_SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / picture)
        answer = ("red", "yellow ball")[index % 2]
        choices = ["red", "yellow ball"]
        rows.append({"id": f"row{index}", "image": picture, "question": QUESTION, "answer": answer, "choices": choices})
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / name


def tiny_run(folder: Path, gemma: Path, cosmos: Path, **keys: Any) -> TrainingConfig:
    """Two epochs of ten rows, three optimiser steps each, the third of half the size; every second one is saved."""
    rows = folder / "train.jsonl"
    defaults: dict[str, Any] = {
        "model_name": str(gemma),
        "cosmos_model_name": str(cosmos),
        "world_image_size": tiny.WORLD_SIZE,
        "world_pooling": 2,
        "train_dataset_path": str(rows if rows.exists() else write_rows(folder)),
        "image_folder": str(folder),
        "output_dir": str(folder / "run"),
        "batch_size": 2,
        "gradient_accumulation_steps": 2,
        "num_epochs": 2,
        "warmup_steps": 2,
        "learning_rate": 1e-2,
        "mixed_precision": "no",
        "save_steps": 2,
        "save_total_limit": None,
        "logging_steps": 1,
        "log_to_tensorboard": False,
        "pin_memory": False,
    }
    return TrainingConfig(**{**defaults, **keys})


def history(checkpoint: str | Path, *keys: str) -> dict[int, tuple[float, ...]]:
    """What a checkpoint's run logged at every step, under `keys` (the loss and what depends on it, unless named)."""
    keys = keys or ("loss", "grad_norm", "learning_rate", "choice_loss", "choice_accuracy", "param_norm/projector")
    rows = json.loads((Path(checkpoint) / STATE).read_text(encoding="utf-8"))["log_history"]
    return {row["step"]: tuple(row[key] for key in keys) for row in rows if keys[0] in row}
