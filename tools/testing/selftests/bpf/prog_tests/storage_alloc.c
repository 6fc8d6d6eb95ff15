// SPDX-License-Identifier: GPL-2.0
/* Where the memory of socket and inode storage comes from: who can have it, when
 * it is used again, and what is left of it
 */
#define _GNU_SOURCE
#include <sys/resource.h>
#include <sys/wait.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <test_progs.h>
#include "cgroup_helpers.h"
#include "htab_helpers.h"
#include "memcg_helpers.h"
#include "network_helpers.h"
#include "storage_alloc.skel.h"
#include "storage_tcp_ca.skel.h"

/* As in progs/storage_alloc.h */
#define WORDS		100
#define SK_WORDS	8
/* 928 bytes with the header, so of the class of 1024 bytes, with 8 in front */
#define ELEM_SIZE	1032
#define SLAB(name)	"/sys/kernel/slab/bpf_mem-1032/" name
#define NR		50
#define MB		(1024 * 1024)

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

static void check_results(const char *name, __u32 runs, __u32 fails, __u32 dirty)
{
	CHECK(!runs || fails || dirty, name,
	      "%u runs, %u failures, %u words not zero\n", runs, fails, dirty);
}

static void check_runs(struct storage_alloc *skel, const char *name)
{
	check_results(name, skel->bss->runs, skel->bss->fails, skel->bss->dirty);
}

static bool have_slab(const char *func)
{
	const char *why = "needs CONFIG_SLUB_DEBUG and slab_nomerge";

	/* of the base: shrink waits for CPUs, kmem_cache_destroy() for shrink */
	if (!access("/proc/lockdep", F_OK))
		why = "lockdep complains of shrink";
	else if (!access(SLAB("shrink"), F_OK))
		return true;
	printf("%s:SKIP:%s\n", func, why);
	test__skip();
	return false;
}

/* All there are of @size, live or not, but for what slab itself keeps; or -1 */
static long long objects_of(int size)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/kernel/slab/bpf_mem-%d/shrink", size);
	write_file(path, "1");
	snprintf(path, sizeof(path), "/sys/kernel/slab/bpf_mem-%d/objects", size);
	return read_number(path, "");
}

static long long slab_objects(void)
{
	return objects_of(ELEM_SIZE);
}

static long long wait_objects(long long most)
{
	long long n;
	int i;

	for (i = 0; i < 1500; i++) {
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

	for (i = 0; i < 1500 && !access(path, F_OK); i++)
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
	int server, client, i, val;
	socklen_t len;

	server = start_server(AF_INET, SOCK_STREAM, "127.0.0.1", 0, 0);
	if (CHECK(server < 0, "server", "errno %d\n", errno))
		return;
	for (i = 0; i < 2; i++) {
		client = connect_to_fd(server, 0);
		CHECK(client < 0, "connect", "errno %d\n", errno);
		len = sizeof(val);
		getsockopt(client, SOL_SOCKET, SO_TYPE, &val, &len);
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

/* What sockets send that are in a map */
static void test_sk_msg(void)
{
	struct storage_alloc *skel;
	int server, client, peer, sockmap, prog, i, zero = 0;

	skel = load("msg_verdict", "msg_verdict");
	if (!skel)
		return;
	sockmap = bpf_create_map(BPF_MAP_TYPE_SOCKMAP, sizeof(int), sizeof(int),
				 1, 0);
	prog = bpf_program__fd(skel->progs.msg_verdict);
	server = start_server(AF_INET, SOCK_STREAM, "127.0.0.1", 0, 0);
	client = connect_to_fd(server, 0);
	peer = accept(server, NULL, NULL);
	if (CHECK(sockmap < 0 || peer < 0, "sockets", "errno %d\n", errno))
		goto out;
	if (CHECK(bpf_prog_attach(prog, sockmap, BPF_SK_MSG_VERDICT, 0) ||
		  bpf_map_update_elem(sockmap, &zero, &client, BPF_NOEXIST),
		  "attach", "errno %d\n", errno))
		goto out;
	for (i = 0; i < 10; i++)
		CHECK(send(client, &zero, sizeof(zero), 0) != sizeof(zero),
		      "send", "errno %d\n", errno);
	check_runs(skel, "msg_verdict");
	bpf_prog_detach2(prog, sockmap, BPF_SK_MSG_VERDICT);
out:
	close(peer);
	close(client);
	close(server);
	close(sockmap);
	storage_alloc__destroy(skel);
}

static void test_tcp_ca(void)
{
	struct sockaddr_storage addr;
	struct storage_tcp_ca *skel;
	struct bpf_link *link;
	int server, sk, i;
	socklen_t len;

	if (!can_attach_fentry())
		return;
	skel = storage_tcp_ca__open_and_load();
	if (CHECK(!skel, "load", "errno %d\n", errno))
		return;
	link = bpf_map__attach_struct_ops(skel->maps.storage_ca);
	if (CHECK(IS_ERR(link), "attach", "%ld\n", PTR_ERR(link)))
		goto out;
	server = start_server(AF_INET, SOCK_STREAM, "127.0.0.1", 0, 0);
	len = sizeof(addr);
	if (CHECK(server < 0 || getsockname(server, (void *)&addr, &len),
		  "server", "errno %d\n", errno))
		goto close;
	for (i = 0; i < 10; i++) {
		sk = socket(AF_INET, SOCK_STREAM, 0);
		CHECK(setsockopt(sk, IPPROTO_TCP, TCP_CONGESTION, "bpf_storage",
				 strlen("bpf_storage")) ||
		      connect(sk, (void *)&addr, len), "connect", "errno %d\n",
		      errno);
		close(accept(server, NULL, NULL));
		close(sk);
	}
close:
	close(server);
	bpf_link__destroy(link);
	check_results("tcp_ca", skel->bss->runs, skel->bss->fails,
		      skel->bss->dirty);
out:
	storage_tcp_ca__destroy(skel);
}

static bool attached(struct storage_alloc *skel, const char *name)
{
	struct bpf_link *link = bpf_program__attach(prog_of(skel, name));
	struct bpf_object_skeleton *skeleton = skel->skeleton;
	int i;

	if (CHECK(IS_ERR(link), "attach", "%s: %ld\n", name, PTR_ERR(link)))
		return false;
	for (i = 0; i < skeleton->prog_cnt; i++)
		if (!strcmp(skeleton->progs[i].name, name))
			*skeleton->progs[i].link = link;
	return true;
}

static void test_lsm(void)
{
	struct storage_alloc *skel;
	int fd, i;

	if (!can_attach_fentry())
		return;
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

static void open_all(int *fds)
{
	int i;

	for (i = 0; i < NR; i++)
		fds[i] = memfd_create("storage", 0);
}

static int add(int map, int *fds)
{
	int i, failed = 0;

	open_all(fds);
	for (i = 0; i < NR; i++)
		failed += !!bpf_map_update_elem(map, &fds[i], value, BPF_NOEXIST);
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

	if (!can_attach_fentry())
		return;
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
		  "hold", "no program waits\n")) {
		close_all(fds);
		goto out;
	}
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

static void call_listen(struct holder *h)
{
	listen(h->fd, 1);
}

/* A value that a sleepable program has found is that of no other socket before
 * the program is done.
 */
static void test_sleepable_sk(void)
{
	static const __u64 other[SK_WORDS] = { [0 ... SK_WORDS - 1] = 2 };
	struct holder h = { .call = call_listen };
	struct storage_alloc *skel;
	int map, sk, i;
	__u64 end;

	if (!can_attach_fentry())
		return;
	skel = load("socket_bind_s", "socket_listen");
	if (!skel)
		return;
	if (!attached(skel, "socket_bind_s") || !attached(skel, "socket_listen"))
		goto out;
	connections();
	check_runs(skel, "socket_bind_s");
	skel->bss->runs = 0;

	map = bpf_map__fd(skel->maps.sk_map);
	sk = socket(AF_INET, SOCK_STREAM, 0);
	h.fd = socket(AF_INET, SOCK_STREAM, 0);
	if (CHECK(!hold_start(&h, &skel->bss->hold_ptr, &skel->bss->held),
		  "hold", "no program waits\n"))
		goto close;
	CHECK(bpf_map_delete_elem(map, &h.fd), "delete", "errno %d\n", errno);
	end = now_ms() + 1000;
	for (i = 0; now_ms() < end; i++) {
		if (CHECK(bpf_map_update_elem(map, &sk, other, BPF_NOEXIST) ||
			  bpf_map_delete_elem(map, &sk), "other", "errno %d\n",
			  errno))
			break;
		if (!(i % 64))
			usleep(1000);
	}
	CHECK(hold_stop(&h), "release", "errno %d\n", errno);
	check_runs(skel, "socket_listen");
close:
	close(h.fd);
	close(sk);
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

	if (!can_attach_fentry())
		return;
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
	/* with interrupts off there may be none, but that is rare; and another
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

/* Bytes of objects of all sizes, used or not, but for what slab itself keeps */
static long long all_bytes(void)
{
	static const int sizes[] = { 96, 128, 192, 256, 512, 1024, 2048,
				      4096 };
	long long n, bytes = 0;
	int i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		n = objects_of(sizes[i] + 8);
		if (n < 0)
			return -1;
		bytes += n * (sizes[i] + 8);
	}
	return bytes;
}

static void add_all(struct storage_alloc *skel, int *fds, __u64 flags, int err)
{
	struct bpf_map *maps[] = {
		skel->maps.inode_map, skel->maps.inode_map_96,
		skel->maps.inode_map_128, skel->maps.inode_map_256,
		skel->maps.inode_map_512, skel->maps.inode_map_2048,
		skel->maps.inode_map_4096,
	};
	static __u8 values[4096];
	int i, failed = 0;

	for (i = 0; i < ARRAY_SIZE(maps) * NR; i++) {
		if (bpf_map_update_elem(bpf_map__fd(maps[i % ARRAY_SIZE(maps)]),
					&fds[i / ARRAY_SIZE(maps)], values,
					flags) ? errno != err : err)
			failed++;
	}
	CHECK(failed, "update", "%d times not %d\n", failed, err);
}

/* 2 kB a CPU for all sizes together, 3.5 kB on a machine with one, be the maps new or
 * used, or in vain; without a map nothing
 */
static void test_idle(void)
{
	int cpus = libbpf_num_possible_cpus(), fds[NR], i, j;
	struct storage_alloc *skel;
	long long state, limit, most, bytes = 0;
	cpu_set_t old;

	if (sizeof(long) != 8) {
		printf("%s:SKIP:knows the sizes of 64-bit machines\n", __func__);
		test__skip();
		return;
	}
	skel = load("file_open", "file_open");
	if (!skel)
		return;
	if (!have_slab(__func__))
		goto out;
	/* eight sizes, with a list for each CPU and what a pool is without objects */
	state = read_number("/sys/kernel/slab/bpf_mem_cache/object_size", "");
	if (CHECK(state <= 0, "state", "errno %d\n", errno))
		goto out;
	state = 8 * (state + 64 * cpus + 64);
	/* what there is once a size is too much for a machine with one CPU: 440
	 * bytes a size, and no object
	 */
	limit = cpus > 1 ? 2048 * cpus : 3584;
	most = limit - state;
	sched_getaffinity(0, sizeof(old), &old);
	open_all(fds);
	for (i = 0; i < 6; i++) {
		/* new; used; used in vain: that fills lists, and takes nothing */
		pin(i % cpus);
		if (i == 1 || i == 2)
			add_all(skel, fds, BPF_NOEXIST, i == 2 ? EEXIST : 0);
		if (i > 2)
			add_all(skel, fds, BPF_EXIST, ENOENT);
		sched_setaffinity(0, sizeof(old), &old);
		if (i == 2) {
			close_all(fds);
			open_all(fds);
		}
		if (i == 1)
			continue;
		for (j = 0; j < 1500; j++) {
			bytes = all_bytes();
			if (bytes <= most)
				break;
			usleep(20000);
		}
		printf("%d: %lld bytes of %lld after %d ms\n", i,
		       state + bytes, limit, j * 20);
		CHECK(bytes < 0 || bytes > most, "idle",
		      "%lld bytes, expected %lld at most\n", bytes, most);
	}
	close_all(fds);
out:
	storage_alloc__destroy(skel);
	if (!access(SLAB("objects"), F_OK))
		CHECK(!wait_gone(SLAB("objects")), "gone", "still there\n");
}

/* A cgroup at its limit reclaims page cache for a system call */
static void test_cgroup_full(void)
{
	struct storage_alloc *skel;
	struct rlimit old, more;
	static int fds[3 * 1024];
	int err, i, map;
	long long max;

	if (!memcg_ready(memcg_setup_kmem(__func__)))
		return;
	getrlimit(RLIMIT_NOFILE, &old);
	more.rlim_cur = ARRAY_SIZE(fds) + 100;
	more.rlim_max = old.rlim_max;
	if (more.rlim_max < more.rlim_cur)
		more.rlim_max = more.rlim_cur;
	if (CHECK(setrlimit(RLIMIT_NOFILE, &more), "setrlimit", "errno %d\n",
		  errno))
		goto cleanup;
	memcg_enter(MEMCG_CREATOR);
	skel = load("file_open", "file_open");
	memcg_leave();
	if (!skel)
		goto restore;
	map = bpf_map__fd(skel->maps.inode_map);
	max = memcg_charged(MEMCG_CREATOR) + 4 * MB;
	memcg_limit(MEMCG_CREATOR, max);
	memcg_enter(MEMCG_CREATOR);
	read_self();
	memcg_leave();
	CHECK(memcg_number(MEMCG_CREATOR, "memory.stat", "file ") < 3 * MB,
	      "cache", "too little\n");
	/* 3 MB: an element takes 1032 bytes */
	for (i = 0, err = 0; !err && i < ARRAY_SIZE(fds); i++) {
		fds[i] = memfd_create("storage", 0);
		err = bpf_map_update_elem(map, &fds[i], value, BPF_NOEXIST);
	}
	CHECK(err, "update", "%d: errno %d\n", i, errno);
	CHECK(memcg_charged(MEMCG_CREATOR) > max, "limit", "exceeded\n");
	while (i--)
		close(fds[i]);
	storage_alloc__destroy(skel);
restore:
	setrlimit(RLIMIT_NOFILE, &old);
cleanup:
	memcg_cleanup();
}

/* For sockets, with values as those of @like */
static int create(struct storage_alloc *skel, struct bpf_map *like)
{
	struct bpf_create_map_attr attr = {
		.map_type = BPF_MAP_TYPE_SK_STORAGE,
		.map_flags = BPF_F_NO_PREALLOC,
		.key_size = sizeof(int),
		.value_size = bpf_map__value_size(like),
	};

	attr.btf_fd = bpf_object__btf_fd(skel->obj);
	attr.btf_key_type_id = bpf_map__btf_key_type_id(like);
	attr.btf_value_type_id = bpf_map__btf_value_type_id(like);
	return bpf_create_map_xattr(&attr);
}

static void replace(struct storage_alloc *skel, struct bpf_map *like)
{
	const char *name = bpf_map__name(like);
	int i, sk, map, nomem = 0, other = 0;
	static __u64 values[1000];

	memcg_enter(MEMCG_CREATOR);
	map = create(skel, like);
	memcg_leave();
	sk = socket(AF_INET, SOCK_DGRAM, 0);
	if (CHECK(map < 0 || sk < 0, name, "map %d, socket %d, errno %d\n", map,
		  sk, errno))
		goto out;
	memcg_limit(MEMCG_CREATOR, memcg_settled(MEMCG_CREATOR) +
		    300 * bpf_map__value_size(like));
	for (i = 0; i < 20000; i++) {
		if (i >= 10000)
			bpf_map_delete_elem(map, &sk);
		if (!bpf_map_update_elem(map, &sk, values, BPF_ANY))
			continue;
		if (errno == ENOMEM)
			nomem++;
		else
			other = errno;
	}
	CHECK(nomem || other, name, "%d of %d -ENOMEM, errno %d\n", nomem, i,
	      other);
	memcg_limit(MEMCG_CREATOR, 0);
out:
	close(sk);
	close(map);
}

/* There is one element, and room for 300 more. What was replaced or deleted is
 * charged until a grace period is over: a system call waits for that.
 */
static void test_replace(bool big)
{
	struct storage_alloc *skel;

	/* big ones come from kmalloc(), which charges until it frees them */
	if (big && has_kasan()) {
		printf("%s:SKIP:KASAN keeps from slab what kfree() gets\n",
		       __func__);
		test__skip();
		return;
	}
	if (!memcg_ready(memcg_setup_kmem(__func__)))
		return;
	skel = load("file_open", "file_open");
	if (skel) {
		replace(skel, big ? skel->maps.big_map : skel->maps.inode_map);
		storage_alloc__destroy(skel);
	}
	memcg_cleanup();
}

static char state_of(pid_t pid)
{
	char path[64], state = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "r");
	if (!f)
		return 0;
	if (fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
		state = 0;
	fclose(f);
	return state;
}

/* Who waits for what a sleepable program holds, at the limit, can be killed. It
 * may be the one that the program waits for.
 */
static void test_killed(void)
{
	static const __u64 big_value[1000];
	struct storage_alloc *skel;
	struct holder h = {};
	int fd, map, i, status;
	pid_t pid = -1, gone;

	if (!can_attach_fentry() ||
	    !memcg_ready(memcg_setup_kmem(__func__)))
		return;
	memcg_enter(MEMCG_CREATOR);
	skel = load("committed_creds", "hold");
	memcg_leave();
	if (!skel)
		goto cleanup;
	fd = memfd_create("storage", 0);
	map = bpf_map__fd(skel->maps.big_map);
	if (!attached(skel, "hold"))
		goto out;
	if (CHECK(!hold_start(&h, &skel->bss->hold_ptr, &skel->bss->held),
		  "hold", "no program waits\n"))
		goto out;
	memcg_limit(MEMCG_CREATOR, memcg_charged(MEMCG_CREATOR) +
		    20 * sizeof(big_value));
	pid = fork();
	if (!pid)
		for (;;)
			bpf_map_update_elem(map, &fd, big_value, BPF_ANY);
	for (i = 0; i < 100 && state_of(pid) != 'D'; i++)
		usleep(10000);
	usleep(100000);
	CHECK(state_of(pid) != 'D', "wait", "state %c\n", state_of(pid));
	kill(pid, SIGKILL);
	gone = 0;
	for (i = 0; i < 100 && !gone; i++) {
		usleep(10000);
		gone = waitpid(pid, &status, WNOHANG);
	}
	CHECK(gone != pid, "kill", "goes on, state %c\n", state_of(pid));
	CHECK(hold_stop(&h), "release", "errno %d\n", errno);
	if (gone != pid)
		waitpid(pid, &status, 0);
	memcg_limit(MEMCG_CREATOR, 0);
out:
	close(fd);
	storage_alloc__destroy(skel);
cleanup:
	memcg_cleanup();
}

/* Maps with storage of @sk, until it may not have any more */
static int fill_socket(struct storage_alloc *skel, struct bpf_map *like, int sk,
		       int *maps, int nr)
{
	static __u64 values[1000];
	int i, err = 0;

	for (i = 0; i < nr && !err; i++) {
		maps[i] = create(skel, like);
		if (CHECK(maps[i] < 0, "create", "errno %d\n", errno))
			break;
		err = bpf_map_update_elem(maps[i], &sk, values, BPF_NOEXIST) ?
		      -errno : 0;
	}
	CHECK(err != -ENOMEM, "optmem", "%d maps, error %d\n", i, err);
	return i;
}

/* Whom a socket's limit refuses takes no memory: an element would be charged
 * until a grace period is over.
 */
static void test_socket_full(void)
{
	static __u64 values[1000];
	struct storage_alloc *skel;
	int err, i, sk, maps[64];

	if (!can_attach_fentry())
		return;
	skel = load("kmalloc_node", "kmalloc_node");
	if (!skel)
		return;
	skel->links.kmalloc_node =
		bpf_program__attach(skel->progs.kmalloc_node);
	if (CHECK(IS_ERR(skel->links.kmalloc_node), "attach", "err %ld\n",
		  PTR_ERR(skel->links.kmalloc_node)))
		goto out;
	sk = socket(AF_INET, SOCK_DGRAM, 0);
	i = fill_socket(skel, skel->maps.big_map, sk, maps, ARRAY_SIZE(maps));
	if (CHECK(i < 2, "maps", "only %d\n", i))
		goto close;
	skel->bss->runs = 0;
	err = bpf_map_update_elem(maps[i - 1], &sk, values, BPF_NOEXIST);
	CHECK(!err || errno != ENOMEM || skel->bss->runs, "refused",
	      "%d, errno %d, %u elements made\n", err, errno, skel->bss->runs);
	err = bpf_map_update_elem(maps[0], &sk, values, BPF_EXIST);
	CHECK(err || skel->bss->runs != 1, "replace",
	      "%d, errno %d, %u elements made\n", err, errno, skel->bss->runs);
	/* one goes, and there is room for another */
	err = bpf_map_delete_elem(maps[0], &sk) ||
	      bpf_map_update_elem(maps[i - 1], &sk, values, BPF_NOEXIST);
	CHECK(err, "room", "errno %d\n", errno);
close:
	close(sk);
	while (i--)
		close(maps[i]);
out:
	storage_alloc__destroy(skel);
}

/* fdinfo tells what elements take; a socket's limit is an error, and ends */
static void test_limits(void)
{
	struct storage_alloc *skel;
	int fds[NR], map, big, sk, i, maps[64];
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
	i = fill_socket(skel, skel->maps.inode_map, sk, maps, ARRAY_SIZE(maps));
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
	if (test__start_subtest("cgroup_full"))
		test_cgroup_full();
	if (test__start_subtest("replace"))
		test_replace(false);
	if (test__start_subtest("replace_big"))
		test_replace(true);
	if (test__start_subtest("killed"))
		test_killed();
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
	if (test__start_subtest("getsockopt"))
		test_cgroup("getsockopt");
	if (test__start_subtest("sk_msg"))
		test_sk_msg();
	if (test__start_subtest("tcp_ca"))
		test_tcp_ca();
	if (test__start_subtest("lsm"))
		test_lsm();
	if (test__start_subtest("sleepable"))
		test_sleepable();
	if (test__start_subtest("sleepable_sk"))
		test_sleepable_sk();
	if (test__start_subtest("interrupt"))
		test_interrupt();
	if (test__start_subtest("idle"))
		test_idle();
	if (test__start_subtest("socket_full"))
		test_socket_full();
	if (test__start_subtest("limits"))
		test_limits();
}
