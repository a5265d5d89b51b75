"""The result of an evaluation: verdict, tables, and output to a report, TensorBoard, W&B or a model card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import RemoteEntryNotFoundError

from theworld.utils.errors import TheWorldError
from theworld.utils.folders import model_folder
from theworld.utils.hub import NANO_WEIGHTS, resolve
from theworld.utils.imports import require

from .ask.arms import FULL
from .settings import EvaluationSettings
from .store.predictions import Prediction
from .tasks.base import Task, TaskItems
from .verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

    from .report import Rollout


@dataclass(frozen=True)
class Result:
    """The evaluation of a checkpoint on one task."""

    task: Task
    items: TaskItems
    predictions: Mapping[str, list[Prediction]]  # by arm, in the items' order
    not_run: Mapping[str, str]  # by arm, why it did not run and what it needs
    metrics: dict[str, Any]  # the contents of <output>/<task>/metrics.json
    settings: EvaluationSettings
    num_world_steps: int  # largest number of future latent frames of any arm

    @property
    def verdict(self) -> dict[str, Verdict]:
        """Whether the world helps, by kind of question."""
        return {kind: Verdict(**told) for kind, told in self.metrics["verdicts"].items()}

    def accuracies(self, arm: str) -> dict[str, float]:
        """Accuracies of an arm, from 0 to 1: `accuracy` on all questions, and one per kind of question."""
        found = self.metrics["arms"][arm]
        return {kind: told["estimate"] for kind, told in {"accuracy": found["accuracy"], **found["kinds"]}.items()}

    def table(self) -> pd.DataFrame:
        """One row per arm: accuracy with its 95 % interval, n, and the accuracy on each kind of question."""
        rows = {name: {**arm["accuracy"], **self.accuracies(name)} for name, arm in self.metrics["arms"].items()}
        columns = ["accuracy", "low", "high", "n", *self.metrics["kinds"]]
        table = require("eval", "pandas").DataFrame.from_dict(rows, orient="index")
        return table.reindex(columns=columns).rename_axis("arm")

    def to_pandas(self) -> pd.DataFrame:
        """One row per item and arm: `arm` and the fields of `Prediction`."""
        rows = [{"arm": arm, **asdict(row)} for arm, found in self.predictions.items() for row in found]
        return require("eval", "pandas").DataFrame(rows)

    def report(self, path: str | Path | None = None, rollout: Rollout | None = None) -> Path:
        """Write report.md and report.html to the folder `path` (default: the output folder); returns the HTML file.

        `rollout` returns the decoded frames of an item's rollout, shown with the examples.
        """
        from .report import write_report  # needs matplotlib

        output, folder = self.settings.folder, self.settings.source.image_folder
        return write_report(output, {self.task.name: self.items.items}, rollout, folder, to=path)

    @property
    def scalars(self) -> dict[str, float]:
        """Accuracies by `eval/<task>/<arm>/accuracy` and `eval/<task>/<arm>/<kind>`."""
        shares = {arm: self.accuracies(arm) for arm in self.metrics["arms"]}
        return {f"eval/{self.task.name}/{arm}/{kind}": own[kind] for arm, own in shares.items() for kind in own}

    def to_tensorboard(self) -> None:
        """Write `scalars` to <output>/logs."""
        require("train", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(self.settings.folder / "logs") as writer:
            for name, value in self.scalars.items():
                writer.add_scalar(name, value)

    def to_wandb(self) -> None:
        """Write `scalars` to the summary of the running W&B run, or of a new one."""
        wandb = require("wandb", "wandb")
        active = wandb.run
        run = active or wandb.init(project="theworld", job_type="evaluation", dir=self.settings.folder)
        run.summary.update(self.scalars)
        if active is None:
            run.finish()

    def to_card(self) -> None:
        """Write the full model's accuracies to the `model-index` of its model card, in its folder or on the Hub."""
        path, card = card_of(self.settings.model)
        about: Any = {"task_type": "image-text-to-text", "dataset_type": self.task.name}
        about |= {"dataset_name": self.task.title, "metric_type": "accuracy"}
        results = [
            EvalResult(**about, metric_name=kind, metric_value=round(value, 4))
            for kind, value in self.accuracies(FULL).items()
        ]
        data, name = cast(ModelCardData, card.data), self.settings.model
        others = [old for old in data.eval_results or [] if old.dataset_type != self.task.name]
        data.model_name, data.eval_results = data.model_name or Path(name).name, [*others, *results]
        if path is None:
            card.push_to_hub(name, commit_message=f"Accuracy on {self.task.title}")
        else:
            card.save(path)


def card_of(model: str) -> tuple[Path | None, ModelCard]:
    """The card of a model, and its path if the model is a folder. Raises a ValueError if the model has no card."""
    folder = Path(model_folder(resolve(model)))
    path = folder / "README.md" if folder.is_dir() else None
    try:
        if path is None or (path.is_file() and NANO_WEIGHTS not in folder.parents):
            return path, ModelCard.load(path or model)
    except RemoteEntryNotFoundError:
        pass
    raise TheWorldError(f"report_to='card': {model} has no card to write to; save the model to a folder first")


REPORTERS: dict[str, Callable[[Result], None]] = {
    "card": Result.to_card,
    "tensorboard": Result.to_tensorboard,
    "wandb": Result.to_wandb,
}
"""`report_to` -> function that writes there."""
