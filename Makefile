# From a fresh machine to a pruned translation model. `make` alone lists what there is.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help venv demo test lint docs multi30k grid pipelined glue glue-auto diff diff-grid diff-domains dsee delta doctor clean distclean

# The interpreter that .venv is made from: python3.11, or a python3 that is one.
PYTHON ?= $(shell for name in python3.11 python3 python; do \
	$$name -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1 && { echo $$name; break; }; done)
VENV ?= .venv
# Test files that run side by side, each on one thread; in their order, which begins with the long ones (integration, system):
# left to itself the runner starts with the files of many tests, and a core is idle while the last long one runs.
TEST_PROCESSES ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Editable, so that `--user-dir dsp_plugin` and the installed package are one folder: fairseq refuses two.
EDITABLE := PYTHONWARNINGS=ignore $(PIP) --no-build-isolation --editable
# What has been installed; made anew when what is asked for has changed.
BASE := $(VENV)/.installed-base
ALL := $(VENV)/.installed-all
PIPELINES := $(VENV)/.installed-pipelines
SITE := $(VENV)/.installed-docs
WANTED := setup.py constraints.txt

# Of the pipelines: runs side by side, more options of Snakemake (-n shows what is left), and a pipeline's settings, each of
# which may be given on the command line of make. SHOW=1 prints the command lines of glue's, diff's, dsee's and delta's runs, done or not.
JOBS ?= 1
ARGS ?=
SETTINGS := SEEDS ONLY TASKS BUDGETS DENSITIES SQUAD_DENSITIES ALL_METHODS QUICK SPEED MODEL MASKED PARTS K DATA SEED FLAGS UNPRUNED TRAINED_EPOCHS BESIDE RUNS RESULTS
given = $(foreach name,$(SETTINGS),$(if $(filter command,$(origin $(name))),$(name)="$($(name))"))
pipeline = $(if $(SHOW),$(BIN)/python pipelines/show.py $(1),$(SNAKEMAKE) -s pipelines/$(1).smk --cores $(JOBS) $(ARGS) \
	--config) python=$(BIN)/python $(2) $(given)
SNAKEMAKE := $(VENV)/snakemake/bin/snakemake

help:
	@echo 'make demo      a small model, unpruned and with a quarter of its heads: BLEU, size, speed, a picture'
	@echo 'make test      all tests (DSP_DATA_DIR=FOLDER adds those on real text; DURATIONS=20 names the 20 slowest)'
	@echo 'make lint      ruff: format and lint, 110 columns (make lint FIX=1 mends what can be mended)'
	@echo 'make docs      the site of docs/ with the API reference, into build/site; links are checked'
	@echo 'make multi30k  the same as the demo on Multi30k, real German-English (from DSP_DATA_DIR, else fetched)'
	@echo 'make grid      every method and budget on Multi30k; goes on where it was stopped'
	@echo 'make pipelined the heads of one trained model by every method, untuned and tuned alike; likewise'
	@echo 'make glue      a pretrained BERT on CoLA, MRPC and SQuAD, every method; likewise (data from DSP_DATA_DIR)'
	@echo 'make glue-auto CoLA and MRPC with the schedules that are worked out, tuned too, two seeds; likewise'
	@echo 'make diff      the same model finetuned by sparse diffs on CoLA, MRPC, STS-B and SQuAD; likewise'
	@echo 'make diff-grid the whole of it: SST-2, too, at 1, 0.5, 0.25 and 0.1 %, three seeds; likewise'
	@echo 'make diff-domains  a translation model finetuned to another domain by sparse diffs (Multi30k to IWSLT14)'
	@echo 'make dsee      the same model finetuned by LoRA and DSEE on CoLA and STS-B, then pruned and trained on; likewise'
	@echo 'make delta     prompt, BitFit and adapter in every combination and order, 16 examples a class and all; likewise'
	@echo '               of these nine: ARGS=-n shows what is left, JOBS=2 runs two at once (docs/pipelines.md)'
	@echo 'make doctor    what is installed, what is missing, and the command that mends it'
	@echo 'make venv      only make $(VENV) and install everything in it (the others do so by themselves)'
	@echo 'make clean     remove caches, build leftovers and the output of the demo (distclean: $(VENV) as well)'
	@echo
	@echo 'PYTHON=/path/to/python3.11 chooses the interpreter, VENV=FOLDER where to install.'

demo: $(BASE)
	$(BIN)/python scripts/demo.py

multi30k: $(BASE)
	$(BIN)/python scripts/demo.py --dataset multi30k

# The pipelines, e.g. `make diff TASKS="CoLA RTE" DENSITIES="0.01 0.005" SEEDS="1 2 3" JOBS=2` or `make glue ARGS=-n`.
grid: $(BASE) $(PIPELINES)
	$(call pipeline,mt)

pipelined: $(BASE) $(PIPELINES)
	$(call pipeline,pipelined)

glue: $(ALL) $(PIPELINES)
	$(call pipeline,glue)

glue-auto: $(ALL) $(PIPELINES)
	$(call pipeline,glue,settings=pipelines/glue-auto.yaml)

diff: $(ALL) $(PIPELINES)
	$(call pipeline,diff)

diff-grid: $(ALL) $(PIPELINES)
	$(call pipeline,diff,tasks="CoLA MRPC STS-B SST-2 SQuAD" densities="0.01 0.005 0.0025 0.001" seeds="1 2 3")

diff-domains: $(BASE) $(PIPELINES)
	$(call pipeline,domains,home=multi30k)
	$(call pipeline,domains,home=iwslt14)

dsee: $(ALL) $(PIPELINES)
	$(call pipeline,dsee)

delta: $(ALL) $(PIPELINES)
	$(call pipeline,delta)

test: $(ALL)
	@$(MAKE) --silent --no-print-directory $(PIPELINES) || echo 'No Snakemake: tests that start it are skipped'
	$(BIN)/python -m pytest -q --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(if $(DURATIONS),--durations $(DURATIONS)) tests

lint: $(ALL)
	$(BIN)/ruff format $(if $(FIX),,--check) .
	$(BIN)/ruff check $(if $(FIX),--fix) .

# The docstrings are read, nothing is imported.
docs: $(SITE)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo build/site/index.html

venv: $(ALL) $(PIPELINES)

doctor: $(BASE)
	$(BIN)/dsp doctor

# Everything the fairseq side needs. fairseq is built against the installed torch, hence the order and no build isolation.
$(BASE): $(WANTED)
	@$(check_machine)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo 'Making $(VENV)'; $(PYTHON) -m venv --clear $(VENV); }
	@echo '1/4 pip'
	@$(PIP) --upgrade 'pip>=24'
	@echo '2/4 torch and what fairseq is built with (where torch comes with CUDA, a download of several GB)'
	@$(PIP) torch numpy cython setuptools wheel ninja
	@echo '3/4 fairseq, compiled here: about three minutes on two cores'
	@$(PIP) --no-build-isolation fairseq-fixed
	@echo '4/4 dsp_plugin and its libraries'
	@$(EDITABLE) '.[fairseq]'
	@touch $@

# And the Transformers side, the export formats and the test runner.
$(ALL): $(BASE)
	@echo 'The Transformers side, the export formats and the test runner'
	@$(EDITABLE) '.[fairseq,hf,export,test,benchmarks,dev]'
	@touch $@

# Snakemake in an environment of its own (see pipelines/constraints.txt); it starts the programs in $(VENV).
$(PIPELINES): pipelines/constraints.txt | $(BASE)
	@echo 'Snakemake, for the pipelines of many runs'
	@$(BIN)/python -m venv --clear $(VENV)/snakemake
	@$(VENV)/snakemake/bin/python -m pip install --quiet --disable-pip-version-check --constraint pipelines/constraints.txt snakemake
	@touch $@

# And the tools of the site.
$(SITE): $(BASE)
	@echo 'The tools of the site of docs/'
	@$(EDITABLE) '.[docs]'
	@touch $@

# Said before anything is installed: what this machine lacks, with the command that mends it.
define check_machine
version=$$($(or $(PYTHON),false) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); \
case "$$version" in \
3.11 | 3.12) ;; \
*) \
	if test -n "$$version"; then echo "$(PYTHON) is Python $$version; needed is 3.11 (docs/start.md: what was tried on 3.12)." >&2; \
	elif test -n "$(PYTHON)"; then echo "There is no interpreter $(PYTHON) that runs." >&2; \
	else echo 'Python 3.11 is missing.' >&2; fi; \
	echo 'Install it with its headers and start again, by one of' >&2; \
	echo '  apt-get install python3.11 python3.11-dev python3.11-venv    (Debian 12, Ubuntu 22.04)' >&2; \
	echo '  dnf install python3.11 python3.11-devel                      (Fedora, RHEL)' >&2; \
	echo '  pyenv install 3.11 && pyenv local 3.11                       (anywhere)' >&2; \
	echo '  conda create -n dsp python=3.11 && conda activate dsp        (anywhere)' >&2; \
	echo 'or name another one: make PYTHON=/path/to/python3.11' >&2; \
	exit 1;; \
esac; \
$(PYTHON) dsp_plugin/cli/before_install.py >&2 \
	|| { echo 'Nothing has been installed: mend what is missing, then start again.' >&2; exit 1; }
endef

clean:
	rm -rf build dist *.egg-info .pytest_cache demo
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
