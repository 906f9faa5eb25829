/* syscall_count.c: PTRACE_SEIZE all threads, let them stop at each system call, count those
 * stops that are entries.
 *
 * Waiting goes by thread id, without blocking: a wait for "any child" would take away what
 * the caller's other children have to tell, and only a signal could end it in time. */
#include "syscall_count.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000ll

/* Linux's own, for libcs that are older than it. */
#define GET_SYSCALL_INFO 0x420e
enum {
    SYSCALL_INFO_ENTRY = 1,
    EVENT_STOP = 128,
    WAIT_THREAD = 0x20000000, /* __WNOTHREAD: what this thread traces, no other */
    WAIT_ALL = 0x40000000,    /* __WALL: threads too */
    SPINS = 100,
    NAP_NS = 20000,
};

struct syscall_info {
    uint8_t op;
    uint8_t pad[3];
    uint32_t arch;
    uint64_t instruction_pointer;
    uint64_t stack_pointer;
    uint64_t number;
    uint64_t args[6];
    uint64_t more[2];
};

typedef struct tracer {
    const lio_syscall_options *options;
    lio_syscall_counts *counts;
    pid_t *threads;
    size_t count, room;
    bool detaching;
} tracer;

static int64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND_NS + t.tv_nsec;
}

static long trace(int request, pid_t thread, uintptr_t data)
{
    return ptrace(request, thread, NULL, (void *)data) < 0 ? -errno : 0;
}

static bool is_known(const tracer *t, pid_t thread)
{
    for (size_t i = 0; i < t->count; i++) {
        if (t->threads[i] == thread)
            return true;
    }
    return false;
}

static int add(tracer *t, pid_t thread)
{
    if (is_known(t, thread))
        return 0;
    if (t->count == t->room) {
        size_t room = t->room == 0 ? 16 : t->room * 2;
        pid_t *threads = realloc(t->threads, room * sizeof *threads);
        if (threads == NULL)
            return -ENOMEM;
        t->threads = threads;
        t->room = room;
    }
    t->threads[t->count++] = thread;
    t->counts->threads++;
    return 0;
}

static void forget(tracer *t, size_t index)
{
    assert(index < t->count);
    t->threads[index] = t->threads[--t->count];
}

static int seize(tracer *t, pid_t thread)
{
    long error = trace(PTRACE_SEIZE, thread, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE);
    /* A thread that is gone, or that a traced one started: the latter's stop tells of it. */
    if (error != 0 && thread != t->options->pid)
        return 0;
    if (error == 0)
        error = trace(PTRACE_INTERRUPT, thread, 0);
    return error != 0 ? (int)error : add(t, thread);
}

/* Threads may start while the list is read: until it brings no new one. */
static int seize_all(tracer *t)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)t->options->pid);
    int error = seize(t, t->options->pid);
    size_t before = 0;
    while (error == 0 && before != t->count) {
        before = t->count;
        DIR *list = opendir(path);
        if (list == NULL)
            return -errno;
        const struct dirent *entry;
        while (error == 0 && (entry = readdir(list)) != NULL) {
            pid_t thread = atoi(entry->d_name);
            if (thread > 0 && !is_known(t, thread))
                error = seize(t, thread);
        }
        closedir(list);
    }
    return error;
}

static int count_entry(tracer *t, pid_t thread)
{
    struct syscall_info info;
    if (ptrace(GET_SYSCALL_INFO, thread, (void *)sizeof info, &info) < 0)
        return errno == ESRCH ? 0 : -ENOTSUP;
    if (info.op != SYSCALL_INFO_ENTRY)
        return 0;
    t->counts->total++;
    if (info.number < LIO_SYSCALL_NUMBERS)
        t->counts->by_number[info.number]++;
    return 0;
}

/* Lets a thread go on from its stop; status as waitid gives it. */
static int resume(tracer *t, pid_t thread, int status)
{
    int sig = status & 0xff;
    int event = status >> 8;
    int error = 0;
    uintptr_t deliver = 0;
    if (sig == (SIGTRAP | 0x80)) {
        if (!t->detaching)
            error = count_entry(t, thread);
    } else if (event == PTRACE_EVENT_CLONE) {
        unsigned long started = 0;
        if (ptrace(PTRACE_GETEVENTMSG, thread, NULL, &started) == 0)
            error = add(t, (pid_t)started);
    } else if (event == EVENT_STOP && sig != SIGTRAP && !t->detaching) {
        /* SIGSTOP and its like: stopped it stays, until SIGCONT. */
        trace(PTRACE_LISTEN, thread, 0);
        return 0;
    } else if (event == 0) {
        deliver = (uintptr_t)sig;
    }
    trace(t->detaching ? PTRACE_DETACH : PTRACE_SYSCALL, thread, deliver);
    return error;
}

static bool is_stop(const siginfo_t *info)
{
    return info->si_code == CLD_TRAPPED || info->si_code == CLD_STOPPED;
}

/* Of a traced thread, the kernel tells stops even to those who ask for exits only. */
static bool has_exited(tracer *t, pid_t thread)
{
    siginfo_t info;
    memset(&info, 0, sizeof info);
    int what = WEXITED | WNOWAIT | WNOHANG | WAIT_ALL | WAIT_THREAD;
    if (waitid(P_PID, (id_t)thread, &info, what) == 0 && info.si_pid != 0 && !is_stop(&info))
        t->counts->exited = 1;
    return t->counts->exited != 0;
}

enum { QUIET, MOVED, GONE };

/* One look at one thread. */
static int look(tracer *t, size_t index)
{
    pid_t thread = t->threads[index];
    bool leader = thread == t->options->pid;
    siginfo_t info;
    memset(&info, 0, sizeof info);
    /* The end of the process is for its parent to collect, the end of a thread for us. */
    int what = WSTOPPED | WNOHANG | WAIT_ALL | WAIT_THREAD | (leader ? 0 : WEXITED);
    bool found = waitid(P_PID, (id_t)thread, &info, what) == 0;
    if (!found && errno == EINTR)
        return QUIET;
    if (!found || info.si_pid == 0) {
        bool exited = leader && has_exited(t, thread);
        return exited || !found ? GONE : QUIET;
    }
    if (!is_stop(&info))
        return GONE;
    int error = resume(t, thread, info.si_status);
    if (error != 0)
        return error;
    return t->detaching ? GONE : MOVED;
}

/* Looks at all threads once; how many had something to tell. */
static int sweep(tracer *t)
{
    int moved = 0;
    for (size_t i = t->count; i-- > 0;) {
        int found = look(t, i);
        if (found < 0)
            return found;
        if (found == GONE)
            forget(t, i);
        moved += found != QUIET;
    }
    return moved;
}

static void pause_when_quiet(unsigned *quiet, int moved)
{
    *quiet = moved > 0 ? 0 : *quiet + 1;
    if (*quiet == 0)
        return;
    struct timespec nap = {.tv_nsec = NAP_NS};
    if (*quiet < SPINS)
        sched_yield();
    else
        clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL);
}

static int count(tracer *t, int64_t start)
{
    const lio_syscall_options *o = t->options;
    unsigned quiet = 0;
    while (t->count > 0 && !t->counts->exited) {
        if (o->stop != NULL && __atomic_load_n(o->stop, __ATOMIC_RELAXED) != 0)
            break;
        if (o->duration_ns > 0 && clock_ns() - start >= o->duration_ns)
            break;
        int moved = sweep(t);
        if (moved < 0)
            return moved;
        pause_when_quiet(&quiet, moved);
    }
    return 0;
}

/* A thread can be let go only while it is stopped. One in a sleep that nothing interrupts
 * stays ours: -ETIMEDOUT, and the kernel lets it go when the calling thread ends. */
static int detach_all(tracer *t)
{
    int64_t start = clock_ns();
    unsigned quiet = 0;
    t->detaching = true;
    for (size_t i = 0; i < t->count; i++)
        trace(PTRACE_INTERRUPT, t->threads[i], 0);
    while (t->count > 0) {
        int moved = sweep(t);
        if (moved < 0)
            return moved;
        if (clock_ns() - start > SECOND_NS)
            return -ETIMEDOUT;
        pause_when_quiet(&quiet, moved);
    }
    return 0;
}

int lio_count_syscalls(const lio_syscall_options *options, lio_syscall_counts *counts)
{
    memset(counts, 0, sizeof *counts);
    if (options->pid <= 0 || options->pid == getpid() || options->duration_ns < 0)
        return -EINVAL;
    tracer t = {.options = options, .counts = counts};
    const uint64_t *work = options->work;
    int error = seize_all(&t);
    int64_t start = clock_ns();
    uint64_t before = work == NULL ? 0 : __atomic_load_n(work, __ATOMIC_RELAXED);
    if (error == 0)
        error = count(&t, start);
    counts->elapsed_ns = clock_ns() - start;
    counts->work = work == NULL ? 0 : __atomic_load_n(work, __ATOMIC_RELAXED) - before;
    int detached = detach_all(&t);
    free(t.threads);
    return error != 0 ? error : detached;
}
