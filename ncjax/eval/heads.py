"""Few-shot heads: pure functions that score an episode's queries from its labelled support.

A head is called as ``head(support [N,d], labels [N], query [M,d], ways) -> (logits [M,W], info)`` with labels in
0..W-1, and can be vmapped and jitted. `info` is a pytree of diagnostics, which may be empty. Any pytree with that
signature is a head; `Head` wraps a function as a head.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Real

from ncjax.errors import InputError
from ncjax.eval.logistic_regression import Info, fit_logistic
from ncjax.eval.ridge_regression import Linear, fit_ridge, product
from ncjax.eval.transforms import unit_norm

__all__ = [
    "HEADS",
    "Centres",
    "Directions",
    "Head",
    "Linear",
    "class_means",
    "cosine",
    "fit",
    "fit_logistic",
    "fit_ridge",
    "get",
    "logistic",
    "ncc",
    "ridge",
]


@partial(jax.tree_util.register_dataclass, meta_fields=("name", "solve"), data_fields=("hyperparameters",))
@dataclasses.dataclass(frozen=True)
class Head:
    """A named head: ``solve(support, labels, query, ways, **hyperparameters) -> (logits, info)``.

    A pytree whose leaves are the hyperparameters, so that other values do not compile again.
    """

    name: str
    solve: Callable[..., tuple[Array, Any]]
    hyperparameters: Mapping[str, float | Array] = dataclasses.field(default_factory=dict)

    def __call__(
        self,
        support: Real[Array | np.ndarray, "N d"],
        labels: Integer[Array | np.ndarray, " N"],
        query: Real[Array | np.ndarray, "M d"],
        ways: int,
    ) -> tuple[Array, Any]:
        """Computes scores [M,W] of the queries, and diagnostics, in float32 for features of any type.

        What a user's `solve` returns is not checked here, but by the engine.
        """
        support, query = jnp.asarray(support, jnp.float32), jnp.asarray(query, jnp.float32)
        return self.solve(support, labels, query, ways, **self.hyperparameters)

    def __str__(self) -> str:
        values = ", ".join(f"{name}={_format(value)}" for name, value in self.hyperparameters.items())
        return f"{self.name}({values})" if values else self.name


@dataclasses.dataclass(frozen=True)
class _Fitting:
    """A `Head.solve` that first fits: ``fit(support, labels, ways, **hyperparameters) -> (scorer, info)``."""

    fit: Callable[..., tuple[Any, Any]]

    def __call__(
        self, support: Array, labels: Array, query: Array, ways: int, **hyperparameters: Any
    ) -> tuple[Array, Any]:
        scorer, info = self.fit(support, labels, ways, **hyperparameters)
        return scorer(query), info


@partial(jax.tree_util.register_dataclass, data_fields=("head", "support", "labels"), meta_fields=("ways",))
@dataclasses.dataclass(frozen=True)
class Unfitted:
    """The scorer of a head without a separate fit, which reads the support again for every batch of queries."""

    head: Callable[..., Any]
    support: Array
    labels: Array
    ways: int

    def __call__(self, features: Float[Array | np.ndarray, "M d"]) -> Array:
        """Computes the head's scores of `features`."""
        logits: Array = self.head(self.support, self.labels, features, self.ways)[0]
        return logits


def fit(
    head: Callable[..., Any],
    support: Real[Array | np.ndarray, "N d"],
    labels: Integer[Array | np.ndarray, " N"],
    ways: int,
) -> tuple[Any, Any]:
    """Fits a head to one support, once for any number of queries.

    Returns:
        A scorer, a pytree that is called as ``scorer(query [M,d]) -> logits [M,W]``, and diagnostics. The scorer is
        `Centres`, `Directions` or `Linear` for ncjax's heads; for other heads it calls the head again.
    """
    if isinstance(head, Head) and isinstance(head.solve, _Fitting):
        return head.solve.fit(jnp.asarray(support, jnp.float32), labels, ways, **head.hyperparameters)
    return Unfitted(head, jnp.asarray(support), jnp.asarray(labels), ways), {}


def _format(value: Any) -> str:
    return f"{float(value):g}" if np.ndim(value) == 0 else f"array{list(np.shape(value))}"


def _positive(name: str, value: Any) -> Any:
    """Returns a positive number or array of such; raises InputError for others. Tracers are not checked."""
    if isinstance(value, jax.core.Tracer):
        return value
    given = np.asarray(value)
    if given.dtype.kind in "iuf":
        with np.errstate(over="ignore"):  # overflow gives infinity, an error below
            array = given.astype(np.float32)
        if (np.isfinite(array) & (array > 0)).all():
            return value
    raise InputError(f"{name}={value!r}: give a positive number that float32 can hold")


def ncc() -> Head:
    """Nearest class centre: squared Euclidean distance to the class means of the support.

    logits = -‖q - μ_w‖² (the prototypical network's; Snell, Swersky, Zemel 2017).
    """
    return Head("ncc", _SOLVE["ncc"])


def cosine() -> Head:
    """Nearest class centre by cosine: logits = cos(q, μ_w), in -1..1; 0 if either vector is zero."""
    return Head("cosine", _SOLVE["cosine"])


def ridge(alpha: float | Array = 1.0) -> Head:
    """Ridge regression on one-hot targets in ±1, the intercept not penalised; see `fit_ridge`.

    Raises:
        InputError: `alpha` is not positive.
    """
    return Head("ridge", _SOLVE["ridge"], {"alpha": _positive("alpha", alpha)})


def logistic(C: float | Array = 1.0) -> Head:
    """Multinomial logistic regression with an L2 penalty, the intercept not penalised; see `fit_logistic`.

    Raises:
        InputError: `C` is not positive.
    """
    return Head("logistic", _SOLVE["logistic"], {"C": _positive("C", C)})


HEADS: Mapping[str, Callable[[], Head]] = {"ncc": ncc, "cosine": cosine, "ridge": ridge, "logistic": logistic}


def get(head: str | Callable[..., Any]) -> Callable[..., Any]:
    """Returns the head of that name with default hyperparameters, or the given head.

    Wraps a function with the signature of a head in a `Head`.

    Raises:
        InputError: No head has that name.
    """
    if isinstance(head, str):
        if head not in HEADS:
            raise InputError(f"unknown head {head!r}; the heads are {', '.join(HEADS)}")
        return HEADS[head]()
    if not callable(head):
        raise InputError(f"head is a {type(head).__name__}; give a name ({', '.join(HEADS)}) or a callable pytree")
    if any(head is make for make in HEADS.values()):  # ncjax.eval.heads.ridge instead of ncjax.eval.heads.ridge()
        return head()
    if jax.tree_util.all_leaves([head]):  # a plain function, which cannot itself be an argument of jit
        return Head(getattr(head, "__name__", "head"), head)
    return head


def class_means(
    features: Float[Array, "N d"], labels: Integer[Array | np.ndarray, " N"], ways: int
) -> Float[Array, "W d"]:
    """Computes the mean of each class; 0 for a class without rows."""
    rows, width = features.shape
    in_order = np.repeat(np.arange(ways), rows // ways)
    # The engine's labels are known while tracing and in order, which allows a plain mean: faster.
    if isinstance(labels, np.ndarray) and np.array_equal(labels, in_order):
        return features.reshape(ways, rows // ways, width).mean(axis=1)
    member = jax.nn.one_hot(labels, ways, axis=0, dtype=features.dtype)
    count = jnp.maximum(member.sum(axis=1, keepdims=True), 1.0)
    return product(member / count, features)


class Centres(NamedTuple):
    """Scores by distance to the class means."""

    means: Float[Array, "W d"]

    def __call__(self, features: Float[Array | np.ndarray, "M d"]) -> Float[Array, "M W"]:
        """Computes minus the squared distances of `features`."""
        # Differences, since ‖q‖² + ‖μ‖² - 2q·μ loses all digits when the classes have collapsed.
        if len(self.means) > _MOST_DIFFERENCES:
            return -_distances_by_products(jnp.asarray(features), self.means)
        difference = features[:, None, :] - self.means
        return -jnp.sum(difference * difference, axis=-1)


_MOST_DIFFERENCES = 16
"""Ways up to which differences of all queries and means are as fast as matrix products."""


def _distances_by_products(features: Float[Array, "M d"], means: Float[Array, "W d"]) -> Float[Array, "M W"]:
    """Computes ‖q - μ_w‖² as ‖r‖² - 2 r·(μ_w - μ_a) + ‖μ_w - μ_a‖², r = q - μ_a, with μ_a about the nearest mean.

    Every term is small where the distances are, so that nothing cancels when the classes have collapsed. That μ_a is
    the nearest mean up to rounding is enough, since r is then as small.
    """
    centre = jnp.mean(means, axis=0)
    centred = means - centre
    norms = jnp.sum(centred * centred, axis=1)
    nearest = jnp.argmin(norms - 2.0 * product(features - centre, centred.T), axis=1)
    residual = features - means[nearest]
    between = jnp.sum(jnp.square(means[:, None, :] - means), axis=-1)
    along = product(residual, centred.T)
    along -= jnp.take_along_axis(along, nearest[:, None], axis=1)
    return jnp.sum(residual * residual, axis=1, keepdims=True) - 2.0 * along + between[nearest]


class Directions(NamedTuple):
    """Scores by the cosine with the class means; `means` have unit norm, or are 0."""

    means: Float[Array, "W d"]

    def __call__(self, features: Float[Array | np.ndarray, "M d"]) -> Float[Array, "M W"]:
        """Computes the cosines of `features`."""
        # 1 - ½‖q/‖q‖ - μ/‖μ‖‖² is the cosine, and keeps its digits if all directions are nearly equal.
        query = unit_norm(features)
        difference = query[:, None, :] - self.means
        directed = jnp.any(query != 0, axis=-1)[:, None] & jnp.any(self.means != 0, axis=-1)
        return jnp.where(directed, 1.0 - 0.5 * jnp.sum(difference * difference, axis=-1), 0.0)


def _fit_ncc(support: Array, labels: Array, ways: int) -> tuple[Centres, Info]:
    return Centres(class_means(support, labels, ways)), {}


def _fit_cosine(support: Array, labels: Array, ways: int) -> tuple[Directions, Info]:
    return Directions(unit_norm(class_means(support, labels, ways))), {}


def _fit_ridge(support: Array, labels: Array, ways: int, *, alpha: Array) -> tuple[Linear, Info]:
    fitted = fit_ridge(support, labels, ways, alpha)
    # Only differences of scores matter here, and an offset common to all ways would absorb those of small features.
    # The mean target is 2 count / N - 1; differences of counts are exact.
    counts = jnp.sum(jax.nn.one_hot(labels, ways, dtype=fitted.offset.dtype), axis=0)
    return fitted._replace(offset=2.0 * (counts - counts[0]) / len(labels)), {}


# One object for each head, since it is part of the key of compiled programs.
_SOLVE = {
    "ncc": _Fitting(_fit_ncc),
    "cosine": _Fitting(_fit_cosine),
    "ridge": _Fitting(_fit_ridge),
    "logistic": _Fitting(fit_logistic),
}
