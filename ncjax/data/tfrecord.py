"""TFRecord files, read without TensorFlow: lengths and checksums are checked.

A file is a sequence of records, each a length (8 bytes, little-endian), its checksum (4 bytes), the data and their
checksum (4 bytes). Checksums are CRC-32C, masked: rotated right by 15 bits, plus a constant, modulo 2³².
Reference: https://www.tensorflow.org/tutorials/load_data/tfrecord
"""

import functools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ncjax.errors import InputError

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reflected
_BLOCK = 1024
_MASK_DELTA = 0xA282EAD8


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a file, one at a time.

    Raises InputError for a file that is cut off or has a wrong checksum, with the number of the record, from 0.
    """
    number = 0
    try:
        with path.open("rb", buffering=1 << 20) as file:
            while head := file.read(12):
                if len(head) < 12:
                    raise _damaged(path, number, "is cut off")
                length, length_sum = struct.unpack("<QI", head)
                if masked_crc32c(head[:8]) != length_sum:
                    raise _damaged(path, number, "has a length with a wrong checksum")
                rest = file.read(length + 4)
                if len(rest) < length + 4:
                    raise _damaged(path, number, "is cut off")
                data = rest[:length]
                if masked_crc32c(data) != struct.unpack("<I", rest[length:])[0]:
                    raise _damaged(path, number, "has a wrong checksum")
                yield data
                number += 1
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _damaged(path: Path, number: int, what: str) -> InputError:
    return InputError(f"{path}: record {number} {what}; the file is damaged, fetch or prepare it again")


def masked_crc32c(data: bytes) -> int:
    """The checksum of TFRecord files."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


class _Tables(NamedTuple):
    """What a byte contributes to the state of the checksum.

    block: uint32 [1024 * 256], entry 256 i + v of byte v at place i of a block, at its end.
    advance: [4][256], of the bytes of a state, a block of zeros later; single: [256], of one byte at once.
    """

    block: np.ndarray
    advance: list[list[int]]
    single: list[int]


@functools.cache
def _tables() -> _Tables:
    single = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        single = np.where(single & 1, single >> 1 ^ np.uint32(_POLYNOMIAL), single >> 1)

    def one_zero_later(state: np.ndarray) -> np.ndarray:
        later: np.ndarray = single[state & 0xFF] ^ (state >> 8)
        return later

    block = np.empty((_BLOCK, 256), np.uint32)
    state = single
    for place in reversed(range(_BLOCK)):
        block[place] = state
        state = one_zero_later(state)
    states = np.arange(256, dtype=np.uint32) << (8 * np.arange(4, dtype=np.uint32)[:, None])
    for _ in range(_BLOCK):
        states = one_zero_later(states)
    return _Tables(block.reshape(-1), states.tolist(), single.tolist())


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of the data.

    The checksum is linear over bits: the contributions of all bytes of a block come from one table and are added
    (exclusive or) at once, which is over twenty times as fast as byte for byte.
    """
    tables = _tables()
    if len(data) < 4:
        state = 0xFFFFFFFF
        for byte in data:
            state = tables.single[(state ^ byte) & 0xFF] ^ state >> 8
        return state ^ 0xFFFFFFFF
    # Zeros in front change nothing; the start value is that of the first four bytes turned over.
    padded = np.zeros(-(-len(data) // _BLOCK) * _BLOCK, np.uint8)
    own = padded[len(padded) - len(data) :]
    own[:] = np.frombuffer(data, np.uint8)
    own[:4] ^= 0xFF
    found = np.bitwise_xor.reduce(tables.block[_places() + padded.reshape(-1, _BLOCK)], axis=1)
    first, second, third, fourth = tables.advance
    state = 0
    for block in found.tolist():
        state = (
            first[state & 0xFF] ^ second[state >> 8 & 0xFF] ^ third[state >> 16 & 0xFF] ^ fourth[state >> 24] ^ block
        )
    return state ^ 0xFFFFFFFF


@functools.cache
def _places() -> np.ndarray:
    return np.arange(0, 256 * _BLOCK, 256, dtype=np.int64)
