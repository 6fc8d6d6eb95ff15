// SPDX-License-Identifier: GPL-2.0-only
/* One thread, which is all CPUs in turn: what is promised, and every error */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "user.h"

#define MANY		4096
#define MINUTE		(60 * HZ)

/* CACHED_BYTES of memalloc.c, by rule 6 of its design */
#define CPU_BYTES	8192

static struct obj_cgroup memcg;
static void *ptrs[MANY];
static struct user *victim;	/* of a hook */

static const size_t sizes[] = { 8, 16, 64, 100, 1024, 4096, 8184, 20000 };

static const enum user_kind kinds[] = {
	FIXED, LINKED, PERCPU, ATTACHED, ANY,
};

static size_t size_for(enum user_kind kind)
{
	return kind == PERCPU ? 24 : 64;
}

static void test_failed(void)
{
	fail();
}

static int setup_cpus(int cpus)
{
	static bool dirty;

	if (dirty)
		inspect_reset();
	dirty = true;
	emul_fail_fn = test_failed;
	emul_init(cpus);
	memcg = (struct obj_cgroup){ .limit = LONG_MAX / 2 };
	emul.memcg = &memcg;
	return 0;
}

static int setup(void **state)
{
	return setup_cpus(2);
}

static int setup4(void **state)
{
	return setup_cpus(4);
}

static int teardown(void **state)
{
	emul_exit();
	return 0;
}

static void on_cpu(int cpu, void (*fn)(void *arg), void *arg)
{
	if (cpu == emul_cpu)
		fn(arg);
	else
		emul_on_cpu(cpu, fn, arg);
}

static void destroy(struct user *u)
{
	assert_int_equal(u->live, 0);
	bpf_mem_alloc_destroy(&u->ma);
}

/* But what describes the slab caches, which stay for a while */
static void assert_all_back(void)
{
	assert_int_equal(emul.objects, emul.caches);
}

static void inspect_charged(struct user *u, struct inspect *in)
{
	struct inspect mine;

	in = in ?: &mine;
	user_inspect(u, in);
	assert_int_equal(memcg.usage, in->charge);
}

/* Steps into the time between two steps of one CPU's code */
static u32 hook_steps;
static enum emul_point hook_point;
static void (*hook_fn)(void);

static void at_point(enum emul_point point)
{
	if (point == hook_point && hook_steps && !--hook_steps) {
		emul.hook = NULL;
		hook_fn();
	}
}

static void call_at(enum emul_point point, u32 n, void (*fn)(void))
{
	hook_point = point;
	hook_steps = n;
	hook_fn = fn;
	emul.hook = at_point;
}

/* Init and sizes */

static void init_bad_args(void **state)
{
	struct bpf_mem_alloc ma;

	assert_int_equal(bpf_mem_alloc_init(&ma, 0, true), -EINVAL);
	assert_int_equal(bpf_mem_alloc_init(&ma, -1, false), -EINVAL);
	assert_int_equal(bpf_mem_alloc_init(&ma, -1, true), -EINVAL);
	assert_int_equal(bpf_mem_alloc_init(&ma, INT_MAX, false), -EINVAL);
	assert_int_equal(bpf_mem_alloc_init(&ma, PCPU_MIN_UNIT_SIZE + 1, true),
			 -EINVAL);
	/* a failed init leaves what may be destroyed */
	assert_null(ma.pcpu);
	assert_null(ma.classes);
	bpf_mem_alloc_destroy(&ma);
	assert_int_equal(emul.calls, 0);
}

static void init_bad_opts(void **state)
{
	static const struct bpf_mem_alloc_opts bad[] = {
		{ .size = 0, .link_off = -1 },
		{ .size = KMALLOC_MAX_SIZE - EMUL_HEAD_ROOM + 1, .link_off = -1 },
		{ .size = SIZE_MAX, .link_off = -1 },
		{ .size = 64, .link_off = WORD / 2 },
		{ .size = 64, .link_off = 64 },
		{ .size = 64, .link_off = INT_MAX - 7 },
		{ .size = 64 - WORD / 2, .link_off = 64 - WORD },
		{ .size = WORD / 2, .link_off = 0 },
		{ .size = 64, .link_off = -1, .percpu_size = 8, .percpu_off = -8 },
		{ .size = 64, .link_off = -1, .percpu_size = 8, .percpu_off = WORD / 2 },
		{ .size = 64, .link_off = -1, .percpu_size = 8, .percpu_off = 64 },
		{ .size = 64, .link_off = -1, .percpu_size = SIZE_MAX },
		{ .size = 64, .link_off = -1,
		  .percpu_size = PCPU_MIN_UNIT_SIZE + 1 },
		/* the link would overwrite the area */
		{ .size = 64, .link_off = 8, .percpu_size = 8, .percpu_off = 8 },
	};
	struct bpf_mem_alloc ma;
	u32 i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		print_message("opts %u\n", i);
		assert_int_equal(bpf_mem_alloc_init_opts(&ma, &bad[i]), -EINVAL);
		assert_null(ma.pcpu);
	}
}

static void init_good_opts(void **state)
{
	static const struct bpf_mem_alloc_opts good[] = {
		{ .size = 1, .link_off = -1 },
		{ .size = 8, .link_off = 0 },
		{ .size = 64, .link_off = 56 },
		{ .size = 64, .link_off = -1, .percpu_size = 8, .percpu_off = 56 },
		{ .size = 8, .link_off = -1, .percpu_off = 8 },
		{ .size = 100000, .link_off = 8, .percpu_size = 32768 },
		{ .size = KMALLOC_MAX_SIZE - EMUL_HEAD_ROOM, .link_off = -1 },
	};
	struct bpf_mem_alloc ma;
	u32 i;

	for (i = 0; i < ARRAY_SIZE(good); i++) {
		print_message("opts %u\n", i);
		assert_int_equal(bpf_mem_alloc_init_opts(&ma, &good[i]), 0);
		ptrs[0] = bpf_mem_cache_alloc(&ma);
		assert_non_null(ptrs[0]);
		bpf_mem_cache_free(&ma, ptrs[0]);
		bpf_mem_alloc_destroy(&ma);
	}
}

static void destroy_nothing(void **state)
{
	struct bpf_mem_alloc ma = {};

	bpf_mem_alloc_destroy(&ma);
	bpf_mem_alloc_destroy(&ma);
}

static void every_size(void **state)
{
	struct bpf_mem_alloc ma;
	size_t size;
	u8 *p, *q;

	assert_int_equal(bpf_mem_alloc_init(&ma, 0, false), 0);
	assert_ptr_equal(bpf_mem_alloc(&ma, 0), ZERO_SIZE_PTR);
	assert_null(bpf_mem_alloc(&ma, 4097));
	assert_null(bpf_mem_alloc(&ma, SIZE_MAX));
	bpf_mem_free(&ma, NULL);
	bpf_mem_free(&ma, ZERO_SIZE_PTR);
	for (size = 1; size <= 4096; size++) {
		p = bpf_mem_alloc(&ma, size);
		assert_non_null(p);
		assert_int_equal((unsigned long)p % 8, 0);
		/* not more than the next class, which the design lists */
		assert_true(emul_obj_of(p)->size >= size + EMUL_HEAD_ROOM);
		assert_true(size <= 16 || emul_obj_of(p)->size < 2 * size + 8);
		memset(p, 0xff, size);
		bpf_mem_free(&ma, p);
		q = bpf_mem_alloc(&ma, size);
		assert_int_equal(emul_obj_of(p)->size, emul_obj_of(q)->size);
		bpf_mem_free(&ma, q);
	}
	inspect(&ma, 0, NULL);
	bpf_mem_alloc_destroy(&ma);
}

static void classes(void **state)
{
	static const size_t class[] = {
		16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096,
	};
	struct bpf_mem_alloc ma;
	void *p;
	u32 i;

	assert_int_equal(bpf_mem_alloc_init(&ma, 0, false), 0);
	for (i = 0; i < ARRAY_SIZE(class); i++) {
		p = bpf_mem_alloc(&ma, class[i]);
		assert_int_equal(emul_obj_of(p)->size, class[i] + EMUL_HEAD_ROOM);
		bpf_mem_free(&ma, p);
		p = bpf_mem_alloc(&ma, i ? class[i - 1] + 1 : 1);
		assert_int_equal(emul_obj_of(p)->size, class[i] + EMUL_HEAD_ROOM);
		bpf_mem_free(&ma, p);
	}
	bpf_mem_alloc_destroy(&ma);
}

static const struct bpf_mem_alloc_opts lazy_opts = {
	.link_off = -1,
	.numa_node = NUMA_NO_NODE,
};

static void lazy_bad_args(void **state)
{
	static const struct bpf_mem_alloc_opts bad[] = {
		{ .link_off = 0 },
		{ .link_off = -1, .size = 64 },
		{ .link_off = -1, .percpu_size = 8 },
		{ .link_off = -1, .reserve = 1 },
	};
	struct bpf_mem_alloc ma;
	u32 i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(bpf_mem_alloc_init_lazy(&ma, &bad[i]), -EINVAL);
		assert_null(ma.classes);
		bpf_mem_alloc_destroy(&ma);
	}
	/* where all classes are there none is made */
	assert_int_equal(bpf_mem_alloc_init(&ma, 0, false), 0);
	assert_int_equal(bpf_mem_class_get(&ma, 64), -EINVAL);
	bpf_mem_alloc_destroy(&ma);
	assert_int_equal(bpf_mem_alloc_init_lazy(&ma, &lazy_opts), 0);
	assert_int_equal(bpf_mem_class_get(&ma, 0), -EINVAL);
	assert_int_equal(bpf_mem_class_get(&ma, 4097), -EINVAL);
	for (i = 1; i <= 2; i++) {
		emul.calls = 0;
		emul.fail_at = i;
		assert_int_equal(bpf_mem_class_get(&ma, 64), -ENOMEM);
		emul.fail_at = 0;
	}
	inspect(&ma, 0, NULL);
	bpf_mem_alloc_destroy(&ma);
}

/* A class is there while somebody wants it, and costs nothing before */
static void lazy_classes(void **state)
{
	struct bpf_mem_alloc_stats stats;
	struct bpf_mem_alloc ma;
	long objects;
	void *p;

	assert_int_equal(bpf_mem_class_size(1), 16 + EMUL_HEAD_ROOM);
	assert_int_equal(bpf_mem_class_size(129), 192 + EMUL_HEAD_ROOM);
	assert_int_equal(bpf_mem_class_size(4096), 4096 + EMUL_HEAD_ROOM);

	assert_int_equal(bpf_mem_alloc_init_lazy(&ma, &lazy_opts), 0);
	assert_int_equal(emul.caches, 0);
	objects = emul.objects;
	bpf_mem_alloc_get_stats(&ma, &stats);
	assert_int_equal(stats.bytes, 0);

	assert_int_equal(bpf_mem_class_get(&ma, 130), 0);
	assert_int_equal(bpf_mem_class_get(&ma, 192), 0);
	assert_int_equal(bpf_mem_class_get(&ma, 4096), 0);
	assert_int_equal(emul.caches, 2);
	p = bpf_mem_alloc(&ma, 160);
	assert_int_equal(emul_obj_of(p)->size, 192 + EMUL_HEAD_ROOM);
	inspect(&ma, 1, NULL);
	bpf_mem_alloc_get_stats(&ma, &stats);
	assert_true(stats.bytes >= 192 + EMUL_HEAD_ROOM);
	bpf_mem_class_put(&ma, 4096);
	bpf_mem_class_put(&ma, 130);
	emul_advance(2 * HZ);
	assert_int_equal(emul.caches, 1);
	bpf_mem_free_rcu(&ma, p);
	bpf_mem_class_put(&ma, 192);
	/* the same again, while what was before is on its way */
	assert_int_equal(bpf_mem_class_get(&ma, 150), 0);
	p = bpf_mem_alloc(&ma, 150);
	assert_non_null(p);
	emul_settle();
	inspect(&ma, 1, NULL);
	bpf_mem_free(&ma, p);
	bpf_mem_class_put(&ma, 150);
	emul_advance(2 * HZ);
	assert_int_equal(emul.caches, 0);
	assert_int_equal(emul.objects, objects);
	bpf_mem_alloc_get_stats(&ma, &stats);
	assert_int_equal(stats.bytes, 0);
	bpf_mem_alloc_destroy(&ma);
}

/* Only what is of the class waits for sleepable programs */
static void lazy_sleepable(void **state)
{
	struct bpf_mem_alloc ma;
	void *p, *q;

	assert_int_equal(bpf_mem_alloc_init_lazy(&ma, &lazy_opts), 0);
	assert_int_equal(bpf_mem_class_get(&ma, 64), 0);
	assert_int_equal(bpf_mem_class_get(&ma, 512), 0);
	bpf_mem_class_set_sleepable(&ma, 512);
	p = bpf_mem_alloc(&ma, 64);
	bpf_mem_free_rcu(&ma, p);
	emul_irq_work_run();
	assert_int_equal(emul_gp_pending(EMUL_RCU), 1);
	assert_int_equal(emul_gp_pending(EMUL_TRACE), 0);
	q = bpf_mem_alloc(&ma, 500);
	bpf_mem_free_rcu(&ma, q);
	emul_irq_work_run();
	assert_int_equal(emul_gp_pending(EMUL_TRACE), 1);
	emul_settle();
	bpf_mem_class_put(&ma, 64);
	bpf_mem_class_put(&ma, 512);
	bpf_mem_alloc_destroy(&ma);
}

static void free_null(void **state)
{
	struct user u;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	bpf_mem_cache_free(&u.ma, NULL);
	user_inspect(&u, NULL);
	destroy(&u);
}

/* Contents */

static bool all_zero(const u8 *p, size_t size)
{
	while (size--)
		if (*p++)
			return false;
	return true;
}

static void fresh_is_zero(void **state)
{
	struct bpf_mem_alloc ma;
	void *p;
	int cpu, i;

	assert_int_equal(bpf_mem_alloc_init(&ma, 64, false), 0);
	for (i = 0; i < 40; i++) {
		ptrs[i] = bpf_mem_cache_alloc(&ma);
		assert_true(all_zero(ptrs[i], 64));
		memset(ptrs[i], 0xff, 64);
	}
	while (i--)
		bpf_mem_cache_free(&ma, ptrs[i]);
	bpf_mem_alloc_destroy(&ma);
	assert_int_equal(bpf_mem_alloc_init(&ma, 64, true), 0);
	for (i = 0; i < 40; i++) {
		ptrs[i] = bpf_mem_cache_alloc(&ma);
		for (cpu = 0; cpu < emul_nr_cpus; cpu++) {
			p = per_cpu_ptr(*(void **)ptrs[i], cpu);
			assert_true(all_zero(p, 64));
			memset(p, 0xff, 64);
		}
	}
	while (i--)
		bpf_mem_cache_free(&ma, ptrs[i]);
	bpf_mem_alloc_destroy(&ma);
}

/* Objects of the pool are zero, too, also where the pool kept something */
static void pool_is_zero(void **state)
{
	struct bpf_mem_alloc_opts opts = {
		.size = 64, .link_off = 2 * WORD,
		.percpu_size = 8, .percpu_off = 3 * WORD,
		.numa_node = NUMA_NO_NODE,
	};
	struct bpf_mem_alloc ma;
	unsigned long flags, *p;

	assert_int_equal(bpf_mem_alloc_init_opts(&ma, &opts), 0);
	local_irq_save(flags);
	p = bpf_mem_cache_alloc_irqoff(&ma);
	assert_non_null(p);
	assert_true(all_zero((u8 *)p, 2 * WORD));
	assert_true(all_zero((u8 *)(p + 4), 32));
	assert_int_equal(*(u64 *)per_cpu_ptr((void *)p[3], 1), 0);
	bpf_mem_cache_free_irqoff(&ma, p);
	local_irq_restore(flags);
	bpf_mem_alloc_destroy(&ma);
}

static void freed_stays_intact(void **state)
{
	struct user u;
	u32 i, k, n = 300;

	for (k = 0; k < ARRAY_SIZE(kinds); k++) {
		print_message("%s\n", user_kinds[kinds[k]]);
		assert_int_equal(user_init(&u, kinds[k], size_for(kinds[k])), 0);
		assert_int_equal(user_alloc_many(&u, ptrs, n), n);
		user_free_many(&u, ptrs, n);
		/* wherever they have come to by now */
		for (i = 0; i < n; i++)
			user_check(&u, ptrs[i]);
		emul_irq_work_run();
		for (i = 0; i < n; i++)
			user_check(&u, ptrs[i]);
		destroy(&u);
		for (i = 0; i < n; i++)
			user_check(&u, ptrs[i]);
		emul_settle();
	}
}

static void percpu_areas(void **state)
{
	struct user u;
	int i, j;

	assert_int_equal(user_init(&u, PERCPU, 40), 0);
	assert_int_equal(user_alloc_many(&u, ptrs, 100), 100);
	for (i = 0; i < 100; i++)
		for (j = 0; j < i; j++)
			assert_ptr_not_equal(*(void **)ptrs[i], *(void **)ptrs[j]);
	user_free_many(&u, ptrs, 100);
	destroy(&u);
}

/* Every kind and size, on the CPU that allocated and on another */

/* No more memory from slab, per-CPU allocator or cgroup, until fail_at is 0 */
static void fail_from_now(void)
{
	emul.fail_at = emul.calls + 1;
	emul.fail_on = true;
}

struct move {
	struct user *u;
	void **ptrs;
	u32 n;
	u32 got;
};

static void do_free(void *arg)
{
	struct move *m = arg;

	user_free_many(m->u, m->ptrs, m->n);
}

static void do_alloc(void *arg)
{
	struct move *m = arg;

	m->got = user_alloc_many(m->u, m->ptrs, m->n);
}

static void do_burst(void *arg)
{
	struct move *m = arg;

	m->got = user_alloc_many_irqoff(m->u, m->ptrs, m->n);
}

static void kinds_and_sizes(void **state)
{
	struct move m;
	struct user u;
	u32 k, s, round;

	for (k = 0; k < ARRAY_SIZE(kinds); k++) {
		for (s = 0; s < ARRAY_SIZE(sizes); s++) {
			if (kinds[k] == ANY && sizes[s] > 4096)
				continue;
			if (kinds[k] > FIXED && sizes[s] < 16)
				continue;
			assert_int_equal(user_init(&u, kinds[k], sizes[s]), 0);
			m = (struct move){ &u, ptrs, kinds[k] == PERCPU ? 50 : 500, 0 };
			for (round = 0; round < 4; round++) {
				on_cpu(round & 1, do_alloc, &m);
				assert_int_equal(m.got, m.n);
				on_cpu(round / 2, do_free, &m);
				inspect_charged(&u, NULL);
			}
			emul_settle();
			inspect_charged(&u, NULL);
			destroy(&u);
			emul_settle();
			assert_all_back();
		}
	}
}

/* Memory */

static void no_memory(void **state)
{
	struct bpf_mem_alloc_stats stats;
	struct user u;
	u32 n;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	fail_from_now();
	n = user_alloc_many(&u, ptrs, MANY);
	assert_true(n < MANY);
	bpf_mem_alloc_get_stats(&u.ma, &stats);
	assert_true(stats.failed >= 1);
	assert_int_equal(bpf_mem_cache_fill(&u.ma, true), -ENOMEM);
	assert_false(bpf_mem_cache_refill(&u.ma));
	emul.fail_at = 0;
	assert_true(bpf_mem_cache_refill(&u.ma));
	assert_int_equal(bpf_mem_cache_fill(&u.ma, true), 0);
	ptrs[n] = user_alloc(&u);
	assert_non_null(ptrs[n]);
	user_free_many(&u, ptrs, n + 1);
	inspect_charged(&u, NULL);
	destroy(&u);
}

static u32 empty_list(struct user *u, void **ptrs)
{
	u32 n = 0;

	emul.irq_work_manual = true;
	while (inspect_cached(&u->ma, 0))
		n += user_alloc_many_irqoff(u, ptrs + n, 1);
	return n;
}

static struct user *hook_user;
static u32 looks;

/* The depot's holder does not get to run for longer than an alloc waits */
static void unlock_depot_late(void)
{
	if (++looks == 30000)
		inspect_lock_depot(&hook_user->ma, false);
}

/*
 * Who may make objects waits for those in the depot: nothing goes back while a
 * grace period is held open, so what is made instead stays. Others take what is
 * left elsewhere.
 */
static void locked_depot(void **state)
{
	struct inspect in, before;
	struct user u;
	u32 n;

	assert_int_equal(user_init(&u, LINKED, 64), 0);
	hook_user = &u;
	n = user_alloc_many(&u, ptrs, 1000);
	assert_int_equal(n, 1000);
	user_free_many(&u, ptrs, n);
	n = empty_list(&u, ptrs);
	inspect_charged(&u, &before);
	assert_true(before.waiting + before.in_gp > 500);

	looks = 0;
	emul.relax = unlock_depot_late;
	inspect_lock_depot(&u.ma, true);
	assert_true(bpf_mem_cache_refill(&u.ma));
	assert_int_equal(looks, 30000);
	inspect_charged(&u, &in);
	assert_int_equal(in.all, before.all);

	n += empty_list(&u, ptrs + n);
	looks = 0;
	inspect_lock_depot(&u.ma, true);
	/* of the reserve or the pool */
	assert_int_equal(user_alloc_many_irqoff(&u, ptrs + n, 1), 1);
	assert_true(looks && looks < 30000);
	inspect_lock_depot(&u.ma, false);
	emul.relax = NULL;
	emul.irq_work_manual = false;
	user_free_many(&u, ptrs, n + 1);
	destroy(&u);
}

/* Is this @want, and the caller a task that may sleep? */
static bool task_at(enum emul_point point, enum emul_point want)
{
	return point == want && !emul_irqs_off && !emul_preempt_count;
}

static int fillers;

static void fill_too(enum emul_point point)
{
	if (task_at(point, EMUL_SLAB_ALLOC) && fillers && fillers--)
		assert_int_equal(bpf_mem_cache_fill(&hook_user->ma, true), 0);
}

/* While one task waits for memory others do, and all make some in the end */
static void fill_many(void **state)
{
	struct inspect in;
	struct user u;
	u32 n;

	assert_int_equal(user_init(&u, LINKED, 64), 0);
	hook_user = &u;
	/* the CPU's batch has grown */
	n = user_alloc_many(&u, ptrs, 400);
	emul.no_nowait = true;
	while (inspect_cached(&u.ma, 0))
		n += user_alloc_many_irqoff(&u, ptrs + n, 1);
	fillers = 32;
	emul.hook = fill_too;
	assert_int_equal(bpf_mem_cache_fill(&u.ma, true), 0);
	emul.hook = NULL;
	assert_int_equal(fillers, 0);
	emul.no_nowait = false;
	emul_settle();
	inspect_charged(&u, &in);
	assert_in_range(in.cpu * in.object, 1, CPU_BYTES);
	user_free_many(&u, ptrs, n);
	destroy(&u);
}

/* A memory cgroup counts in 32 bits what is charged or uncharged at once */
static void charge_many_cpus(void **state)
{
	struct user u;
	struct move m;
	u32 i, n;

	if (sizeof(long) < 8) {
		print_message("a cgroup of a 32-bit machine has no 2 GB for each\n");
		skip();
	}
	emul_possible_cpus = 65536;
	assert_int_equal(user_init(&u, PERCPU, PCPU_MIN_UNIT_SIZE), 0);
	n = user_alloc_many(&u, ptrs, 150);
	assert_int_equal(n, 150);
	/* the worker makes some for all CPUs at once */
	emul.no_percpu_nowait = true;
	m = (struct move){ &u, NULL, 2, 0 };
	for (i = 0; i < 40; i++) {
		m.ptrs = ptrs + n;
		on_cpu(i % emul_nr_cpus, do_burst, &m);
		n += m.got;
		if (i % 8 == 7)
			emul_settle();
	}
	emul.no_percpu_nowait = false;
	inspect_charged(&u, NULL);
	/* 2 GB each */
	assert_true(memcg.usage > n * (2L << 30));
	user_free_many(&u, ptrs, n);
	emul_settle();
	inspect_charged(&u, NULL);
	destroy(&u);
	emul_settle();
	assert_int_equal(memcg.usage, 0);
}

static int fill_any(struct user *u)
{
	if (u->kind == ANY)
		return bpf_mem_fill(&u->ma, u->size, true);
	return bpf_mem_cache_fill(&u->ma, true);
}

/* At the limit of a cgroup, what lies ready on other CPUs is had as well */
static void fill_from_cpus(void **state)
{
	struct inspect in;
	struct user u;
	struct move m;
	u32 k, n, cpu;

	for (k = 0; k < ARRAY_SIZE(kinds); k++) {
		assert_int_equal(user_init(&u, kinds[k], size_for(kinds[k])), 0);
		n = user_alloc_many(&u, ptrs, 1000);
		assert_int_equal(n, 1000);
		for (cpu = 1; cpu < 4; cpu++) {
			n -= cpu;
			m = (struct move){ &u, ptrs + n, cpu, 0 };
			on_cpu(cpu, do_free, &m);
		}
		emul_advance(3 * MINUTE);
		inspect_charged(&u, &in);
		assert_in_range(in.cpu, 6, 4 * 96);
		memcg.limit = memcg.usage;
		while (!fill_any(&u)) {
			assert_true(n < MANY);
			n += user_alloc_many_irqoff(&u, ptrs + n, 1);
		}
		emul_settle();
		inspect_charged(&u, &in);
		assert_int_equal(in.cpu + in.nested + in.stock + in.waiting +
				 in.in_gp, 0);
		memcg.limit = LONG_MAX / 2;
		user_free_many(&u, ptrs, n);
		inspect_charged(&u, NULL);
		destroy(&u);
		emul_settle();
	}
}

/* A machine full of page cache: only who may sleep gets memory */
static void fill_reclaims(void **state)
{
	struct user u;
	u32 i, n, k;

	for (k = 0; k < ARRAY_SIZE(kinds); k++) {
		assert_int_equal(user_init(&u, kinds[k], size_for(kinds[k])), 0);
		emul.no_nowait = true;
		emul.irq_work_manual = true;
		n = 1024;
		for (i = 0; i < n; i++) {
			assert_int_equal(fill_any(&u), 0);
			assert_int_equal(user_alloc_many_irqoff(&u, ptrs + i, 1), 1);
		}
		emul.no_nowait = false;
		emul.irq_work_manual = false;
		user_free_many(&u, ptrs, n);
		inspect_charged(&u, NULL);
		destroy(&u);
		emul_settle();
	}
}

static void fill_bad_sizes(void **state)
{
	struct user u;
	u32 n;

	assert_int_equal(user_init(&u, ANY, 64), 0);
	assert_int_equal(bpf_mem_fill(&u.ma, 0, true), 0);
	assert_int_equal(bpf_mem_fill(&u.ma, 4097, true), -ENOMEM);
	fail_from_now();
	n = user_alloc_many(&u, ptrs, MANY);
	assert_true(n < MANY);
	assert_int_equal(bpf_mem_fill(&u.ma, 64, true), -ENOMEM);
	emul.fail_at = 0;
	user_free_many(&u, ptrs, n);
	destroy(&u);
}

/* A cgroup at its limit whose page cache can be reclaimed */
static void fill_in_full_memcg(void **state)
{
	struct user u;
	u32 i, n = 1024;

	memcg.limit = 1 << 20;
	memcg.usage = 1 << 20;
	memcg.reclaimable = 1 << 20;
	assert_int_equal(user_init(&u, FIXED, 64), 0);
	for (i = 0; i < n; i++) {
		assert_int_equal(bpf_mem_cache_fill(&u.ma, true), 0);
		assert_int_equal(user_alloc_many_irqoff(&u, ptrs + i, 1), 1);
	}
	user_free_many(&u, ptrs, n);
	destroy(&u);
	emul_settle();
	assert_int_equal(memcg.usage, memcg.reclaimable);
	memcg.usage = 0;
}

static void memcg_limit(void **state)
{
	struct inspect in;
	struct user u;
	u32 n;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	memcg.limit = memcg.usage + 100 * 72;
	n = user_alloc_many(&u, ptrs, MANY);
	emul_settle();
	n += user_alloc_many(&u, ptrs + n, MANY - n);
	assert_true(n >= 100 && n < 200);
	user_inspect(&u, &in);
	/* what came from the pool is charged late, but no more than that */
	assert_true(in.all * in.object <= 100 * 72 + 16 * in.object);
	assert_true(memcg.usage <= memcg.limit);
	assert_int_equal(bpf_mem_cache_fill(&u.ma, true), -ENOMEM);
	memcg.limit += 1000 * 72;
	assert_int_equal(bpf_mem_cache_fill(&u.ma, true), 0);
	user_free_many(&u, ptrs, n);
	emul_settle();
	inspect_charged(&u, NULL);
	destroy(&u);
}

/* Once an allocator could not pay, it must get at the pool again later */
static void debt_is_forgiven(void **state)
{
	struct inspect in;
	struct user u;
	u32 n;

	/* too large for a CPU's list: all goes back */
	assert_int_equal(user_init(&u, FIXED, 20000), 0);
	user_inspect(&u, &in);
	assert_true(in.pool > 0);
	memcg.limit = memcg.usage;
	n = user_alloc_many_irqoff(&u, ptrs, 4);
	assert_true(n > 0);
	emul_settle();
	user_free_many(&u, ptrs, n);
	emul_settle();
	inspect_charged(&u, &in);
	assert_int_equal(in.all, 0);
	memcg.limit = LONG_MAX / 2;
	n = user_alloc_many_irqoff(&u, ptrs, 1);
	emul_advance(HZ);
	user_free_many(&u, ptrs, n);
	emul_advance(HZ);
	user_inspect(&u, &in);
	assert_true(in.pool > 0);
	/* more than the reserve has */
	emul.irq_work_manual = true;
	n = user_alloc_many_irqoff(&u, ptrs, 200);
	user_inspect(&u, &in);
	assert_int_equal(in.pool, 0);
	user_free_many(&u, ptrs, n);
	emul.irq_work_manual = false;
	destroy(&u);
}

/* A life with everything in it; returns whether all went well */
static bool whole_life(enum user_kind kind)
{
	struct user u;
	u32 i, n;

	if (user_init(&u, kind, size_for(kind))) {
		emul_settle();
		return false;
	}
	n = user_alloc_many(&u, ptrs, 20);
	n += user_alloc_many_irqoff(&u, ptrs + n, 40);
	emul_settle();
	if (kind != ANY) {
		bpf_mem_cache_fill(&u.ma, true);
		bpf_mem_cache_refill(&u.ma);
	}
	n += user_alloc_many_irqoff(&u, ptrs + n, 300);
	emul_settle();
	inspect_charged(&u, NULL);
	user_free_many(&u, ptrs, n / 2);
	user_free_many_rcu(&u, ptrs + n / 2, n - n / 2);
	emul_settle();
	n = user_alloc_many_irqoff(&u, ptrs, 100);
	for (i = 0; i < n; i++) {
		if (i & 1)
			user_free_rcu(&u, ptrs[i]);
		else
			user_free(&u, ptrs[i]);
	}
	emul_advance(2 * MINUTE);
	inspect_charged(&u, NULL);
	destroy(&u);
	emul_settle();
	return true;
}

/* Whatever fails, nothing is lost, and no charge stays */
static void fail_everywhere(void **state)
{
	long n, last;
	int k, on;

	for (on = 0; on < 2; on++) {
		for (k = 0; k < NR_KINDS; k++) {
			emul.fail_at = 0;
			emul.calls = 0;
			assert_true(whole_life(k));
			last = emul.calls;
			for (n = 1; n <= last; n++) {
				emul.calls = 0;
				emul.fail_at = n;
				emul.fail_on = on;
				whole_life(k);
				assert_all_back();
				assert_int_equal(emul.areas, 0);
				assert_int_equal(memcg.usage, 0);
				if (emul.calls < n)
					break;
			}
			print_message("%s: %ld calls failed %s\n", user_kinds[k],
				      n - 1, on ? "with all after it" : "alone");
		}
	}
}

/* One slab cache for each size, which stays for a while */
static void caches_are_shared(void **state)
{
	struct user u, v, w;
	long made;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	assert_int_equal(emul.caches, 1);
	assert_int_equal(user_init(&v, FIXED, 64), 0);
	assert_int_equal(emul.caches, 1);
	assert_int_equal(user_init(&w, FIXED, 72), 0);
	assert_int_equal(emul.caches, 2);
	destroy(&u);
	emul_advance(2 * HZ);
	assert_int_equal(emul.caches, 2);
	ptrs[0] = user_alloc(&v);
	assert_non_null(ptrs[0]);
	user_free(&v, ptrs[0]);
	destroy(&v);
	emul_settle();
	assert_int_equal(emul.caches, 2);
	made = emul.caches_made;
	assert_int_equal(user_init(&v, FIXED, 64), 0);
	emul_advance(2 * HZ);
	assert_int_equal(emul.caches, 2);
	assert_int_equal(emul.caches_made, made);
	destroy(&v);
	emul_advance(2 * HZ);
	assert_int_equal(emul.caches, 1);
	destroy(&w);
}

/* Grace periods */

static u32 deplete(struct user *u, u32 n)
{
	n = user_alloc_many(u, ptrs, n);
	user_free_many(u, ptrs, n);
	return n;
}

static void batches(void **state)
{
	struct inspect in;
	struct user u;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	deplete(&u, 2000);
	user_inspect(&u, &in);
	assert_true(in.waiting + in.in_gp > 1500);
	/* one callback for many objects, and one at a time */
	assert_int_equal(emul_gp_pending(EMUL_RCU), 1);
	assert_int_equal(emul.gps[EMUL_RCU], 1);
	emul_settle();
	user_inspect(&u, &in);
	assert_int_equal(in.waiting + in.in_gp, 0);
	assert_true(in.all * in.object <= CPU_BYTES);
	assert_true(emul.gps[EMUL_RCU] <= 3);
	assert_int_equal(emul.gps[EMUL_TRACE], 0);
	inspect_charged(&u, NULL);
	destroy(&u);
}

static void sleepable(void **state)
{
	struct user u;
	int implied;

	for (implied = 0; implied < 2; implied++) {
		emul.trace_not_rcu = !implied;
		emul.gps[EMUL_TRACE] = 0;
		emul.expect_trace = false;
		assert_int_equal(user_init(&u, FIXED, 64), 0);
		deplete(&u, 1000);
		emul_settle();
		assert_int_equal(emul.gps[EMUL_TRACE], 0);
		bpf_mem_alloc_set_sleepable(&u.ma);
		emul.expect_trace = true;
		deplete(&u, 1000);
		assert_int_equal(emul.gps[EMUL_TRACE], 1);
		emul_settle();
		assert_true(emul.gps[EMUL_TRACE] >= 1);
		destroy(&u);
		emul_settle();
	}
}

/* The mark comes while a grace period without Tasks Trace is running */
static void sleepable_in_between(void **state)
{
	struct user u;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	deplete(&u, 1000);
	assert_int_equal(emul_gp_pending(EMUL_RCU), 1);
	bpf_mem_alloc_set_sleepable(&u.ma);
	emul.expect_trace = true;
	/* some of them are reused, and seen by sleepable programs */
	deplete(&u, 500);
	emul_settle();
	destroy(&u);
}

static void sleepable_any_size(void **state)
{
	struct user u;

	assert_int_equal(user_init(&u, ANY, 64), 0);
	bpf_mem_alloc_set_sleepable(&u.ma);
	emul.expect_trace = true;
	deplete(&u, 1000);
	emul_settle();
	destroy(&u);
}

/* What waits may be had again by the same allocator */
static void waiting_is_reused(void **state)
{
	struct user u;
	long before;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	deplete(&u, 1000);
	before = emul.slab_allocs;
	assert_int_equal(user_alloc_many(&u, ptrs, 900), 900);
	assert_int_equal(emul.slab_allocs, before);
	user_free_many(&u, ptrs, 900);
	/* also with interrupts off */
	assert_int_equal(user_alloc_many_irqoff(&u, ptrs, 900), 900);
	user_free_many(&u, ptrs, 900);
	destroy(&u);
}

/*
 * One CPU adds, the others delete, and no grace period ends. Live + free +
 * waiting <= peak live + reserve + 8 kB a CPU; one object at least.
 */
static void churn_bound(enum user_kind kind, size_t size, bool trace, bool off)
{
	u32 live = 200, i, n, pos = 0;
	struct inspect in;
	struct move m;
	struct user u;
	long bound;

	assert_int_equal(user_init(&u, kind, size), 0);
	if (trace)
		bpf_mem_alloc_set_sleepable(&u.ma);
	assert_int_equal(user_alloc_many(&u, ptrs, live), live);
	for (i = 0; i < 1500; i++) {
		/* delete on one of the other CPUs */
		m = (struct move){ &u, ptrs + pos, 1, 0 };
		on_cpu(1 + i / 128 % (emul_nr_cpus - 1), do_free, &m);
		emul_work_run();
		n = off ? user_alloc_many_irqoff(&u, ptrs + pos, 1) :
			  user_alloc_many(&u, ptrs + pos, 1);
		if (!n) {
			emul_work_run();
			n = user_alloc_many(&u, ptrs + pos, 1);
		}
		assert_int_equal(n, 1);
		pos = (pos + 1) % live;
		if (i % 50)
			continue;
		emul_tick(1);
		user_inspect(&u, &in);
		bound = live + in.reserve +
			emul_nr_cpus * max(CPU_BYTES / in.object, 1L);
		if (in.all > bound)
			fail_msg("%s %zu: %ld objects after %u, bound %ld",
				 user_kinds[kind], size, in.all, i, bound);
	}
	user_free_many(&u, ptrs, live);
	destroy(&u);
	emul_settle();
}

static void churn(void **state)
{
	static const size_t churn_sizes[] = { 16, 64, 256, 1024, 4096 };
	u32 k, s, v;

	for (k = 0; k < ARRAY_SIZE(kinds); k++)
		for (s = 0; s < ARRAY_SIZE(churn_sizes); s++)
			for (v = 0; v < 4; v++)
				if (!(v & 1) || kinds[k] != ANY)
					churn_bound(kinds[k], churn_sizes[s],
						    v & 1, v & 2);
}

/* Freed for after the grace period */

/* All of them wait for the same grace period, unless one is running */
static void hold_many(struct user *u, void **held, u32 n)
{
	bool manual = emul.irq_work_manual;

	emul.irq_work_manual = true;
	user_free_many_rcu(u, held, n);
	emul.irq_work_manual = manual;
	if (!manual)
		emul_irq_work_run();
}

static void expect_held(struct user *u, long n)
{
	struct inspect in;

	inspect_charged(u, &in);
	assert_int_equal(in.held + in.held_gp, n);
}

static void held_null(void **state)
{
	struct user u;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	bpf_mem_cache_free_rcu(&u.ma, NULL);
	user_inspect(&u, NULL);
	destroy(&u);
	assert_int_equal(user_init(&u, ANY, 64), 0);
	bpf_mem_free_rcu(&u.ma, NULL);
	bpf_mem_free_rcu(&u.ma, ZERO_SIZE_PTR);
	user_inspect(&u, NULL);
	destroy(&u);
}

/* emul_note_alloc() looks whether one is handed out too early */
static void held_until_gp(void **state)
{
	u32 i, k, n = 300, got;
	struct user u;

	for (k = 0; k < ARRAY_SIZE(kinds); k++) {
		print_message("%s\n", user_kinds[kinds[k]]);
		assert_int_equal(user_init(&u, kinds[k], size_for(kinds[k])), 0);
		assert_int_equal(user_alloc_many(&u, ptrs, n), n);
		/* a grace period for the first one, all others wait for the next */
		user_free_many_rcu(&u, ptrs, n);
		expect_held(&u, n);
		got = user_alloc_many_irqoff(&u, ptrs + n, n);
		emul_nmi_enter();
		got += user_alloc_many(&u, ptrs + n + got, n);
		emul_nmi_exit();
		got += user_alloc_many(&u, ptrs + n + got, n);
		assert_true(got >= n);
		for (i = 0; i < n; i++)
			user_check(&u, ptrs[i]);
		expect_held(&u, n);
		emul_gp_run(EMUL_RCU);
		emul_work_run();
		user_alloc_many_irqoff(&u, ptrs + n + got, 2);
		for (i = 0; i < n - 1; i++)
			user_check(&u, ptrs[i]);
		expect_held(&u, n - 1);
		user_free_many(&u, ptrs + n, u.live);
		emul_settle();
		expect_held(&u, 0);
		destroy(&u);
		emul_settle();
	}
}

/* The mark comes before the free, or between that and the grace period */
static void held_sleepable(void **state)
{
	struct user u;
	u32 late, k;

	for (k = 0; k < ARRAY_SIZE(kinds); k++) {
		for (late = 0; late < 2; late++) {
			emul.trace_not_rcu = k & 1;
			emul.expect_trace = true;
			emul.gps[EMUL_TRACE] = 0;
			assert_int_equal(user_init(&u, kinds[k],
						   size_for(kinds[k])), 0);
			if (!late)
				bpf_mem_alloc_set_sleepable(&u.ma);
			assert_int_equal(user_alloc_many(&u, ptrs, 100), 100);
			emul.irq_work_manual = true;
			user_free_many_rcu(&u, ptrs, 100);
			if (late)
				bpf_mem_alloc_set_sleepable(&u.ma);
			emul.irq_work_manual = false;
			emul_irq_work_run();
			assert_int_equal(emul_gp_pending(EMUL_TRACE), 1);
			assert_int_equal(emul_gp_pending(EMUL_RCU), 0);
			user_free_many(&u, ptrs, user_alloc_many(&u, ptrs, 500));
			emul_settle();
			expect_held(&u, 0);
			destroy(&u);
			emul_settle();
		}
	}
}

/* One is replaced at a time: slab has nothing to do with it */
static void held_is_reused(void **state)
{
	struct inspect in;
	struct user u;
	long before;
	u32 i, k, n;

	for (k = 0; k < ARRAY_SIZE(kinds); k++) {
		assert_int_equal(user_init(&u, kinds[k], size_for(kinds[k])), 0);
		n = 100;
		assert_int_equal(user_alloc_many(&u, ptrs, n), n);
		before = 0;
		for (i = 0; i < 4000; i++) {
			if (i == 2000)
				before = emul.slab_allocs;
			user_free_rcu(&u, ptrs[i % n]);
			ptrs[i % n] = user_alloc(&u);
			assert_non_null(ptrs[i % n]);
			if (i % 50)
				continue;
			emul_gp_run(EMUL_RCU);
			emul_work_run();
			inspect_charged(&u, &in);
			assert_true(in.stock <= 200);
		}
		print_message("%s: %ld objects of slab for 2000\n",
			      user_kinds[kinds[k]], emul.slab_allocs - before);
		assert_true(emul.slab_allocs - before <= 500);
		user_free_many(&u, ptrs, n);
		/* and when nobody wants them any more, they are not kept */
		emul_advance(2 * MINUTE);
		inspect_charged(&u, &in);
		assert_int_equal(in.stock, 0);
		destroy(&u);
		emul_settle();
	}
}

static u32 released;

static void count_release(void *obj)
{
	/* no reader has it, and nobody has got it again */
	assert_int_equal(emul_gp_pending(EMUL_RCU), 0);
	assert_int_equal(*(u64 *)obj, 0x1234);
	*(u64 *)obj = 0;
	released++;
}

/* Each object is released once, be it used again, freed, or left at the end */
static void held_is_released(void **state)
{
	struct bpf_mem_alloc_opts opts = {
		.size = 64,
		.link_off = -1,
		.numa_node = NUMA_NO_NODE,
		.cache_bytes = 512,
		.uncharged = true,
		.release = count_release,
	};
	struct bpf_mem_alloc ma;
	u32 i, freed = 0;

	released = 0;
	assert_int_equal(bpf_mem_alloc_init_opts(&ma, &opts), 0);
	assert_int_equal(memcg.usage, 0);
	for (i = 0; i < 2000; i++) {
		ptrs[0] = bpf_mem_cache_alloc(&ma);
		assert_non_null(ptrs[0]);
		assert_int_equal(*(u64 *)ptrs[0], 0);
		if (i % 3) {
			*(u64 *)ptrs[0] = 0x1234;
			bpf_mem_cache_free_rcu(&ma, ptrs[0]);
			freed++;
		} else {
			bpf_mem_cache_free(&ma, ptrs[0]);
		}
		assert_true(released <= freed);
		if (i % 7)
			continue;
		emul_advance(1);
		assert_int_equal(released, freed);
		assert_int_equal(memcg.usage, 0);
	}
	emul_settle();
	ptrs[0] = bpf_mem_cache_alloc(&ma);
	*(u64 *)ptrs[0] = 0x1234;
	bpf_mem_cache_free_rcu(&ma, ptrs[0]);
	bpf_mem_alloc_destroy(&ma);
	assert_int_equal(released, freed);
	emul_settle();
	assert_int_equal(released, freed + 1);
}

/* What is deleted, and not replaced */
static void held_goes_to_slab(void **state)
{
	struct inspect before, in;
	struct user u;
	long used;
	u32 k, n;

	for (k = 0; k < ARRAY_SIZE(kinds); k++) {
		n = 1000;
		assert_int_equal(user_init(&u, kinds[k], size_for(kinds[k])), 0);
		assert_int_equal(user_alloc_many(&u, ptrs, n), n);
		n -= 100;
		hold_many(&u, ptrs + n, 100);
		emul_settle();
		inspect_charged(&u, &before);
		assert_int_equal(before.stock, 100);
		/* what is in stock does for as many as are used now */
		do {
			ptrs[n++] = user_alloc(&u);
			inspect_charged(&u, &before);
		} while (before.stock == 100);
		used = 100 - before.stock;
		n -= 200;
		hold_many(&u, ptrs + n, 200);
		emul_settle();
		inspect_charged(&u, &in);
		assert_int_equal(in.stock, max(before.stock, used));
		/* and then none was used */
		hold_many(&u, ptrs, n);
		emul_settle();
		inspect_charged(&u, &in);
		assert_int_equal(in.stock, max(before.stock, used));
		assert_true(in.all * in.object <= 2 * CPU_BYTES);
		destroy(&u);
		emul_settle();
	}
}

static u32 nr_left;

static void free_one(void *arg)
{
	user_free_rcu(victim, ptrs[--nr_left]);
}

static void free_one_here(void)
{
	free_one(NULL);
}

static void free_one_elsewhere(void)
{
	on_cpu(!emul_cpu, free_one, NULL);
}

static void free_one_in_nmi(void)
{
	emul_nmi_enter();
	free_one(NULL);
	emul_nmi_exit();
}

/* Which a sleepable program may have seen */
static void mark_and_free_one(void)
{
	bpf_mem_alloc_set_sleepable(&victim->ma);
	emul.expect_trace = true;
	free_one(NULL);
}

/* Whenever it is freed, it gets a whole grace period without a further call */
static void held_is_not_forgotten(void **state)
{
	static void (* const fns[])(void) = {
		free_one_here, free_one_elsewhere, free_one_in_nmi,
		mark_and_free_one,
	};
	u32 f, point, n, tried = 0;
	struct user u;
	bool reached;

	victim = &u;
	for (f = 0; f < ARRAY_SIZE(fns); f++) {
		for (point = 0; point <= EMUL_SCHEDULE; point++) {
			for (n = 1; ; n++) {
				emul.expect_trace = false;
				assert_int_equal(user_init(&u, LINKED, 64), 0);
				nr_left = user_alloc_many(&u, ptrs, 60);
				emul_settle();
				/* more of them than are kept */
				user_free_many(&u, ptrs + 20, 40);
				nr_left = 20;
				call_at(point, n, fns[f]);
				while (nr_left > 10)
					free_one(NULL);
				emul_settle();
				reached = !emul.hook;
				emul.hook = NULL;
				expect_held(&u, 0);
				user_free_many(&u, ptrs, nr_left);
				destroy(&u);
				emul_advance(1);
				if (!reached)
					break;
				tried++;
			}
		}
	}
	print_message("%u points\n", tried);
	assert_true(tried > 100);
}

static void held_on_dead_cpu(void **state)
{
	struct user u;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	victim = &u;
	nr_left = user_alloc_many(&u, ptrs, 2);
	emul_settle();
	emul.irq_work_manual = true;
	emul_on_cpu(1, free_one, NULL);
	emul_cpu_dead(1);
	emul.irq_work_manual = false;
	emul_settle();
	expect_held(&u, 0);
	user_free(&u, ptrs[0]);
	destroy(&u);
}

static u32 next_random(u32 *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8;
}

/* Objects of both kinds of free, in any order */
static void mixed_frees(void **state)
{
	u32 k, r, seed, n = 0, ops, sleep;
	unsigned long flags = 0;
	struct user u;
	void *obj;

	for (k = 0; k < 2 * ARRAY_SIZE(kinds); k++) {
		seed = k;
		sleep = k & 1;
		emul.expect_trace = sleep;
		assert_int_equal(user_init(&u, kinds[k / 2],
					   size_for(kinds[k / 2])), 0);
		if (sleep)
			bpf_mem_alloc_set_sleepable(&u.ma);
		for (ops = 0; ops < 20000; ops++) {
			r = next_random(&seed);
			obj = NULL;
			switch (r % 16) {
			case 0 ... 4:
				if (r & 0x200)
					local_irq_save(flags);
				if (r & 0x100)
					emul_nmi_enter();
				if (n < MANY)
					obj = user_alloc(&u);
				if (obj)
					ptrs[n++] = obj;
				if (r & 0x100)
					emul_nmi_exit();
				if (r & 0x200)
					local_irq_restore(flags);
				break;
			case 5 ... 6:
				if (n)
					user_free_rcu(&u, ptrs[--n]);
				break;
			case 7 ... 8:
				if (n)
					user_free(&u, ptrs[--n]);
				break;
			case 9:
				for (r = r / 16 % 64; r && n; r--)
					user_free_rcu(&u, ptrs[--n]);
				break;
			case 10:
				n += user_alloc_many(&u, ptrs + n,
						     min(r / 16 % 64, MANY - n));
				break;
			case 11:
				emul_gp_run(EMUL_TRACE);
				emul_gp_run(EMUL_RCU);
				break;
			case 12:
				emul_work_run();
				break;
			case 13:
				emul_set_cpu(!emul_cpu);
				break;
			case 14:
				emul.irq_work_manual = r & 0x100;
				break;
			default:
				emul_tick(1);
				inspect_charged(&u, NULL);
			}
		}
		emul.irq_work_manual = false;
		emul_set_cpu(0);
		for (; n; n--) {
			if (n & 1)
				user_free(&u, ptrs[n - 1]);
			else
				user_free_rcu(&u, ptrs[n - 1]);
		}
		emul_settle();
		expect_held(&u, 0);
		destroy(&u);
		emul_settle();
	}
}

/* The others are used again as before, no matter how many are held */
static void waiting_beside_held(void **state)
{
	struct user u;
	long before;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	assert_int_equal(user_alloc_many(&u, ptrs, 2000), 2000);
	user_free_many_rcu(&u, ptrs, 1000);
	user_free_many(&u, ptrs + 1000, 1000);
	before = emul.slab_allocs;
	assert_int_equal(user_alloc_many(&u, ptrs, 900), 900);
	assert_int_equal(emul.slab_allocs, before);
	expect_held(&u, 1000);
	user_free_many(&u, ptrs, 900);
	assert_int_equal(user_alloc_many_irqoff(&u, ptrs, 900), 900);
	expect_held(&u, 1000);
	user_free_many(&u, ptrs, 900);
	destroy(&u);
}

/* No more than so many wait */

#define MAX_WAITING	20
#define LIVE		200
#define POOL_OBJS	16	/* POOL_SLOTS of memalloc.c */

static const enum user_kind bounded_kinds[] = { FIXED, LINKED, ATTACHED };

static void init_bound(struct user *u, enum user_kind kind)
{
	assert_int_equal(user_init_opts(u, kind, 64, MAX_WAITING, 0), 0);
}

/* Take all there is, without waiting */
static u32 take_rest(struct user *u, void **objs)
{
	struct inspect in;
	u32 n = 0;

	while ((objs[n] = user_alloc(u)))
		n++;
	user_inspect(u, &in);
	assert_int_equal(in.cpu + in.nested + in.stock + in.reserve, 0);
	assert_int_equal(in.waiting + in.in_gp, 0);
	return n;
}

static void limit_memcg(void)
{
	memcg.limit = memcg.usage;
}

/* All objects are in use when there is no memory for more */
static u32 use_up(struct user *u, u32 size, void (*no_more)(void))
{
	u32 n;

	assert_int_equal(user_init(u, LINKED, size), 0);
	n = user_alloc_many(u, ptrs, 100);
	assert_int_equal(n, 100);
	no_more();
	return n + take_rest(u, ptrs + n);
}

/* @live objects are in use, and the rest waits and will go to slab */
static void reach_bound(struct user *u, enum user_kind kind, u32 live)
{
	struct inspect in;
	u32 n;

	init_bound(u, kind);
	n = user_alloc_many(u, ptrs, live);
	user_free_many(u, ptrs + n, user_alloc_many(u, ptrs + n, 300));
	emul_settle();
	/* of what is cached, so that none is used since the grace period */
	n += user_alloc_many(u, ptrs + n, 50);
	emul.irq_work_manual = true;
	hold_many(u, ptrs + live, n - live);
	n = take_rest(u, ptrs + live);
	hold_many(u, ptrs + live, n);
	emul.irq_work_manual = false;
	emul_irq_work_run();
	user_inspect(u, &in);
	assert_int_equal(u->live, live);
	assert_int_equal(in.held, 0);
	assert_true(in.held_gp > MAX_WAITING);
}

static void bound_ends_allocs(void **state)
{
	struct inspect before, in;
	struct user u;
	u32 k, n, i;

	for (k = 0; k < ARRAY_SIZE(bounded_kinds); k++) {
		init_bound(&u, bounded_kinds[k]);
		assert_int_equal(user_alloc_many(&u, ptrs, LIVE), LIVE);
		/* one less, and objects are made as ever */
		n = LIVE - MAX_WAITING + 1;
		hold_many(&u, ptrs + n, MAX_WAITING - 1);
		assert_int_equal(user_alloc_many(&u, ptrs + n, LIVE), LIVE);
		n += LIVE;
		user_free_rcu(&u, ptrs[--n]);
		inspect_charged(&u, &before);
		for (i = 0; i < 100; i++) {
			n += take_rest(&u, ptrs + n);
			n += user_alloc_many_irqoff(&u, ptrs + n, 2);
			emul_work_run();
			emul_tick(HZ);
		}
		inspect_charged(&u, &in);
		assert_true(in.all <= before.all + POOL_OBJS);
		expect_held(&u, MAX_WAITING);
		/* until then only */
		emul_settle();
		assert_int_equal(user_alloc_many(&u, ptrs + n, LIVE), LIVE);
		user_free_many(&u, ptrs, u.live);
		destroy(&u);
		emul_settle();
	}
}

/* Updates of a map while a reader sits in it for ever */
static void bound_under_churn(void **state)
{
	u32 k, i, n, got, off, failed;
	struct inspect in;
	struct user u;
	long bound;

	for (k = 0; k < 2 * ARRAY_SIZE(bounded_kinds); k++) {
		off = k & 1;
		failed = 0;
		init_bound(&u, bounded_kinds[k / 2]);
		n = user_alloc_many(&u, ptrs, LIVE);
		assert_int_equal(n, LIVE);
		for (i = 0; i < 20000; i++) {
			emul_set_cpu(i / 7 % emul_nr_cpus);
			got = 1;
			if (n < LIVE)
				got = off ? user_alloc_many_irqoff(&u, ptrs + n, 1) :
					    user_alloc_many(&u, ptrs + n, 1);
			failed += !got;
			n = min(n + got, LIVE);
			if (n && (got || !(i % 100)))
				user_free_rcu(&u, ptrs[--n]);
			emul_work_run();
			if (i % 10)
				continue;
			emul_tick(1);
			inspect_charged(&u, &in);
			bound = LIVE + MAX_WAITING + in.reserve + POOL_OBJS +
				emul_nr_cpus * CPU_BYTES / in.object;
			if (in.all > bound)
				fail_msg("%s: %ld objects after %u, bound %ld",
					 user_kinds[u.kind], in.all, i, bound);
		}
		emul_set_cpu(0);
		assert_true(failed > 0);
		emul_settle();
		got = user_alloc_many(&u, ptrs + n, LIVE);
		assert_int_equal(got, LIVE);
		user_free_many(&u, ptrs, n + got);
		destroy(&u);
		emul_settle();
	}
}

/* What others do while one sleeps, and how often it looked up till then */
static u32 slept;
static void (*sleep_fn)(void);

static void at_sleep(enum emul_point point)
{
	if (point != EMUL_SCHEDULE)
		return;
	if (++slept > 100)
		emul_fail("sleeping for ever");
	sleep_fn();
}

static int fill_if(struct user *u, bool wait, void (*fn)(void))
{
	int err;

	slept = 0;
	sleep_fn = fn;
	victim = u;
	emul.hook = at_sleep;
	err = bpf_mem_cache_fill(&u->ma, wait);
	emul.hook = NULL;
	return err;
}

static int fill_while(struct user *u, void (*fn)(void))
{
	return fill_if(u, true, fn);
}

static void end_gp(void)
{
	emul_gp_run(EMUL_RCU);
	emul_work_run();
}

static void end_gp_late(void)
{
	if (slept >= 5)
		end_gp();
}

static void fill_waits(void **state)
{
	struct user u;
	u32 k;

	for (k = 0; k < ARRAY_SIZE(bounded_kinds); k++) {
		reach_bound(&u, bounded_kinds[k], 0);
		emul.irq_work_manual = true;
		assert_int_equal(fill_while(&u, end_gp_late), 0);
		assert_int_equal(slept, 5);
		ptrs[0] = user_alloc(&u);
		assert_non_null(ptrs[0]);
		user_free(&u, ptrs[0]);
		emul.irq_work_manual = false;
		emul_settle();
		expect_held(&u, 0);
		destroy(&u);
		emul_settle();
	}
}

static u32 taken;

static void end_gp_and_take(void)
{
	if (slept < 5)
		return;
	end_gp();
	taken = take_rest(victim, ptrs);
}

/* There is no memory even then, and others are faster */
static void fill_waits_in_vain(void **state)
{
	struct user u;

	reach_bound(&u, FIXED, 0);
	fail_from_now();
	assert_int_equal(fill_while(&u, end_gp_and_take), -ENOMEM);
	assert_int_equal(slept, 5);
	assert_true(taken);
	user_free_many(&u, ptrs, taken);
	emul.fail_at = 0;
	assert_int_equal(bpf_mem_cache_fill(&u.ma, true), 0);
	inspect_charged(&u, NULL);
	destroy(&u);
}

/* No memory but what waits, in a grace period or for the one after it */
static void fill_waits_for_memory(void **state)
{
	struct user u;
	u32 n;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	n = user_alloc_many(&u, ptrs, 100);
	assert_int_equal(n, 100);
	fail_from_now();
	n += take_rest(&u, ptrs + n);
	assert_int_equal(fill_while(&u, end_gp_late), -ENOMEM);
	assert_int_equal(slept, 0);

	hold_many(&u, ptrs, 1);
	emul_irq_work_run();
	hold_many(&u, ptrs + 1, n - 1);
	assert_int_equal(fill_while(&u, end_gp_late), 0);
	assert_true(slept >= 5);
	emul.fail_at = 0;
	emul_settle();
	inspect_charged(&u, NULL);
	destroy(&u);
}

static void be_killed(void)
{
	emul.killed = true;
}

static int fill_err;

static void fill_elsewhere(void *arg)
{
	emul.hook = NULL;
	fill_err = fill_while(arg, be_killed);
	emul.killed = false;
}

static void fill_in_free(enum emul_point point)
{
	if (point == EMUL_SLAB_FREE)
		emul_on_cpu(1, fill_elsewhere, victim);
}

/* All that waited is with the worker, which is just giving it back */
static void fill_waits_for_worker(void **state)
{
	struct inspect in;
	struct user u;
	u32 n;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	n = user_alloc_many(&u, ptrs, 500);
	assert_int_equal(n, 500);
	emul_settle();
	emul.irq_work_manual = true;
	user_free_many(&u, ptrs, n);
	emul_irq_work_run();
	emul.irq_work_manual = false;
	emul_gp_run(EMUL_RCU);
	user_inspect(&u, &in);
	assert_true(in.in_gp > 300);
	assert_int_equal(in.waiting, 0);
	emul.irq_work_manual = true;
	n = user_alloc_many_irqoff(&u, ptrs, in.cpu);
	assert_int_equal(n, in.cpu);
	memcg.limit = memcg.usage;
	fill_err = 0;
	victim = &u;
	emul.hook = fill_in_free;
	emul_work_run();
	emul.hook = NULL;
	emul.irq_work_manual = false;
	/* as it is the worker that waits for it here */
	assert_int_equal(fill_err, -EINTR);
	emul_settle();
	emul_on_cpu(1, fill_elsewhere, &u);
	assert_int_equal(fill_err, 0);
	memcg.limit = LONG_MAX / 2;
	user_free_many(&u, ptrs, n);
	inspect_charged(&u, NULL);
	destroy(&u);
}

static void fill_is_killed(void **state)
{
	struct user u;

	reach_bound(&u, FIXED, 0);
	assert_int_equal(fill_while(&u, be_killed), -EINTR);
	emul.killed = false;
	inspect_charged(&u, NULL);
	destroy(&u);
}

/* Others free as many again before the grace period is over */
static void hold_more(void)
{
	if (slept == 3) {
		hold_many(victim, ptrs, 2 * MAX_WAITING);
		end_gp();
	} else if (slept > 10) {
		end_gp();
	}
}

/* What one grace period has brought must do: the next ones may be as this */
static void fill_takes_stock(void **state)
{
	struct inspect in;
	struct user u;
	u32 n;

	init_bound(&u, FIXED);
	n = user_alloc_many(&u, ptrs, LIVE) - 2 * MAX_WAITING;
	hold_many(&u, ptrs + n, 2 * MAX_WAITING);
	n += take_rest(&u, ptrs + n);
	assert_int_equal(fill_while(&u, hold_more), 0);
	assert_int_equal(slept, 3);
	inspect_charged(&u, &in);
	assert_true(in.cpu > 0);
	expect_held(&u, 2 * MAX_WAITING);
	user_free_many(&u, ptrs + 2 * MAX_WAITING, u.live);
	destroy(&u);
}

static void take_all(void *arg)
{
	u32 n;

	do {
		n = user_alloc_many_irqoff(victim, ptrs + victim->live, 1);
	} while (n);
}

static void free_all(void *arg)
{
	take_all(NULL);
	user_free_many(victim, ptrs, victim->live);
}

static void take_and_serve(void *arg)
{
	take_all(NULL);
	emul_irq_work_run();
}

/*
 * CPU 1 frees with interrupts off, and then takes it all: its irq_work finds
 * nothing that would wait for a grace period.
 */
static void free_and_take(void)
{
	if (slept == 1) {
		end_gp();
		on_cpu(1, free_all, NULL);
	} else if (slept == 2) {
		on_cpu(1, take_and_serve, NULL);
	} else {
		end_gp();
	}
}

static void fill_is_woken(void **state)
{
	struct user u;

	reach_bound(&u, FIXED, LIVE);
	emul.irq_work_manual = true;
	/* irq_work does not run when the task sleeps */
	emul.threads = true;
	assert_int_equal(fill_while(&u, free_and_take), 0);
	emul.threads = false;
	emul.irq_work_manual = false;
	user_free_many(&u, ptrs, u.live);
	destroy(&u);
}

static void end_no_gp(void)
{
}

static void run_irq_work(void *arg)
{
	emul_irq_work_run();
}

static void answer_late(void)
{
	if (slept == 5)
		on_cpu(1, run_irq_work, NULL);
}

/*
 * No grace period ends: what others have ready is there before. All of it is,
 * also after that; slab gives nothing.
 */
static void fill_asks_cpus_first(void **state)
{
	struct user u;
	struct move m;
	u32 n, i;

	n = use_up(&u, 64, fail_from_now);
	m = (struct move){ &u, ptrs + n - 90, 90, 0 };
	on_cpu(1, do_free, &m);
	n -= 90;
	hold_many(&u, ptrs + --n, 1);
	assert_int_equal(bpf_mem_cache_fill(&u.ma, false), -ENOMEM);
	assert_int_equal(inspect_cached(&u.ma, 1), 90);
	emul.threads = true;
	emul.irq_work_manual = true;
	assert_int_equal(fill_while(&u, answer_late), 0);
	assert_int_equal(slept, 5);
	emul.irq_work_manual = false;
	emul.threads = false;
	assert_int_equal(inspect_cached(&u.ma, 1), 0);
	emul_settle();
	for (i = 0; i < 90; i++) {
		assert_int_equal(bpf_mem_cache_fill(&u.ma, true), 0);
		n += user_alloc_many_irqoff(&u, ptrs + n, 1);
	}
	emul.fail_at = 0;
	user_free_many(&u, ptrs, n);
	inspect_charged(&u, NULL);
	destroy(&u);
}

static void others_ask(enum emul_point point)
{
	if (!task_at(point, EMUL_CHARGE))
		return;
	emul.hook = NULL;
	inspect_ask(&hook_user->ma, 1);
	on_cpu(1, run_irq_work, NULL);
}

/* CPU 1 has nothing any more, as it has given all to somebody else who asked */
static void fill_after_others(void **state)
{
	struct user u;
	struct move m;
	u32 n;

	n = use_up(&u, 64, limit_memcg);
	m = (struct move){ &u, ptrs + n - 90, 90, 0 };
	on_cpu(1, do_free, &m);
	n -= 90;
	hook_user = &u;
	emul.hook = others_ask;
	assert_int_equal(bpf_mem_cache_fill(&u.ma, true), 0);
	assert_null(emul.hook);
	memcg.limit = LONG_MAX / 2;
	user_free_many(&u, ptrs, n);
	inspect_charged(&u, NULL);
	destroy(&u);
}

static void others_fill_reserve(void)
{
	if (slept != 30)
		return;
	memcg.limit += 64 << 10;
	__atomic_add_fetch(&emul_jiffies, 2 * HZ, __ATOMIC_SEQ_CST);
	emul_work_run();
	memcg.limit = memcg.usage;
}

/* While no grace period ends there is room, and the worker is faster */
static void fill_takes_reserve(void **state)
{
	struct inspect in;
	struct user u;
	u32 n;

	n = use_up(&u, 1024, limit_memcg);
	hold_many(&u, ptrs + --n, 1);
	emul_work_run();
	n += user_alloc_many_irqoff(&u, ptrs + n, 1);
	emul_work_run();
	user_inspect(&u, &in);
	assert_int_equal(in.reserve, 0);
	assert_int_equal(fill_while(&u, others_fill_reserve), 0);
	memcg.limit = LONG_MAX / 2;
	user_free_many(&u, ptrs, n);
	emul_settle();
	destroy(&u);
}

static struct move first_taken, added;

/* First somebody else is faster, and later a program refills its CPU's list */
static void others_take(void)
{
	if (slept == 1) {
		on_cpu(1, run_irq_work, NULL);
		on_cpu(1, do_burst, &first_taken);
	} else if (slept == 30) {
		memcg.limit += 4 << 10;
		on_cpu(1, do_alloc, &added);
		memcg.limit = memcg.usage;
	} else if (slept > 30) {
		on_cpu(1, run_irq_work, NULL);
	}
}

/* What others have is asked for again while no grace period ends */
static void fill_asks_again(void **state)
{
	struct user u;
	struct move m;
	u32 n;

	n = use_up(&u, 64, limit_memcg);
	m = (struct move){ &u, ptrs + --n, 1, 0 };
	on_cpu(1, do_free, &m);
	hold_many(&u, ptrs + --n, 1);
	first_taken = (struct move){ &u, ptrs + n, 1, 0 };
	added = (struct move){ &u, ptrs + n + 1, 1, 0 };
	emul.irq_work_manual = true;
	emul.threads = true;
	assert_int_equal(fill_while(&u, others_take), 0);
	emul.threads = false;
	emul.irq_work_manual = false;
	assert_int_equal(first_taken.got + added.got, 2);
	memcg.limit = LONG_MAX / 2;
	user_free_many(&u, ptrs, n + 2);
	emul_settle();
	destroy(&u);
}

/* One object waits when slab gives nothing any more */
static u32 hold_last(struct user *u)
{
	u32 n;

	assert_int_equal(user_init(u, LINKED, 64), 0);
	n = user_alloc_many(u, ptrs, 100);
	assert_int_equal(n, 100);
	/* so that none is used since a grace period, and none in stock */
	user_free_rcu(u, ptrs[--n]);
	emul_advance(3 * MINUTE);
	fail_from_now();
	n += take_rest(u, ptrs + n);
	hold_many(u, ptrs + --n, 1);
	return n;
}

static u32 charges;

static void reclaim_long(enum emul_point point)
{
	if (!task_at(point, EMUL_CHARGE) || ++charges != 2)
		return;
	emul.hook = NULL;
	end_gp();
	end_gp();
}

/* Reclaim takes longer than the grace period; slab gives nothing */
static void fill_awaits_in_reclaim(void **state)
{
	struct user u;
	u32 n;

	n = hold_last(&u);
	charges = 0;
	emul.hook = reclaim_long;
	assert_int_equal(bpf_mem_cache_fill(&u.ma, true), 0);
	assert_null(emul.hook);
	emul.fail_at = 0;
	emul_settle();
	user_free_many(&u, ptrs, n);
	destroy(&u);
}

static void make_room(void)
{
	if (slept == 3)
		memcg.limit = LONG_MAX / 2;
}

/* No grace period ends, but somebody else makes room */
static void fill_finds_room(void **state)
{
	struct user u;
	u32 n;

	n = use_up(&u, 64, limit_memcg);
	hold_many(&u, ptrs + --n, 1);
	assert_int_equal(fill_while(&u, make_room), 0);
	user_free_many(&u, ptrs, n);
	inspect_charged(&u, NULL);
	destroy(&u);
}

/* Slab gives nothing, not even what it has just got back */
static void fill_gets_what_waited(void **state)
{
	struct user u;
	u32 n;

	n = hold_last(&u);
	assert_int_equal(fill_while(&u, end_gp_late), 0);
	emul.fail_at = 0;
	emul_settle();
	user_free_many(&u, ptrs, n);
	inspect_charged(&u, NULL);
	destroy(&u);
}

/* Who may not wait does not, for nothing */
static void fill_without_wait(void **state)
{
	struct user u;

	reach_bound(&u, FIXED, 0);
	assert_int_equal(fill_if(&u, false, end_no_gp), -ENOMEM);
	assert_int_equal(slept, 0);
	emul_settle();
	assert_int_equal(bpf_mem_cache_fill(&u.ma, false), 0);
	inspect_charged(&u, NULL);
	destroy(&u);
}

static void ask_cpu_1(enum emul_point point)
{
	if (point == EMUL_CALL_RCU)
		inspect_ask(&hook_user->ma, 1);
}

static void run_asked(void *arg)
{
	emul.hook = ask_cpu_1;
	emul_irq_work_run();
	emul.hook = NULL;
}

/* A CPU is asked when its irq_work has just gone past that */
static void asked_in_service(void **state)
{
	struct user u;
	struct move m;
	u32 n;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	n = user_alloc_many(&u, ptrs, 300);
	assert_int_equal(n, 300);
	emul.irq_work_manual = true;
	m = (struct move){ &u, ptrs, 300, 0 };
	on_cpu(1, do_free, &m);
	assert_true(inspect_cached(&u.ma, 1) > 0);
	hook_user = &u;
	on_cpu(1, run_asked, NULL);
	assert_int_equal(inspect_cached(&u.ma, 1), 0);
	emul.irq_work_manual = false;
	emul_settle();
	inspect_charged(&u, NULL);
	destroy(&u);
}

/* Service */

/* More than the CPU's list has, so that irq_work is asked for */
static bool ask(struct user *u)
{
	bool ran;
	u32 n;

	emul.irq_work_manual = true;
	emul_hardirq_enter();
	n = user_alloc_many_irqoff(u, ptrs, 100);
	user_free_many(u, ptrs, n);
	emul_hardirq_exit();
	ran = emul_irq_work_run();
	emul.irq_work_manual = false;
	return ran;
}

/*
 * A program that irq_work calls asks again each time. It takes so many jiffies,
 * but no tick gets in; @stalled: they are not even counted. Returns how often it
 * ran.
 */
static u32 ask_in_a_row(struct user *u, u32 ticks, bool stalled)
{
	u32 runs = 0;

	while (runs < 10000 && ask(u)) {
		runs++;
		if (stalled)
			emul.lost_ns += ticks * TICK_NSEC;
		else
			emul_jiffies += ticks;
	}
	return runs;
}

static void service_is_throttled(void **state)
{
	u32 ticks, stalled, runs, rest;
	struct user u;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	for (ticks = 0; ticks <= 3; ticks++) {
		for (stalled = 0; stalled < 2; stalled++) {
			runs = ask_in_a_row(&u, ticks, stalled);
			assert_in_range(runs, 30, 32000 / HZ + 1);
			/* and after a rest again, as long as most of that */
			for (rest = 0; rest < 10000 && !ask(&u); rest++)
				emul_advance(1);
			assert_in_range(rest, max(runs * ticks / 2, 1U),
					runs * ticks + 3);
			emul_advance(2);
		}
	}
	/* who asks as often, but leaves room for other things, never waits */
	for (runs = 0; runs < 10000; runs++) {
		assert_true(ask(&u));
		if (runs % 60 == 0)
			emul_advance(1);
	}
	inspect_charged(&u, NULL);
	destroy(&u);
}

static void ask_in_a_row_here(void *arg)
{
	assert_in_range(ask_in_a_row(arg, 0, false), 30, 32000 / HZ + 1);
}

static void ask_here(void *arg)
{
	assert_true(ask(arg));
}

/* A CPU that died while it waited for the timer does not wait when it is back */
static void throttled_cpu_dies(void **state)
{
	struct user u;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	on_cpu(1, ask_in_a_row_here, &u);
	emul_cpu_dead(1);
	on_cpu(1, ask_here, &u);
	inspect_charged(&u, NULL);
	destroy(&u);
}

/* Bursts */

static void fresh_burst(void **state)
{
	struct user u;
	u32 n;

	assert_int_equal(user_init(&u, FIXED, 64 + 48), 0);
	n = user_alloc_many_irqoff(&u, ptrs, 16);
	assert_int_equal(n, 16);
	user_free_many(&u, ptrs, n);
	destroy(&u);
	emul_settle();
	assert_int_equal(user_init(&u, PERCPU, 64), 0);
	n = user_alloc_many_irqoff(&u, ptrs, 4);
	assert_int_equal(n, 4);
	user_free_many(&u, ptrs, n);
	destroy(&u);
}

static void learns(enum user_kind kind, u32 burst)
{
	struct inspect idle, in;
	struct user u;
	u32 n, round;

	assert_int_equal(user_init(&u, kind, size_for(kind)), 0);
	emul_advance(2 * MINUTE);
	inspect_charged(&u, &idle);
	/* the same burst a second later fails nowhere */
	n = user_alloc_many_irqoff(&u, ptrs, burst);
	assert_true(n < burst);
	emul_advance(HZ);
	user_free_many(&u, ptrs, n);
	for (round = 0; round < 3; round++) {
		emul_advance(HZ);
		n = user_alloc_many_irqoff(&u, ptrs, burst);
		if (n != burst)
			fail_msg("%s: only %u of %u in round %u",
				 user_kinds[kind], n, burst, round);
		emul_advance(HZ);
		user_free_many(&u, ptrs, n);
	}
	user_inspect(&u, &in);
	assert_true(in.reserve > 0);
	emul_advance(MINUTE + HZ);
	inspect_charged(&u, &in);
	assert_int_equal(in.reserve, idle.reserve);
	assert_int_equal(in.stock, 0);
	assert_int_equal(in.waiting + in.in_gp, 0);
	assert_true(in.all * in.object <= CPU_BYTES * emul_nr_cpus);
	destroy(&u);
	emul_settle();
}

static void reserve_learns(void **state)
{
	learns(FIXED, 512);
	learns(LINKED, 512);
	learns(PERCPU, 512);
	learns(ATTACHED, 512);
	learns(ANY, 512);
	/* with other lengths, since the lists' rests matter */
	learns(FIXED, 100);
	learns(FIXED, 1000);
	learns(PERCPU, 129);
}

/* A burst from time to time, each of which the reserve serves */
static void reserve_in_use_is_kept(void **state)
{
	struct user u;
	u32 n, round;

	assert_int_equal(user_init(&u, LINKED, 64), 0);
	emul_advance(2 * MINUTE);
	n = user_alloc_many_irqoff(&u, ptrs, 512);
	emul_advance(HZ);
	user_free_many(&u, ptrs, n);
	for (round = 0; round < 10; round++) {
		emul_advance(20 * HZ);
		n = user_alloc_many_irqoff(&u, ptrs, 512);
		if (n != 512)
			fail_msg("only %u of 512 in round %u", n, round);
		emul_advance(HZ);
		user_free_many(&u, ptrs, n);
	}
	destroy(&u);
}

/* Deletes and adds that the reserve serves, and no worker hears of */
static void reserve_forgets_in_time(void **state)
{
	unsigned long flags;
	struct inspect in;
	struct user u;
	u32 n;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	n = user_alloc_many_irqoff(&u, ptrs, 600);
	emul_advance(HZ);
	user_free_many(&u, ptrs, n);
	emul_advance(50 * HZ);
	/* a burst, undone before interrupts come on again */
	local_irq_save(flags);
	for (n = 0; n < 300; n++) {
		ptrs[n] = user_alloc_irqoff(&u);
		assert_non_null(ptrs[n]);
	}
	while (n)
		user_free_irqoff(&u, ptrs[--n]);
	local_irq_restore(flags);
	emul_advance(MINUTE + HZ);
	user_inspect(&u, &in);
	assert_int_equal(in.reserve, 0);
	destroy(&u);
}

/* No memory when it is time to forget */
static void reserve_shrinks_without_memory(void **state)
{
	struct inspect in;
	struct user u;
	u32 n;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	n = user_alloc_many_irqoff(&u, ptrs, 600);
	emul_advance(HZ);
	user_free_many(&u, ptrs, n);
	emul_advance(HZ);
	memcg.limit = 0;
	emul.no_nowait = true;
	emul_advance(3 * MINUTE);
	user_inspect(&u, &in);
	assert_int_equal(in.reserve, 0);
	destroy(&u);
}

#define DECLARED	200

static u32 nr_tried;

/* Whoever can make objects goes on until there is no memory */
static void try_all(void *arg)
{
	void *ptr;

	while ((ptr = user_try(victim)))
		ptrs[nr_tried++] = ptr;
}

static void try_all_cpus(void)
{
	u32 cpu;

	for (cpu = 1; cpu < emul_nr_cpus; cpu++)
		emul_on_cpu(cpu, try_all, NULL);
}

static void free_on_other_cpu(void *arg)
{
	user_free(victim, ptrs[--nr_tried]);
}

/*
 * Memory is used up, by others whatever they may have. The declared number of
 * updates, deletes and updates goes well with interrupts off and in NMI, also
 * in one that hits an operation, and others get nothing of it in between.
 */
static void kept(enum user_kind kind, bool nmi)
{
	static void *mine[DECLARED];
	struct inspect in;
	struct user u;
	u32 round, n;

	assert_int_equal(user_init_opts(&u, kind, 64, 0, DECLARED), 0);
	inspect_charged(&u, &in);
	assert_in_range(in.declared, DECLARED, DECLARED + 2 * emul_nr_cpus);
	victim = &u;
	nr_tried = 0;
	memcg.limit = memcg.usage + 100 * in.object;
	try_all_cpus();
	try_all(NULL);
	assert_true(nr_tried >= 100);
	memcg.limit = 0;
	emul.no_nowait = true;
	for (round = 0; round < 5; round++) {
		if (nmi) {
			emul_nmi_enter();
			n = user_alloc_many(&u, mine, DECLARED);
			emul_nmi_exit();
		} else {
			n = user_alloc_many_irqoff(&u, mine, DECLARED);
		}
		if (n < DECLARED)
			fail_msg("%s: only %u in round %u", user_kinds[kind], n,
				 round);
		try_all_cpus();
		try_all(NULL);
		while (n--) {
			if (nmi)
				emul_nmi_enter();
			user_free(&u, mine[n]);
			if (nmi)
				emul_nmi_exit();
			/* in the middle of it others come by */
			if (n == DECLARED / 2)
				try_all_cpus();
		}
		try_all(NULL);
		try_all_cpus();
		emul_advance(HZ);
	}
	inspect_charged(&u, &in);
	assert_true(in.declared >= DECLARED);
	while (nr_tried)
		emul_on_cpu(1 + nr_tried % (emul_nr_cpus - 1),
			    free_on_other_cpu, NULL);
	memcg.limit = LONG_MAX / 2;
	emul.no_nowait = false;
	emul_advance(HZ);
	inspect_charged(&u, &in);
	destroy(&u);
	emul_settle();
}

static void declared_is_kept(void **state)
{
	kept(FIXED, false);
	kept(FIXED, true);
	kept(LINKED, false);
	kept(LINKED, true);
	kept(ATTACHED, false);
	kept(ATTACHED, true);
}

static void declared_is_charged(void **state)
{
	long usage = memcg.usage, limit;
	struct inspect in;
	struct user u;

	assert_int_equal(user_init_opts(&u, LINKED, 64, 0, DECLARED), 0);
	user_inspect(&u, &in);
	limit = memcg.usage - 1;
	destroy(&u);
	emul_settle();
	assert_int_equal(memcg.usage, usage);

	memcg.limit = limit;
	assert_int_equal(user_init_opts(&u, LINKED, 64, 0, DECLARED), -ENOMEM);
	emul_settle();
	assert_int_equal(memcg.usage, usage);
	memcg.limit = LONG_MAX / 2;

	emul.killed = true;
	assert_int_equal(user_init_opts(&u, LINKED, 64, 0, DECLARED), -EINTR);
	emul.killed = false;
	assert_int_equal(user_init_opts(&u, LINKED, 64, 0, U32_MAX), -ENOMEM);
	emul_settle();
	assert_int_equal(memcg.usage, usage);
	assert_all_back();
}

static void free_and_count(void *arg)
{
	struct move *m = arg;
	u32 i;

	for (i = 0; i < m->n; i++) {
		user_free(m->u, m->ptrs[i]);
		m->got += emul_irq_work_run();
	}
}

/* A CPU that was asked once goes on as ever, also if it only frees */
static void asked_once(void **state)
{
	struct user u;
	struct move m;
	u32 n;

	assert_int_equal(user_init_opts(&u, LINKED, 64, 0, DECLARED), 0);
	n = user_alloc_many(&u, ptrs, 1000);
	assert_int_equal(n, 1000);
	m = (struct move){ &u, ptrs + 900, 100, 0 };
	on_cpu(1, do_free, &m);
	emul_settle();
	memcg.limit = memcg.usage;
	while (!bpf_mem_cache_fill(&u.ma, true))
		n += user_alloc_many_irqoff(&u, ptrs + n, 1);
	memcg.limit = LONG_MAX / 2;
	emul_settle();
	m = (struct move){ &u, ptrs, 900, 0 };
	emul.irq_work_manual = true;
	on_cpu(1, free_and_count, &m);
	emul.irq_work_manual = false;
	assert_in_range(m.got, 1, 90);
	emul_settle();
	user_free_many(&u, ptrs + 1000, n - 1000);
	destroy(&u);
}

/* What was taken for good is made anew, and what comes back is not kept */
static void declared_fills_again(void **state)
{
	struct inspect in, idle;
	struct user u;
	long all;
	u32 n;

	assert_int_equal(user_init_opts(&u, LINKED, 64, 0, DECLARED), 0);
	inspect_charged(&u, &idle);
	for (n = 0; n < 1000; n += DECLARED) {
		assert_int_equal(user_alloc_many_irqoff(&u, ptrs + n, DECLARED),
				 DECLARED);
		emul_advance(HZ);
		inspect_charged(&u, &in);
		assert_int_equal(in.declared, idle.declared);
	}
	user_free_many(&u, ptrs, n);
	inspect_charged(&u, &in);
	assert_true(in.waiting + in.in_gp > DECLARED);
	/* NMIs do not get at what waits, but the worker does */
	all = in.all;
	inspect_lock_depot(&u.ma, true);
	emul_nmi_enter();
	for (n = 0; n < DECLARED + in.cpu + in.nested; n++) {
		ptrs[n] = user_alloc(&u);
		assert_non_null(ptrs[n]);
	}
	inspect_lock_depot(&u.ma, false);
	emul_nmi_exit();
	emul_work_run();
	inspect_charged(&u, &in);
	assert_int_equal(in.declared, idle.declared);
	assert_in_range(in.all, all, all + 96);
	user_free_many(&u, ptrs, n);
	emul_advance(MINUTE + HZ);
	inspect_charged(&u, &in);
	assert_int_equal(in.declared, idle.declared);
	assert_int_equal(in.reserve, 0);
	assert_int_equal(in.waiting + in.in_gp, 0);
	assert_true((in.all - in.declared) * in.object <=
		    CPU_BYTES * emul_nr_cpus);
	destroy(&u);
}

static void migrate(enum emul_point point)
{
	if (task_at(point, EMUL_IRQ_SAVE) && !emul_cpu) {
		emul.hook = NULL;
		emul_set_cpu(1);
	}
}

static void migration(void **state)
{
	struct user u;
	void *obj;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	/* CPU 0 has objects, CPU 1 has none and the pool is empty */
	user_free(&u, user_alloc(&u));
	emul.irq_work_manual = true;
	emul_set_cpu(1);
	user_alloc_many_irqoff(&u, ptrs, 100);
	emul_set_cpu(0);
	emul.hook = migrate;
	obj = user_alloc(&u);
	assert_int_equal(emul_cpu, 1);
	assert_non_null(obj);
	user_free(&u, obj);
	user_free_many(&u, ptrs, u.live);
	emul_set_cpu(0);
	destroy(&u);
}

/* An allocation whose CPU's objects an interrupt takes just before it */
static u32 stolen;
static bool stealing;

static void steal(enum emul_point point)
{
	void *obj;

	if (!task_at(point, EMUL_IRQ_SAVE) || stealing)
		return;
	stealing = true;
	emul_hardirq_enter();
	while ((obj = user_alloc_irqoff(victim)))
		ptrs[stolen++] = obj;
	emul.hook = NULL;
	emul_hardirq_exit();
	stealing = false;
}

static void retry_is_no_failure(void **state)
{
	struct bpf_mem_alloc_stats stats;
	struct user u;
	void *obj;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	user_free(&u, user_alloc(&u));
	emul_settle();
	emul.irq_work_manual = true;
	victim = &u;
	stolen = 0;
	emul.hook = steal;
	obj = user_alloc(&u);
	emul.hook = NULL;
	assert_non_null(obj);
	assert_true(stolen > 0);
	/* the thief's last one failed, ours did not */
	bpf_mem_alloc_get_stats(&u.ma, &stats);
	assert_int_equal(stats.failed, 1);
	user_free(&u, obj);
	user_free_many(&u, ptrs, stolen);
	destroy(&u);
}

/* Idle */

/* Freed within a refill, when service must not be asked for */
static bool nested_once;

static void free_in_refill(enum emul_point point)
{
	if (point != EMUL_SLAB_ALLOC || emul_irqs_off || nested_once)
		return;
	nested_once = true;
	user_free_many(victim, ptrs, 500);
}

static void nothing_waits_for_ever(void **state)
{
	struct inspect in;
	struct user u;
	u32 n;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	victim = &u;
	nested_once = false;
	n = user_alloc_many(&u, ptrs, 500);
	assert_int_equal(n, 500);
	emul_settle();
	emul.hook = free_in_refill;
	for (n = 500; !nested_once; n++) {
		ptrs[n] = user_alloc(&u);
		assert_non_null(ptrs[n]);
	}
	emul.hook = NULL;
	emul_advance(2 * MINUTE);
	user_inspect(&u, &in);
	assert_int_equal(in.waiting + in.in_gp, 0);
	while (n-- > 500)
		user_free(&u, ptrs[n]);
	destroy(&u);
}

/* A reserve that could not be filled when there was no memory, and that nobody
 * has asked for since
 */
static void declared_waits_for_memory(void **state)
{
	struct inspect in, idle;
	struct user u;
	u32 n;

	assert_int_equal(user_init_opts(&u, LINKED, 64, 0, DECLARED), 0);
	inspect_charged(&u, &idle);
	memcg.limit = memcg.usage;
	n = user_alloc_many_irqoff(&u, ptrs, DECLARED);
	assert_int_equal(n, DECLARED);
	emul_advance(10 * MINUTE);
	user_inspect(&u, &in);
	assert_true(in.declared < idle.declared);
	memcg.limit = LONG_MAX / 2;
	emul_advance(2 * HZ);
	inspect_charged(&u, &in);
	assert_int_equal(in.declared, idle.declared);
	user_free_many(&u, ptrs, n);
	destroy(&u);
}

/* What the worker made for a CPU that then wanted no more */
static void stock_is_not_kept(void **state)
{
	struct inspect in;
	struct user u;
	u32 n;

	assert_int_equal(user_init(&u, PERCPU, 24), 0);
	n = user_alloc_many_irqoff(&u, ptrs, 100);
	emul_settle();
	user_inspect(&u, &in);
	assert_true(in.stock > 0);
	emul_advance(2 * MINUTE);
	user_inspect(&u, &in);
	assert_int_equal(in.reserve, 0);
	assert_int_equal(in.stock, 0);
	user_free_many(&u, ptrs, n);
	destroy(&u);
}

/* All within one jiffy in which there was nothing */
static void starved_then_freed(void **state)
{
	struct inspect in;
	struct user u;
	u32 n;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	n = user_alloc_many(&u, ptrs, 300);
	emul_settle();
	emul.no_nowait = true;
	n += user_alloc_many_irqoff(&u, ptrs + n, 300);
	emul_work_run();
	user_free_many(&u, ptrs, n);
	emul.no_nowait = false;
	emul_advance(2 * MINUTE);
	user_inspect(&u, &in);
	assert_int_equal(in.waiting + in.in_gp, 0);
	destroy(&u);
}

/* A burst in the jiffy in which another one got nothing, and the worker has been
 * there for that, is learnt as well
 */
static void starved_then_burst(void **state)
{
	struct user u;
	u32 i, n;

	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (kinds[i] == ANY)
			continue;
		assert_int_equal(user_init(&u, kinds[i], size_for(kinds[i])),
				 0);
		emul.no_nowait = true;
		n = user_alloc_many_irqoff(&u, ptrs, 1);
		assert_int_equal(n, 1);
		emul_settle();
		n += user_alloc_many_irqoff(&u, ptrs + 1, 500);
		assert_true(n < 500);
		emul_advance(HZ);
		user_free_many(&u, ptrs, n);
		emul_advance(HZ);
		n = user_alloc_many_irqoff(&u, ptrs, 500);
		assert_int_equal(n, 500);
		user_free_many(&u, ptrs, n);
		emul.no_nowait = false;
		destroy(&u);
		emul_settle();
	}
}

static void idle_costs(void **state)
{
	struct bpf_mem_alloc_stats stats;
	struct user u, v;

	assert_int_equal(user_init(&u, FIXED, 1024), 0);
	assert_int_equal(user_init(&v, FIXED, 1024), 0);
	bpf_mem_alloc_get_stats(&v.ma, &stats);
	assert_true(stats.bytes <= 2560);
	destroy(&u);
	destroy(&v);
}

static const struct bpf_mem_alloc_opts lean_opts = {
	.link_off = -1,
	.numa_node = NUMA_NO_NODE,
	.cache_bytes = 512,
};

static void lean_init(struct bpf_mem_alloc *ma, size_t size)
{
	struct bpf_mem_alloc_opts opts = lean_opts;

	opts.size = size;
	assert_int_equal(bpf_mem_alloc_init_opts(ma, &opts), 0);
}

/* Nothing is made before it is needed, and little of it stays, of any size */
static void lean_keeps_little(void **state)
{
	static const size_t sizes[] = { 64, 192, 256, 512, 1024, 4096 };
	struct bpf_mem_alloc ma;
	unsigned long flags;
	struct inspect in;
	long most, most_active;
	u32 i, j, round;

	assert_int_equal(bpf_mem_alloc_init_lazy(&ma, &lean_opts), 0);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		assert_int_equal(bpf_mem_class_get(&ma, sizes[i]), 0);
		inspect(&ma, 0, &in);
		assert_int_equal(in.all + in.pool, 0);
		assert_int_equal(memcg.usage, 0);
		most = 512 / (sizes[i] + EMUL_HEAD_ROOM);
		most_active = 8192 / (sizes[i] + EMUL_HEAD_ROOM);
		for (round = 0; round < 20; round++) {
			/* with interrupts on, and in interrupts, on each CPU */
			for (j = 0; j < 100; j++) {
				emul_set_cpu(j % 2);
				ptrs[j] = bpf_mem_alloc(&ma, sizes[i]);
				assert_non_null(ptrs[j]);
			}
			for (; j < 200; j++) {
				emul_set_cpu(j % 2);
				local_irq_save(flags);
				ptrs[j] = bpf_mem_alloc(&ma, sizes[i]);
				local_irq_restore(flags);
			}
			for (j = 0; j < 200; j++) {
				if (round % 4)
					bpf_mem_free_rcu(&ma, ptrs[j]);
				else
					bpf_mem_free(&ma, ptrs[j]);
			}
			emul_settle();
			inspect(&ma, 0, &in);
			assert_int_equal(in.reserve + in.pool, 0);
			/* no more than others keep while they are idle */
			assert_true(in.cpu <= 2 * min(96L, most_active));
			assert_true(in.stock <= 2 * min(96L, most_active));
		}
		emul_advance(4 * HZ);
		inspect(&ma, 0, &in);
		assert_int_equal(in.stock + in.reserve, 0);
		assert_true(in.all <= 2 * most);
		bpf_mem_class_put(&ma, sizes[i]);
		emul_settle();
	}
	bpf_mem_alloc_destroy(&ma);
	assert_int_equal(memcg.usage, 0);
}

static void alloc_and_free(struct bpf_mem_alloc *ma)
{
	u32 i;

	for (i = 0; i < 30; i++) {
		ptrs[i] = bpf_mem_cache_alloc(ma);
		assert_non_null(ptrs[i]);
	}
	while (i--)
		bpf_mem_cache_free_rcu(ma, ptrs[i]);
}

/* While it is used it keeps more, so that slab is not called for each object */
static void lean_in_use(void **state)
{
	struct bpf_mem_alloc ma;
	struct inspect in;
	u32 i, most = 0;
	long made = 0;

	lean_init(&ma, 200);
	for (i = 0; i < 20; i++) {
		if (i == 10)
			made = emul.calls;
		alloc_and_free(&ma);
		emul_settle();
		emul_advance(HZ / 5);
	}
	assert_true(emul.calls - made < 150);
	/* a CPU that is idle does not keep as much because another one is not */
	emul_set_cpu(1);
	for (i = 0; i < 20; i++) {
		alloc_and_free(&ma);
		emul_advance(HZ / 5);
		most = max(most, inspect_cached(&ma, 1));
	}
	assert_true(inspect_cached(&ma, 0) <= 2);
	assert_true(most > 2);
	emul_advance(4 * HZ);
	inspect(&ma, 0, &in);
	assert_true(in.all <= 4);
	emul_set_cpu(0);
	bpf_mem_alloc_destroy(&ma);
}

/* However it comes into lists and stock, it does not stay there */
static void lean_frees_go(void **state)
{
	static const size_t sizes[] = { 64, 64, 4096 };
	struct bpf_mem_alloc ma;
	struct inspect in;
	u32 i, j, n;

	assert_int_equal(bpf_mem_alloc_init_lazy(&ma, &lean_opts), 0);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		assert_int_equal(bpf_mem_class_get(&ma, sizes[i]), 0);
		n = 512 / (sizes[i] + EMUL_HEAD_ROOM);
		emul_set_cpu(1);
		for (j = 0; j < 8 * n + 1; j++)
			ptrs[j] = bpf_mem_alloc(&ma, sizes[i]);
		emul_advance(4 * HZ);
		/* a refill that leaves no more than an idle CPU may keep */
		emul_set_cpu(0);
		ptrs[j++] = bpf_mem_alloc(&ma, sizes[i]);
		inspect(&ma, j, &in);
		assert_true(in.cpu <= 2 * n);
		while (j)
			if (!i)
				bpf_mem_free(&ma, ptrs[--j]);
			else
				bpf_mem_free_rcu(&ma, ptrs[--j]);
		emul_settle();
		inspect(&ma, 0, &in);
		assert_true(i ? in.stock > 0 : in.cpu > 2 * n);
		emul_advance(4 * HZ);
		inspect(&ma, 0, &in);
		assert_true(in.all <= 2 * n);
		assert_int_equal(in.stock, 0);
		bpf_mem_class_put(&ma, sizes[i]);
		emul_settle();
	}
	bpf_mem_alloc_destroy(&ma);
}

/* Others that find nothing do not keep an idle CPU's list from being looked at */
static void lean_fails_elsewhere(void **state)
{
	struct bpf_mem_alloc ma;
	unsigned long flags;
	u32 i;

	lean_init(&ma, 1024);
	for (i = 0; i < 20; i++)
		ptrs[i] = bpf_mem_cache_alloc(&ma);
	while (i--)
		bpf_mem_cache_free(&ma, ptrs[i]);
	assert_true(inspect_cached(&ma, 0) > 0);
	for (i = 0; i < 20; i++) {
		emul_set_cpu(1);
		local_irq_save(flags);
		ptrs[0] = bpf_mem_cache_alloc(&ma);
		local_irq_restore(flags);
		bpf_mem_cache_free(&ma, ptrs[0]);
		emul_advance(HZ / 2);
	}
	assert_int_equal(inspect_cached(&ma, 0), 0);
	emul_set_cpu(0);
	bpf_mem_alloc_destroy(&ma);
}

/* A CPU that only frees is idle */
static void lean_frees_only(void **state)
{
	struct bpf_mem_alloc ma;
	struct inspect in;
	long made;
	u32 i;

	lean_init(&ma, 192);
	for (i = 0; i < 100; i++)
		ptrs[i] = bpf_mem_cache_alloc(&ma);
	emul_advance(4 * HZ);
	made = emul.calls;
	while (i--) {
		emul_set_cpu(i % 2);
		bpf_mem_cache_free_rcu(&ma, ptrs[i]);
		emul_advance(HZ / 2);
	}
	assert_int_equal(emul.calls, made);
	emul_advance(4 * HZ);
	inspect(&ma, 0, &in);
	assert_true(in.all <= 4);
	emul_set_cpu(0);
	bpf_mem_alloc_destroy(&ma);
}

/* What is held when its allocator goes is not kept for reuse */
static void lean_destroyed_while_held(void **state)
{
	struct bpf_mem_alloc ma;
	u32 i, gps;

	for (gps = 0; gps < 3; gps++) {
		lean_init(&ma, 192);
		for (i = 0; i < 3; i++)
			ptrs[i] = bpf_mem_cache_alloc(&ma);
		while (i--)
			bpf_mem_cache_free_rcu(&ma, ptrs[i]);
		for (i = 0; i < gps; i++) {
			emul_gp_run(EMUL_RCU);
			if (i)
				emul_work_run();
		}
		bpf_mem_alloc_destroy(&ma);
		emul_settle();
		assert_all_back();
	}
}

/* What a system call has filled in and did not use does not stay */
static void lean_fill_goes(void **state)
{
	static const size_t sizes[] = { 192, 4096 };
	struct bpf_mem_alloc ma;
	struct inspect in;
	u32 i, j;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		lean_init(&ma, sizes[i]);
		for (j = 0; j < 4; j++) {
			emul_set_cpu(j % 2);
			/* by way of this CPU's refill, and where that fails */
			emul.no_nowait = j / 2;
			assert_int_equal(bpf_mem_cache_fill(&ma, true), 0);
			emul.no_nowait = false;
			inspect(&ma, 0, &in);
			assert_true(in.all > 0);
			emul_advance(4 * HZ);
			inspect(&ma, 0, &in);
			assert_true(in.all <= 2 * (512 / (sizes[i] + EMUL_HEAD_ROOM)));
		}
		bpf_mem_alloc_destroy(&ma);
		emul_settle();
	}
	emul_set_cpu(0);
}

/* Who clears objects anyway does not have that done twice */
static void uncleared(void **state)
{
	struct bpf_mem_alloc_opts opts = lean_opts;
	struct bpf_mem_alloc ma;
	u32 i, j, dirty;

	opts.size = 64;
	for (i = 0; i < 2; i++) {
		opts.uncleared = i;
		assert_int_equal(bpf_mem_alloc_init_opts(&ma, &opts), 0);
		ptrs[0] = bpf_mem_cache_alloc(&ma);
		for (j = dirty = 0; j < opts.size; j++)
			dirty += !!((char *)ptrs[0])[j];
		assert_int_equal(dirty, i ? opts.size : 0);
		bpf_mem_cache_free(&ma, ptrs[0]);
		bpf_mem_alloc_destroy(&ma);
		emul_settle();
	}
}

/* Whose users have declared nothing have their pool beside that of others */
static void lean_beside_others(void **state)
{
	struct bpf_mem_alloc_opts opts = lean_opts;
	struct bpf_mem_alloc lean, other;
	unsigned long flags;

	opts.size = 64;
	assert_int_equal(bpf_mem_alloc_init_opts(&lean, &opts), 0);
	opts.cache_bytes = 0;
	assert_int_equal(bpf_mem_alloc_init_opts(&other, &opts), 0);
	assert_int_equal(emul.caches, 1);
	local_irq_save(flags);
	assert_null(bpf_mem_cache_alloc(&lean));
	ptrs[0] = bpf_mem_cache_alloc(&other);
	assert_non_null(ptrs[0]);
	local_irq_restore(flags);
	/* asked for in vain, it is there later */
	emul_irq_work_run();
	local_irq_save(flags);
	ptrs[1] = bpf_mem_cache_alloc(&lean);
	assert_non_null(ptrs[1]);
	local_irq_restore(flags);
	bpf_mem_cache_free(&lean, ptrs[1]);
	bpf_mem_cache_free(&other, ptrs[0]);
	bpf_mem_alloc_destroy(&lean);
	bpf_mem_alloc_destroy(&other);
}

static void stats_tell(void **state)
{
	struct bpf_mem_alloc_stats s, t;
	struct inspect in;
	struct user u;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	bpf_mem_alloc_get_stats(&u.ma, &s);
	assert_int_equal(s.cached, 0);
	assert_int_equal(s.waiting, 0);
	assert_int_equal(s.failed, 0);
	assert_int_equal(user_alloc_many(&u, ptrs, 1000), 1000);
	bpf_mem_alloc_get_stats(&u.ma, &t);
	user_inspect(&u, &in);
	assert_int_equal(t.bytes - s.bytes, in.all * in.object);
	assert_int_equal(t.cached, in.cpu + in.reserve + in.stock);
	user_free_many(&u, ptrs, 1000);
	bpf_mem_alloc_get_stats(&u.ma, &t);
	user_inspect(&u, &in);
	assert_int_equal(t.cached, in.cpu + in.reserve + in.stock);
	assert_int_equal(t.waiting, in.waiting + in.in_gp);
	assert_int_equal(t.cached + t.waiting, in.all);
	assert_true(t.waiting > 500);
	user_free_rcu(&u, user_alloc(&u));
	hold_many(&u, ptrs, user_alloc_many(&u, ptrs, 100));
	bpf_mem_alloc_get_stats(&u.ma, &t);
	user_inspect(&u, &in);
	assert_int_equal(in.held + in.held_gp, 101);
	assert_int_equal(t.cached, in.cpu + in.reserve + in.stock);
	assert_int_equal(t.waiting, in.waiting + in.in_gp + 101);
	assert_int_equal(t.cached + t.waiting, in.all);
	emul_settle();
	bpf_mem_alloc_get_stats(&u.ma, &t);
	assert_int_equal(t.waiting, 0);
	user_alloc_many_irqoff(&u, ptrs, 1000);
	bpf_mem_alloc_get_stats(&u.ma, &t);
	assert_int_equal(t.failed, 1000 - u.live);
	user_free_many(&u, ptrs, u.live);
	destroy(&u);
	assert_int_equal(user_init(&u, ANY, 64), 0);
	assert_int_equal(user_alloc_many(&u, ptrs, 1000), 1000);
	bpf_mem_alloc_get_stats(&u.ma, &t);
	user_inspect(&u, &in);
	assert_true(t.bytes >= in.all * in.object);
	user_free_many(&u, ptrs, 1000);
	bpf_mem_alloc_get_stats(&u.ma, &t);
	user_inspect(&u, &in);
	assert_int_equal(t.cached + t.waiting, in.all);
	destroy(&u);
}

/* Without an interrupt of its own irq_work waits for the tick, or longer */
static void no_irq_work(void **state)
{
	struct user u;
	u32 i, k;

	for (k = 0; k < ARRAY_SIZE(kinds); k++) {
		if (kinds[k] == ANY)
			continue;
		assert_int_equal(user_init(&u, kinds[k], size_for(kinds[k])), 0);
		emul.irq_work_manual = true;
		emul.no_percpu_nowait = true;
		for (i = 0; i < MANY; i++) {
			assert_int_equal(bpf_mem_cache_fill(&u.ma, true), 0);
			assert_int_equal(user_alloc_many_irqoff(&u, ptrs + i, 1), 1);
		}
		user_free_many(&u, ptrs, MANY);
		emul.irq_work_manual = false;
		destroy(&u);
		emul_settle();
	}
}

/* The worker makes what atomic allocation cannot */
static void percpu_by_worker(void **state)
{
	struct user u;
	u32 n, got;

	assert_int_equal(user_init(&u, ATTACHED, 64), 0);
	emul.no_percpu_nowait = true;
	for (n = 0; n < 1000; n += got) {
		got = user_alloc_many(&u, ptrs + n, 1000 - n);
		emul_settle();
		emul_tick(1);
		if (!got)
			got = user_alloc_many(&u, ptrs + n, 1);
		assert_true(got > 0);
	}
	user_free_many(&u, ptrs, n);
	destroy(&u);
}

/* Contexts */

static u32 depth, max_depth;
static u32 storm;

/* A program attached to the slab allocator, which allocates and frees itself */
static void reenter(enum emul_point point)
{
	void *obj;

	if (point != EMUL_SLAB_ALLOC && point != EMUL_CHARGE &&
	    point != EMUL_PERCPU_ALLOC && point != EMUL_CALL_RCU &&
	    point != EMUL_MOD_WORK)
		return;
	storm++;
	max_depth = max(max_depth, ++depth);
	obj = user_alloc(victim);
	/* but not for ever, as each needs a grace period, which ends here */
	if (obj && storm & 1 && storm < 1000)
		user_free_rcu(victim, obj);
	else if (obj)
		user_free(victim, obj);
	depth--;
}

static void reentry_is_bounded(void **state)
{
	struct user u;
	u32 k;

	for (k = 0; k < ARRAY_SIZE(kinds); k++) {
		assert_int_equal(user_init(&u, kinds[k], size_for(kinds[k])), 0);
		victim = &u;
		depth = 0;
	max_depth = 0;
	storm = 0;
		emul.hook = reenter;
		assert_int_equal(user_alloc_many(&u, ptrs, 500), 500);
		user_free_many(&u, ptrs, 500);
		emul_settle();
		deplete(&u, 1000);
		emul_settle();
		emul.hook = NULL;
		assert_true(storm > 100);
		assert_true(max_depth <= 8);
		inspect_charged(&u, NULL);
		destroy(&u);
		emul_settle();
	}
}

/* The same, but it keeps what it gets: a hook must not keep a loop going */
static void hoard(enum emul_point point)
{
	void *obj;

	if (point != EMUL_SLAB_ALLOC || depth || storm >= MANY / 2)
		return;
	depth++;
	obj = user_alloc(victim);
	if (obj)
		ptrs[MANY / 2 + storm++] = obj;
	depth--;
}

static void hoarding_is_bounded(void **state)
{
	struct user u;
	u32 n;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	victim = &u;
	depth = 0;
	storm = 0;
	n = user_alloc_many_irqoff(&u, ptrs, 4);
	emul.irq_work_manual = true;
	n += user_alloc_many_irqoff(&u, ptrs + n, 100);
	emul.hook = hoard;
	/* one irq_work in which every new object is taken at once */
	emul_irq_work_run();
	emul.hook = NULL;
	emul.irq_work_manual = false;
	assert_true(storm < 256);
	user_free_many(&u, ptrs + MANY / 2, storm);
	user_free_many(&u, ptrs, n);
	destroy(&u);
}

static void contexts(void **state)
{
	unsigned long flags;
	struct user u;
	u32 k, n, i;

	for (k = 0; k < ARRAY_SIZE(kinds); k++) {
		assert_int_equal(user_init(&u, kinds[k], size_for(kinds[k])), 0);
		n = 0;
		emul_softirq_enter();
		ptrs[n++] = user_alloc(&u);
		emul_softirq_exit();
		emul_hardirq_enter();
		ptrs[n++] = user_alloc(&u);
		emul_nmi_enter();
		ptrs[n++] = user_alloc(&u);
		user_free(&u, ptrs[0]);
		user_free_rcu(&u, ptrs[1]);
		emul_nmi_exit();
		ptrs[1] = user_alloc(&u);
		emul_hardirq_exit();
		local_irq_save(flags);
		ptrs[0] = user_alloc(&u);
		local_irq_restore(flags);
		preempt_disable();
		ptrs[n++] = user_alloc(&u);
		preempt_enable();
		for (i = 0; i < n; i++) {
			assert_non_null(ptrs[i]);
			user_free(&u, ptrs[i]);
		}
		inspect_charged(&u, NULL);
		destroy(&u);
		emul_settle();
	}
}

/* Only an NMI takes and frees: service comes when it is over */
static void nmi_only(void **state)
{
	struct user u;
	u32 i, n;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	for (i = 0; i < 2000; i++) {
		emul_nmi_enter();
		ptrs[i] = user_alloc(&u);
		emul_nmi_exit();
		assert_non_null(ptrs[i]);
	}
	n = i;
	for (i = 0; i < n; i++) {
		emul_nmi_enter();
		if (i & 1)
			user_free_rcu(&u, ptrs[i]);
		else
			user_free(&u, ptrs[i]);
		emul_nmi_exit();
	}
	expect_held(&u, n / 2);
	emul_settle();
	expect_held(&u, 0);
	destroy(&u);
}

/* Destroy */

enum state {
	FRESH, CACHED, OTHER_CPU, WAITING, GP_HELD, GP_ENDED, SERVICE_PENDING,
	SERVICE_OTHER_CPU, WORK_PENDING, LEARNT, REFORMED, HELD, HELD_IN_GP,
	HELD_GP_ENDED, HELD_REUSED, NR_STATES
};

static void bring_about(struct user *u, enum state s)
{
	struct move m = { u, ptrs, 1, 0 };
	u32 n;

	switch (s) {
	case FRESH:
		break;
	case CACHED:
		user_free(u, user_alloc(u));
		break;
	case OTHER_CPU:
		user_alloc_many(u, ptrs, 1);
		on_cpu(1, do_free, &m);
		break;
	case WAITING:
		emul.irq_work_manual = true;
		deplete(u, 600);
		break;
	case GP_HELD:
		deplete(u, 600);
		break;
	case GP_ENDED:
		deplete(u, 600);
		emul_gp_run(EMUL_TRACE);
		emul_gp_run(EMUL_RCU);
		break;
	case SERVICE_PENDING:
		emul.irq_work_manual = true;
		n = user_alloc_many_irqoff(u, ptrs, 100);
		user_free_many(u, ptrs, n);
		break;
	case SERVICE_OTHER_CPU:
		emul.irq_work_manual = true;
		m.n = 100;
		on_cpu(1, do_burst, &m);
		user_free_many(u, ptrs, m.got);
		break;
	case WORK_PENDING:
		n = user_alloc_many_irqoff(u, ptrs, 100);
		user_free_many(u, ptrs, n);
		break;
	case LEARNT:
		n = user_alloc_many_irqoff(u, ptrs, 700);
		emul_settle();
		user_free_many(u, ptrs, n);
		emul_settle();
		break;
	case HELD:
		emul.irq_work_manual = true;
		user_free_many_rcu(u, ptrs, user_alloc_many(u, ptrs, 100));
		break;
	case HELD_IN_GP:
		user_free_many_rcu(u, ptrs, user_alloc_many(u, ptrs, 100));
		break;
	case HELD_GP_ENDED:
		user_free_many_rcu(u, ptrs, user_alloc_many(u, ptrs, 100));
		emul_gp_run(EMUL_TRACE);
		emul_gp_run(EMUL_RCU);
		user_free_many_rcu(u, ptrs, user_alloc_many(u, ptrs, 100));
		break;
	case HELD_REUSED:
		hold_many(u, ptrs, user_alloc_many(u, ptrs, 100));
		emul_settle();
		hold_many(u, ptrs, user_alloc_many(u, ptrs, 10));
		break;
	default:
		n = user_alloc_many_irqoff(u, ptrs, 700);
		emul_settle();
		user_free_many(u, ptrs, n);
		deplete(u, 700);
		emul_gp_run(EMUL_TRACE);
		emul_gp_run(EMUL_RCU);
		deplete(u, 700);
	}
}

/* The orders in which things end after destroy; true: they can go on */
static bool end_step(u32 order)
{
	bool ran = false;

	switch (order) {
	case 0:
		ran = emul_work_run();
		ran |= emul_irq_work_run();
		ran |= emul_gp_run(EMUL_RCU) > 0;
		ran |= emul_gp_run(EMUL_TRACE) > 0;
		return ran;
	case 1:
		ran = emul_gp_run(EMUL_TRACE) > 0;
		ran |= emul_gp_run(EMUL_RCU) > 0;
		ran |= emul_work_run() > 0;
		return ran;
	default:
		ran = emul_irq_work_run();
		ran |= emul_gp_run(EMUL_RCU) > 0;
		ran |= emul_gp_run(EMUL_TRACE) > 0;
		ran |= emul_work_run() > 0;
		return ran;
	}
}

static void destroy_in_every_state(void **state)
{
	u32 kind, s, order, sleep;
	struct user u;

	for (kind = 0; kind < NR_KINDS; kind++) {
		for (s = 0; s < NR_STATES; s++) {
			for (order = 0; order < 6; order++) {
				sleep = order / 3;
				if (kind == ANY && sleep)
					continue;
				setup_cpus(2);
				emul.trace_not_rcu = order & 1;
				assert_int_equal(user_init(&u, kind,
							   size_for(kind)), 0);
				if (sleep) {
					bpf_mem_alloc_set_sleepable(&u.ma);
					emul.expect_trace = true;
				}
				bring_about(&u, s);
				user_inspect(&u, NULL);
				destroy(&u);
				/* @ma is free at once */
				assert_null(u.ma.pcpu);
				assert_null(u.ma.classes);
				emul.irq_work_manual = false;
				while (end_step(order % 3))
					;
				emul_exit();
			}
		}
	}
}

/* An irq_work of the other CPU comes while the destroyer waits for it */
static void destroy_meets_service(void **state)
{
	struct move m;
	struct user u;
	u32 n;

	for (n = 0; n < 2; n++) {
		assert_int_equal(user_init(&u, FIXED, 64), 0);
		emul.irq_work_manual = true;
		/* objects to wait for, on the CPU that is drained first */
		deplete(&u, 600);
		m = (struct move){ &u, ptrs, 30, 0 };
		on_cpu(1, do_burst, &m);
		on_cpu(n, do_free, &m);
		destroy(&u);
		emul_work_run();
		emul.irq_work_manual = false;
		emul_settle();
		assert_all_back();
		assert_int_equal(memcg.usage, 0);
	}
}

static void *worker_thread(void *arg)
{
	emul_set_cpu(1);
	emul_work_run();
	WRITE_ONCE(emul_relaxing[1], 2);
	return NULL;
}

static pthread_t thread;

/* The worker as another CPU, until it has done all or waits for us */
static void run_worker_elsewhere(void)
{
	WRITE_ONCE(emul_relaxing[1], 0);
	pthread_create(&thread, NULL, worker_thread, NULL);
	while (!READ_ONCE(emul_relaxing[1]))
		sched_yield();
}

static void kick(void *arg)
{
	struct user *u = arg;
	u32 n;

	n = user_alloc_many_irqoff(u, ptrs, 100);
	user_free_many(u, ptrs, n);
}

/*
 * The worker was asked for by someone else and runs on another CPU, when the
 * grace period's end is known and the worker not asked yet by who tells it.
 */
static void destroy_meets_callback(void **state)
{
	struct user u;
	int i;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	deplete(&u, 600);
	kick(&u);
	destroy(&u);
	emul.threads = true;
	/* the worker finds the first one over, and starts the last one */
	for (i = 0; i < 2; i++) {
		assert_true(emul_work_pending());
		call_at(EMUL_MOD_WORK, 1, run_worker_elsewhere);
		assert_int_equal(emul_gp_run(EMUL_RCU), 1);
		assert_null(emul.hook);
		pthread_join(thread, NULL);
	}
	emul_settle();
	assert_all_back();
}

/* The destroyer is slow to ask the worker, which was on its way anyway */
static void destroy_meets_worker(void **state)
{
	struct user u;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	kick(&u);
	assert_true(emul_work_pending());
	emul.threads = true;
	call_at(EMUL_MOD_WORK, 1, run_worker_elsewhere);
	destroy(&u);
	assert_null(emul.hook);
	pthread_join(thread, NULL);
	emul_settle();
	assert_all_back();
}

/* irq_work that a CPU left behind when it went away */
static void destroy_after_cpu_died(void **state)
{
	struct move m;
	struct user u;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	emul.irq_work_manual = true;
	m = (struct move){ &u, ptrs, 50, 0 };
	on_cpu(1, do_burst, &m);
	user_free_many(&u, ptrs, m.got);
	emul_cpu_dead(1);
	user_inspect(&u, NULL);
	destroy(&u);
}

/* What lies on a CPU that went away is not kept from the others */
static void dead_cpu_gives_back(void **state)
{
	struct inspect before, dead, after;
	struct bpf_mem_alloc_stats stats;
	struct move m;
	struct user u;
	u32 n;

	assert_int_equal(user_init(&u, FIXED, 64), 0);
	m = (struct move){ &u, ptrs, 40, 0 };
	on_cpu(1, do_alloc, &m);
	assert_int_equal(m.got, m.n);
	on_cpu(1, do_free, &m);
	emul_settle();
	inspect_charged(&u, &before);
	assert_true(before.cpu >= m.n);

	emul_cpu_dead(1);
	inspect_charged(&u, &dead);
	assert_int_equal(dead.all, before.all);
	assert_int_equal(dead.cpu, 0);
	bpf_mem_alloc_get_stats(&u.ma, &stats);
	assert_int_equal(stats.cached, 0);
	assert_int_equal(stats.waiting, before.cpu);

	/* another CPU has it without slab */
	n = user_alloc_many_irqoff(&u, ptrs, m.n);
	assert_int_equal(n, m.n);
	inspect_charged(&u, &after);
	assert_int_equal(after.pool, before.pool);
	user_free_many(&u, ptrs, n);

	/* and what nobody wants goes back */
	emul_cpu_dead(0);
	emul_settle();
	inspect_charged(&u, &after);
	assert_int_equal(after.all, after.stock + after.reserve);

	/* it works as before when it has come back */
	on_cpu(1, do_alloc, &m);
	assert_int_equal(m.got, m.n);
	on_cpu(1, do_free, &m);
	destroy(&u);
	emul_settle();
	assert_all_back();
}

static void many_allocators(void **state)
{
	static struct user users[64];
	u32 i, n, round;

	for (round = 0; round < 3; round++) {
		for (i = 0; i < ARRAY_SIZE(users); i++) {
			assert_int_equal(user_init(&users[i], i % NR_KINDS,
						   size_for(i % NR_KINDS)), 0);
			n = user_alloc_many(&users[i], ptrs, 30);
			n += user_alloc_many_irqoff(&users[i], ptrs + n, 30);
			user_free_many(&users[i], ptrs, n);
		}
		for (i = 0; i < ARRAY_SIZE(users); i++)
			destroy(&users[i]);
	}
	emul_advance(2 * HZ);
	assert_int_equal(emul.caches, 0);
}

/* Learning, counted in jiffies, when they wrap around */
static void jiffies_wrap(void **state)
{
	emul_jiffies = (unsigned long)-5 * HZ;
	learns(FIXED, 512);
	emul_jiffies = (unsigned long)(1ULL << 32) - 5 * HZ;
	learns(FIXED, 512);
}

#define T(fn)	cmocka_unit_test_setup_teardown(fn, setup, teardown)
#define T4(fn)	cmocka_unit_test_setup_teardown(fn, setup4, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(init_bad_args),
		T(init_bad_opts),
		T(init_good_opts),
		T(destroy_nothing),
		T(every_size),
		T(classes),
		T(lazy_bad_args),
		T(lazy_classes),
		T(lazy_sleepable),
		T(free_null),
		T(fresh_is_zero),
		T(pool_is_zero),
		T(freed_stays_intact),
		T(percpu_areas),
		T(kinds_and_sizes),
		T(no_memory),
		T(locked_depot),
		T(fill_many),
		T4(fill_from_cpus),
		T4(charge_many_cpus),
		T(fill_reclaims),
		T(fill_bad_sizes),
		T(fill_in_full_memcg),
		T(memcg_limit),
		T(debt_is_forgiven),
		T(fail_everywhere),
		T(caches_are_shared),
		T(batches),
		T(sleepable),
		T(sleepable_in_between),
		T(sleepable_any_size),
		T(waiting_is_reused),
		T(churn),
		T4(churn),
		T(held_null),
		T(held_until_gp),
		T(held_sleepable),
		T(held_is_reused),
		T(held_is_released),
		T(held_goes_to_slab),
		T(held_is_not_forgotten),
		T(held_on_dead_cpu),
		T(mixed_frees),
		T(waiting_beside_held),
		T(bound_ends_allocs),
		T4(bound_under_churn),
		T(fill_waits),
		T(fill_waits_in_vain),
		T(fill_waits_for_memory),
		T(fill_waits_for_worker),
		T(fill_is_killed),
		T(fill_takes_stock),
		T(fill_is_woken),
		T4(fill_asks_cpus_first),
		T4(fill_after_others),
		T4(fill_takes_reserve),
		T4(fill_asks_again),
		T4(fill_awaits_in_reclaim),
		T(fill_finds_room),
		T(fill_gets_what_waited),
		T(fill_without_wait),
		T4(asked_in_service),
		T(service_is_throttled),
		T(throttled_cpu_dies),
		T(fresh_burst),
		T(reserve_learns),
		T(reserve_in_use_is_kept),
		T(reserve_forgets_in_time),
		T(reserve_shrinks_without_memory),
		T4(declared_is_kept),
		T(declared_is_charged),
		T4(asked_once),
		T(declared_fills_again),
		T(declared_waits_for_memory),
		T(migration),
		T(retry_is_no_failure),
		T(nothing_waits_for_ever),
		T(stock_is_not_kept),
		T(starved_then_freed),
		T(starved_then_burst),
		T(idle_costs),
		T(lean_keeps_little),
		T(lean_in_use),
		T(lean_frees_go),
		T(lean_fill_goes),
		T(lean_fails_elsewhere),
		T(lean_frees_only),
		T(lean_destroyed_while_held),
		T(uncleared),
		T(lean_beside_others),
		T(stats_tell),
		T(no_irq_work),
		T(percpu_by_worker),
		T(reentry_is_bounded),
		T(hoarding_is_bounded),
		T(contexts),
		T(nmi_only),
		T(destroy_in_every_state),
		T(destroy_meets_service),
		T(destroy_meets_callback),
		T(destroy_meets_worker),
		T(destroy_after_cpu_died),
		T(dead_cpu_gives_back),
		T(many_allocators),
		T(jiffies_wrap),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
