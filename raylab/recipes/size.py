"""What ``jobs/size.py --recipe`` knows: the recipes of labeling and annotation, and those of training.

The latter by name: their configs need torch, and a run is sized where there may be none.
"""

from __future__ import annotations

from functools import partial

from raylab.recipes import LABEL
from raylab.scale.plan import SizeConfig

TRAINED = ("clip_b16", "mofi_b16", "git_large", "ger_ald", "git_oven", "clip_miniworld")
SIZE = {name: partial(SizeConfig, recipe=name) for name in (*LABEL, *TRAINED)}
