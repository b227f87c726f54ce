"""CIFAR: archives are checked, prepared without TensorFlow, and selected by class."""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from ncjax import data
from ncjax.data import cifar, record_writer
from ncjax.data.data_set import Request, build
from ncjax.errors import InputError

pytestmark = pytest.mark.usefixtures("cache")

NAMES = json.loads((Path(__file__).parent / "cifar100_classes.json").read_text())["fine"]
TRAIN, TEST = 5, 2  # images a class in the small archive

real = pytest.mark.skipif(
    not Path(os.environ.get("NCJAX_DATA_DIR", "-"), "cifar-100-python").is_dir(),
    reason="NCJAX_DATA_DIR names no folder with the real CIFAR-100",
)


def _pickle(folder, member, content):
    encoded = pickle.dumps(content)
    (folder / member).write_bytes(encoded)
    return hashlib.md5(encoded).hexdigest()


@pytest.fixture
def small(tmp_path):
    """A folder with a small archive in the layout of CIFAR-100, and the Archive that knows its checksums."""
    folder = tmp_path / "data" / "cifar-100-python"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    sums = {"meta": _pickle(folder, "meta", {"fine_label_names": NAMES})}
    for member, count in (("train", TRAIN), ("test", TEST)):
        labels = rng.permutation(np.repeat(np.arange(100), count)).tolist()
        pixels = rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        sums[member] = _pickle(folder, member, {"data": pixels, "fine_labels": labels})
    archive = folder.parent / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, "cifar-100-python")
    sums[archive.name] = hashlib.md5(archive.read_bytes()).hexdigest()
    return folder.parent, dataclasses.replace(cifar.CIFAR100, checksums=sums)


def _load(small, name="cifar_fs", *, data_dir=None, **options):
    folder, archive = small
    settings = {
        "num_source_classes": None,
        "source_test_per_class": None,
        "samples_per_class": None,
        "seed": 0,
    } | options
    request = Request(name, data_dir or folder, split_seed=settings["seed"])
    return build(name, cifar.open_data_set(request, archive), augmentation="crop_flip", **settings)


def _raw(folder):
    found = {}
    for member in ("train", "test"):
        content = pickle.loads((folder / "cifar-100-python" / member).read_bytes())
        found[member] = content["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(content["fine_labels"])
    return found


@pytest.mark.parametrize("name", ["cifar_fs", "fc100"])
def test_classes_are_those_of_the_published_split(small, name):
    benchmark = _load(small, name)
    split = json.loads((Path(cifar.__file__).parent / "splits" / f"{name}.json").read_text())
    for part, key in (("source_train", "train"), ("source_test", "train"), ("validation", "val"), ("target", "test")):
        assert sorted(getattr(benchmark, part).class_names) == sorted(split[key])
    assert not set(split["train"]) & set(split["test"])
    assert not set(split["train"]) & set(split["val"])
    assert not set(split["val"]) & set(split["test"])


def test_superclasses_are_kept_and_a_class_split_makes_one_benchmark_of_another(small):
    folder, archive = small
    fc100 = _load(small, "fc100")
    assert dict(zip(fc100.target.class_names, fc100.target.superclasses, strict=True))["baby"] == "people"
    assert not set(fc100.source_train.superclasses) & set(fc100.target.superclasses)
    chosen = cifar.open_data_set(Request("cifar100", folder, class_split="fc100"), archive)
    assert chosen.split == cifar.open_data_set(Request("fc100", folder), archive).split


def test_images_and_labels_are_those_of_the_pickles_in_the_official_division(small):
    benchmark, raw = _load(small), _raw(small[0])
    for part, members, each in (
        ("source_train", ["train"], TRAIN),
        ("source_test", ["test"], TEST),
        ("target", ["train", "test"], TRAIN + TEST),
    ):
        split = getattr(benchmark, part)
        assert np.bincount(split.labels).tolist() == [each] * split.num_classes
        for label in (0, split.num_classes - 1):
            number = NAMES.index(split.class_names[label])
            expected = np.concatenate([raw[m][0][raw[m][1] == number] for m in members])
            np.testing.assert_array_equal(split.images[split.labels == label], expected)


def test_source_test_per_class(small):
    all_trained = _load(small, source_test_per_class=0)
    assert all_trained.source_test is None
    assert np.bincount(all_trained.source_train.labels).tolist() == [TRAIN + TEST] * 64
    fewer = _load(small, source_test_per_class=1)
    official = {i.tobytes() for i in _load(small).source_test.images}
    assert len(fewer.source_test) == 64
    assert {i.tobytes() for i in fewer.source_test.images} < official
    with pytest.raises(InputError, match="has 7 images, too few to hold out 7"):
        _load(small, source_test_per_class=7)


def test_samples_per_class_limits_source_train_only(small):
    whole, limited = _load(small), _load(small, samples_per_class=2)
    assert np.bincount(limited.source_train.labels).tolist() == [2] * 64
    assert {i.tobytes() for i in limited.source_train.images} < {i.tobytes() for i in whole.source_train.images}
    assert len(limited.source_test) == len(whole.source_test)
    assert len(limited.target) == len(whole.target)


def test_fewer_source_classes_are_a_subset_and_the_target_stays(small):
    ten, five = _load(small, num_source_classes=10), _load(small, num_source_classes=5)
    assert set(five.source_train.class_names) < set(ten.source_train.class_names)
    assert five.target.class_names == ten.target.class_names
    other = _load(small, num_source_classes=5, seed=1)
    assert other.source_train.class_names != five.source_train.class_names
    with pytest.raises(InputError, match="cifar_fs has 64 source classes, not 65"):
        _load(small, num_source_classes=65)


def test_random_split_is_drawn_by_the_seed(small):
    first, again, other = (_load(small, "cifar100", seed=s) for s in (0, 0, 1))
    assert first.target.class_names == again.target.class_names != other.target.class_names
    parts = [first.source_train.class_names, first.validation.class_names, first.target.class_names]
    assert [len(p) for p in parts] == [64, 16, 20]
    assert len(set().union(*parts)) == 100


@pytest.fixture
def small10(tmp_path):
    """Like `small`, in the layout of CIFAR-10: five files of two images a class, and a test file of one."""
    folder = tmp_path / "data10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    sums = {"batches.meta": _pickle(folder, "batches.meta", {"label_names": [f"kind{i}" for i in range(10)]})}
    raw = {"train": [], "test": []}
    for member, count in (*((m, 2) for m in cifar.CIFAR10.train), ("test_batch", 1)):
        labels = rng.permutation(np.repeat(np.arange(10), count)).tolist()
        pixels = rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        sums[member] = _pickle(folder, member, {"data": pixels, "labels": labels})
        raw["test" if member == "test_batch" else "train"].append((pixels, np.array(labels)))
    archive = folder.parent / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, "cifar-10-batches-py")
    sums[archive.name] = hashlib.md5(archive.read_bytes()).hexdigest()
    return archive, dataclasses.replace(cifar.CIFAR10, checksums=sums), raw


@pytest.mark.parametrize("packed", [True, False])
def test_cifar10_by_random_class_split(small10, packed):
    path, archive, raw = small10
    if not packed:
        path.unlink()
    first, other = (_load((path.parent, archive), "cifar10", data_dir=path if packed else None, seed=s) for s in (0, 1))
    assert first.target.class_names != other.target.class_names
    assert first.validation is None
    assert sorted([*first.source_train.class_names, *first.target.class_names]) == [f"kind{i}" for i in range(10)]
    for part, members in (("source_train", ["train"]), ("source_test", ["test"]), ("target", ["train", "test"])):
        split = getattr(first, part)
        assert split.num_classes == 5
        for label, name in enumerate(split.class_names):
            batches = [batch for member in members for batch in raw[member]]
            expected = np.concatenate([pixels[labels == int(name[-1])] for pixels, labels in batches])
            expected = expected.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # red, green and blue one after another
            np.testing.assert_array_equal(split.images[split.labels == label], expected)


def test_prepared_once_and_from_folder_and_archive_alike(small, cache):
    first = _load(small)
    prepared = list(cache.glob("local/*/cifar100/1.0.0"))
    assert len(prepared) == 1
    assert not (cache / "cifar100").exists()  # never in the folder of the official archive's files
    stamps = {f: f.stat().st_mtime_ns for f in prepared[0].iterdir()}
    again = _load(small, data_dir=small[0] / "cifar-100-python.tar.gz")
    assert {f: f.stat().st_mtime_ns for f in prepared[0].iterdir()} == stamps
    np.testing.assert_array_equal(first.target.images, again.target.images)


def test_the_archive_file_alone_serves(small, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    (small[0] / "cifar-100-python.tar.gz").rename(alone / "cifar-100-python.tar.gz")
    from_archive = _load(small, data_dir=alone)
    raw = _raw(small[0])["test"]
    number = NAMES.index(from_archive.source_test.class_names[3])
    np.testing.assert_array_equal(
        from_archive.source_test.images[from_archive.source_test.labels == 3], raw[0][raw[1] == number]
    )


def test_an_altered_pickle_is_never_opened(small, tmp_path):
    trap = tmp_path / "opened"

    class Trap:
        def __reduce__(self):
            return Path.touch, (trap,)

    (small[0] / "cifar-100-python" / "train").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match=r"train has MD5 checksum \w{32}, not the official \w{32}"):
        _load(small)
    # also if only the checksum of the archive file was altered to fit
    archive = small[0] / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(small[0] / "cifar-100-python", "cifar-100-python")
    sums = dict(small[1].checksums) | {archive.name: hashlib.md5(archive.read_bytes()).hexdigest()}
    with pytest.raises(InputError, match="it was not opened"):
        _load((small[0], dataclasses.replace(small[1], checksums=sums)), data_dir=archive)
    assert not trap.exists()


def test_load_accepts_only_the_official_archive(small, cache):
    with pytest.raises(InputError, match="not the official 16019d7e3df5f24257cddd939b257f8d"):
        data.load("cifar_fs", data_dir=small[0])
    assert not list(cache.rglob("*"))


def test_bad_archives_are_one_line_and_leave_nothing(small, tmp_path, cache):
    folder, archive = small
    path = folder / "cifar-100-python.tar.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="incomplete or altered") as truncated:
        _load(small, data_dir=path)
    assert "\n" not in str(truncated.value)
    # a truncated file of the expected checksum also fails in one line
    sums = dict(archive.checksums) | {path.name: hashlib.md5(path.read_bytes()).hexdigest()}
    with pytest.raises(InputError, match="cannot be read as"):
        _load((folder, dataclasses.replace(archive, checksums=sums)), data_dir=path)
    with tarfile.open(path, "w:gz") as tar:
        outside = tarfile.TarInfo("../outside")
        outside.size = 1
        tar.addfile(outside, io.BytesIO(b"x"))
    sums = dict(archive.checksums) | {path.name: hashlib.md5(path.read_bytes()).hexdigest()}
    with pytest.raises(InputError, match="a path outside its own folder"):
        _load((folder, dataclasses.replace(archive, checksums=sums)), data_dir=path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"holds neither cifar-100-python/ .* nor cifar-100-python.tar.gz"):
        _load(small, data_dir=empty)
    assert not [f for f in cache.rglob("*") if f.is_file()]


def test_a_failed_preparation_leaves_nothing_and_the_next_succeeds(cache):
    def contents(fail):
        def images():
            for i in range(20):
                if fail and i == 10:
                    raise KeyboardInterrupt
                yield np.full((32, 32, 3), i, np.uint8), i % 2

        return lambda: record_writer.Contents("", "", (32, 32, 3), ("a", "b"), {"train": images})

    with pytest.raises(KeyboardInterrupt):
        record_writer.prepare("few", "1.0.0", None, contents(True))
    assert not [f for f in cache.rglob("*") if f.is_file()]
    prepared = record_writer.prepare("few", "1.0.0", None, contents(False))
    only_b = prepared.read([1])
    assert only_b.images[:, 0, 0, 0].tolist() == list(range(1, 20, 2))
    assert only_b.official_test is None


def test_damaged_prepared_files_say_what_to_delete(small, cache):
    _load(small)
    (record,) = cache.rglob("cifar100-train.array_record*")
    record.write_bytes(record.read_bytes()[: record.stat().st_size // 2])
    with pytest.raises(InputError, match=r"prepared files are damaged .*; delete .*cifar100"):
        _load(small)


def test_prepared_files_are_plain_tensorflow_datasets_and_tensorflow_stays_out(small, cache):
    _load(small)
    (folder,) = cache.glob("local/*/cifar100/1.0.0")
    code = (
        "import sys, numpy as np, tensorflow_datasets as tfds\n"
        f"source = tfds.data_source('cifar100:1.0.0', data_dir={str(folder.parent.parent)!r}, split='train')\n"
        "assert len(source) == 500, len(source)\n"
        "assert source[0]['image'].shape == (32, 32, 3)\n"
        "import ncjax.data.cifar\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_unwritable_cache_is_one_line(small, monkeypatch):
    monkeypatch.setenv("NCJAX_CACHE_DIR", str(small[0] / "cifar-100-python.tar.gz" / "below-a-file"))
    with pytest.raises(InputError, match=r"cannot write to the cache folder .*; name another with NCJAX_CACHE_DIR"):
        _load(small)


@real
@pytest.mark.slow
def test_the_real_archive():
    benchmark = data.load("cifar_fs", data_dir=os.environ["NCJAX_DATA_DIR"])
    assert np.bincount(benchmark.source_train.labels).tolist() == [500] * 64
    assert np.bincount(benchmark.source_test.labels).tolist() == [100] * 64
    assert np.bincount(benchmark.target.labels).tolist() == [600] * 20
    with open(Path(os.environ["NCJAX_DATA_DIR"], "cifar-100-python", "test"), "rb") as file:
        raw = pickle.load(file, encoding="latin1")
    number = NAMES.index(benchmark.source_test.class_names[5])
    expected = raw["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)[np.array(raw["fine_labels"]) == number]
    np.testing.assert_array_equal(benchmark.source_test.images[benchmark.source_test.labels == 5], expected)
