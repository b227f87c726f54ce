"""95 % intervals of few-shot accuracy, each named by what it covers. float64 in NumPy, on the host."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from scipy.special import expit, stdtrit

from ncjax.interval import Interval

COVERS = {
    "ci95": "other episodes from these same images",
    "same_classes_ci95": "new images of these same classes",
    "target_ci95": "new classes and new images from the same population",
}
"""What each interval of an `EpisodeReport` covers, for the labels of tables and figures."""

COLUMNS = {"ci95": "± redrawn episodes", "same_classes_ci95": "± new images", "target_ci95": "± new classes"}
"""Headers of tables for the half width of each interval."""

WITHOUT = {
    "ci95": "there is one episode",
    "same_classes_ci95": "episodes are too few to tell what images add, or images add nothing",
    "target_ci95": "every episode holds every class, or accuracy is the same whichever class is left out",
}
"""Why an interval may be missing."""


def half_widths_note(names: Iterable[str] = tuple(COVERS)) -> str:
    """Says what the columns of half widths of these intervals cover, for the notes of a table."""
    covered = "; ".join(f"{COLUMNS[name]}: {COVERS[name]}" for name in names)
    return f"± is the half width of a 95 % interval, in points. It covers, under {covered}."


def t_quantile(df: int) -> float:
    """Returns the 97.5 % quantile of Student's t with `df` degrees of freedom; NaN below 1."""
    return float(stdtrit(df, 0.975)) if df >= 1 else math.nan


def mean_interval(values: np.ndarray) -> float:
    """Computes the half width of the t interval of the mean of independent values [E]; NaN for one value."""
    count = len(values)
    if count < 2:
        return math.nan
    return t_quantile(count - 1) * float(np.std(values, ddof=1, dtype=np.float64)) / math.sqrt(count)


def around(value: float, half_width: float, low: float = 0.0, high: float = 1.0) -> Interval | None:
    """Returns the interval of that half width, clipped to `low` and `high`; None for a half width of NaN."""
    if math.isnan(half_width):
        return None
    return Interval(max(value - half_width, low), min(value + half_width, high), value)


def target_interval(per_episode: np.ndarray, classes: np.ndarray, num_classes: int) -> Interval | None:
    """Computes the interval of an accuracy for new classes and images from the population of these classes.

    Few-shot accuracy is a U-statistic over classes, and over images within classes. Its variance is estimated by the
    delete-one-class jackknife (Arvesen 1969), with t(k-1): the replicate without class c is the mean of the episodes
    that do not hold c, so that one set of episodes gives all replicates. This includes the variance of the images of a
    class, and k-1 times or more the variance of drawing episodes: few episodes widen the interval.

    Jackknife and t interval use the scale of log odds, where the accuracy of few classes is less skewed, around the
    jackknife estimate on that scale (Tukey 1958). Half a query is added to the correct and to the wrong queries, since
    a replicate may have no wrong query.

    In simulations of 5-way episodes of 15 queries a class (accuracies 0.3 to 0.995; 6, 7, 8, 12 and 20 classes; 160
    draws of classes for each setting, a standard error of 2 %) with 1,000 episodes it covered in 91 to 99 % of the
    draws that gave an interval, if every class has an accuracy of its own from a beta distribution with a + b = 30 or
    200, or every pair of classes log-normal confusions: on average 96 %, and 97 % at 0.995, where drawing episodes is
    much of the variance. With a + b = 5, where nearly all classes near 100 % are without errors, it covered in 91 to
    98 %, but at 0.98 in 87 to 96 %, and at 0.995 up to 30 % of draws gave none: few classes do not show what is rare
    among classes. With 10,000 episodes (80 draws, a standard error of 3 %) it covered in 88 to 100 %, on average in
    94 %; with a + b = 5 at 0.98 in 85 to 89 %.

    In simulations of 5-way 1-shot NCC (Gaussian classes in 16 dimensions with equal or log-normal variances; 6 or 8
    classes of 30 images, accuracies 0.32 to 0.997; 300 draws of classes for each) it covered in 92 to 99 % of the draws
    that gave an interval with 2,000 episodes, and in 94 to 100 % with 400. It covers less if most draws of few classes
    lack the cause of errors: for 6 and 8 classes from 30 groups, alike within a group and otherwise far apart, at 94 %
    accuracy, it covered in 92 and 87 % of draws.

    Args:
        per_episode: Accuracies [E].
        classes: int [E,W], the classes of each episode.
        num_classes: k.

    Returns:
        The interval, which contains the accuracy; None if some class is in every episode (as many ways as classes), or
        if accuracy is the same whichever class is left out, as at 100 %.
    """
    values = np.asarray(per_episode, np.float64)
    shares = np.concatenate([values, 1 - values])
    half_query = 0.5 * float(shares[shares > 1e-6].min()) / len(values)

    def log_odds(share: np.ndarray) -> np.ndarray:
        return np.log((share + half_query) / (1 - share + half_query))

    return _jackknife_interval(values, classes, num_classes, log_odds, expit)


def difference_interval(differences: np.ndarray, classes: np.ndarray, num_classes: int) -> Interval | None:
    """Computes `target_interval` for a difference of accuracies, from paired differences [E].

    The scale is asinh(difference/c), c three quarters of the mean absolute difference of an episode: linear for
    differences of both signs, logarithmic if nearly all have one sign and are skewed, as for heads near 100 %. In
    simulations like those of `target_interval` (NCC on all dimensions and on three quarters of them, 400 episodes, 150
    draws of 6 or 8 classes, accuracies 0.80 to 0.997) it covered in 94 to 98 % of draws, the plain t interval in 78 to
    96 %.

    Returns:
        The interval, within -1 to 1; None as in `target_interval`.
    """
    values = np.asarray(differences, np.float64)
    unit = 0.75 * float(np.abs(values).mean())
    if unit == 0:
        return None
    most = math.asinh(1 / unit)

    def unscaled(value: float) -> float:
        return max(-1.0, min(1.0, unit * math.sinh(max(-most, min(most, value)))))

    return _jackknife_interval(values, classes, num_classes, lambda value: np.arcsinh(value / unit), unscaled)


def longer_side(interval: Interval | None) -> float:
    """Returns the distance from the estimate to the farther end; NaN without an interval."""
    return math.nan if interval is None else max(interval.estimate - interval.low, interval.high - interval.estimate)


def _jackknife_interval(
    values: np.ndarray,
    classes: np.ndarray,
    num_classes: int,
    scale: Callable[[np.ndarray], np.ndarray],
    inverse: Callable[[float], float],
) -> Interval | None:
    """Computes the t interval of the mean of values [E] on a scale, by leaving out each class."""
    replicates = _without_each_class(values, classes, num_classes)
    if replicates is None:
        return None
    whole, left_out = float(scale(values.mean())), scale(replicates)
    centre = num_classes * whole - (num_classes - 1) * float(left_out.mean())
    half_width = t_quantile(num_classes - 1) * _jackknife_error(left_out)
    mean = float(values.mean())
    return Interval(
        min(float(inverse(centre - half_width)), mean), max(float(inverse(centre + half_width)), mean), mean
    )


def _without_each_class(values: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray | None:
    """Computes the mean of the episodes without class c, for each c [k]; None if some c has none, or all are equal."""
    count = len(values) - np.bincount(classes.ravel(), minlength=num_classes)
    if count.min() == 0:
        return None
    # sums deviations from the mean, since the total minus the sum of a class would cancel
    deviation = values - values.mean()
    held = np.bincount(classes.ravel(), np.repeat(deviation, classes.shape[1]), minlength=num_classes)
    replicates = values.mean() - held / count
    return replicates if np.ptp(replicates) > 1e-12 else None


def _jackknife_error(replicates: np.ndarray) -> float:
    """Computes the standard error from the k values with each of k parts left out."""
    k = len(replicates)
    return math.sqrt((k - 1) / k * float(np.sum((replicates - replicates.mean()) ** 2)))


class ImageSums(NamedTuple):
    """Sums over the episodes that use image i.

    Attributes:
        support_accuracy: [n], sum of the accuracies of the episodes with i in the support.
        support_count: [n], number of these episodes.
        query_correct: [n], how often i was a query that was classified correctly.
        query_count: [n], how often i was a query.
    """

    support_accuracy: np.ndarray
    support_count: np.ndarray
    query_correct: np.ndarray
    query_count: np.ndarray


def same_classes_interval(
    per_episode: np.ndarray,
    classes: np.ndarray,
    images: ImageSums,
    codes: np.ndarray,
    num_classes: int,
    shots: int,
) -> float:
    """Computes the half width of the interval for new images of the same classes.

    The accuracy over all episodes is a U-statistic over the n_c images of each class c. To first order (Hoeffding
    1948) its variance is Σ_c n_c Var(ψ_i), with the influence of one image

        n_c ψ_i = (q_i - q_c) / k  +  (W S / k) (s_i - s_c),

    q_i the share of queries of i that are classified correctly, s_i the mean accuracy of the episodes with i in the
    support, q_c and s_c their means over the class. Variances of q_i and s_i are estimated from pairs of different
    episodes with the same image, which excludes the noise of few episodes for an image; the variance of drawing the
    episodes is then added once. To first order, the differences are too small by the factor 1 - S / n_c, for which the
    variance is corrected: an image in the support is missing from the other places of the support, and a query cannot
    be in the support.

    If episodes are few for the number of shots, the variance of the images is lost in the noise of the episodes, and
    its estimate may be 0 or less: then there is no interval, and more episodes give one. In simulation (20 classes,
    5-way, 15 queries, 200 draws) it covered in 92-98 % of draws with 4,000 episodes, for 1 shot of 20 and of 100
    images, 5 of 8 (3 queries), 20 and 100, 10 and 20 of 40. With 200 to 2,000 episodes it covered in 91-98 % of draws
    that gave an interval: all of 120 draws for 1 shot of 100 images and 5 of 20 and 100, 93 % for 20 of 40, 54 and 78 %
    for 50 of 150.

    Args:
        per_episode: Accuracies [E].
        classes: int [E,W].
        images: Sums [n] over the same episodes.
        codes: int [n], the class of each image, 0..k-1.
        num_classes: k.
        shots: S.

    Returns:
        The half width; NaN for one episode, if no image is used twice, or if the estimated variance of the images is
        not positive.
    """
    episodes, ways = classes.shape
    if episodes < 2:
        return math.nan
    values = np.asarray(per_episode, np.float64)
    mean = values.mean()
    size = np.bincount(codes, minlength=num_classes)

    def by_class(rows: np.ndarray) -> np.ndarray:
        return np.bincount(codes, rows, minlength=num_classes)

    def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        return np.divide(top, bottom, out=np.zeros(num_classes), where=bottom > 0)

    support_count, query_count = images.support_count.astype(float), images.query_count.astype(float)
    query_correct = images.query_correct.astype(float)
    support_sum = images.support_accuracy.astype(float) - mean * support_count

    query_mean = ratio(by_class(query_correct), by_class(query_count))
    support_mean = ratio(by_class(support_sum), by_class(support_count))
    query_sum = query_correct - query_mean[codes] * query_count
    support_sum = support_sum - support_mean[codes] * support_count
    # The sum over an image's pairs of episodes is the square of its sum minus the squares of its terms.
    query_squares = by_class(query_count) * query_mean * (1 - query_mean)
    deviation = (values - mean)[:, None] - support_mean[classes]
    support_squares = shots * np.bincount(classes.ravel(), (deviation**2).ravel(), minlength=num_classes)
    query_pairs = by_class(query_count * (query_count - 1))
    support_pairs = by_class(support_count * (support_count - 1))
    if query_pairs.sum() == 0 or support_pairs.sum() == 0:
        return math.nan
    query_variance = ratio(by_class(query_sum**2) - query_squares, query_pairs)
    support_variance = ratio(by_class(support_sum**2) - support_squares, support_pairs)
    # The class mean comes from the same episodes, which lowers every pair by their variance over their number.
    held = np.bincount(classes.ravel(), minlength=num_classes)
    support_variance += ratio(support_squares / shots, held * (held - 1.0))
    covariance = ratio(by_class(query_sum * support_sum), by_class(query_count * support_count))

    weight = ways * shots
    influence = (query_variance + weight**2 * support_variance + 2 * weight * covariance) / num_classes**2
    influence /= (1 - shots / size) ** 2  # a class has more images than shots
    of_images, of_episodes = float(np.sum(influence / size)), float(values.var(ddof=1)) / episodes
    if of_images <= 0:
        return math.nan
    return t_quantile(episodes - 1) * math.sqrt(of_images + of_episodes)
