// SPDX-License-Identifier: GPL-2.0-only
#include <sched.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>
#include "emul.h"

#define UNIT_SIZE	(8UL << 20)
#define LIVE_MAGIC	0x6c69766520746f64ULL
#define DEAD_MAGIC	0x6465616420746f64ULL
#define POISON		0x6b
#define REDZONE		16
#define QUARANTINE	512

struct emul emul;
int emul_nr_cpus = 1;
u32 emul_possible_cpus;
unsigned long emul_cpu_offs[NR_CPUS];
unsigned long emul_jiffies;
u32 emul_relaxing[NR_CPUS];
struct workqueue_struct *system_unbound_wq;

__this_cpu int emul_cpu;
__this_cpu unsigned long emul_cpu_off;
__this_cpu unsigned long emul_irqs_off;
__this_cpu u32 emul_preempt_count;

/* What a CPU has beside the running thread's variables */
struct cpu_state {
	struct irq_work *irq_work;
	struct timer_list *timers;	/* this CPU's alone */
	u64 reader;		/* odd within a reader, see synchronize_rcu() */
	u32 reader_depth;
	bool in_callback;	/* of irq_work, timers */
};

static struct cpu_state cpus[NR_CPUS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct rcu_head *callbacks[EMUL_NR_GP];
static struct delayed_work *works;
static u64 seq;
static u64 completed[EMUL_NR_GP];
static int (*dead_callback)(unsigned int cpu);

void (*emul_fail_fn)(void);

void emul_fail(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	fprintf(stderr, "emulated kernel: ");
	vfprintf(stderr, fmt, args);
	fprintf(stderr, "\n");
	va_end(args);
	if (emul_fail_fn)
		emul_fail_fn();
	abort();
}

void emul_bug(const char *file, int line, const char *what)
{
	emul_fail("%s:%d: %s", file, line, what);
}

static void hook(enum emul_point point)
{
	if (emul.hook)
		emul.hook(point);
}

/* What must not be called from the context of an allocation or a free */
static void check_backend(const char *name)
{
	if (in_nmi())
		emul_fail("%s in NMI", name);
	if (emul_irqs_off && !cpus[emul_cpu].in_callback)
		emul_fail("%s with interrupts off", name);
}

void might_sleep(void)
{
	if (emul_irqs_off || emul_preempt_count)
		emul_fail("sleeping in atomic context");
}

void cond_resched(void)
{
	might_sleep();
}

/*
 * Time passes when a test says so, and where a CPU waits for another, a
 * microsecond each time.
 */
#define FIRST_JIFFY	((unsigned long)-300 * HZ)
static __thread u64 relaxed;

u64 ktime_get_mono_fast_ns(void)
{
	return (jiffies - FIRST_JIFFY) * (u64)TICK_NSEC + emul.lost_ns +
	       relaxed * 1000;
}

void emul_cpu_relax(void)
{
	relaxed++;
	WRITE_ONCE(emul_relaxing[emul_cpu], 1);
	if (emul.relax)
		emul.relax();
	else
		sched_yield();
}

/* CPUs and contexts */

static void reader_enter(void)
{
	struct cpu_state *cpu = &cpus[emul_cpu];

	if (emul.threads && !cpu->reader_depth++)
		__atomic_fetch_add(&cpu->reader, 1, __ATOMIC_SEQ_CST);
}

static void reader_exit(void)
{
	struct cpu_state *cpu = &cpus[emul_cpu];

	if (emul.threads && !--cpu->reader_depth)
		__atomic_fetch_add(&cpu->reader, 1, __ATOMIC_SEQ_CST);
}

bool emul_irq_work_run(void)
{
	struct cpu_state *cpu = &cpus[emul_cpu];
	struct irq_work *work, *next;
	bool in_timer = cpu->in_callback;
	unsigned long flags;
	u32 preempt;

	work = xchg(&cpu->irq_work, NULL);
	if (!work)
		return false;
	flags = emul_irqs_off;
	preempt = emul_preempt_count;
	if (flags)
		emul_fail("interrupt while interrupts are off");
	emul_irqs_off = 1;
	emul_preempt_count += HARDIRQ_OFFSET;
	cpu->in_callback = true;
	reader_enter();
	for (; work; work = next) {
		next = work->next;
		__atomic_and_fetch(&work->flags.counter, ~IRQ_WORK_PENDING,
				   __ATOMIC_SEQ_CST);
		work->func(work);
	}
	reader_exit();
	cpu->in_callback = in_timer;
	if (emul_preempt_count != preempt + HARDIRQ_OFFSET || !emul_irqs_off)
		emul_fail("irq_work leaves another context than it found");
	emul_preempt_count = preempt;
	emul_irqs_off = flags;
	return true;
}

static bool run_timers(void)
{
	struct cpu_state *cpu = &cpus[emul_cpu];
	struct timer_list **p, *timer;
	bool ran = false;

	p = &cpu->timers;
	while ((timer = *p)) {
		if (time_before(jiffies, timer->expires)) {
			p = &timer->next;
			continue;
		}
		*p = timer->next;
		timer->pending = false;
		emul_softirq_enter();
		cpu->in_callback = true;
		timer->function(timer);
		cpu->in_callback = false;
		emul_softirq_exit();
		ran = true;
		p = &cpu->timers;
	}
	return ran;
}

/* Another thread may count jiffies, but a timer is its CPU's own */
static void irqs_enabled(void)
{
	if (emul.threads && !in_irq() && !in_serving_softirq())
		run_timers();
	if (!emul.irq_work_manual)
		while (emul_irq_work_run())
			;
	hook(EMUL_IRQS_ON);
}

unsigned long emul_irq_save(void)
{
	unsigned long flags = emul_irqs_off;

	hook(EMUL_IRQ_SAVE);
	if (!flags) {
		emul_irqs_off = 1;
		reader_enter();
	}
	return flags;
}

void emul_irq_restore(unsigned long flags)
{
	if (!emul_irqs_off)
		emul_fail("interrupts came on in between");
	if (flags)
		return;
	reader_exit();
	emul_irqs_off = 0;
	irqs_enabled();
}

void rcu_read_lock(void)
{
	emul_preempt_count++;
	reader_enter();
}

void rcu_read_unlock(void)
{
	reader_exit();
	emul_preempt_count--;
}

void emul_nmi_enter(void)
{
	emul_preempt_count += NMI_OFFSET + HARDIRQ_OFFSET;
	emul_irqs_off++;
	reader_enter();
}

/* The irq_work that an NMI queues interrupts what the NMI interrupted */
void emul_nmi_exit(void)
{
	reader_exit();
	emul_irqs_off--;
	emul_preempt_count -= NMI_OFFSET + HARDIRQ_OFFSET;
	if (!emul_irqs_off)
		irqs_enabled();
}

void emul_hardirq_enter(void)
{
	emul_preempt_count += HARDIRQ_OFFSET;
	emul_irqs_off++;
	reader_enter();
}

void emul_hardirq_exit(void)
{
	reader_exit();
	emul_irqs_off--;
	emul_preempt_count -= HARDIRQ_OFFSET;
	if (!emul_irqs_off)
		irqs_enabled();
}

void emul_softirq_enter(void)
{
	emul_preempt_count += SOFTIRQ_OFFSET;
}

void emul_softirq_exit(void)
{
	emul_preempt_count -= SOFTIRQ_OFFSET;
}

void emul_set_cpu(int cpu)
{
	emul_cpu = cpu;
	emul_cpu_off = emul_cpu_offs[cpu];
}

/* Run as a task of another CPU while this one stands still */
void emul_on_cpu(int cpu, void (*fn)(void *arg), void *arg)
{
	unsigned long irqs_off = emul_irqs_off;
	u32 preempt_count = emul_preempt_count;
	int old = emul_cpu;

	if (cpu == old)
		emul_fail("CPU %d stands still", cpu);
	emul_set_cpu(cpu);
	emul_irqs_off = 0;
	emul_preempt_count = 0;
	fn(arg);
	if (emul_irqs_off || emul_preempt_count)
		emul_fail("context left open on CPU %d", cpu);
	emul_set_cpu(old);
	emul_irqs_off = irqs_off;
	emul_preempt_count = preempt_count;
}

bool irq_work_queue(struct irq_work *work)
{
	if (!emul_irqs_off && !emul_preempt_count)
		emul_fail("irq_work queued on a CPU that may change");
	return irq_work_queue_on(work, emul_cpu);
}

bool irq_work_queue_on(struct irq_work *work, int nr)
{
	struct cpu_state *cpu = &cpus[nr];
	struct irq_work *old;
	int flags;

	if (in_nmi() && nr != emul_cpu)
		emul_fail("irq_work queued on another CPU in NMI");
	flags = __atomic_fetch_or(&work->flags.counter, IRQ_WORK_PENDING,
				  __ATOMIC_SEQ_CST);
	if (flags & IRQ_WORK_PENDING)
		return false;
	do {
		old = READ_ONCE(cpu->irq_work);
		work->next = old;
	} while (cmpxchg(&cpu->irq_work, old, work) != old);
	return true;
}

int mod_timer(struct timer_list *timer, unsigned long expires)
{
	struct cpu_state *cpu = &cpus[emul_cpu];
	bool pending = timer->pending;

	check_backend("timer");
	if (pending && timer->cpu != emul_cpu)
		emul_fail("timer of another CPU");
	timer->expires = expires;
	if (pending)
		return true;
	timer->pending = true;
	timer->cpu = emul_cpu;
	timer->next = cpu->timers;
	cpu->timers = timer;
	return false;
}

/* Of a dead CPU, or nobody asks for it any more */
int del_timer_sync(struct timer_list *timer)
{
	struct timer_list **p;

	might_sleep();
	if (!timer->pending)
		return false;
	for (p = &cpus[timer->cpu].timers; *p != timer; p = &(*p)->next)
		;
	*p = timer->next;
	timer->pending = false;
	return true;
}

int cpuhp_setup_state_nocalls(int state, const char *name, void *startup,
			      int (*teardown)(unsigned int cpu))
{
	dead_callback = teardown;
	return 0;
}

/* The irq_work of a dead CPU is lost, another one has its timers */
void emul_cpu_dead(unsigned int cpu)
{
	struct timer_list *timer;
	struct irq_work *work;

	for (work = cpus[cpu].irq_work; work; work = work->next)
		work->flags.counter &= ~IRQ_WORK_PENDING;
	cpus[cpu].irq_work = NULL;
	while ((timer = cpus[cpu].timers)) {
		cpus[cpu].timers = timer->next;
		timer->pending = false;
		mod_timer(timer, timer->expires);
	}
	if (dead_callback)
		dead_callback(cpu);
}

/* Memory */

static bool inject_failure(void)
{
	long call = __atomic_add_fetch(&emul.calls, 1, __ATOMIC_SEQ_CST);

	return emul.fail_at &&
	       (call == emul.fail_at || (emul.fail_on && call > emul.fail_at));
}

static bool may_fail(gfp_t gfp, const char *name, enum emul_point point)
{
	if (gfp & __GFP_DIRECT_RECLAIM)
		might_sleep();
	check_backend(name);
	hook(point);
	if (emul.no_nowait && !(gfp & __GFP_DIRECT_RECLAIM))
		return true;
	return inject_failure();
}

struct kmem_cache {
	char name[32];
	u32 size;
	u32 align;
	long live;
};

struct kmem_cache *kmem_cache_create(const char *name, u32 size, u32 align,
				     u32 flags, void (*ctor)(void *))
{
	struct kmem_cache *kc;

	might_sleep();
	if (inject_failure())
		return NULL;
	kc = calloc(1, sizeof(*kc));
	snprintf(kc->name, sizeof(kc->name), "%s", name);
	kc->size = size;
	kc->align = align;
	__atomic_add_fetch(&emul.caches, 1, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&emul.caches_made, 1, __ATOMIC_SEQ_CST);
	return kc;
}

void kmem_cache_destroy(struct kmem_cache *kc)
{
	might_sleep();
	if (kc->live)
		emul_fail("%ld objects left in %s", kc->live, kc->name);
	__atomic_sub_fetch(&emul.caches, 1, __ATOMIC_SEQ_CST);
	free(kc);
}

static void *obj_alloc(struct kmem_cache *kc, size_t size, gfp_t gfp)
{
	struct emul_obj *obj;

	if (may_fail(gfp, "slab allocation", EMUL_SLAB_ALLOC))
		return NULL;
	obj = malloc(sizeof(*obj) + size + REDZONE);
	*obj = (struct emul_obj){ .kc = kc, .size = size, .magic = LIVE_MAGIC };
	memset(obj + 1, gfp & __GFP_ZERO ? 0 : POISON, size);
	memset((void *)(obj + 1) + size, POISON, REDZONE);
	__atomic_add_fetch(&emul.objects, 1, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&emul.slab_allocs, 1, __ATOMIC_SEQ_CST);
	if (kc)
		__atomic_add_fetch(&kc->live, 1, __ATOMIC_SEQ_CST);
	return obj + 1;
}

static void check_poison(void *ptr, size_t size, const char *what)
{
	u8 *p = ptr;
	size_t i;

	/* all bytes are the same if each is like the next */
	if (*p == POISON && !memcmp(p, p + 1, size - 1))
		return;
	for (i = 0; p[i] == POISON; i++)
		;
	emul_fail("%s: byte %zu of %zu at %p", what, i, size, ptr);
}

#ifndef __SANITIZE_ADDRESS__
/* Find who writes to freed memory when it is given back at last */
static struct emul_obj *quarantine[QUARANTINE];
static u32 quarantine_pos;

static void quarantine_put(struct emul_obj *obj)
{
	struct emul_obj *old;

	pthread_mutex_lock(&lock);
	old = quarantine[quarantine_pos % QUARANTINE];
	quarantine[quarantine_pos++ % QUARANTINE] = obj;
	pthread_mutex_unlock(&lock);
	if (old && old->magic != DEAD_MAGIC)
		emul_fail("header of a freed object written");
	if (old)
		check_poison(old + 1, old->size, "write after free");
	free(old);
}
#else
static void quarantine_put(struct emul_obj *obj)
{
	free(obj);
}
#endif

static void check_gp(struct emul_obj *obj, const char *what)
{
	if (obj->freed > READ_ONCE(completed[EMUL_RCU]))
		emul_fail("%p %s without an RCU grace period", obj + 1, what);
	if (obj->trace && obj->freed > READ_ONCE(completed[EMUL_TRACE]))
		emul_fail("%p %s without a Tasks Trace one", obj + 1, what);
}

static void obj_free(struct kmem_cache *kc, void *ptr)
{
	struct emul_obj *obj = (struct emul_obj *)ptr - 1;

	check_backend("slab free");
	hook(EMUL_SLAB_FREE);
	if (obj->magic != LIVE_MAGIC)
		emul_fail("%p is no object or freed twice", ptr);
	if (obj->kc != kc)
		emul_fail("%p freed to another cache", ptr);
	if (obj->live)
		emul_fail("%p goes to slab while its user has it", ptr);
	check_gp(obj, "goes to slab");
	check_poison(ptr + obj->size, REDZONE, "write behind object");
	obj->magic = DEAD_MAGIC;
	memset(ptr, POISON, obj->size);
	if (kc)
		__atomic_sub_fetch(&kc->live, 1, __ATOMIC_SEQ_CST);
	__atomic_sub_fetch(&emul.objects, 1, __ATOMIC_SEQ_CST);
	quarantine_put(obj);
}

void *kmem_cache_alloc_node(struct kmem_cache *kc, gfp_t gfp, int node)
{
	return obj_alloc(kc, kc->size, gfp);
}

void kmem_cache_free(struct kmem_cache *kc, void *obj)
{
	obj_free(kc, obj);
}

void *kmalloc_node(size_t size, gfp_t gfp, int node)
{
	return obj_alloc(NULL, size, gfp);
}

void kfree(const void *obj)
{
	if (!ZERO_OR_NULL_PTR(obj))
		obj_free(NULL, (void *)obj);
}

/* @ptr is what the allocator hands out: its link may lie in front */
struct emul_obj *emul_obj_of(void *ptr)
{
	struct emul_obj *obj = (struct emul_obj *)ptr - 1;

	if (obj->magic != LIVE_MAGIC)
		obj = (void *)obj - EMUL_HEAD_ROOM;
	if (obj->magic != LIVE_MAGIC)
		emul_fail("%p is no object of slab", ptr);
	return obj;
}

/* Whoever can get @ptr may do so */
void emul_check_held(void *ptr)
{
	struct emul_obj *obj = emul_obj_of(ptr);

	if (obj->held)
		check_gp(obj, "can be had");
}

void emul_note_alloc(void *ptr)
{
	if (xchg(&emul_obj_of(ptr)->live, 1))
		emul_fail("%p handed out twice", ptr);
	emul_check_held(ptr);
}

static void note_free(void *ptr, bool held)
{
	struct emul_obj *obj = emul_obj_of(ptr);

	obj->freed = __atomic_add_fetch(&seq, 1, __ATOMIC_SEQ_CST);
	obj->trace = READ_ONCE(emul.expect_trace);
	obj->held = held;
	if (!xchg(&obj->live, 0))
		emul_fail("%p freed twice by its user", ptr);
}

void emul_note_free(void *ptr)
{
	note_free(ptr, false);
}

void emul_note_free_rcu(void *ptr)
{
	note_free(ptr, true);
}

/* Per-CPU memory, by powers of two; a free area's length is negative */
static char *pcpu_base;
static u32 pcpu_next;
static int pcpu_len[UNIT_SIZE / 8];
static u32 pcpu_free[20];
static u32 pcpu_link[UNIT_SIZE / 8];

void *emul_alloc_percpu(size_t size, gfp_t gfp)
{
	u32 order = order_base_2(max_t(size_t, size, 8)), off;
	int cpu;

	/* the kernel keeps nothing else of @gfp that spares the others */
	if ((gfp & __GFP_DIRECT_RECLAIM) && !(gfp & __GFP_NORETRY))
		emul_fail("somebody may be killed for per-CPU memory");
	if (may_fail(gfp, "per-CPU allocation", EMUL_PERCPU_ALLOC))
		return NULL;
	if (emul.no_percpu_nowait && !(gfp & __GFP_DIRECT_RECLAIM))
		return NULL;
	pthread_mutex_lock(&lock);
	off = pcpu_free[order];
	if (off) {
		pcpu_free[order] = pcpu_link[off / 8];
	} else {
		off = (pcpu_next + (1U << order) - 1) & -(1U << order);
		pcpu_next = off + (1U << order);
		if (pcpu_next > UNIT_SIZE)
			emul_fail("per-CPU memory is used up");
	}
	pcpu_len[off / 8] = size;
	pthread_mutex_unlock(&lock);
	for (cpu = 0; cpu < NR_CPUS; cpu++)
		memset(pcpu_base + cpu * UNIT_SIZE + off, 0, size);
	__atomic_add_fetch(&emul.areas, 1, __ATOMIC_SEQ_CST);
	return __start_emul_percpu + off;
}

void free_percpu(void *ptr)
{
	u32 off = (char *)ptr - __start_emul_percpu, order;
	int cpu, size;

	check_backend("per-CPU free");
	if (!ptr)
		return;
	if (off >= UNIT_SIZE || pcpu_len[off / 8] <= 0)
		emul_fail("%p is no per-CPU area or freed twice", ptr);
	pthread_mutex_lock(&lock);
	size = pcpu_len[off / 8];
	pcpu_len[off / 8] = -size;
	for (cpu = 0; cpu < NR_CPUS; cpu++)
		memset(pcpu_base + cpu * UNIT_SIZE + off, POISON, size);
	order = order_base_2(max(size, 8));
	pcpu_link[off / 8] = pcpu_free[order];
	pcpu_free[order] = off;
	pthread_mutex_unlock(&lock);
	__atomic_sub_fetch(&emul.areas, 1, __ATOMIC_SEQ_CST);
}

struct obj_cgroup *bpf_mem_get_objcg(void)
{
	might_sleep();
	if (emul.memcg)
		__atomic_add_fetch(&emul.memcg->refs, 1, __ATOMIC_SEQ_CST);
	return emul.memcg;
}

void obj_cgroup_put(struct obj_cgroup *objcg)
{
	if (__atomic_sub_fetch(&objcg->refs, 1, __ATOMIC_SEQ_CST) < 0)
		emul_fail("objcg put too often");
}

/* The kernel counts in 32 bits, and says nothing */
static void check_charge(size_t size)
{
	if (size != (u32)size)
		emul_fail("%zu bytes charged or uncharged at once", size);
}

int obj_cgroup_charge(struct obj_cgroup *objcg, gfp_t gfp, size_t size)
{
	int err = 0;
	long over;

	check_charge(size);
	if (may_fail(gfp, "charge", EMUL_CHARGE))
		return -ENOMEM;
	pthread_mutex_lock(&lock);
	over = objcg->usage + (long)size - objcg->limit;
	if (over > 0 && gfp & __GFP_DIRECT_RECLAIM &&
	    over <= objcg->reclaimable) {
		objcg->reclaimable -= over;
		objcg->usage -= over;
		over = 0;
	}
	if (over > 0)
		err = -ENOMEM;
	else
		objcg->usage += size;
	pthread_mutex_unlock(&lock);
	return err;
}

void obj_cgroup_uncharge(struct obj_cgroup *objcg, size_t size)
{
	check_backend("uncharge");
	check_charge(size);
	pthread_mutex_lock(&lock);
	objcg->usage -= size;
	pthread_mutex_unlock(&lock);
}

/* Grace periods */

static void call_gp(enum emul_gp kind, struct rcu_head *head,
		    void (*func)(struct rcu_head *head))
{
	check_backend("call_rcu()");
	pthread_mutex_lock(&lock);
	head->func = func;
	head->seq = __atomic_add_fetch(&seq, 1, __ATOMIC_SEQ_CST);
	head->next = callbacks[kind];
	callbacks[kind] = head;
	emul.gps[kind]++;
	pthread_mutex_unlock(&lock);
	hook(EMUL_CALL_RCU);
}

void call_rcu(struct rcu_head *head, void (*func)(struct rcu_head *head))
{
	call_gp(EMUL_RCU, head, func);
}

void call_rcu_tasks_trace(struct rcu_head *head,
			  void (*func)(struct rcu_head *head))
{
	call_gp(EMUL_TRACE, head, func);
}

bool rcu_trace_implies_rcu_gp(void)
{
	return !emul.trace_not_rcu;
}

/* All readers that are there now have to go */
static void wait_for_readers(void)
{
	u64 snap;
	int cpu;

	for (cpu = 0; emul.threads && cpu < emul_nr_cpus; cpu++) {
		if (cpu == emul_cpu)
			continue;
		snap = __atomic_load_n(&cpus[cpu].reader, __ATOMIC_SEQ_CST);
		while (snap & 1 &&
		       snap == __atomic_load_n(&cpus[cpu].reader,
					       __ATOMIC_SEQ_CST))
			emul_cpu_relax();
	}
}

void synchronize_rcu(void)
{
	might_sleep();
	hook(EMUL_SYNC_RCU);
	wait_for_readers();
}

static void complete_gp(enum emul_gp kind, u64 start)
{
	u64 old = READ_ONCE(completed[kind]);

	if (start > old)
		WRITE_ONCE(completed[kind], start);
	if (kind == EMUL_TRACE && !emul.trace_not_rcu)
		complete_gp(EMUL_RCU, start);
}

u32 emul_gp_pending(enum emul_gp kind)
{
	struct rcu_head *head;
	u32 n = 0;

	pthread_mutex_lock(&lock);
	for (head = callbacks[kind]; head; head = head->next)
		n++;
	pthread_mutex_unlock(&lock);
	return n;
}

/* End a grace period that began when it was last asked for one */
u32 emul_gp_run(enum emul_gp kind)
{
	struct rcu_head *head, *next;
	u32 n = 0;
	u64 start;

	pthread_mutex_lock(&lock);
	head = callbacks[kind];
	callbacks[kind] = NULL;
	start = head ? head->seq : 0;
	pthread_mutex_unlock(&lock);
	if (!head)
		return 0;
	wait_for_readers();
	complete_gp(kind, start);
	emul_softirq_enter();
	for (; head; head = next) {
		next = head->next;
		head->func(head);
		n++;
	}
	emul_softirq_exit();
	return n;
}

/* Workers */

static void check_work(struct delayed_work *work)
{
	if ((unsigned long)work->work.func == ~0UL / 0xff * POISON)
		emul_fail("a freed work is queued");
}

static void work_add(struct delayed_work *work, unsigned long delay)
{
	if (!work->pending) {
		work->pending = true;
		work->next = works;
		works = work;
	}
	work->due = jiffies + delay;
}

bool mod_delayed_work(struct workqueue_struct *wq, struct delayed_work *work,
		      unsigned long delay)
{
	bool pending;

	check_backend("queueing work");
	hook(EMUL_MOD_WORK);
	pthread_mutex_lock(&lock);
	check_work(work);
	pending = work->pending;
	work_add(work, delay);
	pthread_mutex_unlock(&lock);
	return pending;
}

bool queue_delayed_work(struct workqueue_struct *wq, struct delayed_work *work,
			unsigned long delay)
{
	bool pending;

	check_backend("queueing work");
	pthread_mutex_lock(&lock);
	check_work(work);
	pending = work->pending;
	if (!pending)
		work_add(work, delay);
	pthread_mutex_unlock(&lock);
	return !pending;
}

static bool work_del(struct delayed_work *work)
{
	struct delayed_work **p;

	for (p = &works; *p; p = &(*p)->next) {
		if (*p == work) {
			*p = work->next;
			work->pending = false;
			return true;
		}
	}
	return false;
}

bool cancel_delayed_work(struct delayed_work *work)
{
	bool pending;

	pthread_mutex_lock(&lock);
	pending = work_del(work);
	pthread_mutex_unlock(&lock);
	return pending;
}

static struct delayed_work *running[NR_CPUS];

static bool is_running(struct delayed_work *work)
{
	int i;

	for (i = 0; i < NR_CPUS; i++)
		if (running[i] == work)
			return true;
	return false;
}

/* Run what is due; a work that runs elsewhere does not run here as well */
u32 emul_work_run(void)
{
	struct delayed_work *work, *outer;
	u32 n = 0;

	might_sleep();
	for (;;) {
		pthread_mutex_lock(&lock);
		for (work = works; work; work = work->next)
			if (time_after_eq(jiffies, work->due) &&
			    !is_running(work))
				break;
		if (!work) {
			pthread_mutex_unlock(&lock);
			return n;
		}
		work_del(work);
		outer = running[emul_cpu];
		running[emul_cpu] = work;
		pthread_mutex_unlock(&lock);
		hook(EMUL_WORK);
		work->work.func(&work->work);
		pthread_mutex_lock(&lock);
		running[emul_cpu] = outer;
		pthread_mutex_unlock(&lock);
		hook(EMUL_WORK_DONE);
		n++;
	}
}

bool emul_work_pending(void)
{
	bool pending;

	pthread_mutex_lock(&lock);
	pending = works;
	pthread_mutex_unlock(&lock);
	return pending;
}

static void run_irq_work(void *arg)
{
	if (emul_irq_work_run())
		*(bool *)arg = true;
}

static void tick(void *arg)
{
	if (run_timers())
		*(bool *)arg = true;
}

static bool on_all_cpus(void (*fn)(void *arg))
{
	bool ran = false;
	int cpu;

	for (cpu = 0; cpu < emul_nr_cpus; cpu++) {
		if (cpu == emul_cpu)
			fn(&ran);
		else
			emul_on_cpu(cpu, fn, &ran);
	}
	return ran;
}

static u32 waits;

long schedule_timeout_uninterruptible(long timeout)
{
	bool ran;

	might_sleep();
	hook(EMUL_SCHEDULE);
	if (emul.threads) {
		usleep(100);
		return 0;
	}
	__atomic_add_fetch(&emul_jiffies, timeout, __ATOMIC_SEQ_CST);
	ran = on_all_cpus(run_irq_work) | on_all_cpus(tick);
	waits = ran ? 0 : waits + 1;
	if (waits > 1000)
		emul_fail("waiting for what never comes");
	return 0;
}

/* As in the kernel, a few lists for all variables */
static u64 wakes[16];

static u64 *wakes_of(void *var)
{
	return &wakes[(unsigned long)var / 8 % ARRAY_SIZE(wakes)];
}

u64 emul_wakes(void *var)
{
	return __atomic_load_n(wakes_of(var), __ATOMIC_SEQ_CST);
}

void wake_up_var(void *var)
{
	check_backend("wake-up");
	__atomic_add_fetch(wakes_of(var), 1, __ATOMIC_SEQ_CST);
}

bool emul_killed(void)
{
	return emul.killed;
}

long emul_sleep(void *var, u64 seen, long timeout)
{
	while (emul_wakes(var) == seen && timeout) {
		if (emul.killed)
			return -EINTR;
		schedule_timeout_uninterruptible(1);
		timeout--;
	}
	return timeout;
}

/* Let time pass, in which nothing comes but timers */
void emul_tick(unsigned long ticks)
{
	__atomic_add_fetch(&emul_jiffies, ticks, __ATOMIC_SEQ_CST);
	on_all_cpus(tick);
}

/* Let everything happen that is on its way; time stands still */
void emul_settle(void)
{
	bool ran;

	do {
		ran = on_all_cpus(run_irq_work);
		ran |= emul_gp_run(EMUL_TRACE) > 0;
		ran |= emul_gp_run(EMUL_RCU) > 0;
		ran |= emul_work_run() > 0;
	} while (ran);
}

void emul_advance(unsigned long ticks)
{
	unsigned long step;

	for (; ticks; ticks -= step) {
		step = min_t(unsigned long, ticks, HZ / 10);
		emul_tick(step);
		emul_settle();
	}
}

void emul_init(int nr)
{
	size_t len = __stop_emul_percpu - __start_emul_percpu;
	int cpu;

	memset(&emul, 0, sizeof(emul));
	memset(cpus, 0, sizeof(cpus));
	memset(running, 0, sizeof(running));
	memset(callbacks, 0, sizeof(callbacks));
	works = NULL;
	waits = 0;
	pthread_mutex_init(&lock, NULL);
	emul_nr_cpus = nr;
	emul_possible_cpus = nr;
	emul_irqs_off = 0;
	emul_preempt_count = 0;
	emul_jiffies = FIRST_JIFFY;
	if (!pcpu_base) {
		pcpu_base = mmap(NULL, NR_CPUS * UNIT_SIZE,
				 PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (pcpu_base == MAP_FAILED)
			emul_fail("no memory");
		pcpu_next = (len + 63) & ~63UL;
		for (cpu = 0; cpu < NR_CPUS; cpu++)
			emul_cpu_offs[cpu] = (unsigned long)pcpu_base +
					     cpu * UNIT_SIZE -
					     (unsigned long)__start_emul_percpu;
		if (emul_initcall())
			emul_fail("initcall");
	}
	for (cpu = 0; cpu < NR_CPUS; cpu++)
		memcpy(pcpu_base + cpu * UNIT_SIZE, __start_emul_percpu, len);
	emul_set_cpu(0);
	emul.caches = 0;
	emul.calls = 0;
}

/* Everything must have come back */
void emul_exit(void)
{
	emul.hook = NULL;
	emul_advance(2 * HZ);
	if (works || callbacks[EMUL_RCU] || callbacks[EMUL_TRACE])
		emul_fail("work or callbacks left");
	if (emul.objects)
		emul_fail("%ld objects leaked", emul.objects);
	if (emul.areas)
		emul_fail("%ld per-CPU areas leaked", emul.areas);
	if (emul.caches)
		emul_fail("%ld slab caches leaked", emul.caches);
	if (emul.memcg && (emul.memcg->usage || emul.memcg->refs))
		emul_fail("%ld bytes charged, %d references left",
			  emul.memcg->usage, emul.memcg->refs);
}
