"""The package's logger, and a context manager that silences other libraries while models load."""

import logging
import os
import warnings
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from functools import cache
from typing import Any

from tqdm import tqdm

from .errors import without_tokens

logger = logging.getLogger("theworld")

PROGRESS_DELAY = 3.0  # seconds that a loop takes before its progress bar shows


class _RankZero(logging.Filter):
    """Passes all messages of the first process, and warnings of every process; none with a token in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_tokens(record.getMessage()), ()
        return record.levelno >= logging.WARNING or os.environ.get("RANK", "0") == "0"


logger.addFilter(_RankZero())


def configure_logging(level: int = logging.INFO) -> None:
    """Show the package's messages on stderr; for commands and scripts, a library leaves this to its user."""
    handler = logging.StreamHandler()  # on today's stderr: an earlier call's may be closed
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(level)


@cache
def warn_once(message: str) -> None:
    """Log a warning, the first time that this process has it."""
    logger.warning("%s", message)


def progress(steps: Iterable[Any], description: str, *, unit: str, show: bool = True) -> Iterable[Any]:
    """`steps`, with a progress bar once they have taken `PROGRESS_DELAY`.

    There is none where stderr is no terminal, where the package's warnings are off, or on another than the first
    process.
    """
    show = show and logger.isEnabledFor(logging.WARNING) and os.environ.get("RANK", "0") == "0"
    return tqdm(steps, description, unit=unit, delay=PROGRESS_DELAY, leave=False, disable=None if show else True)


@contextmanager
def quiet_third_party(verbose: bool = False, *, progress_bars: bool = False) -> Generator[None]:
    """Silence progress bars, advice and warnings of transformers and diffusers; errors still show.

    Wrap the loading of models in it. All settings are as before afterwards, also after an exception.

    Args:
        verbose: True leaves everything as it is.
        progress_bars: True leaves the progress bars of loading as they are.
    """
    if verbose:
        yield
        return
    # Imported here: a logger must not cost the import of torch.
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    try:
        for library in libraries:
            library.set_verbosity_error()
            if not progress_bars:
                library.disable_progress_bar()
        enable_progress_bars()  # of downloads: a download of gigabytes must show its progress; cached files show no bar
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, (verbosity, progress_bar) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if progress_bar:
                library.enable_progress_bar()
