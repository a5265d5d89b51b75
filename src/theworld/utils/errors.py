"""Errors that a user can correct, and error messages on one line, without secrets."""

import errno
import os
import re
import traceback

PACKAGE = "theworld"
HUB_TOKEN = "HF_TOKEN"
SHOWN = 200  # characters of a value in an error line
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")
_secrets: set[str] = set()

# Errors that a wrong path or a missing permission causes
OF_PATH = (errno.EACCES, errno.EISDIR, errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.EROFS)
PATH_ADVICE = "; check the path and its permissions"

FROM_OUTSIDE = (OSError, ImportError, MemoryError, UnicodeError)
FROM_OUTSIDE_BY_NAME = ("OutOfMemoryError", "SafetensorError", "StrictDataclassError")
"""Classes of torch, safetensors and huggingface_hub by name, because importing them is slow."""


class TheWorldError(ValueError):
    """Base class of every error that a user can correct: one line with the value, what was expected and what to do."""


class FileError(TheWorldError, OSError):
    """A file or an address that cannot be read or written."""


class MissingFileError(FileError, FileNotFoundError):
    """A file or folder that does not exist."""


class ExistingFileError(FileError, FileExistsError):
    """A file or folder that exists already and would be replaced."""


class ArgumentError(TheWorldError, TypeError):
    """An argument that a function does not take."""


class MissingPackageError(TheWorldError, ImportError):
    """A package that an extra of TheWorld installs."""


def is_users(error: BaseException) -> bool:
    """Whether a user can correct `error`; anything else is a bug.

    A user can correct a `TheWorldError`, errors of files, network, memory and packages, and a `ValueError` or
    `KeyError` that a library raises. A `ValueError` or `KeyError` that this package raises is a bug.
    """
    if isinstance(error, (TheWorldError, *FROM_OUTSIDE)):
        return True
    if not isinstance(error, (ValueError, KeyError)) or error.__traceback__ is None:
        return any(base.__name__ in FROM_OUTSIDE_BY_NAME for base in type(error).__mro__)
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    return innermost.f_globals.get("__name__", "").partition(".")[0] != PACKAGE


def one_line(error: BaseException) -> str:
    """The message of `error` on one line, without tokens.

    The quotes that a `KeyError` puts around its message are left out, and so is the error number of the system.
    """
    message: object = error.args[0] if isinstance(error, KeyError) and error.args else error
    if isinstance(error, OSError) and error.strerror:
        paths = " -> ".join(str(path) for path in (error.filename, error.filename2) if path is not None)
        advice = PATH_ADVICE if paths and error.errno in OF_PATH else ""
        message = f"{paths}: {error.strerror}{advice}".removeprefix(": ")
    return without_tokens(" ".join(str(message).split()))


def keep_secret(token: str) -> None:
    """From now on, remove `token` from every error line and log line of this process."""
    _secrets.add(token)


def without_tokens(text: str) -> str:
    """`text` without Hub tokens: those of `keep_secret`, `HF_TOKEN`, and text in the form of a token.

    A server may echo the token in its error, and a user may write it under a wrong key.
    """
    for secret in {*_secrets, os.environ.get(HUB_TOKEN, "")}:
        text = text.replace(secret, "hf_***") if secret else text
    return _TOKEN.sub("hf_***", text)


def brief(text: str) -> str:
    """A value for an error line: without tokens, and cut at about 200 characters."""
    text = without_tokens(text)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


class CausedError(TheWorldError):
    """An error that is counted by its cause.

    Args:
        cause: One word.
        detail: One line to read.
    """

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(cause, detail)  # both, so that it can be pickled
        self.cause = cause
        self.detail = detail

    def __str__(self) -> str:
        return self.detail
