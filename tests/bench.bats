# SPDX-License-Identifier: GPL-2.0-only
# What make bench makes of its measurements, on numbers with a known answer.

setup() {
	repo=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
	cd "$BATS_TEST_TMPDIR"
	mkdir out
	echo "kernel,cpus,round,measure,map,x,value" >out/raw.csv
}

raw() { # LINE...
	printf '%s\n' "$@" >>out/raw.csv
}

@test "bench: ratios are taken round by round" {
	# the machine was three times as fast in the second round
	raw "base,2,1,speed,hash dynamic,2,1" "base,2,1,speed,hash preallocated,2,2" \
		"base,2,2,speed,hash dynamic,2,3" "base,2,2,speed,hash preallocated,2,6" \
		"series,2,1,speed,hash dynamic,2,2" "series,2,1,speed,hash preallocated,2,2" \
		"series,2,2,speed,hash dynamic,2,9" "series,2,2,speed,hash preallocated,2,6"
	run "$repo/vm/bench/report" out
	echo "$output"
	[ "$status" = 0 ]
	[[ $output == *"hash  2     0.50 (0.50 to 0.50)     1.25 (1.00 to 1.50)"* ]]
	grep -qx 'speed,hash dynamic,2,2,series,5.5,2,9,2' out/summary.csv
	[ -s out/speed.svg ] && [ -s out/speed.png ]
	[ ! -e out/memory.svg ]
}

@test "bench: memory is told and plotted" {
	for kernel in base series; do
		for kind in preallocated dynamic; do
			raw "$kernel,2,1,curve,hash $kind,0,100" "$kernel,2,1,curve,hash $kind,1000,150"
			for cpus in 2 4 8; do
				raw "$kernel,$cpus,1,idle,hash $kind,100,240" \
					"$kernel,$cpus,1,idle,hash $kind,300,740"
			done
		done
	done
	run "$repo/vm/bench/report" out
	echo "$output"
	[ "$status" = 0 ]
	[[ $output == *"8     2.50"* ]]
	[ -s out/memory.svg ] && [ -s out/idle_cpus.png ]
	[ ! -e out/speed.svg ]
}

@test "bench: what bench and measure write is read" {
	run "$repo/vm/bench/values" <<-'END'
		== churn-cross,hash dynamic,2
		Iter   0 ( 66.015us): hits    9.999M/s (  9.999M/prod), drops    9.999M/s
		Sample: 5 ms, 7 kB
		Summary: hits    3.349 ± 0.125M/s (  1.675M/prod), drops    0.012 ± 0.000M/s
		Memory: average 576 kB, peak 580 kB, charged: average 451 kB, peak 512 kB
		== insns-lookup,percpu dynamic,8192
		Summary: hits    1.250 ± 0.000M/s (  1.250M/prod), drops    0.000 ± 0.000M/s
		== trace,hash dynamic,2
		Sample: 1024 ms, 512 kB
		Summary: hits    3.349 ± 0.125M/s (  1.675M/prod), drops    0.000 ± 0.000M/s
		Memory: average 576 kB, peak 580 kB
		idle,hash dynamic,10,24
		== end
	END
	echo "$output"
	[ "$status" = 0 ]
	printf '%s\n' \
		"churn-cross,hash dynamic,2,3.349" "churn-cross-failed,hash dynamic,2,0.012" \
		"churn-cross-average,hash dynamic,2,576" "churn-cross-peak,hash dynamic,2,580" \
		"churn-cross-charged,hash dynamic,2,451" \
		"insns-lookup,percpu dynamic,8192,200" "insns-lookup-failed,percpu dynamic,8192,0" \
		"trace,hash dynamic,1024,512" "idle,hash dynamic,10,24" | diff - <(echo "$output")
}

@test "bench: a run that did nothing is no result" {
	run "$repo/vm/bench/values" <<-'END'
		== speed,hash dynamic,2
		Summary: hits    0.000 ± 0.000M/s (  0.000M/prod), drops    3.000 ± 0.000M/s
	END
	[ "$status" != 0 ]
}
