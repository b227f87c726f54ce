"""Two processes of two CPU devices each, on the loopback, compared with one process."""

import fcntl
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from steps import alone

from ncjax import restore
from ncjax.train import read_records

pytestmark = pytest.mark.slow

GONE = ("error: a computation with the other processes failed", "This most likely indicates that another task died")


def start(*arguments: str) -> list[tuple[int, str]]:
    """Returns exit codes and outputs of both processes, which must end within four minutes; JAX would wait for five."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tests = Path(__file__).parent
    processes = []
    for index in range(2):
        known = {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(index),
            "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
        }
        command = [sys.executable, str(tests / "many_hosts.py"), *arguments]
        processes.append(
            subprocess.Popen(
                command, env=os.environ | known, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    file = tmp_path / "steps.npz"
    for code, output in start("steps", str(file)):
        assert code == 0, output
    with np.load(file) as found:
        for i, leaf in enumerate(jax.tree.leaves(alone(1))):
            for name in ("first", "streamed"):
                assert np.linalg.norm(found[f"{name}_{i}"] - leaf) <= 1e-5 * np.linalg.norm(leaf)
        with jax.enable_x64(True):
            for i, leaf in enumerate(jax.tree.leaves(alone(20, np.float64))):
                np.testing.assert_allclose(found[f"twenty_{i}"], leaf, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("tiny_network")
def test_two_processes_write_one_run(tmp_path: Path) -> None:
    for code, output in start("run", str(tmp_path / "run")):
        assert code == 0, output
    records = read_records(tmp_path / "run")
    assert [record["step"] for record in records] == [0, 8, 16, 24]
    tiny.run(tmp_path / "alone")
    for one, two in zip(read_records(tmp_path / "alone"), records, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-3)
    assert restore(tmp_path / "run").feature_mean is not None

    # both read a finished run back; without its last checkpoint, both continue from the checkpoint before
    written = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    for code, output in start("run", str(tmp_path / "run")):
        assert code == 0, output
        assert "train:" not in output
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "24")
    for code, output in start("run", str(tmp_path / "run")):
        assert code == 0, output
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == written
    assert restore(tmp_path / "run").feature_mean is not None


def test_what_stops_one_process_at_the_start_stops_both(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (first, said), (second, repeated) = start("run", str(tmp_path / "run"))
    assert (first, second) == (2, 2), said + repeated
    assert "error: another process is at work in" in said
    assert "error: another process of this run stopped" in repeated


def test_what_stops_one_process_on_the_way_stops_both(tmp_path: Path) -> None:
    (first, said), (second, repeated) = start("full", str(tmp_path / "run"))
    assert first == 2
    assert "error: timing.jsonl could not be written: No space left on device" in said
    assert second not in (0, 124)
    assert any(message in repeated for message in GONE)


@pytest.mark.parametrize("number", [0, 1])
def test_a_process_that_dies_ends_the_other_with_a_message(number: int, tmp_path: Path) -> None:
    ended = start(f"die_{number}", str(tmp_path / "run"))
    died, (lived, said) = ended[number][0], ended[1 - number]
    assert died == 9
    assert lived not in (0, 124)
    # JAX may end the other processes without process 0 before Python can run
    assert any(message in said for message in (GONE if number == 0 else GONE[:1]))
