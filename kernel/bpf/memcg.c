// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory cgroup accounting of BPF maps and programs.
 *
 * What a task allocates when it creates a map or loads a program is charged to
 * its memory cgroup by __GFP_ACCOUNT. What a map allocates later is charged to
 * the cgroup of the map's creator: the updater may be an interrupt, or a
 * program that runs on behalf of no cgroup in particular.
 *
 * A map holds the obj_cgroup, not the mem_cgroup. When the cgroup is removed,
 * the obj_cgroup turns to the parent and pins nothing.
 */
#include <linux/bpf.h>
#include <linux/memcontrol.h>
#include <linux/percpu.h>
#include <linux/sched/mm.h>
#include <linux/sizes.h>
#include <linux/slab.h>

/* The kernel counts what it charges and has left of a page in 32 bits */
#define CHARGE_MAX	U32_MAX
#define UNCHARGE_MAX	SZ_1G
/* What bpf_map_make_room() asks for: some updates' worth */
#define ROOM		SZ_64K
/* How often it waits for what was freed: kfree_rcu() collects it first, a grace
 * period comes then, a worker frees it.
 */
#define ROOM_WAITS	3

/**
 * bpf_memcg_get() - the memory cgroup that is charged now
 *
 * That of the current task, or the one set as active.
 *
 * Return: a counted reference for bpf_memcg_put(), or NULL: nobody is charged.
 */
struct obj_cgroup *bpf_memcg_get(void)
{
	/* without accounting there may be no memory cgroups to look at */
	return memcg_kmem_enabled() ? get_obj_cgroup_from_current() : NULL;
}

/**
 * bpf_memcg_put() - drop what bpf_memcg_get() returned
 * @objcg: the reference, may be NULL
 *
 * Context: Any but NMI.
 */
void bpf_memcg_put(struct obj_cgroup *objcg)
{
	if (objcg)
		obj_cgroup_put(objcg);
}

/**
 * bpf_memcg_charge() - charge memory that __GFP_ACCOUNT cannot charge
 * @size: bytes
 *
 * For pages that are mapped to user space, for which page->_mapcount is not
 * free to say that they are charged, and for allocators without flags. Charges
 * what bpf_memcg_get() returns.
 *
 * Context: May sleep.
 * Return: what bpf_memcg_uncharge() wants with the same @size; NULL if nobody
 * is charged; ERR_PTR(-ENOMEM) at the cgroup's limit.
 */
struct obj_cgroup *bpf_memcg_charge(u64 size)
{
	struct obj_cgroup *objcg;

	if (size > CHARGE_MAX)
		return ERR_PTR(-ENOMEM);
	objcg = bpf_memcg_get();
	if (objcg && obj_cgroup_charge(objcg, GFP_BPF, size)) {
		bpf_memcg_put(objcg);
		return ERR_PTR(-ENOMEM);
	}
	return objcg;
}

/**
 * bpf_memcg_uncharge() - undo bpf_memcg_charge()
 * @objcg: what it returned
 * @size: bytes, as they were charged
 *
 * Context: Any but NMI.
 */
void bpf_memcg_uncharge(struct obj_cgroup *objcg, u64 size)
{
	if (!objcg)
		return;
	for (; size > UNCHARGE_MAX; size -= UNCHARGE_MAX)
		obj_cgroup_uncharge(objcg, UNCHARGE_MAX);
	obj_cgroup_uncharge(objcg, size);
	bpf_memcg_put(objcg);
}

static struct mem_cgroup *objcg_get_memcg(struct obj_cgroup *objcg)
{
	struct mem_cgroup *memcg;

	/* a cgroup on its way out has handed @objcg to its parent */
	rcu_read_lock();
	do {
		memcg = obj_cgroup_memcg(objcg);
	} while (!css_tryget(&memcg->css));
	rcu_read_unlock();
	return memcg;
}

/**
 * bpf_memcg_enter() - charge what follows to the creator of a map
 * @objcg: the creator's, NULL: charge nobody
 * @scope: for bpf_memcg_exit()
 *
 * Until bpf_memcg_exit(), allocations with __GFP_ACCOUNT are charged to @objcg
 * and not to the current task. Scopes nest.
 *
 * Context: Any but NMI; both calls in the same one.
 */
void bpf_memcg_enter(struct obj_cgroup *objcg, struct bpf_memcg_scope *scope)
{
	scope->memcg = objcg ? objcg_get_memcg(objcg) : NULL;
	scope->old = set_active_memcg(scope->memcg ?: root_mem_cgroup);
}

/**
 * bpf_memcg_exit() - end what bpf_memcg_enter() began
 * @scope: the same
 */
void bpf_memcg_exit(struct bpf_memcg_scope *scope)
{
	set_active_memcg(scope->old);
	mem_cgroup_put(scope->memcg);
}

/* Enters the scope of a map whose creator is charged. False: nobody is. */
static bool map_enter(const struct bpf_map *map, gfp_t *gfp,
		      struct bpf_memcg_scope *scope, unsigned int *pflags)
{
	/* Charging in an NMI could corrupt the charges of what it interrupted */
	if (!map->objcg || in_nmi()) {
		*gfp &= ~__GFP_ACCOUNT;
		return false;
	}

	/* A memory cgroup lets some beyond its limit: __GFP_ATOMIC, and tasks
	 * that reclaim, whom a program may happen to interrupt.
	 */
	*gfp = (*gfp & ~__GFP_ATOMIC) | __GFP_ACCOUNT;
	*pflags = current->flags;
	if (!gfpflags_allow_blocking(*gfp))
		current->flags &= ~PF_MEMALLOC;
	bpf_memcg_enter(map->objcg, scope);
	return true;
}

static void map_exit(struct bpf_memcg_scope *scope, unsigned int pflags)
{
	bpf_memcg_exit(scope);
	current_restore_flags(pflags, PF_MEMALLOC);
}

/**
 * bpf_map_kmalloc_node() - kmalloc_node() on the account of a map
 * @map: its creator is charged
 * @size: bytes
 * @gfp: as for kmalloc_node(), __GFP_ACCOUNT is implied. The limit of the
 *	cgroup holds also for GFP_ATOMIC.
 * @node: NUMA node or NUMA_NO_NODE
 *
 * Context: As for kmalloc_node() with @gfp. Nobody is charged in NMI.
 * Return: memory for kfree(), or NULL.
 */
void *bpf_map_kmalloc_node(const struct bpf_map *map, size_t size, gfp_t gfp,
			   int node)
{
	struct bpf_memcg_scope scope;
	unsigned int pflags;
	bool charged;
	void *ptr;

	charged = map_enter(map, &gfp, &scope, &pflags);
	ptr = kmalloc_node(size, gfp, node);
	if (charged)
		map_exit(&scope, pflags);
	return ptr;
}

/**
 * bpf_map_alloc_percpu() - __alloc_percpu_gfp() on the account of a map
 * @map: its creator is charged
 * @size: bytes on each CPU
 * @align: bytes
 * @gfp: as for __alloc_percpu_gfp(), __GFP_ACCOUNT is implied
 *
 * Context: As for __alloc_percpu_gfp() with @gfp. Nobody is charged in NMI.
 * Return: memory for free_percpu(), or NULL.
 */
void __percpu *bpf_map_alloc_percpu(const struct bpf_map *map, size_t size,
				    size_t align, gfp_t gfp)
{
	struct bpf_memcg_scope scope;
	void __percpu *ptr;
	unsigned int pflags;
	bool charged;

	charged = map_enter(map, &gfp, &scope, &pflags);
	ptr = __alloc_percpu_gfp(size, align, gfp);
	if (charged)
		map_exit(&scope, pflags);
	return ptr;
}

/**
 * bpf_map_charge() - charge the creator of a map
 * @map: the map
 * @size: bytes
 * @gfp: may the charge reclaim, or wait
 *
 * For memory from an allocator that charges nobody. The limit of the cgroup
 * holds also for tasks that reclaim, whom a program may happen to interrupt.
 *
 * Context: Any but NMI, as @gfp allows.
 * Return: what bpf_memcg_uncharge() wants with the same @size; NULL if nobody
 * is charged; ERR_PTR(-ENOMEM) at the cgroup's limit.
 */
struct obj_cgroup *bpf_map_charge(const struct bpf_map *map, u32 size,
				  gfp_t gfp)
{
	struct obj_cgroup *objcg = map->objcg;
	unsigned int pflags = current->flags;
	int err;

	if (!objcg)
		return NULL;
	if (!gfpflags_allow_blocking(gfp))
		current->flags &= ~PF_MEMALLOC;
	err = obj_cgroup_charge(objcg, gfp, size);
	current_restore_flags(pflags, PF_MEMALLOC);
	if (err)
		return ERR_PTR(-ENOMEM);
	obj_cgroup_get(objcg);
	return objcg;
}

/**
 * bpf_map_make_room() - make room in the cgroup of a map's creator
 * @map: a map whose update found no memory
 * @tries: how often this was called before for the same update
 *
 * An update allocates under locks and cannot reclaim. A system call can before
 * it tries again. What was deleted or replaced is charged until no reader has
 * it: where there is nothing to reclaim, this waits for it.
 *
 * Context: May sleep, also for a grace period.
 * Return: false if that is of no use.
 */
bool bpf_map_make_room(const struct bpf_map *map, int tries)
{
	struct obj_cgroup *objcg = map->objcg;

	if (!objcg)
		return false;
	if (!obj_cgroup_charge(objcg, GFP_BPF, ROOM)) {
		obj_cgroup_uncharge(objcg, ROOM);
		return true;
	}
	if (tries >= ROOM_WAITS)
		return false;
	schedule_timeout_killable(HZ / 50);
	synchronize_rcu();
	return true;
}
