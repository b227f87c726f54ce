"""Preparing data sets and reading them back, beside plain loops over the same files.

    python benchmarks/data.py                    # a folder of 10,000 JPEG images, made here
    python benchmarks/data.py --data_dir=PATH    # also CIFAR-100 and EMNIST, from the archives or folders in PATH

"prepare" writes the files of a fresh cache folder and reads them; "read back" opens them as every later start does.
Each is a single call in a process of its own, without the imports. A loop only decodes into an array, in one process:
it keeps nothing to read back.

The folder's images are also written as Parquet (needs pyarrow) and TFRecord files: formats take turns, --repeats times,
and their ratio is the ratio of totals. --memory=100000 prepares as many images, leaves them in their files, and prints
the peak memory.

Measured on two idle cores of an AMD EPYC, 2026-11-26, --data_dir given:

    CIFAR-100, 60,000 images      prepare 32.1 s, read back 10.3 s    a loop over its pickles    0.9 s
    EMNIST balanced, a subset     prepare  6.6 s, read back  2.4 s
    10,000 JPEG images to 84x84   prepare 24.7 s, read back  5.1 s    a loop with Pillow        12.0 s

On two idle cores of an AMD EPYC with AVX-512, 2026-11-27:

    CIFAR-100, 60,000 images      prepare 13.1 s, read back  4.2 s    a loop over its pickles    0.5 s
    EMNIST balanced, a subset     prepare  2.2 s, read back  0.8 s
    10,000 JPEG images to 84x84   prepare 12.7 s, read back  2.9 s    a loop with Pillow         6.5 s

On two cores shared with other work, 2026-11-28, --images=2000 --repeats=3; wall time, and time of processors:

    Parquet     1.02 and 1.06 of the speed of a folder of the same JPEG images
    TFRecord    1.04 and 1.03

Peak memory of preparing Parquet files whose images stay in their files, except those of validation, target and
source-test, which are read: 100,000 images to 32x32 1.24 GiB (read back 0.51 GiB); to 84x84, 8,000 images 0.69 GiB,
24,000 images 1.04 GiB. It grows by more than the images that are read; 100,000 images to 84x84 have not been measured.

Prepared images are PNG in ArrayRecord files, which can be read in any order, as streaming needs, and are checked; the
price is to decode them again.
"""

import argparse
import json
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ncjax.files import expand

LOAD = """
import json, resource, sys, time
import tensorflow_datasets  # ncjax.data imports it at the first load
from ncjax import data
if sys.argv[1] == "parquet":
    import pyarrow.parquet
options = json.loads(sys.argv[3])
wall, used = time.perf_counter(), time.process_time()
loaded = data.load(sys.argv[1], data_dir=sys.argv[2], **options)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([time.perf_counter() - wall, time.process_time() - used, peak]))
"""


def load(name: str, data_dir: Path, cache: Path, **options: object) -> tuple[float, float, float]:
    """Runs `load` in a process of its own; returns its seconds, its processor seconds, and its peak memory in bytes."""
    command = [sys.executable, "-c", LOAD, name, str(data_dir), json.dumps(options)]
    environment = os.environ | {"NCJAX_CACHE_DIR": str(cache)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    wall, used, peak = json.loads(done.stdout)
    return wall, used, peak


def ours(name: str, data_dir: Path, cache: Path) -> tuple[float, float]:
    """Times the first and the second `load`, in seconds."""
    return load(name, data_dir, cache)[0], load(name, data_dir, cache)[0]


def make_folder(root: Path, images: int, classes: int = 20, side: int = 160) -> None:
    """Writes images as smooth as photographs: noise of 20 pixels a side, enlarged."""
    rng = np.random.default_rng(0)
    for c in range(classes):
        (root / f"class_{c:02d}").mkdir(parents=True)
        for i in range(images // classes):
            small = Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8))
            small.resize((side, side), Image.Resampling.BICUBIC).save(root / f"class_{c:02d}" / f"{i}.jpg")


def make_parquet(root: Path, images: Path, times: int = 1) -> None:
    """Writes the images of a folder as the Hugging Face hub does: by the hundred, with class names in the schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names, files = files_of(images)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    schema = pa.schema(
        {"image": kind, "label": pa.int64()}, {"huggingface": json.dumps({"info": {"features": features}})}
    )
    root.mkdir()
    with pq.ParquetWriter(root / "train-00000-of-00001.parquet", schema) as writer:
        for start in [*range(0, len(files), 100)] * times:
            of_group = files[start : start + 100]
            columns = [
                pa.array([{"bytes": path.read_bytes(), "path": path.name} for path, _ in of_group], kind),
                pa.array([label for _, label in of_group], pa.int64()),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def make_tfrecords(root: Path, images: Path, times: int = 1) -> None:
    """Writes the images of a folder as tensorflow-datasets does, in a single file."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    from ncjax.data.tfrecord import masked_crc32c

    names, files = files_of(images)
    folder = root / "photos" / "1.0.0"
    folder.mkdir(parents=True)
    features = {"image": tfds.features.Image(encoding_format="jpeg"), "label": tfds.features.ClassLabel(names=names)}
    tfds.features.FeaturesDict(features).save_config(str(folder))
    split = {"name": "train", "shardLengths": [str(times * len(files))], "numBytes": "1"}
    split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": "photos", "version": "1.0.0", "fileFormat": "tfrecord", "moduleName": "photos", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with (folder / "photos-train.tfrecord-00000-of-00001").open("wb") as file:
        for path, label in files * times:
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(path.read_bytes())
            example.features.feature["label"].int64_list.value.append(label)
            record = example.SerializeToString()
            head = struct.pack("<Q", len(record))
            file.write(head + struct.pack("<I", masked_crc32c(head)))
            file.write(record + struct.pack("<I", masked_crc32c(record)))


def files_of(images: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    """Lists the classes of a folder, and its files with their class numbers."""
    classes = sorted(images.iterdir())
    return [one.name for one in classes], [(p, i) for i, one in enumerate(classes) for p in sorted(one.iterdir())]


def formats(scratch: Path, images: Path, repeats: int) -> None:
    """Times the preparation of a folder's images from each format in turn."""
    make_parquet(scratch / "parquet", images)
    make_tfrecords(scratch / "tfds", images)
    count = len(files_of(images)[1])
    asked = {"folder": images, "parquet": scratch / "parquet", "tfds:photos": scratch / "tfds"}
    spent = {name: np.zeros(2) for name in asked}
    for repeat in range(repeats):
        for name, data_dir in asked.items():
            spent[name] += load(name, data_dir, scratch / f"cache-{repeat}-{name.partition(':')[0]}", image_size=84)[:2]
    for name, (wall, used) in spent.items():
        share = spent["folder"] / spent[name]
        print(
            f"{name:<12} {count:,} JPEG images to 84x84: prepare {wall / repeats:6.1f} s, {used / repeats:6.1f} s of "
            f"processors: {share[0]:.2f} and {share[1]:.2f} of the folder's speed",
            flush=True,
        )


def memory(scratch: Path, images: Path, count: int, size: int) -> None:
    """Times many images that stay in their files, except those of validation and target classes, and prints memory."""
    times = -(-count // len(files_of(images)[1]))
    for name, make in (("parquet", make_parquet), ("tfds:photos", make_tfrecords)):
        root = scratch / f"many-{name.partition(':')[0]}"
        make(root, images, times)
        for state in ("prepare", "read back"):
            wall, _, peak = load(name, root, scratch / "cache-many", image_size=size, stream_above=0)
            print(
                f"{name:<12} {count:,} images to {size}x{size}, streamed: {state} {wall:6.1f} s, "
                f"{peak / 2**30:.2f} GiB at most",
                flush=True,
            )


def pillow_loop(root: Path) -> None:
    paths = sorted(root.glob("*/*.jpg"))
    resample = Image.Resampling.LANCZOS
    np.stack([np.asarray(Image.open(path).convert("RGB").resize((84, 84), resample)) for path in paths])


def pickle_loop(folder: Path) -> None:
    for name in ("train", "test"):
        with open(folder / name, "rb") as file:
            found = pickle.load(file, encoding="bytes")
        np.ascontiguousarray(found[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def timed(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def row(name: str, seconds: tuple[float, float], loop: tuple[str, float] | None) -> None:
    text = f"{name:<36} prepare {seconds[0]:6.1f} s   read back {seconds[1]:6.1f} s"
    if loop is not None:
        text += f"   {loop[0]} {loop[1]:.1f} s: {seconds[0] / loop[1]:.2f} and {seconds[1] / loop[1]:.2f} of it"
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=expand, help="folder of CIFAR-100 and EMNIST")
    parser.add_argument("--images", type=int, default=10_000, help="number of JPEG images in the folder")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions of each format; 0 leaves them out")
    parser.add_argument("--memory", type=int, default=0, help="images to prepare for the measurement of memory")
    parser.add_argument("--image_size", type=int, default=84, help="side of these images in pixels")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "cache"
        if flags.data_dir is not None:
            seconds = ours("cifar_fs", flags.data_dir, cache)
            extracted = flags.data_dir / "cifar-100-python"
            loop = ("a loop over its pickles", timed(lambda: pickle_loop(extracted))) if extracted.is_dir() else None
            row("CIFAR-100, 60,000 images", seconds, loop)
            row("EMNIST balanced", ours("emnist", flags.data_dir, cache), None)
        root = Path(scratch) / "images"
        make_folder(root, flags.images)
        if flags.repeats:
            formats(Path(scratch), root, flags.repeats)
        if flags.memory:
            memory(Path(scratch), root, flags.memory, flags.image_size)
            return
        seconds = ours("folder", root, cache)
        row(
            f"folder, {flags.images:,} JPEG images to 84x84",
            seconds,
            ("a loop with Pillow", timed(lambda: pillow_loop(root))),
        )


if __name__ == "__main__":
    main()
