# SPDX-License-Identifier: GPL-2.0-only
# vm/run: the verdict on a guest.

bats_require_minimum_version 1.5.0

setup() {
	repo=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
	export VM_TIMEOUT=120 VM_OUT=$BATS_TEST_TMPDIR/out VM_LOG=$BATS_TEST_TMPDIR/console
	cd "$BATS_TEST_TMPDIR"
}

vm() {
	run "$repo/vm/run" "$@"
	echo "status $status: $output"
}

@test "the command's exit status is vm/run's" {
	vm -- sh -c 'exit 7'
	[ "$status" = 7 ]
	vm -- true
	[ "$status" = 0 ]
	vm -- sh -c 'kill -SEGV $$'
	[ "$status" = 139 ]
	run -127 "$repo/vm/run" -- ./no-such-command
}

@test "output comes whole, arguments unharmed, in the caller's directory" {
	"$repo/vm/run" -- sh -c 'pwd; printf "%s|" "$@"; seq 100000' sh 'a  b' "'" '$x' '' >got
	{ pwd; printf "%s|" 'a  b' "'" '$x' ''; seq 100000; } >want
	cmp got want
}

@test "host files are read-only, --out is not" {
	vm -- sh -c 'touch "$0/vm/run.new" || echo >"$1/file" refused' "$repo" "$VM_OUT"
	[ "$status" = 0 ]
	[ "$(cat "$VM_OUT/file")" = refused ]
	[ ! -e "$repo/vm/run.new" ]
}

@test "the guest has what BPF tests want" {
	vm -- sh -c 'set -e
		grep -qw memory /sys/fs/cgroup/cgroup.subtree_control
		[ -d /sys/kernel/debug/tracing/events ]
		[ -e /sys/kernel/btf/vmlinux ]
		touch /tmp/x /run/x
		mkdir /sys/fs/bpf/x
		ip -o addr show lo | grep -qw 127.0.0.1/8'
	[ "$status" = 0 ]
}

@test "CPUs, memory and kernel arguments are set" {
	vm --cpus 4 --mem 512 --append numa=fake=2 -- sh -c 'nproc
		awk "/MemTotal/ { print (\$2 < 600000) }" /proc/meminfo
		ls -d /sys/devices/system/node/node[0-9] | wc -l'
	[ "$status" = 0 ]
	[ "$(tail -n 3 <<<"$output" | paste -sd ' ')" = "4 1 2" ]
}

@test "a machine without an APIC boots" {
	vm --cpus 1 --cpu max,-apic --append nolapic --accel tcg -- \
		sh -c '! grep -qw apic /proc/cpuinfo'
	[ "$status" = 0 ]
}

@test "a guest that hangs is ended and told" {
	vm --timeout 15 -- sleep 1000
	[ "$status" = 124 ]
	[[ $output == *"the guest hung: no end after 15 s"* ]]
}

@test "no guest outlives a vm/run that is stopped" {
	for signal in TERM KILL; do
		"$repo/vm/run" -- sh -c 'echo up; sleep 1000' >up 3>&- &
		until grep -q up up; do sleep 0.2; done
		kill -$signal $!
		wait $! || true
		sleep 1
		run pgrep -f "path=$VM_OUT,"
		[ -z "$output" ]
	done
}

@test "a CPU that spins with interrupts off is a hang" {
	vm --cpus 1 --timeout 15 -- sh -c 'echo HARDLOCKUP >/sys/kernel/debug/provoke-crash/DIRECT'
	[ "$status" = 124 ]
}

@test "a kernel that warns fails a command that succeeds" {
	vm -- sh -c 'echo WARNING >/sys/kernel/debug/provoke-crash/DIRECT'
	[ "$status" = 121 ]
	[[ $output == *"WARNING: CPU: "*lkdtm* ]]
}

@test "a kernel that stops is told" {
	vm -- sh -c 'echo BUG >/sys/kernel/debug/provoke-crash/DIRECT'
	[ "$status" = 121 ]
	[[ $output == *"kernel BUG at "* ]]
	vm -- sh -c 'echo c >/proc/sysrq-trigger'
	[ "$status" = 121 ]
	[[ $output == *"Kernel panic"* ]]
}

@test "a kernel that does not boot is told" {
	vm --append rdinit=/none\ root=/dev/none -- true
	[ "$status" = 120 ]
	[[ $output == *"did not boot"* ]]
}

@test "each kind of complaint on the console counts" {
	for text in 'WARNING: CPU: 1 PID: 2 at kernel/x.c:3 f+0x1/0x2' \
		'WARNING: possible circular locking dependency detected' \
		'WARNING: suspicious RCU usage' \
		'BUG: kernel NULL pointer dereference, address: 0' \
		'BUG: scheduling while atomic: x/1/0x2' \
		'BUG: KASAN: use-after-free in f' \
		'INFO: task x:1 blocked for more than 120 seconds.' \
		'rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:' \
		'rcu: INFO: rcu_preempt self-detected stall on CPU' \
		'watchdog: BUG: soft lockup - CPU#0 stuck for 23s! [x:1]' \
		'UBSAN: shift-out-of-bounds in x.c:1:2'; do
		echo "$text"
		vm -- sh -c 'echo "$0" >/dev/kmsg' "$text"
		[ "$status" = 121 ]
		[[ $output == *"$text"* ]]
	done
}

@test "bad arguments are told, and nothing is booted" {
	vm --kernel "$BATS_TEST_TMPDIR/none" -- true
	[ "$status" = 125 ]
	[[ $output == *"no kernel at $BATS_TEST_TMPDIR/none"* ]]
	vm --cpus many -- true
	[ "$status" = 125 ]
	[[ $output == *"not a number: 'many'"* ]]
	vm --frobnicate -- true
	[ "$status" = 125 ]
	vm
	[ "$status" = 125 ]
	[ ! -e "$VM_LOG" ]
}

@test "a missing tool is named" {
	mkdir bin
	for tool in bash env dirname cat grep sed; do
		ln -s "$(command -v "$tool")" bin
	done
	PATH=$BATS_TEST_TMPDIR/bin vm --kernel "$0" -- true
	[ "$status" = 125 ]
	[[ $output == *"qemu-system-x86_64 is missing"* ]]
}
