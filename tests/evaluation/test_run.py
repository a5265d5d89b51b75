"""Every item once in every arm, on the same worlds, in bytes that no kill changes; what cannot be is refused."""

import json
import os
import random
import signal
import socket
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState
from PIL import Image

from tests.model.helpers import load_world
from tests.processes import CONTEXT
from theworld import TheWorld
from theworld.data.schema import Message, Skipped, SourceSettings
from theworld.evaluation import run
from theworld.evaluation.ask import asker as asking
from theworld.evaluation.ask.scorers import Answer
from theworld.evaluation.result import Result
from theworld.evaluation.run import evaluate_tasks
from theworld.evaluation.settings import EvaluationSettings
from theworld.evaluation.store.predictions import Item, read_predictions
from theworld.evaluation.tasks.base import Learned, Score, Task, TaskItems
from theworld.model.answers import probabilities
from theworld.utils.folders import locked

WORLD_ARMS = ("world", "world_0", "other_future", "other_image", "random_projection", "zeroed", "noise")
COUNT = 7


def items() -> TaskItems:
    """Open and closed questions about images, one of them missing and one asked twice, and a row that is no item."""
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


def settings_in(folder: Path, checkpoint: str, **changes: Any) -> EvaluationSettings:
    known = {"model": checkpoint, "output": str(folder / "out"), "image_folder": str(folder), "batch_size": 3}
    return EvaluationSettings(**{**known, **changes})


def evaluate(settings: EvaluationSettings, task: Task = TASK) -> Result:
    return evaluate_tasks([task], settings)[0]


def test_a_gated_fusion_is_asked_with_its_world(gemma_folder: Path, cosmos_folder: Path, tmp_path: Path) -> None:
    model = load_world(gemma_folder, cosmos_folder, num_world_steps=2, fusion="gated")
    torch.nn.init.constant_(model.model.world_gate, 2.0)
    model.save_pretrained(tmp_path / "gated")
    result = evaluate(settings_in(tmp_path, str(tmp_path / "gated"), arms="world,world_0,world_off"))
    told = {arm: [row.choice_logprobs for row in rows] for arm, rows in result.predictions.items()}
    assert told["world"] != told["world_off"] != told["world_0"] != told["world"]


@pytest.fixture
def settings(checkpoint: str, tmp_path: Path) -> EvaluationSettings:
    return settings_in(tmp_path, checkpoint)


@pytest.fixture(scope="module")
def whole(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return evaluate(settings_in(tmp_path_factory.mktemp("whole"), checkpoint))


def test_every_arm_answers_every_item(whole: Result) -> None:
    assert list(whole.predictions) == ["world", "world_0", "world_off", "gemma", *WORLD_ARMS[2:], "no_image"]
    controls = ("gemma_tuned", "current_frame", "other_source", "random_encoder")
    assert set(whole.not_run) == {*controls, "futures", "static_learner", "true_future"}
    ids = [f"item {place}" for place in range(COUNT)] + ["row 9"]
    for arm, rows in whole.predictions.items():
        assert [row.id for row in rows] == ids
        causes = {row.id: row.failed.partition(":")[0] for row in rows if row.failed}
        assert causes == {**({} if arm == "no_image" else {"item 2": "missing"}), "row 9": "bad_row"}
        asked = [row for row in rows if not row.failed]
        expected = {"world_0": 16}.get(arm, 48 if arm in WORLD_ARMS else 0)
        assert {row.world_tokens for row in asked} == {expected}
        assert all(row.output in (row.choice_logprobs or {row.output}) for row in asked)
        assert [row.id for row in asked if row.choice_logprobs is None] == ["item 3"]
    manifest, rows = read_predictions(whole.settings.folder / "custom" / "world")
    assert rows == whole.predictions["world"]
    assert manifest["identity"]["items"]["count"] == COUNT + 1
    assert manifest["environment"]["packages"]["torch"]


def test_arms_differ_only_in_the_world(whole: Result) -> None:
    prompts = {arm: rows[0].prompt for arm, rows in whole.predictions.items()}
    assert len({prompts[arm] for arm in WORLD_ARMS if arm != "world_0"}) == 1
    assert "<unused2>*48" in prompts["world"]
    block = prompts["world"][prompts["world"].index("<unused0>") : prompts["world"].index("<unused1>") + 9]
    assert prompts["gemma"] == prompts["world"].replace(block, "")
    assert "image" not in prompts["no_image"]
    assert "Answer in a word." not in prompts["world"]
    assert "Answer in a word." in whole.predictions["world"][3].prompt  # the open one
    figures = {arm: json.dumps([row.choice_logprobs for row in rows]) for arm, rows in whole.predictions.items()}
    # The untrained model is its own untrained projector, and with the world off it is Gemma
    assert len(set(figures.values())) == len(figures) - 2
    assert figures["world"] == figures["random_projection"]
    assert figures["world_off"] == figures["gemma"]


def test_an_arm_of_several_futures_answers_from_their_mean(settings: EvaluationSettings) -> None:
    result = evaluate(replace(settings, arms=["world", "futures", "world_off"], num_futures=2))
    rows = result.predictions["futures"]
    logprobs: list[dict[str, float]] = []
    for seed in range(2):
        chosen = replace(settings, arms=["world"], output=f"{settings.output}-{seed}")
        folder = settings.folder.with_name(f"seed-{seed}")
        model = TheWorld.from_pretrained(settings.model, world_seed=seed)
        model.save_pretrained(folder)
        logprobs.append(evaluate(replace(chosen, model=str(folder))).predictions["world"][0].choice_logprobs or {})
    assert logprobs[0] != logprobs[1]
    found = probabilities([rows[0].choice_logprobs or {}])
    assert found == pytest.approx(probabilities(logprobs), abs=1e-4)
    assert all(row.world_tokens == 48 for row in rows if not row.failed)
    # Calibration of every arm, and accuracy over the share of rollouts
    arms = result.metrics["arms"]
    assert arms["futures"]["calibration"]["n"] == sum(row.choice_logprobs is not None for row in rows)
    assert arms["futures"]["figures"].keys() >= {"brier"}
    curve = result.metrics["on_demand"]["curve"]
    assert [curve[place]["rollouts"] for place in (0, -1)] == [0, 1]


def test_an_encoder_of_one_future_has_no_arm_of_several(
    gemma_folder: Path, cosmos_folder: Path, settings: EvaluationSettings
) -> None:
    folder = settings.folder.with_name("still")
    load_world(gemma_folder, cosmos_folder, num_world_steps=1, world_encoder="still").save_pretrained(folder)
    result = evaluate(replace(settings, model=str(folder), arms=["world", "futures"], num_futures=2))
    assert result.not_run == {"futures": "the world encoder 'still' predicts one future"}


def test_a_finished_evaluation_asks_nothing(whole: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "choices", None)
    assert evaluate(whole.settings).predictions == whole.predictions


def test_ten_kills_leave_the_bytes_of_an_undisturbed_run(settings: EvaluationSettings) -> None:
    names = ["gemma", "world", "zeroed", "other_image", "noise"]
    settings = replace(settings, arms=names, batch_size=2)
    undisturbed = replace(settings, output=str(settings.folder.with_name("undisturbed")))
    evaluate(undisturbed)
    rng, kills = random.Random(0), 0
    while kills < 10:
        worker = CONTEXT.Process(target=evaluate, args=(settings,))
        worker.start()
        assert worker.pid is not None
        rows = number_of_rows(settings.folder) + rng.randrange(2)
        while worker.is_alive() and number_of_rows(settings.folder) < rows:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.03)
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        assert worker.exitcode == -signal.SIGKILL
        kills += 1
    evaluate(settings)
    for arm in names:
        ours, theirs = (run.folder / "custom" / arm / "predictions.jsonl" for run in (settings, undisturbed))
        assert ours.read_bytes() == theirs.read_bytes(), arm


def number_of_rows(output: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in output.glob("custom/*/predictions.jsonl"))


def test_a_row_that_was_written_without_the_rest_of_its_batch(settings: EvaluationSettings) -> None:
    settings = replace(settings, arms=["world"])
    evaluate(settings)
    path = settings.folder / "custom" / "world" / "predictions.jsonl"
    lines = path.read_bytes()
    rows = lines.splitlines(keepends=True)
    path.write_bytes(b"".join(rows[:4]) + rows[4][:40])
    evaluate(settings)
    assert path.read_bytes() == lines


def be_one_of(processes: int, rank: int, port: int, settings: EvaluationSettings, batches: int) -> None:
    """Evaluate as one process of a launch; die after so many batches."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()}, MASTER_ADDR="127.0.0.1")
    PartialState._reset_state()
    real, left = asking.Asker.ask, iter(range(batches))

    def ask(*arguments: Any) -> Any:
        if next(left, None) is None:
            os._exit(9)
        return real(*arguments)

    asking.Asker.ask = ask
    assert len(evaluate(settings).predictions) == 3


def launch(settings: EvaluationSettings, processes: int, batches: int = 10**6) -> set[int | None]:
    """Evaluate on as many processes, all of which end when one dies, as a launcher sees to it; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = [
        CONTEXT.Process(target=be_one_of, args=(processes, rank, port, settings, batches)) for rank in range(processes)
    ]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers) and not any(worker.exitcode for worker in workers):
        time.sleep(0.01)
    for worker in workers:
        worker.kill()
        worker.join()
    return {worker.exitcode for worker in workers}


def test_several_processes_write_the_bytes_of_one(checkpoint: str, tmp_path: Path) -> None:
    shared = {
        "arms": "futures,world,noise",
        "num_futures": 2,
        "batch_size": 2,
        "image_folder": str(tmp_path),
        "device": "cpu",
    }
    one, two, killed = (settings_in(tmp_path / name, checkpoint, **shared) for name in ("one", "two", "killed"))
    evaluate(one)
    assert launch(two, 2) == {0}
    assert launch(killed, 3, batches=1) != {0}
    assert launch(killed, 2, batches=2) != {0}
    evaluate(killed)
    for arm in ("futures", "world", "noise"):
        rows = [(run.folder / "custom" / arm / "predictions.jsonl").read_bytes() for run in (one, two, killed)]
        assert rows[0] == rows[1] == rows[2], arm
        assert len(list((two.folder / "custom" / arm).glob("*.jsonl"))) == 1


def test_a_second_run_in_the_folder_is_refused_before_it_writes(settings: EvaluationSettings) -> None:
    with locked(settings.folder, is_main=True):
        with pytest.raises(ValueError, match="another run uses this folder; wait for its end"):
            evaluate(settings)
        assert [path.name for path in settings.folder.iterdir()] == [".lock"]


@pytest.mark.parametrize("changed", ["images", "groups"])
def test_answers_about_other_images_or_groups_are_not_reused(settings: EvaluationSettings, changed: str) -> None:
    settings = replace(settings, arms=["gemma"])
    evaluate(settings)
    first, *others = items().items
    other = {"images": {"images": others[0].images}, "groups": {"cluster": "of its own"}}[changed]
    task = replace(TASK, load=lambda source: TaskItems((replace(first, **other), *others), items().skipped))
    with pytest.raises(ValueError, match=f"holds predictions made with other {changed}: choose another output folder"):
        evaluate(settings, task)


def test_other_predictions_are_refused_before_images_are_encoded(
    settings: EvaluationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(settings, arms=["world"])
    evaluate(settings)
    first, *others = items().items
    task = replace(
        TASK, load=lambda source: TaskItems((replace(first, cluster="of its own"), *others), items().skipped)
    )
    monkeypatch.setattr(asking, "encode_worlds", lambda *given, **named: pytest.fail("images are encoded"))
    with pytest.raises(ValueError, match="holds predictions made with other groups: choose another output folder"):
        evaluate(settings, task)


def test_a_family_of_no_kind_is_refused(settings: EvaluationSettings) -> None:
    with pytest.raises(
        ValueError,
        match="family 'all' belongs to no kind of the task: expected <kind>/<name>",
    ):
        evaluate(settings, replace(TASK, kinds=("static", "predictive")))


def test_generate_scores_closed_questions_too(settings: EvaluationSettings) -> None:
    rows = evaluate(replace(settings, arms=["gemma"], scorer="generate")).predictions["gemma"]
    assert all(row.choice_logprobs is None for row in rows)
    assert all("Answer in a word." in row.prompt for row in rows if not row.failed)


def test_too_long_for_the_model(settings: EvaluationSettings) -> None:
    def with_a_long_one(source: SourceSettings) -> TaskItems:
        first, second, *_ = items().items
        return TaskItems((first, replace(second, messages=(Message("user", "Well. " * 1200),))))

    task = replace(TASK, load=with_a_long_one)
    rows = evaluate(replace(settings, arms=["world"]), task).predictions["world"]
    assert rows[0].failed is None
    assert rows[1].failed is not None
    assert rows[1].failed.startswith("too_long: ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scorer": "choice"}, "expected one of auto, choices, generate"),
        ({"batch_size": 0}, "expected at least 1"),
        ({"num_samples": 0}, "expected at least 1"),
        ({"num_world_steps": (-1,)}, "from 0 on"),
        ({"num_world_steps": "0,many"}, "expected whole numbers from 0 on with commas"),
        ({"arms": ["wrold"]}, "arm 'wrold': expected one of world.*; did you mean 'world'"),
        ({"control": ["gemma_tuned"]}, "control 'gemma_tuned': expected NAME=PATH"),
        ({"control": {"tuned": "x"}}, "control 'tuned': expected one of gemma_tuned"),
        ({"report_to": "tensorbord"}, "report_to 'tensorbord': expected one of card, tensorboard, wandb"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "contradict each other"),
        ({"dtype": "float16"}, "expected one of auto, bfloat16, float32"),
    ],
)
def test_settings_check_themselves(settings: EvaluationSettings, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(settings, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scorer": "choices"}, "1 of 7 items, such as 'item 3', have no choices"),
        ({"families": "falling"}, "family 'falling': expected one of all, the families of task 'custom'"),
    ],
)
def test_refused_before_anything_is_asked(settings: EvaluationSettings, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(replace(settings, **changes))
    assert not settings.folder.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "/nowhere"}, "/nowhere: no such folder"),
        ({"control": {"gemma_tuned": "/nowhere"}}, "control gemma_tuned: /nowhere: no such folder"),
        ({"control": ["current_frame=tests"]}, "control current_frame: tests"),
        ({"num_world_steps": 2000}, "num_world_steps=2000: expected"),
        ({"families": "falling"}, "family 'falling': the questions of custom are of the kinds static, predictive"),
    ],
)
def test_names_are_checked_before_data_is_made(
    settings: EvaluationSettings, changes: dict[str, Any], message: str
) -> None:
    def make(folder: Path, count: int | None) -> str:
        raise AssertionError("the data is made")

    task = replace(TASK, kinds=("static", "predictive"), default_source=make)
    with pytest.raises(ValueError, match=message):
        evaluate(replace(settings, **changes), task)
    assert not settings.folder.exists()
    with pytest.raises(AssertionError, match="the data is made"):
        evaluate(settings, task)


def test_families_of_a_task_without_kinds_are_checked_before_data_of_others_is_made(
    settings: EvaluationSettings,
) -> None:
    def make(folder: Path, count: int | None) -> str:
        raise AssertionError("the data is made")

    made = replace(TASK, name="made", kinds=("static", "predictive"), default_source=make)
    with pytest.raises(ValueError, match="family 'static': expected one of all, the families"):
        evaluate_tasks([made, TASK], replace(settings, families="static"))


def test_a_set_without_any_of_its_images_is_refused_before_anything_is_asked(settings: EvaluationSettings) -> None:
    lost = [replace(item, images=(Path(f"{item.id}.png"),)) for item in items().items]
    with pytest.raises(FileNotFoundError, match=r"item 0\.png: no such file; the other 6 .* --image_folder"):
        evaluate(settings, replace(TASK, load=lambda source: TaskItems(tuple(lost))))
    assert not settings.folder.exists()


def test_one_usable_image_has_no_other_to_take_a_world_from(settings: EvaluationSettings) -> None:
    first, *others = items().items
    task = replace(
        TASK, load=lambda source: TaskItems((first, *(replace(item, images=(Path("missing.png"),)) for item in others)))
    )
    result = evaluate(replace(settings, arms=["world", "other_future", "other_image"]), task)
    assert list(result.predictions) == ["world"]
    reason = "item 'item 0' has no other image to take a world from"
    assert result.not_run == {"other_future": reason, "other_image": reason}


def test_rows_that_are_no_items_stay_reported_where_families_are_chosen(settings: EvaluationSettings) -> None:
    first, second, *others = items().items
    chosen = TaskItems((replace(first, family="a"), replace(second, family="a"), *others), items().skipped)
    task = replace(TASK, load=lambda source: chosen)
    rows = evaluate(replace(settings, arms=["gemma"], families="a"), task).predictions["gemma"]
    assert [(row.id, row.failed) for row in rows] == [
        *(("item 0", None), ("item 1", None)),
        ("row 9", "bad_row: no answer"),
    ]


def test_other_settings_do_not_go_on(whole: Result) -> None:
    with pytest.raises(ValueError, match="other batch_size: choose another output folder"):
        evaluate(replace(whole.settings, arms=["gemma"], batch_size=4))


def test_one_model_at_a_time_answers_every_task(settings: EvaluationSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[weakref.ref[TheWorld]] = []
    load = run.load

    def load_alone(*arguments: Any, **options: Any) -> TheWorld:
        assert [model for model in loaded if model() is not None] == []
        loaded.append(weakref.ref(model := load(*arguments, **options)))
        return model

    monkeypatch.setattr(run, "load", load_alone)
    other = replace(TASK, name="other", load=lambda settings: TaskItems(items().items[:2]))
    first, second = evaluate_tasks([TASK, other], replace(settings, arms=["gemma", "world"]))
    assert list(first.predictions) == list(second.predictions) == ["world", "gemma"]
    assert (len(first.predictions["world"]), len(second.predictions["world"])) == (COUNT + 1, 2)
    assert len(loaded) == 2
    with pytest.raises(ValueError, match="give every task once"):
        evaluate_tasks([TASK, TASK], settings)
    with pytest.raises(ValueError, match="are those of one task"):
        evaluate_tasks([TASK, other], replace(settings, data="rows.jsonl"))


def test_families_and_kinds_are_chosen(settings: EvaluationSettings) -> None:
    families = ("static/a", "static/b", "predictive/c")

    def load(source: SourceSettings) -> TaskItems:
        found = [replace(item, family=families[place % 3]) for place, item in enumerate(items().items)]
        return TaskItems(tuple(found))

    task = replace(TASK, load=load, kinds=("static", "predictive"))
    for asked, expected in (("static", {"static/a", "static/b"}), (["static/b"], {"static/b"})):
        chosen = replace(settings, arms=["gemma"], families=asked, output=f"{settings.output}-{len(expected)}")
        assert {row.family for row in evaluate(chosen, task).predictions["gemma"]} == expected


def test_a_model_without_a_future_is_its_own_full_model(settings: EvaluationSettings) -> None:
    result = evaluate(replace(settings, num_world_steps=0))
    assert list(result.predictions) == [
        "world",
        *("world_off", "gemma", "other_image", "random_projection", "zeroed"),
        "noise",
        "no_image",
    ]
    assert {row.world_tokens for row in result.predictions["world"] if not row.failed} == {16}
    assert result.metrics["arms"]["world"]["label"] == "World, current frame (full model)"
    assert result.not_run["world_0"] == "is the same as the arm world: --num_world_steps is 0"
    assert "does not exist without a future" in result.not_run["other_future"]
    assert result.not_run.keys() >= {"current_frame", "other_future", "true_future"}


def test_the_true_future_a_learner_and_the_errors(settings: EvaluationSettings) -> None:
    rng = np.random.default_rng(1)
    clips = [tuple(rng.integers(0, 256, (12, 40, 40, 3), dtype=np.uint8)) for _ in range(COUNT)]

    def load(source: SourceSettings) -> TaskItems:
        found = [
            replace(
                item, clip=clip, frame=place, images=(clip[place],), family="static/a" if place == 1 else "predictive/b"
            )
            for place, (item, clip) in enumerate(zip(items().items, clips, strict=True))
        ]
        return TaskItems(tuple(found))

    def learn(asked: Any, source: SourceSettings, folder: Path, seed: int) -> Learned:
        answers = {item.id: "red" for item in asked if item.family == "predictive/b"}
        return Learned(answers, [{"family": "predictive/b", "learner": "kernel", "chosen": True}])

    def trace(asked: Any, last_latents: Any, answers: Any) -> dict[str, Any]:
        return {"shape": list(last_latents(asked[:2]).shape), "answers": len(answers), "items": len(asked)}

    task = replace(TASK, load=load, kinds=("static", "predictive"), learn=learn, trace=trace)
    chosen = replace(settings, arms=["world", "true_future", "static_learner"])
    result = evaluate(chosen, task)
    assert list(result.predictions) == ["world", "static_learner", "true_future"]
    learned, future = result.predictions["static_learner"], result.predictions["true_future"]
    assert [row.parsed for row in learned] == ["red", None, *["red"] * 5]
    assert learned[1].failed == "no_learner: no static learner answers static/a"
    assert [row.score for row in learned] == [1, 0, 1, 0, 1, 0, 1]
    assert {row.world_tokens for row in future} == {48}
    assert future[0].choice_logprobs != result.predictions["world"][0].choice_logprobs
    folder = settings.folder / "custom"
    assert json.loads((folder / "learners.json").read_text(encoding="utf-8"))[0]["learner"] == "kernel"
    traced = json.loads((folder / "tracing.json").read_text(encoding="utf-8"))
    assert traced == {"shape": [2, 16, 3, *traced["shape"][3:]], "answers": COUNT, "items": COUNT}

    def no_more(*arguments: Any) -> Learned:
        raise AssertionError("learned again")

    assert evaluate(chosen, replace(task, learn=no_more)).predictions == result.predictions


def test_silence_is_refused(settings: EvaluationSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "generate", lambda model, batch, *rest: [Answer("") for _ in batch.items])
    with pytest.raises(ValueError, match="outputs is empty"):
        evaluate(replace(settings, arms=["gemma"], scorer="generate"))


def test_world_tokens_that_do_not_reach_the_model_are_refused(
    settings: EvaluationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = asking.generate
    monkeypatch.setattr(asking, "generate", lambda model, batch, world, room: real(model, batch, None, room))
    with pytest.raises(ValueError, match="the model consumed 0 world tokens"):
        evaluate(replace(settings, arms=["world"], scorer="generate"))
