// SPDX-License-Identifier: GPL-2.0-only
/*
 * First process of the guest. It makes the host's root file system, read-only,
 * its own, runs the one command that vm/run asked for, and hands back the
 * command's output and exit status:
 *
 *	9p "root"		the host's /, read-only
 *	9p "ctl"		private to this run: job (read); started, status
 *				(written)
 *	9p "out"		the directory that the command may write to, at the
 *				path that it has on the host
 *	/dev/virtio-ports/out	the command's output; hvc0 when interactive
 *
 * job holds strings that each end in NUL: tty or pipe, the root whose /usr is the
 * guest's, the repository, the output directory, the working directory, then the
 * command's arguments.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define P9 "trans=virtio,version=9p2000.L,msize=262144"
#define MAX_ARGS 1024

static int ctl = -1;

static void report(const char *file, const char *text)
{
	int fd = openat(ctl, file, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	if (fd < 0 || write(fd, text, strlen(text)) < 0 || close(fd))
		perror(file);
}

static void stop(void)
{
	sync();
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

static void die(const char *what)
{
	fprintf(stderr, "init: %s: %s\n", what, strerror(errno));
	stop();
}

static void make_dirs(const char *path)
{
	char *p = strdup(path), *slash;

	for (slash = p + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
		*slash = 0;
		mkdir(p, 0755);
	}
	mkdir(p, 0755);
	free(p);
}

static void attach(const char *src, const char *dir, const char *type,
		   unsigned long flags, const char *opts)
{
	if (mount(src, dir, type, flags, opts))
		die(dir);
}

/* Not every kernel has every one of these. */
static void attach_if_any(const char *type, const char *dir, const char *opts)
{
	if (mount(type, dir, type, 0, opts) && errno != ENODEV &&
	    errno != ENOENT)
		die(dir);
}

static void symlink_or_die(const char *to, const char *path)
{
	if (symlink(to, path) && errno != EEXIST)
		die(path);
}

static void set_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0)
		return;
	if (write(fd, text, strlen(text)) < 0)
		perror(path);
	close(fd);
}

/* The guest's root until main() moves into it; the host's stays at /host. */
#define ROOT "/new"

static void make_root(void)
{
	mkdir("/ctl", 0755);
	mkdir("/host", 0755);
	mkdir(ROOT, 0755);
	attach("ctl", "/ctl", "9p", 0, P9);
	ctl = open("/ctl", O_RDONLY | O_DIRECTORY);
	if (ctl < 0)
		die("/ctl");
	attach("root", "/host", "9p", MS_RDONLY, P9 ",cache=loose");
	attach("/host", ROOT, NULL, MS_BIND, NULL);

	attach("tmp", ROOT "/tmp", "tmpfs", 0, NULL);
	attach("tmp", ROOT "/var/tmp", "tmpfs", 0, NULL);
	attach("run", ROOT "/run", "tmpfs", 0, "mode=0755");
	attach("proc", ROOT "/proc", "proc", 0, NULL);
	attach("sys", ROOT "/sys", "sysfs", 0, NULL);
	attach_if_any("securityfs", ROOT "/sys/kernel/security", NULL);
	attach_if_any("debugfs", ROOT "/sys/kernel/debug", NULL);
	attach_if_any("tracefs", ROOT "/sys/kernel/tracing", NULL);
	attach_if_any("bpf", ROOT "/sys/fs/bpf", NULL);
	attach_if_any("cgroup2", ROOT "/sys/fs/cgroup", NULL);
	set_file(ROOT "/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	attach("dev", ROOT "/dev", "devtmpfs", 0, NULL);
	mkdir(ROOT "/dev/shm", 01777);
	attach("shm", ROOT "/dev/shm", "tmpfs", 0, NULL);
	mkdir(ROOT "/dev/pts", 0755);
	attach("devpts", ROOT "/dev/pts", "devpts", 0, "ptmxmode=0666");
	symlink_or_die("pts/ptmx", ROOT "/dev/ptmx");
	symlink_or_die("/proc/self/fd", ROOT "/dev/fd");
	symlink_or_die("/proc/self/fd/0", ROOT "/dev/stdin");
	symlink_or_die("/proc/self/fd/1", ROOT "/dev/stdout");
	symlink_or_die("/proc/self/fd/2", ROOT "/dev/stderr");
}

/* The host's own are of no use to a kernel for another architecture. */
static void use_programs(const char *root)
{
	char *usr;

	if (!strcmp(root, "/"))
		return;
	if (asprintf(&usr, "/host%s/usr", root) < 0)
		die(root);
	attach(usr, ROOT "/usr", NULL, MS_BIND, NULL);
	free(usr);
}

/* A directory that the tmpfs over /tmp or the like has hidden. */
static void keep_visible(const char *dir)
{
	char host[4200], guest[4200];

	snprintf(host, sizeof(host), "/host%s", dir);
	snprintf(guest, sizeof(guest), ROOT "%s", dir);
	if (!access(guest, F_OK))
		return;
	make_dirs(guest);
	attach(host, guest, NULL, MS_BIND, NULL);
}

static void attach_out(const char *dir)
{
	char guest[4200];

	snprintf(guest, sizeof(guest), ROOT "%s", dir);
	make_dirs(guest);
	attach("out", guest, "9p", 0, P9);
}

static void enter_root(const char *cwd)
{
	if (chdir(ROOT) || mount(".", "/", NULL, MS_MOVE, NULL) ||
	    chroot("."))
		die(ROOT);
	if (chdir(cwd))
		die(cwd);
}

static void bring_up_loopback(void)
{
	struct ifreq req = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &req))
		perror("init: lo");
	close(fd);
}

static int open_output_port(void)
{
	char path[64], name[16];
	int i, fd, n;

	for (i = 0; i < 8; i++) {
		snprintf(path, sizeof(path),
			 "/sys/class/virtio-ports/vport%dp1/name", i);
		fd = open(path, O_RDONLY);
		if (fd < 0)
			continue;
		n = read(fd, name, sizeof(name));
		close(fd);
		if (n != 4 || memcmp(name, "out\n", 4))
			continue;
		snprintf(path, sizeof(path), "/dev/vport%dp1", i);
		return open(path, O_WRONLY);
	}
	return -1;
}

static pid_t start(char **argv, int tty, int out)
{
	pid_t pid = fork();
	sigset_t none;

	if (pid)
		return pid;

	setsid();
	if (tty)
		ioctl(out, TIOCSCTTY, 0);
	dup2(tty ? out : open("/dev/null", O_RDONLY), 0);
	dup2(out, 1);
	dup2(out, 2);
	closefrom(3);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execvp(argv[0], argv);
	fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

static void copy(int from, int to)
{
	char buf[16384];
	ssize_t len = read(from, buf, sizeof(buf)), done = 0, n;

	while (done < len) {
		n = write(to, buf + done, len - done);
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			die("output");
		done += n > 0 ? n : 0;
	}
}

static void on_child(int sig)
{
}

/*
 * Copies what the command writes until it ends, then kills what it left
 * behind, and copies until nobody can write any more.
 */
static int follow(pid_t pid, int from, int to)
{
	struct pollfd pfd = { .fd = from, .events = POLLIN };
	int ended = 0, status = 0, s;
	sigset_t none;
	pid_t w;

	sigemptyset(&none);
	for (;;) {
		while ((w = waitpid(-1, &s, WNOHANG)) > 0) {
			if (w != pid)
				continue;
			status = s;
			ended = 1;
			kill(-1, SIGKILL);
		}
		if (ended && pfd.fd < 0)
			return status;
		pfd.revents = 0;
		if (ppoll(&pfd, 1, NULL, &none) < 0)
			continue;
		if (pfd.revents & POLLIN)
			copy(from, to);
		else if (pfd.revents)
			pfd.fd = -1;
	}
}

static int run(char **argv, int tty)
{
	struct sigaction sa = { .sa_handler = on_child };
	int fds[2], out, status;
	sigset_t chld;
	pid_t pid;

	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	sigaction(SIGCHLD, &sa, NULL);

	if (tty) {
		out = open("/dev/hvc0", O_RDWR | O_NOCTTY);
		if (out < 0)
			die("/dev/hvc0");
		pid = start(argv, tty, out);
		status = follow(pid, -1, -1);
	} else {
		out = open_output_port();
		if (out < 0 || pipe2(fds, O_CLOEXEC))
			die("output port");
		pid = start(argv, tty, fds[1]);
		close(fds[1]);
		status = follow(pid, fds[0], out);
	}
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) :
				     WEXITSTATUS(status);
}

int main(void)
{
	static char job[1 << 20];
	char *argv[MAX_ARGS + 1], *p = job, *mode, *root, *repo, *out, *cwd;
	char text[16];
	int argc = 0;
	size_t len;
	FILE *f;

	make_root();

	f = fopen("/ctl/job", "r");
	if (!f)
		die("job");
	len = fread(job, 1, sizeof(job) - 1, f);
	fclose(f);
	mode = p;
	p += strlen(p) + 1;
	root = p;
	p += strlen(p) + 1;
	repo = p;
	p += strlen(p) + 1;
	out = p;
	p += strlen(p) + 1;
	cwd = p;
	p += strlen(p) + 1;
	while (p < job + len && argc < MAX_ARGS) {
		argv[argc++] = p;
		p += strlen(p) + 1;
	}
	argv[argc] = NULL;
	if (!argc)
		die("job: no command");

	use_programs(root);
	keep_visible(repo);
	keep_visible(cwd);
	attach_out(out);
	enter_root(cwd);
	bring_up_loopback();
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/tmp", 1);

	report("started", "");
	snprintf(text, sizeof(text), "%d\n", run(argv, !strcmp(mode, "tty")));
	report("status", text);
	stop();
}
