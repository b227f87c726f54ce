"""What the number of classes and their sizes cost the engine."""

import jax
import numpy as np
import pytest

from ncjax.eval import engine, feature_episodes

pytestmark = pytest.mark.cheap_compilation


def labelled(sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(0).standard_normal((len(labels), 5)).astype(np.float32), labels


def test_another_largest_class_does_not_compile_again():
    settings = {"ways": 3, "shots": 2, "queries": 3, "episodes": 24}
    feature_episodes(*labelled([9, 9, 9, 9]), **settings)
    before = engine._evaluate._cache_size()
    feature_episodes(*labelled([7, 8, 9, 12]), **settings)
    assert engine._evaluate._cache_size() == before


@pytest.mark.slow
@pytest.mark.parametrize("queries", [3, "all"])
def test_confusion_of_many_classes_is_counted_on_the_host(monkeypatch, queries, on_devices):
    settings = {"ways": 3, "shots": 2, "queries": queries, "episodes": 30}
    on_device = feature_episodes(*labelled([7, 8, 9, 12, 9]), **settings)
    monkeypatch.setattr(engine, "MAX_CLASSES_COUNTED_ON_DEVICES", 4)
    with jax.set_mesh(on_devices(4)):
        on_host = feature_episodes(*labelled([7, 8, 9, 12, 9]), **settings)
    np.testing.assert_array_equal(on_host.confusion, on_device.confusion)
    np.testing.assert_array_equal(on_host.per_class, on_device.per_class)
    assert on_host.confusion.dtype == np.int64


def test_no_device_holds_all_pairs_of_many_classes(monkeypatch):
    programs, evaluate = [], engine._evaluate

    def recorded(*arguments, **static):
        programs.append(evaluate.lower(*arguments, **static).as_text())
        return evaluate(*arguments, **static)

    monkeypatch.setattr(engine, "_evaluate", recorded)
    report = feature_episodes(*labelled([4] * 3000), ways=3, shots=1, queries=2, episodes=16)
    assert report.confusion.shape == (3000, 3000)
    assert report.confusion.sum() == 16 * 3 * 2
    assert "3000x3000" not in programs[0]
    assert "12000x5" in programs[0]  # the features: sizes are written so
