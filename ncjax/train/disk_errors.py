"""What a user can do about a checkpoint that could not be written."""

import errno
import re
from pathlib import Path

from ncjax.errors import InputError, first_line

_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room on the disk"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "allow more open files (ulimit -n)"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make the folder writable"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR), "move away what has its name"),
    errno.EFBIG: "allow larger files (ulimit -f)",
}


def not_written(folder: Path, error: Exception) -> InputError:
    """Returns the error for a checkpoint that could not be written, with advice about its cause."""
    return InputError(
        f"a checkpoint in {folder} could not be written ({first_line(error)[:200]}); the older ones are whole: "
        f"{_ADVICE.get(_errno(error) or 0, 'remove the cause')}, and the same command continues"
    )


def _errno(error: BaseException | None) -> int | None:
    """Finds the system's error number, which orbax wraps in other exceptions and tensorstore in text."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if match := re.search(r"(?:os_error_code='|OS error )(\d+)", str(error)):
            return int(match[1])
        error = error.__cause__ or error.__context__
    return None
