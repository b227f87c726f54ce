"""What a report says, and its comparison with another."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from few_shot import LABELS, SETTINGS

from ncjax.errors import InputError
from ncjax.eval import feature_episodes, heads

pytestmark = pytest.mark.cheap_compilation


def test_text(features):
    def solve(support, labels, query, ways, *, C):
        logits, _ = heads.ncc()(support, labels, query, ways)
        return logits, {"gradient_norm": C * jnp.abs(logits).max()}

    report = feature_episodes(features, LABELS, head=heads.Head("logistic", solve, {"C": 1.0}), **SETTINGS)
    start = f"3-way 4-shot logistic(C=1): {100 * report.accuracy:.2f} ± {100 * report.ci95:.2f} % (150 episodes)"
    assert str(report) == start
    summary = report.summary()
    assert report.largest_gradient_norm == report.info["gradient_norm"].max()
    assert f"largest relative gradient {report.largest_gradient_norm:.1g}" in summary
    one = feature_episodes(features, LABELS, **SETTINGS | {"episodes": 1})
    assert str(one).endswith("± – % (1 episodes)")
    assert np.isnan(one.largest_gradient_norm)
    for words in ("other episodes from these same images", "new images of these same", "new classes and new images"):
        assert words in summary
    assert str(feature_episodes(features, LABELS, **SETTINGS)).startswith("3-way 4-shot ncc: ")


def test_compare_is_paired(features):
    a = feature_episodes(features, LABELS, head="ridge", **SETTINGS)
    b = feature_episodes(features, LABELS, head=heads.ridge(3.0), **SETTINGS)  # another number compiles nothing
    difference = a.per_episode.astype(float) - b.per_episode
    paired = a.compare(b)
    assert paired.difference == pytest.approx(a.accuracy - b.accuracy, abs=1e-9)
    spread = difference.std(ddof=1) / np.sqrt(150)
    assert paired.ci95 == pytest.approx(1.976 * spread, rel=1e-3)
    assert paired.ci95 < a.ci95
    other = feature_episodes(features, LABELS, **SETTINGS | {"seed": 1})
    with pytest.raises(InputError, match="different episodes"):
        a.compare(other)
    # the same numbers of classes, of other names; numbers alone may stand for any
    named = (np.char.add(word, LABELS.astype(str)) for word in ("apple ", "pear "))
    apples, pears = (feature_episodes(features, names, **SETTINGS) for names in named)
    assert apples.plan_hash == pears.plan_hash == a.plan_hash
    with pytest.raises(InputError, match=r"different classes .*'apple 0' and 'pear 0'"):
        apples.compare(pears)
    assert apples.compare(a).difference == pytest.approx(apples.accuracy - a.accuracy, abs=1e-9)
    assert "± –" in str(dataclasses.replace(paired, target_ci95=float("nan")))
