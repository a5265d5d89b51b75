from pathlib import Path

import pytest

from theworld.utils.imports import require


def test_present_module_is_returned() -> None:
    assert require("dev", "json.decoder").__name__ == "json.decoder"


def test_absent_module_names_the_extra() -> None:
    with pytest.raises(ImportError, match=r'pip install "theworld\[nano\]"'):
        require("nano", "no_such_engine.core")


def test_fault_inside_the_dependency_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_engine.py").write_text("import something_it_needs", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="something_it_needs"):
        require("nano", "broken_engine")
