// SPDX-License-Identifier: GPL-2.0
/* Maps of all types are charged to the memory cgroup of their creator, keep to
 * its limit, tell in fdinfo what they hold, and with BPF_F_NO_CHARGE are not
 * charged.
 */
#define _GNU_SOURCE
/* Not linked: test_progs has the rule that makes an object of it */
#include "cgroup_helpers.c"

#include <sys/socket.h>
#include <sys/syscall.h>
#include <netinet/in.h>
#include <linux/if_xdp.h>
#include <linux/perf_event.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "bpf_util.h"
#include "memcg_helpers.h"
#include "test_maps.h"

#define MB	(1024 * 1024)
/* What buckets take at least: a list; where there are more CPUs, also a lock */
#define BUCKETS(nr)	((nr) * sizeof(void *))

struct type {
	const char *name;
	enum bpf_map_type type;
	/* @max_entries: 0 for the number of CPUs */
	__u32 key_size, value_size, max_entries, flags;
	/* Bytes at least, after creation and for each element that is put in
	 * later; per CPU where @percpu.
	 */
	__u32 created, filled, nr_fill;
	bool percpu;
	int (*fill)(const struct type *t, int fd, __u32 i);
	int (*value)(void);	/* for a map of file descriptors */
};

static int value_fd = -1, nr_cpus;
static char value[16 * 4096];

static int fill_u32(const struct type *t, int fd, __u32 i)
{
	char key[512] = {};

	memcpy(key, &i, sizeof(i));
	return bpf_map_update_elem(fd, key, value, BPF_ANY);
}

static int fill_prefix(const struct type *t, int fd, __u32 i)
{
	struct bpf_lpm_trie_key *key;
	__u64 buf[8] = {};

	key = (struct bpf_lpm_trie_key *)buf;
	key->prefixlen = 32;
	memcpy(key->data, &i, sizeof(i));
	return bpf_map_update_elem(fd, key, value, BPF_ANY);
}

static int fill_fd(const struct type *t, int fd, __u32 i)
{
	__u64 val = value_fd;
	char key[512] = {};

	memcpy(key, &i, sizeof(i));
	return bpf_map_update_elem(fd, key, &val, BPF_ANY);
}

static int fill_lo(const struct type *t, int fd, __u32 i)
{
	__u32 ifindex = 1;

	return bpf_map_update_elem(fd, &i, &ifindex, BPF_ANY);
}

static int fill_cpus(const struct type *t, int fd, __u32 i)
{
	__u32 cpu, qsize = 16384;

	for (cpu = 0; cpu < nr_cpus; cpu++)
		if (bpf_map_update_elem(fd, &cpu, &qsize, BPF_ANY))
			return -1;
	return 0;
}

static int open_inner(void)
{
	return bpf_create_map(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0);
}

static int open_udp(void)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd >= 0 && bind(fd, (void *)&addr, sizeof(addr))) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static int open_xsk(void)
{
	return socket(AF_XDP, SOCK_RAW, 0);
}

static int open_event(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.config = PERF_COUNT_SW_BPF_OUTPUT,
		.size = sizeof(attr),
	};

	return syscall(__NR_perf_event_open, &attr, -1, 0, -1, 0);
}

static const struct type types[] = {
	{ "array", BPF_MAP_TYPE_ARRAY, 4, 4096, 1024, 0, 4 * MB },
	{ "array, mmapable", BPF_MAP_TYPE_ARRAY, 4, 4096, 1024,
	  BPF_F_MMAPABLE, 4 * MB },
	{ "array, small", BPF_MAP_TYPE_ARRAY, 4, 20000, 1, 0, 20000 },
	{ "percpu array", BPF_MAP_TYPE_PERCPU_ARRAY, 4, 4096, 512, 0,
	  2 * MB, .percpu = true },
	{ "prog array", BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 1 << 19, 0, 4 * MB },
	{ "perf event array", BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 1 << 19, 0,
	  4 * MB, 40, 8192, .fill = fill_fd, .value = open_event },
	{ "cgroup array", BPF_MAP_TYPE_CGROUP_ARRAY, 4, 4, 1 << 19, 0, 4 * MB },
	{ "array of maps", BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 1 << 19, 0,
	  4 * MB, .value = open_inner },
	{ "hash", BPF_MAP_TYPE_HASH, 4, 1024, 4096, 0, 4 * MB },
	{ "hash, dynamic", BPF_MAP_TYPE_HASH, 4, 1024, 4096,
	  BPF_F_NO_PREALLOC, 32768, 1024, 4096, .fill = fill_u32 },
	{ "percpu hash", BPF_MAP_TYPE_PERCPU_HASH, 4, 1024, 2048, 0,
	  2 * MB, .percpu = true },
	{ "percpu hash, dynamic", BPF_MAP_TYPE_PERCPU_HASH, 4, 1024, 2048,
	  BPF_F_NO_PREALLOC, 4096, 1024, 2048, .percpu = true,
	  .fill = fill_u32 },
	{ "hash of maps", BPF_MAP_TYPE_HASH_OF_MAPS, 4, 4, 1 << 16, 0,
	  2 * MB, .value = open_inner },
	/* few and large: each update waits for an RCU grace period */
	{ "hash of maps, dynamic", BPF_MAP_TYPE_HASH_OF_MAPS, 512, 4, 1 << 17,
	  BPF_F_NO_PREALLOC, BUCKETS(1 << 17), 528, 256, .fill = fill_fd,
	  .value = open_inner },
	{ "LRU hash", BPF_MAP_TYPE_LRU_HASH, 4, 1024, 4096, 0, 4 * MB },
	{ "LRU percpu hash", BPF_MAP_TYPE_LRU_PERCPU_HASH, 4, 1024, 2048, 0,
	  2 * MB, .percpu = true },
	{ "LRU hash, no common LRU", BPF_MAP_TYPE_LRU_HASH, 4, 1024, 4096,
	  BPF_F_NO_COMMON_LRU, 4 * MB },
	{ "LPM trie", BPF_MAP_TYPE_LPM_TRIE, 8, 1000, 4096,
	  BPF_F_NO_PREALLOC, 64, 1000, 4096, .fill = fill_prefix },
	{ "stack trace", BPF_MAP_TYPE_STACK_TRACE, 4, 127 * 8, 4096, 0, 4 * MB },
	{ "queue", BPF_MAP_TYPE_QUEUE, 0, 1024, 4096, 0, 4 * MB },
	{ "stack", BPF_MAP_TYPE_STACK, 0, 1024, 4096, 0, 4 * MB },
	{ "ring buffer", BPF_MAP_TYPE_RINGBUF, 0, 0, 4 * MB, 0, 4 * MB },
	{ "devmap", BPF_MAP_TYPE_DEVMAP, 4, 4, 1 << 16, 0, MB / 2, 64,
	  1 << 15, .fill = fill_lo },
	{ "devmap hash", BPF_MAP_TYPE_DEVMAP_HASH, 4, 4, 1 << 16, 0, MB / 2, 64,
	  1 << 15, .fill = fill_lo },
	{ "cpumap", BPF_MAP_TYPE_CPUMAP, 4, 4, 0, 0, 8, 131072, 1,
	  .percpu = true, .fill = fill_cpus },
	{ "sockmap", BPF_MAP_TYPE_SOCKMAP, 4, 4, 1 << 18, 0, 2 * MB, 32, 4096,
	  .fill = fill_fd, .value = open_udp },
	{ "sockhash", BPF_MAP_TYPE_SOCKHASH, 4, 4, 1 << 17, 0, BUCKETS(1 << 17),
	  64, 4096, .fill = fill_fd, .value = open_udp },
	{ "xskmap", BPF_MAP_TYPE_XSKMAP, 4, 4, 1 << 18, 0, 2 * MB, 32, 4096,
	  .fill = fill_fd, .value = open_xsk },
	{ "reuseport array", BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, 4, 4, 1 << 19, 0,
	  4 * MB },
};

static int create(const struct type *t, __u32 flags)
{
	struct bpf_create_map_attr attr = {
		.map_type = t->type,
		.key_size = t->key_size,
		.value_size = t->value_size,
		.max_entries = t->max_entries ? : nr_cpus,
		.map_flags = t->flags | flags,
		.inner_map_fd = value_fd,
	};
	int fd, err;

	if (t->type != BPF_MAP_TYPE_ARRAY_OF_MAPS &&
	    t->type != BPF_MAP_TYPE_HASH_OF_MAPS)
		attr.inner_map_fd = 0;
	CHECK(!memcg_enter(MEMCG_CREATOR), t->name, "enter: %m\n");
	fd = bpf_create_map_xattr(&attr);
	err = errno;
	CHECK(!memcg_leave(), t->name, "leave: %m\n");
	errno = err;
	return fd;
}

/* Puts elements in on behalf of another cgroup. Returns how many. */
static __u32 fill(const struct type *t, int fd)
{
	__u32 i;
	int err;

	if (!t->fill)
		return 0;
	CHECK(!memcg_enter(MEMCG_UPDATER), t->name, "enter: %m\n");
	for (i = 0; i < t->nr_fill; i++)
		if (t->fill(t, fd, i))
			break;
	err = errno;
	CHECK(!memcg_leave(), t->name, "leave: %m\n");
	errno = err;
	return i;
}

static void open_value(const struct type *t)
{
	if (!t->value)
		return;
	value_fd = t->value();
	CHECK(value_fd < 0, t->name, "value: %m\n");
}

/* Closes a map, and what was put in, which may hold the map. */
static void close_all(int fd)
{
	if (fd >= 0)
		close(fd);
	if (value_fd >= 0)
		close(value_fd);
	value_fd = -1;
}

/* What is charged to the creator is what the map tells, now and later, and not
 * less than what went in.
 */
static void check_charge(const struct type *t)
{
	long long before, other, charged, told, floor, words = 0;
	int cpus = t->percpu ? nr_cpus : 1, fd, i;
	bool kmem = memcg_kmem();

	before = memcg_charged(MEMCG_CREATOR);
	other = memcg_charged(MEMCG_UPDATER);
	open_value(t);
	fd = create(t, 0);
	CHECK(fd < 0, t->name, "create: %m\n");
	for (i = 0; i < 2; i++) {
		charged = memcg_charged(MEMCG_CREATOR) - before;
		told = read_fdinfo(fd, "memlock:\t");
		floor = (long long)t->created * cpus;
		if (i)
			floor += (long long)t->filled * t->nr_fill * cpus;
		CHECK(told < floor, t->name, "tells %lld of %lld bytes\n", told,
		      floor);
		/* the slab allocator notes in a word whose each object is; a
		 * prefix in a trie has up to two objects
		 */
		if (i)
			words = t->nr_fill * 2 * sizeof(void *);
		if (kmem)
			CHECK(charged < told - MEMCG_SLACK ||
			      charged > told + words + MEMCG_SLACK, t->name,
			      "charged %lld, tells %lld\n", charged, told);
		else
			CHECK(charged > MEMCG_SLACK, t->name,
			      "nokmem, charged %lld\n", charged);
		if (!t->fill || i)
			break;
		CHECK(fill(t, fd) != t->nr_fill, t->name, "fill: %m\n");
	}
	other = memcg_charged(MEMCG_UPDATER) - other;
	CHECK(other > MEMCG_SLACK, t->name, "updater charged %lld\n", other);
	close_all(fd);
	charged = memcg_wait(MEMCG_CREATOR, before + MEMCG_SLACK, 10000);
	CHECK(charged > before + MEMCG_SLACK, t->name, "%lld bytes leaked\n",
	      charged - before);
}

static void set_limit(const struct type *t, long long bytes)
{
	char line[32] = "max";

	if (bytes)
		snprintf(line, sizeof(line), "%lld", bytes);
	CHECK(!memcg_write(MEMCG_CREATOR, "memory.max", line), t->name,
	      "memory.max: %m\n");
}

/* At the limit -ENOMEM comes out, nothing is killed, nothing leaks. */
static void check_limit(const struct type *t)
{
	long long before, kills, charged, size;
	int cpus = t->percpu ? nr_cpus : 1, fd = -1;

	open_value(t);
	before = memcg_charged(MEMCG_CREATOR);
	kills = memcg_number(MEMCG_CREATOR, "memory.events", "oom_kill ");
	size = (long long)t->created * cpus;
	/* room for the task, which is there for a moment, but not for the map */
	if (size >= MB) {
		set_limit(t, before + size / 2);
		fd = create(t, 0);
		CHECK(fd >= 0 || errno != ENOMEM, t->name,
		      "created beyond the limit: fd %d, %m\n", fd);
		set_limit(t, 0);
	}
	if (t->fill) {
		fd = create(t, 0);
		CHECK(fd < 0, t->name, "create: %m\n");
		charged = memcg_charged(MEMCG_CREATOR);
		size = (long long)t->filled * t->nr_fill * cpus / 4;
		set_limit(t, charged + size);
		CHECK(fill(t, fd) == t->nr_fill || errno != ENOMEM, t->name,
		      "filled beyond the limit: %m\n");
		charged = memcg_number(MEMCG_CREATOR, "memory.current", "") -
			  charged;
		CHECK(charged > size, t->name, "charged %lld of %lld\n",
		      charged, size);
		set_limit(t, 0);
		/* the map is none the worse */
		CHECK(fill(t, fd) != t->nr_fill, t->name, "refill: %m\n");
	}
	close_all(fd);
	charged = memcg_wait(MEMCG_CREATOR, before + MEMCG_SLACK, 10000);
	CHECK(charged > before + MEMCG_SLACK, t->name, "%lld bytes leaked\n",
	      charged - before);
	kills = memcg_number(MEMCG_CREATOR, "memory.events", "oom_kill ") -
		kills;
	CHECK(kills, t->name, "%lld tasks killed\n", kills);
}

static void check_no_charge(const struct type *t)
{
	struct bpf_map_info info = {};
	__u32 len = sizeof(info);
	long long before, charged;
	int fd;

	before = memcg_charged(MEMCG_CREATOR);
	/* where a charged map would not fit */
	set_limit(t, before + MB / 2);
	open_value(t);
	fd = create(t, BPF_F_NO_CHARGE);
	CHECK(fd < 0, t->name, "create: %m\n");
	CHECK(fill(t, fd) != (t->fill ? t->nr_fill : 0), t->name, "fill: %m\n");
	charged = memcg_charged(MEMCG_CREATOR) - before;
	CHECK(charged > MEMCG_SLACK, t->name, "charged %lld\n", charged);
	charged = read_fdinfo(fd, "memlock:\t");
	CHECK(charged < (long long)t->created, t->name, "tells %lld\n", charged);
	CHECK(bpf_obj_get_info_by_fd(fd, &info, &len) ||
	      !(info.map_flags & BPF_F_NO_CHARGE), t->name, "flags %x\n",
	      info.map_flags);
	set_limit(t, 0);
	close_all(fd);
}

/* With kernel.bpf_force_dyn_alloc nothing of it is there after creation. */
static bool forced(const struct type *t)
{
	if (read_number("/proc/sys/kernel/bpf_force_dyn_alloc", "") != 1)
		return false;
	return (t->type == BPF_MAP_TYPE_HASH ||
		t->type == BPF_MAP_TYPE_PERCPU_HASH ||
		t->type == BPF_MAP_TYPE_HASH_OF_MAPS) &&
	       !(t->flags & BPF_F_NO_PREALLOC);
}

void test_map_memcg(void)
{
	const struct type *t;
	int i, err;

	err = memcg_setup(__func__);
	CHECK(err < 0, "cgroups", "%m\n");
	if (!err)
		return;
	nr_cpus = bpf_num_possible_cpus();
	if (has_kasan())
		printf("%s:SKIP:of charged maps: KASAN adds to objects, and keeps what was freed\n",
		       __func__);
	for (i = 0; i < ARRAY_SIZE(types); i++) {
		t = &types[i];
		if (forced(t)) {
			printf("%s: %s is dynamic here\n", __func__, t->name);
			continue;
		}
		if (!has_kasan()) {
			check_charge(t);
			if (memcg_kmem())
				check_limit(t);
		}
		check_no_charge(t);
	}
	memcg_cleanup();
	printf("%s:PASS\n", __func__);
}
