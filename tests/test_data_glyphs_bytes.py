"""glyphs: the same bytes on every machine, and images of a class that do not depend on other classes."""

import hashlib
import math

import numpy as np
import pytest

from ncjax import data
from ncjax.data import glyph_bank, glyphs
from ncjax.errors import InputError


def digest(benchmark: data.Benchmark) -> str:
    """Computes a digest of all images, labels and names."""
    found = hashlib.sha256()
    for split in (benchmark.source_train, benchmark.source_test, benchmark.validation, benchmark.target):
        assert split is not None
        found.update(split.images.tobytes())
        found.update(split.labels.astype("<i4").tobytes())
        found.update(",".join(split.class_names).encode())
    return found.hexdigest()


def test_the_bytes_are_the_published_ones():
    """Another digest means another data set, with which earlier runs cannot be compared."""
    few = data.load("glyphs", num_source_classes=2, samples_per_class=20, source_test_per_class=10)
    assert digest(few) == "cbddf5c2f19d55acb9d26d74af430918d600e7db90439c8dcf5717592ff1cafc"


@pytest.mark.slow
def test_all_bytes_are_the_published_ones():
    assert digest(data.load("glyphs")) == "665340f628b2c0945d48e8609a122b93c5d28cfc5051467f2bd4655ba80521f0"
    other = data.load("glyphs", split_seed=1, num_source_classes=182)
    assert digest(other) == "16aa79e987d9b04356f7e9b545872e333ceeb9419bcb21db158576fb7adce462"


def test_pillow_and_its_fonts_take_no_part(monkeypatch):
    expected = glyphs.draw("A", 2)

    def fail(*_, **__):
        raise AssertionError("Pillow was asked")

    for name in ("Image.new", "Image.open", "Image.fromarray", "ImageFont.truetype"):
        monkeypatch.setattr(f"PIL.{name}", fail)
    glyphs.bank.cache_clear()
    np.testing.assert_array_equal(glyphs.draw("A", 2), expected)


def test_only_integers_are_computed_with(monkeypatch):
    """Floating-point numbers may be rounded differently on another machine."""
    seen = set()

    class Spy(np.ndarray):
        def __array_ufunc__(self, ufunc, method, *inputs, **options):
            plain = [np.asarray(value) for value in inputs]
            seen.update(value.dtype.kind for value in plain)
            result = getattr(ufunc, method)(*plain, **{k: v for k, v in options.items() if k != "out"})
            return np.asarray(result).view(Spy)

    monkeypatch.setattr(glyphs, "_SINE", glyphs._SINE.view(Spy))
    assert glyphs.draw("A", 2).shape == (2, 28, 28, 1)
    assert seen
    assert seen <= {"i", "u", "b"}


def test_no_sine_is_near_a_tie_of_rounding():
    exact = np.array([math.sin(2 * math.pi * i / 4096) * 65536 for i in range(4096)])
    assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-4
    np.testing.assert_array_equal(glyphs._SINE, np.rint(exact))


def test_an_image_depends_on_its_number_alone():
    np.testing.assert_array_equal(glyphs.draw("Ж", 7), glyphs.draw("Ж", 40)[:7])
    with pytest.raises(InputError, match="'ö' is no character of glyphs; choose one of !#"):
        glyphs.draw("ö", 1)


def test_strokes_are_as_wide_as_the_distance_says():
    shapes = np.random.default_rng(0).random((3, 30, 40)) < 0.01
    got = glyphs._squared_distance(shapes)
    for shape, distance in zip(shapes, got, strict=True):
        inked = np.argwhere(shape)
        everywhere = np.stack(np.meshgrid(np.arange(30), np.arange(40), indexing="ij"), -1)
        exact = ((everywhere[..., None, :] - inked) ** 2).sum(-1).min(-1)
        near = exact <= 64
        np.testing.assert_array_equal(distance[near], exact[near])
        assert (distance[~near] > 64).all()
    # no stroke is wider than the largest distance
    assert 3 * glyphs.EM / glyphs.bank().sizes.min() < 8


def test_the_bank_is_what_its_script_draws():
    """Apart from pixels at edges, which versions of FreeType and Pillow may draw differently."""
    bank = glyphs.bank()
    assert bank.outlines.shape == (len(glyphs.CHARACTERS), len(glyph_bank.FACES), 80, 80)
    assert bank.drawn_by.keys() == {"pillow", "freetype", "fonts of matplotlib"}
    for number, character in enumerate(glyphs.CHARACTERS[::20]):
        for face, name in list(enumerate(glyph_bank.FACES))[::3]:
            outline, size = glyph_bank.render(character, name)
            assert (outline != bank.outlines[20 * number, face]).mean() < 0.002
            assert abs(size - bank.sizes[20 * number, face]) <= 1


def test_a_class_has_the_same_images_whatever_classes_there_are_besides(monkeypatch):
    monkeypatch.setattr(glyphs, "IMAGES_PER_CLASS", 30)
    monkeypatch.setattr(glyphs, "TEST_PER_CLASS", 10)
    options = {"samples_per_class": 8, "source_test_per_class": 5}
    few, more = (data.load("glyphs", num_source_classes=k, **options) for k in (2, 5))
    for fewer, larger in ((few.source_train, more.source_train), (few.source_test, more.source_test)):
        for label, name in enumerate(fewer.class_names):
            other = larger.images[larger.labels == larger.class_names.index(name)]
            np.testing.assert_array_equal(fewer.images[fewer.labels == label], other)


def test_so_it_is_with_any_data_set_and_fewer_images_are_some_of_more(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (200, 4, 4, 1), np.uint8)
    labels = np.repeat(np.arange(20), 10)
    np.savez(tmp_path / "all.npz", images=images, labels=labels)
    keep = labels % 5 > 0
    np.savez(tmp_path / "some.npz", images=images[keep], labels=labels[keep])

    def of_class(file: str, count: int) -> dict[str, set[bytes]]:
        split = data.load("npz", data_dir=tmp_path / file, samples_per_class=count).source_train
        return {
            name: {image.tobytes() for image in split.images[split.labels == label]}
            for label, name in enumerate(split.class_names)
        }

    few, more, others = of_class("all.npz", 3), of_class("all.npz", 6), of_class("some.npz", 3)
    assert all(len(few[name]) == 3 and few[name] < more[name] for name in few)
    both = few.keys() & others.keys()
    assert both
    assert all(few[name] == others[name] for name in both)
