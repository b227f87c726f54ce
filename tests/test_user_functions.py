"""Functions of the user's own, by name: a head for evaluate.py, modules in the current folder, mistakes in one line."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import inside

from ncjax.errors import InputError
from ncjax.user_functions import load_function

pytestmark = pytest.mark.cheap_compilation


def nearest(
    support: jax.Array, labels: jax.Array, query: jax.Array, ways: int
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The nearest support sample; in one shot that is the nearest class centre."""
    distance = jnp.square(query[:, None] - support).sum(axis=-1)
    return -jax.ops.segment_min(distance.T, labels, ways).T, {}


def test_evaluate_takes_a_head_by_name(features: np.ndarray, tmp_path: Path) -> None:
    labels = np.arange(len(features)) % 6
    np.savez(tmp_path / "mine.npz", features=features, labels=labels)
    arguments = ("--features=mine.npz", "--episodes=20", "--queries=3", "--ways=3", "--shots", "1")
    done = inside("evaluate.py", *arguments, "--heads", "ncc", "test_user_functions:nearest", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3-way 1-shot  test_user_functions:nearest  " in done.stdout
    ncc, own = json.loads((tmp_path / "mine.evaluation.json").read_text())["episodes"]
    assert own["accuracy"] == ncc["accuracy"]
    done = inside("evaluate.py", *arguments, "--heads", "nearest", cwd=tmp_path)
    assert done.returncode == 2
    assert "no head is called 'nearest': give ncc, cosine, ridge, logistic or package.module:function" in done.stderr


def test_a_module_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "functions_of_a_user.py").write_text("def f():\n    return 7\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    monkeypatch.setattr(sys, "path", [*path])
    for _ in range(2):
        assert load_function("functions_of_a_user:f", "head")() == 7
    assert sys.path == [*path, str(tmp_path)]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("no_such_module:f", "head no_such_module:f: No module named 'no_such_module'; run from the folder"),
        ("test_user_functions:f", "has no attribute 'f'"),
        ("test_user_functions:__doc__", "is a str: give a function"),
        (":f", "Empty module name"),
    ],
)
def test_what_is_no_function_is_one_line(spec: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_function(spec, "head")
