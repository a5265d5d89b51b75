"""`theworld demo`: where it can be reached, and that it ends."""

import pytest

from theworld.analysis.demo import server
from theworld.cli import demo
from theworld.cli.main import main
from theworld.utils.listening import listen


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Serve nothing, and press Ctrl-C at once; the (host, port) asked for."""
    asked: list[tuple[str, int]] = []

    def serve(page: object, host: str, port: int, policy: str) -> str:
        asked.append((host, port))
        return f"http://{host}:{port}/"

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(demo, "wait", interrupt)
    return asked


def test_it_says_where_it_is_and_ends(interrupted: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 130
    assert interrupted == [("127.0.0.1", 7860)]
    captured = capsys.readouterr()
    assert captured.out.startswith("http://127.0.0.1:7860/")
    assert captured.err == ""


def test_an_open_address_is_warned_of_in_one_line(
    interrupted: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--host", "0.0.0.0", "--port", "9"]) == 130
    assert interrupted == [("0.0.0.0", 9)]
    assert capsys.readouterr().err == "warning: 0.0.0.0 is open to other machines: anyone there can use the model\n"


def test_a_port_in_use_is_told_before_the_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as used:
        port = str(used.getsockname()[1])
        assert main(["demo", "--model", "no/such/model", "--port", port]) == 2
    assert f"cannot listen on 127.0.0.1, port {port}" in capsys.readouterr().err


def test_an_origin_that_is_none_is_refused_before_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = "https://a.example; script-src *"
    assert main(["demo", "--model", "no/such/model", "--embed_in", wrong]) == 2
    expected = f"theworld: error: embed_in={wrong!r}: expected an origin, such as https://huggingface.co\n"
    assert capsys.readouterr().err == expected
