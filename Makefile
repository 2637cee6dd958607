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

# The agent under random churn, alone and while things break, large trees, long backlogs. Prints its seeds and figures; about
# 45 min. One of them, each of which takes 2 min but where said otherwise, with `make soak ONLY=...`:
#   converges   churn alone (5 min)              changes_overtake    a large cold start (1 min)
#   faults_queue64, faults_kill, faults_daemon, faults_full, faults_stop, faults_all
#   a_restart   a million files (15 min)         a_million_marks     for a dead target (5 min)
#   a_backlog   deaths of the agent in an outage
# FANSYNC_CHAOS_SEEDS: how many seeds each (default 10 to 20); FANSYNC_CHAOS_SEED: only this one.
ONLY ?=
soak: tools
	$(CARGO) test --release --test daemon soak_$(ONLY) -- --ignored --nocapture --test-threads=1

# The claims, each with its limit from the same run; then the micro-benchmarks.
bench: release
	$(FANSYNC) bench burst trickle small --runs 5
	$(CARGO) bench

release: tools
	$(CARGO) build --release

tools:
	@scripts/install-test-tools.sh rsync
