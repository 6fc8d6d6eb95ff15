// SPDX-License-Identifier: GPL-2.0
/* Sleepable programs may use all kinds of hash maps, per-CPU ones and maps of
 * maps, and what they look up stays as long as they look at it.
 */
#define _GNU_SOURCE
#include <test_progs.h>
#include "htab_helpers.h"
#include "htab_sleepable.skel.h"

#define NR_STEPS	256
#define NR_ELEMS	2000

static int duration;

static void load_program(const char *name, struct htab_sleepable **skelp)
{
	struct htab_sleepable *skel;
	int err;

	*skelp = NULL;
	if (!can_attach_fentry())
		return;
	skel = htab_sleepable__open();
	if (CHECK(!skel, "open", "skeleton failed to open\n"))
		return;
	autoload_only(skel->obj, &name, 1);
	err = htab_sleepable__load(skel) ? : htab_sleepable__attach(skel);
	if (CHECK(err, "load", "or attach %s: err %d\n", name, err)) {
		htab_sleepable__destroy(skel);
		return;
	}
	*skelp = skel;
}

/* A program's update writes the value of one CPU. */
static void test_percpu(const char *map)
{
	int fd, i, cpu, nr_cpus = bpf_num_possible_cpus(), bad = 0;
	struct htab_sleepable *skel;
	__u64 vals[nr_cpus], sum;
	char name[64];
	__u32 key;

	snprintf(name, sizeof(name), "step_%s", map);
	load_program(name, &skel);
	if (!skel)
		return;
	fd = bpf_object__find_map_fd_by_name(skel->obj, map);
	skel->bss->pid = getpid();
	for (i = 0; i < NR_STEPS; i++) {
		syscall(__NR_getpgid, 0);
		/* the map's worker alone makes more there */
		if (is_preempt_rt())
			usleep(1000);
	}
	skel->bss->pid = 0;
	CHECK(skel->bss->steps != NR_STEPS || skel->bss->fails, "steps",
	      "%u, %u failed, expected %d\n", skel->bss->steps,
	      skel->bss->fails, NR_STEPS);
	for (key = 0; key < NR_STEPS; key++) {
		sum = 0;
		if (bpf_map_lookup_elem(fd, &key, vals)) {
			bad++;
			continue;
		}
		for (cpu = 0; cpu < nr_cpus; cpu++)
			sum += vals[cpu];
		bad += sum != key + 1;
	}
	CHECK(bad, "contents", "%d of %d values wrong\n", bad, NR_STEPS);
	htab_sleepable__destroy(skel);
}

static void test_outer(const char *map)
{
	struct htab_sleepable *skel;
	int fd, i, bad = 0;
	char name[64];
	__u32 key;
	__u64 val;

	snprintf(name, sizeof(name), "step_%s", map);
	load_program(name, &skel);
	if (!skel)
		return;
	fd = bpf_map__fd(skel->maps.inner);
	skel->bss->pid = getpid();
	for (i = 0; i < NR_STEPS; i++)
		syscall(__NR_getpgid, 0);
	skel->bss->pid = 0;
	CHECK(skel->bss->steps != NR_STEPS || skel->bss->fails, "steps",
	      "%u, %u failed, expected %d\n", skel->bss->steps,
	      skel->bss->fails, NR_STEPS);
	for (key = 0; key < NR_STEPS; key++)
		bad += bpf_map_lookup_elem(fd, &key, &val) || val != key + 1;
	CHECK(bad, "contents", "%d of %d values wrong\n", bad, NR_STEPS);
	htab_sleepable__destroy(skel);
}

/* Load a sleepable program that refers to a map; returns the verdict. */
static int load_with(int map_fd, char *log, int log_size)
{
	struct bpf_insn insns[] = {
		BPF_LD_MAP_FD(BPF_REG_1, map_fd),
		BPF_MOV64_IMM(BPF_REG_0, 0),
		BPF_EXIT_INSN(),
	};
	struct bpf_load_program_attr attr = {
		.prog_type = BPF_PROG_TYPE_TRACING,
		.expected_attach_type = BPF_TRACE_FENTRY,
		.prog_flags = BPF_F_SLEEPABLE,
		.insns = insns,
		.insns_cnt = ARRAY_SIZE(insns),
		.license = "GPL",
		.log_level = 1,
	};
	int fd;

	log[0] = '\0';
	attr.attach_btf_id = libbpf_find_vmlinux_btf_id(SYS_PREFIX "getpgid",
							BPF_TRACE_FENTRY);
	fd = bpf_load_program_xattr(&attr, log, log_size);
	if (fd >= 0)
		close(fd);
	return fd < 0 ? -errno : 0;
}

/* Which maps a sleepable program may use, alone and as inner maps. */
static void test_verifier(void)
{
	static const struct {
		enum bpf_map_type type;
		__u32 key_size, value_size, flags;
		bool ok;
	} maps[] = {
		{ BPF_MAP_TYPE_HASH, 8, 8, 0, true },
		{ BPF_MAP_TYPE_HASH, 8, 8, BPF_F_NO_PREALLOC, true },
		{ BPF_MAP_TYPE_PERCPU_HASH, 8, 8, BPF_F_NO_PREALLOC, true },
		{ BPF_MAP_TYPE_LRU_HASH, 8, 8, 0, true },
		{ BPF_MAP_TYPE_LRU_PERCPU_HASH, 8, 8, 0, true },
		{ BPF_MAP_TYPE_ARRAY, 4, 8, 0, true },
		{ BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 0, true },
		{ BPF_MAP_TYPE_LPM_TRIE, 8, 8, BPF_F_NO_PREALLOC, true },
		{ BPF_MAP_TYPE_QUEUE, 0, 8, 0, false },
		{ BPF_MAP_TYPE_STACK_TRACE, 4, 8, 0, false },
	};
	static const char message[] =
		"Sleepable programs can only use array, hash, LPM trie and local storage maps";
	int i, fd, outer, err;
	char log[1024];

	for (i = 0; i < ARRAY_SIZE(maps); i++) {
		fd = bpf_create_map(maps[i].type, maps[i].key_size,
				    maps[i].value_size, 4, maps[i].flags);
		if (CHECK(fd < 0, "create", "type %d: errno %d\n",
			  maps[i].type, errno))
			continue;
		err = load_with(fd, log, sizeof(log));
		CHECK(maps[i].ok != !err, "load",
		      "with a map of type %d: %d, expected %s\n", maps[i].type,
		      err, maps[i].ok ? "to pass" : "to be refused");
		CHECK(!maps[i].ok && !strstr(log, message), "message",
		      "type %d: %s\n", maps[i].type, log);
		outer = bpf_create_map_in_map(BPF_MAP_TYPE_ARRAY_OF_MAPS, NULL,
					      4, fd, 1, 0);
		close(fd);
		/* not all may be inner maps */
		CHECK(maps[i].ok && outer < 0, "outer",
		      "with an inner map of type %d: errno %d\n", maps[i].type,
		      errno);
		if (outer < 0)
			continue;
		err = load_with(outer, log, sizeof(log));
		CHECK(maps[i].ok != !err, "load",
		      "with an inner map of type %d: %d, expected %s\n",
		      maps[i].type, err,
		      maps[i].ok ? "to pass" : "to be refused");
		CHECK(!maps[i].ok && !strstr(log, message), "message",
		      "inner type %d: %s\n", maps[i].type, log);
		close(outer);
	}
}

/* Elements of a map that wait for a grace period, < 0: not told. */
static int nr_waiting(int fd)
{
	return read_fdinfo(fd, "elems_waiting:");
}

/* Does nothing wait any more, within four seconds? */
static bool settles(int fd)
{
	int i;

	for (i = 0; i < 200 && nr_waiting(fd); i++)
		usleep(20000);
	return i < 200;
}

static int add_elems(int fd)
{
	__u32 key, err = 0;
	__u64 val;

	for (key = 0; key < NR_ELEMS; key++) {
		val = key + 1;
		err |= bpf_map_update_elem(fd, &key, &val, BPF_ANY);
	}
	return err;
}

static int del_elems(int fd)
{
	__u32 key, err = 0;

	for (key = 0; key < NR_ELEMS; key++)
		err |= bpf_map_delete_elem(fd, &key);
	return err;
}

static int create(void)
{
	return bpf_create_map(BPF_MAP_TYPE_HASH, sizeof(__u32), sizeof(__u64),
			      4096, BPF_F_NO_PREALLOC);
}

/* Have the program wait for a page, and so a grace period, until release() */
static bool hold(struct holder *h, struct htab_sleepable *skel)
{
	skel->bss->pid = getpid();
	return !CHECK(!hold_start(h, &skel->bss->hold_ptr, &skel->bss->held),
		      "hold", "no program waits\n");
}

static void release(struct holder *h)
{
	CHECK(hold_stop(h), "release", "errno %d\n", errno);
}

/* While a sleepable program is held: what @fd frees waits for it if @waits. */
static void check_waits(const char *what, int fd, bool waits)
{
	CHECK(del_elems(fd), what, "delete: errno %d\n", errno);
	if (waits) {
		/* many RCU grace periods */
		sleep(1);
		CHECK(nr_waiting(fd) < NR_ELEMS / 2, what,
		      "%d of %d elements wait, expected most\n", nr_waiting(fd),
		      NR_ELEMS);
	} else {
		CHECK(!settles(fd), what, "%d elements wait, expected none\n",
		      nr_waiting(fd));
	}
}

/* A sleepable program holds an element of an inner map that was inserted
 * before it was loaded (@slot 0) or after (@slot 1). Other maps are none of its
 * business.
 */
static void test_inner(const char *outer, __u32 slot)
{
	int fd, outer_fd, other = -1, reuser = -1;
	struct htab_sleepable *skel;
	struct holder h = {};
	char name[64];

	snprintf(name, sizeof(name), "hold_%s", outer);
	load_program(name, &skel);
	if (!skel)
		return;
	outer_fd = bpf_object__find_map_fd_by_name(skel->obj, outer);
	other = create();
	reuser = create();
	fd = slot ? create() : dup(bpf_map__fd(skel->maps.inner));
	if (CHECK(fd < 0 || other < 0 || reuser < 0, "create", "errno %d\n",
		  errno))
		goto out;
	if (slot && CHECK(bpf_map_update_elem(outer_fd, &slot, &fd, BPF_ANY),
			  "insert", "errno %d\n", errno))
		goto out;
	if (CHECK(add_elems(fd) || add_elems(other), "add", "errno %d\n",
		  errno))
		goto out;
	skel->bss->slot = slot;
	if (!hold(&h, skel))
		goto out;
	check_waits("held", fd, true);
	check_waits("other map", other, false);
	/* would get the memory if it were free */
	CHECK(add_elems(reuser), "add", "errno %d\n", errno);
	release(&h);
	CHECK(skel->bss->value_before != 1 || skel->bss->value_after != 1,
	      "value", "%llu then %llu, expected 1\n", skel->bss->value_before,
	      skel->bss->value_after);
	CHECK(!settles(fd), "released", "%d elements still wait\n",
	      nr_waiting(fd));
out:
	close(fd);
	close(other);
	close(reuser);
	htab_sleepable__destroy(skel);
}

/* An extension may run where its sleepable target does: what it uses waits,
 * though it is not marked sleepable itself.
 */
static void test_ext(void)
{
	struct bpf_object *target = NULL, *ext = NULL;
	struct htab_sleepable *skel;
	struct bpf_program *prog;
	struct holder h = {};
	int err, target_fd, map, inner;

	load_program("hold_outer_hash", &skel);
	if (!skel)
		return;
	err = bpf_prog_load("./test_pkt_access.o", BPF_PROG_TYPE_UNSPEC,
			    &target, &target_fd);
	if (CHECK(err, "target", "err %d\n", err))
		goto out;
	ext = bpf_object__open_file("./htab_sleepable_ext.o", NULL);
	if (CHECK(IS_ERR(ext), "open", "err %ld\n", PTR_ERR(ext))) {
		ext = NULL;
		goto out;
	}
	prog = bpf_program__next(NULL, ext);
	err = bpf_program__set_attach_target(prog, target_fd, "get_constant");
	err = err ? : bpf_object__load(ext);
	if (CHECK(err, "extension", "err %d\n", err))
		goto out;
	map = bpf_object__find_map_fd_by_name(ext, "ext_map");
	inner = bpf_object__find_map_fd_by_name(ext, "ext_inner");
	err = add_elems(bpf_map__fd(skel->maps.inner)) ? : add_elems(map) ? :
	      add_elems(inner);
	if (CHECK(err, "add", "errno %d\n", errno) || !hold(&h, skel))
		goto out;
	check_waits("map", map, true);
	check_waits("inner map", inner, true);
	release(&h);
out:
	bpf_object__close(ext);
	bpf_object__close(target);
	htab_sleepable__destroy(skel);
}

void test_htab_sleepable(void)
{
	if (test__start_subtest("verifier"))
		test_verifier();
	if (test__start_subtest("percpu_hash"))
		test_percpu("percpu_hash");
	if (test__start_subtest("lru_percpu_hash"))
		test_percpu("lru_percpu_hash");
	if (test__start_subtest("percpu_array"))
		test_percpu("percpu_array");
	if (test__start_subtest("outer_hash"))
		test_outer("outer_hash");
	if (test__start_subtest("outer_array"))
		test_outer("outer_array");
	if (test__start_subtest("hash_inserted_before"))
		test_inner("outer_hash", 0);
	if (test__start_subtest("hash_inserted_after"))
		test_inner("outer_hash", 1);
	if (test__start_subtest("array_inserted_before"))
		test_inner("outer_array", 0);
	if (test__start_subtest("array_inserted_after"))
		test_inner("outer_array", 1);
	if (test__start_subtest("extension"))
		test_ext();
}
