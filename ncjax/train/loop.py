"""The training loop: `pretrain` and `restore`."""

import dataclasses
import platform
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
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
from ncjax.train import folder, speed, streaming
from ncjax.train import measurement as measuring
from ncjax.train import records as files
from ncjax.train.checkpoint import Checkpoints, load_newest
from ncjax.train.config import Config, identity, objective, resolve
from ncjax.train.events import Events
from ncjax.train.folder import Refused, fingerprint
from ncjax.train.hosts import agree, leads
from ncjax.train.measurement import Measurement, Record
from ncjax.train.signals import Interrupted, deferred_signals
from ncjax.train.step import Batch, TrainState, optimizer
from ncjax.train.trainer import Setup, States, Trainer, resident_trainer, streamed_trainer

_SECONDS_BETWEEN_CHECKPOINTS = 60.0
_SECONDS_BETWEEN_LOOKS = 0.5


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
    assert config.workdir is not None
    each = [config]
    if config.seeds > 1:
        folder.claim_seeds(config.workdir, config.seeds)
        each = [
            dataclasses.replace(config, seeds=1, seed=config.seed + i, workdir=config.workdir / f"seed_{i}")
            for i in range(config.seeds)
        ]
    finished = [_read_finished(one, benchmark) for one in each]  # says of every folder what is wrong with it
    if finished[0] is not None and None not in finished:
        return finished[0]
    if benchmark is None:
        benchmark = load_benchmark(config)
    # a stream of images feeds one seed at a time
    together = isinstance(benchmark.source_train.images, np.ndarray)
    runs = [each] if together else [[one] for one in each]
    classifiers = [_Run(run, benchmark).train() for run in runs]
    return classifiers[0][0]


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
        stream_above=speed.stream_above(config.stream),
    )


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
    with Checkpoints(Path(workdir) / "checkpoints", read_only=True) as checkpoints:
        network = models.create(described["config"]["network"], described["data"]["num_source_classes"])
        abstract = jax.eval_shape(lambda: network.init(jax.random.key(0), tuple(described["data"]["image_shape"])))
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), abstract)
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
    assert config.workdir is not None
    try:
        described = folder.described(config.workdir, identity(config), benchmark)
        if described is None or files.read_records(config.workdir)[-1]["step"] != described["total_steps"]:
            return None
        return restore(config.workdir, described["total_steps"])
    except InputError as error:
        # a run that has only begun, or whose last checkpoint or records are damaged: an earlier checkpoint continues
        if isinstance(error, Refused):
            raise
        return None


def _pixel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, of pixels in 0..1, float32 [c]."""
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), 1024):  # bincount widens its input eightfold
        some = images[start : start + 1024]
        for c in range(channels):
            counts[c] += np.bincount(some[..., c].ravel(), minlength=256)
    shares = counts / counts.sum(-1, keepdims=True)
    values = np.arange(256) / 255
    mean = shares @ values
    var = (shares * np.square(values - mean[:, None])).sum(-1)
    return mean.astype(np.float32), np.sqrt(np.maximum(var, 1e-6)).astype(np.float32)


class _Lane:
    """One seed of a run: its folder, its checkpoints and its records."""

    def __init__(self, config: Config) -> None:
        assert config.workdir is not None
        self.config = config
        self.workdir = config.workdir
        self.checkpoints = Checkpoints(self.workdir / "checkpoints", keep_all=config.keep_checkpoints)
        self.records: list[Record] = []
        self.events = Events(self.workdir / "tensorboard") if config.tensorboard and leads() else None

    def write_records(self) -> None:
        """Brings the files of the records up to date."""
        if leads():
            files.write_records(self.workdir, self.records)
        if self.events is not None:
            self.events.update(self.records)


class _Run:
    """One run, of one seed or of many at once: what stays the same from its first step to its last."""

    def __init__(self, configs: Sequence[Config], benchmark: Benchmark) -> None:
        config = configs[0]
        self.benchmark = benchmark
        self.configs = configs
        self.config = config
        self.augmentation = config.augmentation or benchmark.augmentation
        self.mesh = devices.data_mesh()
        train = benchmark.source_train
        self.images = len(train.labels)
        if config.batch_size > self.images:
            raise InputError(
                f"batch_size={config.batch_size} is more than the {self.images} training images; set a smaller one"
            )
        if len(configs) == 1 and config.batch_size % self.mesh.size:
            near = max(config.batch_size // self.mesh.size, 1) * self.mesh.size
            raise InputError(
                f"batch_size={config.batch_size} does not divide over {self.mesh.size} devices; set it to {near}, "
                "or on a CPU JAX_NUM_CPU_DEVICES=1"
            )
        speed.check_precision(self.mesh, config.precision)
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

    def train(self) -> list[Classifier]:
        with ExitStack() as stack:
            for one in self.configs:
                assert one.workdir is not None
                stack.enter_context(folder.claim(one.workdir, self._describe(one)))
            return self._train(stack.enter_context(deferred_signals()))

    def _train(self, stop: list[int]) -> list[Classifier]:
        trainer = self._trainer()
        with ExitStack() as stack:
            lanes = []
            for config in self.configs:
                lanes.append(_Lane(config))
                stack.enter_context(lanes[-1].checkpoints)
            like = [trainer.one_seed(trainer.initial, i) for i in range(len(lanes))]
            folder.check_space(lanes[0].workdir, len(lanes) * sum(leaf.nbytes for leaf in jax.tree.leaves(like[0])))
            loaded = load_newest([lane.checkpoints for lane in lanes], like)
            states = trainer.initial if loaded is None else trainer.join([state for state, _ in loaded])
            for i, lane in enumerate(lanes):
                lane.records = [] if loaded is None else loaded[i][1]["records"]
                lane.write_records()
            return self._loop(
                trainer, lanes, states, int(like[0].step) if loaded is None else int(loaded[0][0].step), stop
            )

    def _trainer(self) -> Trainer:
        config, train = self.config, self.benchmark.source_train
        assert config.network is not None
        setup = Setup(
            network=models.create(config.network, self.network.num_classes, dtype=jnp.dtype(config.precision)),
            tx=optimizer(config, self.total_steps),
            objective=objective(config),
            augmentation=self.augmentation,
            batch_size=config.batch_size,
            num_images=self.images,
            image_shape=self.image_shape,
            mesh=self.mesh,
        )
        if isinstance(train.images, np.ndarray):
            data = Batch(*map(jnp.asarray, (train.images, train.labels, self.mean, self.std)))
            trainer = resident_trainer(setup, data, [one.seed for one in self.configs])
        else:
            batches = streaming.batches(train, config.seed, config.batch_size)
            data = Batch(*map(jnp.asarray, (*next(batches(0)), self.mean, self.std)))
            trainer = streamed_trainer(setup, data, batches, config.seed)
        self.peak = speed.peak(self.mesh, config.precision)
        self._log(
            {
                "compile_seconds": trainer.compile_seconds,
                "flops_per_step": trainer.flops,
                "peak_flops": self.peak.flops,
                "peak_is_of": self.peak.source,
                "streamed": not isinstance(train.images, np.ndarray),
                "seeds": len(self.configs),
            }
        )
        return trainer

    def _loop(
        self, trainer: Trainer, lanes: list[_Lane], states: States, step: int, stop: list[int]
    ) -> list[Classifier]:
        saved = time.monotonic()
        chunk = 1
        calls = 0
        with tqdm(
            total=self.total_steps, initial=step, unit="step", desc="train", smoothing=0.05, disable=not leads()
        ) as bar:
            while True:
                if step in self.marks and (not lanes[0].records or lanes[0].records[-1]["step"] != step):
                    bar.set_postfix_str("measuring")
                    for i, lane in enumerate(lanes):
                        lane.records.append(self._measure(trainer.one_seed(states, i), step))
                        lane.write_records()
                    if step < self.total_steps:
                        _save(trainer, lanes, states)
                        saved = time.monotonic()
                if step == self.total_steps:
                    bar.set_postfix_str("mean feature")
                    break
                calls += 1
                with speed.trace(lanes[0].workdir / "profile", when=self.config.profile and calls == 2):
                    states, step, chunk = self._advance(trainer, states, step, chunk, bar)
                if step == self.total_steps:
                    continue  # the end writes its own checkpoint, with all that belongs in it
                # processes must agree on these, or one would wait for the others for ever
                signal, due, chunk = agree(
                    stop[0] if stop else 0, time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS, chunk
                )
                if signal:
                    _save(trainer, lanes, states, wait=True)
                    raise Interrupted(step, signal)
                if due:
                    _save(trainer, lanes, states)
                    saved = time.monotonic()
        return [self._finish(lane, trainer.one_seed(states, i)) for i, lane in enumerate(lanes)]

    def _finish(self, lane: _Lane, state: TrainState) -> Classifier:
        classifier = self._classifier(state)
        mean = features(classifier, self.benchmark.source_train).mean(0, dtype=np.float64).astype(np.float32)
        lane.checkpoints.save(state, {"records": lane.records, "feature_mean": mean.tolist()}, wait=True)
        return dataclasses.replace(classifier, feature_mean=jnp.asarray(mean))

    def _advance(self, trainer: Trainer, states: States, step: int, chunk: int, bar: tqdm) -> tuple[States, int, int]:
        """Takes up to `chunk` steps, not past a measurement or the end of an epoch, and waits for them."""
        batch = self.config.batch_size
        offset = step * batch % self.images
        next_mark = next(mark for mark in self.marks if mark > step)
        count = min(chunk, next_mark - step, -(-(self.images - offset) // batch))
        start = time.monotonic()
        states, seen = trainer.run(states, step, count)
        seconds = time.monotonic() - start
        for config, bad in zip(self.configs, seen.first_bad_step, strict=True):
            if bad >= 0:
                raise Diverged(
                    f"the loss or the weights were not finite at step {bad} of {self.total_steps} "
                    f"(seed={config.seed}, learning_rate={config.learning_rate}); checkpoints up to then are kept in "
                    f"{config.workdir}; try a lower learning_rate in a new workdir"
                )
        images = count * batch * len(self.configs)
        entry: dict[str, Any] = {
            "step": step + count,
            "steps": count,
            "seconds": seconds,
            "step_seconds": seconds / count,
            "images_per_second": images / seconds,
        }
        shown = f"loss {seen.loss.mean() / count:.3f}, accuracy {seen.correct.sum() / images:.3f}"
        shown += f", {images / seconds:.0f} images/s"
        if trainer.flops is not None and self.peak.flops is not None:
            entry["share_of_peak"] = trainer.flops * count / seconds / self.peak.flops
            shown += f", {100 * entry['share_of_peak']:.0f} % of peak"
        self._log(entry)
        bar.update(count)
        bar.set_postfix_str(shown)
        wanted = int(count * _SECONDS_BETWEEN_LOOKS / max(seconds, 1e-9))
        return states, step + count, max(1, min(wanted, 2 * chunk))

    def _measure(self, state: TrainState, step: int) -> Record:
        epoch = step * self.config.batch_size / self.images
        start = time.monotonic()
        record = measuring.measure(self._classifier(state), self.measurement, step=step, epoch=epoch)
        self._log({"step": step, "measure_seconds": time.monotonic() - start})
        return record

    def _log(self, entry: dict[str, Any]) -> None:
        if leads():
            for config in self.configs:
                assert config.workdir is not None
                files.append_timing(config.workdir, entry)

    def _classifier(self, state: TrainState) -> Classifier:
        return Classifier(
            state.variables,
            jnp.asarray(self.mean),
            jnp.asarray(self.std),
            network=self.network,
            augmentation=self.augmentation,
        )

    def _describe(self, config: Config) -> dict[str, Any]:
        benchmark = self.benchmark
        splits = {
            "source_train": benchmark.source_train,
            "source_test": benchmark.source_test,
            "validation": benchmark.validation,
            "target": benchmark.target,
        }
        settings = dataclasses.asdict(config) | {"workdir": str(config.workdir)}
        return {
            "config": settings,
            "identity": identity(config),
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
                "processes": jax.process_count(),
            },
        }


def _save(trainer: Trainer, lanes: list[_Lane], states: States, *, wait: bool = False) -> None:
    for i, lane in enumerate(lanes):
        progress = {"records": lane.records, "feature_mean": None}
        lane.checkpoints.save(trainer.one_seed(states, i), progress, wait=wait)
