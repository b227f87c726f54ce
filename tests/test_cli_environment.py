"""Scripts in an environment that was made for something else."""

import os
import subprocess
import sys
from pathlib import Path

CODE = """
from ncjax import cli, standard_streams, plots
standard_streams.prepare()
with cli.one_line_errors():
    plots.save(plots.new_figure(1, 1, "±"), "~/x.png")
    print("81 ± 1 %")
    cli.start_backend()
"""


def test_an_unknown_backend_of_figures_is_ignored_and_one_of_jax_is_one_line(tmp_path: Path) -> None:
    hostile = {"MPLBACKEND": "typo", "PYTHONIOENCODING": "ascii", "JAX_PLATFORMS": "cuda", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=os.environ | hostile, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert (tmp_path / "x.png").exists()
    assert done.stdout == f"figure  {tmp_path}/x.png\n81 +- 1 %\n"
    lines = done.stderr.splitlines()
    assert "MPLBACKEND=typo is not a backend of matplotlib: ignored; unset it" in lines
    assert lines[-1].startswith("error: JAX_PLATFORMS=cuda asks for devices that JAX does not find here")
    assert "Traceback" not in done.stderr
