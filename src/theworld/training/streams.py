"""Rows without a length, epoch after epoch: a run on them ends by its steps."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import IterableDataset, get_worker_info

from theworld.data.schema import Example, Skipped
from theworld.data.sources.hf_dataset import StreamedRows

SHUFFLE_BUFFER = 1000


class EndlessRows(IterableDataset["Example | Skipped"]):
    """This process's share of a stream, in another order every epoch, without an end.

    A stream that ended would end at another step in every process, and those that go on would wait for it for ever.

    Args:
        rows: The whole stream.
        seed: Of the order.
        rank: This process's number.
        world_size: Number of processes.

    Raises:
        ValueError: While iterating; there is no row.
    """

    def __init__(self, rows: StreamedRows, seed: int, rank: int = 0, world_size: int = 1) -> None:
        shuffled = rows.shuffle(seed, SHUFFLE_BUFFER)
        self.rows = shuffled.split_by_process(rank, world_size) if world_size > 1 else shuffled

    def __iter__(self) -> Iterator[Example | Skipped]:
        epoch = 0
        while True:
            self.rows.set_epoch(epoch)
            count = 0
            for row in self.rows:
                count += 1
                yield row
            if not count and get_worker_info() is not None:
                return  # fewer shards than workers
            if not count:
                raise ValueError("the stream has no rows for this process")
            epoch += 1


__all__ = ["EndlessRows"]
