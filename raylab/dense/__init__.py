"""Dense prediction: training for segmentation, and the search for cells (arXiv 1809.04184)."""
