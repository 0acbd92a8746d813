#!/usr/bin/env bash
# Runs a fuzz target, or all of them, on random bytes that grow from the kept corpus:
#
#   fuzz/run.sh [TARGET] [RUNS]     RUNS: 10000000 if none are given
#
# Needs a nightly toolchain (rustup toolchain install nightly); installs cargo-fuzz where it is missing. What is built, the
# growing corpora and what a target failed on go to ${XDG_CACHE_HOME:-$HOME/.cache}/tidewatch/fuzz; run a failure again by
# giving its file to the program there. When a target has passed, what its corpus has gained is minimised into
# fuzz/corpus/TARGET, whose inputs `cargo test` holds to the same laws.
#
# Without an address sanitizer: nothing here is unsafe, and runs are several times as fast.
set -euo pipefail
cd "$(dirname "$0")"

targets=(remote_write remote_write2 exposition openmetrics csv answer journal outbox series snapshots)
case "${1:-}" in
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
esac
if [ $# -gt 0 ]; then targets=("$1"); fi
runs="${2:-10000000}"
case "$runs" in '' | *[!0-9]*) echo "run.sh: RUNS must be a whole number; got '$runs'" >&2; exit 2 ;; esac

cache="${XDG_CACHE_HOME:-$HOME/.cache}/tidewatch"
version=0.13.2
have="$("$cache/tools/bin/cargo-fuzz" --version 2>/dev/null || true)"
if [ "$have" != "cargo-fuzz $version" ]; then
    CARGO_TARGET_DIR="$cache/tools-target" \
        cargo install cargo-fuzz --locked --quiet --version "=$version" --root "$cache/tools"
    rm -rf "$cache/tools-target"
fi
export PATH="$cache/tools/bin:$PATH"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/fuzz/target}"

for target in "${targets[@]}"; do
    [ -f "targets/$target.rs" ] || { echo "run.sh: there is no target '$target' (${targets[*]})" >&2; exit 2; }
    # A failure is found fastest in small inputs, and a small corpus is one that can be kept.
    max_len=512
    case "$target" in journal | outbox | series | snapshots) max_len=2048 ;; esac
    bounds=("-max_len=$max_len" -rss_limit_mb=2048 -timeout=10 "-artifact_prefix=$cache/fuzz/$target-")
    grown="$cache/fuzz/corpus/$target"
    mkdir -p "$grown" "corpus/$target"
    cargo +nightly fuzz run --fuzz-dir . --sanitizer none "$target" "$grown" "corpus/$target" -- \
        "${bounds[@]}" "-runs=$runs" -print_final_stats=1 -verbosity=0
    # What is kept: for each edge that was reached the smallest input that does, some hundreds for a target.
    smallest="$(mktemp -d)"
    cargo +nightly fuzz run --fuzz-dir . --sanitizer none "$target" "$smallest" "$grown" "corpus/$target" -- \
        "${bounds[@]}" -merge=1 -use_counters=0 -verbosity=0
    rm -rf "corpus/$target"
    mv "$smallest" "corpus/$target"
    chmod 755 "corpus/$target"
    echo "$target: $(find "corpus/$target" -type f | wc -l) inputs kept, $(du -sb "corpus/$target" | cut -f1) bytes"
done
