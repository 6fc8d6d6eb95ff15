/* SPDX-License-Identifier: GPL-2.0-only */
/* What soak.bpf.c and soak.c share. */
#ifndef SOAK_H
#define SOAK_H

/* Where updates come from. Those of one context on one CPU do not overlap. */
enum {
	KPROBE,		/* interrupts on */
	RAW_TP,		/* interrupts off, runqueue locked */
	PERF_EVENT,	/* hardirq */
	NMI,
	FENTRY,		/* in an update of the same map */
	SOCKET,		/* softirq */
	FENTRY_S,	/* sleepable, on one task */
	LSM_S,		/* the same */
	SYSCALL,	/* one thread */
	BATCH,		/* one thread */
	NR_CONTEXTS
};

enum { HASH, PERCPU, INNER, LRU, PREALLOC, NR_MAPS };

#define MAX_CPUS	8	/* powers of two, these two */
#define NR_KEYS		128
#define NR_BURST	256
#define MAX_ENTRIES	16384
#define LRU_ENTRIES	1024	/* fewer than there are keys */

/* Each slot has keys of its own, the same in all maps. */
#define SLOT_KEY(ctx, cpu)	(((__u64)(ctx) + 1) << 32 | (__u64)(cpu) << 16)
#define HOT_KEY			(100ULL << 32)	/* everybody's */
#define BURST_KEY		(101ULL << 32)
#define LEAK_KEY		(102ULL << 32)

/* Times in ns: four steps for each power of two */
#define NR_TIMES	160

/* What one context does on one CPU, and what its keys hold because of that.
 * Only its owner writes it, but for @max_ns, which user space resets.
 */
struct slot {
	__u64 random;
	__u64 updates, deletes, lookups;
	__u64 busy, other;
	__u64 nomem[NR_MAPS];
	__u64 wrong;		/* lookups and deletes against @holds */
	__u64 max_ns[2];	/* of an update; in even and odd intervals */
	__u32 gen;		/* of the last write */
	__u32 holds[NR_MAPS][NR_KEYS];	/* which write, 0: no such key */
	__u32 times[NR_TIMES];	/* updates that took so long */
};

enum { BURST_IDLE, BURST_WANTED };

struct burst {
	__u32 state;
	__u32 map;
	__u64 ok, nomem, other;
};

static __always_inline __u64 next_random(struct slot *s)
{
	__u64 r = s->random;

	r ^= r << 13;
	r ^= r >> 7;
	r ^= r << 17;
	s->random = r;
	return r;
}

static __always_inline void count_time(struct slot *s, __u64 ns, __u32 interval)
{
	__u64 n = ns | 4;
	__u32 log = 0;

	if (s->max_ns[interval & 1] < ns)
		s->max_ns[interval & 1] = ns;
	/* no loop and no builtin: the verifier, and BPF, have neither */
	if (n >> 32) {
		n >>= 32;
		log += 32;
	}
	if (n >> 16) {
		n >>= 16;
		log += 16;
	}
	if (n >> 8) {
		n >>= 8;
		log += 8;
	}
	if (n >> 4) {
		n >>= 4;
		log += 4;
	}
	if (n >> 2) {
		n >>= 2;
		log += 2;
	}
	if (n >> 1)
		log += 1;
	log = log * 4 + (((ns | 4) >> (log - 2)) & 3);
	if (log < NR_TIMES)
		s->times[log]++;
}

static __always_inline void count_error(struct slot *s, __u32 map, int err)
{
	if (err == -EBUSY)
		s->busy++;
	else if (err == -ENOMEM && map < NR_MAPS)
		s->nomem[map]++;
	else if (err)
		s->other++;
}

#endif
