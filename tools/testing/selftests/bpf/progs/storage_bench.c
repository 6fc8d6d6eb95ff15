// SPDX-License-Identifier: GPL-2.0
/* Operations on the storage of a socket, for benchs/bench_storage.c: the socket of
 * a test run.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "storage_bench.h"

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct storage_val);
} storage SEC(".maps");

__u64 nr_failed;

static __always_inline struct bpf_sock *own_socket(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	return sk ? bpf_sk_fullsock(sk) : 0;
}

SEC("classifier/get")
int storage_get(struct __sk_buff *skb)
{
	struct bpf_sock *sk = own_socket(skb);
	int i;

	if (!sk) {
		nr_failed += STORAGE_BENCH_BATCH;
		return 0;
	}
	for (i = 0; i < STORAGE_BENCH_BATCH; i++)
		if (!bpf_sk_storage_get(&storage, sk, 0,
					BPF_SK_STORAGE_GET_F_CREATE))
			nr_failed++;
	return 0;
}

/* created and deleted */
SEC("classifier/cycle")
int storage_cycle(struct __sk_buff *skb)
{
	struct bpf_sock *sk = own_socket(skb);
	int i;

	if (!sk) {
		nr_failed += STORAGE_BENCH_BATCH;
		return 0;
	}
	for (i = 0; i < STORAGE_BENCH_BATCH; i++) {
		if (!bpf_sk_storage_get(&storage, sk, 0,
					BPF_SK_STORAGE_GET_F_CREATE))
			nr_failed++;
		else if (bpf_sk_storage_delete(&storage, sk))
			nr_failed++;
	}
	return 0;
}

char _license[] SEC("license") = "GPL";
