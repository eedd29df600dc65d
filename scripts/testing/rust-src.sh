#!/usr/bin/env bash
# rust-src.sh DIR: puts the standard library's source that matches the installed rustc into DIR/library, so that the
# library can be built for targets that are not installed. From rustup's component where it is there, otherwise from Debian's
# rust-src package. Does nothing when it is there already.
set -euo pipefail
mkdir -p "$1"
dir=$(cd "$1" && pwd)
[ -e "$dir/library/std/Cargo.toml" ] && exit 0

component=$(rustc --print sysroot)/lib/rustlib/src/rust/library
if [ -e "$component/std/Cargo.toml" ]; then
  ln -sfn "$component" "$dir/library"
  exit 0
fi

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] || { echo "error: no $keyring: not a Debian system" >&2; exit 1; }
version=$(rustc -V | cut -d' ' -f2)
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -1)
apt=$dir/apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
trap 'rm -rf "$apt" "$dir/unpacked" "$dir"/rust-src_*.deb' EXIT
# The release that has our version may be newer than this system's: lists of its own, apart from the system's.
for suite in trixie-backports sid; do
  echo "deb [signed-by=$keyring] $mirror $suite main"
done >"$apt/sources.list"
touch "$apt/parts" "$apt/status"
options=(-qq
  -o "Dir::Etc::sourcelist=$apt/sources.list" -o "Dir::Etc::sourceparts=$apt/parts"
  -o "Dir::State::Lists=$apt/lists" -o "Dir::State::status=$apt/status"
  -o "Dir::Cache=$apt/cache" -o "APT::Sandbox::User=$(id -un)")
apt-get "${options[@]}" update
package=$(apt-cache "${options[@]}" madison rust-src | awk -v v="$version" '$3 ~ "^"v {print $3; exit}')
[ -n "$package" ] || { echo "error: Debian has no rust-src $version" >&2; exit 1; }
cd "$dir"
apt-get "${options[@]}" download "rust-src=$package"
dpkg -x rust-src_*.deb unpacked
mv "unpacked/usr/src/rustc-$version/library" library
