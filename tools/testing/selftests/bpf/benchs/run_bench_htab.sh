#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

set -eufo pipefail

# run PRODUCERS OPTIONS...: the benchmark's last line, in short
function run()
{
	local producers=$1 out

	shift
	out=$(sudo ./bench -w3 -d10 -p"$producers" --cons-affinity 0 \
		--prod-affinity "0-$((producers - 1))" "$@")
	printf "%-52s " "-p$producers $*"
	echo "$out" | sed -nE 's/^Summary: hits +(.*s) +\(.*, drops +(.*)/\1 (drops \2)/p'
}

function header()
{
	printf "\n%s\n%s\n" "$1" "${1//?/=}"
}

for op in lookup update cycle; do
	header "One operation after the other: htab-$op"
	for map in hash percpu; do
		for kind in preallocated dynamic; do
			opts=()
			[ $map = hash ] || opts+=(--htab-percpu)
			[ $kind = preallocated ] || opts+=(--htab-dynamic)
			run 1 "${opts[@]}" htab-$op
		done
	done
done

header "Dynamic hash map, sizes of key and value"
for size in 8 16 32 64 128 256; do
	run 1 --htab-dynamic --htab-key-size $size htab-cycle
done
for size in 8 64 256 1024 4096; do
	run 1 --htab-dynamic --htab-value-size $size htab-cycle
done

header "Producers, each with keys of its own"
for ((p = 1; p <= $(nproc); p *= 2)); do
	run $p htab-cycle
	run $p --htab-dynamic htab-cycle
	run $p --htab-percpu htab-cycle
	run $p --htab-percpu --htab-dynamic htab-cycle
done
