"""Visual Spatial Reasoning: is a statement about two objects of an image true? "0" or "1".

Liu, Emerson and Collier, TACL 2023. The zero-shot split is the primary one: its captions are not in its training rows.
Most captions of the random split occur twice with opposite labels, often once in the training rows. So the opposite of
the training label is a baseline without an image; `baselines` measures it if train.jsonl is in the file's folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from theworld.data.open_source import open_source
from theworld.data.schema import Example, SourceSettings
from theworld.data.sources.vsr import CATEGORY_OF

from ..audit import NO, YES, AuditRow, blind_rules, normalise, read_audit_rows
from ..stats.baseline import majority_baseline
from ..store.predictions import Item, Prediction
from .answers import parse_letter, parse_yes_no
from .base import Score, Task, TaskItems, means, of_known_family, read_items

PRIMARY, TRAIN = "zeroshot", "train.jsonl"


def load(settings: SourceSettings) -> TaskItems:
    """The statements at `settings.path`. Answers are the labels, families the relations. Raises as `open_source`.

    The path is a file, a folder of {split}.jsonl, a parent of such folders (`zeroshot` is used), or a Hub id. The
    default split is test; a single file has no split.
    """
    path = Path(settings.path or "").expanduser()
    if settings.path is not None and (path / PRIMARY).is_dir():
        path = path / PRIMARY
        settings = replace(settings, path=str(path))
    if not path.is_file():
        settings = replace(settings, split=settings.split or "test")
    file = path / f"{settings.split}.jsonl" if path.is_dir() else path
    train = file.parent / TRAIN
    known = {"train_file": str(train)} if file.is_file() and train.is_file() and train.name != file.name else {}

    def to_item(example: Example) -> Item:
        family = str(example.metadata.get("relation") or "all")
        return Item.from_example(example, metadata={**example.metadata, **known}, family=family)

    return read_items(open_source("vsr", settings), to_item)


def score(item: Item, output: str) -> Score:
    """Right if the answer is the row's label; "true" and "false" count if the answer has no digit."""
    words = None if any(map(str.isdigit, output)) else parse_yes_no(output)
    label = parse_letter(output, ("0", "1")) if words is None else str(int(words == "yes"))
    return Score(label, float(label == item.answer))


def measures(predictions: Sequence[Prediction]) -> dict[str, float]:
    """`yes_rate`, the share of answers "1", and accuracy by the authors' groups of relations."""
    pairs = [("yes_rate", float(row.parsed == "1")) for row in predictions]
    for row in of_known_family(predictions):
        pairs.append((f"{CATEGORY_OF.get(row.family, 'Unallocated').lower()}_accuracy", row.score))
    return means(pairs)


def baselines(items: Sequence[Item]) -> dict[str, float]:
    """Accuracy of the most frequent label, and of rules from the captions of the training rows, if available."""
    found: dict[str, float | None] = {"majority_answer": float(majority_baseline(items, pooled=True).mean())}
    if train := items[0].metadata.get("train_file"):
        rows = [
            AuditRow(item.id, normalise(item.metadata["caption"]), YES if item.answer == "1" else NO, (), item.family)
            for item in items
        ]
        blind = blind_rules(read_audit_rows(train), rows)
        found |= {"opposite_of_training": blind["opposite"], "same_as_training": blind["same"]}
        found |= {"relation_prior": blind["relation_prior"]}
    return {name: share for name, share in found.items() if share is not None}


VSR = Task("vsr", "VSR", load, score, measures, baselines, default_source="cambridgeltl/vsr_zeroshot")
