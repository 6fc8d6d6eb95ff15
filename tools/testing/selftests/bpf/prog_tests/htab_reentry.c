// SPDX-License-Identifier: GPL-2.0
/* Programs on functions inside a dynamic hash map's operations, and inside the
 * allocators, RCU and irq_work below it, update and delete in the same map.
 */
#define _GNU_SOURCE
#include <linux/compiler.h>
#include <test_progs.h>
#include "htab_helpers.h"
#include "progs/htab_reentry.h"
#include "htab_reentry.skel.h"

#define NR_KEYS		256
#define CGROUP		"/htab_reentry"
#define THREAD_BASE	0x300000000ULL
#define CHURN_MS	300

static int duration;

#define PERCPU_ONLY	1	/* nothing that concerns a plain hash map */
#define RAW_TP		2	/* tracepoints instead of functions */
#define CALM		4	/* what the programs do does not call them again */

struct group {
	const char *name;
	int flags;
	const char *funcs[MAX_FUNCS];
};

/* Used as far as this kernel has them as functions that can be traced; the
 * htab_dynamic test has others.
 */
static const struct group groups[] = {
	{ "update", PERCPU_ONLY, {
		"__htab_percpu_map_update_elem", "bpf_percpu_hash_update",
		"pcpu_copy_value", "bpf_percpu_hash_copy", "alloc_htab_elem",
	} },
	{ "delete", 0, {
		"free_htab_elem", "htab_map_delete_elem", "gp_start", "gp_over",
		"destroy_list",
	} },
	{ "alloc", 0, {
		"htab_map_fill", "bpf_mem_cache_fill", "bpf_mem_cache_refill",
		"slab_alloc", "create_chain", "cache_work",
	} },
	{ "slab", 0, {
		"___slab_alloc", "allocate_slab", "__slab_free",
		"deactivate_slab", "discard_slab", "__free_slab",
	} },
	{ "percpu", PERCPU_ONLY, {
		"pcpu_alloc", "pcpu_find_block_fit", "pcpu_alloc_area",
		"pcpu_block_update_hint_alloc", "pcpu_chunk_relocate",
		"pcpu_free_area", "free_percpu", "pcpu_balance_workfn",
	} },
	{ "page", 0, {
		"get_page_from_freelist", "__mod_zone_page_state",
		"__inc_numa_state", "free_pcp_prepare", "free_unref_page",
		"free_pcppages_bulk", "__free_pages",
	} },
	{ "memcg", 0, {
		"obj_cgroup_charge", "obj_cgroup_uncharge", "refill_obj_stock",
		"__memcg_kmem_charge", "try_charge", "page_counter_try_charge",
		"page_counter_uncharge", "refill_stock",
	} },
	{ "rcu", 0, {
		"call_rcu", "call_rcu_tasks_trace", "rcu_segcblist_enqueue",
		"rcu_segcblist_extract_done_cbs", "rcu_accelerate_cbs",
		"rcu_core",
	} },
	{ "irq_work", 0, {
		"irq_work_queue", "__irq_work_queue_local",
		"arch_irq_work_raise", "irq_work_run",
	} },
	{ "workqueue", 0, {
		"queue_work_on", "__queue_work", "insert_work",
		"process_one_work",
	} },
	{ "slab_tp", RAW_TP, {
		"kmem_cache_alloc", "kmem_cache_alloc_node", "kmem_cache_free",
		"kmalloc", "kfree",
	} },
	{ "page_tp", RAW_TP, {
		"mm_page_alloc", "mm_page_alloc_zone_locked", "mm_page_free",
		"mm_page_pcpu_drain",
	} },
	{ "percpu_tp", PERCPU_ONLY | RAW_TP, {
		"percpu_alloc_percpu", "percpu_free_percpu",
		"percpu_create_chunk", "percpu_destroy_chunk",
	} },
	{ "irq_work_tp", RAW_TP | CALM, {
		"irq_work_entry", "irq_work_exit",
	} },
	{ "workqueue_tp", RAW_TP, {
		"workqueue_queue_work", "workqueue_activate_work",
		"workqueue_execute_start", "sched_wakeup",
	} },
};

/* A thread on one CPU that adds and deletes by syscall and by program */
struct churn {
	pthread_t thread;
	struct run *r;
	int cpu;
	__u64 rounds, fails, wrong;
};

struct run {
	struct htab_reentry *skel;
	const struct group *group;
	bool percpu;
	const char *type;
	int fd, prog, nr_vals;
	struct bpf_link *links[MAX_FUNCS];
	bool stop;
	struct churn churn[MAX_CPUS];
	int nr_churn;
};

#define ALL_CPUS	-1

/* Does the map hold this, in the value of @cpu, with zeros for the others? */
static bool holds(struct run *r, __u64 key, __u64 gen, int cpu)
{
	struct htab_val vals[r->nr_vals], want, zero = {};
	int i;

	if (bpf_map_lookup_elem(r->fd, &key, vals))
		return false;
	fill(&want, key, gen);
	for (i = 0; i < r->nr_vals; i++) {
		bool here = !r->percpu || cpu == ALL_CPUS || i == cpu;

		if (memcmp(&vals[i], here ? &want : &zero, sizeof(want)))
			return false;
	}
	return true;
}

static bool lacks(struct run *r, __u64 key)
{
	struct htab_val vals[r->nr_vals];

	return bpf_map_lookup_elem(r->fd, &key, vals) && errno == ENOENT;
}

static int set_elem(struct run *r, __u64 key, __u64 gen, __u64 flags)
{
	struct htab_val vals[r->nr_vals];
	int i;

	for (i = 0; i < r->nr_vals; i++)
		fill(&vals[i], key, gen);
	return bpf_map_update_elem(r->fd, &key, vals, flags);
}

/* Make memory come and go, which one map mostly keeps. */
static int use_new_map(struct run *r)
{
	char vals[r->nr_vals * 2048];
	int fd, err = 0;
	__u64 key;

	fd = bpf_create_map(r->percpu ? BPF_MAP_TYPE_PERCPU_HASH :
					BPF_MAP_TYPE_HASH,
			    sizeof(key), 2048, 64, BPF_F_NO_PREALLOC);
	memset(vals, 0, sizeof(vals));
	for (key = 0; key < 8; key++)
		err |= bpf_map_update_elem(fd, &key, vals, BPF_NOEXIST);
	close(fd);
	return err;
}

static void *churn(void *arg)
{
	struct churn *c = arg;
	struct run *r = c->r;
	__u64 first = THREAD_BASE + c->cpu * NR_KEYS, key;
	char pkt[64] = {};

	pin(c->cpu);
	while (!READ_ONCE(r->stop)) {
		c->rounds++;
		for (key = first; key < first + NR_KEYS; key++)
			c->fails += !!set_elem(r, key, c->rounds, BPF_NOEXIST);
		key = HOT_BASE + c->rounds % NR_HOT;
		c->fails += !!set_elem(r, key, 1, BPF_ANY);
		c->fails += !!bpf_prog_test_run(r->prog, 1, pkt, sizeof(pkt),
						NULL, NULL, NULL, NULL);
		c->fails += !!use_new_map(r);
		/* may be gone already */
		bpf_map_delete_elem(r->fd, &key);
		for (key = first; key < first + NR_KEYS; key++) {
			c->wrong += !holds(r, key, c->rounds, ALL_CPUS);
			c->fails += !!bpf_map_delete_elem(r->fd, &key);
		}
	}
	return NULL;
}

/* Find keys for the slots such that no two of them, nor a hot key, are in one
 * bucket: then nothing but itself may keep an update of them waiting.
 */
static void choose_keys(struct run *r)
{
	static bool taken[NR_BUCKETS];
	__u64 key = 0;
	int i, k;

	memset(taken, 0, sizeof(taken));
	for (i = 0; i < NR_HOT; i++)
		take_bucket(taken, NR_BUCKETS, HOT_BASE + i);
	for (i = 0; i < MAX_CPUS; i++) {
		for (k = 0; k < SLOTS_PER_CPU; k++) {
			key = take_bucket(taken, NR_BUCKETS, key + 1);
			r->skel->bss->slots[i][k].key = key;
		}
	}
}

static struct bpf_program *find(struct run *r, const char *what, int i)
{
	char name[64];

	if (i < 0)
		snprintf(name, sizeof(name), "%s_%s", r->type, what);
	else
		snprintf(name, sizeof(name), "%s_%s%d", r->type, what, i);
	return bpf_object__find_program_by_name(r->skel->obj, name);
}

static bool prepare(struct run *r)
{
	const char *kind = r->group->flags & RAW_TP ? "raw_tp" : "fentry";
	struct bpf_program *prog;
	int i, err;

	r->skel = htab_reentry__open();
	if (CHECK(!r->skel, "open", "skeleton failed to open\n"))
		return false;
	bpf_object__for_each_program(prog, r->skel->obj)
		bpf_program__set_autoload(prog, false);
	bpf_program__set_autoload(find(r, "run", -1), true);
	for (i = 0; i < MAX_FUNCS && r->group->funcs[i]; i++) {
		prog = find(r, kind, i);
		err = r->group->flags & RAW_TP ? 0 :
			bpf_program__set_attach_target(prog, 0,
						       r->group->funcs[i]);
		bpf_program__set_autoload(prog, !err);
	}
	err = htab_reentry__load(r->skel);
	if (CHECK(err, "load", "refused (%d), expected to pass\n", err))
		return false;
	for (i = 0; i < MAX_FUNCS && r->group->funcs[i]; i++) {
		prog = find(r, kind, i);
		if (bpf_program__fd(prog) < 0)
			continue;
		r->links[i] = r->group->flags & RAW_TP ?
			bpf_program__attach_raw_tracepoint(prog,
							   r->group->funcs[i]) :
			bpf_program__attach(prog);
		if (IS_ERR(r->links[i]))
			r->links[i] = NULL;
	}
	r->nr_vals = r->percpu ? bpf_num_possible_cpus() : 1;
	r->fd = bpf_map__fd(r->percpu ? r->skel->maps.percpu_hash :
					r->skel->maps.hash);
	r->prog = bpf_program__fd(find(r, "run", -1));
	choose_keys(r);
	return true;
}

/* Only a nested operation may find the reserve spent, and only one on a key
 * that is being written below find the bucket locked.
 */
static void check_counts(struct run *r)
{
	struct htab_count *c = &r->skel->bss->run;

	CHECK(!c->tries || c->ok != c->tries, "programs",
	      "%llu of %llu succeeded (-EBUSY %llu, -ENOMEM %llu, other %llu), expected all\n",
	      c->ok, c->tries, c->busy, c->nomem, c->other);
	c = &r->skel->bss->own;
	CHECK(!c->ok || c->ok + c->nomem != c->tries, "own",
	      "%llu of %llu succeeded (-EBUSY %llu, -ENOMEM %llu, other %llu), expected success or -ENOMEM\n",
	      c->ok, c->tries, c->busy, c->nomem, c->other);
	c = &r->skel->bss->hot;
	CHECK(!c->ok || c->ok + c->nomem + c->busy != c->tries, "hot",
	      "%llu of %llu succeeded (-EBUSY %llu, -ENOMEM %llu, other %llu), expected success, -EBUSY or -ENOMEM\n",
	      c->ok, c->tries, c->busy, c->nomem, c->other);
}

static bool is_hot_right(struct run *r, __u64 key, const struct htab_val *vals)
{
	struct htab_val want[2], zero = {};
	int i;

	fill(&want[0], key, 1);
	fill(&want[1], key, 2);
	for (i = 0; i < r->nr_vals; i++)
		if (memcmp(&vals[i], &want[0], sizeof(zero)) &&
		    memcmp(&vals[i], &want[1], sizeof(zero)) &&
		    (!r->percpu || memcmp(&vals[i], &zero, sizeof(zero))))
			return false;
	return true;
}

static void check_contents(struct run *r)
{
	struct htab_val vals[r->nr_vals];
	int i, k, n, nr = 0, bad = 0;
	__u64 key;

	for (i = 0; i < MAX_CPUS; i++) {
		for (k = 0; k < SLOTS_PER_CPU; k++) {
			struct htab_slot *s = &r->skel->bss->slots[i][k];

			bad += s->gen ? !holds(r, s->key, s->gen, i) :
					!lacks(r, s->key);
			nr += !!s->gen;
		}
	}
	CHECK(bad, "contents", "%d of the programs' own keys wrong\n", bad);
	bad = 0;
	for (i = 0; i < NR_HOT; i++) {
		key = HOT_BASE + i;
		if (bpf_map_lookup_elem(r->fd, &key, vals))
			continue;
		nr++;
		bad += !is_hot_right(r, key, vals);
	}
	CHECK(bad, "contents", "%d hot keys hold what nobody wrote\n", bad);
	CHECK(r->skel->bss->wrong, "lookup", "%llu in programs went wrong\n",
	      r->skel->bss->wrong);
	n = nr_elems(r->fd);
	CHECK(n != nr, "contents", "%d elements, expected %d\n", n, nr);
}

static __u64 all_hits(struct run *r)
{
	__u64 hits = 0;
	int i;

	for (i = 0; i < MAX_FUNCS; i++)
		hits += READ_ONCE(r->skel->bss->hits[i]);
	return hits;
}

/* One element is added and deleted, and they are called a few times, if at all */
static void check_calm(struct run *r)
{
	struct htab_val vals[r->nr_vals];
	__u64 key = HOT_BASE, hits;

	memset(vals, 0, sizeof(vals));
	usleep(100000);
	hits = all_hits(r);
	bpf_map_update_elem(r->fd, &key, vals, BPF_ANY);
	bpf_map_delete_elem(r->fd, &key);
	sleep(1);
	hits = all_hits(r) - hits;
	printf("called %llu times for nothing\n", hits);
	CHECK(hits > 200, "calm", "programs called %llu times for nothing\n",
	      hits);
}

/* Groups of functions that fentry programs were meant for, or were run from */
static int nr_fentry, nr_hit;

static void test_group(const struct group *group, bool percpu)
{
	int cpus[MAX_CPUS], nr_cpus, i, err;
	__u64 total, end;
	struct run *r;

	if (!(group->flags & RAW_TP) && !can_attach_fentry())
		return;
	r = calloc(1, sizeof(*r));
	r->group = group;
	r->percpu = percpu;
	r->type = percpu ? "percpu_hash" : "hash";
	if (!prepare(r))
		goto out;
	nr_cpus = list_cpus(cpus, MAX_CPUS);
	r->skel->bss->active = true;
	for (i = 0; i < nr_cpus; i++) {
		struct churn *c = &r->churn[r->nr_churn];

		c->r = r;
		c->cpu = cpus[i];
		err = pthread_create(&c->thread, NULL, churn, c);
		if (CHECK(err, "pthread_create", "err %d\n", err))
			break;
		r->nr_churn++;
	}
	end = now_ms() + CHURN_MS;
	while (now_ms() < end)
		usleep(1000);
	WRITE_ONCE(r->stop, true);
	for (i = 0; i < r->nr_churn; i++) {
		struct churn *c = &r->churn[i];

		pthread_join(c->thread, NULL);
		CHECK(!c->rounds || c->fails || c->wrong, "churn",
		      "in %llu rounds %llu operations failed, %llu lookups went wrong\n",
		      c->rounds, c->fails, c->wrong);
	}
	if (group->flags & CALM)
		check_calm(r);
	r->skel->bss->active = false;
	total = all_hits(r);
	for (i = 0; i < MAX_FUNCS && group->funcs[i]; i++) {
		if (!r->links[i])
			printf("%s: cannot be attached to\n", group->funcs[i]);
		else
			printf("%s: %llu entries\n", group->funcs[i],
			       r->skel->bss->hits[i]);
		bpf_link__destroy(r->links[i]);
	}
	if (!(group->flags & RAW_TP)) {
		nr_fentry++;
		nr_hit += !!total;
	}
	if (!total) {
		printf("%s:SKIP:none of these functions can be attached to and is called\n",
		       __func__);
		test__skip();
		goto out;
	}
	check_counts(r);
	check_contents(r);
	printf("own %llu ok, %llu -ENOMEM; hot %llu ok, %llu -ENOMEM, %llu -EBUSY\n",
	       r->skel->bss->own.ok, r->skel->bss->own.nomem,
	       r->skel->bss->hot.ok, r->skel->bss->hot.nomem,
	       r->skel->bss->hot.busy);
out:
	htab_reentry__destroy(r->skel);
	free(r);
}

/* A program that irq_work calls, and that asks irq_work for memory each time,
 * does not keep the CPU from everything else.
 */
static void test_endless(const char *name)
{
	struct bpf_program *endless;
	struct bpf_link *link = NULL;
	struct htab_reentry *skel;
	struct htab_val val = {};
	__u64 key, hits;
	cpu_set_t cpus;
	int fd, err;

	sched_getaffinity(0, sizeof(cpus), &cpus);
	skel = htab_reentry__open();
	if (CHECK(!skel, "open", "skeleton failed to open\n"))
		return;
	autoload_only(skel->obj, &name, 1);
	err = htab_reentry__load(skel);
	if (CHECK(err, "load", "refused (%d), expected to pass\n", err))
		goto out;
	endless = bpf_object__find_program_by_name(skel->obj, name);
	link = bpf_program__attach_raw_tracepoint(endless, "irq_work_exit");
	if (IS_ERR(link)) {
		printf("%s:SKIP:no tracepoint irq_work_exit\n", __func__);
		test__skip();
		link = NULL;
		goto out;
	}
	skel->bss->active = true;
	/* the first call, if no other came yet */
	fd = bpf_map__fd(skel->maps.hash);
	pin(0);
	for (key = HOT_BASE; key < HOT_BASE + 2 * MANY_KEYS; key++)
		bpf_map_update_elem(fd, &key, &val, BPF_ANY);
	for (key = HOT_BASE; key < HOT_BASE + 2 * MANY_KEYS; key++)
		bpf_map_delete_elem(fd, &key);
	sleep(1);
	hits = READ_ONCE(skel->bss->calls[0]);
	skel->bss->active = false;
	if (!hits) {
		printf("%s:SKIP:irq_work has no interrupt\n", __func__);
		test__skip();
		goto out;
	}
	printf("called %llu times in a second\n", hits);
	CHECK(hits >= MAX_CALLS, "end", "called without end\n");
	CHECK(!skel->bss->own.ok, "calls", "no update in %llu calls\n", hits);
out:
	bpf_link__destroy(link);
	htab_reentry__destroy(skel);
	sched_setaffinity(0, sizeof(cpus), &cpus);
}

void test_htab_reentry(void)
{
	int i, percpu, cgroup;
	char name[64];

	/* so that the maps are charged */
	cgroup = test__join_cgroup(CGROUP);
	if (CHECK(cgroup < 0, "join_cgroup", "err %d\n", cgroup))
		return;
	close(cgroup);
	for (i = 0; i < ARRAY_SIZE(groups); i++) {
		for (percpu = 0; percpu < 2; percpu++) {
			snprintf(name, sizeof(name), "%s/%s", groups[i].name,
				 percpu ? "percpu_hash" : "hash");
			if (!percpu && groups[i].flags & PERCPU_ONLY)
				continue;
			if (test__start_subtest(name))
				test_group(&groups[i], percpu);
		}
	}
	if (test__start_subtest("irq_work_tp/large"))
		test_endless("endless_large");
	if (test__start_subtest("irq_work_tp/many"))
		test_endless("endless_many");
	/* some kernel may have inlined those of one group */
	CHECK(nr_fentry > 3 && !nr_hit, "attach",
	      "none of %d groups could be attached to\n", nr_fentry);
}
