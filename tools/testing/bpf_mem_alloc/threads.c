// SPDX-License-Identifier: GPL-2.0-only
/*
 * A thread for each CPU, and one more that runs workers and ends grace
 * periods when all readers have gone. Objects wander between the CPUs; where
 * others may look at them in the meantime, they must stay as they are. With a
 * sanitizer for threads, this is what it looks at.
 */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>
#include "user.h"

#define CPUS		3
#define SLOTS		256
#define HELD		64

static struct user user;
static void *slots[SLOTS];
static bool readers;	/* of what lies in @slots */
static u32 stop;	/* 1: the CPUs, 2: the worker */
static long ops[CPUS];
static long failed[CPUS];
static struct obj_cgroup memcg;
static int milliseconds = 500;

static u32 next_random(u32 *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8;
}

/* A grace period cannot end here */
static void look(u32 r)
{
	unsigned long flags;
	void *obj;

	local_irq_save(flags);
	obj = READ_ONCE(slots[r / 8 % SLOTS]);
	if (obj && r & 0x10000)
		sched_yield();
	if (obj)
		user_check(&user, obj);
	local_irq_restore(flags);
}

static void fill(void)
{
	int err = bpf_mem_cache_fill(&user.ma, true);

	if (err && memcg.limit == LONG_MAX / 2)
		emul_fail("no memory: %d", err);
}

static void one_op(u32 *seed, void **held, u32 *nr)
{
	u32 r = next_random(seed);
	unsigned long flags;
	void *obj;

	switch (r % 8) {
	case 0:
	case 1:
		obj = user_alloc(&user);
		break;
	case 2:
		local_irq_save(flags);
		obj = user_alloc_irqoff(&user);
		local_irq_restore(flags);
		break;
	case 3:
		emul_nmi_enter();
		obj = user_alloc(&user);
		emul_nmi_exit();
		break;
	case 4:
		/* to any CPU, from any CPU */
		obj = *nr ? held[--*nr] : NULL;
		obj = xchg(&slots[r / 8 % SLOTS], obj);
		if (!obj || !readers)
			break;
		if (r & 0x20000)
			emul_nmi_enter();
		user_free_rcu(&user, obj);
		if (r & 0x20000)
			emul_nmi_exit();
		return;
	case 5:
		if (*nr) {
			local_irq_save(flags);
			user_free_irqoff(&user, held[--*nr]);
			local_irq_restore(flags);
		}
		return;
	case 6:
		if (readers && r & 0x200)
			look(r);
		else if (user.kind != ANY && r & 0x100)
			fill();
		else if (user.kind != ANY)
			bpf_mem_cache_refill(&user.ma);
		return;
	default:
		while (*nr > r / 8 % HELD) {
			if (*nr & 1)
				user_free_rcu(&user, held[--*nr]);
			else
				user_free(&user, held[--*nr]);
		}
		return;
	}
	if (!obj) {
		failed[emul_cpu]++;
		return;
	}
	if (*nr == HELD)
		user_free(&user, held[--*nr]);
	held[(*nr)++] = obj;
}

static void *cpu_thread(void *arg)
{
	u32 seed = (long)arg + 1, nr = 0;
	void *held[HELD];

	emul_set_cpu((long)arg);
	while (!READ_ONCE(stop)) {
		one_op(&seed, held, &nr);
		ops[emul_cpu]++;
	}
	user_free_many(&user, held, nr);
	return NULL;
}

static void *worker_thread(void *arg)
{
	struct bpf_mem_alloc_stats stats;
	struct timespec start, now;
	long passed;

	emul_set_cpu(CPUS);
	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		emul_gp_run(EMUL_TRACE);
		emul_gp_run(EMUL_RCU);
		emul_work_run();
		bpf_mem_alloc_get_stats(&user.ma, &stats);
		__atomic_add_fetch(&emul_jiffies, 1, __ATOMIC_SEQ_CST);
		sched_yield();
		clock_gettime(CLOCK_MONOTONIC, &now);
		passed = (now.tv_sec - start.tv_sec) * 1000 +
			 (now.tv_nsec - start.tv_nsec) / 1000000;
		if (user.kind == LINKED && passed > milliseconds / 2 &&
		    !READ_ONCE(emul.expect_trace)) {
			bpf_mem_alloc_set_sleepable(&user.ma);
			WRITE_ONCE(emul.expect_trace, true);
		}
		if (passed >= milliseconds && !READ_ONCE(stop))
			WRITE_ONCE(stop, 1);
		/* somebody may wait for a grace period still */
	} while (READ_ONCE(stop) < 2);
	return NULL;
}

static void run_threads(void *(*fn)(void *arg))
{
	pthread_t threads[CPUS + 1];
	long i;

	stop = 0;
	for (i = 0; i < CPUS; i++)
		pthread_create(&threads[i], NULL, fn, (void *)i);
	pthread_create(&threads[i], NULL, worker_thread, NULL);
	for (i = 0; i < CPUS; i++)
		pthread_join(threads[i], NULL);
	WRITE_ONCE(stop, 2);
	pthread_join(threads[i], NULL);
}

static void hammer_opts(enum user_kind kind, size_t size, long limit,
			u32 max_waiting, u32 reserve)
{
	long i, total = 0, misses = 0;
	struct inspect in;

	emul_init(CPUS + 1);
	memcg = (struct obj_cgroup){ .limit = limit };
	emul.memcg = &memcg;
	emul.threads = true;
	assert_int_equal(user_init_opts(&user, kind, size, max_waiting,
					reserve), 0);
	memset(ops, 0, sizeof(ops));
	memset(failed, 0, sizeof(failed));
	run_threads(cpu_thread);
	emul.threads = false;
	/* no grace period is forgotten */
	emul_settle();
	user_inspect(&user, &in);
	assert_int_equal(in.held + in.held_gp, 0);
	for (i = 0; i < SLOTS; i++) {
		if (slots[i])
			user_free(&user, slots[i]);
		slots[i] = NULL;
	}
	for (i = 0; i < CPUS; i++) {
		total += ops[i];
		misses += failed[i];
	}
	user_inspect(&user, NULL);
	assert_true(total > 100);
	print_message("%s %zu: %ld operations, %ld misses\n", user_kinds[kind],
		      size, total, misses);
	bpf_mem_alloc_destroy(&user.ma);
	emul_exit();
}

static void hammer(enum user_kind kind, size_t size, long limit)
{
	hammer_opts(kind, size, limit, 0, 0);
}

static void fixed(void **state)
{
	hammer(FIXED, 64, LONG_MAX / 2);
}

static void linked(void **state)
{
	hammer(LINKED, 64, LONG_MAX / 2);
}

static void large(void **state)
{
	hammer(FIXED, 3000, LONG_MAX / 2);
}

static void percpu(void **state)
{
	hammer(PERCPU, 16, LONG_MAX / 2);
}

static void attached(void **state)
{
	hammer(ATTACHED, 64, LONG_MAX / 2);
}

static void any(void **state)
{
	hammer(ANY, 100, LONG_MAX / 2);
}

static void limited(void **state)
{
	hammer(FIXED, 512, 100 * 520);
}

static void declared(void **state)
{
	hammer_opts(LINKED, 512, 100 * 512, 0, 50);
}

/* Objects that others look at */

static void seen(enum user_kind kind, size_t size, u32 max_waiting)
{
	readers = true;
	hammer_opts(kind, size, LONG_MAX / 2, max_waiting, 0);
	readers = false;
}

static void seen_fixed(void **state)
{
	seen(FIXED, 64, 0);
}

static void seen_linked(void **state)
{
	seen(LINKED, 64, 0);
}

static void seen_any(void **state)
{
	seen(ANY, 100, 0);
}

/* Many wait in bpf_mem_cache_fill() */
static void seen_bounded(void **state)
{
	seen(ATTACHED, 64, 100);
}

/* Allocators come and go, with irq_work and grace periods on their way */

static void *churn_thread(void *arg)
{
	static const size_t sizes[] = { 64, 64, 200, 3000 };
	void *ptrs[200];
	struct user u;
	u32 i, n;

	emul_set_cpu((long)arg);
	for (i = 0; !READ_ONCE(stop); i++) {
		if (user_init(&u, i % NR_KINDS, sizes[i / NR_KINDS % 4]))
			continue;
		n = user_alloc_many_irqoff(&u, ptrs, 60);
		n += user_alloc_many(&u, ptrs + n, 100);
		user_free_many(&u, ptrs, n);
		n = user_alloc_many_irqoff(&u, ptrs, 30);
		user_free_many_rcu(&u, ptrs, n / 2);
		user_free_many(&u, ptrs + n / 2, n - n / 2);
		bpf_mem_alloc_destroy(&u.ma);
		ops[emul_cpu]++;
		/* the worker is one for all and gets no further than they let it */
		while (READ_ONCE(emul.areas) > 2000 && !READ_ONCE(stop))
			usleep(100);
	}
	return NULL;
}

static void lives(void **state)
{
	emul_init(CPUS + 1);
	memcg = (struct obj_cgroup){ .limit = LONG_MAX / 2 };
	emul.memcg = &memcg;
	emul.threads = true;
	memset(ops, 0, sizeof(ops));
	assert_int_equal(user_init(&user, FIXED, 64), 0);
	run_threads(churn_thread);
	emul.threads = false;
	print_message("%ld allocators\n", ops[0] + ops[1] + ops[2]);
	assert_true(ops[0] + ops[1] + ops[2] > 10);
	bpf_mem_alloc_destroy(&user.ma);
	emul_exit();
}

/*
 * The worker runs already when the allocator is destroyed. Nothing but what
 * memalloc.c does orders the two, so a sanitizer for threads has to agree.
 */

static u32 turn;

static void at_work(enum emul_point point)
{
	if (point != EMUL_WORK || READ_ONCE(turn))
		return;
	WRITE_ONCE(turn, 1);
	while (READ_ONCE(turn) == 1)
		sched_yield();
}

static void *one_work(void *arg)
{
	emul_set_cpu(1);
	emul_work_run();
	return NULL;
}

static void destroyed_at_work(void **state)
{
	pthread_t thread;
	void *ptrs[60];
	u32 n;

	emul_init(2);
	memcg = (struct obj_cgroup){ .limit = LONG_MAX / 2 };
	emul.memcg = &memcg;
	emul.threads = true;
	assert_int_equal(user_init(&user, FIXED, 64), 0);
	n = user_alloc_many_irqoff(&user, ptrs, ARRAY_SIZE(ptrs));
	assert_true(n && emul_work_pending());
	turn = 0;
	emul.hook = at_work;
	pthread_create(&thread, NULL, one_work, NULL);
	while (!READ_ONCE(turn))
		sched_yield();
	user_free_many(&user, ptrs, n);
	bpf_mem_alloc_destroy(&user.ma);
	WRITE_ONCE(turn, 2);
	pthread_join(thread, NULL);
	emul.hook = NULL;
	emul.threads = false;
	emul_exit();
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fixed),
		cmocka_unit_test(linked),
		cmocka_unit_test(large),
		cmocka_unit_test(percpu),
		cmocka_unit_test(attached),
		cmocka_unit_test(any),
		cmocka_unit_test(limited),
		cmocka_unit_test(declared),
		cmocka_unit_test(seen_fixed),
		cmocka_unit_test(seen_linked),
		cmocka_unit_test(seen_any),
		cmocka_unit_test(seen_bounded),
		cmocka_unit_test(lives),
		cmocka_unit_test(destroyed_at_work),
	};

	if (argc > 1)
		milliseconds = atoi(argv[1]);
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
