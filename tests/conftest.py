"""Devices, compilation and runs that tests share.

Eight CPU devices for the sharding tests; every test runs on one of them unless it sets a larger mesh. Workers of
pytest-xdist share one cache of compiled programs.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import shape_checks
from jax.sharding import AxisType, Mesh

shape_checks.install()

import few_shot  # noqa: E402
import tiny  # noqa: E402

from ncjax import models  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_configure(config: pytest.Config) -> None:
    """Tests build the same programs over and over, such as a training step for each run: all workers keep them."""
    shared = getattr(config, "workerinput", {}).get("compiled") or tempfile.mkdtemp(prefix="ncjax-compiled-")
    config.stash[_COMPILED] = shared
    _compile_faster(config)
    jax.config.update("jax_compilation_cache_dir", shared)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _compile_faster(config: pytest.Config) -> None:
    """Lets XLA emit the fusions of the quick tests by its older path, which compiles in three quarters of the time.

    Both paths optimise alike and round differently. The slow tests, oracles among them, take the path that users take.
    XLA ends the process for a flag that it does not know, and so other versions of jaxlib are left as they are.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if config.option.markexpr == "not slow" and version("jaxlib").startswith("0.10.") and "emitters" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hands the folder of compiled programs to a worker."""
    node.workerinput["compiled"] = node.config.stash[_COMPILED]


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(config.stash[_COMPILED], ignore_errors=True)


_COMPILED = pytest.StashKey[str]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked cheap_compilation come last, so that a worker changes over once, and keeps its programs."""
    items.sort(key=_is_cheap)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compiles as the test is marked: with few optimisations in less than half the time, to slightly other numbers.

    The marker is for tests that compare runs with each other, or read their files; not for those that compare numbers
    with an oracle.
    """
    few = _is_cheap(item)
    if item.config.stash.get(_FEW_OPTIMISATIONS, False) != few:
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", few)
        item.config.stash[_FEW_OPTIMISATIONS] = few


def _is_cheap(item: pytest.Item) -> bool:
    return item.get_closest_marker("cheap_compilation") is not None


_FEW_OPTIMISATIONS = pytest.StashKey[bool]()


def make_mesh(count: int) -> Mesh:
    """The ("data",) mesh over the first `count` devices."""
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of prepared data, empty for each test."""
    monkeypatch.setenv("NCJAX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def _one_device() -> Iterator[None]:
    with jax.set_mesh(make_mesh(1)):
        yield


@pytest.fixture
def on_devices() -> Callable[[int], Mesh]:
    """`with jax.set_mesh(on_devices(8)): ...`"""
    return make_mesh


@pytest.fixture(scope="session")
def features() -> np.ndarray:
    """Float32 [212, 12] of overlapping classes; their labels are `few_shot.LABELS`."""
    return few_shot.features()


@pytest.fixture
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any name of a network means the tiny one."""
    monkeypatch.setattr(models, "create", tiny.create)


@pytest.fixture
def signals_are_heard() -> Iterator[None]:
    """Also where the tests run as a background job, which ignores Ctrl-C, or under nohup, which ignores SIGHUP."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny network that nothing interrupted; it may be read and copied, not changed."""
    workdir = tmp_path_factory.mktemp("run") / "whole"
    with pytest.MonkeyPatch.context() as patch, jax.set_mesh(make_mesh(1)):
        patch.setattr(models, "create", tiny.create)
        tiny.run(workdir)
    return workdir
