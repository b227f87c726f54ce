"""Class splits into source, validation and target: published, drawn at random, or from the user's file."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np

from ncjax.errors import InputError, first_line
from ncjax.files import expand
from ncjax.progress import remark

PARTS = ("source", "validation", "target")
_PART_NAMES = {
    "source": "source", "train": "source", "meta-train": "source",
    "validation": "validation", "val": "validation", "valid": "validation", "meta-val": "validation",
    "meta-valid": "validation", "meta-validation": "validation",
    "target": "target", "test": "target", "meta-test": "target",
}  # fmt: skip
PARTS_HELP = "source, validation and target, also named train, val and test or meta-train, meta-val and meta-test"


def part_named(name: str) -> str | None:
    """Returns which of PARTS goes by this name in the literature; None for other names."""
    return _PART_NAMES.get(name.lower().replace("_", "-"))


@dataclass(frozen=True)
class ClassSplit:
    """The class numbers of each part.

    Attributes:
      source: ordered: the first n are the source classes of a benchmark of n.
      validation: may be empty.
      target: the target classes.
      default_sources: the number of source classes where the user asks for none.
    """

    source: tuple[int, ...]
    validation: tuple[int, ...]
    target: tuple[int, ...]
    default_sources: int

    def __post_init__(self) -> None:
        """Raises InputError for less than 2 source or target classes."""
        for part, classes in (("source", self.source), ("target", self.target)):
            if len(classes) < 2:
                raise InputError(f"there are {len(classes)} {part} classes; at least 2 are needed, with images in each")


def random_class_split(
    num_classes: int, *, target: int, validation: int = 0, default_sources: int | None = None, seed: int
) -> ClassSplit:
    """Draws target and validation classes, and an order of the others, uniformly.

    The target classes depend on the seed, and not on the number of source classes.
    """
    order = _draw_order(num_classes, seed)
    source = order[target + validation :]
    return ClassSplit(
        source=source,
        validation=order[target : target + validation],
        target=order[:target],
        default_sources=len(source) if default_sources is None else default_sources,
    )


def own_class_split(num_classes: int, seed: int) -> ClassSplit:
    """Draws a split of classes that come without one.

    Of k classes, the target has round(k / 5), but at least min(5, round(0.4 k)); validation has round(0.16 k) if
    k >= 20, otherwise none; the rest are source.

    Raises:
      InputError: if there are fewer than 4 classes.
    """
    if num_classes < 4:
        raise InputError(f"there are {num_classes} classes; at least 4 are needed, 2 source and 2 target")
    target = max(min(5, round(0.4 * num_classes)), round(0.2 * num_classes))
    validation = round(0.16 * num_classes) if num_classes >= 20 else 0
    return random_class_split(num_classes, target=target, validation=validation, seed=seed)


def given_class_split(
    class_names: Sequence[str], source: Sequence[str], validation: Sequence[str], target: Sequence[str], seed: int
) -> ClassSplit:
    """Makes a split from class names, such as a published one; only the order of source classes is drawn."""
    number = {name: i for i, name in enumerate(class_names)}
    order = _draw_order(len(source), seed)
    return ClassSplit(
        source=tuple(number[source[i]] for i in order),
        validation=tuple(number[name] for name in validation),
        target=tuple(number[name] for name in target),
        default_sources=len(source),
    )


def _draw_order(count: int, seed: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.random.default_rng([seed, 0]).permutation(count))


NAMES = ("cifar_fs", "fc100", "mini_imagenet", "cub", "tiered_imagenet")
_OF_CIFAR100 = ("cifar_fs", "fc100")
_WNID = re.compile(r"n\d{8}(?!\d)")


@dataclass(frozen=True)
class NamedSplit:
    """A published class split, with other names of its classes.

    Attributes:
      where: the split, for messages.
      parts: the class names of each of PARTS.
      words: other names of a class, by its name.
      numbers: the number of a class in its data set, by its name.
      superclasses: the superclass of a class, by its name.
    """

    where: str
    parts: Mapping[str, tuple[str, ...]]
    words: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    superclasses: Mapping[str, str] = field(default_factory=dict)

    def listed(self) -> Iterator[tuple[str, str]]:
        """Yields each name with its part."""
        return ((name, part) for part in PARTS for name in self.parts.get(part, ()))


def read(spec: str) -> NamedSplit:
    """Reads a split: one of NAMES, or a .json file of lists under source, validation and target.

    The lists may also be named train, val and test.

    Raises:
      InputError: if the name is unknown, or the file holds no such lists or a class twice.
    """
    if spec in NAMES:
        content = _shipped(spec)
        if spec in _OF_CIFAR100:
            content |= {key: _shipped("cifar100_classes")[key] for key in ("numbers", "superclasses")}
        return _named_split(f"class split {spec}", content)
    path = expand(spec)
    if path.suffix != ".json":
        raise InputError(f"unknown class split {spec!r}; choose one of {', '.join(NAMES)}, or name a .json file")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"class split {path} cannot be read as JSON ({reason})") from None
    return _named_split(f"class split {path}", content)


def cifar100_superclasses() -> dict[str, str]:
    """Returns the superclass of each class of CIFAR-100."""
    return dict(_shipped("cifar100_classes")["superclasses"])


def _shipped(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((files("ncjax.data") / "splits" / f"{name}.json").read_text(encoding="utf-8"))
    return content


def _named_split(where: str, content: Any) -> NamedSplit:
    parts: dict[str, tuple[str, ...]] = {}
    for key, value in content.items() if isinstance(content, dict) else ():
        part = part_named(key)
        if part is None or not isinstance(value, list):
            continue
        if part in parts or not all(isinstance(name, str | int) and not isinstance(name, bool) for name in value):
            raise InputError(f"{where}: {key} must be a list of class names, and the only one that means {part}")
        parts[part] = tuple(str(name) for name in value)
    if not {"source", "target"} <= parts.keys():
        raise InputError(
            f'{where} must hold lists of class names, as {{"source": […], "validation": […], "target": […]}}'
        )
    split = NamedSplit(
        where, parts, content.get("words", {}), content.get("numbers", {}), _superclasses(content.get("superclasses"))
    )
    seen: set[str] = set()
    for name, _ in split.listed():
        if name in seen:
            raise InputError(f"{where} lists class {name!r} twice; a class must be in one list")
        seen.add(name)
    return split


def _superclasses(given: Any) -> dict[str, str]:
    """Returns superclasses given by class; lists of superclasses, as in the file of fc100, are ignored."""
    return {k: v for k, v in given.items() if isinstance(v, str)} if isinstance(given, dict) else {}


def choose(
    spec: str | None, class_names: Sequence[str], parts: Mapping[str, Sequence[str]], seed: int
) -> tuple[ClassSplit, Mapping[str, str]]:
    """Chooses the split of a data set's classes.

    Args:
      spec: a split by name or file; None for the data's own split, or a random one.
      class_names: of the data.
      parts: the data's own split, class names by part; empty where it has none.
      seed: of random choices.

    Returns:
      The split, and the superclasses of classes where the split knows them, by class name.

    Raises:
      InputError: if the split names no class of the data or leaves too few; otherwise as `read`.
    """
    if spec is None:
        if not parts:
            drawn = own_class_split(len(class_names), seed)
            target = [class_names[c] for c in drawn.target]
            remark(
                f"{len(class_names)} classes, divided at random by split_seed={seed}: {len(drawn.source)} source, "
                f"{len(drawn.validation)} validation, {len(target)} target ({_some(target)}); another seed, folders "
                "source/ and target/, or --class_split divide them otherwise"
            )
            return drawn, {}
        return _given(class_names, parts, seed), {}
    split = read(spec)
    match = _match(split, class_names)
    if not match:
        raise InputError(
            f"{split.where} names no class of the data, whose classes are {_some(class_names)}; choose the split of "
            "this data set, or list these names in a .json file"
        )
    missing = [name for name, _ in split.listed() if name not in match]
    left_over = sorted(set(class_names) - set(match.values()))
    if missing:
        remark(f"{split.where}: {len(missing)} of its classes are not in the data: {_some(missing)}")
    if left_over:
        remark(f"{split.where}: {len(left_over)} classes of the data are in none of its lists: {_some(left_over)}")
    matched = {part: [match[name] for name in names if name in match] for part, names in split.parts.items()}
    superclasses = {match[name]: split.superclasses[name] for name in match if name in split.superclasses}
    return _given(class_names, matched, seed), superclasses


def _given(class_names: Sequence[str], parts: Mapping[str, Sequence[str]], seed: int) -> ClassSplit:
    source, validation, target = (parts.get(part, ()) for part in PARTS)
    return given_class_split(class_names, source, validation, target, seed)


def _match(split: NamedSplit, class_names: Sequence[str]) -> dict[str, str]:
    """Finds the data's name of each listed class that the data has.

    A class is matched by the first of these that gives exactly one class, not yet matched: the name as it is; its wnid;
    the name in lower case with blanks for - and _ and without a leading number, as in 001.Black_footed_Albatross; its
    words, or the first of them; its number, if all classes of the data are called by numbers.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()

    def take(keys: Mapping[str, Sequence[str]], known: Mapping[str, str]) -> None:
        for name, _ in split.listed():
            candidates = {known[key] for key in keys.get(name, ()) if key in known} - taken
            if name not in found and len(candidates) == 1:
                found[name] = candidates.pop()
                taken.add(found[name])

    names = [name for name, _ in split.listed()]
    plain = _unambiguous((_plain(name), name) for name in class_names)
    first = _unambiguous((_plain(name.split(",")[0]), name) for name in class_names)
    take({name: [name] for name in names}, {name: name for name in class_names})
    take({n: _WNID.findall(n) for n in names}, _unambiguous((w, n) for n in class_names for w in _WNID.findall(n)))
    take({name: [_plain(name)] for name in names}, plain)
    words = {name: [_plain(split.words[name])] for name in names if name in split.words}
    take(words, plain)
    take({name: [_plain(split.words[name].split(",")[0])] for name in words}, first)
    if all(name.isdecimal() for name in class_names):
        take({name: [str(split.numbers[name])] for name in names if name in split.numbers}, {n: n for n in class_names})
    return found


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", re.sub(r"^\d+\.", "", name.strip())).casefold().strip()


def _unambiguous(pairs: Iterator[tuple[str, str]]) -> dict[str, str]:
    """Returns the pairs whose key occurs with one value only."""
    found: dict[str, str | None] = {}
    for key, value in pairs:
        found[key] = None if key in found and found[key] != value else value
    return {key: value for key, value in found.items() if value is not None}


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
