"""The training loop: `pretrain` and `restore`."""

import dataclasses
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ncjax import data, devices, models
from ncjax.classifier import Classifier
from ncjax.data import Benchmark
from ncjax.errors import InputError
from ncjax.files import expand
from ncjax.progress import seconds_between_updates
from ncjax.train import events, folder, speed, streaming
from ncjax.train import measurement as measuring
from ncjax.train import records as files
from ncjax.train.checkpoint import Checkpoints, find, load_newest, load_variables, read_progress, steps_in
from ncjax.train.config import Config, fill, identity, objective
from ncjax.train.folder import Refused, fingerprint
from ncjax.train.hosts import agree, leads, together
from ncjax.train.measurement import Measurement, Record
from ncjax.train.signals import Interrupted, Stop, signals
from ncjax.train.step import Batch, TrainState, initial_state, optimizer
from ncjax.train.trainer import Setup, States, Trainer, local_rows, resident_trainer, step_flops, streamed_trainer

_SECONDS_BETWEEN_CHECKPOINTS = 60.0
_SECONDS_BETWEEN_LOOKS = 0.5
_WRITTEN_AT_ONCE = 8  # seeds; each that is still being written holds some open files


class Diverged(InputError):
    """The loss, the weights or the measured features were not finite."""


class CheckpointsGone(Refused):
    """A run that has records and no checkpoints: it can neither be continued nor be read back.

    Attributes:
      finished: whether its records are complete.
    """

    def __init__(self, workdir: Path, *, finished: bool) -> None:
        super().__init__(
            f"the run in {workdir} {'is finished' if finished else 'has begun'}, but its checkpoints are gone: "
            f"{'its records stay, and no classifier can be read back' if finished else 'it cannot be continued'}; "
            f"bring back {workdir / 'checkpoints'}, or delete the folder to train anew"
        )
        self.finished = finished


def resolve(config: Config) -> Config:
    """Fills in what the preset decides, makes data_dir absolute and names the workdir.

    Whoever gives the number of epochs gets that many, without the preset's floor in steps. Where no workdir is given
    and a folder beside the default one holds the same run, begun by another version or from data in another place, it
    is that one; to tell, the data may be read.

    Raises:
      InputError: for a value outside its range; the message names the setting.
    """
    return _placed(fill(config), None)


def _placed(config: Config, known: "_Source | None") -> Config:
    if config.workdir is not None:
        return dataclasses.replace(config, workdir=expand(config.workdir))

    @cache
    def data_fingerprint() -> str:
        return fingerprint(load_benchmark(config)) if known is None else known.fingerprint

    return dataclasses.replace(config, workdir=folder.located(config, data_fingerprint, own_data=known is not None))


@devices.on_data_mesh
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
      CheckpointsGone: for a run whose records are there and whose checkpoints are not; nothing is changed.
      Diverged: if the loss, the weights or the features stop being finite; the last good checkpoint stays. Of many
        seeds, the others are finished first.
      Interrupted: after SIGINT, SIGTERM or SIGHUP, once the state is saved.
    """
    with signals() as stop:
        return _pretrain(config, benchmark, stop)


def _pretrain(config: Config, benchmark: Benchmark | None, stop: Stop) -> Classifier:
    config = fill(config)
    if config.distributed and not jax.distributed.is_initialized():
        raise InputError(
            "distributed=True, but this process has not joined others: call jax.distributed.initialize() before "
            "anything else, or run experiments/pretrain.py --distributed"
        )
    if config.tensorboard:
        events.check_installed()
    with together():
        known = None if benchmark is None else _Source.of(benchmark)
        config = _placed(config, known)
        assert config.workdir is not None
        each = _seeds(config)
        begun = [_described(one, known) for one in each]  # says of every folder what is wrong with it
        if known is None and any(one is not None and folder.reads_other_data(one, config) for one in begun):
            known = _Source.of(load_benchmark(config))
            begun = [_described(one, known) for one in each]
        done = [_finished(one, described) for one, described in zip(each, begun, strict=True)]
        first = _read_finished(each[0], done[0])
        lost = [first is None] + [_read_finished(*one) is None for one in zip(each[1:], done[1:], strict=True)]
    unfinished = list(agree(*lost))
    if first is not None and not any(unfinished):
        _write_events(each)
        if config.profile and leads():
            tqdm.write("the run is finished: no steps are left to profile", file=sys.stderr)
        return first
    with together():
        folder.check_path(config.workdir)
        source = known or _Source.of(load_benchmark(config))
        # a stream of images feeds one seed at a time
        apart = not isinstance(source.benchmark.source_train.images, np.ndarray)
        left = [i for i, is_left in enumerate(unfinished) if is_left]
        runs = [_Run([each[i]], source) for i in left] if apart else [_Run(each, source, left)]
        if config.seeds > 1:
            folder.write_seeds(config.workdir, config.seeds)
    diverged = []
    for run in runs:
        try:
            classifiers = run.train(stop)
        except Diverged as error:
            diverged.append(str(error))
        else:
            first = first or classifiers[0]
    if diverged:
        raise Diverged("; ".join(diverged))
    assert first is not None
    return first


def _seeds(config: Config) -> list[Config]:
    """One configuration a seed, each with a folder of its own."""
    assert config.workdir is not None
    if config.seeds == 1:
        return [config]
    folder.check_seeds(config.workdir, config.seeds)
    return [
        dataclasses.replace(config, seeds=1, seed=config.seed + i, workdir=config.workdir / f"seed_{i}")
        for i in range(config.seeds)
    ]


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
        class_split=config.class_split,
        image_column=config.image_column,
        label_column=config.label_column,
        nested=config.nested,
        stream_above=speed.stream_above(config.stream),
    )


@devices.on_data_mesh
def restore(workdir: str | Path, step: int | None = None) -> Classifier:
    """The classifier of a run.

    Args:
      workdir: the run's folder.
      step: which checkpoint; the newest by default.

    Raises:
      InputError: if the folder holds no run, or no checkpoint of that step.
    """
    described = files.read_config(workdir)
    checkpoints = expand(workdir) / "checkpoints"
    step = find(checkpoints, step)
    network = models.create(described["config"]["network"], described["data"]["num_source_classes"])
    abstract = jax.eval_shape(lambda: network.init(jax.random.key(0), tuple(described["data"]["image_shape"])))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), abstract)
    variables, progress = load_variables(checkpoints, abstract, step)
    return Classifier(
        variables,
        jnp.asarray(described["data"]["mean"], jnp.float32),
        jnp.asarray(described["data"]["std"], jnp.float32),
        None if progress["feature_mean"] is None else jnp.asarray(progress["feature_mean"], jnp.float32),
        network=network,
        augmentation=described["data"]["augmentation"],
    )


def _described(config: Config, known: "_Source | None") -> dict[str, Any] | None:
    """What config.json says of the run that was begun in the folder; None where there is none yet.

    Raises:
      Refused: if the folder holds another run, or nothing can be written where it should be.
    """
    assert config.workdir is not None
    data = None
    if known is not None:
        data = {"fingerprint": known.fingerprint, "augmentation": known.augmentation(config)}
    return folder.described(config.workdir, identity(config), data)


def _finished(config: Config, described: dict[str, Any] | None) -> int | None:
    """The last step of a run that has nothing left to do; None for any other.

    Raises:
      CheckpointsGone: if the run has records after its first step that no checkpoint is left to continue.
    """
    assert config.workdir is not None
    metrics = config.workdir / "metrics.jsonl"
    if described is None or not metrics.exists() or metrics.stat().st_size == 0:
        return None
    try:
        reached = files.read_records(config.workdir)[-1].get("step")
    except InputError:
        reached = None  # damaged: a checkpoint has them too
    last: int = described["total_steps"]
    steps = steps_in(config.workdir / "checkpoints")
    if not steps and reached != 0:  # the first record is written before the first checkpoint
        raise CheckpointsGone(config.workdir, finished=reached == last)
    return last if reached == last and last in steps else None


def _read_finished(config: Config, step: int | None) -> Classifier | None:
    """The classifier at the end of a run; None if it is not there, or is damaged, for an earlier one continues."""
    assert config.workdir is not None
    if step is None:
        return None
    try:
        return restore(config.workdir, step)
    except InputError:
        return None


def _write_events(each: Sequence[Config]) -> None:
    for config in each:
        if config.tensorboard and leads():
            assert config.workdir is not None
            with closing(events.Events(config.workdir / "tensorboard")) as writer:
                writer.update(files.read_records(config.workdir))


class _Source(NamedTuple):
    """The data of a run, with what all of it must be read for, once for all seeds.

    Attributes:
      benchmark: the images.
      fingerprint: their checksums.
      mean: of each channel, of pixels in 0..1, float32 [c].
      std: likewise.
    """

    benchmark: Benchmark
    fingerprint: str
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, benchmark: Benchmark) -> "_Source":
        for name in ("source_train", "source_test", "validation", "target"):
            split = getattr(benchmark, name)
            if split is not None and (split.images.dtype != np.uint8 or split.images.ndim != 4):
                raise InputError(
                    f"{name} has images of {split.images.dtype} {split.images.shape}: give pixels 0..255 as uint8 "
                    "[n, h, w, c]"
                )
        return cls(benchmark, fingerprint(benchmark), *_pixel_statistics(benchmark.source_train.images))

    def augmentation(self, config: Config) -> str:
        """The one that the configuration names, or the data set's own."""
        return config.augmentation or self.benchmark.augmentation


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
    """One seed of a run: its folder, its checkpoints and its records, and the step at which it diverged, if it did.

    `index` is its place among the seeds of the program.
    """

    def __init__(self, index: int, config: Config, kept: Sequence[int]) -> None:
        assert config.workdir is not None
        self.index = index
        self.config = config
        self.workdir = config.workdir
        self.checkpoints = Checkpoints(self.workdir / "checkpoints", kept)
        self.records: list[Record] = []
        self.diverged_at: int | None = None
        self.reason = "the loss, the weights or the features were not finite"
        self.events = events.Events(self.workdir / "tensorboard") if config.tensorboard and leads() else None

    @property
    def measured_at(self) -> float | int | None:
        """The step of the newest record."""
        return self.records[-1]["step"] if self.records else None

    def write_records(self) -> None:
        """Brings the files of the records up to date."""
        if leads():
            files.write_records(self.workdir, self.records)
        if self.events is not None:
            self.events.update(self.records)


class _Run:
    """One run, of one seed or of many at once: what stays the same from its first step to its last.

    The seeds that are not `left`, all by default, are finished, and their folders stay as they are. They take part in
    the program again, since in one of fewer seeds the others would not come to the same numbers bit by bit.
    """

    def __init__(self, configs: Sequence[Config], source: _Source, left: Sequence[int] | None = None) -> None:
        config, benchmark = configs[0], source.benchmark
        self.left = list(range(len(configs)) if left is None else left)
        self.source = source
        self.benchmark = benchmark
        self.configs = configs
        self.config = config
        self.augmentation = source.augmentation(config)
        self.mesh = devices.data_mesh()
        train = benchmark.source_train
        self.images = len(train.labels)
        assert config.network is not None
        assert config.batch_size is not None
        assert config.epochs is not None
        assert config.min_steps is not None
        assert config.measurements is not None
        self.batch_size = config.batch_size
        if self.batch_size > self.images:
            raise InputError(
                f"batch_size={self.batch_size} is more than the {self.images} training images; set a smaller one"
            )
        if len(configs) == 1 and self.batch_size % self.mesh.size:
            near = max(self.batch_size // self.mesh.size, 1) * self.mesh.size
            raise InputError(
                f"batch_size={self.batch_size} does not divide over {self.mesh.size} devices; set it to {near}, "
                "or on a CPU JAX_NUM_CPU_DEVICES=1"
            )
        speed.check_precision(self.mesh, config.precision)
        self.image_shape = tuple(train.images.shape[1:])
        if not isinstance(train.images, np.ndarray):
            streaming.check_installed()
        num_classes = len(train.class_names)
        # measured, restored and handed out in float32, whatever the precision of training
        self.network = models.create(config.network, num_classes)
        jax.eval_shape(lambda: self.network.init(jax.random.key(0), self.image_shape))  # images that do not fit it
        self.total_steps = max(-(-config.epochs * self.images // self.batch_size), config.min_steps)
        self.setup = Setup(
            network=models.create(config.network, num_classes, dtype=jnp.dtype(config.precision)),
            tx=optimizer(config, self.total_steps),
            objective=objective(config),
            augmentation=self.augmentation,
            batch_size=self.batch_size,
            num_images=self.images,
            image_shape=self.image_shape,
            mesh=self.mesh,
        )
        self.measurement: Measurement = measuring.plan(benchmark, config)
        self.marks = measuring.steps_to_measure(self.total_steps, self.images / self.batch_size, config.measurements)

    def train(self, stop: Stop) -> list[Classifier]:
        with ExitStack() as stack:
            with together():
                for one in (self.configs[i] for i in self.left):
                    assert one.workdir is not None
                    stack.enter_context(folder.claim(one.workdir, self._describe(one)))
            return self._train(stop)

    def _train(self, stop: Stop) -> list[Classifier]:
        with ExitStack() as stack:
            lanes = []
            for i in self.left:
                config = self.configs[i]
                lanes.append(_Lane(i, config, self.marks if config.keep_checkpoints else ()))
                stack.enter_context(lanes[-1].checkpoints)
                if lanes[-1].events is not None:
                    stack.enter_context(closing(lanes[-1].events))
            with together():
                self._check_space(lanes)
                self._look_for_diverged(lanes)
            trainer = self._trainer()
            states, step = self._resumed(trainer, lanes)
            trainer = dataclasses.replace(trainer, initial=())  # as large as the states, and needed no more
            with together():
                for lane in _sound(lanes):
                    if leads():
                        folder.add_execution(lane.workdir, {"first_step": step, **self._versions(), **_jax_settings()})
                    lane.write_records()
            with stop.deferred():
                return self._loop(trainer, lanes, states, step, stop)

    def _look_for_diverged(self, lanes: list[_Lane]) -> None:
        """Notes what the finished seeds say of the others; raises Diverged if nothing is left to train."""
        for i in sorted(set(range(len(self.configs))) - set(self.left)):
            workdir = self.configs[i].workdir
            assert workdir is not None
            diverged = read_progress(workdir / "checkpoints", self.total_steps).get("diverged", {})
            for lane in lanes:
                lane.diverged_at = diverged.get(str(lane.index), lane.diverged_at)
        if not _sound(lanes):
            raise self._diverged(lanes)

    def _resumed(self, trainer: Trainer, lanes: list[_Lane]) -> tuple[States, int]:
        """The states to go on from, and their step; the lanes get back what the checkpoints hold of them."""
        like = [trainer.one_seed(trainer.initial, i) for i in range(len(self.configs))]
        loaded = load_newest({lane.index: lane.checkpoints for lane in _sound(lanes)}, like)
        if loaded is None:
            return trainer.initial, 0
        newest_state, newest = next(iter(loaded.values()))
        for lane in _sound(lanes):
            lane.diverged_at = newest.get("diverged", {}).get(str(lane.index))
            lane.records = loaded[lane.index][1]["records"] if lane.index in loaded else []
        states = trainer.join([loaded[i][0] if i in loaded else like[i] for i in range(len(like))])
        return states, int(newest_state.step)

    def _check_space(self, lanes: list[_Lane]) -> None:
        """Three checkpoints are kept while a fourth is written, with keep_checkpoints also those of measurements."""
        state = jax.eval_shape(lambda: initial_state(self.network, self.setup.tx, 0, self.image_shape))
        steps = lanes[0].checkpoints.steps
        count = max(1, 4 - len(steps))
        if self.config.keep_checkpoints:
            count += sum(mark not in steps for mark in self.marks)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        folder.check_space(lanes[0].workdir, len(lanes) * size, count)

    def _trainer(self) -> Trainer:
        config, train, setup = self.config, self.benchmark.source_train, self.setup
        if isinstance(train.images, np.ndarray):
            data = Batch(*map(jnp.asarray, (train.images, train.labels, self.source.mean, self.source.std)))
            trainer = resident_trainer(setup, data, [one.seed for one in self.configs])
        else:
            share = local_rows(self.mesh, self.batch_size)
            batches = streaming.batches(train, config.seed, self.batch_size, share)
            normalisation = jnp.asarray(self.source.mean), jnp.asarray(self.source.std)
            trainer = streamed_trainer(setup, normalisation, batches, config.seed)
        self._log(
            {
                "compile_seconds": trainer.compile_seconds,
                "streamed": not isinstance(train.images, np.ndarray),
                "seeds": len(self.configs),
            }
        )
        return trainer

    @cached_property  # first asked for after the first step, which does not wait for it
    def _flops_and_peak(self) -> tuple[float | None, float | None]:
        """The operations of a step of all seeds, and those that the devices can do a second; None where not known."""
        flops = step_flops(self.setup)
        flops = None if flops is None else flops * len(self.configs)
        peak = speed.peak(self.mesh, self.config.precision)
        self._log({"flops_per_step": flops, "peak_flops": peak.flops, "peak_is_of": peak.source})
        return flops, peak.flops

    def _loop(self, trainer: Trainer, lanes: list[_Lane], states: States, step: int, stop: Stop) -> list[Classifier]:
        saved = time.monotonic()
        chunk = 1
        calls = 0
        with tqdm(
            total=self.total_steps,
            initial=step,
            unit="step",
            desc="train",
            smoothing=0.05,
            mininterval=seconds_between_updates(),
            disable=not leads(),
        ) as bar:
            while True:
                waiting = [lane for lane in _sound(lanes) if lane.measured_at != step] if step in self.marks else []
                if waiting:
                    speeds = getattr(bar, "postfix", None) or ""  # a bar that is disabled has none
                    bar.set_postfix_str("measuring")
                    for lane in waiting:
                        (signal,) = agree(stop.signal)
                        if signal and step < self.total_steps:  # the last step is saved by `_finish` alone
                            _save(trainer, lanes, states, wait=True)
                            raise Interrupted(signal, f"after step {step}; saved")
                        state = trainer.one_seed(states, lane.index)
                        try:
                            lane.records.append(self._measure(state, step))
                        except measuring.NotFinite as error:
                            lane.diverged_at, lane.reason = step, str(error)
                            continue
                        with together():
                            lane.write_records()
                    bar.set_postfix_str(speeds, refresh=False)
                    if not _sound(lanes):
                        raise self._diverged(lanes)
                    if step < self.total_steps:
                        _save(trainer, lanes, states)
                        saved = time.monotonic()
                if step == self.total_steps:
                    break
                calls += 1
                with speed.trace(lanes[0].workdir / "profile", when=self.config.profile and calls == 2 and leads()):
                    states, step, chunk, first_bad = self._advance(trainer, states, step, chunk, bar)
                for lane in lanes:
                    if first_bad[lane.index] >= 0 and lane.diverged_at is None:
                        lane.diverged_at = int(first_bad[lane.index])
                if not _sound(lanes):
                    raise self._diverged(lanes)
                if step == self.total_steps:
                    continue  # the end writes its own checkpoint, with all that belongs in it
                # processes must agree on these, or one would wait for the others for ever
                signal, due, chunk = agree(stop.signal, time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS, chunk)
                if signal:
                    _save(trainer, lanes, states, wait=True)
                    raise Interrupted(signal, f"after step {step}; saved")
                if due:
                    _save(trainer, lanes, states)
                    saved = time.monotonic()
        classifiers = [self._finish(trainer, lanes, states, lane) for lane in _sound(lanes)]
        if len(classifiers) < len(lanes):
            raise self._diverged(lanes)
        return classifiers

    def _finish(self, trainer: Trainer, lanes: list[_Lane], states: States, lane: _Lane) -> Classifier:
        state = trainer.one_seed(states, lane.index)
        classifier = self._classifier(state)
        found, _ = measuring.features_and_logits(classifier, self.benchmark.source_train)
        mean = found.mean(0, dtype=np.float64).astype(np.float32)
        lane.checkpoints.save(state, _progress(lanes, lane, mean.tolist()), wait=True)
        return dataclasses.replace(classifier, feature_mean=jnp.asarray(mean))

    def _diverged(self, lanes: list[_Lane]) -> Diverged:
        """Says which seeds diverged, and what became of the others."""
        where = [
            f"{lane.reason} at step {lane.diverged_at} of {self.total_steps} "
            f"(seed={lane.config.seed}, learning_rate={lane.config.learning_rate}); checkpoints up to then are kept in "
            f"{lane.workdir}"
            for lane in lanes
            if lane.diverged_at is not None
        ]
        finished = len(self.configs) - len(where)
        others = f"; the other {finished} seeds are finished" if finished else ""
        return Diverged(f"{'; '.join(where)}{others}; try a lower learning_rate in a new workdir")

    def _advance(
        self, trainer: Trainer, states: States, step: int, chunk: int, bar: tqdm
    ) -> tuple[States, int, int, np.ndarray]:
        """Takes up to `chunk` steps, not past a measurement or the end of an epoch, and waits for them.

        Returns:
          The states, the step they are at, the next chunk, and of every seed the first step that was not finite, or -1.
        """
        batch = self.batch_size
        offset = step * batch % self.images
        next_mark = next(mark for mark in self.marks if mark > step)
        count = min(chunk, next_mark - step, -(-(self.images - offset) // batch))
        start = time.monotonic()
        states, seen = trainer.run(states, step, count)
        seconds = time.monotonic() - start
        images = count * batch * len(self.configs)
        entry: dict[str, Any] = {
            "step": step + count,
            "steps": count,
            "seconds": seconds,
            "step_seconds": seconds / count,
            "images_per_second": images / seconds,
        }
        shown_seeds = [i for i in self.left if seen.first_bad_step[i] < 0]
        shown = ", ".join(
            f"{name} {np.sum(values[shown_seeds]) / max(len(shown_seeds), 1) / per:.3f}"
            for name, values, per in (("loss", seen.loss, count), ("accuracy", seen.correct, count * batch))
        )
        shown += f", {images / seconds:.0f} images/s, {1000 * seconds / count:.3g} ms a step"
        flops, peak = self._flops_and_peak
        if flops is not None and peak is not None:
            entry["share_of_peak"] = flops * count / seconds / peak
            shown += f", {100 * entry['share_of_peak']:.0f} % of peak"
        shown += f", compiled in {trainer.compile_seconds:.1f} s"
        self._log(entry)
        bar.set_postfix_str(shown, refresh=False)
        bar.update(count)
        wanted = int(count * _SECONDS_BETWEEN_LOOKS / max(seconds, 1e-9))
        return states, step + count, max(1, min(wanted, 2 * chunk)), np.asarray(seen.first_bad_step)

    def _measure(self, state: TrainState, step: int) -> Record:
        epoch = step * self.batch_size / self.images
        start = time.monotonic()
        record = measuring.measure(self._classifier(state), self.measurement, step=step, epoch=epoch)
        self._log({"step": step, "measure_seconds": time.monotonic() - start, **speed.peak_memory()})
        return record

    def _log(self, entry: dict[str, Any]) -> None:
        if leads():
            for i in self.left:
                workdir = self.configs[i].workdir
                assert workdir is not None
                files.append_timing(workdir, entry)

    def _classifier(self, state: TrainState) -> Classifier:
        return Classifier(
            state.variables,
            jnp.asarray(self.source.mean),
            jnp.asarray(self.source.std),
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
                "fingerprint": self.source.fingerprint,
                "num_source_classes": len(benchmark.source_train.class_names),
                "image_shape": list(self.image_shape),
                "mean": self.source.mean.tolist(),
                "std": self.source.std.tolist(),
                "augmentation": self.augmentation,
                "made_with": dict(benchmark.made_with),
                "measured_per_class": self.measurement.per_class,
                "images": {name: len(split.labels) for name, split in splits.items() if split is not None},
                "classes": {name: len(split.class_names) for name, split in splits.items() if split is not None},
            },
            "versions": self._versions(),
        }

    def _versions(self) -> dict[str, Any]:
        return {
            "ncjax": _version(),
            "python": platform.python_version(),
            "jax": jax.__version__,
            "flax": flax.__version__,
            "numpy": np.__version__,
            "backend": jax.default_backend(),
            "devices": self.mesh.size,
            "processes": jax.process_count(),
        }


def _jax_settings() -> dict[str, Any]:
    """JAX's own settings under which the same program gives other numbers."""
    names = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable")
    return {name: getattr(jax.config, name) for name in names}


def _version() -> str:
    try:
        return version("ncjax")
    except PackageNotFoundError:
        return "not installed"


def _sound(lanes: Sequence[_Lane]) -> list[_Lane]:
    """Those that have not diverged."""
    return [lane for lane in lanes if lane.diverged_at is None]


def _save(trainer: Trainer, lanes: list[_Lane], states: States, *, wait: bool = False) -> None:
    saved: list[_Lane] = []
    for lane in _sound(lanes):
        if len(saved) >= _WRITTEN_AT_ONCE:
            saved[-_WRITTEN_AT_ONCE].checkpoints.wait()
        saved.append(lane)
        lane.checkpoints.save(trainer.one_seed(states, lane.index), _progress(lanes, lane), wait=wait)


def _progress(lanes: list[_Lane], lane: _Lane, feature_mean: list[float] | None = None) -> dict[str, Any]:
    """What a checkpoint of a seed holds beside its arrays; the diverged seeds have no checkpoint of that step."""
    diverged = {str(one.index): one.diverged_at for one in lanes if one.diverged_at is not None}
    return {"records": lane.records, "feature_mean": feature_mean} | ({"diverged": diverged} if diverged else {})
