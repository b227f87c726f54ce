"""Pretrains a classifier on source classes and records its collapse and its few-shot transfer.

python experiments/pretrain.py: rendered characters, no download.
python experiments/pretrain.py --dataset=cifar_fs --data_dir=PATH: CIFAR-FS, sized for two CPU cores.
python experiments/pretrain.py --dataset=cifar_fs --preset=paper --precision=bfloat16: wrn-28-4, 100 epochs.
python experiments/pretrain.py --continue_from=RUN --epochs=5: a new run from the last weights of another, with that
run's settings where none are given. The schedule starts anew, over the 5 epochs.

The same command continues an interrupted run; a finished run prints its table again. Where the package is installed,
`ncjax-pretrain` is the same command.
"""

import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from ncjax import cli, plots, runs, train
from ncjax.errors import InputError
from ncjax.progress import quietly
from ncjax.train.config import Config, Resolved
from ncjax.train.records import read_timing, time_spent

_START = time.monotonic()


def show(workdir: Path) -> None:
    """Prints the table of a run and draws its figure, if the figure can be written."""
    records = train.read_records(workdir)
    print(train.table(records, train.read_description(workdir).data.measured_per_class))
    print(f"\nrun     {workdir}")
    try:
        plots.save(plots.plot_run(records, title=workdir.name), workdir / "figures" / "collapse.png")
    except InputError as error:
        print(f"no figure: {error}", file=sys.stderr)


def show_all(config: Config) -> bool:
    """Prints the table of a run, or the tables of all finished seeds.

    Returns:
      Whether the run, or every seed, is finished.
    """
    assert config.workdir is not None
    if config.seeds == 1:
        show(config.workdir)
        return runs.read(config.workdir).finished
    finished = []
    for i in range(config.seeds):
        with suppress(InputError):  # a seed that was never measured
            run = runs.read(config.workdir / f"seed_{i}")
            finished += [run] if run.finished else []
    for run in finished:
        show(run.folder)
    if len(finished) > 1:
        print(f"\n{train.seeds_table([run.records[-1] for run in finished])}")
    return len(finished) == config.seeds


def _timing(config: Resolved) -> list[dict[str, Any]]:
    """Returns the entries of timing.jsonl; those of the seed that has most, since finished seeds get no more."""
    folders = [config.workdir] if config.seeds == 1 else [config.workdir / f"seed_{i}" for i in range(config.seeds)]
    return max(map(read_timing, folders), key=len)


def default_settings() -> Config | None:
    """Returns the settings of the run that --continue_from names; None without it.

    Where that run is gone, those of the run in --workdir, if it was begun from there.

    Raises:
      InputError: if neither is there.
    """
    folder, workdir = _given("continue_from"), _given("workdir")
    if folder in ("", "None"):
        return None
    try:
        return train.continued_config(folder)
    except InputError as error:
        from ncjax.train.continuation import begun_config  # imports JAX, and --help is answered without it

        begun = begun_config(workdir, folder) if workdir else None
        if begun is None:
            raise InputError(
                f"{error}; if that run is gone, a run begun from it goes on with --continue_from={folder} and its "
                "--workdir"
            ) from None
        return begun


def _given(setting: str) -> str:
    """Returns the value of a setting on the command line; "" where it is not given."""
    for word, following in pairwise([*sys.argv[1:], ""]):
        name, equals, value = word.partition("=")
        if name.replace("-", "_") == f"__{setting}":
            return value if equals else following
    return ""


def main() -> None:
    """Pretrains as the command line says."""
    config = cli.read_options(Config, __doc__, default_settings)
    with cli.one_line_errors():
        from ncjax.train.hosts import is_lead_process  # imports JAX, and --help has been answered without it

        cli.start_backend(several=config.distributed or cli.one_of_several())
        with quietly(config.quiet):
            resolved = train.resolve(config)
        before = len(_timing(resolved))
        try:
            train.pretrain(resolved)
        except train.Diverged:
            if is_lead_process() and resolved.seeds > 1:
                show_all(resolved)
            raise
        except train.CheckpointsGone as error:
            if not error.finished or (is_lead_process() and not show_all(resolved)):
                raise
            if is_lead_process():
                print(f"note: {error}", file=sys.stderr)
            return
        if is_lead_process():
            show_all(resolved)
            entries = _timing(resolved)[before:]
            if entries:  # not of a finished run
                print(time_spent(entries, time.monotonic() - _START))
