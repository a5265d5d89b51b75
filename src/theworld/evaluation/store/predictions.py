"""What is asked, what came back, and the file that keeps it.

<folder>/manifest.json       what made the predictions; `identity` may not change when a run is resumed
         predictions.jsonl   a row per item, in the items' order once the arm is complete; other processes of a launch
                             add to predictions-<rank>.jsonl, which the main process merges

The `digest` of a row covers the identity and the row's evidence: what was asked and what came back. It shows accidents,
such as a damaged line or rows of another arm, and is no protection against forgery. `parsed`, `score` and `figures`
follow from the evidence and can be computed anew.
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
NO_LEARNER = "no_learner"  # cause of failure of an item that no static learner can answer


@dataclass(frozen=True)
class Item:
    """One question of a benchmark, without its answer in the prompt."""

    id: str  # unique within the task and stable between runs
    messages: tuple[Message, ...]  # the prompt; the last message is the user's
    images: tuple[Any, ...]  # in the order of their markers: whatever `theworld.data.images.open_image` opens
    answer: str  # the right answer, as the benchmark writes it
    choices: tuple[str, ...] = ()  # what the assistant may say; empty for an open question
    family: str = "all"  # subtask, relation or question family that accuracy is also reported for
    cluster: str = ""  # what items share that are not independent, as a rule the image's name
    metadata: dict[str, Any] = field(default_factory=dict)  # what scoring needs in addition: units, regions, orders
    clip: tuple[Any, ...] = ()  # frames of the video that the image is from, where what happens next is known
    frame: int = 0  # index in `clip` of the frame that is asked about

    @classmethod
    def from_example(cls, example: Example, **fields: Any) -> Self:
        """An example whose last message is the answer; `fields` are more fields of the item."""
        *prompt, answer = example.messages
        known: dict[str, Any] = {"metadata": dict(example.metadata), "choices": example.choices, **fields}
        return cls(example.id, tuple(prompt), example.images, answer.content, **known)


@dataclass(frozen=True)
class Prediction:
    """What came back for one item; `id`, `answer`, `family` and `cluster` are the item's."""

    id: str
    prompt: str  # as the model got it, with special tokens; runs of placeholders are written once, with their count
    answer: str
    output: str  # what the model said, or the choice with the highest log-probability; empty for a failed item
    family: str = "all"
    cluster: str = ""
    parsed: str | None = None  # the answer that the rules read from `output`; `None` if none. Never a guess
    score: float = 0.0  # 1.0 for a right answer, 0.0 for a wrong, unparsed or failed one
    figures: dict[str, float] = field(default_factory=dict)  # more measures by name, such as `relative_error`
    choice_logprobs: dict[str, float] | None = None  # of every choice, when they were compared
    world_tokens: int = 0  # that the model consumed for this item
    failed: str | None = None  # why the item could not be asked; `None` if it was

    @classmethod
    def of(cls, item: Item, *, prompt: str = "", output: str = "", **fields: Any) -> Self:
        """What came back for `item`."""
        return cls(item.id, prompt, item.answer, output, item.family, item.cluster, **fields)


class PredictionFile:
    """The predictions of one arm on one task; open it again to resume. `done` holds those that are there, by item id.

    `identity` is all that decides the predictions (task, arm, scorer, model, items, settings), `manifest` more to note,
    both ready for JSON. The process of each `rank` adds its rows to a file of its own. A ValueError says what differs
    from the identity of predictions that are there, or that a row does not fit its digest.
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
                raise TheWorldError(
                    f"{self.folder}: holds predictions made with other {', '.join(differ)}: choose another folder"
                )
        elif not rank:
            write_json(self.folder / MANIFEST, {"format": FORMAT, "identity": self.identity, **(manifest or {})})
        self.done = {
            row.id: row for path in sorted(self.folder.glob("predictions*.jsonl")) for row in _read(path, self.identity)
        }

    def append(self, predictions: Iterable[Prediction]) -> None:
        """Add the rows of items that are not there yet and flush them to disk."""
        new = {row.id: row for row in predictions if row.id not in self.done}
        append_jsonl(self.path, [_with_digest(row, self.identity) for row in new.values()])
        self.done |= new

    def merge(self, ids: Sequence[str]) -> None:
        """Put the rows of all processes into one file, in the order of `ids`; a ValueError if some are not there."""
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
    """The manifest and the predictions in `folder`; an error if there are none, or a row does not fit its digest."""
    manifest, path = read_manifest(Path(folder)), Path(folder) / PREDICTIONS
    return manifest, _read(path, manifest["identity"]) if path.is_file() else []


def rewrite_scores(folder: str | Path, predictions: Sequence[Prediction]) -> None:
    """Write `predictions` in place of those in `folder`: a ValueError unless they have the same evidence."""
    manifest, before = read_predictions(folder)
    rows, there = ([_with_digest(row, manifest["identity"]) for row in some] for some in (predictions, before))
    if [row["digest"] for row in rows] != [row["digest"] for row in there]:
        raise TheWorldError(f"{folder}: the predictions to write are not those that are there")
    lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_bytes(Path(folder) / PREDICTIONS, lines.encode("utf-8", "backslashreplace"))  # as `append_jsonl` writes


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `manifest.json` says; an error if there is none, or it is no manifest or one of version 0.1."""
    path = folder / MANIFEST
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; `theworld evaluate` writes it")
    manifest = read_object(path, "identity", cure="evaluate again")
    if manifest.get("format") != FORMAT:
        raise TheWorldError(f"{path}: predictions of version 0.1: evaluate again into another folder")
    return manifest


def items_digest(items: Sequence[Item]) -> str:
    """What identifies a set of items: their ids, prompts and answers in order, not the bytes of the images."""
    return digest_of([[i.id, [message.content for message in i.messages], i.answer, i.choices] for i in items])


def digest_of(value: Any) -> str:
    """16 characters that identify a value of JSON; other objects in it count by their text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def images_digest(items: Iterable[Item], image_folder: Path | None) -> str:
    """What identifies the images of items: the bytes of files and values, or the name of one that is missing.

    Raises:
        FileNotFoundError: All images are files, and none of them is there.
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
        raise MissingFileError(
            f"{missing[0]}: no such file, nor are the other {found - 1} images there; name their folder with "
            "--image_folder"
        )
    return digest.hexdigest()[:16]


def _with_digest(prediction: Prediction, identity: dict[str, Any]) -> dict[str, Any]:
    row = asdict(prediction)
    return {**row, "digest": digest_of([identity, [value for key, value in row.items() if key not in DERIVED]])}


def _read(path: Path, identity: dict[str, Any]) -> list[Prediction]:
    predictions: list[Prediction] = []
    for number, row in enumerate(read_jsonl(path), start=1):
        digest = row.pop("digest", None)
        try:
            prediction: Any = Prediction(**row)  # of whatever types the file has
            derived = (prediction.score, *prediction.figures.values())  # by scoring: no digest covers it
            finite = all(isinstance(value, int | float) and math.isfinite(value) for value in derived)
            if not finite or not isinstance(prediction.parsed, str | None):
                raise TypeError(f"parsed, score and figures are {prediction.parsed!r} and {derived}"[:200])
            fits = _with_digest(prediction, identity)["digest"] == digest
        except (TypeError, AttributeError) as error:
            raise TheWorldError(f"{path}, line {number}: no prediction ({error}): evaluate again") from error
        if not fits:
            raise TheWorldError(
                f"{path}, line {number}: item {prediction.id!r} does not fit its digest: the row was changed or is one "
                "of another arm; evaluate again into an empty folder"
            )
        predictions.append(prediction)
    return predictions
