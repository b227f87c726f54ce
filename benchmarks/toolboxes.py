"""Measures of collapse beside public toolboxes, on plain features and where toolboxes break.

    python benchmarks/toolboxes.py

compares with those of these that Python can import: `neural_collapse` (rhubarbwu/neural-collapse), `nc_toolbox`
(felixsh/nc-toolbox), `reptrix` (PyPI). Features are multiples of 1/1024, so that float32 holds them exactly about an
offset of 8,192 too: a translation changes no measure that is of centred features, and what differs in that column is
the arithmetic. The third column adds a class without samples, the fourth puts every sample on its class mean, which are
then a simplex. docs/conventions.md has the table.
"""

import importlib
import warnings
from collections.abc import Callable
from types import ModuleType

import numpy as np

from ncjax.collapse import measure

K, N, D = 8, 60, 128


def settings() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
    """Returns features, labels, head and number of classes of each column."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(K), N))
    means = rng.normal(size=(K, D))
    plain = (np.round(1024 * (means[labels] + rng.normal(size=(K * N, D)))) / 1024).astype(np.float32)
    head = (means + 0.5 * rng.normal(size=(K, D))).astype(np.float32)
    frame = np.eye(K, D) - np.eye(K, D).mean(axis=0)
    collapsed = (np.round(1024 * 8 * frame) / 1024).astype(np.float32)
    return {
        "plain": (plain, labels, head, K),
        "offset 8192": (plain + np.float32(8192), labels, head, K),
        "absent class": (plain, labels, np.concatenate([head, np.ones((1, D), np.float32)]), K + 1),
        "collapse": (collapsed[labels], labels, collapsed, K),
    }


def ours(x: np.ndarray, y: np.ndarray, w: np.ndarray, k: int) -> dict[str, float | None]:
    measured = measure(x, y, num_classes=k, weights=w, all_measures=True)
    assert measured.spectra is not None
    return {
        "CDNV": measured.cdnv,
        "NC1": measured.nc1,
        "NC2, ETF error": measured.nc2_etf_error,
        "NC3, ETF error": measured.nc3_etf_error,
        "NC3": measured.nc3,
        "GNC2 mean": measured.gnc2_mean,
        "self-duality": measured.self_duality,
        "RankMe": measured.spectra.rankme,
        "α-ReQ": measured.spectra.alpha_req,
    }


def rhubarbwu(module: ModuleType, x: np.ndarray, y: np.ndarray, w: np.ndarray, k: int) -> dict[str, float | None]:
    import torch

    accumulate, kernels, measures = (
        importlib.import_module(f"neural_collapse.{name}") for name in ("accumulate", "kernels", "measure")
    )
    features, labels, weights = map(torch.from_numpy, (x, y, w))
    sums = accumulate.MeanAccumulator(k, x.shape[1])
    sums.accumulate(features, labels)
    means, mean = sums.compute()
    variances = accumulate.VarNormAccumulator(k, x.shape[1], M=means)
    variances.accumulate(features, labels, means)
    covariance = accumulate.CovarAccumulator(k, x.shape[1], M=means)
    covariance.accumulate(features, labels, means)
    return {
        "CDNV": measures.variability_cdnv(variances.compute()[0], means),
        "NC1": measures.covariance_ratio(covariance.compute(), means, mean),
        "NC2, ETF error": measures.simplex_etf_error(means, mean),
        "NC3, ETF error": measures.self_duality_error(weights, means, mean),
        "GNC2 mean": kernels.kernel_stats(means, mean, kernels.log_kernel)[0],
        "self-duality": float(1 - measures.similarities(weights, means, mean, cos=True).mean()),
    }


def felixsh(module: ModuleType, x: np.ndarray, y: np.ndarray, w: np.ndarray, k: int) -> dict[str, float | None]:
    means = module.class_embedding_means(x, y)
    variances, mean = module.class_embedding_variances(x, y, means), module.global_embedding_mean(x)
    return {
        "CDNV": module.nc1_cdnv(means, variances),
        "NC1": module.nc1_strong(x, y, means, mean),
        "GNC2 mean": module.gnc2_hypershperical_uniformity(means, mean),
        "NC3": module.nc3_self_duality(w, means, mean),
    }


def reptrix(module: ModuleType, x: np.ndarray, y: np.ndarray, w: np.ndarray, k: int) -> dict[str, float | None]:
    import torch

    alpha, rankme = (importlib.import_module(f"reptrix.{name}") for name in ("alpha", "rankme"))
    features = torch.from_numpy(x)
    return {"RankMe": float(rankme.get_rankme(features)), "α-ReQ": float(alpha.get_alpha(features)[0])}


TOOLBOXES: dict[str, Callable] = {"neural_collapse": rhubarbwu, "nc_toolbox": felixsh, "reptrix": reptrix}


def attempt(compute: Callable, *arguments: object) -> dict[str, float | None] | str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return compute(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:90]


def main() -> None:
    columns = settings()
    results = {"ncjax": {name: ours(*values) for name, values in columns.items()}}
    for name, compute in TOOLBOXES.items():
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        results[name] = {column: attempt(compute, module, *values) for column, values in columns.items()}
    print(f"{'':<16}{'':<17}" + "".join(f"{name:>14}" for name in columns))
    for metric in results["ncjax"]["plain"]:
        for name, found in results.items():
            seen = [values if isinstance(values, dict) else {} for values in found.values()]
            if metric not in seen[0]:
                continue
            cells = (values.get(metric, "raises") for values in seen)
            print(f"{metric:<16}{name:<17}" + "".join(
                f"{'None' if v is None else v if isinstance(v, str) else f'{v:.6g}':>14}" for v in cells
            ))  # fmt: skip
    for name, found in results.items():
        for column, values in found.items():
            if isinstance(values, str):
                print(f"{name}, {column}: {values}")


if __name__ == "__main__":
    main()
