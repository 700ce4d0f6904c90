# make demo    a virtual environment, the build, and masks turning into checked answers
# make test    the same set-up, then every test
# make bench   every benchmark with its peers, as JSON and a roofline plot under benchmarks/results/
# make lint    ruff, mypy, clang-format
# make sanitize  the op tests on an AddressSanitizer + UBSan build
# make clean   remove what the targets made

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
SOURCES := CMakeLists.txt setup.py pyproject.toml $(shell find csrc -type f)
TOOLS := setuptools wheel 'cmake>=3.25' ninja pybind11 numpy
TEST_TOOLS := pytest pytest-benchmark hypothesis psutil build matplotlib
RESULTS := benchmarks/results/$(shell date +%F)
LINT_TOOLS := ruff mypy clang-format types-tqdm

# Threads that wait sleep: spinning, as OpenMP does by default, is 10 x slower when another process shares a core.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test bench lint sanitize clean

demo: $(VENV)/installed
	$(BIN)/llada-moe demo

test: $(VENV)/installed $(VENV)/test-tools
	$(BIN)/python -m pytest tests -q

bench: $(VENV)/installed $(VENV)/test-tools
	mkdir -p benchmarks/results
	$(BIN)/python -m pytest benchmarks -q -s --benchmark-json=$(RESULTS).json
	$(BIN)/python benchmarks/roofline_plot.py $(RESULTS).json $(RESULTS).png

lint: $(VENV)/installed $(VENV)/lint-tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find csrc tests/cpp -name '*.h' -o -name '*.cpp' | xargs $(BIN)/clang-format --dry-run --Werror

sanitize: $(VENV)/installed $(VENV)/test-tools
	PYTHON=$(BIN)/python tests/sanitize.sh

$(VENV)/torch:
	@command -v $(PYTHON) >/dev/null || { echo "make: Python 3.10 or newer is needed: install python3, or set PYTHON="; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "make: Python 3.10 or newer is needed, $$($(PYTHON) -V) found; set PYTHON="; exit 1; }
	@command -v $${CXX:-g++} >/dev/null || { echo "make: a C++20 compiler is needed: install g++ 11 or newer, or set CXX="; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "make: Python's venv module is needed: install python3-venv"; exit 1; }
	$(BIN)/python -m pip install -q '$(TORCH)' $(TOOLS)
	@touch $@

$(VENV)/installed: $(VENV)/torch $(SOURCES)
	$(BIN)/python -m pip install -q --no-build-isolation -e .
	@touch $@

$(VENV)/test-tools: $(VENV)/torch
	$(BIN)/python -m pip install -q $(TEST_TOOLS)
	@touch $@

$(VENV)/lint-tools: $(VENV)/torch
	$(BIN)/python -m pip install -q $(LINT_TOOLS)
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info python/*.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .benchmarks
	rm -f python/llada_moe_ops/*.so python/llada_moe_ops/_build_info.py
