"""Words of the nano world, and phrasings that are used only in training."""

from __future__ import annotations

from .render import BALL_COLOURS, BIN_COLOURS, BLOCK_COLOURS

BALLS = tuple(BALL_COLOURS)
BINS = tuple(BIN_COLOURS)
BLOCKS = tuple(BLOCK_COLOURS)
NUMBERS = ("one", "two", "three", "four")
EIGHTHS = (*NUMBERS, "five", "six", "seven", "eight")
ORDINALS = ("first", "second", "third", "fourth")
WALLS = ("left", "right", "upper", "lower")
YES_NO = ("no", "yes")

ANSWERS = (*BALLS, *BINS, *BLOCKS, *EIGHTHS, *YES_NO, "left", "right", "above", "below", "nearer", "farther")
"""Answers of one word."""

WORDS: dict[str, tuple[str, ...]] = {
    "ball": BALLS,
    "a": BALLS,
    "b": BALLS,
    "ordinal": (*ORDINALS, "last"),
    "side": ("left", "right"),
    "wall": WALLS,
    "bin": BINS,
}
"""Words that can fill each {slot} of a phrasing."""

EXERCISES: dict[str, tuple[str, ...]] = {
    "row": (
        "In which row is the {ball} ball right now, counting from the top?",
        "Counting rows from the top, where is the {ball} ball at this moment?",
        "From the top, what is the number of the row that the {ball} ball is in?",
    ),
    "wall_distance": (
        "How many steps is the {ball} ball away from the middle wall?",
        "Counting steps from the middle wall, where is the {ball} ball?",
        "What is the number of steps between the middle wall and the {ball} ball?",
    ),
}
"""Phrasings that are used only in training: they ask where a named ball is. Comparing two balls needs this skill."""
