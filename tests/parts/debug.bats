#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# What the debug kernel has to report, and what not.

setup() {
	repo=$BATS_TEST_DIRNAME/../..
	console=$BATS_TEST_TMPDIR/console
}

# Loads the torture module to touch a free object. It never stays.
touch_object() { # HOW
	run "$repo/vm/run" --kernel "$repo/build/obj-debug/arch/x86/boot/bzImage" \
		--machine q35 --timeout 300 --log "$console" -- \
		sh -c "! modprobe -d '$repo/build/obj-debug/modules' test_bpf_mem_alloc touch=$1"
}

@test "KASAN reports who reads an object that was never handed out" {
	touch_object 1
	[ "$status" = 121 ]
	grep -q 'never handed out:' "$console"
	grep -q 'BUG: KASAN: .* in tort_' "$console"
}

@test "KASAN reports who reads an object past its grace period" {
	touch_object 2
	[ "$status" = 121 ]
	grep -q 'back in slab:' "$console"
	grep -q 'BUG: KASAN: use-after-free in tort_' "$console"
}

@test "KASAN lets a reader have an object that was freed meanwhile" {
	touch_object 3
	[ "$status" = 0 ]
	grep -q 'just freed:' "$console"
}
