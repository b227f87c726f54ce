"""EMNIST: idx files and the official zip, upright, by random class split."""

import gzip
import hashlib
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ncjax import data
from ncjax.data import emnist
from ncjax.data.data_set import Request, build
from ncjax.errors import InputError

pytestmark = pytest.mark.usefixtures("cache")


def _idx(array):
    return struct.pack(f">I{array.ndim}I", 0x0800 | array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def small(tmp_path):
    """Four images a class for training and two for testing, in the official layout; stored transposed."""
    folder = tmp_path / "data" / "emnist"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    upright = {}
    for part, each in (("train", 4), ("test", 2)):
        labels = rng.permutation(np.repeat(np.arange(47, dtype=np.uint8), each))
        upright[part] = rng.integers(0, 256, (len(labels), 28, 28), np.uint8), labels
        stored = np.ascontiguousarray(upright[part][0].transpose(0, 2, 1))
        for kind, array in (("images-idx3", stored), ("labels-idx1", labels)):
            (folder / f"emnist-balanced-{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(_idx(array)))
    codes = [*range(48, 58), *range(65, 91), *map(ord, "abdefghnqrt")]
    (folder / "emnist-balanced-mapping.txt").write_text("".join(f"{i} {c}\n" for i, c in enumerate(codes)))
    return folder.parent, upright, "".join(map(chr, codes))


def test_images_are_upright_with_their_labels_and_official_division(small):
    root, upright, characters = small
    benchmark = data.load("emnist", data_dir=root)
    assert benchmark.augmentation == "shift"
    assert benchmark.validation is None
    assert (benchmark.source_train.num_classes, benchmark.target.num_classes) == (35, 12)
    assert not set(benchmark.source_train.class_names) & set(benchmark.target.class_names)
    for split, parts in (
        (benchmark.source_train, ["train"]),
        (benchmark.source_test, ["test"]),
        (benchmark.target, ["train", "test"]),
    ):
        for label in (0, split.num_classes - 1):
            number = characters.index(split.class_names[label])
            expected = np.concatenate([upright[p][0][upright[p][1] == number] for p in parts])
            np.testing.assert_array_equal(split.images[split.labels == label, ..., 0], expected)


def test_split_seed_draws_the_classes(small):
    assert data.load("emnist", data_dir=small[0]).target.class_names != (
        data.load("emnist", data_dir=small[0], split_seed=1).target.class_names
    )


def _zip(folder, path, *, extra=None):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((folder / "emnist").iterdir()):
            archive.write(file, f"gzip/{file.name}")
        if extra:
            archive.writestr(extra, b"")
    return hashlib.md5(path.read_bytes()).hexdigest()


def _load_zip(path, md5):
    options = {"num_source_classes": None, "source_test_per_class": None, "samples_per_class": None, "seed": 0}
    return build("emnist", emnist.open_data_set(Request("emnist", path), md5), augmentation="shift", **options)


def test_the_zip_gives_the_same_images_and_is_kept_apart(small, tmp_path, cache):
    path = tmp_path / "zipped" / "gzip.zip"
    path.parent.mkdir()
    md5 = _zip(small[0], path)
    zipped, extracted = _load_zip(path.parent, md5), data.load("emnist", data_dir=small[0])
    np.testing.assert_array_equal(zipped.source_train.images, extracted.source_train.images)
    assert len(list(cache.glob("local/*/emnist/1.0.0"))) == 2
    with pytest.raises(InputError, match=f"not the official {emnist.OFFICIAL_MD5}"):
        data.load("emnist", data_dir=path.parent)


def test_damage_is_one_line_and_leaves_nothing(small, tmp_path, cache):
    root = small[0]
    labels = root / "emnist" / "emnist-balanced-train-labels-idx1-ubyte.gz"
    whole = labels.read_bytes()
    labels.write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"labels-idx1-ubyte\.gz is incomplete or altered"):
        data.load("emnist", data_dir=root)
    labels.write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
    with pytest.raises(InputError, match="its length does not fit its header"):
        data.load("emnist", data_dir=root)
    labels.write_bytes(whole)
    images = root / "emnist" / "emnist-balanced-train-images-idx3-ubyte.gz"
    upright = images.read_bytes()
    count = len(gzip.decompress(whole)) - 8
    for wrong in (np.zeros((count, 14, 14), np.uint8), np.zeros((count, 28, 27), np.uint8)):
        images.write_bytes(gzip.compress(_idx(wrong)))
        with pytest.raises(InputError, match="EMNIST's train files do not match, or images are not 28 x 28"):
            data.load("emnist", data_dir=root)
    images.write_bytes(upright)
    labels.unlink()
    with pytest.raises(InputError, match=r"holds neither gzip\.zip nor emnist/"):
        data.load("emnist", data_dir=root)
    path = tmp_path / "gzip.zip"
    md5 = _zip(root, path, extra="../outside")
    with pytest.raises(InputError, match="a path outside its own folder"):
        _load_zip(path, md5)
    assert not [f for f in cache.rglob("*") if f.is_file()]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("46 116\n", "46"),
        ("46 116\n", "46 11"),
        ("46 116\n", "45 115\n46 116\n"),
        ("46 116\n", "46 48\n"),
        ("46 116\n", "46 1160000000000\n"),
        ("46 116\n", "46 \N{LATIN SMALL LETTER T WITH CARON}\n"),
        ("0 48\n", ""),
    ],
)
def test_a_damaged_mapping_is_one_line(small, old, new):
    mapping = small[0] / "emnist" / "emnist-balanced-mapping.txt"
    text = mapping.read_text()
    assert old in text
    mapping.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=r"mapping\.txt is incomplete or altered: .* download http") as raised:
        data.load("emnist", data_dir=small[0])
    assert "\n" not in str(raised.value)


def test_changed_files_are_prepared_anew(small):
    root = small[0]
    before = data.load("emnist", data_dir=root)
    images = root / "emnist" / "emnist-balanced-train-images-idx3-ubyte.gz"
    content = bytearray(gzip.decompress(images.read_bytes()))
    content[16:] = bytes(255 - value for value in content[16:])
    images.write_bytes(gzip.compress(bytes(content)))
    after = data.load("emnist", data_dir=root)
    np.testing.assert_array_equal(after.source_train.images, 255 - before.source_train.images)


@pytest.mark.slow
@pytest.mark.skipif(
    not Path(os.environ.get("NCJAX_DATA_DIR", "-"), "emnist").is_dir(), reason="NCJAX_DATA_DIR has no emnist"
)
def test_the_real_images_are_upright():
    benchmark = data.load("emnist", data_dir=os.environ["NCJAX_DATA_DIR"])
    ink = {}
    for split in (benchmark.source_train, benchmark.target):
        for label, name in enumerate(split.class_names):
            ink[name] = split.images[split.labels == label, ..., 0].mean(0)
    # a seven has its bar at the top, an L its foot at the bottom
    assert ink["7"][:14].sum() > 1.2 * ink["7"][14:].sum()
    assert ink["L"][14:].sum() > 1.2 * ink["L"][:14].sum()
