"""JSON and tables of text."""

import json
import math
from pathlib import Path

import numpy as np

from ncjax.files import json_text
from ncjax.tables import aligned


def test_json_has_null_for_every_number_that_is_not_finite() -> None:
    value = {
        "numbers": (1, 2.5, math.inf, -math.inf, math.nan, None, True),
        "array": np.array([[1.0, np.inf], [np.nan, 2.0]]),
        "scalars": [np.float32(0.5), np.float64(np.nan), np.int64(3), np.bool_(False)],
        "path": Path("a/b"),
    }
    text = json_text(value)
    assert text.endswith("}\n")
    assert json.loads(text) == {
        "numbers": [1, 2.5, None, None, None, None, True],
        "array": [[1.0, None], [None, 2.0]],
        "scalars": [0.5, None, 3, False],
        "path": "a/b",
    }
    assert json_text([1, {"a": 2}], indent=None) == '[1, {"a": 2}]\n'


def test_columns_line_up() -> None:
    rows = [["", "CDNV", "runs"], ["reference", "0.3 ± 0.02", "3"], ["other", "1", "12"]]
    assert aligned(rows) == [
        "                 CDNV  runs",
        "reference  0.3 ± 0.02     3",
        "other               1    12",
    ]
    assert aligned([["a", "b"], ["ccc", ""]], left=2) == ["a    b", "ccc"]
