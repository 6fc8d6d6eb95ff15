/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What memalloc.c needs from the kernel around it, and nothing else needs
 * from memalloc.c. A build of that file in user space, or for another kernel
 * version, replaces this header.
 */
#ifndef __BPF_MEMALLOC_INTERNAL_H
#define __BPF_MEMALLOC_INTERNAL_H

#include <linux/atomic.h>
#include <linux/bpf.h>
#include <linux/cpu.h>
#include <linux/err.h>
#include <linux/export.h>
#include <linux/init.h>
#include <linux/irq_work.h>
#include <linux/irqflags.h>
#include <linux/jiffies.h>
#include <linux/kasan.h>
#include <linux/kprobes.h>
#include <linux/list.h>
#include <linux/log2.h>
#include <linux/memcontrol.h>
#include <linux/mutex.h>
#include <linux/overflow.h>
#include <linux/percpu.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <linux/rcupdate_trace.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/time64.h>
#include <linux/timekeeping.h>
#include <linux/timer.h>
#include <linux/wait_bit.h>
#include <linux/workqueue.h>

/* <linux/wait_bit.h> has one that is killable, and one with a timeout */
#define wait_var_event_killable_timeout(var, condition, timeout)	\
	___wait_var_event(var, ___wait_cond_timeout(condition),		\
			  TASK_KILLABLE, 0, timeout,			\
			  __ret = schedule_timeout(__ret))

#ifndef CONFIG_MEMCG_KMEM
static inline struct obj_cgroup *get_obj_cgroup_from_current(void)
{
	return NULL;
}

static inline int obj_cgroup_charge(struct obj_cgroup *objcg, gfp_t gfp,
				    size_t size)
{
	return 0;
}

static inline void obj_cgroup_uncharge(struct obj_cgroup *objcg, size_t size)
{
}

static inline void obj_cgroup_put(struct obj_cgroup *objcg)
{
}
#endif

/*
 * The charge of the allocator's owner; without one, memory is not charged.
 * get_obj_cgroup_from_current() must not be called while kmem accounting is
 * off: it would walk memory cgroups that do not exist.
 */
static inline struct obj_cgroup *bpf_mem_get_objcg(void)
{
#ifdef CONFIG_MEMCG_KMEM
	if (!memcg_kmem_enabled())
		return NULL;
#endif
	return get_obj_cgroup_from_current();
}

/*
 * A task that reclaims memory is charged beyond the limit. That is not for an
 * interrupt or a program that happens to find one.
 */
static inline int bpf_mem_charge(struct obj_cgroup *objcg, gfp_t gfp,
				 size_t size)
{
	unsigned int pflags = current->flags;
	int err;

	current->flags &= ~PF_MEMALLOC;
	err = obj_cgroup_charge(objcg, gfp, size);
	current_restore_flags(pflags, PF_MEMALLOC);
	return err;
}

/* KASAN reports who touches @obj, a whole one of @kc, except for @word */
static inline void bpf_mem_hide(struct kmem_cache *kc, void *obj, void *word)
{
	kasan_poison_object_data(kc, obj);
	kasan_unpoison_shadow(word, sizeof(void *));
}

static inline void bpf_mem_show(struct kmem_cache *kc, void *obj)
{
	kasan_unpoison_object_data(kc, obj);
}

#endif /* __BPF_MEMALLOC_INTERNAL_H */
