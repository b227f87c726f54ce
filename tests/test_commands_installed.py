"""The commands of an installed package are the scripts of experiments/."""

import importlib
import sys
import tomllib

import pytest
from commands import ROOT

from ncjax import cli

SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]


@pytest.mark.parametrize("name", ["pretrain", "evaluate", "report"])
def test_an_installed_command_is_the_script(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, function = SCRIPTS[f"ncjax-{name}"].split(":")
    main = getattr(importlib.import_module(module), function)
    assert main is importlib.import_module(f"experiments.{name}").main
    monkeypatch.setattr(sys, "argv", [f"ncjax-{name}", "--help"])
    monkeypatch.setattr(cli.standard_streams, "prepare", lambda: None)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    assert f"usage: ncjax-{name} " in capsys.readouterr().out
