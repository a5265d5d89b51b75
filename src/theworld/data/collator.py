"""Collates examples into one padded batch. Labels are made only here.

Shape legend: `B` batch, `L` sequence, `n` answers of a closed question.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch.nn.utils.rnn import pad_sequence

from theworld.constants import END_OF_TURN, IGNORE_INDEX, MODEL_HEADER, START_OF_TURN
from theworld.utils.errors import TheWorldError

from .images import open_image
from .latent_cache import LatentCache
from .prompts import ChatProcessor, Turn, chat_turns, reserved_tokens
from .regions import draw_regions
from .schema import BadSample, Example, Message, Skipped

NO_CHOICE = -1
TOKEN_CHARACTERS = 64  # more than any text token has

Opened = tuple[Example, list[Turn]]  # an example, and the turns of a chat template with its opened images


class TheWorldCollator:
    """Opens images, applies the chat template, labels the assistant's turns, and pads.

    Labels are the content of every assistant turn with its `<end_of_turn>`; all other labels are -100.

    Args:
        processor: The model's processor; the batch holds what it returns for the conversations.
        image_folder: Folder of relative image names.
        max_length: Largest number of tokens of a sample, including images and world blocks. Nothing is cut.
        overlong: `skip` a sample past `max_length`, or raise an `error`.
        num_world_steps: Future latent frames of the world blocks; `None` takes the processor's.
        drawn_world_steps: Numbers of future latent frames. Every batch uses one of them, chosen by the ids of its rows.
        latent_cache: Source of `world_latents`, which the batch then holds in place of `world_pixel_values`.

    ValueError if an argument is out of range, or the tokenizer has no turns.
    """

    def __init__(
        self,
        processor: ChatProcessor,
        *,
        image_folder: str | Path | None = None,
        max_length: int = 2048,
        padding_side: Literal["left", "right"] = "right",
        overlong: Literal["skip", "error"] = "skip",
        num_world_steps: int | None = None,
        drawn_world_steps: Sequence[int] = (),
        latent_cache: LatentCache | None = None,
    ) -> None:
        if padding_side not in ("left", "right"):
            raise TheWorldError(f"padding_side={padding_side!r}: expected one of left, right")
        if overlong not in ("skip", "error"):
            raise TheWorldError(f"overlong={overlong!r}: expected one of skip, error")
        if max_length < 1:
            raise TheWorldError(f"max_length={max_length}: expected at least 1")
        if drawn_world_steps and num_world_steps is not None:
            raise TheWorldError(f"{num_world_steps=} and {drawn_world_steps=} contradict each other: give one")
        self.processor = processor
        self.image_folder = None if image_folder is None else Path(image_folder)
        self.max_length = max_length
        self.padding_side = padding_side
        self.overlong = overlong
        self.latent_cache = latent_cache
        self.world = {} if num_world_steps is None else {"num_world_steps": num_world_steps}
        self.drawn_world_steps = drawn_world_steps
        tokenizer = processor.tokenizer
        self.reserved = reserved_tokens(tokenizer)
        self.turn_ids: list[int] = tokenizer.convert_tokens_to_ids([START_OF_TURN, END_OF_TURN])
        if tokenizer.unk_token_id in self.turn_ids:
            raise TheWorldError(f"the tokenizer lacks {START_OF_TURN} or {END_OF_TURN}: expected Gemma 3's")
        self.header: list[int] = tokenizer.encode(MODEL_HEADER, add_special_tokens=False)

    def __call__(self, items: Sequence[Example | Skipped]) -> dict[str, Any]:
        """One batch: the processor's tensors and `labels`, and beside the model's inputs `skipped` and `choice_ids`.

        `labels` (B, L). `choice_ids` (B, n), first tokens of the allowed answers of closed questions, padded with -1;
        absent without closed questions. `skipped`: rows that gave no sample, and why. If no row did, the batch is one
        text sample without labels, whose loss is 0.

        ValueError if a sample is longer than `max_length` and `overlong` is `error`, or if the latent cache lacks
        a frame.
        """
        if self.drawn_world_steps:
            return self._with_drawn_steps(items)(items)
        opened: list[Opened] = []
        skipped: list[Skipped] = []
        for item in items:
            if isinstance(item, Skipped):
                skipped.append(item)
                continue
            try:
                opened.append((item, self.open(item)))
            except BadSample as error:
                skipped.append(self.unfit(item, error))
        batch, kept, unfit = self.supervise(opened)
        if self.latent_cache is not None and "world_pixel_values" in batch:
            batch["world_latents"] = self.latent_cache.lookup(batch.pop("world_pixel_values"))
        if any(example.choices for example in kept):
            rows = [torch.tensor([self.first_token(choice) for choice in example.choices]).long() for example in kept]
            batch["choice_ids"] = pad_sequence(rows, batch_first=True, padding_value=NO_CHOICE)
        return {**batch, "skipped": skipped + unfit}

    def _with_drawn_steps(self, items: Sequence[Example | Skipped]) -> TheWorldCollator:
        """The same for one number of latent frames, which follows from the rows: a resumed run draws it again."""
        names = "\0".join(item.id for item in items)
        steps = self.drawn_world_steps[zlib.crc32(names.encode()) % len(self.drawn_world_steps)]
        collator = self.for_evaluation()
        collator.world = {"num_world_steps": steps}
        if steps != cast(Any, self.processor).num_world_steps:
            collator.latent_cache = None  # it holds rollouts of one length; the model makes those of another
        return collator

    def for_evaluation(self) -> TheWorldCollator:
        """The same without drawn numbers of latent frames."""
        collator = copy(self)
        collator.drawn_world_steps = ()
        return collator

    def open(self, example: Example) -> list[Turn]:
        """The turns of an example with opened images; BadSample if an image or the turns are not usable."""
        characters = max(
            sum(len(message.content.strip()) for message in example.messages), *map(len, example.choices), 0
        )
        if characters > TOKEN_CHARACTERS * self.max_length:  # its tokenisation would take minutes
            raise BadSample("too_long", f"{characters:,} characters, but max_length is {self.max_length} tokens")
        if not all(answers := _answers(example)) or not answers:
            raise BadSample("no_answer", "an assistant turn is empty" if answers else "no assistant turn to learn")
        if any(map(self.reserved.search, example.choices)):
            raise BadSample("special_token", "a choice holds a reserved token")
        chat_turns(example.messages, example.images, self.reserved)  # find errors in the turns before images are opened
        images = [open_image(image, self.image_folder) for image in example.images]
        if images and example.metadata.get("draw_regions"):
            images[0] = draw_regions(images[0], example.metadata["regions"])
        return chat_turns(example.messages, images, self.reserved)

    def supervise(self, opened: list[Opened]) -> tuple[dict[str, Any], list[Example], list[Skipped]]:
        """The batch with its labels, its examples, and the examples that did not fit."""
        if not opened:
            inputs = self.encode([chat_turns([Message("user", "-")], [], self.reserved)])
            return {**inputs, "labels": torch.full_like(inputs["input_ids"], IGNORE_INDEX)}, [], []
        inputs = self.encode([turns for _, turns in opened])
        labels = torch.full_like(inputs["input_ids"], IGNORE_INDEX)
        fit: list[Opened] = []
        unfit: list[Skipped] = []
        for row, (example, turns) in enumerate(opened):
            ids = inputs["input_ids"][row]
            try:
                length = int(inputs["attention_mask"][row].sum())
                if length > self.max_length:
                    raise BadSample("too_long", f"{length} tokens, but max_length is {self.max_length}")
                for start, end in self.answer_spans(ids.tolist(), _answers(example)):
                    labels[row, start:end] = ids[start:end]
                fit.append((example, turns))
            except BadSample as error:
                unfit.append(self.unfit(example, error))
        if unfit:  # rare, so run the processor again instead of removing rows and images
            batch, kept, _ = self.supervise(fit)
            return batch, kept, unfit
        return {**inputs, "labels": labels}, [example for example, _ in fit], []

    def unfit(self, example: Example, error: BadSample) -> Skipped:
        """The `Skipped` of an example; a ValueError if it is too long and `overlong` is `error`."""
        if error.cause == "too_long" and self.overlong == "error":
            raise TheWorldError(f"{example.id}: {error.detail}; raise it, or set overlong=skip") from error
        return error.skipped(example.id)

    def encode(self, conversations: list[list[Turn]]) -> dict[str, torch.Tensor]:
        """The processor's inputs of several conversations, padded."""
        options = {"padding": True, "padding_side": self.padding_side, **self.world}
        template = self.processor.apply_chat_template
        kinds: dict[str, Any] = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
        return dict(template(conversations, **kinds, processor_kwargs=options))

    def answer_spans(self, ids: list[int], answers: list[str]) -> list[tuple[int, int]]:
        """(start, end) of the assistant's turns in `ids`, without header and with `<end_of_turn>`.

        BadSample `not_reproduced` if the tokens there differ from the answers, because another text would be learned.
        """
        start_of_turn, end_of_turn = self.turn_ids
        spans: list[tuple[int, int]] = []
        for place, token in enumerate(ids):
            begin = place + 1 + len(self.header)
            if token == start_of_turn and ids[place + 1 : begin] == self.header and end_of_turn in ids[begin:]:
                spans.append((begin, ids.index(end_of_turn, begin) + 1))
        decode = self.processor.tokenizer.decode
        found = [decode(ids[start:end], clean_up_tokenization_spaces=False) for start, end in spans]
        wanted = [answer + END_OF_TURN for answer in answers]
        if found != wanted:
            first = next((pair for pair in zip(found, wanted, strict=False) if pair[0] != pair[1]), (found, wanted))
            made, meant = (str(side)[:120] for side in first)
            raise BadSample("not_reproduced", f"template and tokenizer give {made!r} for {meant!r}")
        return spans

    def first_token(self, choice: str) -> int:
        """The first token of a turn with the answer `choice`."""
        turn = f"{START_OF_TURN}{MODEL_HEADER}{choice.strip()}{END_OF_TURN}"
        return self.processor.tokenizer.encode(turn, add_special_tokens=False)[1 + len(self.header)]


def _answers(example: Example) -> list[str]:
    """The answers, trimmed as by the chat template."""
    return [message.content.strip() for message in example.messages if message.role == "assistant"]
