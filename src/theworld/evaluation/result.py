"""What an evaluation found: the verdict, tables, and where else they can go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData, metadata_update
from huggingface_hub.repocard_data import eval_results_to_model_index

from theworld.utils.errors import TheWorldError
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
    """The evaluation of a checkpoint on one task.

    Args:
        task: What was asked.
        items: Of the task.
        predictions: By arm, in the items' order.
        not_run: By arm, why it did not run and what it needs.
        metrics: What <output>/<task>/metrics.json holds.
        settings: Of the evaluation.
        num_world_steps: Most future latent frames of any arm.
    """

    task: Task
    items: TaskItems
    predictions: Mapping[str, list[Prediction]]
    not_run: Mapping[str, str]
    metrics: dict[str, Any]
    settings: EvaluationSettings
    num_world_steps: int

    @cached_property
    def verdict(self) -> dict[str, Verdict]:
        """Whether the world helps, by kind of question."""
        return {kind: Verdict(**told) for kind, told in self.metrics["verdicts"].items()}

    def table(self) -> pd.DataFrame:
        """A row an arm: accuracy with its 95 % interval, n, and the accuracy on every kind of question."""
        rows = {}
        for name, arm in self.metrics["arms"].items():
            accuracy = {key: arm["accuracy"][key] for key in ("estimate", "low", "high", "n")}
            kinds = {kind: numbers["estimate"] for kind, numbers in arm.get("kinds", {}).items()}
            rows[name] = {"label": arm.get("label", name), **accuracy, **kinds, "unparsed": arm["unparsed"]}
        return require("eval", "pandas").DataFrame.from_dict(rows, orient="index").rename_axis("arm")

    def to_pandas(self) -> pd.DataFrame:
        """A row an item and arm: the fields of `Prediction`, with `arm` in front."""
        rows = [{"arm": arm, **asdict(row)} for arm, found in self.predictions.items() for row in found]
        return require("eval", "pandas").DataFrame(rows)

    def report(self, path: str | Path | None = None, rollout: Rollout | None = None) -> Path:
        """Write report.md and report.html.

        Args:
            path: Folder to write to; by default that of the predictions, with examples.
            rollout: The decoded frames that the model imagines for an item.

        Returns:
            The path of the page.
        """
        from .report import compare_runs, write_report  # draws, which needs matplotlib

        output, folder = self.settings.folder, self.settings.source.image_folder
        if path is None:
            return write_report(output, {self.task.name: self.items.items}, rollout, folder)
        compare_runs([output], path)
        return Path(path) / "report.html"

    @cached_property
    def scalars(self) -> dict[str, float]:
        """Accuracy of every arm by `<task>/<arm>`, and of every kind of question by `<task>/<arm>/<kind>`."""
        found: dict[str, float] = {}
        for name, arm in self.metrics["arms"].items():
            found[f"{self.task.name}/{name}"] = arm["accuracy"]["estimate"]
            for kind, numbers in arm.get("kinds", {}).items():
                found[f"{self.task.name}/{name}/{kind}"] = numbers["estimate"]
        return found

    def eval_results(self) -> list[EvalResult]:
        """The accuracies of the full model, as the `model-index` of a card has them; empty if it was not run."""
        arm = self.metrics["arms"].get(FULL)
        if arm is None:
            return []
        kinds = {f"accuracy ({kind})": numbers for kind, numbers in arm.get("kinds", {}).items()}
        return [
            EvalResult(
                task_type="image-text-to-text",
                dataset_type=self.task.name,
                dataset_name=self.task.title,
                metric_type="accuracy",
                metric_name=name,
                metric_value=round(numbers["estimate"], 4),
            )
            for name, numbers in {"accuracy": arm["accuracy"], **kinds}.items()
        ]

    def to_card(self) -> None:
        """Write the accuracies to the `model-index` of the model's card, in its folder or on the Hub.

        Raises:
            ValueError: The model has no card of its own.
        """
        name, results = self.settings.model, self.eval_results()
        if not Path(resolve(name)).is_dir():
            metadata_update(name, {"model-index": eval_results_to_model_index(name, results)}, overwrite=True)
            return
        path = Path(resolve(name)) / "README.md"
        if not path.is_file() or NANO_WEIGHTS in path.parents:
            raise TheWorldError(f"report_to card: {name} has no card to write to; save the model to a folder first")
        card = ModelCard.load(path)
        data = cast(ModelCardData, card.data)
        others = [old for old in data.eval_results or [] if old.dataset_type != self.task.name]
        data.model_name, data.eval_results = data.model_name or path.parent.name, others + results
        card.save(path)

    def to_tensorboard(self) -> None:
        """Write `scalars` to <output>/logs."""
        require("train", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(self.settings.folder / "logs") as writer:
            for name, value in self.scalars.items():
                writer.add_scalar(f"eval/{name}", value)

    def to_wandb(self) -> None:
        """Write `scalars` to the summary of the running W&B run, or of a new one."""
        wandb = require("wandb", "wandb")
        with wandb.init(
            project="theworld", job_type="evaluation", dir=self.settings.folder, reinit="return_previous"
        ) as run:
            run.summary.update({f"eval/{name}": value for name, value in self.scalars.items()})


REPORTERS: dict[str, Callable[[Result], None]] = {
    "card": Result.to_card,
    "tensorboard": Result.to_tensorboard,
    "wandb": Result.to_wandb,
}
"""`report_to` -> what writes there."""

__all__ = ["REPORTERS", "Result"]
