"""Evaluates all episodes in one compiled call."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from ncjax.checks import encode_labels
from ncjax.devices import data_mesh, replicated, sharded
from ncjax.errors import InputError
from ncjax.eval.episode_report import EpisodeReport, EpisodeSettings
from ncjax.eval.intervals import ImageSums, longer_side, mean_interval, same_classes_interval, target_interval
from ncjax.eval.sampling import (
    ClassTable,
    EpisodePlan,
    Queries,
    check_settings,
    class_table,
    draw_episode,
    episode_key,
    largest_class,
    normalize_settings,
    plan_hash,
)


class EpisodeSource(Protocol):
    """Features for episodes: a pytree, so that new contents do not compile again."""

    def prepare(self) -> "EpisodeSource":
        """Does the work that all episodes share."""

    def support(self, rows: Int[Array, "W S"], key: Key[Array, ""]) -> Float[Array, "W N d"]:
        """Returns the support's features; N is S or a multiple of it. `key` belongs to the episode."""

    def query(self, rows: Int[Array, "W Q"]) -> Float[Array, "W Q d"]:
        """Returns the queries' features; those of row -1 are not used."""


@dataclasses.dataclass(frozen=True)
class ProgramShape:
    """The static part of an evaluation; a change compiles again.

    Attributes:
        ways: Classes in an episode.
        shots: Support images of a class.
        queries: Query images of a class, or "all".
        largest: Images of the largest class with ``queries="all"``; else 0, since no shape depends on it.
        chunk: Episodes at a time.
        count_pairs: Whether devices count the confusion of all classes, k² int32 each; else the host counts it from
            each query's predicted way.
    """

    ways: int
    shots: int
    queries: Queries
    largest: int
    chunk: int
    count_pairs: bool


MAX_CLASSES_COUNTED_ON_DEVICES = 2048
"""Largest number of classes whose confusion, 16 MB a device, is counted on devices instead of the host."""


class EngineInputs(NamedTuple):
    """Inputs that every device holds whole.

    Attributes:
        source: The features.
        head: The head, whose hyperparameters are leaves.
        table: The rows of each class.
        draw_key: Key of the episodes; episode e is drawn with ``fold_in(draw_key, e)``.
        source_key: Key of the source's own random numbers, used in the same way.
        total: Number of episodes; episode numbers from `total` on are padding.
    """

    source: EpisodeSource
    head: Any
    table: ClassTable
    draw_key: Key[Array, ""]
    source_key: Key[Array, ""]
    total: Array | np.uint32


class _Episode(NamedTuple):
    """An evaluated episode.

    Attributes:
        classes: int32 [W].
        support: Rows of the support [W,S].
        query: Rows of the queries [W,Q], padded with -1.
        predicted: int32 [W,Q], the predicted way of each query.
        finite: Whether every query has a finite highest score.
        info: The head's diagnostics.
    """

    classes: Int[Array, " W"]
    support: Int[Array, "W S"]
    query: Int[Array, "W Q"]
    predicted: Int[Array, "W Q"]
    finite: Array
    info: Any


@partial(jax.jit, static_argnames=("shape", "mesh"))
def _evaluate(
    inputs: EngineInputs, work: tuple[Array, ...], *, shape: ProgramShape, mesh: Mesh
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Computes sums over all episodes, and results of each episode (leading axis: episodes, padded).

    `work` holds the episode numbers and, to replay a plan, their classes, support rows and query rows. Its leading axis
    is divided over the devices; each device evaluates its part chunk by chunk.
    """
    everywhere, divided = PartitionSpec(), PartitionSpec("data")
    sums, kept = jax.shard_map(
        partial(_evaluate_part, shape=shape),
        mesh=mesh,
        in_specs=(everywhere, divided),
        out_specs=(everywhere, divided),
        check_vma=False,
    )(inputs, work)
    # gathered, so that every host can read all results
    return sums, jax.lax.with_sharding_constraint(kept, replicated(mesh))


def _evaluate_part(
    inputs: EngineInputs, work: tuple[Array, ...], *, shape: ProgramShape
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Runs `_evaluate` on one device's part of the episodes; the sums are over all devices."""
    head, table = inputs.head, inputs.table
    source = inputs.source.prepare()
    rows, classes = len(table.order), len(table.size)

    def evaluate_episode(number: Array, *drawn: Array) -> _Episode:
        episode_classes, support, query = drawn or draw_episode(
            jax.random.fold_in(inputs.draw_key, number),
            table,
            ways=shape.ways,
            shots=shape.shots,
            queries=shape.queries,
            largest=shape.largest,
        )
        x = source.support(support, jax.random.fold_in(inputs.source_key, number))
        q = source.query(query)
        labels = np.repeat(np.arange(shape.ways, dtype=np.int32), x.shape[1])
        scored = head(x.reshape(-1, x.shape[-1]), labels, q.reshape(-1, q.shape[-1]), shape.ways)
        logits, info = _check_scores(scored, (query.size, shape.ways), head)
        predicted = jnp.argmax(logits, axis=-1).astype(jnp.int32).reshape(query.shape)
        # the maximum is NaN if any score is; a head may score some ways -inf
        finite = jnp.all(jnp.isfinite(jnp.max(logits, axis=-1)).reshape(query.shape) | (query < 0))
        return _Episode(episode_classes, support, query, predicted, finite, info)

    def evaluate_chunk(sums: dict[str, Array], work: tuple[Array, ...]) -> tuple[dict[str, Array], dict[str, Any]]:
        episode = jax.vmap(evaluate_episode)(*work)
        way = jnp.arange(shape.ways, dtype=jnp.int32)
        real = (work[0] < inputs.total)[:, None, None]
        present = episode.query >= 0
        correct = (episode.predicted == way[:, None]) & present
        accuracy = jnp.mean(
            jnp.sum(correct, axis=2, dtype=jnp.float32) / jnp.sum(present, axis=2, dtype=jnp.float32), axis=1
        )
        kept = {"accuracy": accuracy, "classes": episode.classes, "finite": episode.finite, "info": episode.info}
        # padded episodes and queries get a row number that `mode="drop"` ignores
        served = jnp.where(real, episode.support, rows)
        asked = jnp.where(real & present, episode.query, rows)
        if shape.count_pairs:
            predictions = (episode.predicted[..., None] == way) & (present & real)[..., None]
            pairs = jnp.sum(predictions, axis=2, dtype=jnp.int32)
            pairs = sums["confusion"].at[episode.classes[:, :, None], episode.classes[:, None, :]].add(pairs)
            counted = {"confusion": pairs}
        else:
            narrow = jnp.int8 if shape.ways <= 128 else jnp.int16 if shape.ways <= 2**15 else jnp.int32
            counted, kept = {}, kept | {"predicted": jnp.where(present, episode.predicted, -1).astype(narrow)}
        sums = counted | {
            "support_accuracy": sums["support_accuracy"].at[served].add(accuracy[:, None, None], mode="drop"),
            "support_count": sums["support_count"].at[served].add(1, mode="drop"),
            "query_correct": sums["query_correct"].at[asked].add(correct.astype(jnp.int32), mode="drop"),
            "query_count": sums["query_count"].at[asked].add(1, mode="drop"),
        }
        return sums, kept

    zero = {"confusion": jnp.zeros((classes, classes), jnp.int32)} if shape.count_pairs else {}
    zero |= {
        "support_accuracy": jnp.zeros(rows, jnp.float32),
        "support_count": jnp.zeros(rows, jnp.int32),
        "query_correct": jnp.zeros(rows, jnp.int32),
        "query_count": jnp.zeros(rows, jnp.int32),
    }
    chunks = jax.tree.map(lambda x: x.reshape(-1, shape.chunk, *x.shape[1:]), work)
    sums, kept = jax.lax.scan(evaluate_chunk, zero, chunks)
    return jax.lax.psum(sums, "data"), jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), kept)


def _check_scores(scored: Any, shape: tuple[int, int], head: Any) -> tuple[Array, Any]:
    """Returns what a head returned; raises InputError unless it is scores of shape [M,W] and diagnostics."""
    expected = f"(scores [{shape[0]},{shape[1]}], diagnostics)"
    head = getattr(head, "name", type(head).__name__)  # str(head) would need values of traced hyperparameters
    if not isinstance(scored, tuple) or len(scored) != 2:
        raise InputError(f"head {head} returned a {type(scored).__name__}; a head returns {expected}")
    if jnp.shape(scored[0]) != shape:
        raise InputError(f"head {head} returned scores of shape {jnp.shape(scored[0])}; a head returns {expected}")
    return scored


def _confusion(
    predicted: Int[np.ndarray, "E W Q"], classes: Int[np.ndarray, "E W"], num_classes: int
) -> Int[np.ndarray, "k k"]:
    """Counts queries of class i predicted as class j, from the predicted way of each; -1 where there is no query."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    for start in range(0, len(predicted), 4096):
        ways, rows = predicted[start : start + 4096], classes[start : start + 4096]
        episode, way, query = np.nonzero(ways >= 0)
        np.add.at(counts, (rows[episode, way], rows[episode, ways[episode, way, query]]), 1)
    return counts


@dataclasses.dataclass(frozen=True, eq=False)
class EpisodeRequest:
    """The episodes to evaluate: checked settings, and the table to draw them from or a plan to replay."""

    names: np.ndarray
    codes: np.ndarray
    table: ClassTable
    ways: int
    shots: int
    queries: Queries
    episodes: int
    seed: int
    plan: EpisodePlan | None = None

    @classmethod
    def of(
        cls,
        labels: Any,
        *,
        ways: int,
        shots: int,
        queries: Queries,
        episodes: int,
        seed: int,
        plan: EpisodePlan | None = None,
    ) -> "EpisodeRequest":
        """Checks the settings against the labels [n]; a plan brings its own settings.

        Raises:
            InputError: Classes are too few or too small, a setting is out of range, or the plan belongs to other labels
                or differs from what its seed draws.
        """
        names, codes, _ = encode_labels(labels)
        table = class_table(codes, len(names))
        if plan is not None:
            if not isinstance(plan, EpisodePlan):
                raise InputError(
                    f"plan is a {type(plan).__name__}; give an EpisodePlan, such as EpisodePlan.load returns"
                )
            if not np.array_equal(plan.labels, codes):
                raise InputError(
                    f"the plan was drawn from other labels ({len(plan.labels)} rows, here {len(codes)}): "
                    "replay it on the features it was made for, or sample a new plan"
                )
            plan.check_drawn()
            ways, shots, queries = plan.ways, plan.shots, plan.queries
            episodes, seed = plan.episodes, plan.seed
        ways, shots, queries, episodes, seed = normalize_settings(ways, shots, queries, episodes, seed)
        check_settings(names, table.size, ways=ways, shots=shots, queries=queries, episodes=episodes, seed=seed)
        return cls(names, codes, table, ways, shots, queries, episodes, seed, plan)

    def images_per_episode(self) -> int:
        """Returns the number of support and query images in an episode."""
        queries = int(self.table.size.max()) - self.shots if self.queries == "all" else self.queries
        return self.ways * (self.shots + queries)

    def evaluate(
        self,
        source: EpisodeSource,
        head: Any,
        *,
        chunk: int,
        transform: str,
        class_names: tuple[Any, ...] | None = None,
        support_augmentations: int = 0,
    ) -> EpisodeReport:
        """Runs `head` on every episode, `chunk` at a time on each device.

        Raises:
            InputError: The head does not return scores and diagnostics, or its scores are not finite.
        """
        mesh = data_mesh()
        devices = mesh.shape["data"]
        chunk = max(1, min(chunk, -(-self.episodes // devices)))
        padded = -(-self.episodes // (chunk * devices)) * chunk * devices
        work: tuple[np.ndarray, ...] = (np.arange(padded, dtype=np.uint32),)
        if self.plan is not None:
            repeat = np.minimum(work[0], self.episodes - 1)
            support, query = self.plan.support_index[repeat], self.plan.query_index[repeat]
            work = (*work, self.codes[support[:, :, 0]], support, query)
        head_arrays = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32) if isinstance(leaf, float) else leaf, head)
        inputs = EngineInputs(
            source,
            head_arrays,
            self.table,
            draw_key=episode_key(self.seed, "episodes"),
            source_key=episode_key(self.seed, "support augmentation"),
            total=np.uint32(self.episodes),
        )
        sums, kept = _evaluate(
            jax.device_put(inputs, replicated(mesh)),
            jax.device_put(work, sharded(mesh)),
            shape=ProgramShape(
                self.ways,
                self.shots,
                self.queries,
                largest=largest_class(self.table, self.queries),
                chunk=chunk,
                count_pairs=len(self.names) <= MAX_CLASSES_COUNTED_ON_DEVICES,
            ),
            mesh=mesh,
        )
        settings = EpisodeSettings(
            ways=self.ways,
            shots=self.shots,
            queries=self.queries,
            episodes=self.episodes,
            head=str(head),
            transform=transform,
            support_augmentations=support_augmentations,
            seed=self.seed,
        )
        kept = jax.tree.map(lambda leaf: np.asarray(leaf)[: self.episodes], kept)
        return self._report(jax.tree.map(np.asarray, sums), kept, settings, class_names)

    def _report(
        self,
        sums: dict[str, np.ndarray],
        kept: dict[str, Any],
        settings: EpisodeSettings,
        class_names: tuple[Any, ...] | None,
    ) -> EpisodeReport:
        """Computes accuracies and intervals from the results of `_evaluate`, on the host."""
        bad = int(np.sum(~kept["finite"]))
        if bad:
            raise InputError(
                f"head {settings.head} gave scores that are not finite in {bad} of {self.episodes} episodes: its "
                "hyperparameters are out of range, or features are too large for squares in float32 (divide them), or "
                "features that are extracted within episodes are not finite"
            )
        per_episode, classes = kept["accuracy"], kept["classes"]
        num_classes = len(self.names)
        if "confusion" in sums:
            confusion = sums.pop("confusion").astype(np.int64)
        else:
            confusion = _confusion(kept["predicted"], classes, num_classes)
        count = confusion.sum(axis=1)
        return EpisodeReport(
            accuracy=float(per_episode.mean(dtype=np.float64)),
            ci95=mean_interval(per_episode),
            same_classes_ci95=same_classes_interval(
                per_episode, classes, ImageSums(**sums), self.codes, num_classes, self.shots
            ),
            target_ci95=longer_side(target_interval(per_episode, classes, num_classes)),
            per_episode=per_episode,
            classes=classes,
            per_class=np.divide(confusion.diagonal(), count, out=np.full(num_classes, np.nan), where=count > 0),
            confusion=confusion,
            class_names=class_names if class_names is not None else tuple(self.names.tolist()),
            info=kept["info"],
            settings=settings,
            plan_hash=plan_hash(
                self.codes,
                ways=self.ways,
                shots=self.shots,
                queries=self.queries,
                episodes=self.episodes,
                seed=self.seed,
            ),
        )
