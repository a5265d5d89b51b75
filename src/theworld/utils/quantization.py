"""Quantised loading, with bitsandbytes."""

from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from .errors import MissingPackageError


def quantization(settings: Any, dtype: torch.dtype) -> dict[str, Any]:
    """The argument of `from_pretrained` for `load_in_4bit` and `load_in_8bit` of `settings`; empty for neither.

    Args:
        dtype: The dtype that layers compute in.

    Raises:
        ImportError: bitsandbytes is not installed.
    """
    key = next((key for key in ("load_in_4bit", "load_in_8bit") if getattr(settings, key)), None)
    if key is None:
        return {}
    if find_spec("bitsandbytes") is None:
        raise MissingPackageError(f"{key}=True needs bitsandbytes: pip install bitsandbytes, or leave {key} out")
    kind = BitsAndBytesConfig(bnb_4bit_compute_dtype=dtype, bnb_4bit_quant_type="nf4", **{key: True})
    return {"quantization_config": kind}


__all__ = ["quantization"]
