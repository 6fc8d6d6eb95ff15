# SPDX-License-Identifier: GPL-2.0-only
#
# The plots of what vm/bench/report wrote to dir, as suffix.

file(name) = dir . "/" . name . "." . suffix
dat(name) = dir . "/" . name . ".dat"
measured(name) = int(system("test -s '" . dat(name) . "' && echo 1 || echo 0"))

set style line 1 lc rgb "#b0b0b0" lw 2 pt 6 dt 2
set style line 2 lc rgb "#d95f02" lw 2 pt 5
set style line 3 lc rgb "#7570b3" lw 2 pt 8 dt 2
set style line 4 lc rgb "#1b9e77" lw 2 pt 7
set grid ytics lc rgb "#e0e0e0"
set border 3
set tics nomirror
set key top left
set yrange [0:*]
array kinds[4] = ["preallocated, base", "dynamic, base", "preallocated, series", "dynamic, series"]


if (measured("speed")) {
	set output file("speed")
	set title "Speed of a dynamic map beside a preallocated one (update + lookup + delete)"
	set ylabel "dynamic / preallocated"
	set xlabel "map, CPUs"
	set style data histograms
	set style histogram errorbars gap 2 lw 1
	set style fill solid 0.9 border -1
	set boxwidth 0.9
	set key top right
	set arrow 1 from graph 0, first 1 to graph 1, first 1 nohead dt 3
	plot dat("speed") using 2:3:4:xtic(1) title "base" ls 2, \
	     "" using 5:6:7 title "series" ls 4
	unset arrow 1
	set key top left
	set yrange [0:*]
}

set style data linespoints

if (measured("curve")) {
	set output file("memory")
	set title "Memory of a hash map of 2^{17} entries, key and value of 8 bytes"
	set xlabel "live elements"
	set ylabel "kB"
	set key bottom right
	plot for [i=1:4] dat("curve") using 1:(column(i + 1)) title kinds[i] ls i
	set key top left
}

if (measured("element")) {
	set output file("element")
	set title "What an element costs beside its key and value, bucket included"
	set xlabel "bytes of key and value"
	set ylabel "bytes"
	set logscale x 2
	plot for [i=1:4] dat("element") using 1:(column(i + 1) - $1) title kinds[i] ls i
	unset logscale x
}

if (measured("idle_cpus")) {
	set output file("idle_cpus")
	set title "Memory of an idle map of 64 entries by CPUs"
	set xlabel "CPUs"
	set ylabel "kB"
	plot for [i=1:4] dat("idle_cpus") using 1:(column(i + 1)) title kinds[i] ls i

	set output file("idle_maps")
	set title "Memory of idle maps of 64 entries, 2 CPUs"
	set xlabel "maps"
	plot for [i=1:4] dat("idle_maps") using 1:(column(i + 1)) title kinds[i] ls i
}

if (measured("trace_base") && measured("trace_series")) {
	set output file("churn")
	set title "Memory while one CPU adds and another deletes, 8192 elements at most"
	set xlabel "s"
	set ylabel "kB"
	set key top right
	plot dat("trace_base") using ($1 / 1000):2 with lines title "dynamic, base" ls 2, \
	     dat("trace_series") using ($1 / 1000):2 with lines title "dynamic, series" ls 4
	set key top left
}

if (measured("burst")) {
	set output file("burst")
	set title "Updates that succeed with interrupts off"
	set xlabel "new keys in a row"
	set ylabel "succeed"
	set logscale x 2
	plot dat("burst") using 1:2 title "hash, base (unsafe)" ls 2, \
	     "" using 1:5 title "hash, series, a second later" ls 4 lw 4, \
	     "" using 1:7 title "percpu hash, series, a second later" ls 3, \
	     "" using 1:4 title "hash, series, new map" ls 4 dt 3, \
	     "" using 1:6 title "percpu hash, series, new map" ls 3 dt 3 pt 9
	unset logscale
}

if (measured("create")) {
	set output file("create")
	set title "Creation of maps of 4096 entries"
	set logscale xy
	set yrange [*:*]
	set xlabel "maps"
	set ylabel "us a map"
	plot for [i=1:4] dat("create") using 1:(column(i + 1)) title kinds[i] ls i

	set output file("teardown")
	set title "Teardown of maps of 4096 elements, until nine tenths of the memory is back"
	set ylabel "ms"
	plot for [i=1:4] dat("teardown") using 1:(column(i + 1)) title kinds[i] ls i
}
