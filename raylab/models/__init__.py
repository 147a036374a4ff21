"""Plain neural modules: no Ray, no task."""
