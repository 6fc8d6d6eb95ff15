/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _BPF_MEM_ALLOC_TEST_INSPECT_H
#define _BPF_MEM_ALLOC_TEST_INSPECT_H

#include <linux/bpf_mem_alloc.h>
#include "emul.h"

/* How many objects lie where */
struct inspect {
	long all;
	long cpu;
	long nested;
	long stock;
	long waiting;
	long in_gp;
	long held;
	long held_gp;
	long reserve;
	long declared;
	long pool;
	long charge;	/* what the memory cgroup should have been charged */
	long object;	/* bytes of one object */
};

void inspect(struct bpf_mem_alloc *ma, long live, struct inspect *in);
u32 inspect_cached(struct bpf_mem_alloc *ma, int cpu);
bool inspect_depot_locked(struct bpf_mem_alloc *ma);
void inspect_lock_depot(struct bpf_mem_alloc *ma, bool locked);
void inspect_ask(struct bpf_mem_alloc *ma, int cpu);
void inspect_reset(void);
bool inspect_in_code(unsigned long ip);
void inspect_make_writable(void);

#endif /* _BPF_MEM_ALLOC_TEST_INSPECT_H */
