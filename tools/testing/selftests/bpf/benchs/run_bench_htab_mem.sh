#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

set -eufo pipefail

# run OPTIONS...: what the benchmark did a second, and in what memory
function run()
{
	local out

	out=$(sudo ./bench -w3 -d10 -p2 --cons-affinity 0 --prod-affinity 0-1 "$@")
	echo "$*"
	echo "$out" | sed -nE 's/^(Summary|Memory): /    /p'
}

for op in overwrite batch cross; do
	title="htab-mem-$op, 2 producers with 8192 keys each"
	printf "\n%s\n%s\n" "$title" "${title//?/=}"
	run htab-mem-$op
	run --htab-dynamic htab-mem-$op
	run --htab-percpu htab-mem-$op
	run --htab-percpu --htab-dynamic htab-mem-$op
done
