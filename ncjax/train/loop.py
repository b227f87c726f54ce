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
from ncjax.measures import of_key
from ncjax.progress import has_bars, remark
from ncjax.train import measurement as measuring, records as files, streaming, throughput, workdir
from ncjax.train.checkpoint import read_alone
from ncjax.train.description import add_execution
from ncjax.train.hosts import is_lead_process, max_over_processes, raise_together
from ncjax.train.measurement import Record
from ncjax.train.run import Run
from ncjax.train.seeds import SeedRun, active, diverged, history, resume, save
from ncjax.train.signals import Interrupted, Stop
from ncjax.train.step import Batch, StepTotals, TrainState
from ncjax.train.trainer import States, Trainer, local_rows, resident_trainer, streamed_trainer

SECONDS_BETWEEN_CHECKPOINTS = 60.0
SECONDS_BETWEEN_SIGNAL_CHECKS = 0.5


def train(run: Run, stop: Stop) -> list[Classifier]:
    """Trains the unfinished seeds of a run from their newest checkpoint to the last step.

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
        seeds = [
            stack.enter_context(SeedRun(i, config, kept)) for i, config in zip(run.unfinished, configs, strict=True)
        ]
        with raise_together():
            _check_space(run, seeds)
            _note_diverged(run, seeds)
        classifiers = _train(run, seeds, stop) if active(seeds) else []
        if len(classifiers) < len(seeds):
            raise diverged(seeds, len(run.configs), run.total_steps)
        return classifiers


def _train(run: Run, seeds: list[SeedRun], stop: Stop) -> list[Classifier]:
    """Compiles the step, loads the newest checkpoint, and trains on."""
    trainer = _make_trainer(run)
    states, step = resume(trainer, seeds, run.configs, run.total_steps)
    trainer = dataclasses.replace(trainer, initial=())  # frees memory as large as the states
    with raise_together():
        for seed in active(seeds):
            if is_lead_process():
                add_execution(seed.config.workdir, run.execution(step))
            seed.write_records()
    bar = tqdm(
        total=run.total_steps,
        initial=step,
        unit="step",
        desc="train",
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
        smoothing=0.05,
        disable=not has_bars() or not is_lead_process(),
    )
    with stop.deferred(), bar:
        return _Loop(run, trainer, seeds, stop, bar, states, step).to_the_end()


@dataclass
class _Loop:
    """The state of a run in progress.

    Attributes:
      chunk: the number of steps to take before the next look at signals and the clock.
      advances: the number of calls of `advance`.
      saved_at: when the last checkpoint was written, on the monotonic clock.
      save_is_due: whether to write a checkpoint before the next step.
      rates: of a step; None before the first.
      speed: loss and speed of the last steps, as text.
    """

    run: Run
    trainer: Trainer
    seeds: list[SeedRun]
    stop: Stop
    bar: tqdm
    states: States
    step: int
    chunk: int = 1
    advances: int = 0
    saved_at: float = dataclasses.field(default_factory=time.monotonic)
    save_is_due: bool = False
    rates: throughput.Rates | None = None
    speed: str = ""

    def to_the_end(self) -> list[Classifier]:
        """Trains to the last step, or until every seed has diverged, and writes the last checkpoints."""
        while self.step < self.run.total_steps and active(self.seeds):
            self.measure_if_due()
            self.save_if_due()
            self.advance()
            self.stop_if_asked()
        self.measure_if_due()
        return self.finish()

    def measure_if_due(self) -> None:
        """Adds a record to each seed that lacks the record of this step, at the steps that are measured."""
        if self.step not in self.run.measured_steps:
            return
        unmeasured = [seed for seed in active(self.seeds) if seed.measured_at != self.step]
        if not unmeasured:
            return
        self.bar.set_postfix_str("measuring")
        for seed in unmeasured:
            self.stop_if_asked()
            try:
                seed.records.append(_measure(self.run, self.trainer.one_seed(self.states, seed.index), self.step))
            except measuring.NotFinite as error:
                seed.diverged_at, seed.reason = self.step, str(error)
                continue
            with raise_together():
                seed.write_records()
            if self.run.on_record is not None and is_lead_process():
                self.run.on_record({**seed.records[-1], "seed": seed.config.seed})
        self.bar.set_postfix_str(self.speed, refresh=False)
        self.log(", ".join(_measured_text(seed) for seed in unmeasured if seed.measured_at == self.step))
        self.save_is_due = True

    def log(self, event: str = "") -> None:
        """Writes a line about an event where no bar shows the course."""
        if not has_bars():
            epoch = self.step * self.run.setup.batch_size / self.run.setup.num_images
            parts = [f"step {self.step} of {self.run.total_steps}", f"epoch {epoch:.4g}", event, self.speed]
            remark(", ".join(filter(None, parts)))

    def save_if_due(self) -> None:
        """Writes a checkpoint of every seed in the background, after a measurement and every minute."""
        if self.save_is_due:
            save(self.trainer, self.seeds, self.states)
            if self.step not in self.run.measured_steps:
                self.log("saved")
            self.saved_at, self.save_is_due = time.monotonic(), False

    def advance(self) -> None:
        """Takes some steps, and notes which seeds diverged."""
        self.advances += 1
        with throughput.trace(
            self.seeds[0].config.workdir / "profile",
            when=self.run.configs[0].profile and self.advances == 2 and is_lead_process(),
        ):
            taken = advance(self.run, self.trainer, self.states, self.step, self.chunk)
        self.states, self.chunk = taken.states, taken.next_chunk
        if self.rates is None:  # after the first step, so as not to delay it
            self.rates = throughput.rates(
                self.run.setup, len(self.run.configs), self.run.configs[0].precision, self.run.teacher
            )
            _log(self.run, self.rates.entry())
        entry, text = _speed(self.run, self.trainer, self.rates, taken, taken.step - self.step)
        _log(self.run, entry)
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(taken.step - self.step)
        self.speed = text
        self.step = taken.step
        for seed in self.seeds:
            first_bad = int(taken.totals.first_bad_step[seed.index])
            if first_bad >= 0 and seed.diverged_at is None:
                seed.diverged_at = first_bad

    def stop_if_asked(self) -> None:
        """Saves and raises Interrupted after a signal to any process.

        All processes agree on the signal, on whether a checkpoint is due and on the number of the next steps; otherwise
        one would wait for the others forever. Does nothing after the last step, whose checkpoint `finish` writes.
        """
        if self.step == self.run.total_steps:
            return
        due = self.save_is_due or time.monotonic() - self.saved_at > SECONDS_BETWEEN_CHECKPOINTS
        signal, due_anywhere, self.chunk = max_over_processes(self.stop.signal, due, self.chunk)
        self.save_is_due = bool(due_anywhere)
        if signal:
            save(self.trainer, self.seeds, self.states, wait=True)
            raise Interrupted(signal, f"after step {self.step}; saved")

    def finish(self) -> list[Classifier]:
        """Writes the last checkpoint of every seed, with the mean of its features."""
        classifiers = []
        for seed in active(self.seeds):
            state = self.trainer.one_seed(self.states, seed.index)
            classifier = self.run.classifier(state)
            features, _ = measuring.features_and_logits(classifier, self.run.data.benchmark.source_train)
            mean = features.mean(0, dtype=np.float64).astype(np.float32)
            seed.checkpoints.save(state, history(self.seeds, seed, mean.tolist()), wait=True)
            classifiers.append(dataclasses.replace(classifier, feature_mean=jnp.asarray(mean)))
        return classifiers


class StepsTaken(NamedTuple):
    """The result of some steps.

    Attributes:
      states: the states after the steps.
      step: the number of the next step.
      next_chunk: the number of steps to take next.
      totals: of every seed, NumPy [seeds].
      seconds: the time that the steps took.
    """

    states: States
    step: int
    next_chunk: int
    totals: StepTotals
    seconds: float


def advance(run: Run, trainer: Trainer, states: States, step: int, chunk: int) -> StepsTaken:
    """Takes up to `chunk` steps, within an epoch and up to the next measurement, and waits for them."""
    batch, images = run.setup.batch_size, run.setup.num_images
    next_measured = next(at for at in run.measured_steps if at > step)
    count = min(chunk, next_measured - step, -(-(images - step * batch % images) // batch))
    start = time.monotonic()
    states, totals = trainer.run(states, step, count)
    seconds = time.monotonic() - start
    wanted = int(count * SECONDS_BETWEEN_SIGNAL_CHECKS / max(seconds, 1e-9))
    return StepsTaken(states, step + count, max(1, min(wanted, 2 * chunk)), totals, seconds)


def _speed(
    run: Run, trainer: Trainer, rates: throughput.Rates, taken: StepsTaken, count: int
) -> tuple[dict[str, Any], str]:
    """Returns the entry of timing.jsonl for `count` steps, and the text of the progress bar."""
    batch, seconds, totals = run.setup.batch_size, taken.seconds, taken.totals
    images_per_second = count * batch * len(run.configs) / seconds
    entry: dict[str, Any] = {
        "step": taken.step,
        "steps": count,
        "seconds": seconds,
        "step_seconds": seconds / count,
        "images_per_second": images_per_second,
    }
    finite = [i for i in run.unfinished if totals.first_bad_step[i] < 0]
    texts = [
        f"{name} {np.sum(values[finite]) / max(len(finite), 1) / per:.3f}"
        for name, values, per in (("loss", totals.loss, count), ("accuracy", totals.correct, count * batch))
    ]
    texts += [f"{images_per_second:.0f} images/s", f"{1000 * seconds / count:.3g} ms a step"]
    if rates.flops is not None and rates.peak.flops is not None:
        entry["share_of_peak"] = rates.flops * count / seconds / rates.peak.flops
        texts.append(f"{100 * entry['share_of_peak']:.0f} % of peak")
    return entry, ", ".join([*texts, f"compiled in {trainer.compile_seconds:.1f} s"])


def _measured_text(seed: SeedRun) -> str:
    """Summarises a seed's last record."""
    record = seed.records[-1]
    key = files.few_shot_keys(record)[-1]
    cdnv = "inf" if record["target/cdnv"] is None else f"{record['target/cdnv']:.4g}"
    return f"target CDNV {cdnv}, {of_key(key).name} {100 * (record[key] or 0):.2f} % (seed {seed.config.seed})"


def _measure(run: Run, state: TrainState, step: int) -> Record:
    epoch = step * run.setup.batch_size / run.setup.num_images
    start = time.monotonic()
    record = measuring.measure(run.classifier(state), run.measurement, step=step, epoch=epoch)
    _log(run, {"step": step, "measure_seconds": time.monotonic() - start, **throughput.peak_memory()})
    return record


def _make_trainer(run: Run) -> Trainer:
    data, train, seed = run.data, run.data.benchmark.source_train, run.configs[0].seed
    if data.is_streamed:
        rows = local_rows(run.setup.mesh, run.setup.batch_size)
        batches = streaming.batches(train, seed, run.setup.batch_size, rows)
        normalization = jnp.asarray(data.mean), jnp.asarray(data.std)
        trainer = streamed_trainer(run.setup, normalization, batches, seed, run.teacher)
    else:
        images, labels, mean, std = map(jnp.asarray, (train.images, train.labels, data.mean, data.std))
        batch = Batch(images, labels, mean, std, run.teacher)
        trainer = resident_trainer(run.setup, batch, [config.seed for config in run.configs])
    entry = {"compile_seconds": trainer.compile_seconds, "streamed": data.is_streamed, "seeds": len(run.configs)}
    _log(run, entry)
    return trainer


def _check_space(run: Run, seeds: Sequence[SeedRun]) -> None:
    # three checkpoints are kept while a fourth is written; keep_checkpoints adds those of measurements
    steps = seeds[0].checkpoints.steps
    count = max(1, 4 - len(steps))
    if run.configs[0].keep_checkpoints:
        count += sum(step not in steps for step in run.measured_steps)
    workdir.check_space(seeds[0].config.workdir, len(seeds) * run.state_bytes(), count)


def _note_diverged(run: Run, seeds: Sequence[SeedRun]) -> None:
    """Notes which seeds diverged according to the last checkpoints of the finished seeds."""
    for i in sorted(set(range(len(run.configs))) - set(run.unfinished)):
        steps = read_alone(run.configs[i].workdir / "checkpoints", run.total_steps, {}).history.get("diverged", {})
        for seed in seeds:
            seed.diverged_at = steps.get(str(seed.index), seed.diverged_at)


def _log(run: Run, entry: dict[str, Any]) -> None:
    """Adds a line to timing.jsonl of every unfinished seed."""
    if is_lead_process():
        for i in run.unfinished:
            files.append_timing(run.configs[i].workdir, entry)
