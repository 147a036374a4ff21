"""raylab: entity labels for web image-text pairs, and models trained on them.

Importing the package loads neither Ray, torch nor the network; the rooms do, when they are used.
"""

__version__ = "0.1.0"
