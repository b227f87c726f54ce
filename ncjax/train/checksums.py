"""Checksums of weights and of the other parts of a checkpoint."""

import zlib
from typing import Any

import jax
import numpy as np


def checksums(parts: dict[str, Any], text: str) -> dict[str, int]:
    """Returns the checksum of each part of a checkpoint, and of its text under "progress"."""
    return {"progress": zlib.crc32(text.encode())} | {name: _checksum(tree) for name, tree in parts.items()}


def weights_checksum(variables: Any) -> str:
    """Returns the checksum of a network's variables that identifies them, as eight hexadecimal digits."""
    return f"{_checksum(variables):08x}"


def _checksum(tree: Any) -> int:
    checksum = 0
    for leaf in jax.tree.leaves(tree):
        checksum = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data, checksum)
    return checksum
