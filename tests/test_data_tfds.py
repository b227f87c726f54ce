"""Records of tensorflow-datasets: checksums, damage, versions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_formats import SIZE, assert_same, cut, nothing_is_left, spoil, write_tfds

from ncjax import data
from ncjax.data import tfrecord
from ncjax.errors import InputError

pytestmark = pytest.mark.usefixtures("cache")


def test_the_checksum_is_crc32c() -> None:
    """The examples of RFC 3720, section B.4; and a loop over bits for any length."""
    for content, expected in (
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ):
        assert tfrecord.crc32c(content) == expected
    content = np.random.default_rng(0).bytes(3000)
    state = 0xFFFFFFFF
    found = {}
    for length, byte in enumerate(content):
        found[length] = state ^ 0xFFFFFFFF
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    for length in (0, 1, 3, 4, 5, 1023, 1024, 1025, 2048, 2999):
        assert tfrecord.crc32c(content[:length]) == found[length]


@pytest.mark.parametrize(
    ("framing", "damage", "message"),
    [
        ("tfrecord", cut, r"train\.tfrecord-00001-of-00002: record 5 is cut off"),
        ("tfrecord", spoil, r"train\.tfrecord-00001-of-00002: record 5 has a wrong checksum"),
        ("tfrecord", lambda path: spoil(path, 0), r"00001-of-00002: record 0 has a length with a wrong checksum"),
        ("tfrecord", lambda path: path.write_bytes(b""), r"00001-of-00002 has 0 of 6 records of train"),
        ("tfrecord", Path.unlink, r"00001-of-00002 does not exist: the data set is incomplete"),
        ("array_record", cut, r"train\.array_record-00001-of-00002 has 0 of 6 records of train: prepare or download"),
        ("array_record", lambda path: spoil(path, 70), r"00001-of-00002 (cannot be read from record 0 on|has)"),
    ],
)
def test_damaged_records(framing: str, damage: Any, message: str, tmp_path: Path, cache: Path) -> None:
    write_tfds(tmp_path, framing)
    damage(tmp_path / "tiny_set" / "1.0.0" / f"tiny_set-train.{framing}-00001-of-00002")
    with pytest.raises(InputError, match=message) as raised:
        data.load("tfds:tiny_set", data_dir=tmp_path)
    assert "\n" not in str(raised.value)
    nothing_is_left(cache)


def test_which_version_of_a_prepared_data_set(tmp_path: Path) -> None:
    for version in ("1.9.0", "1.10.0"):
        write_tfds(tmp_path, version=version)
    loaded = data.load("tfds:tiny_set", data_dir=tmp_path)
    assert loaded.target.images.shape[1:] == (SIZE, SIZE, 3)
    assert_same(loaded, data.load("tfds:tiny_set:1.9.0", data_dir=tmp_path))
    assert_same(loaded, data.load("tfds:tiny_set", data_dir=tmp_path / "tiny_set" / "1.9.0"))
    with pytest.raises(
        InputError, match=r"tfds:other is not prepared in .*prepare it once: python -c .*tfds\.builder\('other'"
    ) as raised:
        data.load("tfds:other", data_dir=tmp_path)
    assert "\n" not in str(raised.value)
    for name in ("tfds:tiny_set:2.0.0", "tfds:"):
        with pytest.raises(InputError):
            data.load(name, data_dir=tmp_path)
    with pytest.raises(InputError, match="unknown data set 'folder:x'"):
        data.load("folder:x", data_dir=tmp_path)
