# What there is to do. `make` alone lists it.

SHELL := bash

# The docs are for who works on the code: with the private items, to which a room's doc may link.
RUSTDOC_STRICT := RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links'

.PHONY: help run clients test test-clients lint docs baseline test-update test-versions drift abuse chaos test-postgres fuzz bench tools

help: ## list the targets
	@awk '/^## /{print "\n" substr($$0, 4)} /^[a-z-]+:.*## /{sub(/:.*## /, ": "); print "  make " $$0}' Makefile

## Use it

run: ## build and start the service, with a demo model if there is no other, and say what to try
	@scripts/run

clients: tools ## build the clients and examples in every language whose tools are here, and generate code for the others
	@scripts/clients/all

## Change it

# Most of a test's time is waiting, for a CLI and for deadlines: so there are more of them at once than cores.
export RUST_TEST_THREADS ?= 4

# What is run on the Node CLI, too: turns, asking, tools, MCP, restarts, replacing, faults.
ON_NODE := turns:: asks:: converse:: settings:: restarts:: recycling:: faults:: stdio::

test: clients ## run every test, those with the real Copilot CLI included: all on its native form, some on Node's, too
	cargo test --workspace --locked
	TEST_CLI=node cargo test --locked --test integration -- $(ON_NODE)

test-postgres: clients ## run the integration tests with all sessions in PostgreSQL, where the other targets have them in SQLite
	TEST_STORE=postgres cargo test --locked --test integration

test-clients: clients ## run the clients and tools of callers, and the commands of their pages, and say what each of them did
	cargo test --locked --test integration clients:: -- --include-ignored --nocapture --test-threads=1

lint: tools ## check format, clippy, docs, dependencies and proto files; warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --manifest-path benches/Cargo.toml --all-targets --locked -- -D warnings
	$(RUSTDOC_STRICT) cargo doc --workspace --no-deps --document-private-items --locked
	scripts/deny
	node_modules/.bin/buf lint
	node_modules/.bin/buf format --diff --exit-code
	node_modules/.bin/buf breaking --against proto/baseline.binpb
	scripts/docs --check

docs: tools ## write docs/reference/proto.md from the proto files
	scripts/docs

baseline: tools ## take the contract as it is for what later ones must not break; at a release, when it may still change
	node_modules/.bin/buf build --exclude-source-info -o proto/baseline.binpb

## Look deeper: minutes to hours

test-versions: tools ## run the end-to-end tests on other versions of the CLI, and write docs/operate/versions.md
	scripts/test-versions

drift: tools ## say what is used of the CLI and gone from the newest on npm, and what is new there; fails if there is anything
	scripts/drift

abuse: tools ## run the tests of callers that mean ill, those that take long or want the machine for themselves included
	cargo test --locked --test integration abuse:: -- --include-ignored --test-threads=1 --nocapture

chaos: tools ## kill CLIs, servers and PostgreSQL at random for ten minutes on each engine, and for twenty on three nodes: nothing that was answered is lost
	CHAOS_SECONDS=$${CHAOS_SECONDS:-600} cargo test --locked --test integration store::chaos:: -- --nocapture --test-threads=1
	CHAOS_SECONDS=$${CHAOS_SECONDS:-1200} cargo test --locked --test integration nodes::chaos:: -- --nocapture --test-threads=1

test-update: tools ## run servers of this version and of the next one together, as a rolling update does
	OTHER_BUILD="$$(scripts/other-version)" cargo test --locked --test integration nodes::versions:: -- --ignored

fuzz: ## run each fuzz target for a minute; needs nightly and cargo-fuzz
	@scripts/fuzz

bench: ## print what the service costs, beside its peers and the real CLI; takes a quarter of an hour
	@scripts/bench

tools:
	@scripts/tools
