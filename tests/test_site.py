"""The documentation site builds without a warning, holds every page, and fetches nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

import theworld
from scripts.docs_site import first_page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# What a browser fetches by itself; links that a reader follows may lead elsewhere
FETCHED = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href|srcset)=["']?(?:https?:)?//""")


def pages_of(nav: Any) -> list[str]:
    """The pages of a part of the navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in pages_of(entry)]


def test_every_page_is_in_the_navigation_once() -> None:
    nav = pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"])
    assert sorted(nav) == sorted(["index.md", *(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))])


def test_the_site_builds_without_a_warning_and_without_network(tmp_path: Path) -> None:
    # One test: to build it takes most of the time, and workers share nothing
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | nowhere | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    site = {path.relative_to(tmp_path).as_posix(): path.read_text("utf-8") for path in tmp_path.rglob("*.html")}
    # 1. No page names a folder of the machine (`user` is the one of the containers), or fetches anything from elsewhere
    machine = re.compile(rf"{re.escape(str(ROOT))}|{re.escape(str(Path.home()))}/|/home/(?!user/)\w+/|/ro[o]t/")
    assert FETCHED.search('<script src="https://cdn.example/x.js">')
    for pattern in (machine, FETCHED):
        assert not {name: found[0] for name, page in site.items() if (found := pattern.search(page))}
    # 2. The reference describes the public names, and their fields: by a comment or the help of a setting
    reference = "".join(page for name, page in site.items() if name.startswith("reference/"))
    missing = {name for name in theworld.__all__ if f'id="theworld.{name}"' not in reference}
    assert missing == {"__version__", "TheWorldModel"}
    assert "Maximum number of questions." in reference
    assert "What answers: <code>MODEL</code>, <code>BASE</code>" in reference
    assert "Whether the image is shown." in reference
    # 3. The first page is the README, and snippets that tests do not run are shown as code
    assert 'href="training.html"' in site["index.html"]
    assert "docs/training" not in site["index.html"]
    assert "no-run" not in "".join(site.values())


def test_links_of_the_readme_lead_to_pages() -> None:
    text = '[a](docs/a.md#b) [c](LICENSE) [d](https://e) ![f](docs/f.svg) <img src="docs/g.png">'
    assert first_page(text) == '[a](a.md#b) c [d](https://e) ![f](f.svg) <img src="g.png">'


def test_figures_for_light_and_dark_differ_in_their_colours_alone() -> None:
    light, dark = (sorted(DOCS.glob(f"figures/*-{scheme}.svg")) for scheme in ("light", "dark"))
    assert light
    assert [path.name.replace("light", "dark") for path in light] == [path.name for path in dark]
    for pair in zip(light, dark, strict=True):
        one, other = (re.sub(r"#[0-9a-f]{6}\b", "COLOUR", path.read_text("utf-8")) for path in pair)
        assert one == other
