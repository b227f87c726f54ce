"""load, names and the command line: common behaviour of all data sets."""

import numpy as np
import pytest
from PIL import Image

from ncjax import data
from ncjax.data import data_set, record_writer
from ncjax.data.__main__ import contact_sheet, main
from ncjax.data.catalog import CATALOG
from ncjax.data.class_splits import own_class_split, random_class_split
from ncjax.errors import InputError

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.npz"
    labels = np.repeat(np.arange(8), 12)
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (96, 10, 9), np.uint8), labels=labels)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "nothing"}, "unknown data set 'nothing'; choose one of glyphs, cifar_fs"),
        ({"name": "glyphs", "num_source_classes": 1}, "num_source_classes=1: it must be at least 2"),
        ({"name": "glyphs", "samples_per_class": 0}, "samples_per_class=0: it must be at least 1"),
        ({"name": "glyphs", "source_test_per_class": -1}, "source_test_per_class=-1: it must be at least 0"),
        ({"name": "glyphs", "split_seed": -1}, "split_seed=-1: it must be at least 0"),
        ({"name": "glyphs", "image_size": 32}, "glyphs takes no image_size; it is for omniglot, mini_imagenet, folder"),
        ({"name": "fc100", "rotations": True}, "fc100 takes no rotations; it is for omniglot"),
        ({"name": "npz", "skip_corrupt": True}, "npz takes no skip_corrupt; it is for mini_imagenet, folder"),
        ({"name": "cifar_fs", "data_dir": "/no/such/place"}, "data_dir '/no/such/place' does not exist"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments, message):
    with pytest.raises(InputError) as raised:
        data.load(**arguments)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_every_name_has_a_module_that_opens_it():
    from importlib import import_module

    assert data.names() == tuple(CATALOG)
    for entry in CATALOG.values():
        assert callable(import_module(f"ncjax.data.{entry.module}").open_data_set)


@pytest.mark.parametrize(
    ("count", "own", "others"), [(2, 1, 1), (12, 4, 2), (40, 13, 6), (60, 20, 10), (120, 20, 20), (600, 100, 100)]
)
def test_a_sixth_is_held_out_and_more_of_few_images_of_ones_own(count, own, others):
    assert data_set._held_out(count, None, None, is_own=True) == own
    assert data_set._held_out(count, None, None, is_own=False) == others
    assert data_set._held_out(count, np.arange(count) < 2, None, is_own=True) == 2
    assert data_set._held_out(count, None, 0, is_own=True) == 0


def test_a_third_of_each_class_is_held_out(small):
    benchmark = data.load("npz", data_dir=small)
    assert np.bincount(benchmark.source_test.labels).tolist() == [4] * 5
    assert np.bincount(benchmark.source_train.labels).tolist() == [8] * 5
    assert np.bincount(benchmark.target.labels).tolist() == [12] * 3
    assert not {i.tobytes() for i in benchmark.source_train.images} & {
        i.tobytes() for i in benchmark.source_test.images
    }


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (4, (2, 0, 2)),
        (9, (5, 0, 4)),
        (8, (5, 0, 3)),
        (10, (6, 0, 4)),
        (19, (14, 0, 5)),
        (20, (12, 3, 5)),
        (28, (18, 4, 6)),
        (100, (64, 16, 20)),
    ],
)
def test_shares_of_classes_that_came_without_a_split(count, sizes):
    split = own_class_split(count, seed=0)
    assert (len(split.source), len(split.validation), len(split.target)) == sizes
    assert sorted([*split.source, *split.validation, *split.target]) == list(range(count))


@pytest.mark.parametrize(("count", "left"), [(12, 0), (13, 1)])
def test_a_random_split_leaves_two_source_classes(count: int, left: int) -> None:
    with pytest.raises(InputError, match=f"there are {left} source classes; at least 2 are needed"):
        random_class_split(count, target=12, seed=0)


def test_the_list_names_every_data_set(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(f"{name}\n" in printed for name in data.names())
    assert printed.count("licence:") == len(data.names())


def test_records_go_through_no_memory_of_tensorflow_datasets(monkeypatch):
    """tensorflow-datasets' shuffler keeps a gigabyte, and needs TensorFlow for more."""
    from tensorflow_datasets.core import shuffle

    original = shuffle.Shuffler
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1000)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 20, 20, 3), np.uint8)
    parts = {
        part: lambda rows=rows: ((images[i], i % 2) for i in rows) for part, rows in (("a", range(5)), ("b", [8, 6]))
    }
    contents = record_writer.Contents("", "", (20, 20, 3), ("x", "y"), parts)
    found = record_writer.prepare("cifar10", "1.0.0", "made-up", lambda: contents).read([0, 1])
    np.testing.assert_array_equal(found.images, images[[0, 1, 2, 3, 4, 8, 6]])
    assert shuffle.Shuffler is original


def test_the_list_tells_prepared_from_damaged_files(cache, capsys):
    images = {"train": lambda: iter([(np.zeros((8, 9, 3), np.uint8), label) for label in (0, 1, 1)])}
    contents = record_writer.Contents("", "", (8, 9, 3), ("a", "b"), images)
    prepared = record_writer.prepare("cifar10", "1.0.0", None, lambda: contents).folder
    damaged = record_writer.prepare("cifar100", "1.0.0", "made-up", lambda: contents).folder
    (damaged / "dataset_info.json").write_text('{"name"')
    (cache / "cifar10" / ".incomplete-other").mkdir()  # of a process that is still running
    assert main([]) == 0
    blocks = {block.split("\n")[0]: block.split("\n") for block in capsys.readouterr().out.split("\n\n")}
    size = sum(file.stat().st_size for file in prepared.iterdir()) / 1e6
    assert blocks["cifar10"][4:] == [f"  prepared: {prepared}, 3 images 8x9x3 of 2 classes, {size:.1f} MB"]
    for name in ("cifar100", "cifar_fs", "fc100"):
        assert blocks[name][4:] == [f"  damaged: delete {damaged}"]
    assert blocks["emnist"][4:] == ["  prepared: no"]


def test_preview_has_a_row_a_class(small, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["--preview", "npz", "--data_dir", str(small), "--output", str(sheet)]) == 0
    assert "3 rows" in capsys.readouterr().out
    target = data.load("npz", data_dir=small).target
    with Image.open(sheet) as drawn:
        assert drawn.size == (16 * (9 + 2), 3 * (10 + 2))
        np.testing.assert_array_equal(np.asarray(drawn)[1:11, 1:10], target.images[target.labels == 0][0, ..., 0])
    assert contact_sheet(target, columns=3).size == (33, 36)


def test_preview_takes_the_options_of_load(tmp_path, monkeypatch):
    root, sheet = tmp_path / "own", tmp_path / "sheet.png"
    for name in "abcd":
        (root / name).mkdir(parents=True)
        for number in range(3):
            Image.new("L", (20, 20), 40 * number).save(root / name / f"{number}.png")
        (root / name / "2.png").write_text("no image")
    common = ["--preview", "folder", "--data_dir", str(root), "--output", str(sheet)]
    assert main([*common, "--image_size", "10", "--skip_corrupt"]) == 0
    with Image.open(sheet) as drawn:
        assert drawn.size == (16 * (10 + 2), 2 * (10 + 2))
    assert main([*common, "--image_size", "10"]) == 2
    asked = {}

    def only_asked(name, **options):
        asked.update(options)
        raise InputError("not loaded")

    monkeypatch.setattr("ncjax.data.__main__.load", only_asked)
    assert main(["--preview", "omniglot", "--rotations"]) == 2
    assert asked["rotations"] is True
    assert asked["image_size"] is None
    assert asked["skip_corrupt"] is False


def test_the_command_line_says_mistakes_in_one_line(capsys, tmp_path):
    assert main(["--preview", "npz", "--data_dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: npz needs data_dir=FILE.npz")
