"""Random batches of training conversations, with a state that can be saved and restored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .conversations import (
    FOREIGN_SHARE,
    ChatEncoder,
    draw_conversation,
    draw_views,
    foreign_conversation,
    frames_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

    from .conversations import Batch, Conversation
    from .scenes import SceneSet

POOL = 4


class Batches:
    """Iterate endlessly over batches of `size` conversations of similar length.

    Conversations of `POOL` batches are drawn at a time and sorted by length; the batches are then shuffled. The state
    is the state of `rng` before the current pool, and the number of batches taken from the pool.

    Args:
        turns: Maximum number of questions in a conversation.
        shares: Share of conversations by kind of scene. Kinds without scenes are ignored. A kind that is not named has
            the share 1 / len(shares) before normalisation.
    """

    def __init__(
        self,
        scenes: SceneSet,
        encoder: ChatEncoder,
        size: int,
        turns: int,
        shares: Mapping[str, float],
        rng: np.random.Generator,
    ) -> None:
        self.scenes, self.encoder, self.size, self.turns, self.rng = scenes, encoder, size, turns, rng
        there = {record["kind"] for record in scenes.records}
        chances = {kind: shares.get(kind, 1 / len(shares)) for kind in dict.fromkeys([*shares, *sorted(there)])}
        self.clips = {kind: scenes.indices(kind) for kind in chances if kind in there}
        total = math.fsum(chances[kind] for kind in self.clips)
        self.chances = [chances[kind] / total for kind in self.clips]
        self.before = rng.bit_generator.state
        self.pool: list[list[Conversation]] = []

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if not self.pool:
            self._draw_pool()
        return self.encoder.batch(self.pool.pop(0))

    def state_dict(self) -> dict[str, Any]:
        """Return the state. Call it only after the first batch."""
        return {"before": self.before, "taken": POOL - len(self.pool)}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore the state: the next batch is the one that followed when `state` was saved."""
        self.rng.bit_generator.state = state["before"]
        self._draw_pool()
        self.pool = self.pool[state["taken"] :]

    def _draw_pool(self) -> None:
        rng, records = self.rng, self.scenes.records
        self.before = rng.bit_generator.state
        kinds = rng.choice(list(self.clips), size=POOL * self.size, p=self.chances)
        clips = [int(rng.choice(self.clips[kind])) for kind in kinds]
        drawn = [
            foreign_conversation(records[clip], rng)
            if rng.random() < FOREIGN_SHARE
            else draw_conversation(clip, records[clip], draw_views(frames_of(records[clip]), rng), self.turns, rng)
            for clip in clips
        ]
        drawn.sort(key=lambda conversation: len(self.encoder(conversation)[0]))
        order = rng.permutation(POOL)
        self.pool = [drawn[index * self.size : (index + 1) * self.size] for index in order]
