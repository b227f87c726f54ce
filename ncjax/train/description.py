"""The description of a run, its config.json: settings, data, software, and where its steps were computed."""

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ncjax.errors import InputError
from ncjax.files import expand, write_atomically
from ncjax.train.config import Config, defaults, identity, with_preset

JSONObject = dict[str, Any]

# Settings of an execution that change no number; keys.py pins the generator.
_HARMLESS = ("first_step", "python", "jax_default_prng_impl", "jax_threefry_partitionable")


@dataclass(frozen=True)
class DataDescription:
    """The data of a run.

    Attributes:
      name: of the benchmark.
      fingerprint: checksums of its images and labels (`source.fingerprint`).
      num_source_classes: the number of outputs of the network.
      image_shape: (h, w, c).
      mean: of each channel, of pixels in 0..1.
      std: likewise.
      augmentation: the kind of augmentation.
      made_with: programs that made the images, with their versions; empty in runs of older versions.
      measured_per_class: images a class behind CDNV; None in runs of older versions.
      images: the number of images of each split.
      classes: the number of classes of each split.
    """

    name: str
    fingerprint: str
    num_source_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: str
    made_with: Mapping[str, str] = field(default_factory=dict)
    measured_per_class: int | None = None
    images: Mapping[str, int] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Description:
    """The description of a run of one seed.

    Attributes:
      settings: every setting, as JSON; a run of another version may have more or fewer than `Config`.
      identity: the settings that can change a number, as the version that wrote them saw it.
      total_steps: the last step.
      data: the data.
      versions: of the software, and the devices, at the start.
      executions: where the run was computed, one entry an execution; each has a "first_step".
    """

    settings: Mapping[str, Any]
    identity: Mapping[str, Any]
    total_steps: int
    data: DataDescription
    versions: Mapping[str, Any]
    executions: tuple[Mapping[str, Any], ...] = ()

    @property
    def config(self) -> Config:
        """The settings, without those that this version of ncjax does not have."""
        return Config(**{name: value for name, value in self.settings.items() if name in _SETTINGS})

    @property
    def complete_settings(self) -> JSONObject:
        """Every setting; those that are newer than the run have their default or the preset's."""
        filled = vars(with_preset(self.config))
        return dict(self.settings) | {name: value for name, value in filled.items() if name not in self.settings}

    def differences(self, here: Mapping[str, Any]) -> list[str]:
        """Names the settings in which this run differs from one of identity `here`.

        The folder that data is read from does not count: fingerprints tell whether the data is the same.
        """
        there, default = self._current_identity(), defaults()
        return [
            f"{name} {old!r} there, {new!r} here"
            for name in sorted((there.keys() | here.keys()) - {"data_dir"})
            if (old := there.get(name, default.get(name))) != (new := here.get(name, default.get(name)))
        ]

    def _current_identity(self) -> JSONObject:
        """The identity under this version's rules: a setting newer than the run has its default or the preset's."""
        unknown = {name: value for name, value in self.identity.items() if name not in _SETTINGS}
        known = {name: value for name, value in self.complete_settings.items() if name in _SETTINGS}
        return identity(Config(**known)) | unknown

    def to_json(self) -> JSONObject:
        """The content of config.json."""
        content: JSONObject = {
            "config": dict(self.settings),
            "identity": dict(self.identity),
            "total_steps": self.total_steps,
            "data": {
                name: list(value) if isinstance(value, tuple) else value for name, value in vars(self.data).items()
            },
            "versions": dict(self.versions),
        }
        return content | ({"executions": [dict(entry) for entry in self.executions]} if self.executions else {})

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str | Path = "config.json") -> "Description":
        """Reads the content of a config.json, also one that an older version wrote.

        Args:
          content: the JSON object.
          where: its file, for messages.

        Raises:
          InputError: if a part is missing or of another type.
        """
        _check_sections(content, where)
        data, versions = content["data"], _get(content, "versions", dict, where)
        return cls(
            settings=content["config"],
            identity=content.get("identity", {}),
            total_steps=_get(content, "total_steps", int, where),
            data=DataDescription(
                name=_get(data, "name", str, where),
                fingerprint=_get(data, "fingerprint", str, where),
                num_source_classes=_get(data, "num_source_classes", int, where),
                image_shape=tuple(_get(data, "image_shape", list, where)),
                mean=tuple(_get(data, "mean", list, where)),
                std=tuple(_get(data, "std", list, where)),
                augmentation=_get(data, "augmentation", str, where),
                made_with=data.get("made_with", {}),
                measured_per_class=data.get("measured_per_class"),
                images=data.get("images", {}),
                classes=data.get("classes", {}),
            ),
            versions=versions,
            # versions that kept no such list said only where the run was computed last
            executions=tuple(content.get("executions", [{"first_step": 0, **versions}])),
        )


_SETTINGS = frozenset(setting.name for setting in dataclasses.fields(Config))


def _check_sections(content: Any, where: str | Path) -> None:
    if not isinstance(content, Mapping) or not all(isinstance(content.get(name), dict) for name in ("config", "data")):
        raise InputError(f"{where} is not that of a run: it lacks the run's settings or data; give another folder")


def _get(content: Mapping[str, Any], name: str, kind: type, where: str | Path) -> Any:
    value = content.get(name)
    if not isinstance(value, kind):
        raise InputError(f"{where} is not that of a run: {name!r} is missing or altered; give another folder")
    return value


def read_config(workdir: str | Path) -> JSONObject:
    """Reads config.json as it is.

    Raises:
      InputError: if the folder holds no run or several, or the file cannot be read.
    """
    folder = expand(workdir)
    first, path = folder / "seed_0", folder / "config.json"
    if first.is_dir() and not path.exists():
        raise InputError(f"{workdir} holds runs of many seeds; give one of them, for example {first}")
    try:
        content: JSONObject = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{workdir} holds no run: there is no config.json in it; give the folder that pretrain.py named"
        ) from None
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    _check_sections(content, path)
    return content


def read_description(workdir: str | Path) -> Description:
    """Reads the description of the run in a folder.

    Raises:
      InputError: if the folder holds no run or several, or config.json cannot be read or lacks a part.
    """
    return Description.from_json(read_config(workdir), expand(workdir) / "config.json")


def write_description(workdir: Path, description: Description) -> None:
    """Writes config.json.

    Raises:
      OSError: if it cannot be written.
    """
    _write(workdir, description.to_json())


def _write(workdir: Path, content: JSONObject) -> None:
    write_atomically(workdir / "config.json", json.dumps(content, indent=2) + "\n")


def add_execution(workdir: Path, execution: Mapping[str, Any]) -> None:
    """Adds an entry to the executions in config.json, and warns of changes that may change numbers.

    Entries whose steps are all done again are dropped.
    """
    description = read_description(workdir)
    before = [entry for entry in description.executions if entry["first_step"] < execution["first_step"]]
    changed = [
        f"{name} {before[-1][name]}, now {value}"
        for name, value in execution.items()
        if before and name not in _HARMLESS and name in before[-1] and before[-1][name] != value
    ]
    if changed:
        warnings.warn(
            f"{workdir} continues at step {execution['first_step']} in another environment ({'; '.join(changed)}): its "
            'numbers may differ from those of an uninterrupted run; config.json lists both under "executions"',
            stacklevel=2,
        )
    # into the file as it is, so that keys of a newer version stay
    _write(workdir, read_config(workdir) | {"executions": [*map(dict, before), dict(execution)]})


def configuration(description: Description) -> str:
    """Returns a checksum of a run's settings and data without its seed, the same for all seeds of a configuration."""
    settings = {name: value for name, value in description.identity.items() if name not in ("seed", "data_dir")}
    if "start_weights" in settings:
        settings["start_weights"] = configuration_of_start(settings["start_weights"])
    content = json.dumps([settings, description.data.fingerprint], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def configuration_of_start(start_weights: str) -> str:
    """Returns the `configuration` and the step of the weights in `start_weights` of one seed."""
    return "-".join(start_weights.split("-")[:2])
