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

# need_build: a Rust toolchain and a C compiler (a dependency of the tokenizer is written in C).
need_build() {
  [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
  have cargo || fail "cargo was not found: install Rust with rustup, then run this again"
  have cc || need_packages gcc libc6-dev || true
  have cc || fail "no C compiler was found: install gcc, or on macOS: xcode-select --install"
}
