"""Published class splits under other class names; superclasses; users' lists and folders."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ncjax import data
from ncjax.data import Split, class_splits, images
from ncjax.errors import InputError

pytestmark = pytest.mark.usefixtures("cache")

SPLITS = Path(class_splits.__file__).parent / "splits"


def _shipped(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((SPLITS / f"{name}.json").read_text())
    return content


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("cifar_fs", (64, 16, 20)),
        ("fc100", (60, 20, 20)),
        ("mini_imagenet", (64, 16, 20)),
        ("cub", (100, 50, 50)),
        ("tiered_imagenet", (351, 97, 160)),
    ],
)
def test_sizes_and_sources_of_the_published_splits(name: str, sizes: tuple[int, ...]) -> None:
    content = _shipped(name)
    parts = [content[part] for part in ("train", "val", "test")]
    assert tuple(map(len, parts)) == sizes
    every = [one for part in parts for one in part]
    assert len(set(every)) == len(every)
    checks = content["crosscheck"]
    for check in checks if isinstance(checks, list) else [checks]:
        assert check["agrees"] is True
        assert check["repo"] != content["source"]["repo"]
    if "words" in content:
        assert set(content["words"]) == set(content["numbers"]) == set(every)
        assert len(set(content["numbers"].values())) == len(every)


def test_facts_of_the_published_splits() -> None:
    """Chen et al. take classes by their number; classes of tieredImageNet differ in their superclasses."""
    cub = _shipped("cub")
    numbers = {part: {int(name[:3]) - 1 for name in cub[part]} for part in ("train", "val", "test")}
    assert numbers == {"train": set(range(0, 200, 2)), "val": set(range(1, 200, 4)), "test": set(range(3, 200, 4))}
    tiered = _shipped("tiered_imagenet")
    above = [{tiered["superclasses"][name] for name in tiered[part]} for part in ("train", "val", "test")]
    assert [len(one) for one in above] == [20, 6, 8]
    assert len(set.union(*above)) == 20 + 6 + 8
    mini = _shipped("mini_imagenet")
    assert all(mini["numbers"][w] == tiered["numbers"][w] for w in mini["words"] if w in tiered["numbers"])


def _spoken(content: dict[str, Any], way: str) -> dict[str, str]:
    """Maps each class to its name in the data."""
    every = [name for part in ("train", "val", "test") for name in content[part]]
    ways = {
        "as it is": lambda name: name,
        "number": lambda name: str(content["numbers"][name]),
        "words": lambda name: content["words"][name],
        "first word": lambda name: content["words"][name].split(",")[0].replace(" ", "_").lower(),
        "wnid and word": lambda name: f"{name}_{content['words'][name].split(',')[0]}",
        "without its number": lambda name: re.sub(r"^\d+\.", "", name).replace("_", " "),
    }
    return {name: ways[way](name) for name in every}


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("cub", "as it is"), ("cub", "without its number"), ("cub", "number"),
        ("tiered_imagenet", "as it is"), ("tiered_imagenet", "words"), ("tiered_imagenet", "wnid and word"),
        ("tiered_imagenet", "number"), ("mini_imagenet", "words"), ("mini_imagenet", "first word"),
    ],
)  # fmt: skip
def test_classes_are_found_by_any_of_their_names(name: str, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = _shipped(name)
    called = _spoken(content, way)
    names = sorted(set(called.values()))
    assert len(names) == len(called)
    split, superclasses = class_splits.choose(name, names, {}, seed=0)
    for part, listed in (("source", "train"), ("validation", "val"), ("target", "test")):
        assert {names[c] for c in getattr(split, part)} == {called[one] for one in content[listed]}
    if name == "tiered_imagenet":
        assert superclasses == {called[one]: content["superclasses"][one] for one in called}
    assert capsys.readouterr().err == ""


def test_an_ambiguous_name_is_missing_rather_than_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["Black_footed_Albatross", "black footed albatross", "003.Sooty_Albatross", "Crested Auklet",
             "004.Groove_billed_Ani", "008.Rhinoceros_Auklet"]  # fmt: skip
    split, _ = class_splits.choose("cub", names, {}, seed=0)
    assert {names[c] for c in split.source} == {"003.Sooty_Albatross", "Crested Auklet"}
    said = capsys.readouterr().err
    assert "196 of its classes are not in the data: 001.Black_footed_Albatross, " in said
    assert "2 classes of the data are in none of its lists: Black_footed_Albatross, black footed albatross" in said


def test_superclasses_of_a_split() -> None:
    arrays = np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 1])
    assert Split(*arrays, ("a", "b")).superclasses is None
    assert Split(*arrays, ("a", "b"), ["x", "x"]).superclasses == ("x", "x")
    for wrong in (("x",), "xy", ("x", 3)):
        with pytest.raises(InputError, match=r"superclasses is .*; it must be 2 names, one a class, or None"):
            Split(*arrays, ("a", "b"), wrong)


def _tree(root: Path, names: list[str], *, each: int = 3, ending: str = "png") -> Path:
    for i, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for j in range(each):
            Image.new("RGB", (12, 12), (20 * i, 40 * j, 7)).save(root / name / f"{j}.{ending}")
    return root


def test_the_official_folder_of_cub(tmp_path: Path) -> None:
    content = _shipped("cub")
    names = [*content["train"][:3], *content["val"][:1], *content["test"][:2]]
    root = tmp_path / "CUB_200_2011"
    _tree(root / "images", names)
    (root / "attributes").mkdir()
    (root / "images.txt").write_text("")
    loaded = data.load("folder", data_dir=root, image_size=8, class_split="cub")
    assert loaded.source_train.class_names == tuple(content["train"][:3])
    assert loaded.target.class_names == tuple(content["test"][:2])


def test_parts_of_one_list_of_classes_are_taken_together_under_a_split(tmp_path: Path) -> None:
    """As in train/ and val/ of ImageNet, which have the same classes."""
    content = _shipped("tiered_imagenet")
    names = [*content["train"][:2], *content["test"][:2]]
    for part in ("train", "val"):
        _tree(tmp_path / "imagenet" / part, names)
    with pytest.raises(InputError, match="needs source and target folders"):
        data.load("folder", data_dir=tmp_path / "imagenet", image_size=8)
    loaded = data.load("folder", data_dir=tmp_path / "imagenet", image_size=8, class_split="tiered_imagenet")
    assert np.bincount(loaded.target.labels).tolist() == [6, 6]
    assert loaded.target.superclasses == tuple(content["superclasses"][w] for w in sorted(content["test"][:2]))


def test_images_one_folder_deeper_on_request(tmp_path: Path) -> None:
    root = _tree(tmp_path / "own", [f"{name}/images" for name in "abcd"])
    with pytest.raises(
        InputError, match="has no images of a format that Pillow reads; they are one folder deeper: read"
    ):
        data.load("folder", data_dir=root, image_size=8)
    loaded = data.load("folder", data_dir=root, image_size=8, nested=True)
    assert np.bincount(loaded.target.labels).tolist() == [3, 3]


def test_heic_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    root = _tree(tmp_path / "own", list("abcd"))
    pixels = np.full((32, 32, 3), (200, 30, 60), np.uint8)
    for name in "abcd":
        heif.from_bytes("RGB", (32, 32), pixels.tobytes()).save(root / name / "photo.HEIC", quality=100)
    loaded = data.load("folder", data_dir=root, image_size=8, source_test_per_class=0)
    assert np.bincount(loaded.target.labels).tolist() == [4, 4]
    assert any(np.abs(image.astype(int) - (200, 30, 60)).max() < 8 for image in loaded.target.images)


def test_heic_without_its_reader_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(images, "_register_heif", lambda: False)
    assert 'pip install "ncjax[heic]"' in images.heic_hint([tmp_path / "a.HEIC"])
    assert images.heic_hint([tmp_path / "a.txt"]) == ""


def _lists(root: Path, lists: dict[str, str]) -> Path:
    (root / "images").mkdir(parents=True)
    for i in range(12):
        Image.new("RGB", (12, 12), (20 * i, 3, 7)).save(root / "images" / f"{i}.png")
    for name, text in lists.items():
        (root / name).write_text(text)
    return root


def _lines(classes: str, start: int) -> str:
    return "\n".join(
        ["filename,label", *(f"{start + 2 * i + j}.png,{c}" for i, c in enumerate(classes) for j in (0, 1))]
    )


def test_csv_lists_divide_the_classes_or_not(tmp_path: Path) -> None:
    root = _lists(tmp_path / "a", {"train.csv": _lines("abc", 0), "test.csv": _lines("de", 6)})
    loaded = data.load("csv", data_dir=root, image_size=8)
    assert (loaded.source_train.class_names, loaded.target.class_names) == (("a", "b", "c"), ("d", "e"))
    assert loaded.target.images[:, 0, 0, 0].tolist() == [120, 140, 160, 180]
    single = tmp_path / "b" / "photos.csv"
    _lists(
        tmp_path / "b", {"photos.csv": "id,species,file\n" + "\n".join(f"x,{'abcd'[i % 4]},{i}.png" for i in range(12))}
    )
    loaded = data.load("csv", data_dir=single, image_size=8, label_column="species")
    assert sorted({*loaded.source_train.class_names, *loaded.target.class_names}) == list("abcd")


def test_mistakes_of_csv_lists_are_one_line(tmp_path: Path, cache: Path) -> None:
    root = _lists(tmp_path / "own", {})

    def load(text: str, message: str, **options: Any) -> None:
        (root / "train.csv").write_text(text)
        with pytest.raises(InputError, match=message) as raised:
            data.load("csv", data_dir=root, image_size=8, **options)
        assert "\n" not in str(raised.value)

    with pytest.raises(InputError, match=r"holds no \.csv file"):
        data.load("csv", data_dir=root)
    load("", "lacks a column filename: its first line is ''")
    load(
        "filename,kind\n0.png,a\n",
        r"lacks a column label: its first line is 'filename,kind'; name a column .* label_col",
    )
    load("filename,label\n0.png,a\n", "lacks the column kind", label_column="kind")
    load("filename,label\n0.png\n", r"train\.csv, line 2: '0\.png' lacks filename or label")
    load("filename,label\n0.png,a\n0.png,b\n", r"0\.png is listed more than once")
    load("filename,label\n77.png,a\n", r"77\.png is listed in .*train\.csv but does not exist")
    load("filename,label\n../0.png,a\n", "a path outside its own folder")
    (root / "test.csv").write_text(_lines("ad", 6))
    load(_lines("abc", 0), r"class 'a' is in .*test\.csv and train\.csv; a class must be in one")
    assert not list(cache.rglob("*"))
