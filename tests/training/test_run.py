"""A run from its config to its last checkpoint: what it leaves, and what it refuses."""

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import IterableDataset

from tests.training.runs import QUESTION, history, tiny_run, write_rows
from theworld import TheWorld
from theworld.training.config import TrainingConfig
from theworld.training.precompute import precompute
from theworld.training.rows import load_rows
from theworld.training.run import RunResult, train
from theworld.training.samples import Sample, as_table
from theworld.utils.io import read_jsonl

TOKEN = "hf_" + "s" * 34
VSR_TEMPLATE = Path(__file__).parents[2] / "configs" / "vsr_training.json"


@dataclasses.dataclass(frozen=True)
class Ended:
    """A run that ended."""

    config: TrainingConfig
    result: RunResult

    @property
    def folder(self) -> Path:
        return Path(self.config.output_dir)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, gemma_folder: Path, cosmos_folder: Path) -> Ended:
    folder = tmp_path_factory.mktemp("run")
    write_rows(folder)
    (folder / "3.png").write_bytes(b"no picture")
    config = tiny_run(
        folder,
        gemma_folder,
        cosmos_folder,
        skip_budget=0.1,
        do_eval=True,
        eval_dataset_path=str(folder / "train.jsonl"),
        eval_steps=3,
        log_to_tensorboard=True,
        hf_token=TOKEN,
        save_total_limit=1,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("theworld.training.samples.MAX_NEW_TOKENS", 8)
        return Ended(config, train(config))


def test_result(ended: Ended) -> None:
    result = ended.result
    assert (result.step, result.checkpoint, result.stopped) == (6, str(ended.folder / "checkpoint-6"), False)
    assert result.loss == history(result.checkpoint)[6][0]
    assert result.metrics["eval_loss"] > 0
    assert 0 <= result.metrics["eval_choice_accuracy"] <= 1
    assert (result.skipped, result.skip_causes) == (1, "not_an_image 1 (row3)")
    json.dumps(dataclasses.asdict(result))


def test_run_folder(ended: Ended) -> None:
    names = {path.name for path in ended.folder.iterdir()}
    assert names == {"config.json", "manifest.json", "checkpoint-6", "logs", "skipped.jsonl", "skipped_eval.jsonl"}
    assert TrainingConfig.from_file(ended.folder / "config.json") == dataclasses.replace(ended.config, hf_token=None)
    manifest = json.loads((ended.folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["stage"]["trains"] == ["projector"]
    assert "torch" in manifest["environment"]["packages"]
    for name in ("skipped.jsonl", "skipped_eval.jsonl"):
        assert [json.loads(line)["id"] for line in (ended.folder / name).read_text(encoding="utf-8").splitlines()] == [
            "row3"
        ]


def test_checkpoint_answers(ended: Ended) -> None:
    model = TheWorld.from_pretrained(ended.result.checkpoint)
    assert isinstance(model.ask(Image.new("RGB", (32, 32)), QUESTION, max_new_tokens=2, do_sample=False), str)


def test_token_is_in_no_file(ended: Ended) -> None:
    written = [path for path in ended.folder.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []


def test_tensorboard_has_every_figure(ended: Ended) -> None:
    events = EventAccumulator(str(ended.folder / "logs"))
    events.Reload()
    figures = {"train/loss", "train/choice_loss", "train/choice_accuracy", "train/grad_norm", "train/learning_rate"}
    figures |= {"train/grad_norm/projector", "train/param_norm/projector", "eval/loss", "eval/choice_accuracy"}
    assert figures <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]


def test_tensorboard_has_sample_answers_of_every_evaluation(ended: Ended) -> None:
    events = EventAccumulator(str(ended.folder / "logs"))
    events.Reload()
    written = events.Tensors("eval/answers/text_summary")
    assert [event.step for event in written] == [3, 6]
    head, _, *rows = written[-1].tensor_proto.string_val[0].decode().splitlines()
    assert head == "| Question | Answer | Right answer |"
    assert len(rows) == 7  # the first 8 rows without the one whose image is broken
    told = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [(question, truth) for question, _, truth in told][:2] == [(QUESTION, "red"), (QUESTION, "yellow ball")]
    # The answer is that of the checkpoint of this step to the same image
    model = TheWorld.from_pretrained(ended.result.checkpoint)
    image = Image.open(ended.folder.parent / "0.png")
    assert (
        told[0][1]
        == as_table([Sample("", model.ask(image, QUESTION, max_new_tokens=8), "")]).splitlines()[2].split(" | ")[1]
    )


def test_text_of_a_sample_stays_in_its_cell() -> None:
    table = as_table([Sample("a | b\n<b>", "*c*", "d_e")])
    assert table.splitlines()[-1] == "| a &#124; b &lt;b> | &#42;c&#42; | d&#95;e |"


def test_wandb_offline_writes_its_run(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, log_to_wandb=True, max_steps=1, hf_token=TOKEN)
    train(config)
    (record,) = Path(config.output_dir).glob("wandb/offline-run-*/run-*.wandb")
    given_up = time.monotonic() + 60  # its own process writes it
    while not all(name in record.read_bytes() for name in (b"train/loss", b"train/choice_accuracy")):
        assert time.monotonic() < given_up
        time.sleep(0.1)
    assert [
        path for path in Path(config.output_dir).rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()
    ] == []


def test_wandb_without_a_key_is_named(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")

    def refuse(**kwargs: Any) -> None:  # what it does by itself depends on earlier logins in this process
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "init", refuse)
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, log_to_wandb=True, max_steps=1)
    with pytest.raises(ValueError, match=r"no run can be started there \(No API key configured.*WANDB_MODE=offline"):
        train(config)


def test_eval_loss_is_that_of_the_frozen_start(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    """A first evaluation after a step of rate 0 is the loss before training: that of every batch, by its samples."""
    rows = write_rows(tmp_path, 4)
    config = tiny_run(
        tmp_path, gemma_folder, cosmos_folder, max_steps=1, warmup_steps=10, do_eval=True, eval_steps=1,
        eval_dataset_path=str(rows), gradient_accumulation_steps=2, num_epochs=1,
    )  # fmt: skip
    result = train(config)
    assert result.metrics["eval_loss"] == pytest.approx(result.loss, rel=0.05)
    assert result.metrics["eval_choice_loss"] == pytest.approx(
        history(result.checkpoint, "choice_loss")[1][0], rel=1e-4
    )


def test_eval_loss_is_the_mean_over_tokens_whatever_the_batches(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path
) -> None:
    rows = [json.loads(line) for line in write_rows(tmp_path, 4).read_text(encoding="utf-8").splitlines()]
    asked = [{**row, "answer": "yellow ball " * 9 ** (i % 2), "choices": None} for i, row in enumerate(rows)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
    losses = [
        train(
            tiny_run(
                tmp_path, gemma_folder, cosmos_folder, output_dir=str(tmp_path / f"run{size}"), batch_size=size,
                max_steps=1, warmup_steps=10, gradient_accumulation_steps=4 // size, do_eval=True, eval_steps=1,
                eval_dataset_path=str(tmp_path / "train.jsonl"),
            )
        )
        for size in (1, 2, 4)
    ]  # fmt: skip
    for result in losses:
        assert result.metrics["eval_loss"] == pytest.approx(losses[-1].loss, rel=1e-4)  # of a step of rate 0


def test_splits_of_one_data_set(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    rows = [json.loads(line) for line in write_rows(tmp_path, 6).read_text(encoding="utf-8").splitlines()]
    (tmp_path / "5.png").unlink()
    splits = {"fit": rows[:3], "held": rows[3:]}  # only a name says which is which
    data = datasets.DatasetDict({name: datasets.Dataset.from_list(part) for name, part in splits.items()})
    data.save_to_disk(tmp_path / "data")
    paths = dict.fromkeys(("train_dataset_path", "eval_dataset_path"), str(tmp_path / "data"))
    steps = {"max_steps": 1, "do_eval": True, "eval_steps": 1, "skip_budget": 0.5}
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, split="fit", eval_split="held", **paths, **steps)
    result = train(config)
    assert result.skipped == 0
    assert [row["id"] for row in read_jsonl(Path(config.output_dir) / "skipped_eval.jsonl")] == ["row5"]
    cache = dataclasses.replace(config, latent_cache=str(tmp_path / "latents"), output_dir=str(tmp_path / "cached"))
    done = precompute(cache)
    assert (done.rows, done.computed, done.skipped) == (6, 5, 1)
    with pytest.raises(ValueError, match="no split 'test', it holds the splits fit, held"):
        train(dataclasses.replace(cache, split="test"))


def test_past_the_budget_the_run_stops_with_the_list(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    write_rows(tmp_path)
    for index in range(10):
        (tmp_path / f"{index}.png").unlink()
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder)
    with pytest.raises(
        ValueError,
        match=r"rows cannot be used, more than skip_budget=0.05 allows: missing.*; last skipped row: .*\d.png",
    ):
        train(config)
    assert "row" in (Path(config.output_dir) / "skipped.jsonl").read_text(encoding="utf-8")


def test_what_was_mended_no_longer_counts(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    write_rows(tmp_path, 2)
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, max_steps=1)
    pictures = [tmp_path / f"{index}.png" for index in range(2)]
    saved = [picture.read_bytes() for picture in pictures]
    for picture in pictures:
        picture.unlink()
    with pytest.raises(ValueError, match="No usable rows: all 2 were skipped"):
        train(dataclasses.replace(config, skip_budget=1.0))
    for picture, data in zip(pictures, saved, strict=True):
        picture.write_bytes(data)
    assert train(config).skipped == 0


def test_nothing_but_bad_rows_within_the_budget_is_an_error(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path
) -> None:
    write_rows(tmp_path)
    for index in range(10):
        (tmp_path / f"{index}.png").unlink()
    with pytest.raises(ValueError, match="no usable rows: all rows that the run read were skipped"):
        train(tiny_run(tmp_path, gemma_folder, cosmos_folder, skip_budget=1.0, max_steps=1))


def test_a_stream_trains_by_steps(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, streaming=True, max_steps=6, save_steps=1)
    undisturbed = train(config)
    died = tmp_path / "died"
    shutil.copytree(Path(config.output_dir) / "checkpoint-4", died / "checkpoint-4")
    resumed = train(dataclasses.replace(config, output_dir=str(died), resume_from="auto"))
    assert history(resumed.checkpoint) == history(undisturbed.checkpoint)
    with pytest.raises(ValueError, match="set max_steps"):
        train(dataclasses.replace(config, output_dir=str(tmp_path / "new"), max_steps=None))


@pytest.mark.parametrize("flags", [{"use_gradient_checkpointing": True}, {"padding": "left"}])
def test_settings_that_change_no_loss(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path, flags: dict[str, Any]
) -> None:
    plain = tiny_run(tmp_path, gemma_folder, cosmos_folder, max_steps=2)
    losses = [
        history(train(config).checkpoint, "loss", "grad_norm")
        for config in (plain, dataclasses.replace(plain, output_dir=str(tmp_path / "other"), **flags))
    ]
    for step, values in losses[0].items():
        assert losses[1][step] == pytest.approx(values, rel=1e-4)


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"train_dataset_path": "nowhere.jsonl"}, FileNotFoundError, "nowhere.jsonl"),
        ({"train_dataset_path": None}, ValueError, "train_dataset_path"),
        ({"image_folder": "nowhere"}, FileNotFoundError, "image_folder=nowhere: no such folder"),
        ({"model_name": "./nowhere"}, FileNotFoundError, "nowhere"),
        ({"resume_from": "./nowhere"}, FileNotFoundError, "nowhere: no such checkpoint or run folder"),
        ({"overlong": "error", "max_seq_length": 20}, ValueError, "max_length is 20"),
        ({"max_seq_length": 5}, ValueError, "num_world_steps=0 with world_pooling=2 gives .* max_seq_length=5"),
        ({"max_seq_length": 50, "train_world_steps": [0, 16]}, ValueError, "num_world_steps=16 with world_pooling=2"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path, keys: dict[str, Any], error: type[Exception], message: str
) -> None:
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, **keys)
    with pytest.raises(error, match=message):
        train(config)
    assert not Path(config.output_dir).exists() or "overlong" in keys  # found while rows are read


def test_an_empty_file_is_named(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder)
    Path(config.train_dataset_path or "").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="no rows"):
        train(config)


def test_vsr_config_trains_on_vsr_files(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    write_rows(tmp_path, 4)
    rows = [
        {"image": f"{index}.png", "image_link": f"http://example.com/{index}.png", "caption": "The ball is red.",
         "label": index % 2, "relation": "left of", "annotator_id": 1, "vote_true_validator_id": [2]}
        for index in range(4)
    ]  # fmt: skip
    (tmp_path / "vsr.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tiny_keys = tiny_run(tmp_path, gemma_folder, cosmos_folder).to_dict()
    changed = ("model_name", "cosmos_model_name", "world_image_size", "world_pooling", "image_folder", "output_dir")
    config = TrainingConfig.from_file(
        VSR_TEMPLATE,
        {name: tiny_keys[name] for name in changed}
        | {"train_dataset_path": str(tmp_path / "vsr.jsonl"), "max_steps": 1, "num_workers": 0},
    )
    result = train(config)
    assert result.step == 1
    assert history(result.checkpoint, "loss", "choice_loss")[1][1] > 0


def test_align_stage_then_answers(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    clips = tmp_path / "clips"
    for clip in range(2):
        (clips / f"clip{clip}").mkdir(parents=True)
        for frame in range(5):
            Image.new("RGB", (32, 32), (40 * frame, 99 * clip, 0)).save(clips / f"clip{clip}" / f"{frame}.png")
    shared: dict[str, Any] = {"num_world_steps": 1, "max_steps": 1}
    align = tiny_run(
        tmp_path, gemma_folder, cosmos_folder, objective="align", dataset_name="video", train_dataset_path=str(clips),
        image_folder=None, **shared,
    )  # fmt: skip
    aligned = train(align)
    assert aligned.loss is not None
    answers = tiny_run(
        tmp_path, gemma_folder, cosmos_folder, output_dir=str(tmp_path / "next"), resume_from=align.output_dir, **shared
    )
    assert train(answers).step == 1


def test_a_mixture_is_trained_on_and_recorded(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    paths = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name)
        paths.append(str(tmp_path / name / "train.jsonl"))
    config = tiny_run(
        tmp_path, gemma_folder, cosmos_folder, train_dataset_path=paths, weights=[1.0, 3.0], max_steps=2, save_steps=2
    )
    assert train(config).step == 2
    mixture = json.loads((Path(config.output_dir) / "manifest.json").read_text("utf-8"))["mixture"]
    assert [(part["path"], part["weight"]) for part in mixture] == list(zip(paths, (1.0, 3.0), strict=True))
    assert 3 * mixture[0]["rows_per_epoch"] == mixture[1]["rows_per_epoch"]


@pytest.mark.parametrize("kind", ["list", "datasets", "stream"])
def test_rows_can_be_objects(kind: str, tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    write_rows(tmp_path)
    rows = [
        {"image": str(tmp_path / row["image"]), "question": row["question"], "answer": row["answer"]}
        for row in read_jsonl(tmp_path / "train.jsonl")
    ]
    given = {"list": rows, "datasets": datasets.Dataset.from_list(rows), "stream": RowsOfAStream(rows)}[kind]
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, train_dataset_path=None, max_steps=2, eval_steps=2)
    result = train(config, train_dataset=given, eval_dataset=rows[:2])
    assert result.step == 2
    assert result.metrics["eval_loss"] > 0


class RowsOfAStream(IterableDataset[Any]):
    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)


@pytest.mark.parametrize("together", [False, True])
def test_clips_come_at_the_models_rate_also_in_a_mixture(tmp_path: Path, *, together: bool) -> None:
    for video in ("a", "b"):
        folder = tmp_path / video / "clip"
        folder.mkdir(parents=True)
        (folder / "fps.txt").write_text("32", encoding="utf-8")
        for frame in range(10):
            Image.new("RGB", (16, 16)).save(folder / f"{frame}.png")
    paths = [str(tmp_path / "a"), str(tmp_path / "b")]
    config = TrainingConfig(
        model_name="nano",
        objective="align",
        num_world_steps=1,
        world_fps=16,
        dataset_name=["video", "video"] if together else "video",
        train_dataset_path=paths if together else paths[0],
    )
    clips = [row.clip for row in load_rows(config)]
    assert [[frame.name for frame in clip] for clip in clips] == [[f"{n}.png" for n in (0, 2, 4, 6, 8)]] * len(clips)
    assert len(clips) == 1 + together
