/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _LINUX_BPF_MEM_ALLOC_H
#define _LINUX_BPF_MEM_ALLOC_H

#include <linux/compiler_types.h>
#include <linux/types.h>

struct bpf_mem_classes;
struct bpf_mem_cpu;

/**
 * struct bpf_mem_alloc - an allocator for objects of BPF programs
 * @pcpu: per-CPU free lists of a fixed-size allocator, else NULL
 * @classes: one @pcpu for each size class of an any-size allocator, else NULL
 * @lazy: how its classes are made one by one, else NULL: all are there
 *
 * Zero-filled memory is a valid argument of bpf_mem_alloc_destroy().
 */
struct bpf_mem_alloc {
	struct bpf_mem_cpu __percpu *pcpu;
	struct bpf_mem_cpu __percpu **classes;
	struct bpf_mem_classes *lazy;
};

/**
 * struct bpf_mem_alloc_opts - how the objects of an allocator look
 * @size: bytes in an object, at least 1
 * @percpu_size: bytes on each CPU of the area attached to every object, or 0
 * @percpu_off: where in the object the pointer to that area lies, in bytes
 * @link_off: where in a free object one word may be overwritten, in bytes.
 *	No reader of a freed object may use that word. Negative: nowhere, the
 *	allocator puts its link in front of the object.
 * @numa_node: node that objects come from, or NUMA_NO_NODE
 * @max_waiting: no new objects are made while so many wait for a grace period;
 *	0 for no such bound. Matters for what bpf_mem_cache_free_rcu() and
 *	bpf_mem_free_rcu() free: the rest is used again instead.
 * @reserve: so many objects are made at once, and kept ready for those who
 *	cannot make any: in NMI, with interrupts off, within another allocation
 * @cache_bytes: no more than this is kept on a CPU that has not allocated for two
 *	seconds, nor anything of what bpf_mem_cache_free_rcu() and
 *	bpf_mem_free_rcu() have freed when that is so on all of them; and
 *	neither a pool nor a reserve that learns.
 *	0: as much as serves bursts well. Not together with @reserve.
 * @uncharged: nobody is charged, for allocators that several owners share; to
 *	be used with @cache_bytes
 * @uncleared: objects come as they are from slab, for users who clear them anyway
 *	as they do those that come again
 * @release: called for each object that bpf_mem_cache_free_rcu() or
 *	bpf_mem_free_rcu() has freed, in process context, when it has no readers
 *	any more and before it is used again; or NULL
 */
struct bpf_mem_alloc_opts {
	size_t size;
	size_t percpu_size;
	int percpu_off;
	int link_off;
	int numa_node;
	u32 max_waiting;
	u32 reserve;
	u32 cache_bytes;
	bool uncharged;
	bool uncleared;
	void (*release)(void *obj);
};

/**
 * struct bpf_mem_alloc_stats - what an allocator holds
 * @bytes: memory taken from the slab and per-CPU allocators, live or not
 * @cached: free objects that the next allocation may get
 * @waiting: free objects whose grace period has not passed; but for those of
 *	bpf_mem_cache_free_rcu() and bpf_mem_free_rcu() an allocation may still
 *	get them
 * @failed: allocations that found no object since the allocator was made
 */
struct bpf_mem_alloc_stats {
	u64 bytes;
	u64 cached;
	u64 waiting;
	u64 failed;
};

int bpf_mem_alloc_init(struct bpf_mem_alloc *ma, int size, bool percpu);
int bpf_mem_alloc_init_opts(struct bpf_mem_alloc *ma,
			    const struct bpf_mem_alloc_opts *opts);
void bpf_mem_alloc_destroy(struct bpf_mem_alloc *ma);
void bpf_mem_alloc_set_sleepable(struct bpf_mem_alloc *ma);
void bpf_mem_alloc_get_stats(struct bpf_mem_alloc *ma,
			     struct bpf_mem_alloc_stats *stats);

/* any size */
void *bpf_mem_alloc(struct bpf_mem_alloc *ma, size_t size);
void bpf_mem_free(struct bpf_mem_alloc *ma, void *ptr);
void bpf_mem_free_rcu(struct bpf_mem_alloc *ma, void *ptr);
int bpf_mem_fill(struct bpf_mem_alloc *ma, size_t size, bool wait);
bool bpf_mem_wait(struct bpf_mem_alloc *ma, size_t size);

/* any size, where each class is there only while somebody wants it */
int bpf_mem_alloc_init_lazy(struct bpf_mem_alloc *ma,
			    const struct bpf_mem_alloc_opts *opts);
int bpf_mem_class_get(struct bpf_mem_alloc *ma, size_t size);
void bpf_mem_class_put(struct bpf_mem_alloc *ma, size_t size);
void bpf_mem_class_set_sleepable(struct bpf_mem_alloc *ma, size_t size);
size_t bpf_mem_class_size(size_t size);

/* fixed size */
void *bpf_mem_cache_alloc(struct bpf_mem_alloc *ma);
void bpf_mem_cache_free(struct bpf_mem_alloc *ma, void *ptr);
void bpf_mem_cache_free_rcu(struct bpf_mem_alloc *ma, void *ptr);

/* fixed size, for callers that take locks around alloc and free */
void *bpf_mem_cache_alloc_irqoff(struct bpf_mem_alloc *ma);
void *bpf_mem_cache_try_irqoff(struct bpf_mem_alloc *ma, unsigned long flags);
void bpf_mem_cache_free_irqoff(struct bpf_mem_alloc *ma, void *ptr);
bool bpf_mem_cache_refill(struct bpf_mem_alloc *ma);
int bpf_mem_cache_fill(struct bpf_mem_alloc *ma, bool wait);

#endif /* _LINUX_BPF_MEM_ALLOC_H */
