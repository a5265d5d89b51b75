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

PROGRESS_DELAY = 3.0  # seconds before a loop shows its progress bar


class _RankZero(logging.Filter):
    """Passes all messages of the first process and warnings of every process, with tokens removed."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_tokens(record.getMessage()), ()
        return record.levelno >= logging.WARNING or os.environ.get("RANK", "0") == "0"


logger.addFilter(_RankZero())


def configure_logging(level: int = logging.INFO) -> None:
    """Show the package's messages on stderr. For commands and scripts; a library does not configure logging."""
    handler = logging.StreamHandler()  # the current stderr: that of an earlier call may be closed
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(level)


@cache
def warn_once(message: str) -> None:
    """Log a warning once per process."""
    logger.warning("%s", message)


def progress(steps: Iterable[Any], description: str, *, unit: str, show: bool = True) -> Iterable[Any]:
    """`steps`, with a progress bar after `PROGRESS_DELAY` seconds.

    There is none if stderr is not a terminal or the package's warnings are off, and only the first process has one.
    """
    show = show and logger.isEnabledFor(logging.WARNING) and os.environ.get("RANK", "0") == "0"
    return tqdm(steps, description, unit=unit, delay=PROGRESS_DELAY, leave=False, disable=None if show else True)


@contextmanager
def quiet_third_party(verbose: bool = False, *, progress_bars: bool = False) -> Generator[None]:
    """Silence progress bars, advice and warnings of transformers and diffusers; errors still show.

    Wrap the loading of models in it. All settings are restored at the end, also after an exception.

    Args:
        verbose: True silences nothing.
        progress_bars: True does not silence the progress bars of loading.
    """
    if verbose:
        yield
        return
    # Imported here, so that the logger does not import torch
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
        enable_progress_bars()  # bars of downloads, which may be gigabytes; cached files show none
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, (verbosity, progress_bar) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if progress_bar:
                library.enable_progress_bar()
