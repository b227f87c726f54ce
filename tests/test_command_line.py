"""What the commands share: errors in one line, the backend, the peak of the devices."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from ncjax import cli
from ncjax.errors import InputError
from ncjax.train.throughput import check_precision, peak


@pytest.mark.parametrize(
    ("said", "starts", "advises"),
    [
        (
            "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.",
            "error: a device ran out of memory (RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.);",
            "--batch_size",
        ),
        *(
            (said, "error: the steps do not run as a CUDA graph here (", "XLA_FLAGS=--xla_gpu_enable_command_buffer= ")
            for said in (
                "INTERNAL: CUDA error: Failed to instantiate CUDA graph: CUDA_ERROR_NOT_SUPPORTED",
                "INTERNAL: CUDA error: Failed to begin stream capture to graph: CUDA_ERROR_NOT_SUPPORTED",
                "INTERNAL: CUDA error: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
                "RESOURCE_EXHAUSTED: Underlying backend ran out of memory trying to instantiate graph with 9 nodes",
            )
        ),
    ],
)
def test_what_a_device_cannot_do_is_one_line(
    said: str, starts: str, advises: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"), cli.one_line_errors():
        raise jax.errors.JaxRuntimeError(f"{said}\nmore")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(starts)
    assert advises in line


@pytest.mark.parametrize(
    ("known", "several"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}, False),  # in a batch script, outside srun
        ({"JAX_NUM_PROCESSES": "2"}, True),
    ],
)
def test_a_process_knows_that_it_is_one_of_several(
    known: dict[str, str], several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    assert cli.one_of_several() == several


def test_compiled_programs_are_kept_in_a_folder_private_to_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ncjax" / "compiled"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
    kept, owner = jax.config.values["jax_compilation_cache_dir"], folder.stat().st_uid
    changed: dict[str, Any] = {}
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(jax.config, "update", changed.__setitem__)
            patch.setattr(os, "getuid", lambda: owner + 1)
            cli.prepare_backend()
            assert not changed  # another user's
            patch.setattr(os, "getuid", lambda: owner)
            cli.prepare_backend()
    finally:
        jax.config.update("jax_compilation_cache_dir", kept)
    assert changed["jax_compilation_cache_dir"] == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_peak_is_measured_under_any_mesh(on_devices: Callable[[int], Mesh]) -> None:
    for count in (1, 8):
        mesh = on_devices(count)
        with jax.set_mesh(mesh):
            assert 1e8 < peak(mesh, "float32").flops < 1e15


def test_bfloat16_is_refused_where_the_device_lacks_it() -> None:
    def mesh_of(capability: str) -> Any:
        device = SimpleNamespace(platform="gpu", compute_capability=capability, device_kind="Tesla V100")
        return SimpleNamespace(devices=np.asarray([device]))

    with pytest.raises(InputError, match=r"Tesla V100 .* has no bfloat16; set float32"):
        check_precision(mesh_of("7.0"), "bfloat16")
    check_precision(mesh_of("7.0"), "float32")
    check_precision(mesh_of("9.0"), "bfloat16")
    check_precision(mesh_of("gfx942"), "bfloat16")
