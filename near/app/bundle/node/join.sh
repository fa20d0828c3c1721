#!/bin/sh
# Joins the parts of a bundle into the folder near-bundle: sh join.sh [FOLDER] (default: the current folder)
set -eu

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
into=${1:-.}
[ -d "$into" ] || fail "$into is not a folder; create it first"
into=$(CDPATH='' cd -- "$into" && pwd)
[ ! -e "$into/near-bundle" ] || fail "$into/near-bundle exists; remove it, or name another folder: sh join.sh FOLDER"
command -v sha256sum >/dev/null || fail 'sha256sum is missing; install coreutils'
cd -- "$here"
[ -f PARTS.sha256 ] || fail "$here/PARTS.sha256 is missing; copy it again"

bad=$(LC_ALL=C sha256sum -c PARTS.sha256 2>/dev/null | grep -v ': OK$' | head -n 1) || true
[ -z "$bad" ] || fail "${bad%%:*} is missing or damaged; copy it again"

rm -rf -- "$into/.near-bundle.part" # of a join that was killed
mkdir -- "$into/.near-bundle.part"
trap 'rm -rf -- "$into/.near-bundle.part"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
while read -r _ name; do
    cat -- "$name"
done <PARTS.sha256 2>/dev/null | tar -xof - -C "$into/.near-bundle.part" 2>/dev/null ||
    fail "the parts can't be unpacked into $into; free space there, and copy PARTS.sha256 again if it is cut off"
mv -- "$into/.near-bundle.part/near-bundle" "$into/near-bundle"
printf '%s\nnext: sh %s\n' "$into/near-bundle" "$into/near-bundle/install.sh"
