// SPDX-License-Identifier: GPL-2.0
/* The sysctl kernel.bpf_force_dyn_alloc: hash maps are dynamic, whatever their
 * flags say, and nobody who looks at these notices.
 */
#define _GNU_SOURCE
#include <sys/stat.h>
#include <test_progs.h>
#include "htab_helpers.h"

#define SYSCTL	"/proc/sys/kernel/bpf_force_dyn_alloc"
#define PIN	"/sys/fs/bpf/htab_force_dyn"
#define NR	64

static int duration;

static int set_force(const char *value)
{
	int fd = open(SYSCTL, O_WRONLY), err = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, value, strlen(value)) < 0)
		err = -errno;
	close(fd);
	return err;
}

static char get_force(void)
{
	int fd = open(SYSCTL, O_RDONLY);
	char c = 0;

	if (read(fd, &c, 1) != 1)
		c = 0;
	close(fd);
	return c;
}

static int create(enum bpf_map_type type, __u32 flags)
{
	int fd, inner;

	if (type != BPF_MAP_TYPE_HASH_OF_MAPS)
		return bpf_create_map(type, sizeof(__u32), sizeof(__u64), NR,
				      flags);
	inner = bpf_create_map(BPF_MAP_TYPE_HASH, sizeof(__u32), sizeof(__u64),
			       NR, 0);
	fd = bpf_create_map_in_map(type, NULL, sizeof(__u32), inner, NR, flags);
	close(inner);
	return fd;
}

/* What fdinfo says: 1 or 0, < 0: nothing */
static int is_prealloc(int fd)
{
	return read_fdinfo(fd, "prealloc:");
}

static void test_values(void)
{
	static const char *const bad[] = { "2", "-1", "x" };
	struct stat st;
	char before;
	int i;

	CHECK(stat(SYSCTL, &st) || (st.st_mode & 07777) != 0600, "mode",
	      "%o, expected 600\n", st.st_mode & 07777);
	CHECK(set_force("1") || get_force() != '1', "1", "not taken\n");
	CHECK(set_force("0") || get_force() != '0', "0", "not taken\n");
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		before = get_force();
		CHECK(set_force(bad[i]) != -EINVAL || get_force() != before,
		      "bad value", "%s was taken\n", bad[i]);
	}
}

static void test_types(void)
{
	static const struct {
		enum bpf_map_type type;
		__u32 flags;
		int prealloc[2];	/* not forced, forced; < 0: not told */
	} maps[] = {
		{ BPF_MAP_TYPE_HASH, 0, { 1, 0 } },
		{ BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC, { 0, 0 } },
		{ BPF_MAP_TYPE_PERCPU_HASH, 0, { 1, 0 } },
		{ BPF_MAP_TYPE_PERCPU_HASH, BPF_F_NO_PREALLOC, { 0, 0 } },
		{ BPF_MAP_TYPE_HASH_OF_MAPS, 0, { 1, 0 } },
		{ BPF_MAP_TYPE_HASH_OF_MAPS, BPF_F_NO_PREALLOC, { 0, 0 } },
		{ BPF_MAP_TYPE_LRU_HASH, 0, { -1, -1 } },
		{ BPF_MAP_TYPE_LRU_PERCPU_HASH, 0, { -1, -1 } },
	};
	struct bpf_map_info info;
	__u32 len;
	int i, force, fd;

	for (i = 0; i < 2 * ARRAY_SIZE(maps); i++) {
		int m = i / 2;

		force = i % 2;
		set_force(force ? "1" : "0");
		fd = create(maps[m].type, maps[m].flags);
		if (CHECK(fd < 0, "create", "type %d flags %x: errno %d\n",
			  maps[m].type, maps[m].flags, errno))
			continue;
		/* the choice was made when the map was */
		set_force(force ? "0" : "1");
		CHECK(is_prealloc(fd) != maps[m].prealloc[force], "fdinfo",
		      "type %d flags %x force %d: prealloc %d, expected %d\n",
		      maps[m].type, maps[m].flags, force, is_prealloc(fd),
		      maps[m].prealloc[force]);
		len = sizeof(info);
		memset(&info, 0, len);
		CHECK(bpf_obj_get_info_by_fd(fd, &info, &len) ||
		      info.map_flags != maps[m].flags, "flags",
		      "type %d: %x, expected %x\n", maps[m].type,
		      info.map_flags, maps[m].flags);
		close(fd);
	}
}

/* It takes max_entries elements and not one more. */
static void test_full(void)
{
	__u64 val = 0;
	int fd, err;
	__u32 key;

	set_force("1");
	fd = create(BPF_MAP_TYPE_HASH, 0);
	if (CHECK(fd < 0, "create", "errno %d\n", errno))
		return;
	for (key = 0; key < NR; key++) {
		err = bpf_map_update_elem(fd, &key, &val, BPF_NOEXIST);
		if (CHECK(err, "update", "key %u: errno %d\n", key, errno))
			break;
	}
	err = bpf_map_update_elem(fd, &key, &val, BPF_NOEXIST);
	CHECK(!err || errno != E2BIG, "update", "one more: errno %d\n", errno);
	key = 0;
	err = bpf_map_update_elem(fd, &key, &val, BPF_EXIST);
	CHECK(err, "replace", "at the limit: errno %d\n", errno);
	close(fd);
}

/* A map that was pinned before a change is used again after it. */
static void test_pinned(bool force)
{
	struct bpf_object *obj[2] = {};
	__u32 id[2] = {}, key = 1;
	__u64 val = 2;
	int i, fd;

	unlink(PIN);
	for (i = 0; i < 2; i++) {
		set_force(i == force ? "0" : "1");
		obj[i] = bpf_object__open_file("./htab_force_dyn.o", NULL);
		if (CHECK(IS_ERR(obj[i]), "open", "err %ld\n",
			  PTR_ERR(obj[i]))) {
			obj[i] = NULL;
			goto out;
		}
		if (CHECK(bpf_object__load(obj[i]), "load",
			  "%s time: errno %d\n", i ? "second" : "first", errno))
			goto out;
		fd = bpf_object__find_map_fd_by_name(obj[i], "htab_force_dyn");
		id[i] = map_id(fd);
		CHECK(is_prealloc(fd) != !force, "prealloc",
		      "%d, expected %d\n", is_prealloc(fd), !force);
		if (!i)
			bpf_map_update_elem(fd, &key, &val, BPF_ANY);
		val = 0;
		CHECK(bpf_map_lookup_elem(fd, &key, &val) || val != 2,
		      "contents", "%llu, expected 2\n", val);
	}
	CHECK(!id[0] || id[0] != id[1], "reuse", "ids %u and %u\n", id[0],
	      id[1]);
out:
	unlink(PIN);
	bpf_object__close(obj[0]);
	bpf_object__close(obj[1]);
}

/* An inner map from before a change goes into an outer one from after it. */
static void test_inner(bool force)
{
	int outer, inner, err;
	__u32 key = 0;

	set_force(force ? "1" : "0");
	inner = create(BPF_MAP_TYPE_HASH, 0);
	set_force(force ? "0" : "1");
	outer = create(BPF_MAP_TYPE_HASH_OF_MAPS, 0);
	if (!CHECK(inner < 0 || outer < 0, "create", "errno %d\n", errno)) {
		CHECK(is_prealloc(inner) != !force, "prealloc",
		      "inner: %d, expected %d\n", is_prealloc(inner), !force);
		CHECK(is_prealloc(outer) != force, "prealloc",
		      "outer: %d, expected %d\n", is_prealloc(outer), force);
		err = bpf_map_update_elem(outer, &key, &inner, BPF_ANY);
		CHECK(err, "insert", "errno %d\n", errno);
	}
	close(inner);
	close(outer);
}

void test_htab_force_dyn(void)
{
	char before = get_force(), value[2] = { before };

	if (CHECK(!before, "sysctl", "%s: errno %d\n", SYSCTL, errno))
		return;
	if (test__start_subtest("values"))
		test_values();
	if (test__start_subtest("types"))
		test_types();
	if (test__start_subtest("full"))
		test_full();
	if (test__start_subtest("pinned_before"))
		test_pinned(false);
	if (test__start_subtest("pinned_forced"))
		test_pinned(true);
	if (test__start_subtest("inner_before"))
		test_inner(false);
	if (test__start_subtest("inner_forced"))
		test_inner(true);
	set_force(value);
}
