"""Items, predictions, and the files of predictions.

<folder>/manifest.json       how the predictions were made; `identity` must not change when a run is resumed
         predictions.jsonl   a row per item, in the items' order once the arm is complete; other processes of a launch
                             write predictions-<rank>.jsonl, which the main process merges

The `digest` of a row covers the identity, the prompt and the output. It detects accidents, such as a damaged line or
rows of another arm, but does not protect against forgery. `parsed`, `score` and `figures` are derived from the output,
not covered by the digest, and can be recomputed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from theworld.data.schema import Example, Message
from theworld.utils.errors import MissingFileError, TheWorldError
from theworld.utils.folders import read_object
from theworld.utils.io import append_jsonl, read_jsonl, write_bytes, write_json

MANIFEST, PREDICTIONS, FORMAT = "manifest.json", "predictions.jsonl", 2
DERIVED = ("parsed", "score", "figures")
NO_LEARNER = "no_learner"  # failure cause of items that no static learner can answer


@dataclass(frozen=True)
class Item:
    """One question of a benchmark. The prompt does not contain the answer."""

    id: str  # unique within the task and stable between runs
    messages: tuple[Message, ...]  # the prompt; the last message is the user's
    images: tuple[Any, ...]  # in the order of their markers; any form that `theworld.data.images.open_image` opens
    answer: str  # the right answer, as written in the benchmark
    choices: tuple[str, ...] = ()  # allowed answers; empty for an open question
    family: str = "all"  # sub-task, relation or question family, for which accuracy is also reported
    cluster: str = ""  # name shared by dependent items, usually the image's name
    metadata: dict[str, Any] = field(default_factory=dict)  # further data for scoring: units, regions, orders
    clip: tuple[Any, ...] = ()  # frames of the image's video, if the true future is known
    frame: int = 0  # index in `clip` of the frame that the question is about

    @classmethod
    def from_example(cls, example: Example, **fields: Any) -> Self:
        """Make an item from an example whose last message is the answer. `fields` are further fields of the item."""
        *prompt, answer = example.messages
        known: dict[str, Any] = {"metadata": dict(example.metadata), "choices": example.choices, **fields}
        return cls(example.id, tuple(prompt), example.images, answer.content, **known)


@dataclass(frozen=True)
class Prediction:
    """The output for one item. `id`, `answer`, `family` and `cluster` are copied from the item."""

    id: str
    prompt: str  # with special tokens, as given to the model; a repeated placeholder is written once, with its count
    answer: str
    output: str  # the generated text, or the choice with the highest log-probability; empty for a failed item
    family: str = "all"
    cluster: str = ""
    parsed: str | None = None  # the answer that the rules parsed from `output`; `None` if there is none
    score: float = 0.0  # 1.0 for a right answer, 0.0 for a wrong, unparsed or failed one
    figures: dict[str, float] = field(default_factory=dict)  # further measures by name, such as `relative_error`
    choice_logprobs: dict[str, float] | None = None  # by choice, if choices were compared
    world_tokens: int = 0  # number of world tokens that the model consumed
    failed: str | None = None  # why the item could not be asked; `None` if it was asked

    @classmethod
    def of(cls, item: Item, *, prompt: str = "", output: str = "", **fields: Any) -> Self:
        """Make the prediction of `item`."""
        return cls(item.id, prompt, item.answer, output, item.family, item.cluster, **fields)


class PredictionFile:
    """The stored predictions of one arm on one task. Opening an existing folder resumes it.

    `done` holds the stored predictions by item id.

    Args:
        folder: Folder of the arm.
        identity: Everything that determines the predictions (task, arm, model, items, settings), as JSON values.
        manifest: Further information for manifest.json, as JSON values.
        rank: Rank of the process; each appends to its own file.

    Raises:
        ValueError: Stored predictions have another identity, or a row does not match its digest.
    """

    def __init__(
        self, folder: str | Path, identity: dict[str, Any], manifest: dict[str, Any] | None = None, rank: int = 0
    ) -> None:
        self.folder = Path(folder)
        self.identity: dict[str, Any] = json.loads(json.dumps(identity, sort_keys=True))
        self.path = self.folder / (f"predictions-{rank}.jsonl" if rank else PREDICTIONS)
        if (self.folder / MANIFEST).is_file():
            there = read_manifest(self.folder)["identity"]
            differ = sorted(key for key in {**there, **self.identity} if there.get(key) != self.identity.get(key))
            if differ:
                made = f"holds predictions made with other {', '.join(differ)}"
                raise TheWorldError(f"{self.folder}: {made}: choose another output folder")
        elif not rank:
            write_json(self.folder / MANIFEST, {"format": FORMAT, "identity": self.identity, **(manifest or {})})
        self.done = {
            row.id: row for path in sorted(self.folder.glob("predictions*.jsonl")) for row in _read(path, self.identity)
        }

    def append(self, predictions: Iterable[Prediction]) -> None:
        """Append the rows of items that are not stored yet and flush them to disk."""
        new = {row.id: row for row in predictions if row.id not in self.done}
        append_jsonl(self.path, [_with_digest(row, self.identity) for row in new.values()])
        self.done |= new

    def merge(self, ids: Sequence[str]) -> None:
        """Merge the rows of all processes into one file, in the order of `ids`. A missing row is a ValueError."""
        found = [
            line
            for path in sorted(self.folder.glob("predictions*.jsonl"))
            for line in path.read_bytes().splitlines(keepends=True)
        ]
        lines = {json.loads(line)["id"]: line for line in found if line.endswith(b"\n")}
        if missing := [id for id in ids if id not in lines]:
            raise TheWorldError(
                f"{self.folder}: {len(missing)} of {len(ids)} items are missing, such as {missing[0]!r}; run the same "
                "command again to finish"
            )
        ordered = [lines[id] for id in ids]
        if found != ordered:
            write_bytes(self.folder / PREDICTIONS, b"".join(ordered))
        for path in self.folder.glob("predictions-*.jsonl"):
            path.unlink()


def read_predictions(folder: str | Path) -> tuple[dict[str, Any], list[Prediction]]:
    """The manifest and the predictions in `folder`. A row that does not fit its digest is a ValueError."""
    manifest, path = read_manifest(Path(folder)), Path(folder) / PREDICTIONS
    return manifest, _read(path, manifest["identity"]) if path.is_file() else []


def rewrite_scores(folder: str | Path, predictions: Sequence[Prediction]) -> None:
    """Replace the predictions in `folder`. Raises a ValueError if anything but derived fields differs."""
    manifest, before = read_predictions(folder)
    rows, there = ([_with_digest(row, manifest["identity"]) for row in some] for some in (predictions, before))
    if [row["digest"] for row in rows] != [row["digest"] for row in there]:
        raise TheWorldError(f"{folder}: the predictions to write differ from the stored ones")
    lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_bytes(Path(folder) / PREDICTIONS, lines.encode("utf-8", "backslashreplace"))  # as `append_jsonl` writes


def read_manifest(folder: Path) -> dict[str, Any]:
    """The contents of manifest.json. Raises an error if it is missing, invalid or of version 0.1."""
    path = folder / MANIFEST
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; `theworld evaluate` writes it")
    manifest = read_object(path, "identity", cure="evaluate again")
    if manifest.get("format") != FORMAT:
        raise TheWorldError(f"{path}: predictions of version 0.1: evaluate again into another folder")
    return manifest


def items_digest(items: Sequence[Item]) -> str:
    """Digest of the items' ids, prompts, answers and choices in order, without the bytes of images."""
    return digest_of([[i.id, [message.content for message in i.messages], i.answer, i.choices] for i in items])


def digest_of(value: Any) -> str:
    """Digest of a JSON value, 16 hexadecimal characters. Other objects in it count by their text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def images_digest(items: Iterable[Item], image_folder: Path | None) -> str:
    """Digest of the images of items: bytes of files and values; for a missing file, its name.

    Raises:
        FileNotFoundError: All images are files, and none of them exists.
    """
    digest, missing, found = hashlib.sha256(), list[str](), 0
    for image in (image for item in items for image in item.images):
        value = (image.get("bytes") or image.get("path")) if isinstance(image, Mapping) else image
        if isinstance(value, str | Path):
            path = Path(image_folder or "") / value
            missing += [] if path.is_file() else [str(path)]
            value = path.read_bytes() if path.is_file() else str(value).encode()
        digest.update(value if isinstance(value, bytes) else np.asarray(value).tobytes())
        found += 1
    if missing and len(missing) == found:
        others = f"; the other {found - 1} images are missing too" if found > 1 else ""
        raise MissingFileError(f"{missing[0]}: no such file{others}. Name the folder of images with --image_folder")
    return digest.hexdigest()[:16]


def _with_digest(prediction: Prediction, identity: dict[str, Any]) -> dict[str, Any]:
    row = asdict(prediction)
    return {**row, "digest": digest_of([identity, [value for key, value in row.items() if key not in DERIVED]])}


def _read(path: Path, identity: dict[str, Any]) -> list[Prediction]:
    predictions: list[Prediction] = []
    for number, row in enumerate(read_jsonl(path), start=1):
        digest = row.pop("digest", None)
        try:
            prediction: Any = Prediction(**row)  # the types of its fields are not checked yet
            derived = (prediction.score, *prediction.figures.values())  # not covered by the digest
            finite = all(isinstance(value, int | float) and math.isfinite(value) for value in derived)
            if not finite or not isinstance(prediction.parsed, str | None):
                raise TypeError(f"parsed, score and figures are {prediction.parsed!r} and {derived}"[:200])
            fits = _with_digest(prediction, identity)["digest"] == digest
        except (TypeError, AttributeError) as error:
            raise TheWorldError(f"{path}, line {number}: not a prediction ({error}): evaluate again") from error
        if not fits:
            raise TheWorldError(
                f"{path}, line {number}: item {prediction.id!r} does not fit its digest: the row was changed or is one "
                "of another arm; evaluate again into an empty folder"
            )
        predictions.append(prediction)
    return predictions
