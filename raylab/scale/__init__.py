"""What a run would take on other machines: a measured model of the pipeline, and a simulator. Knows no Ray."""
