// SPDX-License-Identifier: GPL-2.0-only
/*
 * Updates dynamic hash maps from all contexts at once for a while, and looks at
 * memory, counters and latencies meanwhile.
 *
 *	soak [-H] [-l] [-i SECONDS] SECONDS DIR
 *
 * -H: no CPU hotplug. -l: leak, that is, add keys and never delete them, to see
 * that the verdict notices. -i: from one sample to the next.
 *
 * Writes DIR/soak.csv, one line a sample, and DIR/report, which also goes to
 * standard output: what was done, and one line "ok" or "FAILED" for each thing
 * that must hold. Ends with 0 if all do, with 1 if not, with 2 if it cannot say.
 *
 * A child has the maps. Their memory is charged to a cgroup that it is in while
 * it creates them, and not later: there is little else in that cgroup.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include "progs/htab_val.h"
#include "file_helpers.h"
#include "soak.h"
#include "soak.skel.h"

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define READ_ONCE(x)	(*(volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile typeof(x) *)&(x) = (v))

#define CGROUP		"/sys/fs/cgroup/soak"

/* Rule 6 of the design: what an allocator may hold beside what is live, on each
 * CPU and as its reserve, which has limits of its own
 */
#define CPU_BYTES	8192
#define RESERVE_OBJS	2048
#define RESERVE_BYTES	(1 << 20)
/* A CPU charges this much to a memory cgroup in advance (MEMCG_CHARGE_BATCH) */
#define STOCK_BYTES	(32 * 4096)
/* What is added to a map that comes and goes */
#define PASSING_ELEMS	64
#define REHEARSAL_SECONDS 4

static const char *const context_names[NR_CONTEXTS] = {
	"kprobe", "raw_tp", "perf_event", "nmi", "fentry", "socket",
	"fentry_s", "lsm_s", "syscall", "batch",
};

/* Those that one task triggers have a slot, others one for each CPU. */
static bool is_per_cpu(int ctx)
{
	return ctx < FENTRY_S;
}

/* May fail for want of memory: with interrupts off, when the reserve is spent */
static bool is_irqoff(int ctx)
{
	return ctx == RAW_TP || ctx == PERF_EVENT || ctx == NMI ||
	       ctx == FENTRY;
}

/* Runs in the middle of another operation, whose locks it cannot wait for */
static bool is_nested(int ctx)
{
	return ctx == NMI || ctx == FENTRY;
}

static const char *const map_names[NR_MAPS] = {
	"hash", "percpu", "inner", "lru", "prealloc",
};

static bool is_dynamic(int m)
{
	return m != LRU && m != PREALLOC;
}

static struct soak *skel;
static int map_fds[NR_MAPS], outer_fd;
static long long empty_bytes[NR_MAPS], elem_bytes[NR_MAPS];
static int nr_cpus;		/* possible ones */
static int seconds, period;
static bool no_hotplug, leak;
static bool stop;		/* all threads are to end */
static const char *dir;
static FILE *report;
static bool failed;
static double *least_kb;	/* the child's smallest dynamic map in the end */

/* What threads have done; each counter is written by one of them. */
static struct {
	__u64 passing_maps, hotplugs, nmi_rounds, packets, execs;
	__u64 bursts, first_nomem, second_nomem, complaints, log_lost;
	__u64 trouble;		/* calls that must not fail and did; of any thread */
} done;

static void die(const char *what)
{
	fprintf(stderr, "soak: %s: %s\n", what, strerror(errno));
	exit(2);
}

static void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(report, format, args);
	va_end(args);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	fflush(report);
	fflush(stdout);
}

/* One line of the verdict */
static void check(bool ok, const char *format, ...)
{
	char line[256];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	say("%s: %s\n", ok ? "ok" : "FAILED", line);
	failed |= !ok;
}

static void trouble(const char *what)
{
	if (!done.trouble++)
		fprintf(stderr, "soak: %s: %s\n", what, strerror(errno));
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static __u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* Sleeps, but not when all is to end. Returns whether to go on. */
static bool rest(int ms)
{
	for (; ms > 100 && !READ_ONCE(stop); ms -= 100)
		usleep(100000);
	if (!READ_ONCE(stop))
		usleep(ms * 1000);
	return !READ_ONCE(stop);
}

/* Contexts of user space: the same steps as soak.bpf.c has */

static void fill_vals(struct htab_val *vals, int m, __u64 key, __u32 gen)
{
	int i;

	for (i = 0; i < (m == PERCPU ? nr_cpus : 1); i++)
		fill(&vals[i], key, gen);
}

static bool is_val(const struct htab_val *val, __u64 key, __u32 gen)
{
	struct htab_val want;

	fill(&want, key, gen);
	return !memcmp(val, &want, sizeof(want));
}

static int user_update(struct slot *s, int m, __u64 key, __u64 flags)
{
	struct htab_val vals[MAX_CPUS];
	__u64 start;
	int err;

	fill_vals(vals, m, key, ++s->gen);
	s->updates++;
	start = now_ns();
	err = bpf_map_update_elem(map_fds[m], &key, vals, flags) ? -errno : 0;
	count_time(s, now_ns() - start, skel->bss->interval);
	count_error(s, m, err);
	return err;
}

static void user_step(struct slot *s, __u64 base)
{
	__u64 random = next_random(s);
	int m = (random >> 32) % NR_MAPS, k = random & (NR_KEYS - 1), i, err;
	__u32 gen = s->holds[m][k];
	struct htab_val vals[MAX_CPUS];
	__u64 key = base | k;

	if (!(random >> 40 & 15))
		user_update(s, HASH, HOT_KEY, BPF_ANY);
	if (!gen) {
		if (!user_update(s, m, key, BPF_NOEXIST))
			s->holds[m][k] = s->gen;
	} else if (random & (1 << 8)) {
		err = bpf_map_delete_elem(map_fds[m], &key) ? -errno : 0;
		s->deletes++;
		if (!err || (err == -ENOENT && m == LRU))
			s->holds[m][k] = 0;
		else if (err == -ENOENT)
			s->wrong++;
		else
			count_error(s, m, err);
	} else if (random & (1 << 9)) {
		if (!user_update(s, m, key, m == LRU ? BPF_ANY : BPF_EXIST))
			s->holds[m][k] = s->gen;
	} else {
		s->lookups++;
		if (bpf_map_lookup_elem(map_fds[m], &key, vals)) {
			s->wrong += m != LRU;
			return;
		}
		for (i = 0; i < (m == PERCPU ? nr_cpus : 1); i++)
			s->wrong += !is_val(&vals[i], key, gen);
	}
}

static void *syscall_thread(void *arg)
{
	struct slot *s = &skel->bss->slots[SYSCALL][0];
	int i;

	while (rest(5))
		for (i = 0; i < 16; i++)
			user_step(s, SLOT_KEY(SYSCALL, 0));
	return NULL;
}

/* Adds and deletes 32 keys at a time: the first half of the keys or the second */
static void batch_step(struct slot *s, int m)
{
	DECLARE_LIBBPF_OPTS(bpf_map_batch_opts, opts);
	static struct htab_val vals[NR_KEYS * MAX_CPUS];
	__u64 add[NR_KEYS], del[NR_KEYS], start;
	__u32 nr_add = 0, nr_del = 0, nr, i, k;
	int vals_each = m == PERCPU ? nr_cpus : 1, err;

	s->gen++;
	for (i = 0; i < 32; i++) {
		k = i * 4 + (next_random(s) >> 32) % 4;
		if (s->holds[m][k]) {
			del[nr_del++] = SLOT_KEY(BATCH, 0) | k;
			continue;
		}
		add[nr_add] = SLOT_KEY(BATCH, 0) | k;
		fill_vals(&vals[nr_add++ * vals_each], m,
			  SLOT_KEY(BATCH, 0) | k, s->gen);
	}
	if (nr_add) {
		nr = nr_add;
		start = now_ns();
		err = bpf_map_update_batch(map_fds[m], add, vals, &nr, &opts) ?
			-errno : 0;
		count_time(s, now_ns() - start, skel->bss->interval);
		count_error(s, m, err);
		s->updates += nr;
		for (i = 0; i < nr; i++)
			s->holds[m][add[i] & (NR_KEYS - 1)] = s->gen;
	}
	if (nr_del) {
		nr = nr_del;
		err = bpf_map_delete_batch(map_fds[m], del, &nr, &opts) ?
			-errno : 0;
		if (err == -ENOENT)
			s->wrong++;
		else
			count_error(s, m, err);
		s->deletes += nr;
		for (i = 0; i < nr; i++)
			s->holds[m][del[i] & (NR_KEYS - 1)] = 0;
	}
}

static void *batch_thread(void *arg)
{
	static const int maps[] = { HASH, PERCPU, INNER, PREALLOC };
	struct slot *s = &skel->bss->slots[BATCH][0];
	unsigned int i;

	for (i = 0; rest(10); i++)
		batch_step(s, maps[i % ARRAY_SIZE(maps)]);
	return NULL;
}

/* What has the programs run */

/* glibc's usleep() makes another call. */
static void *nap_thread(void *arg)
{
	struct timespec ts = { .tv_nsec = 5000000 };

	skel->bss->nap_tid = syscall(__NR_gettid);
	while (!READ_ONCE(stop)) {
		syscall(__NR_getpgid, 0);
		syscall(__NR_nanosleep, &ts, NULL);
	}
	return NULL;
}

/* The clock ticks only while this thread runs. */
static void *clock_thread(void *arg)
{
	struct perf_event_attr attr = {
		.size = sizeof(attr),
		.type = PERF_TYPE_SOFTWARE,
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.freq = 1,
		.sample_freq = 1000,
	};
	struct bpf_link *link;
	__u64 end;
	int fd;

	fd = syscall(__NR_perf_event_open, &attr, 0, -1, -1,
		     PERF_FLAG_FD_CLOEXEC);
	link = bpf_program__attach_perf_event(skel->progs.in_perf_event, fd);
	if (libbpf_get_error(link)) {
		trouble("perf_event");
		return NULL;
	}
	while (rest(15)) {
		end = now_ns() + 2000000;
		while (now_ns() < end)
			;
	}
	bpf_link__destroy(link);
	return NULL;
}

static void *packet_thread(void *arg)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	socklen_t len = sizeof(addr);
	int rx, tx, prog;

	rx = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	tx = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	prog = bpf_program__fd(skel->progs.in_socket);
	if (bind(rx, (void *)&addr, sizeof(addr)) ||
	    getsockname(rx, (void *)&addr, &len) ||
	    connect(tx, (void *)&addr, sizeof(addr)) ||
	    setsockopt(rx, SOL_SOCKET, SO_ATTACH_BPF, &prog, sizeof(prog)))
		trouble("sockets");
	/* the program drops it */
	while (rest(5))
		if (send(tx, "", 1, 0) == 1)
			done.packets++;
	close(rx);
	close(tx);
	return NULL;
}

static void *exec_thread(void *arg)
{
	char *argv[] = { "true", NULL }, *env[] = { NULL };
	int status;
	pid_t child;

	while (rest(1000)) {
		child = fork();
		if (!child) {
			skel->bss->exec_pid = getpid();
			execve("/bin/true", argv, env);
			_exit(1);
		}
		if (child < 0 || waitpid(child, &status, 0) != child || status)
			trouble("exec");
		else
			done.execs++;
	}
	return NULL;
}

static void swap_line(const char *path, const char *line, char *old, int len)
{
	int fd = open(path, O_RDWR | O_CLOEXEC), n;

	if (fd < 0)
		return;
	n = old ? read(fd, old, len - 1) : 0;
	if (n > 0)
		old[n] = '\0';
	if (pwrite(fd, line, strlen(line), 0) < 0)
		trouble(path);
	close(fd);
}

/* sysrq l sends an NMI to each other CPU. Keep its output from the console;
 * log_thread() sees what else is said meanwhile.
 */
static void *nmi_thread(void *arg)
{
	static const char ignore[] =
		"/sys/module/printk/parameters/ignore_loglevel";
	static const char printk[] = "/proc/sys/kernel/printk";
	char old_ignore[8] = "N", old_printk[64] = "7";
	int i;

	while (rest(1000)) {
		swap_line(ignore, "N", old_ignore, sizeof(old_ignore));
		swap_line(printk, "1", old_printk, sizeof(old_printk));
		for (i = 0; i < 4; i++) {
			if (!write_file("/proc/sysrq-trigger", "l"))
				trouble("sysrq");
			/* out of the NMI, the CPUs have yet to print */
			usleep(10000);
		}
		usleep(50000);
		swap_line(printk, old_printk, NULL, 0);
		swap_line(ignore, old_ignore, NULL, 0);
		done.nmi_rounds++;
	}
	return NULL;
}

static void *log_thread(void *arg)
{
	/* as vm/run looks for on the console */
	static const char *const bad[] = {
		"WARNING:", "BUG:", "kernel BUG at", "Oops", "blocked for more",
		"rcu: INFO", "INFO: rcu", "soft lockup", "hard LOCKUP",
		"scheduling while atomic", "general protection fault",
		"refcount_t:",
	};
	struct pollfd pfd = { .events = POLLIN };
	char line[8192];
	int n, i;

	pfd.fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (pfd.fd < 0 || lseek(pfd.fd, 0, SEEK_END) < 0) {
		trouble("/dev/kmsg");
		return NULL;
	}
	while (!READ_ONCE(stop)) {
		n = read(pfd.fd, line, sizeof(line) - 1);
		if (n < 0 && errno == EAGAIN) {
			poll(&pfd, 1, 200);
			continue;
		}
		if (n < 0) {
			done.log_lost++;
			continue;
		}
		line[n] = '\0';
		for (i = 0; i < ARRAY_SIZE(bad); i++)
			if (strstr(line, bad[i]))
				break;
		if (i < ARRAY_SIZE(bad) && done.complaints++ < 5)
			fprintf(stderr, "soak: kernel: %s", line);
	}
	close(pfd.fd);
	return NULL;
}

/* Maps that come and go, some of them in the outer map */

static void fill_passing(int fd, int m)
{
	struct htab_val vals[MAX_CPUS];
	__u64 key;

	for (key = 0; key < PASSING_ELEMS; key++) {
		fill_vals(vals, m, key, 1);
		if (bpf_map_update_elem(fd, &key, vals, BPF_NOEXIST))
			trouble("update of a new map");
	}
	for (key = 0; key < PASSING_ELEMS; key += 2)
		if (bpf_map_delete_elem(fd, &key))
			trouble("delete in a new map");
}

static void *passing_thread(void *arg)
{
	__u32 one = 1;
	int i, m, fd;

	for (i = 0; rest(300); i++) {
		m = i % 3;
		fd = bpf_create_map(m == PERCPU ? BPF_MAP_TYPE_PERCPU_HASH :
						  BPF_MAP_TYPE_HASH,
				    sizeof(__u64), sizeof(struct htab_val),
				    MAX_ENTRIES, BPF_F_NO_PREALLOC);
		if (fd < 0) {
			trouble("map");
			continue;
		}
		if (m == INNER &&
		    bpf_map_update_elem(outer_fd, &one, &fd, BPF_ANY))
			trouble("update of the outer map");
		fill_passing(fd, m);
		close(fd);
		done.passing_maps++;
	}
	bpf_map_delete_elem(outer_fd, &one);
	return NULL;
}

/* A burst, and the same one three seconds later, which must find memory */

static bool run_burst(int m, __u64 *nomem)
{
	struct burst *b = &skel->bss->burst;
	__u64 key, ok = 0;
	int i;

	b->map = m;
	b->ok = 0;
	b->nomem = 0;
	b->other = 0;
	WRITE_ONCE(b->state, BURST_WANTED);
	for (i = 0; i < 10000 && READ_ONCE(b->state) == BURST_WANTED; i++)
		usleep(1000);
	if (READ_ONCE(b->state) != BURST_IDLE) {
		trouble("burst");
		return false;
	}
	for (key = BURST_KEY; key < BURST_KEY + NR_BURST; key++)
		ok += !bpf_map_delete_elem(map_fds[m], &key);
	if (b->other || ok != b->ok || b->ok + b->nomem != NR_BURST)
		trouble("content after a burst");
	*nomem += b->nomem;
	return true;
}

static void *burst_thread(void *arg)
{
	static const int maps[] = { HASH, PERCPU };
	unsigned int i;

	for (i = 0; run_burst(maps[i & 1], &done.first_nomem) && rest(3000); i++) {
		if (!run_burst(maps[i & 1], &done.second_nomem))
			break;
		done.bursts++;
		if (!rest(7000))
			break;
	}
	return NULL;
}

static void *hotplug_thread(void *arg)
{
	char path[64];
	int cpu;

	for (cpu = nr_cpus - 1; cpu > 0; cpu--) {
		snprintf(path, sizeof(path),
			 "/sys/devices/system/cpu/cpu%d/online", cpu);
		if (read_number(path, "") == 1)
			break;
	}
	while (cpu) {
		if (!write_file(path, "0"))
			trouble("CPU offline");
		rest(1000);
		if (!write_file(path, "1"))
			trouble("CPU online");
		done.hotplugs++;
		if (!rest(9000))
			break;
	}
	return NULL;
}

static void *leak_thread(void *arg)
{
	struct htab_val val = {};
	__u64 key = LEAK_KEY;

	while (rest(5)) {
		if (bpf_map_update_elem(map_fds[HASH], &key, &val, BPF_NOEXIST))
			break;
		key++;
	}
	return NULL;
}

/* Samples */

struct sample {
	double s;
	double maps;		/* bytes of all maps, as their fdinfo tells */
	double used;		/* the same, without free elements */
	double over;		/* the most that one has above its bound, < 0: none */
	double cgroup;		/* bytes charged */
	double machine;		/* bytes neither free nor for files */
};

static struct sample *samples;
static int nr_samples;

/* In use or not: the elements of the slots, and what all slots share */
static long long max_live(void)
{
	int ctx, slots = 0;

	for (ctx = 0; ctx < NR_CONTEXTS; ctx++)
		slots += is_per_cpu(ctx) ? nr_cpus : 1;
	return slots * NR_KEYS + NR_BURST + 1;
}

static long long reserve_bytes(int m)
{
	long long bytes = RESERVE_OBJS * elem_bytes[m];

	return bytes < RESERVE_BYTES ? bytes : RESERVE_BYTES;
}

/* Rule 6: live + free + waiting <= peak live + reserve + 8 kB a CPU */
static long long bound_bytes(int m)
{
	return empty_bytes[m] + max_live() * elem_bytes[m] + reserve_bytes(m) +
	       nr_cpus * CPU_BYTES;
}

/* Of slab caches whose name begins with @prefix; counts them */
static long long slab_bytes(const char *prefix, int *caches)
{
	long long bytes = 0;
	unsigned long slabs;
	unsigned int pages;
	char line[512];
	FILE *f;

	*caches = 0;
	f = fopen("/proc/slabinfo", "re");
	if (!f)
		die("/proc/slabinfo");
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, prefix, strlen(prefix)) ||
		    sscanf(line, "%*s %*u %*u %*u %*u %u : tunables %*u %*u %*u : slabdata %*u %lu",
			   &pages, &slabs) != 2)
			continue;
		++*caches;
		bytes += slabs * pages * getpagesize();
	}
	fclose(f);
	return bytes;
}

/* What changes with the files that are read and written, also this program's
 * own. 9p keeps buffers of 256 kB for those.
 */
static double reclaimable_kb(void)
{
	int caches;

	return read_number("/proc/meminfo", "Cached:") +
	       read_number("/proc/meminfo", "SReclaimable:") +
	       slab_bytes("9p-fcall-cache", &caches) / 1024.0;
}

/* A context's counters, of all CPUs together */
struct sums {
	__u64 updates, ops, busy, nomem, other, wrong, max_ns;
	__u64 times[NR_TIMES];
};

static void sum_up(int ctx, int parity, struct sums *sum)
{
	struct slot *s;
	int cpu, i;

	memset(sum, 0, sizeof(*sum));
	for (cpu = 0; cpu < MAX_CPUS; cpu++) {
		s = &skel->bss->slots[ctx][cpu];
		sum->updates += READ_ONCE(s->updates);
		sum->ops += s->updates + s->deletes + s->lookups;
		sum->busy += s->busy;
		sum->other += s->other;
		sum->wrong += s->wrong;
		for (i = 0; i < NR_MAPS; i++)
			sum->nomem += s->nomem[i];
		for (i = 0; i < NR_TIMES; i++)
			sum->times[i] += s->times[i];
		if (s->max_ns[parity] > sum->max_ns)
			sum->max_ns = s->max_ns[parity];
		s->max_ns[parity] = 0;
	}
}

/* The middle of the step where the median of an interval lies, in ns */
static double median_time(const struct sums *sum, const struct sums *last)
{
	__u64 nr = 0, seen = 0;
	int i;

	for (i = 0; i < NR_TIMES; i++)
		nr += sum->times[i] - last->times[i];
	for (i = 0; i < NR_TIMES; i++) {
		seen += sum->times[i] - last->times[i];
		if (seen * 2 > nr)
			break;
	}
	return nr ? (1ULL << i / 4) * (1 + i % 4 / 4.0 + 0.125) : 0;
}

static void write_header(FILE *csv)
{
	int i;

	fprintf(csv, "s,maps_kb,used_kb,cgroup_kb,machine_kb,bpf_slab_kb,slab_kb,percpu_kb,cached,waiting,failed,cpus,passing_maps,hotplugs,first_nomem,second_nomem");
	for (i = 0; i < NR_CONTEXTS; i++)
		fprintf(csv, ",%1$s_ops,%1$s_busy,%1$s_nomem,%1$s_other,%1$s_wrong,%1$s_median_ns,%1$s_max_ns",
			context_names[i]);
	fprintf(csv, "\n");
}

static void take_sample(FILE *csv, double start, double total)
{
	static struct sums last[NR_CONTEXTS];
	long long bytes, cached = 0, waiting = 0, failed_allocs = 0, free_elems;
	struct sample *sm = &samples[nr_samples++];
	int i, parity, caches;
	struct sums sum;

	sm->s = now() - start;
	sm->over = -1e18;
	for (i = 0; i < NR_MAPS; i++) {
		bytes = read_fdinfo(map_fds[i], "memlock:\t");
		sm->maps += bytes;
		sm->used += bytes;
		if (!is_dynamic(i))
			continue;
		if (bytes - bound_bytes(i) > sm->over)
			sm->over = bytes - bound_bytes(i);
		free_elems = read_fdinfo(map_fds[i], "elems_waiting:\t");
		waiting += free_elems;
		bytes = read_fdinfo(map_fds[i], "elems_cached:\t");
		cached += bytes;
		free_elems += bytes;
		sm->used -= free_elems * elem_bytes[i];
		failed_allocs += read_fdinfo(map_fds[i], "allocs_failed:\t");
	}
	sm->cgroup = read_number(CGROUP "/memory.current", "");
	sm->machine = total - 1024 * (free_kb() + reclaimable_kb());

	fprintf(csv, "%.1f,%.0f,%.0f,%.0f,%.0f,%.0f,%lld,%lld,%lld,%lld,%lld,%ld,%llu,%llu,%llu,%llu",
		sm->s, sm->maps / 1024, sm->used / 1024, sm->cgroup / 1024,
		sm->machine / 1024, slab_bytes("bpf_mem-", &caches) / 1024.0,
		read_number("/proc/meminfo", "Slab:"),
		read_number("/proc/meminfo", "Percpu:"), cached, waiting,
		failed_allocs, sysconf(_SC_NPROCESSORS_ONLN),
		done.passing_maps, done.hotplugs, done.first_nomem,
		done.second_nomem);
	parity = skel->bss->interval & 1;
	WRITE_ONCE(skel->bss->interval, skel->bss->interval + 1);
	for (i = 0; i < NR_CONTEXTS; i++) {
		sum_up(i, parity, &sum);
		fprintf(csv, ",%llu,%llu,%llu,%llu,%llu,%.0f,%llu",
			sum.ops - last[i].ops, sum.busy - last[i].busy,
			sum.nomem - last[i].nomem, sum.other - last[i].other,
			sum.wrong - last[i].wrong, median_time(&sum, &last[i]),
			sum.max_ns);
		last[i] = sum;
	}
	fprintf(csv, "\n");
	fflush(csv);
}

/* The verdict */

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* Median of what the samples of one quarter (1 to 4) have at @off */
static double quarter(int nr, size_t off)
{
	int first = nr_samples * (nr - 1) / 4, end = nr_samples * nr / 4, i;
	double v[nr_samples];

	for (i = first; i < end; i++)
		v[i - first] = *(double *)((char *)&samples[i] + off);
	qsort(v, end - first, sizeof(*v), compare);
	return v[(end - first) / 2];
}

static void check_flat(const char *what, size_t off, long long bound)
{
	double before = quarter(2, off), after = quarter(4, off);

	check(after - before <= bound && before - after <= bound,
	      "flat: %s, median of the second quarter %.0f kB, of the last %.0f, may differ by %.0f",
	      what, before / 1024, after / 1024, bound / 1024.0);
}

/* The first quarter is for warming up. Then the median of the last one is to be
 * that of the second, but for what rule 6 lets come and go beside the elements
 * in use: of these, what lies in the lists of the CPUs; of all that is charged,
 * the reserves as well, and what CPUs charge in advance; of the machine, whose
 * slab pages may be half full, all that the elements may come to.
 */
static void check_memory(void)
{
	long long flat = 0, cgroup = 0, machine = 0;
	double over = -1e18;
	int i;

	for (i = 0; i < NR_MAPS; i++) {
		if (!is_dynamic(i))
			continue;
		flat += nr_cpus * CPU_BYTES;
		cgroup += nr_cpus * CPU_BYTES + reserve_bytes(i);
		machine += bound_bytes(i) - empty_bytes[i];
	}
	cgroup += nr_cpus * STOCK_BYTES;
	for (i = 0; i < nr_samples; i++)
		if (samples[i].over > over)
			over = samples[i].over;
	check(over <= 0,
	      "bound: no map has more than its live elements, reserve and 8 kB a CPU; the nearest is %.0f kB below",
	      -over / 1024);
	check_flat("elements in use", offsetof(struct sample, used), flat);
	check_flat("charged to the cgroup", offsetof(struct sample, cgroup),
		   cgroup);
	check_flat("the machine", offsetof(struct sample, machine), machine);
}

static void check_errors(void)
{
	__u64 nomem[2] = {}, busy[2] = {}, other = 0, wrong = 0;
	char idle[128] = "";
	struct sums sum;
	struct slot *s;
	int ctx, cpu, m;

	say("\n%-11s %12s %12s %8s %8s %8s\n", "context", "operations",
	    "updates", "-EBUSY", "-ENOMEM", "other");
	for (ctx = 0; ctx < NR_CONTEXTS; ctx++) {
		sum_up(ctx, 0, &sum);
		say("%-11s %12llu %12llu %8llu %8llu %8llu\n",
		    context_names[ctx], sum.ops, sum.updates, sum.busy,
		    sum.nomem, sum.other);
		if (!sum.updates)
			snprintf(idle + strlen(idle), sizeof(idle) - strlen(idle),
				 " %s", context_names[ctx]);
		busy[is_nested(ctx)] += sum.busy;
		other += sum.other;
		wrong += sum.wrong;
		for (cpu = 0; cpu < MAX_CPUS; cpu++) {
			s = &skel->bss->slots[ctx][cpu];
			/* Without waiting, little per-CPU memory is to be had */
			for (m = 0; m < NR_MAPS; m++)
				nomem[is_irqoff(ctx) ||
				      (m == PERCPU && ctx < SYSCALL)] +=
					s->nomem[m];
		}
	}
	say("\n%llu maps came and went, CPU hotplugs %llu, execs %llu, packets %llu, rounds of NMIs %llu\n\n",
	    done.passing_maps, done.hotplugs, done.execs, done.packets,
	    done.nmi_rounds);
	check(!*idle, "every context has updated%s%s", *idle ? ", but not" : "",
	      idle);
	check(!nomem[0],
	      "-ENOMEM where requirement 4 forbids it: %llu, where it does not: %llu",
	      nomem[0], nomem[1]);
	check(done.bursts && !done.second_nomem,
	      "%llu times a burst of %d new keys: -ENOMEM the first time %llu, 3 s later %llu",
	      done.bursts, NR_BURST, done.first_nomem, done.second_nomem);
	check(!busy[0], "-EBUSY where nothing is interrupted: %llu, where it is: %llu",
	      busy[0], busy[1]);
	check(!other, "no other error: %llu", other);
	check(!wrong, "each key was as it had been written: %llu times not",
	      wrong);
	check(!done.trouble, "other calls that must not fail: %llu failed",
	      done.trouble);
	check(!done.complaints && !done.log_lost,
	      "the kernel's log, %llu complaints, %llu times not seen whole",
	      done.complaints, done.log_lost);
}

static __u64 count_elems(int fd)
{
	__u64 key, *prev = NULL, nr = 0;

	for (; !bpf_map_get_next_key(fd, prev, &key); prev = &key)
		nr++;
	return nr;
}

/* Is the key as its slot has it? */
static bool is_right(int ctx, int m, __u64 key, __u32 gen)
{
	struct htab_val vals[MAX_CPUS], zero = {};
	bool found = false;
	int i;

	if (bpf_map_lookup_elem(map_fds[m], &key, vals))
		return errno == ENOENT && (!gen || m == LRU);
	if (!gen)
		return false;
	if (m != PERCPU)
		return is_val(&vals[0], key, gen);
	for (i = 0; i < nr_cpus; i++) {
		if (is_val(&vals[i], key, gen))
			found = true;
		/* a sleepable program may have written on several CPUs */
		else if (memcmp(&vals[i], &zero, sizeof(zero)) &&
			 ctx != FENTRY_S && ctx != LSM_S)
			return false;
	}
	return found;
}

static void check_content(void)
{
	int ctx, cpu, m, k;

	for (m = 0; m < NR_MAPS; m++) {
		__u64 wrong = 0, there = m == HASH, found;

		for (ctx = 0; ctx < NR_CONTEXTS; ctx++)
			for (cpu = 0; cpu < MAX_CPUS; cpu++)
				for (k = 0; k < NR_KEYS; k++) {
					struct slot *s = &skel->bss->slots[ctx][cpu];

					there += !!s->holds[m][k];
					wrong += !is_right(ctx, m,
							   SLOT_KEY(ctx, cpu) | k,
							   s->holds[m][k]);
				}
		found = count_elems(map_fds[m]);
		check(!wrong && (m == LRU ? found <= LRU_ENTRIES : found == there),
		      "content of %s: %llu elements, by the programs' books %llu, wrong %llu",
		      map_names[m], found, there, wrong);
	}
}

/* With nobody at work the numbers are exact: each element that a map has memory
 * for is in use or free.
 */
static void check_lost(void)
{
	long long bytes = -1, want = 0, found;
	int m, i;

	for (m = 0; m < NR_MAPS; m++) {
		if (!is_dynamic(m))
			continue;
		found = count_elems(map_fds[m]);
		/* an irq_work or the worker may have some in hand */
		for (i = 0; i < 100 && bytes != want; i++) {
			usleep(i ? 100000 : 0);
			bytes = read_fdinfo(map_fds[m], "memlock:\t");
			want = empty_bytes[m] + elem_bytes[m] * (found +
			       read_fdinfo(map_fds[m], "elems_cached:\t") +
			       read_fdinfo(map_fds[m], "elems_waiting:\t"));
		}
		if (!*least_kb || *least_kb > bytes / 1024.0)
			*least_kb = bytes / 1024.0;
		check(bytes == want,
		      "no element of %s is lost: it has %lld bytes, its elements come to %lld",
		      map_names[m], bytes, want);
		bytes = -1;
	}
}

static int print_fn(enum libbpf_print_level level, const char *format,
		    va_list args)
{
	char *text, *end;

	/* it creates the outer map in two tries */
	if (level != LIBBPF_WARN || strstr(format, "Retrying without BTF") ||
	    vasprintf(&text, format, args) < 0)
		return 0;
	/* of what the verifier has to say, its verdict at the end */
	end = text + strlen(text);
	fprintf(stderr, "%s", end - text > 1000 ? end - 1000 : text);
	free(text);
	return 0;
}

/* The fentry program goes on the first of these that can be traced: with the
 * bucket locked, if possible.
 */
static void load(void)
{
	static const char *const funcs[] = {
		"alloc_htab_elem", "lookup_elem_raw", "free_htab_elem",
		"htab_map_update_elem",
	};
	struct bpf_link *link = NULL;
	int i;

	for (i = 0; i < ARRAY_SIZE(funcs); i++) {
		skel = soak__open();
		if (!skel)
			die("skeleton");
		libbpf_set_print(i + 1 < ARRAY_SIZE(funcs) ? NULL : print_fn);
		if (!bpf_program__set_attach_target(skel->progs.in_fentry, 0,
						    funcs[i]) &&
		    !soak__load(skel)) {
			link = bpf_program__attach(skel->progs.in_fentry);
			if (!libbpf_get_error(link))
				break;
		}
		soak__destroy(skel);
		skel = NULL;
	}
	libbpf_set_print(print_fn);
	if (!skel)
		die("load");
	skel->links.in_fentry = link;
	say("fentry on %s()\n", funcs[i]);
}

static void attach(void)
{
	struct bpf_program *progs[] = {
		skel->progs.in_kprobe, skel->progs.in_raw_tp, skel->progs.in_nmi,
		skel->progs.in_fentry_s, skel->progs.in_lsm_s,
	};
	struct bpf_link **links[] = {
		&skel->links.in_kprobe, &skel->links.in_raw_tp,
		&skel->links.in_nmi, &skel->links.in_fentry_s,
		&skel->links.in_lsm_s,
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(progs); i++) {
		if (i)
			*links[i] = bpf_program__attach(progs[i]);
		else
			*links[i] = bpf_program__attach_kprobe(progs[i], false,
							       "__x64_sys_getpgid");
		if (libbpf_get_error(*links[i]))
			die("attach");
	}
}

static void prepare_maps(void)
{
	struct bpf_map *maps[NR_MAPS] = {
		skel->maps.hash, skel->maps.percpu, skel->maps.inner,
		skel->maps.lru, skel->maps.prealloc,
	};
	int m, ctx, cpu;

	for (m = 0; m < NR_MAPS; m++) {
		map_fds[m] = bpf_map__fd(maps[m]);
		empty_bytes[m] = read_fdinfo(map_fds[m], "memlock:\t");
		/* as Documentation/bpf/bpf_mem_alloc.rst has it */
		elem_bytes[m] = 24 + sizeof(__u64) + sizeof(struct htab_val);
		if (m == PERCPU)
			elem_bytes[m] = 24 + sizeof(__u64) + 8 +
					nr_cpus * sizeof(struct htab_val);
	}
	outer_fd = bpf_map__fd(skel->maps.outer);
	for (ctx = 0; ctx < NR_CONTEXTS; ctx++)
		for (cpu = 0; cpu < MAX_CPUS; cpu++)
			skel->bss->slots[ctx][cpu].random =
				(ctx * MAX_CPUS + cpu + 1) * 0x9e3779b97f4a7c15ULL;
}

static void enter_cgroup(const char *path)
{
	char procs[128];

	snprintf(procs, sizeof(procs), "%s/cgroup.procs", path);
	if (!write_file(procs, "0"))
		die(procs);
}

/* Everything starts with its thread, and ends when they are told to stop. */
static const struct {
	void *(*main)(void *arg);
	const bool *off, *on;
} actors[] = {
	{ log_thread },
	{ syscall_thread },
	{ batch_thread },
	{ nap_thread },
	{ clock_thread },
	{ packet_thread },
	{ exec_thread },
	{ nmi_thread },
	{ passing_thread },
	{ burst_thread },
	{ hotplug_thread, .off = &no_hotplug },
	{ leak_thread, .on = &leak },
};

/* The child: returns the exit status */
static int soak(void)
{
	pthread_t threads[ARRAY_SIZE(actors)];
	double start, next, total;
	int i, nr = 0, err;
	char path[256];
	FILE *csv;

	enter_cgroup(CGROUP);
	load();
	enter_cgroup("/sys/fs/cgroup");
	prepare_maps();
	attach();
	snprintf(path, sizeof(path), "%s/soak.csv", dir);
	csv = fopen(path, "we");
	samples = calloc(seconds / period, sizeof(*samples));
	if (!csv || !samples)
		die(path);
	write_header(csv);
	total = read_number("/proc/meminfo", "MemTotal:") * 1024.0;

	skel->bss->pid = getpid();
	for (i = 0; i < ARRAY_SIZE(actors); i++) {
		if ((actors[i].off && *actors[i].off) ||
		    (actors[i].on && !*actors[i].on))
			continue;
		err = pthread_create(&threads[nr++], NULL, actors[i].main, NULL);
		if (err) {
			errno = err;
			die("thread");
		}
	}
	start = now();
	for (next = period; nr_samples < seconds / period; next += period) {
		while (now() - start < next)
			usleep(10000);
		take_sample(csv, start, total);
	}
	WRITE_ONCE(stop, true);
	while (nr)
		pthread_join(threads[--nr], NULL);
	skel->bss->pid = 0;
	soak__detach(skel);
	fclose(csv);

	check_errors();
	check_memory();
	check_content();
	check_lost();
	soak__destroy(skel);
	return failed;
}

/* In a child, so that all that it had comes back */
static int run_child(void)
{
	pid_t child = fork();
	int status;

	if (!child)
		exit(soak());
	if (child < 0 || waitpid(child, &status, 0) != child)
		die("child");
	if (WIFEXITED(status) && WEXITSTATUS(status) < 2)
		return WEXITSTATUS(status);
	fprintf(stderr, "soak: the child ended with %#x\n", status);
	exit(2);
}

static double machine_kb(void)
{
	write_file("/proc/sys/vm/drop_caches", "3");
	return settled_kb() + reclaimable_kb();
}

/* With the maps all that was charged goes, and the slab caches. What is left of
 * pages that CPUs charged stays with the cgroup.
 */
static void check_back(double before)
{
	long long charged = -1, slack = nr_cpus * 4096;
	int i, caches = -1;
	double kb;

	for (i = 0; i < 60 && (i < 3 || charged > slack || caches); i++) {
		usleep(500000);
		/* files and directories that the child looked at */
		write_file("/proc/sys/vm/drop_caches", "3");
		/* has the CPUs give back what they charged in advance */
		write_file(CGROUP "/memory.high", "0");
		charged = read_number(CGROUP "/memory.current", "");
		slab_bytes("bpf_mem-", &caches);
	}
	check(charged >= 0 && charged <= slack,
	      "back: charged to the cgroup without its maps: %lld bytes, may be %lld",
	      charged, slack);
	if (rmdir(CGROUP))
		die(CGROUP);
	check(!caches, "back: slab caches of the maps' elements: %d", caches);
	kb = before - machine_kb();
	check(kb <= *least_kb,
	      "back: the machine has %.0f kB less, not one map's %.0f", kb,
	      *least_kb);
}

/* A first run brings in what stays: files, caches, a CPU's threads. */
static void rehearse(void)
{
	const char *real_dir = dir;
	int real_seconds = seconds, real_period = period, out;

	report = fopen("/dev/null", "we");
	fflush(stdout);
	out = dup(1);
	if (!report || out < 0 || !freopen("/dev/null", "w", stdout))
		die("/dev/null");
	dir = "/tmp";
	seconds = REHEARSAL_SECONDS;
	period = 1;
	run_child();
	dir = real_dir;
	seconds = real_seconds;
	period = real_period;
	fflush(stdout);
	dup2(out, 1);
	close(out);
	fclose(report);
}

int main(int argc, char *argv[])
{
	char path[256];
	double before;
	int opt;

	while ((opt = getopt(argc, argv, "Hli:")) != -1) {
		if (opt == 'H')
			no_hotplug = true;
		else if (opt == 'l')
			leak = true;
		else if (opt == 'i')
			period = atoi(optarg);
		else
			goto usage;
	}
	if (argc != optind + 2)
		goto usage;
	seconds = atoi(argv[optind]);
	dir = argv[optind + 1];
	if (!period)
		period = seconds < 300 ? 1 : 5;
	/* each quarter is to have some samples */
	if (period < 1 || seconds < 20 * period)
		goto usage;
	nr_cpus = libbpf_num_possible_cpus();
	if (nr_cpus < 2 || nr_cpus > MAX_CPUS ||
	    sysconf(_SC_NPROCESSORS_ONLN) < 2) {
		fprintf(stderr, "soak: needs two to %d CPUs\n", MAX_CPUS);
		return 2;
	}
	least_kb = mmap(NULL, sizeof(*least_kb), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (least_kb == MAP_FAILED)
		die("mmap");
	if (mkdir(CGROUP, 0755) && errno != EEXIST)
		die(CGROUP);

	rehearse();
	snprintf(path, sizeof(path), "%s/report", dir);
	report = fopen(path, "we");
	if (!report)
		die(path);
	before = machine_kb();
	say("%d s, %d CPUs, a sample every %d s, CPU hotplug %s\n", seconds,
	    nr_cpus, period, no_hotplug ? "off" : "on");
	failed = run_child();
	check_back(before);
	say("%s\n", failed ? "FAILED" : "passed");
	return failed;
usage:
	fprintf(stderr, "usage: soak [-H] [-l] [-i SECONDS] SECONDS DIR\n");
	return 2;
}
