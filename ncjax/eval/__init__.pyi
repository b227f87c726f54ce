from . import heads as heads
from .array_episodes import feature_episodes as feature_episodes
from .curves import (
    AccuracyCurve as AccuracyCurve,
    feature_curve as feature_curve,
)
from .episode_report import (
    EpisodeReport as EpisodeReport,
    EpisodeSettings as EpisodeSettings,
    PairedDifference as PairedDifference,
    confusion_rates as confusion_rates,
)
from .few_shot import fit as fit
from .few_shot_classifier import FewShotClassifier as FewShotClassifier
from .image_episodes import (
    curve as curve,
    episodes as episodes,
    tune as tune,
)
from .intervals import (
    COVERS as COVERS,
    Interval as Interval,
)
from .predictions import (
    LeaveOneOut as LeaveOneOut,
    Predictions as Predictions,
)
from .sampling import EpisodePlan as EpisodePlan
from .standard_probes import (
    ProbeReport as ProbeReport,
    ProbeResult as ProbeResult,
    probes as probes,
)
from .tuning import feature_tune as feature_tune
