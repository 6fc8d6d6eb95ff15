// SPDX-License-Identifier: GPL-2.0-only
/*
 * Shows what programs of each kind can do with a dynamically allocated hash map
 * on the kernel that this runs on: one line for each context, tab separated, for
 * vm/demo/table to read.
 *
 *	context NAME TRIED OK EBUSY ENOMEM OTHER WRONG NOTE
 *	context NAME warned|refused|unsafe|failed|skipped MESSAGE
 *	sparse KIND KB MIN MAX NUMBER
 *	element KIND BYTES MIN MAX NUMBER
 *	speed KIND NS MIN MAX NUMBER
 *	ratio PERCENT MIN MAX NUMBER
 *	percpu-speed, percpu-ratio: the same, of a percpu hash
 *
 * What is measured is the median of NUMBER rounds; the percentage is dynamic
 * beside preallocated, round by round.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include "demo.h"
#include "demo.skel.h"
#include "file_helpers.h"

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define READ_ONCE(x)	(*(volatile typeof(x) *)&(x))

#define NR_KEYS		1024
#define NR_BATCH	8192
#define NR_NMIS		100
#define SPARSE_MAX	(1 << 20)
#define SPARSE_LIVE	1000
#define FULL		(1 << 18)

static bool base_safe;		/* do nothing that may hang the base kernel */
static bool warned;		/* the verifier calls dynamic maps unsafe */
static char warning[256];
static char log_line[256];	/* what libbpf had to say last */

static void die(const char *what)
{
	fprintf(stderr, "demo: %s: %s\n", what, strerror(errno));
	exit(1);
}

static __u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* Keep the verifier's verdict: the last line before its statistics. */
static int print_fn(enum libbpf_print_level level, const char *format,
		    va_list args)
{
	static char buf[256 * 1024];
	char *line, *next;

	if (level != LIBBPF_WARN)
		return 0;
	vsnprintf(buf, sizeof(buf), format, args);
	for (line = buf; line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		/* libbpf's own words only where the verifier says nothing */
		if (!*line || !strncmp(line, "processed ", 10) ||
		    (!strncmp(line, "libbpf: ", 8) && *log_line))
			continue;
		snprintf(log_line, sizeof(log_line), "%.255s", line);
	}
	return 0;
}

/* What the verifier says of a tracing program that uses a dynamic map. */
static void ask_verifier(void)
{
	struct bpf_insn insns[] = {
		{ .code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = BPF_REG_1,
		  .src_reg = BPF_PSEUDO_MAP_FD },
		{},
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	struct bpf_load_program_attr attr = {
		.prog_type = BPF_PROG_TYPE_KPROBE,
		.insns = insns,
		.insns_cnt = ARRAY_SIZE(insns),
		.license = "GPL",
		.log_level = 2,
	};
	static char log[16 * 1024];
	char *line;
	int map, fd;

	map = bpf_create_map(BPF_MAP_TYPE_HASH, 8, 8, 16, BPF_F_NO_PREALLOC);
	if (map < 0)
		die("map");
	insns[0].imm = map;
	fd = bpf_load_program_xattr(&attr, log, sizeof(log));
	line = strstr(log, "run-time allocated");
	if (line) {
		while (line > log && line[-1] != '\n')
			line--;
		snprintf(warning, sizeof(warning), "%.*s",
			 (int)strcspn(line, "\n"), line);
		warned = true;
	}
	close(fd);
	close(map);
}

static void fill(struct value *val, __u64 key, __u64 gen)
{
	int i;

	for (i = 0; i < 4; i++)
		val->v[i] = WORD(key, gen, i);
}

static bool holds(int fd, __u64 key, __u64 gen)
{
	struct value want, val = {};

	fill(&want, key, gen);
	return !bpf_map_lookup_elem(fd, &key, &val) &&
	       !memcmp(&val, &want, sizeof(val));
}

static __u64 count_elems(int fd)
{
	__u64 key, *prev = NULL, nr = 0;

	for (; !bpf_map_get_next_key(fd, prev, &key); prev = &key)
		nr++;
	return nr;
}

/* How far the map is from holding the even keys below @nr, and nothing else. */
static __u64 count_wrong(int fd, __u64 nr)
{
	__u64 key, wrong = 0, there = count_elems(fd);

	for (key = 0; key < nr; key += 2)
		wrong += !holds(fd, key, 1);
	return wrong + (there > (nr + 1) / 2 ? there - (nr + 1) / 2 : 0);
}

static void print_context(const char *name, const struct tally *t, __u64 wrong,
			  const char *note)
{
	printf("context\t%s\t%llu\t%llu\t%llu\t%llu\t%llu\t%llu\t%s\n", name,
	       t->tried, t->ok, t->busy, t->nomem, t->other, wrong, note);
	fflush(stdout);
}

static void print_none(const char *name, const char *how, const char *why)
{
	printf("context\t%s\t%s\t%s\n", name, how, why);
	fflush(stdout);
}

static void add(struct tally *t, int err)
{
	t->tried++;
	if (!err)
		t->ok++;
	else if (errno == EBUSY)
		t->busy++;
	else if (errno == ENOMEM)
		t->nomem++;
	else
		t->other++;
}

static void by_syscall(const char *name)
{
	struct tally t = {};
	struct value val;
	__u64 key;
	int fd;

	fd = bpf_create_map(BPF_MAP_TYPE_HASH, 8, sizeof(val), NR_KEYS,
			    BPF_F_NO_PREALLOC);
	if (fd < 0)
		die("map");
	for (key = 0; key < NR_KEYS; key++) {
		fill(&val, key, 1);
		add(&t, bpf_map_update_elem(fd, &key, &val, BPF_NOEXIST));
		if (key & 1)
			bpf_map_delete_elem(fd, &key);
	}
	print_context(name, &t, count_wrong(fd, NR_KEYS), "");
	close(fd);
}

static void by_batch(const char *name)
{
	DECLARE_LIBBPF_OPTS(bpf_map_batch_opts, opts);
	static struct value vals[NR_BATCH];
	static __u64 keys[NR_BATCH];
	__u32 i, nr = NR_BATCH;
	struct tally t = {};
	int fd, err;

	fd = bpf_create_map(BPF_MAP_TYPE_HASH, 8, sizeof(*vals), NR_BATCH,
			    BPF_F_NO_PREALLOC);
	if (fd < 0)
		die("map");
	for (i = 0; i < NR_BATCH; i++) {
		keys[i] = 2 * i;
		fill(&vals[i], keys[i], 1);
	}
	err = bpf_map_update_batch(fd, keys, vals, &nr, &opts);
	t.tried = NR_BATCH;
	t.ok = nr;
	if (err && errno == ENOMEM)
		t.nomem = NR_BATCH - nr;
	else if (err)
		t.other = NR_BATCH - nr;
	print_context(name, &t, count_wrong(fd, 2 * NR_BATCH), "");
	close(fd);
}

/* A plain nanosleep(), which glibc does not use. */
static void nap(void)
{
	struct timespec ts = { .tv_nsec = 1000 };

	syscall(__NR_nanosleep, &ts, NULL);
}

static int open_clock(void)
{
	struct perf_event_attr attr = {
		.size = sizeof(attr),
		.type = PERF_TYPE_SOFTWARE,
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.freq = 1,
		.sample_freq = 4000,
	};

	return syscall(__NR_perf_event_open, &attr, 0, -1, -1,
		       PERF_FLAG_FD_CLOEXEC);
}

/* What makes a program run once or more. */
static void do_nap(struct demo *skel)
{
	nap();
}

/* The clock ticks only while this process runs. */
static void do_spin(struct demo *skel)
{
}

static void do_exec(struct demo *skel)
{
	pid_t child = fork();

	if (!child) {
		skel->bss->pid = getpid();
		execlp("true", "true", NULL);
		_exit(1);
	}
	if (child < 0)
		die("fork");
	waitpid(child, NULL, 0);
}

static const struct context {
	const char *name;
	const char *prog;
	void (*kick)(struct demo *skel);
	int burst;		/* new keys in one run */
	bool silent;		/* the verifier does not warn of this type */
} contexts[] = {
	{ "kprobe", "in_kprobe", do_nap, 4 },
	{ "raw_tp, interrupts off", "in_raw_tp", do_nap, 16 },
	{ "perf_event, hardirq", "in_perf_event", do_spin, 4, true },
	{ "fentry.s, sleepable", "in_fentry_s", do_nap, 4, true },
	{ "lsm.s, sleepable", "in_lsm_s", do_exec, 64, true },
	{ "inner map of a hash of maps", "in_inner", do_nap, 4 },
};

static struct demo *open_with(const char *name)
{
	struct bpf_program *prog;
	struct demo *skel;

	skel = demo__open();
	if (!skel)
		die("skeleton");
	bpf_object__for_each_program(prog, skel->obj)
		bpf_program__set_autoload(prog,
					  !strcmp(bpf_program__name(prog), name));
	log_line[0] = '\0';
	return skel;
}

static struct bpf_link *attach(struct demo *skel, const char *name)
{
	struct bpf_program *prog;
	struct bpf_link *link;
	int fd;

	prog = bpf_object__find_program_by_name(skel->obj, name);
	if (!strcmp(name, "in_perf_event")) {
		fd = open_clock();
		link = bpf_program__attach_perf_event(prog, fd);
	} else if (!strcmp(name, "in_kprobe")) {
		link = bpf_program__attach_kprobe(prog, false,
						  "__x64_sys_nanosleep");
	} else {
		link = bpf_program__attach(prog);
	}
	return libbpf_get_error(link) ? NULL : link;
}

static void by_program(const struct context *c)
{
	__u64 end, wrong;
	struct bpf_link *link;
	struct demo *skel;
	int fd;

	if (warned && base_safe && !c->silent) {
		print_none(c->name, "warned", warning);
		return;
	}
	skel = open_with(c->prog);
	if (demo__load(skel)) {
		print_none(c->name, "refused", log_line);
		goto out;
	}
	link = attach(skel, c->prog);
	if (!link) {
		print_none(c->name, "failed", log_line);
		goto out;
	}
	skel->bss->burst = c->burst;
	skel->bss->wanted = NR_KEYS;
	skel->bss->pid = getpid();
	end = now_ns() + 5000000000ULL;
	while (READ_ONCE(skel->bss->done) < NR_KEYS && now_ns() < end)
		c->kick(skel);
	skel->bss->pid = 0;
	bpf_link__destroy(link);
	fd = bpf_map__fd(strcmp(c->prog, "in_inner") ? skel->maps.map :
						       skel->maps.inner);
	wrong = count_wrong(fd, skel->bss->done);
	print_context(c->name, &skel->bss->updates, wrong, "");
out:
	demo__destroy(skel);
}

/* After programs that interrupt updates: the keys of the CPUs, the hot key. */
static __u64 count_wrong_own(struct demo *skel)
{
	int fd = bpf_map__fd(skel->maps.map), cpu, i;
	__u64 wrong = 0, there = 0, gen;

	for (cpu = 0; cpu < MAX_CPUS; cpu++)
		for (i = 0; i < OWN_KEYS; i++) {
			gen = skel->bss->own_gen[cpu][i];
			if (!gen)
				continue;
			there++;
			wrong += !holds(fd, OWN_KEY + cpu * OWN_KEYS + i, gen);
		}
	wrong += !holds(fd, HOT_KEY, 1) && !holds(fd, HOT_KEY, 2);
	there++;
	return wrong + (count_elems(fd) != there);
}

static int set_hot(struct demo *skel)
{
	struct value val;
	__u64 key = HOT_KEY;

	fill(&val, key, 1);
	return bpf_map_update_elem(bpf_map__fd(skel->maps.map), &key, &val,
				   BPF_ANY);
}

/* On the first of these that the kernel has as a function to be traced. */
static void by_fentry(const char *name)
{
	static const char *const funcs[] = {
		"alloc_htab_elem", "lookup_elem_raw", "free_htab_elem",
		"htab_map_update_elem",
	};
	struct bpf_link *link = NULL;
	struct demo *skel = NULL;
	char note[64];
	int i, j, err;

	if (warned && base_safe) {
		print_none(name, "unsafe",
			   "passes, then hangs the machine: it waits for the bucket lock that the update below it holds");
		return;
	}
	for (i = 0; i < ARRAY_SIZE(funcs); i++) {
		skel = open_with("in_fentry");
		err = bpf_program__set_attach_target(skel->progs.in_fentry, 0,
						     funcs[i]);
		if (!err && !demo__load(skel) &&
		    (link = attach(skel, "in_fentry"))) {
			skel->bss->pid = getpid();
			for (j = 0; j < NR_KEYS; j++)
				set_hot(skel);
			skel->bss->pid = 0;
			bpf_link__destroy(link);
			if (skel->bss->runs)
				break;
		}
		demo__destroy(skel);
		skel = NULL;
	}
	if (!skel) {
		print_none(name, "skipped", "no function to attach to");
		return;
	}
	snprintf(note, sizeof(note), "on %s()", funcs[i]);
	print_context(name, &skel->bss->updates, count_wrong_own(skel), note);
	demo__destroy(skel);
}

struct hammer {
	struct demo *skel;
	int cpu;
	bool stop;
	__u64 fails;
};

static void *hammer(void *arg)
{
	struct hammer *h = arg;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(h->cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
	while (!READ_ONCE(h->stop))
		h->fails += !!set_hot(h->skel);
	return NULL;
}

static void swap_line(const char *path, const char *line, char *old, int len)
{
	int fd = open(path, O_RDWR), n;

	if (fd < 0)
		return;
	n = old ? read(fd, old, len - 1) : 0;
	if (n > 0)
		old[n] = '\0';
	if (pwrite(fd, line, strlen(line), 0) < 0)
		perror(path);
	close(fd);
}

/* sysrq l sends an NMI to each other CPU; keep its output from the console. */
static void send_nmis(__u64 *runs)
{
	static const char ignore[] =
		"/sys/module/printk/parameters/ignore_loglevel";
	static const char printk[] = "/proc/sys/kernel/printk";
	char old_ignore[8] = "N", old_printk[64] = "7";
	__u64 end = now_ns() + 5000000000ULL;
	int fd;

	swap_line(ignore, "N", old_ignore, sizeof(old_ignore));
	swap_line(printk, "1", old_printk, sizeof(old_printk));
	fd = open("/proc/sysrq-trigger", O_WRONLY);
	while (fd >= 0 && READ_ONCE(*runs) < NR_NMIS && now_ns() < end) {
		if (write(fd, "l", 1) != 1)
			break;
		/*
		 * Out of the NMI, the CPUs have yet to print; let them do so
		 * before the next sysrq, which itself goes to the console.
		 */
		usleep(5000);
	}
	close(fd);
	usleep(100000);
	swap_line(printk, old_printk, NULL, 0);
	swap_line(ignore, old_ignore, NULL, 0);
}

static void by_nmi(const char *name)
{
	struct hammer h[MAX_CPUS] = {};
	pthread_t threads[MAX_CPUS];
	struct bpf_link *link;
	struct demo *skel;
	int i, nr = 0;
	__u64 wrong;
	cpu_set_t set;

	if (warned && base_safe) {
		print_none(name, "warned", warning);
		return;
	}
	if (sched_getaffinity(0, sizeof(set), &set))
		die("affinity");
	if (CPU_COUNT(&set) < 2) {
		print_none(name, "skipped",
			   "needs a second CPU, to send NMIs from");
		return;
	}
	skel = open_with("in_nmi");
	if (demo__load(skel)) {
		print_none(name, "refused", log_line);
		goto out;
	}
	link = attach(skel, "in_nmi");
	if (!link) {
		print_none(name, "failed", log_line);
		goto out;
	}
	set_hot(skel);
	for (i = 0; i < MAX_CPUS; i++) {
		if (!CPU_ISSET(i, &set))
			continue;
		h[nr].skel = skel;
		h[nr].cpu = i;
		if (pthread_create(&threads[nr], NULL, hammer, &h[nr]))
			die("thread");
		nr++;
	}
	skel->bss->pid = getpid();
	send_nmis(&skel->bss->runs);
	skel->bss->pid = 0;
	bpf_link__destroy(link);
	wrong = 0;
	while (nr--) {
		h[nr].stop = true;
		pthread_join(threads[nr], NULL);
		wrong += h[nr].fails;
	}
	wrong += count_wrong_own(skel);
	print_context(name, &skel->bss->updates, wrong,
		      "while all CPUs update the same key");
out:
	demo__destroy(skel);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void print_median(const char *what, double *v, int nr)
{
	qsort(v, nr, sizeof(*v), compare);
	printf("%s\t%.0f\t%.0f\t%.0f\t%d\n", what, v[nr / 2], v[0],
	       v[nr - 1], nr);
	fflush(stdout);
}

/* kB that a map takes with its first @live elements in it */
static double map_kb(__u32 max_entries, __u32 live, __u32 flags)
{
	__u64 key, val = 1;
	double before, kb;
	int fd;

	before = settled_kb();
	fd = bpf_create_map(BPF_MAP_TYPE_HASH, sizeof(key), sizeof(val),
			    max_entries, flags);
	if (fd < 0)
		die("map");
	for (key = 0; key < live; key++)
		if (bpf_map_update_elem(fd, &key, &val, BPF_NOEXIST))
			die("update");
	kb = before - settled_kb();
	close(fd);
	return kb;
}

static void measure_memory(void)
{
	double dynamic[5], prealloc[5];
	int i;

	for (i = 0; i < ARRAY_SIZE(dynamic); i++) {
		prealloc[i] = map_kb(SPARSE_MAX, SPARSE_LIVE, 0);
		dynamic[i] = map_kb(SPARSE_MAX, SPARSE_LIVE, BPF_F_NO_PREALLOC);
	}
	print_median("sparse\tpreallocated", prealloc, i);
	print_median("sparse\tdynamic", dynamic, i);
	for (i = 0; i < ARRAY_SIZE(dynamic); i++) {
		prealloc[i] = map_kb(FULL, FULL, 0) * 1024 / FULL;
		dynamic[i] = map_kb(FULL, FULL, BPF_F_NO_PREALLOC) * 1024 / FULL;
	}
	print_median("element\tpreallocated", prealloc, i);
	print_median("element\tdynamic", dynamic, i);
}

/* The root cgroup is charged for nothing, and so shows no cost of that. */
static void enter_cgroup(void)
{
	int fd;

	if (mkdir("/sys/fs/cgroup/demo", 0755) && errno != EEXIST)
		die("cgroup");
	fd = open("/sys/fs/cgroup/demo/cgroup.procs", O_WRONLY);
	if (fd < 0 || write(fd, "0", 1) != 1)
		die("cgroup");
	close(fd);
}

/* ns for one update, lookup and delete in a program */
static double rounds_ns(int prog)
{
	char packet[64] = {};
	struct bpf_prog_test_run_attr attr = {
		.prog_fd = prog,
		.repeat = 200,
		.data_in = packet,
		.data_size_in = sizeof(packet),
	};

	if (bpf_prog_test_run_xattr(&attr))
		die("test run");
	if (attr.retval) {
		fprintf(stderr, "demo: an operation failed (%u)\n",
			attr.retval);
		exit(1);
	}
	return (double)attr.duration / SPEED_KEYS;
}

static void measure_speed(const char *kind, const char *dynamic_prog,
			  const char *prealloc_prog)
{
	double dynamic[31], prealloc[31], ratio[31];
	struct bpf_program *prog;
	struct demo *skel;
	char what[64];
	int i, dyn, pre;

	skel = open_with(dynamic_prog);
	prog = bpf_object__find_program_by_name(skel->obj, prealloc_prog);
	bpf_program__set_autoload(prog, true);
	if (demo__load(skel)) {
		fprintf(stderr, "demo: speed: %s\n", log_line);
		exit(1);
	}
	pre = bpf_program__fd(prog);
	prog = bpf_object__find_program_by_name(skel->obj, dynamic_prog);
	dyn = bpf_program__fd(prog);
	/* once to warm up; then in turns, first one, then the other */
	rounds_ns(dyn);
	rounds_ns(pre);
	for (i = 0; i < ARRAY_SIZE(ratio); i++) {
		if (i & 1)
			dynamic[i] = rounds_ns(dyn);
		prealloc[i] = rounds_ns(pre);
		if (!(i & 1))
			dynamic[i] = rounds_ns(dyn);
		ratio[i] = 100 * prealloc[i] / dynamic[i];
	}
	snprintf(what, sizeof(what), "%sspeed\tpreallocated", kind);
	print_median(what, prealloc, i);
	snprintf(what, sizeof(what), "%sspeed\tdynamic", kind);
	print_median(what, dynamic, i);
	snprintf(what, sizeof(what), "%sratio", kind);
	print_median(what, ratio, i);
	demo__destroy(skel);
}

int main(int argc, char *argv[])
{
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	struct utsname uts;
	int i;

	if (argc == 2 && !strcmp(argv[1], "--base-safe")) {
		base_safe = true;
	} else if (argc != 1) {
		fprintf(stderr,
			"usage: demo [--base-safe]\n\n"
			"--base-safe: on a kernel that calls dynamic maps unsafe, do not run what may hang it\n");
		return 2;
	}
	if (setrlimit(RLIMIT_MEMLOCK, &unlimited))
		die("RLIMIT_MEMLOCK (are you root?)");
	libbpf_set_print(print_fn);
	uname(&uts);
	printf("kernel\t%s\t%ld CPUs\n", uts.release,
	       sysconf(_SC_NPROCESSORS_ONLN));
	ask_verifier();

	by_syscall("syscall");
	by_batch("syscall, batch of 8192");
	for (i = 0; i < 3; i++)
		by_program(&contexts[i]);
	by_nmi("NMI");
	by_fentry("fentry, in the update itself");
	for (; i < ARRAY_SIZE(contexts); i++)
		by_program(&contexts[i]);
	enter_cgroup();
	measure_memory();
	measure_speed("", "run_dynamic", "run_prealloc");
	measure_speed("percpu-", "run_percpu_dynamic", "run_percpu_prealloc");
	return 0;
}
