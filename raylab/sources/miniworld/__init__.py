"""The mini-world: a small, honest copy of the labeling problem with known truth, drawn from a seed."""
