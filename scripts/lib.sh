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

# fingerprint PATH...: of the compiler, what lies at the paths, the dependencies, the scripts, and what changes a build.
fingerprint() {
  { rustc -V; echo "${RUSTFLAGS:-} ${FRONTIER_CONFORMANCE:-}"
    find "$@" Cargo.toml Cargo.lock .cargo scripts/lib.sh scripts/testing/*.sh -type f -print0 | sort -z |
      xargs -0 sha256sum; } | sha256sum | cut -d' ' -f1
}

# once NAME PATH... -- COMMAND...: runs COMMAND, unless it passed before with the same fingerprint. The caller has set pipefail.
once() {
  local name=$1 paths=() sum passed=$CACHE/passed log=$CACHE/$1.log
  shift
  while [ "$1" != -- ]; do paths+=("$1"); shift; done
  shift
  sum=$(fingerprint "${paths[@]}")
  mkdir -p "$passed"
  if [ "$(cat "$passed/$name" 2>/dev/null)" = "$sum" ]; then
    say "$name: passed before with the same sources"
    return 0
  fi
  "$@" 2>&1 | tee "$log"
  # What was skipped has not passed, nor what was changed meanwhile.
  grep -q '^skipped: ' "$log" || [ "$(fingerprint "${paths[@]}")" != "$sum" ] || echo "$sum" >"$passed/$name"
}

# shared_target DIR [TRIPLE]: lets cargo build in DIR, which the checkouts of a machine share. Cargo goes by the time of a file:
# what another checkout built a moment ago would pass for this one's, and goes.
shared_target() {
  export CARGO_TARGET_DIR=$1
  if [ "$(cat "$1/checkout" 2>/dev/null)" != "$PWD" ]; then
    local packages=()
    for crate in crates/*/Cargo.toml; do packages+=(-p "$(basename "$(dirname "$crate")")"); done
    cargo clean -q --release ${2:+--target "$2"} "${packages[@]}"
    mkdir -p "$1"
    echo "$PWD" >"$1/checkout"
  fi
}

# need_build: a Rust toolchain and a C compiler (a dependency of the tokenizer is written in C).
need_build() {
  [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
  have cargo || fail "cargo was not found: install Rust with rustup, then run this again"
  have cc || need_packages gcc libc6-dev || true
  have cc || fail "no C compiler was found: install gcc, or on macOS: xcode-select --install"
}
