/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The lists of kernel/bpf/memalloc.c that several contexts change, in four
 * parts, each a model of its own:
 *
 *   -DDEPOT    CPUs push to the waiting list (push_shared()) and take from it
 *              and from in_gp (depot_take_list()), while the worker starts and
 *              ends grace periods (gp_change())
 *   -DRESERVE  a slot, emptied and filled by CPUs (pool_take(), pool_fill())
 *   -DSTACK    the stacks of full and of empty slots, and CPUs that move some from
 *              one to the other (reserve_take_slot(), reserve_gap(),
 *              reserve_put())
 *   -DCPU      one CPU's list: a task, an NMI above it, and one above that
 *              (alloc_irqoff(), free_irqoff(), alloc_nested(), free_slow())
 *   -DGP       who asks for a grace period: CPUs that free (hold(), give_up()),
 *              the worker that ends one (gp_finish(), gp_start()), and a task
 *              that waits for it (bpf_mem_cache_fill())
 *
 * Memory is weakly ordered where the code relies on an order: the link that a
 * producer writes into an object waits in a store buffer. The cmpxchg() that
 * publishes the object is a release and drains the buffer first. A consumer
 * reads the link at an address that it got from the list, which is ordered.
 * Who owns an object writes to it, so a link read too late is UNSET.
 *
 * What is asserted, and the code that it is about:
 *   A1  what is taken from a list was in a list, and nobody's
 *       depot_take_list(): cmpxchg(list, first, next) under depot_lock
 *   A2  a link that is followed has been written, and by the list's producer
 *       push_shared(): link before cmpxchg(); depot_take_list(): under the lock
 *   A3  there is one consumer: depot_trylock()
 *   A4  at the end of a grace period nobody has what goes to slab
 *       gp_change(), depot_take(): both hold depot_lock
 *   A5  at the end every object is in one list, or with one owner, once
 *   A6  a slot gives its objects to one context: pool_take(): xchg()
 *   A7  only one context at a time changes a CPU's list
 *       alloc_irqoff(), free_irqoff(): busy, cpu_enter()
 *   A8  what is held gets a whole grace period
 *       gp_start(): held_gp, before call_rcu()
 *   A9  and gets it for sure, when nothing else happens any more
 *       hold(): push, then request_gp(); gp_finish(): smp_mb(), then held
 *   A10 who waits for a grace period is woken
 *       gp_passed(): gp_start(); gp_finish(): smp_mb() before wake_up_var()
 *   A11 a slot is in one stack, or with one context: slot_pop(): the count
 *
 * With one of these the model is wrong in one place, and an assertion must
 * fail: -DNO_RELEASE, -DNO_LOCK, -DNO_GP_LOCK (DEPOT), -DNO_RELEASE,
 * -DNO_XCHG, -DNO_CMPXCHG (RESERVE), -DNO_COUNT (STACK), -DNO_BUSY, -DNO_NESTED_XCHG (CPU),
 * -DNO_HELD_GP, -DNO_HELD, -DNO_ORDER, -DNO_MB, -DNO_START (GP).
 */

#define NIL	0
#define NOBJ	4
#define UNSET	15
#define LISTED	0
#define SLAB	14

#if !defined(GP) && !defined(STACK)
byte link[NOBJ + 1] = UNSET;
byte owner[NOBJ + 1] = LISTED;
#endif
byte done;

#define OWN(o, me)	assert(owner[o] == LISTED); owner[o] = me

/* A producer's store buffer holds one link */
#define DRAIN()		if :: bo != NIL -> link[bo] = bv; bo = NIL :: else fi
#ifdef NO_RELEASE
#define RELEASE()	skip
#else
#define RELEASE()	DRAIN()
#endif

/* push_shared() */
inline push(list, o)
{
	owner[o] = LISTED;
	old = list;
	do
	::	atomic { DRAIN(); bo = o; bv = old };
		atomic {
			if
			:: list == old ->
				RELEASE();
				list = o;
				break
			:: else -> old = list
			fi
		}
	od;
	atomic { DRAIN(); old = NIL }
}

#ifdef DEPOT

#define NPROC	3

byte waiting, in_gp, consumers;
bool locked;

inline lock()
{
#ifndef NO_LOCK
	atomic { !locked -> locked = true };
	assert(consumers == 0);			/* A3 */
	consumers = 1
#else
	skip
#endif
}

inline unlock()
{
#ifndef NO_LOCK
	consumers = 0;
	locked = false
#else
	skip
#endif
}

/* depot_take_list(), one object */
inline take(list, o)
{
	o = NIL;
	do
	::	first = list;
		if
		:: first == NIL -> break
		:: else
		fi;
		next = link[first];
		atomic {
			if
			:: list == first ->
				assert(next != UNSET);		/* A2 */
				list = next;
				o = first;
				OWN(o, me);			/* A1 */
				link[o] = UNSET;
				break
			:: else
			fi
		}
	od;
	first = NIL;
	next = NIL
}

proctype cpu(byte me; byte o)
{
	byte old, first, next, bo, bv;
	byte round;

	do
	:: round == 2 -> break
	:: else ->
		if
		:: o != NIL -> push(waiting, o)
		:: else
		fi;
		lock();
		take(waiting, o);
		if
		:: o == NIL -> take(in_gp, o)
		:: else
		fi;
		unlock();
		round++
	od;
	done++
}

proctype worker(byte me)
{
	byte first, o;

	lock();
	atomic { in_gp = waiting; waiting = NIL };	/* xchg() */
	unlock();
	/* here the grace period goes by */
#ifdef NO_GP_LOCK
	first = in_gp;
	in_gp = NIL;
#else
	lock();
	first = in_gp;
	in_gp = NIL;
	unlock();
#endif
	do
	:: first == NIL -> break
	:: else ->
		atomic {
			o = first;
			OWN(o, SLAB);			/* A4 */
			first = link[o];
			assert(first != UNSET)		/* A2 */
		}
	od;
	done++
}

init {
	byte n, o, i;

	atomic {
		link[3] = NIL;
		waiting = 3;
		owner[1] = 1;
		owner[2] = 2;
		run cpu(1, 1);
		run cpu(2, 2);
		run worker(3)
	};
	done == NPROC;
	/* A5 */
	o = waiting;
	do
	:: o == NIL -> break
	:: else -> atomic { OWN(o, SLAB); n++; o = link[o] }
	od;
	assert(in_gp == NIL);
	i = 1;
	do
	:: i > 3 -> break
	:: else -> assert(owner[i] != LISTED); i++
	od
}
#endif /* DEPOT */

#ifdef RESERVE

#define NPROC	3

byte slot;

/* Takes what there is, two objects in a row, and puts its own if it can */
proctype cpu(byte me; byte o)
{
	byte first, second, bo, bv;
	bool ok;
	byte round;

	do
	:: round == 2 -> break
	:: else ->
		if
		:: o != NIL ->
			/* reserve_put(): a chain of two, its link first */
			owner[o] = LISTED;
			owner[o + 1] = LISTED;
			atomic { bo = o; bv = o + 1 };
#ifdef NO_CMPXCHG
			ok = slot == NIL;
			if
			:: ok -> RELEASE(); slot = o
			:: else
			fi;
#else
			atomic {
				ok = slot == NIL;
				if
				:: ok -> RELEASE(); slot = o
				:: else
				fi
			};
#endif
			atomic {
				DRAIN();
				if
				:: ok -> o = NIL
				:: else -> owner[o] = me; owner[o + 1] = me
				fi
			}
		:: else ->
#ifdef NO_XCHG
			first = slot;
			slot = NIL;
#else
			atomic { first = slot; slot = NIL };
#endif
			if
			:: first != NIL ->
				OWN(first, me);			/* A6 */
				second = link[first];
				assert(second != UNSET);	/* A2 */
				OWN(second, me);		/* A6 */
				link[first] = UNSET;
				o = first;
				first = NIL;
				second = NIL
			:: else
			fi
		fi;
		round++
	od;
	done++
}

init {
	byte n, i;

	atomic {
		owner[1] = 1;
		owner[2] = 1;
		owner[3] = 2;
		owner[4] = 2;
		run cpu(1, 1);
		run cpu(2, 3);
		run cpu(3, NIL)
	};
	done == NPROC;
	/* A5 */
	if
	:: slot != NIL -> n = slot; OWN(n, SLAB); n = link[n]; OWN(n, SLAB)
	:: else
	fi;
	i = 1;
	do
	:: i > 4 -> break
	:: else -> assert(owner[i] != LISTED); i++
	od
}
#endif /* RESERVE */

#ifdef STACK

#define NPROC	3
#define NSLOT	3
#define FULL	0
#define EMPTY	1

byte next[NSLOT + 1];
byte head[2];
byte count[2];
bool taken[NSLOT + 1];

#ifdef NO_COUNT
#define SAME(s)	(head[s] == old)
#else
#define SAME(s)	(head[s] == old && count[s] == old_count)
#endif

#define LOOK(s)	atomic { old = head[s]; old_count = count[s] }

inline slot_pop(s)
{
	slot = NIL;
	LOOK(s);
	do
	:: old == NIL -> break
	:: else ->
		behind = next[old];
		atomic {
			if
			:: SAME(s) ->
				head[s] = behind;
				count[s]++;
				slot = old;
				assert(!taken[slot]);		/* A11 */
				taken[slot] = true;
				break
			:: else -> old = head[s]; old_count = count[s]
			fi
		}
	od
}

inline slot_push(s)
{
	LOOK(s);
	do
	::	next[slot] = old;
		atomic {
			if
			:: SAME(s) ->
				taken[slot] = false;
				head[s] = slot;
				count[s]++;
				break
			:: else -> old = head[s]; old_count = count[s]
			fi
		}
	od
}

/* Empties a slot, or fills one */
proctype cpu()
{
	byte slot, old, old_count, behind, round;

	do
	:: round == 2 -> break
	:: else ->
		if
		::	slot_pop(FULL);
			if
			:: slot != NIL -> slot_push(EMPTY)
			:: else
			fi
		::	slot_pop(EMPTY);
			if
			:: slot != NIL -> slot_push(FULL)
			:: else
			fi
		fi;
		round++
	od;
	done++
}

init {
	byte i, n;

	atomic {
		head[FULL] = 1;
		next[1] = 2;
		head[EMPTY] = 3;
		run cpu();
		run cpu();
		run cpu()
	};
	done == NPROC;
	/* A11: each is in one of them */
	atomic {
		i = head[FULL];
		do
		:: i == NIL -> break
		:: else -> assert(!taken[i]); taken[i] = true; n++; i = next[i]
		od;
		i = head[EMPTY];
		do
		:: i == NIL -> break
		:: else -> assert(!taken[i]); taken[i] = true; n++; i = next[i]
		od;
		assert(n == NSLOT)
	}
}
#endif /* STACK */

#ifdef CPU

byte head, nested;
byte level;		/* of the context that runs: a task is 0 */
byte changing;		/* contexts between cpu_enter() and cpu_leave() */
bool busy;

inline enter()
{
	busy = true;
#ifndef NO_BUSY
	assert(changing == 0);					/* A7 */
#endif
	changing++
}

inline leave()
{
	changing--;
	busy = false
}

inline cpu_alloc(o)
{
	if
#ifndef NO_BUSY
	:: busy ->
		/* alloc_nested() */
#ifdef NO_NESTED_XCHG
		o = nested;
		nested = NIL;
#else
		atomic { o = nested; nested = NIL };
#endif
		if
		:: o != NIL ->
			next = link[o];
			OWN(o, me);
			link[o] = UNSET;
			/* what is left goes back; it is one object at most */
			if
			:: next != NIL ->
				assert(next != UNSET && link[next] == NIL);
				OWN(next, me);
				push(nested, next)
			:: else
			fi;
			next = NIL
		:: else
		fi
#endif
	:: else ->
		enter();
		o = head;
		if
		:: o != NIL ->
			assert(link[o] != UNSET);
			head = link[o];
			OWN(o, me);
			link[o] = UNSET
		:: else
		fi;
		leave()
	fi
}

inline cpu_free(o)
{
	if
#ifndef NO_BUSY
	:: busy -> push(nested, o)
#endif
	:: else ->
		enter();
		owner[o] = LISTED;
		link[o] = head;
		head = o;
		leave()
	fi;
	o = NIL
}

/* cpu_drain_nested(), as alloc_slow() and refill() do */
inline drain(o)
{
	enter();
#ifdef NO_NESTED_XCHG
	o = nested;
	nested = NIL;
#else
	atomic { o = nested; nested = NIL };
#endif
	do
	:: o == NIL -> break
	:: else ->
		next = link[o];
		assert(next != UNSET);				/* A2 */
		link[o] = head;
		head = o;
		o = next
	od;
	next = NIL;
	leave()
}

proctype task(byte me) provided (level == 0)
{
	byte o, p, old, next, bo, bv;

	cpu_alloc(o);
	drain(p);
	if
	:: o != NIL -> cpu_free(o)
	:: else
	fi;
	drain(o);
	done++
}

/* Comes at any time, and is over before what it interrupted goes on */
inline interrupt(above)
{
	do
	:: round == 2 -> break
	:: atomic { round < 2 && level < above -> mine = level; level = above };
		if
		:: o != NIL -> cpu_free(o)
		:: else
		fi;
		cpu_alloc(o);
		if
		:: round == 1 && o != NIL -> cpu_free(o)
		:: else
		fi;
		round++;
		atomic { level = mine; mine = 0 }
	od;
	done++
}

proctype nmi(byte me; byte o) provided (level <= 1)
{
	byte mine, old, next, bo, bv, round;

	interrupt(1)
}

proctype nmi_above(byte me; byte o) provided (level <= 2)
{
	byte mine, old, next, bo, bv, round;

	interrupt(2)
}

init {
	byte o;

	atomic {
		link[2] = NIL;
		link[1] = 2;
		head = 1;
		owner[3] = 2;
		owner[4] = 3;
		run task(1);
		run nmi(2, 3);
		run nmi_above(3, 4)
	};
	done == 3;
	/* A5 */
	assert(!busy && changing == 0);
	o = head;
	do
	:: o == NIL -> break
	:: else -> atomic { OWN(o, SLAB); o = link[o]; assert(o != UNSET) }
	od;
	o = nested;
	do
	:: o == NIL -> break
	:: else -> atomic { OWN(o, SLAB); o = link[o]; assert(o != UNSET) }
	od;
	o = 1;
	do
	:: o > NOBJ -> break
	:: else -> assert(owner[o] != LISTED); o++
	od
}
#endif /* CPU */

#ifdef GP

mtype = { IDLE, RUNNING, OVER };

mtype gp = IDLE;
byte held, held_gp;	/* objects, a bit for each */
byte unseen;		/* freed since the last grace period began */
bool waiting, in_gp;	/* an object that others may take */
byte nr_waiting;
bool wanted;		/* irq_work */
bool callback, kicked;	/* call_rcu(), the worker */
bool buffered;		/* the worker has set gp, and nobody else sees it */
bool asleep, filled;

/* cmpxchg() drains the store buffer of its CPU */
inline gp_start(force, buffer)
{
#ifdef NO_HELD
	if
	:: waiting || force ->
#else
	if
	:: waiting || held || force ->
#endif
		atomic {
			!(buffer);
			if
			:: gp == IDLE -> gp = RUNNING; started = true
			:: else
			fi
		};
		if
		:: started ->
			atomic { in_gp = waiting; waiting = false };
#ifndef NO_HELD_GP
			atomic { held_gp = held; held = 0 };	/* xchg() */
#endif
			atomic { unseen = 0; callback = true; started = false }
		:: else
		fi
	:: else
	fi
}

/* Frees two objects for after the grace period */
proctype cpu()
{
	mtype seen;
	byte o = 1;

	do
	:: o == 4 -> break
	:: else ->
		nr_waiting++;
#ifdef NO_ORDER
		seen = gp;
#endif
		atomic { held = held | o; unseen = unseen | o };
#ifndef NO_ORDER
		seen = gp;
#endif
		atomic {
			if
			:: seen == IDLE -> wanted = true
			:: else
			fi;
			seen = 0;
			o = o << 1
		}
	od;
	done++
}

/* Frees one as others do, and takes it again if that is still possible */
proctype cpu_taking()
{
	nr_waiting++;
	waiting = true;
	atomic {
		if
		:: waiting -> waiting = false; nr_waiting--
		:: in_gp -> in_gp = false; nr_waiting--
		:: else
		fi
	};
	wanted = true;
	done++
}

proctype irq_work()
{
	bool started;

end:	do
	:: atomic { wanted -> wanted = false };
		gp_start(false, false)
	od
}

proctype rcu()
{
end:	do
	:: atomic { callback -> callback = false };
		gp = OVER;
		kicked = true
	od
}

inline give_back()
{
	do
	:: held_gp == 0 -> break
	:: else ->
		assert(!(held_gp & unseen));			/* A8 */
		atomic { held_gp = held_gp & (held_gp - 1); nr_waiting-- }
	od
}

proctype worker()
{
	bool started;

end:	do
	:: atomic { kicked -> kicked = false };
		if
		:: gp == OVER ->
#ifdef NO_HELD_GP
			atomic { held_gp = held; held = 0 };
#endif
			give_back();
			atomic {
				if
				:: in_gp -> in_gp = false; nr_waiting--
				:: else
				fi
			};
			buffered = true;
#ifndef NO_MB
			!buffered;
#endif
			if
			:: asleep -> asleep = false
			:: else
			fi
		:: else
		fi;
		gp_start(false, buffered)
	od
}

proctype store_buffer()
{
end:	do
	:: atomic { buffered -> buffered = false; gp = IDLE }
	od
}

/* bpf_mem_cache_fill() where one object waiting is too many */
proctype fill()
{
	bool started;

	do
	::	asleep = true;
		if
		:: nr_waiting == 0 -> asleep = false; break
		:: else
		fi;
#ifndef NO_START
		gp_start(true, false);
#endif
		!asleep
	od;
	filled = true
}

init {
	atomic {
		run cpu();
		run cpu_taking();
		run irq_work();
		run rcu();
		run worker();
		run store_buffer();
		run fill()
	};
	timeout;
	assert(done == 2);
	assert(held == 0 && held_gp == 0);			/* A9 */
	assert(filled);						/* A10 */
	assert(nr_waiting == 0)
}
#endif /* GP */
