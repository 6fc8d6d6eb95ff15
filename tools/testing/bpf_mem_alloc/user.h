/* SPDX-License-Identifier: GPL-2.0-only */
/* Who allocates and frees: writes into all it has, and looks whether it stays */
#ifndef _BPF_MEM_ALLOC_TEST_USER_H
#define _BPF_MEM_ALLOC_TEST_USER_H

#include "inspect.h"

enum user_kind { FIXED, LINKED, PERCPU, ATTACHED, ANY, NR_KINDS };

/* A LINKED object has its link in its second word, an ATTACHED one its area */
#define WORD	sizeof(void *)

struct user {
	struct bpf_mem_alloc ma;
	enum user_kind kind;
	size_t size;
	long live;
};

extern const char * const user_kinds[NR_KINDS];

int user_init(struct user *u, enum user_kind kind, size_t size);
int user_init_opts(struct user *u, enum user_kind kind, size_t size,
		   u32 max_waiting, u32 reserve);
void *user_alloc(struct user *u);
void *user_alloc_irqoff(struct user *u);
void *user_try(struct user *u);
void user_check(struct user *u, void *ptr);
void user_free(struct user *u, void *ptr);
void user_free_irqoff(struct user *u, void *ptr);
void user_free_rcu(struct user *u, void *ptr);
u32 user_alloc_many(struct user *u, void **ptrs, u32 n);
u32 user_alloc_many_irqoff(struct user *u, void **ptrs, u32 n);
void user_free_many(struct user *u, void **ptrs, u32 n);
void user_free_many_rcu(struct user *u, void **ptrs, u32 n);
void user_inspect(struct user *u, struct inspect *in);

#endif /* _BPF_MEM_ALLOC_TEST_USER_H */
