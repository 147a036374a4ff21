"""The same rows on one core and on two."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from quiet import note
from runs import job


def two_cores(folder: Path, kb: str, rows: int, rounds: int) -> dict[str, Any]:
    """Run the same rows on one core and on two, in turn."""
    job(folder, kb, 500, 300, 2)
    found = []
    for index in range(rounds):
        order = (1, 2) if index % 2 == 0 else (2, 1)
        one = {f"cores_{cores}": job(folder, kb, rows, 321, cores) for cores in order}
        ratio = one["cores_2"]["rows_per_s"] / one["cores_1"]["rows_per_s"]
        whole = one["cores_1"]["wall_s"] / one["cores_2"]["wall_s"]
        found.append(one | {"ratio": ratio, "ratio_whole": whole})
        note(f"two cores: {ratio:.2f} x between start and end, {whole:.2f} x the whole job")
    return {
        "ratio": median(one["ratio"] for one in found),
        "ratio_whole": median(one["ratio_whole"] for one in found),
        "asked": 1.8,
        "rows": rows,
        "rounds": found,
    }
