# Needs Python 3.10 or newer with pip, and make.  Everything goes into .venv and demo.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# torch is pinned: without the constraints pip would fetch gigabytes of another build.
CONSTRAINTS := constraints/dev.txt
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)
# Tests that share a file share what it built.
SPREAD := --numprocesses logical --maxprocesses 8 --dist loadfile

.PHONY: help demo test test-ray lint format docs reference bench picture golden clean
.DEFAULT_GOAL := help

help:  ## list what can be made
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/installed-build  ## real video to a dataset that validates, and a picture of it
	$(BIN)/python scripts/demo.py --folder demo

test: lint  ## linter, formatter, type checker and tests
	$(BIN)/python -m pytest $(SPREAD)

test-ray: $(VENV)/installed-dev  ## tests that start a Ray cluster
	$(BIN)/python -m pytest -m ray

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-dev  ## format the code, fix what the linter can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed-dev  ## run every code block of the docs, build their site
	$(BIN)/python -m pytest tests/product/test_docs.py tests/product/test_docs_site.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

reference: $(VENV)/installed-dev  ## write docs/reference anew from the code
	$(BIN)/python scripts/make_reference.py

bench: $(VENV)/installed-dev  ## measure speed and memory
	$(BIN)/python scripts/bench_frames.py

picture: $(VENV)/installed-build  ## make the pictures of README and docs anew
	$(BIN)/python scripts/readme_picture.py demo/videos docs/images/tracks.png
	$(BIN)/python scripts/live_demo.py demo/videos/bigbuckbunny.mp4 --frames 55 \
	    --out demo/live.mp4 --picture docs/images/live.jpg

golden: $(VENV)/installed-dev  ## write golden files that are missing
	$(BIN)/python tests/fixtures/golden_examples.py

clean:  ## remove what was made here
	rm -rf $(VENV) demo build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Systems without ensurepip make a bare environment and put pip into it from outside.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) \
	    && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }

$(VENV)/installed-build: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(INSTALL) --editable '.[build]'
	@touch $@

$(VENV)/installed-dev: pyproject.toml $(CONSTRAINTS) requirements-test-nodeps.txt | $(BIN)/python
	$(INSTALL) --editable '.[dev]'
	$(INSTALL) --no-deps -r requirements-test-nodeps.txt
	@touch $@ $(VENV)/installed-build
