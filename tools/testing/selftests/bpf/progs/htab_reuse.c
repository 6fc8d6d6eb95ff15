// SPDX-License-Identifier: GPL-2.0
/* Programs that look again at what they have looked up */
#include "vmlinux.h"
#include <errno.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "htab_reuse.h"
#include "test_task.h"

/* user space chooses the flags, and the type of one; a value tells its key */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_ENTRIES);
	__type(key, __u64);
	__type(value, struct reuse_val);
} map SEC(".maps");

/* set by user space */
__u64 hold_ptr;	/* as long for 32-bit user space */

/* results */
__u32 held;
__u64 before, after;
__u64 looks, foreign;
__u64 ok, nomem, other;

static __always_inline __u64 look(struct reuse_val *val)
{
	return *(volatile __u64 *)&val->key;
}

/* Looks before and after a page fault that lasts as long as user space wants */
SEC("fentry.s/__x64_sys_getpgid")
int BPF_PROG(sleep_between)
{
	__u64 key = KEY, buf;
	struct reuse_val *val;

	if (!test_task() || !hold_ptr)
		return 0;
	val = bpf_map_lookup_elem(&map, &key);
	if (!val)
		return 0;
	before = look(val);
	held = 1;
	bpf_copy_from_user(&buf, sizeof(buf), (void *)hold_ptr);
	after = look(val);
	held = 2;
	return 0;
}

/* Looks often, while another CPU has the key come and go */
SEC("classifier/look_often")
int look_often(struct __sk_buff *skb)
{
	__u64 key = KEY;
	struct reuse_val *val;
	int i;

	val = bpf_map_lookup_elem(&map, &key);
	if (!val)
		return 0;
	looks++;
	for (i = 0; i < 1000; i++)
		if (look(val) != KEY)
			foreign++;
	return 0;
}

/* New keys, which are deleted again */
SEC("classifier/churn")
int churn(struct __sk_buff *skb)
{
	struct reuse_val val = {};
	int i, err;
	__u64 key;

	for (i = 0; i < 64; i++) {
		key = KEY + 1 + i;
		val.key = key;
		err = bpf_map_update_elem(&map, &key, &val, BPF_NOEXIST);
		if (!err) {
			ok++;
			bpf_map_delete_elem(&map, &key);
		} else if (err == -ENOMEM) {
			nomem++;
		} else {
			other++;
		}
	}
	return 0;
}

char _license[] SEC("license") = "GPL";
