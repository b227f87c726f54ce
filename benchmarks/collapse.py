"""Collapse metrics: ncjax beside vectorised NumPy and torch, and how ncjax grows with classes, dimensions, samples.

    python benchmarks/collapse.py            # 20 classes × 600 × 256, every implementation in one run
    python benchmarks/collapse.py --growth   # ncjax alone, to 10,000 classes; a process for each size
    python benchmarks/collapse.py --limits   # streams, intervals and theory beside what the machine allows

A time is the least of many rounds in which the implementations take turns, so that a busy machine slows all alike;
ratios are to ncjax. Compile time is not part of it. torch is left out if it is not installed. The torch and NumPy
versions compute the same definitions without loops over samples, in float32, means first and then centred residuals.
--limits divides the least time that the machine allows by the time taken. That least time is the larger of bytes over
bandwidth and operations over rate, both measured in the same run: of a sum over 512 MB, and of a matrix product.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ncjax.cli import prepare_backend
from ncjax.collapse import ClassMoments, cdnv, intervals, measure, measure_stream, theory
from ncjax.collapse.metrics import summary_of_samples
from ncjax.collapse.residuals import LinearHead

try:
    import torch
except ImportError:
    torch = None

TASKS = ("cdnv", "cdnv + nc1-nc4", "directional", "all")


def samples(k, n, d, seed=0):
    """Makes features [k·n, d], shuffled labels and a head."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(k), n)).astype(np.int32)
    features = rng.standard_normal((k, d), np.float32)[labels] + rng.standard_normal((k * n, d), np.float32)
    return features, labels, rng.standard_normal((k, d), np.float32)


def numpy_metrics(task, x, y, w):
    k = len(w)
    one_hot = np.zeros((len(y), k), np.float32)
    one_hot[np.arange(len(y)), y] = 1.0
    count = one_hot.sum(0)
    mean = one_hot.T @ x / count[:, None]
    r = x - mean[y]
    centred = mean - mean.mean(0)
    gram = centred @ centred.T
    square = np.maximum(np.diag(gram)[:, None] + np.diag(gram) - 2 * gram, 0)
    off = ~np.eye(k, dtype=bool)
    out = {}
    var = one_hot.T @ np.einsum("nd,nd->n", r, r) / count
    if task != "directional":
        out["cdnv"] = ((var[:, None] + var)[off] / (2 * square[off])).mean()
    if task == "cdnv":
        return out
    p = r @ centred.T
    if task != "cdnv + nc1-nc4":
        towards = p - p[np.arange(len(y)), y][:, None]
        along = one_hot.T @ towards**2 / count[:, None]
        out["directional"] = (along[off] / square[off] ** 2).mean()
    if task == "directional":
        return out
    v, s, _ = np.linalg.svd(centred.T, full_matrices=False)
    z = r @ (v[:, : k - 1] / s[: k - 1])
    out["nc1"] = (one_hot.T @ np.einsum("nr,nr->n", z, z) / count).mean()
    norm = np.linalg.norm(centred, axis=1)
    out["nc2_equinorm"] = norm.std() / norm.mean()
    cosine = gram / norm[:, None] / norm
    out["nc2_equiangular"] = np.abs(cosine[off] + 1 / (k - 1)).mean()
    out["nc3"] = np.linalg.norm(w / np.linalg.norm(w) - centred / np.linalg.norm(centred))
    nearest = (square[y] - 2 * p).argmin(1)
    out["nc4"] = ((x @ w.T).argmax(1) == nearest).mean()
    return out


def torch_metrics(task, x, y, w):
    k = len(w)
    count = torch.bincount(y, minlength=k).float()
    mean = torch.zeros(k, x.shape[1]).index_add_(0, y, x) / count[:, None]
    r = x - mean[y]
    centred = mean - mean.mean(0)
    gram = centred @ centred.T
    square = (gram.diagonal()[:, None] + gram.diagonal() - 2 * gram).clamp(min=0)
    off = ~torch.eye(k, dtype=torch.bool)
    out = {}
    var = torch.zeros(k).index_add_(0, y, (r * r).sum(1)) / count
    if task != "directional":
        out["cdnv"] = ((var[:, None] + var)[off] / (2 * square[off])).mean()
    if task == "cdnv":
        return out
    p = r @ centred.T
    if task != "cdnv + nc1-nc4":
        towards = p - p.gather(1, y[:, None])
        along = torch.zeros(k, k).index_add_(0, y, towards**2) / count[:, None]
        out["directional"] = (along[off] / square[off] ** 2).mean()
    if task == "directional":
        return out
    v, s, _ = torch.linalg.svd(centred.T, full_matrices=False)
    z = r @ (v[:, : k - 1] / s[: k - 1])
    out["nc1"] = (torch.zeros(k).index_add_(0, y, (z * z).sum(1)) / count).mean()
    norm = centred.norm(dim=1)
    out["nc2_equinorm"] = norm.std(correction=0) / norm.mean()
    out["nc2_equiangular"] = ((gram / norm[:, None] / norm)[off] + 1 / (k - 1)).abs().mean()
    out["nc3"] = (w / w.norm() - centred / centred.norm()).norm()
    out["nc4"] = ((x @ w.T).argmax(1) == (square[y] - 2 * p).argmin(1)).float().mean()
    return out


def ncjax_metrics(task, x, y, w):
    """Computes the part of `summary_of_samples` that the task asks for; XLA leaves out the rest."""
    k = w.shape[0]
    if task == "cdnv":
        return {"cdnv": cdnv(x, y, k)}
    parts = summary_of_samples(x, y, LinearHead(w, jnp.zeros(k)), k)
    off = ~jnp.eye(k, dtype=bool)

    def mean(pairs):
        return jnp.sum(jnp.where(off, pairs, 0.0)) / (k * (k - 1))

    out = {}
    if task != "directional":
        out["cdnv"] = mean(parts["cdnv_pairs"])
    if task != "cdnv + nc1-nc4":
        out["directional"] = mean(parts["directional_cdnv_pairs"])
    if task != "directional":
        out |= {name: parts[name] for name in ("nc1", "nc2_equinorm", "nc2_equiangular", "nc3")}
        out["nc4"] = parts["agree"] / x.shape[0]
    return out


def compare(k: int, n: int, d: int, rounds: int) -> None:
    """Times every task with every implementation, and checks that their numbers agree."""
    x, y, w = samples(k, n, d)
    arrays = {"ncjax": tuple(map(jnp.asarray, (x, y, w))), "numpy": (x, y, w)}
    if torch is not None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        arrays["torch"] = (torch.from_numpy(x), torch.from_numpy(y).long(), torch.from_numpy(w))
    print(f"{k} classes × {n} × {d} float32, {jax.devices()[0].device_kind}, best of {rounds} rounds in turn, ms")
    print(f"{'':<16}{'compile':>10}" + "".join(f"{name:>10}{'ratio':>8}" for name in arrays))
    for task in TASKS:
        start = time.perf_counter()
        compiled = jax.jit(partial(ncjax_metrics, task)).lower(*arrays["ncjax"]).compile()
        compile_time = time.perf_counter() - start
        run: dict[str, Callable] = {
            "ncjax": lambda *a, c=compiled: jax.block_until_ready(c(*a)),
            "numpy": partial(numpy_metrics, task),
            "torch": partial(torch_metrics, task),
        }
        best = dict.fromkeys(arrays, np.inf)
        reference: dict = {}
        for i in range(rounds):
            for name, a in arrays.items():
                for _ in range(3):
                    start = time.perf_counter()
                    found = run[name](*a)
                    best[name] = min(best[name], time.perf_counter() - start)
                if i == 0:
                    if name == "ncjax":
                        reference = found
                    for metric, value in found.items():
                        np.testing.assert_allclose(float(value), float(reference[metric]), rtol=1e-3)
        row = f"{task:<16}{compile_time * 1e3:>10.0f}"
        for name in arrays:
            row += f"{best[name] * 1e3:>10.2f}{best[name] / best['ncjax']:>8.1f}"
        print(row)
    plain, whole = np.inf, np.inf
    for _ in range(rounds * 3):
        plain = min(plain, timed(lambda: measure(arrays["ncjax"][0], y, weights=w)))
        whole = min(whole, timed(lambda: measure(arrays["ncjax"][0], y, weights=w, all_measures=True)))
    print(f"{'measure()':<26}{plain * 1e3:>10.2f}   checks and copies to the host with it")
    print(f"{'… all_measures':<26}{whole * 1e3:>10.2f}{whole / plain:>8.1f}   spectra and hulls in float64 on the host")


def timed(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def grow_one(kind: str, k: int, n: int, d: int) -> None:
    """Prints time and peak memory of one size as a line of JSON."""
    if kind == "measure":
        x, y, w = samples(k, n, d)
        x = jnp.asarray(x)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        first = timed(lambda: measure(x, y, weights=w))
        best = min(timed(lambda: measure(x, y, weights=w)) for _ in range(3 if k < 5000 else 1))
    else:
        # one pass of ClassMoments over batches that never exist together; memory does not depend on their number
        batch, steps = 8192, max(1, k * n // 8192)
        update = jax.jit(ClassMoments.update, donate_argnums=0)
        x, y = jax.random.normal(jax.random.key(0), (batch, d)), jnp.arange(batch, dtype=jnp.int32) % k
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        moments = ClassMoments.empty(k, d)
        first = timed(lambda: jax.block_until_ready(update(ClassMoments.empty(k, d), x, y)))

        def one_pass():
            nonlocal moments
            for _ in range(steps):
                moments = update(moments, x, y)
            jax.block_until_ready(moments)

        best = timed(one_pass)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"first_s": first, "again_s": best, "features_mb": k * n * d * 4 / 2**20,
                      "peak_mb": after / 2**10, "added_mb": (after - before) / 2**10}))  # fmt: skip


def growth() -> None:
    sizes = [("measure", k, 600, 256) for k in (5, 20, 80)]
    sizes += [("measure", 20, 600, d) for d in (64, 640, 2048)] + [("measure", 20, n, 256) for n in (100, 3000)]
    sizes += [("measure", 1000, 20, 512), ("measure", 10_000, 4, 128)]
    sizes += [("moments", 1000, 1280, 2048), ("moments", 10_000, 128, 512)]
    print(f"{'':<10}{'classes':>8}{'samples':>9}{'d':>6}{'first s':>9}{'again s':>9}{'features MB':>13}{'peak MB':>9}")
    for kind, k, n, d in sizes:
        out = subprocess.run(
            [sys.executable, __file__, "--one", kind, str(k), str(n), str(d)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        r = json.loads(out.stdout.splitlines()[-1])
        print(
            f"{kind:<10}{k:>8}{k * n:>9}{d:>6}{r['first_s']:>9.3f}{r['again_s']:>9.4f}"
            f"{r['features_mb']:>13.0f}{r['peak_mb']:>9.0f}",
            flush=True,
        )


def limits(k: int, d: int, n: int, batches: int) -> None:
    """Prints the time of streams, intervals and theory, and the share of what bandwidth and arithmetic allow."""
    total, big = jax.jit(jnp.sum), jnp.ones(2**27, jnp.float32)
    bandwidth = big.nbytes / best_of(5, lambda: total(big).block_until_ready())
    square = jnp.ones((2048, 2048), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    rate = 2 * 2048**3 / best_of(5, lambda: product(square).block_until_ready())
    print(f"{len(jax.devices())} {jax.devices()[0].device_kind}: {bandwidth / 1e9:.1f} GB/s, {rate / 1e9:.0f} GFLOP/s")
    print(f"{'':<44}{'s':>9}{'bytes s':>9}{'ops s':>9}{'share':>8}")

    def row(name: str, seconds: float, size: float, operations: float) -> None:
        least = size / bandwidth, operations / rate
        print(f"{name:<44}{seconds:>9.3f}{least[0]:>9.3f}{least[1]:>9.3f}{max(least) / seconds:>8.2f}", flush=True)

    y = np.random.default_rng(0).permutation(np.arange(n, dtype=np.int32) % k)
    x = np.random.default_rng(1).standard_normal((n, d), np.float32)
    stream = [(x, y)] * batches
    measure_stream(stream[:1], num_classes=k)  # compiles
    size, rows = batches * x.nbytes, batches * n
    name = f"{k} x {d} x {rows}, batches of {n}"
    once = best_of(1, lambda: measure_stream(iter(stream), num_classes=k))
    row(f"measure_stream, one pass: {name}", once, size, 0)
    twice = best_of(1, lambda: measure_stream(stream, num_classes=k))
    row("measure_stream, two passes", twice, 2 * size, 2.0 * rows * d * (k + min(k - 1, d)))
    few, per_class, dim, groups = 200, 50, 512, 40
    x, y, _ = samples(few, per_class, dim)
    replicate = 2.0 * len(x) * dim * (few + 2 * (few - 1))  # projections on means and directions, twice on the latter
    name = f"{few} x {per_class} x {dim}"
    seconds = best_of(2, lambda: measure(x, y))
    row(f"measure: {name}", seconds, 3 * x.nbytes, 2.0 * len(x) * dim * (2 * few - 1))
    seconds = best_of(2, lambda: intervals(x, y))
    row("intervals over samples", seconds, 0, groups * replicate + 2.0 * (few * groups) ** 2 * dim)
    seconds = best_of(2, lambda: intervals(x, y, over="classes"))
    row("intervals over classes", seconds, 0, few * 2.0 * len(x) * dim * (2 * few - 1))
    row("theory", best_of(2, lambda: theory(x, y)), 3 * x.nbytes, 2.0 * few * per_class * few * dim)


def best_of(rounds: int, call) -> float:
    """Returns the least time of some calls after the first, which may compile."""
    call()
    return min(timed(call) for _ in range(rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--limits", action="store_true")
    parser.add_argument("--classes", type=int, default=1000, help="classes of the stream of --limits")
    parser.add_argument("--batches", type=int, default=16, help="batches of 8192 samples of the stream of --limits")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        grow_one(args.one[0], *map(int, args.one[1:]))
    elif args.limits:
        prepare_backend()
        limits(args.classes, 2048, 8192, args.batches)
    elif args.growth:
        growth()
    else:
        compare(20, 600, 256, args.rounds)


if __name__ == "__main__":
    main()
