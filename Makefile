# What people call; each target installs what it lacks (scripts/install-test-tools.sh).

CARGO ?= cargo
FANSYNC = ./target/release/fansync

.PHONY: demo test soak bench release tools

# A throw-away rsync daemon, the mirror on a scratch tree, the latency of each change, a comparison.
demo: release
	$(FANSYNC) demo

test: tools
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) test --workspace

# The daemon under random churn with plain and hostile names, and a large cold start; takes minutes, prints its seeds.
soak: tools
	$(CARGO) test --release --test daemon soak_ -- --ignored --nocapture

# The claims, each with its limit from the same run; then the micro-benchmarks.
bench: release
	$(FANSYNC) bench burst trickle small --runs 5
	$(CARGO) bench

release: tools
	$(CARGO) build --release

tools:
	@scripts/install-test-tools.sh rsync
