"""Install requirements into the environment that runs this script: with uv, from the indexes that pip is set up with.

    .venv/bin/python scripts/install.py -c constraints.txt -e ".[nano,dev]"      # arguments of `pip install`

uv takes about a fifth of pip's time. If it cannot install, pip does.
"""

import ast
import os
import subprocess
import sys

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
SCOPES = ("global", "user", "site", "install", ":env:")  # a later one counts


def uv_settings(listed: str) -> dict[str, str]:
    """Environment variables of uv for the output of `pip config list`: a line <scope>.<setting>='<value>' each."""
    found: dict[str, str] = {}
    rows = [line.partition("=")[::2] for line in listed.splitlines()]
    for scope in SCOPES:
        for name, value in rows:
            variable = OF_UV.get(name.removeprefix(f"{scope}."))
            if variable:
                between = "," if variable == "UV_FIND_LINKS" else " "
                found[variable] = between.join(ast.literal_eval(value).split())
    return found


def main() -> int:
    """Install the requirements that the arguments name. Returns the exit status of the installer."""
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=False).stdout
    # pip takes the best version of all indexes
    settings = {"UV_INDEX_STRATEGY": "unsafe-best-match", **uv_settings(listed)}
    if not subprocess.run([*PIP, *QUIET, "-c", "constraints.txt", "uv"], check=False).returncode:
        uv = (sys.executable, "-m", "uv", "pip", *QUIET, "--python", sys.executable)
        if not subprocess.run([*uv, *sys.argv[1:]], env={**settings, **os.environ}, check=False).returncode:
            return 0
    return subprocess.run([*PIP, *QUIET, "--no-compile", *sys.argv[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
