"""Files of weights: reads and identifies them, and checks that a library loaded all of them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from .errors import MissingFileError, TheWorldError
from .hub import damage_named
from .logging import quiet_third_party

WRONG = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
SHOWN_KEYS = 8
SAMPLES, SAMPLE_BYTES = 1024, 4096  # samples of a large file; smaller files are read completely


def load_checked(cls: Any, name: str, *, subfolder: str, progress_bars: bool = False, **settings: Any) -> Any:
    """A model of transformers or diffusers, checked to have exactly the weights that its config describes.

    Args:
        cls: Its class.
        name: Folder or Hub id.
        subfolder: Its sub-folder in `name`.
        progress_bars: Whether loading shows its progress.
        settings: More arguments of `from_pretrained`.

    Raises:
        ValueError: Weights are missing, unexpected or misshapen; lists them. Or a file is damaged.
    """
    component = Path(subfolder).name
    with quiet_third_party(progress_bars=progress_bars), damage_named(name, component):
        model, info = cls.from_pretrained(
            name,
            subfolder=subfolder,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below with all other keys
            output_loading_info=True,
            **settings,
        )
    check_loaded(f"{name} ({component})" if component else name, info)
    return model


def shorten(keys: list[str]) -> str:
    """A list of keys for one line of an error."""
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(keys[:SHOWN_KEYS]) + more


def listed(problems: Mapping[str, list[str]]) -> str:
    """The kinds of problems with their keys, for one line of an error; empty without problems."""
    return "; ".join(f"{kind}: {shorten(keys)}" for kind, keys in problems.items() if keys)


def check_loaded(name: str, info: Mapping[str, Any]) -> None:
    """Check that a model's weights are those of its config; missing ones would be random.

    Args:
        name: Name of the repository and component.
        info: What transformers or diffusers return with `output_loading_info=True`.

    Raises:
        ValueError: Lists the keys.
    """
    wrong = listed({kind.replace("_", " "): sorted(map(_key, info.get(kind) or ())) for kind in WRONG})
    if wrong:
        raise TheWorldError(f"{name}: the weights are not those of its config: {wrong}; download it again")


def content_key(files: Iterable[str]) -> str:
    """A short identifier of the content of `files`; for large files, of header, size and evenly spaced samples."""
    digest = hashlib.sha256()
    for name in files:
        path = Path(name)
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if size <= SAMPLES * SAMPLE_BYTES:
                digest.update(file.read())
                continue
            header = int.from_bytes(file.read(8), "little")  # the length that a safetensors file begins with
            digest.update(file.read(min(header, size)))
            for number in range(SAMPLES):
                file.seek((size - SAMPLE_BYTES) * number // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def _key(found: Any) -> str:
    """A key, or for a mismatched one `(key, shape of the file, shape of the model)`."""
    if isinstance(found, str):
        return found
    key, stored, expected = found
    return f"{key} {tuple(stored)} in place of {tuple(expected)}"


def weight_files(name: str | Path, subfolder: str = "", **hub: Any) -> list[str]:
    """The weight files of a checkpoint, whole or sharded, local or on the Hub.

    Raises:
        FileNotFoundError: There are no safetensors weights.
    """
    files = find_weight_files(name, subfolder, **hub)
    if not files:
        names = f"no {SAFE_WEIGHTS_NAME} and no {SAFE_WEIGHTS_INDEX_NAME}"
        raise MissingFileError(f"{name}: {names}; only safetensors checkpoints are read")
    return files


def find_weight_files(name: str | Path, subfolder: str = "", *, offline: bool = False, **hub: Any) -> list[str]:
    """As `weight_files`, but empty if there are none; with `offline`, also if the Hub cannot be reached."""
    where: dict[str, Any] = {"subfolder": subfolder, **hub}
    weights = find_file(name, SAFE_WEIGHTS_NAME, offline=offline, **where)
    if weights is not None:
        return [weights]
    index = find_file(name, SAFE_WEIGHTS_INDEX_NAME, offline=offline, **where)
    return [] if index is None else cast(list[str], get_checkpoint_shard_files(name, index, **where)[0])


def find_file(name: str | Path, file: str, *, offline: bool = False, **hub: Any) -> str | None:
    """Path of one file of a folder or repository; `None` if missing, or with `offline` unreachable."""
    if offline:
        hub["_raise_exceptions_for_connection_errors"] = False
    return cached_file(name, file, _raise_exceptions_for_missing_entries=False, **hub)


def shapes_of(files: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The shapes in the headers of safetensors files.

    Raises:
        ValueError: A file is damaged.
    """
    return _read(files, lambda file, key: tuple(file.get_slice(key).get_shape()))


def read_weights(files: Iterable[str]) -> dict[str, torch.Tensor]:
    """The tensors of safetensors files.

    Raises:
        ValueError: A file is damaged.
    """
    return _read(files, lambda file, key: file.get_tensor(key))


def count_parameters(files: Iterable[str]) -> int:
    """Parameters in safetensors files, from their headers."""
    return sum(math.prod(shape) for shape in shapes_of(files).values())


def _read(files: Iterable[str], entry: Callable[[Any, str], Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                found |= {key: entry(file, key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        except SafetensorError as error:
            raise TheWorldError(f"{path}: damaged safetensors file ({error}); copy or download it again") from error
    return found


def state_to_bytes(state: dict[str, Any], **more: Any) -> tuple[bytes, bytes]:
    """An optimiser's `state_dict` as the bytes of a safetensors and of a JSON file; `more` goes into the latter."""
    tensors, scalars = {}, {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            place = tensors if isinstance(value, torch.Tensor) else scalars
            place[f"{index}.{key}"] = value
    described = {**more, "param_groups": state["param_groups"], "scalars": scalars}
    return save(tensors), json.dumps(described, indent=2).encode()


def state_from_files(tensors: Path, described: dict[str, Any]) -> dict[str, Any]:
    """The `state_dict` that `state_to_bytes` wrote."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**read_weights([str(tensors)]), **described["scalars"]}.items():
        index, name = key.split(".", maxsplit=1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": described["param_groups"]}
