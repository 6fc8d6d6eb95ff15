// SPDX-License-Identifier: GPL-2.0
/* Hash maps that were told at creation how much to keep ready */
#define _GNU_SOURCE
#include <test_progs.h>
#include "cgroup_helpers.h"
#include "htab_helpers.h"
#include "memcg_helpers.h"
#include "progs/htab_declared.h"
#include "htab_declared.skel.h"

#define CGROUP		"/htab_declared"
#define CGROUP_DIR	"/mnt/cgroup-test-work-dir" CGROUP
#define MAX_CPUS	16
#define ROUNDS		50

static int duration;

struct loader {
	pthread_t thread;
	int cpu, prog_fd;
	bool *stop;
};

static int map_fd(struct htab_declared *skel)
{
	return bpf_map__fd(skel->bss->use_percpu ? skel->maps.percpu :
						   skel->maps.hash);
}

static struct htab_declared *open_with(const char *prog, bool percpu,
				       bool declared)
{
	struct htab_declared *skel = htab_declared__open();
	const char *const names[] = { prog, "load" };

	if (CHECK(!skel, "open", "errno %d\n", errno))
		return NULL;
	skel->bss->use_percpu = percpu;
	autoload_only(skel->obj, names, ARRAY_SIZE(names));
	if (!declared) {
		bpf_map__set_map_extra(skel->maps.hash, 0);
		bpf_map__set_map_extra(skel->maps.percpu, 0);
	}
	if (CHECK(htab_declared__load(skel), "load", "errno %d\n", errno)) {
		htab_declared__destroy(skel);
		return NULL;
	}
	return skel;
}

/* Runs ROUNDS of add, delete, add on a CPU that does nothing else */
static bool run_rounds(struct htab_declared *skel, bool nmi)
{
	__u64 done = skel->bss->done;
	int i;

	skel->bss->nr_ok = 0;
	skel->bss->nr_nomem = 0;
	skel->bss->nr_busy = 0;
	skel->bss->nr_other = 0;
	if (nmi) {
		skel->bss->rounds = ROUNDS;
		send_nmis_until(&skel->bss->done, done + ROUNDS, 60000);
	}
	/* a sleep that is over before the CPU could switch is none */
	for (i = 0; !nmi && i < 10 * ROUNDS &&
	     READ_ONCE(skel->bss->done) < done + ROUNDS; i++) {
		skel->bss->rounds = 1;
		usleep(2000);
	}
	skel->bss->rounds = 0;
	done = skel->bss->done - done;
	return !CHECK(done != ROUNDS, "rounds", "%llu ran, expected %d\n", done,
		      ROUNDS);
}

static void check_rounds(struct htab_declared *skel, const char *when)
{
	__u32 all = skel->bss->nr_ok + skel->bss->nr_nomem +
		    skel->bss->nr_busy + skel->bss->nr_other;

	CHECK(all != 4 * DECLARED * ROUNDS || skel->bss->nr_ok != all, when,
	      "%u of %u succeeded, -ENOMEM %u, -EBUSY %u, other %u\n",
	      skel->bss->nr_ok, 4 * DECLARED * ROUNDS, skel->bss->nr_nomem,
	      skel->bss->nr_busy, skel->bss->nr_other);
}

static void *load_thread(void *arg)
{
	struct loader *l = arg;
	char packet[64] = {};
	__u32 ret;

	pin(l->cpu);
	while (!READ_ONCE(*l->stop))
		bpf_prog_test_run(l->prog_fd, 10, packet, sizeof(packet), NULL,
				  NULL, &ret, NULL);
	return NULL;
}

/* A map of a cgroup that gets no more memory, and other CPUs who want some */
static void test_declared(bool percpu, bool nmi)
{
	int cpus[MAX_CPUS], nr, i, nr_loaders = 0, cgfd;
	struct loader loaders[MAX_CPUS];
	struct htab_declared *skel = NULL;
	struct bpf_link *link = NULL;
	struct bpf_program *prog;
	bool stop = false;
	cpu_set_t old;
	char max[32];

	sched_getaffinity(0, sizeof(old), &old);
	nr = list_cpus(cpus, MAX_CPUS);
	if (nmi && !can_send_nmis())
		return;
	if (CHECK(setup_cgroup_environment(), "cgroup", "errno %d\n", errno))
		return;
	cgfd = create_and_get_cgroup(CGROUP);
	if (CHECK(cgfd < 0, "cgroup", "errno %d\n", errno) ||
	    CHECK(join_cgroup(CGROUP), "join", "errno %d\n", errno))
		goto out;
	skel = open_with(nmi ? "nmi" : "irqoff", percpu, true);
	if (CHECK(!write_file("/mnt/cgroup.procs", "0"), "leave", "errno %d\n",
		  errno) || !skel)
		goto out;
	/* NMIs come from the first CPU and go to the second one */
	pin(cpus[0]);
	skel->bss->pid = getpid();
	skel->bss->cpu = nmi ? cpus[1] : cpus[0];
	prog = nmi ? skel->progs.nmi : skel->progs.irqoff;
	link = bpf_program__attach(prog);
	if (CHECK(IS_ERR(link), "attach", "error %ld\n", PTR_ERR(link))) {
		link = NULL;
		goto out;
	}
	if (run_rounds(skel, nmi))
		check_rounds(skel, "new map");
	if (is_preempt_rt()) {
		printf("%s:SKIP:load: on PREEMPT_RT it takes what is declared\n",
		       __func__);
		test__skip();
		goto out;
	}

	if (access(CGROUP_DIR "/memory.max", W_OK) == 0) {
		snprintf(max, sizeof(max), "%lld",
			 read_number(CGROUP_DIR "/memory.current", "") +
			 (256 << 10));
		CHECK(!write_file(CGROUP_DIR "/memory.max", max), "limit",
		      "errno %d\n", errno);
	} else {
		printf("no memory controller: there is memory for all\n");
		max[0] = '\0';
	}
	for (i = 0; i < nr; i++) {
		struct loader *l = &loaders[nr_loaders];

		if (cpus[i] == skel->bss->cpu)
			continue;
		l->cpu = cpus[i];
		l->prog_fd = bpf_program__fd(skel->progs.load);
		l->stop = &stop;
		if (!pthread_create(&l->thread, NULL, load_thread, l))
			nr_loaders++;
	}
	for (i = 0; max[0] && nr_loaders && i < 1000 &&
	     !READ_ONCE(skel->bss->load_nomem); i++)
		usleep(10000);
	CHECK(max[0] && nr_loaders && !skel->bss->load_nomem, "load",
	      "memory is not used up after %u updates\n", skel->bss->load_ok);
	if (run_rounds(skel, nmi))
		check_rounds(skel, "load");
	WRITE_ONCE(stop, true);
	for (i = 0; i < nr_loaders; i++)
		pthread_join(loaders[i].thread, NULL);
	printf("%d CPUs of load: %u updates, %u got no memory\n", nr_loaders,
	       skel->bss->load_ok, skel->bss->load_nomem);
out:
	bpf_link__destroy(link);
	htab_declared__destroy(skel);
	if (cgfd >= 0)
		close(cgfd);
	cleanup_cgroup_environment();
	sched_setaffinity(0, sizeof(old), &old);
}

/* The same without: else the tests above would tell nothing */
static void test_undeclared(void)
{
	struct htab_declared *skel = open_with("irqoff", true, false);
	struct bpf_map_info info = {};
	__u32 len = sizeof(info);
	struct bpf_link *link;
	cpu_set_t old;
	int cpu = 0;
	__u64 end;

	if (!skel)
		return;
	CHECK(bpf_obj_get_info_by_fd(map_fd(skel), &info, &len) ||
	      info.map_extra, "info", "map_extra %llu, errno %d\n",
	      info.map_extra, errno);
	sched_getaffinity(0, sizeof(old), &old);
	list_cpus(&cpu, 1);
	pin(cpu);
	skel->bss->cpu = cpu;
	skel->bss->pid = getpid();
	link = bpf_program__attach(skel->progs.irqoff);
	if (CHECK(IS_ERR(link), "attach", "error %ld\n", PTR_ERR(link)))
		goto out;
	skel->bss->rounds = 1;
	end = now_ms() + 10000;
	while (!READ_ONCE(skel->bss->done) && now_ms() < end)
		usleep(2000);
	CHECK(!skel->bss->nr_nomem, "burst", "all %u succeeded\n",
	      skel->bss->nr_ok);
	bpf_link__destroy(link);
out:
	sched_setaffinity(0, sizeof(old), &old);
	htab_declared__destroy(skel);
}

static int create_raw(union bpf_attr *attr)
{
	return syscall(__NR_bpf, BPF_MAP_CREATE, attr, sizeof(*attr));
}

static void test_refused(void)
{
	static const struct {
		__u32 type, key_size, value_size, flags;
		__u64 extra;
		int err;
	} cases[] = {
		{ BPF_MAP_TYPE_HASH, 4, 8, BPF_F_NO_PREALLOC, 100 },
		{ BPF_MAP_TYPE_HASH, 4, 8, BPF_F_NO_PREALLOC, 1 },
		{ BPF_MAP_TYPE_PERCPU_HASH, 4, 8, BPF_F_NO_PREALLOC, 100 },
		{ BPF_MAP_TYPE_HASH_OF_MAPS, 4, 4, BPF_F_NO_PREALLOC, 100 },
		/* more than there can be */
		{ BPF_MAP_TYPE_HASH, 4, 8, BPF_F_NO_PREALLOC, 101, EINVAL },
		{ BPF_MAP_TYPE_HASH, 4, 8, BPF_F_NO_PREALLOC, 1ULL << 32, EINVAL },
		{ BPF_MAP_TYPE_HASH, 4, 8, BPF_F_NO_PREALLOC, ~0ULL, EINVAL },
		/* have all of it ready */
		{ BPF_MAP_TYPE_HASH, 4, 8, 0, 1, EINVAL },
		{ BPF_MAP_TYPE_PERCPU_HASH, 4, 8, 0, 1, EINVAL },
		{ BPF_MAP_TYPE_HASH_OF_MAPS, 4, 4, 0, 1, EINVAL },
		/* know no such thing */
		{ BPF_MAP_TYPE_LRU_HASH, 4, 8, 0, 1, EINVAL },
		{ BPF_MAP_TYPE_LRU_PERCPU_HASH, 4, 8, 0, 1, EINVAL },
		{ BPF_MAP_TYPE_ARRAY, 4, 8, 0, 1, EINVAL },
		{ BPF_MAP_TYPE_LPM_TRIE, 8, 8, BPF_F_NO_PREALLOC, 1, EINVAL },
		{ BPF_MAP_TYPE_DEVMAP_HASH, 4, 4, 0, 1, EINVAL },
		{ BPF_MAP_TYPE_RINGBUF, 0, 0, 0, 1, EINVAL },
		{ BPF_MAP_TYPE_QUEUE, 0, 4, 0, 1, EINVAL },
	};
	struct bpf_map_info info;
	union bpf_attr attr;
	__u32 len, i;
	int fd, inner, err;

	inner = bpf_create_map(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0);
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		memset(&attr, 0, sizeof(attr));
		attr.map_type = cases[i].type;
		attr.key_size = cases[i].key_size;
		attr.value_size = cases[i].value_size;
		attr.max_entries = 100;
		if (attr.map_type == BPF_MAP_TYPE_RINGBUF)
			attr.max_entries = getpagesize();
		attr.map_flags = cases[i].flags;
		attr.map_extra = cases[i].extra;
		if (attr.map_type == BPF_MAP_TYPE_HASH_OF_MAPS)
			attr.inner_map_fd = inner;
		fd = create_raw(&attr);
		err = fd < 0 ? errno : 0;
		if (CHECK(err != cases[i].err, "create",
			  "case %u: errno %d, expected %d\n", i, err,
			  cases[i].err))
			continue;
		if (fd >= 0) {
			len = sizeof(info);
			memset(&info, 0, sizeof(info));
			CHECK(bpf_obj_get_info_by_fd(fd, &info, &len) ||
			      info.map_extra != cases[i].extra, "info",
			      "case %u: map_extra %llu, errno %d\n", i,
			      info.map_extra, errno);
			close(fd);
			continue;
		}
		/* and without it all is well */
		attr.map_extra = 0;
		fd = create_raw(&attr);
		CHECK(fd < 0, "create", "case %u without: errno %d\n", i, errno);
		close(fd);
	}
	close(inner);
}

static long long fdinfo_memlock(int fd)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	return read_number(path, "memlock:\t");
}

static int create_charged(union bpf_attr *attr)
{
	int fd, err;

	memcg_enter(MEMCG_CREATOR);
	fd = create_raw(attr);
	err = errno;
	memcg_leave();
	errno = err;
	return fd;
}

/* It is there, and charged, from the beginning on; or there is no map */
static void test_charged(void)
{
	const int n = 10000, size = (int)(2 * sizeof(void *)) + 48;
	long long least = (long long)n * size, with, without, before, after;
	long long limit;
	union bpf_attr attr = {
		.map_type = BPF_MAP_TYPE_HASH,
		.key_size = 8,
		.value_size = 32,
		.max_entries = n,
		.map_flags = BPF_F_NO_PREALLOC,
	};
	char max[32];
	int fd;

	if (!memcg_ready(memcg_setup(__func__)))
		return;
	fd = create_charged(&attr);
	without = fdinfo_memlock(fd);
	close(fd);
	before = memcg_settled(MEMCG_CREATOR);
	attr.map_extra = n;
	fd = create_charged(&attr);
	if (CHECK(fd < 0, "create", "errno %d\n", errno))
		goto out;
	after = memcg_charged(MEMCG_CREATOR);
	with = fdinfo_memlock(fd);
	close(fd);
	printf("%d elements of %d bytes: fdinfo %.1f bytes more, charged with buckets %.1f\n",
	       n, size, (double)(with - without) / n,
	       (double)(after - before) / n);
	CHECK(with - without < least || with - without > least * 5 / 4, "fdinfo",
	      "%lld bytes more, expected %lld and some\n", with - without,
	      least);
	if (!memcg_kmem()) {
		printf("kernel memory is not charged here\n");
		goto out;
	}
	CHECK(after - before < least, "charged",
	      "%lld bytes, expected %lld at least\n", after - before, least);
	/* Half of it does not do. A limit below what is charged would kill. */
	limit = before + least / 2;
	after = memcg_wait(MEMCG_CREATOR, limit, 30000);
	if (CHECK(after > limit, "freed", "%lld bytes are charged, without %lld\n",
		  after, before))
		goto out;
	snprintf(max, sizeof(max), "%lld", limit);
	CHECK(!memcg_write(MEMCG_CREATOR, "memory.max", max), "limit",
	      "errno %d\n", errno);
	fd = create_charged(&attr);
	CHECK(fd >= 0 || errno != ENOMEM, "limit", "fd %d errno %d\n", fd,
	      errno);
	close(fd);
	CHECK(memcg_number(MEMCG_CREATOR, "memory.events", "oom_kill "),
	      "oom_kill", "somebody was killed\n");
out:
	memcg_cleanup();
}

void test_htab_declared(void)
{
	if (test__start_subtest("refused"))
		test_refused();
	if (test__start_subtest("undeclared"))
		test_undeclared();
	if (test__start_subtest("charged"))
		test_charged();
	if (test__start_subtest("irqoff_hash"))
		test_declared(false, false);
	if (test__start_subtest("irqoff_percpu"))
		test_declared(true, false);
	if (test__start_subtest("nmi_hash"))
		test_declared(false, true);
	if (test__start_subtest("nmi_percpu"))
		test_declared(true, true);
}
