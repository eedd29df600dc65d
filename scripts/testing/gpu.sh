#!/usr/bin/env bash
# What can be proven of the GPU backend without a GPU, beyond the ordinary tests: its kernels on software Vulkan with other
# subgroup sizes and with cooperative matrices (a newer Mesa than Debian's, unpacked into the cache), and that the whole
# binary compiles for macOS with Metal. What cannot be had is skipped with a line that says so; what passed before with the same
# sources is not run again.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# conform CASES COMMAND...: software takes half a minute for each case, so few are run: one of matrices, one of attention.
conform() {
  local cases=${FRONTIER_CONFORMANCE:-$1}
  shift
  FRONTIER_CONFORMANCE=$cases "$@"
}

# The newest test binary of the gpu crate's conformance suite.
build() {
  cargo test -q --release -p gpu --test conformance --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*conformance[^"]*\)".*/\1/p' | tail -1
}

software_vulkan() {
  local icd
  icd=$(ls /usr/share/vulkan/icd.d/lvp_icd*.json 2>/dev/null | head -1)
  [ -n "$icd" ] || { echo 'skipped: subgroup sizes: no software Vulkan (mesa-vulkan-drivers)'; return 0; }
  for bits in 128 512; do
    say "software Vulkan, subgroups of $((bits / 32))"
    LP_NATIVE_VECTOR_WIDTH=$bits VK_DRIVER_FILES=$icd \
      conform 'weights/q8_0/qkv/96 attention/64x9' "$1" unchecked_shaders_conform reductions
  done
}

cooperative_matrices() {
  [ "$(uname -m)" = x86_64 ] || { echo 'skipped: cooperative matrices: only for x86-64'; return 0; }
  local mesa=$CACHE/lavapipe26
  if [ ! -d "$mesa/files/usr/lib" ]; then
    rm -rf "$mesa"
    sh ./scripts/testing/lavapipe26.sh "$mesa" ||
      { echo 'skipped: cooperative matrices: a newer Mesa could not be fetched'; rm -rf "$mesa"; return 0; }
  fi
  local lib=$mesa/files/usr/lib/x86_64-linux-gnu
  say 'software Vulkan with cooperative matrices'
  # Other vector widths crash this driver. Its own libc comes with it. Attention by matrices wants pages of f16.
  LP_NATIVE_VECTOR_WIDTH=256 VK_DRIVER_FILES=$mesa/files/usr/share/vulkan/icd.d/lvp_icd.json \
    conform 'weights/q8_0/qkv/96 kv/f16,f16/long/64x4 kv/f16,f16/256x4/1/window' \
    "$lib/ld-linux-x86-64.so.2" --library-path "$lib" "$1" unchecked_shaders_conform
}

# The C parts of dependencies are not compiled: a compiler for macOS is not to be had.
macos() {
  local version src tools=$CACHE/macos target=aarch64-apple-darwin
  version=$(rustc -V | cut -d' ' -f2)
  src=$CACHE/arm/rust-src-$version
  mkdir -p "$tools"
  printf '#!/bin/sh\nfor a; do [ "$o" = -o ] && : >"$a"; o=$a; done\n' >"$tools/cc"
  printf '#!/bin/sh\nfor a; do case $a in *.a) : >"$a";; esac; done\n' >"$tools/ar"
  chmod +x "$tools/cc" "$tools/ar"
  export CC_aarch64_apple_darwin=$tools/cc AR_aarch64_apple_darwin=$tools/ar SDKROOT=/
  say 'the whole binary for macOS with Metal, compiled only'
  shared_target "$tools/target-$version" $target
  if [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then
    cargo check -q --release --target $target -p cli
    return
  fi
  ./scripts/testing/rust-src.sh "$src" || { echo "skipped: macOS: no source of Rust $version's standard library"; return 0; }
  RUSTC_BOOTSTRAP=1 __CARGO_TESTS_ONLY_SRC_ROOT=$src/library \
    cargo check -q --release -Zbuild-std=std,panic_abort --target $target -p cli
}

# One of subgroups, matrices and macos; all of them without a word.
what=${1:-all}
if [ "$what" != macos ]; then
  need_packages mesa-vulkan-drivers libvulkan1 || true
  conformance=$(build)
  if [ "$what" != matrices ]; then once gpu-subgroups crates/gpu crates/tensor -- software_vulkan "$conformance"; fi
  if [ "$what" != subgroups ]; then once gpu-matrices crates/gpu crates/tensor -- cooperative_matrices "$conformance"; fi
fi
if [ "$what" = all ] || [ "$what" = macos ]; then
  once gpu-macos crates deploy/profiles -- macos
fi
