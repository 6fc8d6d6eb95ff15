// SPDX-License-Identifier: GPL-2.0-only
/*
 * With the trap flag set, a signal comes after every instruction. At each one
 * in memalloc.c in turn, an NMI, an interrupt, or another CPU allocates and
 * frees from the same allocator, or another CPU does the allocator's own work;
 * then every list must still be right, and what waits for a grace period get it.
 *
 * A first run notes all instructions; for each of them there is a run which
 * gets there by a breakpoint, as that is faster. In a last run something
 * happens at all of them.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <ucontext.h>
#include <cmocka.h>
#include "user.h"

#ifndef __x86_64__
int main(void)
{
	printf("step: needs the trap flag of x86-64, skipped\n");
	return 0;
}
#else

#define TRAP_FLAG	0x100UL
#define HELD		8
#define MAX_POINTS	65536
#define INT3		0xcc
#define MAX_WAITS	1000000
#define MINUTE		(60 * HZ)

enum actor { NMI, INTERRUPT, OTHER_CPU, WORKER, LOCKED_CPU, FILLER, NR_ACTORS,
	     TURNS = NR_ACTORS };

static const char * const actors[] = {
	"NMI", "interrupt", "other CPU", "worker", "other CPU with a lock",
	"other CPU that waits for memory",
};

struct scenario {
	const char *name;
	enum user_kind kind;
	void (*prepare)(void);
	void (*op)(void);
	bool irqs_off;
	u32 max_waiting;
	u32 reserve;
	bool at_limit;		/* no memory, but what waits or is moved */
};

static struct user user;
static struct obj_cgroup memcg;
static void *ptrs[1024];
static u32 nr_ptrs;
static void *held[HELD];
static void *op_obj;
static enum actor actor;
static long point, fire_at;
static long missed, acted, acts_left;
static unsigned long last_ip;
static unsigned long trace[MAX_POINTS];
static u8 *break_at;
static u8 break_byte;
static long break_count;
static bool break_again;
static bool op_in_irq;
unsigned long step_return;

/* Calls out of memalloc.c run at full speed: TF comes back when they return */
void step_trampoline(void);
__asm__(".text\n"
	"step_trampoline:\n"
	"	pushq step_return(%rip)\n"
	"	pushfq\n"
	"	orq $0x100, (%rsp)\n"
	"	popfq\n"
	"	ret\n");

static void break_set(void)
{
	long i;

	break_at = (u8 *)trace[fire_at];
	break_count = 0;
	for (i = 1; i <= fire_at; i++)
		break_count += trace[i] == trace[fire_at];
	break_again = false;
	break_byte = *break_at;
	*break_at = INT3;
}

static void step_on(void)
{
	last_ip = 0;
	if (fire_at > 0)
		break_set();
	else
		__asm__ __volatile__("pushfq; orq $0x100, (%%rsp); popfq"
				     : : : "memory", "cc");
}

static void step_off(void)
{
	__asm__ __volatile__("pushfq; andq $~0x100, (%%rsp); popfq"
			     : : : "memory", "cc");
	if (fire_at > 0)
		*break_at = break_byte;
}

/* Whole operations of each kind; what it keeps changes every time */
static void use(int who)
{
	void *a, *b, *c;

	if (held[who])
		user_free(&user, held[who]);
	a = user_alloc(&user);
	b = user_alloc(&user);
	c = user_alloc(&user);
	if (a)
		user_free(&user, a);
	if (c)
		user_free_rcu(&user, c);
	if (!a || !b || !c)
		missed++;
	held[who] = b;
}

/*
 * The other CPU has its own stack, and runs when it is told to: until it is
 * through, or waits in a loop for this CPU.
 */
static ucontext_t this_context, other_context;
static char other_stack[1 << 18];
static bool other_busy;
static bool long_path;	/* this would take too long, or never end */
static unsigned long other_irqs_off;
static u32 other_preempt_count;
static u32 locked_waits;	/* 0: not locked */

/* More than its list holds, so that it takes from the depot and gives to it */
static void use_depot(void)
{
	void *objs[12];
	u32 n;

	use(1);
	if (long_path)
		return;
	n = user_alloc_many(&user, objs, ARRAY_SIZE(objs));
	user_free_many(&user, objs, n);
}

/* With interrupts off and a lock, of a bucket for example. An NMI that has hit this
 * CPU may wait for that lock, so the other one must not wait for this CPU.
 */
static void use_locked(void)
{
	unsigned long flags;
	void *objs[2];
	u32 n;

	local_irq_save(flags);
	locked_waits = 1;
	n = user_alloc_many_irqoff(&user, objs, ARRAY_SIZE(objs));
	locked_waits = 0;
	local_irq_restore(flags);
	user_free_many(&user, objs, n);
}

static void be_killed(enum emul_point point)
{
	if (point == EMUL_SCHEDULE)
		emul.killed = true;
}

/* What waits for memory, here until it would sleep, does not fail */
static void fill(void)
{
	int err;

	emul.hook = be_killed;
	err = bpf_mem_cache_fill(&user.ma, true);
	emul.hook = NULL;
	emul.killed = false;
	if (err && err != -EINTR)
		emul_fail("no memory for who waits: %d", err);
}

static void end_gp(void)
{
	emul_gp_run(EMUL_RCU);
	emul_work_run();
}

/* One more waits, or none at all */
static void take_turns(void)
{
	static bool last;

	last = !last;
	if (last) {
		end_gp();
	} else if (nr_ptrs) {
		user_free_rcu(&user, ptrs[--nr_ptrs]);
		emul_irq_work_run();
	}
}

static void other_cpu(void)
{
	switch (actor) {
	case OTHER_CPU:
		use_depot();
		end_gp();
		use_depot();
		break;
	case WORKER:
		end_gp();
		break;
	case LOCKED_CPU:
		use_locked();
		break;
	case FILLER:
		fill();
		break;
	default:
		take_turns();
	}
	other_busy = false;
}

static void other_cpu_waits(void)
{
	if (emul_cpu != 1)
		emul_fail("waiting for a CPU that waits");
	if (locked_waits) {
		if (locked_waits++ == MAX_WAITS)
			emul_fail("waiting without end with a lock");
		return;
	}
	swapcontext(&other_context, &this_context);
}

static void other_cpu_goes_on(void)
{
	unsigned long irqs_off = emul_irqs_off;
	u32 preempt_count = emul_preempt_count;

	emul_set_cpu(1);
	emul_irqs_off = other_irqs_off;
	emul_preempt_count = other_preempt_count;
	swapcontext(&this_context, &other_context);
	other_irqs_off = emul_irqs_off;
	other_preempt_count = emul_preempt_count;
	emul_set_cpu(0);
	emul_irqs_off = irqs_off;
	emul_preempt_count = preempt_count;
}

static void other_cpu_starts(void)
{
	getcontext(&other_context);
	other_context.uc_stack.ss_sp = other_stack;
	other_context.uc_stack.ss_size = sizeof(other_stack);
	other_context.uc_link = &this_context;
	makecontext(&other_context, other_cpu, 0);
	other_irqs_off = 0;
	other_preempt_count = 0;
	other_busy = true;
	other_cpu_goes_on();
}

static long period;	/* of TURNS, in points */

static void act(void)
{
	if (!acts_left)
		return;
	switch (actor) {
	case NMI:
		emul_nmi_enter();
		use(0);
		emul_nmi_exit();
		break;
	case INTERRUPT:
		if (emul_irqs_off)
			return;
		emul_hardirq_enter();
		use(0);
		emul_hardirq_exit();
		break;
	default:
		if (other_busy || (actor == TURNS && point % period))
			return;
		other_cpu_starts();
	}
	acted++;
	acts_left--;
}

static bool is_return(unsigned long ip)
{
	u8 *op = (u8 *)ip;

	return op[0] == 0xc3 || (op[0] == 0xf3 && op[1] == 0xc3);
}

static void trapped(int sig, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	unsigned long ip = regs[REG_RIP], *sp = (unsigned long *)regs[REG_RSP];
	unsigned long last = last_ip;

	last_ip = 0;
	if (break_at && ip == (unsigned long)break_at + 1 && *break_at == INT3) {
		*break_at = break_byte;
		regs[REG_RIP] = --ip;
		/* irq_work on the way was not part of the first run */
		if (!in_irq() == !op_in_irq && !--break_count) {
			act();
			last_ip = ip;
			point = fire_at;
		} else {
			break_again = true;
		}
		if (break_again || other_busy)
			regs[REG_EFL] |= TRAP_FLAG;
		return;
	}
	if (break_again) {
		break_again = false;
		*break_at = INT3;
		regs[REG_EFL] &= ~TRAP_FLAG;
		return;
	}
	if (!inspect_in_code(ip)) {
		if (last && !is_return(last)) {
			step_return = *sp;
			*sp = (unsigned long)step_trampoline;
			regs[REG_EFL] &= ~TRAP_FLAG;
		}
		return;
	}
	last_ip = ip;
	if (other_busy)
		other_cpu_goes_on();
	point++;
	if (!fire_at) {
		op_in_irq = in_irq();
		trace[point] = ip;
	} else if (fire_at < 0) {
		act();
	} else if (!other_busy) {
		regs[REG_EFL] &= ~TRAP_FLAG;
	}
}

/* What is done step by step. The objects' contents are not part of it. */

static void op_alloc(void)
{
	step_on();
	op_obj = bpf_mem_cache_alloc(&user.ma);
	step_off();
}

static void op_alloc_irqoff(void)
{
	step_on();
	op_obj = bpf_mem_cache_alloc_irqoff(&user.ma);
	step_off();
}

static void op_free(void)
{
	step_on();
	bpf_mem_cache_free(&user.ma, op_obj);
	step_off();
	op_obj = NULL;
}

static void op_free_irqoff(void)
{
	step_on();
	bpf_mem_cache_free_irqoff(&user.ma, op_obj);
	step_off();
	op_obj = NULL;
}

static void op_free_rcu(void)
{
	step_on();
	bpf_mem_cache_free_rcu(&user.ma, op_obj);
	step_off();
	op_obj = NULL;
}

static void op_alloc_any(void)
{
	step_on();
	op_obj = bpf_mem_alloc(&user.ma, user.size);
	step_off();
}

static void op_free_any(void)
{
	step_on();
	bpf_mem_free(&user.ma, op_obj);
	step_off();
	op_obj = NULL;
}

static void op_free_rcu_any(void)
{
	step_on();
	bpf_mem_free_rcu(&user.ma, op_obj);
	step_off();
	op_obj = NULL;
}

static void op_refill(void)
{
	step_on();
	bpf_mem_cache_refill(&user.ma);
	step_off();
}

static void op_fill(void)
{
	int err;

	step_on();
	err = bpf_mem_cache_fill(&user.ma, true);
	step_off();
	/* there is memory, always */
	if (err)
		emul_fail("no memory: %d", err);
}

/* What there is others may have */
static void op_try_fill(void)
{
	step_on();
	bpf_mem_cache_fill(&user.ma, true);
	step_off();
}

static void op_service(void)
{
	step_on();
	emul_irq_work_run();
	step_off();
}

static void op_worker(void)
{
	step_on();
	emul_work_run();
	step_off();
}

static void op_callback(void)
{
	step_on();
	emul_gp_run(EMUL_RCU);
	step_off();
}

/* The states in which it is done */

static void take(u32 n)
{
	nr_ptrs += user_alloc_many(&user, ptrs + nr_ptrs, n);
}

static void burst(u32 n)
{
	nr_ptrs += user_alloc_many_irqoff(&user, ptrs + nr_ptrs, n);
}

static void give(u32 n)
{
	while (n-- && nr_ptrs)
		user_free(&user, ptrs[--nr_ptrs]);
}

static void hold(u32 n)
{
	while (n-- && nr_ptrs)
		user_free_rcu(&user, ptrs[--nr_ptrs]);
}

static void cached(void)
{
	take(6);
	give(5);
}

static void empty(void)
{
	unsigned long flags;
	struct inspect in;

	emul.irq_work_manual = true;
	local_irq_save(flags);
	for (;;) {
		inspect(&user.ma, user.live, &in);
		if (!in.cpu)
			break;
		ptrs[nr_ptrs++] = user_alloc_irqoff(&user);
	}
	local_irq_restore(flags);
}

/* There is no memory, nor anything that others may take */
static void declared_only(void)
{
	take(40);
	memcg.limit = 0;
	emul.no_nowait = true;
	while (nr_ptrs < ARRAY_SIZE(ptrs)) {
		ptrs[nr_ptrs] = user_try(&user);
		if (!ptrs[nr_ptrs])
			break;
		nr_ptrs++;
	}
}

/* One object that the operation is to free, as user_free() would begin */
static void to_free(void)
{
	op_obj = ptrs[--nr_ptrs];
	user_check(&user, op_obj);
	emul_note_free(op_obj);
	user.live--;
}

static void declared_taken(void)
{
	declared_only();
	burst(2);
	to_free();
}

static void declared_to_fill(void)
{
	declared_only();
	burst(2);
	memcg.limit = LONG_MAX / 2;
}

static void cached_to_free(void)
{
	cached();
	to_free();
}

static void to_hold(void)
{
	op_obj = ptrs[--nr_ptrs];
	user_check(&user, op_obj);
	emul_note_free_rcu(op_obj);
	user.live--;
}

static void cached_to_hold(void)
{
	cached();
	to_hold();
}

static void full_to_free(void)
{
	struct inspect in;

	take(40);
	do {
		give(1);
		inspect(&user.ma, user.live, &in);
	} while (!in.waiting);
	emul.irq_work_manual = true;
	do {
		give(1);
		inspect(&user.ma, user.live, &in);
	} while (in.cpu * in.object < 7500);
	to_free();
}

static void waiting(void)
{
	take(40);
	emul.irq_work_manual = true;
	give(36);
	empty();
}

static void waiting_in_gp(void)
{
	take(40);
	give(36);
	empty();
}

static void pool_only(void)
{
	emul.irq_work_manual = true;
}

static void nothing_left(void)
{
	emul.irq_work_manual = true;
	burst(40);
}

static void learnt(void)
{
	burst(20);
	emul_settle();
	give(20);
	emul_settle();
}

static void learnt_empty(void)
{
	learnt();
	empty();
}

static void learnt_to_fill(void)
{
	learnt();
	emul.irq_work_manual = true;
	burst(30);
	emul_irq_work_run();
}

static void learning(void)
{
	burst(20);
}

static void forgetting(void)
{
	learnt();
	__atomic_add_fetch(&emul_jiffies, MINUTE, __ATOMIC_SEQ_CST);
}

static void surplus_to_serve(void)
{
	take(40);
	emul.irq_work_manual = true;
	give(38);
}

static void gp_running(void)
{
	take(40);
	give(38);
}

static void gp_over(void)
{
	gp_running();
	emul_gp_run(EMUL_RCU);
}

static void gp_over_more_waits(void)
{
	take(60);
	give(30);
	emul_gp_run(EMUL_RCU);
	emul.irq_work_manual = true;
	give(25);
}

static void held_to_serve(void)
{
	take(40);
	emul.irq_work_manual = true;
	hold(20);
}

static void held_in_gp(void)
{
	held_to_serve();
	emul_irq_work_run();
}

static void held_in_gp_to_hold(void)
{
	held_in_gp();
	to_hold();
}

static void held_gp_over(void)
{
	held_in_gp();
	emul_gp_run(EMUL_RCU);
}

static void held_gp_over_to_hold(void)
{
	held_gp_over();
	to_hold();
}

/* None has been used since the last grace period, but those in the list */
static void held_unused(void)
{
	take(40);
	give(36);
	emul_settle();
	take(4);
	held_in_gp();
	emul_gp_run(EMUL_RCU);
}

static void end_gp_asleep(enum emul_point point)
{
	if (point != EMUL_SCHEDULE)
		return;
	if (other_busy)
		other_cpu_goes_on();
	end_gp();
}

static void give_elsewhere(void *arg)
{
	give(5);
}

/* Nothing can be had at once, and then there is memory for who may sleep */
static void bound_reached(void)
{
	take(100);
	give(20);
	emul_settle();
	emul.irq_work_manual = true;
	hold(8);
	emul_irq_work_run();
	empty();
	/* so that the worker makes none for this CPU */
	emul_on_cpu(1, give_elsewhere, NULL);
	emul.no_nowait = true;
	emul.hook = end_gp_asleep;
}

/* No memory but what is ready on another CPU */
static void limit_reached(void)
{
	take(60);
	emul_settle();
	empty();
	emul_on_cpu(1, give_elsewhere, NULL);
	memcg.limit = memcg.usage;
	emul.hook = end_gp_asleep;
}

/* With none that waits for the next */
static void all_gp_over(void)
{
	surplus_to_serve();
	emul_irq_work_run();
	emul_gp_run(EMUL_RCU);
}

static void stock_to_drop(void)
{
	held_gp_over();
	emul_work_run();
	__atomic_add_fetch(&emul_jiffies, MINUTE, __ATOMIC_SEQ_CST);
}

static const struct scenario scenarios[] = {
	{ "alloc", FIXED, cached, op_alloc },
	{ "alloc, interrupts off", LINKED, cached, op_alloc_irqoff, true },
	{ "alloc, refill from slab", FIXED, empty, op_alloc },
	{ "alloc, refill per-CPU", ATTACHED, empty, op_alloc },
	{ "alloc, refill from depot", FIXED, waiting, op_alloc },
	{ "alloc, from depot", LINKED, waiting, op_alloc_irqoff, true },
	{ "alloc, from grace period", FIXED, waiting_in_gp, op_alloc_irqoff, true },
	{ "alloc, from reserve", FIXED, learnt_empty, op_alloc_irqoff, true },
	{ "alloc, from what is declared", LINKED, declared_only, op_alloc_irqoff,
	  true, .reserve = 3 },
	{ "free, to what is declared", LINKED, declared_taken, op_free,
	  .reserve = 3 },
	{ "worker, declared to fill", FIXED, declared_to_fill, op_worker,
	  .reserve = 3 },
	{ "alloc, from pool", FIXED, pool_only, op_alloc_irqoff, true },
	{ "alloc, nothing left", FIXED, nothing_left, op_alloc_irqoff, true },
	{ "free", FIXED, cached_to_free, op_free },
	{ "free, interrupts off", LINKED, cached_to_free, op_free_irqoff, true },
	{ "free, surplus", FIXED, full_to_free, op_free },
	{ "alloc, any size", ANY, cached, op_alloc_any },
	{ "alloc, any size, refill", ANY, pool_only, op_alloc_any },
	{ "free, any size", ANY, cached_to_free, op_free_any },
	{ "free_rcu", FIXED, cached_to_hold, op_free_rcu },
	{ "free_rcu, any size", ANY, cached_to_hold, op_free_rcu_any },
	{ "free_rcu, grace period runs", LINKED, held_in_gp_to_hold, op_free_rcu },
	{ "free_rcu, grace period over", LINKED, held_gp_over_to_hold, op_free_rcu },
	{ "refill", FIXED, waiting, op_refill },
	{ "fill", FIXED, nothing_left, op_fill },
	{ "fill, too many wait", FIXED, bound_reached, op_fill, .max_waiting = 1 },
	{ "fill, from CPUs", FIXED, limit_reached, op_try_fill },
	{ "service, nothing left", FIXED, nothing_left, op_service },
	{ "service, per-CPU", PERCPU, nothing_left, op_service },
	{ "service, surplus", FIXED, surplus_to_serve, op_service },
	{ "service, held", FIXED, held_to_serve, op_service },
	{ "worker, after a burst", FIXED, learning, op_worker },
	{ "worker, reserve to fill", FIXED, learnt_to_fill, op_worker },
	{ "worker, reserve to drop", FIXED, forgetting, op_worker },
	{ "worker, reclaim", FIXED, gp_over, op_worker },
	{ "worker, reclaim per-CPU", PERCPU, gp_over, op_worker },
	{ "worker, reclaim and more", LINKED, gp_over_more_waits, op_worker },
	{ "worker, held to stock", FIXED, held_gp_over, op_worker },
	{ "worker, held to slab", PERCPU, held_unused, op_worker },
	{ "worker, reclaim at the limit", FIXED, all_gp_over, op_worker,
	  .at_limit = true },
	{ "worker, held to stock at the limit", FIXED, held_gp_over, op_worker,
	  .at_limit = true },
	{ "worker, stock to drop at the limit", FIXED, stock_to_drop, op_worker,
	  .at_limit = true },
	{ "worker, reserve to drop at the limit", FIXED, forgetting, op_worker,
	  .at_limit = true },
	{ "end of a grace period", FIXED, gp_running, op_callback },
};

static long run(const struct scenario *sc, long at)
{
	unsigned long flags = 0;
	struct inspect in;
	u32 i;

	emul_init(2);
	memcg = (struct obj_cgroup){ .limit = LONG_MAX / 2 };
	emul.memcg = &memcg;
	emul.threads = actor >= OTHER_CPU;
	emul.relax = other_cpu_waits;
	nr_ptrs = 0;
	op_obj = NULL;
	memset(held, 0, sizeof(held));
	assert_int_equal(user_init_opts(&user, sc->kind, 1000, sc->max_waiting,
					sc->reserve), 0);
	sc->prepare();
	if (sc->at_limit) {
		empty();
		memcg.limit = memcg.usage;
	}
	point = 0;
	fire_at = at;
	if (sc->irqs_off)
		local_irq_save(flags);
	sc->op();
	if (sc->irqs_off)
		local_irq_restore(flags);
	while (other_busy)
		other_cpu_goes_on();
	emul.hook = NULL;
	emul.no_nowait = false;
	emul.threads = false;
	if (op_obj) {
		emul_note_alloc(op_obj);
		user.live++;
	}
	inspect(&user.ma, user.live, &in);
	/* nobody else gets at what is declared */
	if (!memcg.limit)
		assert_int_equal(in.cpu + in.nested, 0);
	/* no grace period is forgotten, even if nothing is called any more */
	emul_settle();
	inspect(&user.ma, user.live, &in);
	assert_int_equal(in.held + in.held_gp, 0);
	if (op_obj) {
		emul_note_free(op_obj);
		user.live--;
		if (user.kind == ANY)
			bpf_mem_free(&user.ma, op_obj);
		else
			bpf_mem_cache_free(&user.ma, op_obj);
	}
	for (i = 0; i < HELD; i++)
		if (held[i])
			user_free(&user, held[i]);
	give(nr_ptrs);
	emul.irq_work_manual = false;
	emul_advance(2);
	inspect(&user.ma, 0, &in);
	assert_int_equal(in.nested, 0);
	assert_int_equal(user.live, 0);
	bpf_mem_alloc_destroy(&user.ma);
	emul_exit();
	return point;
}

static long total;

static void step_through(void **state)
{
	const struct scenario *sc = *state;
	long n, points;

	for (actor = 0; actor < NR_ACTORS; actor++) {
		if (actor == FILLER && !sc->at_limit)
			continue;
		acted = 0;
		missed = 0;
		acts_left = LONG_MAX;
		long_path = false;
		points = run(sc, 0);
		assert_true(points > 3);
		long_path = points > 600;
		for (n = 1; n <= points; n++)
			if (!run(sc, n))
				fail_msg("point %ld not reached", n);
		long_path = true;
		/* else there is more to do each time that a worker looks */
		acts_left = 2 * points;
		run(sc, -1);
		total += acted;
		print_message("%s: %s at %ld of %ld points, %ld without memory\n",
			      sc->name, actors[actor], acted, points, missed);
		assert_true(actor == INTERRUPT || acted >= points);
	}
	actor = TURNS;
	for (period = 1; sc->max_waiting && period <= 32; period++) {
		acts_left = 1000;
		run(sc, -1);
	}
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_sigaction = trapped, .sa_flags = SA_SIGINFO };
	struct CMUnitTest tests[ARRAY_SIZE(scenarios)];
	int i, err;

	sigaction(SIGTRAP, &sa, NULL);
	inspect_make_writable();
	for (i = 0; i < ARRAY_SIZE(scenarios); i++)
		tests[i] = (struct CMUnitTest){
			.name = scenarios[i].name,
			.test_func = step_through,
			.initial_state = (void *)&scenarios[i],
		};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	err = cmocka_run_group_tests(tests, NULL, NULL);
	printf("step: %ld points tried\n", total);
	return err;
}
#endif
