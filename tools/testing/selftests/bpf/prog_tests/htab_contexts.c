// SPDX-License-Identifier: GPL-2.0
/* Dynamic hash maps (BPF_F_NO_PREALLOC) of each type, written in each context
 * while syscalls on other CPUs write other keys of the same map. Each subtest
 * checks what the map holds in the end.
 */
#define _GNU_SOURCE
#include <net/if.h>
#include <linux/compiler.h>
#include <linux/if_link.h>
#include <test_progs.h>
#include "cgroup_helpers.h"
#include "htab_helpers.h"
#include "progs/htab_contexts.h"
#include "htab_contexts.skel.h"

#define NR_STEPS	128
#define NR_KEYS		64
#define CGROUP		"/htab_contexts"

static int duration;

struct map_type {
	const char *name;
	const char *maps[2];	/* those that programs write to */
	bool percpu;
	bool outer;
};

static const struct map_type map_types[] = {
	{ "hash", { "hash" } },
	{ "percpu_hash", { "percpu_hash" }, .percpu = true },
	{ "hash_of_maps", { "inner1", "inner2" }, .outer = true },
};

struct run;

struct context {
	const char *name;
	const char *prog;	/* NULL: writes by syscall */
	void (*attach)(struct run *r);
	/* has the program run, at least once if all is well */
	void (*trigger)(struct run *r);
	bool fentry;	/* called as such programs are */
	bool sleepable;
};

/* A thread with keys of its own, the same ones in each map */
struct writer {
	pthread_t thread;
	struct run *r;
	int cpu;
	__u64 keys[NR_KEYS];
	__u64 gen[2][NR_KEYS];	/* what they hold, 0: nothing */
	__u64 rounds, fails, wrong;
};

struct run {
	const struct map_type *type;
	const struct context *ctx;
	struct htab_contexts *skel;
	struct bpf_program *prog;
	struct bpf_link *links[MAX_CPUS];
	int nr_links;
	int fds[2], nr_fds, outer;
	int cpus[MAX_CPUS], nr_cpus;
	int nr_vals;		/* in what a lookup copies */
	int rx, tx;		/* a pair of sockets */
	bool stop;
	struct writer writers[MAX_CPUS];
	int nr_writers;
	__u64 rounds;		/* that they had done when last looked at */
	pthread_t replacer;
	int replaced, fails;
};

#define ALL_CPUS	-1
#define ANY_CPU		-2

/* Does the map hold this, in the value of @cpu, with zeros for the others? */
static bool holds(struct run *r, int fd, __u64 key, __u64 gen, int cpu)
{
	struct htab_val vals[r->nr_vals], want, zero = {};
	int i, nr = 0;

	memset(vals, 0xff, sizeof(vals));
	if (bpf_map_lookup_elem(fd, &key, vals))
		return false;
	fill(&want, key, gen);
	if (!r->type->percpu)
		return !memcmp(&vals[0], &want, sizeof(want));
	for (i = 0; i < r->nr_vals; i++) {
		if (!memcmp(&vals[i], &want, sizeof(want)))
			nr++;
		else if (memcmp(&vals[i], &zero, sizeof(zero)))
			return false;
		else if (i == cpu)
			return false;
	}
	return nr == (cpu == ALL_CPUS ? r->nr_vals : 1);
}

static bool lacks(struct run *r, int fd, __u64 key)
{
	struct htab_val vals[r->nr_vals];

	return bpf_map_lookup_elem(fd, &key, vals) && errno == ENOENT;
}

/* the same value for all CPUs */
static int set_elem(struct run *r, int fd, __u64 key, __u64 gen, __u64 flags)
{
	struct htab_val vals[r->nr_vals];
	int i;

	for (i = 0; i < r->nr_vals; i++)
		fill(&vals[i], key, gen);
	return bpf_map_update_elem(fd, &key, vals, flags);
}

/* Find keys such that no two are in one bucket: then no operation has reason to
 * refuse one of them because it interrupts one on another.
 */
static void choose_keys(struct run *r)
{
	bool *taken = calloc(NR_BUCKETS, sizeof(*taken));
	int cpu, i;
	__u64 key = 0;

	for (cpu = 0; cpu < MAX_CPUS; cpu++) {
		for (i = 0; i < MAX_STEPS + NR_KEYS; i++) {
			key = take_bucket(taken, NR_BUCKETS, key + 1);
			if (i < MAX_STEPS)
				r->skel->bss->keys[cpu][i] = key;
			else
				r->writers[cpu].keys[i - MAX_STEPS] = key;
		}
	}
	free(taken);
}

/* Write keys of this thread, delete and read them; read those that programs
 * write.
 */
static void *writer(void *arg)
{
	struct writer *w = arg;
	struct run *r = w->r;
	unsigned int seed = w->cpu;

	pin(w->cpu);
	while (!READ_ONCE(r->stop)) {
		int m = w->rounds++ % r->nr_fds, i, fd = r->fds[m];
		struct htab_val vals[r->nr_vals];
		__u64 key, gen;

		i = rand_r(&seed) % NR_KEYS;
		key = w->keys[i];
		gen = w->gen[m][i];
		w->wrong += gen ? !holds(r, fd, key, gen, ALL_CPUS) :
				  !lacks(r, fd, key);
		gen = rand_r(&seed) % 4;
		if (gen)
			w->fails += !!set_elem(r, fd, key, gen, BPF_ANY);
		else if (w->gen[m][i])
			w->fails += !!bpf_map_delete_elem(fd, &key);
		w->gen[m][i] = gen;

		key = r->skel->bss->keys[r->cpus[0]][w->rounds % MAX_STEPS];
		bpf_map_lookup_elem(fd, &key, vals);
	}
	return NULL;
}

/* Put one inner map in the place of the other; each time waits for RCU. */
static void *replacer(void *arg)
{
	struct run *r = arg;
	__u32 zero = 0;

	pin(r->cpus[r->nr_cpus - 1]);
	while (!READ_ONCE(r->stop)) {
		int fd = r->fds[++r->replaced % r->nr_fds];

		r->fails += !!bpf_map_update_elem(r->outer, &zero, &fd,
						  BPF_ANY);
	}
	return NULL;
}

/* One on each CPU but the first, which is left to the programs */
static void start_writers(struct run *r)
{
	int i, err, nr = r->nr_cpus > 1 ? r->nr_cpus - 1 : 1;

	for (i = 0; i < nr; i++) {
		struct writer *w = &r->writers[i];

		w->r = r;
		w->cpu = r->cpus[r->nr_cpus - 1 - i];
		err = pthread_create(&w->thread, NULL, writer, w);
		if (CHECK(err, "pthread_create", "err %d\n", err))
			break;
		r->nr_writers++;
	}
	if (r->outer)
		pthread_create(&r->replacer, NULL, replacer, r);
}

/* The sum of what all CPUs did */
static int nr_steps(struct run *r)
{
	int i, nr = 0;

	for (i = 0; i < MAX_CPUS; i++)
		nr += READ_ONCE(r->skel->bss->steps[i]);
	return nr;
}

static __u64 nr_rounds(struct run *r)
{
	__u64 nr = 0;
	int i;

	for (i = 0; i < r->nr_writers; i++)
		nr += READ_ONCE(r->writers[i].rounds);
	return nr;
}

/* Until the writers together did so much more than the last time, and for each
 * 32 steps the inner map was replaced
 */
static void await_writers(struct run *r, int rounds)
{
	__u64 end = now_ms() + 1000;

	while ((nr_rounds(r) < r->rounds + rounds ||
		(r->outer && READ_ONCE(r->replaced) < nr_steps(r) / 32)) &&
	       now_ms() < end)
		usleep(100);
	r->rounds = nr_rounds(r);
}

static void stop_writers(struct run *r)
{
	int i;

	WRITE_ONCE(r->stop, true);
	for (i = 0; i < r->nr_writers; i++)
		pthread_join(r->writers[i].thread, NULL);
	if (r->replacer)
		pthread_join(r->replacer, NULL);
}

/* What a program has in its bss, done by syscall */
static void trigger_syscall(struct run *r)
{
	struct htab_contexts__bss *bss = r->skel->bss;
	int nr = bss->steps[0]++, fd = r->fds[nr % r->nr_fds], err = 0;
	__u64 key = bss->keys[0][nr];

	err |= set_elem(r, fd, key, 1, BPF_NOEXIST);
	err |= !holds(r, fd, key, 1, ALL_CPUS);
	err |= set_elem(r, fd, key, 2, BPF_EXIST);
	err |= !holds(r, fd, key, 2, ALL_CPUS);
	if (nr & 1) {
		err |= bpf_map_delete_elem(fd, &key);
		err |= !lacks(r, fd, key);
	}
	bss->wrong += !!err;
}

static void trigger_batch(struct run *r)
{
	struct htab_val *vals = calloc(NR_STEPS * r->nr_vals, sizeof(*vals));
	DECLARE_LIBBPF_OPTS(bpf_map_batch_opts, opts);
	struct htab_contexts__bss *bss = r->skel->bss;
	__u64 gen, odd[NR_STEPS / 2];
	int i, err, fd = r->fds[0];
	__u32 nr;

	for (gen = 1; gen <= 2; gen++) {
		for (i = 0; i < NR_STEPS * r->nr_vals; i++)
			fill(&vals[i], bss->keys[0][i / r->nr_vals], gen);
		nr = NR_STEPS;
		err = bpf_map_update_batch(fd, bss->keys[0], vals, &nr, &opts);
		CHECK(err || nr != NR_STEPS, "update_batch",
		      "stopped after %u of %d, errno %d\n", nr, NR_STEPS,
		      errno);
		for (i = 0; i < NR_STEPS; i++)
			bss->wrong += !holds(r, fd, bss->keys[0][i], gen,
					     ALL_CPUS);
	}
	for (i = 0; i < NR_STEPS / 2; i++)
		odd[i] = bss->keys[0][2 * i + 1];
	nr = NR_STEPS / 2;
	err = bpf_map_delete_batch(fd, odd, &nr, &opts);
	CHECK(err || nr != NR_STEPS / 2, "delete_batch",
	      "stopped after %u of %d, errno %d\n", nr, NR_STEPS / 2, errno);
	bss->steps[0] = NR_STEPS;
	free(vals);
}

/* A plain nanosleep(), which glibc does not use */
static void trigger_nap(struct run *r)
{
	struct timespec ts = { .tv_nsec = 100000 };

	syscall(__NR_nanosleep, &ts, NULL);
}

static void trigger_exec(struct run *r)
{
	pid_t child = fork();
	int status = -1;

	if (!child) {
		r->skel->bss->pid = getpid();
		execlp("true", "true", NULL);
		_exit(1);
	}
	waitpid(child, &status, 0);
	CHECK(status, "exec", "status %d\n", status);
	/* the writers are not to run the program */
	r->skel->bss->pid = getpid();
}

/* The clocks tick meanwhile. */
static void trigger_wait(struct run *r)
{
	__u64 end = now_ms() + 5;

	while (now_ms() < end)
		;
}

static bool enough_steps(void *arg)
{
	return nr_steps(arg) >= NR_STEPS;
}

static void trigger_nmi(struct run *r)
{
	send_nmis(enough_steps, r, 10000);
}

static void trigger_packet(struct run *r)
{
	char buf[64] = {};

	if (send(r->tx, buf, sizeof(buf), 0) == sizeof(buf))
		recv(r->rx, buf, sizeof(buf), 0);
}

static void trigger_test_run(struct run *r)
{
	char pkt[64] = {};
	int err;

	err = bpf_prog_test_run(bpf_program__fd(r->prog), 1, pkt, sizeof(pkt),
				NULL, NULL, NULL, NULL);
	CHECK(err, "test_run", "errno %d\n", errno);
}

static void add_link(struct run *r, struct bpf_link *link)
{
	if (!CHECK(IS_ERR(link), "attach", "err %ld\n", PTR_ERR(link)))
		r->links[r->nr_links++] = link;
}

static void attach(struct run *r)
{
	add_link(r, bpf_program__attach(r->prog));
}

static void attach_tracepoint(struct run *r)
{
	add_link(r, bpf_program__attach_tracepoint(r->prog, "syscalls",
						   "sys_enter_"
						   SYS_NANOSLEEP_NAME));
}

static void attach_kprobe(struct run *r)
{
	add_link(r, bpf_program__attach_kprobe(r->prog, false,
					       SYS_NANOSLEEP_KPROBE_NAME));
}

static void attach_kretprobe(struct run *r)
{
	add_link(r, bpf_program__attach_kprobe(r->prog, true,
					       SYS_NANOSLEEP_KPROBE_NAME));
}

/* To the clock of each CPU, so that it interrupts the writers, too */
static void attach_clocks(struct run *r)
{
	int i, pfd;

	for (i = 0; i < r->nr_cpus; i++) {
		pfd = open_clock(-1, r->cpus[i], 1000);
		if (CHECK(pfd < 0, "perf_event_open", "errno %d\n", errno))
			return;
		add_link(r, bpf_program__attach_perf_event(r->prog, pfd));
	}
}

static void open_sockets(struct run *r)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	struct timeval second = { .tv_sec = 1 };
	socklen_t len = sizeof(addr);
	int err;

	r->rx = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	r->tx = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	err = bind(r->rx, (struct sockaddr *)&addr, len);
	err = err ? : getsockname(r->rx, (struct sockaddr *)&addr, &len);
	err = err ? : connect(r->tx, (struct sockaddr *)&addr, len);
	err = err ? : setsockopt(r->rx, SOL_SOCKET, SO_RCVTIMEO, &second,
				 sizeof(second));
	CHECK(err, "socket", "errno %d\n", errno);
}

/* The kernel's own XDP, for lo's driver has none */
static void attach_xdp(struct run *r)
{
	int err;

	open_sockets(r);
	err = bpf_set_link_xdp_fd(if_nametoindex("lo"),
				  bpf_program__fd(r->prog),
				  XDP_FLAGS_SKB_MODE);
	CHECK(err, "attach", "to lo: err %d\n", err);
}

static void attach_socket(struct run *r)
{
	int fd = bpf_program__fd(r->prog), err;

	open_sockets(r);
	err = setsockopt(r->rx, SOL_SOCKET, SO_ATTACH_BPF, &fd, sizeof(fd));
	CHECK(err, "attach", "to the socket: errno %d\n", errno);
}

static void attach_cgroup(struct run *r)
{
	int cgroup = test__join_cgroup(CGROUP);

	if (CHECK(cgroup < 0, "join_cgroup", "err %d\n", cgroup))
		return;
	open_sockets(r);
	add_link(r, bpf_program__attach_cgroup(r->prog, cgroup));
	close(cgroup);
}

static void detach(struct run *r)
{
	while (r->nr_links)
		bpf_link__destroy(r->links[--r->nr_links]);
	if (r->ctx->attach == attach_xdp)
		bpf_set_link_xdp_fd(if_nametoindex("lo"), -1,
				    XDP_FLAGS_SKB_MODE);
	if (r->rx) {
		close(r->rx);
		close(r->tx);
	}
}

static const struct context contexts[] = {
	{ "syscall", NULL, NULL, trigger_syscall },
	{ "syscall_batch", NULL, NULL, trigger_batch },
	{ "kprobe", "kprobe", attach_kprobe, trigger_nap },
	{ "kretprobe", "kretprobe", attach_kretprobe, trigger_nap },
	{ "tracepoint", "tracepoint", attach_tracepoint, trigger_nap },
	{ "raw_tp", "raw_tp", attach, trigger_nap },
	{ "raw_tp_irqoff", "raw_tp_irqoff", attach, trigger_nap },
	{ "nmi", "nmi", attach, trigger_nmi },
	{ "fentry", "fentry", attach, trigger_nap, .fentry = true },
	{ "fexit", "fexit", attach, trigger_nap, .fentry = true },
	{ "perf_event", "perf_event", attach_clocks, trigger_wait },
	{ "fentry.s", "fentry_s", attach, trigger_nap, .fentry = true,
	  .sleepable = true },
	{ "lsm.s", "lsm_s", attach, trigger_exec, .fentry = true,
	  .sleepable = true },
	{ "xdp", "xdp", attach_xdp, trigger_packet },
	{ "tc", "tc", NULL, trigger_test_run },
	{ "socket_filter", "socket_filter", attach_socket, trigger_packet },
	{ "cgroup_skb", "cgroup_skb", attach_cgroup, trigger_packet },
};

static void check_count(const char *what, const struct htab_count *c,
			__u64 tries)
{
	CHECK(c->tries != tries, what, "%llu tried, expected %llu\n", c->tries,
	      tries);
	CHECK(c->ok != tries, what,
	      "%llu of %llu succeeded (-EBUSY %llu, -ENOMEM %llu), expected all\n",
	      c->ok, tries, c->busy, c->nomem);
}

/* Is what step @nr of this CPU left right? */
static bool step_right(struct run *r, int cpu, int nr, bool done)
{
	__u64 key = r->skel->bss->keys[cpu][nr];
	int i, nr_here = 0, nr_lack = 0;

	if (!r->ctx->prog)
		cpu = ALL_CPUS;
	else if (r->ctx->sleepable)
		cpu = ANY_CPU;
	for (i = 0; i < r->nr_fds; i++) {
		nr_here += holds(r, r->fds[i], key, 2, cpu);
		nr_lack += lacks(r, r->fds[i], key);
	}
	/* it was one of the inner maps that the program found */
	if (done && !(nr & 1))
		return nr_here == 1 && nr_lack == r->nr_fds - 1;
	return nr_lack == r->nr_fds;
}

static void check(struct run *r)
{
	struct htab_contexts__bss *bss = r->skel->bss;
	int i, m, k, nr = nr_steps(r), elems = 0, found = 0, bad = 0;
	int deleted = 0;

	CHECK(nr < NR_STEPS, "steps", "%d, expected %d\n", nr, NR_STEPS);
	for (i = 0; i < MAX_CPUS; i++) {
		for (k = 0; k < MAX_STEPS; k++)
			bad += !step_right(r, i, k, k < bss->steps[i]);
		deleted += bss->steps[i] / 2;
	}
	CHECK(bad, "contents", "%d of the programs' keys wrong\n", bad);
	if (r->ctx->prog) {
		check_count("updates", &bss->updates,
			    r->ctx->sleepable ? nr : 2 * nr);
		check_count("deletes", &bss->deletes, deleted);
	}
	CHECK(bss->wrong, "lookup", "%llu in the program went wrong\n",
	      bss->wrong);
	if (bss->spent)
		printf("%s/%s: tried again %llu times, with the reserve spent\n",
		       r->type->name, r->ctx->name, bss->spent);
	CHECK(bss->absent, "outer", "%llu times no inner map\n", bss->absent);
	CHECK(r->outer && (r->fails || r->replaced < 2), "outer",
	      "%d replacements, %d of them failed\n", r->replaced, r->fails);

	CHECK(nr_rounds(r) < NR_KEYS, "writers", "%llu rounds, expected %d\n",
	      nr_rounds(r), NR_KEYS);
	bad = 0;
	elems = nr - deleted;
	for (i = 0; i < r->nr_writers; i++) {
		struct writer *w = &r->writers[i];

		CHECK(w->fails || w->wrong, "writer",
		      "%llu failed, %llu lookups went wrong, in %llu rounds\n",
		      w->fails, w->wrong, w->rounds);
		for (m = 0; m < r->nr_fds; m++) {
			for (k = 0; k < NR_KEYS; k++) {
				__u64 key = w->keys[k], gen = w->gen[m][k];

				if (gen)
					bad += !holds(r, r->fds[m], key, gen,
						      ALL_CPUS);
				else
					bad += !lacks(r, r->fds[m], key);
				elems += !!gen;
			}
		}
	}
	CHECK(bad, "contents", "%d of the writers' keys wrong\n", bad);
	for (m = 0; m < r->nr_fds; m++)
		found += nr_elems(r->fds[m]);
	CHECK(found != elems, "contents", "%d elements, expected %d\n", found,
	      elems);
}

/* Open the object, load the one program */
static bool prepare(struct run *r)
{
	const struct map_type *type = r->type;
	char name[64] = "";
	const char *const names[] = { name };
	int i, err;

	r->nr_cpus = list_cpus(r->cpus, MAX_CPUS);
	r->nr_vals = type->percpu ? bpf_num_possible_cpus() : 1;

	r->skel = htab_contexts__open();
	if (CHECK(!r->skel, "open", "skeleton failed to open\n"))
		return false;
	if (r->ctx->prog)
		snprintf(name, sizeof(name), "%s_%s", type->name, r->ctx->prog);
	autoload_only(r->skel->obj, names, 1);
	r->prog = bpf_object__find_program_by_name(r->skel->obj, name);
	err = htab_contexts__load(r->skel);
	if (CHECK(err, "load", "%s refused (%d), expected to pass\n", name,
		  err))
		return false;
	for (i = 0; i < 2 && type->maps[i]; i++)
		r->fds[r->nr_fds++] =
			bpf_object__find_map_fd_by_name(r->skel->obj,
							type->maps[i]);
	if (type->outer)
		r->outer = bpf_map__fd(r->skel->maps.outer);
	choose_keys(r);
	return true;
}

static void test_one(const struct map_type *type, const struct context *ctx)
{
	struct run *r;
	cpu_set_t old;
	__u64 end;

	if ((ctx->trigger == trigger_nmi && !can_send_nmis()) ||
	    (ctx->fentry && !can_attach_fentry()))
		return;
	r = calloc(1, sizeof(*r));
	r->type = type;
	r->ctx = ctx;
	sched_getaffinity(0, sizeof(old), &old);
	if (!prepare(r))
		goto out;
	/* those that may sleep may migrate */
	if (!ctx->sleepable)
		pin(r->cpus[0]);
	start_writers(r);
	if (ctx->attach)
		ctx->attach(r);
	await_writers(r, NR_KEYS);
	/* a debug kernel execs slowly */
	end = now_ms() + 60000;
	r->skel->bss->pid = getpid();
	while (nr_steps(r) < NR_STEPS && now_ms() < end) {
		ctx->trigger(r);
		await_writers(r, 1);
	}
	r->skel->bss->pid = 0;
	detach(r);
	stop_writers(r);
	check(r);
out:
	sched_setaffinity(0, sizeof(old), &old);
	htab_contexts__destroy(r->skel);
	free(r);
}

void test_htab_contexts(void)
{
	char name[64];
	int i, k;

	for (i = 0; i < ARRAY_SIZE(map_types); i++) {
		for (k = 0; k < ARRAY_SIZE(contexts); k++) {
			snprintf(name, sizeof(name), "%s/%s",
				 map_types[i].name, contexts[k].name);
			if (test__start_subtest(name))
				test_one(&map_types[i], &contexts[k]);
		}
	}
}
