"""Hugging Face datasets as sources, indexed and streamed; their pictures stay closed."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, IterableDataset, List, Value
from PIL import Image
from torch.utils.data import DataLoader

import theworld
from theworld.data.images import open_image
from theworld.data.open_source import as_source
from theworld.data.schema import Example, Message, Skipped
from theworld.data.sources.hf_dataset import HFDatasetWrapper, StreamedRows


def png(value: int) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (20, 20), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


FEATURES = Features(
    {
        "image": datasets.Image(),
        "text": Value("string"),
        "label": ClassLabel(names=["cat", "dog"]),
        "images": List(datasets.Image()),
    }
)


@pytest.fixture
def animals() -> Dataset:
    rows = [
        {"image": {"bytes": png(i)}, "text": f"Number {i}?", "label": i % 2, "images": [{"bytes": png(9)}]}
        for i in range(6)
    ]
    return Dataset.from_list(rows, features=FEATURES)


def test_labels_become_names_and_pictures_stay_closed(animals: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = theworld.HFDatasetWrapper(animals, "image", "text", "label")
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("a picture was opened"))
    assert len(dataset) == 6
    read = dataset[3]
    monkeypatch.undo()
    assert isinstance(read, Example)
    assert read.messages == (Message("user", "Number 3?"), Message("assistant", "dog"))
    assert read.choices == ("cat", "dog")
    assert [open_image(picture).getpixel((0, 0)) for picture in read.images] == [(3, 0, 0), (9, 0, 0)]


def test_a_broken_picture_does_not_stop_its_row() -> None:
    rows = [{"image": {"bytes": b"no picture"}, "text": "q", "label": "a"}]
    features = Features({"image": datasets.Image(), "text": Value("string"), "label": Value("string")})
    for ds in (Dataset.from_list(rows, features=features), streamed(Dataset.from_list(rows, features=features))):
        read = next(iter(HFDatasetWrapper(ds)))
        assert isinstance(read, Example)
        assert read.images == (b"no picture",)


def streamed(ds: Dataset, shards: int = 1) -> IterableDataset:
    return ds.to_iterable_dataset(num_shards=shards)


def test_a_stream_gives_the_same_rows(animals: Dataset) -> None:
    indexed = HFDatasetWrapper(animals, question_template="{text} Cat or dog?")
    stream = HFDatasetWrapper(streamed(animals), question_template="{text} Cat or dog?")
    assert isinstance(stream, StreamedRows)
    for _ in range(2):
        rows = list(stream)
        assert len(rows) == 6
        for one, other in zip(rows, indexed, strict=True):
            assert isinstance(one, Example)
            assert isinstance(other, Example)
            assert (one.messages, one.images, one.choices) == (other.messages, other.images, other.choices)
    assert len({row.id for row in rows}) == 6


def test_every_worker_and_process_reads_its_own_share(animals: Dataset) -> None:
    stream = HFDatasetWrapper(streamed(animals, shards=3))
    everything = sorted(row.id for row in stream)
    loader: DataLoader[Any] = DataLoader(stream, batch_size=2, num_workers=2, collate_fn=list)
    assert sorted(row.id for batch in loader for row in batch) == everything
    shares = [[row.id for row in stream.split_by_process(rank, 3)] for rank in range(3)]
    assert all(shares)
    assert sorted(name for share in shares for name in share) == everything


def test_a_shuffled_stream_differs_by_epoch_and_keeps_its_names(animals: Dataset) -> None:
    stream = HFDatasetWrapper(streamed(animals)).shuffle(seed=0, buffer_size=10)
    orders = []
    for epoch in range(3):
        stream.set_epoch(epoch)
        orders.append([row.id for row in stream])
    assert len({tuple(order) for order in orders}) > 1
    assert len({tuple(sorted(order)) for order in orders}) == 1


def test_rows_of_a_generator_have_no_known_columns() -> None:
    picture = Image.new("RGB", (20, 20))
    ds = IterableDataset.from_generator(lambda: iter([{"image": picture, "text": "q", "label": "a"}, {"text": "q"}]))
    good, bad = HFDatasetWrapper(ds)
    assert isinstance(good, Example)
    assert good.images[0].size == (20, 20)
    assert isinstance(bad, Skipped)


def test_the_users_own_transform_still_runs(animals: Dataset) -> None:
    changed = animals.with_transform(lambda batch: {**batch, "text": [text.upper() for text in batch["text"]]})
    read = HFDatasetWrapper(changed)[0]
    assert isinstance(read, Example)
    assert read.messages[0].content == "NUMBER 0?"


def test_a_selection_keeps_its_order(animals: Dataset) -> None:
    rows = HFDatasetWrapper(animals.select([4, 1]).with_format("torch"))
    texts = [row.messages[0].content for row in rows if isinstance(row, Example)]
    assert texts == ["Number 4?", "Number 1?"]


@pytest.mark.parametrize("keys", [{"image_key": "photo"}, {"text_key": "photo"}, {"label_key": "photo"}])
def test_a_column_that_is_not_there_is_named(animals: Dataset, keys: dict[str, str]) -> None:
    for ds in (animals, streamed(animals)):
        with pytest.raises(ValueError, match="no column 'photo' in the data, which has image, text, label, images"):
            HFDatasetWrapper(ds, **keys)


def test_what_is_no_split_is_refused(animals: Dataset) -> None:
    with pytest.raises(ValueError, match="2 splits, train, test"):
        HFDatasetWrapper(datasets.DatasetDict(train=animals, test=animals))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"list: expected a datasets\.Dataset"):
        HFDatasetWrapper([{"text": "q"}])  # type: ignore[arg-type]


def test_a_missing_label_is_skipped() -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    ds = Dataset.from_list([{"text": "q", "label": None}, {"text": "q", "label": -1}], features=features)
    assert all(isinstance(row, Skipped) for row in HFDatasetWrapper(ds, image_key=None))


def test_numpy_is_not_needed_to_name_a_row() -> None:
    ds = IterableDataset.from_generator(
        lambda: iter([{"image": np.zeros((20, 20, 3), np.uint8), "text": "q", "label": 1}])
    )
    (read,) = HFDatasetWrapper(ds)
    assert isinstance(read, Example)
    assert len(read.id) == 16


def test_a_streams_own_rows_keep_their_meaning_beside_ours(animals: Dataset) -> None:
    ds = streamed(animals)
    assert len(list(HFDatasetWrapper(ds))) == 6
    assert isinstance(next(iter(ds))["image"], Image.Image)


def test_class_numbers_are_indexes_whatever_the_classes_are_called() -> None:
    names = ["1", "2", "3", "10"]
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    ds = Dataset.from_dict({"text": ["q"] * 4, "label": [0, 1, 2, 3]}, features=features)
    for rows in (HFDatasetWrapper(ds, None), as_source(ds), HFDatasetWrapper(streamed(ds), None)):
        assert [row.messages[1].content for row in rows if isinstance(row, Example)] == names


@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_short_floats_have_the_shortest_text(kind: str) -> None:
    features = Features({"text": Value("string"), "label": Value(kind), "choices": List(Value(kind))})
    ds = Dataset.from_dict({"text": ["q"], "label": [0.1], "choices": [[0.1, 2.5]]}, features=features)
    for rows in (HFDatasetWrapper(ds, None), HFDatasetWrapper(streamed(ds), None)):
        (row,) = rows
        assert isinstance(row, Example)
        assert (row.messages[1].content, row.choices) == ("0.1", ("0.1", "2.5"))
