"""The wheel holds the whole package, works from any folder, and declares what it imports."""

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, metadata, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import theworld

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "src" / "theworld"


def shell(*command: str | Path, cwd: Path) -> str:
    """Run a command, without the path to the sources of the checkout; its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What `make dist` makes: the wheel and the source distribution, by suffix."""
    folder = tmp_path_factory.mktemp("dist")
    shell(sys.executable, "-m", "hatchling", "build", "--directory", folder, cwd=PROJECT)
    return {path.suffix: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def installed(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; what the wheel depends on comes from this one."""
    folder = tmp_path_factory.mktemp("environment")
    shell(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    options = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-deps")
    shell(sys.executable, "-m", "pip", "--python", folder, "install", *options, built[".whl"], cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    here = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (site / "test_environment.pth").write_text(here, encoding="utf-8")
    return folder / "bin"


def test_wheel_holds_every_file_of_the_package(built: dict[str, Path]) -> None:
    expected = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in zipfile.ZipFile(built[".whl"]).namelist() if name.startswith("theworld/")}
    assert packed == expected
    assert "theworld/py.typed" in packed


def test_source_distribution_holds_the_tree(built: dict[str, Path]) -> None:
    """All that tests and documents need: the files of the repository, and none that git ignores."""
    listed = shell("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=PROJECT).splitlines()
    with tarfile.open(built[".gz"]) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert packed == {name for name in listed if (PROJECT / name).is_file()} | {"PKG-INFO"}
    assert {"tests/tiny.py", "docs/training.md", "configs/default.json", "Makefile"} <= packed


def test_distributions_can_be_published(built: dict[str, Path]) -> None:
    shell(sys.executable, "-m", "twine", "check", "--strict", *built.values(), cwd=PROJECT)


def test_installed_package_works_from_another_folder(installed: Path, tmp_path: Path) -> None:
    where = shell(installed / "python", "-c", "import theworld; print(theworld.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    command = installed / "theworld"
    assert shell(command, "--version", cwd=tmp_path) == f"theworld {theworld.__version__}\n"
    assert "--num_world_steps" in shell(command, "ask", "--help", cwd=tmp_path)
    environment = json.loads(shell(command, "env", "--json", cwd=tmp_path))
    assert environment["packages"]["theworld"] == theworld.__version__
    assert environment["git"] is None


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_is_declared() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    runtime = [*project["dependencies"], *(name for extra in extras if extra != "dev" for name in extras[extra])]
    declared = {normalised(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in runtime}
    distributions = packages_distributions()
    for module in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            else:
                continue
            for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"theworld"}:
                candidates = {normalised(name) for name in distributions.get(top, [top])}
                assert candidates & declared, f"{module} imports {top}, which pyproject.toml does not declare"


def requirements() -> dict[str, list[str]]:
    """Requirements by extra; those of every installation stand under ""."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"": project["dependencies"], **project["optional-dependencies"]}


def pins(path: str) -> dict[str, str]:
    """Versions by normalised name; fails on a line that is not a plain `name==version`."""
    found: dict[str, str] = {}
    for line in (PROJECT / path).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            found[normalised(name)] = version
    return found


def test_pins_cover_the_dependencies() -> None:
    own_environments = ("lmms", "cosmos-guardrail", "all")
    direct = [
        Requirement(text) for extra, texts in requirements().items() if extra not in own_environments for text in texts
    ]
    pinned = pins("constraints.txt")
    for requirement in direct:
        if requirement.name != "theworld":
            assert requirement.specifier.contains(pinned[normalised(requirement.name)]), requirement


@pytest.mark.parametrize("path", ["constraints.txt", "tests/versions/oldest.txt", "tests/versions/newest.txt"])
def test_pins_install_anywhere(path: str) -> None:
    assert pins(path)
    for name, version in pins(path).items():
        assert re.fullmatch(r"[\w.]+", version), f"{name}=={version}: a build that only some registries have"


def test_pins_admit_the_first_release_of_the_oldest_python() -> None:
    """Debian 12 has 3.11.2, and a package may need a later one."""
    told = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    oldest, checked = f"{told.removeprefix('>=')}.0", 0
    for name, version in pins("constraints.txt").items():
        try:
            about = metadata(name)
        except PackageNotFoundError:  # of an environment of its own
            continue
        assert Version(about["Version"]).public == version
        needed = about["Requires-Python"] or ""
        assert SpecifierSet(needed).contains(oldest), f"{name}=={version} needs Python {needed}"
        checked += 1
    assert checked > 100


def test_oldest_versions_are_the_lower_bounds() -> None:
    oldest = pins("tests/versions/oldest.txt") | {"torch": pins("constraints.txt")["torch"]}
    bounds = {
        normalised(requirement.name): Version(specifier.version)
        for texts in requirements().values()
        for requirement in map(Requirement, texts)
        for specifier in requirement.specifier
        if specifier.operator == ">="
    }
    assert {normalised(Requirement(text).name) for text in requirements()[""]} <= set(oldest)
    for name, version in oldest.items():
        assert Version(version) == bounds[name], f"{name}: tested with {version}, admitted from {bounds[name]}"


def test_newest_transformers_is_the_last_one_admitted() -> None:
    (text,) = (text for text in requirements()[""] if text.startswith("transformers"))
    major, minor, _ = Version(pins("tests/versions/newest.txt")["transformers"]).release
    bounds = {str(specifier) for specifier in Requirement(text).specifier}
    assert f"<{major}.{minor + 1}" in bounds
