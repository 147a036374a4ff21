"""A sweep's dashboard in W&B: a saved workspace of its group, made by code.

It is built without W&B's server; saving needs a key. Whatever goes wrong there is a warning, never the end of a sweep.
"""

from __future__ import annotations

import logging
import threading
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from raylab.tracking import wandb_mode
from raylab.tune.results import Objective
from raylab.tune.spaces import DECODER_RATE, ENCODER_RATE, Domain

logger = logging.getLogger(__name__)

STEP = "step"
"""What the tracker's curves are drawn over."""
CONFIG_KEYS = {DECODER_RATE: "optim.rate", ENCODER_RATE: "task.encoder_rate"}
"""Swept field -> the field of a run's config that holds it; the encoder's rate is there as a share of the decoder's."""
SECONDS = 60.0
"""W&B's server has so long to take a dashboard."""
_LOGARITHMIC = ("loguniform", "lograndint", "powers_of_two")

Keys = Mapping[str, bool]
"""Of runs' configs; whether one is drawn on a logarithmic axis."""


def publish(project: str, group: str, objectives: Sequence[Objective], space: Mapping[str, Domain]) -> str | None:
    """Build and save a sweep's workspace where this host's runs are online; return its address; see `save`."""
    if wandb_mode() != "online":
        return None
    try:
        workspace = build(project, group, objectives, space)
    except Exception as error:  # of a package that is missing, or has become another one
        logger.warning("The dashboard in W&B could not be made: %s: %s", type(error).__name__, error)
        return None
    return save(workspace)


def build(
    project: str, group: str, objectives: Sequence[Objective], space: Mapping[str, Domain], entity: str = ""
) -> Any:
    """Return the workspace (`wandb_workspaces.workspaces.Workspace`), not yet saved.

    Args:
        project: W&B's.
        group: of the sweep's runs; others are filtered out.
        objectives: by the first one runs are ordered, the best first.
        space: what was swept.
        entity: W&B's user or team; empty: the default of the key that saves it.
    """
    import wandb_workspaces.workspaces as ws

    keys = {CONFIG_KEYS.get(field, field): domain.kind in _LOGARITHMIC for field, domain in space.items()}
    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=f"Sweep {_plain(group)}",
        sections=[_section(name, panels) for name, panels in _panels(objectives, keys)],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=100),
        runset_settings=_runs(objectives, keys),
    )
    _keep_group(workspace, group)
    return workspace


def _plain(name: str) -> str:
    """Return a name without the symbols, ``=`` among them, that W&B's workspaces refuse in theirs."""
    return "".join("-" if unicodedata.category(char).startswith("S") else char for char in name)


def _panels(objectives: Sequence[Objective], keys: Keys) -> list[tuple[str, list[Any]]]:
    import wandb_workspaces.reports.v2 as wr

    curves = [wr.LinePlot(title=one.name, x=STEP, y=[one.name], max_runs_to_show=100) for one in objectives]
    importances = [wr.ParameterImportancePlot(with_respect_to=one.name) for one in objectives]
    scatters = [_scatter(one, key, log) for one in objectives for key, log in keys.items()]
    return [
        ("Learning curves", curves),
        ("Parallel coordinates", [_parallel(objectives, keys)]),
        ("What matters", importances),
        ("Each parameter", scatters),
        ("Runs side by side", [wr.RunComparer(diff_only="split")]),
    ]


def _section(name: str, panels: list[Any]) -> Any:
    import wandb_workspaces.workspaces as ws

    columns = min(3, max(1, len(panels)))
    rows = -(-len(panels) // columns)
    layout = ws.SectionLayoutSettings(columns=columns, rows=max(1, min(3, rows)))
    settings = ws.SectionPanelSettings(x_axis=STEP)
    return ws.Section(name=name, panels=panels, is_open=True, layout_settings=layout, panel_settings=settings)


def _scatter(objective: Objective, key: str, log: bool) -> Any:
    import wandb_workspaces.reports.v2 as wr

    return wr.ScatterPlot(
        title=f"{objective.name} by {key}",
        x=wr.Config(key),
        y=wr.SummaryMetric(objective.name),
        log_x=log or None,
    )


def _parallel(objectives: Sequence[Objective], keys: Keys) -> Any:
    import wandb_workspaces.reports.v2 as wr

    column = wr.ParallelCoordinatesPlotColumn
    columns = [column(wr.Config(key), log=log or None) for key, log in keys.items()]
    columns += [column(wr.SummaryMetric(one.name), inverted=one.mode == "min" or None) for one in objectives]
    return wr.ParallelCoordinatesPlot(title="Parallel coordinates", columns=columns)


def _runs(objectives: Sequence[Objective], keys: Keys) -> Any:
    """Return the table of runs: the best first, with what was swept beside the objectives."""
    import wandb_workspaces.expr as ex
    import wandb_workspaces.workspaces as ws

    first = objectives[0]
    columns = ["run:displayName", "run:state", *(f"summary:{one.name}" for one in objectives), f"summary:{STEP}"]
    return ws.RunsetSettings(
        order=[ex.Ordering(ex.Summary(first.name), ascending=first.mode == "min")],
        pinned_columns=[*columns, *(f"config:{_in_value(key)}" for key in keys)],
    )


def _in_value(key: str) -> str:
    """Return a config key as W&B's tables have it: ``optim.rate`` as ``optim.value.rate``."""
    head, dot, rest = key.partition(".")
    return f"{head}.value{dot}{rest}"


def _keep_group(workspace: Any, group: str) -> None:
    """Filter the runs by their group, and leave out the sweep's own, which has no curves.

    Not by an expression: its parser changes ``<``, ``>`` and ``=`` also within quoted names.
    """
    from wandb_workspaces import expr

    wanted = {"group": group, "jobType": "train"}
    leaves = [
        expr.Filters(op="=", key=expr.Key(section="run", name=name), value=value, disabled=False)
        for name, value in wanted.items()
    ]
    workspace._stashed_filters_v2 = expr.filters_tree_to_v2(expr.Filters(op="AND", filters=leaves))
    workspace._stashed_filter_string = workspace.runset_settings.filters


def save(workspace: Any, seconds: float = SECONDS) -> str | None:
    """Save the workspace where this host's runs are online; return its address.

    Args:
        workspace: of `build`.
        seconds: W&B's server has so long.

    Returns:
        None where runs are kept offline, or where W&B did not take it: then a warning says why.
    """
    if wandb_mode() != "online":
        return None
    answer: dict[str, Any] = {}

    def work() -> None:
        try:
            answer["url"] = _save(workspace)
        except Exception as error:  # whatever W&B raises: the sweep is worth more than its dashboard
            answer["error"] = " ".join(str(error).split()) or type(error).__name__

    waited = threading.Thread(target=work, name="wandb-dashboard", daemon=True)
    waited.start()
    waited.join(seconds)
    if "url" in answer:
        return str(answer["url"])
    why = answer.get("error", f"no answer in {seconds:g} s")
    logger.warning(
        "W&B did not take the dashboard %r: %s. The sweep is whole without it; its runs' curves lie in their folders "
        "and sweep.html has the same plots.",
        workspace.name,
        why,
    )
    return None


def _save(workspace: Any) -> str:
    import wandb

    if not workspace.entity:
        workspace.entity = wandb.Api().default_entity or ""
    workspace.save()
    return str(workspace.url)
