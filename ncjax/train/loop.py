"""The training loop: `pretrain` and `restore`."""

import dataclasses
import fcntl
import json
import os
import platform
import signal
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ncjax import data, devices, models
from ncjax.classifier import Classifier, features
from ncjax.data import Benchmark
from ncjax.errors import InputError
from ncjax.train import measurement as measuring
from ncjax.train import records as files
from ncjax.train.checkpoint import Checkpoints
from ncjax.train.config import Config, identity, resolve
from ncjax.train.measurement import Measurement, Record
from ncjax.train.step import TrainData, Trainer, TrainState, initial_state, make_trainer, optimizer

_SECONDS_BETWEEN_CHECKPOINTS = 60.0
_SECONDS_BETWEEN_LOOKS = 0.5
_LOCK = ".lock"


class Interrupted(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM); its state is saved, and the same call continues it.

    Attributes:
      signal: which signal asked.
    """

    def __init__(self, step: int, number: int) -> None:
        super().__init__(f"interrupted after step {step}; saved: the same command continues from there")
        self.signal = number


class Refused(InputError):
    """A folder in which this run may not be written."""


class Diverged(InputError):
    """The loss or the weights were not finite."""


def pretrain(config: Config, *, benchmark: Benchmark | None = None) -> Classifier:
    """Trains a classifier on the source classes and records its collapse on the way.

    Writes into `config.workdir` (see `Config`): config.json, metrics.jsonl, timing.jsonl and checkpoints. A run
    that was interrupted continues from its last checkpoint, to the same numbers as if it had not been; a finished one
    is read back.

    Args:
      config: the settings; those left None are filled in by preset and data set.
      benchmark: data of the caller's own, in the place of `ncjax.data.load(config.dataset, …)`.

    Returns:
      The trained classifier; of `config.seeds` > 1 runs, that of the first.

    Raises:
      InputError: for a setting that cannot be, a folder that holds another run, data that cannot be read.
      Diverged: if the loss stops being finite; the last good checkpoint stays.
      Interrupted: after SIGINT or SIGTERM, once the state is saved.
    """
    config = resolve(config)
    if config.seeds > 1:
        return _pretrain_seeds(config, benchmark)
    assert config.workdir is not None
    finished = _read_finished(config, benchmark)
    if finished is not None:
        return finished
    if benchmark is None:
        benchmark = load_benchmark(config)
    return _Run(config, benchmark).train()


def load_benchmark(config: Config) -> Benchmark:
    """The data of a run."""
    return data.load(
        config.dataset,
        data_dir=config.data_dir,
        num_source_classes=config.num_source_classes,
        source_test_per_class=config.source_test_per_class,
        samples_per_class=config.samples_per_class,
        split_seed=config.split_seed,
        image_size=config.image_size,
        rotations=config.rotations,
        skip_corrupt=config.skip_corrupt,
    )


def _pretrain_seeds(config: Config, benchmark: Benchmark | None) -> Classifier:
    assert config.workdir is not None
    if (config.workdir / "config.json").exists():
        raise InputError(f"{config.workdir} holds a run of one seed; choose another --workdir for {config.seeds} seeds")
    each = [
        dataclasses.replace(config, seeds=1, seed=config.seed + i, workdir=config.workdir / f"seed_{i}")
        for i in range(config.seeds)
    ]
    finished = [_read_finished(one, benchmark) for one in each]  # says of every folder what is wrong with it
    if benchmark is None and None in finished:
        benchmark = load_benchmark(config)
    classifiers = [pretrain(one, benchmark=benchmark) for one in each]
    return classifiers[0]


def restore(workdir: str | Path, step: int | None = None) -> Classifier:
    """The classifier of a run.

    Args:
      workdir: the run's folder.
      step: which checkpoint; the newest by default.

    Raises:
      InputError: if the folder holds no run, or no checkpoint of that step.
    """
    if not (Path(workdir) / "config.json").exists() and (Path(workdir) / "seed_0").is_dir():
        raise InputError(
            f"{workdir} holds runs of many seeds; give one of them, for example {Path(workdir) / 'seed_0'}"
        )
    described = files.read_config(workdir)
    network = models.create(described["config"]["network"], described["data"]["num_source_classes"])
    abstract = jax.eval_shape(lambda: network.init(jax.random.key(0), tuple(described["data"]["image_shape"])))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), abstract)
    with Checkpoints(Path(workdir) / "checkpoints", read_only=True) as checkpoints:
        variables, progress = checkpoints.load_variables(abstract, step)
    return Classifier(
        variables,
        jnp.asarray(described["data"]["mean"], jnp.float32),
        jnp.asarray(described["data"]["std"], jnp.float32),
        None if progress["feature_mean"] is None else jnp.asarray(progress["feature_mean"], jnp.float32),
        network=network,
        augmentation=described["data"]["augmentation"],
    )


def _read_finished(config: Config, benchmark: Benchmark | None) -> Classifier | None:
    """The classifier of a run that has nothing left to do; None for any other.

    Raises:
      InputError: if the folder holds another run, or nothing can be written where it should be.
    """
    workdir = config.workdir
    assert workdir is not None
    try:
        if not (workdir / "config.json").exists():
            _check_free(workdir)
            return None
        described = files.read_config(workdir)
        _same_settings(described, identity(config), workdir)
        if benchmark is not None:
            _same_data(described, benchmark, workdir)
        if files.read_records(workdir)[-1]["step"] != described["total_steps"]:
            return None
        return restore(workdir, described["total_steps"])
    except InputError as error:
        # a run that has only begun, or whose last checkpoint or records are damaged: an earlier checkpoint continues
        if isinstance(error, Refused):
            raise
        return None
    except OSError as error:
        raise Refused(f"cannot write to {workdir}: {error.strerror}; choose another --workdir") from None


def _check_free(workdir: Path) -> None:
    """Looks, without writing, whether a run may begin here."""
    if workdir.is_dir() and any(path.suffix != ".partial" and path.name != _LOCK for path in workdir.iterdir()):
        raise Refused(f"{workdir} is not empty and holds no run; choose another --workdir")
    above = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    if not above.is_dir():
        raise Refused(f"cannot write to {workdir}: {above} is not a folder; choose another --workdir")
    if not os.access(above, os.W_OK | os.X_OK):
        raise Refused(f"cannot write to {workdir}: no permission in {above}; choose another --workdir")


def _same_settings(old: dict[str, Any], now: dict[str, Any], workdir: Path) -> None:
    before = old.get("identity", {})
    differs = [
        f"{key} {before.get(key)!r} there, {now.get(key)!r} here"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if differs:
        raise Refused(f"{workdir} holds another run ({'; '.join(differs)}); choose another --workdir")


def _same_data(old: dict[str, Any], benchmark: Benchmark, workdir: Path) -> None:
    if old.get("data", {}).get("fingerprint") != fingerprint(benchmark):
        raise Refused(f"{workdir} holds another run (other images or labels); choose another --workdir")


def fingerprint(benchmark: Benchmark) -> str:
    """Tells other data from the same: checksums of the images and labels that are trained and measured on."""
    sums = [
        zlib.crc32(np.ascontiguousarray(array).data)
        for split in (benchmark.source_train, benchmark.source_test, benchmark.target)
        if split is not None
        for array in (split.images, split.labels)
    ]
    return "-".join(f"{s:08x}" for s in sums)


def _pixel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, of pixels in 0..1, float32 [c]."""
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), 1024):  # bincount widens its input eightfold
        for c in range(channels):
            counts[c] += np.bincount(images[start : start + 1024, ..., c].ravel(), minlength=256)
    shares = counts / counts.sum(-1, keepdims=True)
    values = np.arange(256) / 255
    mean = shares @ values
    var = (shares * np.square(values - mean[:, None])).sum(-1)
    return mean.astype(np.float32), np.sqrt(np.maximum(var, 1e-6)).astype(np.float32)


class _Run:
    """One run: what stays the same from its first step to its last."""

    def __init__(self, config: Config, benchmark: Benchmark) -> None:
        self.benchmark = benchmark
        self.config = config
        self.augmentation = config.augmentation or benchmark.augmentation
        assert config.workdir is not None
        self.workdir = config.workdir
        self.mesh = devices.data_mesh()
        train = benchmark.source_train
        self.images = len(train.labels)
        if config.batch_size > self.images:
            raise InputError(
                f"batch_size={config.batch_size} is more than the {self.images} training images; set a smaller one"
            )
        if config.batch_size % self.mesh.size:
            near = max(config.batch_size // self.mesh.size, 1) * self.mesh.size
            raise InputError(
                f"batch_size={config.batch_size} does not divide over {self.mesh.size} devices; set it to {near}, "
                "or on a CPU JAX_NUM_CPU_DEVICES=1"
            )
        self.image_shape = tuple(train.images.shape[1:])
        self.mean, self.std = _pixel_statistics(train.images)
        num_classes = len(train.class_names)
        assert config.network is not None
        assert config.epochs is not None
        assert config.min_steps is not None
        # measured, restored and handed out in float32, whatever the precision of training
        self.network = models.create(config.network, num_classes)
        jax.eval_shape(lambda: self.network.init(jax.random.key(0), self.image_shape))  # images that do not fit it
        self.total_steps = max(-(-config.epochs * self.images // config.batch_size), config.min_steps)
        self.measurement: Measurement = measuring.plan(benchmark, config)
        self.marks = measuring.steps_to_measure(self.total_steps, self.images / config.batch_size, config.measurements)

    def train(self) -> Classifier:
        with self._claim_workdir(), _deferred_signals() as stop:
            return self._train(stop)

    def _train(self, stop: list[int]) -> Classifier:
        config = self.config
        tx = optimizer(config, self.total_steps)
        assert config.network is not None
        network = models.create(config.network, self.network.num_classes, dtype=jnp.dtype(config.precision))
        train = self.benchmark.source_train
        on_device = TrainData(
            jnp.asarray(train.images),
            jnp.asarray(train.labels),
            jnp.asarray(self.mean),
            jnp.asarray(self.std),
        )
        trainer = make_trainer(network, tx, self.mesh, on_device, self.augmentation, config.batch_size, config.seed)
        everywhere = devices.replicated(self.mesh)
        initial = jax.jit(lambda: initial_state(network, tx, config.seed, self.image_shape), out_shardings=everywhere)()
        with Checkpoints(self.workdir / "checkpoints", keep_all=config.keep_checkpoints) as checkpoints:
            loaded = checkpoints.load_newest(initial)
            state, progress = loaded if loaded is not None else (initial, {"records": [], "feature_mean": None})
            files.write_records(self.workdir, progress["records"])
            return self._loop(trainer, checkpoints, state, progress["records"], stop)

    def _loop(
        self,
        trainer: Trainer,
        checkpoints: Checkpoints,
        state: TrainState,
        records: list[Record],
        stop: list[int],
    ) -> Classifier:
        step = int(state.step)
        saved = time.monotonic()
        chunk = 1
        with tqdm(total=self.total_steps, initial=step, unit="step", desc="train", smoothing=0.05) as bar:
            while True:
                if step in self.marks and (not records or records[-1]["step"] != step):
                    bar.set_postfix_str("measuring")
                    records.append(self._measure(state, step))
                    files.write_records(self.workdir, records)
                    if step < self.total_steps:
                        checkpoints.save(state, {"records": records, "feature_mean": None})
                        saved = time.monotonic()
                if step == self.total_steps:
                    bar.set_postfix_str("mean feature")
                    break
                state, step, chunk = self._advance(trainer, state, step, chunk, bar)
                if step == self.total_steps:
                    continue  # the end writes its own checkpoint, with all that belongs in it
                if stop:
                    checkpoints.save(state, {"records": records, "feature_mean": None}, wait=True)
                    raise Interrupted(step, stop[0])
                if time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                    checkpoints.save(state, {"records": records, "feature_mean": None})
                    saved = time.monotonic()
        classifier = self._classifier(state)
        mean = features(classifier, self.benchmark.source_train).mean(0, dtype=np.float64).astype(np.float32)
        checkpoints.save(state, {"records": records, "feature_mean": mean.tolist()}, wait=True)
        return dataclasses.replace(classifier, feature_mean=jnp.asarray(mean))

    def _advance(
        self, trainer: Trainer, state: TrainState, step: int, chunk: int, bar: tqdm
    ) -> tuple[TrainState, int, int]:
        """Takes up to `chunk` steps, not past a measurement or the end of an epoch, and waits for them."""
        batch = self.config.batch_size
        epoch, offset = divmod(step * batch, self.images)
        next_mark = next(mark for mark in self.marks if mark > step)
        count = min(chunk, next_mark - step, -(-(self.images - offset) // batch))
        start = time.monotonic()
        state, sums = trainer.run(state, trainer.order(epoch), offset, count)
        seen = jax.device_get(sums)
        seconds = time.monotonic() - start
        if seen.first_bad_step >= 0:
            raise Diverged(
                f"the loss or the weights were not finite at step {seen.first_bad_step} of {self.total_steps} "
                f"(learning_rate={self.config.learning_rate}); checkpoints up to then are kept in {self.workdir}; "
                "try a lower learning_rate in a new workdir"
            )
        bar.update(count)
        bar.set_postfix_str(f"loss {seen.loss / count:.3f}, accuracy {seen.correct / (count * batch):.3f}")
        entry = {
            "step": step + count,
            "steps": count,
            "seconds": seconds,
            "images_per_second": count * batch / seconds,
        }
        files.append_timing(self.workdir, entry)
        wanted = int(count * _SECONDS_BETWEEN_LOOKS / max(seconds, 1e-9))
        return state, step + count, max(1, min(wanted, 2 * chunk))

    def _measure(self, state: TrainState, step: int) -> Record:
        epoch = step * self.config.batch_size / self.images
        start = time.monotonic()
        record = measuring.measure(self._classifier(state), self.measurement, step=step, epoch=epoch)
        files.append_timing(self.workdir, {"step": step, "measure_seconds": time.monotonic() - start})
        return record

    def _classifier(self, state: TrainState) -> Classifier:
        return Classifier(
            state.variables,
            jnp.asarray(self.mean),
            jnp.asarray(self.std),
            network=self.network,
            augmentation=self.augmentation,
        )

    @contextmanager
    def _claim_workdir(self) -> Iterator[None]:
        """Makes the run's folder and keeps other processes out of it.

        Raises:
          Refused: if it holds other data, another process is at work in it, or it cannot be written.
        """
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            lock = (self.workdir / _LOCK).open("w")
        except OSError as error:
            raise Refused(f"cannot write to {self.workdir}: {error.strerror}; choose another --workdir") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Refused(f"another process is at work in {self.workdir}; wait for it or stop it") from None
            path = self.workdir / "config.json"
            if path.exists():
                _same_data(files.read_config(self.workdir), self.benchmark, self.workdir)
            files.write_atomically(path, json.dumps(self._describe(), indent=2) + "\n")
            yield

    def _describe(self) -> dict[str, Any]:
        benchmark = self.benchmark
        splits = {
            "source_train": benchmark.source_train,
            "source_test": benchmark.source_test,
            "validation": benchmark.validation,
            "target": benchmark.target,
        }
        settings = dataclasses.asdict(self.config) | {"workdir": str(self.workdir)}
        return {
            "config": settings,
            "identity": identity(self.config),
            "total_steps": self.total_steps,
            "data": {
                "name": benchmark.name,
                "fingerprint": fingerprint(benchmark),
                "num_source_classes": len(benchmark.source_train.class_names),
                "image_shape": list(self.image_shape),
                "mean": self.mean.tolist(),
                "std": self.std.tolist(),
                "augmentation": self.augmentation,
                "images": {name: len(split.labels) for name, split in splits.items() if split is not None},
                "classes": {name: len(split.class_names) for name, split in splits.items() if split is not None},
            },
            "versions": {
                "python": platform.python_version(),
                "jax": jax.__version__,
                "flax": flax.__version__,
                "backend": jax.default_backend(),
                "devices": self.mesh.size,
            },
        }


@contextmanager
def _deferred_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them, so that the loop can save; a second one does kill.

    Only the main thread may do so; elsewhere nothing is collected. A signal that the process was started to ignore, as
    a shell's background jobs ignore SIGINT, stays ignored.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:  # too late for this run, which is done: what comes after it hears of it
        signal.raise_signal(received[0])
