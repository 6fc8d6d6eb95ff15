// SPDX-License-Identifier: GPL-2.0
/* What BPF takes is charged to memory cgroups: to that of a map's creator,
 * whoever updates it in whatever context; to a program's loader; or to none.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <netinet/in.h>
#include <linux/capability.h>
#include <linux/btf.h>
#include <bpf/btf.h>
#include <test_progs.h>
#include "htab_helpers.h"
#include "memcg_helpers.h"
#include "progs/memcg.h"
#include "memcg.skel.h"

#define MB		(1024 * 1024)
#define BPFFS		"/sys/fs/bpf"
#define NR_OWNERS	256

static int duration;
static bool kmem;

static struct memcg *load(void)
{
	struct memcg *skel;

	skel = memcg__open();
	if (CHECK(!skel, "open", "errno %d\n", errno))
		return NULL;
	memcg_enter(MEMCG_CREATOR);
	if (CHECK(memcg__load(skel), "load", "errno %d\n", errno)) {
		memcg__destroy(skel);
		skel = NULL;
	}
	memcg_leave();
	return skel;
}

/* What the maps of @skel tell that they hold */
static long long told(struct memcg *skel)
{
	struct bpf_map *map;
	long long sum = 0;

	bpf_object__for_each_map(map, skel->obj)
		sum += read_fdinfo(bpf_map__fd(map), "memlock:\t");
	return sum;
}

static bool has_run(struct memcg *skel, int ctx)
{
	return READ_ONCE(skel->bss->stats[ctx].runs) >= skel->bss->max_runs;
}

static void run_task(struct memcg *skel)
{
	__u64 end = now_ms() + 10000;

	while (!has_run(skel, CTX_TASK) && now_ms() < end)
		syscall(__NR_getpgid, 0);
}

static void run_kprobe(struct memcg *skel)
{
	__u64 end = now_ms() + 10000;

	while (!has_run(skel, CTX_KPROBE) && now_ms() < end)
		usleep(1);
}

static void run_softirq(struct memcg *skel)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int prog = bpf_program__fd(skel->progs.softirq), in, out, i;
	socklen_t len = sizeof(addr);

	in = socket(AF_INET, SOCK_DGRAM, 0);
	out = socket(AF_INET, SOCK_DGRAM, 0);
	if (CHECK(bind(in, (void *)&addr, len) ||
		  getsockname(in, (void *)&addr, &len) ||
		  setsockopt(in, SOL_SOCKET, SO_ATTACH_BPF, &prog,
			     sizeof(prog)),
		  "socket", "errno %d\n", errno))
		goto out;
	for (i = 0; !has_run(skel, CTX_SOFTIRQ) && i < 10000; i++)
		sendto(out, "", 1, 0, (void *)&addr, len);
out:
	close(out);
	close(in);
}

static void run_nmi(struct memcg *skel)
{
	send_nmis_until(&skel->bss->stats[CTX_NMI].runs, skel->bss->max_runs,
			10000);
}

static const struct {
	const char *name;
	int ctx;
	void (*run)(struct memcg *skel);
} contexts[] = {
	{ "task", CTX_TASK, run_task },
	{ "kprobe", CTX_KPROBE, run_kprobe },
	{ "softirq", CTX_SOFTIRQ, run_softirq },
	{ "nmi", CTX_NMI, run_nmi },
};

/* Runs context @i until it has done @runs in all, in a task of another cgroup */
static void run_context(struct memcg *skel, int i, __u32 runs)
{
	struct bpf_link *link = NULL;

	skel->bss->max_runs = runs;
	skel->bss->pid = getpid();
	switch (contexts[i].ctx) {
	case CTX_TASK:
		link = bpf_program__attach(skel->progs.task);
		break;
	case CTX_KPROBE:
		link = bpf_program__attach_kprobe(skel->progs.kprobe, false,
						  SYS_NANOSLEEP_KPROBE_NAME);
		break;
	case CTX_NMI:
		link = bpf_program__attach(skel->progs.nmi);
		break;
	}
	if (CHECK(libbpf_get_error(link), contexts[i].name, "attach\n"))
		return;
	memcg_enter(MEMCG_UPDATER);
	contexts[i].run(skel);
	memcg_leave();
	bpf_link__destroy(link);
	/* what the programs asked for in vain still comes, and is charged */
	if (is_preempt_rt())
		usleep(300000);
}

static bool skip_context(int i)
{
	return contexts[i].ctx == CTX_NMI && !can_send_nmis();
}

/* An NMI may find the reserve spent, so may who has interrupts off, and with
 * PREEMPT_RT anyone.
 */
static bool may_be_spent(int i)
{
	return contexts[i].ctx == CTX_NMI || is_preempt_rt() ||
	       (contexts[i].ctx == CTX_KPROBE && is_kprobe_irqoff());
}

/* Updates from programs are charged to the map's creator, not to the task that
 * they happen to interrupt. Memory for each CPU comes from a worker, which runs
 * when a CPU of this machine, and of its host, is free: a burst may be faster. A
 * fresh map has four at once.
 */
static void test_remote(void)
{
	long long before, other, charged, held;
	struct ctx_stats *s;
	struct memcg *skel;
	const __u32 runs = 256;
	int i;

	skel = load();
	if (!skel)
		return;
	for (i = 0; i < ARRAY_SIZE(contexts); i++) {
		if (skip_context(i))
			continue;
		s = &skel->bss->stats[contexts[i].ctx];
		before = memcg_settled(MEMCG_CREATOR);
		held = told(skel);
		other = memcg_charged(MEMCG_UPDATER);
		run_context(skel, i, runs);
		charged = memcg_charged(MEMCG_CREATOR) - before;
		held = told(skel) - held;
		other = memcg_charged(MEMCG_UPDATER) - other;
		CHECK(s->runs != runs || s->other ||
		      (s->nomem && !may_be_spent(i)) || s->ok < runs ||
		      s->percpu_nomem > runs - 4, contexts[i].name,
		      "%llu runs, %llu updates, %llu -ENOMEM, percpu %llu, %llu others\n",
		      s->runs, s->ok, s->nomem, s->percpu_nomem, s->other);
		CHECK(held < runs * HASH_VALUE / 2, contexts[i].name,
		      "maps hold %lld bytes more\n", held);
		if (!kmem)
			held = 0;
		CHECK(charged < held - MEMCG_SLACK ||
		      charged > held + MEMCG_SLACK, contexts[i].name,
		      "creator charged %lld, maps hold %lld more\n", charged,
		      held);
		CHECK(other > MEMCG_SLACK, contexts[i].name,
		      "updater charged %lld\n", other);
	}
	memcg__destroy(skel);
}

static void limit(long long bytes)
{
	CHECK(!memcg_limit(MEMCG_CREATOR, bytes), "memory.max", "errno %d\n",
	      errno);
}

/* Programs find the limit of the creator's cgroup, in all contexts, and can go
 * on when there is room again.
 */
static void test_limit(void)
{
	long long start, max, now, kills;
	struct ctx_stats *s, old;
	struct memcg *skel;
	const __u32 runs = 512;
	int i;

	if (!kmem) {
		printf("%s:SKIP:kernel memory is not charged\n", __func__);
		test__skip();
		return;
	}
	kills = memcg_number(MEMCG_CREATOR, "memory.events", "oom_kill ");
	for (i = 0; i < ARRAY_SIZE(contexts); i++) {
		if (skip_context(i))
			continue;
		start = memcg_settled(MEMCG_CREATOR);
		/* new maps: their reserve has not learnt from the one before */
		skel = load();
		if (!skel)
			break;
		s = &skel->bss->stats[contexts[i].ctx];
		max = memcg_charged(MEMCG_CREATOR) + 128 * 1024;
		limit(max);
		run_context(skel, i, runs);
		now = memcg_charged(MEMCG_CREATOR);
		old = *s;
		CHECK(!old.nomem || !old.ok || old.other, contexts[i].name,
		      "%llu runs, %llu updates, %llu -ENOMEM, %llu others\n",
		      old.runs, old.ok, old.nomem, old.other);
		CHECK(now > max, contexts[i].name, "%lld of %lld charged\n",
		      now, max);
		limit(0);
		/* let the service fill what the limit kept empty */
		usleep(100000);
		run_context(skel, i, 2 * runs);
		CHECK(s->ok - old.ok < runs, contexts[i].name,
		      "%llu updates, %llu -ENOMEM with room again\n",
		      s->ok - old.ok, s->nomem - old.nomem);
		memcg__destroy(skel);
		now = memcg_wait(MEMCG_CREATOR, start + MEMCG_SLACK, 10000);
		CHECK(now > start + MEMCG_SLACK, contexts[i].name,
		      "%lld bytes leaked\n", now - start);
	}
	kills = memcg_number(MEMCG_CREATOR, "memory.events", "oom_kill ") -
		kills;
	CHECK(kills, "oom_kill", "%lld\n", kills);
}

/* A cgroup that is full of page cache is not full: system calls take its place,
 * also those whose maps allocate under a lock.
 */
static void test_reclaim(void)
{
	static char value[TRIE_VALUE];
	struct {
		__u32 prefixlen, data;
	} key = { 32 };
	long long max, cache;
	struct memcg *skel;
	int fd, err = 0;

	if (!kmem) {
		printf("%s:SKIP:kernel memory is not charged\n", __func__);
		test__skip();
		return;
	}
	memcg_settled(MEMCG_CREATOR);
	skel = load();
	if (!skel)
		return;
	max = memcg_charged(MEMCG_CREATOR) + 8 * MB;
	limit(max);
	memcg_enter(MEMCG_CREATOR);
	read_self();
	memcg_leave();
	cache = memcg_number(MEMCG_CREATOR, "memory.stat", "file ");
	CHECK(cache < 6 * MB, "cache", "%lld bytes\n", cache);
	fd = bpf_map__fd(skel->maps.trie);
	/* 6 MB: a node takes 2 kB */
	for (key.data = 0; !err && key.data < 3 * MB / 1024; key.data++)
		err = bpf_map_update_elem(fd, &key, value, BPF_ANY);
	CHECK(err, "update", "%u: errno %d\n", key.data, errno);
	CHECK(memcg_charged(MEMCG_CREATOR) > max, "limit", "exceeded\n");
	limit(0);
	memcg__destroy(skel);
}

/* What was replaced is charged until a grace period is over. A system call waits
 * for it where there is nothing to reclaim, also in map types that allocate under
 * a lock.
 */
static void test_replace(void)
{
	static const struct {
		const char *name;
		enum bpf_map_type type;
		int updates;
	} types[] = {
		{ "devmap_hash", BPF_MAP_TYPE_DEVMAP_HASH, 20000 },
		{ "sockhash", BPF_MAP_TYPE_SOCKHASH, 20000 },
		/* 16 kB and a thread each */
		{ "cpumap", BPF_MAP_TYPE_CPUMAP, 200 },
	};
	struct sockaddr_in addr = { .sin_family = AF_INET };
	int i, n, fd, sk, nomem, other;
	__u32 key = 0, value;
	long long start;

	if (!kmem) {
		printf("%s:SKIP:kernel memory is not charged\n", __func__);
		test__skip();
		return;
	}
	sk = socket(AF_INET, SOCK_DGRAM, 0);
	if (CHECK(sk < 0 || bind(sk, (void *)&addr, sizeof(addr)), "socket",
		  "errno %d\n", errno))
		goto out;
	for (i = 0; i < ARRAY_SIZE(types); i++) {
		start = memcg_settled(MEMCG_CREATOR);
		memcg_enter(MEMCG_CREATOR);
		fd = bpf_create_map(types[i].type, sizeof(key), sizeof(value),
				    1, 0);
		memcg_leave();
		if (CHECK(fd < 0, types[i].name, "errno %d\n", errno))
			continue;
		value = types[i].type == BPF_MAP_TYPE_SOCKHASH ? sk : 1;
		if (types[i].type == BPF_MAP_TYPE_CPUMAP)
			value = 2048;
		limit(memcg_charged(MEMCG_CREATOR) + MB / 4);
		nomem = 0;
		other = 0;
		for (n = 0; n < types[i].updates; n++) {
			if (!bpf_map_update_elem(fd, &key, &value, BPF_ANY))
				continue;
			if (errno == ENOMEM)
				nomem++;
			else
				other = errno;
		}
		CHECK(nomem || other, types[i].name,
		      "%d of %d -ENOMEM, errno %d\n", nomem, n, other);
		limit(0);
		close(fd);
		start = memcg_wait(MEMCG_CREATOR, start + MEMCG_SLACK, 10000) -
			start;
		CHECK(start > MEMCG_SLACK, types[i].name,
		      "%lld bytes leaked\n", start);
	}
out:
	if (sk >= 0)
		close(sk);
}

/* Local storage is charged to its map's creator, too, and lets go with its
 * owner.
 */
static void test_storage(void)
{
	long long before, other, start, charged, held, floor;
	static char value[STORAGE_VALUE];
	int fds[NR_OWNERS], i, n, map, kind;
	struct memcg *skel;

	skel = load();
	if (!skel)
		return;
	for (kind = 0; kind < 2; kind++) {
		map = bpf_map__fd(kind ? skel->maps.inode_storage :
					 skel->maps.sk_storage);
		start = memcg_settled(MEMCG_CREATOR);
		other = memcg_charged(MEMCG_UPDATER);
		held = read_fdinfo(map, "memlock:\t");
		for (n = 0; n < NR_OWNERS; n++)
			fds[n] = kind ? memfd_create("memcg", 0) :
					socket(AF_INET, SOCK_DGRAM, 0);
		before = memcg_charged(MEMCG_CREATOR);
		memcg_enter(MEMCG_UPDATER);
		for (i = 0; i < n; i++)
			if (bpf_map_update_elem(map, &fds[i], value,
						BPF_NOEXIST))
				break;
		memcg_leave();
		CHECK(i < n, "update", "%d: errno %d\n", i, errno);
		charged = memcg_charged(MEMCG_CREATOR) - before;
		held = read_fdinfo(map, "memlock:\t") - held;
		other = memcg_charged(MEMCG_UPDATER) - other;
		floor = NR_OWNERS * STORAGE_VALUE;
		CHECK(held < floor, "memlock", "%lld\n", held);
		/* the owner has a struct of up to 256 bytes for all maps, and
		 * each object of slab a word
		 */
		CHECK(kmem && (charged < held - MEMCG_SLACK ||
			       charged > held + NR_OWNERS * (256 + 16) +
					 MEMCG_SLACK),
		      "creator", "charged %lld, holds %lld\n", charged, held);
		CHECK(!kmem && charged > MEMCG_SLACK, "nokmem",
		      "charged %lld\n", charged);
		CHECK(other > MEMCG_SLACK, "updater", "charged %lld\n", other);
		for (i = 0; i < n; i++)
			close(fds[i]);
		charged = memcg_wait(MEMCG_CREATOR, start + MEMCG_SLACK, 10000);
		CHECK(charged > start + MEMCG_SLACK, "leak", "%lld bytes\n",
		      charged - start);
	}
	memcg__destroy(skel);
}

/* A program that is mostly long, ready before a cgroup is entered: what this
 * process has of memory is charged as well, and stays there.
 */
static struct bpf_insn insns[1 << 16];

static void prepare_insns(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(insns); i++)
		insns[i] = (struct bpf_insn){
			.code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = 7 };
	insns[i - 1].code = BPF_JMP | BPF_EXIT;
	insns[i - 1].imm = 0;
}

static int load_prog(int nr_insns, __u32 flags)
{
	struct bpf_load_program_attr attr = {
		.prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
		.insns = insns + ARRAY_SIZE(insns) - nr_insns,
		.insns_cnt = nr_insns,
		.license = "GPL",
		.prog_flags = flags,
	};

	return bpf_load_program_xattr(&attr, NULL, 0);
}

static void test_program(void)
{
	struct bpf_prog_info info = {};
	__u32 len = sizeof(info);
	long long before, charged, held;
	int fd, flags;

	for (flags = 0; flags <= BPF_F_PROG_NO_CHARGE;
	     flags += BPF_F_PROG_NO_CHARGE) {
		before = memcg_settled(MEMCG_CREATOR);
		memcg_enter(MEMCG_CREATOR);
		fd = load_prog(1 << 16, flags);
		memcg_leave();
		if (CHECK(fd < 0, "load", "errno %d\n", errno))
			return;
		charged = memcg_charged(MEMCG_CREATOR) - before;
		memset(&info, 0, sizeof(info));
		CHECK(bpf_obj_get_info_by_fd(fd, &info, &len), "info",
		      "errno %d\n", errno);
		held = read_fdinfo(fd, "memlock:\t");
		CHECK(held < (1 << 16) * sizeof(struct bpf_insn), "memlock",
		      "%lld\n", held);
		CHECK(read_fdinfo(fd, "no_charge:\t") != !!flags, "fdinfo",
		      "no_charge: is not %d\n", !!flags);
		held += info.jited_prog_len;
		if (flags || !kmem)
			CHECK(charged > MEMCG_SLACK, "no charge",
			      "%lld charged\n", charged);
		else
			CHECK(charged < held - MEMCG_SLACK ||
			      charged > held + MEMCG_SLACK, "charge",
			      "%lld, holds %lld\n", charged, held);
		close(fd);
		charged = memcg_wait(MEMCG_CREATOR, before + MEMCG_SLACK, 10000);
		CHECK(charged > before + MEMCG_SLACK, "leak", "%lld bytes\n",
		      charged - before);
	}
}

/* BTF of a real kernel's size, for a map of int */
static int load_btf(const struct btf *vmlinux)
{
	const void *data;
	__u32 size;

	data = btf__get_raw_data(vmlinux, &size);
	return bpf_load_btf(data, size, NULL, 0, false);
}

static int create_map(enum bpf_map_type type, __u32 entries, __u32 flags,
		      int btf_fd, int btf_int)
{
	struct bpf_create_map_attr attr = {
		.map_type = type,
		.key_size = 4,
		.value_size = 4,
		.max_entries = entries,
		.map_flags = flags,
		.btf_fd = btf_fd,
		.btf_key_type_id = btf_int,
		.btf_value_type_id = btf_int,
	};

	return bpf_create_map_xattr(&attr);
}

static void test_btf(void)
{
	long long before, charged;
	struct btf *vmlinux;
	int fd, map, id;
	__u32 size;

	vmlinux = libbpf_find_kernel_btf();
	if (CHECK(IS_ERR(vmlinux), "vmlinux", "no BTF\n"))
		return;
	id = btf__find_by_name_kind(vmlinux, "int", BTF_KIND_INT);
	btf__get_raw_data(vmlinux, &size);
	before = memcg_settled(MEMCG_CREATOR);
	memcg_enter(MEMCG_CREATOR);
	fd = load_btf(vmlinux);
	memcg_leave();
	if (CHECK(fd < 0, "load", "errno %d\n", errno))
		goto out;
	charged = memcg_charged(MEMCG_CREATOR) - before;
	/* a pointer and two numbers a type, which is 12 bytes or more there */
	if (kmem)
		CHECK(charged < size || charged > 3LL * size, "charge",
		      "%lld for %u bytes of BTF\n", charged, size);
	/* a map that is not charged takes the charge of its BTF away */
	map = create_map(BPF_MAP_TYPE_ARRAY, 1, BPF_F_NO_CHARGE, fd, id);
	CHECK(map < 0, "map", "errno %d\n", errno);
	charged = memcg_charged(MEMCG_CREATOR) - before;
	CHECK(charged > MEMCG_SLACK, "no charge", "%lld charged\n", charged);
	close(map);
	close(fd);
	charged = memcg_wait(MEMCG_CREATOR, before + MEMCG_SLACK, 10000);
	CHECK(charged > before + MEMCG_SLACK, "leak", "%lld bytes\n",
	      charged - before);
out:
	btf__free(vmlinux);
}

static long long nr_dying(void)
{
	return memcg_number(MEMCG_WORK, "cgroup.stat", "nr_dying_descendants ");
}

/* Waits for dead cgroups to go, until there are @nr. Not what is charged, but
 * the last CPU to uncharge keeps one in its stock until it charges another.
 */
static long long wait_dying(long long nr, int ms)
{
	long long now = 0;

	for (; ms > 0; ms -= 100) {
		memcg_drain();
		usleep(100000);
		now = nr_dying();
		if (now <= nr)
			break;
	}
	return now;
}

/* A cgroup that is removed is not kept longer than the maps that it created,
 * which go on working.
 */
static void test_removed(void)
{
	int prog, array, ring, hash, err, i;
	long long dying, before;
	static char val[4];

	before = nr_dying();
	if (CHECK(mkdir(MEMCG_WORK "/removed", 0755), "mkdir", "errno %d\n",
		  errno))
		return;
	memcg_enter(MEMCG_WORK "/removed");
	array = create_map(BPF_MAP_TYPE_ARRAY, MB / 8, 0, 0, 0);
	ring = bpf_create_map(BPF_MAP_TYPE_RINGBUF, 0, 0, MB, 0);
	hash = create_map(BPF_MAP_TYPE_HASH, 4096, BPF_F_NO_PREALLOC, 0, 0);
	prog = load_prog(10000, 0);
	memcg_leave();
	CHECK(array < 0 || ring < 0 || hash < 0 || prog < 0, "create",
	      "errno %d\n", errno);
	CHECK(rmdir(MEMCG_WORK "/removed"), "rmdir", "errno %d\n", errno);
	memcg_enter(MEMCG_UPDATER);
	for (i = 0, err = 0; !err && i < 4096; i++)
		err = bpf_map_update_elem(hash, &i, val, BPF_ANY) ?:
		      bpf_map_update_elem(array, &i, val, BPF_ANY);
	memcg_leave();
	CHECK(err, "update", "%d: errno %d\n", i, errno);
	close(array);
	close(ring);
	close(hash);
	close(prog);
	dying = wait_dying(before, 20000);
	CHECK(dying > before, "dying", "%lld cgroups, %lld before\n", dying,
	      before);
}

/* Bytes that the root cgroup is charged, where the test is now */
static long long root_charged(struct memcg *skel)
{
	syscall(__NR_getpgid, 0);
	return READ_ONCE(skel->bss->pages) * sysconf(_SC_PAGESIZE);
}

/* The map of a cgroup that was a child of the root charges the root, which has no
 * limit. What is not counted there is not to be uncharged either: below 0, the
 * counter lets nobody charge anything.
 */
static void test_removed_root(void)
{
	long long before, after, most = 0;
	int hash = -1, err, round, i, ms;
	static char val[1000];
	struct memcg *skel;

	if (!kmem || sizeof(long) != 8) {
		printf("%s:SKIP:%s\n", __func__, kmem ?
		       "reads pointers of 64 bits" : "kernel memory is not charged");
		test__skip();
		return;
	}
	skel = load();
	if (!skel)
		return;
	skel->links.usage = bpf_program__attach(skel->progs.usage);
	if (CHECK(IS_ERR(skel->links.usage), "attach", "errno %d\n", errno))
		goto out;
	skel->bss->pid = getpid();
	/* of a run that was killed */
	rmdir(MEMCG_ROOT "/removed");
	if (CHECK(mkdir(MEMCG_ROOT "/removed", 0755), "mkdir", "errno %d\n",
		  errno))
		goto out;
	memcg_enter(MEMCG_ROOT "/removed");
	hash = bpf_create_map(BPF_MAP_TYPE_HASH, sizeof(i), sizeof(val), 4096,
			      BPF_F_NO_PREALLOC);
	memcg_leave();
	CHECK(hash < 0, "create", "errno %d\n", errno);
	CHECK(rmdir(MEMCG_ROOT "/removed"), "rmdir", "errno %d\n", errno);
	/* a work takes its objects to the root, soon */
	usleep(500000);
	memcg_drain();
	before = root_charged(skel);
	for (round = 0; round < 8; round++) {
		for (i = 0, err = 0; !err && i < 4096; i++)
			err = bpf_map_update_elem(hash, &i, val, BPF_ANY);
		CHECK(err, "update", "%d: errno %d\n", i, errno);
		memcg_drain();
		after = root_charged(skel);
		if (most < after - before)
			most = after - before;
		for (i = 0, err = 0; !err && i < 4096; i++)
			err = bpf_map_delete_elem(hash, &i);
		CHECK(err, "delete", "%d: errno %d\n", i, errno);
		for (ms = 20000; ms > 0; ms -= 100) {
			if (read_fdinfo(hash, "memlock:\t") < MB)
				break;
			usleep(100000);
		}
		CHECK(ms <= 0, "free", "%lld bytes\n",
		      read_fdinfo(hash, "memlock:\t"));
	}
	memcg_drain();
	after = root_charged(skel);
	printf("charged %lld bytes before, %lld after, %lld more in between\n",
	       before, after, most);
	CHECK(most < 3 * MB, "charged", "only %lld bytes\n", most);
	CHECK(after < before - MB || after > before + MB, "root",
	      "%lld bytes before, %lld after\n", before, after);
out:
	if (hash >= 0)
		close(hash);
	memcg__destroy(skel);
}

/* Loads and pins as an agent does that is about to exit */
static int agent(const char *cgroup, __u32 map_flags, __u32 prog_flags,
		 const struct btf *vmlinux)
{
	int id = btf__find_by_name_kind(vmlinux, "int", BTF_KIND_INT);
	int array, hash, prog, btf;

	if (!memcg_enter(cgroup))
		return 1;
	btf = load_btf(vmlinux);
	if (btf < 0)
		return 2;
	array = create_map(BPF_MAP_TYPE_ARRAY, MB / 8, map_flags, btf, id);
	hash = create_map(BPF_MAP_TYPE_HASH, 4096,
			  map_flags | BPF_F_NO_PREALLOC, btf, id);
	if (array < 0 || hash < 0)
		return 3;
	prog = load_prog(10000, prog_flags);
	if (prog < 0)
		return 4;
	if (bpf_obj_pin(array, BPFFS "/memcg_array") ||
	    bpf_obj_pin(hash, BPFFS "/memcg_hash") ||
	    bpf_obj_pin(prog, BPFFS "/memcg_prog"))
		return 5;
	return 0;
}

static void use_pinned(void)
{
	int array, hash, prog, err = 0, i;
	__u32 retval = 0;
	char pkt[64] = {};

	array = bpf_obj_get(BPFFS "/memcg_array");
	hash = bpf_obj_get(BPFFS "/memcg_hash");
	prog = bpf_obj_get(BPFFS "/memcg_prog");
	if (CHECK(array < 0 || hash < 0 || prog < 0, "pinned", "errno %d\n",
		  errno))
		return;
	for (i = 0; !err && i < 4096; i++)
		err = bpf_map_update_elem(hash, &i, &i, BPF_ANY) ?:
		      bpf_map_update_elem(array, &i, &i, BPF_ANY);
	CHECK(err, "update", "%d: errno %d\n", i, errno);
	err = bpf_prog_test_run(prog, 1, pkt, sizeof(pkt), NULL, NULL, &retval,
				NULL);
	CHECK(err || retval != 7, "run", "err %d, retval %u\n", err, retval);
	close(prog);
	close(hash);
	close(array);
}

/* Of an agent that charges nothing, no dead cgroup remains. Of one that does, it
 * remains as long as what it pinned: that shows that the test sees it.
 */
static void test_pinned(void)
{
	static const char cgroup[] = MEMCG_WORK "/agent";
	long long before, dying;
	int charged, status = -1;
	struct btf *vmlinux;
	pid_t pid;

	if (CHECK(mount("none", BPFFS, "bpf", 0, NULL) && errno != EBUSY,
		  "bpffs", "errno %d\n", errno))
		return;
	vmlinux = libbpf_find_kernel_btf();
	if (CHECK(IS_ERR(vmlinux), "vmlinux", "no BTF\n"))
		return;
	before = nr_dying();
	for (charged = 0; charged < 2; charged++) {
		if (charged && !kmem)
			break;
		if (CHECK(mkdir(cgroup, 0755), "mkdir", "errno %d\n", errno))
			break;
		pid = fork();
		if (!pid)
			_exit(agent(cgroup, charged ? 0 : BPF_F_NO_CHARGE,
				    charged ? 0 : BPF_F_PROG_NO_CHARGE,
				    vmlinux));
		waitpid(pid, &status, 0);
		CHECK(status, "agent", "status %x\n", status);
		CHECK(rmdir(cgroup), "rmdir", "errno %d\n", errno);
		use_pinned();
		dying = wait_dying(before, charged ? 1000 : 20000);
		if (charged)
			CHECK(dying <= before, "charged", "cgroup is gone\n");
		else
			CHECK(dying > before, "not charged",
			      "%lld dead cgroups\n", dying - before);
		unlink(BPFFS "/memcg_array");
		unlink(BPFFS "/memcg_hash");
		unlink(BPFFS "/memcg_prog");
		dying = wait_dying(before, 20000);
		CHECK(dying > before, "unpinned", "%lld dead cgroups\n",
		      dying - before);
	}
	btf__free(vmlinux);
}

/* An agent that is told to charge nobody goes on with the map of its predecessor */
static void test_reused(void)
{
	static const char path[] = BPFFS "/memcg_reused";
	struct memcg *skel[2] = {};
	__u32 id[2] = {};
	int i;

	if (CHECK(mount("none", BPFFS, "bpf", 0, NULL) && errno != EBUSY,
		  "bpffs", "errno %d\n", errno))
		return;
	unlink(path);
	for (i = 0; i < 2; i++) {
		skel[i] = memcg__open();
		if (CHECK(!skel[i], "open", "errno %d\n", errno))
			break;
		bpf_map__set_pin_path(skel[i]->maps.hash, path);
		bpf_map__set_map_flags(skel[i]->maps.hash, BPF_F_NO_PREALLOC |
				       (i ? BPF_F_NO_CHARGE : 0));
		if (CHECK(memcg__load(skel[i]), "load", "%s time: errno %d\n",
			  i ? "second" : "first", errno))
			break;
		id[i] = map_id(bpf_map__fd(skel[i]->maps.hash));
	}
	CHECK(!id[0] || id[0] != id[1], "reuse", "ids %u and %u\n", id[0],
	      id[1]);
	unlink(path);
	memcg__destroy(skel[0]);
	memcg__destroy(skel[1]);
}

/* RLIMIT_MEMLOCK says nothing about BPF, and libbpf finds that out. */
/* In a cgroup that has no room for the map that libbpf asks the kernel with. It
 * has none for a page fault either.
 */
static int raise_at_limit(void)
{
	struct rlimit now;

	if (mlockall(MCL_CURRENT) ||
	    !memcg_write(MEMCG_CREATOR, "memory.max", "0") ||
	    !memcg_enter(MEMCG_CREATOR))
		return 11;
	if (libbpf_raise_memlock())
		return 12;
	getrlimit(RLIMIT_MEMLOCK, &now);
	return now.rlim_cur ? 13 : 0;
}

static void test_rlimit(void)
{
	int map, prog, btf, status = -1;
	struct rlimit old, none, now;
	struct btf *vmlinux;
	pid_t pid;

	vmlinux = libbpf_find_kernel_btf();
	if (CHECK(IS_ERR(vmlinux), "vmlinux", "no BTF\n"))
		return;
	getrlimit(RLIMIT_MEMLOCK, &old);
	none = old;
	none.rlim_cur = 0;
	if (CHECK(setrlimit(RLIMIT_MEMLOCK, &none), "setrlimit", "errno %d\n",
		  errno))
		goto out;
	map = create_map(BPF_MAP_TYPE_ARRAY, MB, 0, 0, 0);
	CHECK(map < 0, "map", "errno %d\n", errno);
	prog = load_prog(1 << 16, 0);
	CHECK(prog < 0, "program", "errno %d\n", errno);
	btf = load_btf(vmlinux);
	CHECK(btf < 0, "BTF", "errno %d\n", errno);
	CHECK(libbpf_raise_memlock(), "libbpf_raise_memlock", "failed\n");
	getrlimit(RLIMIT_MEMLOCK, &now);
	CHECK(now.rlim_cur, "rlimit", "raised to %llu\n",
	      (unsigned long long)now.rlim_cur);
	if (kmem) {
		pid = fork();
		if (!pid)
			_exit(raise_at_limit());
		waitpid(pid, &status, 0);
		CHECK(status, "rlimit at cgroup's limit", "status %x\n",
		      status);
		limit(0);
	}
	close(btf);
	close(prog);
	close(map);
	setrlimit(RLIMIT_MEMLOCK, &old);
out:
	btf__free(vmlinux);
}

/* Without RLIMIT_MEMLOCK there are other bounds still */
static void test_too_large(void)
{
	static const struct {
		enum bpf_map_type type;
		__u32 key_size;
		__u32 value_size;
	} maps[] = {
		{ BPF_MAP_TYPE_ARRAY, 4, 8 },
		{ BPF_MAP_TYPE_QUEUE, 0, 8 },
		{ BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, 4, 8 },
		{ BPF_MAP_TYPE_SOCKMAP, 4, 8 },
		{ BPF_MAP_TYPE_XSKMAP, 4, 4 },
		{ BPF_MAP_TYPE_DEVMAP, 4, 4 },
		{ BPF_MAP_TYPE_DEVMAP_HASH, 4, 4 },
	};
	int i, fd;

	for (i = 0; i < ARRAY_SIZE(maps); i++) {
		fd = bpf_create_map(maps[i].type, maps[i].key_size,
				    maps[i].value_size, 1 << 30, 0);
		CHECK(fd >= 0 || errno != E2BIG, "create",
		      "type %d: fd %d, errno %d\n", maps[i].type, fd, errno);
		if (fd >= 0)
			close(fd);
	}
}

static bool drop_caps(__u64 caps)
{
	struct __user_cap_header_struct hdr = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2];

	if (syscall(__NR_capget, &hdr, data))
		return false;
	data[0].effective &= ~caps;
	data[1].effective &= ~(caps >> 32);
	return !syscall(__NR_capset, &hdr, data);
}

/* The result of a load with the flags, without where that cannot be refused */
static int try_flags(void)
{
	int fd;

	fd = create_map(BPF_MAP_TYPE_ARRAY, 1, 0, 0, 0);
	if (fd < 0)
		return 1;
	close(fd);
	fd = create_map(BPF_MAP_TYPE_ARRAY, 1, BPF_F_NO_CHARGE, 0, 0);
	if (fd >= 0 || errno != EPERM)
		return 2;
	fd = load_prog(2, 0);
	if (fd < 0)
		return 3;
	close(fd);
	fd = load_prog(2, BPF_F_PROG_NO_CHARGE);
	if (fd >= 0 || errno != EPERM)
		return 4;
	return 0;
}

static void test_privileges(void)
{
	struct bpf_load_program_attr load = {
		.prog_type = BPF_PROG_TYPE_SCHED_CLS,
		.insns = insns + ARRAY_SIZE(insns) - 2,
		.insns_cnt = 2,
		.license = "GPL",
		.prog_ifindex = 1,
		.prog_flags = BPF_F_PROG_NO_CHARGE,
	};
	struct bpf_create_map_attr attr = {
		.map_type = BPF_MAP_TYPE_ARRAY,
		.key_size = 4,
		.value_size = 4,
		.max_entries = 1,
		.map_flags = BPF_F_NO_CHARGE,
		.map_ifindex = 1,
	};
	int status = -1, how, fd;
	pid_t pid;

	for (how = 0; how < 2; how++) {
		pid = fork();
		if (!pid) {
			/* all others stay, CAP_BPF included */
			if (how == 0 && !drop_caps(1ULL << CAP_SYS_ADMIN))
				_exit(11);
			/* CAP_SYS_ADMIN there is not what is asked for */
			if (how == 1 && unshare(CLONE_NEWUSER))
				_exit(12);
			_exit(try_flags());
		}
		waitpid(pid, &status, 0);
		CHECK(status, how ? "user namespace" : "CAP_SYS_ADMIN",
		      "status %x\n", status);
	}
	/* nobody is charged for what lives in a device */
	fd = bpf_create_map_xattr(&attr);
	CHECK(fd >= 0 || errno != EINVAL, "offloaded map", "fd %d, errno %d\n",
	      fd, errno);
	fd = bpf_load_program_xattr(&load, NULL, 0);
	CHECK(fd >= 0 || errno != EINVAL, "offloaded program",
	      "fd %d, errno %d\n", fd, errno);
}

void test_memcg(void)
{
	if (!memcg_ready(memcg_setup(__func__)))
		return;
	kmem = memcg_kmem();
	prepare_insns();
	if (test__start_subtest("remote"))
		test_remote();
	if (test__start_subtest("limit"))
		test_limit();
	if (test__start_subtest("reclaim"))
		test_reclaim();
	if (test__start_subtest("replace"))
		test_replace();
	if (test__start_subtest("storage"))
		test_storage();
	if (test__start_subtest("program"))
		test_program();
	if (test__start_subtest("btf"))
		test_btf();
	if (test__start_subtest("removed"))
		test_removed();
	if (test__start_subtest("removed_root"))
		test_removed_root();
	if (test__start_subtest("pinned"))
		test_pinned();
	if (test__start_subtest("reused"))
		test_reused();
	if (test__start_subtest("rlimit"))
		test_rlimit();
	if (test__start_subtest("too_large"))
		test_too_large();
	if (test__start_subtest("privileges"))
		test_privileges();
	memcg_cleanup();
}
