"""The dashboard in W&B: what is built, that nothing is sent offline, what is sent online, and that W&B may be down.

And jobs/sweep.yaml: what W&B's own agent makes of it.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from raylab.config import leaves, parse, to_dict
from raylab.recipes.train import TRAIN, git_miniworld
from raylab.tune import dashboard
from raylab.tune.plan import HELD_OUT
from raylab.tune.results import Objective
from raylab.tune.spaces import SPACES, parse_space

OBJECTIVES = [Objective("validation/entity_HM"), Objective("held_out/loss", "min")]
SPACE = parse_space(SPACES["git_large"])
KEYS = ["task.encoder_rate", "optim.rate", "task.smoothing", "batch"]
SWEEP = Path(__file__).parents[2] / "jobs" / "sweep.yaml"


def spec(group: str = "rates") -> dict[str, Any]:
    view = dashboard.build("raylab", group, OBJECTIVES, SPACE, entity="team")._to_model()
    return json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))["section"]


def panels(section: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    found = [panel for one in section["panelBankConfig"]["sections"] for panel in one["panels"]]
    return [panel["config"] for panel in found if panel["viewType"] == kind]


def accessor(key: str) -> str:
    head, dot, rest = key.partition(".")
    return f"config:{head}.value{dot}{rest}"


def test_keys_are_those_of_a_runs_config() -> None:
    config: Any = to_dict(git_miniworld())
    for key in KEYS:
        value = config
        for part in key.split("."):
            value = value[part]
        assert isinstance(value, (int, float))


def test_each_objective_is_drawn_over_the_steps_and_over_each_parameter() -> None:
    section = spec()
    lines = panels(section, "Run History Line Plot")
    assert [(one["xAxis"], one["metrics"]) for one in lines] == [("step", [one.name]) for one in OBJECTIVES]
    drawn = {(one["xAxis"], one["yAxis"]): one.get("xAxisLogScale", False) for one in panels(section, "Scatter Plot")}
    assert drawn == {
        (accessor(key), f"summary:{one.name}"): key != "task.smoothing" for one in OBJECTIVES for key in KEYS
    }


def test_parallel_coordinates_importances_and_a_comparison_are_there() -> None:
    section = spec()
    columns = panels(section, "Parallel Coordinates Plot")[0]["columns"]
    assert [one["accessor"] for one in columns] == [*map(accessor, KEYS), *(f"summary:{o.name}" for o in OBJECTIVES)]
    assert [one.get("inverted", False) for one in columns] == [False] * 5 + [True]
    assert [one["targetKey"] for one in panels(section, "Parameter Importance")] == [one.name for one in OBJECTIVES]
    assert len(panels(section, "Run Comparer")) == 1


@pytest.mark.parametrize("group", ["rates", 'it\'s lr=1e-3 <a> "b" 🎈'])
def test_runs_are_those_of_the_group_and_the_best_come_first(group: str) -> None:
    runs = spec(group)["runSets"][0]
    of_group, of_trials = (
        {"key": {"section": "run", "name": name}, "op": "=", "value": value, "disabled": False}
        for name, value in {"group": group, "jobType": "train"}.items()  # the sweep's own run has no curves
    )
    assert runs["filters"]["filters"] == [of_group, of_trials | {"connector": "AND"}]
    assert runs["sort"]["keys"] == [{"key": {"section": "summary", "name": OBJECTIVES[0].name}, "ascending": False}]
    assert set(map(accessor, KEYS)) <= set(runs["runFeed"]["columnOrder"])


def test_what_is_to_be_low_is_ordered_upwards() -> None:
    workspace = dashboard.build("raylab", "rates", OBJECTIVES[::-1], SPACE)
    assert workspace.runset_settings.order[0].ascending


@contextmanager
def server(*statuses: int) -> Iterator[tuple[str, list[Any]]]:
    """Stand in for W&B: answer each request with the next status (then with the last); 200: as its GraphQL does.

    Yields:
        Its address, and what it was asked.
    """
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.path == "/graphql":
                asked.append(json.loads(body))
            self.send_response(statuses[min(len(asked), len(statuses)) - 1])
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer(asked[-1]["query"]) if asked else {}).encode())

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}", asked
    finally:
        listening.shutdown()
        listening.server_close()


def answer(query: str) -> dict[str, Any]:
    if "upsertView" in query:
        return {"data": {"upsertView": {"view": {"id": "1", "name": "nw-saved-v"}, "inserted": True}}}
    teams: dict[str, Any] = {"edges": []}
    viewer = {"id": "1", "entity": "team", "username": "ada", "email": "", "flags": "{}", "teams": teams}
    return {"data": {"viewer": viewer | {"admin": False, "name": "Ada", "apiKeys": {"edges": []}}}}


SAVES = """
import json, logging, sys, time
logging.basicConfig(level="WARNING", format="%(message)s")
from raylab.tune import dashboard
from raylab.tune.results import Objective
from raylab.tune.spaces import parse_space
workspace = dashboard.build("raylab", "rates", [Objective("loss", "min")], parse_space({"batch": "choice(1, 2)"}))
began = time.monotonic()
urls = [dashboard.save(workspace, seconds=float(seconds)) for seconds in sys.argv[1:]]
print(json.dumps({"urls": urls, "seconds": time.monotonic() - began}))
"""


def save(tmp_path: Path, *seconds: float, **environment: str) -> tuple[dict[str, Any], str]:
    """Save a dashboard once or more in a process of its own, as W&B keeps its settings for the whole of one."""
    base = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}
    done = subprocess.run(
        [sys.executable, "-c", SAVES, *map(str, seconds)],
        env=base | {"PYTHONPATH": str(SWEEP.parents[1])} | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize("mode", [{}, {"WANDB_MODE": "offline", "WANDB_API_KEY": "0" * 40}])
def test_offline_nothing_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: dict[str, str]) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in mode.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("raylab.tune.dashboard._save", lambda workspace: pytest.fail("something is sent"))
    assert dashboard.save(dashboard.build("raylab", "rates", OBJECTIVES, SPACE)) is None


def test_a_key_that_is_refused_is_warned_of_and_one_that_is_not_saves_for_its_own_entity(tmp_path: Path) -> None:
    with server(401, 200) as (address, asked):
        done, said = save(tmp_path, 60, 60, WANDB_BASE_URL=address, WANDB_API_KEY="0" * 40)
    saved = next(one["variables"] for one in asked if "upsertView" in one["query"])
    assert (saved["entityName"], saved["projectName"], saved["type"]) == ("team", "raylab", "project-view")
    assert "Parallel Coordinates Plot" in saved["spec"]
    assert done["urls"][0] is None
    assert done["urls"][1].endswith("/team/raylab?nw=saved"), said
    assert said.count("W&B did not take the dashboard 'Sweep rates'") == 1
    assert "401" in said


@pytest.mark.slow
def test_a_server_that_fails_costs_a_warning_and_bounded_time(tmp_path: Path) -> None:
    with server(500) as (address, asked):
        done, said = save(tmp_path, 1.5, WANDB_BASE_URL=address, WANDB_API_KEY="0" * 40)
    assert asked
    assert done["urls"] == [None]
    assert done["seconds"] < 20
    assert "W&B did not take the dashboard 'Sweep rates': no answer in 1.5 s" in said
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def sweep() -> dict[str, Any]:
    from wandb.sdk.launch.sweeps.utils import load_sweep_config

    found = load_sweep_config(str(SWEEP))
    assert found is not None
    return found


def line(sweep: dict[str, Any], drawn: dict[str, Any]) -> list[str]:
    """Return the command line that W&B's agent would start, by the agent's own functions."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    args = create_sweep_command_args({"args": {name: {"value": value} for name, value in drawn.items()}})
    args |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [sweep["program"]]}
    found: list[str] = []
    for part in create_sweep_command(list(sweep["command"])):
        found += args[part[2:-1]] if part.startswith("${") else [str(part)]
    return found


def test_the_sweep_file_has_what_wandb_asks_for(sweep: dict[str, Any]) -> None:
    assert sweep["method"] == "bayes"
    assert sweep["metric"] == {"name": HELD_OUT["GitTask"], "goal": "maximize"}
    assert sweep["early_terminate"]["type"] == "hyperband"
    assert (SWEEP.parent / "tune.py").exists()
    assert sweep["program"] == "jobs/tune.py"
    known = {"program", "method", "metric", "parameters", "early_terminate", "command", "project", "run_cap", "name"}
    assert set(sweep) <= known | {"description"}


def test_its_space_is_the_recipes_own_by_wandbs_own_reader(sweep: dict[str, Any]) -> None:
    from wandb.sdk.sweeps.scheduler.optuna import search_space_from_sweep_config

    space = parse_space(SPACES["git_miniworld"])
    read = search_space_from_sweep_config(sweep["parameters"])
    assert set(read) == set(space) <= {name for name, _ in leaves(git_miniworld())}
    assert (read["optim.rate"].low, read["optim.rate"].high) == space["optim.rate"].args  # type: ignore[attr-defined]
    assert read["optim.rate"].log  # type: ignore[attr-defined]
    smoothing = read["task.smoothing"]
    assert (smoothing.low, smoothing.high) == space["task.smoothing"].args  # type: ignore[attr-defined]
    assert read["batch"].choices == space["batch"].values  # type: ignore[attr-defined]


def test_its_line_starts_one_trial_with_what_wandb_draws_in_a_folder_of_its_own(
    sweep: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    started = line(sweep, {"optim.rate": 0.001, "task.smoothing": 0.1, "batch": 16})
    names = {"WANDB_SWEEP_ID": "abc", "WANDB_RUN_ID": "r 1"}
    done = subprocess.run(
        started, env={"PATH": f"{tmp_path}:/usr/bin:/bin"} | names, capture_output=True, text=True, check=True
    )
    given = done.stdout.splitlines()
    assert given[0] == "jobs/tune.py"
    assert given[given.index("--samples") + 1] == "1"
    assert given[given.index("--space") + 1] == "none"
    own = [given.index(flag) for flag in ("--samples", "--space", "--schedule.scheduler")]
    rest = [one for place, one in enumerate(given[1:], 1) if place not in {*own, *(place + 1 for place in own)}]
    config = parse(TRAIN, "git_miniworld", rest, "")
    assert (config.optim.rate, config.task.smoothing, config.batch) == (0.001, 0.1, 16)  # type: ignore[attr-defined]
    assert config.out.endswith("abc/r 1")
    assert replace(config, out="").labels


def test_its_numbers_are_numbers(sweep: dict[str, Any]) -> None:
    """YAML 1.1 reads 1e-3 as a text."""
    for parameter in sweep["parameters"].values():
        bounds = [parameter[name] for name in ("min", "max") if name in parameter]
        assert all(isinstance(one, (int, float)) for one in bounds + parameter.get("values", []))
    assert yaml.safe_load("1e-3") == "1e-3"
