"""Makes the small annotator that ships with the mini-world."""
