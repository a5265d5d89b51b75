"""The section of a checkpoint's card about its training: stage, data, results, settings, versions."""

import json
from collections.abc import Sized
from typing import Any

from transformers.trainer_callback import TrainerState

from theworld.model import TheWorld
from theworld.model.checkpoints.card import model_card
from theworld.model.checkpoints.delta import delta_names
from theworld.utils.hub import shown
from theworld.utils.reproducibility import environment
from theworld.utils.settings import keys
from theworld.utils.signed_text import signed
from theworld.utils.tables import markdown_table

from .config import AUTO, TrainingConfig

NOT_RESULTS = ("runtime", "per_second", "epoch", "step")


def training_card(
    model: TheWorld, config: TrainingConfig, stage: dict[str, Any], state: TrainerState, data: Any, skipped: int
) -> str:
    """The card of a checkpoint: `stage` as in `stage.json`, `skipped` the number of rows that gave no example."""
    # 1. Facts of the run
    losses = [row["loss"] for row in state.log_history if "loss" in row]
    results = {"training loss": f"{losses[-1]:.4f} (first {losses[0]:.4f})"} if losses else {}
    last = next((row for row in reversed(state.log_history) if "eval_loss" in row), {})
    figures = {name.replace("_", " "): value for name, value in last.items() if not name.endswith(NOT_RESULTS)}
    start = config.model_name if config.resume in (None, AUTO) else config.resume
    named = [name if isinstance(name, list) else [name] for name in (config.dataset_name, config.train_dataset_path)]
    source = ", ".join(shown(str(name)) for names in named for name in names if name)
    size = f"{len(data):,} rows" if isinstance(data, Sized) else "a stream"
    known = environment()
    versions = [f"{name} {version}" for name, version in known["packages"].items() if version]
    versions += [f"commit {known['git']['commit'][:12]}"] if known["git"] else []
    facts = {
        "stage": f"{stage['objective']}, trains {', '.join(stage['trains'])}",
        "started from": shown(str(start)),
        "data": f"{source}: {size}, {skipped:,} of them skipped",
        "optimiser steps": f"{state.global_step} of {state.max_steps}, {state.epoch or 0:.2f} epochs",
        **results,
        **{name: f"{value:.4f}" for name, value in figures.items()},
        "versions": ", ".join([*versions, f"Python {known['python']}"]),
    }
    table = markdown_table(("", ""), list(facts.items()))
    # 2. Settings that differ from the defaults
    values = {name: (value, keys(TrainingConfig)[name]) for name, value in config.to_dict().items()}
    changed = {name: value for name, (value, key) in values.items() if not key.local and value != key.default}
    settings = json.dumps(changed, indent=2)
    section = (
        f"## Training\n\n{table}\n\nSettings that differ from the defaults of `theworld train`:\n\n"
        f"```json\n{settings}\n```\n\n"
    )
    names = delta_names(model, thorough=False)
    return signed(model_card(model, names, training=section, repository=config.hub_model_id))
