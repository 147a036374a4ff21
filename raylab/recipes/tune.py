"""Sweeps: any training recipe, and what the line says of the space."""

from __future__ import annotations

from collections.abc import Sequence

from raylab.config import flags_of, parse, parse_beside
from raylab.recipes.train import TRAIN
from raylab.tune.plan import Sweep, SweepConfig
from raylab.tune.spaces import take_space

HELP = "Sweep over a training recipe's fields (--space.FIELD DOMAIN). Beside these flags: all of jobs/train.py --help."


def parse_sweep(args: Sequence[str]) -> Sweep:
    """Return the sweep of a command line.

    Args:
        args: flags of the sweep, of the space (`tune.spaces.take_space`), and of the training recipe.

    Raises:
        RaylabError: see `config.parse`.
        SystemExit: status 0, after ``--help``.
    """
    texts, rest = take_space(args)
    config, rest = parse_beside(SweepConfig, rest, HELP)
    train = parse(TRAIN, "git_miniworld", rest, HELP, beside=[*flags_of(SweepConfig()), "--space"])
    return Sweep.make(train, config, texts)
