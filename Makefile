# `make run` and `make test` do all of their own set-up.
PYTHON ?= python3
BIN := .venv/bin

# OpenMP's threads sleep while they wait: spinning, they cost a busy machine time (benchmarks/threads.py).
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 1000

.PHONY: env run viz ui demo test lint docs bench claims lock

env: .venv/.installed

.venv/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

run: env  ## data, Mask R-CNN, ORCNN, scores and a report, in minutes on two cores
	$(BIN)/kedro run

viz: env  ## the lineage, at http://127.0.0.1:4141
	$(BIN)/kedro viz run

ui: env  ## compare runs, at http://127.0.0.1:5000
	@MLFLOW_TRACKING_URI= $(BIN)/python -c "from amodal_pipeline.hooks import store; store.print_links()"
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db

# make demo MODEL=data/06_models/scenes/pcnet_m DETECTOR=torchvision PORT=7861
demo: env  ## whole objects of your pictures, at http://127.0.0.1:7860
	$(BIN)/python -m amodal_pipeline.demo $(if $(MODEL),--model $(MODEL)) \
		$(if $(DETECTOR),--detector $(DETECTOR)) $(if $(PORT),--port $(PORT))

test: env
	$(BIN)/pytest --numprocesses=auto --dist=loadfile

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

docs: env  ## the documentation as a site, with an API reference: open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Composing needs photographs: make bench COCO_FILE=instances.json COCO_IMAGES=folder
bench: env  ## side-by-side timings, recorded in benchmarks/results
	for program in scenes annotations training_step readers evaluation codebook vrsp levels c2f_seg clips sln soft_rasterizer threads embedded_steps; do \
		$(BIN)/python benchmarks/$$program.py --out benchmarks/results/$$program.json || exit 1; \
	done
	test -z "$(COCO_FILE)" || $(BIN)/python benchmarks/compose.py $(COCO_FILE) $(COCO_IMAGES) \
		--out benchmarks/results/compose.json

claims: env  ## train what docs/claims.yml asks for, for hours (go on after a kill), and write docs/claims.md
	$(BIN)/python benchmarks/claims.py

lock: env  ## choose the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
		--upgrade --no-annotate --no-header --output-file requirements.txt
