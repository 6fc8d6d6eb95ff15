// SPDX-License-Identifier: GPL-2.0
/* Dynamic hash maps while CPUs go and come back, many maps come and go, and large
 * ones are torn down
 */
#define _GNU_SOURCE
#include <test_progs.h>
#include "htab_helpers.h"
#include "htab_stress.skel.h"

#define MAX_CPUS	64
#define BURST		300
#define NR_TASKS	8	/* NR_INNER of the programs */
#define NR_MAPS		10000

static int duration;

static __u64 val[4];

static int create_hash(__u32 max_entries)
{
	return bpf_create_map(BPF_MAP_TYPE_HASH, sizeof(__u64), sizeof(val),
			      max_entries, BPF_F_NO_PREALLOC);
}

static struct htab_stress *open_with(const char *const names[], int nr)
{
	struct htab_stress *skel = htab_stress__open();

	if (CHECK(!skel, "open", "errno %d\n", errno))
		return NULL;
	autoload_only(skel->obj, names, nr);
	if (CHECK(htab_stress__load(skel), "load", "errno %d\n", errno) ||
	    CHECK(htab_stress__attach(skel), "attach", "errno %d\n", errno)) {
		htab_stress__destroy(skel);
		return NULL;
	}
	skel->bss->pid = getpid();
	return skel;
}

/* CPU hotplug */

static bool set_online(int cpu, bool online)
{
	/* tests that come later want all of them */
	int tries = online ? 100 : 1;
	char path[64];

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
	while (!write_file(path, online ? "1" : "0")) {
		if (!--tries)
			return false;
		usleep(100000);
	}
	return true;
}

/* One that can go, and not the only one; -1: there is none */
static int spare_cpu(const char *test)
{
	int cpus[MAX_CPUS], nr, cpu;
	char path[64];

	nr = list_cpus(cpus, MAX_CPUS);
	cpu = nr > 1 ? cpus[nr - 1] : 0;
	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
	if (nr > 1 && !access(path, W_OK))
		return cpu;
	printf("%s:SKIP:needs a second CPU that can go offline\n", test);
	test__skip();
	return -1;
}

static bool run_burst(struct htab_stress *skel)
{
	__u32 done = skel->bss->done;
	int i;

	skel->bss->nr_ok = 0;
	skel->bss->nr_nomem = 0;
	skel->bss->nr_other = 0;
	skel->bss->burst = BURST;
	for (i = 0; i < 10000 && READ_ONCE(skel->bss->done) == done; i++)
		usleep(1000);
	return !CHECK(skel->bss->done == done, "burst", "did not run\n");
}

/* A program asks for service on a CPU that goes down, when nothing will serve it
 * any more. When the CPU is back, a map that is new there gets some.
 */
static void test_hotplug_service(void)
{
	static const char *const progs[] = { "add_keys", "add_dying" };
	int cpu = spare_cpu(__func__), round;
	struct htab_stress *skel;
	cpu_set_t cpus;

	if (cpu < 0)
		return;
	skel = open_with(progs, ARRAY_SIZE(progs));
	if (!skel)
		return;
	sched_getaffinity(0, sizeof(cpus), &cpus);
	/* more than a CPU has ready, so that it asks for more */
	skel->bss->per_switch = 128;
	for (round = 0; round < 3; round++) {
		skel->bss->died = 0;
		skel->data->all_on_cpu = cpu;
		if (CHECK(!set_online(cpu, false), "offline", "errno %d\n", errno))
			goto out;
		skel->data->all_on_cpu = -1;
		CHECK(skel->bss->died != 1, "offline",
		      "the program ran %u times, expected once\n",
		      skel->bss->died);
		if (CHECK(!set_online(cpu, true), "online", "errno %d\n", errno))
			goto out;
	}
	if (CHECK(pin(cpu), "pin", "errno %d\n", errno))
		goto out;
	for (round = 0; round < 2; round++) {
		if (!run_burst(skel))
			break;
		printf("burst %d: %u of %d\n", round + 1, skel->bss->nr_ok,
		       BURST);
		sleep(1);
	}
	CHECK(skel->bss->nr_ok != BURST, "learnt burst",
	      "%u of %d succeeded, -ENOMEM %u, other %u\n", skel->bss->nr_ok,
	      BURST, skel->bss->nr_nomem, skel->bss->nr_other);
out:
	sched_setaffinity(0, sizeof(cpus), &cpus);
	htab_stress__destroy(skel);
}

/* What lies in the lists of a CPU that goes down is not kept there */
static void test_hotplug_lists(void)
{
	long long empty, cached, waiting = -1, after = -1;
	int cpu = spare_cpu(__func__), fd, i;
	cpu_set_t cpus;
	__u64 key;

	if (cpu < 0)
		return;
	fd = create_hash(1024);
	if (CHECK(fd < 0, "create", "errno %d\n", errno))
		return;
	sched_getaffinity(0, sizeof(cpus), &cpus);
	empty = read_fdinfo(fd, "memlock:\t");
	if (CHECK(pin(cpu), "pin", "errno %d\n", errno))
		goto out;
	for (key = 0; key < 40; key++)
		CHECK(bpf_map_update_elem(fd, &key, val, 0), "update",
		      "errno %d\n", errno);
	for (key = 0; key < 40; key++)
		CHECK(bpf_map_delete_elem(fd, &key), "delete", "errno %d\n",
		      errno);
	sched_setaffinity(0, sizeof(cpus), &cpus);
	cached = read_fdinfo(fd, "elems_cached:\t");
	CHECK(cached < 40, "cached", "%lld, expected the 40 deleted\n", cached);

	if (CHECK(!set_online(cpu, false), "offline", "errno %d\n", errno))
		goto out;
	CHECK(read_fdinfo(fd, "elems_cached:\t"), "offline",
	      "%lld cached, expected none\n", read_fdinfo(fd, "elems_cached:\t"));
	/* until a grace period and the worker have passed */
	for (i = 0; i < 1000; i++) {
		waiting = read_fdinfo(fd, "elems_waiting:\t");
		after = read_fdinfo(fd, "memlock:\t");
		if (!waiting && after == empty)
			break;
		usleep(10000);
	}
	CHECK(waiting || after != empty, "given back",
	      "waiting %lld, memlock %lld, expected 0 and %lld\n", waiting,
	      after, empty);
	CHECK(!set_online(cpu, true), "online", "errno %d\n", errno);
	key = 1;
	CHECK(pin(cpu) || bpf_map_update_elem(fd, &key, val, 0), "update",
	      "on a CPU that is back: errno %d\n", errno);
out:
	sched_setaffinity(0, sizeof(cpus), &cpus);
	close(fd);
}

/* Tasks with keys of their own, which they know the state of */
struct worker {
	pthread_t thread;
	int fd;
	__u64 nr;
	bool *stop;
	__u64 rounds, failed, wrong;
};

#define WORKER_KEYS	200

static void *add_look_delete(void *arg)
{
	struct worker *w = arg;
	__u64 key, v[4] = {}, found[4];
	int i;

	while (!READ_ONCE(*w->stop)) {
		for (i = 0; i < WORKER_KEYS; i++) {
			key = w->nr << 32 | i;
			v[0] = key + w->rounds;
			w->failed += !!bpf_map_update_elem(w->fd, &key, v, 0);
		}
		for (i = 0; i < WORKER_KEYS; i++) {
			key = w->nr << 32 | i;
			if (bpf_map_lookup_elem(w->fd, &key, found) ||
			    found[0] != key + w->rounds)
				w->wrong++;
			w->failed += !!bpf_map_delete_elem(w->fd, &key);
		}
		w->rounds++;
	}
	return NULL;
}

static void test_hotplug_load(void)
{
	static const char *const progs[] = { "add_keys" };
	int cpu = spare_cpu(__func__), fd, i, nr;
	struct worker workers[4] = {};
	struct htab_stress *skel;
	bool stop = false;
	__u64 key;

	if (cpu < 0)
		return;
	skel = open_with(progs, ARRAY_SIZE(progs));
	if (!skel)
		return;
	fd = bpf_map__fd(skel->maps.hash);
	for (nr = 0; nr < ARRAY_SIZE(workers); nr++) {
		workers[nr] = (struct worker){
			.fd = fd, .nr = nr + 1, .stop = &stop,
		};
		if (CHECK(pthread_create(&workers[nr].thread, NULL,
					 add_look_delete, &workers[nr]),
			  "thread", "%d\n", nr))
			break;
	}
	skel->bss->per_switch = 1;
	skel->data->all_on_cpu = cpu;
	for (i = 0; i < 20; i++) {
		if (CHECK(!set_online(cpu, false), "offline", "errno %d\n",
			  errno))
			break;
		if (CHECK(!set_online(cpu, true), "online", "errno %d\n",
			  errno))
			break;
	}
	skel->data->all_on_cpu = -1;
	WRITE_ONCE(stop, true);
	for (i = 0; i < nr; i++) {
		pthread_join(workers[i].thread, NULL);
		CHECK(!workers[i].rounds, "load", "task %d did nothing\n", i);
		CHECK(workers[i].failed || workers[i].wrong, "load",
		      "task %d: %llu rounds, %llu failed, %llu wrong\n", i,
		      workers[i].rounds, workers[i].failed, workers[i].wrong);
	}
	CHECK(skel->bss->nr_other, "program", "%u errors but -ENOMEM\n",
	      skel->bss->nr_other);
	/* what the program has added is there, and nothing else */
	for (key = 0; key < skel->bss->first_key; key++)
		if (!bpf_map_delete_elem(fd, &key))
			skel->bss->nr_ok--;
	CHECK(skel->bss->nr_ok || nr_elems(fd), "content",
	      "%d keys lost, %d too many\n", (int)skel->bss->nr_ok,
	      nr_elems(fd));
	htab_stress__destroy(skel);
}

/* Maps that come and go */

static int nr_maps(void)
{
	__u32 id = 0;
	int nr = 0;

	while (!bpf_map_get_next_id(id, &id))
		nr++;
	return nr;
}

/* Maps are freed by a worker, those of an earlier test as well */
static bool wait_for_maps(int nr, int *now)
{
	int i;

	for (i = 0; i < 6000; i++) {
		*now = nr_maps();
		if (*now <= nr)
			return true;
		usleep(10000);
	}
	return false;
}

struct creator {
	pthread_t thread;
	int outer_fd, nr;
	__u32 slot;
	int failed;
};

static void *create_maps(void *arg)
{
	struct creator *c = arg;
	__u64 key;
	int i, fd;

	for (i = 0; i < c->nr; i++) {
		fd = create_hash(1024);
		if (fd < 0 ||
		    bpf_map_update_elem(c->outer_fd, &c->slot, &fd, BPF_ANY)) {
			c->failed++;
			close(fd);
			continue;
		}
		for (key = 0; key < 8; key++)
			c->failed += !!bpf_map_update_elem(fd, &key, val, 0);
		syscall(__NR_getpgid, 0);
		for (key = 0; key < 4; key++)
			c->failed += !!bpf_map_delete_elem(fd, &key);
		close(fd);
	}
	c->failed += !!bpf_map_delete_elem(c->outer_fd, &c->slot);
	return NULL;
}

/* Each map is replaced by the next one while programs are using it */
static void test_storm(const char *prog)
{
	struct creator creators[NR_TASKS] = {};
	int before, after = -1, i, nr;
	struct htab_stress *skel;

	skel = open_with(&prog, 1);
	if (!skel)
		return;
	before = nr_maps();
	if (has_kasan())
		test__force_log();
	for (nr = 0; nr < NR_TASKS; nr++) {
		creators[nr].outer_fd = bpf_map__fd(skel->maps.outer);
		creators[nr].slot = nr;
		/* each takes long there: all of it is poisoned and traced */
		creators[nr].nr = NR_MAPS / NR_TASKS / (has_kasan() ? 10 : 1);
		if (CHECK(pthread_create(&creators[nr].thread, NULL,
					 create_maps, &creators[nr]),
			  "thread", "%d\n", nr))
			break;
	}
	for (i = 0; i < nr; i++) {
		pthread_join(creators[i].thread, NULL);
		CHECK(creators[i].failed, "create", "task %d: %d calls failed\n",
		      i, creators[i].failed);
	}
	printf("%d maps a task, %llu looks of the program at one, %u -ENOMEM\n",
	       creators[0].nr, skel->bss->hits, skel->bss->nr_nomem);
	CHECK(!skel->bss->nr_found, "program", "found nothing in the maps\n");
	CHECK(skel->bss->nr_other, "program", "%u errors but -ENOMEM\n",
	      skel->bss->nr_other);
	CHECK(!wait_for_maps(before, &after), "maps",
	      "%d, expected %d as before\n", after, before);
	htab_stress__destroy(skel);
}

/* Large maps */

static void test_teardown(enum bpf_map_type type, __u32 nr)
{
	DECLARE_LIBBPF_OPTS(bpf_map_batch_opts, opts);
	int fd, before, after = -1, i;
	__u32 n, done, batch = 8192;
	struct watchdog watchdog;
	__u64 *keys;
	void *vals;

	if (!watchdog_start(&watchdog, __func__))
		return;
	before = nr_maps();
	fd = bpf_create_map(type, sizeof(__u64), sizeof(__u64), nr,
			    BPF_F_NO_PREALLOC);
	if (CHECK(fd < 0, "create", "errno %d\n", errno))
		goto out;
	keys = calloc(batch, sizeof(*keys));
	vals = calloc(batch, sizeof(__u64) * libbpf_num_possible_cpus());
	if (CHECK(!keys || !vals, "calloc", "no memory\n"))
		exit(1);
	for (done = 0; done < nr; done += n) {
		n = nr - done < batch ? nr - done : batch;
		for (i = 0; i < n; i++)
			keys[i] = done + i;
		if (CHECK(bpf_map_update_batch(fd, keys, vals, &n, &opts),
			  "fill", "errno %d after %u\n", errno, done + n))
			break;
	}
	close(fd);
	CHECK(!wait_for_maps(before, &after), "maps",
	      "%d, expected %d as before\n", after, before);
	/* its memory goes after the map itself */
	sleep(3);
	free(keys);
	free(vals);
out:
	CHECK(watchdog_stop(&watchdog), "watchdog", "soft lockup\n");
}

void test_htab_stress(void)
{
	if (test__start_subtest("hotplug_service"))
		test_hotplug_service();
	if (test__start_subtest("hotplug_lists"))
		test_hotplug_lists();
	if (test__start_subtest("hotplug_load"))
		test_hotplug_load();
	if (test__start_subtest("storm"))
		test_storm("use_maps");
	if (test__start_subtest("storm_sleepable"))
		test_storm("use_maps_sleepable");
	if (test__start_subtest("teardown_hash"))
		test_teardown(BPF_MAP_TYPE_HASH, 1000000);
	if (test__start_subtest("teardown_percpu"))
		test_teardown(BPF_MAP_TYPE_PERCPU_HASH, 100000);
}
