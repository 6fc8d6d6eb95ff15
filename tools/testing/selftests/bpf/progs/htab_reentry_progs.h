/* SPDX-License-Identifier: GPL-2.0 */
/* Included for each type of map, with
 *   NAME(name)		how a program is called
 *   MAP		what it updates
 */

/* user space chooses the functions */
SEC("fentry/htab_map_update_elem")
int NAME(fentry0)(void *ctx)
{
	return nested_once(MAP, 0);
}

SEC("fentry/htab_map_update_elem")
int NAME(fentry1)(void *ctx)
{
	return nested_once(MAP, 1);
}

SEC("fentry/htab_map_update_elem")
int NAME(fentry2)(void *ctx)
{
	return nested_once(MAP, 2);
}

SEC("fentry/htab_map_update_elem")
int NAME(fentry3)(void *ctx)
{
	return nested_once(MAP, 3);
}

SEC("fentry/htab_map_update_elem")
int NAME(fentry4)(void *ctx)
{
	return nested_once(MAP, 4);
}

SEC("fentry/htab_map_update_elem")
int NAME(fentry5)(void *ctx)
{
	return nested_once(MAP, 5);
}

SEC("fentry/htab_map_update_elem")
int NAME(fentry6)(void *ctx)
{
	return nested_once(MAP, 6);
}

SEC("fentry/htab_map_update_elem")
int NAME(fentry7)(void *ctx)
{
	return nested_once(MAP, 7);
}

/* user space chooses the tracepoints */
SEC("raw_tp/kmem_cache_alloc")
int NAME(raw_tp0)(void *ctx)
{
	return nested_once(MAP, 0);
}

SEC("raw_tp/kmem_cache_alloc")
int NAME(raw_tp1)(void *ctx)
{
	return nested_once(MAP, 1);
}

SEC("raw_tp/kmem_cache_alloc")
int NAME(raw_tp2)(void *ctx)
{
	return nested_once(MAP, 2);
}

SEC("raw_tp/kmem_cache_alloc")
int NAME(raw_tp3)(void *ctx)
{
	return nested_once(MAP, 3);
}

SEC("raw_tp/kmem_cache_alloc")
int NAME(raw_tp4)(void *ctx)
{
	return nested_once(MAP, 4);
}

SEC("raw_tp/kmem_cache_alloc")
int NAME(raw_tp5)(void *ctx)
{
	return nested_once(MAP, 5);
}

SEC("raw_tp/kmem_cache_alloc")
int NAME(raw_tp6)(void *ctx)
{
	return nested_once(MAP, 6);
}

SEC("raw_tp/kmem_cache_alloc")
int NAME(raw_tp7)(void *ctx)
{
	return nested_once(MAP, 7);
}

/* New keys of this CPU come and go. */
SEC("classifier")
int NAME(run)(struct __sk_buff *skb)
{
	__u64 key, first = RUN_BASE + RUN_KEYS * bpf_get_smp_processor_id();
	struct htab_val val;
	int i;

	for (i = 0; i < RUN_KEYS; i++) {
		key = first + i;
		fill(&val, key, 1);
		count(&run, bpf_map_update_elem(MAP, &key, &val, BPF_NOEXIST));
	}
	for (i = 0; i < RUN_KEYS; i++) {
		key = first + i;
		look(MAP, key, 1);
		count(&run, bpf_map_delete_elem(MAP, &key));
	}
	return 0;
}
