"""Folders of images: nothing is skipped without a message, and common names of parts are known."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ncjax import data
from ncjax.data import cleaning, mini_imagenet
from ncjax.data.images import bits_of_grey
from ncjax.errors import InputError

pytestmark = pytest.mark.usefixtures("cache")

SPLIT = json.loads((Path(mini_imagenet.__file__).parent / "splits" / "mini_imagenet.json").read_text())


def _tree(root, classes, each=3, grey=None):
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for image in range(each):
            Image.new("L", (8, 8), 10 * number if grey is None else grey).save(root / name / f"{image}.png")
    return root


def _load(root, **options):
    return data.load("folder", data_dir=root, image_size=8, **options)


def _count(benchmark):
    return sum(len(s) for s in (benchmark.source_train, benchmark.source_test, benchmark.target))


def test_what_is_passed_over_is_counted_and_named_each_time(tmp_path, capsys):
    root = _tree(tmp_path / "own", "abcd")
    for name in ("photo.CR2", "photo2.cr2", "no_ending", ".hidden"):
        (root / "a" / name).write_text("")
    (root / "readme.txt").write_text("")
    (root / "b" / "deeper" / "still").mkdir(parents=True)
    for place in ("deeper/4.png", "deeper/still/5.jpg", "deeper/notes.txt"):
        (root / "b" / place).write_text("")
    (root / "loose.png").write_text("")
    for _ in range(2):  # prepared, then read back
        assert _count(_load(root)) == 12
        said = capsys.readouterr().err.splitlines()
        assert (
            "folder: skipped 5 files that are no images by their extensions or belong to no class (2 of .cr2, "
            "1 of .png, 1 of .txt, 1 of no extension): loose.png, readme.txt, a/no_ending, a/photo.CR2, a/photo2.cr2"
        ) in said
        assert (
            "folder: skipped 2 images in folders inside of class folders: b/deeper/4.png, b/deeper/still/5.jpg; "
            "move them up to read them"
        ) in said
        assert not any(".hidden" in line or "notes.txt" in line for line in said)


def test_nothing_is_said_where_nothing_is_passed_over(tmp_path, capsys):
    _load(_tree(tmp_path / "own", "abcd"))
    divided, held_out = capsys.readouterr().err.splitlines()
    assert divided.startswith("4 classes, divided at random by split_seed=0: 2 source, 0 validation, 2 target (")
    assert held_out.startswith("folder: 1 images of each source class are held out as source-test")


def test_a_dangling_link_is_unreadable(tmp_path, capsys):
    root = _tree(tmp_path / "own", "abcd")
    (root / "a" / "link.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match=r"a/link\.png cannot be read as an image \(a broken link\); "):
        _load(root)
    assert _count(_load(root, skip_corrupt=True)) == 12
    assert "left out 1 images that cannot be read" in capsys.readouterr().err
    (root / "a" / "link.png").unlink()
    (root / "e").symlink_to(tmp_path / "nowhere")  # it may have been a class
    with pytest.raises(InputError, match=r"own/e is a broken link"):
        _load(root, skip_corrupt=True)


@pytest.mark.parametrize(
    "parts",
    [
        ("train", "val", "test"),
        ("meta-train", "meta-val", "meta-test"),
        ("Train", "valid", "Test"),
        ("source", "validation", "meta_test"),
    ],
)
def test_parts_by_the_names_of_the_field(tmp_path, parts):
    for part, classes in zip(parts, ("abc", "de", "fg"), strict=True):
        _tree(tmp_path / "own" / part, classes)
    benchmark = _load(tmp_path / "own")
    assert benchmark.source_train.class_names == tuple("abc")
    assert benchmark.validation.class_names == tuple("de")
    assert benchmark.target.class_names == tuple("fg")


def test_a_class_may_be_called_train(tmp_path):
    """As some images of COCO and CIFAR-100 are."""
    benchmark = _load(_tree(tmp_path / "own", ["bus", "train", "test", "tram"]))
    assert {*benchmark.source_train.class_names, *benchmark.target.class_names} == {"bus", "train", "test", "tram"}


def test_mistakes_with_parts_are_one_line(tmp_path):
    _tree(tmp_path / "two" / "train", "ab")
    _tree(tmp_path / "two" / "source", "cd")
    with pytest.raises(InputError, match="has source and train, both of which mean source; keep one"):
        _load(tmp_path / "two")
    _tree(tmp_path / "imagenet" / "train", "abc")
    _tree(tmp_path / "imagenet" / "val", "abc")
    with pytest.raises(InputError, match="has train and val, but a given split needs source and target folders"):
        _load(tmp_path / "imagenet")
    _tree(tmp_path / "imagenet" / "test", "abc")
    with pytest.raises(InputError, match=r"class 'a' is in more than one of train, val, test of .*must be in one"):
        _load(tmp_path / "imagenet")


def test_a_folder_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    root = _tree(tmp_path / "own", "abcd")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"cannot read the folder .*own: Permission denied"):
        _load(root)


def test_the_folder_may_have_a_name_in_any_encoding(tmp_path):
    root = _tree(tmp_path / os.fsdecode(b"\xe4 [1]"), "abcd")
    for _ in range(2):  # prepared, then read back
        assert _count(_load(root)) == 12
    assert cleaning.leftovers() == []


def _mini(root, places):
    for part, place in places.items():
        for wnid in SPLIT[part]:
            (root / place / wnid).mkdir(parents=True)
            for image in range(2):
                Image.new("RGB", (8, 8), (image, 7, 9)).save(root / place / wnid / f"{image}.png")
    return root


def test_mini_imagenet_below_its_parts(tmp_path):
    root = _mini(tmp_path / "mini", {"train": "meta-train", "val": "meta-val", "test": "meta-test"})
    (root / "meta-test" / SPLIT["test"][0] / "list.xml").write_text("")
    benchmark = data.load("mini_imagenet", data_dir=root, image_size=8)
    assert benchmark.source_train.class_names == tuple(sorted(SPLIT["train"]))
    assert benchmark.target.class_names == tuple(sorted(SPLIT["test"]))
    wnid = SPLIT["train"][0]
    (root / "meta-train" / wnid).rename(root / "meta-test" / wnid)
    with pytest.raises(InputError, match=f"class {wnid} is in .*meta-test, but is a source class"):
        data.load("mini_imagenet", data_dir=root, image_size=8)


def _grey(root, peak):
    for number, name in enumerate("abcd"):
        (root / name).mkdir(parents=True)
        for image in range(3):
            pixels = np.linspace(0, peak * (0.5 if number else 1), 64).reshape(8, 8)
            Image.fromarray(pixels.astype(np.uint16)).save(root / name / f"{image}.png")
    return root


@pytest.mark.parametrize(("peak", "bits"), [(255, 8), (1000, 10), (4095, 12), (9000, 14), (16384, 16), (65535, 16)])
def test_sixteen_bit_files_are_scaled_by_what_they_hold(tmp_path, capsys, peak, bits):
    benchmark = _load(_grey(tmp_path / "own", peak), source_test_per_class=0)
    said = capsys.readouterr().err
    assert (f"16-bit grey holds {bits} bits: {2**bits - 1} became white, not 65535" in said) == (bits < 16)
    for split in (benchmark.source_train, benchmark.target):
        for label, name in enumerate(split.class_names):
            expected = np.linspace(0, peak * (1 if name == "a" else 0.5), 64).astype(np.uint16) >> (bits - 8)
            for image in split.images[split.labels == label]:  # all scaled alike
                np.testing.assert_array_equal(image.reshape(-1), expected)


def test_a_transparent_value_does_not_count_as_bright(tmp_path):
    pixels = np.full((8, 8), 4095, np.uint16)
    pixels[0] = 65535
    Image.fromarray(pixels).save(tmp_path / "clear.png", transparency=65535)
    assert bits_of_grey("own", [tmp_path / "clear.png"]) == 12
    Image.new("L", (8, 8), 3).save(tmp_path / "eight.png")
    assert bits_of_grey("own", [tmp_path / "eight.png"]) == 16


def test_dark_sixteen_bit_colour_is_said(tmp_path, capsys):
    """Pillow reads only 8 of its bits."""
    _write_deep_colour(tmp_path / "deep.png", 4095)
    with Image.open(tmp_path / "deep.png") as image:
        assert image.mode == "RGB"
        assert np.asarray(image).max() == 15
    bits_of_grey("own", [tmp_path / "deep.png"])
    assert "own: 1 16-bit colour images hold no value above 4095 and come out dark" in capsys.readouterr().err
    _write_deep_colour(tmp_path / "deep.png", 65535)
    bits_of_grey("own", [tmp_path / "deep.png"])
    assert capsys.readouterr().err == ""


def _write_deep_colour(path, value):
    """Writes a PNG file of 16 bits a channel, which Pillow cannot."""
    import struct
    import zlib

    def chunk(kind, content):
        whole = kind + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    row = b"\0" + struct.pack(">3H", value, value, value) * 4
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(row * 4))
        + chunk(b"IEND", b"")
    )
