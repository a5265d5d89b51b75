"""Locates models in the package, a folder or the Hub, and names them in errors of the libraries that load them."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import is_offline_mode
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError, LocalEntryNotFoundError

from theworld.constants import NANO

from .errors import FileError, MissingFileError, TheWorldError, one_line
from .io import write_json
from .logging import logger
from .settings import nearest

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
NANO_WEIGHTS = Path(__file__).parents[1] / "nano" / "weights"


@dataclass(frozen=True)
class Source:
    """A folder, a Hub repository, or a subfolder of one.

    Args:
        name: Folder or Hub id.
        subfolder: Sub-folder of the model.
        revision: Commit, tag or branch on the Hub.
        hub: Arguments of the Hub client: `token`, `cache_dir`, `local_files_only`, ...
    """

    name: str
    subfolder: str = ""
    revision: str | None = None
    hub: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> dict[str, Any]:
        """Arguments of `from_pretrained` besides `name`."""
        return {"subfolder": self.subfolder, "revision": self.revision or "main", **self.hub}

    def relative(self, name: str, subfolder: str, revision: str | None) -> Source:
        """A base model that this checkpoint names; `./x` and `../x` are relative to the checkpoint."""
        if not name.startswith("."):
            return replace(self, name=resolve(name), subfolder=subfolder, revision=revision)
        if Path(self.name).is_dir():
            return Source(resolve((Path(self.name) / self.subfolder / name).resolve()), hub=self.hub)
        return replace(self, subfolder=posixpath.normpath(posixpath.join(self.subfolder, name)))

    def folder(self, component: str) -> str:
        """Subfolder of a component of this model."""
        return f"{self.subfolder}/{component}" if self.subfolder else component

    def place(self, component: str) -> dict[str, Any]:
        """Arguments of `from_pretrained` and `load_config` besides `name` for a component of this model."""
        return {"subfolder": self.folder(component), "revision": self.revision}

    def pinned(self, file: str) -> Source:
        """This source at its current commit on the Hub, for checkpoints to record; a folder is returned unchanged.

        Args:
            file: Any small file that the model must have. It is fetched, which also checks the access.

        Raises:
            OSError: The repository does not exist, is gated, or lacks the file.
        """
        if Path(self.name).is_dir():
            folder = Path(self.name, self.subfolder)
            if not (folder / file).is_file():
                runs = sorted({path.parents[1] for path in folder.glob(f"*/checkpoint-*/{file}")})
                hint = f"; did you mean the run {runs[0]}?" if runs else ""
                raise MissingFileError(f"{folder}: no {file} there{hint}")
            return self
        from transformers.utils import cached_file
        from transformers.utils.hub import extract_commit_hash

        try:
            path = cached_file(self.name, file, **self.where)
        except OSError as error:
            cause = error.__cause__ or error.__context__
            if isinstance(cause, LocalEntryNotFoundError):
                hub = "the Hub cannot be reached or gave an error; check the name and the connection"
                if self.hub.get("local_files_only") or is_offline_mode():
                    hub = "offline mode is on; check the name, or unset HF_HUB_OFFLINE or local_files_only"
                raise FileError(f"{self.name}: no such folder, not among the downloaded models, and {hub}") from error
            if not isinstance(cause, GatedRepoError):
                raise
            raise FileError(
                f"{self.name}: you have no access to this gated repository; accept its terms on "
                f"https://huggingface.co/{self.name}, then log in with `hf auth login` or pass token=..."
            ) from error
        if path is None:  # transformers' result for a file that an existing repository lacks
            raise MissingFileError(f"{self.name}: no {'/'.join(filter(None, (self.subfolder, file)))} there")
        return replace(self, revision=extract_commit_hash(path, None) or self.revision)


def resolve(name: Any) -> str:
    """The folder or Hub id of a model; `nano` and `nano/...` are folders inside the package.

    Raises:
        ValueError: It is neither text nor a path.
        FileNotFoundError: It is neither a folder nor a Hub id.
    """
    text = str(name)
    if not isinstance(name, str | Path) or not text:
        raise TheWorldError(f"{name!r}: expected the folder or Hub id of a model")
    if text == NANO:
        return str(NANO_WEIGHTS / "theworld")
    if text.startswith(f"{NANO}/"):
        text = str(NANO_WEIGHTS / text.removeprefix(f"{NANO}/"))
    if (text.startswith(("/", ".")) or text.count("/") != 1) and not Path(text).is_dir():
        raise MissingFileError(f"{text}: no such folder, and not a Hub id, which has the form owner/name")
    warn_of_hub(text)
    return text


def warn_of_hub(name: str) -> None:
    """Warn that `name` is looked up on the Hub (slow without network) if it looks like a mistyped path."""
    path = Path(name)
    if path.exists() or not path.parent.is_dir() or path.parent == Path():
        return
    hint = nearest(name, (str(other) for other in path.parent.iterdir()))
    logger.warning("%s", f"{name}: no such file or folder here, looking on the Hub; {hint}".removesuffix("; "))


def portable(name: str | Path) -> str:
    """The name of a model for a checkpoint's config: `nano/...` in the package, an absolute path, or the Hub id."""
    folder, package = Path(name).resolve(), NANO_WEIGHTS.resolve()
    if folder == package / "theworld":
        return NANO
    if package in folder.parents:
        return f"{NANO}/{folder.relative_to(package).as_posix()}"
    return str(folder) if folder.is_dir() else str(name)


def is_local(name: str) -> bool:
    """Whether `name` is a local folder or file, or a model in the package."""
    return name == NANO or name.startswith((f"{NANO}/", "/", ".", "~")) or Path(name).exists()


def shown(name: str) -> str:
    """`name` without its parent folders if it is local."""
    return Path(name).name if is_local(name) and not name.startswith(NANO) else name


def forget_origin(folder: Path) -> None:
    """Remove the local path that diffusers records in the config of each component in `folder`."""
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        write_json(path, config)


@contextmanager
def broken_downloads_named(name: object) -> Generator[None]:
    """Add the repository's name to errors of an interrupted download, which the Hub client does not do.

    Raises:
        OSError: A download of `name` was interrupted.
    """
    try:
        yield
    except HfHubHTTPError:  # its message has the name
        raise
    except HTTPError as error:
        raise FileError(f"{name}: download interrupted ({error}); run the same command again to resume") from error


@contextmanager
def damage_named(name: object, component: str = "") -> Generator[None]:
    """Add a model's name to errors of the libraries that load it, which raise any type for damaged files, without it.

    Args:
        name: Its folder or repository.
        component: The component that is loaded.

    Raises:
        ValueError: A file cannot be loaded.
        OSError: A file cannot be read.
    """
    shown = f"{name} ({component})" if component else name
    try:
        yield
    except (TheWorldError, ImportError, MemoryError, HTTPError):
        raise
    except OSError as error:
        if str(name) in str(error):
            raise
        raise FileError(f"{shown}: {one_line(error)}") from error
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        found = f"{type(error).__name__}: {one_line(error)[:500]}"
        raise TheWorldError(
            f"{shown}: cannot be loaded ({found}); if its files are damaged, download it again"
        ) from error
