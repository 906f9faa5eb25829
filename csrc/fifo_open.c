#include "fifo_open.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SIGNALS 8
#define AGAIN_NS 200000

enum { NEW, OPENING, OVER };

/* linux/openat2.h, which older systems lack */
struct how {
    uint64_t flags, mode, resolve;
};
#define CACHED_ONLY 0x20 /* RESOLVE_CACHED */

int lio_is_fifo(const char *path)
{
#if defined(SYS_openat2)
    struct how how = {.flags = O_PATH | O_CLOEXEC, .resolve = CACHED_ONLY};
    struct stat st;
    int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
    if (fd < 0)
        return 0;
    bool is = fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode);
    close(fd);
    return is;
#else
    (void)path;
    return 0;
#endif
}

static void do_nothing(int number)
{
    (void)number;
}

/* A signal that interrupts system calls and does nothing else, or 0. */
static int find_signal(void)
{
    struct sigaction action;
    for (int number = SIGRTMAX; number > SIGRTMAX - SIGNALS && number >= SIGRTMIN; number--) {
        if (sigaction(number, NULL, &action) != 0 || action.sa_flags & SA_SIGINFO)
            continue;
        if (action.sa_handler == do_nothing)
            return number;
        if (action.sa_handler != SIG_DFL)
            continue;
        action = (struct sigaction){.sa_handler = do_nothing}; /* without SA_RESTART */
        if (sigaction(number, &action, NULL) == 0)
            return number;
    }
    return 0;
}

int64_t lio_open_fifo(lio_fifo_open *opening, const char *path, int flags, uint32_t mode)
{
    sigset_t one, before;
    sigemptyset(&one);
    opening->signal = find_signal();
    if (opening->signal != 0)
        sigaddset(&one, opening->signal);
    if (pthread_sigmask(SIG_UNBLOCK, &one, &before) != 0)
        opening->signal = 0;
    opening->thread = (int32_t)syscall(SYS_gettid);
    __atomic_store_n(&opening->state, OPENING, __ATOMIC_SEQ_CST);
    int64_t result;
    do {
        if (__atomic_load_n(&opening->given_up, __ATOMIC_SEQ_CST)) {
            result = -ECANCELED;
            break;
        }
        result = openat(AT_FDCWD, path, flags, (mode_t)mode);
        if (result < 0)
            result = -errno;
    } while (result == -EINTR);
    if (opening->signal != 0)
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    __atomic_store_n(&opening->state, OVER, __ATOMIC_SEQ_CST);
    return result;
}

void lio_give_up_fifo(lio_fifo_open *opening)
{
    __atomic_store_n(&opening->given_up, 1, __ATOMIC_SEQ_CST);
    uint32_t state;
    while ((state = __atomic_load_n(&opening->state, __ATOMIC_SEQ_CST)) != OVER) {
        /* One signal may come just before the call that it is to interrupt. One that comes
         * after it finds the thread, or none: numbers of threads are the process's own. */
        if (state == OPENING && opening->signal != 0)
            (void)syscall(SYS_tgkill, getpid(), opening->thread, opening->signal);
        struct timespec pause = {0, AGAIN_NS};
        nanosleep(&pause, NULL);
    }
}
