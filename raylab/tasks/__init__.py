"""How a model learns: one file an objective, with its batch columns, its loss, its parameter groups and its metrics."""
