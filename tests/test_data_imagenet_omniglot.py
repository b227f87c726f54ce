"""miniImageNet and Omniglot on small trees and archives in their layouts."""

import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ncjax import data
from ncjax.data import mini_imagenet, omniglot
from ncjax.data.data_set import Request, build
from ncjax.errors import InputError

pytestmark = pytest.mark.usefixtures("cache")

SPLIT = json.loads((Path(mini_imagenet.__file__).parent / "splits" / "mini_imagenet.json").read_text())
WNIDS = sorted([*SPLIT["train"], *SPLIT["val"], *SPLIT["test"]])


def _pixels(number, size):
    """Draws an image of class `number`: its own colour, but black at the top left, red below and green on the right."""
    width, height = size
    pixels = np.full((height, width, 3), (number, 255 - number, 7), np.uint8)
    pixels[: height // 2, : width // 2] = 0
    pixels[height // 2 :, : width // 2] = (250, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 250, 0)
    return pixels


def _png(number, size=(30, 20)):
    buffer = io.BytesIO()
    Image.fromarray(_pixels(number, size)).save(buffer, "PNG")
    return buffer.getvalue()


def _images():
    """Maps each wnid to three (file name, bytes)."""
    return {w: [(f"{w}_{j}.png", _png(i, (30 + j, 20))) for j in range(3)] for i, w in enumerate(WNIDS)}


def _write_tree(root):
    for wnid, images in _images().items():
        (root / wnid).mkdir(parents=True)
        for name, content in images:
            (root / wnid / name).write_bytes(content)
    return root


def _write_csv(root):
    (root / "images").mkdir(parents=True)
    images = _images()
    for part in ("train", "val", "test"):
        lines = ["filename,label"]
        for wnid in SPLIT[part]:
            for name, content in images[wnid]:
                (root / "images" / name).write_bytes(content)
                lines.append(f"{name},{wnid}")
        (root / f"{part}.csv").write_text("\n".join(lines) + "\n")
    return root


def _write_tar(root, instead=()):
    """Writes a small archive in the official layout; `instead` has other bytes for some images."""
    root.mkdir(parents=True)
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for wnid, images in {**_images(), "n00000001": [("other.png", _png(0))]}.items():
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as inner:
                for name, whole in reversed(images):
                    content = dict(instead).get(name, whole)
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    inner.addfile(entry, io.BytesIO(content))
            entry = tarfile.TarInfo(f"{wnid}.tar")
            entry.size = len(buffer.getvalue())
            outer.addfile(entry, io.BytesIO(buffer.getvalue()))
    return root


@pytest.mark.parametrize("write", [_write_tree, _write_csv, _write_tar])
def test_mini_imagenet_in_every_layout(tmp_path, write):
    benchmark = data.load("mini_imagenet", data_dir=write(tmp_path / "imagenet"), image_size=12)
    assert benchmark.source_train.class_names == tuple(sorted(SPLIT["train"]))
    assert benchmark.validation.class_names == tuple(sorted(SPLIT["val"]))
    assert benchmark.target.class_names == tuple(sorted(SPLIT["test"]))
    assert benchmark.augmentation == "crop_flip"
    assert np.bincount(benchmark.source_train.labels).tolist() == [2] * 64
    assert np.bincount(benchmark.source_test.labels).tolist() == [1] * 64
    for split in (benchmark.source_train, benchmark.source_test, benchmark.validation, benchmark.target):
        for image, label in zip(split.images, split.labels, strict=True):
            expected = _pixels(WNIDS.index(split.class_names[label]), (12, 12))
            for row, column in ((2, 2), (9, 2), (2, 9), (9, 9)):  # the middle of each quarter
                np.testing.assert_allclose(image[row, column], expected[row, column], atol=8)


def test_mini_imagenet_is_read_anew_when_a_csv_changes(tmp_path):
    root = _write_csv(tmp_path / "imagenet")
    before = data.load("mini_imagenet", data_dir=root, image_size=12).target
    first, second = SPLIT["test"][:2]
    text = (root / "test.csv").read_text().replace(f",{first}\n", ",swap\n").replace(f",{second}\n", f",{first}\n")
    (root / "test.csv").write_text(text.replace(",swap\n", f",{second}\n"))
    after = data.load("mini_imagenet", data_dir=root, image_size=12).target
    index = [before.class_names.index(name) for name in (first, second)]
    for here, there in (index, index[::-1]):
        np.testing.assert_array_equal(after.images[after.labels == here], before.images[before.labels == there])


def test_a_tar_with_few_images_is_not_said_to_be_corrupt(tmp_path, capsys):
    root = _write_tar(tmp_path / "imagenet")
    for skip_corrupt in (False, True):
        data.load("mini_imagenet", data_dir=root, image_size=12, skip_corrupt=skip_corrupt)
        assert "left out" not in capsys.readouterr().err


def test_of_a_tar_what_is_no_image_is_named_or_left_out_and_counted(tmp_path, capsys):
    damaged = f"{WNIDS[7]}_1.png"
    root = _write_tar(tmp_path / "imagenet", {damaged: b"<html>"})
    with pytest.raises(InputError, match=rf"ILSVRC2012_img_train\.tar: {damaged} is not an image"):
        data.load("mini_imagenet", data_dir=root, image_size=12)
    for _ in range(2):  # prepared, then read back
        data.load("mini_imagenet", data_dir=root, image_size=12, skip_corrupt=True)
        said = capsys.readouterr().err
        assert "left out 1 images that cannot be read" in said
        assert damaged in said


def test_mini_imagenet_says_what_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"needs data_dir; ImageNet needs an account: get ILSVRC2012_img_train\.tar"):
        data.load("mini_imagenet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no ImageNet images; ImageNet needs an account"):
        data.load("mini_imagenet", data_dir=tmp_path / "empty")
    root = _write_tree(tmp_path / "tree")
    for file in (root / WNIDS[4]).iterdir():
        file.unlink()
    (root / WNIDS[4]).rmdir()
    with pytest.raises(InputError, match=f"has 99 of miniImageNet's 100 classes; {WNIDS[4]}"):
        data.load("mini_imagenet", data_dir=root)
    root = _write_csv(tmp_path / "csv")
    text = (root / "val.csv").read_bytes()
    (root / "val.csv").write_bytes(b"\xff" + text)
    with pytest.raises(InputError, match=r"val\.csv is no text of lines filename,label"):
        data.load("mini_imagenet", data_dir=root)
    first = text.decode().splitlines()[1]
    (root / "val.csv").write_bytes(b"\xef\xbb\xbf" + text + first.encode())  # as some programs write UTF-8
    with pytest.raises(InputError, match=f"{first.split(',')[0]} is listed more than once in the csv files of"):
        data.load("mini_imagenet", data_dir=root)
    (root / "val.csv").write_bytes(text)
    (root / "images" / f"{WNIDS[0]}_0.png").unlink()
    with pytest.raises(InputError, match=r"_0\.png is listed in .*train\.csv but does not exist"):
        data.load("mini_imagenet", data_dir=root)


@pytest.mark.parametrize(
    ("left_of_the_51st", "message"),
    [
        (0, f"lacks 50 of miniImageNet's 100 classes, {WNIDS[50]} among them; if it is cut off, download ILSVRC"),
        (200, f"lacks 50 of miniImageNet's 100 classes, {WNIDS[50]} among them; if it is cut off, download ILSVRC"),
        (700, r"cannot be read as a tar file \(unexpected end of data\); download ILSVRC"),
    ],
)
def test_a_truncated_tar_is_one_line(tmp_path, left_of_the_51st, message):
    tar = _write_tar(tmp_path / "tar") / "ILSVRC2012_img_train.tar"
    with tarfile.open(tar) as whole:
        start = whole.getmember(f"{WNIDS[50]}.tar").offset
    tar.write_bytes(tar.read_bytes()[: start + left_of_the_51st])
    with pytest.raises(InputError, match=message) as raised:
        data.load("mini_imagenet", data_dir=tar, image_size=12)
    assert "\n" not in str(raised.value)


def test_what_is_no_tar_is_one_line(tmp_path):
    tar = tmp_path / "ILSVRC2012_img_train.tar"
    tar.write_text("<html>log in first</html>")
    with pytest.raises(InputError, match=r"train\.tar cannot be read as a tar file \(.*\); download ILSVRC") as raised:
        data.load("mini_imagenet", data_dir=tar)
    assert "\n" not in str(raised.value)
    with tarfile.open(tar, "w") as outer:
        outer.addfile(tarfile.TarInfo(f"{WNIDS[3]}.tar"))
    with pytest.raises(InputError, match=rf"train\.tar: {WNIDS[3]}\.tar cannot be read as a tar file") as raised:
        data.load("mini_imagenet", data_dir=tar)
    assert "\n" not in str(raised.value)


def test_a_tree_is_prepared_once_however_its_folder_is_named(tmp_path, monkeypatch):
    root = _write_tree(tmp_path / "tree")
    data.load("mini_imagenet", data_dir=root, image_size=12)
    monkeypatch.chdir(tmp_path)
    data.load("mini_imagenet", data_dir="tree", image_size=12)
    assert len(list((tmp_path / "cache").glob("local/*/mini_imagenet/*"))) == 1


@pytest.fixture
def drawings(tmp_path):
    """Writes small archives in the official layout, with checksums; a character has ink in one quarter."""
    sums = {}
    folder = tmp_path / "omniglot"
    folder.mkdir()
    for part, alphabets in (("background", ("Greek", "Latin")), ("evaluation", ("Tengwar",))):
        path = folder / f"images_{part}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for alphabet in alphabets:
                for character in range(1, 4):
                    for drawer in range(1, 7):
                        pixels = np.full((105, 105), 255, np.uint8)
                        pixels[: 40 + character, : 30 + drawer] = 0  # ink is black, at the top left
                        buffer = io.BytesIO()
                        Image.fromarray(pixels).convert("1").save(buffer, "PNG")
                        name = f"images_{part}/{alphabet}/character{character:02}/{character:04}_{drawer:02}.png"
                        archive.writestr(name, buffer.getvalue())
        sums[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    return folder, sums


def _load(drawings, **options):
    request = Request("omniglot", drawings[0], **options)
    settings = {"num_source_classes": None, "source_test_per_class": None, "samples_per_class": None, "seed": 0}
    return build("omniglot", omniglot.open_data_set(request, drawings[1]), augmentation="shift", **settings)


def test_omniglot_background_is_source_and_evaluation_is_target(drawings):
    benchmark = _load(drawings)
    assert benchmark.source_train.num_classes == 6
    assert benchmark.source_train.class_names[0] == "background/Greek/character01"
    assert benchmark.target.class_names == tuple(f"evaluation/Tengwar/character0{i}" for i in (1, 2, 3))
    assert benchmark.target.images.shape == (18, 28, 28, 1)
    assert np.bincount(benchmark.source_test.labels).tolist() == [1] * 6
    assert (benchmark.target.images[:, 2, 2] > 250).all()  # white ink
    assert (benchmark.target.images[:, -2, -2] < 5).all()


def test_rotations_are_new_classes(drawings):
    upright, turned = _load(drawings), _load(drawings, rotations=True)
    assert turned.source_train.num_classes == 4 * upright.source_train.num_classes
    assert turned.target.num_classes == 4 * upright.target.num_classes
    assert not set(turned.source_train.class_names) & set(turned.target.class_names)
    name = upright.target.class_names[1]
    plain = upright.target.images[upright.target.labels == 1]
    for quarter, ending in enumerate(("", " 90°", " 180°", " 270°")):
        label = turned.target.class_names.index(name + ending)
        np.testing.assert_array_equal(
            turned.target.images[turned.target.labels == label], np.rot90(plain, quarter, axes=(1, 2))
        )


def test_omniglot_checks_its_archives(drawings, tmp_path):
    with pytest.raises(InputError, match="not the official 68d2efa1b9178cc56df9314c21c6e718"):
        data.load("omniglot", data_dir=drawings[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"is no folder with images_background\.zip and images_evaluation\.zip"):
        _load((tmp_path / "empty", drawings[1]))
    path = drawings[0] / "images_evaluation.zip"
    path.write_bytes(path.read_bytes()[:-50])
    sums = drawings[1] | {path.name: hashlib.md5(path.read_bytes()).hexdigest()}
    with pytest.raises(InputError, match=r"cannot be read as Omniglot's images_evaluation\.zip"):
        _load((drawings[0], sums))
