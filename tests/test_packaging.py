"""The wheel holds the whole package, works from any folder, and declares what it imports."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import theworld

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "src" / "theworld"


def shell(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    shell(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=PROJECT)
    return next(folder.glob("theworld-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    shell(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, wheel, cwd=folder)
    return folder


def test_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    expected = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("theworld/")}
    assert packed == expected
    assert "theworld/py.typed" in packed


def test_installed_package_works_from_another_folder(installed: Path, tmp_path: Path) -> None:
    location = shell(
        sys.executable, "-c", "import theworld; print(theworld.__file__)", cwd=tmp_path, PYTHONPATH=str(installed)
    )
    assert Path(location.strip()).is_relative_to(installed)
    command = installed / "bin" / "theworld"
    printed = shell(command, "env", "--json", cwd=tmp_path, PYTHONPATH=str(installed))
    environment = json.loads(printed)
    assert environment["packages"]["theworld"] == theworld.__version__
    assert environment["git"] is None


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_is_declared() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    runtime = [*project["dependencies"], *(name for extra in extras if extra != "dev" for name in extras[extra])]
    declared = {normalised(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in runtime}
    distributions = packages_distributions()
    for module in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            else:
                continue
            for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"theworld"}:
                candidates = {normalised(name) for name in distributions.get(top, [top])}
                assert candidates & declared, f"{module} imports {top}, which pyproject.toml does not declare"


def test_pins_cover_the_dependencies() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    direct = [*project["dependencies"], *extras["nano"], *extras["dev"]]
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    pinned = {normalised(line.partition("==")[0]) for line in lines if not line.startswith("#")}
    assert {normalised(re.split(r"[<>=]", requirement)[0]) for requirement in direct} <= pinned
    assert not [line for line in lines if "://" in line or line.startswith("-")]
