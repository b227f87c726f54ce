"""Runs continued in another environment: config.json lists the executions, and a warning names the changes."""

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import tiny
from jax.sharding import Mesh

from ncjax import cli, keys
from ncjax.classifier import Classifier
from ncjax.data import Split
from ncjax.errors import InputError
from ncjax.train import Interrupted, loop, measurement as measuring, read_config
from ncjax.train.config import fill
from ncjax.train.description import add_execution, read_description
from ncjax.train.run import Run
from ncjax.train.signals import signals
from ncjax.train.trainer import Trainer

pytestmark = [pytest.mark.cheap_compilation, pytest.mark.usefixtures("tiny_network")]

HERE = {"ncjax": "0.1.0", "jax": "0.10.2", "backend": "gpu", "devices": 2, "jax_enable_x64": False}


def run_of(workdir: Path, **described: Any) -> Path:
    data = tiny.data_description()
    parts: dict[str, Any] = {"config": {}, "total_steps": 24, "data": data, "versions": {}}
    (workdir / "config.json").write_text(json.dumps(parts | described))
    return workdir


def test_every_execution_is_listed_with_its_first_step(tmp_path: Path) -> None:
    run_of(tmp_path, executions=[])
    for step in (0, 8, 16):
        add_execution(tmp_path, {"first_step": step, **HERE})
    assert read_config(tmp_path)["executions"] == [{"first_step": step, **HERE} for step in (0, 8, 16)]
    # the checkpoint of step 16 was damaged, so that its execution is repeated
    add_execution(tmp_path, {"first_step": 12, **HERE})
    assert [entry["first_step"] for entry in read_config(tmp_path)["executions"]] == [0, 8, 12]


@pytest.mark.parametrize(
    ("name", "value"), [("devices", 8), ("jax_enable_x64", True), ("jax", "0.11.0"), ("ncjax", "0.2.0")]
)
def test_what_changes_is_named(name: str, value: Any, tmp_path: Path) -> None:
    run_of(tmp_path, executions=[{"first_step": 0, **HERE}])
    with pytest.warns(UserWarning, match=rf"continues at step 8 in another .*\({name} {HERE[name]}, now {value}\)"):
        add_execution(tmp_path, {"first_step": 8, **HERE, name: value})
    assert read_config(tmp_path)["executions"][1][name] == value


def test_what_changes_no_number_is_listed_without_a_warning(tmp_path: Path) -> None:
    run_of(tmp_path, executions=[{"first_step": 0, **HERE, "python": "3.11", "jax_default_prng_impl": "threefry2x32"}])
    add_execution(tmp_path, {"first_step": 8, **HERE, "python": "3.12", "jax_default_prng_impl": "rbg"})
    assert [entry["python"] for entry in read_config(tmp_path)["executions"]] == ["3.11", "3.12"]


def test_a_run_that_begins_again_has_nothing_to_differ_from(tmp_path: Path) -> None:
    run_of(tmp_path, executions=[{"first_step": 0, **HERE}])
    add_execution(tmp_path, {"first_step": 0, **HERE, "devices": 8})
    assert read_config(tmp_path)["executions"] == [{"first_step": 0, **HERE, "devices": 8}]


def test_a_run_of_an_older_version_says_what_it_said_of_its_last_execution(tmp_path: Path) -> None:
    run_of(tmp_path, versions={"jax": "0.10.0", "devices": 2})
    assert read_description(tmp_path).executions == ({"first_step": 0, "jax": "0.10.0", "devices": 2},)
    with pytest.warns(UserWarning, match=r"\(jax 0\.10\.0, now 0\.10\.2\)"):
        add_execution(tmp_path, {"first_step": 8, **HERE})


def test_a_run_notes_where_it_was_computed(finished: Path) -> None:
    (execution,) = read_config(finished)["executions"]
    names = {"jax_enable_x64", "jax_default_matmul_precision", "jax_threefry_partitionable", "jax_default_prng_impl"}
    assert execution.keys() == {"first_step"} | read_config(finished)["versions"].keys() | names
    assert (execution["first_step"], execution["devices"], execution["jax_enable_x64"]) == (0, 1, False)


@pytest.mark.slow
@pytest.mark.usefixtures("signals_are_heard")
def test_a_run_is_continued_on_other_devices_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_devices: Callable[[int], Mesh]
) -> None:
    settings: dict[str, Any] = {"epochs": 1, "min_steps": 8, "measurements": 0}
    original = loop.advance

    def advance(run: Run, trainer: Trainer, states: Any, step: int, chunk: int) -> loop.StepsTaken:
        os.kill(os.getpid(), signal.SIGHUP)
        return original(run, trainer, states, step, 1)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "advance", advance)
        with pytest.raises(Interrupted) as stopped:
            tiny.run(tmp_path, **settings)
    assert stopped.value.signal == signal.SIGHUP
    before = read_config(tmp_path)["executions"]
    with jax.set_mesh(on_devices(2)), pytest.warns(UserWarning, match=r"continues at step \d .*\(devices 1, now 2\)"):
        tiny.run(tmp_path, **settings)
    now = read_config(tmp_path)["executions"]
    assert now[:1] == before
    assert [entry["devices"] for entry in now] == [1, 2]
    assert {"jax_enable_x64", "jax_threefry_partitionable", "jax_default_prng_impl"} <= now[1].keys()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.run(tmp_path, **settings)  # it is finished, and nothing continues
    assert read_config(tmp_path)["executions"] == now


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.usefixtures("signals_are_heard")
def test_a_signal_in_training_is_noted_and_its_exit_code_says_which(number: signal.Signals) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(Interrupted) as stopped, signals() as stop, stop.deferred():
            os.kill(os.getpid(), number)
        assert stop.signal == number
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        with signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.signal
    finally:
        signal.signal(signal.SIGHUP, before)
    explained = cli._explanation(stopped.value, several=False)
    assert explained is not None
    assert explained[1] == (130 if number == signal.SIGINT else 75)


def test_an_interrupted_command_ends_at_once_and_cleanly() -> None:
    """Programs that run while the interpreter shuts the backend down crash it (jaxlib 0.10)."""
    program = (
        "import os, signal; import jax, jax.numpy as jnp; from ncjax import cli\n"
        "long = jax.jit(lambda a: jax.lax.fori_loop(0, 10**8, lambda i, x: jnp.tanh(x @ x), a))\n"
        "with cli.one_line_errors():\n"
        "    values = [long(jnp.ones((300, 300))) for _ in range(4)]\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs ignore it
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    jax.block_until_ready(values)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_images_that_cannot_be_read_are_no_divergence() -> None:
    class Damaged:
        dtype, ndim, shape = tiny.benchmark().target.images.dtype, 4, tiny.benchmark().target.images.shape

        def __len__(self) -> int:
            return self.shape[0]

        def __getitem__(self, rows: Any) -> Any:
            raise InputError("record 3 of images.array_record is damaged; prepare the data again")

    benchmark = tiny.benchmark()
    plan = measuring.plan(benchmark, fill(tiny.config(Path())))
    target = Split(benchmark.target.images, benchmark.target.labels, benchmark.target.class_names)
    object.__setattr__(target, "images", Damaged())
    plan.sets["target"] = measuring.Subset(target, plan.sets["target"].rows)
    del plan.sets["source_train"], plan.sets["source_test"]
    network = tiny.network()
    variables = network.init(keys.root(0), (12, 12, 1))
    params = Classifier(variables, jnp.zeros(1), jnp.ones(1), network=network, augmentation="none")
    with pytest.raises(InputError, match=r"record 3 of images\.array_record is damaged") as error:
        measuring.measure(params, plan, step=8, epoch=1.0)
    assert not isinstance(error.value, measuring.NotFinite)
