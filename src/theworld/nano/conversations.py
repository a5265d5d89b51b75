"""Training conversations of the nano Gemma: which views of a clip it sees, what it is asked, and the token ids of both.

The views follow one convention: the present view comes *last*; before it come, in the order of time, the present view
and later ones, a latent step apart. Static questions are about the last view; questions about the end are asked only
where the clip's final frame is among the views, so that every answer can be seen. A frozen model that learned this can
read imagined views placed before the present one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from theworld.constants import END_OF_TURN, IGNORE_INDEX, START_OF_TURN

from .families import MARGIN, Question
from .foreign import FOREIGN_ANSWER, FOREIGN_QUESTIONS
from .kinds.bins import COLUMN, DIVIDER_XS, column_of
from .kinds.race import LANE_WALL_X
from .physics import SIZE
from .questions import conversational_questions, predictive_questions, static_questions
from .words import EIGHTHS, EXERCISES, NUMBERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor
    from transformers import Gemma3Processor


FIRST, LATENT_STEP = 0, 4
MULTI_SHARE = 0.6
FOREIGN_SHARE = 0.08
"""Of conversations about foreign images, and of other conversations that a foreign question interrupts, each."""
FOREIGN_IMAGES = 4_000


def frame_weights(frames: int, first: float, last: float) -> tuple[float, ...]:
    """Chances of the frames of a clip in order: those of the first and the last, the others share the rest."""
    return (first, *[(1 - first - last) / (frames - 2)] * (frames - 2), last)


def world_views(frames: int) -> tuple[int, ...]:
    """What a model sees that looks ahead to the end of a clip: a frame for every latent frame, then the present one."""
    return (*range(FIRST, frames, LATENT_STEP), FIRST)


def frames_of(record: dict[str, Any]) -> int:
    """The number of frames of a clip."""
    return len(record["ramp_lit"])


@dataclass(frozen=True)
class Conversation:
    """Views (frame indices of one clip) and the questions asked about them, in order.

    A negative clip stands for a foreign image, -1 for the first; all its views are that image.
    """

    clip: int
    views: tuple[int, ...]
    turns: tuple[Question, ...]


@dataclass(frozen=True)
class Batch:
    """Right-padded conversations: `ids`, `labels`, `mask` (B, L); `images` are (clip, frame) in prompt order."""

    ids: Tensor
    labels: Tensor
    mask: Tensor
    images: list[tuple[int, int]]


def draw_views(frames: int, rng: np.random.Generator) -> tuple[int, ...]:
    """One view of any of the frames, or several: mostly up to the end, else fewer steps ahead or from a later present.

    What has ended stays as it is: views after the last frame are the last frame.
    """
    chance, weights, to_the_end = rng.random(), frame_weights(frames, 0.4, 0.3), world_views(frames)
    if chance > MULTI_SHARE:
        return (int(rng.choice(frames, p=weights)),)
    if chance < 0.5 * MULTI_SHARE:
        return to_the_end
    present = int(rng.choice(frames, p=weights))
    most = len(to_the_end) - 2
    ahead = most if rng.random() < 0.6 else int(rng.integers(most + 1))
    return (*(min(present + LATENT_STEP * step, frames - 1) for step in range(ahead + 1)), present)


def draw_conversation(
    clip: int, record: dict[str, Any], views: tuple[int, ...], turns: int, rng: np.random.Generator
) -> Conversation:
    """At most `turns` questions in random order, those about the end only where the final frame is seen.

    A family comes twice only with another answer of more than two, and the end is asked for in one form, so that no
    answer follows from an earlier turn.
    """
    drawn = questions_about_the_end(record, rng) if frames_of(record) - 1 in views else []
    drawn += static_questions(record, views[-1], rng) + place_questions(record, views[-1], rng)
    drawn += [question for question in static_questions(record, views[-1], rng) if len(question.choices) > 2]
    facts: dict[tuple[str, str], Question] = {}
    for question in drawn:
        facts.setdefault((question.family, question.answer), question)
    chosen = list(facts.values())
    order = rng.permutation(len(chosen))[: turns - 1]
    asked = [chosen[index] for index in order]
    if rng.random() < FOREIGN_SHARE:
        asked.insert(int(rng.integers(len(asked) + 1)), foreign_question(rng))
    return Conversation(clip, views, tuple(asked))


def questions_about_the_end(record: dict[str, Any], rng: np.random.Generator) -> list[Question]:
    """The predictive questions, or in half of the conversations one of the ways in which people ask."""
    asked = conversational_questions(record, rng)
    if asked and rng.random() < 0.5:
        return [asked[rng.integers(len(asked))]]
    return predictive_questions(record, rng)


def foreign_question(rng: np.random.Generator) -> Question:
    """A question that the nano world has no answer to."""
    text = FOREIGN_QUESTIONS[rng.integers(len(FOREIGN_QUESTIONS))]
    return Question("foreign", "static", text, FOREIGN_ANSWER, (FOREIGN_ANSWER,))


def foreign_conversation(record: dict[str, Any], rng: np.random.Generator, turns: int = 2) -> Conversation:
    """Questions of the world of `record`, and foreign ones, about an image that is not of that world."""
    own = [
        *static_questions(record, FIRST, rng),
        *predictive_questions(record, rng),
        *conversational_questions(record, rng),
    ]
    texts = [
        own[rng.integers(len(own))].text if rng.random() < 0.8 else foreign_question(rng).text for _ in range(turns)
    ]
    asked = tuple(Question("foreign", "static", text, FOREIGN_ANSWER, (FOREIGN_ANSWER,)) for text in texts)
    views = draw_views(frames_of(record), rng)
    return Conversation(-1 - int(rng.integers(FOREIGN_IMAGES)), views, asked)


def place_questions(record: dict[str, Any], frame: int, rng: np.random.Generator) -> list[Question]:
    """For training only: the column of each ball of a race, its row, and its distance from the middle wall.

    A drop has one ball, whose colour may be ignored in a question. These make a colour's name fetch a place, without
    which every comparison of two named balls stays at chance.
    """
    if record["kind"] != "race":
        return []
    columns = tuple(phrasing for phrasing in COLUMN.phrasings if "{ball}" in phrasing)
    questions: list[Question] = []
    for ball, (x, y) in zip(record["scene"]["balls"], record["ball_xy"][frame], strict=True):
        places: dict[str, tuple[tuple[str, ...], int, tuple[str, ...]]] = {
            "row": (EXERCISES["row"], int(y / SIZE * len(EIGHTHS)), EIGHTHS),
            "wall_distance": (
                EXERCISES["wall_distance"],
                int(abs(x - LANE_WALL_X) / LANE_WALL_X * len(EIGHTHS)),
                EIGHTHS,
            ),
        }
        if min(abs(x - edge) for edge in DIVIDER_XS) >= MARGIN:
            places["column"] = (columns, column_of(x), NUMBERS)
        for family, (phrasings, place, choices) in places.items():
            text = phrasings[rng.integers(len(phrasings))].format(ball=ball["colour"])
            questions.append(Question(family, "static", text, choices[min(max(place, 0), len(choices) - 1)], choices))
    return questions


class ChatEncoder:
    """Token ids and labels of conversations, equal to the processor's rendering (a test compares them), only faster."""

    def __init__(self, processor: Gemma3Processor) -> None:
        self.tokenizer: Any = processor.tokenizer
        self.image_text = processor.full_image_sequence
        self.start, self.end = self.tokenizer.convert_tokens_to_ids([START_OF_TURN, END_OF_TURN])
        self.encode = lru_cache(maxsize=None)(self._encode)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def __call__(self, conversation: Conversation) -> tuple[list[int], list[int]]:
        """Ids, and labels that are the ids at answers and their end of turn and `IGNORE_INDEX` elsewhere."""
        ids: list[int] = [self.tokenizer.bos_token_id]
        labels = [IGNORE_INDEX]
        images = self.image_text * len(conversation.views)
        for turn in conversation.turns:
            prompt = [self.start, *self.encode("user\n" + images), *self.encode(turn.text), self.end]
            prompt += [*self.encode("\n"), self.start, *self.encode("model\n")]
            answer = [*self.encode(turn.answer), self.end]
            ids += [*prompt, *answer, *self.encode("\n")]
            labels += [*[IGNORE_INDEX] * len(prompt), *answer, *[IGNORE_INDEX] * len(self.encode("\n"))]
            images = ""
        return ids, labels

    def batch(self, conversations: Sequence[Conversation]) -> Batch:
        """Encode conversations and pad them on the right to the longest."""
        rows = [self(conversation) for conversation in conversations]
        length = max(len(ids) for ids, _ in rows)
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        labels = torch.full((len(rows), length), IGNORE_INDEX)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        for row, (row_ids, row_labels) in enumerate(rows):
            ids[row, : len(row_ids)] = torch.tensor(row_ids)
            labels[row, : len(row_ids)] = torch.tensor(row_labels)
            mask[row, : len(row_ids)] = 1
        images = [(conversation.clip, frame) for conversation in conversations for frame in conversation.views]
        return Batch(ids, labels, mask, images)
