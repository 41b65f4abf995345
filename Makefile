# Two commands are enough on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
HATCH := .hatch/bin/hatch
export HATCH_INTERACTIVE := 0

.PHONY: demo test lint fix bench docs clean sandbox debootstrap image-lock
.DEFAULT_GOAL := demo

demo: $(HATCH) sandbox
	@$(HATCH) run demo

test: $(HATCH) sandbox debootstrap
	$(HATCH) run alone:check
	$(HATCH) run bare:test
	$(HATCH) run mcp2:test
	$(HATCH) run deepagents:test
	$(HATCH) run test

lint: $(HATCH)
	$(HATCH) run lint

fix: $(HATCH)
	$(HATCH) run fix

bench: $(HATCH) sandbox
	$(HATCH) run bench

docs: $(HATCH)
	$(HATCH) run docs:build

image-lock: $(HATCH)
	$(HATCH) run image:lock

# bubblewrap is the fence of the embedded pool on Linux; without it a weaker one is used.
sandbox:
	@if [ "$$(uname)" = Linux ] && ! command -v bwrap >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq bubblewrap >/dev/null; \
	  else echo "note: bubblewrap is not installed; run: sudo apt install bubblewrap" >&2; fi; fi

# A test carries the session image's Dockerfile out in a Debian root of its own.
debootstrap:
	@if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && ! command -v debootstrap >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq debootstrap >/dev/null || \
	  echo "note: debootstrap is not to be had; the image's test is skipped" >&2; fi

$(HATCH):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .hatch
	.hatch/bin/python -m pip install --quiet --disable-pip-version-check "hatch>=1.14" uv
	@touch $(HATCH)

clean:
	rm -rf .cache .hatch .venv demo-output
