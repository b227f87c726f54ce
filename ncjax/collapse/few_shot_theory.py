"""Bounds and prediction of the few-shot error for several numbers of shots."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ncjax import keys
from ncjax.checks import whole_number
from ncjax.collapse.bounds import galanti_2022, luthra_2025, luthra_2026
from ncjax.collapse.class_geometry import ClassGeometry
from ncjax.collapse.inputs import check_spread
from ncjax.collapse.prediction import predict, predict_two_way
from ncjax.devices import on_data_mesh
from ncjax.equal_by_value import EqualByValue
from ncjax.errors import InputError


@dataclass(frozen=True, eq=False)
class Theory(EqualByValue):
    """Bounds and prediction of the NCC error of few-shot tasks, unclipped, for each number of shots.

    Attributes:
        ways: Classes in a task.
        shots: Support samples of a class [s].
        galanti_2022: The bound with s = 1, see `ncjax.collapse.bounds.galanti_2022`.
        galanti_2022_spherical: The bound with s = d, which holds only for spherically symmetric class features.
        luthra_2025: The minimum over a.
        luthra_2025_a: The a of the minimum.
        luthra_2026: The bound for at least 10 shots; NaN for fewer.
        luthra_2026_any_shots: The form for any number of shots.
        predicted: The prediction for `ways` classes, not a bound; NaN if a class has fewer than four samples.
        predicted_error: The Monte Carlo standard error of `predicted`.
        predicted_two_way: The prediction for two classes, not a bound.
        k: Number of classes that tasks are drawn from.
        d: Dimensions of the features.
    """

    ways: int
    shots: Int[np.ndarray, " s"]
    galanti_2022: Float[np.ndarray, " s"]
    galanti_2022_spherical: Float[np.ndarray, " s"]
    luthra_2025: Float[np.ndarray, " s"]
    luthra_2025_a: Float[np.ndarray, " s"]
    luthra_2026: Float[np.ndarray, " s"]
    luthra_2026_any_shots: Float[np.ndarray, " s"]
    predicted: Float[np.ndarray, " s"]
    predicted_error: Float[np.ndarray, " s"]
    predicted_two_way: Float[np.ndarray, " s"]
    k: int
    d: int

    def bounds(self) -> dict[str, Float[np.ndarray, " s"]]:
        """Returns the bounds by their titles, for tables and plots."""
        return {
            "Galanti et al. 2022": self.galanti_2022,
            "Galanti et al. 2022, if spherical": self.galanti_2022_spherical,
            "Luthra et al. 2025": self.luthra_2025,
            "Luthra et al. 2026 (n ≥ 10)": self.luthra_2026,
            "Luthra et al. 2026 (n ≥ 1)": self.luthra_2026_any_shots,
        }

    def table(self, measured: Sequence[float] | None = None) -> str:
        """Returns a text table, with the measured NCC error if given, a fraction for each number of shots."""

        def line(title: str, values: Sequence[str]) -> str:
            return f"{title:<34}" + "".join(f"{value:>10}" for value in values)

        def bound(value: float) -> str:
            return "–" if np.isnan(value) else "vacuous" if value > 1 else f"{value:.4f}"

        lines = [
            f"NCC error, {self.ways} ways of {self.k} classes, {self.d} dimensions",
            line("shots", [str(n) for n in self.shots]),
        ]
        lines += [line(title, [bound(v) for v in values]) for title, values in self.bounds().items()]
        lines.append(line("predicted (no bound)", ["–" if np.isnan(v) else f"{v:.4f}" for v in self.predicted]))
        if measured is not None:
            lines.append(line("measured", [f"{v:.4f}" for v in measured]))
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


@on_data_mesh
def theory(
    features: Any,
    labels: Any = None,
    *,
    num_classes: int | None = None,
    ways: int = 5,
    shots: Sequence[int] = (1, 2, 5, 10, 20, 50),
    seed: int = 0,
) -> Theory:
    """Computes bounds and prediction for the classes of these features, or of a geometry.

    For features, both refer to the population that the samples of each class are drawn from, through unbiased estimates
    of its moments (see `ClassGeometry.of_features`), and thus to episodes of these samples whose queries are not in the
    support. A bound from estimated moments is itself an estimate. For more shots than a class has samples, both
    extrapolate. `ncjax.collapse.prediction.predict` gives the accuracy of the prediction.

    Args:
        features: [n, d] with labels, as in `measure`; or a `ClassGeometry` without labels.
        labels: [n], as in `measure`.
        num_classes: As in `measure`.
        ways: Classes in a task, from 2 to the number of classes present.
        shots: Support samples of a class.
        seed: Seed of the Monte Carlo integral of the prediction.

    Raises:
        InputError: As in `measure`; or ways or shots are out of range.
    """
    whole_number("ways", ways)
    if not isinstance(shots, Sequence | np.ndarray) or len(shots) == 0:
        raise InputError(f"shots={shots!r}: give a list of one or more numbers of support samples")
    if min(whole_number("shots", n) for n in shots) < 1:
        raise InputError(f"shots={tuple(shots)}: each must be at least 1")
    if isinstance(features, ClassGeometry):
        geometry = features
    elif labels is None:
        raise InputError("features without labels: give one label a row")
    else:
        geometry = ClassGeometry.of_features(features, labels, num_classes=num_classes)
    if not 2 <= ways <= geometry.num_classes:
        raise InputError(f"ways={ways} of {geometry.num_classes} classes: give 2 to {geometry.num_classes}")
    check_spread(float(jnp.sqrt(jnp.mean(geometry.variance) + jnp.mean(geometry.squared_distance) / 2)))
    numbers = jnp.asarray(shots, jnp.float32)
    values = jax.device_get(_theory(geometry, keys.root(seed), numbers, ways))
    return Theory(ways=ways, shots=np.asarray(shots), k=geometry.num_classes, d=geometry.dim, **values)


@partial(jax.jit, static_argnames="ways")
def _theory(geometry: ClassGeometry, key: Array, shots: Float[Array, " s"], ways: int) -> dict[str, Array]:
    def at(n: Float[Array, ""]) -> dict[str, Array]:
        minimum, a = luthra_2025(geometry, ways=ways, shots=n)
        return {
            "galanti_2022": galanti_2022(geometry, ways=ways, shots=n),
            "galanti_2022_spherical": galanti_2022(geometry, ways=ways, shots=n, spherical=True),
            "luthra_2025": minimum,
            "luthra_2025_a": a,
            "luthra_2026": luthra_2026(geometry, ways=ways, shots=n),
            "luthra_2026_any_shots": luthra_2026(geometry, ways=ways, shots=n, any_shots=True),
            "predicted_two_way": predict_two_way(geometry, shots=n),
        }

    predicted, spread = predict(geometry, key, ways=ways, shots=shots)
    return {**jax.lax.map(at, shots), "predicted": predicted, "predicted_error": spread}
