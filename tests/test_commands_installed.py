"""The commands of an installed package are the scripts of experiments/."""

import importlib
import runpy
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
    help_text = capsys.readouterr().out
    assert f"usage: ncjax-{name} " in help_text
    described = help_text.partition("╭")[0].splitlines()
    examples = [line.strip() for line in str(importlib.import_module(module).__doc__).splitlines()]
    for example in [line for line in examples if line.startswith("python ")]:
        assert any(line.startswith(f"  {example}") for line in described), example  # a line of its own


def test_a_module_that_is_a_command_is_named_as_it_is_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ncjax.runs", "--help"])
    monkeypatch.setattr(cli.standard_streams, "prepare", lambda: None)
    with pytest.raises(SystemExit):
        runpy.run_module("ncjax.runs", run_name="__main__", alter_sys=True)
    assert capsys.readouterr().out.startswith("usage: python -m ncjax.runs ")
