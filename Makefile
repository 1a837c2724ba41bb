# The words of the README. Everything happens in a virtual environment in .venv; nothing else is touched.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(wildcard export/*.py models/*.py training/*.py converters/*.py converters/*/*.py validation/*.py validation/*/*.py validation/mil/*/*.py)

.PHONY: help install demo test test-slow lint format conformance fuzz bench learn check-defaults bench-mil lock schema picture train-demo train-witness matrix multi-scale sample docker clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 16

install: $(VENV)/.installed $(VENV)/.linked  ## make the virtual environment with the locked versions

$(VENV)/.installed: requirements.lock converters/apart.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python converters/apart.py
	touch $@

# A strict editable install links single files, so it is made anew when the set of files changes.
$(VENV)/.linked: $(VENV)/.installed pyproject.toml $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--config-settings editable_mode=strict -e .
	touch $@

demo: install  ## the main job on real images: four targets, verified
	$(BIN)/lvexport mobilevit --weights demo --to coreml,tflite,executorch,onnx

# Two files at a time: what a file's tests share is made once.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

test: install  ## the tests, with a sample of the slow suites
	$(PYTEST) -m "not slow"

test-slow: install  ## every test, also those that take minutes each
	$(PYTEST)

lint: install  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: install  ## damage 2,000 Core ML packages and see that the interpreter refuses them or runs them
	$(BIN)/python -m tools.mil_fuzz --count 2000

bench: install  ## our artifacts beside the converters' own, in turn, as ratios with their spread (an hour)
	$(BIN)/python -m tools.bench

learn: install  ## learn the table of default rewrites anew, by measuring (hours)
	$(BIN)/python -m tools.learn

check-defaults: install  ## compare the default rewrites with none on the registry's networks (hours)
	$(BIN)/python -m tools.check_defaults

bench-mil: install  ## speed and memory of the Core ML interpreter beside torch (minutes; Linux)
	$(BIN)/python tools/mil_bench.py

lock: $(VENV)/.installed  ## write requirements.lock anew from pyproject.toml
	$(BIN)/python tools/lock.py > requirements.lock.new
	mv requirements.lock.new requirements.lock

schema: install  ## write the manifest's JSON schema anew
	$(BIN)/python tools/schema.py > docs/manifest.schema.json

picture: install  ## draw the README's picture anew
	$(BIN)/lvexport mobilevit --weights demo --to coreml,tflite,executorch,onnx --quantize fp32,fp16
	$(BIN)/python tools/picture.py

train-demo: install  ## train the demo checkpoints anew (each up to an hour on 2 cores; needs dataset-fashion-mnist)
	$(BIN)/lvexport train mobilevit_xxs --data fashion-mnist --half --output runs/demo/mobilevit_xxs \
		--sizes 32,64,96 --batch 24 --epochs 18
	$(BIN)/lvexport train mobile_former_26m --data fashion-mnist --half --output runs/demo/mobile_former_26m
	$(BIN)/lvexport train efficientformer_nano --data fashion-mnist --half --output runs/demo/efficientformer_nano
	cp runs/demo/*/*.safetensors runs/demo/*/*.json runs/demo/*/*.md runs/demo/*/*.svg models/checkpoints/

train-witness: install  ## train the harder witness anew from the demo (an hour on a core; needs dataset-fashion-mnist)
	$(BIN)/lvexport train mobilevit_xxs --data collages --start demo --freeze 2 --half --output runs/witness \
		--batch 48 --lr 1.5e-3 --epochs 4
	for kind in safetensors json md svg; do \
		cp runs/witness/mobilevit_xxs.$$kind models/checkpoints/mobilevit_xxs-witness.$$kind; done
	sed -i 's/mobilevit_xxs\.svg/mobilevit_xxs-witness.svg/' models/checkpoints/mobilevit_xxs-witness.md

matrix: install  ## build every network for every target and put the verdicts into the README (hours)
	$(BIN)/python tools/matrix.py

multi-scale: install  ## compare the multi-scale with the fixed sampler anew (hours; needs dataset-fashion-mnist)
	$(BIN)/python tools/multi_scale.py

# SUITE=others for a sample of coremltools' other suites, or one by its name in tools/coreml_suite/suites.py
conformance: install  ## run coremltools' own tests on the Core ML interpreter and write docs/conformance.md (about an hour)
	$(BIN)/python tools/conformance.py $(SUITE) --processes 2

sample: install  ## draw the sample of images that ships (needs dataset-fashion-mnist)
	$(BIN)/python -m lvexport.training.sample validation/samples/fashion_mnist.safetensors

docker:  ## build the image
	docker build -t lvexport .

clean:  ## remove what the targets above made
	rm -rf $(VENV) dist build *.egg-info .mypy_cache .ruff_cache .hypothesis
