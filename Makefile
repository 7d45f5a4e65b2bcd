# SPDX-License-Identifier: Apache-2.0
# Every target sets up what it needs: the first time from a fresh Debian 12 or 13 (as root), afterwards in no time.
#
#   PYTHON=...    the interpreter of .venv: by default the distribution's, for which its BCC is built
#   PACKAGES=     set to nothing on another distribution, once their equivalents are installed

PYTHON   ?= /usr/bin/python3
# libpython3-dev: rotel, the collector of the demo, embeds Python. linux-libc-dev-*-cross: a test compiles for another
# architecture.
OTHER_ARCHITECTURE := $(if $(filter x86_64,$(shell uname -m)),arm64,amd64)
PACKAGES ?= bpftool iproute2 libbpf1 libpython3-dev linux-libc-dev linux-libc-dev-$(OTHER_ARCHITECTURE)-cross \
    openssl python3-bpfcc python3-venv systemd tmux util-linux

BIN     := .venv/bin
BPF     := $(wildcard bpf/*.c bpf/*.h)
APT_GET := export DEBIAN_FRONTEND=noninteractive; apt-get -q update; apt-get -q install --yes --no-install-recommends
SCHEMA  := $(BIN)/check-jsonschema --quiet --default-filetype yaml --builtin-schema
PIP_OPTIONS := --quiet --disable-pip-version-check --constraint constraints.txt
INSTALL := $(BIN)/python -m pip install $(PIP_OPTIONS)

# Three processes for two cores, because tests of deadlines wait.
UNIT    := -m unit --numprocesses 3 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo unit test pythons compat integration browser fuzz pressure soak distrotest vmtest platforms bench \
    lint format docs pictures build sbom clean setup collector packages root

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: root collector ## see it work: subnets of known delay, a real collector; REPORT=FILE.html: also a report
	$(BIN)/otel-epping demo $(if $(REPORT),--report '$(REPORT)')

unit: setup ## the tests that need neither kernel nor root, with fewer examples: in 20 seconds, as any user
	$(BIN)/pytest $(UNIT) --hypothesis-profile quick

test: root lint collector ## lint, then every test
	$(BIN)/pytest $(UNIT)
	$(BIN)/pytest -m 'parallel and not unit' --numprocesses 2 --dist loadfile
	$(BIN)/pytest -m 'not parallel and not unit'

pythons: ## the tests that need neither kernel nor root on Python 3.10 to 3.14, or PYTHONS="INTERPRETER..."
	tests/pythons.sh $(PYTHONS)

compat: packages ## the export tests with the oldest and the newest OpenTelemetry release that pyproject.toml allows
	tests/compat.sh $(PYTHON)

integration: root setup ## the official Collector and Prometheus, built with Go: what arrives and is shown is the truth
	for name in otelcol prometheus promtool; do tests/integration/build.sh $$name || exit 1; done
	$(BIN)/pytest tests/integration

browser: PACKAGES += chromium
browser: setup ## the pages of `otel-epping report` in headless Chromium, which apt installs
	$(BIN)/pytest tests/browser

vmtest: PACKAGES += busybox-static cpio debootstrap e2fsprogs kmod qemu-system-x86
vmtest: root setup ## other kernels in QEMU: two machines, or all with ALL=1; ONLY=TEST|KERNEL|KERNEL+RELEASE,...
	$(BIN)/python -m tests.vm $(if $(ALL),--all) $(addprefix --only ,$(ONLY))

platforms: setup ## write the tables of docs/platforms.md and docs/performance.md from the last results of vmtest
	$(BIN)/python -m tests.vm.report

fuzz: root setup ## 2 million broken packets through the program, judged by a model of its rules
	$(BIN)/python -m tests.long.fuzz

pressure: root setup ## a million new flows, SYNs or forged subnets: what is still measured, and what tables hold
	$(BIN)/python -m tests.long.pressure

soak: root collector ## 20 minutes of churn, or MINUTES=N: each packet is exported once, memory stays flat
	$(BIN)/python -m tests.long.soak $(MINUTES)

distrotest: root ## demo and test in fresh Debian 12, 13 and sid, or ONLY=trixie; other steps: STEPS="check demo"
	$(PYTHON) -m tests.distro $(ONLY) $(if $(STEPS),--steps $(STEPS))

bench: root setup ## all benchmarks, or ONLY=NAME; COMPARE=NAME|ID,...: also measure loaded programs; JSON=FILE
	$(BIN)/python -m bench $(ONLY) $(addprefix --compare ,$(COMPARE)) $(addprefix --json ,$(JSON))

lint: setup ## check style, types, formatting, licences, workflows and other files for GitHub
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(BPF)
	$(BIN)/zizmor --offline --quiet --strict-collection --pedantic .github
	$(SCHEMA) vendor.github-workflows .github/workflows/*.yml
	$(SCHEMA) custom.github-workflows-require-timeout .github/workflows/*.yml
	$(SCHEMA) vendor.dependabot .github/dependabot.yml
	$(SCHEMA) vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(SCHEMA) vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(SCHEMA) vendor.citation-file-format CITATION.cff
	@# Outside of a git checkout, reuse would also check .venv. So it gets a copy of the sources.
	copy=$$(mktemp -d); trap 'rm -rf "$$copy"' EXIT; \
	tar -c --exclude=./.git --exclude=./.venv --exclude=./build --exclude=./dist --exclude='.*_cache' \
	    --exclude=.hypothesis --exclude=__pycache__ . | tar -x -C "$$copy"; \
	$(BIN)/reuse --root "$$copy" lint --lines

format: setup ## put the sources into the format that lint asks for
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(BPF)

docs: setup ## write schemas/, docs/{api,links,metrics,settings}.md and the dashboards from docstrings and tables
	mkdir -p docs
	$(BIN)/python -m scripts.api_page > docs/api.md
	$(BIN)/python -m scripts.dashboard > examples/grafana/dashboard.json
	$(BIN)/python -m scripts.links_page > docs/links.md
	$(BIN)/python -m scripts.metrics_page > docs/metrics.md
	$(BIN)/python -m scripts.perses > examples/perses/dashboard.json
	$(BIN)/python -m scripts.settings_page > docs/settings.md
	$(BIN)/python -m scripts.registry

pictures: PACKAGES += chromium optipng
pictures: root collector ## run the demo, and write the pictures of README.md from its data
	$(BIN)/python -m scripts.pictures docs/images

build: setup ## wheel and sdist into dist/
	$(BIN)/hatchling build -d dist

# A venv with the wheel and nothing else, not even pip, shows what the wheel depends on. The tool has a venv of its own.
sbom: build ## the bill of materials (CycloneDX) of the wheel in dist/, with the pinned versions, into build/sbom/
	$(PYTHON) -m venv --clear build/sbom-venv
	build/sbom-venv/bin/python -m pip install $(PIP_OPTIONS) cyclonedx-bom
	$(PYTHON) -m venv --clear --without-pip build/wheel-venv
	build/sbom-venv/bin/python -m pip --python build/wheel-venv/bin/python install $(PIP_OPTIONS) dist/*.whl
	mkdir -p build/sbom
	build/sbom-venv/bin/cyclonedx-py environment -o build/sbom/otel-epping.cdx.json build/wheel-venv

clean: ## remove everything that can be made again
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -prune -exec rm -rf {} +

setup: .venv/.installed

# The build backends come first, so that they are pinned ones too: hatchling for this tree, poetry-core for reuse.
.venv/.installed: pyproject.toml constraints.txt | packages
	$(PYTHON) -m venv .venv
	$(INSTALL) hatchling poetry-core
	$(INSTALL) --no-build-isolation --editable .[dev,lint]
	touch $@

# rotel has no wheel for Python 3.14: the official collector takes its place, built from source once.
collector: setup
	@set -e; \
	if $(BIN)/python -c 'import rotel' 2>/dev/null || test -x $(BIN)/otelcol; then exit; fi; \
	PATH="$$PATH:/usr/local/go/bin"; \
	command -v go >/dev/null || { $(APT_GET) golang-go; }; \
	otelcol=$$(tests/integration/build.sh otelcol); \
	ln -sf "$$otelcol" $(BIN)/otelcol

packages:
	@missing=; for p in $(PACKAGES); do \
	    dpkg-query -W -f '$${db:Status-Abbrev}' $$p 2>/dev/null | grep -q '^.i' || missing="$$missing $$p"; \
	done; \
	test -n "$$missing" || exit 0; \
	command -v apt-get >/dev/null || \
	    { echo "make: no apt-get here: install the equivalents of '$(PACKAGES)', then run make with PACKAGES=" >&2; exit 1; }; \
	test "$$(id -u)" = 0 || \
	    { echo "make: Debian packages are missing:$$missing: run make as root once, or apt-get install them" >&2; exit 1; }; \
	set -ex; $(APT_GET) $$missing

root:
	@test "$$(id -u)" = 0 || \
	    { echo "make: needs root, to load BPF programs and to make network namespaces: sudo make $(MAKECMDGOALS)" >&2; exit 1; }
