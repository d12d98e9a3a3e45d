/* A library to preload: file operations in a folder that fail, are the last ones, or are late.

   `arm(folder, n, mode)` counts the operations that change files whose path begins with `folder`;
   the n-th fails as on a full disk (mode 1), ends the process before it is done (2) or takes 0.2 s
   longer (3). `counted()` says how many there were since. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FAIL = 1, KILL, LATE };

static char root[4096];
static atomic_long seen;
static long due_at;
static int armed;

void arm(const char *folder, long n, int mode) {
  snprintf(root, sizeof root, "%s", folder);
  atomic_store(&seen, 0);
  due_at = n;
  armed = mode;
}

long counted(void) { return atomic_load(&seen); }

static int fails(const char *path) {
  if (!armed || strncmp(path, root, strlen(root))) return 0;
  if (atomic_fetch_add(&seen, 1) + 1 != due_at) return 0;
  if (armed == KILL) kill(getpid(), SIGKILL);
  if (armed == LATE) usleep(200000);
  errno = ENOSPC;
  return armed == FAIL;
}

static int fails_at(int folder, const char *path) {
  char full[8192] = "", link[64];
  if (path[0] == '/' || folder == AT_FDCWD) return fails(path);
  snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
  ssize_t n = readlink(link, full, 4096);
  if (n < 0) return 0;
  snprintf(full + n, 4000, "/%s", path);
  return fails(full);
}

static int fails_in(int file) {
  char path[4096] = "", link[64];
  if (!armed) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  return readlink(link, path, sizeof path - 1) > 0 && fails(path);
}

#define REAL(name)                                  \
  static __typeof__(&name) real;                    \
  if (!real) real = dlsym(RTLD_NEXT, #name)

#define WRAP(type, name, parameters, test, ...) \
  type name parameters {                        \
    REAL(name);                                 \
    return test ? -1 : real(__VA_ARGS__);       \
  }

#define OPEN(name)                                                            \
  int name(const char *path, int flags, ...) {                                \
    REAL(name);                                                               \
    va_list rest;                                                             \
    va_start(rest, flags);                                                    \
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;         \
    va_end(rest);                                                             \
    if (flags & O_ACCMODE && fails(path)) return -1;                          \
    return real(path, flags, mode);                                           \
  }

#define OPENAT(name)                                                          \
  int name(int folder, const char *path, int flags, ...) {                    \
    REAL(name);                                                               \
    va_list rest;                                                             \
    va_start(rest, flags);                                                    \
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;         \
    va_end(rest);                                                             \
    if (flags & O_ACCMODE && fails_at(folder, path)) return -1;               \
    return real(folder, path, flags, mode);                                   \
  }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
WRAP(ssize_t, write, (int f, const void *b, size_t n), fails_in(f), f, b, n)
WRAP(ssize_t, writev, (int f, const struct iovec *v, int n), fails_in(f), f, v, n)
WRAP(ssize_t, pwrite, (int f, const void *b, size_t n, off_t o), fails_in(f), f, b, n, o)
WRAP(ssize_t, pwrite64, (int f, const void *b, size_t n, off64_t o), fails_in(f), f, b, n, o)
WRAP(ssize_t, pwritev, (int f, const struct iovec *v, int n, off_t o), fails_in(f), f, v, n, o)
WRAP(ssize_t, pwritev64, (int f, const struct iovec *v, int n, off64_t o), fails_in(f), f, v, n, o)
WRAP(int, ftruncate, (int f, off_t n), fails_in(f), f, n)
WRAP(int, ftruncate64, (int f, off64_t n), fails_in(f), f, n)
WRAP(int, fsync, (int f), fails_in(f), f)
WRAP(int, fdatasync, (int f), fails_in(f), f)
WRAP(int, rename, (const char *a, const char *b), fails(a), a, b)
WRAP(int, renameat, (int d, const char *a, int e, const char *b), fails_at(d, a), d, a, e, b)
WRAP(int, renameat2, (int d, const char *a, int e, const char *b, unsigned f), fails_at(d, a), d, a,
     e, b, f)
WRAP(int, link, (const char *a, const char *b), fails(b), a, b)
WRAP(int, unlink, (const char *a), fails(a), a)
WRAP(int, unlinkat, (int d, const char *a, int f), fails_at(d, a), d, a, f)
WRAP(int, rmdir, (const char *a), fails(a), a)
WRAP(int, mkdir, (const char *a, mode_t m), fails(a), a, m)
WRAP(int, mkdirat, (int d, const char *a, mode_t m), fails_at(d, a), d, a, m)
