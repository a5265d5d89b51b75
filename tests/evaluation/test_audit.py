import json
import os
from pathlib import Path
from typing import Any

import pytest

from theworld.evaluation.audit import audit, normalise, read_audit_rows
from theworld.evaluation.stats.intervals import interval

BLINK_OPTIONS = "\nSelect from the following choices.\n(A) yes\n(B) no"


def vsr(image: str, caption: str, label: int, relation: str = "beneath") -> dict[str, Any]:
    return {"image": image, "caption": caption, "label": label, "relation": relation}


def blink(number: int, asked: str, answer: str, **more: Any) -> dict[str, Any]:
    id = f"val_Spatial_Relation_{number}"
    return {"idx": id, "image_1": f"{id}.jpg", "prompt": asked + BLINK_OPTIONS, "answer": answer, **more}


def write(path: Path, rows: list[Any]) -> Path:
    text = json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows))
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("question", "statement"),
    [
        ("Is the car beneath the cat?", "The car is beneath the cat."),
        ("Are the cats beneath the car?" + BLINK_OPTIONS, "The cats are beneath the car."),
        ("Does the bus contain the person?", "The bus contains the person."),
        ("Does the cake have as a part the dog?", "The cake has as a part the dog."),
        ("<image>\nDoes the salad consist of  the APPLE ?", "The salad consists of the apple."),
        ("Statement: The car is beneath the cat.\nAnswer (only '0' or '1'):", "The car is beneath the cat."),
    ],
)
def test_a_question_is_its_statement(question: str, statement: str) -> None:
    assert normalise(question) == normalise(statement)


def test_different_statements_stay_apart() -> None:
    assert normalise("The car is beneath the cat.") != normalise("The cat is beneath the car.")
    assert normalise("The car is left of the cat.") != normalise("The car is right of the cat.")


def test_blink_questions_are_found_among_vsr_statements(tmp_path: Path) -> None:
    rows = [
        vsr("1.jpg", "The car is beneath the cat.", 0),
        vsr("2.jpg", "The bus contains the person.", 1, "contains"),
        vsr("3.jpg", "The dog is on the bed.", 1, "on"),
    ]
    questions = [
        blink(1, "Is the car beneath the cat?", "(B)"),  # the same item
        blink(2, "Does the bus contain the person?", "(B)"),  # the other answer
        blink(3, "Is the dog under the bed?", "(A)"),
        blink(4, "Is the dog on the bed?", "(A)", question="Is the dog on the bed?", choices=["yes", "no"]),
    ]
    found = audit([write(tmp_path / "vsr.jsonl", rows)], write(tmp_path / "blink.jsonl", questions))
    assert found["overlap"]["statements"] == [
        "the bus contain the person",
        "the car beneath the cat",
        "the dog on the bed",
    ]
    assert (found["overlap"]["statement_rows"], found["overlap"]["same_answer_rows"]) == (3, 2)
    assert (found["overlap"]["images"], found["overlap"]["clean_rows"]) == ([], 1)
    assert found["shortcuts"] is not None
    assert (found["shortcuts"]["decidable"], found["shortcuts"]["opposite_right"]) == (3, 1)


def test_rules_that_do_not_look(tmp_path: Path) -> None:
    train = [
        vsr("1.jpg", "The a is on the b.", 1, "on"),
        vsr("2.jpg", "The c is on the d.", 0, "on"),
        vsr("3.jpg", "The e is on the f.", 0, "on"),
        vsr("4.jpg", "The e is on the f.", 1, "on"),  # a tie: not decidable
        vsr("5.jpg", "The g is at the h.", 0, "at"),
    ]
    rows = [
        vsr("1.jpg", "The a is on the b.", 0, "on"),
        vsr("7.jpg", "The c is on the d.", 1, "on"),
        vsr("8.jpg", "The e is on the f.", 1, "on"),
        vsr("9.jpg", "The new is at the h.", 0, "at"),
        vsr("9.jpg", "The new is in the h.", 1, "in"),
    ]
    found = audit([write(tmp_path / "train.jsonl", train)], write(tmp_path / "test.jsonl", rows))
    rules = found["shortcuts"]
    assert rules is not None
    assert (rules["decidable"], rules["opposite_right"]) == (2, 2)
    assert (rules["opposite"], rules["same"], rules["always_yes"]) == (0.8, 0.4, 0.6)
    assert rules["relation_prior"] == 0.8  # "on" ties, so yes; "at" no; "in" is unknown
    assert (found["overlap"]["image_rows"], found["overlap"]["pair_rows"], found["overlap"]["clean_rows"]) == (1, 1, 2)


def test_open_questions_have_overlaps_and_no_rules(tmp_path: Path) -> None:
    train = [
        {"id": "a", "image": "folder/one.png", "question": "What colour is it?", "answer": "Red."},
        {
            "id": 7,
            "image": "two.png",
            "conversations": [
                {"from": "human", "value": "<image>\nHow many?"},
                {"from": "gpt", "value": "Two"},
                {"from": "human", "value": "Where?"},
                {"from": "gpt", "value": "Left"},
            ],
        },
    ]
    rows = [
        {"id": "7", "images": ["one.jpg"], "question": "Where?", "answer": "left"},
        {"question": "What colour is it?", "answer": "Blue"},
    ]
    found = audit([write(tmp_path / "train.json", train)], write(tmp_path / "eval.json", rows))
    assert found["training_rows"] == 3
    assert found["shortcuts"] is None
    assert (found["overlap"]["ids"], found["overlap"]["images"]) == (["7"], ["one"])
    assert (found["overlap"]["statement_rows"], found["overlap"]["same_answer_rows"], found["overlap"]["id_rows"]) == (
        2,
        1,
        1,
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", "no rows"),
        ("a.jsonl", '{"question": "Q", "answer": "A"}\n{', "line 2: not JSON"),
        ("a.jsonl", '["Q", "A"]', "row 1: expected an object, got str"),
        ("a.jsonl", '{"question": "Q"}', "expected one of .* it has question"),
        ("a.json", '{"rows": []}', "expected one of .* it has rows"),
        ("a.jsonl", '{"messages": [{"role": "robot", "content": "Q"}]}', "role 'robot'"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_audit_rows(tmp_path / name)


def test_a_last_line_needs_no_newline(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"question": "Q1", "answer": "A"}\n\n{"question": "Q2", "answer": "A"}', encoding="utf-8"
    )
    assert [row.statement for row in read_audit_rows(tmp_path / "a.jsonl")] == ["q1", "q2"]


@pytest.fixture(scope="module")
def annotations() -> Path:
    folder = os.environ.get("THEWORLD_REFERENCE_DATA")
    if folder is None:
        pytest.skip("THEWORLD_REFERENCE_DATA names no folder with vsr/{random,zeroshot}/{train,dev,test}.jsonl")
    return Path(folder) / "vsr"


def of(annotations: Path, training: list[str], evaluation: str) -> dict[str, Any]:
    return audit([annotations / f"{name}.jsonl" for name in training], annotations / f"{evaluation}.jsonl")


def test_random_split_of_vsr_is_solved_without_looking(annotations: Path) -> None:
    found = of(annotations, ["random/train"], "random/test")
    overlap, rules = found["overlap"], found["shortcuts"]
    assert rules is not None
    assert (found["rows"], found["images"], found["training_rows"]) == (2195, 1874, 7680)
    assert (overlap["statement_rows"], len(overlap["images"]), overlap["image_rows"]) == (1666, 978, 1226)
    assert overlap["clean_rows"] == 224
    assert (rules["decidable"], rules["opposite_right"]) == (1404, 1179)
    assert [round(100 * share, 1) for share in (rules["opposite"], rules["always_yes"])] == [73.1, 53.8]
    both = of(annotations, ["random/train", "random/dev"], "random/test")
    assert both["shortcuts"] is not None
    assert round(100 * both["shortcuts"]["opposite"], 1) == 76.1


def test_zeroshot_split_of_vsr_is_not(annotations: Path) -> None:
    found = of(annotations, ["zeroshot/train"], "zeroshot/test")
    assert (found["overlap"]["statement_rows"], len(found["overlap"]["images"]), found["overlap"]["image_rows"]) == (
        0,
        2,
        3,
    )
    assert found["shortcuts"] is not None
    assert round(100 * found["shortcuts"]["opposite"], 1) == 51.5


@pytest.mark.parametrize(
    ("training", "evaluation", "pairs"),
    [
        ("zeroshot/train", "random/test", 702),
        ("zeroshot/train", "random/dev", 369),
        ("random/train", "zeroshot/test", 830),
    ],
)
def test_the_two_splits_of_vsr_leak_into_each_other(
    annotations: Path, training: str, evaluation: str, pairs: int
) -> None:
    assert of(annotations, [training], evaluation)["overlap"]["pair_rows"] == pairs


def test_errors_of_vsr_are_those_of_another_harness(annotations: Path) -> None:
    """lmms-eval 0.7.3 gives always-true .538 +/- .0106, and .0107 clustered by image."""
    rows = read_audit_rows(annotations / "random/test.jsonl")
    scores = [float(row.answer == "yes") for row in rows]
    assert round(interval(scores).se, 4) == 0.0106
    assert round(interval(scores, [row.images[0] for row in rows]).se, 4) == 0.0107
