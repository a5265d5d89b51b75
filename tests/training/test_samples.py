"""Sample answers in TensorBoard: which rows are asked, up to where, and what is written."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import IterableDataset

from tests.model.helpers import assistant, load_world, user
from tests.training.runs import QUESTION, tiny_run
from theworld import TheWorld
from theworld.data.collator import TheWorldCollator
from theworld.data.schema import Example, Message, Skipped
from theworld.training.run import train
from theworld.training.samples import MAX_NEW_TOKENS, MAX_SAMPLES, Sample, answers

FIRST, SECOND, TRUTH = "What colour is the ball?", "Which bin will the ball land in?", "The red bin."


@pytest.fixture(scope="module")
def model(gemma_folder: Path, cosmos_folder: Path) -> TheWorld:
    return load_world(gemma_folder, cosmos_folder)


def row(image: Image.Image, *turns: str, **more: Any) -> Example:
    """A row whose turns are the user's and the assistant's in alternation."""
    roles: Any = ("user", "assistant") * len(turns)
    return Example("a", tuple(map(Message, roles, turns)), (image,), **more)


def answer_to(model: TheWorld, *messages: dict[str, Any]) -> str:
    """The greedy answer of the model to a conversation."""
    options: dict[str, Any] = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = model.processor.apply_chat_template([list(messages)], add_generation_prompt=True, **options)
    output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    return model.processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def test_a_row_of_several_turns_is_asked_its_last_question(model: TheWorld, images: list[Image.Image]) -> None:
    (sample,) = answers(model, [row(images[0], FIRST, "Red.", SECOND, TRUTH)], TheWorldCollator(model.processor))
    said = answer_to(model, user(FIRST, images[0]), assistant("Red."), user(SECOND))
    assert sample == Sample(SECOND, said, TRUTH)
    assert said != answer_to(model, user(SECOND, images[0])), "the first turns are part of the prompt"


def test_a_row_with_choices_is_answered_freely(model: TheWorld, images: list[Image.Image]) -> None:
    closed = row(images[0], SECOND, TRUTH, choices=("The red bin.", "The blue bin."))
    (sample,) = answers(model, [closed], TheWorldCollator(model.processor))
    assert sample == Sample(SECOND, answer_to(model, user(SECOND, images[0])), TRUTH)


class Stream(IterableDataset[Any]):
    """Rows without an end."""

    def __init__(self, row: Any) -> None:
        self.row = row
        self.read = 0

    def __iter__(self) -> Iterator[Any]:
        while True:
            self.read += 1
            yield self.row


def test_the_first_rows_of_a_stream_are_asked(
    model: TheWorld, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("theworld.training.samples.MAX_NEW_TOKENS", 2)
    rows = Stream(row(images[0], SECOND, TRUTH))
    samples = list(answers(model, rows, TheWorldCollator(model.processor)))
    assert [sample.question for sample in samples] == [SECOND] * MAX_SAMPLES
    assert rows.read == MAX_SAMPLES


def test_rows_that_cannot_be_asked_are_left_out(model: TheWorld, images: list[Image.Image], tmp_path: Path) -> None:
    unusable = [
        Skipped("a", "missing", "no image"),
        Example("b", (Message("user", FIRST), Message("assistant", TRUTH)), (tmp_path / "missing.png",)),
        row(images[0], FIRST, TRUTH, SECOND),
    ]
    assert list(answers(model, unusable, TheWorldCollator(model.processor))) == []


def written(folder: Path) -> list[tuple[int, int]]:
    """Step and number of rows of each table that a run wrote to TensorBoard."""
    events = EventAccumulator(str(folder / "logs"))
    events.Reload()
    if "eval/answers/text_summary" not in events.Tags()["tensors"]:
        return []
    tables = events.Tensors("eval/answers/text_summary")
    return [(table.step, table.tensor_proto.string_val[0].decode().count(QUESTION)) for table in tables]


@pytest.mark.parametrize("asked", [True, False])
def test_a_run_on_streams_writes_its_samples(
    asked: bool, tmp_path: Path, gemma_folder: Path, cosmos_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing if no row can be asked."""
    monkeypatch.setattr("theworld.training.samples.MAX_NEW_TOKENS", 2)
    if not asked:
        monkeypatch.setattr("theworld.training.samples.answers", lambda *_: iter(()))
    config = tiny_run(
        tmp_path,
        gemma_folder,
        cosmos_folder,
        streaming=True,
        max_steps=2,
        do_eval=True,
        eval_dataset_path=str(tmp_path / "train.jsonl"),
        eval_steps=1,
        log_to_tensorboard=True,
    )
    folder = Path(train(config).output_dir)
    assert written(folder) == ([(1, MAX_SAMPLES), (2, MAX_SAMPLES)] if asked else [])
