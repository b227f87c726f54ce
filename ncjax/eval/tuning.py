"""Chooses hyperparameters of heads on validation classes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ncjax.devices import on_data_mesh
from ncjax.errors import InputError
from ncjax.eval import heads
from ncjax.eval.array_episodes import feature_episodes

GRID = {
    "alpha": (1e3, 1e2, 1e1, 1.0, 1e-1, 1e-2, 1e-3),
    "C": (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3),
}
"""The default candidates, from the strongest penalty to the weakest."""


@on_data_mesh
def feature_tune(
    features: Any,
    labels: Any,
    *,
    head: str | heads.Head = "ridge",
    values: Sequence[float] | None = None,
    episodes: int = 2000,
    **settings: Any,
) -> heads.Head:
    """Returns the head with the hyperparameter that is most accurate in episodes of these features.

    All candidates use the same episodes and the same compiled program. Use validation classes: a value chosen on the
    target classes would bias the accuracy there upwards.

    Args:
        features: [n,d], of validation classes.
        labels: [n].
        head: "ridge" or "logistic", or a `Head` with one hyperparameter.
        values: Candidates, the strongest penalty first, since ties go to the first. Defaults to powers of ten from 1e-3
            to 1e3.
        episodes: Number of episodes for each candidate.
        **settings: As in `ncjax.eval.feature_episodes`.

    Returns:
        The head; ``str(head)`` shows the chosen value.

    Raises:
        InputError: The head does not have exactly one hyperparameter; otherwise as in `feature_episodes`.
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
    candidates = [_with(base, name, float(value)) for value in values]
    accuracies = [
        feature_episodes(features, labels, head=candidate, episodes=episodes, **settings).accuracy
        for candidate in candidates
    ]
    return candidates[accuracies.index(max(accuracies))]


def tunable(head: str | heads.Head) -> heads.Head:
    """Returns the head, which must have exactly one hyperparameter.

    Raises:
        InputError: It has none or several, or no head has that name.
    """
    base = heads.get(head)
    if not isinstance(base, heads.Head) or len(base.hyperparameters) != 1:
        raise InputError(f"head {base}: only a head with one hyperparameter can be tuned, such as ridge and logistic")
    return base


def _with(head: heads.Head, name: str, value: float) -> heads.Head:
    """Returns the head with that value. Makes ncjax's own heads again, so that they check it."""
    make = heads.HEADS.get(head.name)
    if make is not None and make().solve is head.solve:
        return make(**{name: value})
    return dataclasses.replace(head, hyperparameters={name: value})
