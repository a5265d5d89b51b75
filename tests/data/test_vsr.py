"""VSR rows: the statement is asked in the stated words, and what is supervised is the row's label."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from theworld.data.open_source import open_source
from theworld.data.schema import Example, Message, Skipped, SourceSettings
from theworld.data.sources.vsr import META_CATEGORIES

RANDOM = {
    "image": "000000296471.jpg",
    "image_link": "http://images.cocodataset.org/train2017/000000296471.jpg",
    "caption": "The cat is inside the refrigerator.",
    "label": 0,
    "relation": "inside",
    "annotator_id": 27,
    "vote_true_validator_id": "[]",
    "vote_false_validator_id": "[1, 2, 20]",
    "reference_frame": None,
}
ZEROSHOT = {
    "image": "000000558388.jpg",
    "image_link": "http://images.cocodataset.org/train2017/000000558388.jpg",
    "caption": "The cake is next to the person.",
    "label": 1,
    "relation": "next to",
    "subj": "cake",
    "obj": "person",
    "annotator_id": 35,
    "vote_true_validator_id": "[2, 67, 20]",
    "vote_false_validator_id": "[]",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def settings(path: Path, **changes: Any) -> SourceSettings:
    return SourceSettings(**{"path": str(path), "image_folder": path.parent, **changes})


@pytest.mark.parametrize("row", [RANDOM, ZEROSHOT])
def test_a_row_of_either_variant(tmp_path: Path, row: dict[str, Any]) -> None:
    source = open_source("vsr", settings(write(tmp_path / "train.jsonl", row)))
    example = source[0]
    assert isinstance(example, Example)
    assert example.images == (row["image"],)
    assert example.choices == ("0", "1")
    assert example.messages == (
        Message("user", f"Statement: {row['caption']}\nAnswer (only '0' or '1'):"),
        Message("assistant", str(row["label"])),
    )
    metadata = example.metadata
    assert (metadata["relation"], metadata["caption"], metadata["label"]) == (
        row["relation"],
        row["caption"],
        row["label"],
    )
    assert metadata["image_id"] == row["image"].removesuffix(".jpg")
    assert metadata["meta_category"] == ("Topological" if row is RANDOM else "Unallocated")


def test_what_is_supervised_is_the_label_of_the_row(tmp_path: Path) -> None:
    rows = [{**ZEROSHOT, "label": number % 2, "caption": f"Statement {number}."} for number in range(6)]
    source = open_source("vsr", settings(write(tmp_path / "dev.jsonl", *rows)))
    supervised = [[m.content for m in source[i].messages if m.role == "assistant"] for i in range(len(source))]
    assert supervised == [[str(row["label"])] for row in rows]
    assert len({source[i].id for i in range(len(source))}) == len(rows)


def test_folders_splits_and_counts(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("dev", 3), ("test", 4)):
        write(tmp_path / f"{split}.jsonl", *[{**RANDOM, "caption": f"{split} {n}"} for n in range(count)])
    here = SourceSettings(path=str(tmp_path), image_folder=tmp_path)
    assert len(open_source("vsr", here)) == 5
    assert len(open_source("vsr", SourceSettings(path=str(tmp_path), image_folder=tmp_path, split="test"))) == 4
    few = open_source("vsr", SourceSettings(path=str(tmp_path), image_folder=tmp_path, split="dev", num_samples=2))
    assert [few[i].metadata["caption"] for i in range(len(few))] == ["dev 0", "dev 1"]
    with pytest.raises(FileNotFoundError, match=r"nosuch\.jsonl.*train, dev and test"):
        open_source("vsr", SourceSettings(path=str(tmp_path), image_folder=tmp_path, split="nosuch"))


def test_a_template_with_the_fields_of_the_row(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", ZEROSHOT)
    source = open_source("vsr", settings(path, question_template="{subj} {relation} {obj}? 0 or 1:"))
    assert source[0].messages[0].content == "cake next to person? 0 or 1:"
    with pytest.raises(ValueError, match=r"'statement'.*caption"):
        open_source("vsr", settings(path, question_template="{statement}"))


@pytest.mark.parametrize(
    "change", [{"label": 2}, {"label": None}, {"image": None}, {"image": 7}, {"label": "yes"}], ids=str
)
def test_rows_that_cannot_be_used(tmp_path: Path, change: dict[str, Any]) -> None:
    skipped = open_source("vsr", settings(write(tmp_path / "train.jsonl", {**RANDOM, **change})))[0]
    assert isinstance(skipped, Skipped)
    assert skipped.cause == "bad_row"


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", RANDOM)
    with pytest.raises(ValueError, match="image_folder"):
        open_source("vsr", settings(path, image_folder=None))
    with pytest.raises(ValueError, match="streaming"):
        open_source("vsr", settings(path, streaming=True))
    with pytest.raises(ValueError, match="train_dataset_path"):
        open_source("vsr", SourceSettings(image_folder=tmp_path))
    with pytest.raises(FileNotFoundError):
        open_source("vsr", settings(tmp_path / "none.jsonl"))
    with pytest.raises(ValueError, match="caption"):
        open_source("vsr", settings(write(tmp_path / "other.jsonl", {"image": "a.jpg", "label": 1})))
    (tmp_path / "page.jsonl").write_text("<html>\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"page\.jsonl"):
        open_source("vsr", settings(tmp_path / "page.jsonl"))


def test_a_relation_has_one_category() -> None:
    relations = [relation for names in META_CATEGORIES.values() for relation in names.split(", ")]
    assert len(relations) == len(set(relations)) == 70


def test_a_split_of_one_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", RANDOM)
    with pytest.raises(ValueError, match=r"split='dev': \S+train.jsonl is one file, so one split; remove split"):
        open_source("vsr", settings(path, split="dev"))


@pytest.mark.parametrize("changes", [{"relation": ["on"]}, {"caption": None}, {"image": " "}])
def test_rows_of_other_types_are_skipped(tmp_path: Path, changes: dict[str, Any]) -> None:
    row = {"image": "a.png", "image_link": "http://x.org/a.jpg", "caption": "c", "label": 1, "relation": "on"}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | changes), encoding="utf-8")
    source: Any = open_source("vsr", SourceSettings(path=str(path), image_folder=tmp_path))
    assert isinstance(source[0], Example)
    assert source[1].cause == "bad_row"
