// SPDX-License-Identifier: GPL-2.0-only
#include "vmlinux.h"
#include <asm-generic/errno-base.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "demo.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct value);
} map SEC(".maps");

struct inner {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct value);
} inner SEC(".maps");

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
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, __u64);
} speed_dynamic SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, __u64);
} speed_prealloc SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u64);
} speed_percpu_dynamic SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u64);
} speed_percpu_prealloc SEC(".maps");

/* set by user space: whose doings count, how many new keys in all and a run */
int pid;
__u64 wanted;
__u64 burst;

/* results */
__u64 done;
__u64 runs;
struct tally updates;
__u64 own_gen[MAX_CPUS][OWN_KEYS];

__u32 inside[MAX_CPUS];
__u64 turn[MAX_CPUS];

static __always_inline void fill(struct value *val, __u64 key, __u64 gen)
{
	val->v[0] = WORD(key, gen, 0);
	val->v[1] = WORD(key, gen, 1);
	val->v[2] = WORD(key, gen, 2);
	val->v[3] = WORD(key, gen, 3);
}

static __always_inline int update(void *m, __u64 key, __u64 gen, __u64 flags)
{
	struct value val;
	int err;	/* as maps return it: the upper half is not set */

	fill(&val, key, gen);
	err = bpf_map_update_elem(m, &key, &val, flags);
	__sync_fetch_and_add(&updates.tried, 1);
	if (!err)
		__sync_fetch_and_add(&updates.ok, 1);
	else if (err == -EBUSY)
		__sync_fetch_and_add(&updates.busy, 1);
	else if (err == -ENOMEM)
		__sync_fetch_and_add(&updates.nomem, 1);
	else
		__sync_fetch_and_add(&updates.other, 1);
	return err;
}

/* Put in new keys, look each one up, delete every second. */
static __always_inline int add_keys(void *m)
{
	struct value *val;
	__u64 i, key;

	if (!m || bpf_get_current_pid_tgid() >> 32 != pid)
		return 0;
	for (i = 0; i < MAX_BURST && i < burst && done < wanted; i++) {
		key = done++;
		update(m, key, 1, BPF_NOEXIST);
		val = bpf_map_lookup_elem(m, &key);
		if (!val || val->v[3] != WORD(key, 1, 3))
			__sync_fetch_and_add(&updates.other, 1);
		if (key & 1)
			bpf_map_delete_elem(m, &key);
	}
	return 0;
}

/* Replace, in the middle of somebody's update, the key updated there (which
 * may be refused) and one of the CPU's own.
 */
static __always_inline void interrupt_update(void)
{
	__u32 cpu = bpf_get_smp_processor_id() & (MAX_CPUS - 1);
	__u64 nr = ++turn[cpu], slot = nr & (OWN_KEYS - 1);

	__sync_fetch_and_add(&runs, 1);
	update(&map, HOT_KEY, 2, BPF_ANY);
	if (!update(&map, OWN_KEY + cpu * OWN_KEYS + slot, nr, BPF_ANY))
		own_gen[cpu][slot] = nr;
}

SEC("kprobe/sys_nanosleep")
int in_kprobe(void *ctx)
{
	return add_keys(&map);
}

SEC("raw_tp/sched_switch")
int in_raw_tp(void *ctx)
{
	return add_keys(&map);
}

SEC("perf_event")
int in_perf_event(void *ctx)
{
	return add_keys(&map);
}

SEC("fentry.s/__x64_sys_nanosleep")
int BPF_PROG(in_fentry_s)
{
	return add_keys(&map);
}

SEC("lsm.s/bprm_committed_creds")
int BPF_PROG(in_lsm_s, struct linux_binprm *bprm)
{
	return add_keys(&map);
}

SEC("raw_tp/sched_switch")
int in_inner(void *ctx)
{
	__u32 zero = 0;

	return add_keys(bpf_map_lookup_elem(&outer, &zero));
}

/* user space chooses the function; nothing but the flag ends the recursion */
SEC("fentry/htab_map_update_elem")
int BPF_PROG(in_fentry)
{
	__u32 cpu = bpf_get_smp_processor_id() & (MAX_CPUS - 1);

	if (bpf_get_current_pid_tgid() >> 32 != pid || inside[cpu])
		return 0;
	inside[cpu] = 1;
	interrupt_update();
	inside[cpu] = 0;
	return 0;
}

SEC("raw_tp/nmi_handler")
int in_nmi(void *ctx)
{
	if (pid)
		interrupt_update();
	return 0;
}

static __always_inline int speed(void *m)
{
	__u64 i, key, val = 1;

	for (i = 0; i < SPEED_KEYS; i++) {
		key = i;
		if (bpf_map_update_elem(m, &key, &val, BPF_ANY))
			return 1;
		if (!bpf_map_lookup_elem(m, &key))
			return 2;
		if (bpf_map_delete_elem(m, &key))
			return 3;
	}
	return 0;
}

SEC("classifier/dynamic")
int run_dynamic(struct __sk_buff *skb)
{
	return speed(&speed_dynamic);
}

SEC("classifier/prealloc")
int run_prealloc(struct __sk_buff *skb)
{
	return speed(&speed_prealloc);
}

SEC("classifier/percpu_dynamic")
int run_percpu_dynamic(struct __sk_buff *skb)
{
	return speed(&speed_percpu_dynamic);
}

SEC("classifier/percpu_prealloc")
int run_percpu_prealloc(struct __sk_buff *skb)
{
	return speed(&speed_percpu_prealloc);
}

char _license[] SEC("license") = "GPL";
