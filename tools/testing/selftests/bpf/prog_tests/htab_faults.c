// SPDX-License-Identifier: GPL-2.0
/* Dynamic hash maps when allocations fail, at rates up to all of them, while
 * programs in all contexts and system calls write them; when the cgroup of their
 * creator is at its limit; and all maps and programs when the first, the second,
 * the third... allocation fails while they are made. -ENOMEM comes out and
 * nothing else, no value is lost, nothing leaks, and it works again afterwards.
 */
#define _GNU_SOURCE
#include <sys/mount.h>
#include <test_progs.h>
#include "htab_helpers.h"
#include "memcg_helpers.h"
#include "trace_helpers.h"
#include "progs/alloc_faults.h"
#include "progs/htab_faults.h"
#include "alloc_faults.skel.h"
#include "htab_faults.skel.h"

#define NR_TRIES	96	/* of each context with each map, in a phase */
#define BATCH		8
#define ERR_NO_JIT	524	/* not an errno of user space */
/* sizes of elements: of hash and inner maps, of the others */
#define HASH_ELEM	(24 + 8 + 8 * NR_WORDS)
#define PTR_ELEM	(24 + 8 + 8)
#define DEBUGFS		"/sys/kernel/debug"

static int duration;
static struct alloc_faults *faults;

/* What makes allocations fail */
struct source {
	const char *name;
	__u32 what;	/* FAULT_*, 0: something else */
	void (*start)(int rate);
	void (*stop)(void);
	__u64 (*count)(void);
	bool make_it_fail;	/* only the tasks that say so */
};

struct run;

/* A thread that writes keys of its own by system calls, in each map */
struct writer {
	pthread_t thread;
	struct run *r;
	int cpu;
	__u64 keys[NR_KEYS];
	__u64 gen[NR_TYPES][NR_KEYS];
	__u32 outer_key, outer_id;	/* 0: not there */
	struct htab_count done;
	int bad_errno;
	__u64 wrong, rounds;
};

struct run {
	const struct source *src;
	struct htab_faults *skel;
	int fds[NR_TYPES], outer;
	int inner_fds[2];
	__u32 inner_ids[2];
	int cpus[MAX_CPUS], nr_cpus, nr_vals;
	struct bpf_link *links[MAX_CPUS + NR_CTX];
	int nr_links;
	bool stop, nmis;
	pthread_t napper;
	struct writer writers[MAX_CPUS];
	int nr_writers;
	__u64 tries[NR_TYPES][NR_CTX], rounds;	/* when the phase began */
	__u64 goal;
};

static const char *const ctx_names[] = {
	"kprobe", "raw_tp_irqoff", "perf_event", "nmi", "fentry.s",
};

static const char *const type_names[] = {
	"hash", "percpu_hash", "hash_of_maps",
};

static int add_err(struct htab_count *c, int err, int *bad)
{
	c->tries++;
	if (!err)
		c->ok++;
	else if (err == -EBUSY)
		c->busy++;
	else if (err == -ENOMEM)
		c->nomem++;
	else
		*bad = -err;
	return err;
}

static int set_elem(struct run *r, int type, __u64 key, __u64 gen, __u64 flags)
{
	struct htab_val vals[r->nr_vals];
	int i;

	for (i = 0; i < r->nr_vals; i++)
		fill(&vals[i], key, gen);
	return bpf_map_update_elem(r->fds[type], &key, vals, flags) ? -errno : 0;
}

#define ALL_CPUS	-1

/* Does the key hold this, in the value of @cpu; is it missing, for a @gen of 0?
 * What a system call could not tell for want of memory is not wrong.
 */
static bool holds(struct run *r, int type, __u64 key, __u64 gen, int cpu)
{
	struct htab_val vals[r->nr_vals], want, zero = {};
	int i, nr = type == TYPE_PERCPU_HASH ? r->nr_vals : 1;

	if (bpf_map_lookup_elem(r->fds[type], &key, vals))
		return errno == ENOMEM || (errno == ENOENT && !gen);
	if (!gen)
		return false;
	fill(&want, key, gen);
	for (i = 0; i < nr; i++)
		if (memcmp(&vals[i], cpu == ALL_CPUS || cpu == i || nr == 1 ?
				     &want : &zero, sizeof(want)))
			return false;
	return true;
}

static void write_one(struct writer *w, int type, int i, __u64 gen)
{
	__u64 *old = &w->gen[type][i], key = w->keys[i];
	int err;

	w->wrong += !holds(w->r, type, key, *old, ALL_CPUS);
	if (gen) {
		err = set_elem(w->r, type, key, gen,
			       *old ? BPF_EXIST : BPF_NOEXIST);
	} else {
		if (!*old)
			return;
		err = bpf_map_delete_elem(w->r->fds[type], &key) ? -errno : 0;
	}
	if (!add_err(&w->done, err, &w->bad_errno))
		*old = gen;
	w->wrong += !holds(w->r, type, key, *old, ALL_CPUS);
}

/* As many are written as the call says. */
static void write_batch(struct writer *w, int type, int first, __u64 gen)
{
	struct htab_val vals[BATCH * w->r->nr_vals];
	DECLARE_LIBBPF_OPTS(bpf_map_batch_opts, opts);
	int i, err, nr = type == TYPE_PERCPU_HASH ? w->r->nr_vals : 1;
	__u32 n = BATCH;

	for (i = 0; i < BATCH * nr; i++)
		fill(&vals[i], w->keys[first + i / nr], gen);
	err = bpf_map_update_batch(w->r->fds[type], &w->keys[first], vals, &n,
				   &opts) ? -errno : 0;
	add_err(&w->done, err, &w->bad_errno);
	w->wrong += n > BATCH || (!err && n != BATCH);
	for (i = 0; i < n && i < BATCH; i++)
		w->gen[type][first + i] = gen;
	for (i = 0; i < BATCH; i++)
		w->wrong += !holds(w->r, type, w->keys[first + i],
				   w->gen[type][first + i], ALL_CPUS);
}

/* Put an inner map into the outer one, put the other in its place, delete it */
static void write_outer(struct writer *w, unsigned int nr)
{
	struct run *r = w->r;
	__u32 id = 0, old = w->outer_id;
	int err;

	if (nr % 3 < 2)
		err = bpf_map_update_elem(r->outer, &w->outer_key,
					  &r->inner_fds[nr % 3],
					  old ? BPF_EXIST : BPF_NOEXIST);
	else if (old)
		err = bpf_map_delete_elem(r->outer, &w->outer_key);
	else
		return;
	if (!add_err(&w->done, err ? -errno : 0, &w->bad_errno))
		w->outer_id = nr % 3 < 2 ? r->inner_ids[nr % 3] : 0;
	if (bpf_map_lookup_elem(r->outer, &w->outer_key, &id) &&
	    errno == ENOMEM)
		return;
	w->wrong += id != w->outer_id;
}

static void *writer(void *arg)
{
	struct writer *w = arg;
	unsigned int seed = w->cpu;

	pin(w->cpu);
	if (w->r->src->make_it_fail)
		CHECK(!write_file("/proc/thread-self/make-it-fail", "1"),
		      "make-it-fail", "errno %d\n", errno);
	while (!READ_ONCE(w->r->stop)) {
		int type = rand_r(&seed) % NR_TYPES;
		unsigned int what = rand_r(&seed);

		if (what % 16 == 0)
			write_outer(w, what / 16);
		else if (what % 16 == 1 && type != TYPE_HASH_OF_MAPS)
			write_batch(w, type, what / 16 % (NR_KEYS / BATCH) *
				    BATCH, 1 + what / 256 % 1024);
		else
			write_one(w, type, what / 16 % NR_KEYS,
				  what % 4 ? 1 + what / 1024 % 1024 : 0);
		w->rounds++;
	}
	return NULL;
}

/* A plain nanosleep(), which glibc does not use, but usleep() of test_progs */
static void *napper(void *arg)
{
	struct timespec ts = { .tv_nsec = 100000 };
	struct run *r = arg;

	pin(r->cpus[r->nr_cpus - 1]);
	r->skel->bss->napper = syscall(__NR_gettid);
	while (!READ_ONCE(r->stop))
		syscall(__NR_nanosleep, &ts, NULL);
	return NULL;
}

static __u64 nr_rounds(struct run *r)
{
	__u64 nr = 0;
	int i;

	for (i = 0; i < r->nr_writers; i++)
		nr += READ_ONCE(r->writers[i].rounds);
	return nr;
}

static __u64 nr_tries(struct run *r, int type, int ctx)
{
	struct htab_faults__bss *bss = r->skel->bss;

	return READ_ONCE(bss->updates[type][ctx].tries) +
	       READ_ONCE(bss->deletes[type][ctx].tries);
}

static bool all_met(struct run *r, bool nmi)
{
	int type, ctx;

	for (type = 0; type < NR_TYPES; type++)
		for (ctx = 0; ctx < NR_CTX; ctx++)
			if ((ctx == CTX_NMI ? nmi : !nmi) &&
			    nr_tries(r, type, ctx) <
			    r->tries[type][ctx] + r->goal)
				return false;
	return nmi || nr_rounds(r) >= r->rounds + r->goal;
}

static bool nmi_met(void *arg)
{
	return all_met(arg, true);
}

/* Until each context has tried as often with each map. NMIs come last, since
 * the console does not tell all meanwhile.
 */
static void phase(struct run *r, __u64 goal, const char *what)
{
	__u64 end = now_ms() + 60000;
	int type, ctx;

	for (type = 0; type < NR_TYPES; type++)
		for (ctx = 0; ctx < NR_CTX; ctx++)
			r->tries[type][ctx] = nr_tries(r, type, ctx);
	r->rounds = nr_rounds(r);
	r->goal = goal;
	while (!all_met(r, false) && now_ms() < end)
		usleep(1000);
	CHECK(!all_met(r, false), what, "not all contexts ran in time\n");
	if (r->nmis)
		send_nmis(nmi_met, r, 30000);
	CHECK(r->nmis && !nmi_met(r), what, "NMI: did not run in time\n");
}

static void sum(struct run *r, int type, int ctx, struct htab_count *c)
{
	struct htab_faults__bss *bss = r->skel->bss;
	int t, k;

	memset(c, 0, sizeof(*c));
	for (t = 0; t < NR_TYPES; t++) {
		for (k = 0; k < NR_CTX; k++) {
			if ((type >= 0 && t != type) || (ctx >= 0 && k != ctx))
				continue;
			c->tries += nr_tries(r, t, k);
			c->ok += bss->updates[t][k].ok + bss->deletes[t][k].ok;
			c->busy += bss->updates[t][k].busy +
				   bss->deletes[t][k].busy;
			c->nomem += bss->updates[t][k].nomem;
			/* a delete has no reason to */
			c->other += bss->updates[t][k].other +
				    bss->deletes[t][k].other +
				    bss->deletes[t][k].nomem;
		}
	}
}

/* All -ENOMEM so far, also of system calls */
static __u64 nr_nomem(struct run *r)
{
	struct htab_count c;
	__u64 nr;
	int i;

	sum(r, -1, -1, &c);
	nr = c.nomem;
	for (i = 0; i < r->nr_writers; i++)
		nr += READ_ONCE(r->writers[i].done.nomem);
	return nr;
}

/* No failure any more: at the latest when the reserve has learnt what programs
 * with interrupts off want at a time.
 */
static void recover(struct run *r)
{
	__u64 before = 0;
	int i;

	for (i = 0; i < 30; i++) {
		before = nr_nomem(r);
		phase(r, NR_TRIES, "recovery");
		if (nr_nomem(r) == before)
			return;
		usleep(50000);
	}
	CHECK(1, "recovery", "still %llu times -ENOMEM\n", nr_nomem(r) - before);
}

static void choose_keys(struct run *r)
{
	bool *taken = calloc(NR_BUCKETS, sizeof(*taken));
	struct htab_faults__bss *bss = r->skel->bss;
	int type, ctx, cpu, i;
	__u64 key = 0;

	/* one bucket each: none is refused since its bucket is just in use */
	for (cpu = 0; cpu < MAX_CPUS; cpu++) {
		for (i = 0; i < NR_KEYS; i++) {
			for (ctx = 0; ctx < NR_CTX; ctx++) {
				key = take_bucket(taken, NR_BUCKETS, key + 1);
				for (type = 0; type < NR_TYPES; type++)
					bss->slots[type][ctx][cpu][i].key = key;
			}
			key = take_bucket(taken, NR_BUCKETS, key + 1);
			r->writers[cpu].keys[i] = key;
		}
	}
	free(taken);
}

static void add_link(struct run *r, struct bpf_link *link, const char *name)
{
	if (!CHECK(IS_ERR(link), name, "attach: err %ld\n", PTR_ERR(link)))
		r->links[r->nr_links++] = link;
}

static void attach(struct run *r)
{
	struct htab_faults *skel = r->skel;
	int i, pfd;

	add_link(r, bpf_program__attach_kprobe(skel->progs.kprobe, false,
					       SYS_NANOSLEEP_KPROBE_NAME),
		 "kprobe");
	add_link(r, bpf_program__attach(skel->progs.raw_tp_irqoff), "raw_tp");
	add_link(r, bpf_program__attach(skel->progs.fentry_s), "fentry.s");
	if (r->nmis)
		add_link(r, bpf_program__attach(skel->progs.nmi), "nmi");
	for (i = 0; i < r->nr_cpus; i++) {
		pfd = open_clock(-1, r->cpus[i], 1000);
		if (CHECK(pfd < 0, "perf_event_open", "errno %d\n", errno))
			return;
		add_link(r, bpf_program__attach_perf_event(skel->progs.perf,
							   pfd), "perf_event");
	}
}

/* The maps are made in a cgroup of theirs. The rest is not, as libbpf leaves some
 * memory to malloc().
 */
static bool load(struct run *r)
{
	struct bpf_create_map_attr attr = {
		.map_type = BPF_MAP_TYPE_HASH,
		.key_size = sizeof(__u64),
		.value_size = sizeof(struct htab_val),
		.max_entries = NR_BUCKETS,
		.map_flags = BPF_F_NO_PREALLOC | BPF_F_ZERO_SEED,
	};
	struct htab_faults *skel = htab_faults__open();
	int i, fds[5], err = 0;
	__u32 zero = 0;

	memset(r->fds, -1, sizeof(r->fds));
	memset(r->inner_fds, -1, sizeof(r->inner_fds));
	r->outer = -1;
	if (CHECK(!skel, "open", "errno %d\n", errno))
		return false;
	r->skel = skel;
	memcg_enter(MEMCG_CREATOR);
	for (i = 0; i < 3; i++)
		fds[i] = bpf_create_map_xattr(&attr);
	attr.map_type = BPF_MAP_TYPE_PERCPU_HASH;
	fds[3] = bpf_create_map_xattr(&attr);
	fds[4] = bpf_create_map_in_map(BPF_MAP_TYPE_HASH_OF_MAPS, NULL,
				       sizeof(zero), fds[0], 64,
				       BPF_F_NO_PREALLOC);
	memcg_leave();
	r->inner_fds[0] = fds[0];
	r->inner_fds[1] = fds[1];
	r->fds[TYPE_HASH] = fds[2];
	r->fds[TYPE_PERCPU_HASH] = fds[3];
	r->fds[TYPE_HASH_OF_MAPS] = fds[0];
	r->outer = fds[4];
	for (i = 0; i < ARRAY_SIZE(fds); i++)
		if (CHECK(fds[i] < 0, "create", "map %d\n", i))
			return false;
	err |= bpf_map__reuse_fd(skel->maps.inner, fds[0]);
	err |= bpf_map__reuse_fd(skel->maps.hash, fds[2]);
	err |= bpf_map__reuse_fd(skel->maps.percpu_hash, fds[3]);
	err |= bpf_map__reuse_fd(skel->maps.outer, fds[4]);
	err |= bpf_map_update_elem(fds[4], &zero, &fds[0], BPF_ANY);
	r->inner_ids[0] = map_id(fds[0]);
	r->inner_ids[1] = map_id(fds[1]);
	return !CHECK(err || htab_faults__load(skel), "load", "errno %d\n",
		      errno);
}

static void start_threads(struct run *r)
{
	int i;

	for (i = 0; i < r->nr_cpus; i++) {
		r->writers[i].r = r;
		r->writers[i].cpu = r->cpus[i];
		r->writers[i].outer_key = 1 + i;
		if (CHECK(pthread_create(&r->writers[i].thread, NULL, writer,
					 &r->writers[i]), "thread", "writer\n"))
			break;
		r->nr_writers++;
	}
	CHECK(pthread_create(&r->napper, NULL, napper, r), "thread", "napper\n");
}

static void stop_all(struct run *r)
{
	int i;

	r->skel->bss->pid = 0;
	WRITE_ONCE(r->stop, true);
	for (i = 0; i < r->nr_writers; i++)
		pthread_join(r->writers[i].thread, NULL);
	if (r->napper)
		pthread_join(r->napper, NULL);
	while (r->nr_links)
		bpf_link__destroy(r->links[--r->nr_links]);
}

/* Nothing but -ENOMEM, and what the maps hold is what succeeded last. */
static void check_result(struct run *r)
{
	struct htab_faults__bss *bss = r->skel->bss;
	int type, ctx, cpu, i, elems, found, bad;
	struct htab_count c;

	for (type = 0; type < NR_TYPES; type++) {
		elems = 0;
		bad = 0;
		for (ctx = 0; ctx < NR_CTX; ctx++) {
			sum(r, type, ctx, &c);
			CHECK(c.other || c.busy, ctx_names[ctx],
			      "%s: %llu tries, %llu ok, %llu -ENOMEM, %llu -EBUSY, %llu others\n",
			      type_names[type], c.tries, c.ok, c.nomem, c.busy,
			      c.other);
			for (cpu = 0; cpu < MAX_CPUS; cpu++) {
				for (i = 0; i < NR_KEYS; i++) {
					struct htab_slot *slot;

					slot = &bss->slots[type][ctx][cpu][i];
					bad += !holds(r, type, slot->key,
						      slot->gen, cpu);
					elems += !!slot->gen;
				}
			}
		}
		for (i = 0; i < r->nr_writers; i++) {
			struct writer *w = &r->writers[i];
			int k;

			for (k = 0; k < NR_KEYS; k++) {
				bad += !holds(r, type, w->keys[k],
					      w->gen[type][k], ALL_CPUS);
				elems += !!w->gen[type][k];
			}
		}
		found = nr_elems(r->fds[type]);
		CHECK(bad || found != elems, type_names[type],
		      "%d keys wrong, %d elements, expected %d\n", bad, found,
		      elems);
	}
	CHECK(bss->wrong || bss->absent, "programs",
	      "%llu lookups went wrong, %llu times no inner map\n", bss->wrong,
	      bss->absent);
	for (i = 0; i < r->nr_writers; i++) {
		struct writer *w = &r->writers[i];

		CHECK(w->bad_errno || w->done.busy || w->wrong, "writer",
		      "errno %d, %llu -EBUSY, %llu lookups went wrong, in %llu tries\n",
		      w->bad_errno, w->done.busy, w->wrong, w->done.tries);
	}
}

/* What failed takes no room: as many elements fit in as should. */
static void check_room(struct run *r)
{
	int had = nr_elems(r->fds[TYPE_HASH]), nr = 0, err;

	do {
		err = set_elem(r, TYPE_HASH, (1ULL << 32) + nr, 1, BPF_NOEXIST);
		nr += !err;
	} while (!err);
	CHECK(err != -E2BIG || had + nr != NR_BUCKETS, "room",
	      "%d and %d elements, then err %d, expected %d elements\n", had,
	      nr, err, NR_BUCKETS);
}

static void destroy(struct run *r)
{
	int i;

	for (i = 0; i < NR_TYPES; i++)
		close(r->fds[i]);
	close(r->inner_fds[1]);
	close(r->outer);
	htab_faults__destroy(r->skel);
	r->skel = NULL;
}

static bool slab_gone(int size)
{
	char dir[64], aliases[80];
	int i;

	snprintf(dir, sizeof(dir), "/sys/kernel/slab/bpf_mem-%d", size);
	snprintf(aliases, sizeof(aliases), "%s/aliases", dir);
	/* others have objects of this size in the same cache */
	if (read_number(aliases, "") > 0)
		return true;
	for (i = 0; i < 1000; i++) {
		if (access(dir, F_OK))
			return true;
		usleep(10000);
	}
	return false;
}

/* Everything has gone back: the cgroup is charged nothing, and slab caches could
 * be destroyed, which needs their last object. KASAN keeps what was freed for a
 * while, with its charge, but lets go of it with its cache.
 */
static void check_gone(long long charged)
{
	long long now = charged;

	if (!has_kasan())
		now = memcg_wait(MEMCG_CREATOR, charged + MEMCG_SLACK, 20000);
	CHECK(now > charged + MEMCG_SLACK, "leak", "%lld bytes charged\n",
	      now - charged);
	CHECK(!slab_gone(HASH_ELEM), "leak", "bpf_mem-%d is left\n", HASH_ELEM);
	CHECK(!slab_gone(PTR_ELEM), "leak", "bpf_mem-%d is left\n", PTR_ELEM);
}

/* @teardown: the maps go while all fails still */
static void test_run(const struct source *src, const int *rates, int nr_rates,
		     bool teardown)
{
	struct run *r = calloc(1, sizeof(*r));
	struct htab_count c;
	long long charged;
	__u64 nomem, nr;
	int i, k;

	r->src = src;
	r->nr_cpus = list_cpus(r->cpus, MAX_CPUS);
	r->nr_vals = bpf_num_possible_cpus();
	r->nmis = r->nr_cpus > 1 && !access("/proc/sysrq-trigger", W_OK);
	charged = memcg_settled(MEMCG_CREATOR);
	if (!load(r))
		goto out;
	choose_keys(r);
	attach(r);
	for (i = 0; i < nr_rates; i++) {
		nomem = nr_nomem(r);
		src->start(rates[i]);
		if (!i) {
			r->skel->bss->pid = getpid();
			start_threads(r);
		}
		phase(r, NR_TRIES, "faults");
		nr = src->count();
		printf("%s at %d %%: %llu failed, %llu times -ENOMEM\n",
		       src->name, rates[i], nr, nr_nomem(r) - nomem);
		CHECK(!nr && rates[i] >= 50, src->name,
		      "nothing failed at %d %%\n", rates[i]);
		/* only a map that is new has nothing ready */
		for (k = 0; !i && rates[i] == 100 && k < NR_TYPES; k++) {
			sum(r, k, -1, &c);
			CHECK(!c.nomem || !c.ok, type_names[k],
			      "%llu tries, %llu ok, %llu -ENOMEM\n", c.tries,
			      c.ok, c.nomem);
		}
		for (k = 0; !i && rates[i] == 100 && k < NR_CTX; k++) {
			sum(r, -1, k, &c);
			CHECK(!c.nomem && (k != CTX_NMI || r->nmis),
			      ctx_names[k], "no -ENOMEM in %llu tries\n",
			      c.tries);
		}
		CHECK(!i && rates[i] == 100 && !r->skel->bss->kept, "kept",
		      "no update of an element failed\n");
		if (teardown)
			break;
		src->stop();
		recover(r);
	}
	stop_all(r);
	if (teardown) {
		destroy(r);
		check_gone(charged);
		src->stop();
	} else {
		check_result(r);
		check_room(r);
		destroy(r);
		check_gone(charged);
	}
out:
	if (r->skel)
		destroy(r);
	free(r);
}

/* By programs, see progs/alloc_faults.c */
static const struct source *prog_source;

static void prog_start(int rate)
{
	faults->bss->nr_slab = 0;
	faults->bss->nr_page = 0;
	faults->bss->obj_sizes[0] = HASH_ELEM;
	faults->bss->obj_sizes[1] = PTR_ELEM;
	faults->bss->rate = rate;
	faults->bss->what = prog_source->what;
}

static void prog_stop(void)
{
	faults->bss->what = 0;
}

static __u64 prog_count(void)
{
	return faults->bss->nr_slab + faults->bss->nr_page;
}

static void test_progs_fail(const char *name, __u32 what, const int *rates,
			    int nr_rates, bool teardown)
{
	struct source src = {
		name, what, prog_start, prog_stop, prog_count,
	};

	prog_source = &src;
	test_run(&src, rates, nr_rates, teardown);
}

/* The account of what bpf() calls allocate */
enum { ACCOUNT_OFF, ACCOUNT_ALL, ACCOUNT_FREES };

static void account_start(void)
{
	int fd = bpf_map__fd(faults->maps.allocs);
	static bool loaded;
	__u64 key;

	if (!loaded)
		CHECK(load_kallsyms(), "kallsyms", "cannot be read\n");
	loaded = true;
	while (!bpf_map_get_next_key(fd, NULL, &key))
		bpf_map_delete_elem(fd, &key);
	faults->bss->nr_lost = 0;
	faults->bss->account = ACCOUNT_ALL;
}

/* The allocators' own: slab notes for the objects of a page who is charged, as
 * long as it has the page; vmalloc(), per-CPU areas and radix trees keep what
 * is free.
 */
static bool is_allocators_own(__u64 site)
{
	static const char *const names[] = {
		"memcg_alloc_page_obj_cgroups", "alloc_vmap_area", "pcpu_",
		"__radix_tree_preload",
		/* a slab cache that fails last of all leaves its name behind */
		"kobject_set_name_vargs",
	};
	struct ksym *sym = site ? ksym_search(site) : NULL;
	int i;

	for (i = 0; sym && i < ARRAY_SIZE(names); i++)
		if (!strncmp(sym->name, names[i], strlen(names[i])))
			return true;
	return false;
}

/* What is not freed yet, but for what the allocators keep */
static int nr_allocs(const char *tell)
{
	int fd = bpf_map__fd(faults->maps.allocs), nr = 0;
	__u64 key, *prev = NULL;
	struct alloc alloc;

	for (; !bpf_map_get_next_key(fd, prev, &key); prev = &key) {
		struct ksym *sym;

		if (bpf_map_lookup_elem(fd, &key, &alloc) ||
		    is_allocators_own(alloc.site))
			continue;
		nr++;
		if (!tell)
			continue;
		sym = ksym_search(alloc.site);
		printf("%s: %llu bytes left, from %s\n", tell, alloc.size,
		       sym && alloc.site ? sym->name : "the per-CPU allocator");
	}
	return nr;
}

/* All that was allocated has to be freed, after grace periods at the latest. */
static void account_wait(int ms)
{
	__u64 end = now_ms() + ms;

	faults->bss->account = ACCOUNT_FREES;
	while (nr_allocs(NULL) && now_ms() < end)
		usleep(5000);
}

static void account_check(const char *name)
{
	int nr;

	account_wait(10000);
	nr = nr_allocs(name);
	CHECK(nr, name, "%d allocations are left\n", nr);
	CHECK(faults->bss->nr_lost, name, "%llu not accounted for\n",
	      faults->bss->nr_lost);
	faults->bss->account = ACCOUNT_OFF;
}

static int nr_ids(int (*next)(__u32 id, __u32 *next_id))
{
	int nr = 0;
	__u32 id;

	for (id = 0; !next(id, &id); nr++)
		;
	return nr;
}

/* The next bpf() call finds no memory at its allocation number @nth. */
static void fail_nth(__u32 nth)
{
	faults->bss->nr_slab = 0;
	faults->bss->nr_page = 0;
	faults->bss->nr_asked = 0;
	faults->bss->nth = nth;
	faults->bss->what = FAULT_SLAB | FAULT_PAGE;
}

/* Returns whether there was such an allocation */
static bool fail_nth_done(void)
{
	faults->bss->what = 0;
	faults->bss->nth = 0;
	return prog_count();
}

/* Makes something each time with one allocation more that succeeds. Some do
 * without the one that failed. For a program the verifier says -EFAULT when it
 * cannot keep a branch for later, and a JIT without memory for the code is none.
 */
static void make_with_faults(const char *name, int (*make)(const void *arg),
			     const void *arg, bool is_prog)
{
	int fd, failed = 0, without = 0, others = 0, maps, progs, bad = 0, i;
	long long charged;
	bool hit;
	__u32 n;

	fd = make(arg);
	if (CHECK(fd < 0, name, "errno %d\n", errno))
		return;
	close(fd);
	charged = memcg_settled(MEMCG_CREATOR);
	maps = nr_ids(bpf_map_get_next_id);
	progs = nr_ids(bpf_prog_get_next_id);
	memcg_enter(MEMCG_CREATOR);
	account_start();
	for (n = 1; n < 1000; n++) {
		fail_nth(n);
		fd = make(arg);
		hit = fail_nth_done();
		/* the next one is not to find anything of this one in use */
		if (fd >= 0) {
			close(fd);
			account_wait(1000);
			faults->bss->account = ACCOUNT_ALL;
		}
		if (!hit)
			break;
		if (fd >= 0)
			without++;
		else if (is_prog && (errno == EFAULT || errno == ERR_NO_JIT))
			others++;
		else if (errno == ENOMEM)
			failed++;
		else
			bad = errno;
	}
	memcg_leave();
	printf("%s: %u allocations, failed for want of %d, did without %d\n",
	       name, n - 1, failed + others, without);
	CHECK(bad, name, "errno %d\n", bad);
	CHECK(hit || fd < 0 || !failed, name,
	      "%d failures, then errno %d at allocation %u\n", failed, errno, n);
	account_check(name);
	for (i = 0; i < 500 && (nr_ids(bpf_map_get_next_id) > maps ||
				nr_ids(bpf_prog_get_next_id) > progs); i++)
		usleep(10000);
	CHECK(nr_ids(bpf_map_get_next_id) != maps ||
	      nr_ids(bpf_prog_get_next_id) != progs, name,
	      "%d maps and %d programs, expected %d and %d\n",
	      nr_ids(bpf_map_get_next_id), nr_ids(bpf_prog_get_next_id), maps,
	      progs);
	charged = memcg_wait(MEMCG_CREATOR, charged + MEMCG_SLACK, 10000) -
		  charged;
	CHECK(charged > MEMCG_SLACK, name, "%lld bytes charged\n", charged);
}

static int make_map(const void *arg)
{
	return bpf_create_map_xattr(arg);
}

static int make_prog(const void *arg)
{
	return bpf_load_program_xattr(arg, NULL, 0);
}

#define MAP(_type, _key, _value, _entries, _flags)	\
	{						\
		.name = #_type,				\
		.map_type = BPF_MAP_TYPE_##_type,	\
		.key_size = _key,			\
		.value_size = _value,			\
		.max_entries = _entries,		\
		.map_flags = _flags,			\
	}

static void test_create(void)
{
	static struct bpf_create_map_attr maps[] = {
		/* sizes of no other map: so each has a slab cache to make */
		MAP(HASH, 8, 1400, 1024, BPF_F_NO_PREALLOC),
		MAP(HASH, 8, 20000, 16, BPF_F_NO_PREALLOC),
		MAP(PERCPU_HASH, 72, 24, 1024, BPF_F_NO_PREALLOC),
		MAP(HASH_OF_MAPS, 80, 4, 1024, BPF_F_NO_PREALLOC),
		MAP(HASH, 8, 64, 4, 0),
		MAP(PERCPU_HASH, 8, 64, 4, 0),
		MAP(LRU_HASH, 8, 64, 4, 0),
		MAP(LRU_HASH, 8, 64, 4, BPF_F_NO_COMMON_LRU),
		MAP(LRU_PERCPU_HASH, 8, 64, 4, 0),
		MAP(ARRAY, 4, 64, 4, 0),
		MAP(ARRAY, 4, 64, 64, BPF_F_MMAPABLE),
		MAP(PERCPU_ARRAY, 4, 64, 4, 0),
		MAP(PROG_ARRAY, 4, 4, 4, 0),
		MAP(PERF_EVENT_ARRAY, 4, 4, 4, 0),
		MAP(CGROUP_ARRAY, 4, 4, 4, 0),
		MAP(ARRAY_OF_MAPS, 4, 4, 4, 0),
		MAP(STACK_TRACE, 4, 64, 4, 0),
		MAP(LPM_TRIE, 8, 64, 4, BPF_F_NO_PREALLOC),
		MAP(QUEUE, 0, 64, 4, 0),
		MAP(STACK, 0, 64, 4, 0),
		MAP(RINGBUF, 0, 0, 4096, 0),
		MAP(CPUMAP, 4, 4, 4, 0),
		MAP(DEVMAP, 4, 4, 4, 0),
		MAP(DEVMAP_HASH, 4, 4, 4, 0),
		MAP(XSKMAP, 4, 4, 4, 0),
		MAP(SOCKMAP, 4, 4, 4, 0),
		MAP(SOCKHASH, 4, 4, 4, 0),
		MAP(REUSEPORT_SOCKARRAY, 4, 8, 4, 0),
	};
	struct bpf_insn insns[] = {
		BPF_ST_MEM(BPF_DW, BPF_REG_10, -8, 0),
		BPF_MOV64_REG(BPF_REG_2, BPF_REG_10),
		BPF_ALU64_IMM(BPF_ADD, BPF_REG_2, -8),
		BPF_LD_MAP_FD(BPF_REG_1, 0),
		BPF_RAW_INSN(BPF_JMP | BPF_CALL, 0, 0, 0,
			     BPF_FUNC_map_lookup_elem),
		BPF_JMP_IMM(BPF_JEQ, BPF_REG_0, 0, 1),
		BPF_MOV64_IMM(BPF_REG_0, 1),
		BPF_EXIT_INSN(),
	};
	struct bpf_load_program_attr prog = {
		.prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
		.name = "faults",
		.insns = insns,
		.insns_cnt = ARRAY_SIZE(insns),
		.license = "GPL",
	};
	int inner, map, i;
	char name[64];

	inner = bpf_create_map(BPF_MAP_TYPE_HASH, 4, 4, 4, BPF_F_NO_PREALLOC);
	map = bpf_create_map(BPF_MAP_TYPE_HASH, 8, 8, 4, BPF_F_NO_PREALLOC);
	if (CHECK(inner < 0 || map < 0, "create", "errno %d\n", errno))
		return;
	for (i = 0; i < ARRAY_SIZE(maps); i++) {
		if (maps[i].map_type == BPF_MAP_TYPE_HASH_OF_MAPS ||
		    maps[i].map_type == BPF_MAP_TYPE_ARRAY_OF_MAPS)
			maps[i].inner_map_fd = inner;
		snprintf(name, sizeof(name), "%s/%x", maps[i].name,
			 maps[i].map_flags);
		maps[i].name = NULL;
		make_with_faults(name, make_map, &maps[i], false);
	}
	insns[3].imm = map;
	make_with_faults("program", make_prog, &prog, true);
	close(map);
	close(inner);
}

/* System calls of each kind, with one allocation of them failing. */
static void test_syscalls(void)
{
	struct run *r = calloc(1, sizeof(*r));
	struct writer *w = &r->writers[0];
	int type, i, round, hits = 0;
	long long charged;
	__u64 next;
	__u32 n;

	r->nr_cpus = list_cpus(r->cpus, MAX_CPUS);
	r->nr_vals = bpf_num_possible_cpus();
	w->r = r;
	w->outer_key = 1;
	charged = memcg_settled(MEMCG_CREATOR);
	if (!load(r))
		goto out;
	choose_keys(r);
	account_start();
	for (type = 0; type < NR_TYPES; type++) {
		/* new keys, other values, no keys: now the one allocation
		 * fails, now the other
		 */
		for (round = 0; round < 9; round++) {
			for (i = 0; i < NR_KEYS; i++) {
				fail_nth(1 + (i + round / 3) % 12);
				write_one(w, type, i, (round + 1) % 3 ?
					  1 + round : 0);
				hits += fail_nth_done();
			}
		}
		for (n = 1; n < 40 && type != TYPE_HASH_OF_MAPS; n++) {
			fail_nth(n);
			write_batch(w, type, n % (NR_KEYS / BATCH) * BATCH, n);
			hits += fail_nth_done();
			fail_nth(n);
			bpf_map_get_next_key(r->fds[type], NULL, &next);
			hits += fail_nth_done();
		}
	}
	for (n = 0; n < 45; n++) {
		fail_nth(1 + n / 3);
		write_outer(w, n);
		hits += fail_nth_done();
	}
	printf("syscalls: %llu tries, %llu ok, %llu times -ENOMEM, %d allocations failed\n",
	       w->done.tries, w->done.ok, w->done.nomem, hits);
	CHECK(!hits || !w->done.nomem, "faults", "%d, %llu times -ENOMEM\n",
	      hits, w->done.nomem);
	r->nr_writers = 1;
	check_result(r);
	destroy(r);
	account_check("syscalls");
	check_gone(charged);
out:
	free(r);
}

/* Elements without their per-CPU area */
static void test_percpu(void)
{
	const int most = 4096, again = 64;
	int nr_cpus = bpf_num_possible_cpus(), fd, err = 0, bad = 0, cpu;
	__u64 *vals = calloc(nr_cpus, 4096), key, n, failed = 0, ok = 0;
	struct source src = { "percpu", FAULT_PERCPU };
	long long charged;

	prog_source = &src;
	charged = memcg_settled(MEMCG_CREATOR);
	account_start();
	memcg_enter(MEMCG_CREATOR);
	fd = bpf_create_map(BPF_MAP_TYPE_PERCPU_HASH, sizeof(key), 4096, 2 * most,
			    BPF_F_NO_PREALLOC);
	memcg_leave();
	if (CHECK(fd < 0, "create", "errno %d\n", errno))
		goto out;
	prog_start(100);
	for (n = 0; n < most && failed < again; n++) {
		for (cpu = 0; cpu < nr_cpus; cpu++)
			vals[cpu * 512] = n + 1;
		err = bpf_map_update_elem(fd, &n, vals, BPF_NOEXIST);
		if (err && errno != ENOMEM)
			bad = errno;
		failed += !!err;
		ok += !err;
	}
	prog_stop();
	printf("percpu: %llu elements, then %llu times -ENOMEM\n", ok, failed);
	CHECK(!failed || bad, "faults", "%llu failed, errno %d\n", failed, bad);
	CHECK(!prog_count(), "faults", "no allocation failed\n");
	CHECK(nr_elems(fd) != ok, "contents", "%d elements, expected %llu\n",
	      nr_elems(fd), ok);
	/* what was refused now comes in, and the rest is as it was */
	for (key = 0; key < n; key++) {
		for (cpu = 0; cpu < nr_cpus; cpu++)
			vals[cpu * 512] = key + 1;
		err = bpf_map_update_elem(fd, &key, vals, BPF_NOEXIST);
		bad += err && errno != EEXIST;
		failed -= !err;
		memset(vals, 0, nr_cpus * 4096);
		bad += !!bpf_map_lookup_elem(fd, &key, vals);
		for (cpu = 0; cpu < nr_cpus; cpu++)
			bad += vals[cpu * 512] != key + 1;
	}
	CHECK(bad || failed, "recovery", "%d went wrong, %lld too few\n", bad,
	      (long long)failed);
	close(fd);
	account_check("percpu");
	check_gone(charged);
out:
	free(vals);
}

/* The limit of the maps' cgroup, where it is just now */
static long long limit_bytes, limit_events;

static void limit_start(int rate)
{
	limit_events = memcg_number(MEMCG_CREATOR, "memory.events", "max ");
	limit_bytes = memcg_settled(MEMCG_CREATOR);
	CHECK(!memcg_limit(MEMCG_CREATOR, limit_bytes), "memory.max",
	      "errno %d\n", errno);
}

/* A charge that is about to fail counts for a moment: take the least. */
static void limit_stop(void)
{
	long long least = memcg_charged(MEMCG_CREATOR), now;
	int i;

	for (i = 0; i < 20 && least > limit_bytes; i++) {
		usleep(10000);
		now = memcg_charged(MEMCG_CREATOR);
		if (now < least)
			least = now;
	}
	CHECK(least > limit_bytes, "limit", "%lld of %lld bytes charged\n",
	      least, limit_bytes);
	CHECK(!memcg_limit(MEMCG_CREATOR, 0), "memory.max", "errno %d\n",
	      errno);
}

static __u64 limit_count(void)
{
	return memcg_number(MEMCG_CREATOR, "memory.events", "max ") -
	       limit_events;
}

static void test_cgroup(bool teardown)
{
	static const struct source src = {
		"cgroup", 0, limit_start, limit_stop, limit_count,
	};
	static const int rates[] = { 100 };

	if (!memcg_kmem()) {
		printf("%s:SKIP:kernel memory is not charged\n", __func__);
		test__skip();
		return;
	}
	test_run(&src, rates, ARRAY_SIZE(rates), teardown);
}

/* The kernel's own faults, see Documentation/fault-injection */
#define FAULT_TIMES	1000000000
/* which caches failslab is for is read-only but on the kernel's command line */
#define FAILSLAB_CACHES	"A,bpf_mem-*"

static bool set_fault(const char *fault, const char *file, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), DEBUGFS "/%s/%s", fault, file);
	return !CHECK(!write_file(path, value), path, "errno %d\n", errno);
}

static void fault_start(const char *fault, int rate, bool tasks)
{
	char line[16];

	set_fault(fault, "task-filter", tasks ? "Y" : "N");
	set_fault(fault, "ignore-gfp-wait", "N");
	set_fault(fault, "verbose", "0");
	set_fault(fault, "interval", "1");
	snprintf(line, sizeof(line), "%d", FAULT_TIMES);
	set_fault(fault, "times", line);
	snprintf(line, sizeof(line), "%d", rate);
	set_fault(fault, "probability", line);
}

static __u64 fault_count(const char *fault)
{
	char path[128];

	snprintf(path, sizeof(path), DEBUGFS "/%s/times", fault);
	return FAULT_TIMES - read_number(path, "");
}

static void failslab_start(int rate)
{
	static const int sizes[] = { HASH_ELEM, PTR_ELEM };
	char path[64];
	int i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		snprintf(path, sizeof(path),
			 "/sys/kernel/slab/bpf_mem-%d/failslab", sizes[i]);
		CHECK(read_number(path, "") != 1, path, "%lld, expected 1\n",
		      read_number(path, ""));
	}
	set_fault("failslab", "cache-filter", "Y");
	fault_start("failslab", rate, false);
}

static void failslab_stop(void)
{
	set_fault("failslab", "probability", "0");
	set_fault("failslab", "cache-filter", "N");
}

static __u64 failslab_count(void)
{
	return fault_count("failslab");
}

static void fail_page_start(int rate)
{
	set_fault("fail_page_alloc", "min-order", "0");
	fault_start("fail_page_alloc", rate, true);
}

static void fail_page_stop(void)
{
	set_fault("fail_page_alloc", "probability", "0");
}

static __u64 fail_page_count(void)
{
	return fault_count("fail_page_alloc");
}

static void test_kernel(const char *name)
{
	static const struct source failslab = {
		"failslab", 0, failslab_start, failslab_stop, failslab_count,
	};
	static const struct source fail_page = {
		"fail_page_alloc", 0, fail_page_start, fail_page_stop,
		fail_page_count, .make_it_fail = true,
	};
	/* a task that finds no page for its page tables ever does not go on */
	static const int slab_rates[] = { 100, 10 }, page_rates[] = { 50 };
	char path[64];

	snprintf(path, sizeof(path), DEBUGFS "/%s/probability", name);
	if (access(path, W_OK))
		mount("none", DEBUGFS, "debugfs", 0, NULL);
	if (access(path, W_OK)) {
		printf("%s:SKIP:needs CONFIG_%s and FAULT_INJECTION_DEBUG_FS\n",
		       __func__, strcmp(name, "failslab") ? "FAIL_PAGE_ALLOC" :
							    "FAILSLAB");
		test__skip();
		return;
	}
	if (!strcmp(name, "failslab") && !cmdline_has(FAILSLAB_CACHES)) {
		printf("%s:SKIP:needs slub_debug=" FAILSLAB_CACHES "\n", __func__);
		test__skip();
		return;
	}
	if (!strcmp(name, "failslab"))
		test_run(&failslab, slab_rates, ARRAY_SIZE(slab_rates), false);
	else
		test_run(&fail_page, page_rates, ARRAY_SIZE(page_rates), false);
}

void test_htab_faults(void)
{
	static const int all[] = { 100 }, rates[] = { 100, 50, 10, 1 };
	long long taint = read_number("/proc/sys/kernel/tainted", "");

	if (!memcg_ready(memcg_setup(__func__)))
		return;
	faults = alloc_faults__open_and_load();
	if (CHECK(!faults, "alloc_faults", "errno %d\n", errno))
		goto out;
	faults->bss->bpf_nr = __NR_bpf;
	faults->bss->pid = getpid();
	if (CHECK(alloc_faults__attach(faults), "attach", "errno %d\n", errno))
		goto out;
	if (test__start_subtest("slab"))
		test_progs_fail("slab", FAULT_SLAB, all, 1, false);
	if (test__start_subtest("page"))
		test_progs_fail("page", FAULT_PAGE, all, 1, false);
	if (test__start_subtest("everything"))
		test_progs_fail("everything",
				FAULT_SLAB | FAULT_PAGE | FAULT_PERCPU, rates,
				ARRAY_SIZE(rates), false);
	if (test__start_subtest("percpu"))
		test_percpu();
	if (test__start_subtest("syscalls"))
		test_syscalls();
	if (test__start_subtest("create"))
		test_create();
	if (test__start_subtest("cgroup"))
		test_cgroup(false);
	if (test__start_subtest("cgroup_teardown"))
		test_cgroup(true);
	if (test__start_subtest("kernel_slab"))
		test_kernel("failslab");
	if (test__start_subtest("kernel_page"))
		test_kernel("fail_page_alloc");
	CHECK(read_number("/proc/sys/kernel/tainted", "") != taint, "taint",
	      "%lld before, now %lld\n", taint,
	      read_number("/proc/sys/kernel/tainted", ""));
out:
	alloc_faults__destroy(faults);
	memcg_cleanup();
}
