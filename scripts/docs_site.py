"""What mkdocs.yml adds to mkdocs: the README as the first page, and the meaning of fields in the reference."""

import ast
import itertools
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

README = Path(__file__).parents[1] / "README.md"
LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")
SOURCE = re.compile(r"""((?:src|srcset|href)=")docs/""")
FENCE = re.compile(r"^(```\w+) no-run$", re.MULTILINE)
BRACKET = re.compile(r"(`[^`]*`)|<")
COMMENT = re.compile(r"\s#\s(.+)$")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make the README the page index.md."""
    files.append(File.generated(config, "index.md", content=first_page(README.read_text(encoding="utf-8"))))
    return files


def first_page(readme: str) -> str:
    """The README with paths relative to docs/; of a link to another file of the repository, the text alone."""

    def link(found: re.Match[str]) -> str:
        text, target = found.groups()
        if target.startswith("docs/"):
            return f"[{text}]({target.removeprefix('docs/')})"
        return found[0] if target.startswith(("#", "http")) else text

    return SOURCE.sub(r"\1", LINK.sub(link, readme))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Drop the tag of snippets that the tests do not run, and send links to the README to the first page."""
    if not page.ancestors:
        page.meta["hide"] = ["navigation"]  # a tab of one page
    return FENCE.sub(r"\1", markdown).replace("](../README.md", "](index.md")


class FieldDocs(griffe.Extension):
    """Lists the fields of a class in its docstring: their meaning is a comment, or the help of their `setting`."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Escape every `<` outside of code: `<output>` is no HTML."""
        if obj.docstring:
            obj.docstring.value = BRACKET.sub(lambda found: found[1] or "&lt;", obj.docstring.value)

    def on_attribute_instance(self, *, node: Any, attr: griffe.Attribute, **_: Any) -> None:
        """Show the default that a `setting` gives, in place of the call."""
        if isinstance(attr.value, griffe.ExprCall) and str(attr.value.function) == "setting":
            attr.value = attr.value.arguments[0]

    def on_class_members(self, *, node: Any, cls: griffe.Class, **_: Any) -> None:
        """Add the fields that have a comment or a help, if the docstring has none."""
        if not isinstance(node, ast.ClassDef) or not cls.docstring or "Attributes:" in cls.docstring.value:
            return
        lines = cls.lines_collection[cls.filepath]  # pyright: ignore[reportArgumentType]
        fields = {field.target: field for field in node.body if isinstance(field, ast.AnnAssign)}
        told = {name.id: meaning(lines, field) for name, field in fields.items() if isinstance(name, ast.Name)}
        rows = [f"    {name}: {text}" for name, text in told.items() if text and not name.startswith("_")]
        if rows:
            cls.docstring.value += "\n".join(("\n\nAttributes:", *rows))


def meaning(lines: list[str], field: ast.AnnAssign) -> str:
    """The help of a `setting`, else the comment behind the field, else the lines of comment directly above it."""
    match field.value:
        case ast.Call(func=ast.Name("setting"), args=[_, ast.Constant(str(text)), *_]):
            return text
        case _:
            assert field.end_lineno is not None
    if beside := COMMENT.search(lines[field.end_lineno - 1][field.end_col_offset :]):
        text = beside[1]
    else:
        before = (line.strip() for line in reversed(lines[: field.lineno - 1]))
        above = itertools.takewhile(lambda line: line.startswith("# "), before)
        text = " ".join(line.removeprefix("# ") for line in reversed([*above]))
    return text and text[0].upper() + text[1:] + "." * (text[-1] not in ".:")
