"""Lists the runs below a folder: state, the settings in which they differ, last figures, size and age.

python -m ncjax.runs: the runs below runs/; another folder, or several, may be given.
python -m ncjax.runs --where dataset=cifar_fs --where learning_rate=0.05: only runs with these settings.
python -m ncjax.runs --diff RUN RUN: settings, data and software in which two runs differ.
python -m ncjax.runs PATH --where state=damaged --delete: deletes runs, after it has asked.
"""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import UseAppendAction

from ncjax import cli
from ncjax.errors import InputError
from ncjax.files import expand
from ncjax.runs import Run, find, read
from ncjax.tables import TableFormat, format_table
from ncjax.train import Description, read_description

_NOT_SHOWN = frozenset(
    {
        "workdir",
        "data_dir",
        "seeds",
        "start_weights",
        "teacher_weights",
        "profile",
        "quiet",
        "tensorboard",
        "distributed",
    }
)
_MISSING = object()


@dataclass(frozen=True)
class Options:
    """Which runs to list, and what to do with them."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = (Path("runs"),)
    """Folders of runs, or folders that hold such."""
    where: UseAppendAction[tuple[str, ...]] = ()
    """Only runs with this setting, as NAME=VALUE; state=finished, running, interrupted or damaged is one too. May be
    given more than once."""
    diff: tuple[Path, Path] | None = None
    """Two runs, to show what differs between them."""
    delete: bool = False
    """Deletes the runs that are listed, after it has asked. Running ones are left."""
    yes: bool = False
    """Answers yes to --delete."""
    format: TableFormat = "text"
    """How tables are printed."""


@dataclass(frozen=True)
class Entry:
    """A run's folder, also one that cannot be read.

    Attributes:
        folder: The folder.
        state: "finished", "running", "interrupted" (it can be continued), or "damaged".
        description: The content of config.json; None if it cannot be read.
        run: The run with its records; None before the first measurement, or if they cannot be read.
        reason: Why it is damaged.
    """

    folder: Path
    state: str
    description: Description | None
    run: Run | None
    reason: str = ""

    def setting(self, name: str) -> str | None:
        """A setting as text; None if the run has none of that name."""
        if name == "state":
            return self.state
        value = self.settings().get(name, _MISSING)
        return None if value is _MISSING else str(value)

    def settings(self) -> dict[str, Any]:
        """All settings; those that are newer than the run have their default. Empty if they cannot be read."""
        return {} if self.description is None else self.description.complete_settings

    def bytes(self) -> int:
        """Size of its files on disk."""
        return sum(path.lstat().st_size for path in self.folder.rglob("*") if not path.is_dir())

    def age(self) -> float:
        """Seconds since its newest record, or since its start."""
        written = [self.folder / name for name in ("metrics.jsonl", "config.json")]
        return time.time() - max((path.stat().st_mtime for path in written if path.exists()), default=time.time())


def examine(folder: Path) -> Entry:
    """Reads a run's folder, whatever state it is in."""
    from ncjax.train.workdir import is_locked  # imports JAX, and --help is answered without it

    running = is_locked(folder)
    description = run = None
    reason = ""
    try:
        description = read_description(folder)
        if (folder / "metrics.jsonl").exists():
            run = read(folder)
    except InputError as error:
        reason = str(error)
    if running:
        state = "running"
    elif reason:
        state = "damaged"
    else:
        state = "finished" if run is not None and run.finished else "interrupted"
    return Entry(folder, state, description, run, reason)


def select(entries: Sequence[Entry], conditions: Sequence[str]) -> list[Entry]:
    """Keeps the entries that fulfil every condition.

    Args:
        entries: The entries.
        conditions: "NAME=VALUE" each; numbers are compared as numbers, so that 1 is 1.0.

    Raises:
        InputError: If a condition has no "=", or no run has a setting of that name.
    """
    selected = list(entries)
    for condition in conditions:
        name, equals, value = condition.partition("=")
        if not equals:
            raise InputError(f"--where {condition}: write NAME=VALUE, for example dataset=cifar_fs")
        if entries and all(entry.setting(name) is None for entry in entries):
            raise InputError(f"--where {condition}: no run has a setting {name!r}; pretrain.py --help lists them")
        selected = [entry for entry in selected if _equal(entry.setting(name), value)]
    return selected


def _equal(setting: str | None, value: str) -> bool:
    if setting is None:
        return False
    try:
        return float(setting) == float(value)
    except ValueError:
        return setting == value


def table(entries: Sequence[Entry], style: TableFormat) -> str:
    """Formats a row for each entry; settings that are equal in all of them have no column."""
    names = list(dict.fromkeys(name for entry in entries for name in entry.settings()))
    differing = [
        name
        for name in names
        if name not in _NOT_SHOWN and len({entry.setting(name) for entry in entries if entry.description}) > 1
    ]
    header = ("run", "state", *differing, "epochs trained", "target CDNV ↓", "5-shot ncc ↑", "size", "age")
    rows = [
        (
            str(entry.folder),
            entry.state,
            *(entry.setting(name) or "-" for name in differing),
            *_last(entry),
            _size(entry.bytes()),
            _duration(entry.age()),
        )
        for entry in entries
    ]
    return format_table(header, rows, style, left=2)


def _last(entry: Entry) -> tuple[str, str, str]:
    if entry.run is None:
        return ("-", "-", "-")
    record = entry.run.records[-1]
    accuracy = next((record[key] for key in record if key.startswith("target/ncc/") and key.endswith("w5s")), None)
    shown = "-" if accuracy is None else f"{100 * accuracy:.2f} %"
    return f"{record['epoch']:.3g}", f"{entry.run.final('target/cdnv'):.4g}", shown


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


def _duration(seconds: float) -> str:
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def differences(first: Path, second: Path) -> list[tuple[str, str, str]]:
    """Lists settings, data and software in which two runs differ: name, value in the first, value in the second.

    Raises:
        InputError: If one of them is no run.
    """
    described = [read_description(folder) for folder in (first, second)]
    flat = [_flattened(run.to_json() | {"config": run.complete_settings}) for run in described]
    names = sorted(flat[0].keys() | flat[1].keys())
    missing = "-"
    pairs = [(name, flat[0].get(name, missing), flat[1].get(name, missing)) for name in names]
    return [pair for pair in pairs if pair[1] != pair[2] and not pair[0].startswith(("identity.", "executions"))]


def _flattened(content: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat |= _flattened(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat


def delete(entries: Sequence[Entry], *, yes: bool) -> int:
    """Deletes runs after it has asked; running ones are left.

    Args:
        entries: The runs.
        yes: Whether the answer is known to be yes.

    Returns:
        The number of runs deleted.

    Raises:
        InputError: If nobody can be asked, or a folder cannot be deleted.
    """
    stopped = [entry for entry in entries if entry.state != "running"]
    if not stopped:
        return 0
    if not yes:
        if not sys.stdin.isatty():
            raise InputError("nobody is here to confirm the deletion: add --yes")
        size = _size(sum(entry.bytes() for entry in stopped))
        answer = input(f"delete these {len(stopped)} runs, {size}? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            return 0
    for entry in stopped:
        try:
            if entry.folder.is_symlink():
                entry.folder.unlink()
                continue
            shutil.rmtree(entry.folder)
            parent = entry.folder.parent
            if (parent / "seeds.json").exists() and not any(path.is_dir() for path in parent.iterdir()):
                shutil.rmtree(parent)  # its last seed is gone
        except OSError as error:
            raise InputError(f"{entry.folder} cannot be deleted: {error.strerror}") from None
    return len(stopped)


def run(options: Options) -> None:
    """Prints the table, or the differences, and deletes where that is asked.

    Raises:
        InputError: If there is no run, or a condition is wrong.
    """
    if options.diff is not None:
        rows = differences(*map(expand, options.diff))
        if not rows:
            print("no difference")
            return
        print(format_table(("setting", *map(str, options.diff)), rows, options.format, left=3), end="")
        return
    entries = select([examine(folder) for folder in find(*options.paths)], options.where)
    if not entries:
        print("no run fulfils these conditions")
        return
    print(table(entries, options.format), end="")
    for entry in entries:
        if entry.reason:
            print(f"damaged: {entry.reason}", file=sys.stderr)
    if options.delete:
        count = delete(entries, yes=options.yes)
        print(f"{count} deleted" if count else "nothing deleted")


def main() -> None:
    """Lists the runs that the command line names."""
    options = cli.read_options(Options, __doc__)
    with cli.one_line_errors():
        run(options)
