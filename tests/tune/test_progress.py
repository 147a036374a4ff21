"""What is told of a sweep while it runs, and what it leaves when its hours are over."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from wandb_files import read_wandb, wandb_folders

from raylab.errors import Interrupted, RaylabError
from raylab.recipes.train import TRAIN
from raylab.storage import Folder
from raylab.tune import progress
from raylab.tune.finish import finish, is_whole, write_interim
from raylab.tune.plan import ScheduleConfig, Sweep, SweepConfig
from raylab.tune.progress import Interim, Progress
from raylab.tune.results import FIRST, note, read_trials
from raylab.tune.run import Told
from raylab.tune.tracked import track

TOP1 = "held_out/text_top1"
SPACE = {"": "none", "optim.rate": "loguniform(1e-4, 1e-2)"}


@pytest.fixture(autouse=True)
def plain_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page has tests of its own, and takes seconds."""

    def write(out: Folder, trials: Any, objectives: Any, space: Any, note: str = "") -> None:
        out.write_json("sweep.html", {"trials": len(trials), "note": note})

    monkeypatch.setattr("raylab.tune.report.write_report", write)


def sweep(out: Path, samples: int = 3, project: str = "", **config: Any) -> Sweep:
    made = Sweep.make(TRAIN["mofi_miniworld"](), SweepConfig(samples=samples, objective=(TOP1,), **config), SPACE)
    train = made.train
    train = replace(train, out=str(out), track=replace(train.track, project=project))
    return replace(made, train=train)


def leave(out: Path, name: str, status: str, *values: float) -> Path:
    """Leave what a trial leaves."""
    folder = out / "trials" / name
    note(Folder(str(folder)), {"optim.rate": 1e-3 * (1 + int(name))})
    looks = [json.dumps({"step": 100.0 * (i + 1), TOP1: value}) for i, value in enumerate(values)]
    (folder / "looks.jsonl").write_text("\n".join(looks))
    (folder / "config.json").write_text(json.dumps({"parallel": {"workers": 1}}))
    for step in (100, 200):
        (folder / "checkpoints" / f"step-{step:010d}").mkdir(parents=True)
    (folder / "checkpoints" / "LAST.json").write_text('{"step": 200}')
    if status != "unfinished":
        (folder / "end.json").write_text(json.dumps({"status": status, "error": "nan" if status == "failed" else ""}))
    return folder


def kept(out: Path) -> list[str]:
    """Return the trials that have checkpoints."""
    return sorted(path.parent.name for path in out.glob("trials/*/checkpoints"))


def test_lines_tell_how_many_are_at_their_end_and_the_best_of_those_that_finished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="raylab")
    told = Progress(sweep(tmp_path, samples=4), Folder(str(tmp_path)), lambda: None)
    for name in ("00000", "00001", "00002"):
        note(Folder(f"{tmp_path}/trials/{name}"), {"optim.rate": 2e-3})
        told.begun(name, {})
    for name, value in (("00000", 0.25), ("00001", 0.75), ("00002", 0.5)):
        told.looked(name, {"step": 50, TOP1: value})
    (tmp_path / "trials/00000/end.json").write_text('{"status": "finished"}')
    told.ended("00000")
    told.ended("00001")  # nothing says how: others did better
    (tmp_path / "trials/00002/end.json").write_text('{"status": "finished"}')
    told.ended("00002")
    told.close()
    assert f"trial {FIRST}: optim.rate 0.002 (the recipe's own)" in caplog.messages
    assert "trial 00001: optim.rate 0.002" in caplog.messages
    first, second, third = (line.partition("\n  ")[2] for line in caplog.messages if "at their end" in line)
    assert first == f"1 of 4 trials at their end (1 finished); best so far {TOP1} 0.25, trial 00000"
    assert second == f"2 of 4 trials at their end (1 finished, 1 stopped); best so far {TOP1} 0.25, trial 00000"
    assert third == f"3 of 4 trials at their end (2 finished, 1 stopped); best so far {TOP1} 0.5, trial 00002"
    assert json.loads((tmp_path / "trials/00001/end.json").read_text()) == {"status": "stopped"}


def test_a_trial_that_the_hosts_memory_monitor_killed_too_often_failed_and_one_that_died_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = Progress(sweep(tmp_path, samples=2), Folder(str(tmp_path)), lambda: None)
    for name in ("00000", "00001"):
        note(Folder(f"{tmp_path}/trials/{name}"), {"optim.rate": 2e-3})
    error = "Failure # 1 (now)\n1 worker(s) were killed due to the node running low on memory.\n"
    Told(told).on_trial_error(1, [], Died("00000", error + "Failure # 2 (now)\nThe actor died.\n"))
    Told(told).on_trial_error(1, [], Died("00001", "Failure # 1 (now)\nThe actor died.\n" + error))
    told.close()
    plain, lacked = read_trials(Folder(str(tmp_path)))
    assert plain.status == "unfinished"
    assert "trial 00000 died: 2 (now) The actor died." in caplog.text
    assert lacked.status == "failed"
    assert lacked.error.startswith("Out of memory, the host's")


class Died(str):
    """A trial as Ray Tune has it in the end: its name, and the texts of what its process died of."""

    def __new__(cls, name: str, error: str) -> Died:
        made = super().__new__(cls, name)
        made.error = error
        return made

    error: str

    def get_error(self) -> RuntimeError:
        return RuntimeError(self.error)


def test_interim_reports_are_written_aside_and_not_one_after_the_other() -> None:
    written, goes = [], Event()

    def write() -> None:
        goes.wait(10)
        written.append(1)

    interim = Interim(write)
    interim.ask()
    interim.ask()  # one is being written
    goes.set()
    interim.close()
    interim.ask()  # one was written a moment ago
    interim.close()
    assert written == [1]


def test_an_interim_report_that_fails_ends_nothing_and_may_take_a_share_of_the_time_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "LEAST_SECONDS", 0.0)
    calls = []

    def write() -> None:
        calls.append(time.monotonic())
        time.sleep(0.01)
        raise OSError("no space left")

    interim = Interim(write)
    interim.ask()
    interim.close()
    interim.ask()  # a hundredth of a second, at a fiftieth of the time: half a second
    interim.close()
    assert len(calls) == 1
    assert "the interim report was not written: OSError: no space left" in caplog.text


def test_while_it_runs_there_are_plots_the_best_recipe_and_no_checkpoints_that_nobody_needs(tmp_path: Path) -> None:
    for name, status, value in (
        ("00000", "finished", 0.3),
        ("00001", "finished", 0.6),
        ("00002", "stopped", 0.9),
        ("00003", "failed", 0.1),
        ("00004", "unfinished", 0.2),
    ):
        leave(tmp_path, name, status, 0.0, value)
    made = sweep(tmp_path, samples=8)
    write_interim(made, Folder(str(tmp_path)))
    assert kept(tmp_path) == ["00001", "00004"]  # the best that finished, and one that goes on
    page = json.loads((tmp_path / "sweep.html").read_text())
    assert page["trials"] == 5
    assert "4 of 8 trials at their end" in page["note"]
    assert json.loads((tmp_path / "best.json").read_text())["optim"]["rate"] == 2e-3
    assert len(json.loads((tmp_path / "trials.json").read_text())) == 5


@pytest.mark.parametrize(
    ("settings", "left"),
    [({"keep_checkpoints": "all"}, ["00000", "00001"]), ({"schedule": ScheduleConfig("pbt")}, ["00000", "00001"])],
)
def test_checkpoints_stay_where_they_are_asked_for_and_where_others_may_go_on_from_them(
    tmp_path: Path, settings: dict[str, Any], left: list[str]
) -> None:
    for name in ("00000", "00001"):
        leave(tmp_path, name, "finished", 0.1, 0.2)
    write_interim(sweep(tmp_path, **settings), Folder(str(tmp_path)))
    assert kept(tmp_path) == left


def test_a_sweep_whose_hours_are_over_ends_with_what_finished_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leave(tmp_path, "00000", "finished", 0.1, 0.4)
    leave(tmp_path, "00001", "unfinished", 0.6)
    made, out = sweep(tmp_path, hours=2.0), Folder(str(tmp_path))
    with pytest.raises(
        Interrupted, match=r"2 of 3 trials .* Until then best.json is trial 00000"
    ):  # its process was killed
        finish(made, out)
    summary = finish(made, out, cut=True)
    assert (summary["cut_after_hours"], summary["unfinished"], summary["best"]) == (2.0, 2, "00000")
    said = "Cut after 2 hours (--hours): 2 of 3 trials are not at their end. The same line goes on with them."
    assert said in caplog.text
    assert json.loads((tmp_path / "sweep.html").read_text())["note"] == said
    assert kept(tmp_path) == ["00000", "00001"]
    assert json.loads((tmp_path / "best.json").read_text())["optim"]["rate"] == 1e-3
    assert not is_whole(made, json.loads((tmp_path / "summary.json").read_text()))


def test_hours_in_which_none_finished_leave_no_best(tmp_path: Path) -> None:
    leave(tmp_path, "00000", "unfinished", 0.6)
    with pytest.raises(Interrupted, match=r"Cut after 1 hour \(--hours\): 3 of 3 .* None finished before"):
        finish(sweep(tmp_path, hours=1), Folder(str(tmp_path)), cut=True)
    assert not (tmp_path / "summary.json").exists()


def test_a_sweep_is_whole_until_more_samples_are_asked_for(tmp_path: Path) -> None:
    for name, status in (("00000", "finished"), ("00001", "stopped"), ("00002", "failed")):
        leave(tmp_path, name, status, 0.1, 0.4)
    made, out = sweep(tmp_path), Folder(str(tmp_path))
    summary = finish(made, out, cut=True)  # its hours were over when it was
    assert "cut_after_hours" not in summary
    assert (summary["asked"], summary["finished"], summary["stopped"], summary["failed"]) == (3, 1, 1, 1)
    assert kept(tmp_path) == ["00000"]
    assert is_whole(made, summary)
    assert not is_whole(sweep(tmp_path, samples=4), summary)


def test_where_none_finished_the_commonest_reason_is_told(tmp_path: Path) -> None:
    for name in ("00000", "00001", "00002"):
        leave(tmp_path, name, "failed")
    with pytest.raises(RaylabError, match="Most often: nan"):
        finish(sweep(tmp_path), Folder(str(tmp_path)))


def test_wandb_is_told_of_the_sweep_itself_in_the_group_of_its_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "rates"
    leave(out, "00000", "finished", 0.1, 0.4)
    leave(out, "00001", "failed")
    for file in ("sweep.json", "best.json", "trials.json", "sweep.html"):
        (out / file).write_text(json.dumps({"file": file}))
    made, folder = sweep(out, samples=2, project="raylab"), Folder(str(out))
    summary = {"finished": 1, "failed": 1, "best": "00000", "values": {"optim.rate": 1e-3}, "objective": {TOP1: 0.4}}
    track(made, folder, read_trials(folder), summary)
    (kept_there,) = wandb_folders(out)
    found = read_wandb(kept_there)
    assert (found.name, found.group, found.job_type, found.exit_code) == ("rates", "rates", "tune", 0)
    rows = found.table("trials")
    assert [(row["trial"], row["status"], row["error"]) for row in rows] == [
        ("00000", "finished", ""),
        ("00001", "failed", "nan"),
    ]
    assert (rows[0][TOP1], rows[0]["optim.rate"]) == (0.4, 1e-3)
    assert (found.summary["best"], found.summary[f"best/{TOP1}"]) == ("00000", 0.4)
    for file in ("sweep.json", "best.json", "trials.json", "sweep.html"):
        assert json.loads((kept_there / "files" / file).read_text()) == {"file": file}
        assert file in found.files
