"""The settings that a preset fills in where the user leaves them open."""

from typing import Any

PLAIN: dict[str, Any] = {"rotation_head": False, "color_jitter": 0.0, "ema_decay": 0.0}
"""Recipes that a preset may switch on, switched off. Such a setting does not count in a run's identity."""

CHARACTERS = ("glyphs", "emnist", "omniglot")
"""Data sets whose images turned become those of other classes: 6 and 9, N and Z, u and n."""

# The settings of each preset. A later table overrides an earlier one: every preset, the preset, its changes for a data
# set, and its changes for networks whose names begin so.
_EVERY_PRESET: dict[str, Any] = {
    "batch_size": 64, "optimizer": "sgd", "measurements": 6, "measure_per_class": 100, **PLAIN,
}  # fmt: skip
# "paper" is the paper's network under the schedule that the few-shot literature trains it with (Tian et al. 2020,
# https://arxiv.org/abs/2003.11539): 100 epochs at batch 64 from a learning rate of 0.05, a tenth of it twice.
# "strong" puts together what raised few-shot accuracy in the literature: ResNet-12 and colour jitter (Lee et al. 2019),
# a rotation head (Rajasegaran et al. 2020), an average of the weights. It was not yet chosen on validation classes.
_PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "network": "wrn-10-1", "epochs": 10, "min_steps": 1500, "learning_rate": 0.1, "schedule": "cosine",
    },
    "paper": {
        "network": "wrn-28-4", "epochs": 100, "min_steps": 10_000, "learning_rate": 0.05, "schedule": "step",
    },
    "smoke": {
        "network": "wrn-10-1", "epochs": 1, "min_steps": 20, "learning_rate": 0.1, "schedule": "cosine",
        "samples_per_class": 50, "measurements": 0, "measure_per_class": 25,
    },
    "strong": {
        "network": "resnet12", "epochs": 100, "min_steps": 10_000, "learning_rate": 0.05, "schedule": "cosine",
        "rotation_head": True, "color_jitter": 0.4, "ema_decay": 0.999,
    },
}  # fmt: skip
_FOR_CHARACTERS = {"rotation_head": False, "color_jitter": 0.0}  # and grey images have no colours
_OF_DATASET: dict[tuple[str, str], dict[str, Any]] = {
    ("small", "glyphs"): {"network": "wrn-10-1-s2", "epochs": 20},
    **{("strong", dataset): _FOR_CHARACTERS for dataset in CHARACTERS},
}
# ViTs and MLPs train badly with SGD. On a laptop, resnet12 sees few images: it learns most from them in small batches
# with AdamW, and is measured only at the start and the end, since a measurement takes as long as training. A step of
# conv4 takes four times as long as a step of wrn-10-1, and conv4 needs fewer. wrn-10-1-s2 is as good on glyphs after 16
# epochs as wrn-10-1 after 20, and its step takes a third of the time.
_ADAMW = {"optimizer": "adamw", "learning_rate": 1e-3, "schedule": "cosine"}
_OF_NETWORK: dict[tuple[str, str], dict[str, Any]] = {
    **{(preset, network): _ADAMW for preset in _PRESETS for network in ("vit", "mlp")},
    ("small", "wrn-10-1-s2"): {"epochs": 16, "learning_rate": 0.2},
    ("small", "conv4"): {"epochs": 5, "min_steps": 750},
    ("small", "resnet12"): _ADAMW
    | {"epochs": 1, "min_steps": 200, "batch_size": 32, "measurements": 0, "measure_per_class": 25},
}


def settings_of_preset(preset: str, dataset: str, network: str | None) -> dict[str, Any] | None:
    """Returns the settings that a preset fills in for a data set and a network; None for an unknown preset."""
    if preset not in _PRESETS:
        return None
    settings = _EVERY_PRESET | _PRESETS[preset] | _OF_DATASET.get((preset, dataset), {})
    network = network or settings["network"]
    for (name, start), changes in _OF_NETWORK.items():
        if name == preset and network.startswith(start):
            settings |= changes
    return settings
