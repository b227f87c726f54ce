"""The speed and memory of a run, compared with the limits of its devices."""

import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from ncjax import devices
from ncjax.classifier import Classifier
from ncjax.errors import InputError
from ncjax.train.step import Batch, StepTotals
from ncjax.train.trainer import Carry, Setup, initial, take_step

# Peak 1e12 operations/s of dense matrix products on one JAX device, in bfloat16 and in float32 at the default precision
# (TF32 on a GPU, one bfloat16 pass on a TPU). Source: data sheets (NVIDIA A100, H100 and H200 Tensor Core GPU; Google
# Cloud TPU system architecture). The first name that the device's kind contains counts.
_PEAKS = {
    "H100 PCIe": (756.0, 378.0),
    "H100 NVL": (835.0, 417.0),
    "H100": (989.0, 495.0),
    "H200": (989.0, 495.0),
    "A100": (312.0, 156.0),
    "TPU v3": (61.5, 61.5),
    "TPU v4": (275.0, 275.0),
    "TPU v5 lite": (197.0, 197.0),
    "TPU v5": (459.0, 459.0),
    "TPU v6 lite": (918.0, 918.0),
}
_HOST_BYTES = 8 * 2**30


class Peak(NamedTuple):
    """The most floating-point operations a second of all devices together.

    Attributes:
      flops: the number; None if not known.
      source: the origin of the number.
    """

    flops: float | None
    source: str


def peak(mesh: Mesh, precision: str) -> Peak:
    """Returns the peak of the data sheet; on a CPU, measures the rate of a large matrix product."""
    device = mesh.devices.flat[0]
    if device.platform == "cpu":
        return Peak(jax.process_count() * _matrix_product_rate(), "a 1024 x 1024 float32 matrix product, measured")
    for name, (bfloat16, float32) in _PEAKS.items():
        if name in device.device_kind:
            rate = bfloat16 if precision == "bfloat16" else float32
            return Peak(mesh.size * rate * 1e12, f"data sheet of {name}")
    return Peak(None, f"not known for {device.device_kind}")


def _matrix_product_rate() -> float:
    n = 1024
    seconds = []
    with jax.set_mesh(jax.make_mesh((), (), devices=jax.local_devices()[:1])):  # replaces the caller's mesh
        square = jnp.ones((n, n), jnp.float32)
        product = jax.jit(lambda a: a @ a)
        for _ in range(6):
            start = time.perf_counter()
            product(square).block_until_ready()
            seconds.append(time.perf_counter() - start)
    return 2 * n**3 / min(seconds)


def check_precision(mesh: Mesh, precision: str) -> None:
    """Raises InputError if the device does not support the precision."""
    device = mesh.devices.flat[0]
    capability = str(getattr(device, "compute_capability", ""))
    nvidia = re.fullmatch(r"(\d+)\.\d+", capability)  # AMD has names such as gfx942 instead of numbers
    if precision == "bfloat16" and nvidia is not None and int(nvidia[1]) < 8:
        raise InputError(
            f"precision=bfloat16: {device.device_kind} (compute capability {capability}) has no bfloat16; set float32"
        )


def stream_above(stream: bool | None) -> int | None:
    """Returns the size of source-train in bytes above which images stay in their files; None for never.

    By default a quarter of a device's memory; if that is not known, 8 GiB divided by the number of this process's
    devices, since each holds a copy.
    """
    if stream is not None:
        return 0 if stream else None
    local = devices.data_mesh().local_devices
    stats = local[0].memory_stats() or {}
    return stats["bytes_limit"] // 4 if "bytes_limit" in stats else _HOST_BYTES // len(local)


def peak_memory() -> dict[str, int]:
    """Returns the peak memory in bytes of this process, and of its fullest device if the device counts it."""
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"peak_process_bytes": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    counts = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
    return peaks | ({"peak_device_bytes": max(counts)} if max(counts) else {})


@contextmanager
def trace(folder: Path, *, when: bool) -> Iterator[None]:
    """Writes a profile of the body, for XProf, and as perfetto_trace.json.gz for Perfetto."""
    if not when:
        yield
        return
    with jax.profiler.trace(folder, create_perfetto_trace=True):
        yield


def step_flops(setup: Setup, teacher: Classifier | None = None) -> float | None:
    """Returns the floating-point operations of a step of one seed, as counted by XLA; None if it does not count.

    The teacher's, where there is one, are among them.

    XLA counts them for a CPU, since it counts compiled programs only on GPUs and TPUs, where convolutions may be
    library calls that it does not count.
    """
    try:
        cpu = jax.local_devices(backend="cpu")[:1]
    except RuntimeError:  # JAX_PLATFORMS leaves out the CPU
        return None

    def example(teacher: Classifier | None) -> tuple[Array, Batch, Carry]:
        images = jnp.zeros((setup.batch_size, *setup.image_shape), jnp.uint8)
        labels = jnp.zeros(setup.batch_size, jnp.int32)
        pixel = jnp.ones(setup.image_shape[-1])
        state = initial(setup, 0)
        totals = StepTotals(jnp.float32(0), jnp.int32(0), jnp.int32(-1))
        return jnp.uint32(0), Batch(images, labels, pixel, pixel, teacher), (state, totals)

    with jax.set_mesh(jax.make_mesh((), (), devices=cpu)):  # replaces the caller's mesh
        counted = jax.jit(partial(take_step, setup)).lower(*jax.eval_shape(example, teacher)).cost_analysis()
    flops = counted.get("flops") if isinstance(counted, dict) else None
    return None if flops is None or flops <= 0 else float(flops)


class Rates(NamedTuple):
    """The operations of a step, and the peak of the devices.

    Attributes:
      flops: floating-point operations of a step of all seeds; None if not known.
      peak: the most operations a second of the devices.
    """

    flops: float | None
    peak: Peak

    def entry(self) -> dict[str, float | str | None]:
        """Returns the entry for timing.jsonl."""
        return {"flops_per_step": self.flops, "peak_flops": self.peak.flops, "peak_is_of": self.peak.source}


def rates(setup: Setup, seeds: int, precision: str, teacher: Classifier | None = None) -> Rates:
    """Counts the operations of a step of all seeds, and looks up or measures the peak."""
    flops = step_flops(setup, teacher)
    return Rates(None if flops is None else seeds * flops, peak(setup.mesh, precision))
