"""Answers to a few rows of the evaluation set, as text in TensorBoard: what the model says beside what is right."""

from collections.abc import Iterator, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import torch
from accelerate import DistributedType
from accelerate.state import AcceleratorState
from transformers import TrainingArguments
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from typing_extensions import override

from theworld.constants import IGNORE_INDEX
from theworld.data.collator import TheWorldCollator
from theworld.data.schema import Example
from theworld.model import TheWorld
from theworld.utils.logging import logger
from theworld.utils.tables import markdown_table

TAG, MAX_SAMPLES, MAX_NEW_TOKENS = "eval/answers", 8, 64
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


@dataclass(frozen=True)
class Sample:
    """An answer of the model."""

    question: str
    answer: str
    truth: str


class SampleAnswers(TrainerCallback):
    """Writes the answers to the first `MAX_SAMPLES` rows of the evaluation set at every evaluation.

    Nothing is written if none of them can be used. The main process generates the answers alone. A model that is
    sharded over processes (FSDP, DeepSpeed) cannot do that: a line in the log says so.
    """

    def __init__(self, writer: Any) -> None:
        self.writer = writer  # of TensorBoard

    @override
    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        if AcceleratorState().distributed_type in SHARDED:
            logger.info("no sample answers in TensorBoard: the model is sharded over processes")

    @override
    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if AcceleratorState().distributed_type in SHARDED:
            return
        with torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16):
            loader = kwargs["eval_dataloader"]
            samples = list(answers(kwargs["model"], loader.dataset, loader.collate_fn))
        if samples:
            self.writer.add_text(TAG, as_table(samples), state.global_step)


@torch.no_grad()
def answers(model: TheWorld, rows: Any, collator: TheWorldCollator) -> Iterator[Sample]:
    """Greedy answers to the last question of each of the first rows, without those that cannot be used."""
    indexed: Any = rows
    first = (indexed[place] for place in range(min(MAX_SAMPLES, len(rows)))) if isinstance(rows, Sized) else indexed
    for example in islice(first, MAX_SAMPLES):
        # 1. The row as it is trained on; its last turn has to be an answer, as the prompt ends before it
        if not isinstance(example, Example) or example.messages[-1].role != "assistant":
            continue
        batch = collator([example])
        if batch.pop("skipped"):
            continue
        batch.pop("choice_ids", None)
        labels = batch.pop("labels")[0]  # (L)
        # 2. The prompt ends where the last run of supervised tokens begins
        length = len(labels)
        supervised = (labels != IGNORE_INDEX).tolist()
        end = max(place for place in range(length) if supervised[place]) + 1
        start = max(place for place in range(end) if not supervised[place]) + 1
        inputs = {
            name: (value[:, :start] if value.shape == (1, length) else value).to(model.device)
            for name, value in batch.items()
        }
        # 3. The answer
        room = model.config.get_text_config().max_position_embeddings - start
        options: dict[str, Any] = {"max_new_tokens": min(MAX_NEW_TOKENS, room), "do_sample": False}
        output = cast(Any, model.generate)(**inputs, **options)
        said = model.processor.decode(output[0, start:], skip_special_tokens=True).strip()
        question = next(one.content for one in reversed(example.messages) if one.role == "user")
        yield Sample(question, said, example.messages[-1].content)


def as_table(samples: list[Sample]) -> str:
    """Markdown."""
    rows = [tuple(map(_cell, (one.question, one.answer, one.truth))) for one in samples]
    return markdown_table(("Question", "Answer", "Right answer"), rows)


def _cell(text: str) -> str:
    """Text on one line, without what ends a cell or marks up."""
    shown = " ".join(text.split())
    for mark, escaped in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("*", "&#42;"), ("_", "&#95;")):
        shown = shown.replace(mark, escaped)
    return shown


__all__ = ["Sample", "SampleAnswers", "answers", "as_table"]
