"""The training room's label store serves sweeps, too."""

from train.conftest import store  # noqa: F401  (a fixture)
