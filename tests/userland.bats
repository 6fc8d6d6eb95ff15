#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# The allocator compiled for user space, from the tree that was built.

@test "memalloc.c in user space: make check" {
	run make -C "$BATS_TEST_DIRNAME/../build/linux-5.10/tools/testing/bpf_mem_alloc" check
	echo "$output" | tail -n 30
	[ "$status" = 0 ]
}
