// SPDX-License-Identifier: GPL-2.0-only
/* Programs in all contexts, each with keys of its own, that it adds, replaces,
 * deletes and looks up at random in maps that all of them share.
 */
#include "vmlinux.h"
#include <stdbool.h>
#include <asm-generic/errno-base.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "progs/htab_val.h"
#include "soak.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_ENTRIES);
	__type(key, __u64);
	__type(value, struct htab_val);
} hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_ENTRIES);
	__type(key, __u64);
	__type(value, struct htab_val);
} percpu SEC(".maps");

struct inner {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_ENTRIES);
	__type(key, __u64);
	__type(value, struct htab_val);
} inner SEC(".maps");

/* 0: inner, 1: maps that come and go */
struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
	__array(values, struct inner);
} outer SEC(".maps") = {
	.values = { [0] = &inner },
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, LRU_ENTRIES);
	__type(key, __u64);
	__type(value, struct htab_val);
} lru SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ENTRIES);
	__type(key, __u64);
	__type(value, struct htab_val);
} prealloc SEC(".maps");

/* set by user space: the process, or 0; threads and the child that trigger */
int pid;
int nap_tid;
int exec_pid;
__u32 interval;

struct burst burst;
struct slot slots[NR_CONTEXTS][MAX_CPUS];

__u32 inside[MAX_CPUS];
__u32 turn[MAX_CPUS];

static __always_inline int update(struct slot *s, void *map, __u32 m, __u64 key,
				  __u64 flags)
{
	struct htab_val val;
	__u64 start;
	int err;	/* as maps return it: the upper half is not set */

	fill(&val, key, ++s->gen);
	s->updates++;
	start = bpf_ktime_get_ns();
	err = bpf_map_update_elem(map, &key, &val, flags);
	count_time(s, bpf_ktime_get_ns() - start, interval);
	count_error(s, m, err);
	return err;
}

static __always_inline void look(struct slot *s, void *map, __u32 m, __u64 key,
				 __u32 gen)
{
	struct htab_val *val = bpf_map_lookup_elem(map, &key);

	s->lookups++;
	if (!val)
		s->wrong += m != LRU;
	else if (val->v[0] != HTAB_WORD(key, gen, 0) ||
		 val->v[3] != HTAB_WORD(key, gen, 3))
		s->wrong++;
}

/* One step. A sleepable program may read another CPU's value than it wrote. */
static __always_inline void operate(struct slot *s, void *map, __u32 m,
				    __u64 base, __u64 random, bool sleepable)
{
	__u32 k = random & (NR_KEYS - 1), gen = s->holds[m][k];
	__u64 key = base | k;
	int err;

	if (!gen) {
		if (!update(s, map, m, key, BPF_NOEXIST))
			s->holds[m][k] = s->gen;
	} else if (random & (1 << 8)) {
		err = bpf_map_delete_elem(map, &key);
		s->deletes++;
		if (!err || (err == -ENOENT && m == LRU))
			s->holds[m][k] = 0;
		else if (err == -ENOENT)
			s->wrong++;
		else
			count_error(s, m, err);
	} else if (random & (1 << 9)) {
		if (!update(s, map, m, key, m == LRU ? BPF_ANY : BPF_EXIST))
			s->holds[m][k] = s->gen;
	} else if (m != PERCPU || !sleepable) {
		look(s, map, m, key, gen);
	}
}

/* Not static and not inline: the verifier looks at it once, not at each call. */
__noinline int step(__u32 ctx, __u32 cpu, bool sleepable)
{
	struct slot *s;
	__u64 base, random;
	__u32 which;
	void *map;

	if (ctx >= NR_CONTEXTS || cpu >= MAX_CPUS)
		return 0;
	s = &slots[ctx][cpu];
	base = SLOT_KEY(ctx, cpu);
	random = next_random(s);
	if (!(random >> 40 & 15))
		update(s, &hash, HASH, HOT_KEY, BPF_ANY);
	switch (random >> 32 & 7) {
	case 0:
	case 1:
		operate(s, &hash, HASH, base, random, sleepable);
		break;
	case 2:
	case 3:
		operate(s, &percpu, PERCPU, base, random, sleepable);
		break;
	case 4:
	case 5:
		which = 0;
		map = bpf_map_lookup_elem(&outer, &which);
		if (map)
			operate(s, map, INNER, base, random, sleepable);
		else
			s->wrong++;
		if (random >> 50 & 3)
			break;
		which = 1;
		map = bpf_map_lookup_elem(&outer, &which);
		if (map)
			update(s, map, INNER, base, BPF_ANY);
		break;
	case 6:
		operate(s, &lru, LRU, base, random, sleepable);
		break;
	default:
		operate(s, &prealloc, PREALLOC, base, random, sleepable);
	}
	return 0;
}

static __always_inline void steps(__u32 ctx, __u32 cpu, int nr, bool sleepable)
{
	int i;

#pragma unroll
	for (i = 0; i < nr; i++)
		step(ctx, cpu, sleepable);
}

/* Many new keys in one run, as user space wants it */
static __always_inline void do_burst(void *map)
{
	struct htab_val val;
	__u64 i, key;
	int err;

	for (i = 0; i < NR_BURST; i++) {
		key = BURST_KEY + i;
		fill(&val, key, 1);
		err = bpf_map_update_elem(map, &key, &val, BPF_NOEXIST);
		if (!err)
			burst.ok++;
		else if (err == -ENOMEM)
			burst.nomem++;
		else
			burst.other++;
	}
}

static __always_inline bool is_ours(void)
{
	return pid && bpf_get_current_pid_tgid() >> 32 == pid;
}

SEC("kprobe/__x64_sys_getpgid")
int in_kprobe(void *ctx)
{
	if (pid && (__u32)bpf_get_current_pid_tgid() == nap_tid)
		steps(KPROBE, bpf_get_smp_processor_id(), 4, false);
	return 0;
}

SEC("raw_tp/sched_switch")
int in_raw_tp(void *ctx)
{
	__u32 cpu = bpf_get_smp_processor_id();

	if (is_ours())
		steps(RAW_TP, cpu, 2, false);
	if (pid && cpu == 0 && burst.state == BURST_WANTED) {
		if (burst.map == HASH)
			do_burst(&hash);
		else
			do_burst(&percpu);
		burst.state = BURST_IDLE;
	}
	return 0;
}

SEC("perf_event")
int in_perf_event(void *ctx)
{
	if (pid)
		steps(PERF_EVENT, bpf_get_smp_processor_id(), 4, false);
	return 0;
}

SEC("raw_tp/nmi_handler")
int in_nmi(void *ctx)
{
	if (pid)
		steps(NMI, bpf_get_smp_processor_id(), 8, false);
	return 0;
}

/* User space chooses the function. Nothing but the flag ends the recursion. */
SEC("fentry/htab_map_update_elem")
int BPF_PROG(in_fentry)
{
	__u32 cpu = bpf_get_smp_processor_id() & (MAX_CPUS - 1);

	if (!is_ours() || inside[cpu] || ++turn[cpu] & 3)
		return 0;
	inside[cpu] = 1;
	steps(FENTRY, cpu, 1, false);
	inside[cpu] = 0;
	return 0;
}

SEC("socket")
int in_socket(void *ctx)
{
	if (pid)
		steps(SOCKET, bpf_get_smp_processor_id(), 4, false);
	return 0;
}

SEC("fentry.s/__x64_sys_nanosleep")
int BPF_PROG(in_fentry_s)
{
	if (pid && (__u32)bpf_get_current_pid_tgid() == nap_tid)
		steps(FENTRY_S, 0, 4, true);
	return 0;
}

SEC("lsm.s/bprm_committed_creds")
int BPF_PROG(in_lsm_s, struct linux_binprm *bprm)
{
	if (pid && bpf_get_current_pid_tgid() >> 32 == exec_pid)
		steps(LSM_S, 0, 16, true);
	return 0;
}

char _license[] SEC("license") = "GPL";
