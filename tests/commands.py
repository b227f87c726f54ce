"""Runs commands of experiments/: as a user types them, or inside this process, which is seconds faster."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from ncjax import cli

ROOT = Path(__file__).parent.parent


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def typed(script: str, *arguments: str, cwd: Path) -> Done:
    """Runs experiments/`script` in another process, on two devices, with a cache of its own below `cwd`."""
    own = {"XDG_CACHE_HOME": str(cwd / "cache"), "JAX_NUM_CPU_DEVICES": "2", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / script), *arguments],
        cwd=cwd, env=os.environ | own, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def inside(script: str, *arguments: str, cwd: Path) -> Done:
    """Runs the `main` of experiments/`script` in this process, whose backend has started already."""
    main = importlib.import_module(f"experiments.{script.removesuffix('.py')}").main
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", [script, *arguments]),
        mock.patch.object(cli, "prepare_backend"),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return Done(code, out.getvalue(), err.getvalue())
