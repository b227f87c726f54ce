"""`InputError`, for mistakes the user can fix; `first_line` summarises any other exception."""

import tokenize
import zipfile
import zlib

UNREADABLE_NPZ = (
    OSError, EOFError, RuntimeError, SyntaxError, TypeError, ValueError,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""Exceptions that NumPy raises for a damaged .npz file."""


class InputError(ValueError):
    """Something the user gave is wrong.

    The message is one line that says what was wrong, with the facts, and what to do about it. Command-line
    scripts print it without a stack trace and exit with code 2.
    """


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; the name of its type where there is none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
