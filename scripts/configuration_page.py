"""Write docs/configuration.md from the records of the config keys.

python scripts/configuration_page.py
"""

from pathlib import Path

from theworld.training.config import REFUSED, TrainingConfig
from theworld.utils.settings import keys
from theworld.utils.tables import markdown_table

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
TITLES = {
    "TrainingConfig": "Keys of the run",
    "TheWorldConfig": "Keys of the model",
    "TrainingArguments": "Keys of transformers",
}
INTRODUCTION = {
    "TrainingConfig": "Fields of `theworld.TrainingConfig`, in addition to those below.",
    "TheWorldConfig": "Fields of `theworld.TheWorldConfig`. A field that is not given takes the checkpoint's value.",
    "TrainingArguments": (
        "Fields of `transformers.TrainingArguments`, passed on unchanged; see its documentation. A default "
        "that depends on the machine is shown as `transformers' own`."
    ),
}
HEAD = """# Configuration

Every key of a training run: in a JSON file (`theworld train --config run.json`), as an option (`--batch_size 8`), and
in Python (`TrainingConfig(batch_size=8)`). `theworld train --help` lists the same keys, and
`python scripts/configuration_page.py` writes this page from the code.

On the command line, write a number as in Python (`.001`, `1e-4`, `1_000`), a list or object as JSON, and null as
`none`. A flag without a value is `true`. Options cannot be abbreviated.

**Resuming**: if a key marked with * changes, the resumed run has other losses and logs a warning.
"""


def page() -> str:
    """The whole page."""
    sections = [HEAD]
    for source, title in TITLES.items():
        rows = [key for key in keys(TrainingConfig).values() if key.source == source]
        cells = [(f"`{key.name}`{'*' if key.shapes else ''}", key.shown_default, key.limits, key.help) for key in rows]
        sections.append(
            f"## {title}\n\n{INTRODUCTION[source]}\n\n{table(('Key', 'Default', 'Values', 'Meaning'), cells)}"
        )
    told = "Fields that cannot be set, because another key sets them or because they would break the run."
    refused = [(f"`{name}`", reason) for name, reason in sorted(REFUSED.items())]
    sections.append(f"## Keys that cannot be set\n\n{told}\n\n{table(('Field', 'Reason'), refused)}")
    return "\n".join(sections)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table and the end of its last line."""
    return markdown_table(head, [[cell.replace("|", "\\|") for cell in row] for row in rows]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
