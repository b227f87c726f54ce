"""Few-shot heads: from a labelled support set to scores of the queries, each a pure function of one episode.

A head is called as ``head(support [N,d], labels [N], query [M,d], ways) -> (logits [M,W], info)`` with labels in
0..W-1, and can be vmapped and jitted. `info` is a pytree of diagnostics, empty where there is nothing to tell.
Any pytree with that signature is a head; `Head` makes one of a function.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ncjax.errors import InputError
from ncjax.eval.linear import Linear, fit_ridge, product
from ncjax.eval.logistic_regression import Info, fit_logistic
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

    A pytree whose leaves are the hyperparameters, so that another value of one does not compile again.
    """

    name: str
    solve: Callable[..., tuple[Array, Any]]
    hyperparameters: Mapping[str, float | Array] = dataclasses.field(default_factory=dict)

    def __call__(
        self, support: Float[Array, "N d"], labels: Int[Array, "N"], query: Float[Array, "M d"], ways: int
    ) -> tuple[Float[Array, "M W"], Any]:
        """Scores [M,W] of the queries, and diagnostics; computed in float32 whatever the features' type."""
        support, query = jnp.asarray(support, jnp.float32), jnp.asarray(query, jnp.float32)
        return self.solve(support, labels, query, ways, **self.hyperparameters)

    def __str__(self) -> str:
        values = ", ".join(f"{name}={_shown(value)}" for name, value in self.hyperparameters.items())
        return f"{self.name}({values})" if values else self.name


@dataclasses.dataclass(frozen=True)
class _Fitting:
    """A `Head.solve` in two parts: ``fit(support, labels, ways, **hyperparameters) -> (scorer, info)``, then scores."""

    fit: Callable[..., tuple[Any, Any]]

    def __call__(
        self, support: Array, labels: Array, query: Array, ways: int, **hyperparameters: Any
    ) -> tuple[Array, Any]:
        scorer, info = self.fit(support, labels, ways, **hyperparameters)
        return scorer(query), info


@partial(jax.tree_util.register_dataclass, data_fields=("head", "support", "labels"), meta_fields=("ways",))
@dataclasses.dataclass(frozen=True)
class Unfitted:
    """The scorer of a head that is one function: it sees the support again with every batch of queries."""

    head: Callable[..., Any]
    support: Array
    labels: Array
    ways: int

    def __call__(self, features: Float[Array, "M d"]) -> Float[Array, "M W"]:
        """The head's scores of `features`."""
        logits: Array = self.head(self.support, self.labels, features, self.ways)[0]
        return logits


def fit(
    head: Callable[..., Any], support: Float[Array, "N d"], labels: Int[Array | np.ndarray, "N"], ways: int
) -> tuple[Any, Any]:
    """Fits a head to one support, once for any number of queries.

    Returns:
        A scorer, a pytree called as ``scorer(query [M,d]) -> logits [M,W]`` (for ncjax's own heads `Centres`,
        `Directions` or `Linear`; for others it calls the head again), and diagnostics.
    """
    if isinstance(head, Head) and isinstance(head.solve, _Fitting):
        return head.solve.fit(jnp.asarray(support, jnp.float32), labels, ways, **head.hyperparameters)
    return Unfitted(head, jnp.asarray(support), jnp.asarray(labels), ways), {}


def _shown(value: Any) -> str:
    return f"{float(value):g}" if np.ndim(value) == 0 else f"array{list(np.shape(value))}"


def _positive(name: str, value: Any) -> Any:
    """`value`, if it is a positive number, or an array of them; what is being traced is not looked at."""
    if isinstance(value, jax.core.Tracer):
        return value
    given = np.asarray(value)
    if given.dtype.kind in "iuf":
        with np.errstate(over="ignore"):  # what overflows is told below
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
    """Nearest class centre by cosine: logits = cos(q, μ_w), in -1..1, and 0 where either has no direction."""
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
    """The head of that name with its default hyperparameters; a head is returned as it is.

    A bare function with the signature of a head becomes a `Head`.

    Raises:
        InputError: No head has that name.
    """
    if isinstance(head, str):
        if head not in HEADS:
            raise InputError(f"unknown head {head!r}; the heads are {', '.join(HEADS)}")
        return HEADS[head]()
    if not callable(head):
        raise InputError(f"head is a {type(head).__name__}; give a name ({', '.join(HEADS)}) or a callable pytree")
    if any(head is make for make in HEADS.values()):  # ncjax.eval.heads.ridge in the place of …ridge()
        return head()
    if jax.tree_util.all_leaves([head]):  # a plain function, which cannot itself be an argument of jit
        return Head(getattr(head, "__name__", "head"), head)
    return head


def class_means(features: Float[Array, "N d"], labels: Int[Array | np.ndarray, "N"], ways: int) -> Float[Array, "W d"]:
    """The mean of each class; of a class without rows, 0."""
    rows, width = features.shape
    in_order = np.repeat(np.arange(ways), rows // ways)
    # Labels that are known while tracing, and in the engine's order: a plain mean, which is faster.
    if isinstance(labels, np.ndarray) and np.array_equal(labels, in_order):
        return features.reshape(ways, rows // ways, width).mean(axis=1)
    member = jax.nn.one_hot(labels, ways, axis=0, dtype=features.dtype)
    count = jnp.maximum(member.sum(axis=1, keepdims=True), 1.0)
    return product(member / count, features)


class Centres(NamedTuple):
    """Scores by distance to the means of the classes."""

    means: Float[Array, "W d"]

    def __call__(self, features: Float[Array, "M d"]) -> Float[Array, "M W"]:
        """Minus the squared distances of `features`."""
        # Differences, not ‖q‖² + ‖μ‖² - 2q·μ, which loses everything when the classes have collapsed.
        difference = features[:, None, :] - self.means
        return -jnp.sum(difference * difference, axis=-1)


class Directions(NamedTuple):
    """Scores by the cosine with the means of the classes; `means` are of unit norm, or 0."""

    means: Float[Array, "W d"]

    def __call__(self, features: Float[Array, "M d"]) -> Float[Array, "M W"]:
        """The cosines of `features`."""
        # 1 - ½‖q/‖q‖ - μ/‖μ‖‖² is the cosine, and keeps its digits where all directions are nearly one.
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
    # Only differences of scores count here, and an offset that all ways share would swallow those of small features.
    # The mean target is 2 count / N - 1; differences of counts are exact.
    counts = jnp.sum(jax.nn.one_hot(labels, ways, dtype=fitted.offset.dtype), axis=0)
    return fitted._replace(offset=2.0 * (counts - counts[0]) / len(labels)), {}


# One object a head: compiled programs are looked up by it.
_SOLVE = {
    "ncc": _Fitting(_fit_ncc),
    "cosine": _Fitting(_fit_cosine),
    "ridge": _Fitting(_fit_ridge),
    "logistic": _Fitting(fit_logistic),
}
