#!/usr/bin/env bash
# Tidewatch in one command: builds it, makes 13 hours of data for 200 series, computes over them, and serves the results.
#
#   ./try.sh        Ctrl-C ends it; the next start keeps the data
#
# Needs Rust (rustup takes the version of rust-toolchain.toml) and a C compiler. Writes to ./target and ./tidewatch-data.
# TIDEWATCH_LISTEN and TIDEWATCH_DATA_DIR choose another address and directory.
set -euo pipefail
cd "$(dirname "$0")"

export TIDEWATCH_LISTEN="${TIDEWATCH_LISTEN:-127.0.0.1:7464}"
data="${TIDEWATCH_DATA_DIR:-./tidewatch-data}"
unset TIDEWATCH_DATA_DIR

case "${1:-}" in
    '') ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) echo "try.sh: takes no arguments; got '$1'" >&2; exit 2 ;;
esac
for needed in cargo cc; do
    command -v "$needed" >/dev/null && continue
    echo "try.sh: $needed is missing: install Rust with rustup and a C compiler (Debian: apt install gcc libc6-dev)" >&2
    exit 1
done

# `cargo run` becomes the program, wherever the target directory is.
tidewatch() { cargo run --release --locked --quiet -- "$@"; }

echo "== building (minutes, once)"
cargo build --release --locked

if [ -e "$data/store.sqlite" ]; then
    echo "== keeping the data in $data; remove it to begin anew"
else
    # Made under another name and moved when whole, so that an interrupted start leaves nothing half done.
    new="${data%/}.new"
    trap 'rm -rf "$new"' EXIT
    rm -rf "$new"
    echo "== 13 hours of 200 series, up to now"
    tidewatch generate --series 200 --hours 13 | tidewatch replay --data-dir "$new" -
    mv "$new" "$data"
    trap - EXIT
fi

url="http://$TIDEWATCH_LISTEN/api/v1"
cat <<TRY

== try these from another terminal; Ctrl-C ends the worker
  curl -sG $url/windows -d window=1h --data-urlencode 'match[]=node_load1'
  curl -sG $url/windows -d window=12h -d min_rate=1000 -d format=csv --data-urlencode 'match[]={__name__=~"node_network_.*_bytes_total"}'
  curl -s  $url/status

TRY
exec cargo run --release --locked --quiet -- run --data-dir "$data"
