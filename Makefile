# Both targets do their own set-up on a Debian machine with python3-venv and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# One process more than there are processors, because a quarter of a test is waiting; in the order of tests/conftest.py.
SHARED := -n $$(($$(nproc) + 1)) --dist loadgroup --no-loadscope-reorder
# Workers are started by the thousand: none is to compile the program anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo docs test test-fast test-locales test-system faults faults-arm64 faults-memory lint format bench bench-quick deb deb-wheels test-deb deb-arm64 clean

demo: $(READY)  ## a sample memory migrated, verified and asked
	rm -rf demo
	mkdir demo
	$(BIN)/nimad sample demo/graph.sqlite
	$(BIN)/nimad migrate --source demo/graph.sqlite
	@echo
	@echo "One question by text: 'telescope'"
	$(BIN)/nimad search --target demo/graph.ladybug --limit 3 telescope
	@echo
	@echo "One question by embedding: what is most like memory 17?"
	$(BIN)/nimad search --target demo/graph.ladybug --limit 3 --like 17

docs: $(READY)  ## docs/reference, made from the program itself
	$(BIN)/python packaging/reference.py

test-fast: $(READY)  ## tests/unit: no process, no engine
	$(BIN)/python -m pytest tests/unit

test: $(READY)  ## the test suite, at the length that CI runs
	$(BIN)/python -m pytest -m "not long" $(SHARED)

test-locales: $(READY)  ## the same with every program in a Turkish system, in one of ISO-8859-1, and in the locale C
	for locale in tr_TR.UTF-8 de_DE.ISO-8859-1 C; do \
	  NIMAD_TEST_LOCALE=$$locale $(BIN)/python -m pytest -m "not long" $(SHARED) || exit 1; \
	done

test-system: $(READY)  ## as root: the service under real systemds, in containers and in User-Mode Linux
	$(BIN)/python tests/system/service.py
	$(BIN)/python tests/system/service_disks.py
	$(BIN)/python tests/system/service_memory.py
	$(BIN)/python tests/system/disks.py

faults: $(READY)  ## what is long, and the torture tests at full length, hours; their figures in build/figures
	mkdir -p build/figures
	NIMAD_FIGURES=$(CURDIR)/build/figures $(BIN)/python -m pytest -m long

faults-arm64: $(READY)  ## as root: a migration on a 16 KiB-page arm64 kernel under qemu
	$(BIN)/python tests/system/arm64.py

faults-memory: $(READY)  ## as root: the smallest memory limit at which a migration completes, in User-Mode Linux
	$(BIN)/python tests/system/memory.py
	$(BIN)/python tests/system/service_memory.py --uncounted

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## all figures of docs/PERFORMANCE.md, in some ten minutes
	$(BIN)/python benchmarks --write

bench-quick: $(READY)  ## those that noise leaves alone, in 90 seconds; fails when one is missed
	$(BIN)/python benchmarks --quick

deb: $(READY)  ## the Debian packages, in dist/: two releases, two processors
	$(BIN)/python packaging/build.py

deb-wheels: $(READY)  ## pin the newest wheels that the packages may carry
	$(BIN)/python packaging/wheels.py

test-deb: $(READY)  ## as root: the packages' life in pristine booted Debian of both releases, and lintian
	$(BIN)/python tests/system/deb.py

deb-arm64: $(READY)  ## as root: what the arm64 package holds, on a 16 KiB-page arm64 kernel under qemu
	$(BIN)/python tests/system/arm64.py --package --nodes 500

clean:
	rm -rf $(VENV) demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# A path, and no finder: workers are started by the thousand, and each would import that one first.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --config-settings editable_mode=compat --editable '.[dev]'
	touch $(READY)
