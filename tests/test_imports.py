"""Importing ncjax is quick and leaves out what only some of it needs."""

import subprocess
import sys

import pytest

import ncjax

OPTIONAL = (
    "tensorflow", "tensorflow_datasets", "grain", "tensorboardX", "bokeh", "jinja2", "torch", "torchvision", "timm",
    "transformers", "equinox", "sklearn", "pyarrow", "pillow_heif",
)  # fmt: skip


def test_importing_leaves_out_what_is_optional_or_slow() -> None:
    code = (
        "import ncjax, sys; print('jax' in sys.modules); "
        "all(getattr(ncjax, name) for name in ncjax.__all__ if name != 'report'); "
        f"print([name for name in {OPTIONAL} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["False", "[]"]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'ncjax' has no attribute 'mesure'"):
        _ = ncjax.mesure  # type: ignore[attr-defined]
    assert set(ncjax.__all__) <= set(dir(ncjax))
