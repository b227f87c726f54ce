"""What the documentation shows: the README's Python, the examples in docstrings, the links, the API pages."""

import doctest
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import inside

import ncjax
from ncjax import train
from ncjax.errors import InputError
from ncjax.train import Config, resolve
from ncjax.train.config import identity

pytestmark = pytest.mark.cheap_compilation

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ENCODERS = (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8")
COMMANDS = README + (ROOT / "docs" / "running.md").read_text(encoding="utf-8") + ENCODERS


def python_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


BLOCKS = python_blocks(README)
WITH_EXAMPLES = (
    "ncjax.collapse.metrics",
    "ncjax.collapse.class_distance_variance",
    "ncjax.eval.array_episodes",
    "ncjax.eval.sampling",
    "ncjax.models",
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    # not doctest.testmod, which passes over decorated functions
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for member in [value for value in vars(module).values() if getattr(value, "__module__", None) == name]:
        for example in finder.find(member, module=False, globs=dict(vars(module))):
            runner.run(example)
    assert runner.tries > 0
    assert runner.failures == 0


def test_every_example_is_tested() -> None:
    with_examples = {path for path in (ROOT / "ncjax").rglob("*.py") if re.search(r"^ *>>> ", path.read_text(), re.M)}
    assert with_examples == {Path(str(sys.modules[name].__file__)) for name in WITH_EXAMPLES}


@pytest.fixture
def namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return {}


@pytest.mark.slow
def test_the_readmes_python_runs_in_order(namespace: dict[str, Any]) -> None:
    """As it stands, but for the length of training and the number of episodes."""
    short = 'Config(dataset="glyphs", preset="smoke", measure_episodes=50, measurements=0)'
    for block in BLOCKS:
        if "import torch" in block and importlib.util.find_spec("torch") is None:
            continue  # where it is installed, the test below has its numbers
        exec(compile(block.replace('Config(dataset="glyphs")', short), "README.md", "exec"), namespace)
    assert namespace["report"].settings.head.startswith("ridge")


@pytest.mark.slow
def test_the_python_about_encoders_runs_in_order(namespace: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    for block in python_blocks(ENCODERS):
        if "import torch" in block and importlib.util.find_spec("torch") is None:
            continue
        exec(compile(block, "encoders.md", "exec"), namespace)
    assert "5-way 1-shot ncc" in capsys.readouterr().out


def test_the_readmes_torch_model(namespace: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    (block,) = (block for block in BLOCKS if "import torch" in block)
    images = np.random.default_rng(0).integers(0, 256, (125, 28, 28, 1), np.uint8)
    split = ncjax.data.Split(images, np.repeat(np.arange(5), 25).astype(np.int32), tuple("abcde"))
    namespace |= {"ncjax": ncjax, "benchmark": ncjax.data.Benchmark("noise", split, None, None, split, "shift")}
    exec(compile(block, "README.md", "exec"), namespace)
    with torch.no_grad():
        pixels = torch.from_numpy((images.astype(np.float32) / 255 - 0.5) / 0.25).permute(0, 3, 1, 2)
        theirs = namespace["net"].eval()(pixels).mean((2, 3)).numpy()
    np.testing.assert_allclose(ncjax.features(namespace["params"], split), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_documented_commands_exist() -> None:
    for script in re.findall(r"python3? ((?:experiments|benchmarks)/\w+\.py)", COMMANDS):
        assert (ROOT / script).exists(), script


def test_the_readmes_first_command_trains_with_the_default_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretrain(config: Config) -> None:
        raise InputError(f"began with {len(identity(config))} settings on {config.dataset}")

    assert "&& python experiments/pretrain.py\n" in README
    monkeypatch.setattr(train, "pretrain", pretrain)
    done = inside("pretrain.py", cwd=tmp_path)
    assert f"began with {len(identity(resolve(Config())))} settings on glyphs" in done.stderr


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_the_figure_is_small() -> None:
    assert (ROOT / "docs" / "figures" / "collapse.png").stat().st_size < 200_000


@pytest.mark.slow
def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'id="ncjax.collapse.metrics.measure"' in (tmp_path / "site/api/collapse/index.html").read_text()
    assert 'id="ncjax.train.config.Config"' in (tmp_path / "site/api/train/index.html").read_text()
