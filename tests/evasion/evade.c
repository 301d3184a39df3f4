/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * A service that does what it is told: the first process of the evasion suite's container, and,
 * when the attack begins, a service that somebody has taken over.
 *
 * It reads one command a line from standard input, fields separated by tabs:
 *
 *     PROCESSES TIMES TECHNIQUE ARGUMENT…
 *
 * forks PROCESSES children that each try the technique TIMES times, each time in a process of its
 * own, and writes a line for each try: "e0" when it worked, "eN" for errno N, "sN" for signal N.
 * "END" closes the answer. Lines that a started program writes stand between them.
 *
 * Techniques that begin with "hold" act in this first process itself, so that what they open stays
 * open. The table at the end names all techniques and says which arguments they take.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define DATA "PWNED\n"
#define SIZE (sizeof(DATA) - 1)
#define HELD_MAX 64
#define FIELDS_MAX 64
#define TRY_SECONDS 20

extern char **environ;

static int held[HELD_MAX]; /* descriptors that "hold" opened, by number */
static void *mapped[HELD_MAX];

/* 0 or errno, from a system call's result. */
static int answer(long result)
{
	return result < 0 ? errno : 0;
}

static int number(const char *text)
{
	return (int)strtol(text, NULL, 0);
}

/* Write DATA to fd; EIO when nothing arrives. */
static int put(int fd)
{
	ssize_t n = write(fd, DATA, SIZE);

	if (n < 0)
		return errno;
	return n == (ssize_t)SIZE ? 0 : EIO;
}

static int open_and_put(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0644);

	return fd < 0 ? errno : put(fd);
}

/* ---- executions: ARGUMENT… is the path and argv[0…] ------------------------------------- */

static int x_execve(char **a)
{
	execve(a[0], a + 1, environ);
	return errno;
}

static int exec_fd(int fd, char **a)
{
	if (fd < 0)
		return errno;
	syscall(SYS_execveat, fd, "", a, environ, AT_EMPTY_PATH);
	return errno;
}

static int x_execveat(char **a)
{
	return exec_fd(open(a[0], O_RDONLY), a + 1);
}

static int x_execveat_path(char **a)
{
	return exec_fd(open(a[0], O_PATH), a + 1);
}

static int x_execveat_directory(char **a)
{
	char *slash = strrchr(a[0], '/');
	int fd;

	*slash = 0;
	fd = open(*a[0] ? a[0] : "/", O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return errno;
	syscall(SYS_execveat, fd, slash + 1, a + 1, environ, 0);
	return errno;
}

static int x_descriptor_name(char **a)
{
	char name[64];
	int fd = open(a[0], O_RDONLY);

	if (fd < 0)
		return errno;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	execve(name, a + 1, environ);
	return errno;
}

static int x_root_name(char **a)
{
	char name[4200];

	snprintf(name, sizeof(name), "/proc/self/root%s", a[0]);
	execve(name, a + 1, environ);
	return errno;
}

static int x_parent_root_name(char **a)
{
	char name[4200];

	snprintf(name, sizeof(name), "/proc/%d/root%s", getppid(), a[0]);
	execve(name, a + 1, environ);
	return errno;
}

static int x_relative(char **a)
{
	if (chdir("/proc"))
		return errno;
	char name[4200];

	snprintf(name, sizeof(name), "..//.%s", a[0]);
	execve(name, a + 1, environ);
	return errno;
}

static void *thread_exec(void *arguments)
{
	char **a = arguments;

	execve(a[0], a + 1, environ);
	return (void *)(intptr_t)errno;
}

static int x_thread(char **a)
{
	pthread_t thread;
	void *result;

	if (pthread_create(&thread, NULL, thread_exec, a))
		return errno;
	pthread_join(thread, &result);
	return (int)(intptr_t)result;
}

/* Wait for a child that tried in our stead. */
static int child_answer(pid_t pid)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return errno;
	if (WIFSIGNALED(status))
		raise(WTERMSIG(status));
	return WEXITSTATUS(status);
}

static int x_vfork(char **a)
{
	pid_t pid = vfork();

	if (!pid) {
		execve(a[0], a + 1, environ);
		_exit(errno);
	}
	return child_answer(pid);
}

static int exec_below(const char *root, char **a)
{
	if (chroot(root) || chdir("/"))
		return errno;
	execve(a[0], a + 1, environ);
	return errno;
}

/* ROOT PATH ARGV…: the path is below ROOT. */
static int x_chroot(char **a)
{
	return exec_below(a[0], a + 1);
}

static int x_mount_namespace(char **a)
{
	if (unshare(CLONE_NEWNS))
		return errno;
	return x_execve(a);
}

static int x_user_namespace(char **a)
{
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
		return errno;
	return x_execve(a);
}

static int x_pid_namespace(char **a)
{
	if (unshare(CLONE_NEWPID))
		return errno;
	return x_vfork(a);
}

static int copy_into(int to, const char *path)
{
	char buffer[65536];
	int from = open(path, O_RDONLY);
	ssize_t n;

	if (from < 0 || to < 0)
		return errno;
	while ((n = read(from, buffer, sizeof(buffer))) > 0)
		if (write(to, buffer, n) != n)
			return errno;
	return answer(n);
}

static int x_memfd(char **a)
{
	int fd = memfd_create("bin/known", 0);
	int error = copy_into(fd, a[0]);

	return error ? error : exec_fd(fd, a + 1);
}

static int x_memfd_name(char **a)
{
	int fd = memfd_create("known", 0);
	int error = copy_into(fd, a[0]);
	char name[64];

	if (error)
		return error;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	execve(name, a + 1, environ);
	return errno;
}

static int x_memfd_script(char **a)
{
	const char *text = "#!/bin/sh\necho PWNED\n";
	int fd = memfd_create("script", 0);
	char name[64];

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		return errno;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	execve(name, a + 1, environ);
	return errno;
}

static int x_unnamed(char **a)
{
	int fd = open("/tmp", O_TMPFILE | O_RDWR, 0755);
	int error = copy_into(fd, a[0]), again;
	char name[64];

	if (error)
		return error;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	again = open(name, O_RDONLY);
	close(fd); /* what is open for writing cannot be executed */
	snprintf(name, sizeof(name), "/proc/self/fd/%d", again);
	execve(name, a + 1, environ);
	return errno;
}

/* HELD ARGV…: execute a descriptor that was opened earlier. */
static int x_held(char **a)
{
	return exec_fd(held[number(a[0])], a + 1);
}

/* Machine code that writes PWNED and ends, in a file; mapped and called. */
static int run_mapped(const char *path, int first, int flags)
{
	int fd = open(path, O_RDONLY);
	void *code;

	if (fd < 0)
		return errno;
	code = mmap(NULL, 4096, first, flags, fd, 0);
	if (code == MAP_FAILED)
		return errno;
	if (!(first & PROT_EXEC) && mprotect(code, 4096, PROT_READ | PROT_EXEC))
		return errno;
	((void (*)(void))code)();
	return 0;
}

static int x_map(char **a)
{
	return run_mapped(a[0], PROT_READ | PROT_EXEC, MAP_PRIVATE);
}

static int x_map_shared(char **a)
{
	return run_mapped(a[0], PROT_READ | PROT_EXEC, MAP_SHARED);
}

static int x_map_later(char **a)
{
	return run_mapped(a[0], PROT_READ, MAP_PRIVATE);
}

/* An old personality: whatever is mapped for reading can be executed. */
static int x_map_personality(char **a)
{
	int fd = open(a[0], O_RDONLY);
	void *code;

	if (fd < 0 || personality(READ_IMPLIES_EXEC) < 0)
		return errno;
	code = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
	if (code == MAP_FAILED)
		return errno;
	((void (*)(void))code)();
	return 0;
}

static int x_map_memory(char **a)
{
	int fd = memfd_create("code", 0);
	int error = copy_into(fd, a[0]);
	void *code;

	if (error)
		return error;
	code = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
	if (code == MAP_FAILED)
		return errno;
	((void (*)(void))code)();
	return 0;
}

/* VARIABLE VALUE PATH ARGV…: execute with an environment variable. */
static int x_environment(char **a)
{
	setenv(a[0], a[1], 1);
	return x_execve(a + 2);
}

static int x_dlopen(char **a)
{
#ifdef DYNAMIC
	return dlopen(a[0], RTLD_NOW) ? 0 : EPERM;
#else
	(void)a;
	return ENOSYS;
#endif
}

/* ---- changes of content: ARGUMENT is the path -------------------------------------------- */

static int w_open(char **a)
{
	return open_and_put(a[0], O_WRONLY);
}

static int w_read_write(char **a)
{
	return open_and_put(a[0], O_RDWR);
}

static int w_append(char **a)
{
	return open_and_put(a[0], O_WRONLY | O_APPEND);
}

static int w_create(char **a)
{
	return open_and_put(a[0], O_WRONLY | O_CREAT);
}

static int w_create_exclusive(char **a)
{
	return open_and_put(a[0], O_WRONLY | O_CREAT | O_EXCL);
}

static int w_create_for_reading(char **a)
{
	return answer(open(a[0], O_RDONLY | O_CREAT, 0644));
}

static int w_creat(char **a)
{
	return answer(creat(a[0], 0644));
}

static int w_truncate_open(char **a)
{
	return answer(open(a[0], O_WRONLY | O_TRUNC));
}

static int w_truncate_reading(char **a)
{
	return answer(open(a[0], O_RDONLY | O_TRUNC));
}

static int w_truncate(char **a)
{
	return answer(truncate(a[0], 3));
}

static int w_openat2(char **a)
{
	struct {
		uint64_t flags, mode, resolve;
	} how = { .flags = O_WRONLY };
	int fd = (int)syscall(437, AT_FDCWD, a[0], &how, sizeof(how));

	return fd < 0 ? errno : put(fd);
}

static int w_directory(char **a)
{
	char *slash = strrchr(a[0], '/');
	int fd;

	*slash = 0;
	fd = open(*a[0] ? a[0] : "/", O_PATH | O_DIRECTORY);
	if (fd < 0)
		return errno;
	fd = openat(fd, slash + 1, O_WRONLY);
	return fd < 0 ? errno : put(fd);
}

static int w_root_name(char **a)
{
	char name[4200];

	snprintf(name, sizeof(name), "/proc/self/root%s", a[0]);
	return open_and_put(name, O_WRONLY);
}

static int w_parent_root_name(char **a)
{
	char name[4200];

	snprintf(name, sizeof(name), "/proc/%d/root%s", getppid(), a[0]);
	return open_and_put(name, O_WRONLY);
}

static int reopen(const char *path, int first)
{
	char name[64];
	int fd = open(path, first);

	if (fd < 0)
		return errno;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	return open_and_put(name, O_WRONLY);
}

static int w_reopen(char **a)
{
	return reopen(a[0], O_RDONLY);
}

static int w_reopen_path(char **a)
{
	return reopen(a[0], O_PATH);
}

static int w_map(char **a)
{
	int fd = open(a[0], O_RDWR);
	char *memory;

	if (fd < 0)
		return errno;
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return errno;
	memcpy(memory, DATA, SIZE);
	return answer(msync((void *)((uintptr_t)memory & ~4095UL), SIZE, MS_SYNC));
}

static int w_map_files(char **a)
{
	int fd = open(a[0], O_RDONLY);
	char name[128];
	char *memory;

	if (fd < 0)
		return errno;
	memory = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return errno;
	snprintf(name, sizeof(name), "/proc/self/map_files/%lx-%lx", (unsigned long)memory,
		 (unsigned long)memory + 4096);
	return open_and_put(name, O_RDWR);
}

/* ROOT PATH: the path is below ROOT. */
static int w_chroot(char **a)
{
	if (chroot(a[0]) || chdir("/"))
		return errno;
	return open_and_put(a[1], O_WRONLY);
}

static int w_mount_namespace(char **a)
{
	if (unshare(CLONE_NEWNS))
		return errno;
	return open_and_put(a[0], O_WRONLY);
}

static int w_user_namespace(char **a)
{
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
		return errno;
	return open_and_put(a[0], O_WRONLY);
}

static int w_thread_name(char **a);

static int w_handle(char **a)
{
	struct file_handle *handle = calloc(1, sizeof(*handle) + MAX_HANDLE_SZ);
	int mount, fd;
	int base = open("/vol", O_RDONLY);

	handle->handle_bytes = MAX_HANDLE_SZ;
	if (name_to_handle_at(AT_FDCWD, a[0], handle, &mount, 0))
		return errno;
	fd = open_by_handle_at(base, handle, O_WRONLY);
	return fd < 0 ? errno : put(fd);
}

static int w_unnamed_link(char **a)
{
	int fd = open(a[0], O_TMPFILE | O_RDWR, 0644);
	char name[64];

	if (fd < 0)
		return errno;
	if (put(fd))
		return errno;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	return answer(linkat(AT_FDCWD, name, AT_FDCWD, a[1], AT_SYMLINK_FOLLOW));
}

/* A core dump is a file that the kernel writes for us. */
static int w_core(char **a)
{
	struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
	pid_t pid;

	if (chdir(a[0]) || setrlimit(RLIMIT_CORE, &all))
		return errno;
	pid = fork();
	if (!pid) {
		abort();
	}
	waitpid(pid, NULL, 0);
	return 0;
}

/* ---- io_uring: without liburing, one entry at a time -------------------------------------- */

static int uring(struct io_uring_sqe *entry)
{
	struct io_uring_params params = {};
	int fd = (int)syscall(SYS_io_uring_setup, 4, &params);
	unsigned *tail, *mask, *array, *head;
	struct io_uring_sqe *entries;
	struct io_uring_cqe *results;
	char *ring;

	if (fd < 0)
		return -errno;
	ring = mmap(NULL, 4096 * 4, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
		    IORING_OFF_SQ_RING);
	entries = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
		       IORING_OFF_SQES);
	if (ring == MAP_FAILED || entries == MAP_FAILED)
		return -errno;
	tail = (unsigned *)(ring + params.sq_off.tail);
	mask = (unsigned *)(ring + params.sq_off.ring_mask);
	array = (unsigned *)(ring + params.sq_off.array);
	entries[*tail & *mask] = *entry;
	array[*tail & *mask] = *tail & *mask;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		return -errno;
	head = (unsigned *)(ring + params.cq_off.head);
	results = (struct io_uring_cqe *)(ring + params.cq_off.cqes);
	return results[*head & *(unsigned *)(ring + params.cq_off.ring_mask)].res;
}

static int uring_open(const char *path, int flags, int mode, int async)
{
	struct io_uring_sqe entry = {
		.opcode = IORING_OP_OPENAT,
		.flags = async ? IOSQE_ASYNC : 0,
		.fd = AT_FDCWD,
		.addr = (uintptr_t)path,
		.len = (unsigned)mode,
		.open_flags = (unsigned)flags,
	};

	return uring(&entry);
}

static int uring_put(int fd, int async)
{
	struct io_uring_sqe entry = {
		.opcode = IORING_OP_WRITE,
		.flags = async ? IOSQE_ASYNC : 0,
		.fd = fd,
		.addr = (uintptr_t)DATA,
		.len = SIZE,
	};
	int result = uring(&entry);

	return result < 0 ? -result : 0;
}

static int w_uring(char **a)
{
	int fd = uring_open(a[0], O_WRONLY, 0, 0);

	return fd < 0 ? -fd : uring_put(fd, 0);
}

static int w_uring_async(char **a)
{
	int fd = uring_open(a[0], O_WRONLY, 0, 1);

	return fd < 0 ? -fd : uring_put(fd, 1);
}

static int w_uring_create(char **a)
{
	int fd = uring_open(a[0], O_WRONLY | O_CREAT, 0644, 0);

	return fd < 0 ? -fd : 0;
}

static int uring_names(int operation, const char *path, const char *path2, unsigned length,
		       unsigned flags)
{
	struct io_uring_sqe entry = {
		.opcode = (uint8_t)operation,
		.fd = AT_FDCWD,
		.addr = (uintptr_t)path,
		.addr2 = (uintptr_t)path2,
		.len = length,
		.rename_flags = flags,
	};
	int result = uring(&entry);

	return result < 0 ? -result : 0;
}

static int n_uring_unlink(char **a)
{
	return uring_names(IORING_OP_UNLINKAT, a[0], NULL, 0, 0);
}

static int n_uring_rename(char **a)
{
	return uring_names(IORING_OP_RENAMEAT, a[0], a[1], (unsigned)AT_FDCWD, 0);
}

static int n_uring_mkdir(char **a)
{
	return uring_names(37 /* IORING_OP_MKDIRAT */, a[0], NULL, 0755, 0);
}

static int n_uring_symlink(char **a)
{
	return uring_names(38 /* IORING_OP_SYMLINKAT */, "/target", a[0], 0, 0);
}

static int n_uring_link(char **a)
{
	return uring_names(39 /* IORING_OP_LINKAT */, a[0], a[1], (unsigned)AT_FDCWD, 0);
}

/* ---- changes of names --------------------------------------------------------------------- */

static int n_unlink(char **a)
{
	return answer(unlink(a[0]));
}

static int n_unlinkat(char **a)
{
	return answer(unlinkat(AT_FDCWD, a[0], 0));
}

static int n_rmdir(char **a)
{
	return answer(rmdir(a[0]));
}

static int n_rename(char **a)
{
	return answer(rename(a[0], a[1]));
}

static int n_exchange(char **a)
{
	return answer(syscall(SYS_renameat2, AT_FDCWD, a[0], AT_FDCWD, a[1], RENAME_EXCHANGE));
}

static int n_link(char **a)
{
	return answer(link(a[0], a[1]));
}

static int n_link_descriptor(char **a)
{
	char name[64];
	int fd = open(a[0], O_RDONLY);

	if (fd < 0)
		return errno;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	return answer(linkat(AT_FDCWD, name, AT_FDCWD, a[1], AT_SYMLINK_FOLLOW));
}

static int n_symlink(char **a)
{
	return answer(symlink("/target", a[0]));
}

static int n_mkdir(char **a)
{
	return answer(mkdir(a[0], 0755));
}

static int n_fifo(char **a)
{
	return answer(mkfifo(a[0], 0644));
}

static int n_regular(char **a)
{
	return answer(mknod(a[0], S_IFREG | 0644, 0));
}

static int n_character(char **a)
{
	return answer(mknod(a[0], S_IFCHR | 0644, makedev(1, 7)));
}

static int n_block(char **a)
{
	return answer(mknod(a[0], S_IFBLK | 0644, makedev(7, 0)));
}

static int n_socket(char **a)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strncpy(address.sun_path, a[0], sizeof(address.sun_path) - 1);
	return answer(bind(fd, (struct sockaddr *)&address, sizeof(address)));
}

/* ---- attributes --------------------------------------------------------------------------- */

static int a_chmod(char **a)
{
	return answer(chmod(a[0], 04777));
}

static int a_fchmod(char **a)
{
	int fd = open(a[0], O_RDONLY);

	return fd < 0 ? errno : answer(fchmod(fd, 04777));
}

static int a_chmod_descriptor(char **a)
{
	char name[64];
	int fd = open(a[0], O_PATH);

	if (fd < 0)
		return errno;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	return answer(chmod(name, 04777));
}

static int a_chown(char **a)
{
	return answer(chown(a[0], 1234, 1234));
}

static int a_lchown(char **a)
{
	return answer(lchown(a[0], 1234, 1234));
}

static int a_fchown(char **a)
{
	int fd = open(a[0], O_RDONLY);

	return fd < 0 ? errno : answer(fchown(fd, 1234, 1234));
}

static int a_setxattr(char **a)
{
	return answer(setxattr(a[0], "user.pwned", "1", 1, 0));
}

static int a_fsetxattr(char **a)
{
	int fd = open(a[0], O_RDONLY);

	return fd < 0 ? errno : answer(fsetxattr(fd, "user.pwned", "1", 1, 0));
}

static int a_capability(char **a)
{
	/* VFS_CAP_REVISION_2 with cap_sys_admin effective: what makes a program powerful. */
	const char value[20] = "\x01\x00\x00\x02\x00\x00\x20\x00\x00\x00\x20";

	return answer(setxattr(a[0], "security.capability", value, sizeof(value), 0));
}

static int a_removexattr(char **a)
{
	return answer(removexattr(a[0], "user.planted"));
}

static int a_flags(char **a)
{
	int fd = open(a[0], O_RDONLY);
	int flags = 0;

	if (fd < 0 || ioctl(fd, FS_IOC_GETFLAGS, &flags))
		return errno;
	flags |= FS_NODUMP_FL;
	return answer(ioctl(fd, FS_IOC_SETFLAGS, &flags));
}

/* ---- mounts ------------------------------------------------------------------------------- */

static int m_tmpfs(char **a)
{
	return answer(mount("evil", a[0], "tmpfs", 0, NULL));
}

static int m_bind(char **a)
{
	return answer(mount(a[0], a[1], NULL, MS_BIND, NULL));
}

static int m_remount(char **a)
{
	return answer(mount(NULL, a[0], NULL, MS_REMOUNT | MS_NOATIME, NULL));
}

static int m_unmount(char **a)
{
	return answer(umount2(a[0], MNT_DETACH));
}

static int m_own_namespace(char **a)
{
	if (unshare(CLONE_NEWNS))
		return errno;
	if (mount(a[0], a[1], NULL, MS_BIND, NULL))
		return errno;
	return open_and_put(a[2], O_WRONLY);
}

static int m_user_namespace(char **a)
{
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
		return errno;
	return answer(mount("evil", a[0], "tmpfs", 0, NULL));
}

static int m_move(char **a)
{
	int tree = (int)syscall(428, AT_FDCWD, a[0], 1 /* OPEN_TREE_CLONE */);

	if (tree < 0)
		return errno;
	return answer(syscall(429, tree, "", AT_FDCWD, a[1], 4 /* MOVE_MOUNT_F_EMPTY_PATH */));
}

/* A clone of a tree that is mounted nowhere: what is below it has a short name. */
static int m_detached_write(char **a)
{
	int tree = (int)syscall(428, AT_FDCWD, a[0], 1);
	int fd;

	if (tree < 0)
		return errno;
	fd = openat(tree, a[1], O_WRONLY);
	return fd < 0 ? errno : put(fd);
}

static int m_detached_exec(char **a)
{
	int tree = (int)syscall(428, AT_FDCWD, a[0], 1);

	if (tree < 0)
		return errno;
	syscall(SYS_execveat, tree, a[1], a + 2, environ, 0);
	return errno;
}

static int m_new_file_system(char **a)
{
	int context = (int)syscall(430, "tmpfs", 0);
	int tree;

	if (context < 0 || syscall(431, context, 6 /* FSCONFIG_CMD_CREATE */, NULL, NULL, 0))
		return errno;
	tree = (int)syscall(432, context, 0, 0);
	if (tree < 0)
		return errno;
	return answer(syscall(429, tree, "", AT_FDCWD, a[0], 4));
}

static int m_pivot(char **a)
{
	if (unshare(CLONE_NEWNS))
		return errno;
	if (mount(a[0], a[0], NULL, MS_BIND | MS_REC, NULL) || chdir(a[0]))
		return errno;
	if (syscall(SYS_pivot_root, ".", "."))
		return errno;
	return open_and_put(a[1], O_WRONLY | O_CREAT);
}

/* A directory that was mounted over something and then unmounted: it stands below no root. */
static int m_unmounted_write(char **a)
{
	int directory;

	if (unshare(CLONE_NEWNS))
		return errno;
	if (mount(a[0], a[0], NULL, MS_BIND, NULL))
		return errno;
	directory = open(a[0], O_PATH | O_DIRECTORY);
	if (umount2(a[0], MNT_DETACH))
		return errno;
	directory = openat(directory, a[1], O_WRONLY);
	return directory < 0 ? errno : put(directory);
}

/* ---- other processes ---------------------------------------------------------------------- */

static volatile char target[8] = "intact";

/* A sibling to act upon: it waits, then says by its exit status whether it was changed. */
static pid_t victim(void)
{
	pid_t pid = fork();

	if (!pid) {
		for (int i = 0; i < 40 && target[0] == 'i'; i++)
			usleep(10000);
		_exit(target[0] == 'i' ? 0 : 99);
	}
	return pid;
}

static int victim_answer(pid_t pid, int error)
{
	int status;

	waitpid(pid, &status, 0);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 99) {
		printf("PWNED\n");
		fflush(stdout);
	}
	return error;
}

static int t_attach(char **a)
{
	pid_t pid = victim();
	int error = 0;

	(void)a;
	if (ptrace(PTRACE_ATTACH, pid, NULL, NULL)) {
		error = errno;
	} else {
		waitpid(pid, NULL, 0);
		if (ptrace(PTRACE_POKEDATA, pid, (void *)target, (void *)0x646e7770))
			error = errno;
		ptrace(PTRACE_DETACH, pid, NULL, NULL);
	}
	return victim_answer(pid, error);
}

static int t_seize(char **a)
{
	pid_t pid = victim();
	int error = 0;

	(void)a;
	if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) || ptrace(PTRACE_INTERRUPT, pid, NULL, NULL)) {
		error = errno;
	} else {
		waitpid(pid, NULL, 0);
		if (ptrace(PTRACE_POKEDATA, pid, (void *)target, (void *)0x646e7770))
			error = errno;
		ptrace(PTRACE_DETACH, pid, NULL, NULL);
	}
	return victim_answer(pid, error);
}

static int t_traceme(char **a)
{
	pid_t pid = fork();
	int status;

	(void)a;
	if (!pid) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
			_exit(errno);
		raise(SIGSTOP);
		_exit(target[0] == 'i' ? 0 : 99);
	}
	waitpid(pid, &status, 0);
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	ptrace(PTRACE_POKEDATA, pid, (void *)target, (void *)0x646e7770);
	ptrace(PTRACE_CONT, pid, NULL, NULL);
	return victim_answer(pid, 0);
}

static int t_memory_write(char **a)
{
	pid_t pid = victim();
	struct iovec from = { "pwnd", 4 }, to = { (void *)target, 4 };
	ssize_t n = process_vm_writev(pid, &from, 1, &to, 1, 0);

	(void)a;
	return victim_answer(pid, n < 0 ? errno : 0);
}

static int t_memory_file(char **a)
{
	pid_t pid = victim();
	char name[64];
	int fd, error = 0;

	(void)a;
	snprintf(name, sizeof(name), "/proc/%d/mem", pid);
	fd = open(name, O_RDWR);
	if (fd < 0 || pwrite(fd, "pwnd", 4, (off_t)target) < 0)
		error = errno;
	return victim_answer(pid, error);
}

/* Over our own read-only code: what the page tables refuse, /proc/self/mem does. */
static int t_own_memory(char **a)
{
	static const char code[] = "intact";
	const char *volatile text = code;
	int fd = open("/proc/self/mem", O_RDWR);

	(void)a;
	if (fd < 0 || pwrite(fd, "PWNED\n", 6, (off_t)text) < 0)
		return errno;
	fputs(text, stdout);
	fflush(stdout);
	return 0;
}

/* HELD: take the first process's descriptor, which it opened before. */
static int t_take_descriptor(char **a)
{
	int process = (int)syscall(434, getppid(), 0);
	int fd;

	if (process < 0)
		return errno;
	fd = (int)syscall(438, process, held[number(a[0])], 0);
	return fd < 0 ? errno : put(fd);
}

/* ---- descriptors from elsewhere ------------------------------------------------------------ */

/* NUMBER PATH FLAGS: open in the first process, and keep. */
static int hold(char **a)
{
	int fd = open(a[1], number(a[2]), 0644);

	held[number(a[0])] = fd;
	return answer(fd);
}

static int hold_map(char **a)
{
	void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, held[number(a[0])], 0);

	mapped[number(a[0])] = memory;
	return memory == MAP_FAILED ? errno : 0;
}

static int hold_close(char **a)
{
	return answer(close(held[number(a[0])]));
}

static int h_write(char **a)
{
	return put(held[number(a[0])]);
}

static int h_pwrite(char **a)
{
	return answer(pwrite(held[number(a[0])], DATA, SIZE, 100));
}

static int h_writev(char **a)
{
	struct iovec part = { DATA, SIZE };

	return answer(writev(held[number(a[0])], &part, 1));
}

static int h_sendfile(char **a)
{
	int from = open("/proc/self/exe", O_RDONLY);

	return answer(sendfile(held[number(a[0])], from, NULL, 10));
}

static int h_splice(char **a)
{
	int ends[2];

	if (pipe(ends) || write(ends[1], DATA, SIZE) < 0)
		return errno;
	return answer(splice(ends[0], NULL, held[number(a[0])], NULL, SIZE, 0));
}

static int h_copy_range(char **a)
{
	int from = open(a[1], O_RDONLY); /* of the same file system */

	return answer(copy_file_range(from, NULL, held[number(a[0])], NULL, 10, 0));
}

static int h_truncate(char **a)
{
	return answer(ftruncate(held[number(a[0])], 1));
}

static int h_allocate(char **a)
{
	return answer(fallocate(held[number(a[0])], 0, 0, 100000));
}

static int h_uring(char **a)
{
	return uring_put(held[number(a[0])], 0);
}

static int h_map(char **a)
{
	char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, held[number(a[0])], 0);

	if (memory == MAP_FAILED)
		return errno;
	memcpy(memory, DATA, SIZE);
	return 0;
}

static int h_reopen(char **a)
{
	char name[64];

	snprintf(name, sizeof(name), "/proc/self/fd/%d", held[number(a[0])]);
	return open_and_put(name, O_WRONLY);
}

static int h_fork_write(char **a)
{
	pid_t pid = fork();

	if (!pid)
		_exit(put(held[number(a[0])]));
	return child_answer(pid);
}

/* SOCKET: somebody outside sends a descriptor that is open for writing. */
static int s_receive(char **a)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char control[CMSG_SPACE(sizeof(int))], byte;
	struct iovec part = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	struct cmsghdr *header;

	strncpy(address.sun_path, a[0], sizeof(address.sun_path) - 1);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
		return errno;
	if (recvmsg(fd, &message, 0) < 0)
		return errno;
	header = CMSG_FIRSTHDR(&message);
	if (!header || header->cmsg_type != SCM_RIGHTS)
		return EPERM; /* the kernel kept it back */
	memcpy(&fd, CMSG_DATA(header), sizeof(int));
	return put(fd);
}

/* ---- two threads: one changes the name while the other uses it ------------------------------ */

static volatile char swap_memory[4096];
#define swap_buffer ((char *)swap_memory)
static volatile int swapping;

static void *swap_names(void *arguments)
{
	char **a = arguments;

	while (swapping) {
		strcpy(swap_buffer, a[0]);
		asm volatile("" ::: "memory");
		strcpy(swap_buffer, a[1]);
		asm volatile("" ::: "memory");
	}
	return NULL;
}

/* KNOWN FORBIDDEN: races the name of a write. */
static int w_thread_name(char **a)
{
	pthread_t thread;
	int error = EPERM;

	swapping = 1;
	strcpy(swap_buffer, a[0]);
	pthread_create(&thread, NULL, swap_names, a);
	while (!strcmp(swap_buffer, a[0])) /* until the other thread runs */
		usleep(100);
	for (int i = 0; i < 1000 && error; i++) {
		int fd = open(swap_buffer, O_WRONLY);
		char name[64], real[4096] = "";

		if (fd < 0)
			continue;
		snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
		if (readlink(name, real, sizeof(real) - 1) > 0 && !strcmp(real, a[1]))
			error = put(fd);
		close(fd);
	}
	swapping = 0;
	pthread_join(thread, NULL);
	return error;
}

/* ---- things that a service may do besides --------------------------------------------------- */

static int r_read(char **a)
{
	char byte;
	int fd = open(a[0], O_RDONLY);

	return fd < 0 ? errno : answer(read(fd, &byte, 1));
}

static int r_memory(char **a)
{
	int fd = memfd_create("scratch", 0);

	(void)a;
	return fd < 0 ? errno : put(fd);
}

static int r_pipe(char **a)
{
	int ends[2];

	(void)a;
	return pipe(ends) ? errno : put(ends[1]);
}

static int r_socket(char **a)
{
	int ends[2];

	(void)a;
	return socketpair(AF_UNIX, SOCK_STREAM, 0, ends) ? errno : put(ends[0]);
}

static int r_code_memory(char **a)
{
	void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)a;
	return memory == MAP_FAILED ? errno : 0;
}

static int r_shared_memory(char **a)
{
	void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	(void)a;
	return memory == MAP_FAILED ? errno : 0;
}

static int r_private_map(char **a)
{
	int fd = open(a[0], O_RDONLY);
	char *memory;

	if (fd < 0)
		return errno;
	memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (memory == MAP_FAILED)
		return errno;
	memory[0] = 'x';
	return 0;
}

/* SOURCE TARGET: copy within the kernel. */
static int r_copy(char **a)
{
	int from = open(a[0], O_RDONLY), to = open(a[1], O_WRONLY | O_CREAT, 0644);

	return from < 0 || to < 0 ? errno : answer(sendfile(to, from, NULL, 5));
}

/* TEMPORARY TARGET: as every careful writer does it. */
static int r_replace(char **a)
{
	int error = open_and_put(a[0], O_WRONLY | O_CREAT | O_TRUNC);

	return error ? error : answer(rename(a[0], a[1]));
}

struct technique {
	const char *name;
	int (*run)(char **arguments);
	int in_first_process;
};

#define T(name) { #name, name, 0 }
#define FIRST(name) { #name, name, 1 }

static const struct technique techniques[] = {
	T(x_execve),
	T(x_execveat),
	T(x_execveat_path),
	T(x_execveat_directory),
	T(x_descriptor_name),
	T(x_root_name),
	T(x_parent_root_name),
	T(x_relative),
	T(x_thread),
	T(x_vfork),
	T(x_chroot),
	T(x_mount_namespace),
	T(x_user_namespace),
	T(x_pid_namespace),
	T(x_memfd),
	T(x_memfd_name),
	T(x_memfd_script),
	T(x_unnamed),
	T(x_held),
	T(x_map),
	T(x_map_shared),
	T(x_map_later),
	T(x_map_personality),
	T(x_map_memory),
	T(x_environment),
	T(x_dlopen),
	T(w_open),
	T(w_read_write),
	T(w_append),
	T(w_create),
	T(w_create_exclusive),
	T(w_create_for_reading),
	T(w_creat),
	T(w_truncate_open),
	T(w_truncate_reading),
	T(w_truncate),
	T(w_openat2),
	T(w_directory),
	T(w_root_name),
	T(w_parent_root_name),
	T(w_reopen),
	T(w_reopen_path),
	T(w_map),
	T(w_map_files),
	T(w_chroot),
	T(w_mount_namespace),
	T(w_user_namespace),
	T(w_thread_name),
	T(w_handle),
	T(w_unnamed_link),
	T(w_core),
	T(w_uring),
	T(w_uring_async),
	T(w_uring_create),
	T(n_uring_unlink),
	T(n_uring_rename),
	T(n_uring_mkdir),
	T(n_uring_symlink),
	T(n_uring_link),
	T(n_unlink),
	T(n_unlinkat),
	T(n_rmdir),
	T(n_rename),
	T(n_exchange),
	T(n_link),
	T(n_link_descriptor),
	T(n_symlink),
	T(n_mkdir),
	T(n_fifo),
	T(n_regular),
	T(n_character),
	T(n_block),
	T(n_socket),
	T(a_chmod),
	T(a_fchmod),
	T(a_chmod_descriptor),
	T(a_chown),
	T(a_lchown),
	T(a_fchown),
	T(a_setxattr),
	T(a_fsetxattr),
	T(a_capability),
	T(a_removexattr),
	T(a_flags),
	T(m_tmpfs),
	T(m_bind),
	T(m_remount),
	T(m_unmount),
	T(m_own_namespace),
	T(m_user_namespace),
	T(m_move),
	T(m_detached_write),
	T(m_detached_exec),
	T(m_new_file_system),
	T(m_pivot),
	T(m_unmounted_write),
	T(t_attach),
	T(t_seize),
	T(t_traceme),
	T(t_memory_write),
	T(t_memory_file),
	T(t_own_memory),
	T(t_take_descriptor),
	FIRST(hold),
	FIRST(hold_map),
	FIRST(hold_close),
	T(h_write),
	T(h_pwrite),
	T(h_writev),
	T(h_sendfile),
	T(h_splice),
	T(h_copy_range),
	T(h_truncate),
	T(h_allocate),
	T(h_uring),
	T(h_map),
	T(h_reopen),
	T(h_fork_write),
	T(s_receive),
	T(r_read),
	T(r_memory),
	T(r_pipe),
	T(r_socket),
	T(r_code_memory),
	T(r_shared_memory),
	T(r_private_map),
	T(r_copy),
	T(r_replace),
};

static const struct technique *find(const char *name)
{
	for (size_t i = 0; i < sizeof(techniques) / sizeof(*techniques); i++)
		if (!strcmp(techniques[i].name, name))
			return &techniques[i];
	return NULL;
}

/* One try in a process of its own. */
static void try_once(const struct technique *technique, char **arguments)
{
	pid_t pid = fork();
	int status = 0;

	if (!pid) {
		alarm(TRY_SECONDS);
		fflush(stdout);
		_exit(technique->run(arguments));
	}
	if (waitpid(pid, &status, 0) < 0 || WIFSIGNALED(status))
		dprintf(1, "s%d\n", WTERMSIG(status));
	else
		dprintf(1, "e%d\n", WEXITSTATUS(status));
}

static void obey(char **field)
{
	int processes = number(field[0]), times = number(field[1]);
	const struct technique *technique = find(field[2]);

	if (!technique) {
		dprintf(1, "unknown technique %s\n", field[2]);
	} else if (technique->in_first_process) {
		dprintf(1, "e%d\n", technique->run(field + 3));
	} else {
		for (int i = 0; i < processes; i++) {
			if (fork())
				continue;
			for (int j = 0; j < times; j++)
				try_once(technique, field + 3);
			_exit(0);
		}
		while (wait(NULL) > 0 || errno == EINTR)
			;
	}
	dprintf(1, "END\n");
}

int main(int argc, char **argv)
{
	static char line[16384];

	if (argc > 2 && !strcmp(argv[1], "once")) /* evade once TECHNIQUE ARGUMENT… */
		return find(argv[2]) ? find(argv[2])->run(argv + 3) : ENOSYS;
	setvbuf(stdin, NULL, _IONBF, 0);
	while (fgets(line, sizeof(line), stdin)) {
		char *field[FIELDS_MAX] = {};
		int n = 0;

		line[strcspn(line, "\n")] = 0;
		for (char *at = line; at && n < FIELDS_MAX - 1;)
			field[n++] = strsep(&at, "\t");
		obey(field);
	}
	return 0;
}
