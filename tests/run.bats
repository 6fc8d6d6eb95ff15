# SPDX-License-Identifier: GPL-2.0-only
# tests/run: that it counts, and fails when it must.

setup() {
	real=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
	cd "$BATS_TEST_TMPDIR"
	mkdir -p repo/{tests,series,vm,build/selftests}
	cp "$real/tests/run" repo/tests
	cp "$real/series/lib.sh" repo/series
	cp "$real/vm/arch" repo/vm
	# Runs here what is meant for the guest, and notes the kernel.
	printf '#!/bin/sh\necho "$2" >>../kernels; while [ "$1" != -- ]; do shift; done; shift; "$@"\n' >repo/vm/run
	# Says what it is told to.
	printf '#!/bin/sh\nprintf "%%b\\n" "$1"; exit "$2"\n' >repo/build/selftests/say
	chmod +x repo/vm/run repo/build/selftests/say
	printf '@test "a" { true; }\n@test "b" { skip "too wet"; }\n' >repo/tests/x.bats
	ln -s say repo/build/selftests/test_progs
	: >repo/tests/base
}

outcome() { # STATUS LAST-LINE, the list of guests on stdin
	cat >repo/tests/guest
	tests_run
	echo "status $status: $output"
	[ "$status" = "$1" ]
	[ "${lines[-1]}" = "$2" ]
}

tests_run() { # [OPTION]
	# Not with the PATH of bats, which finds its own parts there first.
	run env -i PATH=/usr/local/bin:/usr/bin:/bin HOME="$HOME" repo/tests/run "$@"
}

@test "what passes and what is skipped is counted, with the reason" {
	outcome 0 "5 passed, 0 failed, 2 skipped" <<'END'
# comment
one   | --cpus 4 | ./say hello 0
progs | | ./test_progs '#1/1 x:OK\n#1/2 y:OK\n#1 t:OK\nno such CPU\n#2 u:SKIP\n#3 v:OK\nSummary: 2/2 PASSED' 0
END
	[[ $output == *"skipped: host: b (too wet)"* ]]
	[[ $output == *"skipped: progs: u (no such CPU)"* ]]
}

@test "a failed subtest counts once" {
	outcome 1 "2 passed, 1 failed, 1 skipped" <<'END'
progs | | ./test_progs '#1/1 x:OK\n#1/2 y:FAIL\n#1 t:FAIL\nSummary: 0/1 PASSED' 1
END
	[[ $output == *"failed: progs: t/y"* ]]
}

@test "a guest that ends badly fails, whatever its tests said" {
	outcome 1 "2 passed, 1 failed, 1 skipped" <<'END'
progs | | ./test_progs '#1 t:OK\nSummary: 1/0 PASSED' 121
END
	[[ $output == *"failed: progs (status 121)"* ]]
}

@test "a list that names no test fails" {
	outcome 1 "1 passed, 1 failed, 1 skipped" <<'END'
progs | | ./test_progs 'Summary: 0/0 PASSED, 0 SKIPPED, 0 FAILED' 0
END
}

@test "a failed test on the host fails" {
	printf '@test "c" { false; }\n' >>repo/tests/x.bats
	outcome 1 "2 passed, 1 failed, 1 skipped" <<'END'
one | | ./say hello 0
END
	[[ $output == *"failed: host: c"* ]]
}

@test "bats that does not run its tests fails" {
	echo '}' >>repo/tests/x.bats
	outcome 1 "1 passed, 1 failed, 0 skipped" <<'END'
one | | ./say hello 0
END
}

@test "subtests that are skipped are told, each with its own reason" {
	outcome 0 "2 passed, 0 failed, 3 skipped" <<'END'
progs | | ./test_progs 'no such CPU\nt:PASS:taint 0 nsec\n#1/1 x:SKIP\n#1/2 y:SKIP\n#1/3 z:OK\n#1 t:OK\nSummary: 1/3 PASSED' 0
END
	[[ $output == *"skipped: progs: t/x (no such CPU)"* ]]
	[[ $output == *"skipped: progs: t/y (no reason given)"* ]]
}

# What the base kernel gave, with the reasons behind it.
base() {
	printf '%b\n' "$@" >repo/tests/base
}

@test "what fails on the base is told, with the reason, and may pass" {
	base 'passed: base-p: a' 'failed: base-p: b | no PMU' 'skipped: base-p: c | no IPv6' \
		'failed: base-p: d | no PMU' 'flaky: base-p: e | it sleeps too short'
	outcome 0 "3 passed, 0 failed, 4 skipped" <<'END'
base-p | | ./test_progs '#1 a:OK\n#2 b:FAIL\n#3 c:SKIP\n#4 d:OK\n#5 e:FAIL\nSummary: 3/0 PASSED' 1
END
	[[ $output == *"skipped: base-p: b (failed on the base: no PMU)"* ]]
	[[ $output == *"skipped: base-p: c (skipped on the base: no IPv6)"* ]]
	[[ $output == *"skipped: base-p: e (flaky on the base: it sleeps too short)"* ]]
}

@test "what passed on the base, or is the series' own, has to pass" {
	base 'passed: base-p: a' 'passed: base-p: b' 'ours: base-p: c | not in the base' 'passed: base-p: d'
	outcome 1 "2 passed, 3 failed, 1 skipped" <<'END'
base-p | | ./test_progs '#1 a:FAIL\nno CPU\n#2 b:SKIP\n#3 c:FAIL\n#4 d:OK\nSummary: 2/0 PASSED' 1
END
	[[ $output == *"failed: base-p: a"$'\n'* ]]
	[[ $output == *"failed: base-p: b (skipped: no CPU)"* ]]
	[[ $output == *"failed: base-p: c"$'\n'* ]]
}

@test "a failure on the base without a reason is no excuse" {
	base 'failed: base-p: a' 'passed: base-p: b'
	outcome 1 "2 passed, 1 failed, 1 skipped" <<'END'
base-p | | ./test_progs '#1 a:FAIL\n#2 b:OK\nSummary: 1/0 PASSED' 1
END
}

@test "what is missing, and what tests/base does not know, fails" {
	base 'passed: base-p: a' 'failed: base-p: b | no PMU' 'passed: base-p: c'
	outcome 1 "2 passed, 2 failed, 1 skipped" <<'END'
base-p | | ./test_progs '#1 a:OK\n#2 x:OK\nSummary: 2/0 PASSED' 0
END
	[[ $output == *"failed: base-p: x (not in tests/base)"* ]]
	[[ $output == *"failed: base-p: 2 tests of tests/base are missing: "* ]]
}

@test "a guest that ends badly fails, though what failed in it may" {
	base 'passed: base-p: a' 'failed: base-p: b | no PMU'
	outcome 1 "2 passed, 1 failed, 2 skipped" <<'END'
base-p | | ./test_progs '#1 a:OK\n#2 b:FAIL\nSummary: 1/0 PASSED' 121
END
	[[ $output == *"failed: base-p (status 121)"* ]]
}

@test "test_verifier and test_lru_map are read, twice the same name too" {
	base 'passed: base-v: p x' 'passed: base-v: u x' 'passed: base-v: p x (2)' \
		'passed: base-v: t (map_type:9 map_flags:0x0)'
	outcome 1 "4 passed, 1 failed, 1 skipped" <<'END'
base-v | | ./say '#0/u x OK\n#0/p x OK\n#1/p x FAIL\nt (map_type:9 map_flags:0x0): Pass' 1
END
	[[ $output == *"failed: base-v: p x (2)"* ]]
}

@test "--record writes what the base gives, and keeps reasons and remarks" {
	base '# remark' 'failed: base-p: a | no PMU' 'failed: base-p: b | no IPv6' 'passed: base-p: gone' \
		'ours: base-p: c | not in the base' 'flaky: base-p: g | it sleeps too short'
	cat >repo/tests/guest <<'END'
one    | | ./say 'not in there' 1
base-p | | ./test_progs '#1 a:FAIL\n#2 b:OK\n#3 c:FAIL\n#4 d:FAIL\nno CPU\n#5 f:SKIP\n#6 g:OK' 121
END
	tests_run --record
	[ "$status" = 0 ]
	[[ $(cat repo/build/kernels) == */build/obj-base/arch/x86/boot/bzImage ]]
	[ "$(wc -l <repo/build/kernels)" = 1 ]
	diff repo/tests/base - <<<"# remark
failed: base-p: a | no PMU
passed: base-p: b
ours: base-p: c | not in the base
failed: base-p: d
skipped: base-p: f | no CPU
flaky: base-p: g | it sleeps too short"
}

@test "--record leaves the list alone when the guest hangs" {
	base 'passed: base-p: a'
	echo "base-p | | ./test_progs '#1 x:OK' 124" >repo/tests/guest
	tests_run --record
	[ "$status" = 1 ]
	[ "$(cat repo/tests/base)" = 'passed: base-p: a' ]
}
