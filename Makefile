# `make` lists the targets. `make run` and `make test` need nothing but make and python3 (3.11 or newer).

PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
TOOL    := $(BIN)/onnxcompress
BUILD   := build

SAMPLE  ?= language-id
ARGS    ?=
SECONDS ?= 60
SEED    ?= 0

CALIBRATION_language-id := sample_models/language-id.calib.txt --tokenizer sample_models/language-id.tokenizer.json
CALIBRATION_digits-cnn  := sample_models/digits-cnn.calib.npz

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

##@ The project

.PHONY: run
run: $(STAMP) ## Quantize a sample model and verify the result (SAMPLE=language-id or digits-cnn)
	@mkdir -p $(BUILD)
	$(TOOL) quantize sample_models/$(SAMPLE).onnx --data $(CALIBRATION_$(SAMPLE)) \
		--eval-data sample_models/$(SAMPLE).eval.npz --output $(BUILD)/$(SAMPLE).int8.onnx --force $(ARGS)

.PHONY: test
test: $(STAMP) ## Run all tests, the linters among them (ARGS="-k name" selects)
	$(BIN)/python -m pytest $(ARGS)

.PHONY: test-corpus
test-corpus: $(STAMP) ## Run the tests on the developers' collection of real models
	$(BIN)/python -m pytest -m corpus $(ARGS)

.PHONY: test-lowest
test-lowest: ## Run the tests with the oldest versions that are allowed (ARGS="tests/test_api.py" selects)
	$(PYTHON) -m venv $(BUILD)/venv-lowest
	$(BUILD)/venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(BUILD)/venv-lowest/bin/uv pip install --quiet --python $(BUILD)/venv-lowest/bin/python \
		--resolution lowest-direct --editable '.[dev,images,text]'
	$(BUILD)/venv-lowest/bin/python -m pytest --ignore tests/test_architecture.py $(ARGS)

.PHONY: lint
lint: $(STAMP) ## Check style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(STAMP) ## Rewrite the source in the project's format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: bench
bench: $(STAMP) ## Measure the tool: speed, memory, and a row for each real model
	$(BIN)/python -m tests.benchmarks $(ARGS)

.PHONY: fuzz
fuzz: $(STAMP) ## Feed damaged models to the tool, for SECONDS=60 from SEED=0
	$(BIN)/python -m tests.fuzzing --seconds $(SECONDS) --seed $(SEED) $(ARGS)

.PHONY: sample
sample: $(STAMP) ## Check the sample models (FORCE=1 trains them again)
ifdef FORCE
	$(PYTHON) -m venv $(BUILD)/venv-sample
	$(BUILD)/venv-sample/bin/python -m pip install --quiet --requirement sample_models/requirements.txt
	$(BUILD)/venv-sample/bin/python sample_models/make_digits_cnn.py
	$(BUILD)/venv-sample/bin/python sample_models/make_language_id.py
endif
	$(BIN)/python -m pytest tests/test_sample_models.py

.PHONY: setup
setup: $(STAMP) ## Make .venv with everything for development

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,images,text]'
	@touch $@

.PHONY: clean
clean: ## Remove what the targets above made, .venv included
	rm -rf $(VENV) $(BUILD) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

##@ Your own model (ARGS="..." passes any option on)

.PHONY: quantize
quantize: $(STAMP) ## make quantize MODEL=model.onnx
	$(TOOL) quantize "$(call need,MODEL)" $(ARGS)

.PHONY: simplify
simplify: $(STAMP) ## make simplify MODEL=model.onnx
	$(TOOL) simplify "$(call need,MODEL)" $(ARGS)

.PHONY: compress
compress: $(STAMP) ## make compress RECIPE=recipe.toml MODEL=model.onnx
	$(TOOL) compress "$(call need,MODEL)" --recipe "$(call need,RECIPE)" $(ARGS)

.PHONY: verify
verify: $(STAMP) ## make verify ORIGINAL=a.onnx COMPRESSED=b.onnx
	$(TOOL) verify "$(call need,ORIGINAL)" "$(call need,COMPRESSED)" $(ARGS)

need = $(or $($(1)),$(error $(1) is missing: make $@ $(1)=...))

.PHONY: help
help:
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
