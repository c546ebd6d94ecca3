# Each target does all of its own set-up: a virtual environment in .venv, the install, then the work.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test test-slow lint model picture

demo: $(INSTALLED)  ## explain 64 synthetic scenes with the bundled model
	$(BIN)/python fit.py --config demo

test: $(INSTALLED)  ## the tests, offline
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(INSTALLED)  ## the long ones: a wheel, the bundled model on 500 scenes, killed runs, more ranks and launchers
	$(BIN)/python -m pytest -m slow

lint: $(INSTALLED)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

model: $(INSTALLED)  ## train the bundled model again and write its card (about 40 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/python fit.py --config scenes-model output_dir=runs/scenes-model resume=true
	$(BIN)/python scripts/score_scenes_model.py --model runs/scenes-model/model --write
	cp runs/scenes-model/model/* m2ib_lightning/models/scenes/

picture: $(INSTALLED)  ## the README's picture
	$(BIN)/python scripts/draw_readme_picture.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
