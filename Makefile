# Everything here runs on a fresh Debian 12 with python3 >= 3.11 and make, as root: missing Debian
# packages and the virtual environment are installed on the way. Where pip finds its packages is
# left to the machine's own settings (pip.conf, PIP_*).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo test lint bench chaos loadtest autobahn lock packages clean simulate fuzz abuse

BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Quiet on success, all of the output on failure. To a terminal, scripts tell through 3 what is slow.
define quietly
@exec 3>&1; out=$$($(1) 2>&1) || { printf '%s\n' "$$out"; exit 1; }
endef

demo: .venv/.installed packages
	@$(BIN)/python -P -m loadtest.demo $(if $(KEEP),--keep)

# Two processes, each with servers of its own: much of the suite waits (15 minutes in one process).
test: .venv/.installed packages lint
	@$(BIN)/pytest --no-header -n 2 --dist loadfile

lint: .venv/.installed
	$(call quietly,$(BIN)/ruff format --check .)
	$(call quietly,$(BIN)/ruff check .)
	$(call quietly,$(BIN)/mypy)
	$(call quietly,$(BIN)/lint-imports)

# BENCH="--only outbound,inbound --repeats 5" chooses; --full for the long runs at full length.
bench: .venv/.installed packages
	@$(BIN)/python -P -m loadtest.bench $(BENCH)

# What one domain's floods do to another one's delays. ABUSE="--repeats 5" for steadier figures.
abuse: .venv/.installed packages
	@$(BIN)/python -P -m loadtest.abuse $(ABUSE)

# CHAOS="--only worker-killed --times 3" chooses; --flap for thousands of domains at once.
chaos: .venv/.installed packages
	@$(BIN)/python -P -m loadtest.chaos $(CHAOS)

# LOADTEST="--preset soak --users 200" chooses; python -m loadtest --help, loadtest/presets.toml.
loadtest: .venv/.installed packages
	@$(BIN)/python -P -m loadtest $(LOADTEST)

# MINUTES=5 for longer, SEED=42 to see one; planted bugs prove that it finds what it looks for.
simulate: .venv/.installed
	@PYTHONPATH=. $(BIN)/python -P -m tests.simulation \
	    $(if $(SEED),--seed $(SEED),$(if $(MINUTES),--minutes $(MINUTES),--seeds 2000))
	@$(if $(SEED),,PYTHONPATH=. $(BIN)/python -P -m tests.simulation --plant --seeds 400)

# Needs a Python 2.7 (PYTHON27=...), and pip finds the suite's packages by itself; a minute or two.
autobahn: .venv/.installed
	@$(BIN)/python -P -m loadtest.autobahn $(CASES)

# FUZZ_SECONDS=600 for longer, shared by all targets; they are in tests/fuzz, with hypothesis also
# part of the suite.
fuzz: .venv/.fuzz
	@PYTHONPATH=. $(BIN)/python -P -m tests.fuzz $(if $(FUZZ_SECONDS),--seconds $(FUZZ_SECONDS))

.venv/.fuzz: .venv/.installed
	$(call quietly,$(BIN)/python -m pip install -q $$($(BIN)/python -c "import tomllib; \
	    print(*tomllib.load(open('pyproject.toml', 'rb'))['dependency-groups']['fuzz'])"))
	@touch $@

packages:
	$(call quietly,loadtest/stage/install-packages prosody ejabberd redis-server lua-unbound prometheus docker-compose \
	    nginx libnginx-mod-stream haproxy caddy)

# pyproject.toml names the oldest versions that work, the lock the very files the tests ran with.
lock: .venv/.installed
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	    --group dev pyproject.toml -o requirements.lock

.venv/.installed: requirements.lock pyproject.toml
	$(call quietly,loadtest/stage/make-venv .venv)
	@if [ -t 1 ]; then echo "installing Python packages into .venv, which takes a minute, once"; fi
	$(call quietly,$(BIN)/python -m pip install -q --require-hashes -r requirements.lock)
	$(call quietly,$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .)
	@touch $@

clean:
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .autobahn
