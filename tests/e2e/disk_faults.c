/* Makes the writes of one program to its SQLite files fail, as a broken or full disk would.
 *
 * Preloaded below SQLite. DISK_FAULTS names a file with three 32-bit numbers that the test and this
 * process share: the kind of fault (0 is none), how many matching calls still succeed, and how many
 * failed. Only files whose name contains "registry.db" are touched, and not the lock file.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

enum { NONE, SYNC_EIO, WRITE_EIO, WRITE_ENOSPC, SHORT_WRITE };

static volatile int32_t *shared;

__attribute__((constructor)) static void open_shared(void) {
    const char *path = getenv("DISK_FAULTS");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *memory = mmap(NULL, 12, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory != MAP_FAILED) shared = memory;
    close(file);
}

static int is_database(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return strstr(path, "registry.db") && !strstr(path, ".lock");
}

/* Returns the fault that this call meets. */
static int fault_of(int file, int is_sync) {
    int kind = shared ? shared[0] : NONE;
    if (kind == NONE || (kind == SYNC_EIO) != is_sync || !is_database(file)) return NONE;
    if (shared[1] > 0) {
        shared[1]--;
        return NONE;
    }
    shared[2]++;
    return kind;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define SYNC(name)                                             \
    int name(int file) {                                       \
        if (fault_of(file, 1)) { errno = EIO; return -1; }     \
        return REAL(name)(file);                               \
    }

#define WRITE(name, offset_type)                                                            \
    ssize_t name(int file, const void *data, size_t size, offset_type offset) {             \
        switch (fault_of(file, 0)) {                                                        \
        case WRITE_EIO: errno = EIO; return -1;                                             \
        case WRITE_ENOSPC: errno = ENOSPC; return -1;                                       \
        case SHORT_WRITE:                                                                   \
            if (size > 1) return REAL(name)(file, data, size / 2, offset);                  \
            errno = ENOSPC;                                                                 \
            return -1;                                                                      \
        }                                                                                   \
        return REAL(name)(file, data, size, offset);                                        \
    }

SYNC(fsync)
SYNC(fdatasync)
WRITE(pwrite, off_t)
WRITE(pwrite64, off64_t)
