"""What a `FewShotClassifier` returns."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions for n images.

    Attributes:
        names: [n], the class with the highest score.
        runner_up: [n], the class with the second highest score.
        margin: float32 [n], the highest score minus the second highest, in the units of the head's scores.
        scores: float32 [n, k], in the order of `class_names`.
        probabilities: float32 [n, k]; None if the head has no probabilities.
        class_names: The k classes.
    """

    names: np.ndarray
    runner_up: np.ndarray
    margin: Float[np.ndarray, " n"]
    scores: Float[np.ndarray, "n k"]
    probabilities: Float[np.ndarray, "n k"] | None
    class_names: tuple[str, ...]


class LeaveOneOut(NamedTuple):
    """How many of `images` support images are classified correctly by a head fitted on the others."""

    correct: int
    images: int

    @property
    def accuracy(self) -> float:
        """The share that is correct; NaN if no class has a second image."""
        return self.correct / self.images if self.images else float("nan")
