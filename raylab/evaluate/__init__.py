"""Scores of trained models and of labels, by the protocols of the papers."""
