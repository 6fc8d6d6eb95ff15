// SPDX-License-Identifier: GPL-2.0
#include "vmlinux.h"
#include <errno.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "test_task.h"

/* As in prog_tests/lpm_trie.c */
#define MAX_CPUS	8	/* power of two */
#define MAX_STEPS	128	/* of one CPU */
#define MAX_BURST	512
#define NR_RUN		256	/* operations of one run */

enum { OK, BUSY, NOMEM, OTHER, NR_RESULTS };

/* In a value: the prefix that it belongs to, and which write it was */
#define VALUE(addr, len, gen)	((__u64)(addr) << 32 | (len) << 16 | (gen))
#define VALUE_ADDR(val)		((__u32)((val) >> 32))
#define VALUE_LEN(val)		((__u32)(val) >> 16)

/* The first @len bits of an address */
#define NET(addr, len)		((addr) & (__u32)~(0xffffffffULL >> (len)))

struct prefix {
	__u32 len;
	__u32 addr;	/* big endian */
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct prefix);
	__type(value, __u64);
} trie SEC(".maps");

/* set by user space */
__u32 first_addr;
__u32 burst;
__u32 act_on;
__u64 hold_ptr;	/* as long for 32-bit user space */

/* results */
__u32 steps[MAX_CPUS];
__u64 run[NR_RESULTS];
__u64 nest[NR_RESULTS];
__s64 other;		/* the last error that has no count of its own */
__u64 wrong;		/* lookups that did not find what they should */
__u64 wrong_addr;	/* the last of them, and what it found */
__u64 wrong_value;
__u64 looks;
__u64 hits;
__u64 spent;		/* steps with interrupts off that met -ENOMEM */
__u32 done;
__u32 held;
__u64 value_before;
__u64 value_after;

__u32 nr_hits;
__u32 turn[MAX_CPUS];
__u32 own_gen[MAX_CPUS];	/* what a CPU's own prefix holds, 0: it is not there */

/* Maps return an int: the upper half of what the helper returns is not set. */
static __always_inline int set(__u32 addr, __u32 len, __u32 gen, __u64 flags)
{
	struct prefix key = { len, bpf_htonl(addr) };
	__u64 val = VALUE(addr, len, gen);

	return bpf_map_update_elem(&trie, &key, &val, flags);
}

static __always_inline int del(__u32 addr, __u32 len)
{
	struct prefix key = { len, bpf_htonl(addr) };

	return bpf_map_delete_elem(&trie, &key);
}

/* What the longest prefix of an address holds, 0: it has none */
static __always_inline __u64 find(__u32 addr)
{
	struct prefix key = { 32, bpf_htonl(addr) };
	__u64 *val = bpf_map_lookup_elem(&trie, &key);

	return val ? *val : 0;
}

static __always_inline void went_wrong(__u32 addr, __u64 val)
{
	wrong_addr = addr;
	wrong_value = val;
	__sync_fetch_and_add(&wrong, 1);
}

static __always_inline void look(__u32 addr, __u64 want)
{
	__u64 val = find(addr);

	if (val != want)
		went_wrong(addr, val);
}

static __always_inline int count(__u64 *results, int err)
{
	if (!err) {
		__sync_fetch_and_add(&results[OK], 1);
	} else if (err == -EBUSY) {
		__sync_fetch_and_add(&results[BUSY], 1);
	} else if (err == -ENOMEM) {
		__sync_fetch_and_add(&results[NOMEM], 1);
	} else {
		__sync_fetch_and_add(&results[OTHER], 1);
		other = err;
	}
	return err;
}

/* Add two prefixes, the longer one within the other. Replace the shorter one,
 * delete every other longer one. Look each time. With interrupts off the program
 * may find the reserve spent: then try again next time.
 */
static __always_inline void step(__u32 cpu, bool irqoff)
{
	__u32 nr, net;
	int err;

	if (cpu >= MAX_CPUS)
		return;
	nr = steps[cpu];
	if (nr >= MAX_STEPS)
		return;
	net = (cpu + 1) << 24 | nr << 8;

	look(net | 0x41, VALUE(0, 0, 1));
	err = set(net, 24, 1, BPF_NOEXIST);
	if (irqoff && err == -ENOMEM)
		goto spent;
	count(run, err);
	look(net | 0x41, VALUE(net, 24, 1));
	err = set(net | 0x40, 26, 1, BPF_NOEXIST);
	if (irqoff && err == -ENOMEM)
		goto spent_delete;
	count(run, err);
	look(net | 0x41, VALUE(net | 0x40, 26, 1));
	look(net | 0x81, VALUE(net, 24, 1));
	err = set(net, 24, 2, BPF_EXIST);
	if (irqoff && err == -ENOMEM) {
		del(net | 0x40, 26);
		goto spent_delete;
	}
	count(run, err);
	look(net | 0x81, VALUE(net, 24, 2));
	look(net | 0x41, VALUE(net | 0x40, 26, 1));
	if (nr & 1) {
		count(run, del(net | 0x40, 26));
		look(net | 0x41, VALUE(net, 24, 2));
	}
	steps[cpu]++;
	return;
spent_delete:
	del(net, 24);
spent:
	__sync_fetch_and_add(&spent, 1);
}

SEC("kprobe/sys_nanosleep")
int step_kprobe(void *ctx)
{
	if (test_task())
		step(bpf_get_smp_processor_id(), false);
	return 0;
}

SEC("raw_tp/sys_enter")
int step_raw_tp(void *ctx)
{
	if (test_task())
		step(bpf_get_smp_processor_id(), false);
	return 0;
}

/* __schedule() calls this one with interrupts off and the runqueue locked */
SEC("raw_tp/sched_switch")
int step_irqoff(void *ctx)
{
	if (test_task())
		step(bpf_get_smp_processor_id(), true);
	return 0;
}

SEC("raw_tp/nmi_handler")
int step_nmi(void *ctx)
{
	if (pid)
		step(bpf_get_smp_processor_id(), true);
	return 0;
}

SEC("perf_event")
int step_perf_event(void *ctx)
{
	if (pid)
		step(bpf_get_smp_processor_id(), true);
	return 0;
}

SEC("fentry/__x64_sys_nanosleep")
int step_fentry(void *ctx)
{
	if (test_task())
		step(bpf_get_smp_processor_id(), false);
	return 0;
}

/* may change CPU: user space runs it in one task */
SEC("fentry.s/__x64_sys_nanosleep")
int step_fentry_s(void *ctx)
{
	if (test_task())
		step(0, false);
	return 0;
}

SEC("classifier")
int step_tc(void *ctx)
{
	if (pid)
		step(bpf_get_smp_processor_id(), false);
	return 0;
}

SEC("xdp")
int step_xdp(void *ctx)
{
	if (pid)
		step(bpf_get_smp_processor_id(), false);
	return XDP_PASS;
}

/* New addresses in a row, with interrupts off: each takes two nodes */
SEC("raw_tp/sched_switch")
int burst_irqoff(void *ctx)
{
	__u32 i, n = burst;

	if (!test_task() || !n)
		return 0;
	burst = 0;
	for (i = 0; i < MAX_BURST && i < n; i++)
		count(run, set(first_addr + i, 32, 1, BPF_NOEXIST));
	done++;
	return 0;
}

/* All ways to change a trie, around a hot prefix; nothing of it is refused */
SEC("raw_tp/lpm_trie_run")
int BPF_PROG(run_hot, __u32 net)
{
	count(run, set(net, 24, 1, BPF_ANY));
	count(run, set(net, 24, 2, BPF_EXIST));
	/* an intermediate node between two, which turns into a real one and back */
	count(run, set(net | 0x10, 32, 1, BPF_ANY));
	count(run, set(net | 0x20, 32, 1, BPF_ANY));
	count(run, set(net, 26, 1, BPF_ANY));
	count(run, del(net, 26));
	/* it goes with one of them, and there is a new one */
	count(run, del(net | 0x10, 32));
	count(run, set(net | 0x10, 32, 1, BPF_ANY));
	count(run, del(net | 0x20, 32));
	/* above another one, and away from there */
	count(run, set(net, 26, 1, BPF_ANY));
	count(run, del(net, 26));
	count(run, del(net | 0x10, 32));
	return 0;
}

/* Write the prefix that may just be being written below, and one that nobody
 * else writes. Only what nests in an operation on the trie is refused.
 */
static __always_inline void nested(__u32 cpu)
{
	__u32 net = (cpu + 1) << 24, gen = turn[cpu] & 0x7fff;

	__sync_fetch_and_add(&hits, 1);
	turn[cpu]++;
	count(nest, set(first_addr, 24, 2, BPF_ANY));
	if (!count(nest, set(net, 24, gen + 1, BPF_ANY)))
		own_gen[cpu] = gen + 1;
	if (own_gen[cpu]) {
		look(net | 1, VALUE(net, 24, own_gen[cpu]));
		if (gen & 1 && !count(nest, del(net, 24)))
			own_gen[cpu] = 0;
	}
}

SEC("raw_tp/nmi_handler")
int nested_nmi(void *ctx)
{
	__u32 cpu = bpf_get_smp_processor_id();

	if (pid && cpu < MAX_CPUS)
		nested(cpu);
	return 0;
}

/* user space chooses the instruction; int3 makes this an NMI */
SEC("kprobe/trie_update_elem")
int nested_kprobe(void *ctx)
{
	__u32 cpu = bpf_get_smp_processor_id();

	if (test_task() && cpu < MAX_CPUS)
		nested(cpu);
	return 0;
}

/* A lookup with three prefixes on its way, of which the second is deleted at one of
 * the instructions that user space chooses, and used elsewhere if it can be
 */
SEC("classifier")
int run_find(void *ctx)
{
	__u32 net = first_addr;

	nr_hits = 0;
	look(net | 1, VALUE(net, 24, 1));
	/* as it was */
	if (nr_hits >= act_on) {
		count(run, del(net | 1 << 24, 16));
		count(run, set(net, 16, 1, BPF_NOEXIST));
	}
	/* not for these lookups */
	nr_hits = act_on;
	look(net | 1 << 24 | 1, 0);
	look(net | 0x100, VALUE(net, 16, 1));
	return 0;
}

SEC("kprobe/trie_lookup_elem")
int reuse_kprobe(void *ctx)
{
	__u32 net = first_addr;

	if (!test_task() || ++nr_hits != act_on)
		return 0;
	__sync_fetch_and_add(&hits, 1);
	count(run, del(net, 16));
	count(run, set(net | 1 << 24, 16, 1, BPF_NOEXIST));
	return 0;
}

/* Readers: all that they look up is in the permanent prefixes 10.N.0.0/16 with N
 * below 16, half of it in 10.N.0.0/24. Others come and go around them.
 */
static __always_inline __u32 hash(__u32 n)
{
	n = (n ^ n >> 16) * 0x45d9f3b;
	n = (n ^ n >> 16) * 0x45d9f3b;
	return n ^ n >> 16;
}

static __always_inline __u32 some_addr(__u32 rnd)
{
	return 10 << 24 | (rnd >> 4 & 0xf) << 16 | (rnd & 1) << 8 |
	       (rnd >> 12 & 0xf) * 0x11;
}

static __always_inline bool is_right(__u32 addr, __u64 val)
{
	__u32 len = VALUE_LEN(val), least = addr & 0x100 ? 16 : 24;

	return len >= least && len <= 32 && VALUE_ADDR(val) == NET(addr, len);
}

SEC("classifier")
int read_trie(void *ctx)
{
	__u32 i, addr;
	__u64 val;

	for (i = 0; i < NR_RUN; i++) {
		addr = some_addr(bpf_get_prandom_u32());
		val = find(addr);
		if (!is_right(addr, val))
			went_wrong(addr, val);
	}
	__sync_fetch_and_add(&looks, NR_RUN);
	return 0;
}

static __always_inline __u32 some_len(__u32 rnd)
{
	__u32 len = 9 + (rnd >> 24) % 22;

	/* all but 16 and 24 */
	return len + (len >= 16) + (len >= 23);
}

/* One more prefix, and without one of those before; on each CPU others */
SEC("perf_event")
int write_trie(void *ctx)
{
	__u32 cpu = bpf_get_smp_processor_id(), nr, rnd, len;
	int err;

	if (!pid || cpu >= MAX_CPUS)
		return 0;
	nr = turn[cpu]++;
	rnd = hash(nr << 4 | cpu);
	len = some_len(rnd);
	count(run, set(NET(some_addr(rnd), len), len, 2, BPF_ANY));
	rnd = hash((nr - 16) << 4 | cpu);
	len = some_len(rnd);
	err = del(NET(some_addr(rnd), len), len);
	/* another CPU may have deleted it */
	if (err != -ENOENT)
		count(run, err);
	return 0;
}

/* Stays in a page fault for as long as user space wants */
SEC("fentry.s/__x64_sys_getpgid")
int BPF_PROG(hold)
{
	struct prefix key = { 32, bpf_htonl(first_addr) };
	__u64 buf, *val;

	if (!test_task() || !hold_ptr)
		return 0;
	val = bpf_map_lookup_elem(&trie, &key);
	if (!val)
		return 0;
	value_before = *val;
	held = 1;
	bpf_copy_from_user(&buf, sizeof(buf), (void *)hold_ptr);
	value_after = *val;
	held = 2;
	return 0;
}

/* Replace one prefix again and again */
SEC("raw_tp/lpm_trie_run")
int BPF_PROG(run_replace)
{
	int i;

	for (i = 0; i < NR_RUN; i++)
		count(run, set(first_addr, 24, 1, BPF_EXIST));
	return 0;
}

char _license[] SEC("license") = "GPL";
