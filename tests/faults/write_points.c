/* Sees every call by which a process changes files below one folder, and stops it at one of them.

   Loaded with LD_PRELOAD and asleep until `arm`. It stands before libc, so it sees Python, Rust and
   any other library alike. What goes through a memory map, stdio or a raw system call passes it by,
   which the test notices by a file that no call has written. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WATCH, KILL, TEAR, FULL, FAIL };

static char below[PATH_MAX];
static int log_to = -1, action = WATCH;
static long stop_at = -1;
static atomic_long seen;

/* action: WATCH, KILL before call `at`, TEAR it (half of a write, then kill), FULL (ENOSPC from call
   `at` on, for what takes space), FAIL (EIO, this once). */
void arm(const char *folder, int log_descriptor, long at, int what) {
    snprintf(below, sizeof below, "%s", folder);
    log_to = log_descriptor;
    stop_at = at;
    action = what;
    atomic_store(&seen, 0);
}

static void resolve(int at, const char *path, char *out) {
    char link[64], folder[PATH_MAX];
    if (path && path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
        return;
    }
    if (at == AT_FDCWD)
        snprintf(link, sizeof link, "/proc/self/cwd");
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    ssize_t n = readlink(link, folder, sizeof folder - 1);
    folder[n < 0 ? 0 : n] = 0;
    if (snprintf(out, PATH_MAX, path ? "%s/%s" : "%s", folder, path) >= PATH_MAX) out[0] = 0;
}

/* 0: go on; -1: fail with errno; 1: half of the write, then die. */
static int point(const char *name, int at, const char *path, int takes_space) {
    char full[PATH_MAX], line[PATH_MAX + 64];
    int before = errno;
    if (!below[0]) return 0;
    resolve(at, path, full);
    errno = before;
    if (strncmp(full, below, strlen(below)) != 0) return 0;
    long now = atomic_fetch_add(&seen, 1);
    if (log_to >= 0) {
        int n = snprintf(line, sizeof line, "%s\t%s\n", name, full);
        syscall(SYS_write, log_to, line, n);
    }
    errno = before;
    if (now == stop_at && action == KILL) kill(getpid(), SIGKILL);
    if (now == stop_at && action == TEAR) return 1;
    if (now == stop_at && action == FAIL) return errno = EIO, -1;
    if (stop_at >= 0 && now >= stop_at && action == FULL && takes_space) return errno = ENOSPC, -1;
    return 0;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)
#define GUARD(name, at, path, space) \
    if (point(name, at, path, space) != 0) return errno = errno ? errno : EIO, -1

#define OPEN(symbol) \
    int symbol(const char *path, int flags, ...) { \
        va_list list; \
        va_start(list, flags); \
        mode_t mode = va_arg(list, mode_t); \
        va_end(list); \
        REAL(int, #symbol, const char *, int, mode_t); \
        if (flags & (O_CREAT | O_TRUNC)) GUARD("create", AT_FDCWD, path, 1); \
        return real(path, flags, mode); \
    }
#define OPENAT(symbol) \
    int symbol(int at, const char *path, int flags, ...) { \
        va_list list; \
        va_start(list, flags); \
        mode_t mode = va_arg(list, mode_t); \
        va_end(list); \
        REAL(int, #symbol, int, const char *, int, mode_t); \
        if (flags & (O_CREAT | O_TRUNC)) GUARD("create", at, path, 1); \
        return real(at, path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

static int halved(const char *name, int fd) {
    return point(name, fd, NULL, 1);
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    int what = halved("write", fd);
    if (what < 0) return -1;
    if (what > 0) real(fd, data, size / 2), kill(getpid(), SIGKILL);
    return real(fd, data, size);
}
#define PWRITE(symbol) \
    ssize_t symbol(int fd, const void *data, size_t size, off_t offset) { \
        REAL(ssize_t, #symbol, int, const void *, size_t, off_t); \
        int what = halved("write", fd); \
        if (what < 0) return -1; \
        if (what > 0) real(fd, data, size / 2, offset), kill(getpid(), SIGKILL); \
        return real(fd, data, size, offset); \
    }
PWRITE(pwrite)
PWRITE(pwrite64)
ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    int what = halved("write", fd);
    if (what < 0) return -1;
    if (what > 0) real(fd, parts, count / 2), kill(getpid(), SIGKILL);
    return real(fd, parts, count);
}

#define BY_DESCRIPTOR(symbol, name) \
    int symbol(int fd) { \
        REAL(int, #symbol, int); \
        GUARD(name, fd, NULL, 0); \
        return real(fd); \
    }
BY_DESCRIPTOR(fsync, "fsync")
BY_DESCRIPTOR(fdatasync, "fsync")

#define CUT(symbol) \
    int symbol(int fd, off_t size) { \
        REAL(int, #symbol, int, off_t); \
        GUARD("truncate", fd, NULL, 0); \
        return real(fd, size); \
    }
CUT(ftruncate)
CUT(ftruncate64)

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    GUARD("rename", AT_FDCWD, to, 0);
    return real(from, to);
}
int renameat(int at, const char *from, int there, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    GUARD("rename", there, to, 0);
    return real(at, from, there, to);
}
int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    GUARD("mkdir", AT_FDCWD, path, 1);
    return real(path, mode);
}
int mkdirat(int at, const char *path, mode_t mode) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    GUARD("mkdir", at, path, 1);
    return real(at, path, mode);
}
int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    GUARD("unlink", AT_FDCWD, path, 0);
    return real(path);
}
int unlinkat(int at, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    GUARD(flags & AT_REMOVEDIR ? "rmdir" : "unlink", at, path, 0);
    return real(at, path, flags);
}
int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    GUARD("rmdir", AT_FDCWD, path, 0);
    return real(path);
}
