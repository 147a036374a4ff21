"""The sweep's report: what it shows, that it shows it safely, and that a browser draws it; and the terminal's table."""

import base64
import hashlib
import html.parser
import json
import math
import random
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from raylab.storage import Folder
from raylab.tune.plots import LEAST_TRIALS, Plot, draw
from raylab.tune.report import REPORT, render_report, table, write_report
from raylab.tune.results import Objective, TrialResult
from raylab.tune.spaces import Domain
from raylab.tune.study import make_study

ENTITY, QUERY = Objective("validation/entity_HM"), Objective("validation/query_HM")
SPACE = {
    "optim.lr_decoder": Domain("loguniform", (1e-5, 1e-3)),
    "task.smoothing": Domain("uniform", (0, 0.3)),
    "batch": Domain("powers_of_two", (1024, 8192)),
    "parallel.strategy": Domain("choice", ("ddp", "fsdp")),
}
HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>"
STOPPED, FAILED, UNFINISHED = range(3, 24, 3), (5, 11, 17), (23,)


def make_trials(count: int = 24) -> list[TrialResult]:
    """Return trials of which smoothing alone decides the value."""
    drawn = random.Random(0)
    return [_make_trial(number, drawn) for number in range(count)]


def _make_trial(number: int, drawn: random.Random) -> TrialResult:
    values = {
        "optim.lr_decoder": 10 ** drawn.uniform(-5, -3),
        "task.smoothing": drawn.uniform(0, 0.3),
        "batch": 2 ** drawn.randint(10, 13),
        "parallel.strategy": drawn.choice(["ddp", "fsdp"]),
    }
    status = {**dict.fromkeys(STOPPED, "stopped"), **dict.fromkeys(FAILED, "failed"), 23: "unfinished"}
    last = {"finished": 100, "stopped": 40, "failed": 20, "unfinished": 60}[status.get(number, "finished")]
    points = [
        {
            "step": float(step),
            ENTITY.name: 0.6 - values["task.smoothing"] + step / 1e4,
            QUERY.name: values["task.smoothing"] + step / 1e4,
        }
        for step in range(20, last + 1, 20)
    ]
    return TrialResult(
        id=f"{number:05d}-{'<b>' if number == 0 else 'trial'}",
        number=number,
        values=values,
        status=status.get(number, "finished"),
        error=HOSTILE if number in FAILED else "",
        points=points,
        out=f"sweep/trials/{number}",
    )


class Page(html.parser.HTMLParser):
    """A page's elements, and the text from each to the next tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.handle_starttag(f"/{tag}", [])

    def handle_data(self, data: str) -> None:
        if self.texts:
            self.texts[-1] += data

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        found = zip(self.elements, self.texts)
        return [(attributes, text) for (name, attributes), text in found if name == tag]

    def by_id(self, name: str) -> str:
        found = zip(self.elements, self.texts)
        return next(text for (_, attributes), text in found if attributes.get("id") == name)


@pytest.fixture(scope="module")
def trials() -> list[TrialResult]:
    return make_trials()


@pytest.fixture(scope="module")
def text(trials: list[TrialResult]) -> str:
    return render_report("sweep", trials, [ENTITY, QUERY], SPACE)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_all_trials_are_counted(page: Page) -> None:
    counts = {name: int(page.by_id(name)) for name in ("trials", "finished", "stopped", "failed", "unfinished")}
    assert counts == {"trials": 24, "finished": 13, "stopped": 7, "failed": 3, "unfinished": 1}


def test_stopped_trials_are_said_to_have_ended_early_and_where(text: str) -> None:
    assert "7 trials ended early" in text
    assert "(40 to 40)" in text


def test_a_sweep_that_is_not_at_its_end_says_so_above_all(trials: list[TrialResult]) -> None:
    killed = replace(trials[1], status="unfinished")
    said = "Cut after 2 hours: <3> of 5."
    text = render_report("sweep", [killed], [ENTITY], {}, said)
    assert Page(text).by_id("note") == said
    assert "the same line goes on" not in text
    assert "the same line goes on" in render_report("sweep", [killed], [ENTITY], {})


def test_every_failure_has_its_reason(text: str) -> None:
    section = text.split('<section id="failures">')[1].split("</section>", maxsplit=1)[0]
    assert section.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;") == len(FAILED)


def test_nothing_from_outside_becomes_an_element(page: Page, text: str) -> None:
    assert HOSTILE not in text
    assert not page.of("img")
    assert not page.of("b")
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    drawn = json.loads(page.by_id("figures"))
    curve = next(trace for trace in drawn["plot-1"]["data"] if trace["name"].startswith("#0 "))
    assert "&lt;b&gt;" in curve["name"]
    assert "&lt;b&gt;" in curve["hovertemplate"]


def test_only_the_scripts_that_are_meant_may_run_and_nothing_may_load(page: Page) -> None:
    policy = next(one["content"] for one, _ in page.of("meta") if one.get("http-equiv") == "Content-Security-Policy")
    scripts = [text for attributes, text in page.of("script") if "type" not in attributes]
    hashes = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src " + " ".join(f"'sha256-{one}'" for one in hashes) + ";")
    assert "connect-src" not in policy
    assert len(scripts) == 2
    assert not [one for _, one in page.elements if "src" in one]
    assert all((one["href"] or "").startswith("#") for one, _ in page.of("a"))
    assert [one["href"] for one, _ in page.of("link")] == ["data:,"]


def test_the_same_trials_give_the_same_bytes(trials: list[TrialResult], text: str) -> None:
    assert render_report("sweep", trials, [ENTITY, QUERY], SPACE) == text


def test_it_is_written_beside_the_trials(trials: list[TrialResult], tmp_path: Path) -> None:
    write_report(Folder(str(tmp_path / "a&b")), trials, [ENTITY], SPACE)
    assert "<h1>a&amp;b</h1>" in (tmp_path / "a&b" / REPORT).read_text()


def by_kind(plots: Sequence[Plot]) -> dict[str, list[Plot]]:
    return {one.kind: [plot for plot in plots if plot.kind == one.kind] for one in plots}


def test_each_kind_of_plot_is_drawn_for_each_objective(trials: list[TrialResult]) -> None:
    plots = by_kind(draw(trials, [ENTITY, QUERY], SPACE))
    assert {kind: len(found) for kind, found in plots.items()} == {
        "Learning curves": 2,
        "Pareto front": 1,
        "Each parameter": 2,
        "Parallel coordinates": 1,
        "What matters": 2,
    }
    assert all(plot.figure is not None and not plot.missing for found in plots.values() for plot in found)
    assert "Pareto front" not in by_kind(draw(trials, [ENTITY], SPACE))


def test_what_decides_the_value_matters_most(trials: list[TrialResult]) -> None:
    bars = by_kind(draw(trials, [ENTITY], SPACE))["What matters"][0].figure.data[0]
    shares = dict(zip(bars.y, bars.x))
    assert shares["task.smoothing"] > 0.8
    assert set(shares) == set(SPACE)


def test_stopped_trials_are_in_the_plots_and_are_hollow(trials: list[TrialResult]) -> None:
    panels = by_kind(draw(trials, [ENTITY], SPACE))["Each parameter"][0].figure.data
    assert len(panels) == len(SPACE)
    for panel in panels:
        hollow = {number for number, symbol in zip(panel.marker.color, panel.marker.symbol) if symbol == "circle-open"}
        assert hollow == set(STOPPED)
        assert len(panel.x) == 24 - len(FAILED) - len(UNFINISHED)


def test_the_best_curve_stands_out_and_stopped_ones_end_in_a_cross(trials: list[TrialResult]) -> None:
    curves = by_kind(draw(trials, [ENTITY], SPACE))["Learning curves"][0].figure.data
    assert len(curves) == 24 - len(FAILED)
    best = min((one for one in trials if one.status == "finished"), key=lambda one: one.values["task.smoothing"])
    assert [one.name for one in curves if one.line.width == 3] == [f"#{best.number} {best.id}"]
    crosses = [one for one in curves if one.marker.symbol[-1] == "x"]
    assert len(crosses) == len(STOPPED)


NO_VALUES = {"points": (), "status": "failed"}
SAME = {"points": ({"step": 10.0, ENTITY.name: 0.5},)}


@pytest.mark.parametrize(
    ("count", "change", "space", "reasons"),
    [
        (0, {}, SPACE, {"Learning curves": "looked at", "What matters": "No trial", "Each parameter": "No trial"}),
        (12, NO_VALUES, SPACE, {"Learning curves": "looked at", "Parallel coordinates": "No trial"}),
        (1, {}, {}, {"Each parameter": "no parameters", "Parallel coordinates": "no parameters"}),
        (LEAST_TRIALS - 1, {}, SPACE, {"What matters": f"want {LEAST_TRIALS}"}),
        (24, SAME, SPACE, {"What matters": "the same value"}),
        (24, {}, {"batch": SPACE["batch"]}, {"What matters": "Fewer than two"}),
    ],
)
def test_where_there_is_no_plot_the_page_says_why(
    count: int, change: dict[str, Any], space: Mapping[str, Domain], reasons: dict[str, str]
) -> None:
    trials = [replace(one, **change) for one in make_trials(count)]
    plots = by_kind(draw(trials, [ENTITY], space))
    for kind, reason in reasons.items():
        assert plots[kind][0].figure is None
        assert reason in plots[kind][0].missing
    text = render_report("sweep", trials, [ENTITY], space)
    assert all(plots[kind][0].missing in text for kind in reasons)


def test_a_value_that_is_not_a_number_takes_the_trial_out_of_the_plots_only(trials: list[TrialResult]) -> None:
    odd = replace(trials[0], points=({"step": 100.0, ENTITY.name: math.nan},))
    study = make_study([odd, *trials[1:]], [ENTITY], SPACE)
    assert study.trials[0].state == optuna.trial.TrialState.FAIL
    text = render_report("sweep", [odd, *trials[1:]], [ENTITY], SPACE)
    assert "00000-&lt;b&gt;" in text


def test_values_that_left_the_space_are_shown_all_the_same(trials: list[TrialResult]) -> None:
    moved = replace(trials[0], values=trials[0].values | {"batch": 12_000, "optim.lr_decoder": 2e-3})
    study = make_study([moved, *trials[1:]], [ENTITY], SPACE)
    assert study.trials[0].params["batch"] == 12_000
    assert study.trials[1].distributions["optim.lr_decoder"].high == 2e-3


def test_lists_and_three_objectives_are_drawn_too(trials: list[TrialResult]) -> None:
    betas = ([0.9, 0.99], [0.9, 0.999])
    some = [
        replace(
            one,
            values={"optim.betas": betas[one.number % 2]},
            points=[point | {"loss": 1 / point["step"]} for point in one.points],
        )
        for one in trials
    ]
    plots = by_kind(draw(some, [ENTITY, QUERY, Objective("loss", "min")], {"optim.betas": Domain("choice", betas)}))
    assert plots["Pareto front"][0].figure.data[0].type == "scatter3d"
    axis = plots["Each parameter"][2].figure.layout.xaxis
    assert set(axis.ticktext) == {"[0.9, 0.99]", "[0.9, 0.999]"}


def test_table_ranks_finished_trials_first_and_aligns_numbers(trials: list[TrialResult]) -> None:
    lines = table(trials, [ENTITY, QUERY], top=15).splitlines()
    assert lines[0].split() == ["trial", "status", "step", ENTITY.name, QUERY.name, *SPACE]
    rows = [line.split() for line in lines[1:-1]]
    assert [row[1] for row in rows] == ["finished"] * 13 + ["stopped"] * 2
    values = [float(row[3]) for row in rows[:13]]
    assert values == sorted(values, reverse=True)
    ends = {line.index(row[3]) + len(row[3]) for line, row in zip(lines[1:-1], rows)}
    assert ends == {lines[0].index(ENTITY.name) + len(ENTITY.name)}
    assert lines[-1] == "24 trials: 13 finished, 7 stopped, 1 unfinished, 3 failed"


def test_table_of_what_is_to_be_low_has_the_lowest_first_and_no_control_characters(trials: list[TrialResult]) -> None:
    odd = replace(trials[0], id="0\x1b[31m\nred")
    shown = table([odd, *trials[1:]], [Objective(ENTITY.name, "min")], top=24)
    values = [float(line.split()[-5]) for line in shown.splitlines()[1:14]]
    assert values == sorted(values)
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 26


def test_table_without_trials_has_a_head_and_a_count() -> None:
    assert table([], [ENTITY]).splitlines()[-1] == "0 trials: 0 finished, 0 stopped, 0 unfinished, 0 failed"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_draws_it_without_errors_or_requests(text: str, tmp_path: Path) -> None:
    (tmp_path / REPORT).write_text(text)
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync --enable-logging=stderr"
    flags += " --disable-background-networking --disable-component-update --v=0 --virtual-time-budget=4000"
    places = [f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={tmp_path / 'net.json'}"]
    line = ["chromium", *flags.split(), *places, "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom"]
    shown = subprocess.run(
        [*line, f"file://{tmp_path / REPORT}"], capture_output=True, text=True, timeout=120, check=True
    )
    places_drawn = re.findall(r'class="place[^"]*js-plotly-plot', shown.stdout)
    assert len(places_drawn) == 8
    assert shown.stdout.count('<svg class="main-svg"') >= 8
    assert shown.stdout.count('class="js-line"') >= 2 * (24 - len(FAILED))
    assert shown.stdout.count('class="point"') > 100
    assert "could not be drawn" not in shown.stdout.split("<script", maxsplit=1)[0]
    assert "CONSOLE" not in shown.stderr
    asked = set(re.findall(r'"url":"https?://([^/"]+)', (tmp_path / "net.json").read_text(errors="replace")))
    assert not [host for host in asked if not host.endswith(("google.com", "googleapis.com", "gvt1.com"))]
