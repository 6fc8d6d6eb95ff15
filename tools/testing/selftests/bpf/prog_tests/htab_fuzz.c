// SPDX-License-Identifier: GPL-2.0
/* Hostile bpf() calls: arguments at and beyond their limits, pointers that fault,
 * file descriptors that are closed while they are in use, users without rights.
 * What is refused must leave nothing behind, what is not must do what it is for,
 * and the kernel has nothing to complain of.
 *
 * The calls are random, but the same each time. HTAB_FUZZ_SEED sets another seed;
 * HTAB_FUZZ_ROUNDS makes that many times as many calls. A failure tells the seed
 * and the number of the call.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <grp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <linux/btf.h>
#include <test_progs.h>
#include "htab_helpers.h"
#include "test_btf.h"

#define FORCE_DYN	"/proc/sys/kernel/bpf_force_dyn_alloc"
#define DISABLED	"/proc/sys/kernel/unprivileged_bpf_disabled"
#define NOBODY		65534
#define NOT_SUPP	524	/* the kernel's; it has no name here */

static int duration;
static __u64 seed;
static int rounds, nr_cpus;
static bool unpriv;	/* in the child that gave up its rights */

/* Shared with children, the first failure only */
static struct report {
	int failed;
	char text[512];
} *report;

static __thread struct {
	__u64 state;
	__u32 call;
} rnd;

static void start_random(int nr)
{
	/* any but 0 */
	rnd.state = (seed + nr) * 0x9e3779b97f4a7c15ULL | 1;
	rnd.call = 0;
}

/* xorshift64: G. Marsaglia, Xorshift RNGs, J. of Statistical Software 8(14), 2003 */
static __u64 next_random(void)
{
	rnd.state ^= rnd.state << 13;
	rnd.state ^= rnd.state >> 7;
	rnd.state ^= rnd.state << 17;
	return rnd.state;
}

static __u32 below(__u32 n)
{
	return (next_random() >> 32) % n;
}

static bool percent(int n)
{
	return below(100) < n;
}

static __u32 roundup_8(__u32 n)
{
	return (n + 7) / 8 * 8;
}

static const void *pick(const void *array, size_t bytes, size_t elem_size)
{
	return array + below(bytes / elem_size) * elem_size;
}

#define PICK(array)							\
	(*(const typeof((array)[0]) *)pick(array, sizeof(array),	\
					   sizeof((array)[0])))

static bool failed(void)
{
	return __atomic_load_n(&report->failed, __ATOMIC_RELAXED);
}

static __printf(1, 2) void fail(const char *format, ...)
{
	va_list args;
	int n;

	if (__atomic_exchange_n(&report->failed, 1, __ATOMIC_RELAXED))
		return;
	n = snprintf(report->text, sizeof(report->text),
		     "HTAB_FUZZ_SEED=%llu, call %u: ", seed, rnd.call);
	va_start(args, format);
	vsnprintf(report->text + n, sizeof(report->text) - n, format, args);
	va_end(args);
}

static void check_report(const char *what)
{
	CHECK(failed(), what, "%s\n", report->text);
	memset(report, 0, sizeof(*report));
}

static bool one_of(int err, const int *errs)
{
	for (; *errs; errs++)
		if (err == -*errs)
			return true;
	return false;
}

#define ONE_OF(err, ...)	one_of(err, (const int[]){ __VA_ARGS__, 0 })

/* Returns -errno, or what the system call does */
static int call_bpf(int cmd, const void *attr, __u32 size)
{
	long ret = syscall(__NR_bpf, cmd, attr, size);

	return ret < 0 ? -errno : ret;
}

/* What there is before and must not be more after */

static const int id_cmds[] = {
	BPF_MAP_GET_NEXT_ID, BPF_PROG_GET_NEXT_ID, BPF_BTF_GET_NEXT_ID,
	BPF_LINK_GET_NEXT_ID,
};

struct objects {
	int fds;
	__u32 ids[ARRAY_SIZE(id_cmds)];		/* the last of each kind */
};

/* Ids are given out in ascending order */
static __u32 last_id(int cmd)
{
	union bpf_attr attr = {};

	while (!call_bpf(cmd, &attr, sizeof(attr)))
		attr.start_id = attr.next_id;
	return attr.start_id;
}

static int nr_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int nr = 0;

	if (!dir)
		return -1;
	while (readdir(dir))
		nr++;
	closedir(dir);
	return nr;
}

static void note_objects(struct objects *o)
{
	int i;

	o->fds = nr_fds();
	for (i = 0; i < ARRAY_SIZE(id_cmds); i++)
		o->ids[i] = last_id(id_cmds[i]);
}

/* A program drops its maps after a grace period. */
static void check_objects(const struct objects *o)
{
	__u64 end = now_ms() + 60000;
	int i, fds = nr_fds();
	__u32 id;

	CHECK(fds != o->fds, "fds", "%d, were %d\n", fds, o->fds);
	for (i = 0; i < ARRAY_SIZE(id_cmds); i++) {
		while ((id = last_id(id_cmds[i])) > o->ids[i] && now_ms() < end)
			usleep(10000);
		CHECK(id > o->ids[i], "objects",
		      "command %d: the last id is %u, was %u\n", id_cmds[i],
		      id, o->ids[i]);
	}
}

/* Memory to point to: whole pages, and behind them one that faults */
struct area {
	char *start, *end;
};

static struct area attr_area, key_area, val_area, in_area, out_area, ro_area;

static bool map_area(struct area *a, size_t size)
{
	size_t page = getpagesize();

	size = (size + page - 1) / page * page;
	a->start = mmap(NULL, size + page, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (a->start == MAP_FAILED)
		return false;
	a->end = a->start + size;
	return !mprotect(a->end, page, PROT_NONE);
}

/* Where @size bytes end with the area */
static void *place(const struct area *a, size_t size)
{
	return a->end - size;
}

/* Pointers that fault at once; the first one may mean that there is none */
static __u64 faulting_pointer(void)
{
	static const __u64 values[] = {
		0, 1, ~0ULL, 1ULL << 63, 0xffffffffc1000000ULL,
		0xffff888000000000ULL, 0x7ffffffff000ULL,
	};
	unsigned int i = below(ARRAY_SIZE(values) + 1);

	return i < ARRAY_SIZE(values) ? values[i] : ptr_to_u64(in_area.end);
}

/* File descriptors that are not what is asked for, or just that */

enum {
	ODD_HASH, ODD_ARRAY, ODD_OUTER, ODD_LOCKED, ODD_PROG, ODD_FILE, ODD_BTF,
	NR_ODD_FDS
};

static int odd_fds[NR_ODD_FDS];

/* Types of the BTF */
enum { TYPE_INT = 1, TYPE_LOCK, TYPE_LOCKED, TYPE_LONG, NR_TYPES };

static int load_btf(void)
{
	static const char strs[] = "\0int\0bpf_spin_lock\0val\0value\0lock";
	const __u32 types[] = {
		BTF_TYPE_INT_ENC(1, BTF_INT_SIGNED, 0, 32, 4),
		BTF_STRUCT_ENC(5, 1, 4),
			BTF_MEMBER_ENC(19, TYPE_INT, 0),
		BTF_STRUCT_ENC(23, 2, 8),
			BTF_MEMBER_ENC(29, TYPE_LOCK, 0),
			BTF_MEMBER_ENC(19, TYPE_INT, 32),
		BTF_TYPE_INT_ENC(1, BTF_INT_SIGNED, 0, 64, 8),
	};
	struct btf_header hdr = {
		.magic = BTF_MAGIC,
		.version = BTF_VERSION,
		.hdr_len = sizeof(hdr),
		.type_len = sizeof(types),
		.str_off = sizeof(types),
		.str_len = sizeof(strs),
	};
	char data[sizeof(hdr) + sizeof(types) + sizeof(strs)];

	memcpy(data, &hdr, sizeof(hdr));
	memcpy(data + sizeof(hdr), types, sizeof(types));
	memcpy(data + sizeof(hdr) + sizeof(types), strs, sizeof(strs));
	return bpf_load_btf(data, sizeof(data), NULL, 0, false);
}

static int load_insns(enum bpf_prog_type type, const struct bpf_insn *insns,
		      int nr, __u32 flags, int attach_type, int btf_id)
{
	union bpf_attr attr = {
		.prog_type = type,
		.insns = ptr_to_u64(insns),
		.insn_cnt = nr,
		.license = ptr_to_u64("GPL"),
		.prog_flags = flags,
		.expected_attach_type = attach_type,
		.attach_btf_id = btf_id,
	};

	return call_bpf(BPF_PROG_LOAD, &attr, sizeof(attr));
}

static const struct bpf_insn return_2[] = {
	BPF_MOV64_IMM(BPF_REG_0, 2),
	BPF_EXIT_INSN(),
};

static int load_filter(__u32 flags)
{
	return load_insns(BPF_PROG_TYPE_SOCKET_FILTER, return_2,
			  ARRAY_SIZE(return_2), flags, 0, 0);
}

static int create_locked(__u32 type, __u32 flags)
{
	union bpf_attr attr = {
		.map_type = type,
		.key_size = 4,
		.value_size = 8,
		.max_entries = 48,
		.map_flags = flags,
		.btf_fd = odd_fds[ODD_BTF],
		.btf_key_type_id = TYPE_INT,
		.btf_value_type_id = TYPE_LOCKED,
	};

	return call_bpf(BPF_MAP_CREATE, &attr, sizeof(attr));
}

static int create_outer(__u32 type, int inner, __u32 max_entries, __u32 flags)
{
	return bpf_create_map_in_map(type, NULL, 4, inner, max_entries, flags);
}

static bool open_odd_fds(void)
{
	int i;

	odd_fds[ODD_BTF] = unpriv ? open("/dev/null", O_RDONLY) : load_btf();
	odd_fds[ODD_HASH] = bpf_create_map(BPF_MAP_TYPE_HASH, 4, 4, 4, 0);
	odd_fds[ODD_ARRAY] = bpf_create_map(BPF_MAP_TYPE_ARRAY, 4, 4, 4, 0);
	odd_fds[ODD_OUTER] = create_outer(BPF_MAP_TYPE_HASH_OF_MAPS,
					  odd_fds[ODD_HASH], 4, 0);
	odd_fds[ODD_LOCKED] = unpriv ? open("/dev/null", O_RDONLY) :
				       create_locked(BPF_MAP_TYPE_HASH, 0);
	odd_fds[ODD_PROG] = load_filter(0);
	odd_fds[ODD_FILE] = open("/dev/null", O_RDWR);
	for (i = 0; i < NR_ODD_FDS; i++)
		if (odd_fds[i] < 0)
			return false;
	return true;
}

static void close_odd_fds(void)
{
	int i;

	for (i = 0; i < NR_ODD_FDS; i++)
		close(odd_fds[i]);
}

static int odd_fd(void)
{
	static const int others[] = { -1, 0, 1000000, 0x7fffffff };

	return percent(70) ? PICK(odd_fds) : PICK(others);
}

/* Creation */

#define HASH_FLAGS	(BPF_F_NO_PREALLOC | BPF_F_NO_COMMON_LRU | \
			 BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY | \
			 BPF_F_ZERO_SEED | BPF_F_RDONLY_PROG | \
			 BPF_F_WRONLY_PROG | BPF_F_NO_CHARGE | \
			 BPF_F_REUSE_AFTER_GP)
#define SMALL		(8 << 20)	/* bytes that there always are */

static bool is_lru(__u32 type)
{
	return type == BPF_MAP_TYPE_LRU_HASH ||
	       type == BPF_MAP_TYPE_LRU_PERCPU_HASH;
}

static bool is_percpu(__u32 type)
{
	return type == BPF_MAP_TYPE_PERCPU_HASH ||
	       type == BPF_MAP_TYPE_LRU_PERCPU_HASH ||
	       type == BPF_MAP_TYPE_PERCPU_ARRAY ||
	       type == BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE;
}

static bool is_hash(__u32 type)
{
	return type == BPF_MAP_TYPE_HASH || type == BPF_MAP_TYPE_PERCPU_HASH ||
	       type == BPF_MAP_TYPE_HASH_OF_MAPS || is_lru(type);
}

/* Bytes that a map takes at most, roughly */
static double map_bytes(const union bpf_attr *a)
{
	double elem = 256.0 + a->key_size + a->value_size;

	if (is_percpu(a->map_type))
		elem += (a->value_size + 8.0) * nr_cpus;
	return elem * a->max_entries;
}

/* Not what would take the machine's memory to no end: either little, or more than
 * there is at once.
 */
static void limit_entries(union bpf_attr *a)
{
	double ram = (double)sysconf(_SC_PHYS_PAGES) * getpagesize(), least = 8;

	/* allocated at once */
	if (a->map_type == BPF_MAP_TYPE_QUEUE || a->map_type == BPF_MAP_TYPE_STACK)
		least = a->value_size;
	/* page by page */
	else if (a->map_type == BPF_MAP_TYPE_RINGBUF)
		least = 0;
	while (map_bytes(a) > SMALL * 4.0 && a->max_entries > 1 &&
	       a->max_entries * least < ram &&
	       !(is_hash(a->map_type) && a->max_entries > 1U << 27))
		a->max_entries /= 2;
}

static void random_name(char *name)
{
	static const char bad[] = { ' ', '/', '-', 0x7f, 0x80, '\n' };
	int i, len = below(BPF_OBJ_NAME_LEN + 1);

	for (i = 0; i < len; i++)
		name[i] = "abz_.019"[below(8)];
	if (percent(5))
		name[below(BPF_OBJ_NAME_LEN)] = PICK(bad);
}

static bool name_ok(const char *name)
{
	int i;

	for (i = 0; i < BPF_OBJ_NAME_LEN && name[i]; i++)
		if (!strchr("abz_.019", name[i]))
			return false;
	return i < BPF_OBJ_NAME_LEN;
}

static void random_create(union bpf_attr *a)
{
	static const __u32 hashes[] = {
		BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_PERCPU_HASH,
		BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_LRU_PERCPU_HASH,
		BPF_MAP_TYPE_HASH_OF_MAPS,
	};
	static const __u32 keys[] = {
		0, 1, 2, 3, 5, 7, 8, 9, 255, 256, 260, 261, 504, 505, 511, 512,
		513, 4096, 0x7fffffff, 0x80000000, 0xfffffff8, 0xffffffff,
	};
	static const __u32 values[] = {
		0, 1, 7, 8, 9, 20, 127, 4088, 4096, 4097, 32760, 32761, 32767,
		32768, 32769, (4 << 20) - 1024, (4 << 20) - 600,
		(4 << 20) - 512, 4 << 20, (4 << 20) + 1, 64 << 20, 0x7fffffff,
		0x80000000, 0xfffffff8, 0xfffffff9, 0xffffffff,
	};
	static const __u32 entries[] = {
		0, 1, 2, 3, 31, 32, 33, 64, 129, 4096, 1 << 20, (1 << 26) + 1,
		1 << 27, (1 << 27) + 1, 1 << 28, 0x7fffffff, 0x80000000,
		0x80000001, 0xfffffffe, 0xffffffff,
	};
	static const __u32 nodes[] = { 0, -1, 1 << 20, 0x80000000 };
	static const __u64 extras[] = {
		1, 63, 64, 65, 0x7fffffff, 0xffffffff, 1ULL << 32, 1ULL << 63,
		-1ULL,
	};

	memset(a, 0, sizeof(*a));
	a->map_type = percent(70) ? PICK(hashes) : percent(90) ? below(32) :
		      next_random();
	a->key_size = percent(60) ? 4 : PICK(keys);
	a->value_size = percent(50) ? 4 : percent(50) ? 8 : PICK(values);
	a->max_entries = percent(60) ? 1 + below(64) : PICK(entries);
	if (percent(40))
		a->map_flags = 1 << below(13);
	if (percent(30))
		a->map_flags |= BPF_F_NO_PREALLOC;
	if (percent(15))
		a->map_flags |= BPF_F_NO_CHARGE;
	if (percent(10))
		a->map_flags |= BPF_F_REUSE_AFTER_GP;
	if (percent(15))
		a->map_flags |= 1U << below(32);
	if (percent(3))
		a->map_flags = next_random();
	if (percent(15))
		a->map_extra = percent(50) ? 1 + below(a->max_entries ?: 1) :
					     PICK(extras);
	if (percent(20))
		a->numa_node = PICK(nodes);
	a->inner_map_fd = percent(60) ? odd_fds[below(2)] : odd_fd();
	random_name(a->map_name);
	if (percent(10)) {
		a->btf_fd = percent(80) ? odd_fds[ODD_BTF] : odd_fd();
		a->btf_key_type_id = below(NR_TYPES + 1);
		a->btf_value_type_id = below(NR_TYPES + 1);
		/* give it a chance */
		if (percent(80))
			a->btf_key_type_id = TYPE_INT;
		if (percent(50)) {
			a->key_size = 4;
			a->value_size = 8;
			a->btf_value_type_id = TYPE_LOCKED;
		}
	}
	if (percent(2))
		a->map_ifindex = 1 + below(3);
	if (percent(2))
		a->btf_vmlinux_value_type_id = next_random();
	limit_entries(a);
}

enum verdict { REFUSE, TAKE, ANY };

static enum verdict judge_btf(const union bpf_attr *a)
{
	static const __u32 sizes[NR_TYPES] = {
		[TYPE_INT] = 4, [TYPE_LOCK] = 4, [TYPE_LOCKED] = 8,
		[TYPE_LONG] = 8,
	};

	if (!a->btf_key_type_id && !a->btf_value_type_id)
		return TAKE;
	if (a->btf_fd != odd_fds[ODD_BTF] || unpriv ||
	    !a->btf_key_type_id || !a->btf_value_type_id ||
	    a->btf_key_type_id >= NR_TYPES || a->btf_value_type_id >= NR_TYPES ||
	    sizes[a->btf_key_type_id] != a->key_size ||
	    sizes[a->btf_value_type_id] != a->value_size)
		return REFUSE;
	if (a->map_type == BPF_MAP_TYPE_HASH_OF_MAPS)
		return REFUSE;
	if (a->btf_value_type_id == TYPE_LOCKED &&
	    (a->map_type != BPF_MAP_TYPE_HASH ||
	     a->map_flags & BPF_F_RDONLY_PROG))
		return REFUSE;
	/* what is a lock and nothing else is a matter of taste */
	return a->btf_value_type_id == TYPE_LOCK ? ANY : TAKE;
}

/* What Documentation/bpf/map_hash.rst says of a hash map */
static enum verdict judge_create(const union bpf_attr *a)
{
	__u32 flags = a->map_flags, type = a->map_type;
	enum verdict btf;

	if (!name_ok(a->map_name))
		return REFUSE;
	if (unpriv && flags & (BPF_F_NO_CHARGE | BPF_F_ZERO_SEED))
		return REFUSE;
	if (a->map_extra && (!is_hash(type) || is_lru(type)))
		return REFUSE;
	if (!is_hash(type))
		return ANY;
	if (!(flags & BPF_F_NO_PREALLOC) &&
	    (a->map_extra || flags & BPF_F_REUSE_AFTER_GP))
		return REFUSE;
	if (a->map_extra > a->max_entries ||
	    (a->map_extra && flags & BPF_F_REUSE_AFTER_GP))
		return REFUSE;
	if (flags & ~HASH_FLAGS || (unpriv && is_lru(type)) ||
	    flags & (is_lru(type) ? BPF_F_NO_PREALLOC : BPF_F_NO_COMMON_LRU) ||
	    (flags & BPF_F_RDONLY && flags & BPF_F_WRONLY) ||
	    (flags & BPF_F_RDONLY_PROG && flags & BPF_F_WRONLY_PROG))
		return REFUSE;
	if (flags & BPF_F_NUMA_NODE && a->numa_node != -1 &&
	    (a->numa_node || is_percpu(type) || flags & BPF_F_NO_COMMON_LRU))
		return REFUSE;
	if (!a->key_size || a->key_size > 512 || !a->value_size ||
	    !a->max_entries || a->max_entries > 1U << 27 ||
	    a->map_ifindex || a->btf_vmlinux_value_type_id)
		return REFUSE;
	if (is_percpu(type) && a->value_size > 32768)
		return REFUSE;
	if (type == BPF_MAP_TYPE_HASH_OF_MAPS &&
	    (a->value_size != 4 ||
	     (a->inner_map_fd != odd_fds[ODD_HASH] &&
	      a->inner_map_fd != odd_fds[ODD_ARRAY])))
		return REFUSE;
	btf = judge_btf(a);
	if (btf == REFUSE)
		return REFUSE;
	/* the largest kmalloc() is 4 MB mostly, 32 MB somewhere */
	if (a->value_size > (4 << 20) - 1024)
		return a->value_size > (32 << 20) ||
		       (getpagesize() == 4096 &&
			a->value_size >= (4 << 20) - 512) ? REFUSE : ANY;
	return map_bytes(a) > SMALL ? ANY : btf;
}

/* A map that was made is what was asked for, and can be used. */
static void check_created(int fd, const union bpf_attr *a)
{
	__u32 size = a->value_size, gives = a->map_flags;
	struct bpf_map_info info = {};
	__u32 len = sizeof(info);
	char key[512], *val, *found;
	int err;

	if (bpf_obj_get_info_by_fd(fd, &info, &len)) {
		fail("no info: errno %d", errno);
		return;
	}
	gives &= ~(BPF_F_RDONLY | BPF_F_WRONLY);
	if (!is_hash(a->map_type))
		return;
	if (info.type != a->map_type || info.key_size != a->key_size ||
	    info.value_size != a->value_size || info.map_flags != gives ||
	    info.map_extra != a->map_extra ||
	    info.max_entries < a->max_entries ||
	    info.max_entries >= a->max_entries + nr_cpus ||
	    read_fdinfo(fd, "memlock:\t") <= 0)
		fail("type %u key %u value %u entries %u flags %x/%llx, not %u %u %u %u %x/%llx",
		     info.type, info.key_size, info.value_size,
		     info.max_entries, info.map_flags, info.map_extra,
		     a->map_type, a->key_size, a->value_size, a->max_entries,
		     gives, a->map_extra);
	if (a->map_flags & (BPF_F_RDONLY | BPF_F_WRONLY) ||
	    a->map_type == BPF_MAP_TYPE_HASH_OF_MAPS)
		return;
	if (is_percpu(a->map_type))
		size = roundup_8(size) * nr_cpus;
	val = malloc(size);
	found = malloc(size);
	memset(key, 0x5a, sizeof(key));
	memset(val, 0xa5, size);
	/* the lock there may be */
	if (a->btf_value_type_id)
		memset(val, 0, size);
	err = bpf_map_update_elem(fd, key, val, BPF_NOEXIST);
	if (err)
		fail("update: errno %d", errno);
	else if (bpf_map_lookup_elem(fd, key, found))
		fail("lookup: errno %d", errno);
	else if (memcmp(val, found, size))
		fail("another value of %u bytes", size);
	else if (bpf_map_delete_elem(fd, key))
		fail("delete: errno %d", errno);
	free(val);
	free(found);
}

/* The size of the attributes is random as well, and what does not count is not
 * always 0.
 */
static void try_create(void)
{
	static const __u32 sizes[] = {
		0, 1, 4, 16, 19, 20, 28, 44, 64, sizeof(union bpf_attr) + 1,
		4096, 4097, 0x7fffffff, 0xffffffff,
	};
	size_t size = sizeof(union bpf_attr), copied;
	union bpf_attr a, eff = {};
	bool zero_tail = true;
	enum verdict verdict;
	char *buf;
	int fd;

	random_create(&a);
	if (percent(6))
		size = PICK(sizes);
	copied = size < sizeof(a) ? size : sizeof(a);
	memcpy(&eff, &a, copied);
	verdict = judge_create(&eff);
	if (percent(3) && size == sizeof(a)) {
		((char *)&a)[sizeof(a) - 1 - below(16)] = 1;
		verdict = REFUSE;
	}
	/* as much as there is room for, or all of it in front of a hole */
	buf = place(&attr_area, size > 8192 ? sizeof(a) : size);
	memset(attr_area.start, 0, attr_area.end - attr_area.start);
	memcpy(buf, &a, copied);
	if (size > sizeof(a) && size <= 4096 && percent(50)) {
		buf[sizeof(a) + below(size - sizeof(a))] = 1;
		zero_tail = false;
	}
	if (size > 4096 || !zero_tail)
		verdict = REFUSE;
	if (percent(1)) {
		buf = u64_to_ptr(faulting_pointer());
		if (size)
			verdict = REFUSE;
	}
	fd = call_bpf(BPF_MAP_CREATE, buf, size);
	if (fd >= 0 ? verdict == REFUSE : verdict == TAKE)
		fail("%u sizes %u %u %u flags %x/%llx node %d inner %d btf %u %u len %zu: %d",
		     eff.map_type, eff.key_size, eff.value_size,
		     eff.max_entries, eff.map_flags, eff.map_extra, eff.numa_node,
		     eff.inner_map_fd, eff.btf_key_type_id,
		     eff.btf_value_type_id, size, fd);
	else if (fd < 0 &&
		 !ONE_OF(fd, EINVAL, E2BIG, EPERM, EBADF, EACCES, EFAULT,
			 NOT_SUPP, EOPNOTSUPP, ENOMEM))
		fail("type %u: %d", eff.map_type, fd);
	else if (fd == -ENOMEM && is_hash(eff.map_type) &&
		 (verdict == REFUSE || map_bytes(&eff) < SMALL))
		fail("type %u key %u value %u entries %u flags %x: -ENOMEM",
		     eff.map_type, eff.key_size, eff.value_size,
		     eff.max_entries, eff.map_flags);
	if (fd < 0)
		return;
	check_created(fd, &eff);
	close(fd);
}

static void run_create(int calls)
{
	start_random(1);
	for (; rnd.call < calls && !failed(); rnd.call++)
		try_create();
}

/* Maps that are refused when all of their memory is there already */
static void test_late_refusals(void)
{
	struct rlimit old, full;
	union bpf_attr a;
	double before = 0, kb;
	int i, why, err;
	__u64 end;

	getrlimit(RLIMIT_NOFILE, &old);
	full = old;
	full.rlim_cur = 3;
	/* the first 100 bring what stays */
	for (i = 0; i < 500; i++) {
		if (i == 100)
			before = free_kb();
		why = i % 4;
		memset(&a, 0, sizeof(a));
		a.map_type = i % 8 < 4 ? BPF_MAP_TYPE_HASH :
					 BPF_MAP_TYPE_PERCPU_HASH;
		a.key_size = 4;
		a.value_size = 8;
		a.max_entries = 4096;
		a.map_flags = i % 3 ? 0 : BPF_F_NO_PREALLOC;
		if (i % 5 == 0)
			a.map_flags |= BPF_F_NO_CHARGE;
		switch (why) {
		case 0:
			a.map_name[0] = '/';
			break;
		case 1:
			a.btf_fd = odd_fds[ODD_PROG];
			a.btf_value_type_id = 1;
			break;
		case 2:
			a.btf_fd = odd_fds[ODD_BTF];
			a.btf_key_type_id = TYPE_INT;
			a.btf_value_type_id = TYPE_INT;
			break;
		case 3:
			setrlimit(RLIMIT_NOFILE, &full);
			break;
		}
		err = call_bpf(BPF_MAP_CREATE, &a, sizeof(a));
		setrlimit(RLIMIT_NOFILE, &old);
		if (err != (why == 3 ? -EMFILE : -EINVAL))
			fail("reason %d: %d", why, err);
	}
	check_report("late refusals");
	/* 400 maps of 128 kB at least would miss 50 MB */
	end = now_ms() + 60000;
	do {
		kb = free_kb();
	} while (before - kb > 8192 && now_ms() < end && !usleep(100000));
	CHECK(before - kb > 8192, "memory", "%.0f kB less\n", before - kb);
}

static void test_create(void)
{
	run_create(2000 * rounds);
	check_report("create");
	test_late_refusals();
}

/* Operations on maps that we know the contents of */

#define NR_KEYS		64
#define FULL		48	/* max_entries */
#define NR_INNER	4

struct kind {
	__u32 type, flags, key_size, value_size;
	int calls;
	bool lock;
};

static const struct kind kinds[] = {
	{ BPF_MAP_TYPE_HASH, 0, 12, 20, 1200 },
	{ BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC, 12, 20, 1200 },
	{ BPF_MAP_TYPE_HASH, 0, 4, 8, 600, true },
	{ BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC, 4, 8, 600, true },
	{ BPF_MAP_TYPE_PERCPU_HASH, 0, 12, 20, 600 },
	{ BPF_MAP_TYPE_PERCPU_HASH, BPF_F_NO_PREALLOC, 12, 20, 1200 },
	{ BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC | BPF_F_REUSE_AFTER_GP, 4, 8,
	  600, true },
	{ BPF_MAP_TYPE_LRU_HASH, 0, 12, 20, 600 },
	{ BPF_MAP_TYPE_LRU_HASH, BPF_F_NO_COMMON_LRU, 12, 20, 600 },
	{ BPF_MAP_TYPE_LRU_PERCPU_HASH, 0, 12, 20, 600 },
	/* each update waits for a grace period */
	{ BPF_MAP_TYPE_HASH_OF_MAPS, 0, 4, 4, 100 },
	{ BPF_MAP_TYPE_HASH_OF_MAPS, BPF_F_NO_PREALLOC, 4, 4, 100 },
	{ BPF_MAP_TYPE_LPM_TRIE, BPF_F_NO_PREALLOC, 8, 20, 600 },
	{ BPF_MAP_TYPE_ARRAY, 0, 4, 20, 600 },
};

struct subject {
	const struct kind *k;
	int fd, rdonly, wronly;
	__u32 gens[NR_KEYS];	/* which value, 0: none */
	__u32 last_gen;
	int inner[NR_INNER];
	__u32 inner_ids[NR_INNER];
};

static bool is_array(const struct subject *s)
{
	return s->k->type == BPF_MAP_TYPE_ARRAY;
}

static bool is_outer(const struct subject *s)
{
	return s->k->type == BPF_MAP_TYPE_HASH_OF_MAPS;
}

/* Bytes of a value as user space has it */
static __u32 val_size(const struct subject *s)
{
	if (is_percpu(s->k->type))
		return roundup_8(s->k->value_size) * nr_cpus;
	return s->k->value_size;
}

/* With a LRU map those that can be there */
static int nr_there(const struct subject *s)
{
	int i, nr = 0;

	for (i = 0; i < NR_KEYS; i++)
		nr += !!s->gens[i];
	return nr;
}

static void make_key(const struct subject *s, void *key, __u32 nr)
{
	memset(key, 0x3c, s->k->key_size);
	if (s->k->type == BPF_MAP_TYPE_LPM_TRIE) {
		((__u32 *)key)[0] = 32;
		((__u32 *)key)[1] = nr;
	} else {
		*(__u32 *)key = nr;
	}
}

/* NR_KEYS: none of ours */
static __u32 read_key(const struct subject *s, const void *key)
{
	char want[16];
	__u32 nr;

	nr = ((__u32 *)key)[s->k->type == BPF_MAP_TYPE_LPM_TRIE];
	if (nr >= NR_KEYS)
		return NR_KEYS;
	make_key(s, want, nr);
	return memcmp(key, want, s->k->key_size) ? NR_KEYS : nr;
}

static char val_byte(__u32 key, __u32 gen, int cpu, int i)
{
	return key * 31 + gen * 7 + cpu * 5 + i;
}

static void make_val(const struct subject *s, void *val, __u32 key, __u32 gen)
{
	__u32 stride = roundup_8(s->k->value_size);
	char *v = val;
	int cpu, i;

	if (is_outer(s)) {
		memcpy(val, &s->inner[gen % NR_INNER], 4);
		return;
	}
	memset(val, 0, val_size(s));
	for (cpu = 0; cpu < (is_percpu(s->k->type) ? nr_cpus : 1); cpu++)
		for (i = 0; i < s->k->value_size; i++)
			v[cpu * stride + i] = val_byte(key, gen, cpu, i);
}

static bool val_ok(const struct subject *s, const void *val, __u32 key)
{
	__u32 stride = roundup_8(s->k->value_size), gen = s->gens[key];
	const char *v = val;
	int cpu, i;

	if (is_outer(s))
		return !memcmp(val, &s->inner_ids[gen % NR_INNER], 4);
	/* an array's are 0 at first */
	for (cpu = 0; cpu < (is_percpu(s->k->type) ? nr_cpus : 1); cpu++)
		for (i = s->k->lock ? 4 : 0; i < s->k->value_size; i++)
			if (v[cpu * stride + i] != (is_array(s) && gen == 1 ? 0 :
						    val_byte(key, gen, cpu, i)))
				return false;
	return true;
}

/* One call, with what is wrong with it: it then must give one of these errors */
struct call {
	union bpf_attr attr;
	int errs[8], nr_errs;
};

static void expect(struct call *c, int err)
{
	c->errs[c->nr_errs++] = err;
}

static __u64 point(struct call *c, const struct area *a, size_t size)
{
	if (percent(94))
		return ptr_to_u64(place(a, size));
	expect(c, -EFAULT);
	return percent(50) ? ptr_to_u64(place(a, size) + 1) : faulting_pointer();
}

/* The kernel writes there */
static __u64 point_out(struct call *c, const struct area *a, size_t size)
{
	if (percent(98))
		return point(c, a, size);
	expect(c, -EFAULT);
	return ptr_to_u64(place(&ro_area, size));
}

static int pick_fd(struct call *c, const struct subject *s, bool reads,
		   bool writes)
{
	int fd;

	if (percent(94))
		return s->fd;
	if (!unpriv && percent(50)) {
		if (percent(50)) {
			if (writes)
				expect(c, -EPERM);
			return s->rdonly;
		}
		if (reads)
			expect(c, -EPERM);
		return s->wronly;
	}
	do {
		fd = odd_fd();
	} while (fd == odd_fds[ODD_HASH] || fd == odd_fds[ODD_ARRAY] ||
		 fd == odd_fds[ODD_OUTER] || fd == odd_fds[ODD_LOCKED]);
	/* 0 may be closed */
	if (fd < 0 || fd >= 1000000 || !fd)
		expect(c, -EBADF);
	if (fd >= 0 && fd < 1000000)
		expect(c, -EINVAL);
	return fd;
}

static union bpf_attr *do_call(struct call *c, int cmd, int *got)
{
	union bpf_attr *a = place(&attr_area, sizeof(*a));

	if (percent(2)) {
		((char *)&c->attr)[sizeof(*a) - 1 - below(16)] = 1;
		expect(c, -EINVAL);
	}
	*a = c->attr;
	*got = call_bpf(cmd, a, sizeof(*a));
	return a;
}

/* @want: what the call returns if nothing is wrong with it */
static bool came_out(const struct call *c, int got, int want)
{
	int i;

	if (!c->nr_errs || (want < 0 && got == want))
		return got == want;
	for (i = 0; i < c->nr_errs; i++)
		if (got == c->errs[i])
			return true;
	return false;
}

static __u64 random_flags(void)
{
	switch (below(10)) {
	case 0 ... 5:
		return BPF_ANY;
	case 6:
		return BPF_NOEXIST;
	case 7:
		return BPF_EXIST;
	case 8:
		return BPF_F_LOCK | below(3);
	default:
		return percent(50) ? below(9) : 1ULL << below(64);
	}
}

static int expect_update(const struct subject *s, __u32 key, __u64 flags,
			 bool there)
{
	if (flags & BPF_F_LOCK && !s->k->lock)
		return -EINVAL;
	flags &= ~BPF_F_LOCK;
	if (flags > BPF_EXIST)
		return -EINVAL;
	if (is_array(s))
		return key >= FULL ? -E2BIG :
		       flags == BPF_NOEXIST ? -EEXIST : 0;
	if (there && flags == BPF_NOEXIST)
		return -EEXIST;
	if (!there && flags == BPF_EXIST)
		return -ENOENT;
	if (!there && !is_lru(s->k->type) && nr_there(s) == FULL)
		return s->k->type == BPF_MAP_TYPE_LPM_TRIE ? -ENOSPC : -E2BIG;
	return 0;
}

static void try_update(struct subject *s)
{
	__u32 key = below(NR_KEYS), gen = ++s->last_gen;
	struct call c = {};
	int want, gone, fd, got;
	__u64 flags;

	make_key(s, place(&key_area, s->k->key_size), key);
	make_val(s, place(&val_area, val_size(s)), key, gen);
	flags = random_flags();
	want = expect_update(s, key, flags, s->gens[key]);
	if (is_outer(s) && percent(10)) {
		/* another one like the inner maps is fine */
		do {
			fd = odd_fd();
		} while (fd == odd_fds[ODD_HASH]);
		memcpy(place(&val_area, 4), &fd, 4);
		expect(&c, -EBADF);
		expect(&c, -EINVAL);
	}
	c.attr.map_fd = pick_fd(&c, s, false, true);
	c.attr.key = point(&c, &key_area, s->k->key_size);
	c.attr.value = point(&c, &val_area, val_size(s));
	c.attr.flags = flags;
	do_call(&c, BPF_MAP_UPDATE_ELEM, &got);
	/* a LRU map may have dropped it */
	gone = is_lru(s->k->type) ? expect_update(s, key, flags, false) : want;
	if (!came_out(&c, got, want) && !came_out(&c, got, gone))
		fail("update of key %u, flags %llx: %d, expected %d", key, flags,
		     got, c.nr_errs ? c.errs[0] : want);
	else if (!got)
		s->gens[key] = gen;
}

static void try_lookup(struct subject *s)
{
	__u32 key = below(NR_KEYS);
	struct call c = {};
	int want, got;

	want = s->gens[key] ? 0 : -ENOENT;
	make_key(s, place(&key_area, s->k->key_size), key);
	memset(place(&val_area, val_size(s)), 0xee, val_size(s));
	c.attr.map_fd = pick_fd(&c, s, true, false);
	c.attr.key = point(&c, &key_area, s->k->key_size);
	c.attr.value = point_out(&c, &val_area, val_size(s));
	if (percent(10)) {
		c.attr.flags = percent(50) ? BPF_F_LOCK : random_flags();
		if (c.attr.flags & ~BPF_F_LOCK ||
		    (c.attr.flags & BPF_F_LOCK && !s->k->lock))
			expect(&c, -EINVAL);
	}
	do_call(&c, BPF_MAP_LOOKUP_ELEM, &got);
	if (is_lru(s->k->type) && got == -ENOENT && !c.nr_errs)
		s->gens[key] = 0;
	else if (!came_out(&c, got, want) &&
		 !(is_lru(s->k->type) && got == -ENOENT))
		fail("lookup of key %u: %d, expected %d", key, got,
		     c.nr_errs ? c.errs[0] : want);
	else if (!got && !val_ok(s, place(&val_area, val_size(s)), key))
		fail("lookup of key %u: a wrong value", key);
}

static void try_delete(struct subject *s)
{
	__u32 key = below(NR_KEYS);
	struct call c = {};
	int want, got;

	want = is_array(s) ? -EINVAL : s->gens[key] ? 0 : -ENOENT;
	make_key(s, place(&key_area, s->k->key_size), key);
	c.attr.map_fd = pick_fd(&c, s, false, true);
	c.attr.key = point(&c, &key_area, s->k->key_size);
	do_call(&c, BPF_MAP_DELETE_ELEM, &got);
	if (!came_out(&c, got, want) &&
	    !(is_lru(s->k->type) && got == -ENOENT))
		fail("delete of key %u: %d, expected %d", key, got,
		     c.nr_errs ? c.errs[0] : want);
	else if (!got)
		s->gens[key] = 0;
}

static void try_next_key(struct subject *s)
{
	struct call c = {};
	bool first;
	__u32 key;
	int got;

	make_key(s, place(&key_area, s->k->key_size), below(NR_KEYS));
	memset(place(&out_area, s->k->key_size), 0xee, s->k->key_size);
	c.attr.map_fd = pick_fd(&c, s, true, false);
	c.attr.key = percent(20) ? 0 : point(&c, &key_area, s->k->key_size);
	first = !c.attr.key;
	c.attr.next_key = point_out(&c, &out_area, s->k->key_size);
	do_call(&c, BPF_MAP_GET_NEXT_KEY, &got);
	/* no key is not one that faults */
	if (first && !got)
		c.nr_errs = 0;
	if (got == -ENOENT) {
		if (first && nr_there(s) && !is_lru(s->k->type))
			fail("no first key of %d", nr_there(s));
		return;
	}
	if (!came_out(&c, got, 0)) {
		fail("next key: %d, expected %d", got, c.errs[0]);
		return;
	}
	if (got)
		return;
	key = read_key(s, place(&out_area, s->k->key_size));
	if (key == NR_KEYS || !s->gens[key])
		fail("next key: %u, which is not there", key);
}

/* Not for any of these maps in this kernel */
static void try_lookup_and_delete(struct subject *s)
{
	struct call c = {};
	int got;

	make_key(s, place(&key_area, s->k->key_size), below(NR_KEYS));
	c.attr.map_fd = pick_fd(&c, s, true, true);
	c.attr.key = point(&c, &key_area, s->k->key_size);
	c.attr.value = point_out(&c, &val_area, val_size(s));
	do_call(&c, BPF_MAP_LOOKUP_AND_DELETE_ELEM, &got);
	if (!came_out(&c, got, -NOT_SUPP))
		fail("lookup and delete: %d", got);
}

/* Batches: how many elements there are, and how many the call says */
static __u32 random_count(__u32 *nr)
{
	static const __u32 huge[] = {
		NR_KEYS + 1, 0x7fffffff, 0x80000000, 0xffffffff,
		/* times a size, in 32 bits, is little */
		0x40000001, 0x20000001, 0x15555556, 0x0ccccccd,
	};

	*nr = below(NR_KEYS + 1);
	return percent(75) ? *nr : percent(30) ? 0 : PICK(huge);
}

static bool has_batch(const struct subject *s, int cmd)
{
	switch (s->k->type) {
	case BPF_MAP_TYPE_HASH_OF_MAPS:
		return false;
	case BPF_MAP_TYPE_LPM_TRIE:
		return cmd != BPF_MAP_LOOKUP_AND_DELETE_BATCH;
	case BPF_MAP_TYPE_ARRAY:
		return cmd == BPF_MAP_LOOKUP_BATCH || cmd == BPF_MAP_UPDATE_BATCH;
	default:
		return true;
	}
}

static void finish_batch(struct call *c, const struct subject *s, int cmd)
{
	bool reads = cmd == BPF_MAP_LOOKUP_BATCH ||
		     cmd == BPF_MAP_LOOKUP_AND_DELETE_BATCH;

	c->attr.batch.map_fd = pick_fd(c, s, reads, cmd != BPF_MAP_LOOKUP_BATCH);
	if (percent(6)) {
		c->attr.batch.elem_flags = percent(50) ? BPF_F_LOCK :
							 1 + below(8);
		if (c->attr.batch.elem_flags & ~BPF_F_LOCK ||
		    (c->attr.batch.elem_flags & BPF_F_LOCK && !s->k->lock))
			expect(c, -EINVAL);
	}
	if (!has_batch(s, cmd))
		expect(c, -NOT_SUPP);
}

/* Now and then with attributes that the count cannot be written to */
static int do_batch(struct call *c, int cmd, __u32 *count)
{
	union bpf_attr *a;
	int got;

	if (percent(3)) {
		a = place(&ro_area, sizeof(*a));
		mprotect(ro_area.start, ro_area.end - ro_area.start,
			 PROT_READ | PROT_WRITE);
		*a = c->attr;
		mprotect(ro_area.start, ro_area.end - ro_area.start, PROT_READ);
		if (c->attr.batch.count)
			expect(c, -EFAULT);
		got = call_bpf(cmd, a, sizeof(*a));
		*count = 0;
		return got;
	}
	a = do_call(c, cmd, &got);
	*count = a->batch.count;
	return got;
}

/* Update or delete: one after another until one fails. Beyond what there is, and
 * so in the midst of a batch whose count is too large, pointers fault.
 */
static void try_write_batch(struct subject *s, int cmd)
{
	__u32 nr, count, done, wrote, ks = s->k->key_size, vs = val_size(s);
	bool update = cmd == BPF_MAP_UPDATE_BATCH;
	__u32 gen = s->last_gen += NR_KEYS, keys[NR_KEYS], end;
	struct call c = {};
	int got, want = 0;
	char *k, *v;

	count = random_count(&nr);
	k = place(&key_area, nr * ks);
	v = place(&val_area, nr * vs);
	for (done = 0; done < nr; done++) {
		keys[done] = below(NR_KEYS);
		make_key(s, k + done * ks, keys[done]);
		make_val(s, v + done * vs, keys[done], gen - done);
	}
	end = nr;
	c.attr.batch.keys = ptr_to_u64(k);
	c.attr.batch.values = ptr_to_u64(v);
	if (percent(3)) {
		c.attr.batch.keys = faulting_pointer();
		end = 0;
	} else if (percent(3)) {
		c.attr.batch.values = faulting_pointer();
		end = update ? 0 : nr;
	}
	c.attr.batch.count = count;
	finish_batch(&c, s, cmd);
	got = do_batch(&c, cmd, &wrote);
	/* refused before it begins */
	if (c.nr_errs) {
		if (!came_out(&c, got, 0))
			fail("batch %d of %u: %d, expected %d", cmd, count, got,
			     c.errs[0]);
		return;
	}
	for (done = 0; done < count; done++) {
		if (done >= end)
			want = -EFAULT;
		else if (update)
			want = expect_update(s, keys[done],
					     c.attr.batch.elem_flags,
					     s->gens[keys[done]]);
		else if (!s->gens[keys[done]] ||
			 /* a LRU map may have dropped it */
			 (is_lru(s->k->type) && done == wrote))
			want = -ENOENT;
		if (want)
			break;
		s->gens[keys[done]] = update ? gen - done : 0;
	}
	if (got != want || wrote != done)
		fail("batch %d of %u (%u): %d after %u, expected %d after %u",
		     cmd, count, nr, got, wrote, want, done);
}

/* What a batch took before it failed is not to be known. */
static void forget_lost(struct subject *s)
{
	__u32 key, ks = s->k->key_size;
	char *k = place(&key_area, ks), *v = place(&val_area, val_size(s));

	for (key = 0; key < NR_KEYS; key++) {
		make_key(s, k, key);
		if (bpf_map_lookup_elem(s->fd, k, v) && errno == ENOENT)
			s->gens[key] = 0;
	}
}

static void try_read_batch(struct subject *s, int cmd)
{
	__u32 room, count, wrote, i, key, ks = s->k->key_size, vs = val_size(s);
	__u32 token = percent(50) ? below(NR_KEYS) : next_random();
	bool take = cmd == BPF_MAP_LOOKUP_AND_DELETE_BATCH, whole;
	bool by_key = is_array(s) || s->k->type == BPF_MAP_TYPE_LPM_TRIE;
	__u32 tsize = by_key ? ks : sizeof(token);
	bool seen[NR_KEYS] = {};
	struct call c = {};
	char *k, *v;
	int got;

	count = random_count(&room);
	if (count > room)
		room = NR_KEYS;		/* for all that there can be */
	k = place(&key_area, room * ks);
	v = place(&val_area, room * vs);
	memset(k, 0xee, room * ks);
	memset(v, 0xee, room * vs);
	memcpy(place(&in_area, tsize), &token, tsize);
	c.attr.batch.in_batch = percent(60) ? 0 : point(&c, &in_area, tsize);
	c.attr.batch.out_batch = point_out(&c, &out_area, tsize);
	c.attr.batch.keys = point_out(&c, &key_area, room * ks);
	c.attr.batch.values = point_out(&c, &val_area, room * vs);
	c.attr.batch.count = count;
	if (!by_key && percent(2)) {
		c.attr.batch.flags = 1ULL << below(64);
		expect(&c, -EINVAL);
	}
	whole = !c.attr.batch.in_batch && count >= NR_KEYS;
	finish_batch(&c, s, cmd);
	got = do_batch(&c, cmd, &wrote);
	if (c.nr_errs) {
		/* nothing may have been there that could have failed */
		if (got && got != -ENOENT && got != -ENOSPC &&
		    !came_out(&c, got, 0))
			fail("batch %d of %u: %d, expected %d", cmd, count, got,
			     c.errs[0]);
		if (take)
			forget_lost(s);
		return;
	}
	if (got && !(count && (got == -ENOENT || got == -ENOSPC))) {
		fail("batch %d of %u: %d", cmd, count, got);
		return;
	}
	if (wrote > count || (got == -ENOSPC && wrote)) {
		fail("batch %d of %u: %u elements, returns %d", cmd, count,
		     wrote, got);
		return;
	}
	for (i = 0; i < wrote; i++) {
		key = read_key(s, k + i * ks);
		if (key == NR_KEYS || !s->gens[key] || seen[key] ||
		    !val_ok(s, v + i * vs, key)) {
			fail("batch %d of %u: element %u of %u, key %u, is wrong",
			     cmd, count, i, wrote, key);
			return;
		}
		seen[key] = true;
	}
	for (i = wrote * ks; i < room * ks; i++)
		if (k[i] != (char)0xee && got != -ENOSPC) {
			fail("batch %d of %u: writes beyond %u keys", cmd,
			     count, wrote);
			return;
		}
	if (whole && (got != -ENOENT || (!is_lru(s->k->type) &&
					 wrote != nr_there(s))))
		fail("batch %d of %u: %u of %d elements, returns %d", cmd,
		     count, wrote, nr_there(s), got);
	for (key = 0; take && key < NR_KEYS; key++)
		if (seen[key])
			s->gens[key] = 0;
}

/* All contents, by key and as a walk */
static void check_contents(struct subject *s)
{
	char *k = place(&key_area, s->k->key_size);
	char *v = place(&val_area, val_size(s));
	bool seen[NR_KEYS] = {};
	void *prev = NULL;
	int nr = 0, err;
	__u32 key;

	for (key = 0; key < NR_KEYS; key++) {
		make_key(s, k, key);
		err = bpf_map_lookup_elem(s->fd, k, v) ? -errno : 0;
		if (is_lru(s->k->type) && err == -ENOENT)
			s->gens[key] = 0;
		if (err != (s->gens[key] ? 0 : -ENOENT))
			fail("contents: lookup of key %u: %d", key, err);
		else if (!err && !val_ok(s, v, key))
			fail("contents: key %u has a wrong value", key);
	}
	while (!bpf_map_get_next_key(s->fd, prev, k)) {
		key = read_key(s, k);
		if (key == NR_KEYS || !s->gens[key] || seen[key]) {
			fail("walk: key %u", key);
			return;
		}
		seen[key] = true;
		prev = k;
		nr++;
	}
	if (nr != nr_there(s))
		fail("walk: %d keys of %d", nr, nr_there(s));
}

static int fd_with(int fd, __u32 flags)
{
	struct bpf_map_info info = {};
	__u32 len = sizeof(info);
	union bpf_attr attr = {};

	if (bpf_obj_get_info_by_fd(fd, &info, &len))
		return -errno;
	attr.map_id = info.id;
	attr.open_flags = flags;
	return call_bpf(BPF_MAP_GET_FD_BY_ID, &attr, sizeof(attr));
}

static int create_kind(const struct kind *k, int inner)
{
	if (k->lock)
		return create_locked(k->type, k->flags);
	if (k->type == BPF_MAP_TYPE_HASH_OF_MAPS)
		return create_outer(k->type, inner, FULL, k->flags);
	return bpf_create_map(k->type, k->key_size, k->value_size, FULL,
			      k->flags);
}

static bool open_subject(struct subject *s, const struct kind *k)
{
	struct bpf_map_info info = {};
	__u32 len = sizeof(info);
	int i;

	memset(s, 0, sizeof(*s));
	s->k = k;
	s->last_gen = 1;
	for (i = 0; i < NR_INNER; i++) {
		s->inner[i] = bpf_create_map(BPF_MAP_TYPE_HASH, 4, 4, 4, 0);
		if (bpf_obj_get_info_by_fd(s->inner[i], &info, &len))
			return false;
		s->inner_ids[i] = info.id;
	}
	s->fd = create_kind(k, s->inner[0]);
	for (i = 0; i < FULL && is_array(s); i++)
		s->gens[i] = 1;
	if (unpriv)
		return s->fd >= 0;
	s->rdonly = fd_with(s->fd, BPF_F_RDONLY);
	s->wronly = fd_with(s->fd, BPF_F_WRONLY);
	return s->fd >= 0 && s->rdonly >= 0 && s->wronly >= 0;
}

static void close_subject(struct subject *s)
{
	int i;

	for (i = 0; i < NR_INNER; i++)
		close(s->inner[i]);
	if (!unpriv) {
		close(s->rdonly);
		close(s->wronly);
	}
	close(s->fd);
}

/* Nothing can be written to a frozen map, by whatever call. */
static void try_freeze(struct subject *s)
{
	union bpf_attr attr = { .map_fd = s->fd }, junk = attr;
	char *k = place(&key_area, s->k->key_size);
	char *v = place(&val_area, val_size(s));
	int err;

	junk.key = 1;
	err = call_bpf(BPF_MAP_FREEZE, &junk, sizeof(junk));
	if (err != -EINVAL)
		fail("freeze, unknown fields: %d", err);
	err = call_bpf(BPF_MAP_FREEZE, &attr, sizeof(attr));
	if (err != (unpriv ? -EPERM : 0))
		fail("freeze: %d", err);
	if (unpriv)
		return;
	err = call_bpf(BPF_MAP_FREEZE, &attr, sizeof(attr));
	if (err != -EBUSY)
		fail("freeze again: %d", err);
	make_key(s, k, 0);
	make_val(s, v, 0, 1);
	if (!bpf_map_update_elem(s->fd, k, v, 0) || errno != EPERM)
		fail("update of a frozen map");
	if (!bpf_map_delete_elem(s->fd, k) || errno != EPERM)
		fail("delete from a frozen map");
	memset(&attr, 0, sizeof(attr));
	attr.batch.map_fd = s->fd;
	attr.batch.count = 1;
	attr.batch.keys = ptr_to_u64(k);
	attr.batch.values = ptr_to_u64(v);
	err = call_bpf(BPF_MAP_UPDATE_BATCH, &attr, sizeof(attr));
	if (err != -EPERM)
		fail("batched update of a frozen map: %d", err);
}

static void try_op(struct subject *s)
{
	switch (below(20)) {
	case 0 ... 7:
		try_update(s);
		break;
	case 8 ... 9:
		try_lookup(s);
		break;
	case 10 ... 11:
		try_delete(s);
		break;
	case 12 ... 13:
		try_next_key(s);
		break;
	case 14:
		try_lookup_and_delete(s);
		break;
	case 15:
		try_write_batch(s, BPF_MAP_UPDATE_BATCH);
		break;
	case 16:
		try_write_batch(s, BPF_MAP_DELETE_BATCH);
		break;
	case 17 ... 18:
		try_read_batch(s, BPF_MAP_LOOKUP_BATCH);
		break;
	case 19:
		try_read_batch(s, BPF_MAP_LOOKUP_AND_DELETE_BATCH);
		break;
	}
}

static void run_ops(const struct kind *k, int calls)
{
	struct subject s;

	if (!open_subject(&s, k)) {
		fail("cannot create the map: errno %d", errno);
		return;
	}
	start_random(20 + (k - kinds));
	for (; rnd.call < calls && !failed(); rnd.call++) {
		try_op(&s);
		/* lookups wait for a grace period there as well */
		if (rnd.call % 32 == 0 && !is_outer(&s))
			check_contents(&s);
	}
	try_freeze(&s);
	check_contents(&s);
	close_subject(&s);
}

static void test_ops(void)
{
	char name[64];
	int i;

	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		run_ops(&kinds[i], kinds[i].calls * rounds);
		snprintf(name, sizeof(name), "type %u, flags %x%s",
			 kinds[i].type, kinds[i].flags,
			 kinds[i].lock ? ", lock" : "");
		check_report(name);
	}
}

/* Threads that use, replace and close the same file descriptors */

#define NR_SLOTS	8
#define FIRST_SLOT	300	/* no file gets such a number by itself */
#define MIN_ACTS	50
#define SHARED_PAGES	8

static int nanosleep_id, iter_id;
static bool stop;
/* The same memory twice: one is always there, the other comes and goes */
static char *shared, *fickle;

static int random_slot(void)
{
	return FIRST_SLOT + below(NR_SLOTS);
}

static void replace_slot(void)
{
	int slot = random_slot(), fd;

	if (percent(20)) {
		close(slot);
		return;
	}
	fd = create_kind(&PICK(kinds), odd_fds[ODD_HASH]);
	if (fd < 0) {
		fail("create: %d", fd);
		return;
	}
	dup2(fd, slot);
	close(fd);
}

static void protect_memory(void)
{
	static const int prots[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE };
	size_t page = getpagesize();

	mprotect(fickle + page * below(SHARED_PAGES), page, PICK(prots));
	usleep(below(200));
}

static void use_slot(void)
{
	static const int cmds[] = {
		BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, BPF_MAP_DELETE_ELEM,
		BPF_MAP_GET_NEXT_KEY, BPF_MAP_LOOKUP_AND_DELETE_ELEM,
		BPF_MAP_LOOKUP_BATCH, BPF_MAP_LOOKUP_AND_DELETE_BATCH,
		BPF_MAP_UPDATE_BATCH, BPF_MAP_DELETE_BATCH,
	};
	/* a value of all CPUs may go beyond the end of the memory */
	__u32 at = below(SHARED_PAGES * getpagesize() - sizeof(union bpf_attr));
	__u64 ptr = ptr_to_u64(fickle + below(SHARED_PAGES) * getpagesize());
	union bpf_attr attr = {};
	int cmd = PICK(cmds), err;

	if (cmd == BPF_MAP_LOOKUP_BATCH || cmd == BPF_MAP_DELETE_BATCH ||
	    cmd == BPF_MAP_LOOKUP_AND_DELETE_BATCH || cmd == BPF_MAP_UPDATE_BATCH) {
		attr.batch.map_fd = random_slot();
		attr.batch.count = 1 + below(NR_KEYS);
		attr.batch.keys = ptr_to_u64(fickle) + below(64);
		attr.batch.values = ptr;
		attr.batch.out_batch = ptr + 64;
	} else {
		attr.map_fd = random_slot();
		attr.key = ptr_to_u64(fickle) + below(64);
		attr.value = ptr;
		if (cmd == BPF_MAP_UPDATE_ELEM)
			attr.flags = below(3);
	}
	memcpy(shared + at, &attr, sizeof(attr));
	err = call_bpf(cmd, fickle + at, sizeof(attr));
	/* any thread's attributes may be overwritten by results of another */
	if (err < 0 && !ONE_OF(err, EBADF, EINVAL, ENOENT, EEXIST, E2BIG, ENOSPC,
			       EFAULT, NOT_SUPP))
		fail("command %d: %d", cmd, err);
	if (percent(5))
		read_fdinfo(random_slot(), "memlock:\t");
}

static const struct bpf_insn return_0[] = {
	BPF_MOV64_IMM(BPF_REG_0, 0),
	BPF_EXIT_INSN(),
};

static void iterate_slot(void)
{
	union bpf_iter_link_info info = { .map.map_fd = random_slot() };
	union bpf_attr attr = {};
	int prog, link, iter;
	char buf[64];

	prog = load_insns(BPF_PROG_TYPE_TRACING, return_0, ARRAY_SIZE(return_0),
			  0, BPF_TRACE_ITER, iter_id);
	if (prog < 0) {
		fail("load of an iterator: %d", prog);
		return;
	}
	attr.link_create.prog_fd = prog;
	attr.link_create.attach_type = BPF_TRACE_ITER;
	attr.link_create.iter_info = ptr_to_u64(&info);
	attr.link_create.iter_info_len = sizeof(info);
	link = call_bpf(BPF_LINK_CREATE, &attr, sizeof(attr));
	if (link < 0) {
		if (!ONE_OF(link, EBADF, EINVAL))
			fail("iterator: %d", link);
		close(prog);
		return;
	}
	iter = bpf_iter_create(link);
	if (iter < 0)
		fail("iter_create: errno %d", errno);
	if (percent(50)) {
		close(link);
		link = -1;
	}
	while (read(iter, buf, sizeof(buf)) > 0)
		;
	close(iter);
	if (link >= 0)
		close(link);
	close(prog);
}

static int load_user(int slot, bool sleepable)
{
	const struct bpf_insn insns[] = {
		BPF_ST_MEM(BPF_DW, BPF_REG_10, -8, 0),
		BPF_ST_MEM(BPF_DW, BPF_REG_10, -16, 0),
		BPF_LD_MAP_FD(BPF_REG_1, slot),
		BPF_MOV64_REG(BPF_REG_2, BPF_REG_10),
		BPF_ALU64_IMM(BPF_ADD, BPF_REG_2, -16),
		BPF_EMIT_CALL(percent(70) ? BPF_FUNC_map_lookup_elem :
					    BPF_FUNC_map_delete_elem),
		BPF_MOV64_IMM(BPF_REG_0, 0),
		BPF_EXIT_INSN(),
	};

	return load_insns(BPF_PROG_TYPE_TRACING, insns, ARRAY_SIZE(insns),
			  sleepable ? BPF_F_SLEEPABLE : 0, BPF_TRACE_FENTRY,
			  nanosleep_id);
}

/* A program outlives the file descriptors of its maps */
static void attach_slot(void)
{
	bool sleepable = percent(70);
	union bpf_attr attr = {};
	int prog, link;

	prog = load_user(random_slot(), sleepable);
	if (prog < 0) {
		if (!ONE_OF(prog, EBADF, EINVAL, EACCES))
			fail("load: %d", prog);
		return;
	}
	attr.raw_tracepoint.prog_fd = prog;
	link = call_bpf(BPF_RAW_TRACEPOINT_OPEN, &attr, sizeof(attr));
	if (link < 0)
		fail("attach: %d", link);
	usleep(1);
	memset(&attr, 0, sizeof(attr));
	attr.prog_bind_map.prog_fd = prog;
	attr.prog_bind_map.map_fd = random_slot();
	call_bpf(BPF_PROG_BIND_MAP, &attr, sizeof(attr));
	close(prog);
	usleep(1);
	close(link);
}

static void nest_slot(void)
{
	int outer, inner = random_slot(), err, i;
	__u32 key = 0;

	outer = create_outer(percent(50) ? BPF_MAP_TYPE_HASH_OF_MAPS :
					   BPF_MAP_TYPE_ARRAY_OF_MAPS,
			     inner, 4, 0);
	if (outer < 0) {
		if (!ONE_OF(-errno, EBADF, EINVAL, NOT_SUPP))
			fail("create of an outer map: errno %d", errno);
		return;
	}
	for (i = 0; i < 4; i++) {
		inner = random_slot();
		err = bpf_map_update_elem(outer, &key, &inner, 0) ? -errno : 0;
		if (err && !ONE_OF(err, EBADF, EINVAL))
			fail("update of an outer map: %d", err);
	}
	bpf_map_delete_elem(outer, &key);
	close(outer);
}

static void (*const hostile_acts[])(void) = {
	replace_slot, replace_slot, protect_memory, use_slot, use_slot,
	iterate_slot, attach_slot, nest_slot,
};

struct hostile {
	pthread_t thread;
	int nr;
	__u32 acts;
};

static void *hostile_thread(void *arg)
{
	struct hostile *h = arg;

	start_random(10 + h->nr);
	while (!READ_ONCE(stop) || rnd.call < MIN_ACTS * rounds) {
		hostile_acts[h->nr]();
		rnd.call++;
	}
	h->acts = rnd.call;
	return NULL;
}

static bool map_shared(void)
{
	size_t size = SHARED_PAGES * getpagesize();
	int fd = syscall(__NR_memfd_create, "htab_fuzz", 0);

	if (fd < 0 || ftruncate(fd, size))
		return false;
	shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	fickle = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return shared != MAP_FAILED && fickle != MAP_FAILED;
}

static void test_close(void)
{
	struct hostile hostiles[ARRAY_SIZE(hostile_acts)] = {};
	int i, err;

	nanosleep_id = libbpf_find_vmlinux_btf_id(SYS_NANOSLEEP_KPROBE_NAME,
						  BPF_TRACE_FENTRY);
	iter_id = libbpf_find_vmlinux_btf_id("bpf_map_elem", BPF_TRACE_ITER);
	if (CHECK(nanosleep_id <= 0 || iter_id <= 0, "BTF", "%d and %d\n",
		  nanosleep_id, iter_id))
		return;
	if (CHECK(!map_shared(), "memory", "errno %d\n", errno))
		return;
	WRITE_ONCE(stop, false);
	for (i = 0; i < ARRAY_SIZE(hostiles); i++) {
		hostiles[i].nr = i;
		err = pthread_create(&hostiles[i].thread, NULL, hostile_thread,
				     &hostiles[i]);
		if (CHECK(err, "pthread_create", "err %d\n", err))
			exit(1);
	}
	/* meanwhile maps of ours stay what they are */
	for (i = 0; i < ARRAY_SIZE(kinds); i++)
		if (kinds[i].type != BPF_MAP_TYPE_HASH_OF_MAPS)
			run_ops(&kinds[i], kinds[i].calls / 10 * rounds);
	WRITE_ONCE(stop, true);
	for (i = 0; i < ARRAY_SIZE(hostiles); i++)
		pthread_join(hostiles[i].thread, NULL);
	check_report("close");
	for (i = 0; i < NR_SLOTS; i++)
		close(FIRST_SLOT + i);
	munmap(shared, SHARED_PAGES * getpagesize());
	munmap(fickle, SHARED_PAGES * getpagesize());
}

/* The sysctl */

/* 0 or 1, < 0: not to be read */
static int get_force(void)
{
	return read_number(FORCE_DYN, "");
}

static int write_force(const void *data, size_t len, off_t pos)
{
	int fd = open(FORCE_DYN, O_WRONLY), err;

	if (fd < 0)
		return -errno;
	err = pwrite(fd, data, len, pos) < 0 ? -errno : 0;
	close(fd);
	return err;
}

static void try_sysctl(void)
{
	static const struct {
		const char *s;
		int value;	/* < 0: refused */
	} strings[] = {
		{ "0", 0 }, { "1", 1 }, { "0\n", 0 }, { " \t1\n", 1 },
		{ "00", 0 }, { "0x1", 1 }, { "-0", 0 }, { "1 ", 1 }, { "1 2", 1 },
		{ "2", -1 }, { "-1", -1 }, { "+1", -1 }, { "x", -1 },
		{ "1x", -1 }, { "1.0", -1 }, { "1,0", -1 }, { "--1", -1 },
		{ "-", -1 }, { " ", -1 }, { "\n", -1 }, { "10", -1 },
		{ "2147483647", -1 }, { "2147483648", -1 },
		{ "-2147483648", -1 }, { "4294967295", -1 },
		{ "4294967296", -1 }, { "4294967297", -1 },
		{ "18446744073709551616", -1 }, { "18446744073709551617", -1 },
		{ "0000000000000000000000000001", -1 },
	};
	int old = get_force(), err, now, want, i;
	char junk[8192];
	size_t len;

	if (percent(60)) {
		i = below(ARRAY_SIZE(strings));
		want = strings[i].value;
		err = write_force(strings[i].s, strlen(strings[i].s), 0);
		now = get_force();
		if (want < 0 ? err != -EINVAL || now != old : err || now != want)
			fail("\"%s\" gives %d, %d after %d", strings[i].s, err,
			     now, old);
		return;
	}
	len = below(sizeof(junk));
	memset(junk, percent(50) ? ' ' : '1', len);
	if (percent(50))
		for (i = 0; i < len; i++)
			junk[i] = next_random();
	/* no number begins so */
	junk[0] = 'a';
	switch (below(4)) {
	case 0:
		err = write_force(junk, len, 0);
		if (err != (len ? -EINVAL : 0))
			fail("%zu bytes of junk: %d", len, err);
		break;
	case 1:
		junk[0] = '0' + !old;
		err = write_force(junk, 1, 1 + below(10));
		if (err)
			fail("in the middle: %d", err);
		break;
	case 2:
		len = 1 + below(100);
		err = write_force(u64_to_ptr(faulting_pointer()), len, 0);
		if (err != -EFAULT)
			fail("from nowhere: %d", err);
		break;
	case 3:
		memset(junk, '1', sizeof(junk));
		err = write_force(junk, 21 + len % 4000, 0);
		if (err != -EINVAL)
			fail("%zu digits: %d", 21 + len % 4000, err);
		break;
	}
	now = get_force();
	if (now != old)
		fail("what was refused is taken: %d after %d", now, old);
}

static void *toggle(void *arg)
{
	start_random(3);
	while (!READ_ONCE(stop)) {
		try_sysctl();
		rnd.call++;
	}
	return NULL;
}

static void test_sysctl(void)
{
	int before = get_force(), fd, i, err, prealloc, seen[2] = {};
	__u64 end = now_ms() + 60000;
	struct bpf_map_info info;
	pthread_t thread;
	struct stat st;
	__u32 key, len;
	__u64 val = 0;

	CHECK(stat(FORCE_DYN, &st) || (st.st_mode & 07777) != 0600 || st.st_uid,
	      "mode", "%o, uid %d\n", st.st_mode & 07777, st.st_uid);
	start_random(4);
	for (; rnd.call < 500 * rounds && !failed(); rnd.call++)
		try_sysctl();
	check_report("values");

	WRITE_ONCE(stop, false);
	err = pthread_create(&thread, NULL, toggle, NULL);
	if (CHECK(err, "pthread_create", "err %d\n", err))
		goto out;
	/* until both kinds were met */
	for (i = 0; !failed() && now_ms() < end; i++) {
		__u32 flags = i % 4 ? 0 : BPF_F_NO_PREALLOC;

		if (i >= 200 * rounds && seen[0] && seen[1])
			break;
		fd = bpf_create_map(i % 3 ? BPF_MAP_TYPE_HASH :
					    BPF_MAP_TYPE_LRU_HASH,
				    4, 8, 64, i % 3 ? flags : 0);
		if (fd < 0) {
			fail("create: errno %d", errno);
			break;
		}
		prealloc = read_fdinfo(fd, "prealloc:\t");
		if (i % 3 && (prealloc < 0 || (flags && prealloc)))
			fail("flags %x: prealloc %d", flags, prealloc);
		if (i % 3 && !flags)
			seen[!!prealloc]++;
		len = sizeof(info);
		if (bpf_obj_get_info_by_fd(fd, &info, &len) ||
		    info.map_flags != (i % 3 ? flags : 0))
			fail("flags %x: are %x", flags, info.map_flags);
		for (key = 0; key < 64; key++)
			if (bpf_map_update_elem(fd, &key, &val, BPF_NOEXIST))
				fail("update: errno %d", errno);
		close(fd);
	}
	WRITE_ONCE(stop, true);
	pthread_join(thread, NULL);
	check_report("toggle");
	CHECK(!seen[0] || !seen[1], "toggle",
	      "%d dynamic maps, %d preallocated ones\n", seen[0], seen[1]);
out:
	write_force(before ? "1" : "0", 1, 0);
}

/* Programs */

static struct {
	__u32 type, flags, key_size, value_size;
	int inner;	/* index of the inner map, < 0: none */
	bool sleepable;
	int fd;
} prog_maps[] = {
	{ BPF_MAP_TYPE_HASH, 0, 4, 8, -1, true },
	{ BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC, 4, 8, -1, true },
	{ BPF_MAP_TYPE_PERCPU_HASH, BPF_F_NO_PREALLOC, 4, 8, -1, true },
	{ BPF_MAP_TYPE_LRU_HASH, 0, 4, 8, -1, true },
	{ BPF_MAP_TYPE_LRU_PERCPU_HASH, 0, 4, 8, -1, true },
	{ BPF_MAP_TYPE_ARRAY, 0, 4, 8, -1, true },
	{ BPF_MAP_TYPE_PERCPU_ARRAY, 0, 4, 8, -1, true },
	{ BPF_MAP_TYPE_LPM_TRIE, BPF_F_NO_PREALLOC, 8, 8, -1, true },
	{ BPF_MAP_TYPE_QUEUE, 0, 0, 8, -1, false },
	{ BPF_MAP_TYPE_STACK_TRACE, 0, 4, 8, -1, false },
	{ BPF_MAP_TYPE_HASH_OF_MAPS, 0, 4, 4, 1, true },
	{ BPF_MAP_TYPE_ARRAY_OF_MAPS, 0, 4, 4, 2, true },
	{ BPF_MAP_TYPE_HASH_OF_MAPS, 0, 4, 4, 8, false },
	{ BPF_MAP_TYPE_ARRAY_OF_MAPS, 0, 4, 4, 8, false },
};

#define PROG_FLAGS	(BPF_F_STRICT_ALIGNMENT | BPF_F_ANY_ALIGNMENT | \
			 BPF_F_TEST_RND_HI32 | BPF_F_TEST_STATE_FREQ | \
			 BPF_F_SLEEPABLE | BPF_F_PROG_NO_CHARGE)
#define MAX_INSNS	5000
#define UNPRIV_INSNS	4096
#define PRIV_INSNS	1000000

static void check_loaded(int fd, __u32 type, __u32 flags)
{
	struct bpf_prog_info info = {};
	__u32 len = sizeof(info), ret = 0;
	char packet[64] = {};

	if (bpf_obj_get_info_by_fd(fd, &info, &len) || info.nr_map_ids != 1)
		fail("info: errno %d, %u maps", errno, info.nr_map_ids);
	if (read_fdinfo(fd, "no_charge:\t") != !!(flags & BPF_F_PROG_NO_CHARGE))
		fail("no_charge is not what it was with flags %x", flags);
	if (type == BPF_PROG_TYPE_SOCKET_FILTER &&
	    (bpf_prog_test_run(fd, 1, packet, sizeof(packet), NULL, NULL, &ret,
			       NULL) || ret != 2))
		fail("run: returns %u", ret);
}

static void try_load(void)
{
	static const __u32 types[] = {
		BPF_PROG_TYPE_SOCKET_FILTER, BPF_PROG_TYPE_KPROBE,
		BPF_PROG_TYPE_TRACEPOINT, BPF_PROG_TYPE_PERF_EVENT,
		BPF_PROG_TYPE_RAW_TRACEPOINT, BPF_PROG_TYPE_SCHED_CLS,
		BPF_PROG_TYPE_XDP,
	};
	static const __u32 counts[] = {
		0, 1, UNPRIV_INSNS, UNPRIV_INSNS + 1, PRIV_INSNS,
		PRIV_INSNS + 1, 0x1fffffff, 0x20000001, 0xffffffff,
	};
	int i, n, m = below(ARRAY_SIZE(prog_maps)), fd;
	struct bpf_insn *start;
	enum verdict verdict = TAKE;
	struct rlimit old, now;
	union bpf_attr a = {};
	bool sleeps, no_fd;
	char log[4096];

	n = percent(90) ? 4 + below(20) : 4 + below(MAX_INSNS - 4);
	start = place(&val_area, n * sizeof(*start));
	a.prog_type = percent(40) ? BPF_PROG_TYPE_TRACING : PICK(types);
	start[0] = a.prog_type == BPF_PROG_TYPE_TRACING ? return_0[0] :
							  return_2[0];
	memcpy(start + 1, (struct bpf_insn[]){
		BPF_LD_MAP_FD(BPF_REG_1, prog_maps[m].fd) },
	       2 * sizeof(*start));
	for (i = 3; i < n - 1; i++)
		start[i] = start[0];
	start[n - 1] = return_2[1];

	a.insns = ptr_to_u64(start);
	a.insn_cnt = n;
	a.license = ptr_to_u64("GPL");
	if (a.prog_type == BPF_PROG_TYPE_TRACING) {
		a.expected_attach_type = BPF_TRACE_FENTRY;
		a.attach_btf_id = nanosleep_id;
	}
	if (percent(50))
		a.prog_flags |= BPF_F_SLEEPABLE;
	if (percent(30))
		a.prog_flags |= BPF_F_PROG_NO_CHARGE;
	if (percent(20))
		a.prog_flags |= 1U << below(32);
	if (percent(40))
		a.prog_flags &= ~BPF_F_SLEEPABLE;
	sleeps = a.prog_flags & BPF_F_SLEEPABLE;
	if (a.prog_flags & ~PROG_FLAGS ||
	    (sleeps && (a.prog_type != BPF_PROG_TYPE_TRACING ||
			!prog_maps[m].sleepable)))
		verdict = REFUSE;
	if (unpriv && (n > UNPRIV_INSNS ||
		       a.prog_type != BPF_PROG_TYPE_SOCKET_FILTER ||
		       a.prog_flags & BPF_F_PROG_NO_CHARGE))
		verdict = REFUSE;
	switch (below(40)) {
	case 0:
		a.prog_type = percent(50) ? next_random() : 32 + below(100);
		verdict = REFUSE;
		break;
	case 1:
		a.insn_cnt = PICK(counts);
		if (a.insn_cnt == 1 || a.insn_cnt > n || !a.insn_cnt)
			verdict = REFUSE;
		else if (a.insn_cnt != n)
			verdict = ANY;
		break;
	case 2:
		a.insns = faulting_pointer();
		verdict = REFUSE;
		break;
	case 3:
		a.license = faulting_pointer();
		verdict = REFUSE;
		break;
	case 4:
		a.prog_ifindex = 1 + below(3);
		verdict = REFUSE;
		break;
	case 5:
		random_name(a.prog_name);
		if (!name_ok(a.prog_name))
			verdict = REFUSE;
		break;
	case 6:
		a.log_level = below(8);
		if (percent(50)) {
			a.log_buf = ptr_to_u64(log);
			a.log_size = percent(50) ? sizeof(log) : below(200);
		} else {
			a.log_buf = faulting_pointer();
			a.log_size = next_random();
		}
		if (verdict == TAKE)
			verdict = ANY;
		break;
	case 7:
		a.attach_prog_fd = 1 + below(1000);
		verdict = REFUSE;
		break;
	case 8:
		a.attach_btf_id = next_random() | 1U << 31;
		verdict = REFUSE;
		break;
	case 9:
		a.prog_btf_fd = odd_fd();
		a.func_info_cnt = 1 + below(3);
		a.func_info_rec_size = below(300);
		a.func_info = faulting_pointer();
		verdict = REFUSE;
		break;
	case 10:
		((char *)&a)[sizeof(a) - 1] = 1;
		verdict = REFUSE;
		break;
	case 11:
		start[1].imm = odd_fds[percent(50) ? ODD_PROG : ODD_FILE];
		verdict = REFUSE;
		break;
	}
	no_fd = percent(3);
	if (no_fd) {
		verdict = REFUSE;
		getrlimit(RLIMIT_NOFILE, &old);
		now = old;
		now.rlim_cur = 3;
		setrlimit(RLIMIT_NOFILE, &now);
	}
	fd = call_bpf(BPF_PROG_LOAD, &a, sizeof(a));
	if (no_fd)
		setrlimit(RLIMIT_NOFILE, &old);
	if (fd >= 0 ? verdict == REFUSE : verdict == TAKE)
		fail("type %u flags %x insns %u (%d) map %d attach %u %u log %u %u if %u: %d",
		     a.prog_type, a.prog_flags, a.insn_cnt, n, m,
		     a.expected_attach_type, a.attach_btf_id, a.log_level,
		     a.log_size, a.prog_ifindex, fd);
	else if (fd < 0 &&
		 !ONE_OF(fd, EINVAL, E2BIG, EPERM, EBADF, EACCES, EFAULT, ENOSPC,
			 NOT_SUPP, EOPNOTSUPP, ENOENT, EMFILE))
		fail("type %u flags %x: %d", a.prog_type, a.prog_flags, fd);
	if (fd < 0)
		return;
	check_loaded(fd, a.prog_type, a.prog_flags);
	close(fd);
}

static bool open_prog_maps(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(prog_maps); i++) {
		if (unpriv && (prog_maps[i].type == BPF_MAP_TYPE_LPM_TRIE ||
			       prog_maps[i].type == BPF_MAP_TYPE_QUEUE ||
			       prog_maps[i].type == BPF_MAP_TYPE_STACK_TRACE ||
			       prog_maps[i].inner == 7 ||
			       is_lru(prog_maps[i].type)))
			prog_maps[i].fd = dup(prog_maps[0].fd);
		else if (prog_maps[i].inner >= 0)
			prog_maps[i].fd =
				create_outer(prog_maps[i].type,
					     prog_maps[prog_maps[i].inner].fd, 4,
					     prog_maps[i].flags);
		else
			prog_maps[i].fd = bpf_create_map(prog_maps[i].type,
							 prog_maps[i].key_size,
							 prog_maps[i].value_size,
							 4, prog_maps[i].flags);
		if (prog_maps[i].fd < 0)
			return false;
	}
	return true;
}

static void run_load(int calls)
{
	int i;

	if (!open_prog_maps()) {
		fail("maps for programs: errno %d", errno);
		return;
	}
	start_random(5);
	for (; rnd.call < calls && !failed(); rnd.call++)
		try_load();
	for (i = 0; i < ARRAY_SIZE(prog_maps); i++)
		close(prog_maps[i].fd);
}

static void test_load(void)
{
	nanosleep_id = libbpf_find_vmlinux_btf_id(SYS_NANOSLEEP_KPROBE_NAME,
						  BPF_TRACE_FENTRY);
	if (CHECK(nanosleep_id <= 0, "BTF", "%d\n", nanosleep_id))
		return;
	run_load(800 * rounds);
	check_report("load");
}

/* What a user without rights can reach: Documentation/bpf/map_hash.rst lists it */

struct right {
	const char *what;
	int (*call)(const struct right *r);
	__u32 type, flags, key_size, value_size, max_entries;
	int want;	/* 0: allowed */
};

/* Closes what it gets */
static int verdict_of(int fd)
{
	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

static int right_create(const struct right *r)
{
	union bpf_attr attr = {
		.map_type = r->type,
		.map_flags = r->flags,
		.key_size = r->key_size,
		.value_size = r->value_size,
		.max_entries = r->max_entries,
	};

	if (r->type == BPF_MAP_TYPE_HASH_OF_MAPS ||
	    r->type == BPF_MAP_TYPE_ARRAY_OF_MAPS)
		attr.inner_map_fd = odd_fds[ODD_HASH];
	return verdict_of(call_bpf(BPF_MAP_CREATE, &attr, sizeof(attr)));
}

static int right_load(const struct right *r)
{
	return verdict_of(load_insns(r->type, return_2, ARRAY_SIZE(return_2),
				     r->flags, r->value_size, 0));
}

static int right_large_program(const struct right *r)
{
	struct bpf_insn *insns = place(&val_area, r->max_entries * 8);
	int i;

	for (i = 0; i < r->max_entries - 1; i++)
		insns[i] = return_2[0];
	insns[i] = return_2[1];
	return verdict_of(load_insns(r->type, insns, r->max_entries, 0, 0, 0));
}

/* Single operations and batches on a map of one's own, in the type of @r */
static int right_use(const struct right *r)
{
	DECLARE_LIBBPF_OPTS(bpf_map_batch_opts, opts);
	__u32 key = 1, nr = 1, token;
	__u64 val = 2, vals[nr_cpus];
	int fd, err = 0;

	memset(vals, 0, sizeof(vals));
	fd = bpf_create_map(r->type, 4, 8, 4, r->flags);
	if (fd < 0)
		return -errno;
	if (bpf_map_update_elem(fd, &key, vals, 0) ||
	    bpf_map_lookup_elem(fd, &key, vals) ||
	    bpf_map_get_next_key(fd, NULL, &val) ||
	    bpf_map_delete_elem(fd, &key) ||
	    bpf_map_update_batch(fd, &key, vals, &nr, &opts) ||
	    (bpf_map_lookup_batch(fd, NULL, &token, &val, vals, &nr, &opts) &&
	     errno != ENOENT) ||
	    bpf_map_delete_batch(fd, &key, &nr, &opts) ||
	    read_fdinfo(fd, "memlock:\t") <= 0)
		err = -errno;
	close(fd);
	return err;
}

static int right_freeze(const struct right *r)
{
	return bpf_map_freeze(odd_fds[ODD_HASH]) ? -errno : 0;
}

static int right_by_id(const struct right *r)
{
	union bpf_attr attr = {};
	int cmd = r->type;

	return call_bpf(cmd, &attr, sizeof(attr));
}

/* The program and the map are one's own */
static int right_bind(const struct right *r)
{
	union bpf_attr attr = {
		.prog_bind_map.prog_fd = odd_fds[ODD_PROG],
		.prog_bind_map.map_fd = odd_fds[ODD_HASH],
	};

	return call_bpf(BPF_PROG_BIND_MAP, &attr, sizeof(attr));
}

static int right_btf(const struct right *r)
{
	int fd = load_btf();

	return fd < 0 ? -errno : verdict_of(fd);
}

static int right_sysctl(const struct right *r)
{
	int fd = open(FORCE_DYN, r->flags);

	return fd < 0 ? -errno : verdict_of(fd);
}

/* Memory that may not be locked is no reason any more. */
static int right_memlock(const struct right *r)
{
	struct rlimit zero = {};

	if (setrlimit(RLIMIT_MEMLOCK, &zero))
		return -errno;
	return verdict_of(bpf_create_map(BPF_MAP_TYPE_HASH, 4, 8, 1024, 0)) ? :
	       verdict_of(load_filter(0));
}

#define CREATE(type, key, value, entries, want)				\
	{ #type, right_create, BPF_MAP_TYPE_##type, 0, key, value, entries, want }

static const struct right rights[] = {
	CREATE(HASH, 4, 8, 4, 0),
	CREATE(PERCPU_HASH, 4, 8, 4, 0),
	CREATE(HASH_OF_MAPS, 4, 4, 4, 0),
	CREATE(ARRAY, 4, 8, 4, 0),
	CREATE(PERCPU_ARRAY, 4, 8, 4, 0),
	CREATE(ARRAY_OF_MAPS, 4, 4, 4, 0),
	CREATE(PROG_ARRAY, 4, 4, 4, 0),
	CREATE(PERF_EVENT_ARRAY, 4, 4, 4, 0),
	CREATE(CGROUP_ARRAY, 4, 4, 4, 0),
	CREATE(CGROUP_STORAGE, 8, 8, 0, 0),
	CREATE(PERCPU_CGROUP_STORAGE, 8, 8, 0, 0),
	CREATE(RINGBUF, 0, 0, 65536, 0),
	CREATE(LRU_HASH, 4, 8, 4, -EPERM),
	CREATE(LRU_PERCPU_HASH, 4, 8, 4, -EPERM),
	CREATE(LPM_TRIE, 8, 8, 4, -EPERM),
	CREATE(QUEUE, 0, 8, 4, -EPERM),
	CREATE(STACK, 0, 8, 4, -EPERM),
	CREATE(STACK_TRACE, 4, 8, 4, -EPERM),
	CREATE(CPUMAP, 4, 4, 1, -EPERM),
	CREATE(DEVMAP, 4, 4, 4, -EPERM),
	CREATE(DEVMAP_HASH, 4, 4, 4, -EPERM),
	CREATE(SOCKMAP, 4, 4, 4, -EPERM),
	CREATE(SOCKHASH, 4, 4, 4, -EPERM),
	CREATE(REUSEPORT_SOCKARRAY, 4, 8, 4, -EPERM),
	{ "BPF_F_NO_PREALLOC", right_create, BPF_MAP_TYPE_HASH,
	  BPF_F_NO_PREALLOC, 4, 8, 4, 0 },
	{ "BPF_F_REUSE_AFTER_GP", right_create, BPF_MAP_TYPE_HASH,
	  BPF_F_NO_PREALLOC | BPF_F_REUSE_AFTER_GP, 4, 8, 4, 0 },
	{ "BPF_F_NO_CHARGE", right_create, BPF_MAP_TYPE_HASH, BPF_F_NO_CHARGE,
	  4, 8, 4, -EPERM },
	{ "BPF_F_NO_CHARGE", right_create, BPF_MAP_TYPE_ARRAY, BPF_F_NO_CHARGE,
	  4, 8, 4, -EPERM },
	{ "BPF_F_ZERO_SEED", right_create, BPF_MAP_TYPE_HASH, BPF_F_ZERO_SEED,
	  4, 8, 4, -EPERM },
	{ "use", right_use, BPF_MAP_TYPE_HASH, 0, 0, 0, 0, 0 },
	{ "use", right_use, BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC, 0, 0, 0, 0 },
	{ "use", right_use, BPF_MAP_TYPE_PERCPU_HASH, 0, 0, 0, 0, 0 },
	{ "use", right_use, BPF_MAP_TYPE_PERCPU_HASH, BPF_F_NO_PREALLOC,
	  0, 0, 0, 0 },
	{ "freeze", right_freeze, .want = -EPERM },
	{ "next map", right_by_id, BPF_MAP_GET_NEXT_ID, .want = -EPERM },
	{ "next program", right_by_id, BPF_PROG_GET_NEXT_ID, .want = -EPERM },
	{ "map by id", right_by_id, BPF_MAP_GET_FD_BY_ID, .want = -EPERM },
	{ "program by id", right_by_id, BPF_PROG_GET_FD_BY_ID, .want = -EPERM },
	{ "BTF", right_btf, .want = -EPERM },
	{ "SOCKET_FILTER", right_load, BPF_PROG_TYPE_SOCKET_FILTER, .want = 0 },
	{ "CGROUP_SKB", right_load, BPF_PROG_TYPE_CGROUP_SKB,
	  .value_size = BPF_CGROUP_INET_EGRESS, .want = 0 },
	{ "BPF_F_PROG_NO_CHARGE", right_load, BPF_PROG_TYPE_SOCKET_FILTER,
	  BPF_F_PROG_NO_CHARGE, .want = -EPERM },
	{ "BPF_F_SLEEPABLE", right_load, BPF_PROG_TYPE_SOCKET_FILTER,
	  BPF_F_SLEEPABLE, .want = -EINVAL },
	{ "TRACING", right_load, BPF_PROG_TYPE_TRACING, BPF_F_SLEEPABLE,
	  .value_size = BPF_TRACE_FENTRY, .want = -EPERM },
	{ "KPROBE", right_load, BPF_PROG_TYPE_KPROBE, .want = -EPERM },
	{ "PERF_EVENT", right_load, BPF_PROG_TYPE_PERF_EVENT, .want = -EPERM },
	{ "RAW_TRACEPOINT", right_load, BPF_PROG_TYPE_RAW_TRACEPOINT,
	  .want = -EPERM },
	{ "EXT", right_load, BPF_PROG_TYPE_EXT, .want = -EPERM },
	{ "4096 instructions", right_large_program, BPF_PROG_TYPE_SOCKET_FILTER,
	  .max_entries = UNPRIV_INSNS, .want = 0 },
	{ "4097 instructions", right_large_program, BPF_PROG_TYPE_SOCKET_FILTER,
	  .max_entries = UNPRIV_INSNS + 1, .want = -E2BIG },
	{ "bind", right_bind, .want = 0 },
	{ "RLIMIT_MEMLOCK", right_memlock, .want = 0 },
	{ "read sysctl", right_sysctl, .flags = O_RDONLY, .want = -EACCES },
	{ "write sysctl", right_sysctl, .flags = O_WRONLY, .want = -EACCES },
};

static void try_rights(bool disabled)
{
	int i, err, want;

	for (i = 0; i < ARRAY_SIZE(rights); i++) {
		err = rights[i].call(&rights[i]);
		want = rights[i].want;
		if (disabled && rights[i].call != right_sysctl)
			want = -EPERM;
		rnd.call = i;
		if (err != want)
			fail("%s (%u, flags %x): %d, expected %d",
			     rights[i].what, rights[i].type, rights[i].flags,
			     err, want);
	}
}

static void run_as_nobody(bool disabled)
{
	int i;

	if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
	    setresuid(NOBODY, NOBODY, NOBODY)) {
		fail("cannot become nobody: errno %d", errno);
		return;
	}
	unpriv = true;
	/* may look at its own fdinfo */
	prctl(PR_SET_DUMPABLE, 1);
	if (disabled) {
		try_rights(true);
		return;
	}
	close_odd_fds();
	if (!open_odd_fds()) {
		fail("maps of one's own: errno %d", errno);
		return;
	}
	try_rights(false);
	run_create(1000 * rounds);
	for (i = 0; i < ARRAY_SIZE(kinds); i++)
		if (!is_lru(kinds[i].type) && !kinds[i].lock &&
		    kinds[i].type != BPF_MAP_TYPE_LPM_TRIE)
			run_ops(&kinds[i], kinds[i].calls / 4 * rounds);
	run_load(400 * rounds);
}

static void fork_nobody(bool disabled)
{
	int status = -1;
	pid_t pid;

	pid = fork();
	if (!pid) {
		run_as_nobody(disabled);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	CHECK(pid < 0 || status, "child", "status %x\n", status);
	check_report(disabled ? "disabled" : "enabled");
}

/* A value of 1 is for ever; 2 refuses the same. */
static void test_unprivileged(void)
{
	long long before = read_number(DISABLED, "");

	if (before == 1) {
		printf("%s:SKIP:enabled: %s is 1\n", __func__, DISABLED);
		fork_nobody(true);
		test__skip();
		return;
	}
	if (CHECK(!write_file(DISABLED, "0"), "enable", "errno %d\n", errno))
		return;
	fork_nobody(false);
	if (!CHECK(!write_file(DISABLED, "2"), "disable", "errno %d\n", errno))
		fork_nobody(true);
	write_file(DISABLED, before ? "2" : "0");
}

static int number_from_env(const char *name, int otherwise)
{
	const char *value = getenv(name);

	return value ? atoi(value) : otherwise;
}

static const struct {
	const char *name;
	void (*run)(void);
} tests[] = {
	{ "create", test_create },
	{ "ops", test_ops },
	{ "close", test_close },
	{ "sysctl", test_sysctl },
	{ "load", test_load },
	{ "unprivileged", test_unprivileged },
};

void test_htab_fuzz(void)
{
	struct objects before;
	size_t vals;
	int i;

	seed = number_from_env("HTAB_FUZZ_SEED", 1);
	rounds = number_from_env("HTAB_FUZZ_ROUNDS", 1);
	nr_cpus = bpf_num_possible_cpus();
	vals = NR_KEYS * roundup_8(20) * nr_cpus;
	if (vals < MAX_INSNS * sizeof(struct bpf_insn))
		vals = MAX_INSNS * sizeof(struct bpf_insn);
	report = mmap(NULL, sizeof(*report), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (CHECK(report == MAP_FAILED || !map_area(&attr_area, 8192) ||
		  !map_area(&key_area, 4096) || !map_area(&val_area, vals) ||
		  !map_area(&in_area, 4096) || !map_area(&out_area, 4096) ||
		  !map_area(&ro_area, vals) ||
		  mprotect(ro_area.start, ro_area.end - ro_area.start, PROT_READ),
		  "memory", "errno %d\n", errno))
		return;
	if (CHECK(!open_odd_fds(), "files", "errno %d\n", errno))
		return;
	for (i = 0; i < ARRAY_SIZE(tests); i++) {
		if (!test__start_subtest(tests[i].name))
			continue;
		note_objects(&before);
		tests[i].run();
		check_objects(&before);
	}
	close_odd_fds();
	munmap(report, sizeof(*report));
	munmap(attr_area.start, attr_area.end - attr_area.start);
	munmap(key_area.start, key_area.end - key_area.start);
	munmap(val_area.start, val_area.end - val_area.start);
	munmap(in_area.start, in_area.end - in_area.start);
	munmap(out_area.start, out_area.end - out_area.start);
	munmap(ro_area.start, ro_area.end - ro_area.start);
}
