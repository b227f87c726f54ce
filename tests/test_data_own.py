"""The user's own images: folders and array files."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ncjax import data
from ncjax.data.images import Encoded, decode
from ncjax.errors import InputError

pytestmark = pytest.mark.usefixtures("cache")


def _colour(i):
    return (10 * i % 256, 255 - 10 * i, 128)


def _tree(root, classes, *, each=6, mode="RGB", ending="png"):
    for i, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for j in range(each):
            colour = _colour(i) if mode == "RGB" else 10 * i
            Image.new(mode, (20 + j, 12), colour).save(root / name / f"{j}.{ending}")
    return root


def test_folder_by_random_split(tmp_path):
    root = _tree(tmp_path / "own", [f"class{i:02}" for i in range(25)])
    benchmark = data.load("folder", data_dir=root, image_size=16)
    sizes = [s.num_classes for s in (benchmark.source_train, benchmark.validation, benchmark.target)]
    assert sizes == [16, 4, 5]
    names = {n for s in (benchmark.source_train, benchmark.validation, benchmark.target) for n in s.class_names}
    assert len(names) == 25
    assert benchmark.augmentation == "crop_flip"
    assert np.bincount(benchmark.source_test.labels).tolist() == [2] * 16
    for split in (benchmark.source_train, benchmark.source_test, benchmark.target):
        assert split.images.shape[1:] == (16, 16, 3)
        for image, label in zip(split.images, split.labels, strict=True):
            expected = _colour(int(split.class_names[label].removeprefix("class")))
            np.testing.assert_array_equal(image, np.broadcast_to(expected, image.shape))


def test_folder_by_given_split_and_grey_stays_grey(tmp_path):
    _tree(tmp_path / "own" / "source", ["a", "b", "c"], mode="L")
    _tree(tmp_path / "own" / "target", ["d", "e"], mode="L", ending="jpg")
    benchmark = data.load("folder", data_dir=tmp_path / "own")
    assert benchmark.source_train.class_names == ("a", "b", "c")
    assert benchmark.target.class_names == ("d", "e")
    assert benchmark.validation is None
    assert benchmark.target.images.shape == (12, 84, 84, 1)
    assert benchmark.augmentation == "shift"


def test_folder_is_read_again_from_the_prepared_files_until_an_image_changes(tmp_path, cache):
    root = _tree(tmp_path / "own", "abcdef")
    first = data.load("folder", data_dir=root, image_size=8)
    data.load("folder", data_dir=root, image_size=8)
    assert len(list(cache.glob("local/*/folder/*"))) == 1
    Image.new("RGB", (9, 9), (1, 2, 3)).save(root / first.target.class_names[0] / "0.png")
    again = data.load("folder", data_dir=root, image_size=8)
    assert again.target.images[0, 0, 0].tolist() == [1, 2, 3]
    assert len(list(cache.glob("local/*/folder/*"))) == 2


def test_palette_alpha_and_sixteen_bit_images_are_handled_and_said(tmp_path, capsys):
    root = _tree(tmp_path / "own", "abcd")
    Image.new("RGB", (8, 8), (200, 0, 0)).convert("P").save(root / "a" / "palette.png")
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(root / "a" / "transparent.png")
    Image.fromarray(np.full((8, 8), 0x8000, np.uint16)).save(root / "a" / "deep.png")
    clear = Image.fromarray(np.full((8, 8), 0x4000, np.uint16))
    clear.save(root / "a" / "deep_and_clear.png", transparency=1)
    Image.new("L", (8, 8), 77).save(root / "a" / "grey.png")
    benchmark = data.load("folder", data_dir=root, image_size=8, source_test_per_class=0)
    split = benchmark.target if "a" in benchmark.target.class_names else benchmark.source_train
    pixels = {tuple(i[0, 0].tolist()) for i in split.images[split.labels == split.class_names.index("a")]}
    assert {(255, 255, 255), (128, 128, 128), (64, 64, 64), (77, 77, 77)} < pixels
    assert any(abs(p[0] - 200) < 30 and p[1] < 30 for p in pixels)
    said = capsys.readouterr().err
    assert "2 of mode I;16, 1 of mode L, 1 of mode P, 1 of mode RGBA with transparency turned to RGB; " in said
    assert "transparent pixels became white" in said


def test_nothing_is_said_of_transparency_where_there_is_none(tmp_path, capsys):
    root = _tree(tmp_path / "own", "abcd")
    Image.fromarray(np.full((8, 8), 0x8000, np.uint16)).save(root / "a" / "deep.png")
    Image.new("RGBA", (8, 8), (1, 2, 3, 255)).save(root / "a" / "opaque.png")
    data.load("folder", data_dir=root, image_size=8)
    said = capsys.readouterr().err
    assert "1 of mode I;16, 1 of mode RGBA turned to RGB" in said
    assert "transparen" not in said


def test_sixteen_bit_grey_that_is_transparent_becomes_white(tmp_path, capsys):
    deep = np.full((8, 8), 0x4000, np.uint16)
    deep[:4] = 0x2001
    Image.fromarray(deep).save(tmp_path / "deep.png", transparency=0x2001)
    pixels, mode, transparent = decode(Encoded(0, "deep.png", tmp_path / "deep.png"), None, 1)
    assert (mode, transparent) == ("I;16", True)
    np.testing.assert_array_equal(pixels[..., 0], np.where(deep == 0x2001, 255, 0x40))


@pytest.mark.parametrize("type_", [np.int32, np.float32])
def test_pixels_without_a_known_range_are_refused(tmp_path, type_):
    root = _tree(tmp_path / "own", "abcd")
    Image.fromarray(np.full((8, 8), 200, type_)).save(root / "a" / "wide.tif")
    with pytest.raises(InputError, match=r"a/wide\.tif .*32-bit pixels.*convert it to 8 or 16 bits"):
        data.load("folder", data_dir=root, image_size=8)


def test_images_are_turned_as_their_camera_says_and_resized_with_antialiasing(tmp_path):
    root = _tree(tmp_path / "own", "abcd", mode="L")
    rng = np.random.default_rng(0)
    stored = Image.fromarray(rng.integers(0, 256, (24, 48), np.uint8).repeat(2, 0))
    turned = stored.getexif()
    turned[0x0112] = 6  # shown upright when turned by 90 degrees
    stored.save(root / "a" / "photo.png", exif=turned)
    benchmark = data.load("folder", data_dir=root, image_size=8, source_test_per_class=0)
    split = benchmark.target if "a" in benchmark.target.class_names else benchmark.source_train
    expected = stored.transpose(Image.Transpose.ROTATE_270).resize((8, 8), Image.Resampling.LANCZOS)
    assert any(np.array_equal(image[..., 0], expected) for image in split.images)


def test_what_is_no_image_is_told_and_other_files_are_passed_over(tmp_path):
    root = _tree(tmp_path / "own", "abcd")
    (root / "a" / "notes.pdf").write_text("Pillow writes this kind, and does not read it")
    data.load("folder", data_dir=root, image_size=8)
    (root / "a" / "page.png").write_text("<html>")
    with pytest.raises(InputError, match=r"a/page\.png is not an image"):
        data.load("folder", data_dir=root, image_size=8)


def test_a_corrupt_image_is_named_or_counted(tmp_path, capsys, cache):
    root = _tree(tmp_path / "own", "abcd")
    whole = (root / "a" / "3.png").read_bytes()
    (root / "a" / "3.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a/3\.png cannot be read as an image .* --skip_corrupt") as raised:
        data.load("folder", data_dir=root, image_size=8)
    assert "\n" not in str(raised.value)
    assert not [f for f in cache.rglob("*") if f.is_file()]
    benchmark = data.load("folder", data_dir=root, image_size=8, skip_corrupt=True)
    assert "left out 1 images that cannot be read" in capsys.readouterr().err
    splits = (benchmark.source_train, benchmark.source_test, benchmark.target)
    assert sum(len(s) for s in splits) == 4 * 6 - 1
    data.load("folder", data_dir=root, image_size=8, skip_corrupt=True)  # read back
    assert f"left out 1 images that cannot be read: {root / 'a' / '3.png'}\n" in capsys.readouterr().err


def test_readers_of_formats_have_errors_of_their_own(tmp_path, monkeypatch):
    """AVIF raises RuntimeError."""
    root = _tree(tmp_path / "own", "abcd")

    def fail(*_):
        raise RuntimeError("Failed to decode image: cut off\nsomewhere")

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "convert", fail)
        with pytest.raises(InputError, match=r"a/0\.png cannot be read as an image \(Failed to decode .*off\);"):
            data.load("folder", data_dir=root, image_size=8)


def test_where_no_image_can_be_read_one_is_named(tmp_path, cache):
    root = _tree(tmp_path / "own", "abcd")
    for file in root.rglob("*.png"):
        file.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match=r"none of 24 images can be read; for example .*\.png is not an image"):
        data.load("folder", data_dir=root, image_size=8, skip_corrupt=True)
    assert not [f for f in cache.rglob("*") if f.is_file()]


def test_file_names_in_any_encoding_and_class_names_that_survive(tmp_path, cache):
    root = _tree(tmp_path / "own", "abcd")
    (root / "a" / "0.png").rename(root / "a" / os.fsdecode(b"\xe4.png"))
    assert data.load("folder", data_dir=root, image_size=8).name == "folder"
    for name in (os.fsdecode(b"\xe4pfel"), " a", "a ", "a\nb"):
        (root / "d").rename(root / name)
        with pytest.raises(InputError, match=r"class '.*' has a name with blanks at an end, of several lines"):
            data.load("folder", data_dir=root, image_size=8)
        (root / name).rename(root / "d")


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, cache):
    """Simulated by a limit on file sizes."""
    root = _tree(tmp_path / "own", "abcd")
    code = (
        "import resource, signal, sys; from ncjax import data\n"
        "from ncjax.errors import InputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000))\n"
        "try: data.load('folder', data_dir=sys.argv[1], image_size=100)\n"
        "except InputError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code, root], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert re.fullmatch(r"cannot prepare folder in .*File too large.*; free some space, or name another .*\n", said)
    assert not [f for f in cache.rglob("*") if f.is_file()]


def test_folder_mistakes_are_one_line(tmp_path, cache):
    def load(root):
        return data.load("folder", data_dir=root, image_size=8)

    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no sub-folders"):
        load(tmp_path / "empty")
    _tree(tmp_path / "hollow", "abcd")
    (tmp_path / "hollow" / "e").mkdir()
    with pytest.raises(InputError, match=r"class folder .*e has no images"):
        load(tmp_path / "hollow")
    _tree(tmp_path / "twice" / "source", "abc")
    _tree(tmp_path / "twice" / "target", "cd")
    with pytest.raises(InputError, match=r"class 'c' is in more than one of source, target"):
        load(tmp_path / "twice")
    _tree(tmp_path / "half" / "source", "abc")
    with pytest.raises(InputError, match="needs source and target folders"):
        load(tmp_path / "half")
    _tree(tmp_path / "dev" / "source", "abc")
    _tree(tmp_path / "dev" / "dev", "de")
    _tree(tmp_path / "dev" / "target", "fg")
    with pytest.raises(InputError, match=r"has dev beside source and target.*source, validation and target"):
        load(tmp_path / "dev")
    _tree(tmp_path / "one" / "source", "abc")
    _tree(tmp_path / "one" / "target", "d")
    with pytest.raises(InputError, match=r"there are 1 target classes; at least 2"):
        load(tmp_path / "one")
    (tmp_path / "none" / "source").mkdir(parents=True)
    _tree(tmp_path / "none" / "target", "de")
    with pytest.raises(InputError, match=r"there are 0 source classes; at least 2"):
        load(tmp_path / "none")
    assert not list(cache.rglob("*"))  # raised before images are prepared
    with pytest.raises(InputError, match="there are 3 classes; at least 4"):
        load(_tree(tmp_path / "few", "abc"))
    with pytest.raises(InputError, match=r"class '.' of folder has 1 images"):
        load(_tree(tmp_path / "single", "abcd", each=1))
    with pytest.raises(InputError, match="folder needs data_dir=PATH"):
        data.load("folder")


def _npz(path, **arrays):
    rng = np.random.default_rng(0)
    every = {
        "images": rng.integers(0, 256, (60, 8, 8, 3), np.uint8),
        "labels": np.repeat([-5, 3, 7, 100, 101, 102], 10),
    } | arrays
    np.savez(path, **{k: v for k, v in every.items() if v is not None})
    return path


def test_npz_with_split_and_names(tmp_path):
    split = np.repeat(["target", "source", "source", "validation", "target", "source"], 10)
    names = np.array(["minus", "three", "seven", "x", "y", "z"])
    path = _npz(tmp_path / "own.npz", split=split, class_names=names)
    benchmark = data.load("npz", data_dir=path, source_test_per_class=3)
    assert benchmark.source_train.class_names == ("three", "seven", "z")
    assert benchmark.validation.class_names == ("x",)
    assert benchmark.target.class_names == ("minus", "y")
    images = np.load(path)["images"]
    np.testing.assert_array_equal(benchmark.target.images, np.concatenate([images[:10], images[40:50]]))
    assert benchmark.target.labels.tolist() == [0] * 10 + [1] * 10
    assert np.bincount(benchmark.source_test.labels).tolist() == [3] * 3


def test_npz_without_split_and_grey(tmp_path):
    path = _npz(tmp_path / "own.npz", images=np.zeros((60, 5, 5), np.uint8))
    benchmark = data.load("npz", data_dir=path)
    assert benchmark.source_train.images.shape[1:] == (5, 5, 1)
    assert benchmark.augmentation == "shift"
    assert {*benchmark.source_train.class_names, *benchmark.target.class_names} == {"-5", "3", "7", "100", "101", "102"}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": None}, "it needs `images` and `labels`"),
        ({"images": np.zeros((60, 8, 8, 3), np.float32)}, r"float32 \[60, 8, 8, 3\]; it must be uint8"),
        ({"images": np.zeros((60, 8, 8, 2), np.uint8)}, "2 channels; it must have 1"),
        ({"labels": np.zeros(59, int)}, r"`labels` of .* is int64 \[59\]; it must be integers \[60\]"),
        ({"images": np.array([np.zeros((2, 2)), np.zeros((3, 3))], object)}, "`images` of .* resize all to one size"),
        ({"labels": np.repeat(np.arange(6), 10).astype(object)}, "`labels` of .* holds Python objects"),
        ({"split": np.array(["source"] * 60, object)}, "`split` of .* Python objects, .* save it as integers or str"),
        ({"split": np.array("source")}, r"`split` of .* is <U6 \[\]; it must be strings"),
        ({"split": np.zeros(60)}, r"`split` of .* is float64 \[60\]; it must be strings"),
        ({"split": np.array([b"\xe4"] * 60)}, "`split` of .* has bytes that are not UTF-8"),
        ({"class_names": np.array("a")}, r"`class_names` of .* is <U1 \[\]; it must be strings"),
        ({"class_names": np.array([b"a", b"b", b"c", b"d", b"e", b"\xe4"])}, "`class_names` of .* not UTF-8"),
        ({"class_names": np.array(list("abcdd")[:5])}, "5 names for 6 different labels"),
        ({"class_names": np.array(list("abcdda"))}, "has 'a' more than once"),
        ({"split": np.array(["source"] * 59 + ["target"])}, "class '102' of .* is in source and target"),
        ({"split": np.array(["source"] * 60)}, "there are 0 target classes"),
        ({"split": np.array(["dev"] * 60)}, "must be 'source', 'validation' or 'target'"),
    ],
)
def test_npz_mistakes_are_one_line(tmp_path, arrays, message):
    with pytest.raises(InputError, match=message) as raised:
        data.load("npz", data_dir=_npz(tmp_path / "own.npz", **arrays))
    assert "\n" not in str(raised.value)


def test_npz_with_names_and_split_as_bytes(tmp_path):
    split = np.repeat([b"source", b"target", b"source", b"source", b"target", b"source"], 10)
    names = np.array([name.encode() for name in ("minus", "größer", "c", "d", "字", "f")])
    target = data.load("npz", data_dir=_npz(tmp_path / "own.npz", split=split, class_names=names)).target
    assert target.class_names == ("größer", "字")


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["notes", "split", "class_names", "labels", "images"])
def test_npz_is_never_unpickled(tmp_path, name):
    path = _npz(tmp_path / "own.npz", **{name: np.array([_Trap(tmp_path / "opened")] * 60, object)})
    if name == "notes":  # not requested
        assert len(data.load("npz", data_dir=path).target.class_names) == 2
    else:
        with pytest.raises(InputError, match=f"`{name}` of .* holds Python objects, which are not opened"):
            data.load("npz", data_dir=path)
    assert not (tmp_path / "opened").exists()


def test_what_is_no_npz_is_one_line(tmp_path):
    path = tmp_path / "own.npz"
    path.write_text("no archive")
    with pytest.raises(InputError, match=r"own\.npz is no npz file; write it with numpy\.savez"):
        data.load("npz", data_dir=path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images", "raw")
        archive.writestr("labels", "raw")
    with pytest.raises(InputError, match=r"`images` of .* is no array"):
        data.load("npz", data_dir=path)


def test_a_truncated_npz_is_one_line(tmp_path):
    path = _npz(tmp_path / "own.npz")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"numpy\.savez") as raised:
        data.load("npz", data_dir=path)
    assert "\n" not in str(raised.value)
