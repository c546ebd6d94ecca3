# Each target sets up what it needs first: a virtual environment in .venv, with the package installed.
# Text after "##" is what `make help` prints.

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
INSTALLED := .venv/.installed
JOBS ?= 2
COVERAGE ?=
# Without the variable, pytest keeps its rewritten test modules, and the next run starts sooner.
PYTEST := env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder $(if $(COVERAGE),--cov --cov-report=term)
export HF_HUB_OFFLINE ?= 1

MARKS ?= -m "not slow"
OPEN_CLIP := .open-clip
OPEN_CLIP_PACKAGES := open_clip_torch timm torchvision ftfy wcwidth
APP := .app
APP_PACKAGES := gradio gradio_client brotli certifi fastapi groovy hf-gradio httpcore httpx opentelemetry-api orjson pydub \
	python-multipart pytz safehttpx semantic-version starlette tomlkit uvicorn 'audioop-lts;python_version>="3.13"'
DOCS := .docs-packages
DOCS_PACKAGES := mkdocs-material mkdocstrings-python latex2mathml

.PHONY: help demo test test-slow test-all test-open-clip test-browser test-app lint docs model picture

help:  ## list the targets (the default)
	@awk -F ':.*## *' '/^[a-zA-Z0-9_.-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(INSTALLED)  ## explain 32 synthetic scenes, phrase by phrase, with the bundled model
	$(BIN)/python fit.py --config demo

test: $(INSTALLED)  ## run the tests that are not marked slow, offline (JOBS=2 processes; COVERAGE=1 measures it)
	$(PYTEST) -m "not slow"

test-slow: $(INSTALLED)  ## run the slow tests: a wheel, the bundled model on 500 scenes, killed runs, launchers
	$(PYTEST) -m slow

test-all: $(INSTALLED)  ## run all tests, slow ones included
	$(PYTEST)

test-open-clip: $(INSTALLED) $(OPEN_CLIP)/.installed  ## run the tests of OpenCLIP's models, with OpenCLIP in .open-clip (MARKS= for the slow ones too)
	PYTHONPATH=$(OPEN_CLIP) $(PYTEST) $(MARKS) tests/open_clip

test-browser: $(INSTALLED)  ## run the tests of the pages in Chromium; npm installs what drives it in .browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs tests/browser

test-app: $(INSTALLED) $(APP)/.installed  ## run the tests of m2ib-app, with Gradio in .app, in Chromium
	PYTHONPATH=$(APP) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs tests/app tests/browser/test_app_in_browser.py

lint: $(INSTALLED)  ## check the code with ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(INSTALLED) $(DOCS)/.installed  ## build the documentation site into site/, strictly, with MkDocs in .docs-packages
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=$(DOCS):. $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open site/index.html"

model: $(INSTALLED)  ## train the bundled model again and write its card (about 40 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/python fit.py --config scenes-model output_dir=runs/scenes-model resume=true
	$(BIN)/python scripts/score_scenes_model.py --model runs/scenes-model/model --write
	cp runs/scenes-model/model/* m2ib_lightning/models/scenes/

picture: $(INSTALLED)  ## draw the README's picture again
	$(BIN)/python scripts/draw_readme_picture.py

# Without dependencies: .venv has them, and torchvision would bring another build of torch.
$(OPEN_CLIP)/.installed: $(CONSTRAINTS) | $(INSTALLED)
	rm -rf $(OPEN_CLIP)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(OPEN_CLIP) $(addprefix -c ,$(CONSTRAINTS)) $(OPEN_CLIP_PACKAGES)
	touch $@

# Without dependencies: .venv has the others, and Gradio 6.31 asks for a Pillow below 13, with which it works all the same.
$(APP)/.installed: $(CONSTRAINTS) | $(INSTALLED)
	rm -rf $(APP)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(APP) $(addprefix -c ,$(CONSTRAINTS)) $(APP_PACKAGES)
	touch $@

# In a folder of its own: the environment of the tests stays small.
$(DOCS)/.installed: $(CONSTRAINTS) | $(INSTALLED)
	rm -rf $(DOCS)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --target $(DOCS) $(addprefix -c ,$(CONSTRAINTS)) $(DOCS_PACKAGES)
	touch $@

$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS)) -e '.[dev]'
	touch $@
