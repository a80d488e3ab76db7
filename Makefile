# The two commands that matter: `make demo` and `make test`. Both set everything up first.
.PHONY: demo test test-all check bench setup clean

# A folder of pictures or a named set, for example: make demo DATA=photos/
DATA ?=

demo: setup
	.venv/bin/neocog demo $(if $(DATA),"$(DATA)")

test:
	scripts/test

test-all:
	scripts/test -m "slow or not slow"

check:
	scripts/check

bench:
	scripts/bench $(NAME)

setup:
	@scripts/setup

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
