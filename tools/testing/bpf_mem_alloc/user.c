// SPDX-License-Identifier: GPL-2.0-only
#include "user.h"

const char * const user_kinds[NR_KINDS] = {
	"fixed", "linked", "percpu", "attached", "any",
};

/* @max_waiting, @reserve: 0 for PERCPU and ANY, which have no such options */
int user_init_opts(struct user *u, enum user_kind kind, size_t size,
		   u32 max_waiting, u32 reserve)
{
	struct bpf_mem_alloc_opts opts = {
		.size = size,
		.link_off = 0,
		.numa_node = NUMA_NO_NODE,
		.max_waiting = max_waiting,
		.reserve = reserve,
	};

	*u = (struct user){ .kind = kind, .size = size };
	switch (kind) {
	case FIXED:
		if (!max_waiting && !reserve)
			return bpf_mem_alloc_init(&u->ma, size, false);
		opts.link_off = -1;
		break;
	case PERCPU:
		return bpf_mem_alloc_init(&u->ma, size, true);
	case ANY:
		return bpf_mem_alloc_init(&u->ma, 0, false);
	case ATTACHED:
		opts.percpu_size = 16;
		opts.percpu_off = WORD;
		break;
	default:
		opts.link_off = WORD;
	}
	return bpf_mem_alloc_init_opts(&u->ma, &opts);
}

int user_init(struct user *u, enum user_kind kind, size_t size)
{
	return user_init_opts(u, kind, size, 0, 0);
}

static void *area_of(struct user *u, void *ptr)
{
	if (u->kind == PERCPU)
		return *(void **)ptr;
	if (u->kind == ATTACHED)
		return *(void **)(ptr + WORD);
	return NULL;
}

/* A byte that the allocator must leave alone tells where it lies */
static u8 pattern(void *p)
{
	unsigned long x = (unsigned long)p;

	return (x ^ x >> 8 ^ x >> 16) | 1;
}

static void each_byte(struct user *u, void *ptr, void (*fn)(u8 *p))
{
	size_t size = u->kind == PERCPU ? 0 : u->size, i;
	void *area = area_of(u, ptr);
	u8 *p = ptr;
	int cpu;

	/* of large objects not every one, but some of every word */
	for (i = 0; i < size; i += size > 256 ? 5 : 1) {
		if (u->kind == LINKED && i >= WORD && i < 2 * WORD)
			continue;
		if (u->kind == ATTACHED && i < 2 * WORD)
			continue;
		fn(p + i);
	}
	size = u->kind == PERCPU ? u->size : 16;
	for (cpu = 0; area && cpu < emul_nr_cpus; cpu++) {
		p = per_cpu_ptr(area, cpu);
		for (i = 0; i < size; i++)
			fn(p + i);
	}
}

static void write_byte(u8 *p)
{
	*p = pattern(p);
}

static void check_byte(u8 *p)
{
	if (*p != pattern(p))
		emul_fail("byte at %p is %#x instead of %#x", p, *p, pattern(p));
}

static void *take(struct user *u, void *ptr)
{
	if (!ptr)
		return NULL;
	if ((unsigned long)ptr % 8)
		emul_fail("%p is not aligned", ptr);
	emul_note_alloc(ptr);
	atomic_inc((atomic_long_t *)&u->live);
	if ((u->kind == PERCPU || u->kind == ATTACHED) && !area_of(u, ptr))
		emul_fail("%p has no area", ptr);
	each_byte(u, ptr, write_byte);
	return ptr;
}

void *user_alloc(struct user *u)
{
	if (u->kind == ANY)
		return take(u, bpf_mem_alloc(&u->ma, u->size));
	return take(u, bpf_mem_cache_alloc(&u->ma));
}

void *user_alloc_irqoff(struct user *u)
{
	if (u->kind == ANY)
		return user_alloc(u);
	return take(u, bpf_mem_cache_alloc_irqoff(&u->ma));
}

/* As an update does that leaves alone what others cannot do without */
void *user_try(struct user *u)
{
	unsigned long flags;
	void *ptr;

	bpf_mem_cache_refill(&u->ma);
	local_irq_save(flags);
	ptr = take(u, bpf_mem_cache_try_irqoff(&u->ma, flags));
	local_irq_restore(flags);
	return ptr;
}

void user_check(struct user *u, void *ptr)
{
	each_byte(u, ptr, check_byte);
}

static void give(struct user *u, void *ptr)
{
	user_check(u, ptr);
	emul_note_free(ptr);
	atomic_dec((atomic_long_t *)&u->live);
}

void user_free(struct user *u, void *ptr)
{
	give(u, ptr);
	if (u->kind == ANY)
		bpf_mem_free(&u->ma, ptr);
	else
		bpf_mem_cache_free(&u->ma, ptr);
}

void user_free_irqoff(struct user *u, void *ptr)
{
	if (u->kind == ANY) {
		user_free(u, ptr);
		return;
	}
	give(u, ptr);
	bpf_mem_cache_free_irqoff(&u->ma, ptr);
}

void user_free_rcu(struct user *u, void *ptr)
{
	user_check(u, ptr);
	emul_note_free_rcu(ptr);
	atomic_dec((atomic_long_t *)&u->live);
	if (u->kind == ANY)
		bpf_mem_free_rcu(&u->ma, ptr);
	else
		bpf_mem_cache_free_rcu(&u->ma, ptr);
}

u32 user_alloc_many(struct user *u, void **ptrs, u32 n)
{
	u32 i;

	for (i = 0; i < n; i++) {
		ptrs[i] = user_alloc(u);
		if (!ptrs[i])
			break;
	}
	return i;
}

/* A burst, as of a program under a raw spinlock: it goes on when one fails */
u32 user_alloc_many_irqoff(struct user *u, void **ptrs, u32 n)
{
	unsigned long flags;
	u32 i, got = 0;

	local_irq_save(flags);
	for (i = 0; i < n; i++) {
		ptrs[got] = user_alloc_irqoff(u);
		got += !!ptrs[got];
	}
	local_irq_restore(flags);
	return got;
}

void user_free_many(struct user *u, void **ptrs, u32 n)
{
	while (n)
		user_free(u, ptrs[--n]);
}

void user_free_many_rcu(struct user *u, void **ptrs, u32 n)
{
	while (n)
		user_free_rcu(u, ptrs[--n]);
}

void user_inspect(struct user *u, struct inspect *in)
{
	inspect(&u->ma, u->live, in);
}
