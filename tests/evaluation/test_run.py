"""Every item once in every arm, on the same worlds, in bytes that no kill changes; what cannot be is refused."""

import json
import multiprocessing
import os
import random
import signal
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.model.helpers import load_world
from theworld import TheWorld
from theworld.data.schema import Message, Skipped, SourceSettings
from theworld.evaluation import run
from theworld.evaluation.ask import asker as asking
from theworld.evaluation.ask.asker import EvaluationSettings
from theworld.evaluation.run import Evaluation, evaluate
from theworld.evaluation.store.predictions import Item, read_predictions
from theworld.evaluation.tasks.base import Score, Task, TaskItems

WORLD_ARMS = ("world_0", "world", "random_projection", "zeroed", "other_image", "other_future", "noise")
COUNT = 7


def items() -> TaskItems:
    """Open and closed questions about pictures, one of them missing and one asked twice, and a row that is no item."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8), "RGB") for _ in range(COUNT)]
    found = [
        Item(
            f"item {place}",
            (Message("user", f"<image>Which bin? {'Well. ' * place}"),),
            (picture,),
            ("red", "blue")[place % 2],
            ("red", "blue") if place != 3 else (),
            cluster=f"picture {place}",
        )
        for place, picture in enumerate(pictures)
    ]
    found[2] = replace(found[2], images=(Path("missing.png"),))
    found[5] = replace(found[5], images=found[4].images, cluster=found[4].cluster)
    return TaskItems(tuple(found), (Skipped("row 9", "bad_row", "no answer"),))


TASK = Task(
    "custom",
    "Custom",
    lambda settings: items(),
    lambda item, output: Score(output or None, float(output == item.answer)),
    instruction="Answer in a word.",
    max_new_tokens=3,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # threads of this process would be missing in a forked one


@pytest.fixture(scope="module")
def checkpoint(gemma_folder: Path, cosmos_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs") / "model"
    load_world(gemma_folder, cosmos_folder, num_world_steps=2).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def settings(checkpoint: str, tmp_path: Path) -> EvaluationSettings:
    return EvaluationSettings(checkpoint, tmp_path / "out", SourceSettings(image_folder=tmp_path), batch_size=3)


@pytest.fixture(scope="module")
def whole(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    folder = tmp_path_factory.mktemp("whole")
    made = EvaluationSettings(checkpoint, folder / "out", SourceSettings(image_folder=folder), batch_size=3)
    return evaluate(TASK, made)


def test_every_arm_answers_every_item(whole: Evaluation) -> None:
    assert list(whole.arms) == ["gemma", *WORLD_ARMS[:3], *WORLD_ARMS[3:], "no_image"]
    assert list(whole.not_run) == ["gemma_tuned", "random_encoder", "other_source"]
    ids = [f"item {place}" for place in range(COUNT)] + ["row 9"]
    for arm, rows in whole.arms.items():
        assert [row.id for row in rows] == ids
        causes = {row.id: row.failed.partition(":")[0] for row in rows if row.failed}
        assert causes == {**({} if arm == "no_image" else {"item 2": "missing"}), "row 9": "bad_row"}
        asked = [row for row in rows if not row.failed]
        expected = {"world_0": 16}.get(arm, 48 if arm in WORLD_ARMS else 0)
        assert {row.world_tokens for row in asked} == {expected}
        assert all(row.output in (row.choice_logprobs or {row.output}) for row in asked)
        assert [row.id for row in asked if row.choice_logprobs is None] == ["item 3"]
    manifest, rows = read_predictions(whole.folder / "world")
    assert rows == whole.arms["world"]
    assert manifest["identity"]["items"]["count"] == COUNT + 1
    assert manifest["environment"]["packages"]["torch"]


def test_arms_differ_only_in_the_world(whole: Evaluation) -> None:
    prompts = {arm: rows[0].prompt for arm, rows in whole.arms.items()}
    assert len({prompts[arm] for arm in WORLD_ARMS if arm != "world_0"}) == 1
    assert "<unused2>*48" in prompts["world"]
    block = prompts["world"][prompts["world"].index("<unused0>") : prompts["world"].index("<unused1>") + 9]
    assert prompts["gemma"] == prompts["world"].replace(block, "")
    assert "image" not in prompts["no_image"]
    assert "Answer in a word." not in prompts["world"]
    assert "Answer in a word." in whole.arms["world"][3].prompt  # the open one
    figures = {arm: json.dumps([row.choice_logprobs for row in rows]) for arm, rows in whole.arms.items()}
    assert len(set(figures.values())) == len(figures) - 1  # the untrained model is its own untrained projector
    assert figures["world"] == figures["random_projection"]


def test_a_finished_evaluation_asks_nothing(
    whole: Evaluation, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "choices", None)
    again = evaluate(
        TASK,
        EvaluationSettings(
            checkpoint, whole.folder.parent, SourceSettings(image_folder=whole.folder.parents[1]), batch_size=3
        ),
    )
    assert again.arms == whole.arms


def test_ten_kills_leave_the_bytes_of_an_undisturbed_run(settings: EvaluationSettings) -> None:
    settings = replace(settings, arms=("gemma", "world", "zeroed", "other_image", "noise"), batch_size=2)
    undisturbed = replace(settings, output=settings.output.with_name("undisturbed"))
    evaluate(TASK, undisturbed)
    rng, context, kills = random.Random(0), multiprocessing.get_context("fork"), 0
    while kills < 10:
        worker = context.Process(target=evaluate, args=(TASK, settings))
        worker.start()
        assert worker.pid is not None
        rows = number_of_rows(settings.output) + rng.randrange(2)
        while worker.is_alive() and number_of_rows(settings.output) < rows:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.03)
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        assert worker.exitcode == -signal.SIGKILL
        kills += 1
    evaluate(TASK, settings)
    for arm in settings.arms:
        ours, theirs = (run.output / "custom" / arm / "predictions.jsonl" for run in (settings, undisturbed))
        assert ours.read_bytes() == theirs.read_bytes(), arm


def number_of_rows(output: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in output.glob("custom/*/predictions.jsonl"))


def test_a_row_that_was_written_without_the_rest_of_its_batch(settings: EvaluationSettings) -> None:
    settings = replace(settings, arms=("world",))
    evaluate(TASK, settings)
    path = settings.output / "custom" / "world" / "predictions.jsonl"
    lines = path.read_bytes()
    rows = lines.splitlines(keepends=True)
    path.write_bytes(b"".join(rows[:4]) + rows[4][:40])
    evaluate(TASK, settings)
    assert path.read_bytes() == lines


def test_generate_scores_closed_questions_too(settings: EvaluationSettings) -> None:
    settings = replace(settings, arms=("gemma",), scorer="generate")
    rows = evaluate(TASK, settings).arms["gemma"]
    assert all(row.choice_logprobs is None for row in rows)
    assert all("Answer in a word." in row.prompt for row in rows if not row.failed)


def test_too_long_for_the_model(settings: EvaluationSettings) -> None:
    def with_a_long_one(source: SourceSettings) -> TaskItems:
        first, second, *_ = items().items
        return TaskItems((first, replace(second, messages=(Message("user", "Well. " * 1200),))))

    task = replace(TASK, load=with_a_long_one)
    rows = evaluate(task, replace(settings, arms=("world",))).arms["world"]
    assert rows[0].failed is None
    assert rows[1].failed is not None
    assert rows[1].failed.startswith("too_long: ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scorer": "choice"}, "expected one of auto, choices, generate"),
        ({"scorer": "choices"}, "1 of 7 items, such as 'item 3', allow any answer"),
        ({"batch_size": 0}, "expected at least 1"),
        ({"num_world_steps": (-1,)}, "from 0 on"),
        ({"arms": ("wrold",)}, "arm 'wrold': expected one of gemma"),
    ],
)
def test_refused_before_anything_is_asked(settings: EvaluationSettings, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(TASK, replace(settings, **changes))
    assert not settings.output.exists()


def test_other_settings_do_not_go_on(whole: Evaluation, settings: EvaluationSettings) -> None:
    mixed = replace(settings, output=whole.folder.parent, arms=("gemma",), batch_size=4)
    with pytest.raises(ValueError, match="other batch_size: choose another folder"):
        evaluate(TASK, mixed)


def test_one_model_at_a_time_is_in_memory(settings: EvaluationSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[weakref.ref[TheWorld]] = []
    load = run.load

    def load_alone(name: str, **options: Any) -> TheWorld:
        assert [model for model in loaded if model() is not None] == []
        loaded.append(weakref.ref(model := load(name, **options)))
        return model

    monkeypatch.setattr(run, "load", load_alone)
    assert list(evaluate(TASK, replace(settings, arms=("gemma", "world"))).arms) == ["gemma", "world"]
    assert len(loaded) == 2


def test_silence_is_refused(settings: EvaluationSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "generate", lambda model, batch, *rest: [asking.Answer("") for _ in batch.items])
    with pytest.raises(ValueError, match="outputs is empty"):
        evaluate(TASK, replace(settings, arms=("gemma",), scorer="generate"))


def test_world_tokens_that_do_not_reach_the_model_are_refused(
    settings: EvaluationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = asking.generate
    monkeypatch.setattr(asking, "generate", lambda model, batch, world, room: real(model, batch, None, room))
    with pytest.raises(ValueError, match="0 world tokens reached the model"):
        evaluate(TASK, replace(settings, arms=("world",), scorer="generate"))
