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
