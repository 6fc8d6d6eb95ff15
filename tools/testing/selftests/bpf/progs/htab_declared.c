// SPDX-License-Identifier: GPL-2.0
/* Programs that cannot allocate, and rely on what their map has been told */
#include <linux/bpf.h>
#include <errno.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include "htab_declared.h"
#include "test_task.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(map_extra, DECLARED);
	__uint(max_entries, 1 << 16);
	__type(key, __u64);
	__type(value, struct declared_val);
} hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(map_extra, DECLARED);
	__uint(max_entries, 1 << 16);
	__type(key, __u64);
	__type(value, struct declared_val);
} percpu SEC(".maps");

/* set by user space */
__u32 rounds;	/* to go */
__u32 cpu;	/* that they run on */
bool use_percpu;

/* results */
__u64 done;
__u32 nr_ok;
__u32 nr_nomem;
__u32 nr_busy;
__u32 nr_other;
__u32 load_ok;
__u32 load_nomem;

static __always_inline void count(int err)
{
	if (!err)
		nr_ok++;
	else if (err == -ENOMEM)
		nr_nomem++;
	else if (err == -EBUSY)
		nr_busy++;
	else
		nr_other++;
}

static __always_inline void add(void *map)
{
	struct declared_val val = {};
	__u64 key;
	int i;

	for (i = 0; i < DECLARED; i++) {
		key = i;
		count(bpf_map_update_elem(map, &key, &val, BPF_NOEXIST));
	}
}

static __always_inline void delete(void *map)
{
	__u64 key;
	int i;

	for (i = 0; i < DECLARED; i++) {
		key = i;
		count(bpf_map_delete_elem(map, &key));
	}
}

static __always_inline void add_delete_add(void *map)
{
	add(map);
	delete(map);
	add(map);
	delete(map);
}

static __always_inline int one_round(void)
{
	if (!rounds)
		return 0;
	rounds--;
	if (use_percpu)
		add_delete_add(&percpu);
	else
		add_delete_add(&hash);
	done++;
	return 0;
}

/* interrupts are off here, and a runqueue is locked */
SEC("raw_tp/sched_switch")
int irqoff(void *ctx)
{
	return test_task() && bpf_get_smp_processor_id() == cpu ? one_round() : 0;
}

SEC("raw_tp/nmi_handler")
int nmi(void *ctx)
{
	return bpf_get_smp_processor_id() == cpu ? one_round() : 0;
}

/* Takes all the memory it gets, and gives half of it back at times */
static __always_inline void take_memory(void *map)
{
	struct declared_val val = {};
	__u64 key, first;
	int i, err;

	first = LOAD_KEYS + (bpf_get_prandom_u32() & (LOAD_KEYS - 1));
	for (i = 0; i < 64; i++) {
		key = first + i;
		err = bpf_map_update_elem(map, &key, &val, 0);
		if (!err)
			load_ok++;
		else if (err == -ENOMEM)
			load_nomem++;
	}
	first = LOAD_KEYS + (bpf_get_prandom_u32() & (LOAD_KEYS - 1));
	for (i = 0; i < 64; i++) {
		key = first + i;
		bpf_map_delete_elem(map, &key);
	}
}

SEC("classifier/load")
int load(struct __sk_buff *skb)
{
	if (use_percpu)
		take_memory(&percpu);
	else
		take_memory(&hash);
	return 0;
}

char _license[] SEC("license") = "GPL";
