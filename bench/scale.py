"""Measures what `raylab/scale` reckons with, and holds its predictions against real labeling runs.

    .venv/bin/python bench/scale.py calibrate > rates.json      # small runs on one core and two: steps and fixed costs
    .venv/bin/python bench/scale.py check rates.json [CASE]     # runs of other rows on 1 and 2 cores, on 1 to 3 nodes
    .venv/bin/python bench/scale.py model                       # both
    .venv/bin/python bench/scale.py cores                       # rows/s on two cores against one, interleaved rounds
    .venv/bin/python bench/scale.py parts                       # tars, decode and CLIP on a core, bytes a row: seconds
    .venv/bin/python bench/scale.py                             # all of them

Runs are `jobs/label.py --recipe miniworld`, whole processes, pinned to cores by taskset. Rates come from rows of seeds
301 and 302, the runs that are predicted have seed 311 and other numbers of rows. Several nodes are raylets of one
cluster on this machine, each pinned to a core; three of them share two cores, and are modelled so. Asked: errors below
20 %; 1.8 x on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

SMALL, LARGE = (2_000, 301), (8_000, 302)
"""Rows and seeds that are measured."""
CHECKED = (12_000, 311)
"""Rows and seed that are predicted."""
PERIOD_S = 0.5
QUIET, PATIENCE_S = 0.12, 20.0
"""A run starts when less than this share of the cores is busy, or when this time has passed."""
NODE_CPUS, ACTOR_CPUS = 3, 2
"""So that a node takes one actor, and read tasks beside it. They are slots, and not cores."""


def note(*words: object) -> None:
    """Tell on standard error how it goes."""
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)


def settled() -> float:
    """Wait until nothing else works on the cores, for a while at most; return what share of them is busy."""
    deadline = time.monotonic() + PATIENCE_S
    while (busy := psutil.cpu_percent(interval=2.0) / 100) > QUIET and time.monotonic() < deadline:
        pass
    return round(busy, 2)


def busy_s() -> float:
    """Return the core seconds that the whole machine has worked: what a run did not, others did."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + times.softirq


# -- real runs


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
        pools["--pools.mentions.num-cpus"] = 1  # Ray is told of both cores, whatever taskset says
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


# -- calibration


def calibrate(folder: Path, kb: str) -> dict[str, Any]:
    """Return the model's rates from small runs on two cores, and what a cluster that is up saves."""
    job(folder, kb, 500, 300, 2)  # computes the entity vectors, and warms the disk's cache
    runs = []
    for (rows, seed), cores in ((SMALL, 2), (LARGE, 2), (SMALL, 1)):
        runs.append(job(folder, kb, rows, seed, cores, watch=True))
        note("calibrate", rows, cores, runs[-1]["wall_s"], runs[-1]["cpu"])
    warm = on_nodes(folder, kb, *SMALL, 2)
    note("on a warm cluster", warm["run_s"])
    found = fitted(runs)
    result = {"fixed": found | joined(warm, runs, found), "steps": stepped(runs), "runs": runs, "warm": warm}
    note(json.dumps(result))
    return result


def stepped(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return step -> core seconds a row, of the larger runs."""
    large = [one for one in runs if one["rows"] == LARGE[0]]
    names = [name for name in large[0]["step_cpu_s"] if name != "count"]
    return {name: median(one["step_cpu_s"][name] / one["rows"] for one in large) for name in names}


def fitted(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return what a run costs beside its steps: fixed, a row, and a second, where two cores and one tell them apart."""
    rows = np.array([one["rows"] for one in runs], float)
    seconds = np.array([one["run_s"] for one in runs])

    def parts(values: list[float], *by: np.ndarray) -> list[float]:
        found, *_ = np.linalg.lstsq(np.stack([np.ones(len(runs)), *by], axis=1), np.array(values), rcond=None)
        return [max(0.0, float(one)) for one in found]

    in_actors = [sum(spent for name, spent in one["step_cpu_s"].items() if name != "source") for one in runs]
    beside = [one["cpu"]["actor"] - steps for one, steps in zip(runs, in_actors)]
    cores = np.array([one["cores"] for one in runs], float)
    _, actor, actor_row = parts(beside, cores, rows)  # an actor a core
    driver, driver_row, driver_share = parts([one["cpu"]["driver"] for one in runs], rows, seconds)
    ray, node_share = parts([one["cpu"]["ray"] + one["cpu"]["other"] for one in runs], seconds)
    reader = [(one["cpu"]["reader"] - one["step_cpu_s"]["source"]) / readers(one["cores"]) for one in runs]
    end, end_row = parts([one["run_s"] - one["clock"]["last_rows"] for one in runs], rows)
    first = {n: median(first_rows(one) for one in runs if one["cores"] == n) for n in (1, 2)}
    return {
        "start_cpu_s": max(0.0, driver - end),
        "start_ray_s": ray,
        "reader_cpu_s": median(reader),
        "actor_cpu_s": actor,
        "actor_row_s": actor_row,
        "driver_row_s": driver_row,
        "driver_share": driver_share,
        "node_share": node_share,
        "end_cpu_s": end,
        "end_row_s": end_row,
        "first_rows_s": first[2],
        "first_rows_one_core_s": first[1],
    }


def readers(cores: int) -> int:
    """Return the read tasks that run at once: as many as find half a CPU beside the actors of `job`."""
    return 1 if cores == 2 else 2


def first_rows(one: dict[str, Any]) -> float:
    """Return the seconds from the process's start to the first rows."""
    return one["wall_s"] - one["run_s"] + one["clock"]["first_rows"]


def joined(warm: dict[str, Any], runs: list[dict[str, Any]], found: dict[str, float]) -> dict[str, float]:
    """Return how much sooner first rows come on a cluster that is up."""
    own = median(one["clock"]["first_rows"] for one in runs)
    return {"saved_s": own - warm["clock"]["first_rows"], "warm_first_rows_s": warm["clock"]["first_rows"]}


# -- nodes


def on_nodes(folder: Path, kb: str, rows: int, seed: int, nodes: int) -> dict[str, Any]:
    """Label on a cluster of so many raylets; it is up before the clock starts."""
    out = str(folder / f"nodes-{nodes}-{rows}-{seed}-{time.time_ns()}")
    line = [sys.executable, __file__, "node-run", kb, out, str(rows), str(seed), str(nodes)]
    before = settled()
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    wall = float(done.stdout.splitlines()[-1])
    return told(out, rows, wall) | {"nodes": nodes, "busy_before": before}


def node_run(kb: str, out: str, rows: int, seed: int, nodes: int) -> None:
    """Start the cluster, label, print the seconds of the run alone. A process of its own."""
    import ray
    from ray.cluster_utils import Cluster

    from raylab.label.plan import Pool, Pools
    from raylab.label.run import run
    from raylab.recipes.label import miniworld
    from raylab.sources.base import SourceConfig

    every = {0} if nodes == 1 else {0, 1}
    pins = [{0}] if nodes == 1 else [{0}, {1}] if nodes == 2 else [{0, 1}] * nodes
    os.sched_setaffinity(0, every)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for pin in pins:
        os.sched_setaffinity(0, pin)
        cluster.add_node(num_cpus=NODE_CPUS)
    os.sched_setaffinity(0, every)
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    pool = Pool(min_actors=nodes, max_actors=nodes, num_cpus=ACTOR_CPUS)
    config = replace(
        miniworld(),
        source=SourceConfig(uri=f"miniworld://?rows={rows}&seed={seed}"),
        kb=kb,
        out=out,
        shared_disk=True,
        pools=Pools(mentions=pool, select=Pool(join_previous=True)),
    )
    started = time.perf_counter()
    run(config)
    print(time.perf_counter() - started)
    ray.shutdown()
    cluster.shutdown()


# -- predictions


def predicted(found: dict[str, Any], rows: int, cores: list[float], warm: bool) -> dict[str, float]:
    """Return what the simulator says of a run on nodes with so many cores each; one actor a core or node."""
    from raylab.scale.flow import Node, simulate

    actors = [max(1, int(one)) for one in cores]
    phase = work(found, 0.0, warm)
    two = ([Node(1.0)] * 2, [[2, 2], [1, 1]]) if warm else ([Node(2.0)], [[1], [2]])
    small = simulate(phase, *two, SMALL[0])  # as it was measured: what is missing there was waiting
    waited = (found["fixed"]["warm_first_rows_s"] if warm else found["fixed"]["first_rows_s"]) - small.first_s
    reading = [2] * len(cores) if warm else [readers(int(cores[0]))]
    outcome = simulate(work(found, waited, warm), [Node(one) for one in cores], [reading, actors], rows)
    return {"seconds": outcome.seconds, "rows_per_s": (rows - 256) / (outcome.last_s - outcome.first_s)}


def work(found: dict[str, Any], wait_s: float, warm: bool) -> Any:
    """Return the phase of the model; all steps share a pool."""
    from raylab.scale.work import Phase, StageWork

    fixed, steps = found["fixed"], found["steps"]
    stage = StageWork(
        "all",
        sum(seconds for name, seconds in steps.items() if name != "source") + fixed["actor_row_s"],
        start_cpu_s=fixed["actor_cpu_s"],
    )
    return Phase(
        "label",
        StageWork("source", steps["source"], batch_rows=256, start_cpu_s=fixed["reader_cpu_s"]),
        (stage,),
        driver_s=fixed["driver_row_s"],
        driver_share=fixed["driver_share"],
        node_share=fixed["node_share"],
        start_wait_s=max(0.0, wait_s),
        start_cpu_s=fixed["start_cpu_s"],
        start_ray_s=0.0 if warm else fixed["start_ray_s"],
        end_cpu_s=fixed["end_cpu_s"],
        end_row_s=fixed["end_row_s"],
    )


def check(folder: Path, kb: str, found: dict[str, Any], only: list[str]) -> list[dict[str, Any]]:
    """Predict, run, compare: all cases, or those whose names hold one of the words."""
    job(folder, kb, 500, 300, 2)
    cases = [("1 core", [1.0], 1, 0), ("2 cores", [2.0], 2, 0)]
    cases += [("1 node of 1 core", [1.0], 0, 1), ("2 nodes of 1 core", [1.0, 1.0], 0, 2)]
    cases += [("3 nodes on 2 cores", [2 / 3] * 3, 0, 3)]
    results = []
    for name, cores, own, nodes in (one for one in cases if not only or any(word in one[0] for word in only)):
        said = predicted(found, CHECKED[0], cores, warm=bool(nodes))
        real = on_nodes(folder, kb, *CHECKED, nodes) if nodes else job(folder, kb, *CHECKED, own)
        seconds = real["wall_s"]
        error = said["seconds"] / seconds - 1
        results.append({"case": name, "predicted_s": said["seconds"], "measured_s": seconds, "error": error,
                        "predicted_rows_per_s": said["rows_per_s"], "measured": real})  # fmt: skip
        note(json.dumps(results[-1]))
        note(name, f"predicted {said['seconds']:.1f} s, measured {seconds:.1f} s: {error:+.1%}")
    return results


# -- two cores against one


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


# -- parts


def parts(folder: Path, kb: str) -> dict[str, Any]:
    """Return the costs of what the mini-world does not have: tars, a CLIP of the web's size; and bytes a row."""
    return {"tar": tar(folder), "clip_vit_b32": clip(), "flow_bytes": flow_bytes(kb)}


def tar(folder: Path, rows: int = 5_000, image: int = 40_000) -> dict[str, float]:
    """Read the captions of a tar with pictures of 40 kB."""
    import io
    import tarfile

    from raylab.sources import open_source
    from raylab.sources.base import SourceConfig

    path = folder / "pairs.tar"
    with tarfile.open(path, "w") as archive:
        for row in range(rows):
            for name, data in ((f"{row:06d}.jpg", os.urandom(image)), (f"{row:06d}.txt", b"a red flag on a pole")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    source = open_source(SourceConfig(uri=str(path)))
    started = time.process_time()
    read = sum(table.num_rows for shard in source.shards() for table in source.read(shard))
    spent = time.process_time() - started
    path.unlink()
    return {"rows": read, "cpu_s_a_row": spent / read}


def clip(images: int = 64) -> dict[str, float]:
    """Encode pictures by a ViT-B/32 with random weights on one thread."""
    import open_clip
    import torch

    torch.set_num_threads(1)
    model = open_clip.create_model("ViT-B-32", load_weights=False).eval()
    image_BCHW = torch.zeros(images, 3, 224, 224)
    seconds = []
    with torch.no_grad():
        model.encode_image(image_BCHW)
        for _ in range(3):
            started = time.process_time()
            model.encode_image(image_BCHW)
            seconds.append(time.process_time() - started)
    return {"cpu_s_a_row": median(seconds) / images, "images": images}


def flow_bytes(kb: str, rows: int = 1_024) -> dict[str, float]:
    """Return the bytes of a row in the object store before each step."""
    from raylab.label.step import StepContext
    from raylab.recipes.label import miniworld
    from raylab.schema import widen
    from raylab.sources import open_source
    from raylab.sources.base import SourceConfig

    config = SourceConfig(uri=f"miniworld://?rows={rows}&seed=301")
    source = open_source(config)
    batch = widen(next(source.read(source.shards()[0])))
    found = {}
    for name, step in miniworld().step_configs().items():
        found[name] = batch.nbytes / batch.num_rows
        batch = step.build(StepContext(kb=kb, source=config))(batch)
    return found | {"end": batch.nbytes / batch.num_rows}


# -- the command line


def made_kb(folder: Path) -> str:
    """Build the mini-world's knowledge base."""
    kb = str(folder / "kb")
    build = [sys.executable, "jobs/build_kb.py", "--catalogues", "miniworld://", "--out", kb]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    return kb


def main() -> None:
    """Measure what is asked for and print the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="all")
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--rows", type=int, default=CHECKED[0])
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    if asked.what == "node-run":
        node_run(asked.rest[0], asked.rest[1], *map(int, asked.rest[2:]))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kb = made_kb(folder)
        result: dict[str, Any] = {}
        if asked.what in ("calibrate", "model", "all"):
            result |= calibrate(folder, kb)
        if asked.what in ("check", "model", "all"):
            found = json.loads(Path(asked.rest[0]).read_text()) if asked.rest else result
            result |= {"asked": 0.2, "checks": check(folder, kb, found, asked.rest[1:])}
        if asked.what in ("cores", "all"):
            result |= {"two_cores": two_cores(folder, kb, asked.rows, asked.rounds)}
        if asked.what in ("parts", "all"):
            result |= {"parts": parts(folder, kb)}
    result |= {"cpus": os.cpu_count(), "machine": platform.machine()}
    print(json.dumps(result | {"versions": {name: version(name) for name in ("ray", "torch", "spacy", "pyarrow")}}))


if __name__ == "__main__":
    main()
