"""Draws the images of episodes: a pure function of labels, settings, seed and episode number."""

import dataclasses
import hashlib
import os
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, UInt32

from ncjax import keys
from ncjax.checks import encode_labels, whole_number
from ncjax.errors import UNREADABLE_NPZ, InputError
from ncjax.files import expand

SAMPLER_VERSION = 1
"""Part of every plan's hash; increased by every change that makes a seed draw other episodes."""

Queries = int | Literal["all"]


class ClassTable(NamedTuple):
    """The rows of each class: class c has ``order[start[c] : start[c] + size[c]]``."""

    order: Int[Array | np.ndarray, " n"]
    start: Int[Array | np.ndarray, " k"]
    size: Int[Array | np.ndarray, " k"]


def class_table(codes: np.ndarray, num_classes: int) -> ClassTable:
    """Makes the table of labels 0..k-1 [n], on the host."""
    size = np.bincount(codes, minlength=num_classes).astype(np.int32)
    start = (np.cumsum(size) - size).astype(np.int32)
    return ClassTable(np.argsort(codes, kind="stable").astype(np.int32), start, size)


def largest_class(table: ClassTable, queries: Queries) -> int:
    """Returns the size of the largest class with ``queries="all"``, where shapes depend on it; else 0."""
    return int(np.max(table.size)) if queries == "all" else 0


def check_settings(
    names: np.ndarray, size: np.ndarray | Array, *, ways: int, shots: int, queries: Queries, episodes: int, seed: int
) -> None:
    """Raises InputError if classes of `size` images cannot give these episodes.

    The settings must come from `normalize_settings`.
    """
    if ways < 2:
        raise InputError(f"ways={ways}: an episode needs at least 2 classes")
    if shots < 1:
        raise InputError(f"shots={shots}: an episode needs at least 1 support image a class")
    if episodes < 1:
        raise InputError(f"episodes={episodes}: give at least 1")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed={seed}: give a whole number from 0 to 2**32 - 1")
    if ways > len(size):
        raise InputError(f"ways={ways}, but there are only {len(size)} classes; ask for fewer ways")
    need = shots + (1 if queries == "all" else queries)
    if size.min() < need:
        c = int(size.argmin())
        short = int((size < need).sum())
        raise InputError(
            f"class {names[c]} has {size[c]} images, an episode needs {need} of a class "
            f"({shots} shots + {need - shots} queries); {short} of {len(size)} classes have too few: "
            "ask for fewer shots or queries, or leave these classes out"
        )
    if episodes * (int(size.max()) if queries == "all" else queries) >= 2**31:
        raise InputError(f"episodes={episodes}: a class's count of queries would overflow 32 bits; ask for fewer")


def normalize_settings(
    ways: Any, shots: Any, queries: Any, episodes: Any, seed: Any
) -> tuple[int, int, Queries, int, int]:
    """Returns the settings as ints, in this order.

    Raises:
        InputError: A setting is not a whole number, or `queries` is below 1.
    """
    named = {"ways": ways, "shots": shots, "episodes": episodes, "seed": seed}
    ways, shots, episodes, seed = (whole_number(name, value) for name, value in named.items())
    return ways, shots, normalize_queries(queries), episodes, seed


def normalize_queries(queries: Any) -> Queries:
    """Returns "all", or the number as an int.

    Raises:
        InputError: It is neither, or is below 1.
    """
    if isinstance(queries, str) and queries == "all":
        return "all"
    number = 0 if isinstance(queries, str) else whole_number("queries", queries)
    if number < 1:
        raise InputError(
            f'queries={queries!r}: give a number of at least 1, or "all" for every image outside the support'
        )
    return number


def episode_key(seed: int, stream: str) -> Key[Array, ""]:
    """Returns the key of a named stream of random numbers; episode e uses ``fold_in(key, e)``."""
    return keys.named(seed, stream)


def _draw(bits: UInt32[Array, "... t"], size: Int[Array, "..."]) -> Int[Array, "... t"]:
    """Draws the first t elements of a uniformly random order of 0..size-1, an order for each leading index.

    Decodes a random Lehmer code: r_i, uniform on 0..size-1-i, selects the r_i-th element that is not taken yet, which
    is r_i plus the number of taken elements at or before it. The cost depends on t, not on `size`. The remainder of 32
    random bits favours no element by more than size / 2**32.
    """
    steps = bits.shape[-1]
    slot = jnp.arange(steps, dtype=jnp.int32)
    # check_settings rules out t > size; the divisor stays positive even then
    left = jnp.maximum(size[..., None] - slot, 1).astype(jnp.uint32)
    code = (bits % left).astype(jnp.int32)

    def step(back: Array, drawn: Array) -> Array:
        i = steps - 2 - back
        taken = jax.lax.dynamic_slice_in_dim(code, i, 1, axis=-1)
        return drawn + ((slot > i) & (drawn >= taken)).astype(jnp.int32)

    return jax.lax.fori_loop(0, steps - 1, step, code, unroll=max(1, min(steps - 1, 16)))


def draw_episode(
    key: Key[Array, ""], table: ClassTable, *, ways: int, shots: int, queries: Queries, largest: int
) -> tuple[Int[Array, " W"], Int[Array, "W S"], Int[Array, "W Q"]]:
    """Draws the classes of one episode, and the rows of its support and query images.

    Draws classes, and images within each class, without replacement. Draws queries first, so that more shots add
    support images to the same classes and queries. With ``queries="all"``, Q is `largest`, the size of the largest
    class, minus `shots`, padded with -1 at the end.
    """
    drawn = shots + (0 if queries == "all" else queries)
    bits = jax.random.bits(key, (1 + drawn, ways), jnp.uint32)
    classes = _draw(bits[0], jnp.asarray(table.size.shape[0], jnp.int32))
    start, size = table.start[classes][:, None], table.size[classes]
    rank = _draw(bits[1:].T, size)
    if queries != "all":
        rows = table.order[start + rank]
        return classes, rows[:, queries:], rows[:, :queries]
    # Element p outside the support: p plus the number of support ranks at or before it.
    before = jnp.sort(rank, axis=-1) - jnp.arange(shots, dtype=jnp.int32)
    left = jnp.arange(largest - shots, dtype=jnp.int32)
    left = left + jnp.sum(before[:, None, :] <= left[:, None], axis=-1, dtype=jnp.int32)
    inside = left < size[:, None]
    query = jnp.where(inside, table.order[start + jnp.where(inside, left, 0)], -1)
    return classes, table.order[start + rank], query


def plan_hash(codes: np.ndarray, *, ways: int, shots: int, queries: Queries, episodes: int, seed: int) -> str:
    """Identifies episodes without drawing them: SHA-256 of the sampler's version, the settings and the labels."""
    text = f"{SAMPLER_VERSION}/{ways}/{shots}/{queries}/{episodes}/{seed}/{len(codes)}/"
    return hashlib.sha256(text.encode() + np.ascontiguousarray(codes, "<i4").tobytes()).hexdigest()[:16]


@partial(jax.jit, static_argnames=("ways", "shots", "queries", "largest"))
def _draw_many(key: Array, numbers: Array, table: ClassTable, **static: int) -> tuple[Array, Array]:
    def draw(number: Array) -> tuple[Array, Array]:
        return draw_episode(jax.random.fold_in(key, number), table, **static)[1:]

    return jax.lax.map(draw, numbers, batch_size=256)


@dataclasses.dataclass(frozen=True, eq=False)
class EpisodePlan:
    """The images of every episode, as rows of the features, for replay and for other programs.

    The engine draws the same episodes by itself; a plan is needed only to see or store them.

    Attributes:
        support_index: int32 [E,W,S]; each way of an episode is a class.
        query_index: int32 [E,W,Q]; padded with -1 at the end if ``queries="all"``.
        labels: int32 [n], the labels that the plan was drawn from, as 0..k-1.
        seed: The seed of the plan.
        queries: Queries of each class, or "all".
    """

    support_index: np.ndarray
    query_index: np.ndarray
    labels: np.ndarray
    seed: int
    queries: Queries

    @classmethod
    def sample(
        cls,
        labels: np.ndarray,
        *,
        ways: int = 5,
        shots: int = 5,
        queries: Queries = 15,
        episodes: int = 10_000,
        seed: int = 0,
    ) -> "EpisodePlan":
        """Draws exactly the episodes that `episodes` and `feature_episodes` evaluate with these settings.

        Raises:
            InputError: Classes are too few or too small, or a setting is out of range.

        Examples:
            >>> plan = EpisodePlan.sample(np.repeat(np.arange(6), 20), ways=5, shots=2, queries=15, episodes=100)
            >>> plan.support_index.shape, plan.query_index.shape
            ((100, 5, 2), (100, 5, 15))
        """
        names, codes, _ = encode_labels(labels)
        table = class_table(codes, len(names))
        ways, shots, queries, episodes, seed = normalize_settings(ways, shots, queries, episodes, seed)
        check_settings(names, table.size, ways=ways, shots=shots, queries=queries, episodes=episodes, seed=seed)
        support, query = _draw_many(
            episode_key(seed, "episodes"),
            np.arange(episodes, dtype=np.uint32),
            table,
            ways=ways,
            shots=shots,
            queries=queries,
            largest=largest_class(table, queries),
        )
        return cls(np.asarray(support), np.asarray(query), codes, seed, queries)

    @property
    def episodes(self) -> int:
        """The number of episodes E."""
        return self.support_index.shape[0]

    @property
    def ways(self) -> int:
        """Classes in an episode, W."""
        return self.support_index.shape[1]

    @property
    def shots(self) -> int:
        """Support images of a class, S."""
        return self.support_index.shape[2]

    @property
    def hash(self) -> str:
        """The `plan_hash` of an `EpisodeReport` on these episodes."""
        return plan_hash(
            self.labels,
            ways=self.ways,
            shots=self.shots,
            queries=self.queries,
            episodes=self.episodes,
            seed=self.seed,
        )

    def check_drawn(self) -> None:
        """Raises InputError unless the plan holds the rows that its seed draws, as its hash implies."""
        drawn = EpisodePlan.sample(
            self.labels, ways=self.ways, shots=self.shots, queries=self.queries, episodes=self.episodes, seed=self.seed
        )
        for mine, theirs in ((self.support_index, drawn.support_index), (self.query_index, drawn.query_index)):
            if not np.array_equal(mine, theirs):
                raise InputError(
                    f"the plan's rows are not those that seed={self.seed} draws, so that its hash would name other "
                    "episodes: sample a new plan, and do not change it"
                )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan to `path` as a compressed .npz file."""
        with open(expand(path), "wb") as file:
            np.savez_compressed(
                file,
                support_index=self.support_index,
                query_index=self.query_index,
                labels=self.labels,
                seed=np.uint32(self.seed),
                queries=-1 if self.queries == "all" else self.queries,
                sampler_version=SAMPLER_VERSION,
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "EpisodePlan":
        """Reads a plan that `save` wrote.

        Raises:
            InputError: The file is not a plan, or another version of the sampler drew it.
        """
        try:
            # opened here, since np.load does not close files that it cannot read
            with open(expand(path), "rb") as opened, np.load(opened) as file:
                version = int(file["sampler_version"])
                queries = int(file["queries"])
                plan = cls(
                    file["support_index"],
                    file["query_index"],
                    file["labels"],
                    int(file["seed"]),
                    "all" if queries < 0 else queries,
                )
        except FileNotFoundError:
            raise InputError(f"there is no file {os.fspath(path)}; give one that EpisodePlan.save wrote") from None
        except (KeyError, *UNREADABLE_NPZ) as error:
            raise InputError(f"{os.fspath(path)} is not a plan that EpisodePlan.save wrote ({error})") from error
        if not (plan.support_index.ndim == plan.query_index.ndim == 3 and plan.labels.ndim == 1):
            raise InputError(f"{os.fspath(path)} is not a plan that EpisodePlan.save wrote (arrays of other shapes)")
        if version != SAMPLER_VERSION:
            raise InputError(
                f"{os.fspath(path)} was drawn by sampler version {version}, this is version {SAMPLER_VERSION}: "
                "evaluate it with the ncjax that wrote it, or sample a new plan"
            )
        return plan
