import logging
import warnings

import pytest
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from theworld.utils.logging import configure_logging, logger, quiet_third_party

LIBRARIES = (transformers_logging, diffusers_logging)


def state() -> list[tuple[int, bool]]:
    return [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in LIBRARIES]


def test_quiet_inside_restored_after_an_error() -> None:
    before = state()

    def load() -> None:
        assert state() == [(logging.ERROR, False)] * 2
        warnings.warn("from below", stacklevel=1)
        raise RuntimeError

    with warnings.catch_warnings(record=True) as caught, pytest.raises(RuntimeError), quiet_third_party():
        load()
    assert not caught
    assert state() == before


def test_verbose_changes_nothing() -> None:
    before = state()
    with quiet_third_party(verbose=True):
        assert state() == before


def test_progress_bars_can_stay() -> None:
    shown = [bar for _, bar in state()]
    with quiet_third_party(progress_bars=True):
        assert state() == [(logging.ERROR, bar) for bar in shown]


@pytest.fixture(scope="module")
def command() -> None:
    """What a fixture of a whole module does when it runs a command: it is set up before each test's own fixtures."""
    configure_logging()


@pytest.mark.usefixtures("command")
def test_commands_of_fixtures_leave_the_logger_as_imported() -> None:
    assert (logger.handlers, logger.propagate, logger.level) == ([], True, logging.NOTSET)


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize(("rank", "seen"), [("0", ["info", "warning"]), ("1", ["warning"])])
def test_only_the_first_process_informs(
    rank: str, seen: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RANK", rank)
    with caplog.at_level(logging.INFO, logger="theworld"):
        logger.info("info")
        logger.warning("warning")
    assert caplog.messages == seen
