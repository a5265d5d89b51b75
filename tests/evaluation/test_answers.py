from collections.abc import Callable

import pytest

from theworld.evaluation.tasks.answers import (
    parse_choice,
    parse_clock,
    parse_letter,
    parse_metres,
    parse_region,
    parse_yes_no,
)

LETTERS = "ABCD"
OPTIONS = {"A": "A is closer", "B": "B is closer"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("b", "B"),
        ("B.", "B"),
        ("(B).", "B"),
        ("B) no", "B"),
        ("(B) no", "B"),
        ("**B**", "B"),
        ("Option C", "C"),
        ("B\nThe ball rests on the table.", "B"),
        ("The ball rests on the table.\nB", "B"),
        ("The answer is B", "B"),
        ("The answer is B because a ball falls.", "B"),
        ("The correct answer is (B)", "B"),
        ("The point lies far back ... **The correct answer is (B).**", "B"),
        ("Answer: D", "D"),
        (r"The final answer is $\boxed{C}$.", "C"),
        ("The correct option is B.", "B"),
        ("The answer is A. On reflection, the answer is B.", "B"),
        ("The answer is B. Note that (A) is a distractor.", "B"),
        ("(A) is too far away, so it must be (C).", "C"),
        ("Not (A), so (B).", "B"),
        ("I choose option D here", "D"),
        ("A is closer.", "A"),
        ("A: the red one", "A"),
        ("\u2018B\u2019", "B"),
        # Nothing that could be taken for an answer
        ("", None),
        ("Based on the image, the cat is left of the dog.", None),
        ("Both are equally far.", None),
        ("A car is in front of the bus.", None),
        ("The answer is a car.", None),
        ("Depth cannot be told from this picture.", None),
        ("Z", None),
        ("The answer is (F)", None),
        ("The answer is A or B", None),
        ("(A) or (B)", None),
        ("The answer is (A) or (B).", None),
        ("(A) yes\n(B) no", None),
        ("The answer is not (A).", None),
        ("The answer isn't (A).", None),
        ("A is not closer.", None),
        ("Option A is farther than option B", None),
    ],
)
def test_letter(text: str, letter: str | None) -> None:
    assert parse_letter(text, LETTERS) == letter


def test_letter_that_the_question_does_not_offer() -> None:
    assert parse_letter("C", "AB") is None
    assert parse_letter("(C)", "ABC") == "C"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Point A is closer to the camera than point B.", "A"),
        ("It seems that b is closer", "B"),
        ("A is closer, or B is closer", "A"),  # it opens with the letter
        ("Either A is closer or B is closer", None),
        ("They are equally close", None),
    ],
)
def test_an_options_own_words_stand_for_its_letter(text: str, letter: str | None) -> None:
    assert parse_letter(text, "AB", OPTIONS) == letter


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes", "yes"),
        ("yes.", "yes"),
        ("No, the car is behind it.", "no"),
        ("No the car is behind it.", "no"),
        ("Yes Region [0] is wider.", "yes"),
        ("Correct, Region [0] is taller.", "yes"),
        ("Incorrect, Region [0] is not smaller in size than Region [1].", "no"),
        ("Indeed, it is.", "yes"),
        ("That is True.", "yes"),
        ("That's false", "no"),
        ("Actually, yes.", "yes"),
        ("The car is left of it, so the answer is no.", "no"),
        ("The answer is: **Yes**", "yes"),
        ("The car stands on the road.\nNo", "no"),
        ("", None),
        ("No cars are visible.", None),
        ("Not sure", None),
        ("Nothing is there", None),
        ("Yes or no", None),
        ("Yes/no", None),
        ("Yes. No.", None),
        ("Yesterday it fell", None),
        ("Correct answer unknown", None),
        ("The car is on the left", None),
        ("In fact, Region [0] might be narrower than Region [1].", None),
    ],
)
def test_yes_no(text: str, answer: str | None) -> None:
    assert parse_yes_no(text) == answer


@pytest.mark.parametrize(
    ("text", "digit"),
    [
        ("1", "1"),
        ("0.", "0"),
        ("'1'", "1"),
        ("**0**", "0"),
        ("Answer: 1", "1"),
        ("Answer (only '0' or '1'): 0", "0"),
        ("The answer is 0 because the cat sits.", "0"),
        ("1, the cat is on the mat", "1"),
        ("1 (true)", "1"),
        ("The cat is on the mat.\n1", "1"),
        ("", None),
        ("10", None),
        ("0.5", None),
        ("1.5 metres", None),
        ("1 o'clock", None),
        ("The answer is 1 o'clock", None),
        ("There is 1 cat", None),
        ("Region [1]", None),
        ("0 or 1", None),
        ("The answer is 0 or 1", None),
        ("2", None),
    ],
)
def test_binary(text: str, digit: str | None) -> None:
    assert parse_letter(text, "01") == digit


@pytest.mark.parametrize(
    ("text", "metres"),
    [
        ("The width of Region [0] is 1.02 meters.", 1.02),
        ("Region [0] is 2.17 meters wide.", 2.17),
        ("A vertical distance of 3.93 feet exists between Region [0] and Region [1].", 1.197864),
        ("10.0 inches", 0.254),
        ("48.47 centimeters", 0.4847),
        ("77.56 cm", 0.7756),
        ("35.9 in", 0.91186),
        ("35.9 in. wide", 0.91186),
        ("35.9 in wide", 0.91186),
        ("850mm", 0.85),
        ("2 yards", 1.8288),
        ("1.5 km", 1500.0),
        ("11.4 m", 11.4),
        ("**1,234.5** m", 1234.5),
        ("two metres", 2.0),
        ("a 6-foot gap", 1.8288),
        ("5 feet 3 inches", 1.6002),
        ("5 feet and 3 inches", 1.6002),
        ("5'3\"", 1.6002),
        ("5\u2019 3\u201d", 1.6002),
        ("5 ft. 3 in.", 1.6002),
        ("About 1.2 meters (3.94 feet)", 1.2),
        ("Seen 3 m away and 5 m up; the answer is 2 meters.", 2.0),
        (".5 m", 0.5),
        ("0 m", 0.0),
        # No length, or more than one
        ("", None),
        ("1.5", None),
        ("Region [2]", None),
        ("Region 1 mirrors it", None),
        ("2-3 meters", None),
        ("2 to 3 meters", None),
        ("between 2 and 3 m", None),
        ("between 2 meters and 3 meters", None),
        ("1 m or 2 m", None),
        ("1,5 m", None),
        ("1/2 inch", None),
        ("-2 m", None),
        ("1e3 m", None),
        ("2 m²", None),
        ("2 in front of it", None),
        ("2 o'clock", None),
        ('"2"', None),
        ("3 mice", None),
        ("9" * 400 + " m", None),
    ],
)
def test_metres(text: str, metres: float | None) -> None:
    assert parse_metres(text) == (None if metres is None else pytest.approx(metres))


@pytest.mark.parametrize(
    ("text", "hour"),
    [
        ("Region [1] is roughly at 1 o'clock from Region [0].", 1),
        ("12 O\u2019clock", 12),
        ("two o'clock", 2),
        ("Ten o clock", 10),
        ("It corresponds to 3 o'clock", 3),
        ("close to 2 o'clock", 2),
        ("7", 7),
        ("About 7.", 7),
        ("If 12 o'clock is ahead, the answer is 4 o'clock.", 4),
        ("", None),
        ("13", None),
        ("0 o'clock", None),
        ("13 o'clock", None),
        ("1-2 o'clock", None),
        ("1 or 2 o'clock", None),
        ("between one and two o'clock", None),
        ("between 1 o'clock and 2 o'clock", None),
        ("2:30 o'clock", None),
        ("Region [3]", None),
        ("3 meters", None),
        ("at o'clock", None),
        ("9" * 5000 + " o'clock", None),
    ],
)
def test_clock(text: str, hour: int | None) -> None:
    assert parse_clock(text) == hour


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("Region [1]", 1),
        ("From the viewer's perspective, Region [0] appears more on the left side.", 0),
        ("region 1", 1),
        ("[1]", 1),
        ("1", 1),
        ("Region [1] is. Region [1] it is.", 1),
        ("Region [0] is small, so the answer is Region [1].", 1),
        ("", None),
        ("Region [0] is taller than Region [1].", None),
        ("Both Region [0] and [1]", None),
        ("Regions 0 and 1", None),
        ("Neither", None),
        ("Region [0] is not taller.", None),
        ("2.5 meters", None),
        ("9" * 5000, None),
    ],
)
def test_region(text: str, region: int | None) -> None:
    assert parse_region(text) == region


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("left", "left"),
        ("LEFT!", "left"),
        ("It falls to the left, the left side.", "left"),
        ("The red ball", "red ball"),
        ("Up to the right; no, the answer is left.", "left"),
        ("", None),
        ("leftmost", None),
        ("left or right", None),
        ("not left", None),
        ("It does not go left", None),
        ("the red ball and the ball", None),
        ("up", None),
    ],
)
def test_choice(text: str, choice: str | None) -> None:
    assert parse_choice(text, ("left", "right", "ball", "red ball")) == choice


def test_choices_keep_their_own_spelling() -> None:
    assert parse_choice("it is c++", ("C++", "C")) == "C++"
    assert parse_choice("no.", ("Yes", "No")) == "No"
    assert parse_choice("There is no ball.", ("Yes", "No")) is None
    assert parse_choice("anything", ()) is None


OPTION_WORDS = {"A": "red", "B": "blue", "C": "green", "D": "black"}
PHRASINGS: dict[str, tuple[Callable[[str], object], dict[str, object]]] = {
    "letter": (
        lambda text: parse_letter(text, LETTERS, OPTION_WORDS),
        {
            # A list of options that is repeated says nothing; what stands beside it may
            "A) red\nB) blue\nC) green": None,
            "A. red\nB. blue": None,
            "A: red\n\nB: blue": None,
            "(A) red\n(B) blue\n(C) green\n(D) black": None,
            "**A)** red\n**B)** blue": None,
            "(A) red (B) blue (C) green": None,
            "A) red B) blue": None,
            "The options are A) red, B) blue.": None,
            "Answer: A) red\nB) blue\nC) green": None,
            "Answer:\n(A) red\n(B) blue": None,
            "A) red\nB) blue\nC) green\nAnswer: C": "C",
            "A) red\nB) blue\nC) green\n\nThe answer is B) blue": "B",
            "B) blue\nB) blue\nB) blue": "B",
            "Answer: (B) blue\nExplanation: (A) is red": "B",
            # Two answers are none
            "(A)(C)": None,
            "(A) (C)": None,
            "(A), (B), (C)": None,
            "A or B": None,
            "A/B": None,
            "A, B": None,
            "A & B": None,
            "A and B": None,
            "A B": None,
            "A (B)": None,
            "A\nB": None,
            "A.\nB.": None,
            "both A and B": None,
            "Both (A) and (B)": None,
            "A and C are right": None,
            "A. red or B. blue": None,
            "Option A or B": None,
            "Option A and option B": None,
            "I choose option A or C": None,
            "It could be A or B": None,
            "The answer is (A)(C)": None,
            "The answer is A/B": None,
            "The answer is A, C": None,
            "The answer is either A or B": None,
            "The answer is both A and B": None,
            "The answer is A) red, B) blue": None,
            "(A) is closer than (B).": None,
            "It is (B) or A": None,
            "red and blue": None,
            # One answer
            "\\boxed{B}": "B",
            "So we get $\\boxed{\\text{B}}$, the blue one.": "B",
            "\\boxed{(C)}": "C",
            "\\boxed{A} is wrong, hence \\boxed{D}": "D",
            "\\boxed{}": None,
            "\\boxed{A, B}": None,
            "B, not A": "B",
            "The answer is (B), not (A).": "B",
            "The answer is (B) rather than (A).": "B",
            "B. A car stands before it.": "B",
            "B, because the blue one is near": "B",
            "(A) is red, (B) is blue. So (B).": "B",
        },
    ),
    "yes_no": (
        parse_yes_no,
        {
            "The statement is true.": "yes",
            "The statement is not true.": "no",
            "The statement is false because the cat sits.": "no",
            "This statement is not correct.": "no",
            "The claim is incorrect.": "no",
            "The caption is accurate.": "yes",
            "It is true.": "yes",
            "It is not true.": "no",
            "It isn't true.": "no",
            "It's not correct": "no",
            "This is false.": "no",
            "That is not false.": "yes",
            "\\boxed{Yes}": "yes",
            "The answer is: not true": "no",
            "The statement is true or false.": None,
            "The statement is neither true nor false.": None,
            "It is true that the car is near.": None,
            "Whether the statement is true is unclear.": None,
            "The statement is true. No, it is false.": None,
            "Yes, it is not true.": None,
            "Yes. The statement is false.": None,
            "Yes, but no": None,
            "Yes and no": None,
            "Both yes and no": None,
            "Yes, the car is near.\nNo": None,
            "It is right of the car": None,
        },
    ),
    "binary": (
        lambda text: parse_letter(text, "01"),
        {
            "\\boxed{1}": "1",
            "0, since the cat sits": "0",
            "0, 1": None,
            "0 and 1": None,
            "Answer: 0, 1": None,
            "0\n1": None,
            "1. True\n0. False": None,
            "0: false\n1: true": None,
        },
    ),
    "metres": (
        parse_metres,
        {
            "1 1/2 feet": 0.4572,
            "5 feet 3 1/2 inches": 1.6129,
            "\u00bd m": 0.5,
            "1\u00bd m": 1.5,
            "1 \u00be m": 1.75,
            "1 meter 50 centimeters": 1.5,
            "1 meter and 50 centimeters": 1.5,
            "1 m, 50 cm": 1.5,
            "2 km 300 m": 2300.0,
            "1 yard 2 feet": 1.524,
            "1 yard 2 feet 3 inches": 1.6002,
            "1.2e-1 m": 0.12,
            "1.2E+1 m": 12.0,
            "\\boxed{1.5\\text{ m}}": 1.5,
            "1.5 m 50 cm": None,
            "1 meter 150 centimeters": None,
            "1 cm 5 m": None,
            "1 m 3 feet": None,
            "1 metre or 50 centimetres": None,
            "2 1/2 to 3 feet": None,
            "between 1\u00bd and 2 m": None,
            "6 feet 1/2 inch": None,
            "1 1/0 feet": None,
            "1 m 50": None,
        },
    ),
    "others": (
        lambda text: (parse_clock(text), parse_region(text), parse_choice(text, ("left", "right"))),
        {
            "\\boxed{1}": (1, 1, None),
            "\\boxed{left}": (None, None, "left"),
            "3 o'clock and 9 o'clock": (None, None, None),
            "Region [0]\nRegion [1]": (None, None, None),
            "left\nright": (None, None, None),
            "both left and right": (None, None, None),
        },
    ),
}


@pytest.mark.parametrize("kind", PHRASINGS)
def test_phrasings(kind: str) -> None:
    parse, table = PHRASINGS[kind]
    expected = {text: pytest.approx(said) if isinstance(said, float) else said for text, said in table.items()}
    assert {text: parse(text) for text in table} == expected
