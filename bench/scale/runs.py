"""Runs `jobs/label.py --recipe miniworld`, a whole process pinned to cores, and adds up what its processes used."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from quiet import busy_s, settled

PERIOD_S = 0.5


class Watch(threading.Thread):
    """Adds up the CPU seconds of a job's processes by what they are."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.process, self.seen, self.over = process, {}, threading.Event()
        self.kinds: dict[int, str] = {process.pid: "driver"}

    def run(self) -> None:
        """Look twice a second: a process that ends between two looks loses so much at most."""
        while not self.over.wait(PERIOD_S):
            self.look()

    def look(self) -> None:
        """Note what each process has used by now."""
        try:
            family = [self.process, *self.process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for one in family:
            try:
                times = one.cpu_times()
                self.seen[one.pid] = times.user + times.system
                kind = kind_of(" ".join(one.cmdline()))
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
            if one.pid != self.process.pid and (kind != "other" or one.pid not in self.kinds):
                self.kinds[one.pid] = kind

    def seconds(self) -> dict[str, float]:
        """Return kind -> CPU seconds."""
        found = dict.fromkeys(("driver", "actor", "reader", "ray", "other"), 0.0)
        for pid, used in self.seen.items():
            found[self.kinds[pid]] += used
        return found


def kind_of(line: str) -> str:
    """Tell what a process is by its command line; Ray's workers are renamed by what they do."""
    if "StageWorker" in line or "MapWorker" in line:
        return "actor"
    if "Read" in line or "read_segment" in line:
        return "reader"
    if any(name in line for name in ("raylet", "gcs_server", "agent.py", "log_monitor", "monitor.py")):
        return "ray"
    return "other"


def job(folder: Path, kb: str, rows: int, seed: int, cores: int, *, watch: bool = False) -> dict[str, Any]:
    """Label on so many cores, an actor a core; return what it took."""
    out = str(folder / f"{rows}-{seed}-{cores}-{time.time_ns()}")
    pools = {"--pools.mentions.min-actors": cores, "--pools.mentions.max-actors": cores}
    if cores == 1:
        pools["--pools.mentions.num-cpus"] = 1  # so Ray is told of two CPUs here too
    line = ["taskset", "-c", ",".join(map(str, range(cores))), sys.executable, "jobs/label.py", "--recipe", "miniworld"]
    line += ["--source", f"miniworld://?rows={rows}&seed={seed}", "--kb", kb, "--out", out]
    line += [str(word) for pair in pools.items() for word in pair]
    before = settled()
    others = busy_s()
    started = time.perf_counter()
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    watching = Watch(psutil.Process(process.pid))
    if watch:
        watching.start()
    if process.wait():
        raise SystemExit(f"the job failed: {' '.join(line)}")
    wall = time.perf_counter() - started
    watching.over.set()
    return told(out, rows, wall) | {
        "cpu": watching.seconds(),
        "busy_before": before,
        "busy_s": busy_s() - others,
        "cores": cores,
    }


def told(out: str, rows: int, wall: float) -> dict[str, Any]:
    """Return what a finished run says of itself."""
    clock = json.loads(Path(out, "clock.json").read_text())
    summary = json.loads(Path(out, "summary.json").read_text())
    steps = {one["name"]: one["cpu_seconds"] for one in summary["steps"]}
    working = clock["last_rows"] - clock["first_rows"]
    return {
        "out": out,
        "rows": rows,
        "wall_s": round(wall, 2),
        "run_s": summary["seconds"],
        "clock": clock,
        "step_cpu_s": steps,
        "rows_per_s": (rows - 256) / working,
        "rows_per_s_whole": rows / wall,
    }


def made_kb(folder: Path) -> str:
    """Build the mini-world's knowledge base."""
    kb = str(folder / "kb")
    build = [sys.executable, "jobs/build_kb.py", "--catalogues", "miniworld://", "--out", kb]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    return kb
