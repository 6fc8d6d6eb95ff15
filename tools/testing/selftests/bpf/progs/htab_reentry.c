// SPDX-License-Identifier: GPL-2.0
#include "vmlinux.h"
#include <errno.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "htab_reentry.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_ZERO_SEED);
	__uint(max_entries, NR_BUCKETS);
	__type(key, __u64);
	__type(value, struct re_val);
} hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_ZERO_SEED);
	__uint(max_entries, NR_BUCKETS);
	__type(key, __u64);
	__type(value, struct re_val);
} percpu_hash SEC(".maps");

/* set by user space */
bool active;
struct re_slot slots[MAX_CPUS][SLOTS_PER_CPU];

/* results */
__u64 hits[MAX_FUNCS];
__u64 wrong;	/* lookups that did not find what they should */
struct re_count hot;
struct re_count own;
struct re_count run;

__u32 depth[MAX_CPUS];
__u64 turn[MAX_CPUS];

static __always_inline void fill(struct re_val *val, __u64 key, __u64 gen)
{
	val->v[0] = RE_WORD(key, gen, 0);
	val->v[1] = RE_WORD(key, gen, 1);
	val->v[2] = RE_WORD(key, gen, 2);
	val->v[3] = RE_WORD(key, gen, 3);
}

/* Maps return an int: the upper half of what the helper returns is not set. */
static __always_inline int count(struct re_count *c, int err)
{
	__sync_fetch_and_add(&c->tries, 1);
	if (!err)
		__sync_fetch_and_add(&c->ok, 1);
	else if (err == -EBUSY)
		__sync_fetch_and_add(&c->busy, 1);
	else if (err == -ENOMEM)
		__sync_fetch_and_add(&c->nomem, 1);
	else
		__sync_fetch_and_add(&c->other, 1);
	return err;
}

static __always_inline void look(void *map, __u64 key, __u64 gen)
{
	struct re_val *val = bpf_map_lookup_elem(map, &key);

	if (!gen) {
		if (val)
			__sync_fetch_and_add(&wrong, 1);
	} else if (!val || val->v[0] != RE_WORD(key, gen, 0) ||
		   val->v[1] != RE_WORD(key, gen, 1) ||
		   val->v[2] != RE_WORD(key, gen, 2) ||
		   val->v[3] != RE_WORD(key, gen, 3)) {
		__sync_fetch_and_add(&wrong, 1);
	}
}

/* Update a key that may just be being updated below this program, and one that
 * is nobody else's; delete the latter now and then.
 */
static __always_inline void nested(void *map, __u32 cpu)
{
	__u64 nr = ++turn[cpu], key = HOT_BASE + nr % NR_HOT;
	struct re_slot *slot;
	struct re_val val;

	fill(&val, key, 2);
	count(&hot, bpf_map_update_elem(map, &key, &val, BPF_ANY));

	slot = &slots[cpu][nr % SLOTS_PER_CPU];
	key = slot->key;
	fill(&val, key, nr);
	if (!count(&own, bpf_map_update_elem(map, &key, &val, BPF_ANY)))
		slot->gen = nr;
	if (nr & SLOTS_PER_CPU && slot->gen) {
		if (!count(&own, bpf_map_delete_elem(map, &key)))
			slot->gen = 0;
	}
	look(map, key, slot->gen);
}

/* Nothing else keeps these programs from being entered by their own updates.
 * They run in any task, for the functions are also called from workers.
 */
static __always_inline int nested_once(void *map, int func)
{
	__u32 cpu = bpf_get_smp_processor_id();

	if (!active || cpu >= MAX_CPUS || depth[cpu])
		return 0;
	depth[cpu] = 1;
	__sync_fetch_and_add(&hits[func], 1);
	nested(map, cpu);
	depth[cpu] = 0;
	return 0;
}

/* A set of programs for each type of map */
#define NAME(name)	hash_##name
#define MAP		(&hash)
#include "htab_reentry_progs.h"

#undef NAME
#undef MAP
#define NAME(name)	percpu_hash_##name
#define MAP		(&percpu_hash)
#include "htab_reentry_progs.h"

char _license[] SEC("license") = "GPL";
