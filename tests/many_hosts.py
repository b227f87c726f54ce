"""One of several processes, for test_train_hosts.py: `many_hosts.py steps FILE`, or `many_hosts.py run|die WORKDIR`."""

import os
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import test_train_run
import tiny
from test_train_step import run_steps

from ncjax import cli, devices, models
from ncjax.train import loop


def steps(file: Path) -> None:
    """Twenty steps in float64 and one in float32, the batch over the devices of all processes."""
    first = jax.tree.leaves(run_steps(devices.data_mesh(), 1)[0])
    with jax.enable_x64(True):
        twenty = jax.tree.leaves(run_steps(devices.data_mesh(), 20, np.float64)[0])
    if jax.process_index() == 0:
        arrays = {f"first_{i}": leaf for i, leaf in enumerate(first)}
        np.savez(file, **arrays, **{f"twenty_{i}": leaf for i, leaf in enumerate(twenty)})


def run(workdir: Path, dies: bool) -> None:
    """A whole run of the tiny network, in which the process with the last number may die on the way."""
    models.create = lambda name, k, dtype=np.float32: tiny.network(k, dtype)
    original = loop._Run._advance

    def advance(self: Any, *arguments: Any) -> Any:
        result = original(self, *arguments)
        if dies and result[1] >= 8 and jax.process_index() == jax.process_count() - 1:
            os._exit(9)
        return result

    loop._Run._advance = advance  # type: ignore[method-assign]
    test_train_run.run(workdir)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    with cli.one_line_errors():
        cli.join_processes()
        steps(Path(sys.argv[2])) if sys.argv[1] == "steps" else run(Path(sys.argv[2]), sys.argv[1] == "die")
