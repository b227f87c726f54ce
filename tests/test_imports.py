"""Importing ncjax is quick and leaves out what only some of it needs."""

import subprocess
import sys

OPTIONAL = (
    "tensorflow", "tensorflow_datasets", "grain", "tensorboardX", "bokeh", "jinja2", "torch", "torchvision", "timm",
    "transformers", "equinox", "sklearn", "pyarrow", "pillow_heif",
)  # fmt: skip


def test_importing_leaves_out_what_is_optional_or_slow() -> None:
    code = f"import ncjax, ncjax.data, ncjax.runs, sys; print([name for name in {OPTIONAL} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
