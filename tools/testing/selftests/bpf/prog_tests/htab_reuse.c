// SPDX-License-Identifier: GPL-2.0
/* When the element of a deleted key is used for another one: at once, or with
 * BPF_F_REUSE_AFTER_GP not while a program can see it
 */
#define _GNU_SOURCE
#include <test_progs.h>
#include "htab_helpers.h"
#include "progs/htab_reuse.h"
#include "htab_reuse.skel.h"

#define STAYS		(BPF_F_NO_PREALLOC | BPF_F_REUSE_AFTER_GP)
/* So many may wait in a map of MAX_ENTRIES */
#define MAX_WAITING	1024

static int duration;

static struct htab_reuse *open_with(int type, int flags,
				    const char *const names[], int nr)
{
	struct htab_reuse *skel = htab_reuse__open();

	if (CHECK(!skel, "open", "errno %d\n", errno))
		return NULL;
	autoload_only(skel->obj, names, nr);
	bpf_map__set_type(skel->maps.map, type);
	bpf_map__set_map_flags(skel->maps.map, flags);
	if (CHECK(htab_reuse__load(skel), "load", "errno %d\n", errno)) {
		htab_reuse__destroy(skel);
		return NULL;
	}
	return skel;
}

/* From here a value is as large as on all CPUs */
static int set(int fd, __u64 key)
{
	static struct reuse_val vals[256];
	int i;

	for (i = 0; i < ARRAY_SIZE(vals); i++)
		vals[i].key = key;
	return bpf_map_update_elem(fd, &key, vals, 0);
}

static int unset(int fd, __u64 key)
{
	return bpf_map_delete_elem(fd, &key);
}

/* Deletes what a sleeping program has looked up, and adds other keys */
static void test_sleepable(int type, int flags)
{
	static const char *const names[] = { "sleep_between" };
	bool stays = flags & BPF_F_REUSE_AFTER_GP;
	struct htab_reuse *skel;
	struct holder h = {};
	int fd, i, failed = 0;
	cpu_set_t cpus;

	if (!can_attach_fentry())
		return;
	skel = open_with(type, flags, names, 1);
	if (!skel)
		return;
	sched_getaffinity(0, sizeof(cpus), &cpus);
	fd = bpf_map__fd(skel->maps.map);
	if (CHECK(htab_reuse__attach(skel), "attach", "errno %d\n", errno) ||
	    CHECK(set(fd, KEY), "add", "errno %d\n", errno))
		goto out;
	skel->bss->pid = getpid();
	if (CHECK(!hold_start(&h, &skel->bss->hold_ptr, &skel->bss->held),
		  "hold", "no program waits\n"))
		goto out;
	/* freed here, and used again here: it is the first of a long list */
	pin(0);
	for (i = 1; i < 40; i++)
		failed += !!set(fd, KEY + i);
	for (i = 1; i < 40; i++)
		failed += !!unset(fd, KEY + i);
	failed += !!unset(fd, KEY);
	for (i = 1; i < MAX_ENTRIES; i++)
		failed += !!set(fd, KEY + i);
	/* an RCU grace period alone is not enough */
	usleep(200000);
	for (i = 1; i < MAX_ENTRIES; i++) {
		failed += !!unset(fd, KEY + i);
		failed += !!set(fd, 2 * KEY + i);
	}
	CHECK(failed, "update", "%d failed, errno %d\n", failed, errno);
	CHECK(skel->bss->held != 1, "hold", "held %d\n", skel->bss->held);
	CHECK(hold_stop(&h), "release", "errno %d\n", errno);
	CHECK(skel->bss->held != 2 || skel->bss->before != KEY, "look",
	      "held %d, key %llu\n", skel->bss->held, skel->bss->before);
	if (stays)
		CHECK(skel->bss->after != KEY, "look again",
		      "key %llu, expected %d\n", skel->bss->after, KEY);
	else
		CHECK(skel->bss->after == KEY, "look again",
		      "nobody has used the element again\n");
out:
	sched_setaffinity(0, sizeof(cpus), &cpus);
	htab_reuse__destroy(skel);
}

struct changer {
	int fd;
	bool stop;
	int failed;
	__u64 rounds;
};

static void *change_thread(void *arg)
{
	struct changer *c = arg;

	pin(1);
	while (!READ_ONCE(c->stop)) {
		c->failed += !!unset(c->fd, KEY);
		c->failed += !!set(c->fd, KEY + 1);
		c->failed += !!unset(c->fd, KEY + 1);
		c->failed += !!set(c->fd, KEY);
		c->rounds++;
	}
	return NULL;
}

/* One CPU looks, another has keys come and go */
static void test_looks(int type, int flags)
{
	static const char *const names[] = { "look_often" };
	bool stays = flags & BPF_F_REUSE_AFTER_GP;
	int ms = stays ? 3000 : 20000, cpus[2];
	struct changer c = {};
	struct htab_reuse *skel;
	char packet[64] = {};
	pthread_t thread;
	cpu_set_t old;
	__u32 ret;
	__u64 end;

	if (list_cpus(cpus, 2) < 2) {
		printf("%s:SKIP:needs two CPUs\n", __func__);
		test__skip();
		return;
	}
	sched_getaffinity(0, sizeof(old), &old);
	skel = open_with(type, flags, names, 1);
	if (!skel)
		return;
	c.fd = bpf_map__fd(skel->maps.map);
	set(c.fd, KEY);
	pin(0);
	if (CHECK(pthread_create(&thread, NULL, change_thread, &c), "thread",
		  "errno %d\n", errno))
		goto out;
	end = now_ms() + ms;
	while (now_ms() < end && (stays || !skel->bss->foreign))
		bpf_prog_test_run(bpf_program__fd(skel->progs.look_often), 100,
				  packet, sizeof(packet), NULL, NULL, &ret,
				  NULL);
	WRITE_ONCE(c.stop, true);
	pthread_join(thread, NULL);
	printf("%llu times found, %llu looks at another key, %llu changes\n",
	       skel->bss->looks, skel->bss->foreign, c.rounds);
	CHECK(c.failed, "change", "%d failed\n", c.failed);
	CHECK(!c.rounds || !skel->bss->looks, "look", "nothing happened\n");
	if (stays)
		CHECK(skel->bss->foreign, "look again",
		      "%llu looks at another key\n", skel->bss->foreign);
	else
		CHECK(!skel->bss->foreign, "look again",
		      "nobody has used the element again\n");
out:
	sched_setaffinity(0, sizeof(old), &old);
	htab_reuse__destroy(skel);
}

struct waiter {
	int fd, err;
	bool done;
};

static void *wait_thread(void *arg)
{
	struct waiter *w = arg;
	int i;

	pin(0);
	/* what the CPU has, and one more */
	for (i = 1; i <= MAX_ENTRIES && !w->err; i++)
		w->err = set(w->fd, KEY + i) ? errno : 0;
	WRITE_ONCE(w->done, true);
	return NULL;
}

/* What fails for another reason needs no memory */
static void *refused_thread(void *arg)
{
	struct waiter *w = arg;
	struct reuse_val val = {};
	__u64 key = KEY;

	if (bpf_map_update_elem(w->fd, &key, &val, BPF_NOEXIST) != -1 ||
	    errno != EEXIST)
		w->err = 1;
	key++;
	if (bpf_map_update_elem(w->fd, &key, &val, BPF_EXIST) != -1 ||
	    errno != ENOENT)
		w->err = 2;
	WRITE_ONCE(w->done, true);
	return NULL;
}

static long long number(int fd, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	return read_number(path, name);
}

/* No grace period ends: what waits is bounded. Programs get -ENOMEM, system calls
 * wait until it does.
 */
static void test_bound(void)
{
	static const char *const names[] = { "sleep_between", "churn" };
	long long empty, most, memlock, waiting;
	struct htab_reuse *skel;
	struct holder h = {};
	struct waiter w = {}, r = {};
	char packet[64] = {};
	pthread_t thread, refused;
	cpu_set_t cpus;
	bool early = false;
	__u32 ret;
	int i, prog;

	if (!can_attach_fentry())
		return;
	skel = open_with(BPF_MAP_TYPE_HASH, STAYS, names, 2);
	if (!skel)
		return;
	sched_getaffinity(0, sizeof(cpus), &cpus);
	w.fd = bpf_map__fd(skel->maps.map);
	r.fd = w.fd;
	skel->links.sleep_between =
		bpf_program__attach(skel->progs.sleep_between);
	if (CHECK(IS_ERR(skel->links.sleep_between), "attach", "error %ld\n",
		  PTR_ERR(skel->links.sleep_between))) {
		skel->links.sleep_between = NULL;
		goto out;
	}
	empty = number(w.fd, "memlock:\t");
	set(w.fd, KEY);
	skel->bss->pid = getpid();
	if (CHECK(!hold_start(&h, &skel->bss->hold_ptr, &skel->bss->held),
		  "hold", "no program waits\n"))
		goto out;
	pin(0);
	prog = bpf_program__fd(skel->progs.churn);
	for (i = 0; i < 100; i++) {
		bpf_prog_test_run(prog, 1, packet, sizeof(packet), NULL, NULL,
				  &ret, NULL);
		usleep(1000);
	}
	printf("%llu updates, %llu got no memory\n", skel->bss->ok,
	       skel->bss->nomem);
	CHECK(skel->bss->ok < MAX_WAITING, "churn",
	      "only %llu updates before the bound of %d\n", skel->bss->ok,
	      MAX_WAITING);
	CHECK(!skel->bss->nomem || skel->bss->other, "churn",
	      "-ENOMEM %llu, other %llu\n", skel->bss->nomem, skel->bss->other);
	memlock = number(w.fd, "memlock:\t") - empty;
	waiting = number(w.fd, "elems_waiting:\t");
	most = (MAX_WAITING + MAX_ENTRIES) * 64 +
	       8192 * 3 / 2 * libbpf_num_possible_cpus();
	CHECK(memlock > most || waiting < MAX_WAITING, "bound",
	      "%lld bytes, expected %lld at most; %lld elements wait\n",
	      memlock, most, waiting);
	if (CHECK(pthread_create(&refused, NULL, refused_thread, &r), "thread",
		  "no thread\n")) {
		hold_stop(&h);
		goto out;
	}
	for (i = 0; i < 100 && !READ_ONCE(r.done); i++)
		usleep(10000);
	CHECK(!READ_ONCE(r.done) || r.err, "refused", "done %d, update %d\n",
	      r.done, r.err);
	/* it is none of those that wait whom a system call gets */
	if (CHECK(pthread_create(&thread, NULL, wait_thread, &w), "thread",
		  "no thread\n")) {
		hold_stop(&h);
		pthread_join(refused, NULL);
		goto out;
	}
	usleep(300000);
	early = READ_ONCE(w.done);
	CHECK(hold_stop(&h), "release", "errno %d\n", errno);
	pthread_join(thread, NULL);
	pthread_join(refused, NULL);
	CHECK(early, "wait", "system calls went on, errno %d\n", w.err);
	CHECK(w.err != E2BIG, "wait", "errno %d, expected %d\n", w.err, E2BIG);
	CHECK(skel->bss->after != KEY, "look again", "key %llu\n",
	      skel->bss->after);
	/* and programs are well again */
	for (i = 1; i < MAX_ENTRIES; i++)
		unset(w.fd, KEY + i);
	for (i = 0; i < 200 && number(w.fd, "elems_waiting:\t"); i++)
		usleep(20000);
	skel->bss->ok = 0;
	skel->bss->nomem = 0;
	bpf_prog_test_run(prog, 1, packet, sizeof(packet), NULL, NULL, &ret,
			  NULL);
	CHECK(skel->bss->ok != 64, "after", "%llu of 64, -ENOMEM %llu\n",
	      skel->bss->ok, skel->bss->nomem);
out:
	sched_setaffinity(0, sizeof(cpus), &cpus);
	htab_reuse__destroy(skel);
}

static void test_refused(void)
{
	static const struct {
		__u32 type, key_size, value_size, flags;
		__u64 extra;
		int err;
	} cases[] = {
		{ BPF_MAP_TYPE_HASH, 4, 8, STAYS },
		{ BPF_MAP_TYPE_PERCPU_HASH, 4, 8, STAYS },
		{ BPF_MAP_TYPE_HASH_OF_MAPS, 4, 4, STAYS },
		{ BPF_MAP_TYPE_HASH, 4, 8, STAYS, 1, EINVAL },
		{ BPF_MAP_TYPE_HASH, 4, 8, BPF_F_REUSE_AFTER_GP, 0, EINVAL },
		{ BPF_MAP_TYPE_PERCPU_HASH, 4, 8, BPF_F_REUSE_AFTER_GP, 0, EINVAL },
		{ BPF_MAP_TYPE_HASH_OF_MAPS, 4, 4, BPF_F_REUSE_AFTER_GP, 0, EINVAL },
		{ BPF_MAP_TYPE_LRU_HASH, 4, 8, BPF_F_REUSE_AFTER_GP, 0, EINVAL },
		{ BPF_MAP_TYPE_LRU_PERCPU_HASH, 4, 8, BPF_F_REUSE_AFTER_GP, 0, EINVAL },
		{ BPF_MAP_TYPE_ARRAY, 4, 8, BPF_F_REUSE_AFTER_GP, 0, EINVAL },
		{ BPF_MAP_TYPE_LPM_TRIE, 8, 8, STAYS, 0, EINVAL },
		{ BPF_MAP_TYPE_DEVMAP_HASH, 4, 4, BPF_F_REUSE_AFTER_GP, 0, EINVAL },
		{ BPF_MAP_TYPE_QUEUE, 0, 4, BPF_F_REUSE_AFTER_GP, 0, EINVAL },
	};
	union bpf_attr attr;
	int fd, inner, err;
	__u32 i;

	inner = bpf_create_map(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0);
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		memset(&attr, 0, sizeof(attr));
		attr.map_type = cases[i].type;
		attr.key_size = cases[i].key_size;
		attr.value_size = cases[i].value_size;
		attr.max_entries = 100;
		attr.map_flags = cases[i].flags;
		attr.map_extra = cases[i].extra;
		if (attr.map_type == BPF_MAP_TYPE_HASH_OF_MAPS)
			attr.inner_map_fd = inner;
		fd = syscall(__NR_bpf, BPF_MAP_CREATE, &attr, sizeof(attr));
		err = fd < 0 ? errno : 0;
		CHECK(err != cases[i].err, "create",
		      "case %u: errno %d, expected %d\n", i, err, cases[i].err);
		if (fd >= 0)
			close(fd);
	}
	close(inner);
}

/* With KASAN the last 512 elements to be freed are not used again either */
static bool skip_default(int flags)
{
	if (flags == STAYS || !has_kasan())
		return false;
	printf("%s:SKIP:KASAN keeps elements from being used again\n", __func__);
	test__skip();
	return true;
}

void test_htab_reuse(void)
{
	static const struct {
		const char *name;
		int type, flags;
	} cases[] = {
		{ "hash", BPF_MAP_TYPE_HASH, STAYS },
		{ "percpu", BPF_MAP_TYPE_PERCPU_HASH, STAYS },
		{ "hash_default", BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC },
		{ "percpu_default", BPF_MAP_TYPE_PERCPU_HASH, BPF_F_NO_PREALLOC },
	};
	char name[64];
	int i;

	if (test__start_subtest("refused"))
		test_refused();
	if (test__start_subtest("bound"))
		test_bound();
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		snprintf(name, sizeof(name), "sleepable_%s", cases[i].name);
		if (test__start_subtest(name) && !skip_default(cases[i].flags))
			test_sleepable(cases[i].type, cases[i].flags);
		snprintf(name, sizeof(name), "looks_%s", cases[i].name);
		if (test__start_subtest(name) && !skip_default(cases[i].flags))
			test_looks(cases[i].type, cases[i].flags);
	}
}
