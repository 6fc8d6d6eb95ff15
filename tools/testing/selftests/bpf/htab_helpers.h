/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __HTAB_HELPERS_H
#define __HTAB_HELPERS_H

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <linux/compiler.h>
#include <linux/perf_event.h>
#include <linux/types.h>
#include <linux/userfaultfd.h>
#include "file_helpers.h"

#ifndef ENOTSUPP
#define ENOTSUPP 524
#endif

#define ATTR __always_inline
#include "progs/test_jhash.h"

static inline __u64 now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ULL + ts.tv_nsec / 1000000;
}

static inline int pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set);
}

/* What memcg_setup() returned: may a test go on? */
static inline bool memcg_ready(int setup)
{
	_CHECK(setup < 0, "cgroups", 0, "errno %d\n", errno);
	if (!setup)
		test__skip();
	return setup > 0;
}

/* The CPUs below @max that this process may use */
static inline int list_cpus(int *cpus, int max)
{
	cpu_set_t set;
	int i, nr = 0;

	if (sched_getaffinity(0, sizeof(set), &set))
		return 0;
	for (i = 0; i < max; i++)
		if (CPU_ISSET(i, &set))
			cpus[nr++] = i;
	return nr;
}

static inline __u32 map_id(int fd)
{
	struct bpf_map_info info = {};
	__u32 len = sizeof(info);

	return bpf_obj_get_info_by_fd(fd, &info, &len) ? 0 : info.id;
}

static inline int nr_elems(int fd)
{
	__u64 key, *prev = NULL;
	int nr = 0;

	while (!bpf_map_get_next_key(fd, prev, &key)) {
		prev = &key;
		nr++;
	}
	return nr;
}

/* The kernel's jhash() of a key of 4 or 8 bytes with a seed of 0. The jhash() of
 * test_jhash.h is another function.
 */
static inline __u32 hash_key(const void *key, __u32 size)
{
	__u32 a, b, c, words[2] = {};

	memcpy(words, key, size);
	c = JHASH_INITVAL + size;
	a = c + le32toh(words[0]);
	b = c + le32toh(words[1]);
	__jhash_final(a, b, c);
	return c;
}

/* Take the bucket of a key; returns false if it is @taken already. For maps of
 * BPF_F_ZERO_SEED; @nr_buckets: power of two.
 */
static inline bool claim_bucket(bool *taken, __u32 nr_buckets, const void *key,
				__u32 key_size)
{
	bool *bucket = &taken[hash_key(key, key_size) & (nr_buckets - 1)];

	if (*bucket)
		return false;
	*bucket = true;
	return true;
}

/* The first key from @key on whose bucket is not taken yet; takes it. */
static inline __u64 take_bucket(bool *taken, __u32 nr_buckets, __u64 key)
{
	while (!claim_bucket(taken, nr_buckets, &key, sizeof(key)))
		key++;
	return key;
}

/* Have the object load the named programs only. */
static inline void autoload_only(struct bpf_object *obj,
				 const char *const names[], int nr)
{
	struct bpf_program *prog;
	bool wanted;
	int i;

	bpf_object__for_each_program(prog, obj) {
		wanted = false;
		for (i = 0; i < nr; i++)
			if (!strcmp(bpf_program__name(prog), names[i]))
				wanted = true;
		bpf_program__set_autoload(prog, wanted);
	}
}

/* A perf_event of the software clock of a task or a CPU */
static inline int open_clock(int tid, int cpu, int freq)
{
	struct perf_event_attr attr = {
		.size = sizeof(attr),
		.type = PERF_TYPE_SOFTWARE,
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.freq = 1,
		.sample_freq = freq,
	};

	return syscall(__NR_perf_event_open, &attr, tid, cpu, -1,
		       PERF_FLAG_FD_CLOEXEC);
}

/* The type of perf_events that are kprobes, < 0: there is none */
static inline int kprobe_type(void)
{
	return read_number("/sys/bus/event_source/devices/kprobe/type", "");
}

/* There programs get what maps have ready, and nothing from slab. */
static inline bool is_preempt_rt(void)
{
	return read_number("/sys/kernel/realtime", "") == 1;
}

/* Replace what a file of one line holds; tell what it was. */
static inline void swap_line(const char *path, const char *line, char *old,
			     int len)
{
	int fd = open(path, O_RDWR), n = 0;

	if (fd < 0)
		return;
	if (old)
		n = read(fd, old, len - 1);
	if (n > 0)
		old[n] = '\0';
	if (pwrite(fd, line, strlen(line), 0) < 0)
		fprintf(stderr, "%s: %m\n", path);
	close(fd);
}

/* The longest that a CPU may be kept from its tasks, in seconds, is twice this */
#define WATCHDOG	"/proc/sys/kernel/watchdog_thresh"

struct watchdog {
	int kmsg;
	char old[16];
};

/* Has it find what keeps a CPU for 2 s. False: it cannot, and that is said. */
static inline bool watchdog_start(struct watchdog *w, const char *test)
{
	w->kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	if (w->kmsg < 0 ||
	    read_number("/proc/sys/kernel/soft_watchdog", "") != 1) {
		printf("%s:SKIP:needs CONFIG_SOFTLOCKUP_DETECTOR, and /dev/kmsg\n",
		       test);
		test__skip();
		close(w->kmsg);
		return false;
	}
	lseek(w->kmsg, 0, SEEK_END);
	strcpy(w->old, "10");
	swap_line(WATCHDOG, "1", w->old, sizeof(w->old));
	return true;
}

/* Whether it has found something */
static inline bool watchdog_stop(struct watchdog *w)
{
	bool found = false;
	char line[2048];
	int n;

	swap_line(WATCHDOG, w->old, NULL, 0);
	/* EPIPE: some have been overwritten, and the next one is there */
	while ((n = read(w->kmsg, line, sizeof(line) - 1)) > 0 ||
	       (n < 0 && errno == EPIPE)) {
		line[n < 0 ? 0 : n] = '\0';
		found |= !!strstr(line, "soft lockup");
	}
	close(w->kmsg);
	return found;
}

/* fentry, fexit and LSM programs are called by code that not every architecture
 * knows how to make. That is all a program learns that cannot be attached here.
 */
static inline bool can_attach_fentry(void)
{
	struct bpf_insn insns[] = {
		BPF_MOV64_IMM(BPF_REG_0, 0),
		BPF_EXIT_INSN(),
	};
	struct bpf_load_program_attr attr = {
		.prog_type = BPF_PROG_TYPE_TRACING,
		.expected_attach_type = BPF_TRACE_FENTRY,
		.insns = insns,
		.insns_cnt = ARRAY_SIZE(insns),
		.license = "GPL",
	};
	int prog, link, err;

	attr.attach_btf_id = libbpf_find_vmlinux_btf_id("bpf_fentry_test1",
							BPF_TRACE_FENTRY);
	prog = bpf_load_program_xattr(&attr, NULL, 0);
	if (prog < 0)
		return true;
	link = bpf_raw_tracepoint_open(NULL, prog);
	err = link < 0 ? errno : 0;
	if (link >= 0)
		close(link);
	close(prog);
	if (err != ENOTSUPP)
		return true;
	printf("SKIP:this architecture has no trampolines for fentry and LSM programs\n");
	test__skip();
	return false;
}

/* A kprobe where a function begins is a call on x86, which leaves interrupts on.
 * Elsewhere it is a breakpoint, and turns them off.
 */
static inline bool is_kprobe_irqoff(void)
{
#if defined(__x86_64__) || defined(__i386__)
	return false;
#else
	return true;
#endif
}

/* Where programs find a tracepoint in NMIs, and sysrq sends some */
static inline bool has_nmis(void)
{
#if defined(__x86_64__) || defined(__i386__)
	return true;
#else
	return false;
#endif
}

/* NMIs come from one CPU and go to the others. */
static inline bool can_send_nmis(void)
{
	int cpus[2];

	if (!has_nmis()) {
		printf("SKIP:this architecture has no tracepoint in NMIs\n");
		test__skip();
		return false;
	}
	if (list_cpus(cpus, 2) == 2 && !access("/proc/sysrq-trigger", W_OK))
		return true;
	printf("SKIP:needs sysrq and two CPUs, to send NMIs from one to the other\n");
	test__skip();
	return false;
}

/* sysrq l sends an NMI to each of the other CPUs: do so until there are enough,
 * or time is over. The backtraces are of no interest on the console.
 */
static inline void send_nmis(bool (*enough)(void *arg), void *arg, int ms)
{
	static const char ignore[] =
		"/sys/module/printk/parameters/ignore_loglevel";
	static const char printk[] = "/proc/sys/kernel/printk";
	char old_ignore[8] = "N", old_printk[64] = "7";
	__u64 end = now_ms() + ms;
	int fd;

	swap_line(ignore, "N", old_ignore, sizeof(old_ignore));
	swap_line(printk, "1", old_printk, sizeof(old_printk));
	fd = open("/proc/sysrq-trigger", O_WRONLY);
	while (!enough(arg) && now_ms() < end) {
		if (write(fd, "l", 1) != 1)
			break;
		/* let the CPUs print, which they do out of the NMI */
		usleep(3000);
	}
	close(fd);
	usleep(100000);
	swap_line(printk, old_printk, NULL, 0);
	swap_line(ignore, old_ignore, NULL, 0);
}

struct nmi_goal {
	__u64 *hits, wanted;
};

static inline bool nmi_goal_met(void *arg)
{
	struct nmi_goal *goal = arg;

	return READ_ONCE(*goal->hits) >= goal->wanted;
}

/* Until *@hits is as wanted */
static inline void send_nmis_until(__u64 *hits, __u64 wanted, int ms)
{
	struct nmi_goal goal = { hits, wanted };

	send_nmis(nmi_goal_met, &goal, ms);
}

/* A sleepable program on getpgid(), or what @call is, that waits for a page until
 * hold_stop()
 */
struct holder {
	void (*call)(struct holder *h);
	int fd;
	int uffd;
	void *page;
	pthread_t thread;
};

static inline void *hold_thread(void *arg)
{
	struct holder *h = arg;

	if (h->call)
		h->call(h);
	else
		syscall(__NR_getpgid, 0);
	return NULL;
}

/* @hold_ptr: where the program is to read from, @held: 1 when it does */
static inline bool hold_start(struct holder *h, __u64 *hold_ptr, __u32 *held)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range.len = getpagesize(),
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int i;

	h->uffd = syscall(__NR_userfaultfd, O_CLOEXEC);
	if (h->uffd < 0) {
		fprintf(stderr, "userfaultfd: %m\n");
		return false;
	}
	h->page = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	reg.range.start = (unsigned long)h->page;
	if (ioctl(h->uffd, UFFDIO_API, &api) ||
	    ioctl(h->uffd, UFFDIO_REGISTER, &reg)) {
		fprintf(stderr, "userfaultfd: %m\n");
		goto fail;
	}
	*hold_ptr = (unsigned long)h->page;
	if (pthread_create(&h->thread, NULL, hold_thread, h))
		goto fail;
	for (i = 0; i < 1000 && !READ_ONCE(*held); i++)
		usleep(1000);
	usleep(10000);
	if (READ_ONCE(*held) == 1)
		return true;
	fprintf(stderr, "the program does not wait (%u)\n", *held);
fail:
	munmap(h->page, getpagesize());
	close(h->uffd);
	return false;
}

/* Returns 0 if the program could go on */
static inline int hold_stop(struct holder *h)
{
	struct uffdio_zeropage zero = {
		.range = {
			.start = (unsigned long)h->page,
			.len = getpagesize(),
		},
	};
	int err;

	err = ioctl(h->uffd, UFFDIO_ZEROPAGE, &zero);
	if (!err)
		pthread_join(h->thread, NULL);
	munmap(h->page, getpagesize());
	close(h->uffd);
	return err;
}

#endif
