"""Results that take long to compute, kept in files."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ncjax.files import json_text, write_atomically


def cached_json(path: Path, settings: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns `make()`, cached at `path` per settings; numbers that are not finite come back as None.

    A file that cannot be written is reported on standard error, and computed again next time.
    """
    wanted = json.loads(json_text(settings))  # tuples become lists, as in the file
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["settings"] == wanted:
            return dict(content["found"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # the file is missing, or of an older form
    made: dict[str, Any] = json.loads(json_text(make()))
    try:
        write_atomically(path, json_text({"settings": wanted, "found": made}, indent=None))
    except OSError as error:
        print(f"{path} could not be kept: {error.strerror}; it will be computed again", file=sys.stderr)
    return made
