// SPDX-License-Identifier: GPL-2.0
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "storage_alloc.h"
#include "test_task.h"

/* Of each size that the allocator has, with those above */
#define INODE_MAP(size)						\
	struct value_##size {					\
		__u8 bytes[(size) - 72];			\
	};							\
	struct {						\
		__uint(type, BPF_MAP_TYPE_INODE_STORAGE);	\
		__uint(map_flags, BPF_F_NO_PREALLOC);		\
		__type(key, int);				\
		__type(value, struct value_##size);		\
	} inode_map_##size SEC(".maps")

INODE_MAP(96);
INODE_MAP(128);
INODE_MAP(256);
INODE_MAP(512);
INODE_MAP(2048);
INODE_MAP(4096);

/* More than the allocator has */
struct big {
	__u64 words[1000];
};

struct {
	__uint(type, BPF_MAP_TYPE_INODE_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct big);
} big_map SEC(".maps");

/* set by user space */
__u32 exec_pid;
__u64 hold_ptr;

/* results */
__u32 in_irq;
__u32 held;

/* Where pointers have 32 bits, CO-RE would load no more, and the verifier wants 64 */
#define SK_OF(type, ctx) \
	(*(struct bpf_sock **)((void *)(ctx) + __builtin_offsetof(type, sk)))

static __always_inline void cycle_fullsock(struct __sk_buff *skb)
{
	struct bpf_sock *sk = SK_OF(struct __sk_buff, skb);

	if (sk)
		cycle_sk(bpf_sk_fullsock(sk));
}

SEC("cgroup_skb/egress")
int cgroup_skb(struct __sk_buff *skb)
{
	cycle_fullsock(skb);
	return 1;
}

SEC("classifier")
int tc(struct __sk_buff *skb)
{
	cycle_fullsock(skb);
	return 0;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	cycle_sk(SK_OF(struct bpf_sock_addr, ctx));
	return 1;
}

SEC("sockops")
int sock_ops(struct bpf_sock_ops *ctx)
{
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		cycle_sk(SK_OF(struct bpf_sock_ops, ctx));
	return 1;
}

SEC("cgroup/getsockopt")
int getsockopt(struct bpf_sockopt *ctx)
{
	cycle_sk(SK_OF(struct bpf_sockopt, ctx));
	return 1;
}

SEC("sk_msg")
int msg_verdict(struct sk_msg_md *msg)
{
	cycle_sk(SK_OF(struct sk_msg_md, msg));
	return SK_PASS;
}

/* These cannot delete */
SEC("cgroup/sock_create")
int sock_create(struct bpf_sock *ctx)
{
	__u64 *v;

	v = bpf_sk_storage_get(&sk_map, ctx, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (v) {
		touch(v, SK_WORDS);
		runs++;
	} else {
		fails++;
	}
	return 1;
}

SEC("lsm/socket_bind")
int BPF_PROG(socket_bind, struct socket *sock, struct sockaddr *address, int len)
{
	if (test_task())
		cycle(false, sock->sk);
	return 0;
}

SEC("lsm/file_open")
int BPF_PROG(file_open, struct file *file)
{
	if (test_task())
		cycle(true, file->f_inode);
	return 0;
}

/* Runs in an interrupt, and finds the working directory of the test */
SEC("lsm/file_send_sigiotask")
int BPF_PROG(sigio, struct task_struct *tsk, struct fown_struct *fown, int sig)
{
	struct inode *inode;

	if (!pid || tsk->tgid != pid)
		return 0;
	inode = tsk->fs->pwd.dentry->d_inode;
	in_irq++;
	if (bpf_inode_storage_get(&inode_map, inode, 0,
				  BPF_LOCAL_STORAGE_GET_F_CREATE))
		runs++;
	else
		fails++;
	if (in_irq & 1)
		bpf_inode_storage_delete(&inode_map, inode);
	return 0;
}

#define __GFP_DIRECT_RECLAIM	0x400

/* A system call sees first whether there is memory, and may wait for it then */
SEC("fentry/bpf_map_kmalloc_node")
int BPF_PROG(kmalloc_node, struct bpf_map *map, size_t size, gfp_t flags)
{
	if (test_task() && !(flags & __GFP_DIRECT_RECLAIM))
		runs++;
	return 0;
}

SEC("lsm.s/bprm_committed_creds")
int BPF_PROG(committed_creds, struct linux_binprm *bprm)
{
	struct inode *inode = bprm->file->f_inode;
	struct big *big;
	int i;

	if (!exec_pid || bpf_get_current_pid_tgid() >> 32 != exec_pid)
		return 0;
	cycle(true, inode);
	for (i = 0; i < ROUNDS; i++) {
		big = bpf_inode_storage_get(&big_map, inode, 0,
					    BPF_LOCAL_STORAGE_GET_F_CREATE);
		if (!big) {
			fails++;
			break;
		}
		if (big->words[0] || big->words[999])
			dirty++;
		big->words[0] = -1;
		big->words[999] = -1;
		if (bpf_inode_storage_delete(&big_map, inode))
			fails++;
	}
	return 0;
}

SEC("lsm.s/socket_bind")
int BPF_PROG(socket_bind_s, struct socket *sock, struct sockaddr *address, int len)
{
	if (test_task())
		cycle(false, sock->sk);
	return 0;
}

/* Has a value in its hands while others delete it and create more */
SEC("lsm.s/socket_listen")
int BPF_PROG(socket_listen, struct socket *sock, int backlog)
{
	__u64 buf, *v;

	if (!test_task() || !hold_ptr)
		return 0;
	v = bpf_sk_storage_get(&sk_map, sock->sk, 0,
			       BPF_SK_STORAGE_GET_F_CREATE);
	if (!v) {
		fails++;
		return 0;
	}
	v[0] = 1;
	held = 1;
	bpf_copy_from_user(&buf, sizeof(buf), (void *)hold_ptr);
	held = 2;
	if (v[0] == 1)
		runs++;
	else
		dirty++;
	return 0;
}

/* Holds an RCU Tasks Trace grace period open */
SEC("fentry.s/__x64_sys_getpgid")
int BPF_PROG(hold)
{
	__u64 buf;

	if (!test_task() || !hold_ptr)
		return 0;
	held = 1;
	bpf_copy_from_user(&buf, sizeof(buf), (void *)hold_ptr);
	held = 2;
	return 0;
}

char _license[] SEC("license") = "GPL";
