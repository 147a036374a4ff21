"""The trainer: a loop that knows neither the task nor Ray; around it data, checkpoints, accelerators and Ray Train."""
