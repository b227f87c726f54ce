"""What the command-line scripts share: reading options, the backend and its cache, one-line errors, exit codes.

JAX is imported inside the functions that need it: that takes a second, which --help does without.
"""

import dataclasses
import errno
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import tyro

from ncjax import files, standard_streams
from ncjax.errors import InputError, first_line
from ncjax.train.signals import Interrupted

_T = TypeVar("_T")

EXIT_USAGE = 2
EXIT_CTRL_C = 130
EXIT_TERMINATED = 75  # "try again": EX_TEMPFAIL of sysexits.h

# What XLA says where a graph cannot be made or launched, also for want of memory.
_OF_CUDA_GRAPHS = re.compile("(CUDA|instantiate) graph|stream.capture|command buffer", re.IGNORECASE)


def read_options(options: type[_T], doc: str | None, default: Callable[[], _T | None] = lambda: None) -> _T:
    """The command line as a dataclass of options, with `~` expanded in every path; `default` makes their defaults."""
    standard_streams.prepare()
    with one_line_errors():
        chosen: Any = tyro.cli(
            options, prog=_program(), description=_description(doc), use_underscores=True, default=default()
        )
        paths = {field.name: _expanded(getattr(chosen, field.name)) for field in dataclasses.fields(chosen)}
        replaced: _T = dataclasses.replace(chosen, **paths)
    return replaced


def _program() -> str | None:
    """Returns the name of a command that is started by `python -m`; None for others, whose file is their name."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.parent}" if spec is not None and Path(sys.argv[0]).name == "__main__.py" else None


def _description(doc: str | None) -> str | None:
    """Indents the lines that begin with a command: tyro joins other lines to a paragraph."""
    return None if doc is None else re.sub("\n+(?=python )", "\n  ", doc)


def _expanded(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_expanded(one) for one in value)
    return files.expand(value) if isinstance(value, Path) else value


def start_backend(*, several: bool = False) -> None:
    """Prepares and starts JAX's backend; `several` says that this process joins others first (`join_processes`).

    Raises:
      InputError: the backend cannot be started, or the other processes are not found.
    """
    from ncjax import devices

    prepare_backend()
    if several:
        join_processes()
    devices.check_backend()


def prepare_backend() -> None:
    """Uses all CPU cores, quiets orbax, and keeps compiled programs in a cache folder private to the user.

    To be called before anything touches the JAX backend. `JAX_COMPILATION_CACHE_DIR` chooses another folder.
    """
    import jax

    from ncjax import devices

    devices.use_all_cores()
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns of its own ordinary doings
    if jax.config.values["jax_compilation_cache_dir"] is None:
        try:
            folder = files.expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "ncjax" / "compiled"
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.stat().st_uid != os.getuid():
                return  # what others may write into is not run
            folder.chmod(0o700)
        except (OSError, InputError):
            return  # without a place to keep them, programs are compiled anew each time
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def check_out(*paths: Path | None) -> None:
    """Raises InputError for places that cannot be written, before the work that they are for."""
    for path in paths:
        if path is None:
            continue
        try:
            files.check_place(path)
        except IsADirectoryError:
            raise InputError(f"--out={path} is a folder; name a file in it") from None
        except OSError as error:
            raise InputError(f"{path} cannot be written: {_where(error)}; choose another --out") from None


def write(path: Path, content: str | bytes) -> None:
    """Writes what `--out` is for, and makes the folders above it.

    Raises:
      InputError: it cannot be written.
    """
    try:
        files.make_parent(path)
        files.write_atomically(path, content)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {_where(error)}; choose another --out") from None


def _where(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}"


def one_of_several() -> bool:
    """Whether the environment says that this process was started as one of several: by srun, or by JAX's variables."""
    return any(int(os.environ.get(name) or 1) > 1 for name in ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS"))


def join_processes() -> None:
    """Makes this process one of several that run together, before anything touches the JAX backend.

    SLURM, Open MPI and TPU pod slices say by themselves who takes part; elsewhere JAX_COORDINATOR_ADDRESS
    (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID do. A process that dies ends the others: at once
    where they wait for its numbers, else after half a minute without a sign of life. Process 0 says how many devices
    all of them have: under SLURM and Open MPI each process takes one.

    Raises:
      InputError: if the other processes are not known or cannot be reached.
    """
    import jax

    number, index = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
    try:
        jax.distributed.initialize(
            num_processes=None if number is None else int(number),
            process_id=None if index is None else int(index),
            heartbeat_timeout_seconds=30,
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"distributed: the processes of this run did not find each other ({first_line(error)}); start it "
            "with srun or on a TPU pod slice, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from None
    if jax.process_index() == 0:
        print(f"{jax.process_count()} processes, {jax.device_count()} devices", file=sys.stderr)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns mistakes and interruptions into one line on standard error and an exit code: 2, 130 or 75.

    An interrupted process ends at once: the ordinary way out takes the backend down under the programs that are still
    running, and crashes (jaxlib 0.10). So does one of several processes, whatever was raised: it would wait for the
    others, and they for this one.
    """
    try:
        yield
        lost = standard_streams.failure()
        if lost is not None:
            raise InputError(f"what was printed is lost: standard output cannot be written ({lost.strerror})")
    except SystemExit:
        raise
    except BaseException as error:
        import jax

        several = jax.distributed.is_initialized()
        explained = _explanation(error, several and jax.process_count() > 1)
        if explained is None and not several:
            raise
        if explained is None:
            traceback.print_exc()
            code = 1
        else:
            message, code = explained
            with suppress(OSError):  # a terminal that is gone
                print(message, file=sys.stderr)
        if several or isinstance(error, KeyboardInterrupt):
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError):
                    stream.flush()
            os._exit(code)
        raise SystemExit(code) from error


def _explanation(error: BaseException, several: bool) -> tuple[str, int] | None:
    """The line and the exit code of what a person can mend; None of anything else."""
    import jax

    if isinstance(error, InputError):
        return f"error: {error}", EXIT_USAGE
    if isinstance(error, Interrupted):
        return str(error), EXIT_CTRL_C if error.signal == signal.SIGINT else EXIT_TERMINATED
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", EXIT_CTRL_C
    if isinstance(error, jax.errors.JaxRuntimeError) and _OF_CUDA_GRAPHS.search(str(error)):
        return (
            f"error: the steps do not run as a CUDA graph here ({first_line(error)[:200]}); set "
            "XLA_FLAGS=--xla_gpu_enable_command_buffer= (nothing after it) and start again, to continue without graphs",
            EXIT_USAGE,
        )
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        return (
            f"error: a device ran out of memory ({first_line(error)[:200]}); train with a smaller --batch_size, or "
            "with --stream=True, which leaves the images in their files",
            EXIT_USAGE,
        )
    if isinstance(error, jax.errors.JaxRuntimeError) and several:
        return (
            f"error: a computation with the other processes failed ({first_line(error)}); if one of them is gone, "
            "start all of them again to continue",
            EXIT_TERMINATED,
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        return f"error: {error.filename or 'a file'} could not be written: {error.strerror}", EXIT_USAGE
    return None
