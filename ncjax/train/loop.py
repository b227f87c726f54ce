"""The training loop: measure, save, advance, stop."""

import dataclasses
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ncjax.classifier import Classifier
from ncjax.progress import seconds_between_updates
from ncjax.train import measurement as measuring
from ncjax.train import records as files
from ncjax.train import streaming, throughput, workdir
from ncjax.train.checkpoint import read_progress
from ncjax.train.hosts import is_lead_process, max_over_processes, raise_together
from ncjax.train.measurement import Record
from ncjax.train.run import Run
from ncjax.train.seeds import Seed, diverged, progress, resume, save, sound
from ncjax.train.signals import Interrupted, Stop
from ncjax.train.step import Batch, Progress, TrainState
from ncjax.train.trainer import States, Trainer, local_rows, resident_trainer, streamed_trainer

SECONDS_BETWEEN_CHECKPOINTS = 60.0
SECONDS_BETWEEN_LOOKS = 0.5


def train(run: Run, stop: Stop) -> list[Classifier]:
    """Trains the unfinished seeds of a run, from their newest checkpoint on, to its last step.

    Returns:
      The classifiers of the seeds that were trained.

    Raises:
      Diverged: if a seed stops being finite; the others are trained to their end first.
      Interrupted: after a signal, once the state is saved.
      InputError: if another process is at work in a seed's folder, or its disk is too small.
    """
    with ExitStack() as stack:
        configs = [run.configs[i] for i in run.unfinished]
        with raise_together():
            for config in configs:
                stack.enter_context(workdir.claim(config.workdir, run.describe(config)))
        kept = run.measured_steps if run.configs[0].keep_checkpoints else ()
        seeds = [stack.enter_context(Seed(i, config, kept)) for i, config in zip(run.unfinished, configs, strict=True)]
        with raise_together():
            _check_space(run, seeds)
            _note_diverged(run, seeds)
        trainer = _make_trainer(run)
        states, step = resume(trainer, seeds, len(run.configs))
        trainer = dataclasses.replace(trainer, initial=())  # as large as the states, and needed no more
        with raise_together():
            for seed in sound(seeds):
                if is_lead_process():
                    workdir.add_execution(seed.config.workdir, run.execution(step))
                seed.write_records()
        bar = tqdm(
            total=run.total_steps,
            initial=step,
            unit="step",
            desc="train",
            smoothing=0.05,
            mininterval=seconds_between_updates(),
            disable=not is_lead_process(),
        )
        with stop.deferred(), bar:
            return _Loop(run, trainer, seeds, stop, bar, states, step).to_the_end()


@dataclass
class _Loop:
    """A run under way.

    Attributes:
      chunk: how many steps to take before the next look at signals and the clock.
      calls: how often `advance` was called.
      saved: when the last checkpoint was written, on the monotonic clock.
      rates: of a step, once the first is done.
    """

    run: Run
    trainer: Trainer
    seeds: list[Seed]
    stop: Stop
    bar: tqdm
    states: States
    step: int
    chunk: int = 1
    calls: int = 0
    saved: float = dataclasses.field(default_factory=time.monotonic)
    rates: throughput.Rates | None = None

    def to_the_end(self) -> list[Classifier]:
        """Trains to the last step, and writes the last checkpoints."""
        while True:
            self.measure_if_due()
            if self.step == self.run.total_steps:
                return self.finish()
            self.advance()
            if self.step < self.run.total_steps:  # the end writes a checkpoint of its own
                self.stop_if_asked_or_save_if_due()

    def measure_if_due(self) -> None:
        """At the steps that are measured, adds a record to each seed that lacks it, and saves."""
        if self.step not in self.run.measured_steps:
            return
        waiting = [seed for seed in sound(self.seeds) if seed.measured_at != self.step]
        if not waiting:
            return
        speeds = getattr(self.bar, "postfix", None) or ""  # a disabled bar has none
        self.bar.set_postfix_str("measuring")
        for seed in waiting:
            (signal,) = max_over_processes(self.stop.signal)
            if signal and self.step < self.run.total_steps:  # the last step is saved by `finish` alone
                self.interrupt(signal)
            try:
                seed.records.append(_measure(self.run, self.trainer.one_seed(self.states, seed.index), self.step))
            except measuring.NotFinite as error:
                seed.diverged_at, seed.reason = self.step, str(error)
                continue
            with raise_together():
                seed.write_records()
        self.bar.set_postfix_str(speeds, refresh=False)
        self.raise_if_all_diverged()
        if self.step < self.run.total_steps:
            self.save()

    def advance(self) -> None:
        """Takes some steps, and notes which seeds diverged."""
        self.calls += 1
        with throughput.trace(
            self.seeds[0].config.workdir / "profile",
            when=self.run.configs[0].profile and self.calls == 2 and is_lead_process(),
        ):
            taken = advance(self.run, self.trainer, self.states, self.step, self.chunk)
        self.states, self.chunk = taken.states, taken.next_chunk
        if self.rates is None:  # not before the first step, which would wait for it
            self.rates = throughput.rates(self.run.setup, len(self.run.configs), self.run.configs[0].precision)
            _log(self.run, self.rates.entry())
        entry, shown = _speed(self.run, self.trainer, self.rates, taken, taken.step - self.step)
        _log(self.run, entry)
        self.bar.set_postfix_str(shown, refresh=False)
        self.bar.update(taken.step - self.step)
        self.step = taken.step
        for seed in self.seeds:
            first_bad = int(taken.progress.first_bad_step[seed.index])
            if first_bad >= 0 and seed.diverged_at is None:
                seed.diverged_at = first_bad
        self.raise_if_all_diverged()

    def stop_if_asked_or_save_if_due(self) -> None:
        """Looks at signals and the clock; all processes decide alike, or one would wait for the others for ever."""
        due = time.monotonic() - self.saved > SECONDS_BETWEEN_CHECKPOINTS
        signal, is_due, self.chunk = max_over_processes(self.stop.signal, due, self.chunk)
        if signal:
            self.interrupt(signal)
        if is_due:
            self.save()

    def save(self) -> None:
        """Writes a checkpoint of every seed, in the background."""
        save(self.trainer, self.seeds, self.states)
        self.saved = time.monotonic()

    def interrupt(self, signal: int) -> None:
        """Saves, and raises Interrupted."""
        save(self.trainer, self.seeds, self.states, wait=True)
        raise Interrupted(signal, f"after step {self.step}; saved")

    def raise_if_all_diverged(self) -> None:
        """Raises Diverged where no seed is left to train."""
        if not sound(self.seeds):
            raise diverged(self.seeds, len(self.run.configs), self.run.total_steps)

    def finish(self) -> list[Classifier]:
        """Writes the last checkpoint of every seed, with the mean of its features."""
        classifiers = []
        for seed in sound(self.seeds):
            state = self.trainer.one_seed(self.states, seed.index)
            classifier = self.run.classifier(state)
            features, _ = measuring.features_and_logits(classifier, self.run.source.benchmark.source_train)
            mean = features.mean(0, dtype=np.float64).astype(np.float32)
            seed.checkpoints.save(state, progress(self.seeds, seed, mean.tolist()), wait=True)
            classifiers.append(dataclasses.replace(classifier, feature_mean=jnp.asarray(mean)))
        if len(classifiers) < len(self.seeds):
            raise diverged(self.seeds, len(self.run.configs), self.run.total_steps)
        return classifiers


class Taken(NamedTuple):
    """Steps that were taken.

    Attributes:
      states: after them.
      step: that the states are at.
      next_chunk: the number of steps to take next.
      progress: of every seed, NumPy [seeds].
      seconds: that they took.
    """

    states: States
    step: int
    next_chunk: int
    progress: Progress
    seconds: float


def advance(run: Run, trainer: Trainer, states: States, step: int, chunk: int) -> Taken:
    """Takes up to `chunk` steps, not past a measurement or the end of an epoch, and waits for them."""
    batch, images = run.setup.batch_size, run.setup.num_images
    next_measured = next(at for at in run.measured_steps if at > step)
    count = min(chunk, next_measured - step, -(-(images - step * batch % images) // batch))
    start = time.monotonic()
    states, seen = trainer.run(states, step, count)
    seconds = time.monotonic() - start
    wanted = int(count * SECONDS_BETWEEN_LOOKS / max(seconds, 1e-9))
    return Taken(states, step + count, max(1, min(wanted, 2 * chunk)), seen, seconds)


def _speed(run: Run, trainer: Trainer, rates: throughput.Rates, taken: Taken, count: int) -> tuple[dict[str, Any], str]:
    """The entry of timing.jsonl for `count` steps, and the text of the progress bar."""
    batch, seconds, seen = run.setup.batch_size, taken.seconds, taken.progress
    images_per_second = count * batch * len(run.configs) / seconds
    entry: dict[str, Any] = {
        "step": taken.step,
        "steps": count,
        "seconds": seconds,
        "step_seconds": seconds / count,
        "images_per_second": images_per_second,
    }
    shown_seeds = [i for i in run.unfinished if seen.first_bad_step[i] < 0]
    shown = [
        f"{name} {np.sum(values[shown_seeds]) / max(len(shown_seeds), 1) / per:.3f}"
        for name, values, per in (("loss", seen.loss, count), ("accuracy", seen.correct, count * batch))
    ]
    shown += [f"{images_per_second:.0f} images/s", f"{1000 * seconds / count:.3g} ms a step"]
    if rates.flops is not None and rates.peak.flops is not None:
        entry["share_of_peak"] = rates.flops * count / seconds / rates.peak.flops
        shown.append(f"{100 * entry['share_of_peak']:.0f} % of peak")
    return entry, ", ".join([*shown, f"compiled in {trainer.compile_seconds:.1f} s"])


def _measure(run: Run, state: TrainState, step: int) -> Record:
    epoch = step * run.setup.batch_size / run.setup.num_images
    start = time.monotonic()
    record = measuring.measure(run.classifier(state), run.measurement, step=step, epoch=epoch)
    _log(run, {"step": step, "measure_seconds": time.monotonic() - start, **throughput.peak_memory()})
    return record


def _make_trainer(run: Run) -> Trainer:
    """Compiles the step."""
    source, train, seed = run.source, run.source.benchmark.source_train, run.configs[0].seed
    if source.is_streamed:
        share = local_rows(run.setup.mesh, run.setup.batch_size)
        batches = streaming.batches(train, seed, run.setup.batch_size, share)
        normalisation = jnp.asarray(source.mean), jnp.asarray(source.std)
        trainer = streamed_trainer(run.setup, normalisation, batches, seed)
    else:
        data = Batch(*map(jnp.asarray, (train.images, train.labels, source.mean, source.std)))
        trainer = resident_trainer(run.setup, data, [config.seed for config in run.configs])
    _log(
        run,
        {
            "compile_seconds": trainer.compile_seconds,
            "streamed": source.is_streamed,
            "seeds": len(run.configs),
        },
    )
    return trainer


def _check_space(run: Run, seeds: Sequence[Seed]) -> None:
    """Three checkpoints are kept while a fourth is written, with keep_checkpoints also those of measurements."""
    steps = seeds[0].checkpoints.steps
    count = max(1, 4 - len(steps))
    if run.configs[0].keep_checkpoints:
        count += sum(step not in steps for step in run.measured_steps)
    workdir.check_space(seeds[0].config.workdir, len(seeds) * run.state_bytes(), count)


def _note_diverged(run: Run, seeds: Sequence[Seed]) -> None:
    """Notes what the finished seeds say of the others; raises Diverged if nothing is left to train."""
    for i in sorted(set(range(len(run.configs))) - set(run.unfinished)):
        said = read_progress(run.configs[i].workdir / "checkpoints", run.total_steps).get("diverged", {})
        for seed in seeds:
            seed.diverged_at = said.get(str(seed.index), seed.diverged_at)
    if not sound(seeds):
        raise diverged(seeds, len(run.configs), run.total_steps)


def _log(run: Run, entry: dict[str, Any]) -> None:
    """Adds a line to timing.jsonl of every unfinished seed."""
    if is_lead_process():
        for i in run.unfinished:
            files.append_timing(run.configs[i].workdir, entry)
