"""Classes that transformers' Auto classes load from an installed package."""

from typing import Any


class Installed:
    """Base of classes that checkpoints load from the installed package, so that a save does not copy their files."""

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Does nothing."""


__all__ = ["Installed"]
