"""What answers requests: vLLM in the job's own actors, or a server somewhere. `run.answer` hides which."""
