"""The labeling steps, in the order of the flow, and what runs, stores and explains them."""
