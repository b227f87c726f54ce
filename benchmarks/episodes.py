"""Episodes a second beside other libraries and plain loops, on the same features, in one run.

    python benchmarks/episodes.py                     # the table; peers where they are installed
    python benchmarks/episodes.py --devices=2         # on two CPU devices
    python benchmarks/episodes.py --growth            # how time and memory grow with episodes, ways, shots and d
    python benchmarks/episodes.py --bandwidth=3350    # share of an accelerator's GB/s that is reached

Features are 20 Gaussian classes x 600 x 256 float32; 5-way, 15 queries. A time is the best of several calls, with
sampling unless the row says otherwise; compile time is a column of its own. Peers that do not sample get the episodes
of one plan; ncjax and the other peers draw their own with the same settings.

A peer runs if it is installed. easyfsl 1.5.0 needs pandas, a torchvision that fits the installed torch, and a torch
whose samplers still take a data source (2.13 refuses it); if it cannot run, the table says why. EASY (Bendou et al.
2022, https://arxiv.org/abs/2201.09699) is a set of scripts without a package: the torch loop here follows its protocol,
nearest class means of episodes drawn one by one, in our own code.

Measured on two idle cores of an AMD EPYC with AVX-512, jax 0.10.2, NumPy without OPENBLAS_CORETYPE, scikit-learn 1.9.1,
torch 2.13.0, 2026-11-27; thousands of episodes a second, 5-way 5-shot: one device in two runs of the table, two
devices in five runs of 40,000 and 200,000 episodes, and the peers:

    ncc             64-71    61-80    NumPy loop 9.6, torch loop 6.1-6.3, batched torch without sampling 25
    ridge           26       36-45    scikit-learn 0.54, batched torch without sampling 17-18
    logistic, l2    20-23    30-37    scikit-learn 0.52
    logistic        13-14    22       scikit-learn 0.27
"""

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

WAYS, SHOTS, QUERIES, CLASSES, EACH, DIM = 5, 5, 15, 20, 600, 256


def make_features(dim: int = DIM, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), EACH)
    means = rng.standard_normal((CLASSES, dim)) * 3 / np.sqrt(dim)
    return (means[labels] + rng.standard_normal((len(labels), dim))).astype(np.float32), labels


def best(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def ours(features: np.ndarray, labels: np.ndarray, episodes: int, repeats: int = 5, **settings) -> tuple[float, float]:
    """Times the best call, and the extra time of the first call (compilation), in seconds."""
    from ncjax.eval import feature_episodes

    settings = {"ways": WAYS, "shots": SHOTS, "queries": QUERIES, "episodes": episodes} | settings
    first = best(lambda: feature_episodes(features, labels, seed=0, **settings), 1)
    seeds = iter(range(1, repeats + 1))
    steady = best(lambda: feature_episodes(features, labels, seed=next(seeds), **settings), repeats)
    return steady, first - steady


def numpy_ncc(features: np.ndarray, labels: np.ndarray, shots: int, episodes: int) -> None:
    """Evaluates in a plain NumPy loop: samples, averages and measures an episode at a time."""
    rng = np.random.default_rng(0)
    of_class = [np.flatnonzero(labels == c) for c in range(CLASSES)]
    target = np.repeat(np.arange(WAYS), QUERIES)
    accuracy = np.empty(episodes)
    for e in range(episodes):
        rows = np.stack(
            [rng.choice(of_class[c], shots + QUERIES, replace=False) for c in rng.choice(CLASSES, WAYS, replace=False)]
        )
        centre = features[rows[:, :shots]].mean(axis=1)
        query = features[rows[:, shots:]].reshape(-1, features.shape[1])
        distance = (query**2).sum(1)[:, None] - 2 * query @ centre.T + (centre**2).sum(1)
        accuracy[e] = (distance.argmin(axis=1) == target).mean()


def scikit_learn(make: Callable, features: np.ndarray, plan, episodes: int) -> None:
    target = np.repeat(np.arange(WAYS), plan.support_index.shape[2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for e in range(episodes):
            support = features[plan.support_index[e].ravel()]
            make().fit(support, target).predict(features[plan.query_index[e].ravel()])


def torch_batched(head: str, features: np.ndarray, plan, batch: int = 64) -> Callable[[], None]:
    """Evaluates the rows of a plan in batched torch, without sampling."""
    import torch

    x = torch.from_numpy(features)
    support = torch.tensor(plan.support_index).long().flatten(1)
    query = torch.tensor(plan.query_index).long().flatten(1)
    shots = plan.support_index.shape[2]
    onehot = 2 * torch.eye(WAYS).repeat_interleave(shots, 0) - 1
    target = torch.arange(WAYS).repeat_interleave(QUERIES)

    def run() -> None:
        with torch.no_grad():
            for s, q in zip(support.split(batch), query.split(batch), strict=True):
                xs, xq = x[s], x[q]
                if head == "ncc":
                    scores = -torch.cdist(xq, xs.view(len(s), WAYS, shots, -1).mean(2))
                else:
                    mean = xs.mean(1, keepdim=True)
                    xs = xs - mean
                    gram = xs @ xs.mT + torch.eye(xs.shape[1])
                    y = onehot - onehot.mean(0)
                    dual = torch.cholesky_solve(y.expand(len(s), -1, -1), torch.linalg.cholesky(gram))
                    scores = (xq - mean) @ (xs.mT @ dual) + onehot.mean(0)
                (scores.argmax(-1) == target).float().mean(1)

    return run


def torch_loop(features: np.ndarray, labels: np.ndarray, shots: int, episodes: int) -> None:
    """Evaluates nearest class means an episode at a time, drawn by a permutation of each class."""
    import torch

    x = torch.from_numpy(features)
    of_class = [torch.from_numpy(np.flatnonzero(labels == c)) for c in range(CLASSES)]
    target = torch.arange(WAYS)[:, None]
    for _ in range(episodes):
        drawn = [of_class[c] for c in torch.randperm(CLASSES)[:WAYS].tolist()]
        rows = torch.stack([own[torch.randperm(len(own))[: shots + QUERIES]] for own in drawn])
        centre = x[rows[:, :shots]].mean(1)
        distance = torch.cdist(x[rows[:, shots:]], centre)
        (distance.argmin(-1) == target).float().mean().item()


def easyfsl_evaluate(features: np.ndarray, labels: np.ndarray, shots: int, episodes: int) -> Callable[[], object]:
    """Evaluates easyfsl's prototypical networks on features, with its own evaluate() and sampling."""
    import torch
    from easyfsl.datasets import FeaturesDataset
    from easyfsl.methods import PrototypicalNetworks
    from easyfsl.samplers import TaskSampler
    from easyfsl.utils import evaluate
    from torch.utils.data import DataLoader

    names = [str(c) for c in range(CLASSES)]
    data_set = FeaturesDataset(labels.tolist(), torch.from_numpy(features), names)
    sampler = TaskSampler(data_set, n_way=WAYS, n_shot=shots, n_query=QUERIES, n_tasks=episodes)
    loader = DataLoader(data_set, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)
    return lambda: evaluate(PrototypicalNetworks(), loader, device="cpu", use_tqdm=False)


def counted(features: np.ndarray, labels: np.ndarray, batch: int = 64) -> tuple[float, float] | None:
    """Returns bytes and operations of an ncc episode by XLA's cost analysis, or None if XLA has none."""
    from ncjax.checks import encode_labels
    from ncjax.eval import heads, sampling

    names, codes, _ = encode_labels(labels)
    way = np.repeat(np.arange(WAYS, dtype=np.int32), SHOTS)

    def one(key, table, x):
        _, support, query = sampling.draw_episode(key, table, ways=WAYS, shots=SHOTS, queries=QUERIES, largest=EACH)
        return heads.ncc()(x[support.ravel()], way, x[query.ravel()], WAYS)[0]

    keys = jax.random.split(sampling.episode_key(0, "episodes"), batch)
    table = sampling.class_table(codes, len(names))
    compiled = jax.jit(jax.vmap(one, (0, None, None))).lower(keys, table, features).compile()
    cost = compiled.cost_analysis() or {}
    if "flops" not in cost or "bytes accessed" not in cost:
        return None
    return cost["bytes accessed"] / batch, cost["flops"] / batch


def row(name: str, rate: float, base: float | None, note: str = "") -> None:
    ratio = "" if base is None else f"ncjax is {base / rate:8.1f} x"
    print(f"  {name:<44} {rate:>10,.0f} episodes/s  {ratio}  {note}", flush=True)


def table(episodes: int, peers: bool, bandwidth: float | None) -> None:
    from ncjax.eval import EpisodePlan

    features, labels = make_features()
    gathered = 4 * DIM * WAYS * (SHOTS + QUERIES)
    for shots in (1, 5):
        plan = EpisodePlan.sample(labels, ways=WAYS, shots=shots, queries=QUERIES, episodes=2000)
        for head, transform in (("ncc", "none"), ("ridge", "none"), ("logistic", "l2"), ("logistic", "none")):
            steady, compiling = ours(features, labels, episodes, shots=shots, head=head, transform=transform)
            rate = episodes / steady
            print(f"{WAYS}-way {shots}-shot {head}, transform {transform}")
            row("ncjax", rate, None, f"compile {compiling:.1f} s")
            if shots == SHOTS and head == "ncc":
                print(f"    gathers {gathered / 1e3:.0f} kB an episode: {rate * gathered / 1e9:.1f} GB/s")
                found = counted(features, labels)
                if found is not None:
                    moved, operations = found
                    share = ""
                    if bandwidth is not None:
                        share = (
                            f"; {100 * rate * moved / bandwidth / 1e9:.1f} % of {bandwidth:g} GB/s, which allow "
                            f"{1e9 * bandwidth / moved:,.0f} episodes/s"
                        )
                    print(
                        f"    XLA counts {moved / 1e3:.0f} kB moved and {operations / 1e3:.0f} k operations an episode "
                        f"(intermediate arrays included): {rate * moved / 1e9:.1f} GB/s, "
                        f"{rate * operations / 1e9:.1f} GFLOP/s{share}"
                    )
            if not peers:
                continue
            x = features
            if transform == "l2":
                x = features / np.linalg.norm(features, axis=1, keepdims=True)
            if head == "ncc":
                row(
                    "NumPy loop, with sampling",
                    1000 / best(lambda s=shots: numpy_ncc(features, labels, s, 1000), 3),
                    rate,
                )
                if importlib.util.find_spec("torch"):
                    seconds = best(lambda s=shots: torch_loop(features, labels, s, 500), 3)
                    row("torch loop as in EASY, with sampling", 500 / seconds, rate)
                if importlib.util.find_spec("easyfsl"):
                    try:
                        seconds = best(easyfsl_evaluate(features, labels, shots, 500), 3)
                        row("easyfsl evaluate(), with sampling", 500 / seconds, rate)
                    except (ImportError, RuntimeError, TypeError) as error:  # it needs an older torch or torchvision
                        print(f"  easyfsl does not run here: {str(error).splitlines()[0]}")
            if importlib.util.find_spec("sklearn") and head != "ncc":
                from sklearn.linear_model import LogisticRegression, RidgeClassifier

                make = RidgeClassifier if head == "ridge" else lambda: LogisticRegression(max_iter=1000)
                seconds = best(lambda m=make, x=x, p=plan: scikit_learn(m, x, p, 200), 2)
                row("scikit-learn, each episode, without sampling", 200 / seconds, rate)
            if importlib.util.find_spec("torch") and head in ("ncc", "ridge"):
                run = torch_batched(head, features, plan)
                run()
                row("batched torch, without sampling", 2000 / best(run, 5), rate)


def growth(most_episodes: int) -> None:
    features, labels = make_features()

    def row(what: str, features: np.ndarray, episodes: int, **settings) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the peak to the memory in use
        steady, compiling = ours(features, labels, episodes, repeats=2, **settings)
        peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**20
        print(
            f"  {what:<20} {steady:8.3f} s, {1e6 * steady / episodes:9.1f} us each, compile {compiling:.1f} s, "
            f"peak memory {peak:.2f} GiB",
            flush=True,
        )

    print("5-way 5-shot ncc, d=256; memory of the whole process")
    episodes = 1000
    while episodes <= most_episodes:
        row(f"{episodes:,}", features, episodes)
        episodes *= 10
    print("1,024 episodes")
    for head in ("ncc", "ridge", "logistic"):
        for name, values in (("ways", (2, 5, 10, 20)), ("shots", (1, 5, 20, 50))):
            for value in values:
                row(f"{head} {name}={value}", features, 1024, head=head, **{name: value})
        for dim in (64, 256, 640, 2048):
            row(f"{head} d={dim}", make_features(dim)[0], 1024, head=head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1, help="CPU devices")
    parser.add_argument("--episodes", type=int, default=20_000)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--most-episodes", type=int, default=1_000_000)
    parser.add_argument("--bandwidth", type=float, help="GB/s")
    flags = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", flags.devices)
    print(f"{jax.device_count()} x {jax.devices()[0].device_kind}")
    if flags.growth:
        growth(flags.most_episodes)
    else:
        table(flags.episodes, not flags.no_peers, flags.bandwidth)


if __name__ == "__main__":
    main()
