// SPDX-License-Identifier: GPL-2.0
/* Lets allocations fail: those of bpf() calls of the test, those of the workers
 * behind them, and in whatever context those of slab objects of some sizes. Keeps
 * an account of what bpf() calls allocate, for who looks for leaks.
 */
#include "vmlinux.h"
#include <errno.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "alloc_faults.h"
#include "test_task.h"

/* include/linux/gfp.h, slab.h */
#define __GFP_HIGHMEM		0x02u
#define __GFP_MOVABLE		0x08u
#define __GFP_ZERO		0x100u
#define __GFP_NOFAIL		0x8000u
#define SLAB_NOLEAKTRACE	0x00800000u

#define MAX_CPUS		8	/* power of two; more share */

/* What is allocated by bpf() calls and not freed yet */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct alloc);
} allocs SEC(".maps");

/* set by user space */
__u32 what;			/* FAULT_* */
__u32 rate;			/* in percent */
__u32 obj_sizes[MAX_OBJ_SIZES];
__u32 nth;			/* or: this one of bpf() only, counted from 1 */
__u32 account;			/* 1: all of bpf(), 2: only what is freed */
__u32 bpf_nr;			/* __NR_bpf */

/* results */
__u64 nr_slab, nr_page;		/* failed */
__u32 nr_asked;			/* since it was set to 0, with @nth */
__u64 nr_lost;			/* did not fit into the account */

static struct call calls[MAX_CALLS];
static bool obj_last[MAX_CPUS];	/* last asked for one of @obj_sizes */

static __always_inline struct call *this_slot(void)
{
	return &calls[(__u32)bpf_get_current_pid_tgid() & (MAX_CALLS - 1)];
}

static __always_inline struct call *this_call(void)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct call *c = this_slot();

	return tid && c->tid == tid ? c : (void *)0;
}

static __always_inline void enter(bool in_bpf)
{
	struct call *c = this_slot();

	c->tid = bpf_get_current_pid_tgid();
	c->in_bpf = in_bpf;
	c->tool = false;
}

static __always_inline void leave(void)
{
	struct call *c = this_call();

	if (c)
		c->tid = 0;
}

/* There is one task where the order matters. */
static __always_inline bool fails(struct call *c)
{
	if (nth)
		return c && c->in_bpf && ++nr_asked == nth;
	return bpf_get_prandom_u32() % 100 < rate;
}

SEC("raw_tp/sys_enter")
int BPF_PROG(bpf_enter, struct pt_regs *regs, long id)
{
	if (test_task() && id == bpf_nr)
		enter(true);
	return 0;
}

SEC("raw_tp/sys_exit")
int BPF_PROG(bpf_exit, struct pt_regs *regs, long ret)
{
	if (test_task())
		leave();
	return 0;
}

SEC("fentry/cache_work")
int BPF_PROG(cache_work_enter)
{
	enter(false);
	return 0;
}

SEC("fexit/cache_work")
int BPF_PROG(cache_work_exit)
{
	leave();
	return 0;
}

SEC("fentry/pcpu_balance_workfn")
int BPF_PROG(balance_enter)
{
	enter(false);
	return 0;
}

SEC("fexit/pcpu_balance_workfn")
int BPF_PROG(balance_exit)
{
	leave();
	return 0;
}

/* Not what kmemleak and debug objects take for themselves: without, they switch
 * themselves off.
 */
SEC("fmod_ret/should_failslab")
int BPF_PROG(slab_alloc, struct kmem_cache *s, gfp_t gfp, int ret)
{
	__u64 cpu = bpf_get_smp_processor_id() & (MAX_CPUS - 1);
	__u32 size = s->object_size, i;
	bool tool = s->flags & SLAB_NOLEAKTRACE, object = false;
	struct call *c = this_call();

	for (i = 0; i < MAX_OBJ_SIZES; i++)
		if (size == obj_sizes[i])
			object = true;
	obj_last[cpu] = object;
	if (c)
		c->tool = tool;
	if (ret || tool || gfp & __GFP_NOFAIL || !(what & FAULT_SLAB) ||
	    (!c && !object) || !fails(c))
		return ret;
	__sync_fetch_and_add(&nr_slab, 1);
	return -ENOMEM;
}

/* The pages of a process are none of our business. Slab wants no zeroed pages;
 * per-CPU areas and vmalloc() take any.
 */
SEC("fmod_ret/should_fail_alloc_page")
int BPF_PROG(page_alloc, gfp_t gfp, unsigned int order, int ret)
{
	__u64 cpu = bpf_get_smp_processor_id() & (MAX_CPUS - 1);
	bool wanted = what & FAULT_PAGE;
	struct call *c = this_call();

	if (what & FAULT_PERCPU && gfp & __GFP_HIGHMEM)
		wanted = true;
	if (ret || !wanted || gfp & (__GFP_NOFAIL | __GFP_MOVABLE))
		return ret;
	if (c ? c->tool : !obj_last[cpu] || gfp & __GFP_ZERO)
		return ret;
	if (!fails(c))
		return ret;
	__sync_fetch_and_add(&nr_page, 1);
	return 1;
}

static __always_inline void allocated(__u64 site, __u64 ptr, __u64 size)
{
	struct alloc alloc = { site, size };
	struct call *c = this_call();

	if (account != 1 || !ptr || !c || !c->in_bpf)
		return;
	if (bpf_map_update_elem(&allocs, &ptr, &alloc, BPF_ANY))
		__sync_fetch_and_add(&nr_lost, 1);
}

static __always_inline void freed(__u64 ptr)
{
	if (account)
		bpf_map_delete_elem(&allocs, &ptr);
}

SEC("raw_tp/kmalloc")
int BPF_PROG(kmalloc, __u64 site, __u64 ptr, size_t size)
{
	allocated(site, ptr, size);
	return 0;
}

SEC("raw_tp/kmalloc_node")
int BPF_PROG(kmalloc_node, __u64 site, __u64 ptr, size_t size)
{
	allocated(site, ptr, size);
	return 0;
}

SEC("raw_tp/kmem_cache_alloc")
int BPF_PROG(kmem_cache_alloc, __u64 site, __u64 ptr, size_t size)
{
	allocated(site, ptr, size);
	return 0;
}

SEC("raw_tp/kmem_cache_alloc_node")
int BPF_PROG(kmem_cache_alloc_node, __u64 site, __u64 ptr, size_t size)
{
	allocated(site, ptr, size);
	return 0;
}

SEC("raw_tp/percpu_alloc_percpu")
int BPF_PROG(percpu_alloc, bool reserved, bool atomic, size_t size,
	     size_t align, void *base, int off, __u64 ptr)
{
	allocated(0, ptr, size);
	return 0;
}

SEC("raw_tp/kfree")
int BPF_PROG(kfree, __u64 site, __u64 ptr)
{
	freed(ptr);
	return 0;
}

SEC("raw_tp/kmem_cache_free")
int BPF_PROG(kmem_cache_free, __u64 site, __u64 ptr)
{
	freed(ptr);
	return 0;
}

SEC("raw_tp/percpu_free_percpu")
int BPF_PROG(percpu_free, void *base, int off, __u64 ptr)
{
	freed(ptr);
	return 0;
}

char _license[] SEC("license") = "GPL";
