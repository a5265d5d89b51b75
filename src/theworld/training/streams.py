"""Endless iteration over streamed rows, and errors of the processes that load rows."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import count

from torch.utils.data import IterableDataset, get_worker_info

from theworld.data.schema import Example, Skipped
from theworld.data.sources.hf_dataset import StreamedRows
from theworld.utils.errors import FileError, TheWorldError, one_line

SHUFFLE_BUFFER = 1000


@contextmanager
def dead_workers_named() -> Generator[None]:
    """Raise an OSError of one line if a process that loads data died, in place of torch's RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise FileError(
            f"a process that loads data died ({one_line(error)}), most often for lack of memory; lower num_workers or "
            "prefetch_factor, and run the same command again to resume"
        ) from error


class EndlessRows(IterableDataset["Example | Skipped"]):
    """This process's share of a stream, repeated without end in a new order per epoch; a ValueError if it has no row.

    A finite stream would end at different steps in the processes, and some would wait forever.
    """

    def __init__(self, rows: StreamedRows, seed: int, rank: int = 0, world_size: int = 1) -> None:
        shuffled = rows.shuffle(seed, SHUFFLE_BUFFER)
        self.rows = shuffled.split_by_process(rank, world_size) if world_size > 1 else shuffled

    def __iter__(self) -> Iterator[Example | Skipped]:
        for epoch in count():
            self.rows.set_epoch(epoch)
            row = None
            for row in self.rows:
                yield row
            if row is None and get_worker_info() is not None:
                return  # fewer shards than workers
            if row is None:
                raise TheWorldError("the stream has no rows for this process")
