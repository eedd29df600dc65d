#!/usr/bin/env bash
# Tests the kernels for ARM on a machine of another kind: the cpu crate's tests, cross-built and run under qemu, on a
# processor with the 8-bit matrix product and on one with the 8-bit dot product alone. qemu says nothing about speed. What
# cannot be had is skipped with a line that says so. (That all compiles for macOS is checked by gpu.sh.)
#
# neon.sh [NAME...]: runs the tests whose names contain one of these, instead of the quick ones.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# All tests take more than ten minutes under qemu. Products of all formats are compared bit by bit with those of the scalar
# kernels by the tests of `matmul`, the lanes that all else is written with by those of `simd`.
quick=(matmul simd pool memory mixed_weights_conform top_k_conforms)

target=aarch64-unknown-linux-gnu
skip() { echo "skipped: $*"; exit 0; }

[ "$(uname -m)" != aarch64 ] || skip 'NEON under qemu: the tests ran on NEON itself'
need_packages qemu-user-static gcc-aarch64-linux-gnu libc6-dev-arm64-cross || true
have qemu-aarch64-static || skip 'NEON under qemu: qemu-aarch64-static is not installed'
have aarch64-linux-gnu-gcc || skip 'NEON under qemu: aarch64-linux-gnu-gcc is not installed'
version=$(rustc -V | cut -d' ' -f2)
./scripts/testing/rust-src.sh "$CACHE/arm/rust-src-$version" ||
  skip "NEON under qemu: no source of Rust $version's standard library"

export CARGO_TARGET_DIR=$CACHE/arm/target-$version
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64-static
# Linked statically, the tests need no libraries of the target.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS='-C target-feature=+crt-static'

# Cargo for a target whose standard library may not be installed; then it is built, once.
cross() {
  local command=$1
  shift
  if [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then
    cargo "$command" --release --target "$target" "$@"
  else
    RUSTC_BOOTSTRAP=1 __CARGO_TESTS_ONLY_SRC_ROOT=$CACHE/arm/rust-src-$version/library \
      cargo "$command" --release -Zbuild-std=std,panic_abort --target "$target" "$@"
  fi
}

[ $# -gt 0 ] || set -- "${quick[@]}"
say 'NEON with i8mm, under qemu'
QEMU_CPU=max FRONTIER_TEST_ISA=neon-i8mm cross test -p cpu --lib -- isa "$@"
say 'NEON without i8mm, under qemu'
QEMU_CPU=neoverse-n1 FRONTIER_TEST_ISA=neon-dotprod cross test -p cpu --lib -- matmul isa
