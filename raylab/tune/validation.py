"""How a trial's network does on benchmarks, while its training waits: in the trial's own process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from raylab.evaluate.base import Benchmark
from raylab.evaluate.features import ModelSubject
from raylab.evaluate.models import as_recogniser, open_model
from raylab.evaluate.plan import EvaluateConfig
from raylab.evaluate.suite import build


class Validation:
    """Benchmarks whose data is opened once.

    Args:
        names: of the benchmarks.
        config: returns the evaluation of the model in a folder.
    """

    def __init__(self, names: list[str], config: Callable[[str], EvaluateConfig]) -> None:
        self._names, self._config = names, config

    @cached_property
    def _benchmarks(self) -> dict[str, Benchmark]:
        return build(self._config("model"), self._names)

    def __call__(self, write: Callable[[Path], None]) -> dict[str, float]:
        """Score a network: ``validation/`` and a score's whole name -> value.

        Args:
            write: writes the model to a folder.

        Raises:
            RaylabError: what jobs/evaluate.py would say.
        """
        if not self._names:
            return {}
        with tempfile.TemporaryDirectory(prefix="raylab-validate-") as folder:
            write(Path(folder))
            config = self._config(folder)
            subject = ModelSubject(config.model_config(), config.kb)
            scores = [score for benchmark in self._benchmarks.values() for score in benchmark(subject).scores]
            for opened in (open_model, as_recogniser):
                opened.cache_clear()  # the next look has another model
        return {f"validation/{score.name}": score.value for score in scores}
