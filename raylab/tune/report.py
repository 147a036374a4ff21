"""What a sweep found: ``sweep.html``, one file with all plots that loads nothing, and a table for the terminal.

Trial ids, values and errors come from outside: all are escaped, and the page's content security policy runs only the
scripts that are written here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from raylab.storage import Folder
from raylab.tune.plots import draw, shown
from raylab.tune.results import REPORT, Objective, TrialResult, best_trial
from raylab.tune.spaces import Domain

STATUSES = ("finished", "stopped", "unfinished", "failed")
"""In the order in which trials are ranked."""
TOP = 10


def write_report(
    out: Folder,
    trials: Sequence[TrialResult],
    objectives: Sequence[Objective],
    space: Mapping[str, Domain],
    note: str = "",
) -> None:
    """Write `REPORT` into a sweep's folder.

    Args:
        out: the sweep's folder.
        trials: all of them, whatever became of them.
        objectives: one or more; by the first one trials are ranked.
        space: what was swept.
        note: what stands above all, of a sweep that is not at its end.

    Raises:
        RaylabError: the folder cannot be written.
    """
    html = render_report(out.uri.rsplit("/", 1)[-1], trials, objectives, space, note)
    out.write_bytes(REPORT, html.encode("utf-8", "replace"))


def render_report(
    title: str,
    trials: Sequence[TrialResult],
    objectives: Sequence[Objective],
    space: Mapping[str, Domain],
    note: str = "",
) -> str:
    """Return the report's HTML; see `write_report`."""
    from plotly.offline import get_plotlyjs

    environment = _environment()
    plots = draw(trials, objectives, space)
    scripts = [get_plotlyjs(), environment.get_template("sweep.js").render()]
    order = ranked(trials, objectives)
    return environment.get_template("sweep.html.j2").render(
        title=title,
        note=note,
        trials=order,
        top=TOP,
        objectives=objectives,
        fields=_fields(trials, space),
        space={field: str(domain) for field, domain in space.items()},
        counts=Counter(trial.status for trial in trials),
        statuses=STATUSES,
        best=[best_trial(trials, one) for one in objectives],
        steps=_steps(trials),
        plots=plots,
        figures=_data({f"plot-{place}": plot.figure for place, plot in enumerate(plots, 1) if plot.figure}),
        scripts=scripts,
        policy=" ".join(_hash(script) for script in scripts),
    )


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("raylab.tune"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": lambda value: "" if _is_nan(value) else shown(value)}
    return environment


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _hash(script: str) -> str:
    """Return a script's name in the content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _data(figures: Mapping[str, Any]) -> str:
    """Return figures as JSON that cannot end the script element that it lies in."""
    for figure in figures.values():
        figure.update_layout(title=None, template="plotly_white", margin={"l": 64, "r": 24, "t": 24, "b": 48})
        figure.update_layout(font={"family": "system-ui, sans-serif", "size": 12, "color": "#1d2024"})
    text = json.dumps({name: json.loads(figure.to_json()) for name, figure in figures.items()})
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _fields(trials: Sequence[TrialResult], space: Mapping[str, Domain]) -> list[str]:
    """Return the columns of the tables: the space's, then what else trials have."""
    return list(dict.fromkeys([*space, *(field for trial in trials for field in trial.values)]))


def _steps(trials: Sequence[TrialResult]) -> tuple[int, int]:
    """Return the steps that were taken, and those that running all to the end would have taken."""
    most = max((trial.step for trial in trials), default=0)
    return sum(trial.step for trial in trials), most * len(trials)


def ranked(trials: Sequence[TrialResult], objectives: Sequence[Objective]) -> list[TrialResult]:
    """Return trials by the first objective, the best first: those that finished before those that did not."""
    first = objectives[0]

    def rank(trial: TrialResult) -> tuple[int, bool, float, int]:
        value = trial.value(first)
        missing = math.isnan(value)
        return STATUSES.index(trial.status), missing, 0.0 if missing else _cost(value, first), trial.number

    return sorted(trials, key=rank)


def _cost(value: float, objective: Objective) -> float:
    return -value if objective.mode == "max" else value


def table(trials: Sequence[TrialResult], objectives: Sequence[Objective], top: int = TOP) -> str:
    """Return the best trials as lines for people, and what became of all.

    Args:
        trials: of a sweep.
        objectives: by the first one trials are ranked.
        top: so many are shown.
    """
    fields = _fields(trials, {})
    rows: list[list[Any]] = [["trial", "status", "step", *(one.name for one in objectives), *fields]]
    for trial in ranked(trials, objectives)[:top]:
        values = [trial.values.get(field) for field in fields]
        rows.append([trial.id, trial.status, trial.step, *(trial.value(one) for one in objectives), *values])
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    right = [any(_is_numeric(row[place]) for row in rows[1:]) for place in range(len(widths))]
    lines = (
        "  ".join(
            text.rjust(width) if end else text.ljust(width) for text, width, end in zip(row, widths, right)
        ).rstrip()
        for row in cells
    )
    return "\n".join([*lines, _counted(trials)])


def _cell(value: Any) -> str:
    """Return a value as text of one line; control characters of names from outside do not reach the terminal."""
    text = "-" if value is None or _is_nan(value) else shown(value)
    return "".join(char if char.isprintable() else " " for char in text)


def _is_numeric(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _counted(trials: Sequence[TrialResult]) -> str:
    counts = Counter(trial.status for trial in trials)
    return f"{len(trials)} trials: " + ", ".join(f"{counts[status]} {status}" for status in STATUSES)
