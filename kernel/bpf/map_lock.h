/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Locks that map operations of BPF programs take in any context.
 *
 * An operation can be interrupted on its CPU by another one, while it holds a
 * lock: by an NMI, or by an fentry or raw_tp program on a function that is
 * called there. Waiting for that lock would be for ever. So each CPU keeps a
 * record of the locks that it holds or is about to take. A nested operation
 *  - does not wait for a lock of the record, but for any other one;
 *  - for that not without end, for the lock's holder may have been interrupted
 *    likewise and wait for a lock of this CPU;
 *  - is refused if there are too many around it: nothing else keeps fentry
 *    programs from running out of stack.
 * Operations that are not nested always get their locks: those of the record
 * are their own, taken in a fixed order.
 *
 * An operation is what happens between bpf_map_op_begin() and _end(), with
 * interrupts off. Whoever nests in it leaves the record as it was, and so the
 * record needs no more than the order of plain stores.
 */
#ifndef __BPF_MAP_LOCK_H__
#define __BPF_MAP_LOCK_H__

#include <linux/hardirq.h>
#include <linux/percpu.h>
#include <linux/spinlock.h>

#define BPF_MAP_MAX_OPS		4
/* Locks of one operation: two of an LRU and a bucket's, or fewer */
#define BPF_MAP_MAX_LOCKS	(3 * BPF_MAP_MAX_OPS)

struct bpf_map_locks {
	int nr_ops;
	int nr_locks;
	void *locks[BPF_MAP_MAX_LOCKS];	/* innermost last */
};

DECLARE_PER_CPU(struct bpf_map_locks, bpf_map_locks);

bool bpf_map_lock_nested(void *lock, bool (*trylock)(void *lock));
bool bpf_map_raw_trylock(void *lock);

/* Any context. Returns 0, or -EBUSY if too many operations are nested */
static __always_inline int bpf_map_op_begin(unsigned long *pflags)
{
	struct bpf_map_locks *record;
	unsigned long flags;
	int nr;

	local_irq_save(flags);
	record = this_cpu_ptr(&bpf_map_locks);
	nr = record->nr_ops;
	if (unlikely(nr >= BPF_MAP_MAX_OPS)) {
		local_irq_restore(flags);
		return -EBUSY;
	}
	WRITE_ONCE(record->nr_ops, nr + 1);
	*pflags = flags;
	return 0;
}

static __always_inline void bpf_map_op_end(unsigned long flags)
{
	struct bpf_map_locks *record = this_cpu_ptr(&bpf_map_locks);

	WRITE_ONCE(record->nr_ops, record->nr_ops - 1);
	local_irq_restore(flags);
}

/* Within an operation: is it nested in another one? */
static __always_inline bool bpf_map_op_nested(void)
{
	return this_cpu_ptr(&bpf_map_locks)->nr_ops > 1;
}

/*
 * An NMI that comes in between uses the next slot. A lock that it finds in the
 * record may not be taken yet, see bpf_map_lock_nested().
 */
static __always_inline void bpf_map_lock_record(void *lock)
{
	struct bpf_map_locks *record = this_cpu_ptr(&bpf_map_locks);
	int nr = record->nr_locks;

	WRITE_ONCE(record->nr_locks, nr + 1);
	barrier();
	WRITE_ONCE(record->locks[nr], lock);
	barrier();
}

static __always_inline void bpf_map_lock_forget(void)
{
	struct bpf_map_locks *record = this_cpu_ptr(&bpf_map_locks);
	int nr = record->nr_locks - 1;

	barrier();
	WRITE_ONCE(record->locks[nr], NULL);
	barrier();
	WRITE_ONCE(record->nr_locks, nr);
}

/*
 * Interrupts off: an operation with one lock, of an element, that cannot be
 * refused. It goes unrecorded where there is no room.
 */
static __always_inline void bpf_map_elem_lock_begin(void *lock)
{
	struct bpf_map_locks *record = this_cpu_ptr(&bpf_map_locks);

	WRITE_ONCE(record->nr_ops, record->nr_ops + 1);
	if (likely(record->nr_locks < BPF_MAP_MAX_LOCKS))
		bpf_map_lock_record(lock);
}

static __always_inline void bpf_map_elem_lock_end(void *lock)
{
	struct bpf_map_locks *record = this_cpu_ptr(&bpf_map_locks);

	if (likely(record->nr_locks &&
		   record->locks[record->nr_locks - 1] == lock))
		bpf_map_lock_forget();
	WRITE_ONCE(record->nr_ops, record->nr_ops - 1);
}

/* Within an operation. Returns 0, or -EBUSY where waiting would deadlock */
static __always_inline int bpf_map_lock(raw_spinlock_t *lock)
{
	bpf_map_lock_record(lock);
	if (likely(!bpf_map_op_nested())) {
		/* lockdep takes none but trylocks in NMI */
		if (IS_ENABLED(CONFIG_PROVE_LOCKING) && in_nmi()) {
			while (!bpf_map_raw_trylock(lock))
				cpu_relax();
		} else {
			raw_spin_lock(lock);
			__release(lock);	/* see bpf_map_raw_trylock() */
		}
	} else if (!bpf_map_lock_nested(lock, bpf_map_raw_trylock)) {
		bpf_map_lock_forget();
		return -EBUSY;
	}
	return 0;
}

static __always_inline void bpf_map_unlock(raw_spinlock_t *lock)
{
	__acquire(lock);
	raw_spin_unlock(lock);
	bpf_map_lock_forget();
}

/* Any context. An operation, or a part of one, that takes this lock first */
static __always_inline int bpf_map_lock_irqsave(raw_spinlock_t *lock,
						unsigned long *pflags)
{
	unsigned long flags;
	int err;

	err = bpf_map_op_begin(&flags);
	if (unlikely(err))
		return err;
	err = bpf_map_lock(lock);
	if (unlikely(err)) {
		bpf_map_op_end(flags);
		return err;
	}
	*pflags = flags;
	return 0;
}

static __always_inline void bpf_map_unlock_irqrestore(raw_spinlock_t *lock,
						      unsigned long flags)
{
	bpf_map_unlock(lock);
	bpf_map_op_end(flags);
}

#endif
