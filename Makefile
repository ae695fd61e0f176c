# `make run` and `make test` need Python 3.11 or newer, make, and nothing else.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# The tests share the cores; whoever is done takes tests from the others.
PYTEST := $(BIN)/pytest -n auto --dist worksteal
GUARDS := cd tests && THOROUGH=1 ../$(BIN)/python -m guards

# What is compiled once serves the many processes of the tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test torture check format bench fuzz guards lock sbom clean

run: .venv/run
	@if [ -n "$$OPENAI_API_KEY" ] || grep -qs '^ *\(export \)\? *OPENAI_API_KEY=.' .env; \
	then exec $(BIN)/chatport serve --host $(HOST) --port $(PORT); \
	else exec $(BIN)/chatport serve --host $(HOST) --port $(PORT) --offline; fi

test: .venv/test
	$(PYTEST)

# Before a release, for hours: the same tests with many more rounds, cuts, kills and faults, and
# then, with nothing else running, minutes of overload and of slow clients.
torture: .venv/test
	TORTURE=1 $(PYTEST)
	$(BIN)/python tests/benchmarks/bench.py --long --only overload,slow

check: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p chatport.domain -p chatport.adapters -p chatport.entrypoints
	$(BIN)/mypy --allow-untyped-calls tests
	$(BIN)/lint-imports
	THOROUGH=1 $(PYTEST) --cov --cov-report=term-missing --cov-fail-under=100
	$(GUARDS)

format: .venv/test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/test
	$(BIN)/python tests/benchmarks/bench.py

# Whether a test fails where a guard is gone: each of tests/guards/table.py in turn.
guards: .venv/test
	$(GUARDS)

# What /openapi.json promises, against a live server: requests that it allows and that it does not.
# Without limits, which would refuse most of them.
fuzz: .venv/test
	@CHATPORT_DATABASE=memory: CHATPORT_USER_LIMIT= CHATPORT_TOTAL_LIMIT= \
	$(BIN)/chatport serve --offline --port $(PORT) 2>/dev/null & \
	server=$$!; trap "kill $$server" EXIT; \
	$(BIN)/schemathesis run --checks all \
	--wait-for-schema 10 http://127.0.0.1:$(PORT)/openapi.json

# What chatport is made of, as CycloneDX.
sbom: .venv/run
	$(BIN)/python sbom.py > sbom.json

# The lock files hold hashes for every platform, and no host names. Extras stay in: without them
# pip looks for a newer release of a package that another asks for with an extra, and has no hash.
LOCK := $(BIN)/uv pip compile pyproject.toml --universal --generate-hashes --no-strip-extras \
	--quiet --no-header

lock: .venv/test
	$(LOCK) --group build -o requirements.lock
	$(LOCK) --group build --group dev -c requirements.lock -o requirements-dev.lock

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "chatport needs Python 3.11 or newer; name one with: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/run: .venv/bin/python requirements.lock pyproject.toml hatch_build.py
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

.venv/test: .venv/bin/python requirements-dev.lock pyproject.toml hatch_build.py
	$(INSTALL) --require-hashes -r requirements-dev.lock
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf .venv .links sbom.json .mypy_cache .ruff_cache .pytest_cache .hypothesis .schemathesis .coverage
