"""Which classes are source, validation and target: published splits by name, and the user's own in a file."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from ncjax.data.benchmark import PARTS, ClassSplit, given_class_split, own_class_split, part_named
from ncjax.errors import InputError, first_line
from ncjax.files import expand
from ncjax.progress import remark

NAMES = ("cifar_fs", "fc100", "mini_imagenet", "cub", "tiered_imagenet")
_OF_CIFAR100 = ("cifar_fs", "fc100")
_WNID = re.compile(r"n\d{8}(?!\d)")


@dataclass(frozen=True)
class NamedSplit:
    """Lists of class names as somebody published them, and what else data may call these classes.

    parts: the names by part, of PARTS. words: for a name, others of the same class. numbers: for a name, the number of
    its class in the data set that the split is of. superclasses: for a name, that of its superclass.
    """

    where: str
    parts: Mapping[str, tuple[str, ...]]
    words: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    superclasses: Mapping[str, str] = field(default_factory=dict)

    def listed(self) -> Iterator[tuple[str, str]]:
        """Each name with its part."""
        return ((name, part) for part in PARTS for name in self.parts.get(part, ()))


def read(spec: str) -> NamedSplit:
    """The split of that name, one of NAMES, or that in a .json file: lists under source, validation and target.

    The lists may also be named train, val and test. Raises InputError for another name, and for a file that holds no
    such lists, or one class twice.
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
    """The superclass of each class of CIFAR-100."""
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
            raise InputError(f"{where} lists class {name!r} twice; a class has one place")
        seen.add(name)
    return split


def _superclasses(given: Any) -> dict[str, str]:
    """Those given for a class each; lists of superclasses, as the file of fc100 has, say nothing of classes."""
    return {k: v for k, v in given.items() if isinstance(v, str)} if isinstance(given, dict) else {}


def choose(
    spec: str | None, class_names: Sequence[str], parts: Mapping[str, Sequence[str]], seed: int
) -> tuple[ClassSplit, Mapping[str, str]]:
    """The split of a data set's classes, and their superclasses where the split knows them, by class name.

    Args:
      spec: a split by name or file; None for that of the data.
      class_names: of the data.
      parts: the data's own division of these, by part; empty where it has none, and the split is drawn.
      seed: of what is drawn.

    Raises:
      InputError: the split names no class of the data, or leaves too few; otherwise as `read`.
    """
    if spec is None:
        if not parts:
            return own_class_split(len(class_names), seed), {}
        return _given(class_names, parts, seed), {}
    split = read(spec)
    found = _match(split, class_names)
    if not found:
        raise InputError(
            f"{split.where} names no class of the data, whose classes are {_some(class_names)}; choose the split of "
            "this data set, or list these names in a .json file"
        )
    missing = [name for name, _ in split.listed() if name not in found]
    left_over = sorted(set(class_names) - set(found.values()))
    if missing:
        remark(f"{split.where}: {len(missing)} of its classes are not in the data: {_some(missing)}")
    if left_over:
        remark(f"{split.where}: {len(left_over)} classes of the data are in none of its lists: {_some(left_over)}")
    here = {part: [found[name] for name in names if name in found] for part, names in split.parts.items()}
    superclasses = {found[name]: split.superclasses[name] for name in found if name in split.superclasses}
    return _given(class_names, here, seed), superclasses


def _given(class_names: Sequence[str], parts: Mapping[str, Sequence[str]], seed: int) -> ClassSplit:
    source, validation, target = (parts.get(part, ()) for part in PARTS)
    return given_class_split(class_names, source, validation, target, seed)


def _match(split: NamedSplit, class_names: Sequence[str]) -> dict[str, str]:
    """For each listed class that the data has, what the data calls it.

    By the first of these ways that leads to one class, and to one that no other listed class has: the name as it is;
    its wnid; in lower case with blanks for - and _ and without a leading number, as of 001.Black_footed_Albatross; its
    words or the first of them; its number, where all classes of the data are called by numbers.
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
    """The pairs whose key is that of no other."""
    found: dict[str, str | None] = {}
    for key, value in pairs:
        found[key] = None if key in found and found[key] != value else value
    return {key: value for key, value in found.items() if value is not None}


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
