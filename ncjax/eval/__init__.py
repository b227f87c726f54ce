"""Few-shot episodes: drawn, evaluated and compared by the thousand."""

from ncjax.eval import heads
from ncjax.eval.arrays import feature_episodes
from ncjax.eval.report import EpisodeReport, EpisodeSettings, PairedDifference
from ncjax.eval.sampling import EpisodePlan

__all__ = [
    "EpisodePlan",
    "EpisodeReport",
    "EpisodeSettings",
    "PairedDifference",
    "feature_episodes",
    "heads",
]
