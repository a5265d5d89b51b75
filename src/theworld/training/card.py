"""The section of a checkpoint's card about its training: stage, data, results, settings, versions."""

import json
from typing import Any

from transformers.trainer_callback import TrainerState

from theworld.model import TheWorld
from theworld.model.checkpoints.card import model_card
from theworld.model.checkpoints.delta import delta_names
from theworld.utils.hub import shown
from theworld.utils.reproducibility import environment
from theworld.utils.settings import keys
from theworld.utils.signed_text import signed

from .config import TrainingConfig

NOT_RESULTS = ("runtime", "per_second", "epoch", "step")


def training_card(
    model: TheWorld, config: TrainingConfig, stage: dict[str, Any], state: TrainerState, rows: int | None, skipped: int
) -> str:
    """The card of a checkpoint of a run.

    Args:
        stage: `objective` and `trains`, as in `stage.json`.
        state: Steps done, and the log.
        rows: Rows of the data; `None` for a stream.
        skipped: The number of rows that could not be used.
    """
    start = config.model_name if config.resume in (None, "auto") else config.resume
    facts = {
        "stage": f"{stage['objective']}, trains {', '.join(stage['trains'])}",
        "started from": shown(str(start)),
        "data": _data(config, rows, skipped),
        "optimiser steps": f"{state.global_step} of {state.max_steps}, {state.epoch or 0:.2f} epochs",
        **_results(state.log_history),
        "versions": _versions(),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    values = {name: (value, keys(TrainingConfig)[name]) for name, value in config.to_dict().items()}
    changed = {name: value for name, (value, key) in values.items() if not key.local and value != key.default}
    settings = json.dumps(changed, indent=2)
    section = (
        f"## Training\n\n| | |\n|---|---|\n{table}\n\nSettings that differ from the defaults of `theworld train`:\n\n"
        f"```json\n{settings}\n```\n\n"
    )
    names = delta_names(model, thorough=False)
    return signed(model_card(model, names, training=section, repository=config.hub_model_id))


def _data(config: TrainingConfig, rows: int | None, skipped: int) -> str:
    named = [
        value if isinstance(value, list) else [value] for value in (config.dataset_name, config.train_dataset_path)
    ]
    source = ", ".join(shown(str(name)) for names in named for name in names if name)
    size = "a stream" if rows is None else f"{rows:,} rows"
    return f"{source}: {size}, {skipped:,} of them skipped"


def _results(history: list[dict[str, Any]]) -> dict[str, str]:
    """The last logged loss, and what the last evaluation said."""
    losses = [row["loss"] for row in history if "loss" in row]
    results = {"training loss": f"{losses[-1]:.4f} (first {losses[0]:.4f})"} if losses else {}
    last = next((row for row in reversed(history) if "eval_loss" in row), {})
    shown = {name: value for name, value in last.items() if not name.endswith(NOT_RESULTS)}
    return results | {name.replace("_", " "): f"{value:.4f}" for name, value in shown.items()}


def _versions() -> str:
    known = environment()
    versions = [f"{name} {version}" for name, version in known["packages"].items() if version]
    commit = [f"commit {known['git']['commit'][:12]}"] if known["git"] else []
    return ", ".join([*versions, *commit, f"Python {known['python']}"])
