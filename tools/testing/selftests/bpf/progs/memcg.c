// SPDX-License-Identifier: GPL-2.0
#include "vmlinux.h"
#include <errno.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include "memcg.h"
#include "test_task.h"

struct hash_value {
	char data[HASH_VALUE];
};

struct percpu_value {
	char data[PERCPU_VALUE];
};

struct trie_key {
	__u32 prefixlen;
	__u32 data;
};

struct trie_value {
	char data[TRIE_VALUE];
};

struct storage_value {
	char data[STORAGE_VALUE];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 16);
	__type(key, __u32);
	__type(value, struct hash_value);
} hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 16);
	__type(key, __u32);
	__type(value, struct percpu_value);
} percpu_hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 16);
	__type(key, struct trie_key);
	__type(value, struct trie_value);
} trie SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct storage_value);
} sk_storage SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_INODE_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct storage_value);
} inode_storage SEC(".maps");

/* set by user space */
__u32 max_runs;		/* in each context */

struct ctx_stats stats[NR_CTX];
__s64 pages;

static __u32 steps[NR_CTX][MAX_CPUS];

static char value[1024];

static __always_inline void count(struct ctx_stats *s, int err, __u64 *nomem)
{
	if (!err)
		__sync_fetch_and_add(&s->ok, 1);
	else if (err == -ENOMEM)
		__sync_fetch_and_add(nomem, 1);
	else
		__sync_fetch_and_add(&s->other, 1);
}

/* One new key in each map */
static __always_inline void add(int ctx, bool with_trie)
{
	__u32 cpu = bpf_get_smp_processor_id(), key;
	struct ctx_stats *s = &stats[ctx];
	struct trie_key prefix = { 32 };

	if (s->runs >= max_runs || cpu >= MAX_CPUS)
		return;
	__sync_fetch_and_add(&s->runs, 1);
	key = ctx << 24 | cpu << 16 | steps[ctx][cpu]++;
	count(s, bpf_map_update_elem(&hash, &key, value, BPF_ANY), &s->nomem);
	count(s, bpf_map_update_elem(&percpu_hash, &key, value, BPF_ANY),
	      &s->percpu_nomem);
	if (with_trie) {
		prefix.data = key;
		count(s, bpf_map_update_elem(&trie, &prefix, value, BPF_ANY),
		      &s->nomem);
	}
}

SEC("raw_tp/sys_enter")
int task(void *ctx)
{
	if (test_task())
		add(CTX_TASK, false);
	return 0;
}

SEC("kprobe/sys_nanosleep")
int kprobe(void *ctx)
{
	if (test_task())
		add(CTX_KPROBE, false);
	return 0;
}

/* A packet on the loopback device arrives in a softirq. */
SEC("socket")
int softirq(void *ctx)
{
	add(CTX_SOFTIRQ, true);
	return 0;
}

SEC("raw_tp/nmi_handler")
int nmi(void *ctx)
{
	add(CTX_NMI, false);
	return 0;
}

/* Pages that the memory cgroup of the task is charged. The root does not tell. */
SEC("raw_tp/sys_enter")
int usage(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct css_set *set = BPF_CORE_READ(task, cgroups);
	struct mem_cgroup *memcg;
	void **subsys;

	if (!test_task())
		return 0;
	/* it depends on what else there is, without SMP no cpuset */
	subsys = (void **)__builtin_preserve_access_index(&set->subsys) +
		 bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);
	/* begins with its css */
	bpf_probe_read_kernel(&memcg, sizeof(memcg), subsys);
	pages = BPF_CORE_READ(memcg, memory.usage.counter);
	return 0;
}

char _license[] SEC("license") = "GPL";
