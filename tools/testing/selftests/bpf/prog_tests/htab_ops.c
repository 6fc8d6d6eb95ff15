// SPDX-License-Identifier: GPL-2.0
/* What one can do with the contents of dynamic hash maps, and their limits,
 * while other CPUs add and delete elements.
 */
#define _GNU_SOURCE
#include <linux/compiler.h>
#include <test_progs.h>
#include "htab_helpers.h"
#include "progs/htab_ops.h"
#include "htab_ops.skel.h"

#define NR_BATCH	512
#define CHURN_BASE	0x10000

static int duration;

static int nr_vals(bool percpu)
{
	return percpu ? bpf_num_possible_cpus() : 1;
}

static enum bpf_map_type hash_type(bool percpu)
{
	return percpu ? BPF_MAP_TYPE_PERCPU_HASH : BPF_MAP_TYPE_HASH;
}

/* The same value for all CPUs */
static int set_elem(int fd, int nr, __u64 key, __u64 gen, __u64 flags)
{
	struct htab_val vals[nr];
	int i;

	for (i = 0; i < nr; i++)
		fill(&vals[i], key, gen);
	return bpf_map_update_elem(fd, &key, vals, flags) ? -errno : 0;
}

static bool is_set(const struct htab_val *vals, int nr, __u64 key, __u64 gen)
{
	struct htab_val want;
	int i;

	fill(&want, key, gen);
	for (i = 0; i < nr; i++)
		if (memcmp(&vals[i], &want, sizeof(want)))
			return false;
	return true;
}

static bool holds(int fd, int nr, __u64 key, __u64 gen)
{
	struct htab_val vals[nr];

	return !bpf_map_lookup_elem(fd, &key, vals) &&
	       is_set(vals, nr, key, gen);
}

static bool lacks(int fd, int nr, __u64 key)
{
	struct htab_val vals[nr];

	return bpf_map_lookup_elem(fd, &key, vals) && errno == ENOENT;
}

/* Open the object, with all programs left out but one, or with none */
static struct htab_ops *open_with(const char *name)
{
	struct htab_ops *skel = htab_ops__open();

	if (CHECK(!skel, "open", "skeleton failed to open\n"))
		return NULL;
	autoload_only(skel->obj, &name, 1);
	return skel;
}

static struct htab_ops *load_with(const char *name)
{
	struct htab_ops *skel = open_with(name);
	int err;

	if (!skel)
		return NULL;
	err = htab_ops__load(skel);
	if (!CHECK(err, "load", "%s refused (%d), expected to pass\n", name,
		   err))
		return skel;
	htab_ops__destroy(skel);
	return NULL;
}

static int run_tc(int prog, int repeat)
{
	char pkt[64] = {};

	return bpf_prog_test_run(prog, repeat, pkt, sizeof(pkt), NULL, NULL,
				 NULL, NULL);
}

/* Threads that do the same until they are stopped */
struct worker {
	pthread_t thread;
	struct job *job;
	int nr, cpu;
	__u64 rounds, ok, full, gone, fails, wrong;
};

struct job {
	void (*round)(struct worker *w);
	int fd, fds[4], prog;
	int nr_vals;
	__u64 first, last;	/* keys */
	bool stop, replace;
	int nr_workers;
	struct worker workers[MAX_CPUS];
};

static void *work(void *arg)
{
	struct worker *w = arg;

	if (w->cpu >= 0)
		pin(w->cpu);
	while (!READ_ONCE(w->job->stop)) {
		w->job->round(w);
		w->rounds++;
	}
	return NULL;
}

static void start_worker(struct job *j, int cpu)
{
	struct worker *w = &j->workers[j->nr_workers];
	int err;

	memset(w, 0, sizeof(*w));
	w->job = j;
	w->cpu = cpu;
	w->nr = j->nr_workers;
	err = pthread_create(&w->thread, NULL, work, w);
	if (!CHECK(err, "pthread_create", "err %d\n", err))
		j->nr_workers++;
}

/* On each CPU but the first, or there if it is the only one */
static void start_workers(struct job *j)
{
	int cpus[MAX_CPUS], nr = list_cpus(cpus, MAX_CPUS), i;

	for (i = nr > 1; i < nr; i++)
		start_worker(j, cpus[i]);
}

static __u64 nr_rounds(struct job *j)
{
	__u64 nr = 0;
	int i;

	for (i = 0; i < j->nr_workers; i++)
		nr += READ_ONCE(j->workers[i].rounds);
	return nr;
}

/* Until they did so much more, and so much time has passed, or too much */
static void await_rounds(struct job *j, int nr, int ms)
{
	__u64 begin = now_ms(), start = nr_rounds(j);

	while ((nr_rounds(j) < start + nr && now_ms() < begin + 10000) ||
	       now_ms() < begin + ms)
		usleep(100);
}

/* Sums up in the first worker what all did */
static struct worker *stop_workers(struct job *j)
{
	struct worker *sum = &j->workers[0], *w;

	WRITE_ONCE(j->stop, true);
	for (w = sum; w < sum + j->nr_workers; w++) {
		pthread_join(w->thread, NULL);
		if (w == sum)
			continue;
		sum->rounds += w->rounds;
		sum->ok += w->ok;
		sum->full += w->full;
		sum->gone += w->gone;
		sum->fails += w->fails;
		sum->wrong += w->wrong;
	}
	CHECK(!sum->rounds || sum->fails || sum->wrong, "workers",
	      "in %llu rounds %llu operations failed, %llu went wrong\n",
	      sum->rounds, sum->fails, sum->wrong);
	return sum;
}

/* Batches of which some keys are in the map before, and some are not */
static void test_batch(bool percpu)
{
	int fd, i, err, bad = 0, nv = nr_vals(percpu);
	DECLARE_LIBBPF_OPTS(bpf_map_batch_opts, opts);
	__u32 nr, token, total = 0;
	struct htab_val *vals;
	__u64 *keys;

	fd = bpf_create_map(hash_type(percpu), sizeof(*keys), sizeof(*vals),
			    NR_BATCH, BPF_F_NO_PREALLOC);
	if (CHECK(fd < 0, "create", "errno %d\n", errno))
		return;
	keys = calloc(NR_BATCH, sizeof(*keys));
	vals = calloc(NR_BATCH * nv, sizeof(*vals));

	/* the third that is there already is replaced */
	for (i = 0; i < NR_BATCH; i += 3)
		bad += !!set_elem(fd, nv, i, 1, BPF_NOEXIST);
	for (i = 0; i < NR_BATCH * nv; i++) {
		keys[i / nv] = i / nv;
		fill(&vals[i], i / nv, 2);
	}
	nr = NR_BATCH;
	err = bpf_map_update_batch(fd, keys, vals, &nr, &opts);
	CHECK(err || nr != NR_BATCH, "update_batch",
	      "%u updated (errno %d), expected %d\n", nr, errno, NR_BATCH);
	for (i = 0; i < NR_BATCH; i++)
		bad += !holds(fd, nv, i, 2);
	CHECK(bad, "update_batch", "%d keys wrong\n", bad);

	/* the map is full: one new key stops the batch, no other */
	keys[NR_BATCH / 2] = NR_BATCH;
	nr = NR_BATCH;
	err = bpf_map_update_batch(fd, keys, vals, &nr, &opts);
	CHECK(!err || errno != E2BIG || nr != NR_BATCH / 2, "update_batch",
	      "%u updated, errno %d, expected %d and E2BIG\n", nr, errno,
	      NR_BATCH / 2);

	/* one that is not there stops a batch of deletes */
	nr = NR_BATCH;
	err = bpf_map_delete_batch(fd, keys, &nr, &opts);
	CHECK(!err || errno != ENOENT || nr != NR_BATCH / 2, "delete_batch",
	      "%u deleted, errno %d, expected %d and ENOENT\n", nr, errno,
	      NR_BATCH / 2);
	bad = 0;
	for (i = 0; i < NR_BATCH; i++)
		bad += i < NR_BATCH / 2 ? !lacks(fd, nv, i) :
					  !holds(fd, nv, i, 2);
	CHECK(bad, "delete_batch", "%d keys wrong\n", bad);

	memset(keys, 0, NR_BATCH * sizeof(*keys));
	memset(vals, 0, NR_BATCH * nv * sizeof(*vals));
	nr = NR_BATCH;
	err = bpf_map_lookup_batch(fd, NULL, &token, keys, vals, &nr, &opts);
	CHECK((err && errno != ENOENT) || nr != NR_BATCH / 2, "lookup_batch",
	      "%u elements (errno %d), expected %d\n", nr, errno,
	      NR_BATCH / 2);
	bad = 0;
	for (i = 0; i < nr; i++)
		bad += keys[i] < NR_BATCH / 2 || keys[i] >= NR_BATCH ||
		       !is_set(&vals[i * nv], nv, keys[i], 2);
	CHECK(bad, "lookup_batch", "%d elements wrong\n", bad);

	/* in parts, the sum of which is everything */
	memset(vals, 0, NR_BATCH * nv * sizeof(*vals));
	bad = 0;
	do {
		nr = NR_BATCH / 8;
		err = bpf_map_lookup_and_delete_batch(fd, total ? &token : NULL,
						      &token, keys, vals, &nr,
						      &opts);
		if (CHECK(err && errno != ENOENT, "lookup_and_delete_batch",
			  "errno %d\n", errno))
			break;
		for (i = 0; i < nr; i++)
			bad += keys[i] < NR_BATCH / 2 || keys[i] >= NR_BATCH ||
			       !is_set(&vals[i * nv], nv, keys[i], 2) ||
			       !lacks(fd, nv, keys[i]);
		total += nr;
	} while (!err);
	CHECK(bad || total != NR_BATCH / 2, "lookup_and_delete_batch",
	      "%u elements, %d of them wrong, expected %d\n", total, bad,
	      NR_BATCH / 2);
	nr = nr_elems(fd);
	CHECK(nr, "contents", "%u elements, expected none\n", nr);
	free(keys);
	free(vals);
	close(fd);
}

/* Insert or delete one of a few keys */
static void churn(struct worker *w)
{
	__u64 key = CHURN_BASE * (w->nr + 1) + w->rounds / 2 % 4;

	if (w->rounds & 1)
		w->fails += !!bpf_map_delete_elem(w->job->fd, &key);
	else
		w->fails += !!set_elem(w->job->fd, w->job->nr_vals, key,
				       w->rounds, BPF_NOEXIST);
}

static bool add_stable(int fd, int nv)
{
	int i, err = 0;

	for (i = 0; i < NR_STABLE; i++)
		err = err ? : set_elem(fd, nv, i, 1, BPF_NOEXIST);
	return !CHECK(err, "update", "%d\n", err);
}

/* One pass of an iterator over a map */
static void iterate(struct htab_ops *skel, struct bpf_link *link, int *missed,
		    int *again)
{
	int i, iter = bpf_iter_create(bpf_link__fd(link));
	char buf[64];

	if (CHECK(iter < 0, "iter_create", "errno %d\n", errno))
		return;
	memset(skel->bss->seen, 0, sizeof(skel->bss->seen));
	while ((i = read(iter, buf, sizeof(buf))) > 0)
		;
	CHECK(i < 0, "read", "errno %d\n", errno);
	close(iter);
	for (i = 0; i < NR_STABLE; i++) {
		*missed += !skel->bss->seen[i];
		*again += skel->bss->seen[i] > 1;
	}
}

/* An iterator sees each element, and while other elements come and go at least
 * nothing that is not there.
 */
static void test_iter(bool percpu, bool slow)
{
	DECLARE_LIBBPF_OPTS(bpf_iter_attach_opts, opts);
	struct job job = { .round = churn };
	union bpf_iter_link_info info = {};
	int n, missed = 0, again = 0;
	struct htab_ops *skel;
	struct bpf_link *link;
	__u64 end;

	skel = load_with(percpu ? "iter_percpu_hash" : "iter_hash");
	if (!skel)
		return;
	job.nr_vals = nr_vals(percpu);
	job.fd = bpf_map__fd(percpu ? skel->maps.percpu_hash : skel->maps.hash);
	info.map.map_fd = job.fd;
	opts.link_info = &info;
	opts.link_info_len = sizeof(info);
	link = bpf_program__attach_iter(percpu ? skel->progs.iter_percpu_hash :
						 skel->progs.iter_hash, &opts);
	if (CHECK(IS_ERR(link), "attach", "err %ld\n", PTR_ERR(link)))
		goto out;
	if (!add_stable(job.fd, job.nr_vals))
		goto detach;
	iterate(skel, link, &missed, &again);
	CHECK(missed || again || skel->bss->churned, "alone",
	      "%d of %d keys missed, %d seen again, %llu strange\n", missed,
	      NR_STABLE, again, skel->bss->churned);

	skel->bss->slow = slow;
	start_workers(&job);
	end = now_ms() + 700;
	for (n = 0; n < 10 || now_ms() < end; n++) {
		iterate(skel, link, &missed, &again);
		await_rounds(&job, 1, 0);
	}
	stop_workers(&job);
	CHECK(skel->bss->wrong, "churn", "%llu words wrong\n",
	      skel->bss->wrong);
	CHECK(missed > n * NR_STABLE / 2, "churn",
	      "%d keys missed, in %d times %d\n", missed, n, NR_STABLE);
	CHECK(slow && (missed || again), "reused",
	      "%d keys missed, %d seen again, in %d times %d, expected none\n",
	      missed, again, n, NR_STABLE);
	CHECK(!skel->bss->churned, "churn", "nothing that comes and goes\n");
detach:
	bpf_link__destroy(link);
out:
	htab_ops__destroy(skel);
}

/* get_next_key starts anew when the key is gone, so a walk may see keys again,
 * but it comes to an end, and no key that stays is missed.
 */
static void test_walk(bool percpu)
{
	int n, i, len, restarts = 0, missed = 0, strange = 0;
	struct job job = { .round = churn };
	bool seen[NR_STABLE];
	__u64 key, end, *prev;

	job.nr_vals = nr_vals(percpu);
	job.fd = bpf_create_map(hash_type(percpu), sizeof(__u64),
				sizeof(struct htab_val), WALK_ENTRIES,
				BPF_F_NO_PREALLOC);
	if (CHECK(job.fd < 0, "create", "errno %d\n", errno))
		return;
	if (!add_stable(job.fd, job.nr_vals))
		goto out;
	start_workers(&job);
	end = now_ms() + 700;
	for (n = 0; n < 5 || now_ms() < end; n++) {
		memset(seen, 0, sizeof(seen));
		prev = NULL;
		for (len = 0; len < 1000 * NR_STABLE; len++) {
			if (bpf_map_get_next_key(job.fd, prev, &key))
				break;
			prev = &key;
			if (key >= NR_STABLE) {
				strange += key < CHURN_BASE ||
					   key % CHURN_BASE >= 4;
				continue;
			}
			restarts += seen[key];
			seen[key] = true;
		}
		CHECK(len == 1000 * NR_STABLE, "walk", "no end\n");
		for (i = 0; i < NR_STABLE; i++)
			missed += !seen[i];
		await_rounds(&job, 1, 0);
	}
	stop_workers(&job);
	CHECK(missed || strange, "walk",
	      "%d keys missed, %d nobody wrote, in %d times %d (%d again)\n",
	      missed, strange, n, NR_STABLE, restarts);
out:
	close(job.fd);
}

/* kB of a kind in a node's meminfo, or -1 */
static long node_kb(int node, const char *kind)
{
	char path[64], line[128], name[32];
	long kb, found = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/meminfo",
		 node);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Node %*d %31[^:]: %ld", name, &kb) == 2 &&
		    !strcmp(name, kind))
			found = kb;
	if (f)
		fclose(f);
	return found;
}

/* Elements lie on the node that the map's creator wants, whoever adds them */
static void test_numa_node(void)
{
	const int nr = 16384, kb = nr * sizeof(struct htab_val) / 1024;
	int node, i, err, cpus[MAX_CPUS];
	struct htab_ops *skel;
	long before[2], grown[2];
	cpu_set_t old;

	if (node_kb(1, "Slab") < 0) {
		printf("%s:SKIP:needs two memory nodes, as with numa=fake=2\n",
		       __func__);
		test__skip();
		return;
	}
	if (has_kasan()) {
		printf("%s:SKIP:KASAN lets slabs grow\n", __func__);
		test__skip();
		return;
	}
	sched_getaffinity(0, sizeof(old), &old);
	pin(cpus[list_cpus(cpus, MAX_CPUS) - 1]);
	for (node = 0; node < 2; node++) {
		skel = open_with("insert_hash");
		if (!skel)
			break;
		bpf_map__set_numa_node(skel->maps.hash, node);
		bpf_map__set_map_flags(skel->maps.hash,
				       BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE);
		bpf_map__set_max_entries(skel->maps.hash, nr);
		err = htab_ops__load(skel);
		if (CHECK(err, "load", "err %d\n", err)) {
			htab_ops__destroy(skel);
			break;
		}
		for (i = 0; i < 2; i++)
			before[i] = node_kb(i, "Slab");
		/* half of it by syscall, half by program */
		for (i = 0; i < nr / 2; i++)
			err |= set_elem(bpf_map__fd(skel->maps.hash), 1, i, 1,
					BPF_NOEXIST);
		CHECK(err, "update", "%d\n", err);
		skel->bss->first_key = CHURN_BASE;
		skel->bss->active = true;
		err = run_tc(bpf_program__fd(skel->progs.insert_hash),
			     nr / 2 / NMI_BURST);
		CHECK(err || skel->bss->ok != nr / 2, "program",
		      "%llu updates, expected %d\n", skel->bss->ok, nr / 2);
		for (i = 0; i < 2; i++)
			grown[i] = node_kb(i, "Slab") - before[i];
		CHECK(grown[node] < kb || grown[!node] > kb / 8, "node",
		      "slab grew by %ld kB on node 0, %ld kB on node 1, expected at least %d kB on node %d\n",
		      grown[0], grown[1], kb, node);
		htab_ops__destroy(skel);
	}
	sched_setaffinity(0, sizeof(old), &old);
}

struct locked_val {
	struct bpf_spin_lock lock;
	__u32 pad;
	__u64 v[LOCKED_WORDS];
};

static int set_locked(int fd, __u64 key, __u64 word, __u64 flags)
{
	struct locked_val val = {};
	int i;

	for (i = 0; i < LOCKED_WORDS; i++)
		val.v[i] = word;
	return bpf_map_update_elem(fd, &key, &val, flags) ? -errno : 0;
}

/* Is the value whole, read under its lock? */
static bool is_whole(int fd, __u64 key)
{
	struct locked_val val;
	int i;

	if (bpf_map_lookup_elem_flags(fd, &key, &val, BPF_F_LOCK))
		return errno == ENOENT;
	for (i = 1; i < LOCKED_WORDS; i++)
		if (val.v[i] != val.v[0])
			return false;
	return true;
}

/* Keys come and go, and are written in place meanwhile */
static void churn_locked(struct worker *w)
{
	__u64 key = 1 + (w->nr + w->rounds / 4) % (NR_LOCKED - 1);
	int err = 0, fd = w->job->fd;

	switch (w->rounds % 4) {
	case 0:
		err = set_locked(fd, key, w->rounds << 32, BPF_ANY);
		break;
	case 1:
	case 2:
		err = set_locked(fd, key, w->rounds << 32, BPF_F_LOCK);
		break;
	case 3:
		err = bpf_map_delete_elem(fd, &key) ? -errno : 0;
		break;
	}
	w->fails += err && err != -ENOENT;
}

/* The same, and programs write as well; the values of some keys are read. */
static void churn_locked_run(struct worker *w)
{
	struct job *j = w->job;
	__u64 key;

	churn_locked(w);
	for (key = j->first; key <= j->last; key++)
		w->wrong += !is_whole(j->fd, key);
	w->fails += !!run_tc(j->prog, 4);
}

static struct htab_ops *run_locked(struct job *job, const char *name)
{
	struct htab_ops *skel = load_with(name);
	struct bpf_program *prog;
	int err;

	if (!skel)
		return NULL;
	prog = bpf_object__find_program_by_name(skel->obj, name);
	job->round = churn_locked_run;
	job->fd = bpf_map__fd(skel->maps.locked);
	job->prog = bpf_program__fd(prog);
	err = set_locked(job->fd, 0, 0, BPF_NOEXIST);
	CHECK(err, "update", "%d\n", err);
	start_workers(job);
	start_worker(job, -1);
	await_rounds(job, 1000, 1000);
	stop_workers(job);
	CHECK(skel->bss->wrong || !skel->bss->ok, "whole",
	      "%llu of %llu values that the program locked were torn\n",
	      skel->bss->wrong, skel->bss->ok);
	return skel;
}

/* Each increment under the lock of an element that stays counts. */
static void test_lock_stable(void)
{
	struct locked_val val = {};
	struct htab_ops *skel;
	struct job job = {};
	__u64 key = 0;
	int err;

	skel = run_locked(&job, "lock_stable");
	if (!skel)
		return;
	err = bpf_map_lookup_elem_flags(job.fd, &key, &val, BPF_F_LOCK);
	CHECK(err || val.v[0] != skel->bss->ok || skel->bss->absent, "sum",
	      "%llu increments, expected %llu\n", val.v[0], skel->bss->ok);
	htab_ops__destroy(skel);
}

/* A value that is read under its lock is whole, also when the element is used
 * for another key just then.
 */
static void test_lock_reused(void)
{
	struct job job = { .first = 1, .last = NR_LOCKED - 1 };

	htab_ops__destroy(run_locked(&job, "lock_reused"));
}

/* The words of a value tell where they lie in it, the last may be cut. */
static bool try_value(int fd, __u64 *val, __u64 *buf, int size, int nr)
{
	__u64 key;
	int i;

	for (key = 0; key < 3; key++) {
		for (i = 0; i < size * nr / 8; i++)
			val[i] = HTAB_WORD(key, 1, i);
		if (bpf_map_update_elem(fd, &key, val, BPF_NOEXIST))
			return false;
	}
	key = 1;
	for (i = 0; i < size * nr / 8; i++)
		val[i] = HTAB_WORD(key, 2, i);
	if (bpf_map_update_elem(fd, &key, val, BPF_EXIST))
		return false;
	key = 0;
	if (bpf_map_delete_elem(fd, &key) ||
	    !bpf_map_lookup_elem(fd, &key, buf))
		return false;
	for (key = 1; key < 3; key++) {
		memset(buf, 0, size * nr);
		if (bpf_map_lookup_elem(fd, &key, buf))
			return false;
		for (i = 0; i < size * nr / 8; i++)
			if (buf[i] != HTAB_WORD(key, key == 1 ? 2 : 1, i))
				return false;
	}
	return true;
}

/* User space gets 8 bytes of each CPU, of which a program has set 4 of one. */
static void test_value_end(enum bpf_map_type type, __u32 flags)
{
	__u64 vals[bpf_num_possible_cpus()], key = 1;
	int i, fd, set = 0, wrong = 0;
	struct htab_ops *skel;

	skel = open_with("insert_short");
	if (!skel)
		return;
	bpf_map__set_type(skel->maps.short_vals, type);
	bpf_map__set_map_flags(skel->maps.short_vals, flags);
	if (CHECK(htab_ops__load(skel), "load", "errno %d\n", errno))
		goto out;
	fd = bpf_map__fd(skel->maps.short_vals);
	skel->bss->first_key = key;
	run_tc(bpf_program__fd(skel->progs.insert_short), 1);
	if (CHECK(skel->bss->ok != 1, "insert", "failed\n") ||
	    CHECK(bpf_map_lookup_elem(fd, &key, vals), "lookup", "errno %d\n",
		  errno))
		goto out;
	for (i = 0; i < ARRAY_SIZE(vals); i++) {
		set += vals[i] == SHORT_VAL;
		wrong += vals[i] && vals[i] != SHORT_VAL;
	}
	CHECK(set != 1 || wrong, "values",
	      "%d CPUs have the value, expected 1; %d have others\n", set,
	      wrong);
out:
	htab_ops__destroy(skel);
}

/* Values of all sizes, up to what the kernel takes */
static void test_value_size(bool percpu)
{
	/* KMALLOC_MAX_SIZE may be 32 MB; PCPU_MIN_UNIT_SIZE is 32 kB */
	const int least = percpu ? 32768 : 1 << 20, huge = 1 << 26;
	int sizes[] = { 8, 64, 1024, 4096, 8192, 32768, 0 };
	int low = 1, high = huge, mid, i, fd, nr = nr_vals(percpu);
	__u64 *val, *buf;

	while (low + 1 < high) {
		mid = (low + high) / 2;
		fd = bpf_create_map(hash_type(percpu), sizeof(__u64), mid, 4,
				    BPF_F_NO_PREALLOC);
		if (fd >= 0) {
			close(fd);
			low = mid;
			continue;
		}
		if (CHECK(errno != E2BIG, "create",
			  "values of %d: errno %d, expected E2BIG\n", mid,
			  errno))
			return;
		high = mid;
	}
	if (CHECK(percpu ? low != least : low < least, "largest",
		  "%d bytes, expected %s%d\n", low, percpu ? "" : "at least ",
		  least))
		return;
	sizes[ARRAY_SIZE(sizes) - 1] = low;
	val = malloc((low + 8) * nr);
	buf = malloc((low + 8) * nr);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		fd = bpf_create_map(hash_type(percpu), sizeof(__u64), sizes[i],
				    4, BPF_F_NO_PREALLOC);
		if (CHECK(fd < 0, "create", "values of %d: errno %d\n",
			  sizes[i], errno))
			break;
		CHECK(!try_value(fd, val, buf, sizes[i], nr), "contents",
		      "values of %d: went wrong, errno %d\n", sizes[i], errno);
		close(fd);
	}
	free(val);
	free(buf);
}

/* Take an inner map out, put another in: its element is used again. */
static void swap_inner(struct worker *w)
{
	__u32 key = w->nr % NR_INNER;
	int fd = w->job->fds[w->rounds / 2 % ARRAY_SIZE(w->job->fds)];

	if (w->rounds & 1)
		w->fails += !!bpf_map_delete_elem(w->job->fd, &key);
	else
		w->fails += !!bpf_map_update_elem(w->job->fd, &key, &fd,
						  BPF_NOEXIST);
}

static void test_inner_pointer(void)
{
	struct job job = { .round = swap_inner };
	int i, n, bad = 0, fails = 0;
	__u64 key, val, end;
	struct htab_ops *skel;
	__u32 zero = 0;

	skel = load_with("write_inner");
	if (!skel)
		return;
	job.fd = bpf_map__fd(skel->maps.outer);
	job.prog = bpf_program__fd(skel->progs.write_inner);
	bpf_map_delete_elem(job.fd, &zero);
	for (i = 0; i < ARRAY_SIZE(job.fds); i++) {
		key = 0;
		val = HTAB_WORD(1ULL, 1, 0) << 8 | i;
		job.fds[i] = bpf_create_map(BPF_MAP_TYPE_HASH, sizeof(__u64),
					    sizeof(__u64), 64,
					    BPF_F_NO_PREALLOC);
		CHECK(job.fds[i] < 0, "create", "errno %d\n", errno);
		fails += !!bpf_map_update_elem(job.fds[i], &key, &val, 0);
	}
	/* they mostly wait for RCU */
	for (i = 0; i < NR_INNER; i++)
		start_worker(&job, -1);
	end = now_ms() + 1000;
	while (now_ms() < end || (nr_rounds(&job) < 64 && now_ms() < end + 9000))
		fails += !!run_tc(job.prog, 50);
	stop_workers(&job);
	CHECK(fails, "fails", "%d operations failed\n", fails);
	CHECK(!skel->bss->ok || skel->bss->wrong || skel->bss->other, "inner",
	      "%llu writes, %llu failed, %llu times it was no inner map\n",
	      skel->bss->ok, skel->bss->other, skel->bss->wrong);
	for (i = 0; i < ARRAY_SIZE(job.fds); i++) {
		for (n = 0, key = 0; key <= MAX_CPUS; key++) {
			if (bpf_map_lookup_elem(job.fds[i], &key, &val))
				continue;
			n++;
			bad += val != (key ? : HTAB_WORD(1ULL, 1, 0) << 8 | i);
		}
		bad += n != nr_elems(job.fds[i]);
		close(job.fds[i]);
	}
	CHECK(bad, "contents", "%d elements of inner maps wrong\n", bad);
	htab_ops__destroy(skel);
}

/* What was asked for is what is shown */
static void test_info(void)
{
	static const __u32 flags[] = {
		BPF_F_NO_PREALLOC,
		BPF_F_NO_PREALLOC | BPF_F_ZERO_SEED,
		BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG,
	};
	char path[64], line[128];
	struct bpf_map_info info;
	int fd, i, lines;
	__u32 len, nr;
	FILE *f;

	for (i = 0; i < 2 * ARRAY_SIZE(flags); i++) {
		struct bpf_create_map_attr attr = {
			.map_type = hash_type(i & 1),
			.map_flags = flags[i / 2],
			.key_size = 8,
			.value_size = 24,
			.max_entries = 1000 + i,
		};

		fd = bpf_create_map_xattr(&attr);
		if (CHECK(fd < 0, "create", "errno %d\n", errno))
			break;
		memset(&info, 0, sizeof(info));
		len = sizeof(info);
		CHECK(bpf_obj_get_info_by_fd(fd, &info, &len), "info",
		      "errno %d\n", errno);
		CHECK(info.map_flags != attr.map_flags ||
		      info.max_entries != attr.max_entries ||
		      info.key_size != 8 || info.value_size != 24 ||
		      info.type != attr.map_type, "info",
		      "type %u, flags %#x, max_entries %u, expected %u, %#x, %u\n",
		      info.type, info.map_flags, info.max_entries,
		      attr.map_type, attr.map_flags, attr.max_entries);
		snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
		f = fopen(path, "r");
		lines = 0;
		while (f && fgets(line, sizeof(line), f)) {
			lines += sscanf(line, "map_flags: %x", &nr) == 1 &&
				 nr == attr.map_flags;
			lines += sscanf(line, "max_entries: %u", &nr) == 1 &&
				 nr == attr.max_entries;
		}
		CHECK(lines != 2, "fdinfo",
		      "%d of map_flags and max_entries right\n", lines);
		if (f)
			fclose(f);
		close(fd);
	}
}

/* Insert a new key; when the map is full delete the last one now and then. */
static void insert(struct worker *w)
{
	__u64 key = ((__u64)(w->nr + 1) << 40) + w->ok;
	int err;

	if (w->job->replace && w->full && w->rounds % 4 == 0 && w->ok) {
		key--;
		w->fails += !!bpf_map_delete_elem(w->job->fd, &key);
		w->ok--;
		return;
	}
	err = set_elem(w->job->fd, w->job->nr_vals, key, 1, BPF_NOEXIST);
	w->ok += !err;
	w->full += err == -E2BIG;
	w->fails += err && err != -E2BIG;
}

struct limit {
	struct htab_ops *skel;
	struct job *job;
	__u64 full;
};

static bool enough_full(void *arg)
{
	struct limit *l = arg;

	return READ_ONCE(l->skel->bss->full) >= l->full &&
	       READ_ONCE(l->job->workers[0].full);
}

/* max_entries holds to the element while programs in NMI and syscalls on all
 * CPUs race for the last places.
 */
static void limit_nmi(bool percpu, int max)
{
	struct job job = { .round = insert };
	struct limit limit = { .job = &job };
	struct bpf_program *prog;
	struct worker *sum;
	struct bpf_map *map;
	struct bpf_link *link;
	struct htab_ops *skel;
	int err, n, i, more = 0;
	__u64 total;

	skel = open_with(percpu ? "nmi_percpu_hash" : "nmi_hash");
	if (!skel)
		return;
	limit.skel = skel;
	prog = percpu ? skel->progs.nmi_percpu_hash : skel->progs.nmi_hash;
	map = percpu ? skel->maps.percpu_hash : skel->maps.hash;
	bpf_map__set_max_entries(map, max);
	err = htab_ops__load(skel);
	if (CHECK(err, "load", "err %d\n", err))
		goto out;
	job.fd = bpf_map__fd(map);
	job.nr_vals = nr_vals(percpu);
	link = bpf_program__attach(prog);
	if (CHECK(IS_ERR(link), "attach", "err %ld\n", PTR_ERR(link)))
		goto out;

	skel->bss->active = true;
	start_workers(&job);
	limit.full = 64;
	send_nmis(enough_full, &limit, 10000);
	skel->bss->active = false;
	sum = stop_workers(&job);
	total = sum->ok + skel->bss->ok;
	n = nr_elems(job.fd);
	CHECK(total != max || n != max, "limit",
	      "%llu updates succeeded, %d elements, expected %d\n", total, n,
	      max);
	CHECK(!skel->bss->full || skel->bss->other, "nmi",
	      "%llu succeeded, -E2BIG %llu, -ENOMEM %llu, -EBUSY %llu, other %llu: expected some -E2BIG, and none other\n",
	      skel->bss->ok, skel->bss->full, skel->bss->nomem,
	      skel->bss->busy, skel->bss->other);
	/* full as it is, elements can be replaced */
	for (i = 0; i < sum->ok && i < 16; i++) {
		err = set_elem(job.fd, job.nr_vals, (1ULL << 40) + i, 2,
			       BPF_EXIST);
		if (err == -ENOENT)
			break;	/* the sum is of all workers */
		CHECK(err, "replace", "in the full map: %d\n", err);
		CHECK(!holds(job.fd, job.nr_vals, (1ULL << 40) + i, 2),
		      "replace", "the old value is still there\n");
	}

	/* the same, while places become free */
	while (!bpf_map_get_next_key(job.fd, NULL, &total))
		bpf_map_delete_elem(job.fd, &total);
	skel->bss->ok = 0;
	skel->bss->full = 0;
	skel->bss->first_key = 1ULL << 32;
	job.nr_workers = 0;
	job.stop = false;
	job.replace = true;
	skel->bss->active = true;
	start_workers(&job);
	send_nmis(enough_full, &limit, 10000);
	skel->bss->active = false;
	sum = stop_workers(&job);
	total = sum->ok + skel->bss->ok;
	n = nr_elems(job.fd);
	CHECK(total != n || n > max, "limit",
	      "%d elements, expected %llu and at most %d\n", n, total, max);
	for (i = 0; i <= max; i++) {
		err = set_elem(job.fd, job.nr_vals, (1ULL << 60) + i, 1,
			       BPF_NOEXIST);
		if (err)
			break;
		more++;
	}
	CHECK(err != -E2BIG || n + more != max, "limit",
	      "%d elements and %d more (%d), expected %d\n", n, more, err, max);
	bpf_link__destroy(link);
out:
	htab_ops__destroy(skel);
}

static void test_limit_nmi(bool percpu)
{
	if (!can_send_nmis())
		return;
	/* few for one counter, many for one that is spread over the CPUs */
	limit_nmi(percpu, 100);
	limit_nmi(percpu, 2000);
}

void test_htab_ops(void)
{
	if (test__start_subtest("batch/hash"))
		test_batch(false);
	if (test__start_subtest("batch/percpu_hash"))
		test_batch(true);
	if (test__start_subtest("iter/hash"))
		test_iter(false, false);
	if (test__start_subtest("iter/percpu_hash"))
		test_iter(true, false);
	if (test__start_subtest("iter_reused/hash"))
		test_iter(false, true);
	if (test__start_subtest("iter_reused/percpu_hash"))
		test_iter(true, true);
	if (test__start_subtest("walk/hash"))
		test_walk(false);
	if (test__start_subtest("walk/percpu_hash"))
		test_walk(true);
	if (test__start_subtest("numa_node"))
		test_numa_node();
	if (test__start_subtest("lock/stable"))
		test_lock_stable();
	if (test__start_subtest("lock/reused"))
		test_lock_reused();
	if (test__start_subtest("value_size/hash"))
		test_value_size(false);
	if (test__start_subtest("value_size/percpu_hash"))
		test_value_size(true);
	if (test__start_subtest("value_end/dynamic"))
		test_value_end(BPF_MAP_TYPE_PERCPU_HASH, BPF_F_NO_PREALLOC);
	if (test__start_subtest("value_end/preallocated"))
		test_value_end(BPF_MAP_TYPE_PERCPU_HASH, 0);
	if (test__start_subtest("value_end/lru"))
		test_value_end(BPF_MAP_TYPE_LRU_PERCPU_HASH, 0);
	if (test__start_subtest("inner_pointer"))
		test_inner_pointer();
	if (test__start_subtest("info"))
		test_info();
	if (test__start_subtest("limit_nmi/hash"))
		test_limit_nmi(false);
	if (test__start_subtest("limit_nmi/percpu_hash"))
		test_limit_nmi(true);
}
