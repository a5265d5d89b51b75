"""Lengths in running text, in metres."""

from __future__ import annotations

import re

METRES = {
    "mm|millimet(?:er|re)s?": 0.001,
    "cm|centimet(?:er|re)s?": 0.01,
    "dm|decimet(?:er|re)s?": 0.1,
    "m|met(?:er|re)s?": 1.0,
    "km|kilomet(?:er|re)s?": 1000.0,
    "inch(?:es)?|in": 0.0254,
    '"': 0.0254,
    "feet|foot|ft|'": 0.3048,
    "yards?|yds?": 0.9144,
    "miles?|mi": 1609.344,
}
"""Metres of a unit, by the pattern of its names."""

NUMBER_WORDS: dict[str, int] = {
    **{"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6},
    **{"seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12},
}

FOOT, INCH = 0.3048, 0.0254

_FACTORS = tuple(METRES.values())
_UNIT = "|".join(f"(?P<u{place}>{names})" for place, names in enumerate(METRES))
_NUMBER = rf"\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?|\d{{1,12}}(?:\.\d+)?|\.\d+|(?:{'|'.join(NUMBER_WORDS)})"
# Not the end of another number ("1,5", "1/2", "2-3", "1e3"), of a quotation, or what an area or a speed begins with
_LENGTH = re.compile(
    rf"(?<![\w.,/\u2044\"'-])(?P<number>{_NUMBER})[\s-]*(?:{_UNIT})(?![\w\"'/\u00b2\u00b3^])", re.IGNORECASE
)
_RANGE = re.compile(rf"(?<!\w)(?:{_NUMBER})\s*(?:to|or|and|-|~)\s*$", re.IGNORECASE)
# The "in" of "2 in front" is no inch
_INCH_FOLLOWS = re.compile(r"\s*(?:$|[.,;:)!?]|(?:wide|tall|high|long|deep|apart|away)\b)", re.IGNORECASE)


def find_lengths(text: str) -> list[float]:
    """Every length of `text` in metres, in order; "5 feet 3 inches" is one. Empty if one of them ends a range."""
    text = re.sub(r"(\d')(?=\d)", r"\1 ", text)  # 5'3"
    found: list[float] = []
    last_end, last_factor = 0, 0.0
    for match in _LENGTH.finditer(text):
        if match[0].casefold().endswith("in") and not _INCH_FOLLOWS.match(text, match.end()):
            continue
        if _RANGE.search(text[max(0, match.start() - 40) : match.start()]):
            return []
        factor = next(_FACTORS[place] for place in range(len(_FACTORS)) if match[f"u{place}"] is not None)
        number = match["number"].casefold()
        length = factor * (NUMBER_WORDS[number] if number in NUMBER_WORDS else float(number.replace(",", "")))
        between = text[last_end : match.start()].strip(" ,.")
        if (last_factor, factor) == (FOOT, INCH) and between in ("", "and"):
            found[-1] += length
        else:
            found.append(length)
        last_end, last_factor = match.end(), factor
    return found


__all__ = ["METRES", "NUMBER_WORDS", "find_lengths"]
