"""Refuses chat templates that could exhaust time or memory: a template is a program, and may be untrusted.

Rules: a loop iterates over the messages or their contents, an inner loop over elements of the outer loop's variable;
macros do not call macros; nothing repeats or squares a text. The templates of Gemma 3 and of its fine-tunes pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from .errors import TheWorldError

LONGEST = 100_000  # characters
FILTERS = {
    *("trim", "length", "count", "string", "list", "first", "last", "upper", "lower", "int", "items", "default"),
    *("join", "map", "select", "reject", "selectattr", "rejectattr", "safe"),
}
GROWING = {"tojson", "replace"}  # each may double a text
METHODS = {
    *("strip", "lstrip", "rstrip", "startswith", "endswith", "split", "get", "items", "keys", "values"),
    *("upper", "lower", "title"),
}
FUNCTIONS = {"raise_exception", "namespace", "strftime_now", "dict"}
REFUSED = (nodes.Mul, nodes.Pow, nodes.CallBlock, nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
MOST_GROWING = 4


class _Generation(Extension):
    """The `{% generation %}` block of transformers, which marks the assistant's text."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def check_template(template: Any, name: str) -> None:
    """Check that a chat template cannot exhaust time or memory.

    Raises:
        ValueError: It can; names the construct.
    """
    for text in template.values() if isinstance(template, dict) else [template]:
        reason = None if text is None else _problem(str(text))
        if reason:
            raise TheWorldError(
                f"{name}: its chat template {reason}, which could exhaust time or memory; save the checkpoint again "
                "with the template of its base model"
            )


def _problem(text: str) -> str | None:
    if len(text) > LONGEST:
        return f"has {len(text)} characters (at most {LONGEST})"
    try:
        return _construct(text)
    except (TemplateSyntaxError, RecursionError) as error:
        return f"cannot be read ({type(error).__name__}: {error})"


@lru_cache(maxsize=16)  # models of one base share a template
def _construct(text: str) -> str | None:
    """The first construct of a template that is refused."""
    tree = Environment(extensions=[_Generation, "jinja2.ext.loopcontrols"]).parse(text)
    macros = {macro.name for macro in tree.find_all(nodes.Macro)}
    assigned = {name for target, _ in _assignments(tree) for name in _names(target)} - {"loop"}
    return next(_problems(tree, macros, assigned), None)


def _problems(tree: nodes.Template, macros: set[str], assigned: set[str]) -> Iterator[str]:
    grown = set[str]()  # names of concatenated texts
    for node in tree.find_all(REFUSED):
        yield f"uses {type(node).__name__.lower()}"
    for node in tree.find_all(nodes.Filter):
        if node.name not in FILTERS | GROWING:
            yield f"uses the filter {node.name!r}"
    for node in tree.find_all(nodes.Mod):
        if not (isinstance(node.left, nodes.Getattr) and _root(node.left) == "loop"):
            yield "formats a text with %"
    for node in tree.find_all(nodes.Call):
        called = node.node
        known = METHODS | GROWING if isinstance(called, nodes.Getattr) else FUNCTIONS | macros
        label = called.attr if isinstance(called, nodes.Getattr) else getattr(called, "name", "?")
        if label not in known:
            yield f"calls {label!r}"
    if sum(1 for _ in _growing(tree)) > MOST_GROWING:
        yield f"uses {' and '.join(sorted(GROWING))} more than {MOST_GROWING} times"
    for target, value in _assignments(tree):
        if sum(name.name in assigned for name in value.find_all(nodes.Name)) + _is_name(value, assigned) > 1:
            yield f"concatenates {'/'.join(_names(target))} from concatenated texts"
        if any(value.find_all((nodes.Concat, nodes.Add))) or isinstance(value, nodes.Concat | nodes.Add):
            grown |= set(_names(target))
    for macro in tree.find_all(nodes.Macro):
        if any(isinstance(call.node, nodes.Name) and call.node.name in macros for call in macro.find_all(nodes.Call)):
            yield f"calls a macro in the macro {macro.name!r}"
    yield from _loops(tree, None, macros, grown)


def _loops(node: nodes.Node, outer: set[str] | None, macros: set[str], grown: set[str]) -> Iterator[str]:
    """Loops that do not descend the tree of the messages; `outer` are the variables of the loops around `node`."""
    for child in node.iter_child_nodes():
        inside = outer
        if isinstance(child, nodes.Macro):
            inside = {argument.name for argument in child.args}
        elif isinstance(child, nodes.For):
            root = _root(child.iter)
            if root is None or root in grown or child.recursive:
                yield "loops over something other than the messages and their contents"
            elif outer is not None and root not in outer:
                yield f"loops over {root!r} in another loop"
            inside = (outer or set()) | set(_names(child.target))
            if any(_growing(child)) and any(_assignments(child)):
                yield "makes texts longer in a loop"
        elif (
            isinstance(child, nodes.Call)
            and outer is not None
            and getattr(child.node, "name", None) in macros
            and any(_root(value) not in outer and not isinstance(value, nodes.Const) for value in child.args)
        ):
            yield "calls a macro in a loop with something other than the loop's variable"
        yield from _loops(child, inside, macros, grown)


def _growing(node: nodes.Node) -> Iterator[nodes.Node]:
    yield from (found for found in node.find_all(nodes.Filter) if found.name in GROWING)
    for call in node.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and call.node.attr in GROWING:
            yield call


def _assignments(node: nodes.Node) -> Iterator[tuple[nodes.Node, nodes.Node]]:
    yield from ((found.target, found.node) for found in node.find_all(nodes.Assign))
    yield from ((found.target, nodes.Output(found.body)) for found in node.find_all(nodes.AssignBlock))


def _names(target: nodes.Node) -> list[str]:
    own = [target.name] if isinstance(target, nodes.Name | nodes.NSRef) else []
    return own + [name.name for name in target.find_all(nodes.Name)]


def _is_name(node: nodes.Node, names: set[str]) -> bool:
    return isinstance(node, nodes.Name) and node.name in names


def _root(node: nodes.Node) -> str | None:
    """The variable at the root of an expression: `message` in `message['content'][1:] | list`."""
    while isinstance(node, nodes.Getattr | nodes.Getitem | nodes.Filter | nodes.Call):
        if isinstance(node, nodes.Filter) and node.name in GROWING | {"join", "map"}:
            return None
        if isinstance(node, nodes.Call) and not isinstance(node.node, nodes.Getattr):
            return None
        child = node.node
        if child is None:
            return None
        node = child
    return node.name if isinstance(node, nodes.Name) else None


__all__ = ["check_template"]
