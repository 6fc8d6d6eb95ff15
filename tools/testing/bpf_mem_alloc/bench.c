// SPDX-License-Identifier: GPL-2.0-only
/*
 * What an allocation and the free of what it gave cost, here and with other
 * allocators. These take turns, so that a machine with other work disturbs
 * all of them; medians are shown. Turning interrupts off and on is a store to
 * a variable of the thread here, as it would be with paravirtualization.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <time.h>
#include <ucontext.h>
#include "user.h"

#define ROUNDS		15
#define PAIRS		20000
#define MAX_THREADS	2
#define STEPPED		64
#define TRAP_FLAG	0x100UL

struct allocator {
	const char *name;
	void *(*alloc)(size_t size);
	void (*free)(void *ptr);
};

static struct bpf_mem_alloc any, fixed;
static struct obj_cgroup memcg;

static void *any_alloc(size_t size)
{
	return bpf_mem_alloc(&any, size);
}

static void any_free(void *ptr)
{
	bpf_mem_free(&any, ptr);
}

static void *fixed_alloc(size_t size)
{
	return bpf_mem_cache_alloc(&fixed);
}

static void fixed_free(void *ptr)
{
	bpf_mem_cache_free(&fixed, ptr);
}

static void *irqoff_alloc(size_t size)
{
	return bpf_mem_cache_alloc_irqoff(&fixed);
}

static void irqoff_free(void *ptr)
{
	bpf_mem_cache_free_irqoff(&fixed, ptr);
}

static struct allocator allocators[8] = {
	{ "any", any_alloc, any_free },
	{ "fixed", fixed_alloc, fixed_free },
	{ "irqoff", irqoff_alloc, irqoff_free },
	{ "malloc", malloc, free },
};

static int nr_allocators = 4;

static void load(const char *name, const char *lib, const char *alloc,
		 const char *dealloc)
{
	struct allocator *a = &allocators[nr_allocators];
	void *handle = dlopen(lib, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);

	if (!handle) {
		printf("%s\n", dlerror());
		return;
	}
	*a = (struct allocator){ name, dlsym(handle, alloc),
				 dlsym(handle, dealloc) };
	if (a->alloc && a->free)
		nr_allocators++;
}

/* Time */

struct job {
	const struct allocator *allocator;
	pthread_barrier_t *barrier;
	size_t size;
	int cpu;
	double ns;
};

static void *run_job(void *arg)
{
	struct job *job = arg;
	const struct allocator *a = job->allocator;
	struct timespec start, end;
	void *ptr;
	int i;

	emul_set_cpu(job->cpu);
	for (i = 0; i < 100; i++)
		a->free(a->alloc(job->size));
	pthread_barrier_wait(job->barrier);
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (i = 0; i < PAIRS; i++) {
		ptr = a->alloc(job->size);
		*(char *)ptr = 1;
		__asm__ __volatile__("" : : "r"(ptr) : "memory");
		a->free(ptr);
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	job->ns = ((end.tv_sec - start.tv_sec) * 1e9 +
		   (end.tv_nsec - start.tv_nsec)) / PAIRS;
	return NULL;
}

static double one_round(const struct allocator *a, size_t size, int threads)
{
	pthread_barrier_t barrier;
	struct job jobs[MAX_THREADS];
	pthread_t ids[MAX_THREADS];
	double ns = 0;
	int i;

	pthread_barrier_init(&barrier, NULL, threads);
	for (i = 0; i < threads; i++) {
		jobs[i] = (struct job){ a, &barrier, size, i };
		pthread_create(&ids[i], NULL, run_job, &jobs[i]);
	}
	for (i = 0; i < threads; i++) {
		pthread_join(ids[i], NULL);
		ns += jobs[i].ns / threads;
	}
	return ns;
}

static int compare(const void *a, const void *b)
{
	return *(double *)a < *(double *)b ? -1 : *(double *)a > *(double *)b;
}

static double median(double *v, int n)
{
	qsort(v, n, sizeof(*v), compare);
	return v[n / 2];
}

/* Instructions, by the trap flag of x86-64 */
#ifdef __x86_64__
static long steps, inside;

static void trapped(int sig, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;

	steps++;
	inside += inspect_in_code(regs[REG_RIP]);
}

static __always_inline void trace(bool on)
{
	if (on)
		__asm__ __volatile__("pushfq; orq $0x100, (%%rsp); popfq"
				     : : : "memory", "cc");
	else
		__asm__ __volatile__("pushfq; andq $~0x100, (%%rsp); popfq"
				     : : : "memory", "cc");
}

static noinline void *no_alloc(size_t size)
{
	__asm__ __volatile__("");
	return NULL;
}

static noinline void no_free(void *ptr)
{
	__asm__ __volatile__("");
}

static double count(const struct allocator *a, size_t size, bool of_free)
{
	double n[STEPPED];
	void *ptr;
	int i;

	for (i = 0; i < 32; i++)
		a->free(a->alloc(size));
	for (i = 0; i < STEPPED; i++) {
		steps = 0;
		inside = 0;
		if (of_free) {
			ptr = a->alloc(size);
			trace(true);
			a->free(ptr);
			trace(false);
		} else {
			trace(true);
			ptr = a->alloc(size);
			trace(false);
			a->free(ptr);
		}
		n[i] = inside ?: steps;
	}
	return median(n, STEPPED);
}

/* Of the function called, its return included */
static void count_instructions(size_t size)
{
	static const struct allocator nothing = { "", no_alloc, no_free };
	struct sigaction sa = { .sa_sigaction = trapped, .sa_flags = SA_SIGINFO };
	double call, call_free, x, y;
	int i;

	sigaction(SIGTRAP, &sa, NULL);
	call = count(&nothing, size, false) - 1;
	call_free = count(&nothing, size, true) - 1;
	printf("instructions, %zu bytes, alloc + free = pair:\n", size);
	for (i = 0; i < nr_allocators; i++) {
		x = count(&allocators[i], size, false);
		y = count(&allocators[i], size, true);
		if (!inside) {
			x -= call;
			y -= call_free;
		}
		printf("%10s %4.0f + %4.0f = %4.0f\n", allocators[i].name, x, y,
		       x + y);
	}
}
#else
static void count_instructions(size_t size)
{
}
#endif

int main(void)
{
	static const size_t sizes[] = {
		16, 32, 64, 128, 256, 512, 1024, 2048, 4096,
	};
	double ns[ARRAY_SIZE(allocators)][ROUNDS];
	int threads, s, i, r;

	load("jemalloc", "libjemalloc.so.2", "malloc", "free");
	load("mimalloc", "libmimalloc.so.2", "mi_malloc", "mi_free");
	emul_init(MAX_THREADS);
	memcg.limit = LONG_MAX / 2;
	emul.memcg = &memcg;
	if (bpf_mem_alloc_init(&any, 0, false))
		return 1;
	for (threads = 1; threads <= MAX_THREADS; threads++) {
		printf("ns for a pair, %d thread%s:\n     size", threads,
		       threads > 1 ? "s" : "");
		for (i = 0; i < nr_allocators; i++)
			printf(" %9s", allocators[i].name);
		printf("\n");
		for (s = 0; s < ARRAY_SIZE(sizes); s++) {
			if (bpf_mem_alloc_init(&fixed, sizes[s], false))
				return 1;
			for (r = 0; r < ROUNDS; r++)
				for (i = 0; i < nr_allocators; i++)
					ns[i][r] = one_round(&allocators[i],
							     sizes[s], threads);
			printf("%9zu", sizes[s]);
			for (i = 0; i < nr_allocators; i++)
				printf(" %9.1f", median(ns[i], ROUNDS));
			printf("\n");
			bpf_mem_alloc_destroy(&fixed);
		}
	}
	if (bpf_mem_alloc_init(&fixed, 64, false))
		return 1;
	count_instructions(64);
	bpf_mem_alloc_destroy(&fixed);
	bpf_mem_alloc_destroy(&any);
	emul_exit();
	return 0;
}
