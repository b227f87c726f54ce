"""glyphs: characters differ visibly, and are drawn the same each time."""

import unicodedata

import numpy as np
import pytest
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

from ncjax import data
from ncjax.data import glyph_bank, glyphs
from ncjax.errors import InputError


@pytest.fixture(scope="module")
def benchmark():
    return data.load("glyphs")


def test_every_character_is_in_every_face():
    for face in glyph_bank.FACES:
        has = FT2Font(glyph_bank.font(face, 10).path).get_charmap()
        assert [c for c in glyphs.CHARACTERS if ord(c) not in has] == []


@pytest.mark.slow
def test_no_two_characters_look_alike():
    alike = glyph_bank.correlations(glyphs.CHARACTERS)
    np.fill_diagonal(alike, 0)
    assert alike.max() < 0.85
    # the criterion detects characters that look alike
    assert glyph_bank.correlations("Cc")[0, 1] > 0.85
    assert glyph_bank.correlations("OО")[0, 1] > 0.99  # Latin and Cyrillic


def test_renderings_do_not_depend_on_the_system():
    """Pillow's default layout, and so some characters, differ where the system has FriBidi."""
    assert glyph_bank.font("STIXGeneral", 80).layout_engine == ImageFont.Layout.BASIC


def test_no_character_is_accented_or_nearly_blank():
    assert all(len(unicodedata.normalize("NFD", c)) == 1 for c in glyphs.CHARACTERS)
    assert glyphs.bank().outlines.mean((2, 3)).min() > 0.04


def test_images_show_the_character(benchmark):
    for split in (benchmark.source_train, benchmark.source_test, benchmark.validation, benchmark.target):
        assert (split.images > 100).mean((1, 2, 3)).min() > 0.01


def test_counts_shapes_and_labels(benchmark):
    expected = {"source_train": (64, 100), "source_test": (64, 50), "validation": (16, 150), "target": (20, 150)}
    for part, (classes, count) in expected.items():
        split = getattr(benchmark, part)
        assert split.num_classes == classes
        assert split.images.shape == (classes * count, 28, 28, 1)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert np.bincount(split.labels).tolist() == [count] * classes
    assert benchmark.augmentation == "shift"


def test_parts_share_no_class_and_source_parts_no_image(benchmark):
    source, validation, target = (
        set(s.class_names) for s in (benchmark.source_train, benchmark.validation, benchmark.target)
    )
    assert not source & validation
    assert not source & target
    assert not validation & target
    assert benchmark.source_test.class_names == benchmark.source_train.class_names
    train, test = ({i.tobytes() for i in s.images} for s in (benchmark.source_train, benchmark.source_test))
    assert len(train) == 64 * 100
    assert not train & test


def test_drawn_the_same_each_time_and_labelled_right(benchmark):
    character = benchmark.target.class_names[7]
    ours = benchmark.target.images[benchmark.target.labels == 7]
    np.testing.assert_array_equal(ours, glyphs.draw(character, 150))
    assert not np.array_equal(glyphs.draw(character, 150, seed=1), ours)


def test_split_seed_draws_classes_and_more_sources_keep_the_target(benchmark):
    other = data.load("glyphs", split_seed=1, num_source_classes=5)
    assert other.target.class_names != benchmark.target.class_names
    fewer = data.load("glyphs", num_source_classes=5)
    assert fewer.target.class_names == benchmark.target.class_names
    assert set(fewer.source_train.class_names) < set(benchmark.source_train.class_names)


def test_more_source_classes_than_exist_is_one_line():
    with pytest.raises(InputError, match="glyphs has 182 source classes, not 183"):
        data.load("glyphs", num_source_classes=183)
