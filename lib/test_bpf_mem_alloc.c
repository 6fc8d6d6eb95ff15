// SPDX-License-Identifier: GPL-2.0-only
/*
 * Torture test for the BPF memory allocator, kernel/bpf/memalloc.c
 *
 * Actors in every context that a BPF program can run in allocate, hand to
 * each other, and free objects of the same allocators at the same time:
 *
 *	task	 kthreads, which also allocate bursts with interrupts off, fill
 *		 before they allocate as system calls do, and are moved around
 *	softirq	 an hrtimer on each CPU
 *	hardirq	 another one
 *	NMI	 an IPI to any CPU, one by one from the hardirq actors, and many
 *		 in a row from a kthread. On machines that cannot send one there
 *		 is none, and a line in the log that says so.
 *	reader	 kthreads that look at objects which others free meanwhile,
 *		 under RCU and, sleeping, under RCU Tasks Trace
 *	creator	 a kthread that replaces allocators under all of them, and
 *		 destroys the old ones
 *
 * CPUs go down and up meanwhile if onoff_interval is set. There are two
 * allocators of each kind, one of them marked for sleepable programs.
 *
 * Objects are handed over through slots that are changed with xchg() only, so
 * what one context has allocated another one frees, on any CPU.
 *
 * Every object begins with a word that tells which allocator it belongs to,
 * and whether somebody has it; a pattern made from that word and the object's
 * address fills all the rest. It is there from the allocation until slab gets
 * the object back: it has to be intact when the object is freed, for those who
 * read it meanwhile, and when the same allocator hands it out again. Only the
 * word that the allocator was given for its link may have changed.
 *
 * The test has failed if
 *  - an object was not as it was left, was handed out twice, or went back
 *    to slab while a reader could see it;
 *  - the statistics of an allocator that nobody uses do not add up, or what
 *    waits for a grace period never gets there;
 *  - a task, or a softirq, found no memory where the machine had some. Not so
 *    on PREEMPT_RT, if it did not wait for it;
 *  - the kernel has warned, or a CPU did not go down or up.
 *
 * After the first of these that can corrupt memory, the actors do nothing any
 * more. The last line in the log is the verdict, as in
 *
 *	bpf_mem_alloc-torture: --- End of test: SUCCESS
 *	bpf_mem_alloc-torture: --- End of test: FAILURE: handed out twice
 *
 * Memory that went back to slab too early is noticed when something has
 * overwritten it: sooner with init_on_free=1 on the kernel's command line, or
 * with KASAN.
 *
 * The module's parameters are described below, with torture_param(). It
 * should be loaded from a memory cgroup without a limit, as the first
 * allocators are charged to that.
 */
#define pr_fmt(fmt) fmt

#include <linux/atomic.h>
#include <linux/bpf_mem_alloc.h>
#include <linux/cpu.h>
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/hash.h>
#include <linux/hrtimer.h>
#include <linux/interrupt.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/rcupdate_trace.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/torture.h>

MODULE_LICENSE("GPL v2");
MODULE_DESCRIPTION("Torture test for the BPF memory allocator");

torture_param(int, ntasks, -1, "Number of task actors, -1: two per CPU");
torture_param(int, nreaders, 4, "Number of readers");
torture_param(int, irq_interval, 500,
	      "Time between two softirqs, and hardirqs, on a CPU (us), 0=none");
torture_param(bool, nmi, true, "Have NMI actors, where the machine can");
torture_param(int, burst, 64, "Largest number of objects allocated at once");
torture_param(int, create_interval, 20,
	      "Time between replacements of an allocator (ms), 0=disable");
torture_param(int, onoff_holdoff, 0, "Time before CPU hotplugs (s)");
torture_param(int, onoff_interval, 0,
	      "Time between CPU hotplugs (jiffies), 0=disable");
torture_param(int, shuffle_interval, 3,
	      "Time between moves of the kthreads (s), 0=disable");
torture_param(int, stutter, 5,
	      "Time between pauses of the kthreads (s), 0=disable");
torture_param(int, runtime, 0,
	      "Time until the verdict (s), 0=when the module is unloaded");
torture_param(int, touch, 0,
	      "Only touch a free object: 1=never handed out, 2=back in slab, 3=just freed");
torture_param(int, verbose, 0, "Tell about the test's own kthreads");

#define TORT		"bpf_mem_alloc" TORTURE_FLAG " "
#define NR_SLOTS	128
/* What a reader looks at in one RCU section */
#define NR_READS	16
/* What a CPU gets in a row */
#define NR_NMIS		100
#define MAX_ANY_SIZE	4096
/* Errors told one by one */
#define MAX_TOLD	10
/* How long an allocator may take to become quiet, and after the first error */
#define QUIET_TIMEOUT	(20 * HZ)
#define ERROR_TIMEOUT	HZ
/* How often a filling task may find that others took all of it */
#define FILL_TRIES	100

/* The words that objects begin with */
#define HEAD_OFF	0
#define LINK_OFF	sizeof(long)
#define AREA_OFF	(2 * sizeof(long))

/*
 * The first of them, or the first one of the per-CPU area where the object is
 * nothing but a pointer to that. It is zero when the object comes from slab.
 */
#define HEAD_LIVE_BIT	0
#define HEAD_LIVE	BIT(HEAD_LIVE_BIT)
#define SIZE_SHIFT	1
#define SIZE_BITS	13
#define COOKIE_SHIFT	(SIZE_SHIFT + SIZE_BITS)
#define COOKIE_BITS	(BITS_PER_LONG / 4)
#define SEQ_SHIFT	(COOKIE_SHIFT + COOKIE_BITS)

static const struct tort_kind {
	const char *name;
	bool link;	/* lies in the object */
	bool object;	/* has bytes of its own */
	bool percpu;	/* has a per-CPU area */
	bool any;	/* size */
} tort_kinds[] = {
	{ "fixed",		.object = true, .link = true },
	{ "fixed, own link",	.object = true },
	{ "fixed with area",	.object = true, .link = true, .percpu = true },
	{ "percpu",		.percpu = true },
	{ "any size",		.object = true, .any = true },
};

/* One of each kind for programs that sleep, and one for those that do not */
#define NR_ALLOCS	(2 * ARRAY_SIZE(tort_kinds))

struct tort_alloc {
	struct bpf_mem_alloc ma;
	const struct tort_kind *kind;
	int nr;			/* in tort_allocs */
	unsigned long cookie;	/* unlike that of any other allocator */
	size_t size;		/* the largest, of the any-size kind */
	size_t percpu_size;
	bool one_size;
	bool sleepable;
	u64 overhead;		/* bytes without any object */
	u64 charge;		/* bytes for each */
	atomic_t sleepers;	/* who hold this without RCU */
	atomic_long_t live;
	atomic_long_t failed;
	atomic_long_t failed_nmi;
	void *slots[NR_SLOTS];
};

enum tort_context {
	TORT_TASK, TORT_SOFTIRQ, TORT_HARDIRQ, TORT_NMI, TORT_READER,
	TORT_CREATOR, NR_CONTEXTS
};

static const char * const tort_contexts[NR_CONTEXTS] = {
	"task", "softirq", "hardirq", "nmi", "reader", "creator",
};

struct tort_count {
	unsigned long allocs;
	unsigned long failed;
	unsigned long frees;
	unsigned long wrong;
};

/* Each is used by one context at a time, which nothing of its kind interrupts */
struct tort_actor {
	struct torture_random_state random;
	enum tort_context context;
	struct tort_count counts[NR_ALLOCS];
	struct task_struct *task;
	void **burst;		/* of a task */
};

struct tort_cpu {
	struct tort_actor hardirq;
	struct tort_actor softirq;
	struct tort_actor nmi;
	struct hrtimer hard_timer;
	struct hrtimer soft_timer;
	int in_use;		/* by a task, in tort_allocs */
};

static struct tort_cpu __percpu *tort_cpus;
static struct tort_alloc __rcu *tort_allocs[NR_ALLOCS];
static struct tort_actor **tort_tasks;
static struct tort_actor **tort_readers;
static struct tort_actor *tort_creator;
static struct tort_actor *tort_nmi_sender;
static struct task_struct *tort_timeout;
static int tort_cpuhp = -1;
static bool tort_has_nmi;
static cpumask_t tort_nmi_sent;
static unsigned long tort_cookie;
static unsigned long tort_created;
static atomic_long_t tort_reads;
static atomic_t tort_errors;
static bool tort_halted;
static bool tort_tainted;
static const char *tort_verdict;
static DEFINE_MUTEX(tort_finish_mutex);
static bool tort_finished;

static u32 tort_random(struct tort_actor *actor, u32 range)
{
	return torture_random(&actor->random) % range;
}

/*
 * Any context. The actors stop if @halt: what they would do next may well
 * crash the machine, and nobody would see the verdict.
 */
static void tort_error(struct tort_actor *actor, int nr, const char *what,
		       bool halt)
{
	actor->counts[nr].wrong++;
	if (halt)
		WRITE_ONCE(tort_halted, true);
	cmpxchg(&tort_verdict, NULL, what);
	if (atomic_inc_return(&tort_errors) > MAX_TOLD)
		return;
	pr_alert(TORT "!!! %s on CPU %d, %s%s: %s\n",
		 tort_contexts[actor->context], raw_smp_processor_id(),
		 tort_kinds[nr / 2].name, nr & 1 ? ", sleepable" : "", what);
}

/* Then even an allocation that cannot wait has to find some */
static bool memory_is_free(void)
{
	struct sysinfo si;

	si_meminfo(&si);
	return si.freeram > si.totalram / 16;
}

static void __percpu *area_of(struct tort_alloc *tort, void *obj)
{
	if (tort->kind->object)
		obj += AREA_OFF;
	return *(void __percpu **)obj;
}

static unsigned long *head_of(struct tort_alloc *tort, void *obj)
{
	if (tort->kind->object)
		return obj + HEAD_OFF;
	return per_cpu_ptr(area_of(tort, obj), cpumask_first(cpu_possible_mask));
}

static unsigned long head_cookie(unsigned long head)
{
	return (head >> COOKIE_SHIFT) & GENMASK(COOKIE_BITS - 1, 0);
}

static size_t head_size(unsigned long head)
{
	return (head >> SIZE_SHIFT) & GENMASK(SIZE_BITS - 1, 0);
}

/* A row of words beginning with @key, each @step more than the last one */
static bool pattern(void *start, size_t size, unsigned long skip,
		    unsigned long key, unsigned long step, bool write)
{
	unsigned long *word = start;
	u8 *byte;
	int i;

	for (; size >= sizeof(*word); size -= sizeof(*word), word++) {
		if (!(skip & 1)) {
			if (write)
				WRITE_ONCE(*word, key);
			else if (READ_ONCE(*word) != key)
				return false;
		}
		skip >>= 1;
		key += step;
	}
	byte = (u8 *)word;
	for (i = 0; i < size; i++) {
		if (write)
			WRITE_ONCE(byte[i], (u8)key);
		else if (READ_ONCE(byte[i]) != (u8)key)
			return false;
	}
	return true;
}

/* All that belongs to an object, but for the words that have a meaning */
static bool object_pattern(struct tort_alloc *tort, void *obj, size_t size,
			   unsigned long key, unsigned long step, bool write)
{
	const struct tort_kind *kind = tort->kind;
	unsigned long skip = BIT(HEAD_OFF / sizeof(long));
	int cpu;

	if (kind->link)
		skip |= BIT(LINK_OFF / sizeof(long));
	if (kind->object && kind->percpu)
		skip |= BIT(AREA_OFF / sizeof(long));
	if (kind->object) {
		if (!pattern(obj, size, skip, key, step, write))
			return false;
		skip = 0;
	}
	if (!kind->percpu)
		return true;
	for_each_possible_cpu(cpu) {
		key += step;
		if (!pattern(per_cpu_ptr(area_of(tort, obj), cpu),
			     tort->percpu_size, skip, key, step, write))
			return false;
		skip = 0;
	}
	return true;
}

/* What goes with the word that an object begins with */
static bool head_pattern(struct tort_alloc *tort, void *obj, unsigned long head,
			 bool write)
{
	unsigned long key = (head & ~HEAD_LIVE) ^ (unsigned long)obj;

	return object_pattern(tort, obj, head_size(head) ?: tort->size,
			      key * GOLDEN_RATIO_PRIME, GOLDEN_RATIO_PRIME,
			      write);
}

static unsigned long new_head(struct tort_actor *actor, struct tort_alloc *tort,
			      size_t size)
{
	unsigned long seq = torture_random(&actor->random);

	if (!tort->kind->any)
		size = 0;
	return HEAD_LIVE | size << SIZE_SHIFT | tort->cookie << COOKIE_SHIFT |
	       seq << SEQ_SHIFT;
}

/* Mark an object as ours, and see that nobody has touched it since its free */
static void take_object(struct tort_actor *actor, struct tort_alloc *tort,
			void *obj, size_t size)
{
	unsigned long head = new_head(actor, tort, size), old;

	if (!IS_ALIGNED((unsigned long)obj, sizeof(u64)))
		tort_error(actor, tort->nr, "not aligned", true);
	old = xchg(head_of(tort, obj), head);
	if (old & HEAD_LIVE)
		tort_error(actor, tort->nr, "handed out twice", true);
	else if (old && head_cookie(old) != tort->cookie)
		tort_error(actor, tort->nr, "object of another allocator", true);
	else if (old && !head_pattern(tort, obj, old, false))
		tort_error(actor, tort->nr, "changed while free", true);
	else if (!old && !object_pattern(tort, obj, size, 0, 0, false))
		tort_error(actor, tort->nr, "not zero at first", true);
	head_pattern(tort, obj, head, true);
}

/* The other way round */
static void leave_object(struct tort_actor *actor, struct tort_alloc *tort,
			 void *obj)
{
	unsigned long *headp = head_of(tort, obj);
	unsigned long head = READ_ONCE(*headp);

	if (!(head & HEAD_LIVE) || head_cookie(head) != tort->cookie ||
	    !head_pattern(tort, obj, head, false))
		tort_error(actor, tort->nr, "changed while in use", true);
	if (xchg(headp, head & ~HEAD_LIVE) != head)
		tort_error(actor, tort->nr, "has two owners", true);
}

/*
 * For those who want to be in the allocator, and not here, when they are
 * interrupted: the object goes back as it came, but for its mark.
 */
static void take_object_quick(struct tort_actor *actor, struct tort_alloc *tort,
			      void *obj)
{
	unsigned long *headp = head_of(tort, obj), head;

	if (test_and_set_bit(HEAD_LIVE_BIT, headp))
		tort_error(actor, tort->nr, "handed out twice", true);
	head = READ_ONCE(*headp) & ~HEAD_LIVE;
	if (head && head_cookie(head) != tort->cookie)
		tort_error(actor, tort->nr, "object of another allocator",
			   true);
}

static void leave_object_quick(struct tort_actor *actor,
			       struct tort_alloc *tort, void *obj)
{
	if (!test_and_clear_bit(HEAD_LIVE_BIT, head_of(tort, obj)))
		tort_error(actor, tort->nr, "has two owners", true);
}

/* Sizes up to the largest one, as many small ones as large ones */
static size_t random_size(struct tort_actor *actor, struct tort_alloc *tort)
{
	size_t size = tort->size;

	size >>= tort_random(actor, ilog2(size / sizeof(long)));
	return sizeof(long) + tort_random(actor, size - sizeof(long) + 1);
}

static void *raw_alloc(struct tort_actor *actor, struct tort_alloc *tort,
		       size_t size)
{
	int how;

	if (tort->kind->any)
		return bpf_mem_alloc(&tort->ma, size);
	how = tort_random(actor, 16);
	if (!how)
		bpf_mem_cache_refill(&tort->ma);
	if (how & 1 && irqs_disabled())
		return bpf_mem_cache_alloc_irqoff(&tort->ma);
	return bpf_mem_cache_alloc(&tort->ma);
}

static void raw_free(struct tort_actor *actor, struct tort_alloc *tort,
		     void *obj)
{
	if (tort->kind->any)
		bpf_mem_free(&tort->ma, obj);
	else if (irqs_disabled() && tort_random(actor, 2))
		bpf_mem_cache_free_irqoff(&tort->ma, obj);
	else
		bpf_mem_cache_free(&tort->ma, obj);
}

static void *tort_try_get(struct tort_actor *actor, struct tort_alloc *tort,
			  bool quick)
{
	size_t size = tort->one_size ? tort->size : random_size(actor, tort);
	void *obj;

	obj = raw_alloc(actor, tort, size);
	if (!obj) {
		actor->counts[tort->nr].failed++;
		atomic_long_inc(&tort->failed);
		if (actor->context == TORT_NMI)
			atomic_long_inc(&tort->failed_nmi);
		return NULL;
	}
	actor->counts[tort->nr].allocs++;
	atomic_long_inc(&tort->live);
	if (quick)
		take_object_quick(actor, tort, obj);
	else
		take_object(actor, tort, obj, size);
	return obj;
}

static void *tort_get(struct tort_actor *actor, struct tort_alloc *tort,
		      bool quick)
{
	void *obj = tort_try_get(actor, tort, quick);

	/* Without waiting per-CPU areas are not to be had, and on PREEMPT_RT
	 * nothing is.
	 */
	if (!obj && !IS_ENABLED(CONFIG_PREEMPT_RT) && !irqs_disabled() &&
	    !in_nmi() && !tort->kind->percpu && memory_is_free())
		tort_error(actor, tort->nr, "no object with memory free", false);
	return obj;
}

static void tort_put(struct tort_actor *actor, struct tort_alloc *tort,
		     void *obj, bool quick)
{
	if (quick)
		leave_object_quick(actor, tort, obj);
	else
		leave_object(actor, tort, obj);
	atomic_long_dec(&tort->live);
	actor->counts[tort->nr].frees++;
	raw_free(actor, tort, obj);
}

/* The limits, which give or take nothing */
static void tort_edges(struct tort_actor *actor, struct tort_alloc *tort)
{
	if (!tort->kind->any) {
		bpf_mem_cache_free(&tort->ma, NULL);
		return;
	}
	if (bpf_mem_alloc(&tort->ma, 0) != ZERO_SIZE_PTR ||
	    bpf_mem_alloc(&tort->ma, MAX_ANY_SIZE + 1))
		tort_error(actor, tort->nr, "an object without a size", false);
	bpf_mem_free(&tort->ma, ZERO_SIZE_PTR);
	bpf_mem_free(&tort->ma, NULL);
}

/* Allocate into a slot or not, free what was in there */
static void tort_swap(struct tort_actor *actor, struct tort_alloc *tort)
{
	void **slot = &tort->slots[tort_random(actor, NR_SLOTS)];
	bool fill_up = (jiffies / HZ + tort->nr) & 1;
	void *obj = NULL;

	if (tort_random(actor, 4) < (fill_up ? 3 : 1))
		obj = tort_get(actor, tort, false);
	obj = xchg(slot, obj);
	if (obj)
		tort_put(actor, tort, obj, false);
	if (!tort_random(actor, 64))
		tort_edges(actor, tort);
}

/*
 * Nobody may sleep with what this returns: it is under RCU. Who interrupts
 * others mostly takes the allocator that they are using.
 */
static struct tort_alloc *tort_pick(struct tort_actor *actor)
{
	int nr = tort_random(actor, NR_ALLOCS);

	if (READ_ONCE(tort_halted))
		return NULL;
	if (actor->context == TORT_TASK)
		raw_cpu_write(tort_cpus->in_use, nr);
	else if (actor->context != TORT_READER && tort_random(actor, 4))
		nr = raw_cpu_read(tort_cpus->in_use);
	return rcu_dereference(tort_allocs[nr]);
}

/* Keep a few at most, while others hand theirs to other CPUs */
static void tort_pairs(struct tort_actor *actor, struct tort_alloc *tort,
		       int nr)
{
	void *obj, *kept[4] = {};
	int i, k;

	for (i = 0; i < nr; i++) {
		k = i % ARRAY_SIZE(kept);
		obj = tort_get(actor, tort, true);
		if (kept[k])
			tort_put(actor, tort, kept[k], true);
		kept[k] = obj;
	}
	for (k = 0; k < ARRAY_SIZE(kept); k++)
		if (kept[k])
			tort_put(actor, tort, kept[k], true);
}

/* What the actors of all contexts do */
static void tort_act(struct tort_actor *actor)
{
	int i, nr = 1 + tort_random(actor, 4);
	struct tort_alloc *tort;

	rcu_read_lock();
	tort = tort_pick(actor);
	if (!tort)
		goto out;
	if (tort_random(actor, 2)) {
		tort_pairs(actor, tort, nr);
		goto out;
	}
	for (i = 0; i < nr; i++)
		tort_swap(actor, tort);
out:
	rcu_read_unlock();
}

/* Many objects in a row, mostly with interrupts off as under a bucket lock */
static void tort_burst(struct tort_actor *actor)
{
	bool irqs_off = tort_random(actor, 4), quick = tort_random(actor, 4);
	int i, nr = 1 + tort_random(actor, burst);
	struct tort_alloc *tort;
	unsigned long flags;

	rcu_read_lock();
	tort = tort_pick(actor);
	if (!tort)
		goto out;
	if (irqs_off)
		local_irq_save(flags);
	if (tort_random(actor, 2))
		tort_pairs(actor, tort, nr);
	for (i = 0; i < nr; i++)
		actor->burst[i] = tort_get(actor, tort, quick);
	/* those that others can get at go to another CPU, perhaps */
	for (i = 0; !quick && i < nr && tort_random(actor, 32); i++)
		actor->burst[i] = xchg(&tort->slots[i % NR_SLOTS],
				       actor->burst[i]);
	for (i = 0; i < nr; i++)
		if (actor->burst[i])
			tort_put(actor, tort, actor->burst[i], quick);
	if (irqs_off)
		local_irq_restore(flags);
out:
	rcu_read_unlock();
}

/* As system calls do: this must not fail, not even for per-CPU objects */
static void *tort_get_waiting(struct tort_actor *actor, struct tort_alloc *tort)
{
	int tries = 0, err = 0;
	void *obj = NULL;

	if (tort->kind->any && !IS_ENABLED(CONFIG_PREEMPT_RT))
		return tort_get(actor, tort, false);
	while (!obj && !err && tries++ < FILL_TRIES) {
		if (!tort->kind->any)
			err = bpf_mem_cache_fill(&tort->ma, true);
		else if (tries > 1)
			/* nobody can fill these: irq_work does it meanwhile */
			schedule_timeout_uninterruptible(1);
		if (!err)
			obj = tort_try_get(actor, tort, false);
	}
	if (!obj && memory_is_free())
		tort_error(actor, tort->nr, err ? "not filled with memory free" :
			   "no object after filling", false);
	return obj;
}

static void tort_fill(struct tort_actor *actor)
{
	struct tort_alloc *tort;
	void *obj;

	rcu_read_lock();
	tort = tort_pick(actor);
	if (tort)
		atomic_inc(&tort->sleepers);
	rcu_read_unlock();
	if (!tort)
		return;
	obj = tort_get_waiting(actor, tort);
	obj = xchg(&tort->slots[tort_random(actor, NR_SLOTS)], obj);
	if (obj)
		tort_put(actor, tort, obj, false);
	/* pairs with smp_rmb() in tort_replace() */
	smp_mb__before_atomic();
	atomic_dec(&tort->sleepers);
}

static int bpf_mem_torture_task(void *arg)
{
	struct tort_actor *actor = arg;

	set_user_nice(current, MAX_NICE);
	do {
		switch (tort_random(actor, 16)) {
		case 0:
			tort_fill(actor);
			break;
		case 1 ... 6:
			tort_burst(actor);
			break;
		default:
			tort_act(actor);
			break;
		}
		if (!tort_random(actor, 512))
			schedule_timeout_interruptible(1);
		cond_resched();
		stutter_wait("bpf_mem_torture_task");
	} while (!torture_must_stop());
	torture_kthread_stopping("bpf_mem_torture_task");
	return 0;
}

/* What a reader has seen of an object: to which allocator it belonged */
struct tort_seen {
	unsigned long *headp;
	unsigned long cookie;
	int nr;
};

/* Under RCU */
static int tort_look(struct tort_actor *actor, struct tort_seen *seen,
		     bool trace)
{
	struct tort_alloc *tort = tort_pick(actor);
	int i, n = 0;
	void *obj;

	if (!tort || (trace && !tort->sleepable))
		return 0;
	for (i = 0; i < NR_READS; i++) {
		obj = READ_ONCE(tort->slots[tort_random(actor, NR_SLOTS)]);
		if (!obj)
			continue;
		seen[n].headp = head_of(tort, obj);
		seen[n].cookie = tort->cookie;
		seen[n].nr = tort->nr;
		n++;
	}
	atomic_long_add(n, &tort_reads);
	return n;
}

/*
 * The objects may have been handed out again to anybody, and their allocator
 * may be no more; but as long as we are here, they are of no other use.
 */
static void tort_look_again(struct tort_actor *actor, struct tort_seen *seen,
			    int n, const char *what)
{
	while (n-- > 0) {
		if (head_cookie(READ_ONCE(*seen[n].headp)) == seen[n].cookie)
			continue;
		tort_error(actor, seen[n].nr, what, true);
		break;
	}
}

static void tort_read(struct tort_actor *actor)
{
	struct tort_seen seen[NR_READS];
	int n;

	rcu_read_lock();
	n = tort_look(actor, seen, false);
	if (n)
		udelay(tort_random(actor, 1000));
	tort_look_again(actor, seen, n, "gone before RCU's grace period");
	rcu_read_unlock();
}

/* Those who sleep */
static void tort_read_trace(struct tort_actor *actor)
{
	/* some do so until the allocator is destroyed */
	long wait = tort_random(actor, tort_random(actor, 2) ? HZ / 2 : 4);
	struct tort_seen seen[NR_READS];
	int n;

	rcu_read_lock_trace();
	rcu_read_lock();
	n = tort_look(actor, seen, true);
	rcu_read_unlock();
	if (n)
		schedule_timeout_interruptible(wait);
	tort_look_again(actor, seen, n, "gone before Tasks Trace's grace period");
	rcu_read_unlock_trace();
}

static int bpf_mem_torture_reader(void *arg)
{
	struct tort_actor *actor = arg;

	set_user_nice(current, MAX_NICE);
	do {
		if (tort_random(actor, 2))
			tort_read(actor);
		else
			tort_read_trace(actor);
		cond_resched();
		stutter_wait("bpf_mem_torture_reader");
	} while (!torture_must_stop());
	torture_kthread_stopping("bpf_mem_torture_reader");
	return 0;
}

/*
 * Few, so that one allocator's memory soon becomes another's. The last one
 * does not come from a slab cache; it is rare, as patterns take their time.
 */
static const u16 tort_sizes[] = { 24, 64, 100, 200, 1000, 9000 };

static int tort_init_alloc(struct tort_actor *actor, struct tort_alloc *tort)
{
	const struct tort_kind *kind = tort->kind;
	struct bpf_mem_alloc_opts opts = {
		.percpu_off = AREA_OFF,
		.link_off = LINK_OFF,
		.numa_node = NUMA_NO_NODE,
	};

	tort->one_size = !kind->any || tort_random(actor, 2);
	if (kind->percpu)
		tort->percpu_size = sizeof(long) << tort_random(actor, 5);
	if (!kind->object)
		return bpf_mem_alloc_init(&tort->ma, tort->percpu_size, true);
	if (kind->any) {
		tort->size = MAX_ANY_SIZE;
		if (tort->one_size)
			tort->size = random_size(actor, tort);
		return bpf_mem_alloc_init(&tort->ma, 0, false);
	}
	tort->size = tort_sizes[tort_random(actor, tort_random(actor, 16) ? 4 :
					    ARRAY_SIZE(tort_sizes))];
	if (!kind->link)
		return bpf_mem_alloc_init(&tort->ma, tort->size, false);
	opts.size = tort->size;
	opts.percpu_size = tort->percpu_size;
	return bpf_mem_alloc_init_opts(&tort->ma, &opts);
}

/* Memory for one object, told from the statistics, while nobody else is here */
static void tort_measure(struct tort_actor *actor, struct tort_alloc *tort)
{
	struct bpf_mem_alloc_stats stats;
	u64 nr;

	bpf_mem_alloc_get_stats(&tort->ma, &stats);
	tort->overhead = stats.bytes;
	tort->slots[0] = tort_get_waiting(actor, tort);
	if (!tort->slots[0]) {
		tort->one_size = false;
		return;
	}
	/* what has been asked for meanwhile comes soon */
	schedule_timeout_uninterruptible(2);
	bpf_mem_alloc_get_stats(&tort->ma, &stats);
	nr = 1 + stats.cached + stats.waiting;
	tort->charge = div64_u64(stats.bytes - tort->overhead, nr);
	if (tort->one_size && tort->charge < tort->size +
	    tort->percpu_size * num_possible_cpus())
		tort_error(actor, tort->nr, "charged for less than it takes",
			   false);
}

static struct tort_alloc *tort_create(struct tort_actor *actor, int nr)
{
	struct tort_alloc *tort;
	int err;

	tort = kzalloc(sizeof(*tort), GFP_KERNEL);
	if (!tort)
		return NULL;
	tort->nr = nr;
	tort->kind = &tort_kinds[nr / 2];
	tort->sleepable = nr & 1;
	tort->cookie = 1 + tort_cookie++ % GENMASK(COOKIE_BITS - 1, 0);
	err = tort_init_alloc(actor, tort);
	if (err) {
		if (err != -ENOMEM || memory_is_free())
			tort_error(actor, nr, "not created", false);
		kfree(tort);
		return NULL;
	}
	if (tort->sleepable)
		bpf_mem_alloc_set_sleepable(&tort->ma);
	tort_measure(actor, tort);
	tort_created++;
	return tort;
}

/* What does not add up when nobody uses an allocator, and all is freed */
static const char *tort_odd_stats(struct tort_alloc *tort, bool end)
{
	long failed = atomic_long_read(&tort->failed), lost;
	struct bpf_mem_alloc_stats stats;
	u64 nr;

	bpf_mem_alloc_get_stats(&tort->ma, &stats);
	nr = stats.cached + stats.waiting;
	if (tort->one_size && stats.bytes != tort->overhead + nr * tort->charge)
		return "memory does not add up";
	if (stats.bytes < tort->overhead + nr * sizeof(long))
		return "memory is less than that of its objects";
	/* an NMI can fail while an interrupted failure is being counted */
	lost = failed - (long)stats.failed;
	if (lost < 0 || lost > atomic_long_read(&tort->failed_nmi))
		return "failures do not add up";
	if (end && stats.waiting)
		return "objects wait for ever";
	return NULL;
}

static void tort_check_stats(struct tort_actor *actor, struct tort_alloc *tort,
			     bool end)
{
	struct bpf_mem_alloc_stats stats;
	unsigned long timeout;
	const char *odd;

	timeout = atomic_read(&tort_errors) ? ERROR_TIMEOUT : QUIET_TIMEOUT;
	timeout += jiffies;
	if (atomic_long_read(&tort->live)) {
		tort_error(actor, tort->nr, "objects got lost", false);
		return;
	}
	/* irq_work may still be at it, and the numbers are read one by one */
	while ((odd = tort_odd_stats(tort, end)) && !tort_halted &&
	       time_before(jiffies, timeout))
		schedule_timeout_uninterruptible(1);
	if (!odd)
		return;
	tort_error(actor, tort->nr, odd, false);
	if (atomic_read(&tort_errors) > MAX_TOLD)
		return;
	bpf_mem_alloc_get_stats(&tort->ma, &stats);
	pr_alert(TORT "!!! %llu bytes, of them %llu for no object and %llu for each, cached %llu, waiting %llu, failed %llu of %ld, %ld in NMI\n",
		 stats.bytes, tort->overhead, tort->charge, stats.cached,
		 stats.waiting, stats.failed, atomic_long_read(&tort->failed),
		 atomic_long_read(&tort->failed_nmi));
}

/* Put another allocator in place of one, if any, and destroy that */
static void tort_replace(struct tort_actor *actor, int nr,
			 struct tort_alloc *new, bool end)
{
	struct tort_alloc *old;
	unsigned long flags;
	void *obj;
	int i;

	old = rcu_dereference_protected(tort_allocs[nr], true);
	rcu_assign_pointer(tort_allocs[nr], new);
	if (!old)
		return;
	/* all but those who sleep are in an RCU section, NMIs too */
	synchronize_rcu();
	while (atomic_read(&old->sleepers))
		schedule_timeout_uninterruptible(1);
	/* pairs with smp_mb__before_atomic() in tort_fill() */
	smp_rmb();
	if (READ_ONCE(tort_halted))
		return;		/* touch nothing any more */
	for (i = 0; i < NR_SLOTS; i++) {
		obj = xchg(&old->slots[i], NULL);
		if (!obj)
			continue;
		local_irq_save(flags);
		tort_put(actor, old, obj, false);
		local_irq_restore(flags);
	}
	/* else it is destroyed while its callbacks are under way */
	if (end || tort_random(actor, 2))
		tort_check_stats(actor, old, end);
	if (READ_ONCE(tort_halted))
		return;
	bpf_mem_alloc_destroy(&old->ma);
	/* now it is zeroed memory, for which this does nothing */
	bpf_mem_alloc_destroy(&old->ma);
	kfree(old);
}

static int bpf_mem_torture_creator(void *arg)
{
	struct tort_actor *actor = arg;
	struct tort_alloc *tort;
	int nr;

	do {
		nr = tort_random(actor, NR_ALLOCS);
		tort = tort_create(actor, nr);
		if (tort)
			tort_replace(actor, nr, tort, false);
		msleep_interruptible(tort_random(actor, 2 * create_interval));
	} while (!torture_must_stop() && !READ_ONCE(tort_halted));
	torture_kthread_stopping("bpf_mem_torture_creator");
	return 0;
}

#ifdef CONFIG_X86_LOCAL_APIC
#include <asm/apic.h>
#include <asm/irq_vectors.h>
#include <asm/nmi.h>

static int tort_nmi_handler(unsigned int type, struct pt_regs *regs)
{
	int cpu = raw_smp_processor_id();

	if (!cpumask_test_and_clear_cpu(cpu, &tort_nmi_sent))
		return NMI_DONE;
	tort_act(&per_cpu_ptr(tort_cpus, cpu)->nmi);
	return NMI_HANDLED;
}

/* Preemption is off, so @cpu cannot go down before it has got the NMI */
static void tort_send_nmi(int cpu)
{
	if (cpu_online(cpu) && !cpumask_test_and_set_cpu(cpu, &tort_nmi_sent))
		apic->send_IPI_mask(cpumask_of(cpu), NMI_VECTOR);
}

/* There may be an APIC that cannot, so try */
static bool tort_nmi_init(void)
{
	unsigned long flags;
	int i, cpu;

	if (!boot_cpu_has(X86_FEATURE_APIC) ||
	    register_nmi_handler(NMI_LOCAL, tort_nmi_handler, 0,
				 "bpf_mem_torture"))
		return false;
	local_irq_save(flags);
	cpu = smp_processor_id();
	tort_send_nmi(cpu);
	for (i = 0; i < 10000 && cpumask_test_cpu(cpu, &tort_nmi_sent); i++)
		udelay(1);
	local_irq_restore(flags);
	if (!cpumask_test_cpu(cpu, &tort_nmi_sent))
		return true;
	unregister_nmi_handler(NMI_LOCAL, "bpf_mem_torture");
	return false;
}

/* Nobody sends one any more */
static void tort_nmi_exit(void)
{
	int i;

	for (i = 0; i < 100; i++) {
		if (!cpumask_intersects(&tort_nmi_sent, cpu_online_mask))
			break;
		schedule_timeout_uninterruptible(1);
	}
	unregister_nmi_handler(NMI_LOCAL, "bpf_mem_torture");
}
#else
static void tort_send_nmi(int cpu)
{
}

static bool tort_nmi_init(void)
{
	return false;
}

static void tort_nmi_exit(void)
{
}
#endif

/* With one after the other, some come between any two instructions */
static int bpf_mem_torture_nmi(void *arg)
{
	struct tort_actor *actor = arg;
	int cpu, i;

	do {
		preempt_disable();
		cpu = tort_random(actor, nr_cpu_ids);
		for (i = 0; i < NR_NMIS && !READ_ONCE(tort_halted); i++) {
			tort_send_nmi(cpu);
			udelay(tort_random(actor, 20));
		}
		preempt_enable();
		schedule_timeout_interruptible(1);
		stutter_wait("bpf_mem_torture_nmi");
	} while (!torture_must_stop());
	torture_kthread_stopping("bpf_mem_torture_nmi");
	return 0;
}

static ktime_t tort_interval(struct tort_actor *actor)
{
	u64 us = irq_interval / 2 + tort_random(actor, irq_interval);

	return ns_to_ktime(us * NSEC_PER_USEC);
}

static enum hrtimer_restart tort_again(struct hrtimer *timer,
				       struct tort_actor *actor)
{
	if (torture_must_stop_irq())
		return HRTIMER_NORESTART;
	/* from now on, lest a slow machine does nothing else */
	hrtimer_set_expires(timer, ktime_add(hrtimer_cb_get_time(timer),
					     tort_interval(actor)));
	return HRTIMER_RESTART;
}

static enum hrtimer_restart tort_hard_timer(struct hrtimer *timer)
{
	struct tort_actor *actor;

	actor = &container_of(timer, struct tort_cpu, hard_timer)->hardirq;
	tort_act(actor);
	if (tort_has_nmi && tort_random(actor, 4))
		tort_send_nmi(tort_random(actor, nr_cpu_ids));
	return tort_again(timer, actor);
}

static enum hrtimer_restart tort_soft_timer(struct hrtimer *timer)
{
	struct tort_actor *actor;

	actor = &container_of(timer, struct tort_cpu, soft_timer)->softirq;
	tort_act(actor);
	return tort_again(timer, actor);
}

static int tort_cpu_online(unsigned int cpu)
{
	struct tort_cpu *tc = per_cpu_ptr(tort_cpus, cpu);

	/* one that came while the CPU went down has got lost */
	cpumask_clear_cpu(cpu, &tort_nmi_sent);
	if (irq_interval <= 0)
		return 0;
	hrtimer_start(&tc->hard_timer, tort_interval(&tc->hardirq),
		      HRTIMER_MODE_REL_PINNED_HARD);
	hrtimer_start(&tc->soft_timer, tort_interval(&tc->softirq),
		      HRTIMER_MODE_REL_PINNED_SOFT);
	return 0;
}

static int tort_cpu_down(unsigned int cpu)
{
	struct tort_cpu *tc = per_cpu_ptr(tort_cpus, cpu);

	hrtimer_cancel(&tc->hard_timer);
	hrtimer_cancel(&tc->soft_timer);
	return 0;
}

static int tort_start_cpus(void)
{
	int cpu, ret;

	for_each_possible_cpu(cpu) {
		struct tort_cpu *tc = per_cpu_ptr(tort_cpus, cpu);

		tc->hardirq.context = TORT_HARDIRQ;
		tc->softirq.context = TORT_SOFTIRQ;
		tc->nmi.context = TORT_NMI;
		hrtimer_init(&tc->hard_timer, CLOCK_MONOTONIC,
			     HRTIMER_MODE_REL_PINNED_HARD);
		hrtimer_init(&tc->soft_timer, CLOCK_MONOTONIC,
			     HRTIMER_MODE_REL_PINNED_SOFT);
		tc->hard_timer.function = tort_hard_timer;
		tc->soft_timer.function = tort_soft_timer;
	}
	tort_has_nmi = nmi && tort_nmi_init();
	if (!tort_has_nmi)
		pr_alert(TORT "There are no NMI actors: %s\n",
			 nmi ? "this machine cannot send NMIs" : "nmi=0");
	ret = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "lib/bpf_mem_torture",
				tort_cpu_online, tort_cpu_down);
	if (ret < 0)
		return ret;
	tort_cpuhp = ret;
	return 0;
}

static void tort_stop_cpus(void)
{
	if (tort_cpuhp >= 0)
		cpuhp_remove_state(tort_cpuhp);
	if (tort_has_nmi)
		tort_nmi_exit();
}

static struct tort_actor *tort_new_actor(enum tort_context context)
{
	struct tort_actor *actor;

	actor = kzalloc(sizeof(*actor), GFP_KERNEL);
	if (!actor)
		return NULL;
	actor->context = context;
	actor->burst = kcalloc(burst, sizeof(void *), GFP_KERNEL);
	if (!actor->burst) {
		kfree(actor);
		return NULL;
	}
	return actor;
}

static void tort_free_actor(struct tort_actor *actor)
{
	if (actor)
		kfree(actor->burst);
	kfree(actor);
}

static int tort_start_tasks(void)
{
	int i, err;

	tort_tasks = kcalloc(ntasks, sizeof(*tort_tasks), GFP_KERNEL);
	tort_readers = kcalloc(nreaders, sizeof(*tort_readers), GFP_KERNEL);
	if (!tort_tasks || !tort_readers)
		return -ENOMEM;
	for (i = 0; i < ntasks; i++) {
		tort_tasks[i] = tort_new_actor(TORT_TASK);
		if (!tort_tasks[i])
			return -ENOMEM;
		err = torture_create_kthread(bpf_mem_torture_task,
					     tort_tasks[i],
					     tort_tasks[i]->task);
		if (err)
			return err;
	}
	for (i = 0; i < nreaders; i++) {
		tort_readers[i] = tort_new_actor(TORT_READER);
		if (!tort_readers[i])
			return -ENOMEM;
		err = torture_create_kthread(bpf_mem_torture_reader,
					     tort_readers[i],
					     tort_readers[i]->task);
		if (err)
			return err;
	}
	if (tort_has_nmi) {
		tort_nmi_sender = tort_new_actor(TORT_NMI);
		if (!tort_nmi_sender)
			return -ENOMEM;
		err = torture_create_kthread(bpf_mem_torture_nmi,
					     tort_nmi_sender,
					     tort_nmi_sender->task);
		if (err)
			return err;
	}
	if (create_interval <= 0)
		return 0;
	return torture_create_kthread(bpf_mem_torture_creator, tort_creator,
				      tort_creator->task);
}

static void tort_stop_tasks(void)
{
	int i;

	if (tort_nmi_sender)
		torture_stop_kthread(bpf_mem_torture_nmi,
				     tort_nmi_sender->task);
	if (tort_creator)
		torture_stop_kthread(bpf_mem_torture_creator,
				     tort_creator->task);
	for (i = 0; tort_tasks && i < ntasks && tort_tasks[i]; i++)
		torture_stop_kthread(bpf_mem_torture_task, tort_tasks[i]->task);
	for (i = 0; tort_readers && i < nreaders && tort_readers[i]; i++)
		torture_stop_kthread(bpf_mem_torture_reader,
				     tort_readers[i]->task);
}

static void tort_free_all(void)
{
	int i;

	for (i = 0; tort_tasks && i < ntasks; i++)
		tort_free_actor(tort_tasks[i]);
	for (i = 0; tort_readers && i < nreaders; i++)
		tort_free_actor(tort_readers[i]);
	tort_free_actor(tort_creator);
	tort_free_actor(tort_nmi_sender);
	kfree(tort_tasks);
	kfree(tort_readers);
	free_percpu(tort_cpus);
}

static void add_counts(struct tort_count *sum, struct tort_actor *actor, int nr)
{
	if (!actor)
		return;
	sum->allocs += actor->counts[nr].allocs;
	sum->failed += actor->counts[nr].failed;
	sum->frees += actor->counts[nr].frees;
	sum->wrong += actor->counts[nr].wrong;
}

static void tort_sum(struct tort_count *sum, enum tort_context context, int nr)
{
	int i, cpu;

	for (i = 0; context == TORT_TASK && tort_tasks && i < ntasks; i++)
		add_counts(sum, tort_tasks[i], nr);
	for (i = 0; context == TORT_READER && tort_readers && i < nreaders; i++)
		add_counts(sum, tort_readers[i], nr);
	if (context == TORT_CREATOR)
		add_counts(sum, tort_creator, nr);
	if (!tort_cpus)
		return;
	for_each_possible_cpu(cpu) {
		struct tort_cpu *tc = per_cpu_ptr(tort_cpus, cpu);

		if (context == TORT_SOFTIRQ)
			add_counts(sum, &tc->softirq, nr);
		else if (context == TORT_HARDIRQ)
			add_counts(sum, &tc->hardirq, nr);
		else if (context == TORT_NMI)
			add_counts(sum, &tc->nmi, nr);
	}
}

static void tort_report(void)
{
	int context, nr;

	for (context = 0; context < NR_CONTEXTS; context++) {
		for (nr = 0; nr < NR_ALLOCS; nr++) {
			struct tort_count sum = {};

			tort_sum(&sum, context, nr);
			if (context == TORT_READER && !sum.wrong)
				continue;
			pr_alert(TORT "%s, %s%s: allocs %lu failed %lu frees %lu wrong %lu\n",
				 tort_contexts[context], tort_kinds[nr / 2].name,
				 nr & 1 ? ", sleepable" : "", sum.allocs,
				 sum.failed, sum.frees, sum.wrong);
		}
	}
	pr_alert(TORT "reads %ld, allocators %lu, errors %d ",
		 atomic_long_read(&tort_reads), tort_created,
		 atomic_read(&tort_errors));
	torture_onoff_stats();
}

/* Once, by whoever comes first: the end of the runtime, or of the module */
static void tort_finish(void)
{
	int i;

	mutex_lock(&tort_finish_mutex);
	if (tort_finished || torture_cleanup_begin())
		goto out;
	tort_finished = true;
	tort_stop_tasks();
	tort_stop_cpus();
	for (i = 0; i < NR_ALLOCS; i++)
		tort_replace(tort_creator, i, NULL, true);
	/* what destroy has put off warns if it finds anything missing */
	for (i = 0; i < 3; i++) {
		rcu_barrier_tasks_trace();
		rcu_barrier();
		schedule_timeout_uninterruptible(HZ / 10);
	}
	if (!tort_tainted && test_taint(TAINT_WARN))
		cmpxchg(&tort_verdict, NULL, "the kernel has warned");
	if (torture_onoff_failures())
		cmpxchg(&tort_verdict, NULL, "CPU hotplug");
	tort_report();
	pr_alert(TORT "--- End of test: %s%s\n",
		 tort_verdict ? "FAILURE: " : "SUCCESS", tort_verdict ?: "");
	torture_cleanup_end();
out:
	mutex_unlock(&tort_finish_mutex);
}

static int bpf_mem_torture_timeout(void *arg)
{
	unsigned long end = jiffies + runtime * HZ;

	while (!kthread_should_stop() && time_before(jiffies, end) &&
	       !torture_must_stop_irq() && !READ_ONCE(tort_halted))
		schedule_timeout_interruptible(HZ / 10);
	tort_finish();
	while (!kthread_should_stop())
		schedule_timeout_interruptible(HZ / 10);
	return 0;
}

/*
 * What KASAN has to report, and what it must not. An object that was just
 * freed, in a read section, is legal to look at; it is the last one here.
 */
static int __init tort_touch(void)
{
	struct bpf_mem_alloc_opts opts = {
		.size = 8 * sizeof(long),
		.link_off = LINK_OFF,
		.percpu_off = -1,
		.numa_node = NUMA_NO_NODE,
	};
	struct bpf_mem_alloc_stats stats;
	struct bpf_mem_alloc ma;
	unsigned long *obj, *next;
	int i, err;

	err = bpf_mem_alloc_init_opts(&ma, &opts);
	if (err)
		return err;
	obj = bpf_mem_cache_alloc(&ma);
	if (!obj) {
		bpf_mem_alloc_destroy(&ma);
		return -ENOMEM;
	}
	/* the next one to be handed out: nobody has overwritten the link */
	next = *(void **)((void *)obj + LINK_OFF);
	if (touch == 1 && next)
		pr_alert(TORT "never handed out: %lx\n", READ_ONCE(*next));

	rcu_read_lock();
	bpf_mem_cache_free(&ma, obj);
	if (touch == 3)
		pr_alert(TORT "just freed: %lx\n", READ_ONCE(*obj));
	rcu_read_unlock();

	for (i = 0; touch == 2 && i < QUIET_TIMEOUT; i++) {
		bpf_mem_alloc_get_stats(&ma, &stats);
		if (!stats.waiting)
			break;
		schedule_timeout_uninterruptible(1);
	}
	if (touch == 2)
		pr_alert(TORT "back in slab: %lx\n", READ_ONCE(*obj));
	bpf_mem_alloc_destroy(&ma);
	return 0;
}

static int __init tort_init(void)
{
	int i, err;

	if (touch)
		return tort_touch() ?: -EAGAIN;
	if (!torture_init_begin("bpf_mem_alloc", verbose))
		return -EBUSY;
	if (ntasks < 0)
		ntasks = 2 * num_online_cpus();
	nreaders = max(nreaders, 0);
	burst = clamp(burst, 1, 1024);
	runtime = clamp(runtime, 0, INT_MAX / HZ);
	tort_tainted = test_taint(TAINT_WARN);
	pr_alert(TORT "--- Start of test: ntasks=%d nreaders=%d irq_interval=%d nmi=%d burst=%d create_interval=%d onoff_holdoff=%d onoff_interval=%d shuffle_interval=%d stutter=%d runtime=%d\n",
		 ntasks, nreaders, irq_interval, nmi, burst, create_interval,
		 onoff_holdoff, onoff_interval, shuffle_interval, stutter,
		 runtime);

	err = -ENOMEM;
	tort_cpus = alloc_percpu(struct tort_cpu);
	tort_creator = tort_new_actor(TORT_CREATOR);
	if (!tort_cpus || !tort_creator)
		goto fail;
	for (i = 0; i < NR_ALLOCS; i++) {
		struct tort_alloc *tort = tort_create(tort_creator, i);

		if (!tort)
			goto fail;
		tort_replace(tort_creator, i, tort, false);
	}
	err = tort_start_cpus();
	if (err)
		goto fail;
	err = tort_start_tasks();
	if (err)
		goto fail;
	if (shuffle_interval > 0) {
		err = torture_shuffle_init(shuffle_interval * HZ);
		if (err)
			goto fail;
	}
	if (stutter > 0) {
		err = torture_stutter_init(HZ, stutter * HZ);
		if (err)
			goto fail;
	}
	err = torture_onoff_init(onoff_holdoff * HZ, onoff_interval, NULL);
	if (err)
		goto fail;
	if (runtime) {
		tort_timeout = kthread_run(bpf_mem_torture_timeout, NULL,
					   "bpf_mem_torture_timeout");
		err = PTR_ERR_OR_ZERO(tort_timeout);
		if (err)
			goto fail;
	}
	torture_init_end();
	return 0;

fail:
	cmpxchg(&tort_verdict, NULL, "not started");
	torture_init_end();
	tort_finish();
	tort_free_all();
	return err;
}

static void __exit tort_exit(void)
{
	if (!IS_ERR_OR_NULL(tort_timeout))
		kthread_stop(tort_timeout);
	tort_finish();
	/* not so if the machine goes down */
	if (tort_finished)
		tort_free_all();
}

module_init(tort_init);
module_exit(tort_exit);
