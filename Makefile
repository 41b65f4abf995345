# Two commands are enough on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
HATCH := .hatch/bin/hatch
export HATCH_INTERACTIVE := 0

.PHONY: demo test lint fix bench docs clean sandbox
.DEFAULT_GOAL := demo

demo: $(HATCH) sandbox
	@$(HATCH) run demo

test: $(HATCH) sandbox
	$(HATCH) run alone:check
	$(HATCH) run bare:test
	$(HATCH) run mcp2:test
	$(HATCH) run test

lint: $(HATCH)
	$(HATCH) run lint

fix: $(HATCH)
	$(HATCH) run fix

bench: $(HATCH) sandbox
	$(HATCH) run bench

docs: $(HATCH)
	$(HATCH) run docs:build

# bubblewrap is the fence of the embedded pool on Linux; without it a weaker one is used.
sandbox:
	@if [ "$$(uname)" = Linux ] && ! command -v bwrap >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq bubblewrap >/dev/null; \
	  else echo "note: bubblewrap is not installed; run: sudo apt install bubblewrap" >&2; fi; fi

$(HATCH):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .hatch
	.hatch/bin/python -m pip install --quiet --disable-pip-version-check "hatch>=1.14" uv
	@touch $(HATCH)

clean:
	rm -rf .hatch .venv demo-output
