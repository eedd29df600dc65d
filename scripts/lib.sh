# What run.sh and test.sh share. Source it; it changes to the repository's root.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/frontier
mkdir -p "$CACHE"

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# need_packages PACKAGE...: installs Debian packages that are missing, where this is Debian and we may.
need_packages() {
  have dpkg-query || return 0
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  local sudo=
  if [ "$(id -u)" != 0 ]; then
    have sudo || { say "not installed, and no sudo: ${missing[*]}"; return 1; }
    sudo=sudo
  fi
  say "installing ${missing[*]}"
  $sudo apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# once NAME PATH... -- COMMAND...: runs COMMAND, unless it passed before with the same compiler, what lies at the paths, the
# same dependencies and the same scripts. The caller has set pipefail.
once() {
  local name=$1 paths=() sum passed=$CACHE/passed log=$CACHE/$1.log
  shift
  while [ "$1" != -- ]; do paths+=("$1"); shift; done
  shift
  sum=$({ rustc -V; echo "${FRONTIER_CONFORMANCE:-}"
    find "${paths[@]}" Cargo.toml Cargo.lock scripts/lib.sh scripts/testing/*.sh -type f -print0 | sort -z |
      xargs -0 sha256sum; } | sha256sum | cut -d' ' -f1)
  mkdir -p "$passed"
  if [ "$(cat "$passed/$name" 2>/dev/null)" = "$sum" ]; then
    say "$name: passed before with the same sources"
    return 0
  fi
  "$@" 2>&1 | tee "$log"
  # What was skipped has not passed.
  grep -q '^skipped: ' "$log" || echo "$sum" >"$passed/$name"
}

# need_build: a Rust toolchain and a C compiler (a dependency of the tokenizer is written in C).
need_build() {
  [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
  have cargo || fail "cargo was not found: install Rust with rustup, then run this again"
  have cc || need_packages gcc libc6-dev || true
  have cc || fail "no C compiler was found: install gcc, or on macOS: xcode-select --install"
}
