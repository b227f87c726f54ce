"""TFRecord files, read without TensorFlow.

A file is a sequence of records: a length (8 bytes, little-endian), its checksum (4 bytes), the data, and their
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
    """Yields the records of a file.

    Raises:
      InputError: if the file is cut off or a checksum is wrong; the message has the number of the record, from 0.
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
    return InputError(f"{path}: record {number} {what}; the file is damaged, download or prepare it again")


def masked_crc32c(data: bytes) -> int:
    """Computes the checksum of TFRecord files."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


class _Tables(NamedTuple):
    """Contributions of bytes to the state of the checksum.

    Attributes:
      block: of byte v at place i of a block, to the state after the block, at 256 i + v; uint32 [1024 * 256].
      advance: of the four bytes of a state, to the state after a block of zeros, [4][256].
      single: of a byte, to the state after it, [256].
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
    """Computes the CRC-32C (Castagnoli) of the data.

    The checksum is linear over bits: the contributions of all bytes of a block are looked up in a table and combined by
    exclusive or, which is over twenty times faster than byte by byte.
    """
    tables = _tables()
    if len(data) < 4:
        state = 0xFFFFFFFF
        for byte in data:
            state = tables.single[(state ^ byte) & 0xFF] ^ state >> 8
        return state ^ 0xFFFFFFFF
    # leading zeros change nothing; the start value equals inverting the first four bytes
    padded = np.zeros(-(-len(data) // _BLOCK) * _BLOCK, np.uint8)
    tail = padded[len(padded) - len(data) :]
    tail[:] = np.frombuffer(data, np.uint8)
    tail[:4] ^= 0xFF
    blocks = np.bitwise_xor.reduce(tables.block[_places() + padded.reshape(-1, _BLOCK)], axis=1)
    first, second, third, fourth = tables.advance
    state = 0
    for block in blocks.tolist():
        state = (
            first[state & 0xFF] ^ second[state >> 8 & 0xFF] ^ third[state >> 16 & 0xFF] ^ fourth[state >> 24] ^ block
        )
    return state ^ 0xFFFFFFFF


@functools.cache
def _places() -> np.ndarray:
    return np.arange(0, 256 * _BLOCK, 256, dtype=np.int64)
