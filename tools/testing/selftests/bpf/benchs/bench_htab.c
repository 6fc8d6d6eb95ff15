// SPDX-License-Identifier: GPL-2.0
/* Speed of hash maps and LPM tries, and the memory they take under churn */
#define _GNU_SOURCE
#include <argp.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include "bench.h"
#include "cgroup_helpers.h"
#include "file_helpers.h"
#include "progs/htab_bench.h"
#include "htab_bench.skel.h"

/* test_run of a program has a cost of its own: run it so many times a call */
#define REPEAT		16

#define MAX_PRODUCERS	256

/* Where setup_cgroup_environment() has the cgroups */
#define CGROUP_ROOT	"/mnt"
#define CGROUP_WORK	CGROUP_ROOT "/cgroup-test-work-dir"

/* and those of a map, as its other functions name them */
#define CGROUP_MAP	"/map"
#define CGROUP_PROBE	"/probe"

static struct {
	bool dynamic;
	bool percpu;
	bool trie;
	bool reuse_after_gp;
	int extra; /* map_extra */
	int key_size; /* bytes */
	int value_size; /* bytes */
	int entries; /* max_entries; 0: as many as there are keys */
	int keys; /* for each producer */
} args = {
	.key_size = 8,
	.value_size = 8,
	.keys = 8192,
};

enum {
	ARG_HTAB_DYNAMIC = 3000,
	ARG_HTAB_PERCPU = 3001,
	ARG_HTAB_KEY_SIZE = 3002,
	ARG_HTAB_VALUE_SIZE = 3003,
	ARG_HTAB_ENTRIES = 3004,
	ARG_HTAB_KEYS = 3005,
	ARG_HTAB_TRIE = 3006,
	ARG_HTAB_REUSE_AFTER_GP = 3007,
	ARG_HTAB_EXTRA = 3008,
};

static const struct argp_option opts[] = {
	{ "htab-dynamic", ARG_HTAB_DYNAMIC, NULL, 0,
	  "Set BPF_F_NO_PREALLOC" },
	{ "htab-percpu", ARG_HTAB_PERCPU, NULL, 0,
	  "Use BPF_MAP_TYPE_PERCPU_HASH" },
	{ "htab-trie", ARG_HTAB_TRIE, NULL, 0,
	  "Use BPF_MAP_TYPE_LPM_TRIE, of addresses of 32 bits" },
	{ "htab-reuse-after-gp", ARG_HTAB_REUSE_AFTER_GP, NULL, 0,
	  "Set BPF_F_REUSE_AFTER_GP" },
	{ "htab-extra", ARG_HTAB_EXTRA, "NUM", 0,
	  "Set map_extra, the number of elements to be kept ready" },
	{ "htab-key-size", ARG_HTAB_KEY_SIZE, "BYTES", 0,
	  "Size of a key, 8 to 256" },
	{ "htab-value-size", ARG_HTAB_VALUE_SIZE, "BYTES", 0,
	  "Size of a value, 1 to 4096" },
	{ "htab-entries", ARG_HTAB_ENTRIES, "NUM", 0,
	  "Set max_entries; as many as there are keys by default" },
	{ "htab-keys", ARG_HTAB_KEYS, "NUM", 0,
	  "Number of keys of each producer, a multiple of 256" },
	{},
};

static int parse_size(struct argp_state *state, const char *what,
		      const char *arg, int min, int max)
{
	char *end;
	long n;

	n = strtol(arg, &end, 10);
	if (*end || end == arg || n < min || n > max) {
		fprintf(stderr, "Invalid %s: %s\n", what, arg);
		argp_usage(state);
	}
	return n;
}

static error_t parse_arg(int key, char *arg, struct argp_state *state)
{
	switch (key) {
	case ARG_HTAB_DYNAMIC:
		args.dynamic = true;
		break;
	case ARG_HTAB_PERCPU:
		args.percpu = true;
		break;
	case ARG_HTAB_TRIE:
		args.trie = true;
		args.dynamic = true;
		break;
	case ARG_HTAB_REUSE_AFTER_GP:
		args.reuse_after_gp = true;
		break;
	case ARG_HTAB_EXTRA:
		args.extra = parse_size(state, "number of elements", arg, 1,
					1 << 30);
		break;
	case ARG_HTAB_KEY_SIZE:
		args.key_size = parse_size(state, "key size", arg, 8,
					   HTAB_BENCH_KEY);
		break;
	case ARG_HTAB_VALUE_SIZE:
		args.value_size = parse_size(state, "value size", arg, 1,
					     HTAB_BENCH_VALUE);
		break;
	case ARG_HTAB_ENTRIES:
		args.entries = parse_size(state, "number of entries", arg, 1,
					  1 << 30);
		break;
	case ARG_HTAB_KEYS:
		args.keys = parse_size(state, "number of keys", arg,
				       HTAB_BENCH_BATCH, 1 << 24);
		if (args.keys % HTAB_BENCH_BATCH) {
			fprintf(stderr, "Invalid number of keys: %s\n", arg);
			argp_usage(state);
		}
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

/* exported into benchmark runner */
const struct argp bench_htab_argp = {
	.options = opts,
	.parser = parse_arg,
};

static struct {
	struct htab_bench *skel;
	struct counter hits[MAX_PRODUCERS];
	/* batches added and deleted, of each pair of producers */
	struct counter added[MAX_PRODUCERS / 2];
	struct counter deleted[MAX_PRODUCERS / 2];
	long failed;
	int iter;
} ctx;

static void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static void validate(void)
{
	if (env.consumer_cnt != 1) {
		fprintf(stderr, "benchmark doesn't support multi-consumer!\n");
		exit(1);
	}
	if (env.producer_cnt > MAX_PRODUCERS) {
		fprintf(stderr, "benchmark supports %d producers at most!\n",
			MAX_PRODUCERS);
		exit(1);
	}
}

static void validate_cross(void)
{
	validate();
	if (env.producer_cnt % 2) {
		fprintf(stderr, "benchmark needs pairs of producers!\n");
		exit(1);
	}
}

/* @repeat batches of keys */
static void run_prog(struct bpf_program *prog, long producer, int first,
		     int repeat)
{
	struct __sk_buff skb = {
		.cb[HTAB_BENCH_PRODUCER] = producer,
		.cb[HTAB_BENCH_FIRST] = first,
		.cb[HTAB_BENCH_KEYS] = args.keys,
	};
	char packet[64] = {};
	struct bpf_prog_test_run_attr attr = {
		.prog_fd = bpf_program__fd(prog),
		.repeat = repeat,
		.data_in = packet,
		.data_size_in = sizeof(packet),
		.ctx_in = &skb,
		.ctx_size_in = sizeof(skb),
	};

	while (bpf_prog_test_run_xattr(&attr))
		if (errno != EINTR)
			die("running a program");
}

static void run_all(struct bpf_program *prog, long producer)
{
	int first;

	for (first = 0; first < args.keys; first += HTAB_BENCH_BATCH) {
		run_prog(prog, producer, first, 1);
		atomic_add(&ctx.hits[producer].value, HTAB_BENCH_BATCH);
	}
}

/* What max_entries is, for the keys of so many producers */
static long max_entries(int producers)
{
	long keys = (long)args.keys * producers;

	if (keys > 1 << 30) {
		fprintf(stderr, "%ld keys are too many\n", keys);
		exit(1);
	}
	return args.entries ?: keys;
}

static int create_map(long entries)
{
	union bpf_attr attr = {};
	int fd;

	attr.map_type = args.trie ? BPF_MAP_TYPE_LPM_TRIE :
			args.percpu ? BPF_MAP_TYPE_PERCPU_HASH :
				      BPF_MAP_TYPE_HASH;
	attr.key_size = args.trie ? 8 : args.key_size;
	attr.value_size = args.value_size;
	attr.max_entries = entries;
	if (args.dynamic)
		attr.map_flags |= BPF_F_NO_PREALLOC;
	if (args.reuse_after_gp)
		attr.map_flags |= BPF_F_REUSE_AFTER_GP;
	attr.map_extra = args.extra;
	fd = syscall(__NR_bpf, BPF_MAP_CREATE, &attr, sizeof(attr));
	if (fd < 0)
		die("map");
	return fd;
}

static struct htab_bench *load_with(int fd)
{
	struct htab_bench *skel;

	skel = htab_bench__open();
	if (skel)
		skel->rodata->trie = args.trie;
	if (!skel || bpf_map__reuse_fd(skel->maps.map, fd) ||
	    htab_bench__load(skel)) {
		fprintf(stderr, "failed to load skeleton\n");
		exit(1);
	}
	close(fd);
	return skel;
}

static void setup_map(void)
{
	setup_libbpf();
	ctx.skel = load_with(create_map(max_entries(env.producer_cnt)));
}

static void fill_map(void)
{
	int i;

	for (i = 0; i < env.producer_cnt; i++) {
		run_all(ctx.skel->progs.htab_add, i);
		/* not yet what is measured */
		atomic_swap(&ctx.hits[i].value, 0);
	}
	if (ctx.skel->bss->nr_failed) {
		fprintf(stderr, "%llu keys could not be added\n",
			(unsigned long long)ctx.skel->bss->nr_failed);
		exit(1);
	}
}

static void setup_filled_map(void)
{
	setup_map();
	fill_map();
}

static void measure(struct bench_res *res)
{
	long failed = READ_ONCE(ctx.skel->bss->nr_failed);
	int i;

	for (i = 0; i < env.producer_cnt; i++)
		res->hits += atomic_swap(&ctx.hits[i].value, 0);
	res->drops = failed - ctx.failed;
	res->hits -= res->drops;
	ctx.failed = failed;
	WRITE_ONCE(ctx.iter, ctx.iter + 1);
}

static void *consumer(void *input)
{
	return NULL;
}

/* SPEED: keys of a producer's own, one operation or three */

static void *produce(struct bpf_program *prog, long producer, int ops)
{
	long nr = 0;

	while (true) {
		run_prog(prog, producer, nr % args.keys, REPEAT);
		nr += REPEAT * HTAB_BENCH_BATCH;
		atomic_add(&ctx.hits[producer].value,
			   REPEAT * HTAB_BENCH_BATCH * ops);
	}
	return NULL;
}

static void *lookup_producer(void *input)
{
	return produce(ctx.skel->progs.htab_lookup, (long)input, 1);
}

static void *update_producer(void *input)
{
	return produce(ctx.skel->progs.htab_replace, (long)input, 1);
}

static void *cycle_producer(void *input)
{
	return produce(ctx.skel->progs.htab_cycle, (long)input, 3);
}

/* MEMORY: what the map holds while elements come and go: what the machine has
 * less of free pages, and where maps are charged, what its cgroup has. That is a
 * little more, since each CPU charges some pages in advance.
 */

struct samples {
	double before; /* kB */
	double sum;
	double peak;
	long nr;
};

static struct {
	bool charged;
	struct samples free;
	struct samples cgroup;
	pthread_t sampler;
	bool stop;
} mem;

static double charged_kb(const char *cgroup)
{
	char path[128];
	long long bytes;

	snprintf(path, sizeof(path), CGROUP_WORK "%s/memory.current", cgroup);
	bytes = read_number(path, "");
	if (bytes < 0)
		die(path);
	return bytes / 1024.0;
}

static void leave_cgroup(void)
{
	if (!write_file(CGROUP_ROOT "/cgroup.procs", "0"))
		die("leaving a cgroup");
}

/* Whether there is a cgroup to ask. Maps are charged on some kernels only. */
static bool setup_cgroups(void)
{
	double before;
	int fd;

	/* may be on already, or be in use by cgroup v1 */
	if (setup_cgroup_environment())
		return false;
	atexit(cleanup_cgroup_environment);
	write_file(CGROUP_ROOT "/cgroup.subtree_control", "+memory");
	close(create_and_get_cgroup(CGROUP_MAP));
	close(create_and_get_cgroup(CGROUP_PROBE));
	if (access(CGROUP_WORK CGROUP_PROBE "/memory.current", R_OK))
		return false;
	if (join_cgroup(CGROUP_PROBE))
		exit(1);
	before = charged_kb(CGROUP_PROBE);
	fd = bpf_create_map(BPF_MAP_TYPE_ARRAY, 4, 4096, 256, 0);
	if (fd < 0)
		die("array");
	leave_cgroup();
	before = charged_kb(CGROUP_PROBE) - before;
	close(fd);
	return before >= 1024;
}

static void add_sample(struct samples *s, double kb)
{
	s->sum += kb;
	s->nr++;
	if (kb > s->peak)
		s->peak = kb;
}

static void *sampler(void *input)
{
	__u64 start = get_time_ns();
	double free, cgroup = 0;

	mem.sampler = pthread_self();
	while (!READ_ONCE(mem.stop)) {
		free = mem.free.before - free_kb();
		if (mem.charged)
			cgroup = charged_kb(CGROUP_MAP) - mem.cgroup.before;
		if (env.verbose)
			printf("Sample: %llu ms, %.0lf kB\n",
			       (unsigned long long)(get_time_ns() - start) /
			       1000000, free);
		if (READ_ONCE(ctx.iter) >= env.warmup_sec) {
			add_sample(&mem.free, free);
			add_sample(&mem.cgroup, cgroup);
		}
		usleep(20000);
	}
	return NULL;
}

/* The map alone is created in the cgroup. When the memory before is taken, there
 * is another set of the programs, with a map of a single element. Its place is
 * taken by the one that runs.
 */
static void setup_mem_map(int producers)
{
	struct htab_bench *warm;
	int fd;

	setup_libbpf();
	mem.charged = setup_cgroups();
	/* what loading and running brings once */
	warm = load_with(create_map(1));
	run_prog(warm->progs.htab_add, 0, 0, 1);
	htab_bench__destroy(warm);
	warm = load_with(create_map(1));
	mem.free.before = settled_kb();
	if (mem.charged) {
		if (join_cgroup(CGROUP_MAP))
			exit(1);
		mem.cgroup.before = charged_kb(CGROUP_MAP);
	}
	fd = create_map(max_entries(producers));
	if (mem.charged)
		leave_cgroup();
	ctx.skel = load_with(fd);
	htab_bench__destroy(warm);
}

static void setup_mem(void)
{
	setup_mem_map(env.producer_cnt);
}

static void setup_mem_filled(void)
{
	setup_mem();
	fill_map();
}

/* of a pair of producers, one has keys */
static void setup_mem_cross(void)
{
	setup_mem_map(env.producer_cnt / 2);
}

static void *mem_overwrite_producer(void *input)
{
	while (true)
		run_all(ctx.skel->progs.htab_replace, (long)input);
	return NULL;
}

static void *mem_batch_producer(void *input)
{
	while (true) {
		run_all(ctx.skel->progs.htab_add, (long)input);
		run_all(ctx.skel->progs.htab_delete, (long)input);
	}
	return NULL;
}

/* Of a pair, one producer adds keys and the other deletes them. */
static void *mem_cross_producer(void *input)
{
	long producer = (long)input, pair = producer / 2, own = pair * 2;
	int most = args.keys / HTAB_BENCH_BATCH;
	long *added = &ctx.added[pair].value;
	long *deleted = &ctx.deleted[pair].value;
	bool adds = producer == own;
	long *mine = adds ? added : deleted, there;

	while (true) {
		there = __atomic_load_n(added, __ATOMIC_ACQUIRE) -
			__atomic_load_n(deleted, __ATOMIC_ACQUIRE);
		if (there == (adds ? most : 0)) {
			sched_yield();
			continue;
		}
		run_prog(adds ? ctx.skel->progs.htab_add :
				ctx.skel->progs.htab_delete, own,
			 *mine % most * HTAB_BENCH_BATCH, 1);
		__atomic_add_fetch(mine, 1, __ATOMIC_RELEASE);
		atomic_add(&ctx.hits[producer].value, HTAB_BENCH_BATCH);
	}
	return NULL;
}

static void mem_report_final(struct bench_res res[], int res_cnt)
{
	WRITE_ONCE(mem.stop, true);
	pthread_join(mem.sampler, NULL);
	hits_drops_report_final(res, res_cnt);
	printf("Memory: average %.0lf kB, peak %.0lf kB",
	       mem.free.sum / mem.free.nr, mem.free.peak);
	if (mem.charged)
		printf(", charged: average %.0lf kB, peak %.0lf kB",
		       mem.cgroup.sum / mem.cgroup.nr, mem.cgroup.peak);
	printf("\n");
}

const struct bench bench_htab_lookup = {
	.name = "htab-lookup",
	.validate = validate,
	.setup = setup_filled_map,
	.producer_thread = lookup_producer,
	.consumer_thread = consumer,
	.measure = measure,
	.report_progress = hits_drops_report_progress,
	.report_final = hits_drops_report_final,
};

const struct bench bench_htab_update = {
	.name = "htab-update",
	.validate = validate,
	.setup = setup_filled_map,
	.producer_thread = update_producer,
	.consumer_thread = consumer,
	.measure = measure,
	.report_progress = hits_drops_report_progress,
	.report_final = hits_drops_report_final,
};

const struct bench bench_htab_cycle = {
	.name = "htab-cycle",
	.validate = validate,
	.setup = setup_map,
	.producer_thread = cycle_producer,
	.consumer_thread = consumer,
	.measure = measure,
	.report_progress = hits_drops_report_progress,
	.report_final = hits_drops_report_final,
};

const struct bench bench_htab_mem_overwrite = {
	.name = "htab-mem-overwrite",
	.validate = validate,
	.setup = setup_mem_filled,
	.producer_thread = mem_overwrite_producer,
	.consumer_thread = sampler,
	.measure = measure,
	.report_progress = hits_drops_report_progress,
	.report_final = mem_report_final,
};

const struct bench bench_htab_mem_batch = {
	.name = "htab-mem-batch",
	.validate = validate,
	.setup = setup_mem,
	.producer_thread = mem_batch_producer,
	.consumer_thread = sampler,
	.measure = measure,
	.report_progress = hits_drops_report_progress,
	.report_final = mem_report_final,
};

const struct bench bench_htab_mem_cross = {
	.name = "htab-mem-cross",
	.validate = validate_cross,
	.setup = setup_mem_cross,
	.producer_thread = mem_cross_producer,
	.consumer_thread = sampler,
	.measure = measure,
	.report_progress = hits_drops_report_progress,
	.report_final = mem_report_final,
};
