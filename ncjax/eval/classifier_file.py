"""The file of a `FewShotClassifier`: one .npz of arrays and a JSON header, without the encoder's weights."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ncjax import files
from ncjax.errors import UNREADABLE_NPZ, InputError, first_line
from ncjax.eval import heads

_FORMAT = 1
_SCORERS = {scorer.__name__: scorer for scorer in (heads.Centres, heads.Directions, heads.Linear)}
_IN_HEADER = ("class_names", "transform", "image_shape", "batch_size")
_ARRAYS = ("support", "labels", "center", "probe")


def write(path: Path, classifier: Mapping[str, Any]) -> None:
    """Writes the fields of a classifier, those of the encoder left out.

    Raises:
        InputError: The head is user-defined, or the file cannot be written.
    """
    head, scorer = classifier["head"], classifier["scorer"]
    if type(scorer).__name__ not in _SCORERS or not isinstance(head, heads.Head):
        raise InputError(f"head {head} is not one of {', '.join(heads.HEADS)}: only these can be saved")
    header = {
        "format": _FORMAT,
        "head": head.name,
        "hyperparameters": {name: float(value) for name, value in head.hyperparameters.items()},
        "scorer": type(scorer).__name__,
    } | {name: classifier[name] for name in _IN_HEADER}
    arrays = {name: classifier[name] for name in _ARRAYS if classifier[name] is not None}
    arrays |= {f"scorer.{name}": np.asarray(value) for name, value in scorer._asdict().items()}
    content = io.BytesIO()
    np.savez(content, **arrays, header=json.dumps(header))
    try:
        files.write_atomically(path, content.getvalue())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; choose another path") from None


def read(path: Path) -> dict[str, Any]:
    """Reads the fields that `write` wrote, without running anything in the file.

    Raises:
        InputError: The file cannot be read, or is of another format.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as contents:
            header = json.loads(str(contents["header"]))
            if header["format"] != _FORMAT:
                raise InputError(f"{path} has format {header['format']}, this version reads {_FORMAT}")
            scorer = _SCORERS[header["scorer"]]
            fields = {name: header[name] for name in _IN_HEADER} | {name: contents.get(name) for name in _ARRAYS}
            return fields | {
                "head": heads.HEADS[header["head"]](**header["hyperparameters"]),
                "scorer": scorer(**{name: contents[f"scorer.{name}"] for name in scorer._fields}),
                "support": contents["support"],
                "labels": contents["labels"],
                "class_names": tuple(header["class_names"]),
                "image_shape": tuple(header["image_shape"]) if header["image_shape"] else None,
            }
    except InputError:
        raise
    except (*UNREADABLE_NPZ, KeyError, AttributeError) as error:
        raise InputError(f"{path} is no file of FewShotClassifier.save, or damaged ({first_line(error)})") from None
