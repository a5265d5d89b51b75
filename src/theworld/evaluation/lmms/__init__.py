"""TheWorld in lmms-eval, whose every task then runs on it: the entry point `lmms_eval.models` leads here."""

from typing import Any

from theworld.utils.imports import require


def get_manifests() -> list[Any]:
    """What lmms-eval registers: `--model theworld`, for tasks in messages and, with `--force_simple`, in plain text."""
    registry = require("lmms", "lmms_eval.models.registry_v2")
    return [
        registry.ModelManifest(
            model_id="theworld",
            chat_class_path=f"{__name__}.models.TheWorldChat",
            simple_class_path=f"{__name__}.models.TheWorldSimple",
        )
    ]


__all__ = ["get_manifests"]
