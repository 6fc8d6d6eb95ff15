/* SPDX-License-Identifier: GPL-2.0 */
/* What the programs that test hash maps share. */
#ifndef __HTAB_COMMON_H
#define __HTAB_COMMON_H

#include <errno.h>
#include <bpf/bpf_helpers.h>
#include "htab_val.h"

__u64 wrong;	/* lookups that did not find what they should */

/* Maps return an int: the upper half of what the helper returns is not set. */
static __always_inline int count(struct htab_count *c, int err)
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

/* @gen: which write the key holds, 0: none */
static __always_inline void look(void *map, __u64 key, __u64 gen)
{
	struct htab_val *val = bpf_map_lookup_elem(map, &key);
	bool bad = !val != !gen;
	int i;

	if (val && gen) {
#pragma unroll
		for (i = 0; i < NR_WORDS; i++)
			bad |= val->v[i] != HTAB_WORD(key, gen, i);
	}
	if (bad)
		__sync_fetch_and_add(&wrong, 1);
}

#endif
