"""Regular expressions of strangers end in time."""

import time

import pytest

from theworld.utils.patterns import full_matches


def test_whole_names_match() -> None:
    assert full_matches(r".*\.q_proj", ["a.q_proj", "a.q_projector", "q_proj"], "targets") == ["a.q_proj"]


@pytest.mark.parametrize("pattern", ["(", "(a|aa)+b"])
def test_what_cannot_be_matched_is_refused(pattern: str) -> None:
    begin = time.monotonic()
    with pytest.raises(ValueError, match=r"targets='.*': cannot be matched \(.*\); list the names"):
        full_matches(pattern, ["a" * 200] * 100, "targets", seconds=0.2)
    assert time.monotonic() - begin < 5
