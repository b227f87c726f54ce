"""The programs of training agree: on any number of devices, for many seeds, in a loop, and streamed."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from steps import alone, run_steps, setup, training_data
from tiny import benchmark

from ncjax.devices import replicated
from ncjax.train import streaming
from ncjax.train.compile import OPTIONS, compile_program
from ncjax.train.step import Batch, TrainState, initial_state, train_step
from ncjax.train.throughput import step_flops
from ncjax.train.trainer import local_rows, resident_trainer, streamed_trainer

pytestmark = pytest.mark.cheap_compilation


@pytest.mark.parametrize("count", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_devices_agree_to_rounding_after_20_steps_in_float64(count: int, on_devices: Callable[[int], Mesh]) -> None:
    with jax.enable_x64(True):
        one, (many,) = alone(20, jnp.float64), run_steps(on_devices(count), 20, jnp.float64)
    assert int(many.step) == 20
    assert_close_in_float64(one, many)


def assert_close_in_float64(one: TrainState, other: TrainState) -> None:
    assert {leaf.dtype for leaf in jax.tree.leaves(one.variables)} == {np.dtype(np.float64)}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), one.variables, other.variables)


def assert_first_step_close(one: TrainState, other: TrainState) -> None:
    def close(a: np.ndarray, b: np.ndarray) -> None:
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a)

    # after one step the momentum is the gradient and its penalty
    jax.tree.map(close, one.optimizer, other.optimizer)
    jax.tree.map(close, one.variables["batch_stats"], other.variables["batch_stats"])


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 8])
def test_first_step_agrees_in_float32(count: int, on_devices: Callable[[int], Mesh]) -> None:
    one, (many,) = alone(1), run_steps(on_devices(count), 1)
    assert_first_step_close(one, many)


@pytest.mark.parametrize(
    ("count", "loop"),
    [
        (2, False),
        pytest.param(2, True, marks=pytest.mark.slow),
        pytest.param(4, False, marks=pytest.mark.slow),
        pytest.param(8, False, marks=pytest.mark.slow),
    ],
)
def test_seeds_trained_together_agree_with_each_alone(
    count: int, loop: bool, on_devices: Callable[[int], Mesh], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three seeds take turns as on CPUs, or are vmapped in one loop as on accelerators."""
    seeds = (3, 4, 7)
    monkeypatch.setattr("ncjax.train.trainer.one_call_a_step", lambda mesh: not loop)
    with jax.enable_x64(True):
        together = run_steps(on_devices(count), 20, jnp.float64, seeds)
        monkeypatch.undo()
        for i, seed in enumerate(seeds):
            assert_close_in_float64(alone(20, jnp.float64, seed), together[i])
    heads = [state.variables["params"]["head"]["kernel"] for state in together]
    assert not np.allclose(heads[0], heads[1])


def test_operations_are_those_of_a_whole_batch_on_any_mesh(
    on_devices: Callable[[int], Mesh], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number that XLA gives for the step on a CPU, whatever the mesh; GPUs and TPUs give none."""
    one, four = setup(on_devices(1)), setup(on_devices(4))
    with jax.set_mesh(on_devices(4)):
        flops = step_flops(four)
    assert flops == step_flops(one)
    data = training_data()
    state = initial_state(one.network, one.tx, 0, one.image_shape)
    batch = Batch(data.images[:16], data.labels[:16], data.mean, data.std)
    step = partial(train_step, one.network, one.tx, one.recipe)
    assert flops == pytest.approx(jax.jit(step).lower(jnp.uint32(0), state, batch).cost_analysis()["flops"], rel=1e-3)

    def no_cpu(backend: str) -> list[jax.Device]:
        raise RuntimeError

    monkeypatch.setattr(jax, "local_devices", no_cpu)
    assert step_flops(one) is None


def test_compile_options_are_the_users_where_he_sets_them(
    on_devices: Callable[[int], Mesh], monkeypatch: pytest.MonkeyPatch
) -> None:
    """XLA_FLAGS takes precedence over ncjax's options; options that a jaxlib lacks do not stop a run."""
    seen = []
    original = jax.stages.Lowered.compile

    def recorded(self: jax.stages.Lowered, compiler_options: dict | None = None, **kwargs) -> jax.stages.Compiled:
        seen.append(compiler_options)
        return original(self, compiler_options, **kwargs)

    monkeypatch.setattr(jax.stages.Lowered, "compile", recorded)
    ours = dict(OPTIONS["cpu"])
    (name,) = ours

    def compile_() -> None:
        compile_program(lambda x: x + 1.0, (jnp.zeros(3),), replicated(on_devices(1)), carry=0)

    compile_()
    assert seen.pop() == ours
    monkeypatch.setenv("XLA_FLAGS", f"--another=1 --{name}=LIBRARY_FUSION_TYPE_DOT")
    compile_()
    assert seen == [{}]
    monkeypatch.delenv("XLA_FLAGS")
    for unknown in ({name: "NOPE"}, {"xla_nope": "1"}):
        monkeypatch.setitem(OPTIONS, "cpu", unknown)
        seen.clear()
        compile_()
        assert seen == [unknown, None]


def test_many_steps_in_one_compiled_call_are_the_same_steps(
    on_devices: Callable[[int], Mesh], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop that accelerators run, here on a CPU, against one call a step."""
    with jax.enable_x64(True):
        monkeypatch.setattr("ncjax.train.trainer.one_call_a_step", lambda mesh: False)
        (in_one_call,) = run_steps(on_devices(1), 20, jnp.float64)
        monkeypatch.undo()
        assert_close_in_float64(alone(20, jnp.float64), in_one_call)


def test_streamed_batches_are_the_resident_ones(on_devices: Callable[[int], Mesh]) -> None:
    """The same steps, bit for bit, over the end of an epoch and from the middle of the stream."""
    (resident,) = run_steps(on_devices(2), 12)
    mesh = on_devices(2)
    with jax.set_mesh(mesh):
        data = training_data()
        batches = streaming.batches(benchmark().source_train, 0, 16, local_rows(mesh, 16))
        first = streamed_trainer(setup(mesh), (data.mean, data.std), batches, 0)
        states, _ = first.run(first.initial, 0, 5)
        second = streamed_trainer(setup(mesh), (data.mean, data.std), batches, 0)
        states, progress = second.run(states, 5, 7)
    assert progress.first_bad_step.tolist() == [-1]
    jax.tree.map(np.testing.assert_array_equal, resident, jax.device_get(states[0]))


@pytest.mark.slow
def test_hundreds_of_steps_between_two_looks_of_the_host() -> None:
    """With a device for each core, XLA ends the process after a minute if too many calls wait for each other."""
    root = Path(__file__).parent.parent
    subprocess.run(
        [sys.executable, str(root / "benchmarks" / "training.py"), "--host"],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"},
        check=True,
        capture_output=True,
        timeout=300,
    )


@pytest.mark.slow
def test_seeds_that_take_turns_do_not_wait_for_each_other() -> None:
    """Four seeds of fifteen calls each are more pending calls than CPU devices can hold: they waited forever."""
    program = (
        "import dataclasses, jax, steps as t; from ncjax import devices; mesh = devices.data_mesh(); "
        "setup = dataclasses.replace(t.setup(mesh), batch_size=8); "
        "trainer = t.resident_trainer(setup, t.training_data(), range(4)); "
        "states, seen = trainer.run(trainer.initial, 0, 15); states, seen = trainer.run(states, 15, 1); "
        "print(mesh.size, len(states), int(states[3].step))"
    )
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests), str(tests.parent)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": paths},
        check=True,
        stdout=subprocess.PIPE,
        timeout=300,
    )
    assert done.stdout == b"8 4 16\n"


def test_the_first_step_that_is_not_finite_is_named(on_devices: Callable[[int], Mesh]) -> None:
    tx = optax.chain(optax.scale_by_schedule(lambda step: jnp.where(step == 2, jnp.inf, -0.01)))
    trainer = resident_trainer(setup(on_devices(1), tx=tx), training_data(), [0])
    _, progress = trainer.run(trainer.initial, 0, 6)
    assert progress.first_bad_step.tolist() == [2]  # its update is infinite, though its loss is not
