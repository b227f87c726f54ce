"""Importing ncjax is quick and leaves out what only some of it needs; its rooms import one way."""

import ast
import graphlib
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ncjax

OPTIONAL = (
    "tensorflow", "tensorflow_datasets", "grain", "tensorboardX", "bokeh", "jinja2", "torch", "torchvision", "timm",
    "transformers", "equinox", "sklearn", "pyarrow", "pillow_heif",
)  # fmt: skip

# Each room and those below it that it may import, beside the root modules; a module that is not named belongs to the
# room of its folder. `collapse`, the array part of `eval`, `data` and `models` stand on the root modules alone.
ROOT = (
    "checks", "devices", "equal_by_value", "errors", "files", "interval", "keys", "measures", "preprocessing",
    "progress", "standard_streams", "tables", "user_functions",
)  # fmt: skip
IMAGE_EPISODES = ("eval", "eval.few_shot", "eval.few_shot_classifier", "eval.fixed_batches", "eval.image_episodes")
ALLOWED = {
    "root": set(),
    "collapse": set(),
    "eval arrays": set(),
    "data": set(),
    "models": set(),
    "classifier": {"data", "models"},
    "encoders": {"classifier", "models"},
    "eval images": {"classifier", "data", "eval arrays", "models"},
    "train": {"classifier", "collapse", "data", "eval arrays", "eval images", "models"},
}
ALLOWED["statistics"] = {"eval arrays"}
ALLOWED["runs"] = ALLOWED["train"] | {"statistics", "train"}
ALLOWED["top"] = set(ALLOWED)
PACKAGE = Path(ncjax.__file__).parent


def module_names() -> dict[str, Path]:
    """The file of every module by its name without "ncjax."; the package itself, which hands names on, is left out."""
    paths = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del paths[""]
    return paths


def room_of(module: str) -> str:
    folder = module.partition(".")[0]
    if module in ROOT:
        return "root"
    if module.endswith(".__main__"):  # a command, which nothing imports
        return "top"
    if folder == "eval":
        return "eval images" if module in IMAGE_EPISODES else "eval arrays"
    return folder if folder in ALLOWED else "top"


def imports_of(module: str, paths: dict[str, Path]) -> set[str]:
    """The modules that a file imports, at its top or inside of functions."""
    imported = set()
    for node in ast.walk(ast.parse(paths[module].read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import in line {node.lineno}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix("ncjax.") in paths else node.module or "" for name in names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        imported |= {name.removeprefix("ncjax.") for name in names if name.startswith("ncjax.")}
    return imported - {module}


def test_importing_leaves_out_what_is_optional_or_slow() -> None:
    code = (
        "import ncjax, sys; print('jax' in sys.modules); "
        "all(getattr(ncjax, name) for name in ncjax.__all__ if name != 'report'); "
        f"print([name for name in {OPTIONAL} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["False", "[]"]


@pytest.mark.parametrize("package", [ncjax, ncjax.eval, ncjax.train])
def test_every_name_of_a_lazy_package_can_be_imported(package: Any) -> None:
    pytest.importorskip("bokeh")  # ncjax.report imports it
    assert all(getattr(package, name) is not None for name in package.__all__)


SLOW_TO_IMPORT = ("flax", "optax", "orbax", "tensorflow_datasets", "scipy.stats", "matplotlib", *OPTIONAL)
COMMANDS = sorted(
    [*(PACKAGE.parent / "experiments").glob("*.py"), PACKAGE / "data/__main__.py", PACKAGE / "runs/__main__.py"]
)


def test_commands_answer_help_before_they_import_what_does_the_work() -> None:
    code = (
        "import contextlib, io, runpy, sys\n"
        f"sys.path.insert(0, {str(PACKAGE.parent / 'experiments')!r})\n"
        f"for command in {[str(path) for path in COMMANDS]}:\n"
        "    sys.argv, text = [command, '--help'], io.StringIO()\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(text):\n"
        "        runpy.run_path(command, run_name='__main__')\n"
        f"    slow = [name for name in {SLOW_TO_IMPORT} if name in sys.modules]\n"
        "    assert 'usage' in text.getvalue() and not slow, (command, slow)\n"
        "print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="No ncjax attribute mesure"):
        _ = ncjax.mesure  # type: ignore[attr-defined]
    assert set(ncjax.__all__) <= set(dir(ncjax))


def test_rooms_import_only_those_below_them() -> None:
    paths = module_names()
    wrong = [
        f"{module} imports {other}: {room_of(module)} may not import {room_of(other)}"
        for module in paths
        for other in sorted(imports_of(module, paths))
        if room_of(other) not in ALLOWED[room_of(module)] | {"root", room_of(module)}
    ]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle() -> None:
    paths = module_names()
    graphlib.TopologicalSorter({module: imports_of(module, paths) for module in paths}).prepare()


def test_no_function_bears_the_name_of_its_module() -> None:
    """An import such as `ncjax.collapse.measure` would mean the module in one place and the function in another."""
    shadowed = []
    pytest.importorskip("bokeh")  # ncjax.report imports it
    for package in [ncjax, *(importlib.import_module(f"ncjax.{name}") for name in module_names() if _is_package(name))]:
        for found in pkgutil.iter_modules(package.__path__):
            member = getattr(package, found.name, None)
            if member is not None and getattr(member, "__name__", "") != f"{package.__name__}.{found.name}":
                shadowed.append(f"{package.__name__}.{found.name}")
    assert not shadowed


def _is_package(module: str) -> bool:
    return (PACKAGE / module.replace(".", "/") / "__init__.py").is_file()
