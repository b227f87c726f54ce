"""A process among several, for test_train_hosts.py: `many_hosts.py steps FILE`, or another of its modes and WORKDIR.

run: a whole run; die_0, die_1: that process dies during the run; full: the disk of process 0 fills up during the run.
"""

import errno
import os
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tiny
from jax.sharding import AxisType, Mesh
from steps import run_steps, setup, training_data

from ncjax import cli, devices, models
from ncjax.train import loop, streaming
from ncjax.train.trainer import local_rows, streamed_trainer


def steps(file: Path) -> None:
    """Twenty steps in float64 and one in float32, the batch over the devices of all processes."""
    first = jax.tree.leaves(run_steps(devices.data_mesh(), 1)[0])
    with jax.enable_x64(True):
        twenty = jax.tree.leaves(run_steps(devices.data_mesh(), 20, np.float64)[0])
    streamed = jax.tree.leaves(streamed_step())
    if jax.process_index() == 0:
        named = {"first": first, "twenty": twenty, "streamed": streamed}
        np.savez(file, **{f"{name}_{i}": leaf for name, leaves in named.items() for i, leaf in enumerate(leaves)})


def streamed_step() -> Any:
    """One step in float32, streamed over a mesh in which the devices of the processes alternate."""
    mesh = Mesh(np.asarray(jax.devices()).reshape(2, 2).T.ravel(), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        data = training_data()
        batches = streaming.batches(tiny.benchmark().source_train, 0, 16, local_rows(mesh, 16))
        trainer = streamed_trainer(setup(mesh), (data.mean, data.std), batches, 0)
        states, _ = trainer.run(trainer.initial, 0, 1)
        return jax.device_get(states[0])


def run(workdir: Path, mode: str) -> None:
    """A run of the tiny network."""
    models.create = tiny.create
    original = loop.advance

    def advance(*arguments: Any) -> loop.StepsTaken:
        taken = original(*arguments)
        if taken.step >= 8 and mode == f"die_{jax.process_index()}":
            os._exit(9)
        if taken.step >= 8 and mode == "full" and jax.process_index() == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "timing.jsonl")
        return taken

    loop.advance = advance
    tiny.run(workdir)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    with cli.one_line_errors():
        cli.join_processes()
        steps(Path(sys.argv[2])) if sys.argv[1] == "steps" else run(Path(sys.argv[2]), sys.argv[1])
