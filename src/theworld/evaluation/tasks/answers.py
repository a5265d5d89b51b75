"""What an answer says, read by rules: `None` where it does not say it plainly, never a guess.

A letter that happens to begin a sentence ("Based on ..." for B) and a number that belongs to "Region [0]" have decided
published scores. So an answer counts when it stands alone, when it is declared ("the answer is ..."; the last such
declaration wins), or when nothing else in the text could be meant.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from .units import NUMBER_WORDS, find_lengths

_STRAIGHT = str.maketrans({"\u2018": "'", "\u2019": "'", "\u2032": "'", "\u201c": '"', "\u201d": '"', "\u2033": '"'})
_DECLARED = re.compile(
    r"\b(?:answer|correct (?:option|choice|region))(?:\s*\([^)]*\))?(?:\s+is(?!\s*not\b)|\s+would be|\s*[:=])\s*:?",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"(?:\b(?:not|never|neither|cannot|rather than|instead of)|n't)(?:\s+\S+)?\s*$", re.IGNORECASE)
_CONCLUSION = re.compile(r"\b(?:so|therefore|thus|hence|must be|choose|pick|select|go with)\b[^.()\n]*$", re.IGNORECASE)
_BOX = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")

# A "no" before a noun ("No cars are here") denies the cars, not the question
_SUBJECT = r"(?:it|this|that|(?:the|this)\s(?:answer|caption|claim|description|statement|sentence|above))"
_YES_NO = re.compile(
    rf"""(?:(?P<yes>yes|yeah|yep|indeed)|nope|no
    |{_SUBJECT}\sisn't\s(?:true|correct|accurate)
    |(?:{_SUBJECT}(?:\sis|'s)\s)?(?P<not>not\s)?
     (?:(?P<true>true|correct|accurate)|false|incorrect|wrong|inaccurate)(?!\sthat))
    (?=\s*(?:$|[,.;:!\n-]|\b(?:the|it|its|there|this|that|these|they|he|she|region|both|neither|because)\b))""",
    re.IGNORECASE | re.VERBOSE,
)
_OPENING = re.compile(r"\s*(?:(?:actually|in fact|well|so|therefore)\b\s*,?\s*)*", re.IGNORECASE)

_REGION = re.compile(r"<?\bregions?\s*\[?\d{1,4}\]?>?", re.IGNORECASE)
_REGIONS = re.compile(  # "Region [0] and [1]" names two
    r"(?:\bregions?\s*\[?\d{1,4}\]?|\[\d{1,4}\])(?:\s*(?:/|&|\band\b|\bor\b)\s*\[?\d{1,4}\b(?!\.\d)\]?)*", re.IGNORECASE
)
_HOUR = rf"(?:\d{{1,2}}|{'|'.join(NUMBER_WORDS)})"
_CLOCK = re.compile(rf"(?<![\w.:/-])({_HOUR})\s*o\s*'?\s*clock\b", re.IGNORECASE)
_CLOCK_RANGE = re.compile(rf"\b{_HOUR}(?:\s*[-/]\s*|\s+(?:to|or|and)\s+){_HOUR}\s*o\s*'?\s*clock", re.IGNORECASE)


def parse_letter(text: str, letters: Collection[str], options: Mapping[str, str] | None = None) -> str | None:
    """The letter of an option: "B", "(B)", "B.", "The correct answer is (B)", "B is closer".

    In this order: a first line that is nothing else, the last declaration, a letter in brackets, the one that is called
    an option, a letter that opens the text, the one option whose own words are said, and a last line that is nothing
    else. Declarations before brackets before an opening letter is the order of lmms-eval since 0.7.3 (its pull request
    1435). A repeated list of options is left out. Where another letter is joined to the one that is found ("A or B",
    "(A)(C)"), there is no answer.

    Args:
        text: What the model said.
        letters: Capital letters or digits that the question offers; others do not count.
        options: Text of every letter's option, when it may stand for the letter.
    """
    one = f"[{''.join(sorted(letters))}]"
    text = _without_lists(_plain(text), one)
    alone = re.compile(rf"(?i)^[ \t]*(?:option |choice )?\(?({one})[).:,\s]*$", re.MULTILINE)
    if alone.match(text.partition("\n")[0]):
        lines = {match[1].upper() for match in alone.finditer(text)}
        return lines.pop() if len(lines) == 1 else None

    # A declaration
    then = r"(?=\s*(?:$|[).:,;!/&\n-])|\s+(?:because|since|as|is|or|and)\b)"
    said = re.compile(rf"\s*(?i:option|choice)?\s*(?:\(((?i:{one}))\)|({one}){then})")
    for tail in _declarations(text):
        if found := said.match(tail):
            return _unless_another(tail, found, one)

    # Letters in brackets: the only one, or of several the last one if the text concludes with it
    brackets = [match for match in re.finditer(rf"\(((?i:{one}))\)", text) if not _denied(text, match)]
    if brackets:
        before = text[: brackets[-1].start()]
        several = len({match[1].upper() for match in brackets}) > 1
        joined = re.search(rf"(?:(?<!\w){one}\)?\s*(?:,|/|&|or|and)?|\))\s*$", before)
        unclear = joined or (several and not _CONCLUSION.search(before))
        return None if unclear else _unless_another(text, brackets[-1], one)

    # One that is called an option, or that opens the text
    named = [match for match in re.finditer(rf"\b(?i:option|choice)\s+({one})\b", text) if not _denied(text, match)]
    opening = re.match(
        rf"({one})(?:[).:](?!\d)|(?=[,/&]|\s+(?:and|or)\b|\s+is\b(?!\s+(?:not|incorrect|wrong|false)\b)|(?<=\d)\s+\())",
        text,
    )
    found = named[0] if len({match[1] for match in named}) == 1 else None if named else opening
    if found:
        return _unless_another(text, found, one)
    said_option = parse_choice(text, tuple((options or {}).values()))
    of_option = next((letter for letter, option in (options or {}).items() if option == said_option), None)
    last_line = alone.match(text.rpartition("\n")[2])
    return of_option or (last_line[1].upper() if last_line else None)


def parse_yes_no(text: str) -> str | None:
    """`yes` or `no`: declared, or by what opens the text, such as "True", "Incorrect", "The statement is not true".

    A "no" before a noun ("No cars are visible") answers nothing, nor does a text that begins otherwise, unless its last
    line is the answer alone. What is taken back at once ("Yes. No.") or by the last line is no answer.
    """
    text = _plain(text)
    declared = next(filter(None, map(_opening_yes_no, _declarations(text))), None)
    said = declared or _opening_yes_no(text) | _opening_yes_no(text.rpartition("\n")[2])
    return said.pop() if len(said) == 1 else None


def _opening_yes_no(text: str) -> set[str]:
    """What a text says at its beginning, and the words right behind it."""
    said: set[str] = set()
    for _ in range(2):
        opening = _OPENING.match(text)
        found = _YES_NO.match(text, opening.end() if opening else 0)
        if not found:
            break
        right = bool(found["yes"] or found["true"])
        said.add("yes" if right != bool(found["not"]) else "no")
        text = re.sub(r"^[\s,.;:!-]+(?:(?:but|and|or)\s)?", "", text[found.end() :])
    return said


def parse_metres(text: str) -> float | None:
    """A length with its unit, in metres: "3.93 feet", "5 feet 3 inches", "about 48 cm", "two metres".

    "Region [k]" is no number. Ranges, numbers without a unit, and lengths that differ are no answer; the same length in
    two units is one.
    """
    text = _REGION.sub(" ", _plain(text))
    for part in (*_declarations(text), text):
        lengths = find_lengths(part)
        if lengths and max(lengths) <= 1.05 * min(lengths):  # rounding between units
            return lengths[0]
    return None


def parse_clock(text: str) -> int | None:
    """An hour from 1 to 12: "2 o'clock", "two o'clock", or the bare number where the text is nothing else."""
    text = _REGION.sub(" ", _plain(text)).strip()
    alone = re.fullmatch(r"(?:about|approximately)?\s*(\d{1,2})\.?", text, re.IGNORECASE)
    for part in (*_declarations(text), text):
        hours = {_hour(match[1]) for match in ([alone] if alone else _CLOCK.finditer(part))}
        if _CLOCK_RANGE.search(part):
            return None
        if len(hours) == 1:
            return hours.pop()
    return None


def parse_region(text: str) -> int | None:
    """The number of the region that is declared or named alone, or the bare number if there is no more."""
    text = _plain(text)
    for part in (*_declarations(text), text):
        alone = re.fullmatch(r"\s*(\d{1,4})\.?\s*", part)
        said = alone[1] if alone else " ".join(match[0] for match in _REGIONS.finditer(part))
        named = {int(number) for number in re.findall(r"\d+", said)}
        if len(named) == 1 and not re.search(r"\b(?:not|neither|nor|cannot)\b|n't\b", part, re.IGNORECASE):
            return named.pop()
    return None


def parse_choice(text: str, choices: Collection[str]) -> str | None:
    """The one choice that is said as whole words, in any case: in a declaration, else in the whole text.

    A choice within a longer one that is said ("ball" in "red ball") does not count as said. Choices "yes" and "no" are
    read by `parse_yes_no`.
    """
    by_name = {choice.casefold(): choice for choice in choices}
    if not by_name:
        return None
    if set(by_name) == {"yes", "no"}:
        answer = parse_yes_no(text)
        return None if answer is None else by_name[answer]
    text = _plain(text)
    longest_first = sorted(by_name, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)
    for part in (*_declarations(text), text):
        found = list(pattern.finditer(part))
        names = {match[0].casefold() for match in found}
        if len(names) == 1 and not any(_denied(part, match) for match in found):
            return by_name[names.pop()]
    return None


def _plain(text: str) -> str:
    """Without Markdown's marks, typographic quotes, and quotes around the whole; of a text with boxes, the last box."""
    text = text.translate(_STRAIGHT).replace("\u2013", "-").replace("\u2014", "-")
    text = re.sub(r"[*_`$]+|\\(?:text|mathrm|textbf|mathbf)\b", "", next(reversed(_BOX.findall(text)), text))
    text = re.sub(r"[{}]", "", text).strip()
    return text[1:-1].strip() if len(text) > 2 and text[0] == text[-1] and text[0] in "'\"" else text


def _declarations(text: str) -> list[str]:
    """What follows every "the answer is", the last one first."""
    return [text[match.end() :] for match in _DECLARED.finditer(text)][::-1]


def _denied(text: str, match: re.Match[str]) -> bool:
    """Whether a "not" stands before it, with at most one word between."""
    return _NEGATED.search(text[max(0, match.start() - 40) : match.start()]) is not None


def _without_lists(text: str, one: str) -> str:
    """Without two or more lines in a row that begin with different letters of options: "A) red", "B) blue"."""
    listed = rf"\(?({one})[).:][ \t]*\S.*"
    lists = re.compile(rf"(?:^|(?<=:))[ \t]*{listed}(?:\n\s*{listed})+".replace(f"({one})", one), re.MULTILINE)
    letters = re.compile(rf"^[ \t]*{listed}", re.MULTILINE)
    return lists.sub(lambda block: block[0] if len(set(letters.findall(block[0]))) == 1 else "", text).strip()


def _unless_another(text: str, found: re.Match[str], one: str) -> str | None:
    """The letter, unless the sentence that goes on behind it names another that is not denied: "A or B", "(A)(C)"."""
    sentence = re.split(r"[.!?](?:\s|$)|\n", text[found.end() :], maxsplit=1)[0]
    letter = next(filter(None, found.groups())).upper()
    joined = rf"^\)?\s*(?:(?:[,/&;+]\s*)?(?:and|or)\b|[,/&;+])\s*\(?({one})\b|\bor\s+\(?({one})\b(?!\s+is\b)"
    others = re.finditer(rf"{joined}|\(({one})\)|(?<![\w(])({one})[):]", sentence)
    another = any(match[match.lastindex or 0] != letter and not _denied(sentence, match) for match in others)
    return None if another else letter


def _hour(word: str) -> int | None:
    number = NUMBER_WORDS.get(word.casefold()) or int(word)
    return number if 1 <= number <= 12 else None
