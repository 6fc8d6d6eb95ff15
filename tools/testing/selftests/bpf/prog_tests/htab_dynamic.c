// SPDX-License-Identifier: GPL-2.0
/* Hash maps whose elements are allocated as they come (BPF_F_NO_PREALLOC),
 * used by programs of every kind and in every context. Each subtest checks what
 * the map holds in the end.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <linux/compiler.h>
#include <test_progs.h>
#include "progs/htab_dynamic.h"
#include "htab_helpers.h"
#include "htab_dynamic.skel.h"

#define NR_STEPS	256
#define NR_BATCH	8192
#define NR_HOT		4
#define NR_NMIS		1000
#define HOT_GENS	0x6	/* what a hot key may hold: generation 1 or 2 */
#define HOT_BASE	0x100000000ULL
#define SLOT_BASE	0x200000000ULL
#define THREAD_BASE	0x300000000ULL

static int duration;

/* A plain nanosleep(), which glibc does not use. */
static void nap(void)
{
	struct timespec ts = { .tv_nsec = 1000 };

	syscall(__NR_nanosleep, &ts, NULL);
}

static bool holds(int fd, __u64 key, __u64 gen)
{
	struct htab_val want, val = {};

	fill(&want, key, gen);
	return !bpf_map_lookup_elem(fd, &key, &val) &&
	       !memcmp(&val, &want, sizeof(val));
}

static bool lacks(int fd, __u64 key)
{
	struct htab_val val;

	return bpf_map_lookup_elem(fd, &key, &val) && errno == ENOENT;
}

static int set_elem(int fd, __u64 key, __u64 gen, __u64 flags)
{
	struct htab_val val;

	fill(&val, key, gen);
	return bpf_map_update_elem(fd, &key, &val, flags) ? -errno : 0;
}

static int create(__u32 value_size, __u32 max_entries, __u32 flags)
{
	return bpf_create_map(BPF_MAP_TYPE_HASH, sizeof(__u64), value_size,
			      max_entries, BPF_F_NO_PREALLOC | flags);
}

/* Without help from the verifier's log nobody would know: it takes a program
 * that uses a dynamic map, but says that it is unsafe, and then it is. Go no
 * further there, the machine might hang.
 */
static bool verifier_warns(enum bpf_prog_type type)
{
	struct bpf_insn insns[] = {
		BPF_LD_MAP_FD(BPF_REG_1, 0),
		BPF_MOV64_IMM(BPF_REG_0, 0),
		BPF_EXIT_INSN(),
	};
	struct bpf_load_program_attr attr = {
		.prog_type = type,
		.insns = insns,
		.insns_cnt = ARRAY_SIZE(insns),
		.license = "GPL",
		.log_level = 2,	/* 1 keeps nothing when the program passes */
	};
	const char *kind = type == BPF_PROG_TYPE_KPROBE ? "kprobe" : "raw_tp";
	static char log[4096];
	bool bad = true;
	int map, fd;
	char *line;

	map = create(8, 16, 0);
	if (CHECK(map < 0, "create", "map: errno %d\n", errno))
		return true;
	insns[0].imm = map;
	log[0] = '\0';
	fd = bpf_load_program_xattr(&attr, log, sizeof(log));
	line = strstr(log, "preallocated") ? : log;
	while (line > log && line[-1] != '\n')
		line--;
	line[strcspn(line, "\n")] = '\0';
	if (CHECK(fd < 0, "load", "%s refused, expected to pass: %s\n",
		  kind, line))
		goto out;
	if (CHECK(strstr(line, "preallocated"), "load",
		  "%s passes with a warning, expected none: %s\n", kind, line))
		goto out;
	bad = false;
out:
	if (fd >= 0)
		close(fd);
	close(map);
	return bad;
}

/* Open the object, with all programs left out but the named ones. */
#define OPEN_WITH(progs...) ({						\
	const char *const ___names[] = { progs };			\
	dyn_open(___names, ARRAY_SIZE(___names));			\
})

static struct htab_dynamic *dyn_open(const char *const names[], int nr)
{
	struct htab_dynamic *skel = htab_dynamic__open();

	if (CHECK(!skel, "open", "skeleton failed to open\n"))
		return NULL;
	autoload_only(skel->obj, names, nr);
	return skel;
}

static bool dyn_load(struct htab_dynamic *skel)
{
	int err = htab_dynamic__load(skel);

	return !CHECK(err, "load", "refused (%d), expected to pass\n", err);
}

/* Attach the one program whose section says where to. */
static struct bpf_link *dyn_attach(struct bpf_program *prog)
{
	struct bpf_link *link = bpf_program__attach(prog);

	if (CHECK(IS_ERR(link), "attach", "err %ld\n", PTR_ERR(link)))
		return NULL;
	return link;
}

static void check_count(const char *what, const struct htab_count *c,
			__u64 tries)
{
	CHECK(c->tries != tries, what, "%llu tried, expected %llu\n",
	      c->tries, tries);
	CHECK(c->ok != tries, what,
	      "%llu of %llu succeeded (-EBUSY %llu, -ENOMEM %llu, other %llu), expected all\n",
	      c->ok, c->tries, c->busy, c->nomem, c->other);
}

/* What a program that went @nr times through step() must have left. */
static void check_steps(struct htab_dynamic *skel, int fd, __u64 nr)
{
	int bad = 0, n;
	__u64 key;

	CHECK(skel->bss->steps != nr, "steps", "%llu ran, expected %llu\n",
	      skel->bss->steps, nr);
	check_count("updates", &skel->bss->updates, 2 * nr);
	check_count("deletes", &skel->bss->deletes, nr / 2);
	CHECK(skel->bss->wrong, "lookup", "%llu in the program went wrong\n",
	      skel->bss->wrong);
	for (key = 0; key < nr; key++)
		bad += key & 1 ? !lacks(fd, key) : !holds(fd, key, 2);
	CHECK(bad, "contents", "%d of %llu keys wrong\n", bad, nr);
	n = nr_elems(fd);
	CHECK(n != (nr + 1) / 2, "contents", "%d elements, expected %llu\n",
	      n, (nr + 1) / 2);
}

static void test_syscall(void)
{
	int fd, i, err, bad = 0, fails = 0;

	fd = create(sizeof(struct htab_val), NR_STEPS, 0);
	if (CHECK(fd < 0, "create", "errno %d\n", errno))
		return;
	for (i = 0; i < NR_STEPS; i++) {
		fails += !!set_elem(fd, i, 1, BPF_NOEXIST);
		bad += !holds(fd, i, 1);
		err = set_elem(fd, i, 3, BPF_NOEXIST);
		CHECK(err != -EEXIST, "noexist", "%d, expected -EEXIST\n", err);
		fails += !!set_elem(fd, i, 2, BPF_EXIST);
		bad += !holds(fd, i, 2);
	}
	for (i = 1; i < NR_STEPS; i += 2) {
		__u64 key = i;

		fails += !!bpf_map_delete_elem(fd, &key);
		bad += !lacks(fd, i);
		err = set_elem(fd, i, 3, BPF_EXIST);
		CHECK(err != -ENOENT, "exist", "%d, expected -ENOENT\n", err);
		err = bpf_map_delete_elem(fd, &key) ? -errno : 0;
		CHECK(err != -ENOENT, "delete", "%d, expected -ENOENT\n", err);
	}
	CHECK(fails, "fails", "%d operations failed\n", fails);
	for (i = 0; i < NR_STEPS; i++)
		bad += i & 1 ? !lacks(fd, i) : !holds(fd, i, 2);
	CHECK(bad, "contents", "%d lookups went wrong\n", bad);
	i = nr_elems(fd);
	CHECK(i != NR_STEPS / 2, "contents", "%d elements, expected %d\n",
	      i, NR_STEPS / 2);
	close(fd);
}

static void test_batch(void)
{
	DECLARE_LIBBPF_OPTS(bpf_map_batch_opts, opts);
	struct htab_val *vals = NULL;
	__u32 token, nr = NR_BATCH;
	__u64 *keys = NULL;
	int fd, i, err, bad = 0;

	fd = create(sizeof(*vals), NR_BATCH, 0);
	if (CHECK(fd < 0, "create", "errno %d\n", errno))
		return;
	keys = calloc(NR_BATCH, sizeof(*keys));
	vals = calloc(NR_BATCH, sizeof(*vals));
	if (CHECK(!keys || !vals, "calloc", "out of memory\n"))
		goto out;

	for (i = 0; i < NR_BATCH; i++) {
		keys[i] = i;
		fill(&vals[i], i, 1);
	}
	err = bpf_map_update_batch(fd, keys, vals, &nr, &opts);
	if (CHECK(err || nr != NR_BATCH, "update_batch",
		  "stopped after %u of %d, errno %d\n", nr, NR_BATCH, errno))
		goto out;
	nr = NR_BATCH / 2;
	err = bpf_map_delete_batch(fd, keys, &nr, &opts);
	CHECK(err || nr != NR_BATCH / 2, "delete_batch",
	      "stopped after %u of %d, errno %d\n", nr, NR_BATCH / 2, errno);

	memset(keys, 0, NR_BATCH * sizeof(*keys));
	memset(vals, 0, NR_BATCH * sizeof(*vals));
	nr = NR_BATCH;
	err = bpf_map_lookup_batch(fd, NULL, &token, keys, vals, &nr, &opts);
	CHECK((err && errno != ENOENT) || nr != NR_BATCH / 2, "lookup_batch",
	      "%u elements (errno %d), expected %d\n", nr, errno, NR_BATCH / 2);
	for (i = 0; i < NR_BATCH / 2; i++)
		bad += !lacks(fd, i);
	for (; i < NR_BATCH; i++)
		bad += !holds(fd, i, 1);
	for (i = 0; i < nr; i++) {
		struct htab_val want;

		fill(&want, keys[i], 1);
		bad += keys[i] < NR_BATCH / 2 ||
		       memcmp(&want, &vals[i], sizeof(want));
	}
	CHECK(bad, "contents", "%d lookups went wrong\n", bad);
out:
	free(keys);
	free(vals);
	close(fd);
}

/* max_entries holds exactly: not one more, not one less, on whatever CPU. */
static void test_max_entries(void)
{
	/* few for one counter, many for one that is spread over the CPUs */
	static const int sizes[] = { 1, 7, 64, 16384 };
	int cpus[MAX_CPUS], nr_cpus, n, fd, i, max, err, fails, bad;
	cpu_set_t old;
	__u64 key;

	sched_getaffinity(0, sizeof(old), &old);
	nr_cpus = list_cpus(cpus, MAX_CPUS);
	for (n = 0; n < ARRAY_SIZE(sizes); n++) {
		max = sizes[n];
		fails = 0;
		bad = 0;
		fd = create(sizeof(struct htab_val), max, 0);
		if (CHECK(fd < 0, "create", "errno %d\n", errno))
			break;
		for (i = 0; i < max; i++) {
			if (i % 64 == 0)
				pin(cpus[i / 64 % nr_cpus]);
			fails += !!set_elem(fd, i, 1, BPF_NOEXIST);
		}
		CHECK(fails, "fill", "%d of %d failed\n", fails, max);
		for (i = 0; i < nr_cpus; i++) {
			pin(cpus[i]);
			err = set_elem(fd, max, 1, BPF_ANY);
			CHECK(err != -E2BIG, "full",
			      "update %d of %d: %d, expected -E2BIG\n",
			      max + 1, max, err);
			key = i % max;
			err = set_elem(fd, key, 2, BPF_EXIST);
			CHECK(err, "replace", "in the full map: %d\n", err);
			err = bpf_map_delete_elem(fd, &key);
			CHECK(err, "delete", "errno %d\n", errno);
			pin(cpus[(i + 1) % nr_cpus]);
			err = set_elem(fd, key, 2, BPF_NOEXIST);
			CHECK(err, "refill", "the place of one deleted: %d\n",
			      err);
			err = set_elem(fd, max, 1, BPF_ANY);
			CHECK(err != -E2BIG, "full", "%d, expected -E2BIG\n",
			      err);
		}
		for (i = 0; i < max; i++)
			bad += !holds(fd, i, i < nr_cpus ? 2 : 1);
		bad += !lacks(fd, max);
		CHECK(bad, "contents", "%d of %d keys wrong\n", bad, max);
		i = nr_elems(fd);
		CHECK(i != max, "contents", "%d elements, expected %d\n",
		      i, max);
		close(fd);
	}
	sched_setaffinity(0, sizeof(old), &old);
}

struct filler {
	pthread_t thread;
	int fd, cpu, max, ok, full, other;
	__u64 first;
};

static void *filler(void *arg)
{
	struct filler *f = arg;
	int i, err;

	pin(f->cpu);
	for (i = 0; i < f->max; i++) {
		err = set_elem(f->fd, f->first + i, 1, BPF_NOEXIST);
		if (!err)
			f->ok++;
		else if (err == -E2BIG)
			f->full++;
		else
			f->other++;
	}
	return NULL;
}

/* All CPUs race for the last places of a map. */
static void test_max_entries_race(void)
{
	static const int sizes[] = { 100, 6000 };
	struct filler f[MAX_CPUS] = {};
	int cpus[MAX_CPUS], nr_cpus, n, fd, i, max, ok, err;

	nr_cpus = list_cpus(cpus, MAX_CPUS);
	for (n = 0; n < ARRAY_SIZE(sizes); n++) {
		max = sizes[n];
		ok = 0;
		fd = create(sizeof(struct htab_val), max, 0);
		if (CHECK(fd < 0, "create", "errno %d\n", errno))
			break;
		for (i = 0; i < nr_cpus; i++) {
			memset(&f[i], 0, sizeof(f[i]));
			f[i].fd = fd;
			f[i].cpu = cpus[i];
			f[i].max = max;
			f[i].first = THREAD_BASE * (i + 1);
			err = pthread_create(&f[i].thread, NULL, filler, &f[i]);
			if (CHECK(err, "pthread_create", "err %d\n", err))
				break;
		}
		while (i--) {
			pthread_join(f[i].thread, NULL);
			ok += f[i].ok;
			CHECK(f[i].other, "update",
			      "%d failed with neither 0 nor -E2BIG\n",
			      f[i].other);
		}
		CHECK(ok != max, "updates", "%d succeeded, expected %d\n",
		      ok, max);
		i = nr_elems(fd);
		CHECK(i != max, "contents", "%d elements, expected %d\n",
		      i, max);
		close(fd);
	}
}

static void test_kprobe(void)
{
	struct htab_dynamic *skel;
	struct bpf_link *link;
	int i;

	if (verifier_warns(BPF_PROG_TYPE_KPROBE))
		return;
	skel = OPEN_WITH("step_kprobe");
	if (!skel)
		return;
	if (!dyn_load(skel))
		goto out;
	link = bpf_program__attach_kprobe(skel->progs.step_kprobe, false,
					  SYS_NANOSLEEP_KPROBE_NAME);
	if (CHECK(IS_ERR(link), "attach", "err %ld\n", PTR_ERR(link)))
		goto out;
	skel->links.step_kprobe = link;
	skel->bss->max_steps = NR_STEPS;
	skel->bss->pid = getpid();
	for (i = 0; i < NR_STEPS; i++)
		nap();
	skel->bss->pid = 0;
	check_steps(skel, bpf_map__fd(skel->maps.dyn), NR_STEPS);
out:
	htab_dynamic__destroy(skel);
}

/* Sleep until the program at sched_switch has counted that far. One sleep need not
 * do: a timer that is early leaves nothing to sleep, or to switch, for.
 */
static void switch_until(__u64 *count, __u64 value)
{
	__u64 end = now_ms() + 10000;

	while (READ_ONCE(*count) < value && now_ms() < end)
		nap();
}

static void test_irqoff(void)
{
	struct htab_dynamic *skel;
	int err;

	if (verifier_warns(BPF_PROG_TYPE_RAW_TRACEPOINT))
		return;
	skel = OPEN_WITH("step_irqoff");
	if (!skel)
		return;
	if (!dyn_load(skel))
		goto out;
	skel->bss->max_steps = NR_STEPS;
	err = htab_dynamic__attach(skel);
	if (CHECK(err, "attach", "err %d\n", err))
		goto out;
	skel->bss->pid = getpid();
	switch_until(&skel->bss->steps, NR_STEPS);
	skel->bss->pid = 0;
	check_steps(skel, bpf_map__fd(skel->maps.dyn), NR_STEPS);
out:
	htab_dynamic__destroy(skel);
}

/* 16 new keys at once, interrupts off, as the first thing a map ever sees. */
static void test_irqoff_burst(void)
{
	struct htab_dynamic *skel;
	int err, fd, i, bad = 0;

	if (verifier_warns(BPF_PROG_TYPE_RAW_TRACEPOINT))
		return;
	skel = OPEN_WITH("burst_irqoff");
	if (!skel)
		return;
	if (!dyn_load(skel))
		goto out;
	err = htab_dynamic__attach(skel);
	if (CHECK(err, "attach", "err %d\n", err))
		goto out;
	fd = bpf_map__fd(skel->maps.dyn);
	skel->bss->pid = getpid();
	skel->bss->burst = 16;
	switch_until(&skel->bss->updates.tries, 16);
	check_count("burst", &skel->bss->updates, 16);
	for (i = 0; i < 16; i++)
		bad += !holds(fd, i, 1);
	CHECK(bad, "contents", "%d of 16 keys wrong\n", bad);
	i = nr_elems(fd);
	CHECK(i != 16, "contents", "%d elements, expected 16\n", i);
out:
	htab_dynamic__destroy(skel);
}

/* The clock's hrtimer runs the program in hardirq. */
static void test_perf_event(void)
{
	struct htab_dynamic *skel;
	struct bpf_link *link;
	__u64 end;
	int pfd;

	skel = OPEN_WITH("step_perf_event");
	if (!skel)
		return;
	if (!dyn_load(skel))
		goto out;
	skel->bss->max_steps = NR_STEPS;
	pfd = open_clock(0, -1, 4000);
	if (CHECK(pfd < 0, "perf_event_open", "errno %d\n", errno))
		goto out;
	link = bpf_program__attach_perf_event(skel->progs.step_perf_event, pfd);
	if (CHECK(IS_ERR(link), "attach", "err %ld\n", PTR_ERR(link))) {
		close(pfd);
		goto out;
	}
	skel->links.step_perf_event = link;
	skel->bss->pid = getpid();
	end = now_ms() + 10000;
	while (READ_ONCE(skel->bss->steps) < NR_STEPS &&
	       now_ms() < end)
		;
	skel->bss->pid = 0;
	check_steps(skel, bpf_map__fd(skel->maps.dyn), NR_STEPS);
out:
	htab_dynamic__destroy(skel);
}

static void test_fentry_s(void)
{
	struct htab_dynamic *skel;
	int err, i;

	if (!can_attach_fentry())
		return;
	skel = OPEN_WITH("step_fentry_s");
	if (!skel)
		return;
	if (!dyn_load(skel))
		goto out;
	skel->bss->max_steps = NR_STEPS;
	err = htab_dynamic__attach(skel);
	if (CHECK(err, "attach", "err %d\n", err))
		goto out;
	skel->bss->pid = getpid();
	for (i = 0; i < NR_STEPS; i++)
		nap();
	skel->bss->pid = 0;
	check_steps(skel, bpf_map__fd(skel->maps.dyn), NR_STEPS);
out:
	htab_dynamic__destroy(skel);
}

static void test_lsm_s(void)
{
	struct htab_dynamic *skel;
	int err, i, status;
	pid_t child;

	if (!can_attach_fentry())
		return;
	skel = OPEN_WITH("step_lsm_s");
	if (!skel)
		return;
	if (!dyn_load(skel))
		goto out;
	skel->bss->max_steps = NR_STEPS;
	err = htab_dynamic__attach(skel);
	if (CHECK(err, "attach", "err %d\n", err))
		goto out;
	for (i = 0; i < NR_STEPS / STEPS_PER_EXEC; i++) {
		child = fork();
		if (!child) {
			skel->bss->pid = getpid();
			execlp("true", "true", NULL);
			_exit(1);
		}
		if (CHECK(child < 0, "fork", "errno %d\n", errno))
			goto out;
		waitpid(child, &status, 0);
		if (CHECK(status, "exec", "status %d\n", status))
			goto out;
	}
	skel->bss->pid = 0;
	check_steps(skel, bpf_map__fd(skel->maps.dyn), NR_STEPS);
out:
	htab_dynamic__destroy(skel);
}

/* A dynamic map in a dynamic map of maps, written by a program. */
static void test_inner(void)
{
	struct htab_dynamic *skel;
	__u32 zero = 0;
	int err, fd;

	if (verifier_warns(BPF_PROG_TYPE_RAW_TRACEPOINT))
		return;
	skel = OPEN_WITH("inner_irqoff");
	if (!skel)
		return;
	if (!dyn_load(skel))
		goto out;
	fd = bpf_map__fd(skel->maps.inner);
	skel->bss->max_steps = NR_STEPS;
	err = htab_dynamic__attach(skel);
	if (CHECK(err, "attach", "err %d\n", err))
		goto out;
	skel->bss->pid = getpid();
	switch_until(&skel->bss->steps, NR_STEPS);
	check_steps(skel, fd, NR_STEPS);
	CHECK(skel->bss->absent, "outer", "%llu times no inner map\n",
	      skel->bss->absent);

	/* the outer map's own elements come and go as well */
	err = bpf_map_delete_elem(bpf_map__fd(skel->maps.outer), &zero);
	CHECK(err, "outer", "delete: errno %d\n", errno);
	skel->bss->max_steps++;
	switch_until(&skel->bss->absent, 1);
	CHECK(!skel->bss->absent || skel->bss->steps != NR_STEPS, "outer",
	      "the program still finds the inner map\n");
	err = bpf_map_update_elem(bpf_map__fd(skel->maps.outer), &zero, &fd,
				  BPF_NOEXIST);
	CHECK(err, "outer", "update: errno %d\n", errno);
	switch_until(&skel->bss->steps, NR_STEPS + 1);
	skel->bss->pid = 0;
	check_steps(skel, fd, NR_STEPS + 1);
out:
	htab_dynamic__destroy(skel);
}

struct napper {
	pthread_t thread;
	int cpu;
	bool *stop;
};

static void *napper(void *arg)
{
	struct napper *n = arg;

	pin(n->cpu);
	while (!READ_ONCE(*n->stop))
		nap();
	return NULL;
}

/* Inner maps are replaced and freed while programs write to them. */
static void test_free_busy(void)
{
	int cpus[MAX_CPUS], nr_cpus, nr_threads = 0, fd = -1, err, i, bad = 0;
	struct napper n[MAX_CPUS];
	struct htab_dynamic *skel;
	bool stop = false;
	__u64 key, *prev = NULL;
	__u64 end, before = 0;
	__u32 zero = 0;
	int unused = 0;

	if (verifier_warns(BPF_PROG_TYPE_RAW_TRACEPOINT))
		return;
	skel = OPEN_WITH("inner_any_irqoff");
	if (!skel)
		return;
	if (!dyn_load(skel))
		goto out;
	nr_cpus = list_cpus(cpus, MAX_CPUS);
	err = htab_dynamic__attach(skel);
	if (CHECK(err, "attach", "err %d\n", err))
		goto out;
	skel->bss->pid = getpid();
	for (i = 0; i < nr_cpus; i++) {
		n[i].cpu = cpus[i];
		n[i].stop = &stop;
		err = pthread_create(&n[i].thread, NULL, napper, &n[i]);
		if (CHECK(err, "pthread_create", "err %d\n", err))
			break;
		nr_threads++;
	}
	for (i = 0; i < 32; i++) {
		if (fd >= 0)
			close(fd);
		fd = create(sizeof(struct htab_val), 1024, 0);
		if (CHECK(fd < 0, "create", "errno %d\n", errno))
			break;
		/* the outer map alone holds the one before */
		err = bpf_map_update_elem(bpf_map__fd(skel->maps.outer), &zero,
					  &fd, BPF_ANY);
		if (CHECK(err, "outer", "update: errno %d\n", errno))
			break;
		before = READ_ONCE(skel->bss->updates.tries);
		end = now_ms() + 1000;
		while (READ_ONCE(skel->bss->updates.tries) < before + 16 && now_ms() < end)
			usleep(500);
		unused += skel->bss->updates.tries < before + 16;
	}
	WRITE_ONCE(stop, true);
	while (nr_threads--)
		pthread_join(n[nr_threads].thread, NULL);
	skel->bss->pid = 0;
	CHECK(unused, "busy", "%d of 32 maps hardly written to\n", unused);
	CHECK(skel->bss->absent, "outer", "%llu times no inner map\n",
	      skel->bss->absent);
	check_count("updates", &skel->bss->updates, skel->bss->updates.tries);
	i = 0;
	while (!bpf_map_get_next_key(fd, prev, &key)) {
		bad += !holds(fd, key, 1);
		prev = &key;
		i++;
	}
	CHECK(bad || i > nr_cpus * SLOTS_PER_CPU, "contents",
	      "%d of %d elements wrong\n", bad, i);
out:
	if (fd >= 0)
		close(fd);
	htab_dynamic__destroy(skel);
}

#define NR_SLOTS	(NR_OWNERS * MAX_CPUS * SLOTS_PER_CPU)

static struct htab_slot *slot_nr(struct htab_dynamic *skel, int i)
{
	return (struct htab_slot *)skel->bss->slots + i;
}

/* Find keys for the slots such that no two of them, nor a hot key, are in one
 * bucket: then nothing but itself may keep an update of them waiting.
 */
static void choose_keys(struct htab_dynamic *skel)
{
	__u32 nr = bpf_map__max_entries(skel->maps.dyn);
	bool *taken = calloc(nr, sizeof(*taken));
	__u64 key = SLOT_BASE;
	int i;

	for (i = 0; i < NR_HOT; i++)
		take_bucket(taken, nr, HOT_BASE + i);
	for (i = 0; i < NR_SLOTS; i++) {
		key = take_bucket(taken, nr, key + 1);
		slot_nr(skel, i)->key = key;
	}
	free(taken);
}

/* What the slots and the hot keys must hold; returns the number of elements. */
static int check_slots(struct htab_dynamic *skel, __u64 hot_gens)
{
	int fd = bpf_map__fd(skel->maps.dyn), i, bad = 0, nr = 0;
	__u64 gen;

	for (i = 0; i < NR_SLOTS; i++) {
		struct htab_slot *s = slot_nr(skel, i);

		bad += s->gen ? !holds(fd, s->key, s->gen) : !lacks(fd, s->key);
		nr += !!s->gen;
	}
	CHECK(bad, "contents", "%d of the programs' own keys wrong\n", bad);
	CHECK(skel->bss->wrong, "lookup", "%llu in the program went wrong\n",
	      skel->bss->wrong);
	bad = 0;
	for (i = 0; i < NR_HOT; i++) {
		if (lacks(fd, HOT_BASE + i))
			continue;
		nr++;
		for (gen = 1; gen < 64; gen++)
			if (hot_gens & (1ULL << gen) &&
			    holds(fd, HOT_BASE + i, gen))
				break;
		bad += gen == 64;
	}
	CHECK(bad, "contents", "%d hot keys hold what nobody wrote\n", bad);
	return nr;
}

/* Nested updates: those of a bucket that is being updated below may be refused
 * with -EBUSY, all others may not.
 */
static void check_nested(struct htab_dynamic *skel, int owner)
{
	struct htab_count *hot = &skel->bss->hot[owner];
	struct htab_count *own = &skel->bss->own[owner];

	CHECK(!own->tries, "nested", "none tried, expected some\n");
	check_count("nested", own, own->tries);
	CHECK(hot->ok + hot->busy != hot->tries, "hot",
	      "-ENOMEM %llu, other %llu of %llu, expected success or -EBUSY\n",
	      hot->nomem, hot->other, hot->tries);
}

/* A program on a function of the map's update path updates the same map. */
static void reenter_from(const char *func, int *nr_hit)
{
	struct htab_dynamic *skel;
	int err, fd, i, nr, fails = 0;

	skel = OPEN_WITH("reenter");
	if (!skel)
		return;
	/* it may be inlined in this kernel, notrace, or not there at all */
	err = bpf_program__set_attach_target(skel->progs.reenter, 0, func);
	err = err ? : htab_dynamic__load(skel);
	err = err ? : htab_dynamic__attach(skel);
	if (err)
		goto out;
	fd = bpf_map__fd(skel->maps.dyn);
	choose_keys(skel);
	for (i = 0; i < 4 * NR_STEPS; i++) {
		__u64 key = HOT_BASE + i % NR_HOT;

		skel->bss->hot_key = key;
		skel->bss->pid = getpid();
		fails += !!set_elem(fd, key, 1, BPF_ANY);
		if (i & NR_HOT)
			fails += !!bpf_map_delete_elem(fd, &key);
		skel->bss->pid = 0;
	}
	CHECK(fails, func, "%d of the syscalls failed\n", fails);
	if (!skel->bss->hits)
		goto out;
	check_nested(skel, OWNER_LOW);
	nr = check_slots(skel, HOT_GENS);
	i = nr_elems(fd);
	CHECK(i != nr, func, "%d elements, expected %d\n", i, nr);
	printf("%s: %llu entries, own %llu ok, hot %llu ok %llu -EBUSY\n",
	       func, skel->bss->hits, skel->bss->own[OWNER_LOW].ok,
	       skel->bss->hot[OWNER_LOW].ok, skel->bss->hot[OWNER_LOW].busy);
	(*nr_hit)++;
out:
	htab_dynamic__destroy(skel);
}

static void test_reentry(void)
{
	/* whichever of them this kernel has as functions that can be traced */
	static const char *const funcs[] = {
		"htab_map_update_elem", "htab_map_delete_elem",
		"alloc_htab_elem", "free_htab_elem", "lookup_elem_raw",
		"htab_lock_bucket", "jhash", "kmem_cache_alloc",
		"kmem_cache_alloc_node", "__kmalloc", "allocate_slab",
		"should_failslab", "kmem_cache_free", "kfree",
		"__alloc_pages_nodemask", "get_page_from_freelist",
		"obj_cgroup_charge", "call_rcu", "irq_work_queue",
		"queue_work_on",
	};
	int i, nr_hit = 0;

	if (!can_attach_fentry() ||
	    verifier_warns(BPF_PROG_TYPE_RAW_TRACEPOINT))
		return;
	for (i = 0; i < ARRAY_SIZE(funcs); i++)
		reenter_from(funcs[i], &nr_hit);
	CHECK(nr_hit < 2, "functions", "%d entered, expected more\n", nr_hit);
}

/* Programs that nest in each other, each with a bucket of its own. */
static void test_reentry_deep(void)
{
	struct htab_dynamic *skel;
	struct htab_count *own;
	int err, fd, i;

	if (!can_attach_fentry() ||
	    verifier_warns(BPF_PROG_TYPE_RAW_TRACEPOINT))
		return;
	skel = OPEN_WITH("reenter_deep");
	if (!skel)
		return;
	if (!dyn_load(skel))
		goto out;
	err = htab_dynamic__attach(skel);
	if (CHECK(err, "attach", "err %d\n", err))
		goto out;
	fd = bpf_map__fd(skel->maps.dyn);
	choose_keys(skel);
	skel->data->max_depth = 4;
	skel->bss->pid = getpid();
	for (i = 0; i < NR_STEPS; i++)
		err = err ? : set_elem(fd, HOT_BASE, 1, BPF_ANY);
	skel->bss->pid = 0;
	CHECK(err, "update", "by syscall: %d\n", err);
	CHECK(skel->bss->deepest != 4, "depth", "%llu, expected 4\n",
	      skel->bss->deepest);
	own = &skel->bss->own[OWNER_LOW];
	check_count("nested", own, 4 * NR_STEPS);
	i = check_slots(skel, HOT_GENS);
	CHECK(i != 5, "contents", "%d elements, expected 5\n", i);
out:
	htab_dynamic__destroy(skel);
}

/* @cpu: where to run it, with interrupts off; -1: here, with interrupts on */
static int run_prog(int prog, int cpu, __u64 first, __u64 nr, __u64 mask)
{
	__u64 args[] = { first, nr, mask };
	DECLARE_LIBBPF_OPTS(bpf_test_run_opts, opts);

	opts.ctx_in = args;
	opts.ctx_size_in = sizeof(args);
	if (cpu >= 0) {
		opts.cpu = cpu;
		opts.flags = BPF_F_TEST_RUN_ON_CPU;
	}
	return bpf_prog_test_run_opts(prog, &opts);
}

#define NR_KEYS		64

/* A thread that writes its own keys and the hot ones, in all the ways there
 * are in task context.
 */
struct hammer {
	pthread_t thread;
	struct htab_dynamic *skel;
	int cpu, other_cpu;
	bool *stop;
	__u64 first, rounds, fails;
	__u64 gen[NR_KEYS];	/* what the thread's own keys hold, 0: nothing */
};

static void *hammer(void *arg)
{
	struct hammer *h = arg;
	int fd = bpf_map__fd(h->skel->maps.dyn);
	int run = bpf_program__fd(h->skel->progs.run);
	int run_delete = bpf_program__fd(h->skel->progs.run_delete);
	unsigned int seed = h->cpu;

	pin(h->cpu);
	while (!READ_ONCE(*h->stop)) {
		int cpu = h->rounds & 1 ? h->other_cpu : -1;
		__u64 i, key;

		h->rounds++;
		i = rand_r(&seed) % NR_KEYS;
		key = h->first + i;
		if (h->rounds % 3) {
			h->gen[i] = 2 + h->rounds % 8;
			h->fails += !!set_elem(fd, key, h->gen[i], BPF_ANY);
		} else if (h->gen[i]) {
			h->gen[i] = 0;
			h->fails += !!bpf_map_delete_elem(fd, &key);
		}
		/* sixteen in a row by a program, which writes generation 1 */
		i = rand_r(&seed) % (NR_KEYS - 16);
		h->fails += !!run_prog(run, cpu, h->first + i, 16, 15);
		for (key = i; key < i + 16; key++)
			h->gen[key] = 1;
		i += 4;
		h->fails += !!run_prog(run_delete, cpu, h->first + i, 8, 7);
		for (key = i; key < i + 8; key++)
			h->gen[key] = 0;
		h->fails += !!run_prog(run, -1, HOT_BASE, 256, NR_HOT - 1);
		h->fails += !!set_elem(fd, HOT_BASE, 1, BPF_ANY);
	}
	return NULL;
}

/* The first keys of all threads at once can be more than a new map has for those
 * who run with interrupts off. Have it make ready on each CPU what programs there
 * keep it at; on RT, where these make none, more than all threads add in a row.
 */
static void warm_up(struct htab_dynamic *skel, const int *cpus, int nr_cpus)
{
	int run = bpf_program__fd(skel->progs.run), i;
	int run_delete = bpf_program__fd(skel->progs.run_delete);
	__u64 first = THREAD_BASE * (MAX_CPUS + 1);
	cpu_set_t old;

	if (is_preempt_rt()) {
		run_prog(run, -1, first, 512, 511);
		sleep(1);
		run_prog(run_delete, -1, first, 512, 511);
		/* the first time some of it fails */
		memset(&skel->bss->updates, 0, sizeof(skel->bss->updates));
		memset(&skel->bss->deletes, 0, sizeof(skel->bss->deletes));
		return;
	}
	sched_getaffinity(0, sizeof(old), &old);
	for (i = 0; i < nr_cpus; i++) {
		pin(cpus[i]);
		run_prog(run, -1, first, 256, 255);
		run_prog(run_delete, -1, first, 256, 255);
	}
	sched_setaffinity(0, sizeof(old), &old);
}

/* Start one thread on each CPU; returns how many. */
static int start_hammers(struct htab_dynamic *skel, struct hammer *h,
			 bool *stop)
{
	int cpus[MAX_CPUS], nr_cpus, i, err;

	nr_cpus = list_cpus(cpus, MAX_CPUS);
	warm_up(skel, cpus, nr_cpus);
	for (i = 0; i < nr_cpus; i++) {
		memset(&h[i], 0, sizeof(h[i]));
		h[i].skel = skel;
		h[i].cpu = cpus[i];
		h[i].other_cpu = nr_cpus > 1 ? cpus[(i + 1) % nr_cpus] : -1;
		h[i].stop = stop;
		h[i].first = THREAD_BASE * (i + 1);
		err = pthread_create(&h[i].thread, NULL, hammer, &h[i]);
		if (CHECK(err, "pthread_create", "err %d\n", err))
			break;
	}
	return i;
}

/* Wait for the threads, look at what they wrote; returns how many elements. */
static int stop_hammers(struct htab_dynamic *skel, struct hammer *h, int nr,
			bool *stop)
{
	int fd = bpf_map__fd(skel->maps.dyn), i, n = 0, bad = 0;
	struct htab_count *c;

	WRITE_ONCE(*stop, true);
	while (nr--) {
		pthread_join(h[nr].thread, NULL);
		CHECK(h[nr].fails || !h[nr].rounds, "hammer",
		      "%llu failed in %llu rounds\n", h[nr].fails,
		      h[nr].rounds);
		for (i = 0; i < NR_KEYS; i++) {
			__u64 key = h[nr].first + i, gen = h[nr].gen[i];

			bad += gen ? !holds(fd, key, gen) : !lacks(fd, key);
			n += !!gen;
		}
	}
	CHECK(bad, "contents", "%d of the threads' own keys wrong\n", bad);
	/* nothing of this nests, so all of it may wait */
	c = &skel->bss->updates;
	CHECK(!c->tries, "updates", "none tried, expected some\n");
	check_count("updates", c, c->tries);
	c = &skel->bss->deletes;
	check_count("deletes", c, c->tries);
	return n;
}

static void check_total(struct htab_dynamic *skel, int nr)
{
	int n = nr_elems(bpf_map__fd(skel->maps.dyn));

	CHECK(n != nr, "contents", "%d elements, expected %d\n", n, nr);
}

/* All CPUs write to the same buckets: that is no reason for -EBUSY. */
static void test_contention(void)
{
	struct hammer h[MAX_CPUS];
	struct htab_dynamic *skel;
	bool stop = false;
	int nr;

	if (verifier_warns(BPF_PROG_TYPE_RAW_TRACEPOINT))
		return;
	skel = OPEN_WITH("run", "run_delete");
	if (!skel)
		return;
	/* few buckets; a map of 2^n entries has as many */
	bpf_map__set_max_entries(skel->maps.dyn, 8192);
	if (!dyn_load(skel))
		goto out;
	nr = start_hammers(skel, h, &stop);
	sleep(1);
	nr = stop_hammers(skel, h, nr, &stop);
	check_total(skel, nr + check_slots(skel, HOT_GENS));
out:
	htab_dynamic__destroy(skel);
}

/* Attach to the clock of each CPU, so that whatever runs there is hit. */
static int attach_clocks(struct bpf_program *prog, struct bpf_link **links)
{
	int cpus[MAX_CPUS], nr_cpus, i, pfd;

	nr_cpus = list_cpus(cpus, MAX_CPUS);
	for (i = 0; i < nr_cpus; i++) {
		pfd = open_clock(-1, cpus[i], 2000);
		if (CHECK(pfd < 0, "perf_event_open", "errno %d\n", errno))
			break;
		links[i] = bpf_program__attach_perf_event(prog, pfd);
		if (CHECK(IS_ERR(links[i]), "attach", "err %ld\n",
			  PTR_ERR(links[i]))) {
			close(pfd);
			break;
		}
	}
	return i;
}

static void detach(struct bpf_link **links, int nr)
{
	while (nr--)
		bpf_link__destroy(links[nr]);
}

/* The same, and hardirqs on top of it. */
static void test_hardirq_nested(void)
{
	struct bpf_link *links[MAX_CPUS];
	int nr, nr_links, nr_hammers;
	struct hammer h[MAX_CPUS];
	struct htab_dynamic *skel;
	bool stop = false;

	skel = OPEN_WITH("run", "run_delete", "nested_perf_event");
	if (!skel)
		return;
	if (!dyn_load(skel))
		goto out;
	choose_keys(skel);
	skel->bss->hot_key = HOT_BASE;
	nr_links = attach_clocks(skel->progs.nested_perf_event, links);
	nr_hammers = start_hammers(skel, h, &stop);
	skel->bss->pid = getpid();
	sleep(2);
	nr = stop_hammers(skel, h, nr_hammers, &stop);
	skel->bss->pid = 0;
	detach(links, nr_links);
	check_nested(skel, OWNER_LOW);
	CHECK(skel->bss->hot[OWNER_LOW].busy, "hot",
	      "-EBUSY %llu of %llu: a bucket is locked with interrupts off, expected none\n",
	      skel->bss->hot[OWNER_LOW].busy, skel->bss->hot[OWNER_LOW].tries);
	check_total(skel, nr + check_slots(skel, HOT_GENS));
out:
	htab_dynamic__destroy(skel);
}

/* Programs in NMI while all CPUs write to the map. */
static void test_nmi(const char *name)
{
	struct bpf_program *prog;
	struct hammer h[MAX_CPUS];
	struct htab_dynamic *skel;
	struct bpf_link *link;
	bool stop = false;
	int nr;

	if (!can_send_nmis() || verifier_warns(BPF_PROG_TYPE_RAW_TRACEPOINT) ||
	    (!strcmp(name, "nmi_fentry") && !can_attach_fentry()))
		return;
	skel = OPEN_WITH("run", "run_delete", name);
	if (!skel)
		return;
	if (!dyn_load(skel))
		goto out;
	choose_keys(skel);
	skel->bss->hot_key = HOT_BASE;
	skel->bss->pid = getpid();
	prog = bpf_object__find_program_by_name(skel->obj, name);
	link = dyn_attach(prog);
	if (!link)
		goto out;
	nr = start_hammers(skel, h, &stop);
	send_nmis_until(&skel->bss->hits, NR_NMIS, 180000);
	nr = stop_hammers(skel, h, nr, &stop);
	bpf_link__destroy(link);
	CHECK(skel->bss->hits < NR_NMIS, "nmi", "%llu runs, expected %d\n",
	      skel->bss->hits, NR_NMIS);
	check_nested(skel, OWNER_NMI);
	check_total(skel, nr + check_slots(skel, HOT_GENS));
out:
	htab_dynamic__destroy(skel);
}

static struct bpf_link *attach_kprobe_at(struct bpf_program *prog,
					 const char *func, int offset)
{
	struct perf_event_attr attr = {
		.size = sizeof(attr),
		.type = kprobe_type(),
		.config1 = ptr_to_u64(func),
		.config2 = offset,
	};
	struct bpf_link *link;
	int pfd;

	pfd = syscall(__NR_perf_event_open, &attr, -1, 0, -1,
		      PERF_FLAG_FD_CLOEXEC);
	if (pfd < 0)
		return NULL;
	link = bpf_program__attach_perf_event(prog, pfd);
	if (IS_ERR(link)) {
		close(pfd);
		return NULL;
	}
	return link;
}

/* Interrupt an update at one instruction after the other, its bucket locked or
 * not, by a kprobe that runs a program in NMI. No other NMI is needed.
 */
static void test_nmi_kprobe(void)
{
	static const char func[] = "htab_map_update_elem";
	int run, offset, nr, fails = 0, places = 0;
	struct htab_dynamic *skel;
	struct htab_count *hot;
	struct bpf_link *link;
	cpu_set_t old;
	__u64 hits;

	if (verifier_warns(BPF_PROG_TYPE_RAW_TRACEPOINT) ||
	    verifier_warns(BPF_PROG_TYPE_KPROBE))
		return;
	skel = OPEN_WITH("run", "nested_kprobe");
	if (!skel)
		return;
	if (!dyn_load(skel))
		goto out;
	run = bpf_program__fd(skel->progs.run);
	choose_keys(skel);
	skel->bss->hot_key = HOT_BASE;
	sched_getaffinity(0, sizeof(old), &old);
	pin(0);
	/* a kernel that checks itself has more instructions before the lock */
	for (offset = 4; offset < 8192 &&
	     (places < 64 || !skel->bss->hot[OWNER_LOW].busy); offset++) {
		/* not an instruction, or may not be probed */
		link = attach_kprobe_at(skel->progs.nested_kprobe, func,
					offset);
		if (!link)
			continue;
		hits = skel->bss->hits;
		skel->bss->pid = getpid();
		fails += !!run_prog(run, -1, HOT_BASE, 4, 0);
		skel->bss->pid = 0;
		bpf_link__destroy(link);
		places += skel->bss->hits > hits;
	}
	sched_setaffinity(0, sizeof(old), &old);
	CHECK(fails, "run", "%d failed\n", fails);
	check_count("updates", &skel->bss->updates, skel->bss->updates.tries);
	CHECK(places < 8, "kprobe", "%d instructions hit, expected more\n",
	      places);
	check_nested(skel, OWNER_LOW);
	hot = &skel->bss->hot[OWNER_LOW];
	CHECK(!hot->ok || !hot->busy, "hot",
	      "%llu succeeded, %llu with -EBUSY, expected some of each\n",
	      hot->ok, hot->busy);
	nr = check_slots(skel, HOT_GENS);
	check_total(skel, nr);
out:
	htab_dynamic__destroy(skel);
}

/* Threads on all CPUs, hardirqs, and NMIs where there are any, all at once. */
static void test_all_at_once(void)
{
	struct bpf_link *links[MAX_CPUS], *link = NULL;
	int nr, nr_links, nr_hammers, cpus[MAX_CPUS];
	struct hammer h[MAX_CPUS];
	bool stop = false, nmis;
	struct htab_dynamic *skel;

	if (verifier_warns(BPF_PROG_TYPE_RAW_TRACEPOINT))
		return;
	skel = OPEN_WITH("run", "run_delete", "nested_perf_event",
			 "nmi_raw_tp");
	if (!skel)
		return;
	if (!dyn_load(skel))
		goto out;
	choose_keys(skel);
	skel->bss->hot_key = HOT_BASE;
	if (has_nmis()) {
		link = dyn_attach(skel->progs.nmi_raw_tp);
		if (!link)
			goto out;
	}
	nmis = link && list_cpus(cpus, MAX_CPUS) > 1;
	nr_links = attach_clocks(skel->progs.nested_perf_event, links);
	nr_hammers = start_hammers(skel, h, &stop);
	skel->bss->pid = getpid();
	if (nmis)
		send_nmis_until(&skel->bss->hot[OWNER_NMI].tries, 100, 5000);
	else
		sleep(2);
	nr = stop_hammers(skel, h, nr_hammers, &stop);
	skel->bss->pid = 0;
	detach(links, nr_links);
	bpf_link__destroy(link);
	check_nested(skel, OWNER_LOW);
	if (nmis)
		check_nested(skel, OWNER_NMI);
	check_total(skel, nr + check_slots(skel, HOT_GENS));
out:
	htab_dynamic__destroy(skel);
}

void test_htab_dynamic(void)
{
	if (test__start_subtest("syscall"))
		test_syscall();
	if (test__start_subtest("batch"))
		test_batch();
	if (test__start_subtest("max_entries"))
		test_max_entries();
	if (test__start_subtest("max_entries_race"))
		test_max_entries_race();
	if (test__start_subtest("kprobe"))
		test_kprobe();
	if (test__start_subtest("raw_tp_irqoff"))
		test_irqoff();
	if (test__start_subtest("raw_tp_irqoff_burst"))
		test_irqoff_burst();
	if (test__start_subtest("perf_event"))
		test_perf_event();
	if (test__start_subtest("fentry.s"))
		test_fentry_s();
	if (test__start_subtest("lsm.s"))
		test_lsm_s();
	if (test__start_subtest("inner_irqoff"))
		test_inner();
	if (test__start_subtest("free_busy"))
		test_free_busy();
	if (test__start_subtest("fentry_reentry"))
		test_reentry();
	if (test__start_subtest("fentry_reentry_deep"))
		test_reentry_deep();
	if (test__start_subtest("contention"))
		test_contention();
	if (test__start_subtest("hardirq_nested"))
		test_hardirq_nested();
	if (test__start_subtest("nmi_raw_tp"))
		test_nmi("nmi_raw_tp");
	if (test__start_subtest("nmi_fentry"))
		test_nmi("nmi_fentry");
	if (test__start_subtest("nmi_kprobe"))
		test_nmi_kprobe();
	if (test__start_subtest("all_at_once"))
		test_all_at_once();
}
