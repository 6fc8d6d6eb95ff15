// SPDX-License-Identifier: GPL-2.0-only
/* The code under test, as it is, and what looks into its data */
#include "memalloc_user.h"
#include "../../../kernel/bpf/memalloc.c"
#include <sys/mman.h>
#include "inspect.h"

#define INSPECT __attribute__((section("inspect_text")))
#define MAX_LIST 4194304

static u32 inspect_mark;

/* Is every object of the list free, and in no other list? */
INSPECT static long count_held(void *first, int link_off)
{
	struct emul_obj *obj;
	long n = 0;

	for (; first; first = *(void **)(first + link_off)) {
		obj = emul_obj_of(first);
		if (obj->mark == inspect_mark)
			emul_fail("%p is in two lists", first);
		if (obj->live)
			emul_fail("%p is in a list and with its user", first);
		obj->mark = inspect_mark;
		if (++n > MAX_LIST)
			emul_fail("a list has no end");
	}
	return n;
}

/* Then the next allocation may get it, too */
INSPECT static long count_list(void *first, int link_off)
{
	long n = count_held(first, link_off);

	for (; first; first = *(void **)(first + link_off))
		emul_check_held(first);
	return n;
}

INSPECT static void expect(const char *what, long is, long should)
{
	if (is != should)
		emul_fail("%s: %ld instead of %ld", what, is, should);
}

INSPECT static long count_reserve(struct bpf_mem_reserve *rsv, int link_off)
{
	long all = 0, full = 0, empty = 0, n;
	u32 i;

	for (i = 0; rsv && i < rsv->nr_slots; i++) {
		n = count_list(rsv->slots[i], link_off);
		full += n != 0;
		empty += n == 0;
		all += n;
	}
	for (i = rsv ? atomic64_read(&rsv->full) : 0; i; i = rsv->next[i - 1], full--)
		expect("empty slots among the full", !rsv->slots[i - 1], 0);
	expect("full slots elsewhere", full, 0);
	for (i = rsv ? atomic64_read(&rsv->empty) : 0; i; i = rsv->next[i - 1], empty--)
		expect("full slots among the empty", !!rsv->slots[i - 1], 0);
	expect("empty slots elsewhere", empty, 0);
	return all;
}

INSPECT static long inspect_cache(struct bpf_mem_cache *mc, struct inspect *in)
{
	long cpu = 0, nested = 0, stock, waiting, in_gp, held, held_gp;
	long reserve, declared, all, i, n;

	for_each_possible_cpu(i) {
		struct bpf_mem_cpu *c = per_cpu_ptr(mc->pcpu, i);

		n = count_list(c->head, mc->link_off);
		expect("objects in a CPU's list", c->cnt, n);
		cpu += n;
		nested += count_list(c->nested, mc->link_off);
		expect("busy", c->busy, 0);
	}
	stock = count_list(mc->stock, mc->link_off);
	waiting = count_list(mc->waiting, mc->link_off);
	in_gp = count_list(mc->in_gp, mc->link_off);
	held = count_held(mc->held, mc->link_off);
	held_gp = count_held(mc->held_gp, mc->link_off);
	reserve = count_reserve(mc->reserve, mc->link_off);
	declared = count_reserve(mc->declared, mc->link_off);
	for (i = 0; i < mc->pool->nr_slots; i++)
		in->pool += !!mc->pool->slots[i];
	expect("nr_ready", mc->nr_ready.counter, stock + reserve + declared);
	expect("nr_waiting", mc->nr_waiting.counter,
	       waiting + in_gp + held + held_gp);
	expect("depot_lock", mc->depot_lock.counter, 0);
	all = mc->nr_objs.counter;
	in->charge += (all - mc->borrowed.counter) * mc->charge;
	if (mc->pool->objcg)
		in->charge += (long)mc->pool->nr_slots * mc->pool->charge;
	if (all)
		in->object = mc->charge;
	in->cpu += cpu;
	in->nested += nested;
	in->stock += stock;
	in->waiting += waiting;
	in->in_gp += in_gp;
	in->held += held;
	in->held_gp += held_gp;
	in->reserve += reserve;
	in->declared += declared;
	in->all += all;
	return all - cpu - nested - stock - waiting - in_gp - held - held_gp -
	       reserve - declared;
}

/* To be called while nobody uses @ma, of which @live objects are in use */
INSPECT void inspect(struct bpf_mem_alloc *ma, long live, struct inspect *in)
{
	struct inspect dummy;
	long out = 0, i;
	u32 cpu;

	in = in ?: &dummy;
	*in = (struct inspect){};
	inspect_mark++;
	if (ma->pcpu)
		out += inspect_cache(per_cpu_ptr(ma->pcpu, 0)->cache, in);
	for (i = 0; ma->classes && i < ARRAY_SIZE(class_sizes); i++)
		if (ma->classes[i])
			out += inspect_cache(per_cpu_ptr(ma->classes[i], 0)->cache,
					     in);
	expect("objects in use", out, live);
	for_each_possible_cpu(cpu) {
		struct bpf_mem_service *svc = per_cpu_ptr(&bpf_mem_service, cpu);

		expect("refilling", svc->refilling, 0);
		expect("running", svc->running, 0);
	}
}

INSPECT u32 inspect_cached(struct bpf_mem_alloc *ma, int cpu)
{
	return per_cpu_ptr(ma->pcpu, cpu)->cnt;
}

INSPECT bool inspect_depot_locked(struct bpf_mem_alloc *ma)
{
	return atomic_read(&per_cpu_ptr(ma->pcpu, 0)->cache->depot_lock);
}

/* As another CPU may hold it when an NMI comes in */
INSPECT void inspect_lock_depot(struct bpf_mem_alloc *ma, bool locked)
{
	atomic_set_release(&per_cpu_ptr(ma->pcpu, 0)->cache->depot_lock,
			   locked);
}

/* As who finds no memory on another CPU does */
INSPECT void inspect_ask(struct bpf_mem_alloc *ma, int cpu)
{
	struct bpf_mem_cpu *c = per_cpu_ptr(ma->pcpu, cpu);

	c->idle = LIST_GIVES_ALL;
	request_trim(c, cpu);
}

/* After a test that failed, nothing is as it should be */
INSPECT void inspect_reset(void)
{
	slabs.next = &slabs;
	slabs.prev = &slabs;
	pools.next = &pools;
	pools.prev = &pools;
	pthread_mutex_init(&slabs_mutex.lock, NULL);
	pthread_mutex_init(&pools_mutex.lock, NULL);
	slabs_work.pending = false;
}

extern char __start_memalloc_text[], __stop_memalloc_text[];

INSPECT bool inspect_in_code(unsigned long ip)
{
	return ip >= (unsigned long)__start_memalloc_text &&
	       ip < (unsigned long)__stop_memalloc_text;
}

/* For breakpoints */
INSPECT void inspect_make_writable(void)
{
	unsigned long start = (unsigned long)__start_memalloc_text & -PAGE_SIZE;
	unsigned long end = round_up((unsigned long)__stop_memalloc_text,
				     PAGE_SIZE);

	if (mprotect((void *)start, end - start,
		     PROT_READ | PROT_WRITE | PROT_EXEC))
		emul_fail("code cannot be made writable");
}
