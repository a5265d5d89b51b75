"""Rules that parse an answer from a model's output. They return `None` for an unclear output, never a guess.

Loose rules have distorted published scores, by reading "Based on ..." as B, or the number of "Region [0]" as a grade.
So an answer counts if the output is nothing else, if it is declared ("the answer is ..."; the last declaration counts),
or if the text names no other candidate.
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

# A "no" before a noun ("No cars are here") negates the noun and does not answer the question
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

    Tried in this order: a first line that is only a letter, the last declaration, a letter in brackets, a letter after
    "option" or "choice", a letter at the start of the text, the only option whose text occurs, and a last line that is
    only a letter. lmms-eval has the same order of declaration, brackets and start since 0.7.3 (its pull request 1435).
    A repeated list of options is ignored. `None` if another letter is joined to the one found ("A or B", "(A)(C)").

    Args:
        text: The model's output.
        letters: Capital letters or digits that the question offers; others do not count.
        options: Text of the option by letter, if the text counts as an answer too.
    """
    one = f"[{''.join(sorted(letters))}]"
    text = _without_lists(_plain(text), one)
    alone = re.compile(rf"(?i)^[ \t]*(?:option |choice )?\(?({one})[).:,\s]*$", re.MULTILINE)
    if alone.match(text.partition("\n")[0]):
        lines = {match[1].upper() for match in alone.finditer(text)}
        return lines.pop() if len(lines) == 1 else None

    # 1. A declaration
    then = r"(?=\s*(?:$|[).:,;!/&\n-])|\s+(?:because|since|as|is|or|and)\b)"
    said = re.compile(rf"\s*(?i:option|choice)?\s*(?:\(((?i:{one}))\)|({one}){then})")
    for tail in _declarations(text):
        if found := said.match(tail):
            return _unless_another(tail, found, one)

    # 2. Letters in brackets: the only one, or of several the last one if the text concludes with it
    brackets = [match for match in re.finditer(rf"\(((?i:{one}))\)", text) if not _denied(text, match)]
    if brackets:
        before = text[: brackets[-1].start()]
        several = len({match[1].upper() for match in brackets}) > 1
        joined = re.search(rf"(?:(?<!\w){one}\)?\s*(?:,|/|&|or|and)?|\))\s*$", before)
        unclear = joined or (several and not _CONCLUSION.search(before))
        return None if unclear else _unless_another(text, brackets[-1], one)

    # 3. A letter after "option" or "choice", a letter at the start, an option's text, or a last line
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
    """`yes` or `no`: declared, or at the start of the text, such as "True", "Incorrect", "The statement is not true".

    A "no" before a noun ("No cars are visible") does not count. A text with another start counts only if its last line
    is just the answer. `None` if the next words ("Yes. No.") or the last line contradict the answer.
    """
    text = _plain(text)
    declared = next(filter(None, map(_opening_yes_no, _declarations(text))), None)
    said = declared or _opening_yes_no(text) | _opening_yes_no(text.rpartition("\n")[2])
    return said.pop() if len(said) == 1 else None


def _opening_yes_no(text: str) -> set[str]:
    """The answers, `yes` or `no`, at the start of a text and directly after the first one."""
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
    """A length with a unit, converted to metres: "3.93 feet", "5 feet 3 inches", "about 48 cm", "two metres".

    The number in "Region [k]" is ignored. `None` for ranges, numbers without a unit, and different lengths. The same
    length in two units counts.
    """
    text = _REGION.sub(" ", _plain(text))
    for part in (*_declarations(text), text):
        lengths = find_lengths(part)
        if lengths and max(lengths) <= 1.05 * min(lengths):  # rounding between units
            return lengths[0]
    return None


def parse_clock(text: str) -> int | None:
    """An hour from 1 to 12: "2 o'clock", "two o'clock", or a text that is only the number."""
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
    """The number of the region that is declared or is the only one named, or a text that is only the number."""
    text = _plain(text)
    for part in (*_declarations(text), text):
        alone = re.fullmatch(r"\s*(\d{1,4})\.?\s*", part)
        said = alone[1] if alone else " ".join(match[0] for match in _REGIONS.finditer(part))
        named = {int(number) for number in re.findall(r"\d+", said)}
        if len(named) == 1 and not re.search(r"\b(?:not|neither|nor|cannot)\b|n't\b", part, re.IGNORECASE):
            return named.pop()
    return None


def parse_choice(text: str, choices: Collection[str]) -> str | None:
    """The only choice that occurs as whole words, in any case: in a declaration, else in the whole text.

    A choice inside a longer one ("ball" in "red ball") does not count. Choices "yes" and "no" are parsed by
    `parse_yes_no`.
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
    """Remove Markdown marks, typographic and enclosing quotes; of a text with LaTeX boxes, keep the last box."""
    text = text.translate(_STRAIGHT).replace("\u2013", "-").replace("\u2014", "-")
    text = re.sub(r"[*_`$]+|\\(?:text|mathrm|textbf|mathbf)\b", "", next(reversed(_BOX.findall(text)), text))
    text = re.sub(r"[{}]", "", text).strip()
    return text[1:-1].strip() if len(text) > 2 and text[0] == text[-1] and text[0] in "'\"" else text


def _declarations(text: str) -> list[str]:
    """The text after every "the answer is", the last one first."""
    return [text[match.end() :] for match in _DECLARED.finditer(text)][::-1]


def _denied(text: str, match: re.Match[str]) -> bool:
    """Whether a negation precedes the match, with at most one word between."""
    return _NEGATED.search(text[max(0, match.start() - 40) : match.start()]) is not None


def _without_lists(text: str, one: str) -> str:
    """Remove lists of options: consecutive lines that start with different letters, such as "A) red", "B) blue"."""
    listed = rf"\(?({one})[).:][ \t]*\S.*"
    lists = re.compile(rf"(?:^|(?<=:))[ \t]*{listed}(?:\n\s*{listed})+".replace(f"({one})", one), re.MULTILINE)
    letters = re.compile(rf"^[ \t]*{listed}", re.MULTILINE)
    return lists.sub(lambda block: block[0] if len(set(letters.findall(block[0]))) == 1 else "", text).strip()


def _unless_another(text: str, found: re.Match[str], one: str) -> str | None:
    """The letter found, or `None` if the rest of its sentence names another without negation: "A or B", "(A)(C)"."""
    sentence = re.split(r"[.!?](?:\s|$)|\n", text[found.end() :], maxsplit=1)[0]
    letter = next(filter(None, found.groups())).upper()
    joined = rf"^\)?\s*(?:(?:[,/&;+]\s*)?(?:and|or)\b|[,/&;+])\s*\(?({one})\b|\bor\s+\(?({one})\b(?!\s+is\b)"
    others = re.finditer(rf"{joined}|\(({one})\)|(?<![\w(])({one})[):]", sentence)
    another = any(match[match.lastindex or 0] != letter and not _denied(sentence, match) for match in others)
    return None if another else letter


def _hour(word: str) -> int | None:
    number = NUMBER_WORDS.get(word.casefold()) or int(word)
    return number if 1 <= number <= 12 else None
