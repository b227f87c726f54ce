"""Hyperparameters of heads, chosen on validation classes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ncjax.errors import InputError
from ncjax.eval import heads
from ncjax.eval.arrays import feature_episodes

GRID = {
    "alpha": (1e3, 1e2, 1e1, 1.0, 1e-1, 1e-2, 1e-3),
    "C": (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3),
}
"""The values tried by default, from the strongest penalty to the weakest."""


def feature_tune(
    features: Any,
    labels: Any,
    *,
    head: str | heads.Head = "ridge",
    values: Sequence[float] | None = None,
    episodes: int = 2000,
    **settings: Any,
) -> heads.Head:
    """The head with that value of its hyperparameter that is most accurate on these episodes.

    Every value sees the same episodes, and nothing compiles again between them. Give features of validation
    classes: a value chosen on the target classes would flatter the accuracy there.

    Args:
        features: [n,d], of validation classes.
        labels: [n].
        head: "ridge" or "logistic", or a `Head` with one hyperparameter.
        values: To try, the most regular first: of equal ones the first is chosen. By default powers of ten from
            1e-3 to 1e3.
        episodes: How many for each value.
        **settings: As of `ncjax.eval.feature_episodes`.

    Returns:
        The head; ``str(head)`` says the value chosen.

    Raises:
        InputError: The head has no hyperparameter, or several; otherwise as `feature_episodes`.
    """
    base = tunable(head)
    (name,) = base.hyperparameters
    if values is None:
        if name not in GRID:
            raise InputError(f"give values= to try for {name} of head {base}")
        values = GRID[name]
    values = tuple(values)
    if not values:
        raise InputError(f"values is empty; give values to try for {name}")
    tried = [_with(base, name, float(value)) for value in values]
    accuracy = [feature_episodes(features, labels, head=one, episodes=episodes, **settings).accuracy for one in tried]
    return tried[accuracy.index(max(accuracy))]


def tunable(head: str | heads.Head) -> heads.Head:
    """The head, if it has one hyperparameter.

    Raises:
        InputError: It has none, or several; or no head has that name.
    """
    base = heads.get(head)
    if not isinstance(base, heads.Head) or len(base.hyperparameters) != 1:
        raise InputError(f"head {base}: only a head with one hyperparameter can be tuned, as ridge and logistic")
    return base


def _with(head: heads.Head, name: str, value: float) -> heads.Head:
    """The head with that value; one of ncjax's own, as which the user's may be named, is made anew and checks it."""
    make = heads.HEADS.get(head.name)
    if make is not None and make().solve is head.solve:
        return make(**{name: value})
    return dataclasses.replace(head, hyperparameters={name: value})
