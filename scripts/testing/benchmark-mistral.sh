#!/usr/bin/env bash
# Measures a server over HTTP against the targets of the tuning guide: latency, tokens a second, time to the first byte,
# memory. Talks to the server at URL, or starts one for the model and stops it at the end.
#
# usage: benchmark-mistral.sh [-m MODEL] [-n RUNS] [-w WARMUP] [-o DIR] [-u URL]
#   -m MODEL   path or name of a model; with -u the name that requests carry (default: the default model)
#   -n RUNS    measured requests of each kind (default 10)
#   -w WARMUP  requests before them (default 3)
#   -o DIR     where results go (default ./benchmark-results)
#   -u URL     a running server, e.g. http://127.0.0.1:8080
# FRONTIER names the binary (default: what `cargo build --release` made, then the PATH), MISTRAL_API_KEY the server's key,
# PORT the port of a server that is started here (default 8130).
#
# Writes simple.json, complex.json (summaries and every request), simple.csv, complex.csv and summary.txt.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; }
fail() { echo "error: $*" >&2; exit 1; }
number() { [[ $2 =~ ^[0-9]+$ ]] && [ "$2" -ge "$3" ] && [ "$2" -le 100000 ] || fail "$1 $2: allowed: $3 to 100000"; }

model= runs=10 warmup=3 out=./benchmark-results url=
while getopts m:n:w:o:u:h option; do
  case $option in
    m) model=$OPTARG ;;
    n) runs=$OPTARG ;;
    w) warmup=$OPTARG ;;
    o) out=$OPTARG ;;
    u) url=${OPTARG%/} ;;
    h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done
shift $((OPTIND - 1))
[ $# -eq 0 ] || fail "$1: not expected"
number -n "$runs" 1
number -w "$warmup" 0

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
frontier=${FRONTIER:-${CARGO_TARGET_DIR:-$root/target}/release/frontier}
[ -x "$frontier" ] || frontier=$(command -v "${FRONTIER:-frontier}") \
  || fail "no frontier binary: run cargo build --release -p cli, or set FRONTIER"
mkdir -p "$out" || fail "-o $out: cannot be made"
command -v curl >/dev/null || fail "curl was not found"

server=
started=0
if [ -z "$url" ]; then
  port=${PORT:-8130}
  url=http://127.0.0.1:$port
  curl -fs -o /dev/null "$url/health" && fail "port $port is taken: set PORT, or measure that server with -u $url"
  started=$(date +%s)
  "$frontier" serve ${model:+"$model"} --port "$port" > "$out/server.log" 2>&1 &
  server=$!
  trap 'kill "$server" 2>/dev/null || true' EXIT
  until curl -fs -o /dev/null "$url/health/ready"; do
    kill -0 "$server" 2>/dev/null || fail "the server ended: $(tail -n 1 "$out/server.log")"
    [ $(($(date +%s) - started)) -lt 600 ] || fail "the server is not ready after 600 s: see $out/server.log"
    sleep 0.1
  done
  name=default
else
  curl -fs -o /dev/null "$url/health" || fail "$url: no server answers"
  name=${model:-default}
fi

# load KIND PROMPT_WORDS TOKENS: one client, as the guide's targets mean a request alone.
load() {
  local key=()
  [ -n "${MISTRAL_API_KEY:-}" ] && key=(--api-key "$MISTRAL_API_KEY")
  "$frontier" bench http "$url" -m "$name" -c 1 -r "$runs" -w "$warmup" -p "$2" -n "$3" --csv "$out/$1.csv" --json \
    ${key[@]+"${key[@]}"} > "$out/$1.json"
}

# column KIND NUMBER PERCENT: that percentile of a column of the requests.
column() {
  tail -n +2 "$out/$1.csv" | cut -d, -f"$2" | sort -n | awk -v percent="$3" \
    '{ value[NR] = $1 } END { rank = NR * percent / 100; rank = rank > int(rank) ? int(rank) + 1 : rank; print value[rank < 1 ? 1 : rank] }'
}

# verdict VALUE LIMIT: whether a value keeps below a limit.
verdict() { awk -v value="$1" -v limit="$2" 'BEGIN { print (value < limit ? "met" : "missed") }'; }

load simple 16 32
load complex 256 256

# What the server takes, by its own metrics; where it has none, by the system.
resident() {
  local bytes
  bytes=$(curl -fs "$url/metrics" | awk '$1 == "mistral_process_resident_memory_bytes" { printf "%.0f", $2 }')
  [ -n "$bytes" ] || bytes=$([ -n "$server" ] && ps -o rss= -p "$server" | awk '{ printf "%.0f", $1 * 1024 }' || true)
  echo "${bytes:-0}"
}
memory=$(resident)

tps=$(column complex 6 50)
simple=$(column simple 3 50)
complex=$(column complex 3 50)
first=$(column simple 2 50)
{
  echo "model            ${model:-the default model} at $url, $runs runs after $warmup to warm up"
  echo "machine          $(uname -sm), $(getconf _NPROCESSORS_ONLN) processors"
  printf 'simple query     p50 %.0f ms, p90 %.0f ms (32 tokens; target < 1000 ms): %s\n' \
    "$simple" "$(column simple 3 90)" "$(verdict "$simple" 1000)"
  printf 'complex query    p50 %.0f ms, p90 %.0f ms (256 tokens; target < 5000 ms): %s\n' \
    "$complex" "$(column complex 3 90)" "$(verdict "$complex" 5000)"
  printf 'tokens a second  p50 %.1f (good > 50, excellent > 100): %s\n' "$tps" \
    "$(awk -v tps="$tps" 'BEGIN { print (tps > 100 ? "excellent" : tps > 50 ? "good" : "below good") }')"
  printf 'first byte       p50 %.0f ms, p90 %.0f ms (target < 500 ms): %s\n' \
    "$first" "$(column simple 2 90)" "$(verdict "$first" 500)"
  if [ "$memory" -eq 0 ]; then
    echo "memory           not told"
  else
    printf 'memory           %.0f MB resident' "$(awk -v bytes="$memory" 'BEGIN { print bytes / 1e6 }')"
    # The budget is that of a server started here; another one may have been given another.
    budget=$([ -n "$server" ] && "$frontier" doctor 2>/dev/null | awk '$1 == "budget" { print $2, $3 }' || true)
    if [ -n "$budget" ]; then
      bytes=$(awk -v budget="$budget" 'BEGIN { split(budget, part, " "); power["kB"] = 3; power["MB"] = 6; power["GB"] = 9
        power["TB"] = 12; printf "%.0f", part[1] * 10 ^ power[part[2]] }')
      printf ' (budget %s): %s' "$budget" "$(verdict "$memory" "$bytes")"
    fi
    echo
  fi
} | tee "$out/summary.txt"
