"""Few-shot episodes: drawn, evaluated and compared by the thousand."""

from ncjax.devices import on_data_mesh
from ncjax.eval import heads
from ncjax.eval.arrays import feature_episodes as _feature_episodes
from ncjax.eval.curves import AccuracyCurve
from ncjax.eval.curves import feature_curve as _feature_curve
from ncjax.eval.episodes import curve as _curve
from ncjax.eval.episodes import episodes as _episodes
from ncjax.eval.episodes import tune as _tune
from ncjax.eval.few_shot import FewShotClassifier, LeaveOneOut, Predictions
from ncjax.eval.few_shot import fit as _fit
from ncjax.eval.intervals import COVERS
from ncjax.eval.report import EpisodeReport, EpisodeSettings, PairedDifference
from ncjax.eval.sampling import EpisodePlan
from ncjax.eval.tuning import feature_tune as _feature_tune
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

curve = on_data_mesh(_curve)
episodes = on_data_mesh(_episodes)
feature_curve = on_data_mesh(_feature_curve)
feature_episodes = on_data_mesh(_feature_episodes)
feature_tune = on_data_mesh(_feature_tune)
fit = on_data_mesh(_fit)
tune = on_data_mesh(_tune)
