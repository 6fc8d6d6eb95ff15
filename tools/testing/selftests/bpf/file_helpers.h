/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __FILE_HELPERS_H
#define __FILE_HELPERS_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The number after @key at the beginning of a line, -1: there is none */
static inline long long read_number(const char *path, const char *key)
{
	long long n = -1;
	char line[128];
	FILE *f;

	f = fopen(path, "r");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, strlen(key)))
			continue;
		n = atoll(line + strlen(key));
		break;
	}
	fclose(f);
	return n;
}

static inline long long read_fdinfo(int fd, const char *key)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	return read_number(path, key);
}

static inline bool write_file(const char *path, const char *s)
{
	int fd = open(path, O_WRONLY), n;

	if (fd < 0)
		return false;
	n = write(fd, s, strlen(s));
	close(fd);
	return n == strlen(s);
}

/* Whether the kernel was booted with @word in its command line */
static inline bool cmdline_has(const char *word)
{
	char line[4096] = {};
	int fd;

	fd = open("/proc/cmdline", O_RDONLY);
	if (fd < 0)
		return false;
	if (read(fd, line, sizeof(line) - 1) < 0)
		line[0] = '\0';
	close(fd);
	return strstr(line, word);
}

/* It keeps what slab frees for a while: in its slabs, and charged. */
static inline bool has_kasan(void)
{
	static int has = -1;
	char line[256];
	FILE *f;

	if (has >= 0)
		return has;
	has = 0;
	f = fopen("/proc/kallsyms", "r");
	while (f && !has && fgets(line, sizeof(line), f))
		has = !!strstr(line, " quarantine_put\n");
	if (f)
		fclose(f);
	return has;
}

/* Free memory, or -1. MemFree leaves out the free pages that CPUs keep, some 250
 * kB each.
 */
static inline double free_kb(void)
{
	long long n, pages = 0;
	char line[128];
	FILE *f;

	/* fold the CPUs' own counters into the sum */
	write_file("/proc/sys/vm/stat_refresh", "1");
	f = fopen("/proc/zoneinfo", "r");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, " pages free %lld", &n) == 1 ||
		    sscanf(line, " count: %lld", &n) == 1)
			pages += n;
	fclose(f);
	return pages ? pages * (getpagesize() / 1024.0) : -1;
}

/* Free memory once nothing that was freed is on its way any more: the same five
 * times, within a few pages. Not for tests: ends the program after 10 s.
 */
static inline double settled_kb(void)
{
	double kb, first = -1;
	int i, same = 0;

	for (i = 0; i < 100; i++) {
		kb = free_kb();
		if (kb - first <= 16 && first - kb <= 16) {
			if (++same == 5)
				return kb;
		} else {
			first = kb;
			same = 0;
		}
		usleep(100000);
	}
	fprintf(stderr, "free memory keeps changing\n");
	exit(1);
}

/* Has this program's file in the page cache */
static inline bool read_self(void)
{
	static char buf[65536];
	int fd;

	fd = open("/proc/self/exe", O_RDONLY);
	if (fd < 0)
		return false;
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	while (read(fd, buf, sizeof(buf)) > 0)
		;
	close(fd);
	return true;
}

#endif
