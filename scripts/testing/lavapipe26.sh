#!/bin/sh
# sh lavapipe26.sh DIR: unpack Mesa >= 26.1 lavapipe and the libc it needs into DIR; nothing is installed
set -eu
D=$(mkdir -p "$1" && cd "$1" && pwd); A=$D/apt; mkdir -p $A/lists/partial $A/cache/archives/partial $D/files
URI=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Suite: oldstable' | head -1)
K=$(dpkg -L debian-archive-keyring | grep 'debian-archive-keyring.gpg$' | head -1)
for s in trixie trixie-backports; do echo "deb [signed-by=$K] $URI $s main"; done > $A/sources.list
: > $A/status; : > $A/parts
O="-o Dir::Etc::sourcelist=$A/sources.list -o Dir::Etc::sourceparts=$A/parts -o Dir::State::Lists=$A/lists -o Dir::Cache=$A/cache -o Dir::State::status=$A/status -o APT::Sandbox::User=root"
apt-get $O -qq update
apt-get $O -qq -y --no-install-recommends --download-only -t trixie-backports install mesa-vulkan-drivers libvulkan1
for f in $A/cache/archives/*.deb; do dpkg -x "$f" $D/files; done
rm -rf $A
