"""Tables as text, for a terminal and a log."""

from collections.abc import Collection, Iterable, Sequence


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: Collection[int] = (0,)) -> str:
    """Columns with two spaces between them, under a header.

    Args:
        header: Title of each column.
        rows: Cells, as many in each row as there are titles.
        left: Columns of text, aligned on the left; the others are numbers, aligned on the right.
    """
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def aligned(line: Sequence[str]) -> str:
        cells = zip(line, widths, strict=True)
        return "  ".join(cell.ljust(n) if index in left else cell.rjust(n) for index, (cell, n) in enumerate(cells))

    return "\n".join(aligned(line).rstrip() for line in lines)
