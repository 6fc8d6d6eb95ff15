/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __PROGS_MEMCG_H
#define __PROGS_MEMCG_H

enum {
	CTX_TASK,
	CTX_KPROBE,
	CTX_SOFTIRQ,
	CTX_NMI,
	NR_CTX,
};

#define MAX_CPUS	8
#define HASH_VALUE	1000
#define PERCPU_VALUE	504
#define TRIE_VALUE	1000
#define STORAGE_VALUE	1000

struct ctx_stats {
	__u64 runs, ok, nomem, percpu_nomem, other;
};

#endif
