"""The plots of a sweep, by Optuna's own visualisation of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from raylab.tune.results import Objective, TrialResult, best_trial
from raylab.tune.spaces import Domain
from raylab.tune.study import make_study, quiet

if TYPE_CHECKING:
    import optuna

LEAST_TRIALS = 8
"""With values; fewer say nothing of what matters. Our choice: a tree of the forest looks at half of them."""
_LEGEND, _SIDE_BY_SIDE = 10, 6
_HOLLOW = "Hollow: stopped early, with the value at its last step."
_GREY, _BEST = "#b4bac2", "#c8423f"
_COLOURS = ("#2b6cb0", "#2f855a", "#b7791f", "#6b46c1", "#0987a0", "#97266d", "#4a5568", "#9c4221")


@dataclass(frozen=True)
class Plot:
    """A plot, or why there is none."""

    kind: str
    of: str
    """The objective that it shows; empty: all."""
    note: str
    """What there is to know to read it."""
    figure: Any
    """A `plotly` figure, or None."""
    missing: str = ""
    """Why there is none."""
    height: int = 420
    """In pixels."""

    @property
    def title(self) -> str:
        """What stands above it."""
        return f"{self.kind}: {self.of}" if self.of else self.kind


def draw(trials: Sequence[TrialResult], objectives: Sequence[Objective], space: Mapping[str, Domain]) -> list[Plot]:
    """Return a sweep's plots in the order in which they are looked at."""
    with quiet():
        alone = [(objective, make_study(trials, [objective], space)) for objective in objectives]
        together = make_study(trials, objectives, space) if len(objectives) > 1 else alone[0][1]
        plots = [_curves(trials, objective, study) for objective, study in alone]
        if len(objectives) in (2, 3):
            plots.append(_front(trials, objectives, together))
        plots += [_slices(trials, objective, study, space) for objective, study in alone]
        plots.append(_parallel(trials, objectives, together))
        plots += [_importances(objective, study) for objective, study in alone]
    return plots


def _valued(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(_complete(),))


def _complete() -> Any:
    from optuna.trial import TrialState

    return TrialState.COMPLETE


def _gap(study: optuna.Study) -> str:
    """Return why there is nothing to draw over parameters; empty where there is."""
    found = _valued(study)
    if not found:
        return "No trial has finished or was stopped with a value."
    return "" if any(trial.params for trial in found) else "This sweep has no parameters."


def label(trial: TrialResult) -> str:
    """Return how a plot names a trial; plotly reads markup in it."""
    return f"#{trial.number} {escape(trial.id)}"


def hover(trial: TrialResult, objectives: Sequence[Objective]) -> str:
    """Return what is shown of a trial under the pointer."""
    ended = f"stopped early at step {trial.step}" if trial.status == "stopped" else f"{trial.status}, step {trial.step}"
    lines = [f"<b>{label(trial)}</b>", ended]
    lines += [f"{escape(one.name)} = {trial.value(one):.4g}" for one in objectives]
    lines += [f"{escape(field)} = {escape(shown(value))}" for field, value in trial.values.items()]
    return "<br>".join(lines)


def shown(value: Any) -> str:
    """Return a value in as few characters as tell it apart."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _curves(trials: Sequence[TrialResult], objective: Objective, study: optuna.Study) -> Plot:
    from optuna.visualization import plot_intermediate_values

    kind = "Learning curves"
    if not any(trial.intermediate_values for trial in study.get_trials(deepcopy=False)):
        return Plot(kind, objective.name, "", None, "No trial was looked at.")
    figure = plot_intermediate_values(study)
    best = best_trial(trials, objective)
    finished = [trial for trial in trials if trial.status == "finished"]
    colours = {trial.id: _COLOURS[place % len(_COLOURS)] for place, trial in enumerate(finished)}
    for trace in figure.data:
        trial = trials[int(trace.name.removeprefix("Trial"))]
        is_best = best is not None and trial.id == best.id
        trace.update(_line(trial, len(trace.x), colours.get(trial.id, _GREY), is_best))
        trace.update(hovertemplate="step %{x}: %{y:.4g}<br>" + hover(trial, [objective]) + "<extra></extra>")
    legend = len(finished) <= _LEGEND
    for trace in figure.data:
        trace.showlegend = trace.line.color != _GREY and (legend or trace.line.color == _BEST)
    figure.update_layout(showlegend=True, yaxis_title=objective.name, xaxis_title="step")
    note = (
        "Red and thick: the best that finished. Grey and ending in ×: stopped early. Dotted: unfinished. Failed trials "
        "are left out."
    )
    return Plot(kind, objective.name, note, figure)


def _line(trial: TrialResult, points: int, colour: str, is_best: bool) -> dict[str, Any]:
    last = "x" if trial.status == "stopped" else "circle"
    colour = _BEST if is_best else colour
    return {
        "name": label(trial),
        "line": {
            "color": colour,
            "width": 3 if is_best else 1.3,
            "dash": "dot" if trial.status == "unfinished" else None,
        },
        "marker": {
            "color": colour,
            "symbol": ["circle"] * (points - 1) + [last],
            "size": 7 if trial.status == "stopped" else 5,
            "maxdisplayed": 0,
        },
    }


def _front(trials: Sequence[TrialResult], objectives: Sequence[Objective], study: optuna.Study) -> Plot:
    from optuna.visualization import plot_pareto_front

    kind = "Pareto front"
    if not _valued(study):
        return Plot(kind, "", "", None, _gap(study))
    figure = plot_pareto_front(study, target_names=[escape(one.name) for one in objectives])
    values = {tuple(trial.value(one) for one in objectives): trial for trial in trials}
    for trace in figure.data:
        axes = (trace.x, trace.y) if trace.type == "scatter" else (trace.x, trace.y, trace.z)
        found = [values[point] for point in zip(*axes)]
        best = "Best" in trace.hovertemplate
        _mark(trace, found, objectives)
        trace.marker.update(color=_BEST if best else _COLOURS[0], showscale=False)
        trace.update(name="on the front" if best else "behind it", showlegend=True)
    note = "On the front: no other trial is better in one objective without being worse in another. " + _HOLLOW
    return Plot(kind, "", note, figure)


def _mark(trace: Any, trials: Sequence[TrialResult], objectives: Sequence[Objective]) -> None:
    """Let the points of a plot tell which trials they are, and that some were stopped."""
    trace.text = [hover(trial, objectives) for trial in trials]
    trace.hovertemplate = "%{text}<extra></extra>"
    symbols = ["circle-open" if trial.status == "stopped" else "circle" for trial in trials]
    trace.marker.update(symbol=symbols, size=9, line={"width": 1.5, "color": None})


def _slices(
    trials: Sequence[TrialResult], objective: Objective, study: optuna.Study, space: Mapping[str, Domain]
) -> Plot:
    from optuna.visualization import plot_slice

    kind = "Each parameter"
    if gap := _gap(study):
        return Plot(kind, objective.name, "", None, gap)
    figure = plot_slice(study, target=_only, target_name=objective.name)
    for trace in figure.data:
        points = [trials[int(place)] for place in trace.marker.color]
        _mark(trace, points, [objective])
        colorbar = {"title": {"text": "trial"}, "thickness": 12, "x": 1.0, "xpad": 10}
        trace.marker.update(color=[trial.number for trial in points], colorscale="Viridis", colorbar=colorbar)
    figure.for_each_xaxis(lambda axis: _tick(axis, space))
    many = len(figure.data) > _SIDE_BY_SIDE
    figure.update_layout(width=220 * len(figure.data) if many else None)
    return Plot(kind, objective.name, _HOLLOW + " Colour: the order in which trials were begun.", figure)


def _tick(axis: Any, space: Mapping[str, Domain]) -> None:
    """Label the values of a parameter as they are written."""
    domain = space[axis.title.text]
    if domain.kind == "powers_of_two":
        axis.update(tickvals=domain.values, ticktext=[str(value) for value in domain.values])
    elif axis.type == "log":
        axis.update(dtick=1, exponentformat="power")
    elif axis.categoryarray:
        axis.update(tickvals=axis.categoryarray, ticktext=[escape(one.strip("'")) for one in axis.categoryarray])


def _only(trial: optuna.trial.FrozenTrial) -> float:
    return float(trial.values[0])


def _parallel(trials: Sequence[TrialResult], objectives: Sequence[Objective], study: optuna.Study) -> Plot:
    from optuna.visualization import plot_parallel_coordinate

    kind = "Parallel coordinates"
    if gap := _gap(study):
        return Plot(kind, "", "", None, gap)
    figure = plot_parallel_coordinate(study, target_name=objectives[0].name)
    figure.update_annotations(font_color="#1d2024", bgcolor="rgba(255,255,255,.8)")
    _write_out(figure, study)
    for trace in figure.data:
        if trace.mode == "lines":
            trace.update(opacity=0.85, line={"width": 1.6, "color": _darker(trace.line.color)})
        elif trace.marker.colorscale:
            trace.marker.colorscale = [(place, _darker(colour)) for place, colour in trace.marker.colorscale]
    stopped = sum(trial.status == "stopped" for trial in trials)
    note = "A line is a trial, the darker the better."
    if stopped:
        note += f" {stopped} were stopped early and are here with their last values."
    return Plot(kind, "", note, figure)


def _write_out(figure: Any, study: optuna.Study) -> None:
    """Label whole numbers on logarithmic axes as such: 1024, where Optuna has 1.02e+03."""
    found = _valued(study)
    for tick in figure.layout.annotations:
        field = figure.layout.xaxis.ticktext[int(tick.x)]
        numbers = [trial.params[field] for trial in found if field in trial.params]
        if numbers and _is_log_whole(found, field) and min(numbers) < max(numbers):
            tick.text = f"{min(numbers) * (max(numbers) / min(numbers)) ** tick.y:.0f}"


def _is_log_whole(trials: Sequence[optuna.trial.FrozenTrial], field: str) -> bool:
    from optuna.distributions import IntDistribution

    domains = [trial.distributions[field] for trial in trials if field in trial.distributions]
    return all(isinstance(one, IntDistribution) and one.log for one in domains)


def _darker(colour: str) -> str:
    """Return an ``rgb(r,g,b)`` that is seen on white: the lightest of Optuna's are not."""
    red, green, blue = (int(float(one) * 0.78) for one in colour.removeprefix("rgb(").removesuffix(")").split(","))
    return f"rgb({red},{green},{blue})"


def _importances(objective: Objective, study: optuna.Study) -> Plot:
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization import plot_param_importances

    kind = "What matters"
    if gap := _importance_gap(study):
        return Plot(kind, objective.name, "", None, gap)
    figure = plot_param_importances(study, FanovaImportanceEvaluator(seed=0), target=_only, target_name=objective.name)
    figure.update_layout(xaxis_title="share of the variance", yaxis_title="", showlegend=False)
    figure.update_traces(marker_color=_COLOURS[0], hovertemplate="%{y}: %{x:.3f}<extra></extra>")
    note = (
        "Share of the objective's variance that each parameter explains by itself (fANOVA on a random forest). Stopped "
        "trials count with their last values, so part of it is how soon they ended: a hint, not a measurement."
    )
    return Plot(kind, objective.name, note, figure, height=300)


def _importance_gap(study: optuna.Study) -> str:
    if gap := _gap(study):
        return gap
    found = _valued(study)
    if len(found) < LEAST_TRIALS:
        return f"{len(found)} trials have values; importances want {LEAST_TRIALS}."
    if len({trial.values[0] for trial in found}) == 1:
        return "All trials have the same value."
    everywhere = set.intersection(*(set(trial.params) for trial in found))
    varied = [name for name in everywhere if len({trial.params[name] for trial in found}) > 1]
    return "" if len(varied) > 1 else "Fewer than two parameters vary over the trials."
