"""Tell transformers of a model type before torch, or transformers itself, is imported.

transformers keeps tables from model types to class *names*, and takes a class from `transformers.models.<type>`
when it is first asked for. So a row in each table and a module of that name are all that its Auto classes, pipelines
and server need. The first class they ask for imports `theworld.model`, which registers the others. The tables live in
modules that import torch: a row is added when somebody else imports its table.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

TABLES = {
    "transformers.models.auto.configuration_auto": ("CONFIG_MAPPING_NAMES",),
    "transformers.models.auto.processing_auto": ("PROCESSOR_MAPPING_NAMES",),
    "transformers.models.auto.modeling_auto": (
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
        "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",  # a copy of the first, with more rows
    ),
}


def announce(model_type: str, *, package: str, config: str, processor: str, model: str) -> None:
    """Make transformers find the classes of a model type.

    Args:
        model_type: as in the `config.json` of a checkpoint.
        package: name of an imported module from which the classes can be taken; they may load lazily.
        config: name of the config class.
        processor: name of the processor class.
        model: name of the model class.
    """
    sys.modules[f"transformers.models.{model_type}"] = sys.modules[package]
    waiting = dict(zip(TABLES, (config, processor, model), strict=True))
    for table in TABLES.keys() & sys.modules.keys():
        _add(sys.modules[table], model_type, waiting.pop(table))
    if waiting:
        sys.meta_path.insert(0, _Rows(model_type, waiting))


def _add(module: ModuleType, model_type: str, class_name: str) -> None:
    for table in TABLES[module.__name__]:
        getattr(module, table)[model_type] = class_name


class _Rows(MetaPathFinder):
    """Rows (table -> class name) that wait for their tables to be imported."""

    def __init__(self, model_type: str, waiting: Mapping[str, str]) -> None:
        self.model_type, self.waiting = model_type, dict(waiting)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        class_name = self.waiting.pop(fullname, None)
        if class_name is None:
            return None
        spec = find_spec(fullname)  # by the finders after this one: the name no longer waits
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, self.model_type, class_name)
        return spec


class _Then(Loader):
    """Loads a table as `loader` does, then adds a row."""

    def __init__(self, loader: Loader, model_type: str, class_name: str) -> None:
        self.loader, self.model_type, self.class_name = loader, model_type, class_name

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _add(module, self.model_type, self.class_name)
