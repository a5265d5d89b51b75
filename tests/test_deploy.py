"""What `deploy/` needs exists: files that are copied, extras that are installed, flags that are given, and the page."""

import json
import re
import shlex
import tomllib
from importlib.metadata import version
from pathlib import Path

import gradio as gr
import pytest
import yaml
from packaging.requirements import Requirement

from tests.scripts import run_script
from theworld.analysis.demo import server
from theworld.cli import demo
from theworld.cli.main import build_parser

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TARGETS = ("serve", "demo")


def stages() -> dict[str, list[tuple[str, str]]]:
    """By stage of the Dockerfile, its instructions and their arguments."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines() if line]
    found: dict[str, list[tuple[str, str]]] = {}
    for instruction, _, rest in (line.partition(" ") for line in lines if not line.startswith("#")):
        if instruction == "FROM":
            found[rest.split(" AS ")[1]] = []
        else:
            [*found.values()][-1].append((instruction, rest))
    return found


def test_copied_files_exist() -> None:
    copied = [rest.split()[:-1] for steps in stages().values() for name, rest in steps if name == "COPY"]
    sources = [source for names in copied for source in names]
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_copied_files_are_sent_to_the_build() -> None:
    copied = [rest.split()[:-1] for steps in stages().values() for name, rest in steps if name == "COPY"]
    _, everything, *sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert everything == "*", "runs, checkpoints and environments stay out of the build"
    assert sorted(sent) == sorted(f"!{source}" for names in copied for source in names)


def test_build_finds_what_the_wheel_needs() -> None:
    copied = " ".join(rest for name, rest in stages()["base"] if name == "COPY").split()
    assert {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "src"} <= set(copied)
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("target", TARGETS)
def test_container_starts_a_command_that_parses(target: str) -> None:
    steps = dict(stages()[target])
    program, *arguments = json.loads(steps["ENTRYPOINT"])
    assert program == "theworld"
    args = build_parser().parse_args([*arguments, *json.loads(steps["CMD"])])
    assert (args.model, args.host, args.port) == ("nano", "0.0.0.0", int(steps["EXPOSE"]))
    (extra,) = re.findall(r"\[(\w+)\]", steps["RUN"])
    assert extra in PROJECT["optional-dependencies"]
    assert steps["USER"] == "user", "the server does not run as root"


def test_documented_options_parse() -> None:
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8").replace("\\\n", " ")
    runs = [line.split("#")[0] for line in text.splitlines() if line.startswith("docker run")]
    assert len(runs) == 3
    for line in runs:
        target, options = re.search(r" theworld-(\w+)(?: (.*))?$", line.strip()).groups()
        build_parser().parse_args([target, *shlex.split(options or "")])
    assert set(re.findall(r"--target (\w+)", text)) == set(TARGETS)


def test_space_card_names_what_is_there() -> None:
    _, front, _ = (DEPLOY / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(front)
    assert (DEPLOY / card["app_file"]).is_file()
    assert card["sdk"] == "gradio"
    (admitted,) = (r for r in map(Requirement, PROJECT["optional-dependencies"]["demo"]) if r.name == "gradio")
    assert admitted.specifier.contains(card["sdk_version"])
    assert card["sdk_version"] == version("gradio"), "the version that the tests run with"
    wanted = Requirement((DEPLOY / "requirements.txt").read_text(encoding="utf-8").strip())
    assert wanted.name == "theworld"
    assert wanted.extras <= PROJECT["optional-dependencies"].keys()


def test_app_builds_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[gr.Blocks, str, str]] = []

    def serve(page: gr.Blocks, host: str, port: int, policy: str) -> str:
        served.append((page, host, policy))
        return f"http://{host}:{port}/"

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(demo, "wait", lambda: None)
    monkeypatch.delenv("MODEL", raising=False)
    run_script(monkeypatch, "deploy/app.py")
    ((page, host, policy),) = served
    assert isinstance(page, gr.Blocks)
    assert "**nano**" in str(page.config)
    assert host == "0.0.0.0"
    assert policy.endswith("frame-ancestors 'self' https://huggingface.co"), "a Space shows the page in a frame"


def test_app_asks_for_the_model_that_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODEL", "no/such/model")
    with pytest.raises(AssertionError):
        run_script(monkeypatch, "deploy/app.py")
    assert "no/such/model" in capsys.readouterr().err
