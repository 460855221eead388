# `make run` and `make test` work as the first command on a machine with only Python 3.11-3.13 and make.
PY = .venv/bin/python
.DEFAULT_GOAL = help
.PHONY: help run test check format settings bench prove-quota lock clean venv venv-run

help: ## this list
	@sed -n 's/^\([a-z][a-z-]*\):[^#]*## /make \1\t/p' Makefile

run: venv-run ## GEKO with a demo tenant, an embedded PostgreSQL and a stand-in for LibreChat
	@exec $(PY) -m geko_proxy demo

test: venv ## all tests; ARGS="-k quota" for some
	@$(PY) -m pytest -n auto $(ARGS)

check: venv ## format, lint, strict types, layout
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy geko_proxy tests bench prove
	$(PY) scripts/check_layout.py

format: venv ## put the code into our format
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

settings: venv ## write .env.example and docs/settings.md from the settings in the code
	$(PY) -m geko_proxy.config

bench: venv ## compare with LibreChat alone, nginx, a naive proxy and LiteLLM; the last line is JSON
	@$(PY) -m bench

prove-quota: venv ## prove under load, with kills, that quotas hold; ARGS="--turns 60" for less; the last line is JSON
	@$(PY) -m prove $(ARGS)

lock: venv ## pin the dependencies anew; ARGS=--upgrade takes the newest
	@$(PY) -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements/lock.txt
	UV=$(PY)\ -m\ uv scripts/lock $(ARGS)

clean: ## remove what was made here, but not the data in .geko
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv:
	@scripts/bootstrap dev

venv-run:
	@scripts/bootstrap run
