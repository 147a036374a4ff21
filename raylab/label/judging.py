"""An audit: what a sample of judged decisions says of the whole run.

``audit.json`` beside the labels holds the figures; report and card show them when it is there. Judges are people
(`review`) or the source's known truth, which gives the same figures for a rehearsal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow.compute as pc

from raylab.label.calibration import Scored, calibration, threshold_for
from raylab.label.intervals import LEVEL, Judged, stratified
from raylab.label.sampling import LABELS, AuditSample, Stratum
from raylab.label.store import LabelStore

SAMPLE, AUDIT = "audit_sample.json", "audit.json"
"""The files of an audit in a run's folder."""

Row = Mapping[str, Any]


def sampled_rows(store: LabelStore, row_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return row id -> row, of labels and rejects."""
    wanted = pc.field("row_id").isin(list(row_ids))
    parts = (part.to_table(filter=wanted).to_pylist() for part in (store.labels(), store.rejects()))
    return {row["row_id"]: row for part in parts for row in part}


def by_truth(rows: Mapping[str, Row]) -> dict[str, bool | None]:
    """Judge rows by their known truth; None where it is not known. A label without an entity's id is wrong."""
    return {row_id: None if row["truth"] is None else row["entity_id"] in row["truth"] for row_id, row in rows.items()}


def audit_figures(
    sample: AuditSample, rows: Mapping[str, Row], right: Mapping[str, bool | None], precision: float
) -> dict[str, Any]:
    """Return the figures of an audit.

    Args:
        sample: what was drawn.
        rows: the sampled rows.
        right: row id -> right, wrong, or None for a judge who could not tell; rows that nobody looked at are missing.
            Undecided and missing rows are left out as if they had not been drawn.
        precision: for which abstention thresholds are sought.

    Returns:
        - ``level``, ``drawn``, ``judged``, ``undecided``;
        - ``steps``: for each step that labels, what is estimated of its labels: ``{"precision", "low", "high", "rows",
          "judged", "undecided"}``; numbers are null without judged rows, and ``rows`` counts the strata that have some;
        - ``decisions``: the same for each decision, withheld labels included (there, ``precision`` is the share of
          entities that were right and lost), with ``step`` and ``decision``;
        - ``strata``: what was drawn and judged where;
        - ``calibration``: `calibration.calibration` of ``confidence`` and ``score`` over labels, where rows have them;
        - ``thresholds``: for the same two, ``{"wanted", "sure", "plain"}``: where to abstain, see `threshold_for`.
    """
    decided = {row_id: verdict for row_id, verdict in right.items() if verdict is not None}
    counted = [(stratum, _judged(stratum, decided)) for stratum in sample.strata]
    by_step, by_decision = defaultdict(list), defaultdict(list)
    for stratum, judged in counted:
        by_decision[stratum.step, stratum.decision].append((stratum, judged))
        if stratum.decision in LABELS:
            by_step[stratum.step].append((stratum, judged))
    scored = {name: _scored(name, counted, rows, decided) for name in ("confidence", "score")}
    scored = {name: found for name, found in scored.items() if len(found.scores)}
    return {
        "level": LEVEL,
        "drawn": len(sample.by_row()),
        "judged": len(decided),
        "undecided": len(right) - len(decided),
        "steps": {step: _estimate(found, right) for step, found in by_step.items()},
        "decisions": [
            {"step": step, "decision": decision} | _estimate(found, right)
            for (step, decision), found in by_decision.items()
        ],
        "strata": [_stratum(stratum, judged) for stratum, judged in counted],
        "calibration": {name: calibration(found) for name, found in scored.items()},
        "thresholds": {name: _thresholds(found, precision) for name, found in scored.items()},
    }


def _judged(stratum: Stratum, decided: Mapping[str, bool]) -> Judged:
    verdicts = [decided[row_id] for row_id in stratum.row_ids if row_id in decided]
    return Judged(stratum.size, len(verdicts), sum(verdicts))


def _estimate(found: Sequence[tuple[Stratum, Judged]], right: Mapping[str, bool | None]) -> dict[str, Any]:
    estimate = stratified([judged for _, judged in found])
    undecided = [row_id for stratum, _ in found for row_id in stratum.row_ids if right.get(row_id, True) is None]
    numbers = (estimate.share, estimate.low, estimate.high) if estimate else (None, None, None)
    return {
        **{
            name: None if number is None else round(number, 6)
            for name, number in zip(("precision", "low", "high"), numbers)
        },
        "rows": sum(judged.size for _, judged in found if judged.judged),
        "judged": sum(judged.judged for _, judged in found),
        "undecided": len(undecided),
    }


def _stratum(stratum: Stratum, judged: Judged) -> dict[str, Any]:
    place = {name: getattr(stratum, name) for name in ("step", "decision", "low", "high", "size")}
    return place | {"drawn": len(stratum.row_ids), "judged": judged.judged, "right": judged.right}


def _scored(
    name: str, counted: Sequence[tuple[Stratum, Judged]], rows: Mapping[str, Row], decided: Mapping[str, bool]
) -> Scored:
    """Return judged labels with their score or confidence, each weighing as many rows as it stands for."""
    found = []
    for stratum, judged in counted:
        for row_id in stratum.row_ids if stratum.decision in LABELS else ():
            row = rows.get(row_id)
            value = None if row is None else row["score"] if name == "score" else (row["annotation"] or {}).get(name)
            if row_id in decided and value is not None and not np.isnan(value):
                found.append((value, decided[row_id], stratum.size / judged.judged))
    scores, right, weights = (np.array(column) for column in zip(*found)) if found else (np.zeros(0),) * 3
    return Scored(scores.astype(float), right.astype(bool), weights.astype(float))


def _thresholds(scored: Scored, wanted: float) -> dict[str, Any]:
    found = {"sure": threshold_for(scored, wanted), "plain": threshold_for(scored, wanted, sure=False)}
    return {"wanted": wanted} | {name: None if one is None else _plain(asdict(one)) for name, one in found.items()}


def _plain(threshold: dict[str, Any]) -> dict[str, float]:
    estimate = threshold.pop("precision")
    named = {"precision": estimate["share"], "low": estimate["low"], "high": estimate["high"]}
    return {name: round(number, 6) for name, number in (threshold | named).items()}
