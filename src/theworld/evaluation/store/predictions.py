"""What is asked, what came back, and a file of it that shows when it was changed by hand.

<folder>/manifest.json        what made the predictions; `identity` is what may not change when a run goes on
         predictions.jsonl    a row per item, in the items' order, each sealed by a chain of hashes

A row's seal is the hash of the seal before it and of the row's evidence: what was asked and what came back. The first
one is the hash of the identity. So a row that was moved, changed, dropped from the middle, or copied from another arm
does not fit its seal. `parsed`, `score` and `figures` follow from the evidence, and may be written anew.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from theworld.data.schema import Example, Message
from theworld.utils.errors import MissingFileError, TheWorldError
from theworld.utils.io import append_jsonl, read_jsonl, write_json, write_text

MANIFEST, PREDICTIONS = "manifest.json", "predictions.jsonl"
EVIDENCE = (
    *("id", "prompt", "answer", "family", "cluster"),
    *("output", "choice_logprobs", "world_tokens", "failed"),
)


@dataclass(frozen=True)
class Item:
    """One question of a benchmark, without its answer in the prompt.

    Args:
        id: Unique within the task and stable between runs.
        messages: The prompt; the last message is the user's.
        images: Its pictures, in the order of their markers: whatever `theworld.data.images.open_image` opens.
        answer: The right answer, as the benchmark writes it.
        choices: What the assistant may say, when the question is closed; empty for an open one.
        family: Subtask, relation or question family that accuracy is also reported for.
        cluster: What items share that are not independent, as a rule the picture's name.
        metadata: What scoring needs beside: units, regions, orders.
        clip: Frames of the video that the image is one of, where there is one.
        frame: Index of the image in `clip`.
    """

    id: str
    messages: tuple[Message, ...]
    images: tuple[Any, ...]
    answer: str
    choices: tuple[str, ...] = ()
    family: str = "all"
    cluster: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    clip: tuple[Any, ...] = ()
    frame: int = 0

    @classmethod
    def from_example(cls, example: Example, **fields: Any) -> Self:
        """An example whose last message is the answer; `fields` are those of the item beside it."""
        *prompt, answer = example.messages
        known: dict[str, Any] = {"metadata": dict(example.metadata), "choices": example.choices, **fields}
        return cls(example.id, tuple(prompt), example.images, answer.content, **known)


@dataclass(frozen=True)
class Prediction:
    """What came back for one item.

    Args:
        id: The item's.
        prompt: As the model got it, special tokens included; runs of placeholders are written once, with their count.
        answer: The right answer.
        output: What the model said, or the choice with the highest log-probability; empty for a failed item.
        family: The item's.
        cluster: The item's.
        parsed: The answer that the rules read from `output`; `None` if they read none. Never a guess.
        score: 1.0 for a right answer, 0.0 for a wrong, unparsed or failed one.
        figures: More measures of this answer by name, such as `relative_error`.
        choice_logprobs: Log-probability of every choice, when they were compared.
        world_tokens: World tokens that the model consumed for this item.
        failed: Why the item could not be asked; `None` if it was.
    """

    id: str
    prompt: str
    answer: str
    output: str
    family: str = "all"
    cluster: str = ""
    parsed: str | None = None
    score: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    choice_logprobs: dict[str, float] | None = None
    world_tokens: int = 0
    failed: str | None = None


class PredictionFile:
    """The predictions of one arm on one task, as far as they have come; open it again to go on.

    Args:
        folder: Where they lie.
        identity: All that decides the predictions: task, arm, scorer, model, items, settings; ready for JSON.
        manifest: More to note beside, such as versions and machine.

    Raises:
        ValueError: The folder holds predictions of another identity (names what differs), or a row does not fit its
            seal.
    """

    def __init__(self, folder: str | Path, identity: dict[str, Any], manifest: dict[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        self.identity: dict[str, Any] = json.loads(json.dumps(identity, sort_keys=True))
        self.done: list[Prediction] = []
        self._seal = first_seal(self.identity)
        if (self.folder / MANIFEST).is_file():
            there = read_manifest(self.folder)["identity"]
            differ = sorted(key for key in {**there, **self.identity} if there.get(key) != self.identity.get(key))
            if differ:
                raise TheWorldError(
                    f"{self.folder}: holds predictions made with other {', '.join(differ)}: choose another folder"
                )
            self.done, self._seal = _read(self.folder, self.identity)
        else:
            write_json(self.folder / MANIFEST, {"identity": self.identity, **(manifest or {})})

    def append(self, predictions: Iterable[Prediction]) -> None:
        """Add rows and flush them to disk; a killed run loses what was not added yet."""
        rows: list[dict[str, Any]] = []
        for prediction in predictions:
            row = asdict(prediction)
            self._seal = next_seal(self._seal, row)
            rows.append({**row, "seal": self._seal})
            self.done.append(prediction)
        append_jsonl(self.folder / PREDICTIONS, rows)


def read_predictions(folder: str | Path) -> tuple[dict[str, Any], list[Prediction]]:
    """The manifest and the predictions in `folder`.

    Raises:
        FileNotFoundError: There are none.
        ValueError: A row does not fit its seal: it was moved, changed, dropped, or comes from elsewhere.
    """
    manifest = read_manifest(Path(folder))
    return manifest, _read(Path(folder), manifest["identity"])[0]


def rewrite_scores(folder: str | Path, predictions: Sequence[Prediction]) -> None:
    """Write `predictions` in place of those in `folder`: the same evidence, scored anew.

    Raises:
        ValueError: The evidence is not the same.
    """
    manifest, before = read_predictions(folder)
    seal = first_seal(manifest["identity"])
    lines: list[str] = []
    for prediction in predictions:
        row = asdict(prediction)
        seal = next_seal(seal, row)
        lines.append(json.dumps({**row, "seal": seal}, ensure_ascii=False, allow_nan=False) + "\n")
    unscored = [[replace(p, parsed=None, score=0.0, figures={}) for p in rows] for rows in (before, predictions)]
    if unscored[0] != unscored[1]:
        raise TheWorldError(f"{folder}: the predictions to write are not those that are there")
    write_text(Path(folder) / PREDICTIONS, "".join(lines))


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `manifest.json` says.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is no manifest.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; `theworld evaluate` writes it")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TheWorldError(f"{path}: not JSON ({error})") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("identity"), dict):
        raise TheWorldError(f"{path}: no manifest of an evaluation: evaluate again")
    return manifest


def items_digest(items: Iterable[Item]) -> str:
    """What identifies a set of items: their ids, prompts and answers in order, not the pictures' bytes."""
    digest = hashlib.sha256()
    for item in items:
        texts = [message.content for message in item.messages]
        digest.update(json.dumps([item.id, texts, item.answer, item.choices]).encode())
    return digest.hexdigest()[:16]


def first_seal(identity: dict[str, Any]) -> str:
    """The seal before the first row."""
    return _hash(json.dumps(identity, sort_keys=True))


def next_seal(seal: str, row: dict[str, Any]) -> str:
    """The seal of `row` behind a row sealed by `seal`."""
    return _hash(seal + json.dumps([row[key] for key in EVIDENCE], sort_keys=True))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _check_unsealed(row: Any) -> None:
    """Raise TypeError if what scoring derives has another type than a prediction's: no seal covers it."""
    numbers = [row.score, *(row.figures.values() if isinstance(row.figures, dict) else [None])]
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise TypeError(f"score and figures are {row.score!r} and {row.figures!r}"[:200])
    if not isinstance(row.parsed, str | None):
        raise TypeError(f"parsed is {row.parsed!r}"[:200])


def _read(folder: Path, identity: dict[str, Any]) -> tuple[list[Prediction], str]:
    path, seal = folder / PREDICTIONS, first_seal(identity)
    predictions: list[Prediction] = []
    if not path.is_file():
        return predictions, seal
    for number, row in enumerate(read_jsonl(path), start=1):
        found = row.pop("seal", None)
        try:
            prediction = Prediction(**row)
            _check_unsealed(prediction)
            seal = next_seal(seal, asdict(prediction))
        except TypeError as error:
            raise TheWorldError(f"{path}, line {number}: no prediction ({error}): evaluate again") from error
        if seal != found:
            raise TheWorldError(
                f"{path}, line {number}: item {prediction.id!r} does not fit its seal: rows were moved, changed, "
                "removed or copied from another arm; evaluate again into an empty folder"
            )
        predictions.append(prediction)
    return predictions, seal


__all__ = [
    "Item",
    "Prediction",
    "PredictionFile",
    "items_digest",
    "read_manifest",
    "read_predictions",
    "rewrite_scores",
]
