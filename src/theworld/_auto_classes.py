"""Tell transformers of a model type before torch, or transformers itself, is imported.

transformers keeps a table from model types to the *names* of config classes, and takes a class from its module when it is
first asked for. One row in that table is all the Auto classes need: asking for it imports `theworld.model`, which
registers the rest. The table's module imports torch, so the row is added when somebody else imports it.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

TABLE = "transformers.models.auto.configuration_auto"


def announce(*, model_type: str, config_class: str, package: str) -> None:
    """Make `AutoConfig` find `config_class` in the module `package`, which is imported already."""
    row = _Row(model_type, config_class, package)
    if TABLE in sys.modules:
        row.add(sys.modules[TABLE])
    else:
        sys.meta_path.insert(0, row)


class _Row(MetaPathFinder):
    """A row of the table; as an import finder, it waits for the table and adds itself."""

    def __init__(self, model_type: str, config_class: str, package: str) -> None:
        self.model_type, self.config_class, self.package = model_type, config_class, package

    def add(self, table: ModuleType) -> None:
        table.CONFIG_MAPPING_NAMES[self.model_type] = self.config_class
        table.CONFIG_MAPPING._modules[self.model_type] = sys.modules[self.package]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != TABLE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, self)
        return spec


class _Then(Loader):
    """Loads a module as `loader` does, then adds the row."""

    def __init__(self, loader: Loader, row: _Row) -> None:
        self.loader, self.row = loader, row

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        self.row.add(module)
