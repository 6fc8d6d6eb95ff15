#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Runs the torture test of the BPF memory allocator for a while, in the second
# half with CPUs going down and up, and turns its verdict into an exit status.
# Arguments are parameters of the module, in place of those below or in addition.
set -eu

desc="bpf_mem_alloc"
module="test_bpf_mem_alloc"
modprobe="/sbin/modprobe"
runtime=20

say() {
	echo "$desc: $1"
}

fail() {
	say "$1 [FAIL]" >&2
	exit 1
}

skip() {
	say "$1 [SKIP]" >&2
	# Kselftest framework requirement - SKIP code is 4.
	exit 4
}

# What the test has written to the kernel's log since it began
log() {
	dmesg | sed -n "/$mark/,\$s/^.*\(bpf_mem_alloc-torture:.*\)/\1/p"
}

cleanup() {
	$modprobe -q -r $module || :
	for cpu in $online; do
		[ "$(cat "$cpu")" = 1 ] || echo 1 >"$cpu" || :
	done
}

for arg; do
	case "$arg" in
	runtime=*) runtime=${arg#*=} ;;
	esac
done
params="runtime=$runtime onoff_holdoff=$((runtime / 2)) onoff_interval=50 $*"

[ "$(id -u)" = 0 ] || skip "please run as root"
$modprobe -q -n $module || skip "module $module is not found"
! grep -q "^$module " /proc/modules || skip "module $module is in use"
[ "$runtime" -gt 0 ] || fail "needs a runtime"

online=
for cpu in /sys/devices/system/cpu/cpu[0-9]*/online; do
	[ ! -e "$cpu" ] || [ "$(cat "$cpu")" != 1 ] || online="$online $cpu"
done
mark="selftest $desc $$"
echo "$mark" >/dev/kmsg

trap cleanup EXIT
# shellcheck disable=SC2086 # one word for each parameter
$modprobe -q $module $params || fail "module $module is not loaded"

# The checks at the end take some time if they find anything
end=$((runtime + 120))
while [ "$end" -gt 0 ] && ! log | grep -q -e '--- End of test:'; do
	sleep 1
	end=$((end - 1))
done

log
log | grep -q -e '--- End of test:' || fail "no verdict"
log | grep -q -e '--- End of test: SUCCESS' || fail "see above"
say "ok"
