# SPDX-License-Identifier: GPL-2.0-only
#
# The plots of what vm/soak/run left in dir, as SVG.

set terminal svg size 800,480 dynamic background '#ffffff'
set datafile separator ","
csv = dir . "/summary.csv"
file(name) = dir . "/" . name . ".svg"
contexts = "kprobe raw_tp perf_event nmi fentry socket fentry_s lsm_s syscall batch"

set style line 1 lc rgb "#b0b0b0" lw 2
set style line 2 lc rgb "#d95f02" lw 2
set style line 3 lc rgb "#7570b3" lw 2
set style line 4 lc rgb "#1b9e77" lw 2
set grid ytics lc rgb "#e0e0e0"
set border 3
set tics nomirror
set key outside right top
set style data lines
set xlabel "min"
min = "(column('s') / 60)"
set xrange [0:*]
set yrange [0:*]

set output file("memory")
set title "Memory, all contexts at work on all maps"
set ylabel "kB"
plot csv using @min:(column("cgroup_kb")) title "charged to the cgroup" ls 2, \
     "" using @min:(column("maps_kb")) title "all maps" ls 4, \
     "" using @min:(column("used_kb")) title "without free elements" ls 3, \
     "" using @min:(column("bpf_slab_kb")) title "slab caches" ls 1

set output file("machine")
set title "Memory of the machine, neither free nor for files"
plot csv using @min:(column("machine_kb")) title "all" ls 2, \
     "" using @min:(column("slab_kb")) title "slab" ls 4, \
     "" using @min:(column("percpu_kb")) title "per-CPU" ls 3

set output file("counters")
set title "What the dynamic maps tell of their elements"
set ylabel "elements"
plot csv using @min:(column("cached")) title "cached" ls 4, \
     "" using @min:(column("waiting")) title "waiting" ls 3, \
     "" using @min:(column("failed")) title "failed allocations" ls 2

set output file("operations")
set title "Operations, from one sample to the next"
set ylabel "operations"
set logscale y
set yrange [*:*]
plot for [c in contexts] csv using @min:(column(c . "_ops")) title c noenhanced lw 2

set output file("latency")
set title "An update: median, from one sample to the next"
set ylabel "ns"
plot for [c in contexts] csv using @min:(column(c . "_median_ns")) title c noenhanced lw 2

set output file("latency_max")
set title "An update: longest, from one sample to the next"
plot for [c in contexts] csv using @min:(column(c . "_max_ns")) title c noenhanced lw 2
