"""Files of weights: what identifies them, and whether a library loaded all that is in them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

WRONG = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
SHOWN_KEYS = 8
SAMPLES, SAMPLE_BYTES = 1024, 4096  # of a large file; a smaller one is read whole


def check_loaded(name: str, info: Mapping[str, Any]) -> None:
    """Refuse a model whose weights are not those of its config: what is missing would be random.

    Args:
        name: Of the repository and component.
        info: What transformers or diffusers return with `output_loading_info=True`.

    Raises:
        ValueError: Lists the keys.
    """
    wrong = {kind: sorted(map(_key, info.get(kind) or ())) for kind in WRONG}
    listed = [
        f"{kind.replace('_', ' ')}: {', '.join(keys[:SHOWN_KEYS])}"
        + (f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else "")
        for kind, keys in wrong.items()
        if keys
    ]
    if listed:
        raise ValueError(f"{name}: the weights are not those of its config: {'; '.join(listed)}; download it again")


def content_key(files: Iterable[str]) -> str:
    """A short identifier of what `files` hold: of large ones the header, the size and evenly spaced samples."""
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


def count_parameters(files: Iterable[str]) -> int:
    """Parameters in safetensors files, from their headers."""
    total = 0
    for path in files:
        with safe_open(path, framework="pt") as file:
            total += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118 no mapping
    return total


def _key(found: Any) -> str:
    """A key, or for a mismatched one `(key, shape of the file, shape of the model)`."""
    if isinstance(found, str):
        return found
    key, stored, expected = found
    return f"{key} {tuple(stored)} in place of {tuple(expected)}"
