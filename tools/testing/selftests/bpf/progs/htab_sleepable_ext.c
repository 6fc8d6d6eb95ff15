// SPDX-License-Identifier: GPL-2.0
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u64);
} ext_map SEC(".maps");

struct inner_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u64);
} ext_inner SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
	__array(values, struct inner_map);
} ext_outer SEC(".maps") = {
	.values = { [0] = &ext_inner },
};

SEC("freplace/get_constant")
int new_get_constant(long val)
{
	__u32 key = 0;
	void *map;

	map = bpf_map_lookup_elem(&ext_outer, &key);
	if (map)
		bpf_map_lookup_elem(map, &key);
	return !!bpf_map_lookup_elem(&ext_map, &key);
}

char _license[] SEC("license") = "GPL";
