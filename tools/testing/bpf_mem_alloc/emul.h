/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A kernel that a test controls: contexts, irq_work, grace periods, workers,
 * time, memory. A thread is an emulated CPU; nothing happens by itself but
 * irq_work, when interrupts come on.
 */
#ifndef _BPF_MEM_ALLOC_TEST_EMUL_H
#define _BPF_MEM_ALLOC_TEST_EMUL_H

#include "kernel.h"

enum emul_gp { EMUL_RCU, EMUL_TRACE, EMUL_NR_GP };

/* Where a test can step in: emul.hook is called there */
enum emul_point {
	EMUL_IRQ_SAVE,
	EMUL_IRQS_ON,
	EMUL_SLAB_ALLOC,
	EMUL_SLAB_FREE,
	EMUL_PERCPU_ALLOC,
	EMUL_CHARGE,
	EMUL_CALL_RCU,
	EMUL_SYNC_RCU,
	EMUL_MOD_WORK,
	EMUL_WORK,
	EMUL_WORK_DONE,
	EMUL_SCHEDULE,
};

/* HEAD_ROOM of memalloc.c, by what bpf_mem_alloc_init() says */
#define EMUL_HEAD_ROOM		8

/* One for each object and each allocation of the emulated slab, in front */
struct emul_obj {
	_Alignas(8) struct kmem_cache *kc;	/* as is what follows it */
	u64 freed;		/* when its user freed it, in emul_seq */
	u32 size;
	u32 mark;		/* of the last inspection */
	u32 live;		/* the user has it */
	bool trace;		/* freed when a Tasks Trace reader could see it */
	bool held;		/* freed for after the grace period */
	u64 magic;
};

struct obj_cgroup {
	long limit;
	long usage;
	long reclaimable;	/* of @usage, by whoever may sleep */
	int refs;
};

struct emul {
	void (*hook)(enum emul_point point);
	void (*relax)(void);	/* while a CPU waits for another */
	bool threads;		/* grace periods wait for real readers */
	bool irq_work_manual;
	u64 lost_ns;		/* that jiffies do not count */
	bool trace_not_rcu;	/* rcu_trace_implies_rcu_gp() is false */
	bool expect_trace;	/* sleepable programs see what is freed now */
	bool no_nowait;		/* only who may sleep gets memory */
	bool no_percpu_nowait;
	bool killed;		/* the current task */
	struct obj_cgroup *memcg;	/* of the current task */
	long fail_at;		/* this backend call fails, from 1; 0: none */
	bool fail_on;		/* and all after it */
	long calls;		/* of the backend, that could fail */
	long gps[EMUL_NR_GP];	/* grace periods asked for */
	long slab_allocs;
	long objects;		/* of slab, live */
	long areas;		/* per-CPU, live */
	long caches;		/* struct kmem_cache */
	long caches_made;
};

extern struct emul emul;

void emul_init(int cpus);
void emul_exit(void);
__attribute__((format(printf, 1, 2), noreturn))
void emul_fail(const char *fmt, ...);
extern void (*emul_fail_fn)(void);	/* does not return, or is NULL */

void emul_set_cpu(int cpu);
void emul_on_cpu(int cpu, void (*fn)(void *arg), void *arg);
void emul_nmi_enter(void);
void emul_nmi_exit(void);
void emul_hardirq_enter(void);
void emul_hardirq_exit(void);
void emul_softirq_enter(void);
void emul_softirq_exit(void);

bool emul_irq_work_run(void);
u32 emul_gp_run(enum emul_gp kind);
u32 emul_gp_pending(enum emul_gp kind);
u32 emul_work_run(void);
bool emul_work_pending(void);
void emul_tick(unsigned long ticks);
void emul_settle(void);
void emul_advance(unsigned long ticks);
void emul_cpu_dead(unsigned int cpu);

struct emul_obj *emul_obj_of(void *ptr);
void emul_note_alloc(void *ptr);
void emul_note_free(void *ptr);
void emul_note_free_rcu(void *ptr);
void emul_check_held(void *ptr);

/* set when a CPU waits for another in a loop */
extern u32 emul_relaxing[NR_CPUS];

/* from memalloc_user.c, and where the linker puts its per-CPU variables */
extern int (*emul_initcall)(void);
extern char __start_emul_percpu[], __stop_emul_percpu[];

#endif /* _BPF_MEM_ALLOC_TEST_EMUL_H */
