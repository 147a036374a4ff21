"""Whole runs as functions that return a config; the command line overrides single fields."""

from raylab.recipes.label import i2e, miniworld

LABEL = {"i2e": i2e, "miniworld": miniworld}
"""What ``jobs/label.py --recipe`` knows."""
