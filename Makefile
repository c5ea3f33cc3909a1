# Every target makes the environment that it needs. To choose another Python: make PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
# A pip constraints file, for an environment with chosen versions.
CONSTRAINTS ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
# Processes at once, of targets that run many files.
JOBS ?= 2

# Where this is set, each of the many processes below would compile every module that it imports.
unexport PYTHONDONTWRITEBYTECODE

PY := $(VENV)/bin/python
PYTEST := $(PY) -m pytest $(PYTEST_ARGS)
INSTALL = $(PY) -m pip install -qq --no-compile $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e
RUN := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
NOTEBOOKS := $(VENV)/.ready-notebooks
DOCS := $(VENV)/.ready-docs
FILES := $(VENV)/.ready-files
BENCH := $(VENV)/.ready-bench

.DELETE_ON_ERROR:
.PHONY: help demo test test-x64 test-slow test-fast test-core float32 lint format types doctest doctest-modules doctest-pages examples example-hosts notebooks docs dist peers bench clean

help:  ## say what can be made
	@grep -hE '^[a-z0-9-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## */\t/' | sort | expand -t 12

demo: $(RUN)  ## fit the lasso path of the diabetes data and show it
	@$(PY) examples/lasso_path_diabetes.py

# What runs once is bound by compilation: it compiles quickly, and keeps what it has compiled for the next
# process. What compiles as users do is the demo and the benchmarks. Loops are compiled as they are written: to
# simplify them takes a fifth of the time. Releases of jax from 0.11 on know no such fusion, and end at a flag that they do not know.
OLD_FUSION = import jax; print("--xla_cpu_use_fusion_emitters=false" * (jax.__version_info__ < (0, 11)))
LOOPS := while-loop-invariant-code-motion,while-loop-constant-sinking,simplify-while-loops
# Of optimisation: what trains runs longer than it compiles.
LEVEL := 0
COMPILE_FAST = XLA_FLAGS="--xla_backend_optimization_level=$(LEVEL) --xla_llvm_disable_expensive_passes=true \
	--xla_cpu_parallel_codegen_split_count=1 --xla_disable_hlo_passes=$(LOOPS) $$($(PY) -c '$(OLD_FUSION)')" \
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.05 JAX_TRACEBACK_IN_LOCATIONS_LIMIT=0 \
	JAX_COMPILATION_CACHE_DIR="$${JAX_COMPILATION_CACHE_DIR:-$(CURDIR)/.cache/jax}"
# The files that hold tests with a mark: to collect a file is to import it and what it compares with.
files_of = $$(grep -rl --include='test_*.py' 'pytest.mark.$(1)' tests)

# Annotations are checked at run time in the lanes below, and where pytest is called by hand: here it would
# cost a seventh of the time.
test: test-x64 float32  ## run the tests but slow ones, then the float32 lane

test-x64: $(DEV) $(FILES)
	L1JAX_TEST_TYPES=0 $(COMPILE_FAST) $(PYTEST) -n auto --dist loadfile --no-loadscope-reorder -m "not slow" tests

test-slow: $(DEV) $(FILES)  ## run what `make test` leaves out: slow tests, all cases but the first of each
	L1JAX_TEST_TYPES=0 $(COMPILE_FAST) $(PYTEST) -n auto --dist loadfile --no-loadscope-reorder -m slow $(call files_of,slow)

float32: $(DEV)  ## run the tests marked float32 with x64 off
	L1JAX_TEST_X64=0 $(COMPILE_FAST) $(PYTEST) -n $(JOBS) --dist loadfile -m float32 $(call files_of,float32)

test-fast: $(DEV)  ## run one claim of every room, in about a minute
	L1JAX_TEST_TYPES=0 $(COMPILE_FAST) $(PYTEST) -n auto --dist loadfile -m fast tests

test-core: $(DEV)  ## run the tests marked core, without slow ones
	$(COMPILE_FAST) $(PYTEST) -n $(JOBS) --dist loadfile -m "core and not slow" $(call files_of,core)

lint: $(DEV)  ## check style and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(DEV)  ## mend style and formatting
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: $(DEV)  ## check types
	$(PY) -m pyright --pythonpath $(PY)

doctest: doctest-modules doctest-pages  ## run the examples in docstrings, README and docs

doctest-modules: $(DEV)
	JAX_ENABLE_X64=1 $(COMPILE_FAST) $(PYTEST) -n $(JOBS) --doctest-modules l1jax

doctest-pages: $(DEV)
	@printf '%s\n' README.md CONTRIBUTING.md docs/*.md docs/coming-from/*.md docs/how-to/*.md | \
		JAX_ENABLE_X64=1 $(COMPILE_FAST) xargs -P $(JOBS) -n 10 $(PY) .ci/pages.py

examples: $(RUN)  ## run every example in its short form
	@printf '%s\n' examples/*.py | MPLBACKEND=agg $(COMPILE_FAST) xargs -P $(JOBS) -I {} $(PY) {} --short

example-hosts: $(RUN)  ## run the example for many hosts as two and as four processes
	@$(PY) examples/lasso_many_hosts.py --local 2 --rows 20000
	@$(PY) examples/lasso_many_hosts.py --local 4 --rows 20000

notebooks: LEVEL := 1
notebooks: $(NOTEBOOKS)  ## execute every notebook
	@printf '%s\n' notebooks/*.ipynb | $(COMPILE_FAST) xargs -P $(JOBS) -I {} \
		$(PY) -m nbconvert --to notebook --execute --output-dir .cache/notebooks {}

# Nothing is fetched: API pages are made from docstrings, notebooks shown as they are, tables and pictures of
# penalties and losses asked of the classes.
docs: $(DOCS)  ## build the documentation in .cache/site; a warning is an error
	@NO_MKDOCS_2_WARNING=1 $(COMPILE_FAST) $(PY) -m mkdocs build --quiet
	@echo "the documentation: .cache/site/index.html (to search in it: $(PY) -m http.server -d .cache/site)"

dist:  ## build the sdist and the wheel in dist, and try each with the core dependencies alone
	@PYTHON=$(PYTHON) .ci/dist

peers: $(DEV)  ## run scikit-learn's own tests of linear models against the estimators
	$(COMPILE_FAST) $(PY) tests/peers/run.py -n auto $(PYTEST_ARGS)

bench: $(BENCH)  ## run the benchmarks
	$(PY) benchmarks/run.py $(BENCH_ARGS)
	$(PY) benchmarks/collectives.py $(filter --short,$(BENCH_ARGS))

clean:  ## remove environments, caches and generated files
	rm -rf .venv* .cache .hypothesis .pytest_cache .ruff_cache build dist examples/output benchmarks/output
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Environments: $(RUN) has the package and what the examples need, the others add to it.
$(RUN): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "l1jax needs Python 3.11 or newer and $(PYTHON) is %d.%d: name a newer one, as in make PYTHON=python3.12" % sys.version_info[:2])'
	@echo "installing l1jax in $(VENV) (about a minute, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -qq --upgrade 'pip>=25.1'
	@$(INSTALL) '.[sklearn,plot,pandas]'
	@touch $@

$(DEV): $(RUN)
	@echo "installing the development tools in $(VENV)"
	@$(INSTALL) '.[sklearn,plot,pandas]' --group dev
	@touch $@

$(NOTEBOOKS): $(RUN)
	@$(INSTALL) '.[sklearn,plot,pandas]' --group notebooks
	@touch $@

$(FILES): $(RUN)
	@$(INSTALL) . --group files
	@touch $@

$(DOCS): $(RUN)
	@$(INSTALL) . --group docs
	@touch $@

$(BENCH): $(RUN)
	@$(INSTALL) '.[sklearn,plot,pandas,bench]'
	@touch $@
