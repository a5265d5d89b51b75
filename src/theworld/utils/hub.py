"""What the Hub's client raises, in the words of this package."""

from collections.abc import Generator
from contextlib import contextmanager

from huggingface_hub.errors import HfHubHTTPError, HTTPError


@contextmanager
def broken_downloads_named(name: object) -> Generator[None]:
    """Say of which repository a download broke off: the client lets what its transport raises through as it is.

    Raises:
        OSError: A download of `name` broke off. What came is kept, and taken up where it stopped.
    """
    try:
        yield
    except HfHubHTTPError:  # has said so
        raise
    except HTTPError as error:
        raise OSError(
            f"{name}: the download broke off ({error}); do the same again, it goes on where it stopped"
        ) from error
