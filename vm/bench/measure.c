// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measures in the guest what tools/testing/selftests/bpf/bench does not: a line
 *
 *	MEASURE,MAP,X,VALUE
 *
 * for each value. MAP is hash or percpu, preallocated or dynamic; or trie dynamic.
 *
 *	curve    kB that a map of 2^17 entries takes with X elements in it
 *	element  bytes an element of X bytes (key and value), bucket included
 *	prefix   bytes a prefix of an LPM trie of X, addresses of 32 bits with
 *		 values of 8 bytes, intermediate nodes included
 *	idle     kB that X maps of 64 entries take, with nothing in them
 *	create   us that creating X maps takes, each
 *	teardown ms until nine tenths of the memory of X maps are back, 4096
 *		 elements in each
 *	first    updates that succeed of X in a row with interrupts off, new map
 *	learnt   the same a second later, other keys
 *
 * Memory is what the machine has less of free pages.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/types.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include "file_helpers.h"
#include "htab_reserve.skel.h"

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define READ_ONCE(x)	(*(volatile typeof(x) *)&(x))

#define CURVE_MAX	(1 << 17)
#define CURVE_STEPS	16
#define ELEMENT_BYTES	(4 << 20)	/* keys and values of a map */
#define ELEMENT_MIN	(1 << 14)	/* its elements, at least */
#define MAX_MAPS	1000
#define MAP_ELEMS	4096
#define NR_SINGLE	5		/* times that a single map is measured */

static const char *const kinds[] = { "preallocated", "dynamic" };
static const __u32 kind_flags[] = { 0, BPF_F_NO_PREALLOC };

static void die(const char *what)
{
	fprintf(stderr, "measure: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void fail(const char *what)
{
	fprintf(stderr, "measure: %s\n", what);
	exit(1);
}

static double now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e6 + ts.tv_nsec / 1e3;
}

static int create(__u32 value_size, __u32 max_entries, int kind)
{
	int fd;

	fd = bpf_create_map(BPF_MAP_TYPE_HASH, sizeof(__u64), value_size,
			    max_entries, kind_flags[kind]);
	if (fd < 0)
		die("map");
	return fd;
}

static void fill(int fd, __u64 first, __u64 last)
{
	static const char value[4096];
	__u64 key;

	for (key = first; key < last; key++)
		if (bpf_map_update_elem(fd, &key, value, BPF_NOEXIST))
			die("update");
}

/* What the kernel and this program need once, is no cost of the first map. */
static void warm_up(void)
{
	int kind, fd;

	read_self();
	for (kind = 0; kind < ARRAY_SIZE(kinds); kind++) {
		fd = create(8, 64, kind);
		fill(fd, 0, 64);
		settled_kb();
		close(fd);
	}
}

static void curve(void)
{
	int kind, i, fd, step = CURVE_MAX / CURVE_STEPS;
	double before;

	for (kind = 0; kind < ARRAY_SIZE(kinds); kind++) {
		before = settled_kb();
		fd = create(8, CURVE_MAX, kind);
		for (i = 0; i <= CURVE_STEPS; i++) {
			if (i)
				fill(fd, (i - 1) * step, i * step);
			printf("curve,hash %s,%d,%.0f\n", kinds[kind], i * step,
			       before - settled_kb());
		}
		close(fd);
	}
}

/* max_entries is a power of two: one bucket of 16 bytes an element */
static void element(void)
{
	static const int sizes[] = { 16, 32, 64, 128, 256, 512, 1024, 2048 };
	int kind, i, fd, n;
	double before;

	for (kind = 0; kind < ARRAY_SIZE(kinds); kind++) {
		for (i = 0; i < ARRAY_SIZE(sizes); i++) {
			n = ELEMENT_BYTES / sizes[i];
			if (n < ELEMENT_MIN)
				n = ELEMENT_MIN;
			before = settled_kb();
			fd = create(sizes[i] - sizeof(__u64), n, kind);
			fill(fd, 0, n);
			printf("element,hash %s,%d,%.1f\n", kinds[kind],
			       sizes[i], (before - settled_kb()) * 1024 / n);
			close(fd);
		}
	}
}

static int create_trie(int n)
{
	struct {
		__u32 len, addr;
	} key = { .len = 32 };
	int i, fd;
	__u64 val = 0;

	fd = bpf_create_map(BPF_MAP_TYPE_LPM_TRIE, sizeof(key), sizeof(val), n,
			    BPF_F_NO_PREALLOC);
	if (fd < 0)
		die("trie");
	for (i = 0; i < n; i++) {
		/* all over the place, and no two are the same */
		key.addr = i * 2654435769U;
		if (bpf_map_update_elem(fd, &key, &val, BPF_NOEXIST))
			die("prefix");
	}
	return fd;
}

static void close_all(const int *fds, int n)
{
	while (n--)
		close(fds[n]);
}

static void prefix(void)
{
	static const int counts[] = { 100, 10000, 1000000 };
	int i, n, nr, fds[50], first;
	double before;

	/* the first one brings a slab cache for its sizes */
	first = create_trie(1);
	for (i = 0; i < ARRAY_SIZE(counts); i++) {
		nr = counts[i] < 1000 ? ARRAY_SIZE(fds) : 1;
		before = settled_kb();
		for (n = 0; n < nr; n++)
			fds[n] = create_trie(counts[i]);
		printf("prefix,trie dynamic,%d,%.1f\n", counts[i],
		       (before - settled_kb()) * 1024 / nr / counts[i]);
		close_all(fds, nr);
	}
	close(first);
}

static void idle(void)
{
	static const int counts[] = { 1, 10, 100, 300, MAX_MAPS };
	int kind, i, n, fds[MAX_MAPS + 1];
	double before;

	for (kind = 0; kind < ARRAY_SIZE(kinds); kind++) {
		/* the first map brings a slab cache for its size */
		fds[MAX_MAPS] = create(64, 64, kind);
		before = settled_kb();
		for (i = 0, n = 0; i < ARRAY_SIZE(counts); i++) {
			for (; n < counts[i]; n++)
				fds[n] = create(64, 64, kind);
			printf("idle,hash %s,%d,%.0f\n", kinds[kind], n,
			       before - settled_kb());
		}
		close_all(fds, n);
		close(fds[MAX_MAPS]);
		settled_kb();
	}
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *v, int nr)
{
	qsort(v, nr, sizeof(*v), compare);
	return v[nr / 2];
}

static void storm(void)
{
	static const int counts[] = { 1, 100, MAX_MAPS };
	double created[NR_SINGLE], gone[NR_SINGLE], start, before, taken;
	int kind, i, j, n, nr, round, fds[MAX_MAPS];

	for (kind = 0; kind < ARRAY_SIZE(kinds); kind++) {
		close(create(64, MAP_ELEMS, kind));
		for (i = 0; i < ARRAY_SIZE(counts); i++) {
			n = counts[i];
			nr = n == 1 ? NR_SINGLE : 1;
			for (round = 0; round < nr; round++) {
				before = settled_kb();
				start = now_us();
				for (j = 0; j < n; j++)
					fds[j] = create(64, MAP_ELEMS, kind);
				created[round] = (now_us() - start) / n;
				for (j = 0; j < n; j++)
					fill(fds[j], 0, MAP_ELEMS);
				taken = before - settled_kb();
				start = now_us();
				close_all(fds, n);
				while (before - free_kb() > taken / 10) {
					if (now_us() - start > 60e6)
						fail("teardown takes a minute");
					usleep(2000);
				}
				gone[round] = (now_us() - start) / 1e3;
			}
			printf("create,hash %s,%d,%.1f\n", kinds[kind], n,
			       median(created, nr));
			printf("teardown,hash %s,%d,%.1f\n", kinds[kind], n,
			       median(gone, nr));
		}
	}
}

static int run_burst(struct htab_reserve *skel, int n)
{
	__u32 done = skel->bss->done;
	int i;

	skel->bss->nr_ok = 0;
	skel->bss->burst = n;
	for (i = 0; i < 1000 && READ_ONCE(skel->bss->done) == done; i++)
		usleep(1000);
	if (READ_ONCE(skel->bss->done) == done)
		fail("the burst did not run");
	return skel->bss->nr_ok;
}

static void burst(bool percpu)
{
	const char *map = percpu ? "percpu" : "hash";
	struct bpf_program *prog;
	struct htab_reserve *skel;
	int n;

	for (n = 8; n <= 512; n *= 2) {
		skel = htab_reserve__open();
		if (!skel)
			die("open");
		bpf_object__for_each_program(prog, skel->obj)
			bpf_program__set_autoload(prog, false);
		bpf_program__set_autoload(percpu ? skel->progs.burst_percpu :
						   skel->progs.burst_hash,
					  true);
		if (htab_reserve__load(skel) || htab_reserve__attach(skel))
			die("load");
		skel->bss->pid = getpid();
		printf("first,%s dynamic,%d,%d\n", map, n, run_burst(skel, n));
		skel->bss->first_key += n;
		sleep(1);
		printf("learnt,%s dynamic,%d,%d\n", map, n, run_burst(skel, n));
		htab_reserve__destroy(skel);
	}
}

static int print_fn(enum libbpf_print_level level, const char *format,
		    va_list args)
{
	return level == LIBBPF_WARN ? vfprintf(stderr, format, args) : 0;
}

int main(int argc, char **argv)
{
	struct rlimit files = { 2 * MAX_MAPS, 2 * MAX_MAPS };
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	int i;

	if (argc < 2) {
		fprintf(stderr,
			"usage: measure curve|element|prefix|idle|storm|burst|burst-percpu...\n");
		return 2;
	}
	libbpf_set_print(print_fn);
	setvbuf(stdout, NULL, _IOLBF, 0);
	/* the base kernel holds maps against RLIMIT_MEMLOCK */
	if (setrlimit(RLIMIT_NOFILE, &files) ||
	    setrlimit(RLIMIT_MEMLOCK, &unlimited))
		die("setrlimit");
	warm_up();
	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "curve"))
			curve();
		else if (!strcmp(argv[i], "element"))
			element();
		else if (!strcmp(argv[i], "prefix"))
			prefix();
		else if (!strcmp(argv[i], "idle"))
			idle();
		else if (!strcmp(argv[i], "storm"))
			storm();
		else if (!strcmp(argv[i], "burst"))
			burst(false);
		else if (!strcmp(argv[i], "burst-percpu"))
			burst(true);
		else
			fail(argv[i]);
	}
	return 0;
}
