"""Optional dependencies, named by the extra that installs them."""

import importlib
from types import ModuleType

from .errors import MissingPackageError


def require(extra: str, module: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        extra: the extra of this package that installs it, as in `pip install "theworld[extra]"`.
        module: dotted name of the module to import.

    Raises:
        ImportError: if the dependency is absent; the message names the install command. An error *inside* an installed
            dependency is raised unchanged.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise MissingPackageError(
            f'`{package}` is not installed. Install it with: pip install "theworld[{extra}]"'
        ) from error
