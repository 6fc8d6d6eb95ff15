// SPDX-License-Identifier: GPL-2.0-only
#include <linux/ktime.h>
#include "map_lock.h"

/*
 * How long a nested operation waits for another CPU: far longer than a lock is
 * held. Two CPUs that wait for each other get here, or one that never finds a
 * lock free which many others queue for.
 */
#define BPF_MAP_LOCK_TIMEOUT_NS	(20 * NSEC_PER_MSEC)

DEFINE_PER_CPU(struct bpf_map_locks, bpf_map_locks);

bool bpf_map_raw_trylock(void *lock)
{
	/* no raw_spin_trylock(): sparse cannot follow locks that may be refused */
	return _raw_spin_trylock((raw_spinlock_t *)lock);
}

/**
 * bpf_map_lock_nested() - take a lock within a nested operation
 * @lock: the lock, last in this CPU's record
 * @trylock: tries to take it once, true if it did
 *
 * Context: Any, interrupts off.
 * Return: false if waiting, or waiting on, would deadlock.
 */
bool bpf_map_lock_nested(void *lock, bool (*trylock)(void *lock))
{
	struct bpf_map_locks *record = this_cpu_ptr(&bpf_map_locks);
	int i, nr = record->nr_locks - 1;
	u64 start;

	for (i = 0; i < nr; i++)
		if (READ_ONCE(record->locks[i]) == lock)
			/* Free if the outer operation has yet to take it. But
			 * without SMP there is nothing to try.
			 */
			return IS_ENABLED(CONFIG_SMP) && trylock(lock);

	if (trylock(lock))
		return true;
	start = ktime_get_mono_fast_ns();
	do {
		cpu_relax();
		if (trylock(lock))
			return true;
		/* nobody can wait for a lock of this CPU if it has none */
	} while (!nr || ktime_get_mono_fast_ns() - start <
			BPF_MAP_LOCK_TIMEOUT_NS);

	return false;
}
