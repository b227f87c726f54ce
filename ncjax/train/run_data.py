"""The data of a run, with the checksums and pixel statistics that need a pass over it."""

import zlib
from typing import Any, NamedTuple

import numpy as np

from ncjax import data
from ncjax.data import Benchmark
from ncjax.errors import InputError
from ncjax.train import throughput
from ncjax.train.config import Config

_ROWS_AT_ONCE = 4096


class RunData(NamedTuple):
    """A benchmark, its checksums and its pixel statistics, computed once for all seeds of a run.

    Attributes:
      benchmark: the images.
      fingerprint: the checksums of images and labels.
      mean: the mean of each channel, of pixels in 0..1, float32 [c].
      std: the standard deviation of each channel, likewise.
    """

    benchmark: Benchmark
    fingerprint: str
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, benchmark: Benchmark) -> "RunData":
        """Reads all images of a benchmark.

        Raises:
          InputError: if images are not uint8 [n, h, w, c].
        """
        for name in ("source_train", "source_test", "validation", "target"):
            split = getattr(benchmark, name)
            if split is not None and (split.images.dtype != np.uint8 or split.images.ndim != 4):
                raise InputError(
                    f"{name} has images of {split.images.dtype} {split.images.shape}: give pixels 0..255 as uint8 "
                    "[n, h, w, c]"
                )
        return cls(benchmark, fingerprint(benchmark), *_pixel_statistics(benchmark.source_train.images))

    def augmentation(self, config: Config) -> str:
        """Returns the augmentation of the settings, by default the data set's."""
        return config.augmentation or self.benchmark.augmentation

    @property
    def is_streamed(self) -> bool:
        """Whether training images stay in their files."""
        return not isinstance(self.benchmark.source_train.images, np.ndarray)


def load_benchmark(config: Config) -> Benchmark:
    """Loads the data of a run."""
    return data.load(
        config.dataset,
        data_dir=config.data_dir,
        num_source_classes=config.num_source_classes,
        source_test_per_class=config.source_test_per_class,
        samples_per_class=config.samples_per_class,
        split_seed=config.split_seed,
        image_size=config.image_size,
        rotations=config.rotations,
        skip_corrupt=config.skip_corrupt,
        class_split=config.class_split,
        image_column=config.image_column,
        label_column=config.label_column,
        nested=config.nested,
        stream_above=throughput.stream_above(config.stream),
    )


def fingerprint(benchmark: Benchmark) -> str:
    """Computes the checksums of images and labels of source_train, source_test and target, joined by "-".

    Validation images do not count: a run neither trains nor measures on them, so that no number it records depends on
    them, and runs that differ only there are the same run.
    """
    sums = [
        _checksum(array)
        for split in (benchmark.source_train, benchmark.source_test, benchmark.target)
        if split is not None
        for array in (split.images, split.labels)
    ]
    return "-".join(f"{s:08x}" for s in sums)


def _checksum(array: Any) -> int:
    checksum = 0
    for start in range(0, len(array), _ROWS_AT_ONCE):
        checksum = zlib.crc32(np.ascontiguousarray(array[start : start + _ROWS_AT_ONCE]).data, checksum)
    return checksum


def _pixel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes mean and standard deviation of each channel, of pixels in 0..1, float32 [c]."""
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), 1024):  # bincount makes its input eight times as large
        chunk = images[start : start + 1024]
        for c in range(channels):
            counts[c] += np.bincount(chunk[..., c].ravel(), minlength=256)
    shares = counts / counts.sum(-1, keepdims=True)
    values = np.arange(256) / 255
    mean = shares @ values
    var = (shares * np.square(values - mean[:, None])).sum(-1)
    return mean.astype(np.float32), np.sqrt(np.maximum(var, 1e-6)).astype(np.float32)
