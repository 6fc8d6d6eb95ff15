// SPDX-License-Identifier: GPL-2.0
/* Operations on a map that are nested in one of the same map on the same CPU,
 * at many instructions of it: those that want a lock which is held below them
 * return -EBUSY, nothing waits for ever and nothing is lost.
 */
#define _GNU_SOURCE
#include <linux/compiler.h>
#include <test_progs.h>
#include "progs/htab_locks.h"
#include "htab_helpers.h"
#include "htab_locks.skel.h"

#define MAX_FUNCS	6
/* Try one byte of so many for an instruction: most tries find none, and take
 * long. What has to be hit are locked sections of many instructions.
 */
#define STRIDE		3
/* An LRU list is shrunk once for 128 elements */
#define NR_EVICT	32

static int duration;

/* A value of any of the maps: those of a percpu map take one for each CPU. */
struct value {
	__u64 word[4 * MAX_CPUS];
};

struct kind {
	const char *name;
	bool locked;	/* values have a lock, updates are with BPF_F_LOCK */
	bool percpu;
	bool evicts;	/* an LRU map: keys may go */
	const char *funcs[MAX_FUNCS];	/* where to nest */
};

static const struct kind kinds[] = {
	{ "hash", .funcs = { "htab_map_update_elem", "alloc_htab_elem",
			     "free_htab_elem", "__pcpu_freelist_push",
			     "__pcpu_freelist_pop" } },
	{ "lru", .evicts = true,
	  .funcs = { "htab_lru_map_update_elem", "bpf_lru_pop_free",
		     "bpf_lru_push_free", "htab_lru_map_delete_node",
		     "__bpf_lru_node_move", "__bpf_lru_list_rotate_inactive" } },
	{ "lru_lists", .evicts = true,
	  .funcs = { "htab_lru_map_update_elem", "bpf_lru_pop_free",
		     "bpf_lru_push_free", "htab_lru_map_delete_node",
		     "__bpf_lru_node_move", "__bpf_lru_list_rotate_inactive" } },
	{ "lru_percpu", .evicts = true, .percpu = true,
	  .funcs = { "__htab_lru_percpu_map_update_elem", "bpf_lru_pop_free",
		     "bpf_lru_push_free", "htab_lru_map_delete_node" } },
	{ "locked_hash", .locked = true,
	  .funcs = { "htab_map_update_elem", "copy_map_value_locked",
		     "__copy_map_value_locked" } },
	{ "locked_array", .locked = true,
	  .funcs = { "array_map_update_elem", "copy_map_value_locked",
		     "__copy_map_value_locked" } },
};

static void fill_all(const struct kind *kind, struct value *val, __u32 key,
		     __u32 gen)
{
	int cpu;

	memset(val, 0, sizeof(*val));
	for (cpu = 0; cpu < (kind->percpu ? bpf_num_possible_cpus() : 1); cpu++)
		fill((void *)&val->word[NR_WORDS * cpu + kind->locked], key,
		     gen);
}

static int set_elem(const struct kind *kind, int fd, __u32 key, __u32 gen)
{
	struct value val;

	fill_all(kind, &val, key, gen);
	return bpf_map_update_elem(fd, &key, &val,
				   kind->locked ? BPF_F_LOCK : BPF_ANY);
}

/* Which write the words of a value come from; -1: not all from the same. A
 * percpu value that a program wrote has that of one CPU only.
 */
static int gen_of(const struct kind *kind, const __u64 *word, __u32 key)
{
	int i, gen;

	word += kind->locked;
	for (gen = kind->percpu ? 0 : 1; gen < 3; gen++) {
		for (i = 0; i < NR_WORDS; i++)
			if (word[i] != (gen ? HTAB_WORD(key, gen, i) : 0))
				break;
		if (i == NR_WORDS)
			return gen;
	}
	return -1;
}

static bool torn(const struct kind *kind, int fd, __u32 key)
{
	struct value val = {};
	int cpu;

	if (bpf_map_lookup_elem_flags(fd, &key, &val,
				      kind->locked ? BPF_F_LOCK : 0))
		return false;
	for (cpu = 0; cpu < (kind->percpu ? bpf_num_possible_cpus() : 1); cpu++)
		if (gen_of(kind, val.word + NR_WORDS * cpu, key) < 0)
			return true;
	return false;
}

/* Insert @nr_keys keys, or replace them; returns the most elements that the map
 * had. An LRU map evicts some at once, to have free ones for a while: just before
 * it does, it has as many as there are.
 */
static int fill_up(const struct kind *kind, int fd, __u32 nr_keys, int *err)
{
	int nr, most = 0;
	__u32 key;

	*err = 0;
	for (key = 0; key < nr_keys; key++) {
		if (set_elem(kind, fd, key, 1))
			*err = -errno;
		nr = nr_elems(fd);
		if (most < nr)
			most = nr;
	}
	return most;
}

/* Have what nests run at one address. Returns an event, < 0: there begins no
 * instruction, or none that may be probed. An address and not a symbol, which
 * the kernel takes long to find.
 */
static int probe(int type, unsigned long addr)
{
	struct perf_event_attr attr = {
		.size = sizeof(attr),
		.type = type,
		.config2 = addr,
	};

	return syscall(__NR_perf_event_open, &attr, -1, 0, -1,
		       PERF_FLAG_FD_CLOEXEC);
}

/* Insert, replace and delete the hot key, and evict or delete others. */
static int churn(const struct kind *kind, int fd, __u32 round)
{
	__u32 key = 0, other = 1 + round % NR_OTHERS;
	int fails = 0;

	fails += !!set_elem(kind, fd, key, 1);
	fails += !!set_elem(kind, fd, key, 1);
	fails += !!set_elem(kind, fd, other, 1);
	if (!strstr(kind->name, "array")) {
		bpf_map_delete_elem(fd, &other);
		bpf_map_delete_elem(fd, &key);
		fails += !!set_elem(kind, fd, key, 1);
	}
	if (kind->evicts)
		for (key = 0; key < NR_EVICT; key++)
			fails += !!set_elem(kind, fd,
					    1000 + NR_EVICT * round + key, 1);
	return fails;
}

static void check_count(const char *what, const struct lock_count *c, bool busy)
{
	CHECK(!c->tries || c->ok + c->busy != c->tries || (c->busy && !busy),
	      what, "%llu of %llu succeeded, %llu with -EBUSY, another error: %lld\n",
	      c->ok, c->tries, c->busy, c->other);
}

/* Find keys for the programs that share a bucket of locked_hash neither with a
 * key that user space writes meanwhile nor with each other: then nothing may
 * keep an update of them waiting.
 */
static void choose_keys(struct htab_locks *skel)
{
	bool taken[MAX_ENTRIES] = {};
	__u32 key;
	int i = 0;

	for (key = 0; key <= NR_OTHERS; key++)
		claim_bucket(taken, MAX_ENTRIES, &key, sizeof(key));
	for (; i < NR_OWN; key++)
		if (claim_bucket(taken, MAX_ENTRIES, &key, sizeof(key)))
			skel->bss->own_keys[i++] = key;
	CHECK(key > MAX_ENTRIES, "keys", "not enough of %d\n", MAX_ENTRIES);
}

static struct htab_locks *open_with(const char *name1, const char *name2)
{
	struct htab_locks *skel = htab_locks__open();
	const char *const names[] = { name1, name2 };

	if (CHECK(!skel, "open", "skeleton failed to open\n"))
		return NULL;
	autoload_only(skel->obj, names, name2 ? 2 : 1);
	choose_keys(skel);
	return skel;
}

static void test_kind(const struct kind *kind)
{
	/* removing a kprobe takes several grace periods */
	static const char expedited[] = "/sys/kernel/rcu_expedited";
	int fd, i, event, places, nr, nr_before, bad = 0, fails = 0, err, type;
	unsigned long start, addr;
	struct htab_locks *skel;
	char name[64], old_expedited[8] = "0";
	cpu_set_t old;
	__u64 hits;
	__u32 key;

	if (!can_attach_fentry())
		return;
	snprintf(name, sizeof(name), "nested_%s", kind->name);
	skel = open_with(name, NULL);
	if (!skel)
		return;
	err = htab_locks__load(skel) ? : htab_locks__attach(skel);
	if (CHECK(err, "load", "or attach: err %d\n", err))
		goto out;
	fd = bpf_object__find_map_fd_by_name(skel->obj, kind->name);
	type = kprobe_type();
	if (CHECK(type < 0 || load_kallsyms(), "kprobe", "no type or symbols\n"))
		goto out;
	sched_getaffinity(0, sizeof(old), &old);
	pin(0);
	swap_line(expedited, "1", old_expedited, sizeof(old_expedited));
	/* full, so that the last elements are at stake */
	nr_before = fill_up(kind, fd, MAX_ENTRIES, &err);
	CHECK(err, "fill", "before: err %d\n", err);
	for (i = 0; i < MAX_FUNCS && kind->funcs[i]; i++) {
		/* it may be inlined */
		start = ksym_get_addr(kind->funcs[i]);
		places = 0;
		for (addr = start; start && ksym_search(addr)->addr == start;
		     addr += STRIDE) {
			event = probe(type, addr);
			if (event < 0)
				continue;
			hits = skel->bss->hits;
			skel->bss->pid = getpid();
			fails += churn(kind, fd, addr - start);
			skel->bss->pid = 0;
			close(event);
			places += skel->bss->hits > hits;
		}
		printf("%s: %d instructions hit\n", kind->funcs[i], places);
	}
	swap_line(expedited, old_expedited, NULL, 0);
	CHECK(fails, "syscalls", "%d failed\n", fails);
	CHECK(skel->bss->hits < 100, "nested", "%llu runs, expected more\n",
	      skel->bss->hits);
	check_count("hot", &skel->bss->hot, true);
	CHECK(!skel->bss->hot.busy || !skel->bss->hot.ok, "hot",
	      "%llu succeeded, %llu with -EBUSY, expected some of each\n",
	      skel->bss->hot.ok, skel->bss->hot.busy);
	/* a lock of the whole map may be in their way as well */
	check_count("own", &skel->bss->own, !kind->locked);
	CHECK(!skel->bss->own.ok, "own", "none succeeded\n");
	for (key = 0; key < MAX_ENTRIES; key++)
		bad += torn(kind, fd, key);
	CHECK(bad, "contents", "%d values hold what nobody wrote\n", bad);
	/* elements that were lost are missing now */
	for (key = 0; key < MAX_ENTRIES; key++)
		bpf_map_delete_elem(fd, &key);
	nr = fill_up(kind, fd, (kind->evicts ? 4 : 1) * MAX_ENTRIES, &err);
	CHECK(err || nr != nr_before, "fill",
	      "after: %d elements, before %d, err %d\n", nr, nr_before, err);
	/* on one CPU until now: an LRU map has lists for each */
	sched_setaffinity(0, sizeof(old), &old);
	if (!kind->evicts) {
		key = MAX_ENTRIES;
		err = set_elem(kind, fd, key, 1);
		CHECK(!err || errno != E2BIG, "limit",
		      "one more than max_entries: errno %d\n", errno);
	}
out:
	htab_locks__destroy(skel);
}

static void *run_hold(void *arg)
{
	struct htab_locks *skel = arg;
	char packet[64] = {};
	__u32 ret, len;

	while (READ_ONCE(skel->bss->pid))
		bpf_prog_test_run(bpf_program__fd(skel->progs.hold), 100,
				  packet, sizeof(packet), NULL, &len, &ret,
				  NULL);
	return NULL;
}

/* A program has locked a value when an NMI comes: sysrq l sends one to each of
 * the other CPUs.
 */
static void test_spin_lock_nmi(void)
{
	const struct kind *kind = &kinds[4];
	struct htab_locks *skel;
	pthread_t thread;
	cpu_set_t old;
	int err;

	if (!can_send_nmis() || !can_attach_fentry())
		return;
	sched_getaffinity(0, sizeof(old), &old);
	skel = open_with("nmi_locked_hash", "hold");
	if (!skel)
		return;
	err = htab_locks__load(skel);
	if (CHECK(err, "load", "err %d\n", err))
		goto out;
	skel->links.nmi_locked_hash =
		bpf_program__attach(skel->progs.nmi_locked_hash);
	if (CHECK(IS_ERR(skel->links.nmi_locked_hash), "attach", "failed\n"))
		goto out;
	fill_up(kind, bpf_map__fd(skel->maps.locked_hash), MAX_ENTRIES, &err);
	skel->bss->pid = getpid();
	pin(1);
	err = pthread_create(&thread, NULL, run_hold, skel);
	pin(0);
	if (CHECK(err, "pthread_create", "err %d\n", err))
		goto restore;
	send_nmis_until(&skel->bss->hits, 100, 10000);
	skel->bss->pid = 0;
	pthread_join(thread, NULL);
	CHECK(!skel->bss->runs || skel->bss->wrong, "lock",
	      "%llu runs, %llu saw a value change under its lock\n",
	      skel->bss->runs, skel->bss->wrong);
	check_count("hot", &skel->bss->hot, true);
	CHECK(skel->bss->hits < 100 || !skel->bss->hot.busy, "nmi",
	      "%llu runs, %llu found the value locked, expected 100 and some\n",
	      skel->bss->hits, skel->bss->hot.busy);
	check_count("own", &skel->bss->own, false);
	printf("%llu NMIs, %llu found the value locked\n", skel->bss->hits,
	       skel->bss->hot.busy);
restore:
	sched_setaffinity(0, sizeof(old), &old);
out:
	htab_locks__destroy(skel);
}

/* An update with BPF_F_LOCK finds an element, which is used for another key
 * before it is locked: that key's value is not to be overwritten.
 */
static void test_reuse(void)
{
	const struct kind *kind = &kinds[4];
	struct htab_locks *skel;
	struct value val = {};
	__u32 hot = 0, own;
	int fd, err, gen;

	if (!can_attach_fentry())
		return;
	skel = open_with("reuse_early", "reuse_late");
	if (!skel)
		return;
	err = htab_locks__load(skel) ? : htab_locks__attach(skel);
	if (CHECK(err, "load", "or attach: err %d\n", err))
		goto out;
	fd = bpf_map__fd(skel->maps.locked_hash);
	own = skel->bss->own_keys[0];
	err = set_elem(kind, fd, hot, 1);
	CHECK(err, "insert", "errno %d\n", errno);
	skel->bss->pid = getpid();
	err = set_elem(kind, fd, hot, 2);
	skel->bss->pid = 0;
	CHECK(err, "update", "errno %d\n", errno);
	CHECK(!skel->bss->hits, "nested", "did not run\n");
	check_count("own", &skel->bss->own, false);
	err = bpf_map_lookup_elem_flags(fd, &own, &val, BPF_F_LOCK);
	gen = err ? 0 : gen_of(kind, val.word, own);
	CHECK(gen != 1, "other key", "holds write %d, expected 1 (errno %d)\n",
	      gen, err ? errno : 0);
out:
	htab_locks__destroy(skel);
}

void test_htab_locks(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(kinds); i++)
		if (test__start_subtest(kinds[i].name))
			test_kind(&kinds[i]);
	if (test__start_subtest("locked_reuse"))
		test_reuse();
	if (test__start_subtest("spin_lock_nmi"))
		test_spin_lock_nmi();
}
