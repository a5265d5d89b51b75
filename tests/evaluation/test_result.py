"""`theworld.evaluate` and what its result can be turned into."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from httpx import Request, Response
from huggingface_hub import ModelCard
from huggingface_hub.errors import RemoteEntryNotFoundError

import theworld
from theworld import Result
from theworld.evaluation import run
from theworld.evaluation.run import evaluate_tasks
from theworld.evaluation.settings import EvaluationSettings
from theworld.evaluation.tasks.micro_world import MICRO_WORLD
from theworld.evaluation.verdict import Verdict

TOLD = {entry.name: "helps" for entry in fields(Verdict)}


def numbers(estimate: float) -> dict[str, Any]:
    return {"estimate": estimate, "low": estimate - 0.1, "high": estimate + 0.1, "n": 6, "n_clusters": 6}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Result:
    output = tmp_path_factory.mktemp("evaluated") / "out"
    return theworld.evaluate("nano", "micro_world", arms=["gemma", "world"], num_samples=6, output=output)


@pytest.fixture
def result(asked: Result, tmp_path: Path) -> Result:
    """With metrics that were made up, in a folder of its own."""
    arms = {
        arm: {"accuracy": numbers(share), "kinds": {"static": numbers(share - 0.1), "predictive": numbers(share + 0.1)}}
        for arm, share in (("world", 0.75), ("gemma", 0.5))
    }
    metrics = {"kinds": ["static", "predictive"], "arms": arms, "verdicts": {"static": TOLD, "predictive": TOLD}}
    return replace(asked, metrics=metrics, settings=replace(asked.settings, output=str(tmp_path)))


def test_one_call_gives_predictions_and_metrics(asked: Result) -> None:
    assert list(asked.predictions) == ["world", "gemma"]
    assert asked.metrics == json.loads((asked.settings.folder / "micro_world" / "metrics.json").read_text("utf-8"))
    rows = asked.to_pandas()
    assert len(rows) == 12
    assert list(rows.columns[:3]) == ["arm", "id", "prompt"]
    assert rows.groupby("arm")["score"].mean()["world"] == asked.accuracies("world")["accuracy"]
    assert asked.report().is_file()
    assert asked.report(asked.settings.folder / "again").is_file()


def test_a_verdict_for_each_kind_and_a_row_for_each_arm(result: Result) -> None:
    assert result.verdict == {"static": Verdict(**TOLD), "predictive": Verdict(**TOLD)}
    table = result.table()
    assert list(table.columns) == ["accuracy", "low", "high", "n", "static", "predictive"]
    expected = pd.Series([0.75, 0.5], index=pd.Index(["world", "gemma"], name="arm"), name="accuracy")
    pd.testing.assert_series_equal(table["accuracy"], expected)
    assert table.loc["gemma", "predictive"] == pytest.approx(0.6)


def test_scalars_for_tensorboard_and_wandb(result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert result.scalars["eval/micro_world/world/accuracy"] == 0.75
    assert result.scalars["eval/micro_world/gemma/static"] == pytest.approx(0.4)
    result.to_tensorboard()
    assert list((tmp_path / "logs").glob("events*"))
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with wandb.init(dir=tmp_path) as run:  # the user's own run stays open
        result.to_wandb()
        assert run.summary["eval/micro_world/world/accuracy"] == 0.75
        assert wandb.run is run
    result.to_wandb()
    assert wandb.run is None
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 2


def test_the_card_of_a_folder_gets_a_model_index(result: Result, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    settings = replace(result.settings, model=str(folder), report_to="card")
    with pytest.raises(ValueError, match="has no card to write to; save the model to a folder first"):
        replace(result, settings=settings).to_card()
    (folder / "README.md").write_text("---\nlibrary_name: theworld\n---\n\n# Mine\n", encoding="utf-8")
    for task in (MICRO_WORLD, replace(MICRO_WORLD, name="other"), MICRO_WORLD):
        replace(result, settings=settings, task=task).to_card()
    card = ModelCard.load(folder / "README.md")
    found = [(old.dataset_type, old.metric_name, old.metric_value) for old in card.data.eval_results]
    one = [("accuracy", 0.75), ("static", 0.65), ("predictive", 0.85)]
    assert found == [(task, *pair) for task in ("other", "micro_world") for pair in one]
    assert "# Mine" in card.content


@pytest.mark.parametrize("model", ["nano", "owner/model"])
def test_where_to_report_is_checked_first(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: Any) -> ModelCard:
        raise RemoteEntryNotFoundError("404: README.md", response=Response(404, request=Request("GET", "https://hub")))

    monkeypatch.setattr(ModelCard, "load", load)
    monkeypatch.setattr(run, "make_plan", None)  # no config of the model is read
    settings = EvaluationSettings(model=model, output=str(tmp_path / "out"), report_to="card")
    with pytest.raises(ValueError, match=f"{model} has no card to write to"):
        evaluate_tasks([MICRO_WORLD], settings)
    assert not settings.folder.exists()
    with pytest.raises(ValueError, match="report_to='card' shows the accuracy of the arm world: add it to --arms"):
        replace(settings, arms="gemma")
