"""Records of config keys. Checks, command-line options, help and documentation are derived from them.

batch_size: int = setting(4, "Samples per process and forward pass.", low=1)
"""

from __future__ import annotations

import difflib
import json
import math
import types
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import MissingFileError, TheWorldError, brief
from .folders import read_object

WORDS: dict[Any, str] = {
    **{int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"},
    **{dict: "an object", list: "a list", tuple: "a list"},
}


@dataclass(frozen=True)
class Key:
    """One key of a config.

    Args:
        name: Its name in Python, in JSON and on the command line.
        kind: Its type, resolved.
        default: Its value if it is not given.
        help: One plain sentence.
        low: Smallest number, or shortest text.
        high: Largest number.
        above: A number must be larger than this.
        choices: Allowed texts; empty for any text.
        unset: Meaning of the default, if the value does not show it.
        argument: The fields of `transformers.TrainingArguments` that it sets, if their names differ from its own.
        shapes: Whether a change in a resumed run changes its losses.
        local: Whether it is a path, an account or the like, which does not describe the weights.
        secret: Whether it is left out of files and messages.
        refused: Why a run cannot set this key.
        source: The class that defines it, for the documentation.
    """

    name: str
    kind: Any
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    unset: str | None = None
    argument: str = ""
    shapes: bool = False
    local: bool = False
    secret: bool = False
    refused: str | None = None
    source: str = "TrainingConfig"

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The alternatives of the type."""
        return get_args(self.kind) if get_origin(self.kind) in (Union, types.UnionType) else (self.kind,)

    @property
    def expected(self) -> str:
        """The type, or the choices, in words."""
        options = f"one of {', '.join(self.choices)}"
        words = [options if self.choices and _is_text(kind) else WORDS[get_origin(kind) or kind] for kind in self.kinds]
        return " or ".join(dict.fromkeys(words))

    @property
    def range(self) -> str:
        """The range in words; empty without a range."""
        if (self.low, self.high) == (0, 1):
            return "a share between 0 and 1"
        if self.high is not None:
            return f"{self.low} to {self.high}"
        if self.above is not None:
            return f"more than {self.above}"
        if self.low is None:
            return ""
        return "a name" if any(_is_text(kind) for kind in self.kinds) else f"at least {self.low}"

    @property
    def limits(self) -> str:
        """Type, choices and range in words, for help and documentation."""
        if self.range == "a name":
            return self.expected.replace("text", "a name")
        return f"{self.expected}, {self.range}" if self.range else self.expected

    @property
    def example(self) -> str:
        """Example of a list or an object on a command line; empty for other types."""
        kind = next((kind for kind in self.kinds if (get_origin(kind) or kind) in (list, dict)), None)
        items = [1, 2] if {int, float} & set(get_args(kind)) else ["a", "b"]
        written = json.dumps({"name": items[0]} if (get_origin(kind) or kind) is dict else items)
        return "" if kind is None else f"; write it as JSON, as in '{written}'"

    @property
    def shown_default(self) -> str:
        """The default as a user would write it."""
        return self.unset or (self.default if isinstance(self.default, str) else json.dumps(self.default))

    def check(self, value: Any) -> None:
        """Raise a ValueError, which names key, value and what was expected, unless `value` has the type and range."""
        if not any(self._fits(value, kind) for kind in self.kinds):
            got = "" if self.choices and isinstance(value, str) else f", got {type(value).__name__}"
            if float in self.kinds and type(value) is float:
                got = " that is finite"
            raise TheWorldError(f"{self._named(value)}: expected {self.expected}{got}")
        for item in value if isinstance(value, list | tuple) else [value]:
            size = len(item) if isinstance(item, str) else item
            if isinstance(size, int | float) and not (
                (self.low is None or size >= self.low)
                and (self.high is None or size <= self.high)
                and (self.above is None or size > self.above)
            ):
                raise TheWorldError(f"{self._named(value)}: expected {self.range}")

    def parse(self, text: str) -> Any:
        """The value of `text` from a command line: `none`, `true`, a number as in Python, JSON, or the text itself.

        Raises:
            ValueError: It is not a value of the key's type.
        """
        word, kinds = text.lower(), [get_origin(kind) or kind for kind in self.kinds]
        if types.NoneType in kinds and word in ("none", "null"):
            return None
        if bool in kinds and word in ("true", "false"):
            return word == "true"
        if (dict in kinds and text.startswith("{")) or (list in kinds and text.startswith("[")):
            try:
                return json.loads(text)
            except (ValueError, RecursionError) as error:
                raise TheWorldError(f"{self._named(text)}: not JSON ({error}){self.example}") from error
        for number in (int, float):
            if number in kinds or float in kinds:  # a whole number stays an int
                with suppress(ValueError):
                    return number(text)
        if any(_is_text(kind) for kind in self.kinds):
            return text
        raise TheWorldError(f"{self._named(text)}: expected {self.expected}{self.example}")

    def _named(self, value: Any) -> str:
        return f"{self.name}={'***' if self.secret else brief(repr(value))}"

    def _fits(self, value: Any, kind: Any) -> bool:
        if _is_text(kind):
            return type(value) is str and (not self.choices or value in self.choices)
        if kind is Any:
            return True
        if kind is float:
            return (type(value) is int and abs(value) < 2**63) or (type(value) is float and math.isfinite(value))
        origin, inner = get_origin(kind) or kind, get_args(kind)
        items = value.values() if isinstance(value, dict) else value
        return type(value) is origin and (
            origin not in (dict, list) or not inner or all(self._fits(item, inner[-1]) for item in items)
        )


def _is_text(kind: Any) -> bool:
    return kind is str or get_origin(kind) is Literal


def setting(default: Any, help: str, **record: Any) -> Any:
    """A dataclass field with the arguments of `Key` in `record`."""
    return field(default=default, repr=not record.get("secret"), metadata={"help": help, **record})


@cache
def keys(config: type) -> dict[str, Key]:
    """The records of a dataclass whose fields are settings."""
    hints = get_type_hints(config)
    found: dict[str, Key] = {}
    for entry in fields(config):
        kind = hints[entry.name]
        literals = [one for one in (kind, *get_args(kind)) if get_origin(one) is Literal]
        record = dict[str, Any](entry.metadata)
        record.setdefault("choices", tuple(choice for literal in literals for choice in get_args(literal)))
        found[entry.name] = Key(entry.name, kind, entry.default, **record)
    return found


def check_numbers(fields: dict[str, Any], largest: Mapping[str, int]) -> None:
    """Raise a ValueError for numbers, also nested, that could make a loader exhaust time or memory.

    Args:
        largest: Upper limits of fields by name, with lower limit 1; all other numbers may have 64 bits.
    """
    for name, value in fields.items():
        least, most = (1, largest[name]) if name in largest else (-(2**63), 2**63)
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, dict | list | tuple):
                check_numbers(item if isinstance(item, dict) else {name: item}, largest)
            elif isinstance(item, int | float) and not least <= item <= most:  # also false for NaN
                raise TheWorldError(f"{name}={item}: expected a number of at least {least} and at most {most}")


def nearest(name: str, names: Iterable[str], *, initials: bool = False) -> str:
    """`did you mean ...?` with the most similar of `names`; empty if none is similar.

    Args:
        initials: Prefer the only name whose words begin with the letters of `name`, as in `lr` for `learning_rate`.
    """
    known, letters = {one.strip("-"): one for one in names}, name.strip("-")  # options are not alike by their dashes
    short = [one for one in known if "".join(word[:1] for word in one.split("_")) == letters]
    found = short if initials and len(short) == 1 else difflib.get_close_matches(letters, known, n=1, cutoff=0.6)
    return f"did you mean {known[found[0]]!r}?" if found else ""


def known_values(values: Mapping[str, Any], config: type, listed: str) -> dict[str, Any]:
    """The values that are no comments: keys that begin with `_` are left out.

    Raises:
        ValueError: One is no key of `config`; names the nearest key, or where they are `listed`.
    """
    given = {name: value for name, value in values.items() if not name.startswith("_")}
    for name in given.keys() - keys(config).keys():
        raise TheWorldError(
            f"unknown config key {brief(repr(name))}: {nearest(name, keys(config), initials=True) or listed}"
        )
    return given


def read_values(path: Path) -> dict[str, Any]:
    """The keys of a config file; those that begin with `_` are comments.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a JSON object.
    """
    if not path.is_file():
        found = "a folder, not a config file" if path.is_dir() else "no such config file"
        raise MissingFileError(f"{path}: {found}")
    values = read_object(path, cure="its keys are those of the config, and comments are keys that begin with '_'")
    return {name: value for name, value in values.items() if not name.startswith("_")}


__all__ = ["Key", "check_numbers", "keys", "known_values", "nearest", "read_values", "setting"]
