"""A local task for lmms-eval: scenes of the micro-world as PNG files, their questions as JSON, two YAML files."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from theworld.nano.questions import predictive_questions
from theworld.nano.scenes import make_clip

FRESH_SEED = 41_000_000  # of no split

SHARED = """
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
doc_to_visual: !function utils.doc_to_visual
doc_to_text: "{{{{question}}}}"
metadata:
  version: 1.0
"""

GENERATE = """
task: theworld_say
output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs:
  max_new_tokens: 8
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""

CHOOSE = """
task: theworld_choose
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: "{{choices.index(answer)}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""

UTILS = """
from PIL import Image


def doc_to_visual(doc):
    return [Image.open(doc["image"])]
"""


def write_tasks(folder: Path, scenes: int) -> list[dict]:
    """Write `theworld_say` and `theworld_choose` about `scenes` falling balls; returns the rows."""
    rng, rows = np.random.default_rng(0), []
    for index in range(scenes):
        frames, _, record = make_clip(FRESH_SEED + index, "drop")
        question = predictive_questions(record, rng)[0]
        Image.fromarray(frames[0]).save(folder / f"{index}.png")
        asked = {"question": question.text, "answer": question.answer, "choices": list(question.choices)}
        rows.append({"image": str(folder / f"{index}.png"), **asked})
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    shared = SHARED.format(rows=folder / "rows.json")
    (folder / "theworld_say.yaml").write_text(GENERATE + shared, encoding="utf-8")
    (folder / "theworld_choose.yaml").write_text(CHOOSE + shared, encoding="utf-8")
    (folder / "utils.py").write_text(UTILS, encoding="utf-8")
    return rows
