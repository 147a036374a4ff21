from __future__ import annotations

from annotate.tiny_vlm import tiny_vlm  # noqa: F401  (a fixture)
