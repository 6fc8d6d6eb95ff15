// SPDX-License-Identifier: GPL-2.0
/* Cgroup storage is shared by programs of different types that are attached to
 * one cgroup, outlasts their detaching, and is charged to the creator of its
 * map.
 */
#define _GNU_SOURCE
#include <sys/socket.h>
#include <netinet/in.h>
#include <test_progs.h>
#include "htab_helpers.h"
#include "memcg_helpers.h"
#include "progs/cg_storage_shared.h"
#include "cg_storage_shared.skel.h"

#define NR_CGROUPS	16

static int duration;

static int attach(struct cg_storage_shared *skel, int cgroup)
{
	return bpf_prog_attach(bpf_program__fd(skel->progs.write_storage),
			       cgroup, BPF_CGROUP_SETSOCKOPT, 0) ?:
	       bpf_prog_attach(bpf_program__fd(skel->progs.read_storage),
			       cgroup, BPF_CGROUP_INET4_CONNECT, 0);
}

static int detach(int cgroup)
{
	return bpf_prog_detach(cgroup, BPF_CGROUP_SETSOCKOPT) ?:
	       bpf_prog_detach(cgroup, BPF_CGROUP_INET4_CONNECT);
}

static int write_number(__u32 number)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0), err;

	err = setsockopt(fd, SHARED_LEVEL, 1, &number, sizeof(number));
	close(fd);
	return err;
}

static int connect_out(void)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons(9),
	};
	int fd = socket(AF_INET, SOCK_DGRAM, 0), err;

	err = connect(fd, (void *)&addr, sizeof(addr));
	close(fd);
	return err;
}

static void check_seen(struct cg_storage_shared *skel, const char *when,
		       __u32 number)
{
	skel->bss->seen = 0;
	skel->bss->seen_percpu = 0;
	CHECK(connect_out(), when, "connect: errno %d\n", errno);
	CHECK(skel->bss->seen != number || skel->bss->seen_percpu != 2 * number,
	      when, "found %x, percpu %x for %x\n", skel->bss->seen,
	      skel->bss->seen_percpu, number);
}

static void test_shared(struct cg_storage_shared *skel)
{
	int cgroup = open(MEMCG_UPDATER, O_RDONLY | O_DIRECTORY);
	cpu_set_t old;

	if (CHECK(cgroup < 0, "open", "errno %d\n", errno))
		return;
	sched_getaffinity(0, sizeof(old), &old);
	if (CHECK(pin(0) || !memcg_enter(MEMCG_UPDATER), "enter", "errno %d\n",
		  errno))
		goto out;
	CHECK(attach(skel, cgroup), "attach", "errno %d\n", errno);
	check_seen(skel, "at first", 0);
	CHECK(write_number(0x12345678) || skel->bss->wrote != 1, "write",
	      "errno %d\n", errno);
	check_seen(skel, "written", 0x12345678);

	/* the storage stays, with what is in it */
	CHECK(detach(cgroup), "detach", "errno %d\n", errno);
	CHECK(!write_number(1), "detached", "setsockopt() succeeded\n");
	CHECK(attach(skel, cgroup), "reattach", "errno %d\n", errno);
	check_seen(skel, "reattached", 0x12345678);
	CHECK(write_number(0x9abcdef0), "write again", "errno %d\n", errno);
	check_seen(skel, "written again", 0x9abcdef0);
	CHECK(detach(cgroup), "detach", "errno %d\n", errno);
out:
	memcg_leave();
	sched_setaffinity(0, sizeof(old), &old);
	close(cgroup);
}

static long long told(struct cg_storage_shared *skel)
{
	return read_fdinfo(bpf_map__fd(skel->maps.shared), "memlock:\t") +
	       read_fdinfo(bpf_map__fd(skel->maps.percpu), "memlock:\t");
}

/* Who attaches is not who is charged. */
static void test_charged(struct cg_storage_shared *skel)
{
	long long before, other, held, charged;
	int cgroups[NR_CGROUPS], i, err = 0;
	char path[64];

	for (i = 0; i < NR_CGROUPS; i++) {
		snprintf(path, sizeof(path), "%s/%d", MEMCG_OTHER, i);
		err |= mkdir(path, 0755);
		cgroups[i] = open(path, O_RDONLY | O_DIRECTORY);
	}
	if (CHECK(err, "mkdir", "errno %d\n", errno))
		return;
	before = memcg_settled(MEMCG_CREATOR);
	other = memcg_charged(MEMCG_UPDATER);
	held = told(skel);
	memcg_enter(MEMCG_UPDATER);
	for (i = 0; !err && i < NR_CGROUPS; i++)
		err = attach(skel, cgroups[i]);
	memcg_leave();
	CHECK(err, "attach", "errno %d\n", errno);
	charged = memcg_charged(MEMCG_CREATOR) - before;
	held = told(skel) - held;
	other = memcg_charged(MEMCG_UPDATER) - other;
	CHECK(held < NR_CGROUPS * sizeof(struct shared_value) *
		     (1 + bpf_num_possible_cpus()),
	      "memlock", "%lld\n", held);
	if (memcg_kmem())
		CHECK(charged < held - MEMCG_SLACK ||
		      charged > held + MEMCG_SLACK, "creator",
		      "charged %lld, holds %lld\n", charged, held);
	else
		CHECK(charged > MEMCG_SLACK, "nokmem", "charged %lld\n",
		      charged);
	CHECK(other > MEMCG_SLACK, "updater", "charged %lld\n", other);
	for (i = 0; i < NR_CGROUPS; i++) {
		detach(cgroups[i]);
		close(cgroups[i]);
		snprintf(path, sizeof(path), "%s/%d", MEMCG_OTHER, i);
		rmdir(path);
	}
	charged = memcg_wait(MEMCG_CREATOR, before + MEMCG_SLACK, 10000);
	CHECK(charged > before + MEMCG_SLACK, "leak", "%lld bytes\n",
	      charged - before);
}

void test_cg_storage_shared(void)
{
	struct cg_storage_shared *skel = NULL;
	int err;

	if (!memcg_ready(memcg_setup(__func__)))
		return;
	skel = cg_storage_shared__open();
	if (CHECK(!skel, "open", "errno %d\n", errno))
		goto out;
	memcg_enter(MEMCG_CREATOR);
	err = cg_storage_shared__load(skel);
	memcg_leave();
	if (CHECK(err, "load", "err %d\n", err))
		goto out;
	if (test__start_subtest("shared"))
		test_shared(skel);
	if (test__start_subtest("charged"))
		test_charged(skel);
out:
	cg_storage_shared__destroy(skel);
	memcg_cleanup();
}
