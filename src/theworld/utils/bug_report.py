"""What a bug report needs to know of a machine, as Markdown: no tokens, and `~` in place of the home folder."""

import os
import re
from collections.abc import Iterator
from importlib.metadata import metadata, requires
from pathlib import Path

import psutil
import torch
from packaging.requirements import Requirement

from .errors import PACKAGE, without_tokens
from .reproducibility import environment, git_text, installed_version
from .tables import markdown_table

VARIABLES = (
    *("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"),
    *("THEWORLD_CACHE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "WORLD_SIZE"),
)
"""Environment variables that change what the package does; an address is shown without its user and password."""
GIB = 2**30


def bug_report() -> str:
    """Versions, devices with their memory, extras and environment variables: a Markdown table to paste."""
    known = environment()
    packages = {name: version or "not installed" for name, version in known["packages"].items()}
    rows = {
        **packages,
        PACKAGE: f"{packages[PACKAGE]}, {git_text(known['git'])}",
        "Python": known["python"],
        "platform": known["platform"],
        "CUDA of torch": torch.version.cuda or "none",
        "devices": "; ".join(_with_memory(known["devices"])),
        "complete extras": ", ".join(complete_extras()) or "none",
        **{name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    return markdown_table(("", ""), [(name, _private(value)) for name, value in rows.items()])


def _with_memory(devices: list[str]) -> Iterator[str]:
    """The devices of `environment()`, GPUs and the CPU with their memory."""
    for index, name in enumerate(devices):
        if name == "cpu":
            yield f"CPU, {os.cpu_count()} cores, {psutil.virtual_memory().total / GIB:.0f} GiB"
        elif name == "mps":
            yield name
        else:  # CUDA devices come first, in the order of torch
            yield f"{name}, {torch.cuda.get_device_properties(index).total_memory / GIB:.0f} GiB"


def complete_extras() -> list[str]:
    """The extras of the package of which every requirement is installed, in whatever version."""
    needed = [Requirement(text) for text in requires(PACKAGE) or ()]

    def complete(extra: str) -> bool:
        of_extra = [one for one in needed if one.marker and one.marker.evaluate({"extra": extra})]
        return all(
            all(map(complete, one.extras)) if one.name == PACKAGE else installed_version(one.name) for one in of_extra
        )

    return [extra for extra in metadata(PACKAGE).get_all("Provides-Extra") or () if complete(extra)]


def _private(value: str) -> str:
    """`value` on one line of a table, without tokens, users and passwords of addresses, and paths of home folders."""
    value = re.sub(r"(?<=://)\S*@", "", value)
    homes = [re.escape(str(home)) for home in (Path.home(), Path.home().resolve()) if home != Path("/")]
    known = "|".join([*homes, r"/(?:home|Users)/[^/:\s]+"])
    text = re.sub(rf"(?<![\w/])(?:{known})(?=[/:\s]|$)", "~", without_tokens(value))
    return " ".join(text.split()).replace("|", "\\|")
