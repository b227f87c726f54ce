"""config.json: written and read by `Description` alone, also files of older and newer versions, and damaged ones."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

import ncjax
from ncjax import runs
from ncjax.errors import InputError
from ncjax.train import Description, read_config, read_description
from ncjax.train.description import add_execution

pytestmark = pytest.mark.cheap_compilation


def test_a_description_is_written_as_it_was_read(finished: Path) -> None:
    text = (finished / "config.json").read_text()
    assert json.dumps(read_description(finished).to_json(), indent=2) + "\n" == text
    assert runs.read(finished).config == read_description(finished).config


def oldest() -> dict[str, Any]:
    """The content of a config.json of the first version of ncjax."""
    settings = {"dataset": "tiny", "network": "tiny", "seed": 3, "workdir": "run"}
    data, versions = tiny.data_description(), {"jax": "0.10.0"}
    return {"config": settings, "identity": settings, "total_steps": 24, "data": data, "versions": versions}


def test_the_first_versions_files_are_read() -> None:
    description = Description.from_json(oldest())
    assert (description.config.seed, description.data.measured_per_class) == (3, None)
    assert description.executions == ({"first_step": 0, "jax": "0.10.0"},)


def test_keys_of_a_newer_version_stay(tmp_path: Path) -> None:
    content = oldest()
    content["data"]["colour"] = "grey"
    (tmp_path / "config.json").write_text(json.dumps(content | {"mood": "good"}))
    add_execution(tmp_path, {"first_step": 0})
    assert read_config(tmp_path) == content | {"mood": "good", "executions": [{"first_step": 0}]}


@pytest.mark.parametrize(
    ("section", "key"),
    [(None, "total_steps"), (None, "versions"), ("data", "fingerprint"), ("data", "image_shape"), ("data", "mean")],
)
@pytest.mark.parametrize("value", [None, 0.5])
def test_a_damaged_description_is_one_line(section: str | None, key: str, value: Any, tmp_path: Path) -> None:
    content = oldest()
    (content if section is None else content[section])[key] = value
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    for read in (read_description, runs.read, ncjax.restore):
        with pytest.raises(InputError, match=rf"config\.json is not that of a run: '{key}' is missing or altered"):
            read(tmp_path)  # type: ignore[operator]
