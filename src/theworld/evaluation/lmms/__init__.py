"""TheWorld as a model of lmms-eval, registered by the entry point `lmms_eval.models`."""

from typing import Any

from theworld.utils.imports import require


def get_manifests() -> list[Any]:
    """Manifests for lmms-eval: `--model theworld` for chat tasks and, with `--force_simple`, plain-text tasks."""
    registry = require("lmms", "lmms_eval.models.registry_v2")
    return [
        registry.ModelManifest(
            model_id="theworld",
            chat_class_path=f"{__name__}.models.TheWorldChat",
            simple_class_path=f"{__name__}.models.TheWorldSimple",
        )
    ]


__all__ = ["get_manifests"]
