/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __MEMCG_HELPERS_H
#define __MEMCG_HELPERS_H

#include <malloc.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "cgroup_helpers.h"
#include "file_helpers.h"

/* Where setup_cgroup_environment() has the cgroups of a test */
#define MEMCG_ROOT	"/mnt"
#define MEMCG_WORK	MEMCG_ROOT "/cgroup-test-work-dir"
#define MEMCG_CREATOR	MEMCG_WORK "/creator"
#define MEMCG_UPDATER	MEMCG_WORK "/updater"
#define MEMCG_OTHER	MEMCG_WORK "/other"

/* What may differ between what is charged and what a map or program tells that
 * it holds. Charges are made in pages, and each CPU may keep the rest of one: 4
 * pages. Another 4 are for what a task has besides, like open files.
 */
#define MEMCG_SLACK	(8 * 4096)

static inline bool memcg_write(const char *cgroup, const char *file,
			       const char *line)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", cgroup, file);
	return write_file(path, line);
}

/* The number after @key in a file, or -1 */
static inline long long memcg_number(const char *cgroup, const char *file,
				     const char *key)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", cgroup, file);
	return read_number(path, key);
}

/* @bytes: 0 is none */
static inline bool memcg_limit(const char *cgroup, long long bytes)
{
	char line[32] = "max";

	if (bytes)
		snprintf(line, sizeof(line), "%lld", bytes);
	return memcg_write(cgroup, "memory.max", line);
}

static inline bool memcg_enter(const char *cgroup)
{
	return memcg_write(cgroup, "cgroup.procs", "0");
}

static inline bool memcg_leave(void)
{
	return memcg_enter(MEMCG_ROOT);
}

/* Each CPU has a stock of pages and bytes that it charged to one cgroup in
 * advance. Take a page and some slab objects on the account of another. And what
 * malloc() had while this process was in a cgroup stays charged to it.
 */
static inline void memcg_drain(void)
{
	cpu_set_t old, set;
	int cpu, fds[2];
	char *page;

	malloc_trim(0);
	if (sched_getaffinity(0, sizeof(old), &old) || !memcg_enter(MEMCG_OTHER))
		return;
	for (cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &old))
			continue;
		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		if (sched_setaffinity(0, sizeof(set), &set))
			continue;
		if (!pipe(fds)) {
			close(fds[0]);
			close(fds[1]);
		}
		page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		if (page != MAP_FAILED)
			munmap(page, 4096);
	}
	sched_setaffinity(0, sizeof(old), &old);
	memcg_leave();
}

/* Bytes charged. Not for members of @cgroup: goes to the root cgroup. */
static inline long long memcg_charged(const char *cgroup)
{
	memcg_drain();
	return memcg_number(cgroup, "memory.current", "");
}

/* Waits until no more than @bytes are charged, for grace periods to pass.
 * Returns what is charged then or after @ms.
 */
static inline long long memcg_wait(const char *cgroup, long long bytes, int ms)
{
	long long now;

	do {
		now = memcg_charged(cgroup);
		if (now <= bytes)
			break;
		usleep(20000);
		ms -= 30;
	} while (ms > 0);
	return now;
}

/* What is charged when nothing has been given back for a while */
static inline long long memcg_settled(const char *cgroup)
{
	long long now = memcg_charged(cgroup), last;

	do {
		last = now;
		usleep(300000);
		now = memcg_charged(cgroup);
	} while (now < last);
	return now;
}

/* Whether kernel memory is charged at all. A test then expects nothing. */
static inline bool memcg_kmem(void)
{
	return !cmdline_has("nokmem");
}

static inline void memcg_cleanup(void)
{
	cleanup_cgroup_environment();
}

/* The cgroups of a test. Returns 0 without the memory controller, and has said
 * that the test is skipped: there is nothing to clean up then.
 */
static inline int memcg_setup(const char *test)
{
	if (setup_cgroup_environment() ||
	    mkdir(MEMCG_CREATOR, 0755) || mkdir(MEMCG_UPDATER, 0755) ||
	    mkdir(MEMCG_OTHER, 0755))
		return -1;
	if (!access(MEMCG_CREATOR "/memory.max", W_OK))
		return 1;
	printf("%s:SKIP:no memory controller\n", test);
	memcg_cleanup();
	return 0;
}

/* The same for tests that need kernel memory to be charged */
static inline int memcg_setup_kmem(const char *test)
{
	int ret = memcg_setup(test);

	if (ret <= 0 || memcg_kmem())
		return ret;
	printf("%s:SKIP:kernel memory is not charged\n", test);
	memcg_cleanup();
	return 0;
}

#endif
