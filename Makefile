# Everything that people and CI run. A fresh machine needs Python 3.11+, a JDK and make; the rest is made in .venvs/.

PYTHON ?= python3
export PYTHON
DEMO ?=
TESTS ?=
QUALITY ?=
BUNDLE ?=
ENCODER ?=
DATA ?=
PRODUCTS ?= 20000
full := .venvs/full/bin
base := .venvs/base/bin
stage := @.ci/stage

.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help install demo test lint types unit exporter integration readme docs wheel bench quality engines soak clean

help: ## Says what can be made.
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: wheel ## Makes .venvs/full: gram with the workshop and a node of its own.
	$(stage) "full environment" .ci/venv full exporter,node,dev

demo: install ## The whole path on the synthetic sample shop, ends in a table. DEMO='--keep' leaves it running.
	$(full)/gram demo $(DEMO)

test: lint types unit exporter integration readme ## Everything that CI runs, quick checks first.

lint: wheel ## ruff, formatting, import arrows.
	$(stage) "base environment" .ci/venv base dev
	$(stage) "ruff check" $(base)/ruff check .
	$(stage) "ruff format" $(base)/ruff format --check .
	$(stage) "import arrows" env PYTHONPATH=plugin:exporter $(base)/lint-imports

types: install ## mypy, strict; docs/cli.md is what the program says.
	$(stage) "mypy" $(full)/mypy
	$(stage) "docs/cli.md" sh -c '$(full)/python -P .ci/cli_page.py | diff docs/cli.md - || { echo "run: make docs"; exit 1; }'

docs: install ## Writes docs/cli.md anew.
	$(full)/python -P .ci/cli_page.py > docs/cli.md

unit: lint ## plugin/tests on the built wheel, with the base install alone.
	$(stage) "base install" $(base)/python -P .ci/base_install.py
	$(stage) "unit tests" $(base)/python -P -m pytest plugin/tests $(TESTS)

exporter: install ## exporter/tests.
	$(stage) "exporter tests" $(full)/python -P -m pytest exporter/tests $(TESTS)

integration: install ## integration_tests on a real OpenSearch node.
	$(stage) "integration tests" $(full)/python -P -m pytest integration_tests $(TESTS)

readme: install ## The README's commands in a fresh clone.
	@LAST_STAGE="README commands" .ci/stage "README commands" $(full)/python -P -m pytest -s .ci/test_readme.py

engines: wheel ## The examples of docs/bulk-encoding.md on the real Spark and Ray; needs Java 17.
	$(stage) "environment of the engines" .ci/venv engines bulk,dev
	$(stage) "engines" .venvs/engines/bin/python -P -m pytest .ci/test_bulk_engines.py $(TESTS)

soak: install engines ## The kill proofs of the write path at length: 100 kills of each program, 10,000 hostile documents, 500 bulk bodies.
	$(stage) "soak" env SOAK_KILLS=100 SOAK_DOCUMENTS=10000 SOAK_BODIES=500 $(full)/python -P -m pytest -o timeout=14400 integration_tests/test_backfill.py integration_tests/test_backfill_kills.py integration_tests/test_write_kills.py integration_tests/test_write_bodies.py $(TESTS)
	$(stage) "soak, clients" env SOAK_CLIENTS=10000 $(full)/python -P -m pytest -o timeout=14400 integration_tests/test_shim_process.py -k hang_up $(TESTS)

quality: install ## Quality with ablations, on every catalogue at hand. QUALITY='--data FOLDER --minutes 10'.
	$(full)/python -P benchmarks/quality.py $(QUALITY)

wheel: ## Builds the wheel into dist/.
	$(stage) "wheel" .ci/wheel

bench: install ## Speed, side by side. ENCODER=FOLDER of the rival, BUNDLE=FOLDER, PRODUCTS=1000000 DATA=FOLDER to keep.
	$(full)/python benchmarks/start_up.py
	$(full)/python benchmarks/decode.py $(BUNDLE) --profile $(if $(ENCODER),--encoder $(ENCODER))
	$(full)/python benchmarks/codes.py
	$(full)/python benchmarks/throughput.py $(BUNDLE) $(if $(ENCODER),--encoder $(ENCODER))
	$(full)/python benchmarks/shim.py --products $(PRODUCTS) $(if $(BUNDLE),--bundle $(BUNDLE)) $(if $(DATA),--data $(DATA))
	$(full)/python benchmarks/coding.py $(BUNDLE) $(if $(ENCODER),--encoder $(ENCODER))
	$(full)/python benchmarks/ingest.py $(BUNDLE)
	$(full)/python benchmarks/growth.py $(BUNDLE)
	$(full)/python benchmarks/backfill.py $(BUNDLE)

clean: ## Removes what was made here; caches of packages and of OpenSearch stay.
	rm -rf .venvs build dist ./*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
