"""The environment is installed from the indexes that pip is set up with."""

import os
import subprocess
from pathlib import Path

from scripts.install import PIP, uv_settings

PIP_CONF = """
[global]
index-url = https://index.example/simple
extra-index-url =
    https://one.example/simple
    https://two.example/simple
find-links = /wheels
[install]
find-links = /wheels /more
"""


def test_uv_takes_the_indexes_of_pip(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text(PIP_CONF, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment |= {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "PIP_INDEX_URL": "https://own.example/simple"}
    listed = subprocess.run([*PIP, "config", "list"], env=environment, capture_output=True, text=True, check=True)
    found = uv_settings(listed.stdout)
    assert {name: found[name] for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS")} == {
        "UV_DEFAULT_INDEX": "https://own.example/simple",
        "UV_INDEX": "https://one.example/simple https://two.example/simple",
        "UV_FIND_LINKS": "/wheels,/more",
    }
    assert uv_settings("") == {}
