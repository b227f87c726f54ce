"""The one exception for mistakes that a person can make and mend, and the line that says what another one was."""

import tokenize
import zipfile
import zlib

UNREADABLE_NPZ = (
    OSError, EOFError, RuntimeError, SyntaxError, TypeError, ValueError,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What NumPy raises of a damaged .npz file."""


class InputError(ValueError):
    """Something the user gave is wrong.

    The message is one line that says what was wrong, with the facts, and what to do about it. Command-line
    scripts print it without a stack trace and exit with code 2.
    """


def first_line(error: BaseException) -> str:
    """What a library's exception says, without the lines that may follow; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
