// SPDX-License-Identifier: GPL-2.0
/* Where the memory of socket and inode storage comes from: who can have it, when
 * it is used again, and what is left of it
 */
#define _GNU_SOURCE
#include <sys/wait.h>
#include <test_progs.h>
#include "cgroup_helpers.h"
#include "htab_helpers.h"
#include "network_helpers.h"
#include "storage_alloc.skel.h"

/* As in progs/storage_alloc.c */
#define WORDS		100
/* 928 bytes with the header, so of the class of 1024 bytes, with 8 in front */
#define ELEM_SIZE	1032
#define SLAB(name)	"/sys/kernel/slab/bpf_mem-1032/" name
#define NR		50

static int duration;
static __u64 value[WORDS];

static struct storage_alloc *load(const char *name, const char *other)
{
	const char *const names[] = { name, other };
	struct storage_alloc *skel;

	skel = storage_alloc__open();
	if (CHECK(!skel, "open", "errno %d\n", errno))
		return NULL;
	autoload_only(skel->obj, names, ARRAY_SIZE(names));
	if (CHECK(storage_alloc__load(skel), "load", "%s: errno %d\n", name,
		  errno)) {
		storage_alloc__destroy(skel);
		return NULL;
	}
	skel->bss->pid = getpid();
	return skel;
}

static void check_runs(struct storage_alloc *skel, const char *name)
{
	CHECK(!skel->bss->runs || skel->bss->fails || skel->bss->dirty, name,
	      "%u runs, %u failures, %u words not zero\n", skel->bss->runs,
	      skel->bss->fails, skel->bss->dirty);
}

static bool have_slab(const char *func)
{
	if (!access(SLAB("shrink"), F_OK))
		return true;
	printf("%s:SKIP:needs CONFIG_SLUB_DEBUG and slab_nomerge\n", func);
	test__skip();
	return false;
}

/* All there are, live or not, but for what slab itself keeps */
static long long slab_objects(void)
{
	write_file(SLAB("shrink"), "1");
	return read_number(SLAB("objects"), "");
}

static long long wait_objects(long long most)
{
	long long n;
	int i;

	for (i = 0; i < 250; i++) {
		n = slab_objects();
		if (n <= most)
			break;
		usleep(20000);
	}
	return n;
}

static bool wait_gone(const char *path)
{
	int i;

	for (i = 0; i < 250 && !access(path, F_OK); i++)
		usleep(20000);
	return access(path, F_OK);
}

static void test_run(bool cgroup)
{
	struct __sk_buff skb = {};
	struct bpf_prog_test_run_attr attr = {
		.data_in = &pkt_v4,
		.data_size_in = sizeof(pkt_v4),
		.ctx_in = &skb,
		.ctx_size_in = sizeof(skb),
		.repeat = 100,
	};
	const char *name = cgroup ? "cgroup_skb" : "tc";
	struct storage_alloc *skel;
	int err, i;

	skel = load(name, name);
	if (!skel)
		return;
	attr.prog_fd = bpf_program__fd(cgroup ? skel->progs.cgroup_skb :
						skel->progs.tc);
	/* with time for grace periods, so that objects are used again */
	for (i = 0; i < 40; i++) {
		attr.data_size_out = 0;
		attr.ctx_size_out = 0;
		err = bpf_prog_test_run_xattr(&attr);
		if (CHECK(err, "run", "error %d\n", err))
			break;
		usleep(20000);
	}
	check_runs(skel, name);
	storage_alloc__destroy(skel);
}

static struct bpf_program *prog_of(struct storage_alloc *skel, const char *name)
{
	return bpf_object__find_program_by_name(skel->obj, name);
}

/* Connects to itself, twice */
static void connections(void)
{
	int server, client, i;

	server = start_server(AF_INET, SOCK_STREAM, "127.0.0.1", 0, 0);
	if (CHECK(server < 0, "server", "errno %d\n", errno))
		return;
	for (i = 0; i < 2; i++) {
		client = connect_to_fd(server, 0);
		CHECK(client < 0, "connect", "errno %d\n", errno);
		close(client);
	}
	close(server);
}

static void test_cgroup(const char *name)
{
	struct storage_alloc *skel;
	struct bpf_link *link;
	int cgroup;

	cgroup = test__join_cgroup("/storage_alloc");
	if (CHECK(cgroup < 0, "cgroup", "errno %d\n", errno))
		return;
	skel = load(name, name);
	if (!skel)
		goto out;
	link = bpf_program__attach_cgroup(prog_of(skel, name), cgroup);
	if (CHECK(IS_ERR(link), "attach", "%ld\n", PTR_ERR(link)))
		goto destroy;
	connections();
	bpf_link__destroy(link);
	check_runs(skel, name);
destroy:
	storage_alloc__destroy(skel);
out:
	close(cgroup);
}

static bool attached(struct storage_alloc *skel, const char *name)
{
	struct bpf_link *link = bpf_program__attach(prog_of(skel, name));

	if (CHECK(IS_ERR(link), "attach", "%s: %ld\n", name, PTR_ERR(link)))
		return false;
	/* goes with the process that the program is limited to */
	if (!strcmp(name, "file_open"))
		skel->links.file_open = link;
	else if (!strcmp(name, "socket_bind"))
		skel->links.socket_bind = link;
	else if (!strcmp(name, "sigio"))
		skel->links.sigio = link;
	else if (!strcmp(name, "hold"))
		skel->links.hold = link;
	else
		skel->links.committed_creds = link;
	return true;
}

static void test_lsm(void)
{
	struct storage_alloc *skel;
	int fd, i;

	skel = load("file_open", "socket_bind");
	if (!skel)
		return;
	if (attached(skel, "file_open")) {
		for (i = 0; i < 100; i++) {
			fd = open("/proc/self/exe", O_RDONLY);
			close(fd);
		}
		check_runs(skel, "file_open");
	}
	skel->bss->runs = 0;
	if (attached(skel, "socket_bind")) {
		connections();
		check_runs(skel, "socket_bind");
	}
	storage_alloc__destroy(skel);
}

/* Runs a program that ends at once */
static void execute(struct storage_alloc *skel)
{
	int pipes[2];
	char c = 0;
	pid_t pid;

	if (CHECK(pipe(pipes), "pipe", "errno %d\n", errno))
		return;
	pid = fork();
	if (!pid) {
		if (read(pipes[0], &c, 1) == 1)
			execl("/bin/true", "true", NULL);
		exit(1);
	}
	skel->bss->exec_pid = pid;
	CHECK(write(pipes[1], &c, 1) != 1, "write", "errno %d\n", errno);
	waitpid(pid, NULL, 0);
	close(pipes[0]);
	close(pipes[1]);
}

static int add(int map, int *fds)
{
	int i, failed = 0;

	for (i = 0; i < NR; i++) {
		fds[i] = memfd_create("storage", 0);
		failed += !!bpf_map_update_elem(map, &fds[i], value, BPF_NOEXIST);
	}
	return failed;
}

static void close_all(const int *fds)
{
	int i;

	for (i = 0; i < NR; i++)
		close(fds[i]);
}

/* What a sleepable program may look at stays until that is over, and what is
 * added in the meantime is not in its place.
 */
static void test_sleepable(void)
{
	struct storage_alloc *skel;
	int map, fds[NR], more[NR];
	struct holder h = {};
	long long before, n;

	skel = load("committed_creds", "hold");
	if (!skel)
		return;
	if (!attached(skel, "committed_creds") || !attached(skel, "hold"))
		goto out;
	execute(skel);
	check_runs(skel, "committed_creds");
	if (!have_slab(__func__))
		goto out;
	map = bpf_map__fd(skel->maps.inode_map);
	CHECK(add(map, fds), "add", "errno %d\n", errno);
	before = wait_objects(NR);
	CHECK(before != NR, "before", "%lld objects\n", before);
	if (CHECK(!hold_start(&h, &skel->bss->hold_ptr, &skel->bss->held),
		  "hold", "no program waits\n"))
		goto out;
	close_all(fds);
	CHECK(add(map, more), "add", "errno %d\n", errno);
	sleep(1);
	n = slab_objects();
	CHECK(n < 2 * NR, "held", "%lld objects\n", n);
	CHECK(hold_stop(&h), "release", "errno %d\n", errno);
	n = wait_objects(NR);
	CHECK(n > NR, "after", "%lld objects\n", n);
	close_all(more);
	n = wait_objects(0);
	CHECK(n, "end", "%lld objects\n", n);
out:
	storage_alloc__destroy(skel);
}

/* An interrupt creates and deletes what system calls create and delete. It finds
 * the locks free.
 */
static void test_interrupt(void)
{
	struct storage_alloc *skel;
	int map, dir = -1, event = -1;
	__u64 end;

	skel = load("sigio", "sigio");
	if (!skel)
		return;
	if (!attached(skel, "sigio"))
		goto out;
	map = bpf_map__fd(skel->maps.inode_map);
	dir = open(".", O_RDONLY | O_DIRECTORY);
	signal(SIGIO, SIG_IGN);
	event = open_clock(0, -1, 2000);
	if (CHECK(dir < 0 || event < 0, "event", "errno %d\n", errno))
		goto out;
	if (CHECK(fcntl(event, F_SETOWN, getpid()) ||
		  fcntl(event, F_SETFL, O_ASYNC), "async", "errno %d\n", errno))
		goto out;
	end = now_ms() + 3000;
	while (now_ms() < end) {
		bpf_map_update_elem(map, &dir, value, BPF_ANY);
		bpf_map_delete_elem(map, &dir);
	}
	close(event);
	event = -1;
	CHECK(skel->bss->in_irq < 100, "irq", "%u times\n", skel->bss->in_irq);
	/* with interrupts off there may be none, but that is rare; and an other
	 * may be faster to create it
	 */
	CHECK(skel->bss->runs < skel->bss->in_irq / 2, "runs",
	      "%u of %u\n", skel->bss->runs, skel->bss->in_irq);
out:
	close(event);
	close(dir);
	signal(SIGIO, SIG_DFL);
	storage_alloc__destroy(skel);
}

/* 2 kB a CPU, be the map new or used; without a map nothing */
static void test_idle(void)
{
	long long objects, state, most, bytes, small;
	int cpus = libbpf_num_possible_cpus();
	int map, fds[NR], i;
	struct storage_alloc *skel;
	const char *other = "/sys/kernel/slab/bpf_mem-200/";
	char path[128];

	skel = load("file_open", "file_open");
	if (!skel)
		return;
	if (!have_slab(__func__))
		goto out;
	map = bpf_map__fd(skel->maps.inode_map);
	/* two classes, with a list for each CPU and what a pool is without
	 * objects
	 */
	state = read_number("/sys/kernel/slab/bpf_mem_cache/object_size", "");
	if (CHECK(state <= 0, "state", "errno %d\n", errno))
		goto out;
	most = 2048 * cpus - 2 * (state + 64 * cpus + 64);
	for (i = 0; i < 5; i++) {
		objects = slab_objects();
		snprintf(path, sizeof(path), "%sshrink", other);
		write_file(path, "1");
		snprintf(path, sizeof(path), "%sobjects", other);
		small = read_number(path, "");
		bytes = objects * ELEM_SIZE + small * 200;
		printf("%d: %lld and %lld objects, %lld bytes of %d\n", i,
		       objects, small, 2048 * cpus - most + bytes, 2048 * cpus);
		CHECK(bytes > most, "idle", "%lld bytes, expected %lld at most\n",
		      bytes, most);
		CHECK(add(map, fds), "add", "errno %d\n", errno);
		close_all(fds);
		wait_objects(0);
	}
out:
	storage_alloc__destroy(skel);
	if (!access(SLAB("objects"), F_OK))
		CHECK(!wait_gone(SLAB("objects")), "gone", "still there\n");
}

static int create(enum bpf_map_type type, struct storage_alloc *skel, int size)
{
	struct bpf_create_map_attr attr = {
		.map_type = type,
		.map_flags = BPF_F_NO_PREALLOC,
		.key_size = sizeof(int),
		.value_size = size,
	};
	struct bpf_map *like = skel->maps.inode_map;

	attr.btf_fd = bpf_object__btf_fd(skel->obj);
	attr.btf_key_type_id = bpf_map__btf_key_type_id(like);
	/* the type of a value is as large as the value: a byte array */
	attr.btf_value_type_id = bpf_map__btf_value_type_id(like);
	return bpf_create_map_xattr(&attr);
}

/* fdinfo tells what elements take; a socket's limit is an error, and ends */
static void test_limits(void)
{
	struct storage_alloc *skel;
	int fds[NR], map, big, sk, i, err = 0, maps[64];
	static __u64 big_value[1000];
	long long before, after;
	char path[64];

	skel = load("file_open", "file_open");
	if (!skel)
		return;
	map = bpf_map__fd(skel->maps.inode_map);
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", map);
	before = read_number(path, "memlock:\t");
	CHECK(add(map, fds), "add", "errno %d\n", errno);
	after = read_number(path, "memlock:\t");
	CHECK(after - before != NR * ELEM_SIZE, "memlock", "%lld for %d\n",
	      after - before, NR);
	close_all(fds);
	CHECK(read_number(path, "memlock:\t") != before, "closed", "%lld\n",
	      read_number(path, "memlock:\t"));

	/* from kmalloc() */
	big = bpf_map__fd(skel->maps.big_map);
	fds[0] = memfd_create("storage", 0);
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", big);
	before = read_number(path, "memlock:\t");
	CHECK(bpf_map_update_elem(big, &fds[0], big_value, BPF_NOEXIST) ||
	      bpf_map_update_elem(big, &fds[0], big_value, BPF_EXIST),
	      "big", "errno %d\n", errno);
	after = read_number(path, "memlock:\t");
	CHECK(after - before < (int)sizeof(big_value), "big", "%lld\n",
	      after - before);
	CHECK(bpf_map_delete_elem(big, &fds[0]), "big", "errno %d\n", errno);
	close(fds[0]);

	/* 20 kB of sysctl net.core.optmem_max, or more */
	sk = socket(AF_INET, SOCK_DGRAM, 0);
	for (i = 0; i < ARRAY_SIZE(maps) && !err; i++) {
		maps[i] = create(BPF_MAP_TYPE_SK_STORAGE, skel, sizeof(value));
		if (CHECK(maps[i] < 0, "create", "errno %d\n", errno))
			break;
		err = bpf_map_update_elem(maps[i], &sk, value, BPF_NOEXIST) ?
		      -errno : 0;
	}
	CHECK(err != -ENOMEM, "optmem", "%d maps, error %d\n", i, err);
	/* maps go before what has their elements, and after it */
	while (i--) {
		if (i == 4)
			close(sk);
		close(maps[i]);
	}
	storage_alloc__destroy(skel);
}

void test_storage_alloc(void)
{
	if (test__start_subtest("cgroup_skb"))
		test_run(true);
	if (test__start_subtest("tc"))
		test_run(false);
	if (test__start_subtest("connect4"))
		test_cgroup("connect4");
	if (test__start_subtest("sock_ops"))
		test_cgroup("sock_ops");
	if (test__start_subtest("sock_create"))
		test_cgroup("sock_create");
	if (test__start_subtest("lsm"))
		test_lsm();
	if (test__start_subtest("sleepable"))
		test_sleepable();
	if (test__start_subtest("interrupt"))
		test_interrupt();
	if (test__start_subtest("idle"))
		test_idle();
	if (test__start_subtest("limits"))
		test_limits();
}
