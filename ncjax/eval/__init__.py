"""Few-shot episodes: drawn, evaluated and compared by the thousand."""

from ncjax.eval import heads
from ncjax.eval.arrays import feature_episodes
from ncjax.eval.curves import AccuracyCurve, feature_curve
from ncjax.eval.episodes import curve, episodes, tune
from ncjax.eval.intervals import COVERS
from ncjax.eval.report import EpisodeReport, EpisodeSettings, PairedDifference
from ncjax.eval.sampling import EpisodePlan
from ncjax.eval.tuning import feature_tune
from ncjax.interval import Interval

__all__ = [
    "COVERS",
    "AccuracyCurve",
    "EpisodePlan",
    "EpisodeReport",
    "EpisodeSettings",
    "Interval",
    "PairedDifference",
    "curve",
    "episodes",
    "feature_curve",
    "feature_episodes",
    "feature_tune",
    "heads",
    "tune",
]
