"""The words of the nano world: how each family of questions may be put."""

from __future__ import annotations

from .render import BALL_COLOURS, BIN_COLOURS, BLOCK_COLOURS

BALLS = tuple(BALL_COLOURS)
BINS = tuple(BIN_COLOURS)
BLOCKS = tuple(BLOCK_COLOURS)
NUMBERS = ("one", "two", "three", "four")
EIGHTHS = (*NUMBERS, "five", "six", "seven", "eight")
ORDINALS = ("first", "second", "third", "fourth")
WALLS = ("left", "right", "upper", "lower")

WORDS: dict[str, tuple[str, ...]] = {
    "ball": BALLS,
    "a": BALLS,
    "b": BALLS,
    "ordinal": (*ORDINALS, "last"),
    "side": ("left", "right"),
    "wall": WALLS,
    "bin": BINS,
}
"""What may stand in a phrasing's {slot}."""

_STATIC: dict[str, tuple[str, ...]] = {
    "ball_colour": (
        "What colour is the ball?",
        "Which colour does the ball have?",
        "What is the colour of the ball in this picture?",
        "The ball in this picture is of which colour?",
        "Look at the ball: what colour is it?",
        "In this picture, what colour is the ball?",
    ),
    "bin_colour": (
        "What colour is the {ordinal} bin from the {side}?",
        "Which colour does the {ordinal} bin from the {side} have?",
        "Counting from the {side}, what colour is the {ordinal} bin?",
        "In this picture, what is the colour of the {ordinal} bin from the {side}?",
        "The {ordinal} bin, counted from the {side}, is which colour?",
        "What is the colour of bin number {ordinal} from the {side}?",
    ),
    "bin_below": (
        "Which bin is straight below the {ball} ball right now?",
        "Right now, what colour is the bin under the {ball} ball?",
        "What colour is the bin directly beneath the ball in this picture?",
        "Above which bin is the {ball} ball right now?",
        "In this picture, which bin lies vertically below the ball?",
        "Which colour is the bin that lies under the ball at this moment?",
    ),
    "column": (
        "In which column is the {ball} ball right now, counting from the left?",
        "Which column is the ball in, counted from the left?",
        "Counting columns from the left, where is the {ball} ball at this moment?",
        "What is the number of the column that holds the ball right now, from the left?",
        "In this picture, which of the four columns is the {ball} ball in, from the left?",
        "From the left, what is the number of the column that the ball is in?",
    ),
    "ramp_count": (
        "How many ramps are there?",
        "How many ramps are in this picture?",
        "What is the number of ramps in this picture?",
        "Count the ramps: how many are there?",
        "How many slanted ramps does this picture show?",
        "In this picture, how many ramps do you see?",
    ),
    "red_ramp": (
        "Is there a red ramp?",
        "Is one of the ramps red?",
        "Does this picture show a red ramp?",
        "Is any ramp in this picture red?",
        "Do you see a red ramp right now?",
        "Right now, is there a ramp that is red?",
    ),
    "lit_ramp": (
        "Is a ramp lit up right now?",
        "Is any ramp glowing in this picture?",
        "Right now, is there a ramp that is lit?",
        "Does this picture show a ramp that is lit up?",
        "Is there a glowing ramp at this moment?",
        "Do you see a lit ramp in this picture?",
    ),
    "left_right": (
        "Is the {a} ball to the left or to the right of the {b} ball?",
        "On which side of the {b} ball is the {a} ball, left or right?",
        "Seen from the {b} ball, is the {a} ball left or right?",
        "In this picture, is the {a} ball left or right of the {b} ball?",
        "Is the {a} ball in the left lane or in the right lane?",
        "Which lane holds the {a} ball right now, left or right?",
    ),
    "lane_colour": (
        "What colour is the ball in the {side} lane?",
        "Which ball is in the {side} lane?",
        "What is the colour of the ball on the {side}?",
        "In this picture, which colour is the {side} ball?",
        "The {side} lane holds a ball of which colour?",
        "What colour does the ball on the {side} side have?",
    ),
    "lit_pad": (
        "Which pad is lit right now, left, right or no pad?",
        "Is a pad lit in this picture, and if so on which side?",
        "Right now, is the left pad lit, the right pad, or no pad?",
        "On which side is the floor pad glowing at this moment, if any?",
        "Which of the two pads is glowing in this picture, if any?",
        "Is the left pad, the right pad or no pad lit at this moment?",
    ),
    "above_below": (
        "Is the {a} ball above or below the {b} ball?",
        "Right now, is the {a} ball above or below the {b} one?",
        "In this picture, is the {a} ball above the {b} ball or below it?",
        "Compared with the {b} ball, is the {a} ball above or below?",
        "Seen from the {b} ball, is the {a} ball above or below?",
        "At this moment, does the {a} ball sit above or below the {b} ball?",
    ),
    "higher": (
        "Which ball is higher right now?",
        "In this picture, which ball is higher up?",
        "What colour is the higher ball?",
        "Is the {a} ball or the {b} ball higher?",
        "Of the two balls, which one is higher at this moment?",
        "Which of the {a} and {b} balls is higher in this picture?",
    ),
    "nearer_wall": (
        "Is the {a} ball nearer to or farther from the middle wall than the {b} ball?",
        "Compared with the {b} ball, is the {a} ball nearer to the middle wall or farther from it?",
        "Right now, is the {a} ball nearer to the wall in the middle or farther from it than the {b} ball?",
        "Measured from the middle wall, is the {a} ball nearer or farther than the {b} ball?",
        "In this picture, is the {a} ball nearer to the middle wall or farther than the {b} one?",
        "Does the {a} ball sit nearer to the middle wall than the {b} ball, or farther from it?",
    ),
    "block_count": (
        "How many blocks are there?",
        "How many blocks are in this picture?",
        "What is the number of blocks in this picture?",
        "Count the blocks: how many are there?",
        "How many coloured blocks does this picture show?",
        "In this picture, how many blocks do you see?",
    ),
    "top_block": (
        "What colour is the top block?",
        "Which block is on top right now?",
        "What is the colour of the highest block in this picture?",
        "In this picture, which block is the highest?",
        "Which colour does the topmost block have?",
        "The block at the very top is of which colour?",
    ),
    "bottom_block": (
        "What colour is the bottom block?",
        "Which block is at the bottom right now?",
        "What is the colour of the lowest block in this picture?",
        "In this picture, which block is the lowest?",
        "Which colour does the block at the bottom have?",
        "The block at the very bottom is of which colour?",
    ),
    "peg_count": (
        "How many pegs are there?",
        "How many pegs are in this picture?",
        "What is the number of pegs in this picture?",
        "Count the pegs: how many are there?",
        "How many round pegs does this picture show?",
        "In this picture, how many pegs do you see?",
    ),
    "lit_thing": (
        "Is anything lit up right now?",
        "Is something glowing in this picture?",
        "Right now, is there a thing that is lit?",
        "Does this picture show something that is lit up?",
        "Is anything glowing at this moment?",
        "Do you see something lit in this picture?",
    ),
    "wall_colour": (
        "What colour is the {wall} wall?",
        "Which colour does the {wall} wall have?",
        "What is the colour of the {wall} wall in this picture?",
        "In this picture, what colour is the {wall} wall?",
        "The {wall} wall is of which colour?",
        "Look at the {wall} wall: what colour is it?",
    ),
    "bumper_count": (
        "How many bumpers are there?",
        "How many bumpers are in this picture?",
        "What is the number of bumpers in this picture?",
        "Count the bumpers: how many are there?",
        "How many slanted bumpers does this picture show?",
        "In this picture, how many bumpers do you see?",
    ),
    "at_wall": (
        "Is the ball at a coloured wall right now?",
        "Right now, does the ball touch a wall?",
        "Has the ball reached a wall in this picture?",
        "Is the {ball} ball touching one of the walls at this moment?",
        "Does the {ball} ball lie at a wall in this picture?",
        "At this moment, has the ball arrived at a wall?",
    ),
    "fallen": (
        "To which side have blocks fallen, left, right or no side?",
        "Have blocks fallen in this picture, and if so to which side?",
        "On which side do fallen blocks lie right now, if any?",
        "Right now, do fallen blocks lie to the left, to the right, or on no side?",
        "In this picture, is there a fallen block on the left, on the right, or on no side?",
        "Has the stack already fallen, and to which side?",
    ),
}

PREDICTIVE: dict[str, tuple[str, ...]] = {
    "bin": (
        "Which bin will the ball land in?",
        "In which bin will the {ball} ball end up?",
        "What colour is the bin that the ball will fall into?",
        "Where will the {ball} ball come to rest, in which bin?",
        "Once it is let go, which bin will the ball reach?",
        "When everything has settled, which bin will hold the {ball} ball?",
        "Into which bin is the ball going to drop?",
    ),
    "touch": (
        "Will the ball touch the red ramp?",
        "Will the {ball} ball hit the red ramp on its way down?",
        "Is the ball going to touch the red ramp?",
        "On its way down, will the ball come into contact with the red ramp?",
        "Will the red ramp be touched by the {ball} ball?",
        "When the ball falls, will it strike the red ramp?",
    ),
    "race": (
        "Which ball will land first?",
        "Which ball will reach the floor first, the {a} one or the {b} one?",
        "Will the {a} ball or the {b} ball land first?",
        "Once both are let go, which ball will be first on the floor?",
        "Which of the two balls is going to win the race to the floor?",
        "What colour is the ball that will land first?",
    ),
    "topple": (
        "Will the stack topple, and to which side?",
        "Will the stack fall to the left, to the right, or will it not fall?",
        "To which side will the stack topple, if it will at all?",
        "Is the stack going to topple left, right, or not at all?",
        "When let go, will the blocks fall left, right, or not?",
        "Which way will the stack collapse, if it will collapse?",
    ),
    "wall": (
        "Which wall will the ball hit?",
        "Which wall will the {ball} ball reach first?",
        "What colour is the wall that the ball will run into?",
        "At which wall will the {ball} ball end up?",
        "Once it is launched, which wall will the ball reach?",
        "When everything has settled, at which wall will the {ball} ball be?",
    ),
    "bumper_touch": (
        "Will the ball touch the red bumper?",
        "Will the {ball} ball hit the red bumper on its way?",
        "Is the ball going to touch the red bumper?",
        "On its way, will the ball come into contact with the red bumper?",
        "Will the red bumper be touched by the {ball} ball?",
        "Once it is launched, will the ball strike the red bumper?",
    ),
    "peg_touch": (
        "Will the ball touch the red thing?",
        "Will the {ball} ball hit the red thing on its way down?",
        "Is the ball going to touch what is red?",
        "On its way down, will the ball come into contact with the red thing?",
        "Will the red thing be touched by the {ball} ball?",
        "When the ball falls, will it strike the red thing?",
    ),
}
"""Phrasings that ask for what will happen."""
PREDICTIVE["peg_bin"] = PREDICTIVE["bin"]

CONVERSATIONAL: dict[str, tuple[str, ...]] = {
    "what_next": (
        "What happens next?",
        "What will happen?",
        "What is going to happen?",
        "What will happen next in this picture?",
        "How does this end?",
        "What comes next?",
    ),
    "bin_check": (
        "Will the ball land in the {bin} bin?",
        "Does the {ball} ball end up in the {bin} bin?",
        "Is the ball going to drop into the {bin} bin?",
        "Is the {bin} bin the one that the ball will reach?",
        "Will it land in {bin}?",
        "Does it fall into the {bin} bin?",
    ),
    "race_check": (
        "Will the {a} ball land first?",
        "Is the {a} ball going to be first on the floor?",
        "Does the {a} ball win the race?",
        "Will the {a} ball reach the floor before the {b} ball?",
        "Is the {a} ball the winner?",
        "Does the {a} one land first?",
    ),
    "race_last": (
        "Which ball will land last?",
        "Which ball will reach the floor last?",
        "Which of the two balls is going to lose the race to the floor?",
        "What colour is the ball that will land last?",
        "Will the {a} ball or the {b} ball land last?",
        "Which ball is last?",
    ),
    "topple_check": (
        "Will this fall?",
        "Will the stack fall?",
        "Is it going to fall?",
        "Will the stack topple?",
        "Does the stack fall over?",
        "Will it collapse?",
    ),
    "wall_check": (
        "Will the ball hit the {bin} wall?",
        "Does the {ball} ball end up at the {bin} wall?",
        "Is the ball going to reach the {bin} wall first?",
        "Is the {bin} wall the one that the ball will run into?",
        "Will it hit {bin}?",
        "Does it reach the {bin} wall?",
    ),
    "describe": (
        "What is this?",
        "What do you see?",
        "Describe the picture.",
        "What is in this picture?",
        "What does this picture show?",
        "Tell me what you see.",
    ),
}
"""Questions as people ask them: open ones, answered in a sentence, and yes or no."""

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
"""Phrasings that only training uses: where one named ball is, which comparing two of them presupposes."""

PHRASINGS: dict[str, tuple[str, ...]] = {**_STATIC, **PREDICTIVE, **CONVERSATIONAL}
"""Family -> the ways to ask; every one can be put to every scene of its kind."""
