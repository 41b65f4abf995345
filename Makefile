# Two commands are enough on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
HATCH := .hatch/bin/hatch
EXTRAS := local serve cli azure provision agent-framework deepagents foundry langchain openai-agents semantic-kernel
# Where make test and make test-rest add their coverage; empty: none is measured.
COVERAGE ?=
MEASURE := $(if $(COVERAGE),--cov --cov-report= --cov-fail-under=0,)
ALSO := $(if $(COVERAGE),--cov-append,)
export HATCH_INTERACTIVE := 0
# Without bytecode each program and each kernel would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-rest test-all coverage lint fix infra bench docs clean sandbox debootstrap image-lock environments
.DEFAULT_GOAL := demo

demo: $(HATCH) sandbox
	@$(HATCH) run demo

# Every capability against the real components, in minutes.
test: $(HATCH) sandbox
	$(HATCH) run test $(MEASURE)

# What is slow or repeated: see CONTRIBUTING.md.
test-rest: $(HATCH) sandbox debootstrap
	@$(MAKE) --no-print-directory -j2 --output-sync=target environments
	$(HATCH) run bare:test
	$(HATCH) run lowest:test
	$(HATCH) run mcp2:test
	$(HATCH) run deepagents:test
	$(HATCH) run full $(MEASURE) $(ALSO)

test-all: test test-rest

# Each extra alone answers, and the other environments are ready; two at a time.
environments: $(EXTRAS:%=alone-%) environment-bare environment-lowest environment-mcp2 environment-deepagents

alone-%: $(HATCH)
	$(HATCH) run +extra=$* alone:check

environment-%: $(HATCH)
	$(HATCH) run $*:python -c ""

# The branch coverage that the runs with COVERAGE=1 measured together. It fails below the gate.
coverage: $(HATCH)
	$(HATCH) run coverage report

lint: $(HATCH)
	$(HATCH) run lint

fix: $(HATCH)
	$(HATCH) run fix

# The snapshots of the Bicep templates; it needs the compiler.
infra: $(HATCH)
	$(HATCH) run infra

bench: $(HATCH) sandbox
	$(HATCH) run bench

docs: $(HATCH)
	$(HATCH) run docs:build

image-lock: $(HATCH)
	$(HATCH) run image:lock

# bubblewrap isolates the sessions of the embedded pool on Linux. Without it a weaker backend is used.
sandbox:
	@if [ "$$(uname)" = Linux ] && ! command -v bwrap >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq bubblewrap >/dev/null; \
	  else echo "note: bubblewrap is not installed; run: sudo apt install bubblewrap" >&2; fi; fi

# A test carries out the session image's Dockerfile in a Debian root of its own.
debootstrap:
	@if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && ! command -v debootstrap >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq debootstrap >/dev/null || \
	  echo "note: debootstrap is not available; the test of the image is skipped" >&2; fi

$(HATCH):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .hatch
	.hatch/bin/python -m pip install --quiet --disable-pip-version-check "hatch>=1.14" uv
	@touch $(HATCH)

clean:
	rm -rf .cache .hatch .venv demo-output
