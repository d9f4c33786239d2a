# make help             this list, as make alone
# make demo             render a clip, detect and name its moving objects        (make demo CLIP=path: a real clip or a camera)
# make native           only the build: the Python modules, and build/fastMCD where OpenCV's C++ files are found
# make setup            the same, and PyTorch: for training, evaluation and scores
# make score            render a clip with its ground truth, run on it, score pixels, boxes, identities and names
# make test             the whole test suite, C++ and Python
# make clean            remove what make native has built; results in out/ and the virtual environment stay
#
# make train-nin        train a network with its recipe: train-vgg, train-resnet20, train-nin_bwn (which nin begins with), train-lenet,
#                       train-vgg_clips WILD=DIR, train-resnet20_clips WILD=DIR; float: train-airbench, train-mobilenet.
#                       RESUME=--resume continues an interrupted one. docs/training.md says how the weights that ship were made
#
# make bench SEQUENCES="DIR DIR"   quality and speed of the detector on sequences with ground truth (CDnet, DAVIS), beside MOG2
# make bench-speed      speed of the detector by frame size, stage and CPU level, beside MOG2
# make bench-watch      the whole pipeline from a clip to names: frames per second, start-up, memory (CLIP=path: of a real clip)
# make bench-names CLIPS="DIR DIR"  how often moving objects have a correct name, and an implausible one
# make bench-xnor       speed of packed networks beside PyTorch (and onnxruntime where installed), layer by layer
# make bench-cost CLIPS="FILE DIR"  cost of binarization: accuracy, names of objects in clips, time and file size, beside float networks
# make bench-unknown    calibration: temperature, threshold of `unknown`, share of images that are named falsely
# make bench-training   images per second of a training step, beside XNOR-Net-PyTorch's plain loop
# make soak             memory of the whole pipeline over 50,000 frames
#
# make lint, sanitize   ruff; the C++ tests under AddressSanitizer and UBSan, then under ThreadSanitizer
# make arm              the C++ tests built for 64-bit ARM and run under QEMU (Debian: apt-get install g++-aarch64-linux-gnu qemu-user-static)
#
# Each target sets up what it needs once (a virtual environment, the native build): demo, native, bench-watch, sanitize and arm do without
# PyTorch. TORCH_INDEX=https://download.pytorch.org/whl/cpu takes PyTorch from there, without the libraries for GPUs.

PYTHON ?= python3
CXX ?= c++
VENV := .venv
PY := $(VENV)/bin/python
CMAKE := $(VENV)/bin/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(VENV)/bin/ninja -DCMAKE_CXX_COMPILER=$(CXX)
OUT ?= out

TRAININGS := $(foreach arch,nin vgg resnet20,train-$(arch) train-$(arch)_bwn train-$(arch)_clips) train-lenet train-airbench train-mobilenet

.PHONY: help demo setup score test bench bench-speed bench-watch bench-xnor bench-cost bench-training bench-unknown bench-names soak $(TRAININGS) lint
.PHONY: sanitize arm native clean
.DELETE_ON_ERROR:

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

demo: native
ifdef CLIP
	$(PY) -m util.watch "$(CLIP)" --save "$(OUT)/clip"
else
	$(PY) MNIST/demo.py
endif

setup: native $(VENV)/.requirements

score: $(VENV)/.requirements $(OUT)/truth/gt/gt.txt
	$(PY) -m util.watch $(OUT)/truth --network MNIST/models/LeNet_5.xnor --save $(OUT)/run
	$(PY) -m util.score.evaluate $(OUT)/run $(OUT)/truth

$(OUT)/truth/gt/gt.txt: | native
	$(PY) MNIST/demo.py --truth $(OUT)/truth

test: native $(VENV)/.tests
	$(VENV)/bin/ctest --test-dir build --output-on-failure
	$(PY) -m pytest -q tests

bench: native $(VENV)/.requirements
	$(PY) benchmarks/detection.py $(SEQUENCES)

bench-speed: native $(VENV)/.requirements
	$(PY) benchmarks/detection.py --speed

bench-watch: native
	$(PY) benchmarks/watch.py $(CLIP)

bench-xnor: native $(VENV)/.requirements
	$(PY) benchmarks/xnor.py --plot $(OUT)

bench-cost: native $(VENV)/.requirements
	$(PY) benchmarks/binarization_cost.py $(CLIPS) --plot $(OUT)/binarization_cost.png

bench-names: native $(VENV)/.requirements
	$(PY) benchmarks/names.py $(CLIPS) --sheet $(OUT)/names.png

bench-unknown: native $(VENV)/.requirements
	$(PY) benchmarks/unknown.py

soak: native $(VENV)/.requirements
	$(PY) benchmarks/soak.py --plot $(OUT)/soak.png

bench-training: native $(VENV)/.requirements
	$(TRAIN) benchmarks/training.py

# Trainings reuse their memory in large pages: a fifth faster on Linux. Ctrl-C at any time; RESUME=--resume goes on.
TRAIN = THP_MEM_ALLOC_ENABLE=1 $(PY)
GPU := $(shell command -v nvidia-smi)
LOGITS := CIFAR_10/data/airbench.safetensors
# On a GPU the teacher is asked in each step; on a CPU, where that is slow, its logits of the unchanged images are computed once.
TEACHER := $(if $(GPU),PyTorch_CIFAR10/state_dicts/airbench.pt,$(LOGITS))
# What the weights that ship were trained with: on a GPU nothing special, on a CPU bits counted in the forward pass.
COUNTING := $(if $(GPU),,--popcount-forward)

START :=
train-nin: START := --pretrained CIFAR_10/models/nin_bwn.best.pth.tar
train-nin train-vgg train-resnet20: train-%: $(TEACHER) native $(VENV)/.requirements
	$(TRAIN) CIFAR_10/main.py --arch $* --compile $(COUNTING) --teacher $< $(START) $(RESUME)

# WILD: images of the classes, of people and of other things (docs/data.md). Asked for here, before anything is computed.
ifneq ($(filter train-%_clips,$(MAKECMDGOALS)),)
$(if $(WILD),,$(error $(MAKECMDGOALS) needs WILD=DIR, a directory of images as docs/data.md describes it))
endif
train-vgg_clips: $(TEACHER) native $(VENV)/.requirements
	$(TRAIN) CIFAR_10/main.py --arch vgg_clips --compile $(COUNTING) --teacher $< --wild "$(WILD)" --pretrained CIFAR_10/models/vgg.best.pth.tar $(RESUME)

train-nin_clips train-resnet20_clips: train-%_clips: native $(VENV)/.requirements
	$(TRAIN) CIFAR_10/main.py --arch $*_clips --compile $(COUNTING) --wild "$(WILD)" --pretrained CIFAR_10/models/$*.best.pth.tar \
	    --teacher PyTorch_CIFAR10/state_dicts/airbench_clips.pt CIFAR_10/models/vgg_clips.best.pth.tar $(RESUME)

train-nin_bwn train-vgg_bwn train-resnet20_bwn: train-%_bwn: $(TEACHER)
	$(TRAIN) CIFAR_10/main.py --arch $* --bwn --compile --teacher $< $(RESUME)

train-lenet: native $(VENV)/.requirements
	$(TRAIN) MNIST/main.py --compile $(RESUME)

$(LOGITS): $(VENV)/.requirements
	$(TRAIN) PyTorch_CIFAR10/main.py --classifier airbench --logits $@

train-airbench: $(VENV)/.requirements
	$(TRAIN) PyTorch_CIFAR10/main.py --classifier airbench $(RESUME)

train-mobilenet: $(LOGITS)
	$(TRAIN) PyTorch_CIFAR10/main.py --classifier mobilenet_v2 --compile --teacher $< $(RESUME)

lint: $(VENV)/.tests
	$(VENV)/bin/ruff check .

sanitize: sanitize-address sanitize-thread

sanitize-%: $(VENV)/.watch compiler
	$(CMAKE) -S . -B build/sanitize-$* -DSANITIZE=$* -DCMAKE_BUILD_TYPE=RelWithDebInfo
	$(VENV)/bin/cmake --build build/sanitize-$*
	$(VENV)/bin/ctest --test-dir build/sanitize-$* --output-on-failure

ARM_CXX := aarch64-linux-gnu-g++
ARM_RUN := qemu-aarch64-static
arm: $(VENV)/.watch
ifeq ($(and $(shell command -v $(ARM_CXX)),$(shell command -v $(ARM_RUN))),)
	@echo "make arm: skipped, $(ARM_CXX) or $(ARM_RUN) is missing (Debian: apt-get install g++-aarch64-linux-gnu qemu-user-static)"
else
	$(CMAKE) -S . -B build/arm -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=$(ARM_CXX) \
	  "-DCMAKE_CROSSCOMPILING_EMULATOR=$(ARM_RUN);-L;/usr/aarch64-linux-gnu"
	$(VENV)/bin/cmake --build build/arm
	$(VENV)/bin/ctest --test-dir build/arm --output-on-failure
endif

# ---- Set-up ----
native: build/build.ninja
	@$(VENV)/bin/cmake --build build

build/build.ninja: CMakeLists.txt fastmcd/CMakeLists.txt $(VENV)/.watch | compiler
	$(CMAKE) -S . -B build -DPython_EXECUTABLE=$(CURDIR)/$(PY)
	@touch $@

$(VENV)/.watch: util/watch/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is missing or older than 3.11; give another with PYTHON=..." >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "make: $(PYTHON) has no venv module (Debian: apt-get install python3-venv)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -r util/watch/requirements.txt
	@touch $@

$(VENV)/.requirements: requirements.txt $(VENV)/.watch
	$(if $(TORCH_INDEX),$(PY) -m pip install --index-url $(TORCH_INDEX) torch torchvision)
	$(PY) -m pip install -r requirements.txt
	@touch $@

$(VENV)/.tests: tests/requirements.txt $(VENV)/.requirements
	$(PY) -m pip install -r tests/requirements.txt
	@touch $@

.PHONY: compiler
compiler:
	@command -v $(CXX) >/dev/null || { echo "make: no C++ compiler '$(CXX)'; install one that knows C++20 (Debian: apt-get install g++) or give it with CXX=..." >&2; exit 2; }

clean:
	rm -rf build fastmcd/*.so util/packed/*.so
