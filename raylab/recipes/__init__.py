"""Whole runs as functions that return a config; the command line overrides single fields.

Those of training are in `recipes.train`: they need torch, which a labeling job does without.
"""

from raylab.recipes.annotate import rew, rew_8gpu, rew_80gb, rew_ablation, rew_ablation_miniworld, rew_miniworld
from raylab.recipes.label import i2e, miniworld, oven, oven_miniworld

LABEL = {
    "i2e": i2e,
    "miniworld": miniworld,
    "oven": oven,
    "oven_miniworld": oven_miniworld,
    "rew": rew,
    "rew_80gb": rew_80gb,
    "rew_8gpu": rew_8gpu,
    "rew_miniworld": rew_miniworld,
    "rew_ablation": rew_ablation,
    "rew_ablation_miniworld": rew_ablation_miniworld,
}
"""What ``jobs/label.py --recipe`` knows."""
