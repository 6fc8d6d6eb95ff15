# SPDX-License-Identifier: GPL-2.0-only
# tests/run: that it counts, and fails when it must.

setup() {
	real=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
	cd "$BATS_TEST_TMPDIR"
	mkdir -p repo/{tests,series,vm,build/selftests}
	cp "$real/tests/run" repo/tests
	cp "$real/series/lib.sh" repo/series
	# Runs here what is meant for the guest.
	printf '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift; "$@"\n' >repo/vm/run
	# Says what it is told to.
	printf '#!/bin/sh\nprintf "%%b\\n" "$1"; exit "$2"\n' >repo/build/selftests/say
	chmod +x repo/vm/run repo/build/selftests/say
	printf '@test "a" { true; }\n@test "b" { skip "too wet"; }\n' >repo/tests/x.bats
	ln -s say repo/build/selftests/test_progs
}

outcome() { # STATUS LAST-LINE, the list of guests on stdin
	cat >repo/tests/guest
	# Not with the PATH of bats, which finds its own parts there first.
	run env -i PATH=/usr/local/bin:/usr/bin:/bin HOME="$HOME" repo/tests/run
	echo "status $status: $output"
	[ "$status" = "$1" ]
	[ "${lines[-1]}" = "$2" ]
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
