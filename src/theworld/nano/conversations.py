"""Training conversations of the nano Gemma: views of a clip, questions about them, and the token ids of both.

Of several views, the *last* one is the present frame. Before it come the present frame and later frames in temporal
order, one latent frame apart. Static questions are about the last view. Questions about the end are asked only if the
final frame of the clip is among the views, so that every answer is visible. A frozen model that learned this convention
can read imagined views before the present one.
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
"""Share of conversations about foreign images, and share of the other conversations that contain a foreign question."""
FOREIGN_IMAGES = 4_000


def frame_weights(frames: int, first: float, last: float) -> tuple[float, ...]:
    """Return the probabilities of the frames of a clip. Those between the first and the last share the rest equally."""
    return (first, *[(1 - first - last) / (frames - 2)] * (frames - 2), last)


def world_views(frames: int) -> tuple[int, ...]:
    """Return the views up to the end of a clip: a frame for every latent frame, then the present frame again."""
    return (*range(FIRST, frames, LATENT_STEP), FIRST)


def frames_of(record: dict[str, Any]) -> int:
    """Return the number of frames of a clip."""
    return len(record["ramp_lit"])


@dataclass(frozen=True)
class Conversation:
    """Views (frame indices of one clip) and the questions about them, in order.

    A negative `clip` is a foreign image, -1 the first one. All views then show that image.
    """

    clip: int
    views: tuple[int, ...]
    turns: tuple[Question, ...]


@dataclass(frozen=True)
class Batch:
    """Right-padded conversations: `ids`, `labels` and `mask` (B, L), and `images` as (clip, frame) in prompt order."""

    ids: Tensor
    labels: Tensor
    mask: Tensor
    images: list[tuple[int, int]]


def draw_views(frames: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Draw one view, or several: half of these are `world_views`, the others may start later or look less far ahead.

    A view after the last frame is replaced by the last frame.
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
    """Draw at most `turns` questions in random order. The end is asked about only if the final frame is visible.

    No answer follows from an earlier turn: a family is repeated only with a different answer and more than two choices,
    and the end is asked about in one form.
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
    """Return the predictive questions, or with probability 1/2 a single conversational one."""
    asked = conversational_questions(record, rng)
    if asked and rng.random() < 0.5:
        return [asked[rng.integers(len(asked))]]
    return predictive_questions(record, rng)


def foreign_question(rng: np.random.Generator) -> Question:
    """Draw a question that does not belong to the nano world, with `FOREIGN_ANSWER`."""
    text = FOREIGN_QUESTIONS[rng.integers(len(FOREIGN_QUESTIONS))]
    return Question("foreign", "static", text, FOREIGN_ANSWER, (FOREIGN_ANSWER,))


def foreign_conversation(record: dict[str, Any], rng: np.random.Generator, turns: int = 2) -> Conversation:
    """Draw questions about a foreign image: 80 % are questions about `record`, the others are foreign too."""
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
    """Ask for the column, the row and the distance from the middle wall of each ball of a race; for training only.

    In a drop there is one ball, so its colour in a question can be ignored. These questions teach the model to find a
    ball by its colour. Without them, comparisons of two named balls stay at chance.
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
    """Encode conversations to token ids and labels, faster than the processor and with the same ids."""

    def __init__(self, processor: Gemma3Processor) -> None:
        self.tokenizer: Any = processor.tokenizer
        self.image_text = processor.full_image_sequence
        self.start, self.end = self.tokenizer.convert_tokens_to_ids([START_OF_TURN, END_OF_TURN])
        self.encode = lru_cache(maxsize=None)(self._encode)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def __call__(self, conversation: Conversation) -> tuple[list[int], list[int]]:
        """Return ids and labels (L,). Labels are the ids of answers and their end of turn, else `IGNORE_INDEX`."""
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
