"""The second half of labeling: an open multimodal LLM verifies or corrects each label, explains it, asks about it."""
