# Two commands on a machine with nothing but Python 3.11 (or later) and make:
#   make demo    install, then run every stage with the shipped tiny models (CPU is enough)
#   make test    install, then ruff, mypy and the tests
# and one for now and then, since plain Python takes about twice as long while it is traced:
#   make coverage    the tests, and the lines that none of them reaches
# Where pip takes torch from is pip's own configuration: name the CPU index there for a small install.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
WORKERS ?= 2
# Worksteal leaves a file's tests to one worker as long as the other has work: what a file makes for
# all its tests is made once.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal

.PHONY: demo test coverage clean
.DELETE_ON_ERROR:

demo: $(VENV)/.ready-to-run
	$(BIN)/rightcall run examples/demo.toml

test: $(VENV)/.ready-to-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(PYTEST)

coverage: $(VENV)/.ready-to-test
	$(PYTEST) --cov=rightcall --cov-report=term:skip-covered

# The interpreter that comes with Debian lacks ensurepip until python3-venv is there.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; set PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& apt-get update -qq && apt-get install -y -qq python3-venv && $(PYTHON) -m venv $(VENV); } \
		|| { echo "Install venv for $(PYTHON) (on Debian: apt-get install python3-venv)" >&2; exit 1; }

$(VENV)/.ready-to-run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) (the first time takes minutes)"
	$(PIP) -e .
	@touch $@

$(VENV)/.ready-to-test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) (the first time takes minutes)"
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.ready-to-run

# Not the runs: they may be worth hours.
clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .coverage*
