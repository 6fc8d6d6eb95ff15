// SPDX-License-Identifier: GPL-2.0
/* Operations on a batch of keys, for benchs/bench_htab.c. Programs of a type
 * that every kernel lets use dynamic maps without a warning.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include "htab_bench.h"

/* User space brings the map. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(key_size, 8);
	__uint(value_size, 8);
} map SEC(".maps");

char value[HTAB_BENCH_VALUE];

/* The map is an LPM trie: keys are addresses of 32 bits, all over the place. */
const volatile bool trie;

/* Operations that failed, by any program on any CPU; not what failed because the
 * key could not be added before
 */
__u64 nr_failed;

enum { ADD, REPLACE, LOOKUP, DELETE, CYCLE };

static __always_inline bool check(bool ok)
{
	if (!ok)
		__sync_fetch_and_add(&nr_failed, 1);
	return ok;
}

static __always_inline int for_batch(struct __sk_buff *skb, int op)
{
	__u64 key[HTAB_BENCH_KEY / 8] = {};
	__u32 i;

	for (i = 0; i < HTAB_BENCH_BATCH; i++) {
		key[0] = (__u64)skb->cb[HTAB_BENCH_PRODUCER] << 32 |
			 (skb->cb[HTAB_BENCH_FIRST] + i);
		if (trie) {
			__u32 *lpm_key = (__u32 *)key;
			__u32 nr = skb->cb[HTAB_BENCH_PRODUCER] << 24 |
				   (skb->cb[HTAB_BENCH_FIRST] + i);

			lpm_key[0] = 32;
			/* no two are the same, as it is odd */
			lpm_key[1] = nr * 2654435769U;
		}
		if (op == ADD || op == CYCLE)
			if (!check(!bpf_map_update_elem(&map, key, value,
							BPF_NOEXIST)))
				continue;
		if (op == REPLACE)
			check(!bpf_map_update_elem(&map, key, value,
						   BPF_EXIST));
		if (op == LOOKUP || op == CYCLE)
			check(bpf_map_lookup_elem(&map, key));
		if (op == DELETE)
			bpf_map_delete_elem(&map, key);
		if (op == CYCLE)
			check(!bpf_map_delete_elem(&map, key));
	}
	i += skb->cb[HTAB_BENCH_FIRST];
	if (i >= skb->cb[HTAB_BENCH_KEYS])
		i = 0;
	skb->cb[HTAB_BENCH_FIRST] = i;
	return 0;
}

SEC("classifier/add")
int htab_add(struct __sk_buff *skb)
{
	return for_batch(skb, ADD);
}

SEC("classifier/replace")
int htab_replace(struct __sk_buff *skb)
{
	return for_batch(skb, REPLACE);
}

SEC("classifier/lookup")
int htab_lookup(struct __sk_buff *skb)
{
	return for_batch(skb, LOOKUP);
}

SEC("classifier/delete")
int htab_delete(struct __sk_buff *skb)
{
	return for_batch(skb, DELETE);
}

/* each key added, looked up and deleted before the next */
SEC("classifier/cycle")
int htab_cycle(struct __sk_buff *skb)
{
	return for_batch(skb, CYCLE);
}

char _license[] SEC("license") = "GPL";
