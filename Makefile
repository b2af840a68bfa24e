# SPDX-License-Identifier: Apache-2.0
# Short names for the long commands. Meson does the building.
BUILD ?= build

.PHONY: all demo check check-full bench bench-guard faults fuzz format lint install clean setup

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD)

$(BUILD)/build.ninja:
	@scripts/setup demo
	@meson setup $(BUILD) --prefix /usr/local >/dev/null

setup:
	@scripts/setup all

demo: all
	@scripts/demo $(BUILD)

check: setup
	@scripts/check quick

check-full: setup
	@scripts/check full

bench: all
	@scripts/setup bench
	@bench/run.py --croft $(BUILD)/croft $(BENCH_ARGS)

# Is this tree slower than BASE=COMMIT (what HEAD left upstream at, or the commit before HEAD)?
bench-guard: setup
	@bench/guard.py $(if $(BASE),--base $(BASE)) $(GUARD_ARGS)

fuzz: setup
	@scripts/fuzz $(or $(SECONDS),30)

faults: setup
	@scripts/faults $(FAULTS_ARGS)

format:
	@clang-format -i $$(git ls-files '*.c' '*.h')

lint: setup all
	@scripts/lint $(BUILD)

install: all
	@meson install -C $(BUILD)

clean:
	@rm -rf build build-*
