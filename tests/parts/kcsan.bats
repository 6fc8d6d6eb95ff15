#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# Whether the guests of kcsan.guest, where no race is told, look for any.

@test "KCSAN is on, and watches the allocator" {
	repo=$BATS_TEST_DIRNAME/../..
	run "$repo/vm/run" --kernel "$repo/build/obj-kcsan/arch/x86/boot/bzImage" \
		--log "$BATS_TEST_TMPDIR/console" -- sh -c "
		MODPROBE_OPTIONS='-d $repo/build/obj-kcsan/modules' \
			'$repo/build/linux-5.10/tools/testing/selftests/lib/bpf_mem_alloc.sh' runtime=5
		cat /sys/kernel/debug/kcsan"
	[ "$status" = 0 ]
	[[ $output == *"enabled: 1"* ]]
	[[ $output =~ setup_watchpoints:\ ([0-9]+) ]]
	# it would be a few of the boot without it
	[ "${BASH_REMATCH[1]}" -gt 1000 ]
}
