# What people call; each target installs what it lacks (scripts/install-test-tools.sh).

CARGO ?= cargo
FANSYNC = ./target/release/fansync

.PHONY: demo test test-grounds soak fuzz bench bench-pictures bench-scale release tools ground-tools

# A throw-away rsync daemon, the mirror on a scratch tree, the latency of each change, a comparison.
demo: release
	$(FANSYNC) demo

# The last steps are all daemon tests by fanotify, and a part of them on other file systems; `make test-grounds` is all of both.
test: tools ground-tools
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) test --workspace
	FANSYNC_TEST_BACKENDS=fanotify scripts/test-on-grounds.sh whole here
	scripts/test-on-grounds.sh selection xfs btrfs tmpfs

# The whole daemon suite on ext4, xfs, btrfs and tmpfs, with inotify and with fanotify: about 30 min. What this machine does
# not allow is skipped, and said. GROUNDS="xfs" for one file system, FANSYNC_TEST_BACKENDS=inotify for one backend.
GROUNDS ?= ext4 xfs btrfs tmpfs
test-grounds: tools ground-tools
	scripts/test-on-grounds.sh whole $(GROUNDS)

# The agent under random churn, alone and while things break, large trees, long backlogs; then `make fuzz`. Prints its seeds
# and figures; about 50 min. One of them, each of which takes 2 min but where said otherwise, with `make soak ONLY=...`:
#   converges   churn alone (5 min)              changes_overtake    a large cold start (1 min)
#   faults_queue64, faults_kill, faults_daemon, faults_full, faults_stop, faults_all
#   a_restart   a million files (15 min)         a_million_marks     for a dead target (5 min)
#   a_backlog   deaths of the agent in an outage
#   ten_thousand_seeds  of the simulation (5 min); from FANSYNC_SIMULATION_FIRST on, and FANSYNC_SIMULATION_SEED traces one
# FANSYNC_CHAOS_SEEDS: how many seeds each (default 10 to 20); FANSYNC_CHAOS_SEED: only this one.
ONLY ?=
soak: tools
	$(CARGO) test --release --test daemon --test simulation soak_$(ONLY) -- --ignored --nocapture --test-threads=1
	$(if $(ONLY),,$(MAKE) fuzz)

# Each fuzz target for FUZZ_SECONDS, from the corpus in the repository; what it finds is left in fuzz/artifacts, and what
# it learns in fuzz/target. The compiler is the stable one: cargo-fuzz needs flags that RUSTC_BOOTSTRAP lets pass.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= decode marks output filter config checkpoint control
fuzz: tools
	@command -v cargo-fuzz >/dev/null || $(CARGO) install cargo-fuzz --locked
	@set -e; for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/target/corpus/$$target; \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run $$target fuzz/target/corpus/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -timeout=10 -max_len=4096 -print_final_stats=1; \
	done

# Everything that docs/benchmarks.md promises, each with its limit from the same run and the other tools that are installed (they
# are measured where they take part). Tables are printed; JSON and pictures go to BENCH_DIR. On a quiet machine of two processors
# about an hour; takes 10 GB in BENCH_SCRATCH. Then the reader, and the micro-benchmarks. Without root there is no fanotify.
BENCH_DIR ?= target/bench
BENCH_SCRATCH ?= /var/tmp
BENCH_RUNS ?= 7
measure = $(FANSYNC) bench $(2) --runs $(BENCH_RUNS) --dir $(BENCH_SCRATCH) \
	--json $(BENCH_DIR)/$(1).json --svg $(BENCH_DIR)/$(1).svg
bench: release
	mkdir -p $(BENCH_DIR)
	$(call measure,claim,claim)
	$(call measure,files,burst small rewrite --peer all)
	$(call measure,trickle,trickle --target daemon$(comma)stock$(comma)local --peer all)
	$(call measure,delete,delete --target daemon$(comma)stock --peer all)
	$(call measure,rename,rename)
	$(call measure,mixed,mixed)
	$(call measure,fanout,fanout)
	$(call measure,sustained,sustained)
	$(call measure,latency-wan,latency-wan)
	$(FANSYNC) bench reader
	-$(FANSYNC) bench foreign
	$(CARGO) bench
comma = ,

# The pictures of docs/benchmarks.md, drawn from what `make bench` measured: nothing is measured again.
bench-pictures: release
	mkdir -p docs/benchmarks
	for file in $(BENCH_DIR)/*.json; do \
		$(FANSYNC) bench --from-json $$file --svg docs/benchmarks/$$(basename $$file .json).svg || exit 1; \
	done

# The figures of docs/benchmarks.md: a million files in 111,100 directories. Takes 20 min at most, and 1 GB in SCALE_DIR, where the
# tree stays for the next time, and in the directory for temporary files.
SCALE_DIR ?= /var/tmp/fansync-bench
bench-scale: release
	$(FANSYNC) bench scale --dir $(SCALE_DIR)

release: tools
	$(CARGO) build --release

tools:
	@scripts/install-test-tools.sh rsync ssh sshd

# Without them the grounds that need them are skipped.
ground-tools:
	-@scripts/install-test-tools.sh mkfs.ext4 mkfs.xfs mkfs.btrfs
