"""Classes that transformers' Auto classes load from an installed package."""

from typing import Any


class Installed:
    """A class that checkpoints name by its package: a save must not copy its file into them."""

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Does nothing."""


__all__ = ["Installed"]
