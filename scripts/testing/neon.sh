#!/usr/bin/env bash
# Tests the kernels for ARM on a machine of another kind: the cpu crate's tests, and the real models' logits against those
# of scalar code (the model crate's `instruction_sets`), cross-built and run under qemu, on a processor with the 8-bit matrix
# product and on one with the 8-bit dot product alone. qemu says nothing about speed. What cannot be had, the models too, is
# skipped with a line that says so; what passed before with the same sources is not run again. (That all compiles for macOS
# is checked by gpu.sh.)
#
# neon.sh            all tests but `left_out`, long ones with the best instruction set of each processor alone
# neon.sh NAME...    of these the tests whose names contain one of NAME...
# neon.sh all        all tests with every instruction set of each processor, scalar too: half an hour
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# The first runs every case of the conformance suite once more with the same kernels, to see what becomes of buffers, which no
# kernel knows of; the second measures speed.
left_out=(scratch_that_is_given_back_before_each_step roofs_are_of_a_plausible_size)

target=aarch64-unknown-linux-gnu
skip() { echo "skipped: $*"; exit 0; }

[ "$(uname -m)" != aarch64 ] || skip 'NEON under qemu: the tests ran on NEON itself'
need_packages qemu-user-static gcc-aarch64-linux-gnu libc6-dev-arm64-cross || true
have qemu-aarch64-static || skip 'NEON under qemu: qemu-aarch64-static is not installed'
have aarch64-linux-gnu-gcc || skip 'NEON under qemu: aarch64-linux-gnu-gcc is not installed'
version=$(rustc -V | cut -d' ' -f2)
./scripts/testing/rust-src.sh "$CACHE/arm/rust-src-$version" ||
  skip "NEON under qemu: no source of Rust $version's standard library"

shared_target "$CACHE/arm/target-$version" $target
export FRONTIER_MODELS=${FRONTIER_MODELS:-$CACHE/test-models}
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64-static
# Linked statically, the tests need no libraries of the target.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS='-C target-feature=+crt-static'

# cross ARG...: `cargo test` for a target whose standard library may not be installed; then it is built, once.
cross() {
  if [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then
    cargo test --release --target "$target" "$@"
  else
    RUSTC_BOOTSTRAP=1 __CARGO_TESTS_ONLY_SRC_ROOT=$CACHE/arm/rust-src-$version/library \
      cargo test --release -Zbuild-std=std,panic_abort --target "$target" "$@"
  fi
}

# The cpu crate's tests, and those of real models; arguments are those of the test program.
tests() { cross -p cpu --lib -- "$@"; }
# The output of tests that pass says which models are not there.
models() { cross -p model --test instruction_sets -- --show-output "$@"; }

# emulated PROCESSOR ISA COMMAND...: on a processor of qemu's whose best instruction set is ISA; long tests with that alone.
emulated() { QEMU_CPU=$1 FRONTIER_TEST_ISA=$2 "${@:3}"; }

# on PROCESSOR ISA [NAME...]
on() {
  local processor=$1 isa=$2
  shift 2
  say "$isa, under qemu"
  case ${1:-} in
    '')
      once "$isa" crates/cpu crates/tensor -- emulated "$processor" "$isa" tests "${left_out[@]/#/--skip=}"
      once "$isa-models" crates/cpu crates/tensor crates/model crates/checkpoint -- emulated "$processor" "$isa" models
      ;;
    all)
      emulated "$processor" "$isa" tests isa
      QEMU_CPU=$processor tests
      emulated "$processor" "$isa" models
      ;;
    *)
      emulated "$processor" "$isa" tests isa "$@" "${left_out[@]/#/--skip=}"
      emulated "$processor" "$isa" models "$@"
      ;;
  esac
}

on max neon-i8mm "$@"
on neoverse-n1 neon-dotprod "$@"
