# `make demo`, `make test` and `make lint` set up all that they need in .venv: any python3 from 3.11 to 3.13, make and
# a package index suffice. A second call starts at once. `make PYTHON=/path/to/python3 test` names the Python to use.

PYTHON ?= python3 python3.13 python3.12 python3.11 python
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
EDITABLE := $(PIP_INSTALL) --no-build-isolation --editable
DECLARED := pyproject.toml constraints.txt
WHEEL := build/lint

.PHONY: demo test lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/demo.stamp
	$(BIN)/rankfold demo

# One thread per worker: the workers share the processors among themselves.
test: $(VENV)/test.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --quiet --numprocesses $(WORKERS)

# mypy reads the installed wheel: it does not follow an editable install into the folders.
lint: $(VENV)/lint.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build
	$(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation --wheel-dir $(WHEEL) .
	$(PIP_INSTALL) --no-deps --target $(WHEEL)/installed $(WHEEL)/rankfold-*.whl
	MYPYPATH=$(WHEEL)/installed $(BIN)/mypy --package rankfold

clean:
	rm -rf $(VENV) build dist rankfold-demo *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/demo.stamp: $(VENV)/base.stamp $(DECLARED)
	@echo "installing rankfold into $(VENV)"
	$(EDITABLE) .
	@touch $@

$(VENV)/test.stamp: $(VENV)/base.stamp $(DECLARED)
	@echo "installing rankfold, torch and the test tools into $(VENV)"
	$(EDITABLE) '.[torch,test]'
	@touch $@ $(VENV)/demo.stamp

$(VENV)/lint.stamp: $(VENV)/base.stamp $(DECLARED)
	@echo "installing rankfold, torch, the test tools and the linters into $(VENV)"
	$(EDITABLE) '.[torch,test,dev]'
	@touch $@ $(VENV)/test.stamp $(VENV)/demo.stamp

# Where the system's Python comes without ensurepip, its pip (if it has one) puts pip into the environment.
$(VENV)/base.stamp:
	@found=; \
	for candidate in $(PYTHON); do \
	  if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	    found=$$candidate; break; \
	  fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "rankfold needs Python 3.11, 3.12 or 3.13; none of these is one: $(PYTHON)." >&2; \
	  echo "Install one, or name it: make PYTHON=/path/to/python3 ..." >&2; \
	  exit 1; \
	fi; \
	echo "creating $(VENV) with $$found, $$($$found --version)"; \
	rm -rf $(VENV); \
	if "$$found" -c 'import ensurepip' 2>/dev/null; then \
	  "$$found" -m venv $(VENV); \
	elif "$$found" -m pip --version >/dev/null 2>&1; then \
	  "$$found" -m venv --without-pip $(VENV) && "$$found" -m pip --python $(BIN)/python install --quiet pip; \
	else \
	  echo "$$found has neither ensurepip nor pip; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	  exit 1; \
	fi
	$(PIP_INSTALL) setuptools
	@touch $@
