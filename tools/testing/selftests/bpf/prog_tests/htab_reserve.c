// SPDX-License-Identifier: GPL-2.0
/* What a dynamic hash map keeps ready, what it holds, and when it says -ENOMEM */
#define _GNU_SOURCE
#include <sys/resource.h>
#include <sys/utsname.h>
#include <test_progs.h>
#include "cgroup_helpers.h"
#include "htab_helpers.h"
#include "htab_reserve.skel.h"

#define BURST		512
#define CGROUP		"/htab_reserve"
#define CGROUP_DIR	"/mnt/cgroup-test-work-dir" CGROUP

static int duration;

struct fdinfo {
	long long memlock, cached, waiting, failed;
};

static bool get_fdinfo(int fd, struct fdinfo *info)
{
	const struct {
		const char *name;
		long long *number;
	} lines[] = {
		{ "memlock:\t", &info->memlock },
		{ "elems_cached:\t", &info->cached },
		{ "elems_waiting:\t", &info->waiting },
		{ "allocs_failed:\t", &info->failed },
	};
	char path[64], line[128];
	int i, len, seen = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "r");
	if (!f)
		return false;
	while (fgets(line, sizeof(line), f)) {
		for (i = 0; i < ARRAY_SIZE(lines); i++) {
			len = strlen(lines[i].name);
			if (strncmp(line, lines[i].name, len))
				continue;
			*lines[i].number = atoll(line + len);
			seen++;
		}
	}
	fclose(f);
	return seen == ARRAY_SIZE(lines);
}

static void unpin(cpu_set_t *set)
{
	sched_setaffinity(0, sizeof(*set), set);
}

/* Adds or deletes @n keys. Returns how many failed. */
static int add_keys(int fd, __u64 first, int n, const void *value)
{
	int i, failed = 0;
	__u64 key;

	for (i = 0; i < n; i++) {
		key = first + i;
		failed += !!bpf_map_update_elem(fd, &key, value, 0);
	}
	return failed;
}

static int delete_keys(int fd, __u64 first, int n)
{
	int i, failed = 0;
	__u64 key;

	for (i = 0; i < n; i++) {
		key = first + i;
		failed += !!bpf_map_delete_elem(fd, &key);
	}
	return failed;
}

/* Waits until nothing is on its way to slab any more */
static bool settled(int fd, struct fdinfo *info)
{
	int i;

	for (i = 0; i < 200; i++) {
		if (!get_fdinfo(fd, info))
			return false;
		if (!info->waiting)
			return true;
		usleep(20000);
	}
	return false;
}

/* What an element takes with a key of 8 and a value of 32 bytes: 64 bytes, less
 * on 32-bit machines.
 */
#define ELEM_SIZE	((int)(2 * sizeof(void *)) + 48)

/* What a bucket takes: a list and a lock, where a kernel has these. */
static int bucket_size(void)
{
	struct utsname name;

	return (uname(&name) || strstr(name.version, " SMP") ? 2 : 1) *
	       sizeof(void *);
}

/* 1000 elements come and go */
static void test_fdinfo(void)
{
	struct fdinfo empty, full, again, after;
	int fd, buckets = 1024 * bucket_size();
	__u64 val[4] = {};

	fd = bpf_create_map(BPF_MAP_TYPE_HASH, sizeof(__u64), sizeof(val), 1024,
			    BPF_F_NO_PREALLOC);
	if (CHECK(fd < 0, "create", "errno %d\n", errno))
		return;
	if (CHECK(!get_fdinfo(fd, &empty), "fdinfo", "a line is missing\n"))
		goto out;
	CHECK(empty.cached || empty.waiting || empty.failed, "empty",
	      "cached %lld waiting %lld failed %lld, expected 0\n",
	      empty.cached, empty.waiting, empty.failed);
	/* 1024 buckets, and what every map has */
	CHECK(empty.memlock < buckets || empty.memlock > buckets + 4096,
	      "empty", "memlock %lld, expected some more than %d\n",
	      empty.memlock, buckets);

	CHECK(add_keys(fd, 0, 1000, val), "add", "errno %d\n", errno);
	if (CHECK(!get_fdinfo(fd, &full), "fdinfo", "a line is missing\n"))
		goto out;
	CHECK(full.memlock - empty.memlock != (1000 + full.cached) * ELEM_SIZE,
	      "full", "memlock %lld more, cached %lld, expected %d bytes an element\n",
	      full.memlock - empty.memlock, full.cached, ELEM_SIZE);
	CHECK(full.waiting || full.failed, "full", "waiting %lld failed %lld\n",
	      full.waiting, full.failed);

	/* an update in place of another takes no more */
	CHECK(add_keys(fd, 0, 1000, val), "replace", "errno %d\n", errno);
	if (CHECK(!get_fdinfo(fd, &again), "fdinfo", "a line is missing\n"))
		goto out;
	CHECK(again.memlock > full.memlock + 8192, "replace",
	      "memlock grew from %lld to %lld\n", full.memlock, again.memlock);

	CHECK(delete_keys(fd, 0, 1000), "delete", "errno %d\n", errno);
	if (CHECK(!settled(fd, &after), "settle", "waiting %lld\n",
		  after.waiting))
		goto out;
	CHECK(after.memlock - empty.memlock != after.cached * ELEM_SIZE, "after",
	      "memlock %lld more, cached %lld\n",
	      after.memlock - empty.memlock, after.cached);
	CHECK(after.cached > 8192 / ELEM_SIZE * libbpf_num_possible_cpus(), "after",
	      "cached %lld, expected at most 8 kB a CPU\n", after.cached);
out:
	close(fd);
}

static bool run_burst(struct htab_reserve *skel, int n)
{
	__u32 done = skel->bss->done;
	int i;

	skel->bss->nr_ok = 0;
	skel->bss->nr_nomem = 0;
	skel->bss->nr_other = 0;
	skel->bss->burst = n;
	for (i = 0; i < 1000 && skel->bss->done == done; i++)
		usleep(1000);
	return !CHECK(skel->bss->done == done, "burst", "did not run\n");
}

static struct htab_reserve *open_with(const char *prog)
{
	struct htab_reserve *skel = htab_reserve__open();

	if (CHECK(!skel, "open", "errno %d\n", errno))
		return NULL;
	autoload_only(skel->obj, &prog, 1);
	if (CHECK(htab_reserve__load(skel), "load", "errno %d\n", errno) ||
	    CHECK(htab_reserve__attach(skel), "attach", "errno %d\n", errno)) {
		htab_reserve__destroy(skel);
		return NULL;
	}
	skel->bss->pid = getpid();
	return skel;
}

/* The same burst again a second later fails nowhere */
static void test_burst(bool percpu, bool forget)
{
	int at_once = percpu ? 4 : 16, fd, round;
	struct htab_reserve *skel;
	struct fdinfo before, learnt, after;

	skel = open_with(percpu ? "burst_percpu" : "burst_hash");
	if (!skel)
		return;
	fd = bpf_map__fd(percpu ? skel->maps.percpu : skel->maps.hash);
	if (CHECK(!get_fdinfo(fd, &before), "fdinfo", "a line is missing\n"))
		goto out;
	if (!run_burst(skel, BURST))
		goto out;
	printf("first burst: %u of %d\n", skel->bss->nr_ok, BURST);
	CHECK(skel->bss->nr_ok < at_once, "first burst",
	      "%u of %d succeeded, expected %d at least\n", skel->bss->nr_ok,
	      BURST, at_once);
	CHECK(skel->bss->nr_other, "first burst", "%u other errors\n",
	      skel->bss->nr_other);
	if (CHECK(!get_fdinfo(fd, &after), "fdinfo", "a line is missing\n"))
		goto out;
	CHECK(after.failed != skel->bss->nr_nomem, "fdinfo",
	      "allocs_failed %lld, expected %u\n", after.failed,
	      skel->bss->nr_nomem);
	for (round = 1; round <= 3; round++) {
		skel->bss->first_key += BURST;
		sleep(1);
		if (!run_burst(skel, BURST))
			goto out;
		printf("burst %d: %u of %d\n", round + 1, skel->bss->nr_ok,
		       BURST);
		CHECK(skel->bss->nr_ok != BURST, "learnt burst",
		      "%u of %d succeeded, -ENOMEM %u, other %u\n",
		      skel->bss->nr_ok, BURST, skel->bss->nr_nomem,
		      skel->bss->nr_other);
	}
	if (!forget)
		goto out;

	delete_keys(fd, 0, 4 * BURST);
	sleep(2);
	get_fdinfo(fd, &learnt);
	CHECK(learnt.cached < BURST, "learnt", "cached %lld, expected %d\n",
	      learnt.cached, BURST);
	sleep(58);
	settled(fd, &after);
	CHECK(after.memlock - before.memlock > 8192 * libbpf_num_possible_cpus(),
	      "forgotten", "memlock %lld more than at first\n",
	      after.memlock - before.memlock);
out:
	htab_reserve__destroy(skel);
}

/* One batch into a map that has never been used. Wants no interrupt of its own
 * for irq_work: also to be run on a machine without one.
 */
static void test_batch(void)
{
	static const struct {
		enum bpf_map_type type;
		__u32 key_size, value_size, n;
	} cases[] = {
		{ BPF_MAP_TYPE_HASH, 8, 8, 8192 },
		{ BPF_MAP_TYPE_PERCPU_HASH, 8, 8, 1024 },
		{ BPF_MAP_TYPE_HASH, 260, 8, 128 },
		{ BPF_MAP_TYPE_HASH, 8, 16384, 128 },
	};
	DECLARE_LIBBPF_OPTS(bpf_map_batch_opts, opts);
	int i, j, fd, cpus = libbpf_num_possible_cpus();
	void *keys, *values;
	__u32 n, size;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		n = cases[i].n;
		size = cases[i].value_size;
		if (cases[i].type == BPF_MAP_TYPE_PERCPU_HASH)
			size *= cpus;
		keys = calloc(n, cases[i].key_size);
		values = calloc(n, size);
		if (CHECK(!keys || !values, "calloc", "no memory\n"))
			exit(1);
		for (j = 0; j < n; j++)
			*(__u32 *)(keys + j * cases[i].key_size) = j;
		fd = bpf_create_map(cases[i].type, cases[i].key_size,
				    cases[i].value_size, n, BPF_F_NO_PREALLOC);
		if (CHECK(fd < 0, "create", "case %d errno %d\n", i, errno))
			goto next;
		CHECK(bpf_map_update_batch(fd, keys, values, &n, &opts) ||
		      n != cases[i].n, "batch", "case %d: %u of %u, errno %d\n",
		      i, n, cases[i].n, errno);
		close(fd);
next:
		free(keys);
		free(values);
	}
}

/* One CPU adds, another deletes, and no grace period ends */
static void test_churn(void)
{
	const int live = 2000, rounds = 20;
	struct fdinfo before, peak, after;
	struct htab_reserve *skel;
	struct holder h = {};
	long long most;
	__u64 val[4] = {};
	cpu_set_t cpus;
	int i, fd;

	if (libbpf_num_possible_cpus() < 2) {
		printf("%s:SKIP:needs two CPUs\n", __func__);
		test__skip();
		return;
	}
	if (!can_attach_fentry())
		return;
	sched_getaffinity(0, sizeof(cpus), &cpus);
	skel = open_with("hold");
	if (!skel)
		return;
	fd = bpf_map__fd(skel->maps.hash);
	if (CHECK(!hold_start(&h, &skel->bss->hold_ptr, &skel->bss->held),
		  "hold", "no program waits\n"))
		goto out;
	get_fdinfo(fd, &before);
	/* live + free + waiting <= peak live + reserve + 8 kB a CPU */
	most = live * 64 + 8192 * libbpf_num_possible_cpus() + 4096;
	/* of those that wait, KASAN keeps so many from being used again */
	if (has_kasan())
		most += 512 * 64;
	for (i = 0; i < rounds; i++) {
		pin(0);
		CHECK(add_keys(fd, i * live, live, val), "add", "errno %d\n",
		      errno);
		pin(1);
		CHECK(delete_keys(fd, i * live, live), "delete", "errno %d\n",
		      errno);
	}
	get_fdinfo(fd, &peak);
	CHECK(peak.memlock - before.memlock > most, "peak",
	      "%lld bytes after %d rounds of %d elements, expected %lld at most\n",
	      peak.memlock - before.memlock, rounds, live, most);
	CHECK(!peak.waiting, "waiting", "nothing waits for the grace period\n");
	CHECK(skel->bss->held != 1, "hold", "held %d\n", skel->bss->held);
	CHECK(hold_stop(&h), "release", "errno %d\n", errno);
	CHECK(!settled(fd, &after), "settled", "waiting %lld\n", after.waiting);
	CHECK(after.memlock - before.memlock >
	      8192 * libbpf_num_possible_cpus() + 4096, "after",
	      "%lld bytes more than at first\n",
	      after.memlock - before.memlock);
out:
	unpin(&cpus);
	htab_reserve__destroy(skel);
}

/* In a cgroup at its limit, syscalls take the place of page cache; when that is
 * used up they say -ENOMEM, and nothing is killed.
 */
static void test_cgroup_full(void)
{
	char val[256] = {};
	long long cache, kills, least, now;
	int cgfd, fd = -1, n, i;
	cpu_set_t set;

	if (CHECK(setup_cgroup_environment(), "cgroup", "errno %d\n", errno))
		return;
	cgfd = create_and_get_cgroup(CGROUP);
	if (CHECK(cgfd < 0, "cgroup", "errno %d\n", errno))
		goto out;
	if (access(CGROUP_DIR "/memory.max", W_OK)) {
		printf("%s:SKIP:no memory controller\n", __func__);
		test__skip();
		goto out;
	}
	if (CHECK(!write_file(CGROUP_DIR "/memory.max", "12M"), "limit",
		  "errno %d\n", errno) ||
	    CHECK(join_cgroup(CGROUP), "join", "errno %d\n", errno))
		goto out;
	if (CHECK(!read_self(), "read", "errno %d\n", errno))
		goto out;
	cache = read_number(CGROUP_DIR "/memory.stat", "file ");
	if (CHECK(cache < 6 << 20, "cache", "only %lld bytes cached\n", cache))
		goto out;
	fd = bpf_create_map(BPF_MAP_TYPE_HASH, 8, sizeof(val), 1 << 16,
			    BPF_F_NO_PREALLOC);
	if (CHECK(fd < 0, "create", "errno %d\n", errno))
		goto out;
	/* The map's memory is its creator's cgroup's, whoever updates it. Out of
	 * there, since this program's own page faults would not fit either.
	 */
	if (CHECK(!write_file("/mnt/cgroup.procs", "0"), "leave", "errno %d\n",
		  errno))
		goto out;
	/* 4 MB, where 12 MB are full of page cache */
	n = add_keys(fd, 0, (4 << 20) / 288, val);
	CHECK(n, "page cache", "%d updates failed, errno %d\n", n, errno);
	/* 18 MB do not fit; each that fails has tried to reclaim some, slowly */
	for (n = 0, i = 0; !n && i < 1 << 16; i += 64)
		n = add_keys(fd, i, 64, val);
	CHECK(!n || errno != ENOMEM, "limit", "%d failed, errno %d\n", n, errno);
	/* What is deleted lies ready on a CPU's list. Others need it now. */
	if (!sched_getaffinity(0, sizeof(set), &set) && !pin(1)) {
		n = delete_keys(fd, 0, 24);
		CHECK(n, "delete", "%d failed, errno %d\n", n, errno);
		usleep(200000);
		pin(0);
		n = add_keys(fd, 0, 24, val);
		CHECK(n, "other CPU", "%d updates failed, errno %d\n", n,
		      errno);
		unpin(&set);
	}
	kills = read_number(CGROUP_DIR "/memory.events", "oom_kill ");
	CHECK(kills, "oom_kill", "%lld\n", kills);
	/* a charge that is about to fail counts for a moment: take the least */
	least = read_number(CGROUP_DIR "/memory.current", "");
	for (n = 0; n < 20; n++) {
		usleep(10000);
		now = read_number(CGROUP_DIR "/memory.current", "");
		if (now < least)
			least = now;
	}
	CHECK(least > 12 << 20, "limit", "exceeded: %lld bytes\n", least);
out:
	if (fd >= 0)
		close(fd);
	if (cgfd >= 0)
		close(cgfd);
	cleanup_cgroup_environment();
}

/* Memory full of page cache, of a machine that is small enough for that */
static void test_memory_full(void)
{
	long long total, cached, want_kb;
	char val[1024] = {};
	int fd, n;

	total = read_number("/proc/meminfo", "MemTotal:");
	if (total > 400 << 10) {
		printf("%s:SKIP:needs a machine with less than 400 MB\n",
		       __func__);
		test__skip();
		return;
	}
	read_self();
	n = system("cat /usr/bin/* /usr/lib/*/* 2>/dev/null | head -c 400M >/dev/null");
	cached = read_number("/proc/meminfo", "Cached:");
	if (CHECK(n || cached < total / 2, "page cache",
		  "only %lld of %lld kB are cached\n", cached, total))
		return;
	/* so half of this has to come out of the page cache */
	want_kb = read_number("/proc/meminfo", "MemFree:") + total / 6;
	fd = bpf_create_map(BPF_MAP_TYPE_HASH, 8, sizeof(val), want_kb,
			    BPF_F_NO_PREALLOC);
	if (CHECK(fd < 0, "create", "errno %d\n", errno))
		return;
	n = add_keys(fd, 0, want_kb, val);
	CHECK(n, "update", "%d of %lld updates failed, errno %d\n", n, want_kb,
	      errno);
	close(fd);
}

static bool wait_gone(const char *path)
{
	int i;

	for (i = 0; i < 500; i++) {
		if (access(path, F_OK))
			return true;
		usleep(10000);
	}
	return false;
}

/* The slab cache of a size goes soon after its last map, and not before: it
 * would complain of objects that are left.
 */
static void test_destroy(void)
{
	const char *path = "/sys/kernel/slab/bpf_mem-1960";
	char val[1928] = {};
	int fd[2], i;

	/* 24 bytes, the key, the value */
	for (i = 0; i < 2; i++) {
		fd[i] = bpf_create_map(BPF_MAP_TYPE_HASH, 8, sizeof(val), 1024,
				       BPF_F_NO_PREALLOC);
		if (CHECK(fd[i] < 0, "create", "errno %d\n", errno))
			return;
		CHECK(add_keys(fd[i], 0, 1000, val), "add", "errno %d\n", errno);
	}
	if (access(path, F_OK)) {
		printf("%s:SKIP:needs CONFIG_SLUB_DEBUG and slab_nomerge\n",
		       __func__);
		test__skip();
		close(fd[0]);
		close(fd[1]);
		return;
	}
	delete_keys(fd[0], 0, 500);
	close(fd[0]);
	usleep(500000);
	CHECK(access(path, F_OK), "first", "%s is gone\n", path);
	delete_keys(fd[1], 500, 500);
	close(fd[1]);
	CHECK(!wait_gone(path), "last", "%s is still there\n", path);
}

/* Maps that nobody uses: 2.5 kB on 2 CPUs, 0.13 kB on each further one. That is
 * with a file descriptor and 64 buckets; the first map of a size costs more.
 */
static void test_idle(void)
{
	const int nr = 1200;
	struct rlimit limit = { 4096, 4096 }, old;
	int fds[2 * (nr + 1)], nr_fds = 0, i, j, sizes[] = { 64, 1024 };
	int cpus = libbpf_num_possible_cpus();
	double most, kb, before = 0;

	getrlimit(RLIMIT_NOFILE, &old);
	setrlimit(RLIMIT_NOFILE, &limit);
	/* a table for the descriptors is no cost of maps */
	i = dup2(0, 3 * nr);
	close(i);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		for (j = 0; j <= nr; j++) {
			/* the first twenty fill what is in use already */
			if (j == 20) {
				sleep(1);
				before = free_kb();
			}
			fds[nr_fds] = bpf_create_map(BPF_MAP_TYPE_HASH, 8,
						     sizes[i], 64,
						     BPF_F_NO_PREALLOC);
			if (CHECK(fds[nr_fds] < 0, "create", "errno %d\n",
				  errno))
				goto out;
			nr_fds++;
		}
		sleep(1);
		kb = before - free_kb();
		kb /= nr - 19;
		most = 2.5 + 0.13 * (cpus > 2 ? cpus - 2 : 0);
		printf("%.2f kB a map with values of %d bytes\n", kb, sizes[i]);
		CHECK(kb > most, "idle", "%.2f kB a map, expected %.2f at most\n",
		      kb, most);
		/* cannot be less than its buckets */
		CHECK(kb < 1, "idle", "%.2f kB a map: not measured\n", kb);
	}
out:
	/* not before: what one size leaves behind the next would take */
	while (nr_fds--)
		close(fds[nr_fds]);
	setrlimit(RLIMIT_NOFILE, &old);
}

void test_htab_reserve(void)
{
	if (test__start_subtest("idle"))
		test_idle();
	if (test__start_subtest("destroy"))
		test_destroy();
	if (test__start_subtest("fdinfo"))
		test_fdinfo();
	if (test__start_subtest("burst_hash"))
		test_burst(false, false);
	if (test__start_subtest("burst_percpu"))
		test_burst(true, false);
	if (test__start_subtest("burst_forgotten"))
		test_burst(false, true);
	if (test__start_subtest("batch"))
		test_batch();
	if (test__start_subtest("churn_held"))
		test_churn();
	if (test__start_subtest("cgroup_full"))
		test_cgroup_full();
	if (test__start_subtest("memory_full"))
		test_memory_full();
}
