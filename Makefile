# waqueue's commands. `make run` needs Python 3.11 or newer, and nothing else of the machine.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check bench faults soak

# One and a half times as many as there are cores: half of the time a test waits for a process.
PYTEST_ARGS ?= -n $(shell cores=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((cores * 3 / 2)))
BENCH_ARGS ?=
SOAK_ARGS ?= --minutes 10

# The first Python that is new enough and can make an environment; PYTHON=... overrides.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo "$$python" && break; done)

# Production as the checks see it. Nothing connects to these.
PRODUCTION := DATABASE_URL=postgresql://waqueue:secret@127.0.0.1:1/waqueue REDIS_URL=redis://127.0.0.1:1/0 \
	WAQUEUE_SECRET_KEY=only-for-make-check-0123456789-abcdefghijklmnopqrstuvwxyz \
	WAQUEUE_PUBLIC_URL=https://waqueue.example WAQUEUE_ALLOWED_HOSTS=waqueue.example

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' Makefile

run: .venv/run.stamp ## Start everything in this terminal: PostgreSQL, Valkey, web server, worker (Ctrl-C stops)
	@exec .venv/bin/python -m waqueue.run

test: .venv/dev.stamp ## Run the whole suite on throw-away servers (PYTEST_ARGS="-k name" for a part)
	@.venv/bin/python -m pytest $(PYTEST_ARGS)

check: .venv/dev.stamp ## Lint, types, import contract, migrations, production settings
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	$(PRODUCTION) .venv/bin/python -m mypy
	.venv/bin/python -c 'import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())'
	$(PRODUCTION) .venv/bin/python -W "ignore:Got an error checking:RuntimeWarning" manage.py makemigrations --check --dry-run
	$(PRODUCTION) .venv/bin/python manage.py check --deploy --fail-level WARNING

bench: .venv/dev.stamp ## Measure waqueue beside RQ, Celery, BullMQ and others (docs/performance.md)
	@.venv/bin/python -m benchmarks $(BENCH_ARGS)

faults: .venv/dev.stamp ## Break everything, and print what holds (docs/guarantees.md)
	@WAQUEUE_TEST_FULL_LENGTH=1 .venv/bin/python -m pytest -p tests.fault_matrix -m fault --timeout 1200 $(PYTEST_ARGS)

soak: .venv/dev.stamp ## Break everything under load and count what was lost (SOAK_ARGS="--minutes 10 --seed 7")
	@.venv/bin/python -m tests.soak $(SOAK_ARGS)

.venv/bin/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "waqueue needs Python 3.11 or newer with its venv module: install one (on Debian also python3-venv)," >&2; \
		echo "or name it: make PYTHON=/path/to/python3 ..." >&2; exit 1; fi
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than Python 3.11: name a newer one with PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear .venv

.venv/run.stamp: requirements.txt .venv/bin/python
	$(call install,requirements.txt)

.venv/dev.stamp: requirements-dev.txt requirements.txt .venv/bin/python
	$(call install,requirements-dev.txt)

define install
	@echo "Installing $(1) into .venv (once; it takes a minute)."
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $(1) \
		|| { echo "Installing failed: the lines above say why. Without a way to the package index, see pip's settings." >&2; exit 1; }
	@touch $@
endef
