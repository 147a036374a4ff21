"""Trains the runs of a pickle in a process of its own: python -m xla.one_device ASKED FOUND."""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import asdict
from pathlib import Path

from xla.small_runs import on_xla


def main(asked: str, found: str) -> None:
    runs = pickle.loads(Path(asked).read_bytes())
    Path(found).write_text(json.dumps({name: asdict(on_xla(run)) for name, run in runs.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
