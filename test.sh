#!/usr/bin/env bash
# Everything a change has to pass, with its own set-up, on Debian 12 with Rust 1.95:
# format, lints, dependencies, the tests, and the tests against real servers.
#
#   ./test.sh [--rounds N] [--prometheus3]
#       --rounds: how often randomised tests repeat (their own default otherwise)
#       --prometheus3: also against Prometheus 3.15, which is built once with Go (about ten minutes, 4 GB of Go's caches)
#
# Installs what is missing (as root or through sudo) and starts no service. What is built and installed
# goes to ${XDG_CACHE_HOME:-$HOME/.cache}/tidewatch, never into the clone. The last line is "N passed, N failed":
# tests, and each of the other checks that failed.
set -euo pipefail
cd "$(dirname "$0")"

cache="${XDG_CACHE_HOME:-$HOME/.cache}/tidewatch"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/target}"
deny_version=0.20.2
prometheus3=
# Modules of the test binary that start real servers or a browser: they run after the others, one at a time.
live=(real_prometheus:: promtool:: verify:: asks_prometheus:: backfill:: browser:: schemathesis:: statsmodels:: power_cuts:: failing_store:: hostile:: docs::with_a_real_prometheus)

while [ $# -gt 0 ]; do
    case "$1" in
        --rounds)
            case "${2:-}" in '' | *[!0-9]*) echo "test.sh: --rounds needs a whole number; got '${2:-}'" >&2; exit 2 ;; esac
            export TEST_ROUNDS="$2"
            shift 2
            ;;
        --prometheus3)
            prometheus3=yes
            shift
            ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
        *) echo "test.sh: unknown argument '$1' (there are --rounds N and --prometheus3)" >&2; exit 2 ;;
    esac
done

passed=0
failed=0
work="$(mktemp -d)"
policy=
cleanup() {
    rm -rf "$work"
    if [ -n "$policy" ]; then as_root rm -f "$policy"; fi
}
trap cleanup EXIT

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

say() { printf '\n== %s\n' "$*"; }

# Installs the Debian packages whose programs are missing. A package's service is neither started nor left enabled.
install_packages() {
    local missing=() services=()
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    # The docs ask the server with it.
    command -v curl >/dev/null || missing+=(curl)
    # Makes the certificate of a Prometheus that is asked over TLS.
    command -v openssl >/dev/null || missing+=(openssl)
    if ! command -v prometheus >/dev/null || ! command -v promtool >/dev/null; then
        missing+=(prometheus)
        services+=(prometheus)
    fi
    if ! command -v prometheus-node-exporter >/dev/null; then
        missing+=(prometheus-node-exporter)
        services+=(prometheus-node-exporter)
    fi
    # Traces what a process writes, and makes its calls fail.
    command -v strace >/dev/null || missing+=(strace)
    command -v chromium >/dev/null || missing+=(chromium)
    command -v node >/dev/null || missing+=(nodejs)
    command -v npm >/dev/null || missing+=(npm)
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
    if [ -n "$policy" ]; then
        as_root rm -f "$policy"
        policy=
    fi
    local service
    for service in "${services[@]}"; do
        if command -v systemctl >/dev/null; then
            as_root systemctl disable "$service" >/dev/null 2>&1 || echo "note: $service could not be disabled"
        fi
    done
}

# Installs cargo-deny into the cache once.
install_deny() {
    local have
    have="$("$cache/tools/bin/cargo-deny" --version 2>/dev/null || true)"
    [ "$have" != "cargo-deny $deny_version" ] || return 0
    say "installing cargo-deny $deny_version into $cache/tools (minutes, once)"
    CARGO_TARGET_DIR="$cache/tools-target" \
        cargo install cargo-deny --locked --quiet --version "=$deny_version" --root "$cache/tools"
    rm -rf "$cache/tools-target"
}

# Installs what drives the browser into the cache: the version that tests/browser/package-lock.json names, by its checksum.
install_playwright() {
    local lock=tests/browser/package-lock.json
    ! cmp -s "$lock" "$cache/browser/installed" || return 0
    say "installing playwright-core into $cache/browser"
    rm -rf "$cache/browser"
    mkdir -p "$cache/browser"
    cp tests/browser/package.json "$lock" "$cache/browser/"
    (cd "$cache/browser" && npm ci --ignore-scripts --no-audit --no-fund)
    cp "$lock" "$cache/browser/installed"
}

# Installs Python packages into a folder of the cache: the versions that tests/<folder>/requirements.txt names.
install_python() {
    local name="$1" wanted="tests/$1/requirements.txt"
    ! cmp -s "$wanted" "$cache/$name/installed" || return 0
    say "installing $name into $cache/$name"
    rm -rf "${cache:?}/$name"
    python3 -m venv "$cache/$name"
    "$cache/$name/bin/pip" install --quiet --disable-pip-version-check --requirement "$wanted"
    cp "$wanted" "$cache/$name/installed"
}

# Builds Prometheus 3 into the cache once, as a Go module's tool: Debian has 2.42 only.
install_prometheus3() {
    [ ! -x "$cache/tools/prometheus-3.15.0" ] || return 0
    say "building Prometheus 3.15.0 into $cache/tools (about ten minutes, once)"
    mkdir -p "$cache/tools"
    # Go writes what it found into go.mod, so not in the clone.
    rm -rf "$cache/prometheus3"
    cp -r tests/prometheus3 "$cache/prometheus3"
    (cd "$cache/prometheus3" && GOTOOLCHAIN=local GOFLAGS=-mod=mod go build -tags remove_all_sd -trimpath \
        -ldflags='-s -w -X github.com/prometheus/common/version.Version=3.15.0' \
        -o "$cache/tools/prometheus-3.15.0" github.com/prometheus/prometheus/cmd/prometheus)
}

# A check without a count of its own: only its failure counts.
check() {
    say "$*"
    if ! "$@"; then
        echo "FAILED: $*"
        failed=$((failed + 1))
    fi
}

# Runs cargo test and adds up the result lines of its binaries.
tests() {
    say "cargo test $*"
    local status=0 sums
    cargo test "$@" 2>&1 | tee "$work/log" || status=$?
    sums="$(awk '/^test result: /{for (i = 2; i <= NF; i++) {if ($i == "passed;") p += $(i - 1); if ($i == "failed;") f += $(i - 1)}}
        END {print p + 0, f + 0}' "$work/log")"
    passed=$((passed + ${sums% *}))
    failed=$((failed + ${sums#* }))
    # It did not build, a binary died before it could count, or no test was found.
    if [ "$sums" = "0 0" ] || { [ "$status" != 0 ] && [ "${sums#* }" = 0 ]; }; then
        echo "FAILED: cargo test $* (status $status, passed and failed: $sums)"
        failed=$((failed + 1))
    fi
}

command -v cargo >/dev/null || { echo "test.sh: cargo is missing: install Rust 1.95 (rust-toolchain.toml)" >&2; exit 1; }
install_packages
install_deny
install_playwright
# What tries the API out, and what computes profiles a second time.
install_python schemathesis
install_python statsmodels

TEST_PROMETHEUS="$(command -v prometheus)"
TEST_PROMTOOL="$(command -v promtool)"
TEST_NODE_EXPORTER="$(command -v prometheus-node-exporter)"
TEST_STRACE="$(command -v strace)"
TEST_CHROMIUM="$(command -v chromium)"
TEST_NODE="$(command -v node)"
TEST_PLAYWRIGHT="$cache/browser/node_modules/playwright-core"
TEST_SCREENSHOTS="$cache/screenshots"
TEST_SCHEMATHESIS="$cache/schemathesis/bin/st"
TEST_STATSMODELS="$cache/statsmodels/bin/python"
export TEST_SCHEMATHESIS TEST_STATSMODELS TEST_PROMETHEUS TEST_PROMTOOL TEST_NODE_EXPORTER TEST_STRACE TEST_CHROMIUM TEST_NODE TEST_PLAYWRIGHT TEST_SCREENSHOTS

if [ -n "$prometheus3" ]; then
    install_prometheus3
    export TEST_PROMETHEUS_3="$cache/tools/prometheus-3.15.0"
fi

# Cargo goes by times, and would take sources for built that are older than what another clone built from its own.
if [ "$(cat "$CARGO_TARGET_DIR/clone" 2>/dev/null)" != "$PWD" ]; then
    mkdir -p "$CARGO_TARGET_DIR"
    find . -name '*.rs' -not -path './target/*' -exec touch {} +
    printf '%s' "$PWD" >"$CARGO_TARGET_DIR/clone"
fi

skip=()
for module in "${live[@]}"; do skip+=(--skip "$module"); done

check cargo fmt --all --check
check cargo clippy --quiet --workspace --all-targets -- -D warnings
check cargo clippy --quiet --workspace --all-targets --features faults -- -D warnings
check "$cache/tools/bin/cargo-deny" --log-level warn check bans licenses sources
tests --workspace --features faults --no-fail-fast -- "${skip[@]}"
tests --package tidewatch --features faults --test main -- --test-threads=1 --nocapture "${live[@]}"

echo
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
