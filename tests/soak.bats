# SPDX-License-Identifier: GPL-2.0-only
# make soak, for a minute: that it works in every context, and that its verdict
# can be the other one.

setup_file() {
	repo=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
	export repo
	export MINUTES=1
}

soak() { # OUT OPTION...
	local out=$1
	shift
	run "$repo/vm/soak/run" "$repo/build/linux-5.10" "$repo/build/obj" \
		"$repo/build/selftests" "$out" "$@"
	echo "status $status: $output"
}

# Counts of a column of soak.csv, added up
total() { # COLUMN
	awk -F , -v name="$1" '
		NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) col = i; next }
		{ sum += $col }
		END { print sum + 0 }' "$out/soak.csv"
}

@test "soak: all contexts work for a minute, and it passes" {
	out=$BATS_TEST_TMPDIR/out
	soak "$out"
	[ "$status" = 0 ]
	[ "$(tail -n 1 "$out/report")" = passed ]
	[ "$(wc -l <"$out/soak.csv")" = 61 ]
	for context in kprobe raw_tp perf_event nmi fentry socket fentry_s lsm_s \
		syscall batch; do
		[ "$(total ${context}_ops)" -gt 0 ]
		[ "$(total ${context}_wrong)" = 0 ]
	done
	for plot in memory machine counters operations latency latency_max; do
		[ -s "$out/$plot.svg" ]
	done
}

@test "soak: memory that does not come back while it runs is noticed" {
	out=$BATS_TEST_TMPDIR/out
	soak "$out" -l
	[ "$status" = 1 ]
	[ "$(tail -n 1 "$out/report")" = FAILED ]
	grep -q '^FAILED: flat: elements in use' "$out/report"
	grep -q '^FAILED: content of hash' "$out/report"
	# and nothing but the leak is to blame
	! grep '^FAILED:' "$out/report" |
		grep -v -e 'flat: ' -e 'bound: ' -e 'content of hash'
}

@test "soak: samples become fewer, and keep their sums and maxima" {
	cd "$BATS_TEST_TMPDIR"
	printf '%s\n' s,maps_kb,nmi_ops,nmi_median_ns,nmi_max_ns,first_nomem \
		1,10,1,100,900,5 2,20,2,300,200,6 3,30,4,500,300,7 >soak.csv
	run "$repo/vm/soak/thin" LINES=2 soak.csv
	echo "$output"
	[ "${lines[1]}" = 2,20,3,200,900,6 ]
	[ "${lines[2]}" = 3,30,4,500,300,7 ]
	run "$repo/vm/soak/thin" LINES=3 soak.csv
	[ "$output" = "$(cat soak.csv)" ]
}
