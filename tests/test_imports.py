from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("ray", "torch", "spacy", "open_clip", "transformers", "sklearn", "scipy")


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(' '.join(m for m in {HEAVY} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


LIGHT = (
    "raylab",
    "raylab.recipes",
    "raylab.recipes.evaluate",
    "raylab.label.plan",
    "raylab.kb.catalog",
    "raylab.evaluate.suite",
    "raylab.preflight.checks",
    "raylab.recipes.size",
)


@pytest.mark.parametrize("module", LIGHT)
def test_importing_loads_nothing_heavy(module):
    assert loaded_by(module) == set()


def test_only_the_edge_imports_ray():
    edge = {
        "raylab/session.py",
        "raylab/ceiling.py",
        "raylab/streams.py",
        "raylab/kb/run.py",
        "raylab/label/run.py",
        "raylab/annotate/run.py",
        "raylab/annotate/engines/run.py",
        "raylab/train/run.py",
        "raylab/train/accelerators/run.py",
        "raylab/dense/run.py",
        "raylab/evaluate/run.py",
        "raylab/tune/run.py",
        "raylab/preflight/run.py",
    }
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "raylab").rglob("*.py")}
    importing = {name for name in files if any(_imports_ray(line) for line in (ROOT / name).read_text().splitlines())}
    assert importing == edge


def _imports_ray(line: str) -> bool:
    words = line.split()
    return len(words) > 1 and words[0] in ("import", "from") and words[1].split(".")[0] == "ray"


@pytest.mark.parametrize(
    ("room", "above"),
    [
        ("sources", ("kb", "models", "label", "annotate", "tasks", "train", "evaluate", "tune", "recipes")),
        ("kb", ("label", "annotate", "tasks", "train", "evaluate", "recipes")),
        ("models", ("sources", "kb", "label", "annotate", "tasks", "train", "evaluate", "recipes")),
        ("label", ("annotate", "tasks", "train", "evaluate", "recipes")),
        ("annotate", ("tasks", "train", "evaluate", "recipes")),
        ("tasks", ("label", "annotate", "train", "evaluate", "recipes")),
        ("train", ("label", "annotate", "evaluate", "tune", "recipes")),
        ("evaluate", ("label", "annotate", "tasks", "train", "tune", "recipes")),
        ("tune", ("label", "annotate", "dense", "recipes")),
        ("dense", ("label", "annotate", "kb", "recipes")),
        ("preflight", ("recipes",)),
        ("scale", ("tasks", "train", "evaluate", "recipes")),
    ],
)
def test_no_room_imports_upward(room, above):
    for path in sorted((ROOT / "raylab" / room).rglob("*.py")):
        if "make_annotator" in path.parts:  # run by hand: it teaches the model the annotator's own prompts
            continue
        text = path.read_text()
        upward = [other for other in above if f"from raylab.{other}" in text or f"import raylab.{other}" in text]
        assert not upward, f"{path.relative_to(ROOT)} imports {upward}"
