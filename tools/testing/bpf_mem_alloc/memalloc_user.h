/* SPDX-License-Identifier: GPL-2.0-only */
/* Stands in for kernel/bpf/memalloc_internal.h */
#ifndef __BPF_MEMALLOC_INTERNAL_H
#define __BPF_MEMALLOC_INTERNAL_H

#include "kernel.h"

#endif /* __BPF_MEMALLOC_INTERNAL_H */
