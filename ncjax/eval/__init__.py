"""Few-shot episodes: drawn, evaluated and compared by the thousand."""

from typing import TYPE_CHECKING

from ncjax.lazy import lazy_names

if TYPE_CHECKING:
    from ncjax.eval import heads
    from ncjax.eval.array_episodes import feature_episodes
    from ncjax.eval.curves import AccuracyCurve, feature_curve
    from ncjax.eval.episode_report import EpisodeReport, EpisodeSettings, PairedDifference, confusion_rates
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
    "confusion_rates",
    "curve",
    "episodes",
    "feature_curve",
    "feature_episodes",
    "feature_tune",
    "fit",
    "heads",
    "tune",
]

_HOMES = {
    "COVERS": "ncjax.eval.intervals",
    "AccuracyCurve": "ncjax.eval.curves",
    "EpisodePlan": "ncjax.eval.sampling",
    "EpisodeReport": "ncjax.eval.episode_report",
    "EpisodeSettings": "ncjax.eval.episode_report",
    "FewShotClassifier": "ncjax.eval.few_shot_classifier",
    "Interval": "ncjax.interval",
    "LeaveOneOut": "ncjax.eval.predictions",
    "PairedDifference": "ncjax.eval.episode_report",
    "Predictions": "ncjax.eval.predictions",
    "confusion_rates": "ncjax.eval.episode_report",
    "curve": "ncjax.eval.image_episodes",
    "episodes": "ncjax.eval.image_episodes",
    "feature_curve": "ncjax.eval.curves",
    "feature_episodes": "ncjax.eval.array_episodes",
    "feature_tune": "ncjax.eval.tuning",
    "fit": "ncjax.eval.few_shot",
    "heads": "ncjax.eval.heads",
    "tune": "ncjax.eval.image_episodes",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
