# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What the programs in this directory and vm/ share. Sourced.

repo=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SERIES=${SERIES:-linux-5.10}
series=$repo/series/$SERIES
build=$repo/build
tree=$build/$SERIES
base_tree=$build/$SERIES-base

# What the user's make was told is not meant for the kernel's.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES

fail() {
	echo "${0##*/}: $*" >&2
	exit 1
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		fail "this needs root, and there is no sudo: $*"
	fi
}

# git as it comes: the user's settings must not change what is written.
g() {
	GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 git \
		-c gc.auto=0 -c core.quotePath=false -c core.autocrlf=false \
		-c advice.detachedHead=false "$@"
}

base() { # KEY
	sed -n "s/^$1:[[:space:]]*//p" "$series/base"
}

patches() {
	local p
	for p in "$series"/[0-9][0-9][0-9][0-9]-*.patch; do
		[ ! -e "$p" ] || echo "$p"
	done
}

# A patch file is: subject, body, "Adds:" lines, then the edits as a diff. A file
# that is added lies in the repository with all later edits in it.
patch_message() { # PATCH
	sed -e '/^diff --git /,$d' -e '/^Adds: /d' "$1" | g stripspace
}

patch_adds() { # PATCH
	sed -n -e '/^diff --git /q' -e 's/^Adds: //p' "$1"
}

patch_edits() { # PATCH
	sed -n '/^diff --git /,$p' "$1"
}

# Names one patch and the files that it brings, as they are now.
patch_key() { # PATCH
	local file
	{
		cat "$1"
		while read -r file; do
			[ -f "$repo/$file" ] ||
				fail "${1##*/} adds $file, which is not in the repository"
			[ ! -x "$repo/$file" ] || echo "$file is executable"
			cat "$repo/$file"
		done < <(patch_adds "$1")
	} | sha256sum | cut -d ' ' -f 1
}

need_space() { # MB
	local free
	mkdir -p "$build"
	free=$(df -Pm "$build" | awk 'END { print $4 }')
	[ "$free" -ge "$1" ] ||
		fail "no space: $build has $free MB free, $1 MB are needed"
}

# Where the commits of the tree and the patches that they came from are noted:
# a line "base COMMIT KEY", then a line "PATCH COMMIT KEY" each.
applied=$tree/.git/series

t() {
	g -C "$tree" "$@"
}

noted() { # FIELD of the notes: 1 patch, 2 commit, 3 key
	awk -v f="$1" 'f == 3 { sub(/^[^ ]+ [^ ]+ /, ""); print; next } { print $f }' "$applied"
}

untouched() {
	[ "$(t rev-parse HEAD)" = "$(noted 2 | tail -n 1)" ] &&
		[ -z "$(t status --porcelain)" ]
}
