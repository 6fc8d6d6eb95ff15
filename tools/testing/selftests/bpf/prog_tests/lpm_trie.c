// SPDX-License-Identifier: GPL-2.0
/* LPM tries, whose nodes come from bpf_mem_alloc: used by programs of every kind
 * and in every context, by system calls, and by readers while they change
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <signal.h>
#include <sys/wait.h>
#include <linux/compiler.h>
#include <test_progs.h>
#include "htab_helpers.h"
#include "memcg_helpers.h"
#include "lpm_trie.skel.h"

/* As in progs/lpm_trie.c */
#define MAX_CPUS	8
#define MAX_STEPS	128
#define BURST		512

enum { OK, BUSY, NOMEM, OTHER, NR_RESULTS };

#define VALUE(addr, len, gen)	((__u64)(addr) << 32 | (len) << 16 | (gen))
#define VALUE_ADDR(val)		((__u32)((val) >> 32))
#define VALUE_LEN(val)		((__u32)(val) >> 16)
#define NET(addr, len)		((addr) & (__u32)~(0xffffffffULL >> (len)))

#define MAX_WAITING	65536	/* LPM_MAX_WAITING of the kernel */
#define NODE_SIZE	48	/* of a prefix with a value of 8 bytes */
#define CACHED_BYTES	8192	/* that a CPU may keep of each kind of node */
#define NR_NMIS		100
#define HOT_NET		(20 << 24)
#define MB		(1024 * 1024)

static int duration;

struct prefix {
	__u32 len;
	__u32 addr;	/* big endian */
};

static int create(__u32 key_size, __u32 value_size, __u32 max_entries)
{
	return bpf_create_map(BPF_MAP_TYPE_LPM_TRIE, key_size, value_size,
			      max_entries, BPF_F_NO_PREALLOC);
}

static int set(int fd, __u32 addr, __u32 len, __u32 gen, __u64 flags)
{
	struct prefix key = { len, htonl(addr) };
	__u64 val = VALUE(addr, len, gen);

	return bpf_map_update_elem(fd, &key, &val, flags) ? -errno : 0;
}

static int del(int fd, __u32 addr, __u32 len)
{
	struct prefix key = { len, htonl(addr) };

	return bpf_map_delete_elem(fd, &key) ? -errno : 0;
}

/* What the longest prefix of an address holds, 0: it has none */
static __u64 find(int fd, __u32 addr)
{
	struct prefix key = { 32, htonl(addr) };
	__u64 val;

	return bpf_map_lookup_elem(fd, &key, &val) ? 0 : val;
}

/* Load the object with the named programs only. */
#define OPEN_WITH(progs...) ({						\
	const char *const ___names[] = { progs };			\
	open_with(___names, ARRAY_SIZE(___names));			\
})

static struct lpm_trie *open_with(const char *const names[], int nr)
{
	struct lpm_trie *skel = lpm_trie__open();

	if (CHECK(!skel, "open", "errno %d\n", errno))
		return NULL;
	autoload_only(skel->obj, names, nr);
	if (CHECK(lpm_trie__load(skel), "load", "refused (%d), expected to pass\n",
		  errno)) {
		lpm_trie__destroy(skel);
		return NULL;
	}
	return skel;
}

static struct bpf_link *attach(struct bpf_program *prog)
{
	struct bpf_link *link = bpf_program__attach(prog);

	if (CHECK(IS_ERR(link), "attach", "err %ld\n", PTR_ERR(link)))
		return NULL;
	return link;
}

/* Attach to the clock of each CPU, so that whatever runs there is hit. */
static int attach_clocks(struct bpf_program *prog, struct bpf_link **links,
			 int freq)
{
	int cpus[MAX_CPUS], nr_cpus, i, pfd;

	nr_cpus = list_cpus(cpus, MAX_CPUS);
	for (i = 0; i < nr_cpus; i++) {
		pfd = open_clock(-1, cpus[i], freq);
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

/* A program for BPF_PROG_TEST_RUN with one argument */
static int run_prog(struct bpf_program *prog, __u64 arg)
{
	DECLARE_LIBBPF_OPTS(bpf_test_run_opts, opts);

	opts.ctx_in = &arg;
	opts.ctx_size_in = sizeof(arg);
	return bpf_prog_test_run_opts(bpf_program__fd(prog), &opts);
}

static int run_packet(struct bpf_program *prog, int repeat)
{
	char pkt[64] = {};

	return bpf_prog_test_run(bpf_program__fd(prog), repeat, pkt, sizeof(pkt),
				 NULL, NULL, NULL, NULL);
}

/* @refused: the results that may be other than success */
static void check_results(const char *what, struct lpm_trie *skel,
			  const __u64 *results, int refused)
{
	CHECK(!results[OK], what, "none succeeded, expected some\n");
	CHECK((results[BUSY] && !(refused & 1 << BUSY)) ||
	      (results[NOMEM] && !(refused & 1 << NOMEM)) || results[OTHER],
	      what, "%llu succeeded, -EBUSY %llu, -ENOMEM %llu, others %llu (the last %lld)\n",
	      results[OK], results[BUSY], results[NOMEM], results[OTHER],
	      skel->bss->other);
}

static void check_looks(struct lpm_trie *skel)
{
	CHECK(skel->bss->wrong, "lookup",
	      "%llu in the programs went wrong, one found %llx for %llx\n",
	      skel->bss->wrong, skel->bss->wrong_value, skel->bss->wrong_addr);
}

/* The trie has @nr prefixes, and counts as many: it takes no more and no less
 * than the others that it has room for.
 */
static void check_total(struct lpm_trie *skel, int nr)
{
	int fd = bpf_map__fd(skel->maps.trie), i, n = nr_elems(fd);
	__u32 room = bpf_map__max_entries(skel->maps.trie) - nr, done;
	DECLARE_LIBBPF_OPTS(bpf_map_batch_opts, opts);
	struct prefix *keys;
	__u64 *vals;

	CHECK(n != nr, "contents", "%d prefixes, expected %d\n", n, nr);
	done = room + 1;
	keys = calloc(done, sizeof(*keys));
	vals = calloc(done, sizeof(*vals));
	for (i = 0; i < done; i++) {
		keys[i].len = 32;
		keys[i].addr = htonl(200 << 24 | i);
	}
	CHECK(!bpf_map_update_batch(fd, keys, vals, &done, &opts) ||
	      errno != ENOSPC || done != room, "room",
	      "for %u more, expected %u (errno %d)\n", done, room, errno);
	free(keys);
	free(vals);
}

/* Programs of every kind */

struct context {
	const char *name;
	const char *prog;
	/* has the program run, at least once if all is well */
	void (*trigger)(struct lpm_trie *skel, struct bpf_program *prog);
	bool irqoff;	/* may find the reserve spent */
	bool fentry;	/* called as such programs are */
	bool sleepable;
};

static int nr_steps(struct lpm_trie *skel)
{
	int i, nr = 0;

	for (i = 0; i < MAX_CPUS; i++)
		nr += READ_ONCE(skel->bss->steps[i]);
	return nr;
}

/* A plain nanosleep(), which glibc does not use */
static void trigger_nap(struct lpm_trie *skel, struct bpf_program *prog)
{
	struct timespec ts = { .tv_nsec = 100000 };

	syscall(__NR_nanosleep, &ts, NULL);
}

/* The clocks tick meanwhile. */
static void trigger_wait(struct lpm_trie *skel, struct bpf_program *prog)
{
	__u64 end = now_ms() + 5;

	while (now_ms() < end)
		;
}

static bool enough_steps(void *arg)
{
	return nr_steps(arg) >= MAX_STEPS;
}

static void trigger_nmi(struct lpm_trie *skel, struct bpf_program *prog)
{
	send_nmis(enough_steps, skel, 10000);
}

static void trigger_run(struct lpm_trie *skel, struct bpf_program *prog)
{
	int err = run_packet(prog, 1);

	CHECK(err, "test_run", "errno %d\n", errno);
}

static const struct context contexts[] = {
	{ "kprobe", "step_kprobe", trigger_nap },
	{ "raw_tp", "step_raw_tp", trigger_nap },
	{ "raw_tp_irqoff", "step_irqoff", trigger_nap, .irqoff = true },
	{ "nmi", "step_nmi", trigger_nmi, .irqoff = true },
	{ "perf_event", "step_perf_event", trigger_wait, .irqoff = true },
	{ "fentry", "step_fentry", trigger_nap, .fentry = true },
	{ "fentry.s", "step_fentry_s", trigger_nap, .fentry = true,
	  .sleepable = true },
	{ "tc", "step_tc", trigger_run },
	{ "xdp", "step_xdp", trigger_run },
};

static void check_steps(struct lpm_trie *skel)
{
	int fd = bpf_map__fd(skel->maps.trie), cpu, i, bad = 0, total = 1;
	bool done, inner;
	__u32 net;
	__u64 val;

	CHECK(nr_steps(skel) < MAX_STEPS, "steps", "%d, expected %d\n",
	      nr_steps(skel), MAX_STEPS);
	for (cpu = 0; cpu < MAX_CPUS; cpu++) {
		for (i = 0; i < MAX_STEPS; i++) {
			net = (cpu + 1) << 24 | i << 8;
			done = i < skel->bss->steps[cpu];
			inner = done && !(i & 1);
			val = done ? VALUE(net, 24, 2) : VALUE(0, 0, 1);
			bad += find(fd, net | 0x81) != val;
			if (inner)
				val = VALUE(net | 0x40, 26, 1);
			bad += find(fd, net | 0x41) != val;
			total += done + inner;
		}
	}
	CHECK(bad, "contents", "%d lookups went wrong\n", bad);
	check_looks(skel);
	check_total(skel, total);
}

static void test_context(const struct context *ctx)
{
	struct bpf_link *links[MAX_CPUS];
	int nr_links = 0, err, cpus[1];
	struct bpf_program *prog;
	struct lpm_trie *skel;
	cpu_set_t old;
	__u64 end;

	if ((ctx->trigger == trigger_nmi && !can_send_nmis()) ||
	    (ctx->fentry && !can_attach_fentry()))
		return;
	skel = OPEN_WITH(ctx->prog);
	if (!skel)
		return;
	prog = bpf_object__find_program_by_name(skel->obj, ctx->prog);
	err = set(bpf_map__fd(skel->maps.trie), 0, 0, 1, BPF_NOEXIST);
	CHECK(err, "update", "of the default route: %d\n", err);
	sched_getaffinity(0, sizeof(old), &old);
	/* those that may sleep may migrate */
	if (!ctx->sleepable && list_cpus(cpus, 1))
		pin(cpus[0]);
	if (ctx->trigger == trigger_wait) {
		sched_setaffinity(0, sizeof(old), &old);
		nr_links = attach_clocks(prog, links, 1000);
	} else if (!strcmp(ctx->name, "kprobe")) {
		links[0] = bpf_program__attach_kprobe(prog, false,
						      SYS_NANOSLEEP_KPROBE_NAME);
		nr_links = !CHECK(IS_ERR(links[0]), "attach", "err %ld\n",
				  PTR_ERR(links[0]));
	} else if (ctx->trigger != trigger_run) {
		links[0] = attach(prog);
		nr_links = !!links[0];
	}
	end = now_ms() + 10000;
	skel->bss->pid = getpid();
	while (nr_steps(skel) < MAX_STEPS && now_ms() < end)
		ctx->trigger(skel, prog);
	skel->bss->pid = 0;
	while (nr_links)
		bpf_link__destroy(links[--nr_links]);
	sched_setaffinity(0, sizeof(old), &old);
	check_results("results", skel, skel->bss->run, 0);
	if (skel->bss->spent)
		printf("%s: tried again %llu times, with the reserve spent\n",
		       ctx->name, skel->bss->spent);
	check_steps(skel);
	lpm_trie__destroy(skel);
}

/* 512 new prefixes with interrupts off, as the first thing a trie ever sees: each
 * takes a node of each of the two kinds. The reserve of the one kind learns from
 * the first burst, that of the other from the next, and the same again a second
 * later fails nowhere.
 */
static void test_burst(void)
{
	struct lpm_trie *skel;
	struct bpf_link *link;
	int fd, round, i;
	__u64 *run;

	skel = OPEN_WITH("burst_irqoff");
	if (!skel)
		return;
	fd = bpf_map__fd(skel->maps.trie);
	run = skel->bss->run;
	link = attach(skel->progs.burst_irqoff);
	if (!link)
		goto out;
	skel->bss->pid = getpid();
	for (round = 0; round < 4; round++) {
		memset(run, 0, sizeof(skel->bss->run));
		skel->bss->first_addr = 30 << 24 | round << 16;
		skel->bss->burst = BURST;
		for (i = 0; i < 1000 && READ_ONCE(skel->bss->done) == round; i++)
			usleep(1000);
		if (CHECK(skel->bss->done == round, "burst", "did not run\n"))
			break;
		printf("burst %d: %llu of %d\n", round + 1, run[OK], BURST);
		CHECK(run[OK] < (round < 2 ? 16 : BURST) || run[BUSY] ||
		      run[OTHER], round < 2 ? "first bursts" : "learnt burst",
		      "%llu of %d succeeded, -EBUSY %llu, -ENOMEM %llu, others %llu\n",
		      run[OK], BURST, run[BUSY], run[NOMEM], run[OTHER]);
		if (!round)
			CHECK(read_fdinfo(fd, "allocs_failed:") < run[NOMEM],
			      "fdinfo", "allocs_failed %lld, expected %llu\n",
			      read_fdinfo(fd, "allocs_failed:"), run[NOMEM]);
		sleep(1);
	}
	bpf_link__destroy(link);
out:
	lpm_trie__destroy(skel);
}

/* Programs that nest in operations on the same trie */

/* The prefixes that CPUs' own programs wrote, and those that tasks wrote */
static void check_nested(struct lpm_trie *skel, int nr_tasks)
{
	int fd = bpf_map__fd(skel->maps.trie), cpu, bad = 0, total = nr_tasks;
	__u64 val;
	__u32 net;

	for (cpu = 0; cpu < nr_tasks; cpu++) {
		net = HOT_NET | cpu << 8;
		val = find(fd, net | 1);
		bad += val != VALUE(net, 24, 1) && val != VALUE(net, 24, 2);
	}
	for (cpu = 0; cpu < MAX_CPUS; cpu++) {
		__u32 gen = skel->bss->own_gen[cpu];

		net = (cpu + 1) << 24;
		val = find(fd, net | 1);
		bad += val != (gen ? VALUE(net, 24, gen) : 0);
		total += !!gen;
	}
	CHECK(bad, "contents", "%d prefixes wrong\n", bad);
	check_looks(skel);
	check_results("nested", skel, skel->bss->nest, 1 << BUSY | 1 << NOMEM);
	CHECK(!skel->bss->nest[BUSY], "nested",
	      "no -EBUSY in %llu runs, expected some\n", skel->bss->hits);
	printf("%llu runs: %llu succeeded, -EBUSY %llu, -ENOMEM %llu\n",
	       skel->bss->hits, skel->bss->nest[OK], skel->bss->nest[BUSY],
	       skel->bss->nest[NOMEM]);
	check_total(skel, total);
}

/* A thread on each CPU that changes the trie or reads it, with others */
struct worker {
	pthread_t thread;
	struct lpm_trie *skel;
	int cpu, nr;
	bool *stop;
	__u64 rounds, fails, wrong;
};

static int start_workers(struct lpm_trie *skel, void *(*func)(void *arg),
			 struct worker *w, bool *stop)
{
	int cpus[MAX_CPUS], nr_cpus, i, err;

	nr_cpus = list_cpus(cpus, MAX_CPUS);
	for (i = 0; i < nr_cpus; i++) {
		w[i] = (struct worker){
			.skel = skel, .cpu = cpus[i], .nr = i, .stop = stop,
		};
		err = pthread_create(&w[i].thread, NULL, func, &w[i]);
		if (CHECK(err, "pthread_create", "err %d\n", err))
			break;
	}
	return i;
}

static void join_workers(const char *what, struct worker *w, int nr)
{
	while (nr--) {
		pthread_join(w[nr].thread, NULL);
		CHECK(!w[nr].rounds || w[nr].fails || w[nr].wrong, what,
		      "%llu rounds, %llu calls failed, %llu lookups went wrong\n",
		      w[nr].rounds, w[nr].fails, w[nr].wrong);
	}
}

/* System calls, which wait where programs would find that too many nodes do. As
 * run_hot of the programs.
 */
static void *hammer(void *arg)
{
	struct worker *w = arg;
	int fd = bpf_map__fd(w->skel->maps.trie);
	__u32 net = HOT_NET | w->nr << 8;

	pin(w->cpu);
	while (!READ_ONCE(*w->stop)) {
		w->rounds++;
		w->fails += !!set(fd, net, 24, 1, BPF_ANY);
		w->fails += !!set(fd, net | 0x10, 32, 1, BPF_ANY);
		w->fails += !!set(fd, net | 0x20, 32, 1, BPF_ANY);
		w->fails += !!set(fd, net, 26, 1, BPF_ANY);
		w->fails += !!del(fd, net, 26);
		w->fails += !!del(fd, net | 0x10, 32);
		w->fails += !!del(fd, net | 0x20, 32);
	}
	return NULL;
}

static void test_nested_nmi(void)
{
	struct worker w[MAX_CPUS];
	struct lpm_trie *skel;
	struct bpf_link *link;
	bool stop = false;
	int nr;

	if (!can_send_nmis())
		return;
	skel = OPEN_WITH("nested_nmi");
	if (!skel)
		return;
	link = attach(skel->progs.nested_nmi);
	if (!link)
		goto out;
	skel->bss->first_addr = HOT_NET;
	skel->bss->pid = getpid();
	nr = start_workers(skel, hammer, w, &stop);
	send_nmis_until(&skel->bss->hits, NR_NMIS, 20000);
	/* as many as it takes to hit one with the lock */
	send_nmis_until(&skel->bss->nest[BUSY], 1, 60000);
	WRITE_ONCE(stop, true);
	join_workers("tasks", w, nr);
	bpf_link__destroy(link);
	CHECK(skel->bss->hits < NR_NMIS, "nmi", "%llu runs, expected %d\n",
	      skel->bss->hits, NR_NMIS);
	check_nested(skel, nr);
out:
	lpm_trie__destroy(skel);
}

/* Have a program run at one instruction of a function after the other, in NMI, and
 * @run at each. Returns how many of them were hit.
 */
static int probe_func(struct lpm_trie *skel, struct bpf_program *prog,
		      const char *func, int stride,
		      void (*run)(struct lpm_trie *skel))
{
	/* removing a kprobe takes several grace periods */
	static const char expedited[] = "/sys/kernel/rcu_expedited";
	/* a jump in its place, which comes later, would be no NMI */
	static const char optimize[] = "/proc/sys/debug/kprobes-optimization";
	struct perf_event_attr attr = {
		.size = sizeof(attr),
		.type = kprobe_type(),
	};
	char old_expedited[8] = "0", old_optimize[8] = "0";
	unsigned long start, addr;
	struct bpf_link *link;
	int pfd, places = 0, cpus[1];
	cpu_set_t old;
	__u64 hits;

	if (CHECK(load_kallsyms(), "kallsyms", "no symbols\n"))
		return 0;
	start = ksym_get_addr(func);
	sched_getaffinity(0, sizeof(old), &old);
	if (list_cpus(cpus, 1))
		pin(cpus[0]);
	swap_line(expedited, "1", old_expedited, sizeof(old_expedited));
	swap_line(optimize, "0", old_optimize, sizeof(old_optimize));
	/* most tries find that no instruction begins there */
	for (addr = start; start && ksym_search(addr)->addr == start;
	     addr += stride) {
		attr.config2 = addr;
		pfd = syscall(__NR_perf_event_open, &attr, -1, 0, -1,
			      PERF_FLAG_FD_CLOEXEC);
		if (pfd < 0)
			continue;
		link = bpf_program__attach_perf_event(prog, pfd);
		if (CHECK(IS_ERR(link), "attach", "err %ld\n", PTR_ERR(link))) {
			close(pfd);
			break;
		}
		hits = skel->bss->hits;
		skel->bss->pid = getpid();
		run(skel);
		skel->bss->pid = 0;
		bpf_link__destroy(link);
		places += skel->bss->hits > hits;
	}
	swap_line(optimize, old_optimize, NULL, 0);
	swap_line(expedited, old_expedited, NULL, 0);
	sched_setaffinity(0, sizeof(old), &old);
	printf("%s: %d instructions hit\n", func, places);
	CHECK(places < 4, func, "%d instructions hit, expected more\n", places);
	return places;
}

static void run_hot(struct lpm_trie *skel)
{
	int err;

	/* the trie's worker alone makes nodes there */
	if (is_preempt_rt())
		usleep(20000);
	err = run_prog(skel->progs.run_hot, HOT_NET);
	CHECK(err, "run", "errno %d\n", errno);
}

/* Operations are interrupted with the lock held or not. No other NMI is needed. */
static void test_nested_kprobe(void)
{
	struct lpm_trie *skel;
	int i;

	skel = OPEN_WITH("run_hot", "nested_kprobe");
	if (!skel)
		return;
	skel->bss->first_addr = HOT_NET;
	/* and learns how many are needed */
	if (is_preempt_rt()) {
		for (i = 0; i < 4; i++)
			run_hot(skel);
		memset(skel->bss->run, 0, sizeof(skel->bss->run));
	}
	probe_func(skel, skel->progs.nested_kprobe, "trie_update_elem", 7, run_hot);
	probe_func(skel, skel->progs.nested_kprobe, "trie_delete_elem", 7, run_hot);
	check_results("task", skel, skel->bss->run, 0);
	check_nested(skel, 1);
	lpm_trie__destroy(skel);
}

/* For each of the nodes that it passes */
static void run_find(struct lpm_trie *skel)
{
	int err = 0, i;

	for (i = 1; i <= 4; i++) {
		skel->bss->act_on = i;
		err |= run_packet(skel->progs.run_find, 1);
	}
	CHECK(err, "run", "errno %d\n", errno);
}

/* A lookup is interrupted at a node that is deleted just then. What is added next
 * would be in its place, if that could be used at once, and lead the lookup astray.
 */
static void test_reuse(void)
{
	struct lpm_trie *skel;
	int fd, err;

	skel = OPEN_WITH("run_find", "reuse_kprobe");
	if (!skel)
		return;
	fd = bpf_map__fd(skel->maps.trie);
	skel->bss->first_addr = HOT_NET;
	err = set(fd, HOT_NET, 8, 1, BPF_NOEXIST) ? :
	      set(fd, HOT_NET, 16, 1, BPF_NOEXIST) ? :
	      set(fd, HOT_NET, 24, 1, BPF_NOEXIST);
	CHECK(err, "update", "%d\n", err);
	probe_func(skel, skel->progs.reuse_kprobe, "trie_lookup_elem", 2, run_find);
	printf("%llu nodes replaced below lookups\n", skel->bss->hits);
	check_results("changes", skel, skel->bss->run, 0);
	check_looks(skel);
	check_total(skel, 3);
	lpm_trie__destroy(skel);
}

/* Readers: all that they look up is in the permanent prefixes 10.N.0.0/16 with N
 * below 16, half of it in 10.N.0.0/24. Others come and go around them.
 */
#define NR_NETS		16

static __u32 some_addr(unsigned int rnd)
{
	return 10 << 24 | (rnd >> 4 & 0xf) << 16 | (rnd & 1) << 8 |
	       (rnd >> 12 & 0xf) * 0x11;
}

/* all but 16 and 24 */
static __u32 some_len(unsigned int rnd)
{
	__u32 len = 9 + rnd % 22;

	return len + (len >= 16) + (len >= 23);
}

static bool is_right(__u32 addr, __u64 val)
{
	__u32 len = VALUE_LEN(val), least = addr & 0x100 ? 16 : 24;

	return len >= least && len <= 32 && VALUE_ADDR(val) == NET(addr, len);
}

/* What comes after a prefix, which may be there or not, is one of those that some
 * time are: then the trie is well-formed all the time.
 */
static bool next_is_right(int fd, __u32 addr, __u32 len)
{
	struct prefix key = { len, htonl(addr) };

	if (bpf_map_get_next_key(fd, &key, &key))
		return errno == ENOENT;
	addr = ntohl(key.addr);
	return key.len >= 9 && key.len <= 32 && addr == NET(addr, key.len) &&
	       addr >> 24 == 10;
}

/* Adds prefixes, deletes them some time later, and looks up addresses */
static void *writer(void *arg)
{
	struct worker *w = arg;
	int fd = bpf_map__fd(w->skel->maps.trie), i, err;
	struct prefix ring[16] = {};
	unsigned int seed = w->nr;
	__u32 addr;

	pin(w->cpu);
	while (!READ_ONCE(*w->stop)) {
		struct prefix *p = &ring[w->rounds++ % ARRAY_SIZE(ring)];

		if (p->len) {
			/* another task may have deleted it */
			err = del(fd, p->addr, p->len);
			w->fails += err && err != -ENOENT;
		}
		p->len = some_len(rand_r(&seed));
		p->addr = NET(some_addr(rand_r(&seed)), p->len);
		w->fails += !!set(fd, p->addr, p->len, 2, BPF_ANY);
		for (i = 0; i < 4; i++) {
			addr = some_addr(rand_r(&seed));
			w->wrong += !is_right(addr, find(fd, addr));
		}
		w->wrong += !next_is_right(fd, p->addr, p->len);
	}
	return NULL;
}

static void *reader(void *arg)
{
	struct worker *w = arg;

	pin(w->cpu);
	while (!READ_ONCE(*w->stop)) {
		w->rounds++;
		w->fails += !!run_packet(w->skel->progs.read_trie, 16);
	}
	return NULL;
}

static void test_readers(void)
{
	struct worker writers[MAX_CPUS], readers[MAX_CPUS];
	int fd, i, n, nr_writers, nr_readers, nr_links, err = 0, bad = 0;
	struct bpf_link *links[MAX_CPUS];
	struct prefix key, next;
	struct lpm_trie *skel;
	bool stop = false;
	__u32 net;

	skel = OPEN_WITH("read_trie", "write_trie");
	if (!skel)
		return;
	fd = bpf_map__fd(skel->maps.trie);
	for (i = 0; i < NR_NETS; i++) {
		net = 10 << 24 | i << 16;
		err = err ? : set(fd, net, 16, 1, BPF_NOEXIST);
		err = err ? : set(fd, net, 24, 1, BPF_NOEXIST);
	}
	CHECK(err, "update", "%d\n", err);
	skel->bss->pid = getpid();
	nr_links = attach_clocks(skel->progs.write_trie, links, 4000);
	nr_writers = start_workers(skel, writer, writers, &stop);
	nr_readers = start_workers(skel, reader, readers, &stop);
	sleep(4);
	WRITE_ONCE(stop, true);
	join_workers("writers", writers, nr_writers);
	join_workers("readers", readers, nr_readers);
	skel->bss->pid = 0;
	while (nr_links)
		bpf_link__destroy(links[--nr_links]);
	printf("%llu lookups and %llu changes by programs, %llu -ENOMEM\n",
	       skel->bss->looks, skel->bss->run[OK], skel->bss->run[NOMEM]);
	check_looks(skel);
	/* the clock's interrupt may find the reserve spent */
	check_results("clock", skel, skel->bss->run, 1 << NOMEM);
	/* nothing but the permanent ones is left without the others */
	for (n = 0, err = bpf_map_get_next_key(fd, NULL, &next); !err; n++) {
		key = next;
		err = bpf_map_get_next_key(fd, &key, &next);
		if (key.len != 16 && key.len != 24)
			bad += !!bpf_map_delete_elem(fd, &key);
	}
	CHECK(bad, "delete", "%d of %d failed\n", bad, n);
	for (i = 0; i < NR_NETS; i++) {
		net = 10 << 24 | i << 16;
		bad += find(fd, net | 0x1ff) != VALUE(net, 16, 1);
		bad += find(fd, net | 0xff) != VALUE(net, 24, 1);
	}
	CHECK(bad, "contents", "%d lookups went wrong\n", bad);
	check_total(skel, 2 * NR_NETS);
	lpm_trie__destroy(skel);
}

/* System calls */

static void test_full(void)
{
	const int nr = 64;
	int fd, i, err, bad = 0;

	fd = create(sizeof(struct prefix), sizeof(__u64), nr);
	if (CHECK(fd < 0, "create", "errno %d\n", errno))
		return;
	for (i = 0; i < nr; i++)
		bad += !!set(fd, i << 8, 24, 1, BPF_NOEXIST);
	CHECK(bad, "fill", "%d of %d failed\n", bad, nr);
	for (i = 0; i < nr; i++) {
		bad += set(fd, i << 8, 24, 2, BPF_ANY) != 0;
		bad += set(fd, i << 8, 24, 3, BPF_EXIST) != 0;
		bad += set(fd, i << 8, 24, 4, BPF_NOEXIST) != -EEXIST;
		/* a new one: within, and between others */
		bad += set(fd, i << 8, 25, 1, BPF_ANY) != -ENOSPC;
		bad += set(fd, i << 8, 25, 1, BPF_NOEXIST) != -ENOSPC;
		bad += set(fd, i << 8, 25, 1, BPF_EXIST) != -ENOENT;
		bad += set(fd, i << 9, 23, 1, BPF_ANY) != -ENOSPC;
		bad += set(fd, i << 9, 23, 1, BPF_EXIST) != -ENOENT;
		bad += set(fd, i << 8, 24, 1, BPF_EXIST + 1) != -EINVAL;
		bad += set(fd, i << 8, 33, 1, BPF_ANY) != -EINVAL;
		bad += find(fd, i << 8 | 1) != VALUE(i << 8, 24, 3);
	}
	CHECK(bad, "full", "%d calls went wrong\n", bad);

	/* the place of one deleted, which stays as an intermediate node */
	err = del(fd, 0, 24) ? : set(fd, 0, 23, 1, BPF_NOEXIST);
	CHECK(err, "refill", "%d\n", err);
	err = set(fd, 0, 24, 1, BPF_ANY);
	CHECK(err != -ENOSPC, "full", "%d, expected -ENOSPC\n", err);
	err = del(fd, 0, 23);
	CHECK(err, "delete", "%d\n", err);
	err = del(fd, 0, 23);
	CHECK(err != -ENOENT, "delete", "%d, expected -ENOENT\n", err);
	err = set(fd, 0, 23, 1, BPF_EXIST);
	CHECK(err != -ENOENT, "exist", "%d, expected -ENOENT\n", err);
	err = set(fd, 0, 24, 1, BPF_NOEXIST);
	CHECK(err, "refill", "%d\n", err);
	err = set(fd, 0, 23, 1, BPF_NOEXIST);
	CHECK(err != -ENOSPC, "full", "%d, expected -ENOSPC\n", err);
	i = nr_elems(fd);
	CHECK(i != nr, "contents", "%d prefixes, expected %d\n", i, nr);
	close(fd);
}

/* A prefix with up to 256 bytes; all bits after its length are 0 */
struct wide {
	__u32 len;
	__u8 data[256];
};

static bool bit(const struct wide *p, int i)
{
	return p->data[i / 8] >> (7 - i % 8) & 1;
}

static void set_bit(struct wide *p, int i, bool one)
{
	__u8 mask = 1 << (7 - i % 8);

	p->data[i / 8] = (p->data[i / 8] & ~mask) | (one ? mask : 0);
}

/* Postorder: what a prefix contains comes before it, and 0 before 1 */
static int cmp_prefix(const void *a, const void *b)
{
	const struct wide *p = a, *q = b;
	int i;

	for (i = 0; i < p->len && i < q->len; i++)
		if (bit(p, i) != bit(q, i))
			return bit(p, i) ? 1 : -1;
	return (int)q->len - (int)p->len;
}

/* Many contain others, or have much in common with them */
static void random_prefixes(struct wide *p, int nr, int bits, unsigned int seed)
{
	int i, k, same;

	memset(p, 0, nr * sizeof(*p));
	for (i = 0; i < nr; i++) {
		p[i].len = rand_r(&seed) % (bits + 1);
		same = 0;
		if (i && rand_r(&seed) % 4) {
			k = rand_r(&seed) % i;
			same = rand_r(&seed) % (p[k].len + 1);
			if (same > p[i].len)
				same = p[i].len;
			while (same && rand_r(&seed) % 2)
				same--;
			if (rand_r(&seed) % 3 == 0)
				same = p[k].len < p[i].len ? p[k].len : p[i].len;
			for (int n = 0; n < same; n++)
				set_bit(&p[i], n, bit(&p[k], n));
		}
		for (; same < p[i].len; same++)
			set_bit(&p[i], same, rand_r(&seed) & 1);
	}
}

static int unique(struct wide *p, int nr)
{
	int i, n = 0;

	qsort(p, nr, sizeof(*p), cmp_prefix);
	for (i = 0; i < nr; i++)
		if (!n || cmp_prefix(&p[n - 1], &p[i]))
			p[n++] = p[i];
	return n;
}

static bool has(const struct wide *p, int nr, const struct wide *key)
{
	return bsearch(key, p, nr, sizeof(*p), cmp_prefix);
}

/* From no key, from each of them, and from some that are not there */
static void check_walk(int fd, const struct wide *p, int nr,
		       const struct wide *others, int nr_others)
{
	struct wide next = {}, beyond = { .len = ~0 };
	int i, bad = 0;

	bad += bpf_map_get_next_key(fd, NULL, &next) || cmp_prefix(&next, &p[0]);
	bad += bpf_map_get_next_key(fd, &beyond, &next) ||
	       cmp_prefix(&next, &p[0]);
	for (i = 0; i + 1 < nr; i++) {
		memset(&next, 0, sizeof(next));
		bad += bpf_map_get_next_key(fd, &p[i], &next) ||
		       memcmp(&next, &p[i + 1], sizeof(next));
	}
	bad += !bpf_map_get_next_key(fd, &p[nr - 1], &next) || errno != ENOENT;
	for (i = 0; i < nr_others; i++) {
		if (has(p, nr, &others[i]))
			continue;
		memset(&next, 0, sizeof(next));
		bad += bpf_map_get_next_key(fd, &others[i], &next) ||
		       memcmp(&next, &p[0], sizeof(next));
	}
	CHECK(bad, "walk", "%d of %d steps went wrong\n", bad, nr + nr_others);
}

static void test_walk(int size, int nr, unsigned int seed)
{
	struct wide *p, *sorted, *others;
	int fd, i, n, bad = 0;
	__u64 val = 1;

	p = calloc(3 * nr, sizeof(*p));
	if (CHECK(!p, "calloc", "no memory\n"))
		return;
	sorted = p + nr;
	others = p + 2 * nr;
	fd = create(sizeof(__u32) + size, sizeof(val), nr);
	if (CHECK(fd < 0, "create", "errno %d\n", errno))
		goto out;
	random_prefixes(p, nr, 8 * size, seed);
	/* the same ones to begin with */
	random_prefixes(others, nr, 8 * size, seed + 1);
	for (i = 0; i < nr; i++)
		bad += !!bpf_map_update_elem(fd, &p[i], &val, BPF_ANY);
	memcpy(sorted, p, nr * sizeof(*p));
	n = unique(sorted, nr);
	check_walk(fd, sorted, n, others, nr);

	/* and again without half of them */
	for (i = 0; i < n; i += 2)
		bad += !!bpf_map_delete_elem(fd, &sorted[i]);
	memcpy(others, sorted, n * sizeof(*p));
	for (i = 1; i < n; i += 2)
		sorted[i / 2] = sorted[i];
	check_walk(fd, sorted, n / 2, others, n);
	for (i = 0; i < n / 2; i++)
		bad += !!bpf_map_delete_elem(fd, &sorted[i]);
	CHECK(bad, "calls", "%d updates or deletions failed\n", bad);
	bad = !bpf_map_get_next_key(fd, NULL, &others[0]);
	CHECK(bad || errno != ENOENT, "empty", "there is one left (errno %d)\n",
	      errno);
	close(fd);
out:
	free(p);
}

/* Batches into tries that have never been used. Wants no interrupt of its own for
 * irq_work: also to be run on a machine without one.
 */
static void test_batch(void)
{
	static const struct {
		__u32 size, n;
	} cases[] = {
		{ 256, 7 }, { 256, 128 }, { 4, 8192 },
	};
	DECLARE_LIBBPF_OPTS(bpf_map_batch_opts, opts);
	int c, fd, i, bad, err;
	__u32 n, nr, chunk, key_size;
	unsigned int seed = 1;
	__u64 *vals, *got_vals;
	void *keys, *got_keys;
	struct wide token;

	for (c = 0; c < ARRAY_SIZE(cases); c++) {
		n = cases[c].n;
		key_size = sizeof(__u32) + cases[c].size;
		keys = calloc(2 * n, key_size);
		vals = calloc(2 * n, sizeof(*vals));
		if (CHECK(!keys || !vals, "calloc", "no memory\n"))
			exit(1);
		got_keys = keys + n * key_size;
		got_vals = vals + n;
		for (i = 0; i < n; i++) {
			__u32 *word = keys + i * key_size;

			word[0] = 8 * cases[c].size;
			/* no two are the same, nor are they in order */
			word[1] = htonl(i * 0x9e3779b1);
			if (cases[c].size > 4)
				word[cases[c].size / 4] = rand_r(&seed);
			vals[i] = i;
		}
		fd = create(key_size, sizeof(*vals), n);
		if (CHECK(fd < 0, "create", "case %d errno %d\n", c, errno))
			goto next;
		nr = n;
		err = bpf_map_update_batch(fd, keys, vals, &nr, &opts);
		CHECK(err || nr != n, "update_batch",
		      "case %d: %u of %u, errno %d\n", c, nr, n, errno);

		/* in three goes, of which the last finds the end */
		nr = 0;
		do {
			chunk = n / 3 + 1;
			if (chunk > n - nr)
				chunk = n - nr;
			err = bpf_map_lookup_batch(fd, nr ? &token : NULL,
						   &token,
						   got_keys + nr * key_size,
						   got_vals + nr, &chunk, &opts);
			nr += chunk;
		} while (!err && nr < n);
		CHECK(err || nr != n, "lookup_batch",
		      "case %d: %u of %u, errno %d\n", c, nr, n, errno);
		chunk = 1;
		err = bpf_map_lookup_batch(fd, &token, &token, got_keys,
					   got_vals, &chunk, &opts);
		CHECK(!err || errno != ENOENT || chunk, "lookup_batch",
		      "case %d: %u beyond the end, errno %d\n", c, chunk, errno);
		for (i = 0, bad = 0; i < nr; i++) {
			__u64 val = got_vals[i];

			if (val >= n || memcmp(got_keys + i * key_size,
					       keys + val * key_size, key_size))
				bad++;
			else
				/* not twice */
				memset(keys + val * key_size, 0, key_size);
		}
		CHECK(bad, "contents", "case %d: %d of %u wrong\n", c, bad, nr);

		nr = n;
		err = bpf_map_delete_batch(fd, got_keys, &nr, &opts);
		CHECK(err || nr != n, "delete_batch",
		      "case %d: %u of %u, errno %d\n", c, nr, n, errno);
		err = bpf_map_get_next_key(fd, NULL, &token);
		CHECK(!err || errno != ENOENT, "empty",
		      "case %d: there is one left\n", c);
		close(fd);
next:
		free(keys);
		free(vals);
	}
}

#define NR_FLAPS		64

static int lookup_batch(int fd, struct prefix *from, struct prefix *keys,
			__u64 *vals, __u32 *nr)
{
	DECLARE_LIBBPF_OPTS(bpf_map_batch_opts, opts);
	struct prefix token;
	int err;

	err = bpf_map_lookup_batch(fd, from, &token, keys, vals, nr, &opts);
	return err && errno != ENOENT ? -errno : 0;
}

static void *flap(void *arg)
{
	struct worker *w = arg;
	int fd = w->nr, i;

	pin(w->cpu);
	while (!READ_ONCE(*w->stop)) {
		for (i = 1; i < NR_FLAPS; i++)
			w->fails += !!set(fd, i << 16, 16, 1, BPF_ANY);
		for (i = 1; i < NR_FLAPS; i++)
			w->fails += !!del(fd, i << 16, 16);
		w->rounds++;
	}
	return NULL;
}

/* A batch has the value of a prefix with it, not that of a shorter one, and no
 * prefix twice, also while prefixes go.
 */
static void test_batch_churn(void)
{
	int cpus[MAX_CPUS], nr_cpus, fd, i, err = 0, bad = 0, twice = 0;
	struct prefix keys[2 * NR_FLAPS];
	__u64 vals[2 * NR_FLAPS], end;
	struct worker w = {};
	bool stop = false;
	cpu_set_t old;
	__u32 nr;

	fd = create(sizeof(struct prefix), sizeof(__u64), 2 * NR_FLAPS);
	if (CHECK(fd < 0, "create", "errno %d\n", errno))
		return;
	CHECK(set(fd, 0, 0, 1, BPF_ANY) || set(fd, 0, 8, 1, BPF_ANY), "set",
	      "failed\n");
	nr_cpus = list_cpus(cpus, MAX_CPUS);
	w = (struct worker){
		.cpu = cpus[nr_cpus - 1], .nr = fd, .stop = &stop,
	};
	if (CHECK(pthread_create(&w.thread, NULL, flap, &w), "pthread_create",
		  "failed\n"))
		goto out;
	sched_getaffinity(0, sizeof(old), &old);
	pin(cpus[0]);
	for (end = now_ms() + 3000; now_ms() < end;) {
		bool seen[NR_FLAPS] = {};

		nr = ARRAY_SIZE(keys);
		err = err ? : lookup_batch(fd, NULL, keys, vals, &nr);
		for (i = 0; i < nr; i++) {
			bool *net = &seen[ntohl(keys[i].addr) >> 16];

			bad += vals[i] != VALUE(ntohl(keys[i].addr), keys[i].len, 1);
			twice += keys[i].len == 16 && *net;
			*net |= keys[i].len == 16;
		}
	}
	sched_setaffinity(0, sizeof(old), &old);
	WRITE_ONCE(stop, true);
	join_workers("flap", &w, 1);
	CHECK(err, "lookup_batch", "%d\n", err);
	CHECK(bad, "values", "%d of other prefixes\n", bad);
	CHECK(twice, "prefixes", "%d twice\n", twice);
out:
	close(fd);
}

/* A batch goes on behind a prefix that is not there any more */
static void test_batch_gone(void)
{
	struct prefix key, want, got;
	int fd, i, err, bad = 0;
	unsigned int seed = 1;
	__u32 nr, len;
	__u64 val;

	fd = create(sizeof(struct prefix), sizeof(__u64), 4096);
	if (CHECK(fd < 0, "create", "errno %d\n", errno))
		return;
	for (i = 0; i < 200; i++) {
		len = rand_r(&seed) % 9;
		CHECK(set(fd, NET(rand_r(&seed) << 24, len), len, 1, BPF_ANY),
		      "set", "failed\n");
	}
	for (i = 0; i < 2000; i++) {
		len = rand_r(&seed) % 10;
		key = (struct prefix){ len, 0 };
		key.addr = htonl(NET((rand_r(&seed) & 0x1ff) << 23, len));
		/* what comes after it when it is there */
		if (set(fd, ntohl(key.addr), len, 1, BPF_NOEXIST))
			continue;
		err = bpf_map_get_next_key(fd, &key, &want);
		CHECK(del(fd, ntohl(key.addr), len), "del", "failed\n");
		nr = 1;
		if (lookup_batch(fd, &key, &got, &val, &nr) || nr != !err ||
		    (nr && memcmp(&got, &want, sizeof(got))))
			bad++;
	}
	CHECK(bad, "lookup_batch", "%d began elsewhere\n", bad);
	close(fd);
}

/* In a cgroup at its limit, system calls take the place of page cache; when that
 * is used up they say -ENOMEM, and nothing is killed. All that was charged comes
 * back.
 */
static void test_cgroup_full(void)
{
	static const int value_size = 1000;
	struct prefix key = { 32 };
	long long start, cache, kills, now;
	char val[value_size];
	int fd = -1, err, i;

	if (!memcg_ready(memcg_setup_kmem(__func__)))
		return;
	memset(val, 0, sizeof(val));
	if (CHECK(!memcg_write(MEMCG_CREATOR, "memory.max", "12M"), "limit",
		  "errno %d\n", errno))
		goto out;
	memcg_enter(MEMCG_CREATOR);
	read_self();
	memcg_leave();
	start = memcg_settled(MEMCG_CREATOR);
	cache = memcg_number(MEMCG_CREATOR, "memory.stat", "file ");
	CHECK(cache < 6 * MB, "cache", "only %lld bytes cached\n", cache);
	/* what its index takes stays */
	start -= cache;
	memcg_enter(MEMCG_CREATOR);
	fd = create(sizeof(key), value_size, 1 << 16);
	memcg_leave();
	if (CHECK(fd < 0, "create", "errno %d\n", errno))
		goto out;
	/* 6 MB, where 12 MB are full of page cache */
	for (i = 0, err = 0; !err && i < 6 * MB / 1100; i++) {
		key.addr = htonl(i);
		err = bpf_map_update_elem(fd, &key, val, BPF_ANY);
	}
	CHECK(err, "page cache", "update %d: errno %d\n", i, errno);
	/* and replaced, which takes more until a grace period is over */
	for (i = 0, err = 0; !err && i < 6 * MB / 1100; i++) {
		key.addr = htonl(i);
		err = bpf_map_update_elem(fd, &key, val, BPF_EXIST);
	}
	CHECK(err, "replace", "%d: errno %d\n", i, errno);
	/* 64 MB do not fit */
	for (i = 0, err = 0; !err && i < 1 << 16; i++) {
		key.addr = htonl(i);
		err = bpf_map_update_elem(fd, &key, val, BPF_ANY);
	}
	CHECK(!err || errno != ENOMEM, "limit", "update %d: err %d, errno %d\n", i,
	      err, errno);
	kills = memcg_number(MEMCG_CREATOR, "memory.events", "oom_kill ");
	CHECK(kills, "oom_kill", "%lld\n", kills);
	now = memcg_charged(MEMCG_CREATOR);
	CHECK(now > 12 * MB, "limit", "exceeded: %lld bytes\n", now);
	close(fd);
	/* the page cache goes, too, if there is room for nothing else */
	now = memcg_number(MEMCG_CREATOR, "memory.stat", "file ");
	printf("%lld bytes of page cache left of %lld\n", now, cache);
	start += now;
	now = memcg_wait(MEMCG_CREATOR, start + MEMCG_SLACK, 10000);
	CHECK(now > start + MEMCG_SLACK, "after", "%lld bytes leaked\n",
	      now - start);
out:
	memcg_cleanup();
}

/* Replace a prefix while a grace period is held open */

struct replacer {
	pthread_t thread;
	int fd;
	bool stop;
	__u64 rounds;
	int err;
};

static void *replacer(void *arg)
{
	struct replacer *r = arg;

	while (!READ_ONCE(r->stop) && !r->err) {
		r->err = set(r->fd, HOT_NET, 24, r->rounds & 0xff, BPF_EXIST);
		r->rounds++;
	}
	return NULL;
}

/* Until it waits; returns how long it took to get there, in ms */
static int await_standstill(struct replacer *r, int limit)
{
	__u64 start = now_ms(), last = ~0ULL, moved = start;

	while (now_ms() - moved < 500 && now_ms() - start < limit) {
		if (READ_ONCE(r->rounds) != last) {
			last = r->rounds;
			moved = now_ms();
		}
		usleep(10000);
	}
	return moved - start;
}

/* Who waits can be killed */
static void check_kill(int fd)
{
	int status = 0, i;
	pid_t child;

	child = fork();
	if (!child) {
		for (;;)
			set(fd, HOT_NET, 24, 1, BPF_EXIST);
	}
	if (CHECK(child < 0, "fork", "errno %d\n", errno))
		return;
	usleep(300000);
	CHECK(waitpid(child, &status, WNOHANG), "wait", "status %x\n", status);
	kill(child, SIGKILL);
	for (i = 0; i < 500 && !waitpid(child, &status, WNOHANG); i++)
		usleep(10000);
	CHECK(!WIFSIGNALED(status), "kill", "still there after 5 s\n");
}

static void test_churn_held(void)
{
	long long before, peak, waiting, most;
	struct replacer r = {};
	struct lpm_trie *skel;
	struct holder h = {};
	int fd, ms, err, i, limit;
	__u64 rounds = 0;

	if (!can_attach_fentry())
		return;
	skel = OPEN_WITH("hold", "run_replace");
	if (!skel)
		return;
	fd = bpf_map__fd(skel->maps.trie);
	skel->bss->first_addr = HOT_NET;
	err = set(fd, HOT_NET, 24, 1, BPF_NOEXIST) ? :
	      set(fd, HOT_NET, 32, 1, BPF_NOEXIST);
	if (CHECK(err, "update", "%d\n", err))
		goto out;
	skel->links.hold = attach(skel->progs.hold);
	if (!skel->links.hold)
		goto out;
	skel->bss->pid = getpid();
	if (CHECK(!hold_start(&h, &skel->bss->hold_ptr, &skel->bss->held), "hold",
		  "no program waits\n"))
		goto out;
	before = read_fdinfo(fd, "memlock:");
	/* what the program has looked up stays as it is */
	err = del(fd, HOT_NET, 32);
	CHECK(err, "delete", "%d\n", err);

	r.fd = fd;
	err = pthread_create(&r.thread, NULL, replacer, &r);
	if (CHECK(err, "pthread_create", "err %d\n", err))
		goto release;
	/* so many updates take minutes where everything is checked */
	limit = has_kasan() ? 300000 : 20000;
	ms = await_standstill(&r, limit);
	rounds = READ_ONCE(r.rounds);
	waiting = read_fdinfo(fd, "elems_waiting:");
	printf("%lld nodes wait after %llu updates and %d ms\n", waiting, rounds,
	       ms);
	CHECK(r.err, "update", "%d, expected to wait\n", r.err);
	CHECK(ms > limit - 500, "standstill", "after %d ms\n", ms);
	CHECK(rounds < MAX_WAITING - 1 || rounds > MAX_WAITING + 256, "standstill",
	      "after %llu updates, expected %d\n", rounds, MAX_WAITING);
	CHECK(skel->bss->held != 1, "hold", "held %d\n", skel->bss->held);

	/* who cannot wait learns that there are no more, and then there are not */
	for (i = 0; i < 4; i++)
		err = run_prog(skel->progs.run_replace, 0);
	CHECK(err || !skel->bss->run[NOMEM] || skel->bss->run[OTHER], "program",
	      "errno %d, %llu succeeded, -ENOMEM %llu, others %llu\n", errno,
	      skel->bss->run[OK], skel->bss->run[NOMEM], skel->bss->run[OTHER]);
	check_kill(fd);
	peak = read_fdinfo(fd, "memlock:");
	most = (MAX_WAITING + 256LL) * NODE_SIZE +
	       2 * CACHED_BYTES * libbpf_num_possible_cpus();
	CHECK(peak - before > most, "peak", "%lld bytes, expected %lld at most\n",
	      peak - before, most);
	CHECK(READ_ONCE(r.rounds) > rounds + 256, "standstill",
	      "%llu updates more\n", READ_ONCE(r.rounds) - rounds);
	rounds = READ_ONCE(r.rounds);
release:
	CHECK(hold_stop(&h), "release", "errno %d\n", errno);
	if (!r.thread)
		goto out;
	limit = has_kasan() ? 60 : 5;
	for (i = 0; i < limit * 100 && READ_ONCE(r.rounds) < rounds + 1000; i++)
		usleep(10000);
	CHECK(READ_ONCE(r.rounds) < rounds + 1000, "released",
	      "%llu updates in %d s\n", READ_ONCE(r.rounds) - rounds, limit);
	WRITE_ONCE(r.stop, true);
	pthread_join(r.thread, NULL);
	CHECK(r.err, "update", "%d\n", r.err);
	CHECK(skel->bss->value_before != VALUE(HOT_NET, 32, 1) ||
	      skel->bss->value_after != skel->bss->value_before, "value",
	      "%llx then %llx\n", skel->bss->value_before,
	      skel->bss->value_after);
	for (i = 0; i < 500 && read_fdinfo(fd, "elems_waiting:"); i++)
		usleep(10000);
	CHECK(i == 500, "settled", "%lld still wait\n",
	      read_fdinfo(fd, "elems_waiting:"));
out:
	lpm_trie__destroy(skel);
}

/* Large tries */

/* Free memory when that is back which the trie took, or after 10 s */
static double await_free(double kb)
{
	double now;
	int i;

	for (i = 0; i < 100; i++) {
		now = free_kb();
		if (now >= kb)
			break;
		usleep(100000);
	}
	return now;
}

static void test_teardown(void)
{
	DECLARE_LIBBPF_OPTS(bpf_map_batch_opts, opts);
	const __u32 nr = 100000, batch = 10000;
	double before, full, after;
	struct wide deep = {};
	struct prefix *keys;
	struct watchdog watchdog;
	__u32 i, n, done;
	__u64 *vals;
	int fd;

	if (!watchdog_start(&watchdog, __func__))
		return;
	keys = calloc(batch, sizeof(*keys));
	vals = calloc(batch, sizeof(*vals));
	if (CHECK(!keys || !vals, "calloc", "no memory\n"))
		exit(1);
	memset(keys, 1, batch * sizeof(*keys));
	memset(vals, 1, batch * sizeof(*vals));
	before = free_kb();
	fd = create(sizeof(*keys), sizeof(*vals), nr);
	if (CHECK(fd < 0, "create", "errno %d\n", errno))
		goto out;
	for (done = 0; done < nr; done += n) {
		n = batch;
		for (i = 0; i < n; i++) {
			keys[i].len = 32;
			keys[i].addr = (done + i) * 0x9e3779b1;
		}
		if (CHECK(bpf_map_update_batch(fd, keys, vals, &n, &opts), "fill",
			  "errno %d after %u\n", errno, done + n))
			break;
	}
	full = free_kb();
	/* and there are almost as many intermediate ones */
	CHECK(before - full < nr / 1024.0 * NODE_SIZE, "full",
	      "only %.0f kB taken\n", before - full);
	close(fd);

	/* as deep as they get */
	fd = create(sizeof(deep), sizeof(*vals), 2049);
	if (CHECK(fd < 0, "create", "errno %d\n", errno))
		goto out;
	for (deep.len = 0; deep.len <= 2048; deep.len++)
		if (CHECK(bpf_map_update_elem(fd, &deep, vals, BPF_NOEXIST),
			  "deep", "%u: errno %d\n", deep.len, errno))
			break;
	close(fd);
	/* what slab keeps for itself is less than a quarter */
	after = await_free(before - (before - full) / 4);
	CHECK(after < before - (before - full) / 4, "after",
	      "%.0f of %.0f kB not given back\n", before - after, before - full);
out:
	CHECK(watchdog_stop(&watchdog), "watchdog", "soft lockup\n");
	free(keys);
	free(vals);
}

void test_lpm_trie(void)
{
	char name[64];
	int i;

	for (i = 0; i < ARRAY_SIZE(contexts); i++) {
		snprintf(name, sizeof(name), "contexts/%s", contexts[i].name);
		if (test__start_subtest(name))
			test_context(&contexts[i]);
	}
	if (test__start_subtest("burst"))
		test_burst();
	if (test__start_subtest("nested_nmi"))
		test_nested_nmi();
	if (test__start_subtest("nested_kprobe"))
		test_nested_kprobe();
	if (test__start_subtest("reuse"))
		test_reuse();
	if (test__start_subtest("readers"))
		test_readers();
	if (test__start_subtest("full"))
		test_full();
	if (test__start_subtest("walk")) {
		for (i = 0; i < 10; i++)
			test_walk(4, 300, i);
		for (i = 0; i < 10; i++)
			test_walk(1, 100, i);
		test_walk(13, 300, 1);
		test_walk(256, 300, 1);
	}
	if (test__start_subtest("batch"))
		test_batch();
	if (test__start_subtest("batch_churn"))
		test_batch_churn();
	if (test__start_subtest("batch_gone"))
		test_batch_gone();
	if (test__start_subtest("cgroup_full"))
		test_cgroup_full();
	if (test__start_subtest("churn_held"))
		test_churn_held();
	if (test__start_subtest("teardown"))
		test_teardown();
}
