#!/usr/bin/env bash
# Installs what the tests need and runs all of them: format, lints, unit and integration tests, the real binary over
# HTTP with the OpenAI client. What cannot be had (a GPU driver, the shared test data) is skipped with a line that says so.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

started=$SECONDS
step() { say "$* ($((SECONDS - started)) s)"; }

step 'what the tests need'
need_build
# A CI clone is fresh every time; dependencies that were built before need not be built again.
[ "${CI:-}" = true ] && shared_target "${CARGO_TARGET_DIR:-$CACHE/target}"
need_packages python3 python3-pip python3-venv curl || true
# Software Vulkan, so that the GPU's kernels run without one.
need_packages mesa-vulkan-drivers libvulkan1 || true
export FRONTIER_MODELS=${FRONTIER_MODELS:-$CACHE/test-models}
export FRONTIER_SHARED=${FRONTIER_SHARED:-$PWD/../shared}
./scripts/testing/fetch-models.sh "$FRONTIER_MODELS"
if [ ! -x "$CACHE/venv/bin/python" ]; then
  python3 -m venv "$CACHE/venv"
fi
"$CACHE/venv/bin/python" -c 'import openai' 2>/dev/null || "$CACHE/venv/bin/pip" install -q openai
export FRONTIER_PYTHON=$CACHE/venv/bin/python

step 'format'
cargo fmt --all --check

step 'lints'
cargo clippy -q --release --workspace --all-targets -- -D warnings

if have cargo-deny; then
  step 'licences, sources and duplicates of dependencies'
  cargo deny --offline check bans licenses sources
else
  echo 'skipped: licences, sources and duplicates of dependencies: no cargo-deny'
fi

step 'tests'
log=$CACHE/test.log
if ! cargo test --release --workspace --no-fail-fast -- --show-output >"$log" 2>&1; then
  # What failed alone: the output of tests that passed would push it out of sight.
  awk '/^failures:$/ { failed = 1 } failed || /^error|signal: / { print } /^test result: / { failed = 0 }' "$log"
  fail "tests failed; all of their output is in $log"
fi

step 'ARM'
if ! ./scripts/testing/neon.sh >"$CACHE/neon.log" 2>&1; then
  tail -50 "$CACHE/neon.log"
  fail "tests for ARM failed; all of their output is in $CACHE/neon.log"
fi
cat "$CACHE/neon.log" >>"$log"

step 'GPU kernels with other subgroups and with matrices, and the binary for macOS'
if ! ./scripts/testing/gpu.sh >"$CACHE/gpu.log" 2>&1; then
  tail -50 "$CACHE/gpu.log"
  fail "the GPU's longer checks failed; all of their output is in $CACHE/gpu.log"
fi
cat "$CACHE/gpu.log" >>"$log"

step 'the two commands'
PORT=${TEST_PORT:-8091} ./scripts/run.sh --once | tee "$CACHE/run.log"
grep -q 'Paris' "$CACHE/run.log" || fail 'the default model did not answer "Paris"'

step 'all tests passed'
awk '/^test result: ok/ { passed += $4 } END { print passed " passed, 0 failed" }' "$log"
grep -h 'passed before with the same sources' "$log" || true
grep -h '^skipped: ' "$log" | sort | uniq -c || echo 'none skipped'
