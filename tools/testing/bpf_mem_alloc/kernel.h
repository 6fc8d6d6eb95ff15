/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The part of the kernel that memalloc.c uses, for a build in user space.
 * Atomics are those of the compiler, so that sanitizers understand them. What
 * has a state, such as contexts, RCU and slab, is in emul.c.
 */
#ifndef _BPF_MEM_ALLOC_TEST_KERNEL_H
#define _BPF_MEM_ALLOC_TEST_KERNEL_H

#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t s64;
typedef unsigned int gfp_t;

#define __percpu
#define __force
#define __init
#define notrace
#define likely(x)		__builtin_expect(!!(x), 1)
#define unlikely(x)		__builtin_expect(!!(x), 0)
#ifndef __always_inline
#define __always_inline		inline __attribute__((__always_inline__))
#endif
#define __maybe_unused		__attribute__((unused))
#define NOKPROBE_SYMBOL(fn)
#define EXPORT_SYMBOL_GPL(sym)
#ifndef noinline
#define noinline		__attribute__((noinline))
#endif

#define __ARG_PLACEHOLDER_1	0,
#define __take_second_arg(ignored, val, ...)	val
#define ____is_enabled(arg)	__take_second_arg(arg 1, 0)
#define ___is_enabled(val)	____is_enabled(__ARG_PLACEHOLDER_##val)
#define __is_enabled(x)		___is_enabled(x)
#define IS_ENABLED(option)	__is_enabled(option)

#define ARRAY_SIZE(a)		(sizeof(a) / sizeof((a)[0]))
#define IS_ALIGNED(x, a)	(((x) & ((typeof(x))(a) - 1)) == 0)
#define DIV_ROUND_UP(n, d)	(((n) + (d) - 1) / (d))
#define round_up(x, y)		((((x) - 1) | ((typeof(x))(y) - 1)) + 1)
#define min(a, b)		({ typeof(a) __a = (a); typeof(b) __b = (b); \
				   __a < __b ? __a : __b; })
#define max(a, b)		({ typeof(a) __a = (a); typeof(b) __b = (b); \
				   __a > __b ? __a : __b; })
#define min3(a, b, c)		min(min(a, b), c)
#define max3(a, b, c)		max(max(a, b), c)
#define min_t(t, a, b)		min((t)(a), (t)(b))
#define max_t(t, a, b)		max((t)(a), (t)(b))
#define clamp_t(t, v, lo, hi)	min_t(t, max_t(t, v, lo), hi)
#define clamp(v, lo, hi)	min(max(v, lo), hi)
#define container_of(ptr, type, member) \
	((type *)((char *)(ptr) - offsetof(type, member)))
#define U32_MAX			UINT_MAX
#define SZ_1K			1024
#define SZ_4K			4096
#define SZ_8K			8192
#define SZ_64K			65536
#define SZ_1M			1048576
#define SZ_1G			(1024 * SZ_1M)
#define SZ_4M			4194304

static inline int order_base_2(unsigned long n)
{
	return n > 1 ? 8 * sizeof(n) - __builtin_clzl(n - 1) : 0;
}

#define PAGE_SHIFT		12
#define PAGE_SIZE		4096UL

static inline int get_order(unsigned long size)
{
	return order_base_2(DIV_ROUND_UP(size, PAGE_SIZE));
}

/* Errors in pointers */
#define MAX_ERRNO		4095
#define EINTR			4
#define EINVAL			22
#define ENOMEM			12
#define ERR_PTR(err)		((void *)(long)(err))
#define PTR_ERR(ptr)		((long)(ptr))
#define IS_ERR(ptr)		((unsigned long)(ptr) >= (unsigned long)-MAX_ERRNO)

/* Memory order */
#define barrier()		__asm__ __volatile__("" : : : "memory")
#ifdef __SANITIZE_THREAD__
/* what is read through a pointer comes after it: thread sanitizer needs more */
#define READ_ONCE(x)		__atomic_load_n(&(x), sizeof(x) == 8 ?	\
						__ATOMIC_ACQUIRE : __ATOMIC_RELAXED)
#else
#define READ_ONCE(x)		__atomic_load_n(&(x), __ATOMIC_RELAXED)
#endif
#define WRITE_ONCE(x, v)	__atomic_store_n(&(x), v, __ATOMIC_RELAXED)
#define smp_load_acquire(p)	__atomic_load_n(p, __ATOMIC_ACQUIRE)
#define smp_store_release(p, v)	__atomic_store_n(p, v, __ATOMIC_RELEASE)
#define xchg(p, v)		__atomic_exchange_n(p, v, __ATOMIC_SEQ_CST)
#define cmpxchg(p, o, n) ({						\
	typeof(*(p)) __old = (o);					\
	__atomic_compare_exchange_n(p, &__old, n, false,		\
				    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);\
	__old; })
#ifdef __SANITIZE_THREAD__
#define smp_mb()		barrier()
#else
#define smp_mb()		__atomic_thread_fence(__ATOMIC_SEQ_CST)
#endif

typedef struct { int counter; } atomic_t;
typedef struct { long counter; } atomic_long_t;
typedef struct { _Alignas(8) s64 counter; } atomic64_t;

#define __RMW(op, v, x)		op(&(v)->counter, x, __ATOMIC_SEQ_CST)
#define ATOMIC_INIT(i)		{ (i) }
#define atomic_read(v)		READ_ONCE((v)->counter)
#define atomic_read_acquire(v)	smp_load_acquire(&(v)->counter)
#define atomic_set(v, i)	WRITE_ONCE((v)->counter, i)
#define atomic_set_release(v, i) smp_store_release(&(v)->counter, i)
#define atomic_add(i, v)	((void)__RMW(__atomic_fetch_add, v, i))
#define atomic_sub(i, v)	((void)__RMW(__atomic_fetch_sub, v, i))
#define atomic_inc(v)		atomic_add(1, v)
#define atomic_dec(v)		atomic_sub(1, v)
#define atomic_xchg(v, i)	xchg(&(v)->counter, i)
#define atomic_cmpxchg(v, o, n)	cmpxchg(&(v)->counter, o, n)
#define atomic_cmpxchg_acquire	atomic_cmpxchg
#define atomic_try_cmpxchg(v, o, n)					\
	__atomic_compare_exchange_n(&(v)->counter, o, n, false,		\
				    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)
#define atomic_add_return(i, v)	__RMW(__atomic_add_fetch, v, i)
#define atomic_sub_return(i, v)	__RMW(__atomic_sub_fetch, v, i)
#define atomic_inc_return(v)	atomic_add_return(1, v)
#define atomic_dec_return(v)	atomic_sub_return(1, v)
#define atomic_dec_and_test(v)	(!atomic_dec_return(v))
#define atomic_fetch_add(i, v)	__RMW(__atomic_fetch_add, v, i)
#define atomic64_read		atomic_read
#define atomic64_cmpxchg	atomic_cmpxchg
#define atomic_long_read	atomic_read
#define atomic_long_read_acquire	atomic_read_acquire
#define atomic_long_set		atomic_set
#define atomic_long_add		atomic_add
#define atomic_long_sub		atomic_sub
#define atomic_long_inc		atomic_inc
#define atomic_long_dec		atomic_dec
#define atomic_long_xchg	atomic_xchg
#define atomic_long_cmpxchg	atomic_cmpxchg
#define atomic_long_add_return	atomic_add_return
#define atomic_long_sub_return	atomic_sub_return
#define atomic_long_inc_return	atomic_inc_return
#define atomic_long_dec_return	atomic_dec_return

/* CPUs: a thread is one, and may become another */
#define NR_CPUS			8

#define __this_cpu	__thread __attribute__((tls_model("local-exec")))

extern __this_cpu int emul_cpu;
extern __this_cpu unsigned long emul_cpu_off;
extern __this_cpu unsigned long emul_irqs_off;
extern __this_cpu u32 emul_preempt_count;
extern int emul_nr_cpus;
extern u32 emul_possible_cpus;	/* also of those that are not there */
extern unsigned long emul_cpu_offs[NR_CPUS];

#define SOFTIRQ_OFFSET		0x100U
#define HARDIRQ_OFFSET		0x10000U
#define NMI_OFFSET		0x100000U

/* in NMI the hard interrupt count is raised, too */
#define in_nmi()		(emul_preempt_count & 0xf00000U)
#define in_irq()		(emul_preempt_count & 0x0f0000U)
#define in_hardirq()		in_irq()
#define in_serving_softirq()	(emul_preempt_count & SOFTIRQ_OFFSET)
#define raw_smp_processor_id()	emul_cpu
#define smp_processor_id()	emul_cpu
#define num_possible_cpus()	emul_possible_cpus
#define num_online_cpus()	((u32)emul_nr_cpus)
#define for_each_possible_cpu(cpu) \
	for ((cpu) = 0; (cpu) < emul_nr_cpus; (cpu)++)
#define for_each_online_cpu	for_each_possible_cpu
static inline void cpus_read_lock(void) {}
static inline void cpus_read_unlock(void) {}
#define raw_irqs_disabled()	(emul_irqs_off != 0)
#define irqs_disabled()		raw_irqs_disabled()
#define raw_irqs_disabled_flags(flags) ((flags) != 0)
#define cpu_relax()		emul_cpu_relax()
#define preempt_disable_notrace() do { emul_preempt_count++; barrier(); } while (0)
#define preempt_enable_notrace() do { barrier(); emul_preempt_count--; } while (0)
#define preempt_disable		preempt_disable_notrace
#define preempt_enable		preempt_enable_notrace

void emul_cpu_relax(void);
u64 ktime_get_mono_fast_ns(void);
#define NSEC_PER_MSEC		1000000L
#define TICK_NSEC		(1000 * NSEC_PER_MSEC / HZ)
#define nsecs_to_jiffies(ns)	((unsigned long)(ns) / TICK_NSEC)
unsigned long emul_irq_save(void);
void emul_irq_restore(unsigned long flags);

#ifdef BENCH
#define raw_local_irq_save(flags) \
	do { (flags) = emul_irqs_off; emul_irqs_off = 1; barrier(); } while (0)
#define raw_local_irq_restore(flags) \
	do { barrier(); emul_irqs_off = (flags); } while (0)
#else
#define raw_local_irq_save(flags)	((flags) = emul_irq_save())
#define raw_local_irq_restore(flags)	emul_irq_restore(flags)
#endif
#define local_irq_save			raw_local_irq_save
#define local_irq_restore		raw_local_irq_restore

/* Per-CPU memory: pointers are offsets from the section, as in the kernel */
#define PCPU_MIN_UNIT_SIZE	32768
#define DEFINE_PER_CPU(type, name) \
	__attribute__((section("emul_percpu"))) typeof(type) name
#define per_cpu_ptr(ptr, cpu) \
	((typeof(ptr))((unsigned long)(ptr) + emul_cpu_offs[cpu]))
#define raw_cpu_ptr(ptr) \
	((typeof(ptr))((unsigned long)(ptr) + emul_cpu_off))
#define this_cpu_ptr		raw_cpu_ptr
#define __alloc_percpu_gfp(size, align, gfp) emul_alloc_percpu(size, gfp)
#define alloc_percpu_gfp(type, gfp) \
	((type *)emul_alloc_percpu(sizeof(type), gfp))

void *emul_alloc_percpu(size_t size, gfp_t gfp);
void free_percpu(void *ptr);

/* Slab */
#define __GFP_DIRECT_RECLAIM	0x400U
#define __GFP_ZERO		0x100U
#define __GFP_NOWARN		0x200U
#define __GFP_RETRY_MAYFAIL	0x4000U
#define __GFP_NOMEMALLOC	0x10000U
#define __GFP_NORETRY		0x1000U
#define __GFP_ACCOUNT		0x400000U
#define GFP_KERNEL		0xcc0U
#define GFP_NOWAIT		0x800U
#define NUMA_NO_NODE		(-1)
#define KMALLOC_MAX_SIZE	SZ_4M
#define ZERO_SIZE_PTR		((void *)16)
#define ZERO_OR_NULL_PTR(x)	((unsigned long)(x) <= (unsigned long)ZERO_SIZE_PTR)
#define SLAB_PANIC		0U
#define KMEM_CACHE(s, flags) \
	kmem_cache_create(#s, sizeof(struct s), 8, flags, NULL)

struct kmem_cache;
struct kmem_cache *kmem_cache_create(const char *name, u32 size, u32 align,
				     u32 flags, void (*ctor)(void *));
void kmem_cache_destroy(struct kmem_cache *kc);
void *kmem_cache_alloc_node(struct kmem_cache *kc, gfp_t gfp, int node);
void kmem_cache_free(struct kmem_cache *kc, void *obj);
void *kmalloc_node(size_t size, gfp_t gfp, int node);
void kfree(const void *obj);
#define kmem_cache_alloc(kc, gfp)  kmem_cache_alloc_node(kc, gfp, NUMA_NO_NODE)
#define kmem_cache_zalloc(kc, gfp) kmem_cache_alloc(kc, (gfp) | __GFP_ZERO)
#define kmalloc(size, gfp)	   kmalloc_node(size, gfp, NUMA_NO_NODE)
#define kzalloc(size, gfp)	   kmalloc(size, (gfp) | __GFP_ZERO)
#define kcalloc(n, size, gfp)	   kzalloc((size_t)(n) * (size), gfp)
#define struct_size(p, array, n)   (sizeof(*(p)) + sizeof(*(p)->array) * (n))
#define bpf_map_area_alloc(size, node) kmalloc_node(size, GFP_KERNEL | __GFP_ZERO, node)
#define bpf_map_area_free(obj)	   kfree(obj)

/* Memory cgroup */
struct obj_cgroup;
struct obj_cgroup *bpf_mem_get_objcg(void);
int obj_cgroup_charge(struct obj_cgroup *objcg, gfp_t gfp, size_t size);
#define bpf_mem_charge		obj_cgroup_charge
void obj_cgroup_uncharge(struct obj_cgroup *objcg, size_t size);
void obj_cgroup_put(struct obj_cgroup *objcg);

/* RCU */
struct rcu_head {
	struct rcu_head *next;
	void (*func)(struct rcu_head *head);
	u64 seq;
};

void call_rcu(struct rcu_head *head, void (*func)(struct rcu_head *head));
void call_rcu_tasks_trace(struct rcu_head *head,
			  void (*func)(struct rcu_head *head));
bool rcu_trace_implies_rcu_gp(void);
void synchronize_rcu(void);
void rcu_read_lock(void);
void rcu_read_unlock(void);

/* irq_work */
#define IRQ_WORK_PENDING	1

struct irq_work {
	atomic_t flags;
	struct irq_work *next;
	void (*func)(struct irq_work *work);
};

bool irq_work_queue(struct irq_work *work);
bool irq_work_queue_on(struct irq_work *work, int cpu);

/* Timers, which are all for one CPU */
#define TIMER_PINNED		1

struct timer_list {
	struct timer_list *next;
	void (*function)(struct timer_list *timer);
	unsigned long expires;
	int cpu;
	bool pending;
};

#define __TIMER_INITIALIZER(fn, flags)	{ .function = (fn) }
#define from_timer(var, timer, member) \
	container_of(timer, typeof(*(var)), member)

int mod_timer(struct timer_list *timer, unsigned long expires);
int del_timer_sync(struct timer_list *timer);

/* Workqueues */
struct work_struct {
	void (*func)(struct work_struct *work);
};

struct delayed_work {
	struct work_struct work;
	struct delayed_work *next;
	unsigned long due;
	bool pending;
	bool running;
};

struct workqueue_struct;
extern struct workqueue_struct *system_unbound_wq;

#define INIT_DELAYED_WORK(w, fn) \
	(*(w) = (struct delayed_work){ .work.func = (fn) })
#define DECLARE_DELAYED_WORK(name, fn) \
	struct delayed_work name = { .work.func = (fn) }
#define to_delayed_work(w)	container_of(w, struct delayed_work, work)

bool mod_delayed_work(struct workqueue_struct *wq, struct delayed_work *work,
		      unsigned long delay);
bool queue_delayed_work(struct workqueue_struct *wq, struct delayed_work *work,
			unsigned long delay);
bool cancel_delayed_work(struct delayed_work *work);

/* Time and tasks */
#define HZ			250
extern unsigned long emul_jiffies;
#define jiffies			READ_ONCE(emul_jiffies)
#define time_after(a, b)	((long)((b) - (a)) < 0)
#define time_before(a, b)	time_after(b, a)
#define time_after_eq(a, b)	((long)((a) - (b)) >= 0)
#define time_before_eq(a, b)	time_after_eq(b, a)

void might_sleep(void);
void cond_resched(void);
long schedule_timeout_uninterruptible(long timeout);

/* The waiter looks again when it is woken, and only then */
u64 emul_wakes(void *var);
long emul_sleep(void *var, u64 wakes, long timeout);
void wake_up_var(void *var);
bool emul_killed(void);

#define current			NULL
#define fatal_signal_pending(task) emul_killed()

#define wait_var_event_killable_timeout(var, cond, timeout) ({		\
	void *__var = (var);						\
	long __left = (timeout);					\
	u64 __wakes = emul_wakes(__var);				\
	bool __done;							\
	while (!(__done = (cond)) && __left > 0) {			\
		__left = emul_sleep(__var, __wakes, __left);		\
		__wakes = emul_wakes(__var);				\
	}								\
	__left ? __left : __done; })

/* Locks and lists */
struct mutex {
	pthread_mutex_t lock;
};

#define DEFINE_MUTEX(name) \
	struct mutex name = { PTHREAD_MUTEX_INITIALIZER }
#define mutex_init(m)		pthread_mutex_init(&(m)->lock, NULL)
#define mutex_lock(m)		pthread_mutex_lock(&(m)->lock)
#define mutex_unlock(m)		pthread_mutex_unlock(&(m)->lock)

struct list_head {
	struct list_head *next, *prev;
};

#define LIST_HEAD(name)		struct list_head name = { &(name), &(name) }
#define list_for_each_entry(pos, head, member)				\
	for (pos = container_of((head)->next, typeof(*pos), member);	\
	     &pos->member != (head);					\
	     pos = container_of(pos->member.next, typeof(*pos), member))

static inline void list_add(struct list_head *entry, struct list_head *head)
{
	entry->next = head->next;
	entry->prev = head;
	head->next->prev = entry;
	head->next = entry;
}

static inline void list_del(struct list_head *entry)
{
	entry->next->prev = entry->prev;
	entry->prev->next = entry->next;
}

static inline void list_del_init(struct list_head *entry)
{
	list_del(entry);
	entry->next = entry;
	entry->prev = entry;
}

/* CPU hotplug and init */
#define CPUHP_BP_PREPARE_DYN	0
int cpuhp_setup_state_nocalls(int state, const char *name, void *startup,
			      int (*teardown)(unsigned int cpu));

#define core_initcall(fn)	int (*emul_initcall)(void) = fn

/* What the kernel only warns of fails a test */
__attribute__((noreturn)) void emul_bug(const char *file, int line, const char *what);
#define WARN_ON_ONCE(cond) ({						\
	bool __warn = (cond);						\
	if (unlikely(__warn))						\
		emul_bug(__FILE__, __LINE__, #cond);			\
	__warn; })
#define WARN_ON			WARN_ON_ONCE

#endif /* _BPF_MEM_ALLOC_TEST_KERNEL_H */
