"""Install requirements into the environment that runs this script: with uv, from the indexes in pip's configuration.

    .venv/bin/python scripts/install.py -c constraints.txt -e ".[nano,dev]"      # arguments of `pip install`

uv is faster than pip. If it cannot install, pip does.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
QUIET = ("install", "--quiet")
OF_UV = {
    "cert": "SSL_CERT_FILE",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "index-url": "UV_DEFAULT_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
}
"""Setting of pip -> environment variable of uv, which does not read pip's configuration."""
ONLY_PIP = ("client-cert", "no-index", "proxy")
"""With one of these settings, pip installs."""
SCOPES = ("global", "install", ":env:")  # later ones override earlier ones


def pip_settings(listed: str) -> dict[str, list[str]]:
    """Values by setting, from the output of `pip config list`: a line <scope>.<setting>='<values>' each."""
    rows = [line.partition("=")[::2] for line in listed.splitlines()]
    return {
        name.removeprefix(f"{scope}."): ast.literal_eval(value).split()
        for scope in SCOPES
        for name, value in rows
        if name.startswith(f"{scope}.")
    }


def uv_environment(settings: dict[str, list[str]]) -> dict[str, str]:
    """Environment variables of uv for settings of pip."""
    found = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # as pip, which takes the best version of all indexes
    for name in settings.keys() & OF_UV.keys():
        found[OF_UV[name]] = ("," if name == "find-links" else " ").join(settings[name])
    return found


def main() -> int:
    """Install the requirements that the arguments name. Returns the exit status of the installer."""
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=False)
    settings = pip_settings(listed.stdout)
    with_pip = [*PIP, *QUIET, "--no-compile", *sys.argv[1:]]
    get_uv = [*PIP, *QUIET, "-c", str(CONSTRAINTS), "uv"]
    if settings.keys() & {*ONLY_PIP} or subprocess.run(get_uv, check=False).returncode:
        return subprocess.run(with_pip, check=False).returncode
    constraints = [argument for path in settings.get("constraint", ()) for argument in ("-c", path)]
    with_uv = [sys.executable, "-m", "uv", "pip", *QUIET, "--python", sys.executable, *constraints, *sys.argv[1:]]
    environment = {**uv_environment(settings), **os.environ}
    if not subprocess.run(with_uv, env=environment, check=False).returncode:
        return 0
    return subprocess.run(with_pip, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
