"""Random batches of training conversations, which can be continued."""

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
    """Endless batches of `size` conversations of similar length: drawn `POOL` batches at a time, sorted, shuffled.

    Its state is that of `rng` before the present pool, and how many batches of the pool were taken.

    Args:
        shares: Of the kinds of scenes. Those without scenes are left out; a kind that is not named has the mean share.
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
        """Where it is; not before the first batch."""
        return {"before": self.before, "taken": POOL - len(self.pool)}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Give the batches that followed when `state` was taken."""
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
