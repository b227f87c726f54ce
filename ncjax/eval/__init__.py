"""Few-shot episodes: drawn, evaluated and compared by the thousand."""

from ncjax.eval import heads
from ncjax.eval.array_episodes import feature_episodes
from ncjax.eval.curves import AccuracyCurve, feature_curve
from ncjax.eval.episode_report import EpisodeReport, EpisodeSettings, PairedDifference
from ncjax.eval.few_shot import fit
from ncjax.eval.few_shot_classifier import FewShotClassifier
from ncjax.eval.image_episodes import curve, episodes, tune
from ncjax.eval.intervals import COVERS
from ncjax.eval.predictions import LeaveOneOut, Predictions
from ncjax.eval.sampling import EpisodePlan
from ncjax.eval.tuning import feature_tune
from ncjax.interval import Interval

__all__ = [
    "COVERS",
    "AccuracyCurve",
    "EpisodePlan",
    "EpisodeReport",
    "EpisodeSettings",
    "FewShotClassifier",
    "Interval",
    "LeaveOneOut",
    "PairedDifference",
    "Predictions",
    "curve",
    "episodes",
    "feature_curve",
    "feature_episodes",
    "feature_tune",
    "fit",
    "heads",
    "tune",
]
