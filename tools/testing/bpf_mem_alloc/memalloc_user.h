/* SPDX-License-Identifier: GPL-2.0-only */
/* Stands in for kernel/bpf/memalloc_internal.h */
#ifndef __BPF_MEMALLOC_INTERNAL_H
#define __BPF_MEMALLOC_INTERNAL_H

#include "kernel.h"

/* Address sanitizer sees what slab gets, and what the test itself marks */
static inline void bpf_mem_hide(struct kmem_cache *kc, void *obj, void *word)
{
}

static inline void bpf_mem_show(struct kmem_cache *kc, void *obj)
{
}

#endif /* __BPF_MEMALLOC_INTERNAL_H */
