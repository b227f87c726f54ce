"""Two processes of two CPU devices each, on the loopback, against one process."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import test_train_run
from test_train_step import alone

from ncjax import models, restore
from ncjax.train import read_records

pytestmark = pytest.mark.slow


def start(*arguments: str) -> list[tuple[int, str]]:
    """Exit codes and outputs of both processes; they must end within four minutes."""
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
            assert np.linalg.norm(found[f"first_{i}"] - leaf) <= 1e-5 * np.linalg.norm(leaf)
        with jax.enable_x64(True):
            for i, leaf in enumerate(jax.tree.leaves(alone(20, np.float64))):
                np.testing.assert_allclose(found[f"twenty_{i}"], leaf, rtol=1e-10, atol=1e-10)


def test_two_processes_write_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for code, output in start("run", str(tmp_path / "run")):
        assert code == 0, output
    monkeypatch.setattr(models, "create", lambda name, k, dtype=np.float32: test_train_run.tiny.network(k, dtype))
    records = read_records(tmp_path / "run")
    assert [record["step"] for record in records] == [0, 8, 16, 24]
    test_train_run.run(tmp_path / "alone")
    for one, two in zip(read_records(tmp_path / "alone"), records, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-3)
    assert restore(tmp_path / "run").feature_mean is not None


def test_a_process_that_dies_ends_the_other_with_a_message(tmp_path: Path) -> None:
    (lived, said), (died, _) = start("die", str(tmp_path / "run"))
    assert died == 9
    assert lived not in (0, 124)
    assert "another process of this run is gone" in said or "JAX distributed service detected fatal errors" in said
