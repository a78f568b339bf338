# Every command of the template; `make` lists them. CI and the docs call only these.
.DEFAULT_GOAL := help
.PHONY: help demo test test-fast check check-template check-in-place test-in-place format tested-set measure bench-gateway soak-gateway soak-api bench-rag bench-ingest bench-scale bench-evals screenshots kill-ingest conformance corpus-pdf clean

# uv is used where it is installed, and installed into .uv/ where it is not; hooks find it on the PATH.
UV := $(shell command -v uv 2>/dev/null || echo $(CURDIR)/.uv/bin/uv)
export PATH := $(CURDIR)/.uv/bin:$(PATH)
RUN := $(UV) run --quiet
PYTHON := $(UV) run --quiet --no-project python
PROJECT := {{cookiecutter.project_slug}}
DEFAULT := build/default/my-ai-app
q ?= What does a circuit breaker do?
override q := $(value q)
export q

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: uv.lock ## Render the default project into build/demo and get a cited answer from it
	@rm -rf build/demo
	@$(UV) run --no-dev python tools/render.py build/demo
	@$(MAKE) --no-print-directory -C build/demo/my-ai-app ask
	@echo "The project is in build/demo/my-ai-app."

test: uv.lock ## Run all tests: render every option, install and test a generated project
	@$(RUN) pytest

test-fast: uv.lock ## Run the tests that only render, in seconds
	@$(RUN) pytest -m "not slow"

check: check-template check-in-place ## Check format, lint and types of the template and of the project in it

check-template: uv.lock ## Check the template alone; a generated project checks itself in the tests
	@$(RUN) ruff format --check
	@$(RUN) ruff check
	@$(RUN) mypy

# The project in the template is checked and tested in place, in the environment of a rendered one. Caches stay
# outside of it, because cookiecutter would copy them.
IN_PLACE = cd '$(PROJECT)' && PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$(CURDIR)/build/bytecode PYTHONPATH=. RUFF_CACHE_DIR=$(CURDIR)/build/ruff \
	COVERAGE_FILE=$(CURDIR)/build/coverage $(CURDIR)/$(DEFAULT)/.venv/bin

check-in-place: $(DEFAULT)/.venv/made ## Check the project in the template, where it stands
	@$(IN_PLACE)/ruff format --check
	@$(IN_PLACE)/ruff check
	@$(IN_PLACE)/mypy --cache-dir $(CURDIR)/build/mypy

test-in-place: $(DEFAULT)/.venv/made ## Test the project in the template, where it stands
	@$(IN_PLACE)/pytest -p no:cacheprovider $(args)

$(DEFAULT)/.venv/made: $(PROJECT)/pyproject.toml $(PROJECT)/tested-set.txt cookiecutter.json uv.lock
	@rm -rf build/default
	@$(RUN) python tools/render.py build/default
	@$(UV) sync --quiet --project $(DEFAULT) --no-install-project
	@touch $@

format: $(DEFAULT)/.venv/made ## Format all code and mend what the linter can
	@$(RUN) ruff check --fix
	@$(RUN) ruff format
	@$(IN_PLACE)/ruff check --fix
	@$(IN_PLACE)/ruff format

tested-set: uv.lock ## Lock a default project anew and write its list into the template
	@rm -rf build/tested
	@COOKIECUTTER_AI_APP_NO_LOCK=1 $(RUN) python tools/render.py build/tested
	@cd build/tested/my-ai-app && $(UV) lock --quiet && $(PYTHON) scripts/tested_set.py write
	@cp build/tested/my-ai-app/tested-set.txt '$(PROJECT)/tested-set.txt'
	@$(UV) lock --quiet && $(PYTHON) '$(PROJECT)/scripts/tested_set.py' write

measure: uv.lock ## Measure the figures of docs/performance.md; minutes
	@$(RUN) python tools/measure.py

# These tools need the project's packages: they run with its Python, in its folder, and find themselves in this one.
WITH_TOOLS = $(subst PYTHONPATH=.,PYTHONPATH=.:$(CURDIR),$(IN_PLACE))/python

bench-gateway: $(DEFAULT)/.venv/made ## Measure what the gateway costs over bare litellm; three minutes
	@$(WITH_TOOLS) -m tools.bench_gateway

soak-gateway: $(DEFAULT)/.venv/made ## Make 10,000 calls, or CALLS=, while a third of what providers do is wrong; minutes
	@$(WITH_TOOLS) -m tools.soak_gateway $(CALLS)

# DATA is a folder in the form of BEIR; without one they take the shipped corpus.
COLLECTION = $(if $(DATA),'$(abspath $(DATA))')

soak-api: $(DEFAULT)/.venv/made ## Send 500 streams at once through a served app, and stop one with 100 open; four minutes
	@$(WITH_TOOLS) -m tools.soak_api $(STREAMS) $(SECONDS)

bench-rag: $(DEFAULT)/.venv/made ## Measure how well and how fast retrieval finds; DATA=folder in BEIR's form
	@$(WITH_TOOLS) -m tools.bench_rag $(COLLECTION)

bench-ingest: $(DEFAULT)/.venv/made ## Measure ingest against other libraries; DATA=folder in BEIR's form
	@$(WITH_TOOLS) -m tools.bench_peers $(COLLECTION)

bench-scale: $(DEFAULT)/.venv/made ## Measure growth to 100,000 chunks; DATA=folder in BEIR's form; half an hour
	@$(WITH_TOOLS) -m tools.bench_scale $(COLLECTION)

bench-evals: $(DEFAULT)/.venv/made ## Measure the evaluation harness against bare pydantic-evals
	@$(WITH_TOOLS) -m tools.bench_evals

screenshots: $(DEFAULT)/.venv/made ## Take the pictures in docs/images of the chat page; needs Chromium
	@$(UV) sync --quiet --project $(DEFAULT) --no-install-project --group browser
	@$(WITH_TOOLS) -m tools.screenshots

kill-ingest: $(DEFAULT)/.venv/made ## Kill an ingest of 2,000 documents at 20 random moments; minutes
	@$(WITH_TOOLS) -m tools.kill_ingest

conformance: $(DEFAULT)/.venv/made ## Run unmodified clients against a served app; DOC=docs/conformance.md takes the table
	@$(WITH_TOOLS) $(CURDIR)/tests/conformance/run.py $(if $(DOC),'$(abspath $(DOC))')

corpus-pdf: uv.lock ## Make the PDF articles of the corpus from tools/corpus_pdf
	@$(RUN) python tools/make_corpus_pdf.py

clean: ## Remove environments, renders and caches
	rm -rf build .venv .uv .pytest_cache .mypy_cache .ruff_cache

uv.lock: pyproject.toml | $(UV)
	@$(UV) lock --quiet
	@touch uv.lock
	@$(PYTHON) '$(PROJECT)/scripts/tested_set.py' check || true

$(CURDIR)/.uv/bin/uv:
	@echo "Installing uv into .uv/ ..."
	@python3 -m venv .uv
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
