// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory for BPF programs, in any context.
 *
 * The life of an object:
 *
 *      slab, per-CPU allocator
 *         |            ^
 *  create |            | worker, after the grace periods
 *         |         in_gp ----------------------------.
 *         |            ^                              |
 *         |            | irq_work, one batch at a time|
 *         |         waiting --------------------------+
 *         |            ^                              |
 *         |            | surplus                      | depot_take()
 *         v            |                              v
 *      per-CPU list <--+--- free ---- live <- alloc - per-CPU list
 *                                      ^
 *                                      | empty list, no way to refill it:
 *                              stock, reserve, pool
 *
 * Whoever finds its CPU's list low refills it at once if interrupts are on:
 * then this CPU holds none of the locks that an allocation which cannot wait
 * takes, as these are all taken with interrupts off. In NMI and with
 * interrupts off nobody calls into slab, per-CPU allocator, RCU or the
 * workqueues; the object comes from what the map gave up but slab has not
 * got yet (waiting, in_gp), from the reserve of the map, which all CPUs share
 * and which grows with the bursts that found it empty, or from a small pool
 * that is common to all maps with objects of that size; and an irq_work is
 * asked to bring new ones. Free never does more than link the object into a
 * list.
 *
 * On PREEMPT_RT those locks sleep, and whoever holds one can be preempted, so
 * that interrupts which are on tell nothing. There a refill at once brings only
 * what the map has already; irq_work, which has a thread of its own, the worker
 * and those who wait for memory bring the rest.
 *
 * An object may be handed out again before a grace period has passed, to the
 * users of the same allocator only. It goes back to slab after an RCU grace
 * period and, if sleepable programs use it, an RCU Tasks Trace one. Where no
 * reader may see it change, bpf_mem_cache_free_rcu() keeps it from its
 * allocator as well until then (held, held_gp); after that, as many as have
 * been asked for lately go to stock, the others to slab.
 *
 * Who may interrupt whom: a CPU's list is changed with interrupts off, so
 * only an NMI can come in between; it sees bpf_mem_cpu::busy set and then
 * uses bpf_mem_cpu::nested and the reserve, which need no more than xchg and
 * cmpxchg. The depot (stock, waiting, in_gp) has many producers, which push
 * with cmpxchg, and one consumer at a time, who holds depot_lock: thus a
 * node that the consumer has seen stays where it is, and no ABA can be. An
 * NMI does not wait for that lock, and nobody who allocates does so without
 * end: an NMI may have hit its holder, and wait for a lock that is held across
 * the allocation, of a bucket for example. The functions that work on these
 * lists are notrace and NOKPROBE: no program runs in the middle of them but in
 * NMI.
 *
 * Where interrupts are off already an alloc takes 20 instructions and a free
 * 19, none of them atomic; else 23 and 25, with those that turn interrupts
 * off and on. "make -C tools/testing/bpf_mem_alloc bench" counts them.
 */
#include "memalloc_internal.h"
#include <linux/bpf_mem_alloc.h>

/* An allocator caches at most this much on a CPU */
#define CACHED_BYTES		SZ_8K
#define CACHED_OBJS		96
/* How long an alloc waits for the depot: far longer than it is ever locked */
#define DEPOT_TIMEOUT_NS	(20 * NSEC_PER_MSEC)
/* A memory cgroup cuts what it is charged or not any more at 32 bits */
#define CHARGE_MAX		((u32)SZ_1G)
/* What is ready for all allocators of a size: objects, or bytes of larger ones */
#define POOL_SLOTS		16
#define POOL_MIN_SLOTS		4
#define POOL_BYTES		SZ_4K
/* What bursts can teach an allocator's reserve, and how long it remembers */
#define RESERVE_SLOTS		16
#define RESERVE_MAX_OBJS	2048
#define RESERVE_MAX_BYTES	SZ_1M
#define RESERVE_KEEP		(55 * HZ)
/* How often a lean allocator looks for what has not been used since */
#define LEAN_KEEP		HZ
/* A slab cache whose last allocator has gone stays for up to so long */
#define SLAB_KEEP		HZ
/* Larger objects come from kmalloc(), one at a time */
#define SLAB_MAX_SIZE		SZ_8K
/* In front of an object, where its owner has no word to spare */
#define HEAD_ROOM		8
/* The largest object of an any-size allocator */
#define MAX_SIZE		SZ_4K
/* Larger objects than this are not kept in a pool */
#define POOL_MAX_CHARGE		SZ_64K
/* Objects that KASAN keeps from being handed out again, see quarantined() */
#define QUARANTINE_OBJS		(IS_ENABLED(CONFIG_KASAN) ? 512 : 0)
/* What a CPU asks for first; it doubles up to half of what may be cached */
#define FIRST_BATCH		4
/* A CPU's irq_work runs so often in a row */
#define SERVICE_RUNS		DIV_ROUND_UP(32000, HZ)
/* A worker that found no memory is not asked again for so long */
#define RETRY_DELAY		(HZ / 10)
/* It tries again by itself so often to fill a reserve */
#define FILL_DELAY		HZ
/* Who waits for a grace period looks for memory as often, at least */
#define GP_TIMEOUT		(HZ / 10)
/* How long another CPU may have interrupts off when it has to give objects */
#define GIVE_TIMEOUT		(HZ / 10)
/* A worker gives others a chance after this many */
#define DESTROY_BATCH		128
/* Refill and try again this often when interrupted or moved in between */
#define ALLOC_TRIES		8
/* Who can wait does, also for reclaim, but nobody is killed for BPF memory */
#define GFP_FILL		(GFP_KERNEL | __GFP_RETRY_MAYFAIL)
/* An allocator's own state, charged to its creator as the objects are */
#define GFP_STATE		(GFP_FILL | __GFP_ACCOUNT | __GFP_NOWARN)
/* Who cannot wait leaves the last pages to those who reclaim */
#define GFP_NOW			(GFP_NOWAIT | __GFP_NOMEMALLOC)

/* A cache line: an allocator costs little more than this on a CPU */
struct bpf_mem_cpu {
	void *head;		/* free objects, LIFO */
	u32 cnt;		/* in @head; 0 if and only if that is NULL */
	int link_off;		/* of the link in an object */
	u16 low;		/* refill below this */
	u16 wake;		/* ask for service at this, interrupts off */
	u16 high;		/* look for surplus above this */
	u16 batch;		/* objects that a refill brings */
	u8 busy;		/* @head, @cnt are being changed */
	u8 idle;		/* see below */
	u32 service;		/* see below */
	void *nested;		/* freed while @busy, pushed by cmpxchg */
	struct bpf_mem_cpu *next_service;
	u32 starved;		/* jiffies when service got nothing */
	atomic_t failed;	/* allocations that found nothing, in NMIs too */
	struct bpf_mem_cache *cache;
};

/*
 * Has a list not been low since the worker looked (if lean), or has it to give
 * back all that it has?
 */
enum { LIST_ACTIVE, LIST_IDLE, LIST_GIVES_ALL };

/*
 * A list that wants service is put on its CPU's list of such lists, once. It
 * may ask again while it gets some. When it is idle again, nobody but its
 * users knows it any more.
 */
enum { SERVICE_IDLE, SERVICE_RUNNING, SERVICE_WANTED };

/* Grace periods: one at a time, for everything that has gathered so far */
enum { GP_IDLE, GP_RUNNING, GP_OVER };

struct bpf_mem_cache {
	struct bpf_mem_cpu __percpu *pcpu;
	struct bpf_mem_pool *pool;
	struct bpf_mem_reserve *reserve;	/* after a burst, else NULL */
	struct bpf_mem_reserve *declared;	/* if the owner asked for it */
	struct obj_cgroup *objcg;
	void (*release)(void *obj);
	void *stock;		/* made for CPUs that could not refill */
	void *waiting;		/* freed, no grace period yet */
	void *in_gp;		/* freed before the running grace period */
	void *held;		/* as waiting, but nobody may take these */
	void *held_gp;		/* as in_gp, and the worker's alone */
	u32 gps;		/* grace periods that are over */
	atomic_t depot_lock;
	atomic_t gp;
	u32 charge;		/* bytes for one object, everything included */
	int percpu_off;
	int link_off;
	u16 head_room;		/* link in front of the object */
	u16 max_batch;
	u16 max_cached;		/* on a CPU, what is more is surplus */
	u16 max_idle;		/* the same where it is idle; less if lean */
	u32 max_waiting;	/* no new objects while so many wait; 0: any */
	bool sleepable;		/* grace periods include Tasks Trace */
	bool uncleared;		/* what is in an object from slab is anything */
	bool lean;		/* nothing is ready but a little on each CPU */
	bool trimming;		/* the worker looks for idle lists, if lean */
	bool dying;
	bool drained;		/* dying, and no list has anything left */
	bool in_debt;		/* there is no memory to charge @borrowed to */
	bool awaited;		/* a task waits for objects, not for memory */
	atomic_t borrowed;	/* objects from the pool, not charged yet */
	atomic_t burst;		/* objects a burst took from the depot */
	atomic_t missed;	/* allocations that found nothing left */
	atomic_t want;		/* objects that CPUs could not refill */
	atomic_t used;		/* stocked and new ones, since a grace period */
	atomic_long_t nr_objs;	/* live, cached, waiting: all there are */
	atomic_long_t nr_ready;	/* in @stock, @reserve, @declared */
	atomic_long_t nr_waiting;	/* in @waiting, @in_gp, @held, @held_gp */
	unsigned long last_burst;	/* in jiffies; last look at lists if lean */
	unsigned long retry;		/* in jiffies, 0: at once */
	struct delayed_work work;
	struct rcu_head rcu;
	struct list_head list;	/* in caches, until it is being destroyed */
};

/*
 * What an allocator has learnt or was told to keep ready. Sizes never change. A
 * slot is in one of two stacks, or with one context that empties or fills it.
 */
struct bpf_mem_reserve {
	u32 nr_slots;
	u32 slot_objs;		/* in a full slot */
	atomic64_t full;	/* stacks, see slot_pop() */
	atomic64_t empty;
	u32 *next;		/* of each slot, in its stack */
	void *slots[];
};

/* One slab cache for each object size, for all allocators of that size */
struct bpf_mem_slab {
	struct list_head list;
	struct kmem_cache *kc;
	u32 size;
	atomic_t refs;		/* of pools */
};

/*
 * A few objects that no allocator has had yet, ready for any of that size
 * that is new or has been idle. The allocator that brought the pool is
 * charged for them; one that takes some is charged later, when it can be.
 */
struct bpf_mem_pool {
	struct list_head list;
	struct bpf_mem_slab *slab;	/* NULL: kmalloc() */
	struct obj_cgroup *objcg;
	u32 size;		/* of the slab object */
	u32 percpu_size;
	int numa_node;
	u32 charge;
	u32 refs;
	u32 nr_slots;
	void *slots[];		/* one object each */
};

static LIST_HEAD(slabs);
static DEFINE_MUTEX(slabs_mutex);
static LIST_HEAD(pools);
static DEFINE_MUTEX(pools_mutex);
static LIST_HEAD(caches);
/* Taken in CPU hotplug, which kmem_cache_create() waits for: not slabs_mutex */
static DEFINE_MUTEX(caches_mutex);
static struct kmem_cache *cache_cache;

/* Lists of this CPU's struct bpf_mem_cpu that want service, and the guards */
struct bpf_mem_service {
	struct bpf_mem_cpu *head;
	bool running;		/* on this CPU: @head is looked at again */
	bool throttled;		/* who asks waits for @timer */
	u8 refilling;		/* a bit for each context level */
	u32 runs;		/* of @work, see service_irq_work() */
	u64 since;		/* in ns, as is @until */
	u64 until;
	struct irq_work work;
	struct timer_list timer;
};

static void service_irq_work(struct irq_work *work);
static void service_timer(struct timer_list *timer);

static DEFINE_PER_CPU(struct bpf_mem_service, bpf_mem_service) = {
	.work = { .func = service_irq_work },
	.timer = __TIMER_INITIALIZER(service_timer, TIMER_PINNED),
};

/* Free objects in a row */
struct chain {
	void *first;
	void *last;
	u32 nr;
};

static __always_inline void **link_of(void *obj, int link_off)
{
	return obj + link_off;
}

/*
 * What no user has had yet is none of their business, and KASAN can tell. The
 * word at @word is ours.
 */
static __always_inline void hide_object(struct bpf_mem_pool *pool, void *obj,
					void *word)
{
	if (IS_ENABLED(CONFIG_KASAN) && pool->slab)
		bpf_mem_hide(pool->slab->kc, obj, word);
}

static __always_inline void show_object(struct bpf_mem_pool *pool, void *obj)
{
	if (IS_ENABLED(CONFIG_KASAN) && pool->slab)
		bpf_mem_show(pool->slab->kc, obj);
}

/* An object on its way to a user of @mc */
static __always_inline void *shown(struct bpf_mem_cache *mc, void *obj)
{
	if (IS_ENABLED(CONFIG_KASAN) && obj)
		show_object(mc->pool, obj - mc->head_room);
	return obj;
}

/*
 * With KASAN a freed object goes to slab, where KASAN knows it for free, as
 * soon as its readers allow it: it is not handed out again before, if others
 * can be had, and if not too many wait already.
 */
static __always_inline bool quarantined(struct bpf_mem_cache *mc)
{
	return QUARANTINE_OBJS &&
	       atomic_long_read(&mc->nr_waiting) < QUARANTINE_OBJS;
}

static __always_inline void chain_add(struct chain *ch, void *obj, int link_off)
{
	*link_of(obj, link_off) = ch->first;
	if (!ch->first)
		ch->last = obj;
	ch->first = obj;
	ch->nr++;
}

/*
 * Push to a list with many producers. The release in cmpxchg() makes the
 * links visible to whoever takes the list with xchg() or READ_ONCE().
 */
static __always_inline void push_shared(void **list, struct chain *ch,
					int link_off)
{
	void *old = READ_ONCE(*list), *seen;

	for (;;) {
		/* depot_take_list() may look at it, see there */
		WRITE_ONCE(*link_of(ch->last, link_off), old);
		seen = cmpxchg(list, old, ch->first);
		if (seen == old)
			break;
		old = seen;
	}
}

/*
 * The depot's lock is not a spinlock: the functions behind those are open to
 * tracing programs, which would run here with the lock held. Interrupts are
 * off, so the holder is on another CPU, or this is an NMI above it.
 */
static __always_inline bool depot_trylock(struct bpf_mem_cache *mc)
{
	return !atomic_read(&mc->depot_lock) &&
	       !atomic_cmpxchg_acquire(&mc->depot_lock, 0, 1);
}

static __always_inline void depot_lock(struct bpf_mem_cache *mc)
{
	while (!depot_trylock(mc))
		cpu_relax();
}

/* For who may hold a lock that an NMI above the depot's holder waits for */
static __always_inline bool depot_lock_or_not(struct bpf_mem_cache *mc)
{
	u64 start;

	if (depot_trylock(mc))
		return true;
	if (in_nmi())
		return false;
	start = ktime_get_mono_fast_ns();
	do {
		cpu_relax();
		if (depot_trylock(mc))
			return true;
	} while (ktime_get_mono_fast_ns() - start < DEPOT_TIMEOUT_NS);
	return false;
}

static __always_inline void depot_unlock(struct bpf_mem_cache *mc)
{
	atomic_set_release(&mc->depot_lock, 0);
}

/* Take up to @n objects from the front of one list of the depot */
static __always_inline void depot_take_list(struct bpf_mem_cache *mc,
					    void **list, u32 n,
					    struct chain *ch)
{
	void *first, *last, *next;
	u32 nr;

	do {
		/* pairs with the cmpxchg() in push_shared() */
		first = smp_load_acquire(list);
		if (!first)
			return;
		last = first;
		nr = 1;
		/*
		 * drain_list() may take it all from under us and push it to
		 * another list, which changes the last link.
		 */
		while ((next = READ_ONCE(*link_of(last, mc->link_off))) &&
		       nr < n) {
			last = next;
			nr++;
		}
		/* then, and when a producer came in, once more */
	} while (cmpxchg(list, first, next) != first);

	*link_of(last, mc->link_off) = ch->first;
	if (!ch->first)
		ch->last = last;
	ch->first = first;
	ch->nr += nr;
}

/*
 * Take up to @n objects from the depot, those first that need no grace
 * period any more. Interrupts are off. Where they were on before, @wait: who
 * makes objects while there are some in the depot makes more each time.
 */
static noinline notrace void depot_take(struct bpf_mem_cache *mc, u32 n,
					bool wait, struct chain *ch)
{
	u32 had = ch->nr, stocked;

	if (!READ_ONCE(mc->stock) && !READ_ONCE(mc->waiting) &&
	    !READ_ONCE(mc->in_gp))
		return;
	if (wait)
		depot_lock(mc);
	else if (!depot_lock_or_not(mc))
		return;
	n += had;
	if (ch->nr < n)
		depot_take_list(mc, &mc->stock, n - ch->nr, ch);
	stocked = ch->nr;
	if (ch->nr < n)
		depot_take_list(mc, &mc->waiting, n - ch->nr, ch);
	if (ch->nr < n)
		depot_take_list(mc, &mc->in_gp, n - ch->nr, ch);
	depot_unlock(mc);
	if (stocked != had) {
		atomic_long_sub(stocked - had, &mc->nr_ready);
		atomic_add(stocked - had, &mc->used);
	}
	atomic_long_sub(ch->nr - stocked, &mc->nr_waiting);
}

/* Begin the way to slab. Any context. */
static notrace void give_up(struct bpf_mem_cache *mc, struct chain *ch)
{
	atomic_long_add(ch->nr, &mc->nr_waiting);
	push_shared(&mc->waiting, ch, mc->link_off);
}

static __always_inline void stock_put(struct bpf_mem_cache *mc,
				      struct chain *ch)
{
	atomic_long_add(ch->nr, &mc->nr_ready);
	push_shared(&mc->stock, ch, mc->link_off);
}

/* Count the objects of a list that nobody else sees */
static __always_inline void make_chain(void *first, int link_off,
				       struct chain *ch)
{
	ch->first = first;
	ch->last = first;
	ch->nr = 1;
	while (*link_of(ch->last, link_off)) {
		ch->last = *link_of(ch->last, link_off);
		ch->nr++;
	}
}

/*
 * A stack of slots of a reserve: the number of the first one, from 1 on, and
 * above that a count of changes. The count tells who is about to take the first
 * one that others have taken and put back some in the meantime, so that what it
 * has seen behind that is of yesterday. (R. K. Treiber, "Systems programming:
 * coping with parallelism", IBM RJ 5118, 1986.) No slot is ever freed under
 * somebody who looks at it.
 */
static __always_inline u32 slot_pop(struct bpf_mem_reserve *rsv,
				    atomic64_t *stack)
{
	u64 old = atomic64_read(stack), seen;
	u32 next;

	while ((u32)old) {
		next = READ_ONCE(rsv->next[(u32)old - 1]);
		seen = atomic64_cmpxchg(stack, old,
					((old >> 32) + 1) << 32 | next);
		if (seen == old)
			break;
		old = seen;
	}
	return old;
}

static __always_inline void slot_push(struct bpf_mem_reserve *rsv,
				      atomic64_t *stack, u32 slot)
{
	u64 old = atomic64_read(stack), seen;

	for (;;) {
		WRITE_ONCE(rsv->next[slot - 1], (u32)old);
		seen = atomic64_cmpxchg(stack, old,
					((old >> 32) + 1) << 32 | slot);
		if (seen == old)
			break;
		old = seen;
	}
}

/* One slot of a reserve, whole. */
static notrace bool reserve_take_slot(struct bpf_mem_cache *mc,
				      struct bpf_mem_reserve *rsv,
				      struct chain *ch)
{
	u32 slot = rsv ? slot_pop(rsv, &rsv->full) : 0;
	void *first;

	if (!slot)
		return false;
	first = rsv->slots[slot - 1];
	rsv->slots[slot - 1] = NULL;
	slot_push(rsv, &rsv->empty, slot);
	make_chain(first, mc->link_off, ch);
	atomic_long_sub(ch->nr, &mc->nr_ready);
	return true;
}

/*
 * From what bursts have taught, and what is @declared. Interrupts are off, which
 * keeps the former from being freed: see reserve_resize().
 */
static notrace bool reserve_take(struct bpf_mem_cache *mc, bool declared,
				 struct chain *ch)
{
	if (reserve_take_slot(mc, READ_ONCE(mc->reserve), ch)) {
		WRITE_ONCE(mc->last_burst, jiffies);
		return true;
	}
	return declared && reserve_take_slot(mc, mc->declared, ch);
}

static __always_inline void **empty_slot(void **slots, u32 nr)
{
	u32 i;

	for (i = 0; i < nr; i++)
		if (!READ_ONCE(slots[i]))
			return &slots[i];
	return NULL;
}

static __always_inline bool reserve_is_low(struct bpf_mem_reserve *rsv)
{
	return rsv && (u32)atomic64_read(&rsv->empty);
}

/* An empty slot, or 0, to be filled or pushed back */
static __always_inline u32 reserve_gap(struct bpf_mem_reserve *rsv)
{
	return rsv ? slot_pop(rsv, &rsv->empty) : 0;
}

/* Fill a slot with a chain that ends with NULL */
static notrace void reserve_put(struct bpf_mem_cache *mc,
				struct bpf_mem_reserve *rsv, u32 slot,
				struct chain *ch)
{
	atomic_long_add(ch->nr, &mc->nr_ready);
	rsv->slots[slot - 1] = ch->first;
	slot_push(rsv, &rsv->full, slot);
}

/* Then there are no new objects for @mc, from wherever */
static __always_inline bool too_many_wait(struct bpf_mem_cache *mc)
{
	return mc->max_waiting &&
	       atomic_long_read(&mc->nr_waiting) >= mc->max_waiting;
}

/*
 * An object of the pool has its per-CPU area in the first word, since those
 * who share the pool may have it elsewhere.
 */
static notrace bool pool_take(struct bpf_mem_cache *mc, struct chain *ch)
{
	struct bpf_mem_pool *pool = mc->pool;
	u32 i, cpu = raw_smp_processor_id();
	void **slot, *obj, *area;

	/* nobody gets at memory beyond the limit of the cgroup this way */
	if (READ_ONCE(mc->in_debt) || too_many_wait(mc))
		return false;
	for (i = 0; i < pool->nr_slots; i++) {
		slot = &pool->slots[(cpu + i) % pool->nr_slots];
		if (!READ_ONCE(*slot))
			continue;
		obj = xchg(slot, NULL);
		if (!obj)
			continue;
		area = *(void **)obj;
		*(void **)obj = NULL;
		show_object(pool, obj);
		obj += mc->head_room;
		if (pool->percpu_size)
			*(void **)(obj + mc->percpu_off) = area;
		hide_object(pool, obj - mc->head_room,
			    link_of(obj, mc->link_off));
		chain_add(ch, obj, mc->link_off);
		atomic_inc(&mc->borrowed);
		atomic_long_inc(&mc->nr_objs);
		return true;
	}
	return false;
}

static __always_inline void queue_service(struct bpf_mem_service *svc,
					  struct bpf_mem_cpu *c)
{
	struct bpf_mem_cpu *old;

	do {
		old = READ_ONCE(svc->head);
		c->next_service = old;
	} while (cmpxchg(&svc->head, old, c) != old);
}

/*
 * Ask this CPU's irq_work for objects, or to take some away. Interrupts are
 * off; an NMI may come in anywhere, hence the xchg() that lets one of the two
 * queue @c.
 */
static notrace void request_service(struct bpf_mem_cpu *c)
{
	struct bpf_mem_service *svc = raw_cpu_ptr(&bpf_mem_service);

	if (READ_ONCE(c->service) == SERVICE_WANTED ||
	    xchg(&c->service, SERVICE_WANTED) != SERVICE_IDLE)
		return;
	queue_service(svc, c);
	if (!READ_ONCE(svc->running) && !READ_ONCE(svc->throttled))
		irq_work_queue(&svc->work);
}

/*
 * Have a grace period begin for what was pushed. While one is on its way the
 * worker comes by after it, see gp_finish(): irq_work could do nothing.
 */
static __always_inline void request_gp(struct bpf_mem_cpu *c)
{
	if (atomic_read(&c->cache->gp) == GP_IDLE)
		request_service(c);
}

/* Where nothing came, ask once a jiffy */
static __always_inline void request_objects(struct bpf_mem_cpu *c)
{
	if (READ_ONCE(c->starved) != (u32)jiffies)
		request_service(c);
}

/*
 * What a CPU may keep. One that has not refilled its list lately does not get
 * by with what others free to it either.
 */
static __always_inline u32 cpu_most(struct bpf_mem_cpu *c)
{
	return READ_ONCE(c->idle) ? c->cache->max_idle : c->cache->max_cached;
}

/* Does the worker have to come by when this CPU's list has not been used? */
static __always_inline bool want_trim(struct bpf_mem_cpu *c)
{
	struct bpf_mem_cache *mc = c->cache;

	if (!mc->lean || READ_ONCE(c->cnt) <= mc->max_idle)
		return false;
	/* pairs with that in lean_trim(): it sees the list, or we see this */
	smp_mb();
	return !READ_ONCE(mc->trimming);
}

/* @c->head is ours: interrupts are off and busy was clear */
static __always_inline void cpu_enter(struct bpf_mem_cpu *c)
{
	WRITE_ONCE(c->busy, 1);
	barrier();	/* against an NMI on this CPU */
}

static __always_inline void cpu_leave(struct bpf_mem_cpu *c)
{
	barrier();	/* against an NMI on this CPU */
	WRITE_ONCE(c->busy, 0);
}

/* Put a chain in front of this CPU's list */
static __always_inline void cpu_splice(struct bpf_mem_cpu *c, struct chain *ch)
{
	*link_of(ch->last, c->link_off) = c->head;
	c->head = ch->first;
	WRITE_ONCE(c->cnt, c->cnt + ch->nr);
}

/* What NMIs have freed while the list was busy */
static __always_inline void cpu_drain_nested(struct bpf_mem_cpu *c)
{
	struct chain ch;
	void *first;

	if (!READ_ONCE(c->nested))
		return;
	first = xchg(&c->nested, NULL);
	if (!first)
		return;
	make_chain(first, c->link_off, &ch);
	cpu_splice(c, &ch);
}

/*
 * Move the front of this CPU's list to the reserves, or towards slab: what is
 * more than it may keep, and if @declared, what is missing of the reserve that
 * the owner asked for. Returns true if there was surplus.
 */
static notrace bool cpu_give_surplus(struct bpf_mem_cpu *c, bool declared)
{
	struct bpf_mem_cache *mc = c->cache;
	struct bpf_mem_reserve *rsv;
	bool surplus = false;
	struct chain ch;
	u32 gap, n;

	while (c->cnt) {
		rsv = declared ? mc->declared : NULL;
		gap = reserve_gap(rsv);
		if (!gap) {
			if (c->cnt <= cpu_most(c))
				break;
			surplus = true;
			rsv = READ_ONCE(mc->reserve);
			gap = reserve_gap(rsv);
		}
		n = gap ? rsv->slot_objs : mc->max_batch;
		n = clamp_t(u32, n, 1, c->cnt);
		ch.first = c->head;
		ch.last = ch.first;
		for (ch.nr = 1; ch.nr < n; ch.nr++)
			ch.last = *link_of(ch.last, c->link_off);
		c->head = *link_of(ch.last, c->link_off);
		WRITE_ONCE(c->cnt, c->cnt - n);
		*link_of(ch.last, c->link_off) = NULL;
		if (gap)
			reserve_put(mc, rsv, gap, &ch);
		else
			give_up(mc, &ch);
	}
	return surplus;
}

/*
 * All of this CPU's list for who asked for it, whom slab does not serve. Returns
 * true if there was any.
 */
static __always_inline bool cpu_give_all(struct bpf_mem_cpu *c)
{
	struct chain ch;

	if (!c->cnt)
		return false;
	make_chain(c->head, c->link_off, &ch);
	c->head = NULL;
	stock_put(c->cache, &ch);
	/* who sees this in take_from_cpus() sees the stock, too */
	smp_store_release(&c->cnt, 0);
	return true;
}

/* @cnt is what the list has, and not 0 */
static __always_inline void *cpu_pop(struct bpf_mem_cpu *c, u32 cnt)
{
	void *obj = c->head;

	c->head = *link_of(obj, c->link_off);
	WRITE_ONCE(c->cnt, cnt - 1);
	return obj;
}

/* Nothing anywhere: say so, and let the reserve learn from it */
static __always_inline void alloc_failed(struct bpf_mem_cpu *c)
{
	atomic_inc(&c->failed);
	if (!c->cache->lean)
		WRITE_ONCE(c->cache->last_burst, jiffies);
	/* the worker has to hear of it, though nothing came in this jiffy */
	if (atomic_inc_return(&c->cache->missed) == 1)
		request_service(c);
}

/* An NMI has hit the middle of a change to this CPU's list */
static noinline notrace void *alloc_nested(struct bpf_mem_cpu *c, bool retry)
{
	struct bpf_mem_cache *mc = c->cache;
	struct chain ch = {};
	void *first;

	first = xchg(&c->nested, NULL);
	if (first)
		make_chain(first, c->link_off, &ch);
	else
		depot_take(mc, 1, false, &ch);
	if (!ch.nr && !reserve_take(mc, true, &ch) && !pool_take(mc, &ch)) {
		if (!retry)
			alloc_failed(c);
		request_objects(c);
		return NULL;
	}
	first = ch.first;
	ch.first = *link_of(first, c->link_off);
	if (--ch.nr)
		push_shared(&c->nested, &ch, c->link_off);
	request_objects(c);
	return first;
}

/* This CPU's list is low or empty, interrupts are off, and cpu_enter() done */
static noinline notrace void *alloc_slow(struct bpf_mem_cpu *c, bool retry,
					 bool declared)
{
	struct bpf_mem_cache *mc = c->cache;
	struct chain ch = {};
	void *obj = NULL;

	WRITE_ONCE(c->idle, LIST_ACTIVE);
	if (!c->cnt)
		cpu_drain_nested(c);
	if (!c->cnt) {
		depot_take(mc, c->batch, false, &ch);
		if (ch.nr)
			atomic_add(ch.nr, &mc->burst);
		if (ch.nr || reserve_take(mc, declared, &ch) ||
		    pool_take(mc, &ch))
			cpu_splice(c, &ch);
	}
	if (c->cnt)
		obj = cpu_pop(c, c->cnt);
	cpu_leave(c);
	if (!obj && !retry)
		alloc_failed(c);
	if (unlikely(want_trim(c)))
		request_service(c);
	else
		request_objects(c);
	return obj;
}

/*
 * @retry: this context may refill, so a failure is not one yet
 * @declared: it may not, so that it gets what is kept ready for such
 */
static __always_inline void *alloc_irqoff(struct bpf_mem_cpu *c, bool retry,
					  bool declared)
{
	void *obj;
	u32 cnt;

	if (unlikely(READ_ONCE(c->busy)))
		return shown(c->cache, alloc_nested(c, retry));
	cpu_enter(c);
	cnt = c->cnt;
	if (unlikely(cnt <= c->wake))
		return shown(c->cache, alloc_slow(c, retry, declared));
	obj = cpu_pop(c, cnt);
	cpu_leave(c);
	return shown(c->cache, obj);
}

/*
 * The list is long (@obj is NULL), or an NMI could not reach it. What one of
 * those who cannot make objects has taken is theirs again first.
 */
static noinline notrace void free_slow(struct bpf_mem_cpu *c, void *obj)
{
	struct bpf_mem_cache *mc = c->cache;
	struct chain ch = { obj, obj, 1 };
	bool surplus;
	u32 gap;

	if (obj) {
		gap = reserve_gap(mc->declared);
		if (gap) {
			*link_of(obj, c->link_off) = NULL;
			reserve_put(mc, mc->declared, gap, &ch);
			return;
		}
		push_shared(&c->nested, &ch, c->link_off);
		request_service(c);
		return;
	}
	cpu_enter(c);
	surplus = cpu_give_surplus(c, true);
	cpu_leave(c);
	if (want_trim(c))
		request_service(c);
	else if (surplus)
		request_gp(c);
}

static __always_inline void free_irqoff(struct bpf_mem_cpu *c, void *obj)
{
	u32 cnt;

	if (quarantined(c->cache) && !reserve_is_low(c->cache->declared)) {
		struct chain ch = { obj, obj, 1 };

		give_up(c->cache, &ch);
		request_gp(c);
		return;
	}
	if (unlikely(READ_ONCE(c->busy))) {
		free_slow(c, obj);
		return;
	}
	cpu_enter(c);
	*link_of(obj, c->link_off) = c->head;
	c->head = obj;
	cnt = c->cnt + 1;
	WRITE_ONCE(c->cnt, cnt);
	cpu_leave(c);
	if (unlikely(cnt > c->high))
		free_slow(c, NULL);
}

/* Nobody gets this one before its grace period is over */
static notrace void hold(struct bpf_mem_cpu *c, void *obj)
{
	struct bpf_mem_cache *mc = c->cache;
	struct chain ch = { obj, obj, 1 };

	atomic_long_inc(&mc->nr_waiting);
	push_shared(&mc->held, &ch, c->link_off);
	request_gp(c);
}

/*
 * From here on: slab, per-CPU allocator, RCU. No free comes here, and an alloc by
 * refill_direct() only.
 */

static void slab_free(struct bpf_mem_pool *pool, void *obj, void *area)
{
	show_object(pool, obj);
	if (pool->percpu_size)
		free_percpu((void __percpu *)area);
	if (pool->slab)
		kmem_cache_free(pool->slab->kc, obj);
	else
		kfree(obj);
}

static void *slab_alloc(struct bpf_mem_pool *pool, gfp_t gfp, void **area)
{
	void *obj;

	gfp |= __GFP_NOWARN;
	if (pool->slab)
		obj = kmem_cache_alloc_node(pool->slab->kc, gfp,
					    pool->numa_node);
	else
		obj = kmalloc_node(pool->size, gfp, pool->numa_node);
	if (!obj || !pool->percpu_size)
		return obj;
	/* it knows no __GFP_RETRY_MAYFAIL, and would have somebody killed */
	*area = (__force void *)__alloc_percpu_gfp(pool->percpu_size, 8,
						   gfp | __GFP_NORETRY);
	if (!*area) {
		slab_free(pool, obj, NULL);
		return NULL;
	}
	return obj;
}

static void destroy_object(struct bpf_mem_cache *mc, void *obj)
{
	void *area = NULL;

	if (mc->pool->percpu_size)
		area = *(void **)(shown(mc, obj) + mc->percpu_off);
	slab_free(mc->pool, obj - mc->head_room, area);
}

static void *create_object(struct bpf_mem_cache *mc, gfp_t gfp)
{
	void *obj, *area;

	/* once: what a former life left in an object may be in use still */
	if (!mc->uncleared)
		gfp |= __GFP_ZERO;
	obj = slab_alloc(mc->pool, gfp, &area);
	if (!obj)
		return NULL;
	obj += mc->head_room;
	if (mc->pool->percpu_size)
		*(void **)(obj + mc->percpu_off) = area;
	hide_object(mc->pool, obj - mc->head_room, link_of(obj, mc->link_off));
	return obj;
}

static int charge(struct obj_cgroup *objcg, size_t bytes, gfp_t gfp)
{
	return objcg ? bpf_mem_charge(objcg, gfp, bytes) : 0;
}

static void uncharge(struct obj_cgroup *objcg, size_t bytes)
{
	if (!objcg)
		return;
	for (; bytes > CHARGE_MAX; bytes -= CHARGE_MAX)
		obj_cgroup_uncharge(objcg, CHARGE_MAX);
	if (bytes)
		obj_cgroup_uncharge(objcg, bytes);
}

/* Have the owner pay for what came from the pool, and is in use still */
static void settle(struct bpf_mem_cache *mc, gfp_t gfp)
{
	int n = atomic_read(&mc->borrowed), now, paid;

	if (n && charge(mc->objcg, (size_t)n * mc->charge,
			gfp | __GFP_NOWARN)) {
		WRITE_ONCE(mc->in_debt, true);
		return;
	}
	now = atomic_read(&mc->borrowed);
	do {
		paid = min(n, now);
	} while (!atomic_try_cmpxchg(&mc->borrowed, &now, now - paid));
	uncharge(mc->objcg, (size_t)(n - paid) * mc->charge);
	WRITE_ONCE(mc->in_debt, false);
}

/* Objects that were never paid for do not pay back */
static void uncharge_objects(struct bpf_mem_cache *mc, u32 n)
{
	u32 debt = atomic_xchg(&mc->borrowed, 0);

	if (debt > n) {
		atomic_add(debt - n, &mc->borrowed);
		debt = n;
	}
	uncharge(mc->objcg, (size_t)(n - debt) * mc->charge);
}

/*
 * Make up to @n objects, charged in one go if the cgroup has that much left.
 * Returns false if it did not try, since too many wait.
 */
static bool create_chain(struct bpf_mem_cache *mc, u32 n, gfp_t gfp,
			 struct chain *ch)
{
	void *obj;
	u32 i;

	if (unlikely(too_many_wait(mc)))
		return false;
	if (unlikely((u64)n * mc->charge > CHARGE_MAX))
		n = max(CHARGE_MAX / mc->charge, 1U);
	gfp |= __GFP_NOWARN;
	if (charge(mc->objcg, (size_t)n * mc->charge, gfp)) {
		n = 1;
		if (charge(mc->objcg, mc->charge, gfp))
			return true;
	}
	for (i = 0; i < n; i++) {
		obj = create_object(mc, gfp);
		if (!obj)
			break;
		chain_add(ch, obj, mc->link_off);
	}
	uncharge(mc->objcg, (size_t)(n - i) * mc->charge);
	atomic_long_add(i, &mc->nr_objs);
	atomic_add(i, &mc->used);
	return true;
}

static void destroy_list(struct bpf_mem_cache *mc, void *first)
{
	u32 n = 0;

	while (first) {
		void *obj = first;

		first = *link_of(obj, mc->link_off);
		destroy_object(mc, obj);
		if (++n < DESTROY_BATCH && first)
			continue;
		atomic_long_sub(n, &mc->nr_objs);
		uncharge_objects(mc, n);
		/* last, and ordered: see none_waits() */
		atomic_long_sub_return(n, &mc->nr_waiting);
		n = 0;
		cond_resched();
	}
}

static void kick_worker(struct bpf_mem_cache *mc)
{
	mod_delayed_work(system_unbound_wq, &mc->work, 0);
}

static void gp_over(struct rcu_head *rcu)
{
	struct bpf_mem_cache *mc = container_of(rcu, struct bpf_mem_cache, rcu);

	/* pairs with synchronize_rcu() in cache_free() */
	rcu_read_lock();
	atomic_set_release(&mc->gp, GP_OVER);
	kick_worker(mc);
	rcu_read_unlock();
}

static void gp_over_trace(struct rcu_head *rcu)
{
	if (rcu_trace_implies_rcu_gp())
		gp_over(rcu);
	else
		call_rcu(rcu, gp_over);
}

/* Move what waits, if @more, to where the list of the last one was */
static noinline notrace void *gp_change(struct bpf_mem_cache *mc, bool more)
{
	unsigned long flags;
	void *old;

	raw_local_irq_save(flags);
	depot_lock(mc);
	old = mc->in_gp;
	WRITE_ONCE(mc->in_gp, more ? xchg(&mc->waiting, NULL) : NULL);
	depot_unlock(mc);
	raw_local_irq_restore(flags);
	return old;
}

/*
 * Start a grace period for all that waits, unless one is running: then this
 * is called again when it is over. A sleepable program whose map is marked
 * only now cannot find what was unlinked from the map before: xchg() orders
 * that against reading the mark, and pairs with smp_mb() where it is set.
 */
static bool gp_start(struct bpf_mem_cache *mc, bool force)
{
	if ((!READ_ONCE(mc->waiting) && !READ_ONCE(mc->held) && !force) ||
	    atomic_cmpxchg(&mc->gp, GP_IDLE, GP_RUNNING) != GP_IDLE)
		return false;
	gp_change(mc, true);
	WRITE_ONCE(mc->held_gp, xchg(&mc->held, NULL));
	if (READ_ONCE(mc->sleepable))
		call_rcu_tasks_trace(&mc->rcu, gp_over_trace);
	else
		call_rcu(&mc->rcu, gp_over);
	return true;
}

/*
 * What was held has no readers any more. Who used as many in the meantime is
 * going to do so again.
 */
static void reuse_held(struct bpf_mem_cache *mc)
{
	long keep = atomic_read(&mc->used);
	void *obj, *rest = mc->held_gp;
	struct chain ch = {};
	u32 n = 0;

	for (obj = rest; mc->release && obj;
	     obj = *link_of(obj, mc->link_off)) {
		mc->release(obj);
		if (!(++n % DESTROY_BATCH))
			cond_resched();
	}

	/* often the first one to be freed has a grace period of its own */
	atomic_sub(mc->lean ? (keep + 1) / 2 : keep, &mc->used);
	if (mc->lean)
		keep = min_t(long, keep, mc->max_cached * num_online_cpus());
	/* at a limit nobody can make objects of what slab gets back */
	if (READ_ONCE(mc->awaited)) {
		WRITE_ONCE(mc->awaited, false);
		keep += mc->max_batch;
	}
	if (READ_ONCE(mc->dying))
		keep = 0;
	WRITE_ONCE(mc->held_gp, NULL);
	keep -= atomic_long_read(&mc->nr_ready);
	while (rest && keep-- > 0) {
		obj = rest;
		rest = *link_of(obj, mc->link_off);
		hide_object(mc->pool, obj - mc->head_room,
			    link_of(obj, mc->link_off));
		chain_add(&ch, obj, mc->link_off);
		if (!(ch.nr % DESTROY_BATCH))
			cond_resched();
	}
	if (ch.nr) {
		stock_put(mc, &ch);
		/* last, and ordered: see none_waits() */
		atomic_long_sub_return(ch.nr, &mc->nr_waiting);
		if (!mc->lean)
			WRITE_ONCE(mc->last_burst, jiffies);
	}
	destroy_list(mc, rest);
}

/* The grace period is over: what nobody asked for again goes back */
static void gp_finish(struct bpf_mem_cache *mc)
{
	if (atomic_read_acquire(&mc->gp) != GP_OVER)
		return;
	destroy_list(mc, gp_change(mc, false));
	reuse_held(mc);
	/* pairs with that in gp_passed(): what was reused is in stock */
	smp_store_release(&mc->gps, mc->gps + 1);
	atomic_set_release(&mc->gp, GP_IDLE);
	/*
	 * Pairs with the cmpxchg() before request_gp() looks at gp: either that
	 * sees GP_IDLE, or the gp_start() which comes next sees what was pushed.
	 */
	smp_mb();
	wake_up_var(&mc->nr_waiting);
}

/*
 * Objects that lie nowhere for a while count as one that waits: cache_fill() does
 * not fail meanwhile. Those that return something are ordered on both sides.
 */
static void move_begin(struct bpf_mem_cache *mc)
{
	atomic_long_inc_return(&mc->nr_waiting);
}

static void move_end(struct bpf_mem_cache *mc)
{
	atomic_long_dec_return(&mc->nr_waiting);
}

/* Give up all that lies in a list which nobody uses any more */
static u32 drain_list(struct bpf_mem_cache *mc, void **list)
{
	struct chain ch = {};
	void *first;

	move_begin(mc);
	first = xchg(list, NULL);
	if (first) {
		make_chain(first, mc->link_off, &ch);
		give_up(mc, &ch);
	}
	move_end(mc);
	return ch.nr;
}

/*
 * Fill what is empty in a reserve. Only one task at a time calls this, but
 * programs may empty it in the meantime. What is declared can be taken as often
 * as it is freed, so that new objects each time would be too many.
 */
static bool reserve_fill(struct bpf_mem_cache *mc, struct bpf_mem_reserve *rsv)
{
	unsigned long flags;
	u32 gap, i;

	for (i = 0; rsv && i < rsv->nr_slots; i++) {
		struct chain ch = {};

		gap = reserve_gap(rsv);
		if (!gap)
			break;
		if (rsv == mc->declared && !quarantined(mc)) {
			raw_local_irq_save(flags);
			depot_take(mc, rsv->slot_objs, true, &ch);
			raw_local_irq_restore(flags);
		}
		if (ch.nr < rsv->slot_objs)
			create_chain(mc, rsv->slot_objs - ch.nr, GFP_FILL, &ch);
		if (ch.nr < rsv->slot_objs) {
			slot_push(rsv, &rsv->empty, gap);
			if (ch.nr)
				stock_put(mc, &ch);
			return false;
		}
		reserve_put(mc, rsv, gap, &ch);
		if (fatal_signal_pending(current))
			return false;
		cond_resched();
	}
	return true;
}

/* What it takes, but for the objects */
static u64 reserve_bytes(u32 nr_slots)
{
	return sizeof(struct bpf_mem_reserve) +
	       (u64)nr_slots * (sizeof(void *) + sizeof(u32));
}

static struct bpf_mem_reserve *reserve_create(u32 nr_slots, u32 slot_objs)
{
	struct bpf_mem_reserve *rsv;
	u32 i;

	rsv = bpf_map_area_alloc(reserve_bytes(nr_slots), NUMA_NO_NODE);
	if (!rsv)
		return NULL;
	rsv->nr_slots = nr_slots;
	rsv->slot_objs = slot_objs;
	rsv->next = (u32 *)&rsv->slots[nr_slots];
	for (i = nr_slots; i; i--) {
		slot_push(rsv, &rsv->empty, i);
		if (!(i % DESTROY_BATCH))
			cond_resched();
	}
	return rsv;
}

static void reserve_drain(struct bpf_mem_cache *mc, struct bpf_mem_reserve *rsv)
{
	u32 i;

	for (i = 0; rsv && i < rsv->nr_slots; i++) {
		atomic_long_sub(drain_list(mc, &rsv->slots[i]), &mc->nr_ready);
		if (!(i % DESTROY_BATCH))
			cond_resched();
	}
}

/* Have the reserve hold @want objects, and drop the old one */
static void reserve_resize(struct bpf_mem_cache *mc, u32 want)
{
	struct bpf_mem_reserve *rsv = NULL, *old;
	u32 n;

	move_begin(mc);
	if (want) {
		n = clamp_t(u32, want / RESERVE_SLOTS, 1, mc->max_batch);
		rsv = reserve_create(DIV_ROUND_UP(want, n), n);
		if (!rsv)
			goto out;
		reserve_fill(mc, rsv);
	}
	old = xchg(&mc->reserve, rsv);
	if (old) {
		/* those who looked at it had interrupts off */
		synchronize_rcu();
		reserve_drain(mc, old);
		bpf_map_area_free(old);
	}
out:
	move_end(mc);
}

/*
 * Keep @n objects for those who cannot make any, each in a slot of its own, so
 * that nobody takes more than it uses. Whatever is freed fills them up again
 * before it goes anywhere else. On each CPU an NMI and who it interrupts may be
 * about to fill a slot, which nobody else can do then.
 */
static int reserve_declare(struct bpf_mem_cache *mc, u32 n)
{
	int cpu;

	if (n > INT_MAX / 2)
		return -ENOMEM;
	n += 2 * num_possible_cpus();
	mc->declared = reserve_create(n, 1);
	if (!mc->declared)
		return -ENOMEM;
	for_each_possible_cpu(cpu)
		per_cpu_ptr(mc->pcpu, cpu)->high = 0;
	if (reserve_fill(mc, mc->declared))
		return 0;
	return fatal_signal_pending(current) ? -EINTR : -ENOMEM;
}

/* Fill the pool up */
static bool pool_fill(struct bpf_mem_pool *pool, gfp_t gfp)
{
	void **gap, *obj, *area;
	u32 i;

	for (i = 0; i < pool->nr_slots; i++) {
		gap = empty_slot(pool->slots, pool->nr_slots);
		if (!gap)
			return true;
		area = NULL;
		obj = slab_alloc(pool, gfp | __GFP_ZERO, &area);
		if (!obj)
			return false;
		*(void **)obj = area;
		hide_object(pool, obj, obj);
		if (cmpxchg(gap, NULL, obj)) {
			slab_free(pool, obj, area);
			return true;
		}
	}
	return true;
}

/* A burst makes room for what it did not find, and one full list */
static void reserve_learn(struct bpf_mem_cache *mc)
{
	u32 missed = atomic_xchg(&mc->missed, 0);
	u32 burst = atomic_xchg(&mc->burst, 0);
	struct bpf_mem_reserve *rsv = mc->reserve;
	u32 has = rsv ? rsv->nr_slots * rsv->slot_objs : 0;
	u32 want = has;

	if (mc->lean)
		return;
	if (missed) {
		want += missed + burst + POOL_SLOTS + 2 * mc->max_batch;
		want = round_up(want, RESERVE_SLOTS);
		want = min3(want, (u32)RESERVE_MAX_OBJS,
			    (u32)RESERVE_MAX_BYTES / mc->charge);
		want = max(want, has);
	} else if (time_after(jiffies, READ_ONCE(mc->last_burst) +
			      RESERVE_KEEP)) {
		want = 0;
	}
	if (want != has)
		reserve_resize(mc, want);
}

static __always_inline void set_batch(struct bpf_mem_cpu *c, u32 batch)
{
	/* bpf_mem_cache_fill() may look at it from another CPU */
	WRITE_ONCE(c->batch, min_t(u32, batch, c->cache->max_batch));
	WRITE_ONCE(c->low, max(c->batch * 2 / 3, 1));
	c->wake = c->low / 2;
}

/*
 * Bring this CPU's list above its low mark, first from what the map has, then
 * from slab unless @gfp is 0. The caller stays on this CPU, and holds the
 * guard or is irq_work. Returns how many objects are missing.
 */
static notrace u32 refill(struct bpf_mem_cpu *c, gfp_t gfp)
{
	struct bpf_mem_cache *mc = c->cache;
	bool last_resort = quarantined(mc) && !READ_ONCE(mc->stock);
	struct chain ch = {};
	unsigned long flags;
	u32 want = 0;

	raw_local_irq_save(flags);
	cpu_enter(c);
	cpu_drain_nested(c);
	if (c->cnt < c->low) {
		WRITE_ONCE(c->idle, LIST_ACTIVE);
		want = c->batch;
		if (!last_resort)
			depot_take(mc, want, true, &ch);
		want -= ch.nr;
		if (ch.nr)
			cpu_splice(c, &ch);
	}
	cpu_leave(c);
	raw_local_irq_restore(flags);
	if (!want || !gfp || READ_ONCE(mc->dying))
		return want;

	ch = (struct chain){};
	create_chain(mc, want, gfp, &ch);
	raw_local_irq_save(flags);
	cpu_enter(c);
	if (last_resort && ch.nr < want)
		depot_take(mc, want - ch.nr, true, &ch);
	if (ch.nr)
		cpu_splice(c, &ch);
	/* a CPU that goes on asking gets more at a time */
	set_batch(c, c->batch * 2);
	cpu_leave(c);
	raw_local_irq_restore(flags);
	return want - ch.nr;
}

/*
 * In irq_work: give back what is too much, and what others asked for. They may
 * ask again at any time, so their mark goes before the objects do.
 */
static notrace void cpu_trim(struct bpf_mem_cpu *c)
{
	bool asked = READ_ONCE(c->idle) == LIST_GIVES_ALL;
	struct bpf_mem_cache *mc = c->cache;
	unsigned long flags;
	bool given;

	raw_local_irq_save(flags);
	cpu_enter(c);
	if (asked)
		WRITE_ONCE(c->idle, LIST_IDLE);
	cpu_drain_nested(c);
	given = asked ? cpu_give_all(c) : cpu_give_surplus(c, false);
	if (given && mc->lean && READ_ONCE(c->idle))
		set_batch(c, FIRST_BATCH);
	cpu_leave(c);
	raw_local_irq_restore(flags);
	if (!asked)
		return;
	/* the worker drops the stock when nobody wants it */
	if (!mc->lean)
		WRITE_ONCE(mc->last_burst, jiffies);
	kick_worker(mc);
}

/* Who has put objects into this CPU's list may be the last one to use it */
static __always_inline void report_surplus(struct bpf_mem_cpu *c)
{
	unsigned long flags;

	if (likely(!want_trim(c)))
		return;
	raw_local_irq_save(flags);
	request_service(c);
	raw_local_irq_restore(flags);
}

/* The guard of refill_direct(): a bit for each kind of context */
static __always_inline u32 refill_bit(void)
{
	return in_irq() ? 4 : in_serving_softirq() ? 2 : 1;
}

/*
 * Refill at once, if this context may. The guard keeps programs that are
 * attached to the allocation path from coming here again; an interrupt that
 * changes the word puts it back before it returns.
 */
static notrace bool refill_direct(struct bpf_mem_cpu __percpu *pcpu)
{
	struct bpf_mem_service *svc;
	struct bpf_mem_cpu *c;
	bool ok;
	u32 bit;

	if (raw_irqs_disabled() || in_nmi())
		return false;
	preempt_disable_notrace();
	svc = raw_cpu_ptr(&bpf_mem_service);
	c = raw_cpu_ptr(pcpu);
	bit = refill_bit();
	if (!(READ_ONCE(svc->refilling) & bit)) {
		WRITE_ONCE(svc->refilling, READ_ONCE(svc->refilling) | bit);
		barrier();
		refill(c, IS_ENABLED(CONFIG_PREEMPT_RT) ? 0 : GFP_NOW);
		barrier();
		WRITE_ONCE(svc->refilling, READ_ONCE(svc->refilling) & ~bit);
		report_surplus(c);
	}
	ok = READ_ONCE(c->cnt);
	preempt_enable_notrace();
	return ok;
}

/*
 * Could refill_direct() have made objects where interrupts were as @flags tell?
 * They are off now.
 */
static __always_inline bool may_refill(unsigned long flags)
{
	struct bpf_mem_service *svc = raw_cpu_ptr(&bpf_mem_service);

	return !IS_ENABLED(CONFIG_PREEMPT_RT) &&
	       !raw_irqs_disabled_flags(flags) && !in_nmi() &&
	       !(READ_ONCE(svc->refilling) & refill_bit());
}

/* The worker is going to look for lists that are idle */
static void lean_start(struct bpf_mem_cache *mc)
{
	WRITE_ONCE(mc->last_burst, jiffies);
	WRITE_ONCE(mc->trimming, true);
}

/*
 * In irq_work, on the CPU of @c. On PREEMPT_RT that is in a thread of this CPU,
 * which may sleep for the locks of the allocators as others may.
 */
static notrace void service(struct bpf_mem_cpu *c)
{
	struct bpf_mem_cache *mc = c->cache;
	unsigned long retry = READ_ONCE(mc->retry);
	bool may_create, pool_low;
	u32 missing;

	/* atomic per-CPU allocation has little to give: the worker does it */
	may_create = !mc->pool->percpu_size && !READ_ONCE(mc->dying);

	/*
	 * Where an idle CPU may keep none, those who can make one do. Who only
	 * frees needs none.
	 */
	missing = 0;
	if (READ_ONCE(c->idle) != LIST_GIVES_ALL &&
	    (!mc->lean || (mc->max_idle && !READ_ONCE(c->idle))))
		missing = refill(c, may_create ? GFP_NOW : 0);
	if (missing) {
		WRITE_ONCE(c->starved, (u32)jiffies);
		if (!mc->lean)
			atomic_add(missing, &mc->want);
	}
	cpu_trim(c);
	if (want_trim(c)) {
		lean_start(mc);
		queue_delayed_work(system_unbound_wq, &mc->work, LEAN_KEEP);
	}

	settle(mc, GFP_NOW);
	if (may_create)
		pool_fill(mc->pool, GFP_NOW);
	pool_low = empty_slot(mc->pool->slots, mc->pool->nr_slots);
	gp_start(mc, false);
	if (mc->lean)	/* who found nothing has got to do without */
		return;
	if (!missing && !pool_low && !reserve_is_low(READ_ONCE(mc->reserve)) &&
	    !reserve_is_low(mc->declared) &&
	    !READ_ONCE(mc->in_debt) && !atomic_read(&mc->missed))
		atomic_set(&mc->burst, 0);
	else if (!retry || time_after(jiffies, retry))
		kick_worker(mc);
}

/*
 * What asks for service while this runs comes from NMIs and from programs on
 * the allocation path; on PREEMPT_RT also from tasks. Those may eat up all
 * that a refill brings, so the second time the worker has to do it, and after
 * that the timer.
 */
static notrace void service_run(struct bpf_mem_service *svc)
{
	struct bpf_mem_cpu *c, *next;
	int round;

	WRITE_ONCE(svc->running, true);
	barrier();
	for (round = 0; round < 2; round++) {
		for (c = xchg(&svc->head, NULL); c; c = next) {
			next = c->next_service;
			xchg(&c->service, SERVICE_RUNNING);
			if (!round) {
				service(c);
			} else {
				/* what NMIs could not free to the list */
				if (READ_ONCE(c->idle) == LIST_GIVES_ALL)
					cpu_trim(c);
				else
					refill(c, 0);
				if (want_trim(c))
					lean_start(c->cache);
				kick_worker(c->cache);
			}
			/* when idle, @c is the destroyer's */
			if (cmpxchg(&c->service, SERVICE_RUNNING,
				    SERVICE_IDLE) != SERVICE_RUNNING)
				queue_service(svc, c);
		}
	}
	barrier();
	WRITE_ONCE(svc->running, false);
}

/*
 * A program on irq_work's tracepoints, say, that asks each time it is called
 * would have irq_work follow on irq_work, and nothing else run on this CPU, not
 * even the tick. After SERVICE_RUNS in a row who asks waits for a timer, at
 * least as long as three quarters of those took. A row ends when the timer gets
 * in. Not in jiffies: the CPU which counts them may be this one.
 */
static notrace void service_irq_work(struct irq_work *work)
{
	struct bpf_mem_service *svc = raw_cpu_ptr(&bpf_mem_service);
	unsigned long flags;
	u64 now;

	/* a reserve that is looked at stays, see reserve_resize() */
	rcu_read_lock();
	service_run(svc);
	rcu_read_unlock();

	/* on PREEMPT_RT they are on */
	local_irq_save(flags);
	if (svc->throttled)
		goto out;
	svc->runs++;
	if (svc->runs == SERVICE_RUNS / 4) {
		svc->since = ktime_get_mono_fast_ns();
	} else if (svc->runs >= SERVICE_RUNS || READ_ONCE(svc->head)) {
		now = ktime_get_mono_fast_ns();
		svc->until = now + TICK_NSEC;
		if (svc->runs >= SERVICE_RUNS)
			svc->until = max(svc->until, now + now - svc->since);
		WRITE_ONCE(svc->throttled, true);
	} else {
		goto out;
	}
	mod_timer(&svc->timer, jiffies + 1);
out:
	local_irq_restore(flags);
}

static void service_timer(struct timer_list *timer)
{
	struct bpf_mem_service *svc = from_timer(svc, timer, timer);
	unsigned long flags;
	s64 left;

	local_irq_save(flags);
	left = svc->until - ktime_get_mono_fast_ns();
	if (svc != raw_cpu_ptr(&bpf_mem_service)) {
		/* its CPU has died, and service_dead_cpu() sees to it */
	} else if (svc->throttled && left > 0) {
		mod_timer(timer, jiffies + 1 + nsecs_to_jiffies(left));
	} else {
		svc->runs = 0;
		WRITE_ONCE(svc->throttled, false);
		/* against NMI: who has seen it throttled is in the list */
		barrier();
		if (READ_ONCE(svc->head))
			irq_work_queue(&svc->work);
	}
	local_irq_restore(flags);
}

/* All that the list of a CPU has, when nobody uses that any more */
static void drain_cpu(struct bpf_mem_cache *mc, int cpu)
{
	struct bpf_mem_cpu *c = per_cpu_ptr(mc->pcpu, cpu);

	drain_list(mc, &c->head);
	WRITE_ONCE(c->cnt, 0);
	drain_list(mc, &c->nested);
}

/*
 * An offline CPU has no irq_work, and no context but this one. Others can have
 * what its lists hold.
 */
static int service_dead_cpu(unsigned int cpu)
{
	struct bpf_mem_service *svc = per_cpu_ptr(&bpf_mem_service, cpu);
	struct bpf_mem_cache *mc;

	rcu_read_lock();
	service_run(svc);
	rcu_read_unlock();
	del_timer_sync(&svc->timer);
	svc->runs = 0;
	WRITE_ONCE(svc->throttled, false);
	mutex_lock(&caches_mutex);
	list_for_each_entry(mc, &caches, list) {
		drain_cpu(mc, cpu);
		gp_start(mc, false);
	}
	mutex_unlock(&caches_mutex);
	return 0;
}

static void cache_free(struct bpf_mem_cache *mc);

/*
 * One step of destroying @mc. All users are gone, but an irq_work may still
 * be at work on a CPU's list.
 */
static void destroy_step(struct bpf_mem_cache *mc)
{
	int cpu;

	if (atomic_read(&mc->gp) != GP_IDLE)
		return;
	if (mc->drained) {
		cache_free(mc);
		return;
	}
	/* a CPU that dies now has its lists drained here, and here only */
	mutex_lock(&caches_mutex);
	list_del_init(&mc->list);
	mutex_unlock(&caches_mutex);
	for_each_possible_cpu(cpu) {
		struct bpf_mem_cpu *c = per_cpu_ptr(mc->pcpu, cpu);

		/* pairs with the cmpxchg() in service_run() */
		while (smp_load_acquire(&c->service) != SERVICE_IDLE)
			schedule_timeout_uninterruptible(1);
		drain_cpu(mc, cpu);
	}
	reserve_drain(mc, mc->reserve);
	reserve_drain(mc, mc->declared);
	drain_list(mc, &mc->stock);
	/* else an irq_work came first, and its grace period leads here again */
	mc->drained = gp_start(mc, true);
}

/*
 * Ask the irq_work of @cpu to take away what @c, its list, may not keep. Whoever
 * sees SERVICE_WANTED takes it for queued: nothing comes in between.
 */
static void request_trim(struct bpf_mem_cpu *c, int cpu)
{
	struct bpf_mem_service *svc = per_cpu_ptr(&bpf_mem_service, cpu);
	unsigned long flags;

	raw_local_irq_save(flags);
	if (xchg(&c->service, SERVICE_WANTED) == SERVICE_IDLE) {
		queue_service(svc, c);
		irq_work_queue_on(&svc->work, cpu);
	}
	raw_local_irq_restore(flags);
}

/*
 * Have CPUs that have not refilled their lists since the last time give back
 * what is more than an idle one may keep, and when that is all of them, drop
 * the stock.
 */
static void lean_trim(struct bpf_mem_cache *mc)
{
	bool active = false, more = false;
	struct bpf_mem_cpu *c;
	int cpu;

	cpus_read_lock();
	for_each_online_cpu(cpu) {
		c = per_cpu_ptr(mc->pcpu, cpu);
		if (!READ_ONCE(c->idle)) {
			WRITE_ONCE(c->idle, LIST_IDLE);
			active = true;
		} else if (READ_ONCE(c->cnt) > mc->max_idle) {
			request_trim(c, cpu);
			more = true;
		}
	}
	cpus_read_unlock();
	/* one who is just taking some fails in its cmpxchg() */
	if (!active)
		atomic_long_sub(drain_list(mc, &mc->stock), &mc->nr_ready);
	if (active || more)
		return;
	WRITE_ONCE(mc->trimming, false);
	/* pairs with that in want_trim() */
	smp_mb();
	for_each_possible_cpu(cpu) {
		c = per_cpu_ptr(mc->pcpu, cpu);
		more |= READ_ONCE(c->cnt) > mc->max_idle;
	}
	if (more)
		WRITE_ONCE(mc->trimming, true);
}

/* The worker of an allocator that has next to nothing ready */
static void lean_work(struct bpf_mem_cache *mc)
{
	long delay;

	if (READ_ONCE(mc->stock) && !READ_ONCE(mc->trimming))
		lean_start(mc);
	delay = READ_ONCE(mc->last_burst) + LEAN_KEEP - jiffies;
	if (READ_ONCE(mc->trimming) && delay <= 0) {
		WRITE_ONCE(mc->last_burst, jiffies);
		lean_trim(mc);
		delay = LEAN_KEEP;
	}
	gp_start(mc, false);
	if (READ_ONCE(mc->trimming))
		queue_delayed_work(system_unbound_wq, &mc->work, delay);
}

/* The one worker of an allocator: all that may sleep or take long */
static void cache_work(struct work_struct *work)
{
	struct bpf_mem_cache *mc;
	struct chain ch = {};
	long delay;
	u32 want;
	bool ok;

	mc = container_of(to_delayed_work(work), struct bpf_mem_cache, work);
	gp_finish(mc);
	/* pairs with that in cache_destroy(): all that users did is seen */
	if (smp_load_acquire(&mc->dying)) {
		destroy_step(mc);
		return;
	}
	if (mc->lean) {
		lean_work(mc);
		return;
	}
	settle(mc, GFP_FILL);
	/* who was promised some comes before who is going to need some */
	ok = reserve_fill(mc, mc->declared);
	reserve_learn(mc);
	ok &= reserve_fill(mc, mc->reserve);
	ok &= pool_fill(mc->pool, GFP_FILL);
	want = min_t(u32, atomic_xchg(&mc->want, 0),
		     mc->max_batch * num_online_cpus());
	if (READ_ONCE(mc->stock))
		want = 0;
	if (want) {
		create_chain(mc, want, GFP_FILL, &ch);
		if (ch.nr)
			stock_put(mc, &ch);
		WRITE_ONCE(mc->last_burst, jiffies);
	} else if (time_after(jiffies, READ_ONCE(mc->last_burst) +
			      RESERVE_KEEP)) {
		/* one who is just taking some fails in its cmpxchg() */
		atomic_long_sub(drain_list(mc, &mc->stock), &mc->nr_ready);
	}
	if (ch.nr == want && ok && !READ_ONCE(mc->in_debt))
		WRITE_ONCE(mc->retry, 0);
	else
		WRITE_ONCE(mc->retry, (jiffies + RETRY_DELAY) | 1);
	gp_start(mc, false);
	if (reserve_is_low(mc->declared) || reserve_is_low(mc->reserve)) {
		queue_delayed_work(system_unbound_wq, &mc->work, FILL_DELAY);
	} else if (mc->reserve || READ_ONCE(mc->stock)) {
		delay = READ_ONCE(mc->last_burst) + RESERVE_KEEP - jiffies;
		queue_delayed_work(system_unbound_wq, &mc->work,
				   max(delay, 0L) + 1);
	}
}

static struct bpf_mem_slab *slab_get(u32 size)
{
	struct bpf_mem_slab *slab;
	char name[32];

	mutex_lock(&slabs_mutex);
	list_for_each_entry(slab, &slabs, list) {
		if (slab->size == size) {
			atomic_inc(&slab->refs);
			goto out;
		}
	}
	slab = kzalloc(sizeof(*slab), GFP_KERNEL);
	if (!slab)
		goto out;
	snprintf(name, sizeof(name), "bpf_mem-%u", size);
	slab->kc = kmem_cache_create(name, size, 8, 0, NULL);
	if (!slab->kc) {
		kfree(slab);
		slab = NULL;
		goto out;
	}
	slab->size = size;
	atomic_set(&slab->refs, 1);
	list_add(&slab->list, &slabs);
out:
	mutex_unlock(&slabs_mutex);
	return slab;
}

static struct bpf_mem_slab *slab_unused(void)
{
	struct bpf_mem_slab *slab;

	list_for_each_entry(slab, &slabs, list)
		/* pairs with slab_put(): all objects are back */
		if (!atomic_read_acquire(&slab->refs))
			return slab;
	return NULL;
}

/*
 * Under CONFIG_KASAN kmem_cache_destroy() takes a second and more. One at a time,
 * so that who creates an allocator waits for one of them at most.
 */
static void slabs_trim(struct work_struct *work)
{
	struct bpf_mem_slab *slab;

	do {
		mutex_lock(&slabs_mutex);
		slab = slab_unused();
		if (slab) {
			list_del(&slab->list);
			kmem_cache_destroy(slab->kc);
		}
		mutex_unlock(&slabs_mutex);
		kfree(slab);
	} while (slab);
}

static DECLARE_DELAYED_WORK(slabs_work, slabs_trim);

/* The next allocator of that size may come soon */
static void slab_put(struct bpf_mem_slab *slab)
{
	if (atomic_dec_and_test(&slab->refs))
		queue_delayed_work(system_unbound_wq, &slabs_work, SLAB_KEEP);
}

/* What an object takes, as far as that is known here */
static u32 object_bytes(u32 size, u32 percpu_size)
{
	if (size > SLAB_MAX_SIZE)
		size = PAGE_SIZE << get_order(size);
	return size + percpu_size * num_possible_cpus();
}

static void pool_drain(struct bpf_mem_pool *pool)
{
	void *obj;
	u32 i;

	for (i = 0; i < pool->nr_slots; i++) {
		obj = pool->slots[i];
		if (obj)
			slab_free(pool, obj, *(void **)obj);
	}
	uncharge(pool->objcg, (size_t)pool->nr_slots * pool->charge);
}

/* @lean: one that has nothing ready, and costs next to nothing */
static struct bpf_mem_pool *pool_get(u32 size, u32 percpu_size, int numa_node,
				     bool lean)
{
	u32 charge_of_one = object_bytes(size, percpu_size);
	struct bpf_mem_slab *slab = NULL;
	struct bpf_mem_pool *pool;
	u32 nr = 0;

	if (!lean && charge_of_one <= POOL_MAX_CHARGE)
		nr = clamp_t(u32, POOL_BYTES / charge_of_one, POOL_MIN_SLOTS,
			     POOL_SLOTS);
	if (size <= SLAB_MAX_SIZE) {
		slab = slab_get(size);
		if (!slab)
			return NULL;
	}
	mutex_lock(&pools_mutex);
	list_for_each_entry(pool, &pools, list) {
		if (pool->size == size && pool->percpu_size == percpu_size &&
		    pool->numa_node == numa_node && pool->nr_slots == nr) {
			pool->refs++;
			goto put_slab;
		}
	}
	pool = kzalloc(struct_size(pool, slots, nr), GFP_KERNEL);
	if (!pool)
		goto put_slab;
	pool->slab = slab;
	pool->size = size;
	pool->percpu_size = percpu_size;
	pool->numa_node = numa_node;
	pool->charge = charge_of_one;
	pool->refs = 1;
	if (nr)
		pool->objcg = bpf_mem_get_objcg();
	if (charge(pool->objcg, (size_t)nr * pool->charge, GFP_FILL))
		goto put_objcg;
	pool->nr_slots = nr;
	if (!pool_fill(pool, GFP_FILL))
		goto free_slots;
	list_add(&pool->list, &pools);
	mutex_unlock(&pools_mutex);
	return pool;

free_slots:
	pool_drain(pool);
put_objcg:
	if (pool->objcg)
		obj_cgroup_put(pool->objcg);
	kfree(pool);
	pool = NULL;
put_slab:
	mutex_unlock(&pools_mutex);
	if (slab)
		slab_put(slab);
	return pool;
}

static void pool_put(struct bpf_mem_pool *pool)
{
	mutex_lock(&pools_mutex);
	if (!--pool->refs) {
		list_del(&pool->list);
		pool_drain(pool);
		if (pool->objcg)
			obj_cgroup_put(pool->objcg);
		if (pool->slab)
			slab_put(pool->slab);
		kfree(pool);
	}
	mutex_unlock(&pools_mutex);
}

static void cache_free(struct bpf_mem_cache *mc)
{
	/* whoever has kicked the worker, for nothing now, is done with @mc */
	synchronize_rcu();
	cancel_delayed_work(&mc->work);
	WARN_ON_ONCE(atomic_long_read(&mc->nr_objs));
	if (mc->objcg)
		obj_cgroup_put(mc->objcg);
	bpf_map_area_free(mc->reserve);
	bpf_map_area_free(mc->declared);
	pool_put(mc->pool);
	free_percpu(mc->pcpu);
	kmem_cache_free(cache_cache, mc);
}

/* Leave the rest to the worker, which waits for grace periods */
static void cache_destroy(struct bpf_mem_cpu __percpu *pcpu)
{
	struct bpf_mem_cache *mc = raw_cpu_ptr(pcpu)->cache;

	/* pairs with synchronize_rcu() in cache_free() */
	rcu_read_lock();
	/* the worker may be running, and cache_work() see this before it is kicked */
	smp_store_release(&mc->dying, true);
	kick_worker(mc);
	rcu_read_unlock();
}

static struct bpf_mem_cpu __percpu *
cache_create(const struct bpf_mem_alloc_opts *opts)
{
	gfp_t gfp = opts->uncharged ? GFP_STATE & ~__GFP_ACCOUNT : GFP_STATE;
	struct bpf_mem_cpu __percpu *pcpu;
	struct bpf_mem_cache *mc;
	int cpu, err;

	mc = kmem_cache_zalloc(cache_cache, gfp);
	if (!mc)
		return (__force void __percpu *)ERR_PTR(-ENOMEM);
	mc->link_off = opts->link_off;
	if (opts->link_off < 0) {
		mc->head_room = HEAD_ROOM;
		mc->link_off = -HEAD_ROOM;
	}
	mc->percpu_off = opts->percpu_off;
	mc->max_waiting = opts->max_waiting;
	mc->release = opts->release;
	mc->uncleared = opts->uncleared;
	mc->pool = pool_get(opts->size + mc->head_room, opts->percpu_size,
			    opts->numa_node, opts->cache_bytes);
	if (!mc->pool)
		goto free_mc;
	mc->charge = mc->pool->charge;
	mc->max_cached = min_t(u32, CACHED_BYTES / mc->charge, CACHED_OBJS);
	mc->max_batch = max_t(u32, mc->max_cached / 2, 1);
	mc->max_idle = mc->max_cached;
	if (opts->cache_bytes) {
		mc->lean = true;
		mc->max_idle = min_t(u32, opts->cache_bytes / mc->charge,
				     mc->max_cached);
	}
	INIT_DELAYED_WORK(&mc->work, cache_work);

	pcpu = alloc_percpu_gfp(struct bpf_mem_cpu, gfp | __GFP_NORETRY);
	if (!pcpu)
		goto put_pool;
	mc->pcpu = pcpu;
	for_each_possible_cpu(cpu) {
		struct bpf_mem_cpu *c = per_cpu_ptr(pcpu, cpu);

		c->cache = mc;
		c->link_off = mc->link_off;
		c->high = mc->max_idle;
		c->idle = LIST_IDLE;
		set_batch(c, FIRST_BATCH);
		c->starved = (u32)jiffies - 1;
	}
	if (!opts->uncharged)
		mc->objcg = bpf_mem_get_objcg();
	mutex_lock(&caches_mutex);
	list_add(&mc->list, &caches);
	mutex_unlock(&caches_mutex);
	if (opts->reserve) {
		err = reserve_declare(mc, opts->reserve);
		if (err) {
			cache_destroy(pcpu);
			return (__force void __percpu *)ERR_PTR(err);
		}
	}
	return pcpu;

put_pool:
	pool_put(mc->pool);
free_mc:
	kmem_cache_free(cache_cache, mc);
	return (__force void __percpu *)ERR_PTR(-ENOMEM);
}

static const u16 class_sizes[] = {
	16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, MAX_SIZE,
};

static __always_inline u32 size_class(size_t size)
{
	if (size > 256)
		return order_base_2(size) - 2;
	if (size > 192)
		return 6;
	if (size > 128)
		return 5;
	if (size > 96)
		return 4;
	if (size > 64)
		return 3;
	return size > 32 ? 2 : size > 16;
}

/**
 * bpf_mem_alloc_init_opts - make an allocator for objects of one size
 * @ma: the allocator
 * @opts: how the objects look
 *
 * Objects are zero when they come from slab, unless
 * bpf_mem_alloc_opts::uncleared is set, as is their per-CPU area; when they are
 * handed out again they are as they were freed, but for the link.
 * All memory, that of cached objects included, is charged to the memory
 * cgroup of the caller, unless bpf_mem_alloc_opts::uncharged is set. Who then
 * charges others for single objects uncharges those in @release, and those that
 * were freed otherwise at once.
 *
 * With bpf_mem_alloc_opts::reserve that many objects, and two more for each
 * possible CPU, are made here, and cost 12 bytes each besides. Those who cannot
 * make objects share them, the others do not get them; on PREEMPT_RT all do, as
 * no program can. What bpf_mem_cache_free() gets, wherever that is, fills the
 * reserve up before others get it, so as many as that can be taken, freed and
 * taken again however little memory there is. Otherwise the worker fills it up,
 * and tries each second.
 *
 * With bpf_mem_alloc_opts::cache_bytes the allocator is for those who can make
 * objects, or can do without: others get what the CPU has, if that, and do not
 * find more the next time. While it is used it keeps up to 8 kB on a CPU, and as
 * much for each CPU of what has been freed, as others do.
 *
 * Context: process, may sleep.
 * Return: 0, -EINVAL for what is out of range or cannot be together, -ENOMEM,
 * or -EINTR when killed while it made the reserve.
 */
int bpf_mem_alloc_init_opts(struct bpf_mem_alloc *ma,
			    const struct bpf_mem_alloc_opts *opts)
{
	struct bpf_mem_cpu __percpu *pcpu;

	memset(ma, 0, sizeof(*ma));
	if (!opts->size || opts->size > KMALLOC_MAX_SIZE - HEAD_ROOM ||
	    opts->percpu_size > PCPU_MIN_UNIT_SIZE ||
	    (opts->reserve && opts->cache_bytes))
		return -EINVAL;
	if (opts->link_off >= 0 &&
	    (!IS_ALIGNED(opts->link_off, sizeof(void *)) ||
	     opts->link_off + sizeof(void *) > opts->size))
		return -EINVAL;
	if (opts->percpu_size &&
	    (opts->percpu_off < 0 ||
	     !IS_ALIGNED(opts->percpu_off, sizeof(void *)) ||
	     opts->percpu_off == opts->link_off ||
	     opts->percpu_off + sizeof(void *) > opts->size))
		return -EINVAL;
	pcpu = cache_create(opts);
	if (IS_ERR(pcpu))
		return PTR_ERR(pcpu);
	ma->pcpu = pcpu;
	return 0;
}
EXPORT_SYMBOL_GPL(bpf_mem_alloc_init_opts);

/*
 * How the classes of an any-size allocator are made, and how many want each of
 * them. Only where they are made one by one.
 */
struct bpf_mem_classes {
	struct bpf_mem_alloc_opts opts;
	struct mutex mutex;	/* of @refs, and of the classes */
	u32 refs[ARRAY_SIZE(class_sizes)];
};

/**
 * bpf_mem_alloc_init_lazy - make an any-size allocator without size classes
 * @ma: the allocator
 * @opts: how the objects look. Size, reserve and per-CPU area must be 0, and
 *	the link lies in front of the object (bpf_mem_alloc_opts::link_off < 0).
 *
 * For allocators that many share, but do not need in all sizes: who is going to
 * allocate says so by bpf_mem_class_get().
 *
 * Context: process, may sleep.
 * Return: 0, -EINVAL, -ENOMEM.
 */
int bpf_mem_alloc_init_lazy(struct bpf_mem_alloc *ma,
			    const struct bpf_mem_alloc_opts *opts)
{
	memset(ma, 0, sizeof(*ma));
	if (opts->size || opts->percpu_size || opts->link_off >= 0 ||
	    opts->reserve)
		return -EINVAL;
	ma->classes = kcalloc(ARRAY_SIZE(class_sizes), sizeof(*ma->classes),
			      GFP_KERNEL);
	ma->lazy = kzalloc(sizeof(*ma->lazy), GFP_KERNEL);
	if (!ma->classes || !ma->lazy) {
		bpf_mem_alloc_destroy(ma);
		return -ENOMEM;
	}
	mutex_init(&ma->lazy->mutex);
	ma->lazy->opts = *opts;
	return 0;
}
EXPORT_SYMBOL_GPL(bpf_mem_alloc_init_lazy);

/**
 * bpf_mem_class_get - have a size class
 * @ma: of bpf_mem_alloc_init_lazy()
 * @size: of objects that are going to be allocated, 1 to 4096
 *
 * Context: process, may sleep.
 * Return: 0, -EINVAL, -ENOMEM. After 0, bpf_mem_class_put() is due.
 */
int bpf_mem_class_get(struct bpf_mem_alloc *ma, size_t size)
{
	struct bpf_mem_cpu __percpu *pcpu;
	struct bpf_mem_alloc_opts opts;
	int err = 0;
	u32 class;

	if (!ma->lazy || !size || size > MAX_SIZE)
		return -EINVAL;
	class = size_class(size);
	mutex_lock(&ma->lazy->mutex);
	if (!ma->classes[class]) {
		opts = ma->lazy->opts;
		opts.size = class_sizes[class];
		pcpu = cache_create(&opts);
		if (IS_ERR(pcpu))
			err = PTR_ERR(pcpu);
		else
			ma->classes[class] = pcpu;
	}
	if (!err)
		ma->lazy->refs[class]++;
	mutex_unlock(&ma->lazy->mutex);
	return err;
}
EXPORT_SYMBOL_GPL(bpf_mem_class_get);

/**
 * bpf_mem_class_put - want a size class no more
 * @ma: of bpf_mem_alloc_init_lazy()
 * @size: as for bpf_mem_class_get()
 *
 * The last one gives back all memory of the class, as bpf_mem_alloc_destroy()
 * does, and under the same conditions.
 *
 * Context: process, may sleep.
 */
void bpf_mem_class_put(struct bpf_mem_alloc *ma, size_t size)
{
	u32 class = size_class(size);

	mutex_lock(&ma->lazy->mutex);
	if (!--ma->lazy->refs[class]) {
		cache_destroy(ma->classes[class]);
		ma->classes[class] = NULL;
	}
	mutex_unlock(&ma->lazy->mutex);
}
EXPORT_SYMBOL_GPL(bpf_mem_class_put);

/**
 * bpf_mem_class_size - what an object of an any-size allocator takes
 * @size: as for bpf_mem_alloc(), 1 to 4096
 *
 * Context: any.
 * Return: bytes of slab, as bpf_mem_alloc_stats::bytes counts them.
 */
size_t bpf_mem_class_size(size_t size)
{
	return class_sizes[size_class(size)] + HEAD_ROOM;
}
EXPORT_SYMBOL_GPL(bpf_mem_class_size);

/**
 * bpf_mem_alloc_init - make an allocator
 * @ma: the allocator
 * @size: bytes in an object; 0 for an allocator of any size up to 4096 bytes
 * @percpu: objects are per-CPU areas of @size bytes. What is handed out is a
 *	pointer to the pointer to such an area.
 *
 * A freed object stays as it is until it is handed out again: the allocator
 * keeps its own word in front of it. See bpf_mem_alloc_init_opts() for the
 * rest.
 *
 * Context: process, may sleep.
 * Return: 0, -EINVAL for sizes out of range and for @percpu without a size,
 * -ENOMEM.
 */
int bpf_mem_alloc_init(struct bpf_mem_alloc *ma, int size, bool percpu)
{
	struct bpf_mem_alloc_opts opts = {
		.size = size,
		.link_off = -1,
		.numa_node = NUMA_NO_NODE,
	};
	u32 i;

	memset(ma, 0, sizeof(*ma));
	if (size < 0 || (percpu && !size))
		return -EINVAL;
	if (percpu) {
		opts.size = sizeof(void __percpu *);
		opts.percpu_size = size;
	}
	if (size)
		return bpf_mem_alloc_init_opts(ma, &opts);

	ma->classes = kcalloc(ARRAY_SIZE(class_sizes), sizeof(*ma->classes),
			      GFP_KERNEL);
	if (!ma->classes)
		return -ENOMEM;
	for (i = 0; i < ARRAY_SIZE(class_sizes); i++) {
		struct bpf_mem_cpu __percpu *pcpu;

		opts.size = class_sizes[i];
		pcpu = cache_create(&opts);
		if (IS_ERR(pcpu)) {
			bpf_mem_alloc_destroy(ma);
			return PTR_ERR(pcpu);
		}
		ma->classes[i] = pcpu;
	}
	return 0;
}
EXPORT_SYMBOL_GPL(bpf_mem_alloc_init);

/**
 * bpf_mem_alloc_destroy - give back all memory of an allocator
 * @ma: the allocator, or zeroed memory
 *
 * All objects must have been freed, and nobody may allocate or free any more;
 * readers may still look at freed objects. The caller does not wait for
 * them: what has to outlive them goes back later. @ma itself is free at once.
 *
 * Context: process.
 */
void bpf_mem_alloc_destroy(struct bpf_mem_alloc *ma)
{
	u32 i;

	if (ma->pcpu)
		cache_destroy(ma->pcpu);
	for (i = 0; ma->classes && i < ARRAY_SIZE(class_sizes); i++)
		if (ma->classes[i])
			cache_destroy(ma->classes[i]);
	kfree(ma->classes);
	kfree(ma->lazy);
	memset(ma, 0, sizeof(*ma));
}
EXPORT_SYMBOL_GPL(bpf_mem_alloc_destroy);

/**
 * bpf_mem_alloc_set_sleepable - sleepable programs may hold objects from now on
 * @ma: the allocator
 *
 * To be called before the first such program can run. From then on objects
 * also wait for an RCU Tasks Trace grace period before they go to slab.
 *
 * Context: any.
 */
void bpf_mem_alloc_set_sleepable(struct bpf_mem_alloc *ma)
{
	u32 i;

	if (ma->pcpu)
		WRITE_ONCE(raw_cpu_ptr(ma->pcpu)->cache->sleepable, true);
	for (i = 0; ma->classes && i < ARRAY_SIZE(class_sizes); i++)
		WRITE_ONCE(raw_cpu_ptr(ma->classes[i])->cache->sleepable, true);
	/* pairs with xchg() in gp_start() */
	smp_mb();
}
EXPORT_SYMBOL_GPL(bpf_mem_alloc_set_sleepable);

/**
 * bpf_mem_class_set_sleepable - sleepable programs may hold objects of a class
 * @ma: of bpf_mem_alloc_init_lazy()
 * @size: as for bpf_mem_class_get(), which the caller has called
 *
 * As bpf_mem_alloc_set_sleepable(), which is not for such an allocator.
 *
 * Context: any.
 */
void bpf_mem_class_set_sleepable(struct bpf_mem_alloc *ma, size_t size)
{
	struct bpf_mem_cpu __percpu *pcpu = ma->classes[size_class(size)];

	WRITE_ONCE(raw_cpu_ptr(pcpu)->cache->sleepable, true);
	/* pairs with xchg() in gp_start() */
	smp_mb();
}
EXPORT_SYMBOL_GPL(bpf_mem_class_set_sleepable);

static void add_stats(struct bpf_mem_cpu __percpu *pcpu,
		      struct bpf_mem_alloc_stats *stats)
{
	struct bpf_mem_cache *mc = raw_cpu_ptr(pcpu)->cache;
	int cpu;

	for_each_possible_cpu(cpu) {
		struct bpf_mem_cpu *c = per_cpu_ptr(pcpu, cpu);

		stats->cached += READ_ONCE(c->cnt);
		stats->failed += (u32)atomic_read(&c->failed);
	}
	stats->cached += max(atomic_long_read(&mc->nr_ready), 0L);
	stats->waiting += max(atomic_long_read(&mc->nr_waiting), 0L);
	stats->bytes += (u64)atomic_long_read(&mc->nr_objs) * mc->charge;
	stats->bytes += sizeof(*mc) + num_possible_cpus() *
			sizeof(struct bpf_mem_cpu);
	if (mc->declared)
		stats->bytes += reserve_bytes(mc->declared->nr_slots);
}

/**
 * bpf_mem_alloc_get_stats - tell what an allocator holds
 * @ma: the allocator
 * @stats: filled in; exact when nobody uses the allocator at that time
 *
 * Context: any; of bpf_mem_alloc_init_lazy(): process, may sleep.
 */
void bpf_mem_alloc_get_stats(struct bpf_mem_alloc *ma,
			     struct bpf_mem_alloc_stats *stats)
{
	u32 i;

	memset(stats, 0, sizeof(*stats));
	if (ma->pcpu)
		add_stats(ma->pcpu, stats);
	if (ma->lazy)
		mutex_lock(&ma->lazy->mutex);
	for (i = 0; ma->classes && i < ARRAY_SIZE(class_sizes); i++)
		if (ma->classes[i])
			add_stats(ma->classes[i], stats);
	if (ma->lazy)
		mutex_unlock(&ma->lazy->mutex);
}
EXPORT_SYMBOL_GPL(bpf_mem_alloc_get_stats);

static __always_inline bool cpu_is_low(struct bpf_mem_cpu __percpu *pcpu)
{
	/* a look at another CPU's list after a migration does no harm */
	struct bpf_mem_cpu *c = raw_cpu_ptr(pcpu);

	return READ_ONCE(c->cnt) < READ_ONCE(c->low);
}

/* The list is low, or this is an NMI that cannot look at it */
static noinline notrace void *
cache_alloc_slow(struct bpf_mem_cpu __percpu *pcpu)
{
	unsigned long flags;
	int tries = 0;
	void *obj;

	do {
		if (cpu_is_low(pcpu) && !refill_direct(pcpu))
			tries = ALLOC_TRIES;
		raw_local_irq_save(flags);
		obj = alloc_irqoff(raw_cpu_ptr(pcpu), tries < ALLOC_TRIES,
				   !may_refill(flags));
		raw_local_irq_restore(flags);
		/* else moved to a CPU with an empty list, or interrupted */
	} while (unlikely(!obj) && tries++ < ALLOC_TRIES);
	return obj;
}

static __always_inline void *cache_alloc(struct bpf_mem_cpu __percpu *pcpu)
{
	struct bpf_mem_cpu *c;
	unsigned long flags;
	void *obj;
	u32 cnt;

	raw_local_irq_save(flags);
	c = raw_cpu_ptr(pcpu);
	if (unlikely(READ_ONCE(c->busy)))
		goto slow;
	cpu_enter(c);
	cnt = c->cnt;
	if (unlikely(cnt < c->low)) {
		cpu_leave(c);
		goto slow;
	}
	obj = cpu_pop(c, cnt);
	cpu_leave(c);
	obj = shown(c->cache, obj);
	raw_local_irq_restore(flags);
	return obj;
slow:
	raw_local_irq_restore(flags);
	return cache_alloc_slow(pcpu);
}

static __always_inline void cache_put(struct bpf_mem_cpu __percpu *pcpu,
				      void *obj)
{
	unsigned long flags;

	raw_local_irq_save(flags);
	free_irqoff(raw_cpu_ptr(pcpu), obj);
	raw_local_irq_restore(flags);
}

static __always_inline void cache_hold(struct bpf_mem_cpu __percpu *pcpu,
				       void *obj)
{
	unsigned long flags;

	raw_local_irq_save(flags);
	hold(raw_cpu_ptr(pcpu), obj);
	raw_local_irq_restore(flags);
}

/**
 * bpf_mem_cache_alloc - allocate from a fixed-size allocator
 * @ma: the allocator
 *
 * Context: any, NMI included.
 * Return: an object, aligned to 8 bytes, whose contents are those of its
 * former life or zero; NULL if there is none: no memory, or no way to get at
 * it in this context and the reserve is spent.
 */
notrace void *bpf_mem_cache_alloc(struct bpf_mem_alloc *ma)
{
	return cache_alloc(ma->pcpu);
}
EXPORT_SYMBOL_GPL(bpf_mem_cache_alloc);

/**
 * bpf_mem_cache_free - give an object back to its fixed-size allocator
 * @ma: the allocator
 * @ptr: the object, or NULL
 *
 * Readers may go on looking at the object. It may be handed out again at
 * once, but only by @ma.
 *
 * Context: any, NMI included; any CPU.
 */
notrace void bpf_mem_cache_free(struct bpf_mem_alloc *ma, void *ptr)
{
	if (ptr)
		cache_put(ma->pcpu, ptr);
}
EXPORT_SYMBOL_GPL(bpf_mem_cache_free);

/**
 * bpf_mem_cache_alloc_irqoff - allocate with interrupts off
 * @ma: a fixed-size allocator
 *
 * For those who hold a lock. It never calls into slab, so bpf_mem_cache_refill()
 * before that lock is taken makes it likely to succeed.
 *
 * Context: any with interrupts off, NMI included.
 * Return: as bpf_mem_cache_alloc().
 */
notrace void *bpf_mem_cache_alloc_irqoff(struct bpf_mem_alloc *ma)
{
	return alloc_irqoff(raw_cpu_ptr(ma->pcpu), false, true);
}
EXPORT_SYMBOL_GPL(bpf_mem_cache_alloc_irqoff);

/**
 * bpf_mem_cache_try_irqoff - allocate, but leave alone what was declared
 * @ma: a fixed-size allocator
 * @flags: from who turned interrupts off
 *
 * As bpf_mem_cache_alloc_irqoff(), for callers whose allocator has a
 * bpf_mem_alloc_opts::reserve, and who call bpf_mem_cache_refill() and try
 * again if this fails. Who may make objects there, as @flags and the context
 * tell, does not get any of that reserve.
 *
 * Context: any with interrupts off, NMI included.
 * Return: as bpf_mem_cache_alloc().
 */
notrace void *bpf_mem_cache_try_irqoff(struct bpf_mem_alloc *ma,
				       unsigned long flags)
{
	return alloc_irqoff(raw_cpu_ptr(ma->pcpu), false, !may_refill(flags));
}
EXPORT_SYMBOL_GPL(bpf_mem_cache_try_irqoff);

/**
 * bpf_mem_cache_free_irqoff - bpf_mem_cache_free() with interrupts off
 * @ma: a fixed-size allocator
 * @ptr: the object, not NULL
 *
 * Context: any with interrupts off, NMI included.
 */
notrace void bpf_mem_cache_free_irqoff(struct bpf_mem_alloc *ma, void *ptr)
{
	free_irqoff(raw_cpu_ptr(ma->pcpu), ptr);
}
EXPORT_SYMBOL_GPL(bpf_mem_cache_free_irqoff);

/**
 * bpf_mem_cache_free_rcu - give an object back when it has no readers
 * @ma: a fixed-size allocator
 * @ptr: the object, or NULL
 *
 * Unlike bpf_mem_cache_free() it keeps the object from being handed out before
 * an RCU grace period, and an RCU Tasks Trace one after
 * bpf_mem_alloc_set_sleepable(), are over: until then it stays as it is, but
 * for the link. An object that no reader has seen needs bpf_mem_cache_free()
 * only.
 *
 * Context: any, NMI included; any CPU.
 */
notrace void bpf_mem_cache_free_rcu(struct bpf_mem_alloc *ma, void *ptr)
{
	if (ptr)
		cache_hold(ma->pcpu, ptr);
}
EXPORT_SYMBOL_GPL(bpf_mem_cache_free_rcu);

static __always_inline bool cache_refill(struct bpf_mem_cpu __percpu *pcpu)
{
	return likely(!cpu_is_low(pcpu)) || refill_direct(pcpu);
}

/**
 * bpf_mem_cache_refill - see that this CPU has objects
 * @ma: a fixed-size allocator
 *
 * Brings this CPU's list above its low mark if this context may allocate
 * (interrupts on, no NMI, not within another refill), else does nothing. On
 * PREEMPT_RT it does not allocate: it brings what has been freed before.
 *
 * Context: any.
 * Return: true if this CPU's list is not low, or has an object after a refill;
 * false where it cannot be refilled.
 */
notrace bool bpf_mem_cache_refill(struct bpf_mem_alloc *ma)
{
	return cache_refill(ma->pcpu);
}
EXPORT_SYMBOL_GPL(bpf_mem_cache_refill);

/* Is another grace period over than the first ones? Else one is running. */
static bool gp_passed(struct bpf_mem_cache *mc, u32 gps)
{
	/* pairs with that in gp_finish() */
	if (smp_load_acquire(&mc->gps) != gps)
		return true;
	gp_start(mc, true);
	return false;
}

/*
 * Wait for the end of a grace period, but not for long: there may be memory
 * without it. Returns 1 when one is over or nothing waits for one, 0 when not
 * yet, -EINTR when killed.
 */
static int wait_for_gp(struct bpf_mem_cache *mc, u32 gps)
{
	long left;

	if (!atomic_long_read(&mc->nr_waiting))
		return 1;
	WRITE_ONCE(mc->awaited, true);
	left = wait_var_event_killable_timeout(&mc->nr_waiting,
					       gp_passed(mc, gps), GP_TIMEOUT);
	return left < 0 ? -EINTR : left > 0;
}

static bool cpus_have_to_give(struct bpf_mem_cache *mc)
{
	int cpu;

	for_each_possible_cpu(cpu)
		if (READ_ONCE(per_cpu_ptr(mc->pcpu, cpu)->idle) ==
		    LIST_GIVES_ALL)
			return true;
	return false;
}

/*
 * Have all CPUs give back what they have ready. Returns whether they had some,
 * or have just given it to somebody else who asked.
 */
static bool take_from_cpus(struct bpf_mem_cache *mc)
{
	struct bpf_mem_cpu *c;
	bool some = false;
	int cpu, ticks;

	cpus_read_lock();
	for_each_online_cpu(cpu) {
		c = per_cpu_ptr(mc->pcpu, cpu);
		/* pairs with the release in cpu_give_all() */
		if (!smp_load_acquire(&c->cnt) && !READ_ONCE(c->nested))
			continue;
		WRITE_ONCE(c->idle, LIST_GIVES_ALL);
		request_trim(c, cpu);
		some = true;
	}
	cpus_read_unlock();
	for (ticks = 0; ticks < GIVE_TIMEOUT && cpus_have_to_give(mc); ticks++)
		schedule_timeout_uninterruptible(1);
	return some || READ_ONCE(mc->stock);
}

/*
 * Do no objects wait, nor move? Asked before those that can be had are looked for,
 * and after: what stops waiting can be had before it does, and the other way round.
 */
static bool none_waits(struct bpf_mem_cache *mc)
{
	/* both pair with the order in destroy_list(), reuse_held(), move_*() */
	smp_mb();
	return !atomic_long_read_acquire(&mc->nr_waiting);
}

static int cache_fill(struct bpf_mem_cpu __percpu *pcpu, bool wait)
{
	struct bpf_mem_cpu *c = raw_cpu_ptr(pcpu);
	struct bpf_mem_cache *mc = c->cache;
	int tries = 0, asked = 0, passed;
	bool many, may_create, none, last;
	struct chain ch = {};
	unsigned long flags;
	u32 gps;

	might_sleep();
	for (;;) {
		if (likely(!cpu_is_low(pcpu)))
			return 0;
		gps = READ_ONCE(mc->gps);
		none = none_waits(mc);
		if (refill_direct(pcpu))
			return 0;
		/* a grace period may end while create_chain() reclaims */
		if (wait)
			WRITE_ONCE(mc->awaited, true);
		/* others may be faster, be it to take or to free */
		may_create = create_chain(mc, READ_ONCE(c->batch), GFP_FILL,
					  &ch);
		if (!ch.nr && wait) {
			/* the worker may have been faster, and filled it */
			raw_local_irq_save(flags);
			reserve_take(mc, false, &ch);
			raw_local_irq_restore(flags);
		}
		if (ch.nr)
			break;
		if (!wait)
			return -ENOMEM;
		/*
		 * What waits is held, or the worker has it: that comes after a
		 * grace period, and what the first did not see after a second.
		 */
		last = may_create && (none || tries == 2);
		/* what is ready elsewhere is there before, or is there since */
		if ((!asked || last) && asked < 2 && take_from_cpus(mc)) {
			asked++;
			continue;
		}
		if (last && (tries == 2 || none_waits(mc)))
			return -ENOMEM;
		passed = wait_for_gp(mc, gps);
		if (passed < 0)
			return passed;
		/* programs on other CPUs may have had memory since */
		if (!passed)
			asked = 0;
		if (may_create)
			tries += passed;
	}
	raw_local_irq_save(flags);
	c = raw_cpu_ptr(pcpu);
	cpu_enter(c);
	/* others have filled it while we slept: all could be too much */
	many = c->cnt;
	cpu_splice(c, &ch);
	WRITE_ONCE(c->idle, LIST_ACTIVE);
	many = many && c->cnt > cpu_most(c);
	cpu_leave(c);
	if (many || want_trim(c))
		request_service(c);
	raw_local_irq_restore(flags);
	return 0;
}

/**
 * bpf_mem_cache_fill - see that this CPU has objects, waiting for memory
 * @ma: a fixed-size allocator
 * @wait: else wait for reclaim only, and take nothing from other CPUs, as for an
 *	update that may need no object
 *
 * For system calls, before they allocate with preemption or interrupts off.
 * Memory is reclaimed if need be, but nobody is killed for it. Where
 * bpf_mem_alloc_opts::max_waiting is reached, or there is no memory but in what
 * waits for a grace period and cannot be used again before, the caller waits as
 * well. What reserve and other CPUs have ready is taken before this fails. An
 * interrupt or migration can take the objects away, so who then finds none
 * tries again.
 *
 * Context: process, may sleep; not within what a grace period waits for.
 * Return: 0, -ENOMEM when machine or memory cgroup have none left or without
 * @wait where it would have to, or -EINTR when killed while it waited.
 */
int bpf_mem_cache_fill(struct bpf_mem_alloc *ma, bool wait)
{
	return cache_fill(ma->pcpu, wait);
}
EXPORT_SYMBOL_GPL(bpf_mem_cache_fill);

/**
 * bpf_mem_alloc - allocate from an any-size allocator
 * @ma: the allocator
 * @size: in bytes, at most 4096. Of bpf_mem_alloc_init_lazy(): in a class that
 *	somebody wants.
 *
 * Context: any, NMI included.
 * Return: as bpf_mem_cache_alloc(); ZERO_SIZE_PTR for a @size of 0, NULL for
 * one that is too large.
 */
notrace void *bpf_mem_alloc(struct bpf_mem_alloc *ma, size_t size)
{
	u32 class;
	void *obj;

	if (unlikely(!size))
		return ZERO_SIZE_PTR;
	if (unlikely(size > MAX_SIZE))
		return NULL;
	class = size_class(size);
	obj = cache_alloc(ma->classes[class]);
	if (likely(obj))
		*(u32 *)(obj - HEAD_ROOM) = class;
	return obj;
}
EXPORT_SYMBOL_GPL(bpf_mem_alloc);

/**
 * bpf_mem_fill - see that this CPU has an object of a size, waiting for memory
 * @ma: an any-size allocator
 * @size: as for bpf_mem_alloc()
 * @wait: as for bpf_mem_cache_fill()
 *
 * As bpf_mem_cache_fill().
 *
 * Context: process, may sleep; not within what a grace period waits for.
 * Return: as bpf_mem_cache_fill(); -ENOMEM also for a @size that is too large.
 */
int bpf_mem_fill(struct bpf_mem_alloc *ma, size_t size, bool wait)
{
	if (unlikely(!size))
		return 0;
	if (unlikely(size > MAX_SIZE))
		return -ENOMEM;
	return cache_fill(ma->classes[size_class(size)], wait);
}
EXPORT_SYMBOL_GPL(bpf_mem_fill);

/**
 * bpf_mem_wait - wait for what was freed of a size
 * @ma: an any-size allocator
 * @size: as for bpf_mem_alloc()
 *
 * For who charges for objects in bpf_mem_alloc_opts::release and finds no room:
 * objects that wait for a grace period are charged until it is over. Who frees
 * while one is running waits for the next, and may have to call this until it
 * has returned true twice. It does not wait long: there may be room without it.
 *
 * Context: process, may sleep; not within what a grace period waits for.
 * Return: true if a grace period is over or nothing waits for one, false if not
 * yet, or when killed.
 */
bool bpf_mem_wait(struct bpf_mem_alloc *ma, size_t size)
{
	struct bpf_mem_cache *mc;

	if (unlikely(!size || size > MAX_SIZE))
		return true;
	mc = raw_cpu_ptr(ma->classes[size_class(size)])->cache;
	return wait_for_gp(mc, READ_ONCE(mc->gps)) > 0;
}
EXPORT_SYMBOL_GPL(bpf_mem_wait);

/**
 * bpf_mem_free - give an object back to its any-size allocator
 * @ma: the allocator
 * @ptr: the object, NULL or ZERO_SIZE_PTR
 *
 * As bpf_mem_cache_free(). The size class stands in front of the object,
 * where the link comes when it is free, so readers find all of it intact.
 *
 * Context: any, NMI included; any CPU.
 */
notrace void bpf_mem_free(struct bpf_mem_alloc *ma, void *ptr)
{
	if (likely(!ZERO_OR_NULL_PTR(ptr)))
		cache_put(ma->classes[*(u32 *)(ptr - HEAD_ROOM)], ptr);
}
EXPORT_SYMBOL_GPL(bpf_mem_free);

/**
 * bpf_mem_free_rcu - give an object back when it has no readers
 * @ma: an any-size allocator
 * @ptr: the object, NULL or ZERO_SIZE_PTR
 *
 * As bpf_mem_cache_free_rcu().
 *
 * Context: any, NMI included; any CPU.
 */
notrace void bpf_mem_free_rcu(struct bpf_mem_alloc *ma, void *ptr)
{
	if (likely(!ZERO_OR_NULL_PTR(ptr)))
		cache_hold(ma->classes[*(u32 *)(ptr - HEAD_ROOM)], ptr);
}
EXPORT_SYMBOL_GPL(bpf_mem_free_rcu);

/* Like notrace: no program runs in the middle of these but in NMI */
NOKPROBE_SYMBOL(depot_take);
NOKPROBE_SYMBOL(give_up);
NOKPROBE_SYMBOL(reserve_take_slot);
NOKPROBE_SYMBOL(reserve_take);
NOKPROBE_SYMBOL(reserve_put);
NOKPROBE_SYMBOL(pool_take);
NOKPROBE_SYMBOL(request_service);
NOKPROBE_SYMBOL(cpu_give_surplus);
NOKPROBE_SYMBOL(cpu_trim);
NOKPROBE_SYMBOL(alloc_nested);
NOKPROBE_SYMBOL(alloc_slow);
NOKPROBE_SYMBOL(free_slow);
NOKPROBE_SYMBOL(hold);
NOKPROBE_SYMBOL(refill);
NOKPROBE_SYMBOL(refill_direct);
NOKPROBE_SYMBOL(cache_alloc_slow);
NOKPROBE_SYMBOL(service);
NOKPROBE_SYMBOL(gp_change);
NOKPROBE_SYMBOL(service_run);
NOKPROBE_SYMBOL(service_irq_work);
NOKPROBE_SYMBOL(bpf_mem_cache_alloc);
NOKPROBE_SYMBOL(bpf_mem_cache_free);
NOKPROBE_SYMBOL(bpf_mem_cache_alloc_irqoff);
NOKPROBE_SYMBOL(bpf_mem_cache_try_irqoff);
NOKPROBE_SYMBOL(bpf_mem_cache_free_irqoff);
NOKPROBE_SYMBOL(bpf_mem_cache_free_rcu);
NOKPROBE_SYMBOL(bpf_mem_cache_refill);
NOKPROBE_SYMBOL(bpf_mem_alloc);
NOKPROBE_SYMBOL(bpf_mem_free);
NOKPROBE_SYMBOL(bpf_mem_free_rcu);

static int __init bpf_mem_init(void)
{
	int err;

	cache_cache = KMEM_CACHE(bpf_mem_cache, SLAB_PANIC);
	err = cpuhp_setup_state_nocalls(CPUHP_BP_PREPARE_DYN, "bpf/memalloc",
					NULL, service_dead_cpu);
	return err < 0 ? err : 0;
}
core_initcall(bpf_mem_init);
