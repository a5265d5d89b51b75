"""The names that documents use exist, each in one place."""

import json
from pathlib import Path

import pytest
from PIL import Image

import theworld
from theworld import constants
from theworld.data.schema import Example
from theworld.datasets import SpatialRGPTDataset, load_dataset


def test_constants() -> None:
    assert (constants.PAD_TOKEN_ID, constants.EOS_TOKEN_ID, constants.BOS_TOKEN_ID) == (0, 1, 2)
    assert constants.IMAGE_SOFT_TOKEN_ID == 262144
    assert (constants.CUSTOM_TOKEN_SLOT_SOW, constants.CUSTOM_TOKEN_SLOT_EOW) == (6, 7)
    assert (constants.CUSTOM_TOKEN_SOW, constants.CUSTOM_TOKEN_EOW) == ("<unused0>", "<unused1>")
    assert constants.DEFAULT_GEMMA_MODEL == "google/gemma-3-4b-it"
    assert constants.DEFAULT_COSMOS_MODEL == "nvidia/Cosmos-Predict2-2B-Video2World"


@pytest.mark.parametrize("name", theworld.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(theworld, name) is getattr(theworld, name)
    assert name in dir(theworld)


def test_training_from_python() -> None:
    from theworld.training.config import TrainingConfig
    from theworld.training.run import train

    assert theworld.TrainingConfig is TrainingConfig
    assert theworld.train is train


def test_spatial_rgpt_dataset(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.jpg")
    turns = [{"from": "human", "value": "<image>\nIs <mask> left?"}, {"from": "gpt", "value": "Yes."}]
    row = {"filename": "a", "conversations": turns, "bbox": [[0, 0, 8, 8]], "rle": []}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    rows = SpatialRGPTDataset(tmp_path / "rows.jsonl", image_folder=tmp_path)
    example = rows[0]
    assert isinstance(example, Example)
    assert example.messages[-1].content == "Yes."
    with pytest.raises(ValueError, match="dataset_name='nothing': expected one of blink, custom"):
        load_dataset("nothing")
