import pytest

from theworld.utils.tables import text_table


def test_text_is_on_the_left_and_numbers_are_on_the_right() -> None:
    table = text_table(["component", "count", "licence"], [["vae", "1,000", "MIT"], ["all", "7", ""]], left=(0, 2))
    assert table.splitlines() == ["component  count  licence", "vae        1,000  MIT", "all            7"]


def test_a_table_without_rows_is_its_header() -> None:
    assert text_table(["a", "b"], []) == "a  b"


def test_a_row_that_lacks_a_cell_is_no_row() -> None:
    with pytest.raises(ValueError, match="shorter"):
        text_table(["a", "b"], [["1"]])
