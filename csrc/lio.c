/* lio.c: the contract. Checks who calls and when, keeps the books, and leaves the moving of
 * operations to the backend's own file. */
#include "lio.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "atomics.h"
#include "backend.h"
#include "lio_errno.h"

#if defined(_WIN32)
#include <windows.h>
#else
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#endif

/* -- who calls --------------------------------------------------------------------- */

#if defined(_WIN32)
static void remember_owner(lio_backend *b)
{
    DWORD self = GetCurrentThreadId();
    memcpy(b->owner, &self, sizeof self);
}
static bool is_owner(const lio_backend *b)
{
    DWORD owner;
    memcpy(&owner, b->owner, sizeof owner);
    return owner == GetCurrentThreadId();
}
static bool is_forked(const lio_backend *b)
{
    (void)b;
    return false;
}
static void guard_against_fork(lio_backend *b)
{
    (void)b;
}
static void drop_fork_guard(lio_backend *b)
{
    (void)b;
}
uint32_t lio_probe_fork_guard(void)
{
    return 0;
}
#else
static_assert(sizeof(pthread_t) <= sizeof((lio_backend *)0)->owner, "pthread_t fits");

static void remember_owner(lio_backend *b)
{
    pthread_t self = pthread_self();
    memcpy(b->owner, &self, sizeof self);
}
static bool is_owner(const lio_backend *b)
{
    pthread_t owner;
    memcpy(&owner, b->owner, sizeof owner);
    return pthread_equal(owner, pthread_self());
}

/* A child must not touch the parent's ring. Asking getpid before every call would be a
 * system call each time; a page that the kernel wipes in the child tells it for nothing. */
static bool is_forked(const lio_backend *b)
{
    if (b->fork_guard != NULL)
        return *b->fork_guard == 0;
    return b->owner_pid != 0 && b->owner_pid != (int)getpid();
}
#if defined(MADV_WIPEONFORK)
static int wipe_on_fork(void *page, size_t size)
{
    return madvise(page, size, MADV_WIPEONFORK);
}
#elif defined(INHERIT_ZERO)
static int wipe_on_fork(void *page, size_t size)
{
    return minherit(page, size, INHERIT_ZERO);
}
#endif
/* A page that reads 0 in a child and 1 here; NULL where the kernel makes none. */
static volatile uint8_t *make_guard_page(void)
{
#if defined(MADV_WIPEONFORK) || defined(INHERIT_ZERO)
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *page =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return NULL;
    if (wipe_on_fork(page, size) != 0) {
        munmap(page, size);
        return NULL;
    }
    *page = 1;
    return page;
#else
    return NULL;
#endif
}
static void free_guard_page(volatile uint8_t *page)
{
    if (page != NULL)
        munmap((void *)page, (size_t)sysconf(_SC_PAGESIZE));
}
static void guard_against_fork(lio_backend *b)
{
    b->owner_pid = (int)getpid();
    if (b->without & LIO_CAP_WIPE_ON_FORK)
        return;
    b->fork_guard = make_guard_page();
    if (b->fork_guard != NULL)
        b->capabilities |= LIO_CAP_WIPE_ON_FORK;
}
uint32_t lio_probe_fork_guard(void)
{
    volatile uint8_t *page = make_guard_page();
    free_guard_page(page);
    return page == NULL ? 0 : LIO_CAP_WIPE_ON_FORK;
}
static void drop_fork_guard(lio_backend *b)
{
    free_guard_page(b->fork_guard);
    b->fork_guard = NULL;
}
#endif

static enum lio_phase phase_of(const lio_backend *b)
{
    return __atomic_load_n(&b->phase, __ATOMIC_RELAXED);
}

/* 0, or why this call is refused, whoever makes it. */
static int check_phase(const lio_backend *b)
{
    if (b == NULL)
        return -EINVAL;
    if (phase_of(b) != LIO_PHASE_OPEN)
        return phase_of(b) == LIO_PHASE_NEW ? -ENXIO : -ESHUTDOWN;
    return is_forked(b) ? -ECHILD : 0;
}

/* The same for what only the owner may call. */
static int check_caller(const lio_backend *b)
{
    int error = check_phase(b);
    return error != 0 || is_owner(b) ? error : -EPERM;
}

/* -- time -------------------------------------------------------------------------- */

#if defined(_WIN32)
int64_t lio_now(void)
{
    LARGE_INTEGER ticks, frequency;
    QueryPerformanceFrequency(&frequency);
    QueryPerformanceCounter(&ticks);
    return ticks.QuadPart / frequency.QuadPart * INT64_C(1000000000) +
           ticks.QuadPart % frequency.QuadPart * INT64_C(1000000000) / frequency.QuadPart;
}
#else
int64_t lio_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}
#endif

static int64_t deadline_on(const lio_backend *b, int64_t timeout_ns)
{
    if (timeout_ns <= 0)
        return timeout_ns == 0 ? 0 : INT64_MAX;
    bool own = b != NULL && b->vtable->now != NULL;
    int64_t now = own ? b->vtable->now(b) : lio_now();
    return timeout_ns > INT64_MAX - now ? INT64_MAX : now + timeout_ns;
}

int64_t lio_deadline(int64_t timeout_ns)
{
    return deadline_on(NULL, timeout_ns);
}

/* -- life -------------------------------------------------------------------------- */

const char *lio_name(const lio_backend *b)
{
    return b->vtable->name;
}

uint32_t lio_capabilities(const lio_backend *b)
{
    return b->capabilities;
}

int lio_init(lio_backend *b, uint32_t capacity)
{
    if (b == NULL || capacity == 0 || capacity > UINT32_MAX / 8)
        return -EINVAL;
    if (b->phase != LIO_PHASE_NEW)
        return b->phase == LIO_PHASE_OPEN ? -EALREADY : -ESHUTDOWN;
    b->records = malloc(((size_t)capacity + LIO_RECORDS_BEYOND) * sizeof *b->records);
    if (b->records == NULL)
        return -ENOMEM;
    int error = lio_store_init(&b->store, capacity);
    if (error == 0) {
        remember_owner(b);
        guard_against_fork(b);
        error = b->vtable->init(b);
        if (error == 0) {
            __atomic_store_n(&b->phase, LIO_PHASE_OPEN, __ATOMIC_RELEASE);
            return 0;
        }
        drop_fork_guard(b);
        lio_store_free(&b->store);
    }
    free(b->records);
    b->records = NULL;
    return error;
}

int lio_grow(lio_backend *b, uint32_t more)
{
    int error = check_caller(b);
    if (error != 0)
        return error;
    if (more > UINT32_MAX / 8 - b->store.capacity)
        return -EINVAL;
    size_t count = (size_t)b->store.capacity + more + LIO_RECORDS_BEYOND;
    lio_completion *records = realloc(b->records, count * sizeof *records);
    if (records == NULL)
        return -ENOMEM;
    b->records = records;
    return lio_store_grow(&b->store, more);
}

int lio_close(lio_backend *b)
{
    if (b == NULL)
        return -EINVAL;
    if (phase_of(b) != LIO_PHASE_OPEN) {
        b->phase = LIO_PHASE_CLOSED;
        return 0;
    }
    bool forked = is_forked(b);
    if (!forked && !is_owner(b))
        return -EPERM;
    __atomic_store_n(&b->phase, LIO_PHASE_CLOSED, __ATOMIC_SEQ_CST);
    b->vtable->close(b, forked);
    b->state = NULL;
    lio_store_free(&b->store);
    free(b->records);
    b->records = NULL;
    return 0;
}

void lio_destroy(lio_backend *b)
{
    if (b == NULL)
        return;
    /* Another thread's destroy cannot end the owner's operations: rather leak than let the
     * kernel write into freed memory. */
    if (lio_close(b) != 0)
        return;
    bool forked = is_forked(b);
    drop_fork_guard(b); /* not before: lio_wake looks at it */
    bool inherited = !(forked && b->wake_fd_dies_in_child);
    if (b->wake_fd >= 0 && inherited) {
#if defined(_WIN32)
        lio_close_handle(b->wake_fd);
#else
        close(b->wake_fd);
#endif
    }
    lio_drop_reserved(b);
    lio_faults_detach(b);
    free(b);
}

void lio_discard_result(uint8_t opcode, int64_t result)
{
    if (result < 0 || (opcode != LIO_ACCEPT && opcode != LIO_SOCKET && opcode != LIO_OPENAT))
        return;
#if defined(_WIN32)
    lio_close_handle((lio_fd)result);
#else
    close((int)result);
#endif
}

#if !defined(_WIN32)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-compare" /* in musl's CMSG_NXTHDR */
void lio_discard_rights(void *control, size_t length)
{
    struct msghdr header = {.msg_control = control};
    header.msg_controllen = (__typeof__(header.msg_controllen))length;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c != NULL; c = CMSG_NXTHDR(&header, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int)) {
            int fd;
            memcpy(&fd, (char *)c + at, sizeof fd);
            close(fd);
        }
    }
}
#pragma GCC diagnostic pop
#endif

/* -- operations -------------------------------------------------------------------- */

/* What no kernel would understand; all else is the kernel's to judge. */
static int check_op(const lio_op *op)
{
    if (op->opcode >= LIO_OPCODE_COUNT)
        return -EINVAL;
    if (lio_opcode_has_fd(op->opcode) && (op->fd < 0 || op->fd > INT32_MAX))
        return -EBADF;
    if ((op->op_flags & ~(uint32_t)(LIO_OP_ALL | LIO_OP_EXCLUSIVE | LIO_OP_HINT)) != 0 ||
        ((op->op_flags & LIO_OP_ALL) && op->opcode != LIO_SEND) ||
        ((op->op_flags & LIO_OP_HINT) && op->opcode != LIO_POLL))
        return -EINVAL;
    if (lio_opcode_has_path(op->opcode)) {
        bool two = op->opcode == LIO_LINKAT || op->opcode == LIO_SYMLINKAT ||
                   op->opcode == LIO_RENAMEAT;
        if (op->path == NULL || (two && op->path2 == NULL) || op->addr_len != 0)
            return -EINVAL;
        return op->opcode == LIO_STATX && op->buf == NULL ? -EINVAL : 0;
    }
    if (op->addr_len > LIO_ADDR_MAX || (op->addr_len != 0 && op->addr == NULL))
        return -EINVAL;
    if ((op->opcode == LIO_CONNECT || op->opcode == LIO_BIND) && op->addr_len == 0)
        return -EINVAL;
    if (op->opcode == LIO_TIMEOUT && op->offset < 0)
        return -EINVAL;
    if (op->opcode == LIO_POLL &&
        (op->flags == 0 || (op->flags & ~(uint32_t)(LIO_POLL_READ | LIO_POLL_WRITE)) != 0))
        return -EINVAL;
    if (lio_opcode_is_vectored(op->opcode) && op->buf != NULL && op->len > 1024)
        return -EMSGSIZE; /* IOV_MAX */
    bool takes_pool =
        op->opcode == LIO_RECV || op->opcode == LIO_RECVMSG || op->opcode == LIO_RECVFROM;
    uint64_t wanted = op->opcode == LIO_RECVMSG && op->buf == NULL ? op->buf_len : op->len;
    if (takes_pool && op->buf == NULL && (wanted == 0 || wanted > UINT32_MAX))
        return -EINVAL;
    bool transfers = op->opcode == LIO_READ || op->opcode == LIO_WRITE ||
                     op->opcode == LIO_READ_AT || op->opcode == LIO_WRITE_AT ||
                     op->opcode == LIO_SEND || op->opcode == LIO_SENDTO ||
                     op->opcode == LIO_READV_AT || op->opcode == LIO_WRITEV_AT;
    return transfers && op->buf == NULL && op->len != 0 ? -EFAULT : 0;
}

/* What an operation waits for, as LIO_POLL_* bits; 0 when it does not wait. */
static uint32_t direction_of(const lio_op *op)
{
    switch (op->opcode) {
    case LIO_READ:
    case LIO_RECV:
    case LIO_RECVMSG:
    case LIO_RECVFROM:
    case LIO_ACCEPT:
        return LIO_POLL_READ;
    case LIO_WRITE:
    case LIO_SEND:
    case LIO_SENDMSG:
    case LIO_SENDTO:
    case LIO_CONNECT:
        return LIO_POLL_WRITE;
    case LIO_POLL:
        return op->flags;
    default:
        return 0;
    }
}

/* 0, or -EBUSY: what the descriptor has in flight stands in the way. */
static int check_conflict(const lio_backend *b, const lio_op *op)
{
    const lio_fd_entry *entry = lio_fd_find(&b->store, op->fd);
    if (entry == NULL)
        return 0;
    if (op->opcode == LIO_CLOSE) /* they would reach whoever gets the number next */
        return entry->adopted || entry->ops.head != LIO_NO_SLOT ? -EBUSY : 0;
    uint32_t direction = direction_of(op);
    for (uint32_t number = entry->ops.head; number != LIO_NO_SLOT;
         number = lio_slot_at(&b->store, number)->fd_next) {
        const lio_slot *other = lio_slot_at(&b->store, number);
        /* Sends that go down together do not wait yet, and leave in order. */
        if (other->state == LIO_STATE_QUEUED && other->stage == 0 &&
            lio_opcode_sends(other->op.opcode) && lio_opcode_sends(op->opcode))
            continue;
        if (direction_of(&other->op) & direction)
            return -EBUSY;
    }
    return 0;
}

int lio_push(lio_backend *b, uint64_t id, const lio_op *op)
{
    int error = check_caller(b);
    if (error != 0)
        return error;
    if (id > LIO_ID_MAX || op == NULL)
        return -EINVAL;
    error = check_op(op);
    if (error != 0)
        return error;
    if (!b->vtable->supports(b, op))
        return -ENOTSUP;
    if ((op->op_flags & LIO_OP_EXCLUSIVE) || op->opcode == LIO_CLOSE) {
        error = check_conflict(b, op);
        if (error != 0)
            return error;
    }
    int64_t slot = lio_store_push(&b->store, id, op);
    if (slot < 0)
        return (int)slot;
    b->stats.pushed++;
    __atomic_store_n(&b->unsubmitted, 1, __ATOMIC_RELAXED);
    return 0;
}

/* Another thread may wait, or be about to wait, for what the kernel has. What the owner does
 * meanwhile must reach the kernel, and what it settles itself must reach that thread: either
 * the thread sees the mark, or we see the thread. */
static int tell_waiters(lio_backend *b)
{
    __atomic_store_n(&b->unsubmitted, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&b->waiters, __ATOMIC_SEQ_CST) == 0)
        return 0;
    int error = b->vtable->submit(b);
    return error < 0 || b->store.done_count != 0 ? b->vtable->wake(b) : 0;
}

/* What a flush or a wait leaves for the next one: a result that came at once, an operation
 * that has to go again or whose turn has just come. */
static int tell_of_leftovers(lio_backend *b)
{
    if (b->store.done_count != 0 || b->store.queue.head != LIO_NO_SLOT)
        __atomic_store_n(&b->unsubmitted, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&b->unsubmitted, __ATOMIC_SEQ_CST) == 0 ||
        __atomic_load_n(&b->waiters, __ATOMIC_SEQ_CST) == 0)
        return 0;
    return b->vtable->wake(b);
}

static int cancel(lio_backend *b, uint64_t id)
{
    uint32_t number = lio_store_find(&b->store, id);
    if (number == LIO_NO_SLOT)
        return -ENOENT;
    lio_slot *slot = lio_slot_at(&b->store, number);
    switch (slot->state) {
    case LIO_STATE_QUEUED:
        if (slot->moved != 0) {
            /* Part of it went: that is its result. */
            lio_store_complete(&b->store, number, (int64_t)slot->moved, -1, -1);
            return 0;
        }
        if (slot->stage != 0 || slot->fault & LIO_FAULT_WAITED) {
            /* It was with the kernel and waits to go again, or is believed to be: no longer
             * "never happened". */
            b->stats.cancel_races += slot->stage == 0;
            lio_store_complete(&b->store, number, -ECANCELED, -1, -1);
            b->stats.cancelled++;
            return 0;
        }
        lio_store_take_back(&b->store, number);
        b->stats.cancelled++;
        return 1;
    case LIO_STATE_SUBMITTED:
        lio_store_cancelling(&b->store, number);
        return b->vtable->cancel(b, number);
    default:
        return 0; /* asked before, or done already */
    }
}

int lio_cancel(lio_backend *b, uint64_t id)
{
    int error = check_caller(b);
    if (error != 0)
        return error;
    int answer = cancel(b, id);
    return answer == 0 ? tell_waiters(b) : answer;
}

static uint64_t note_batch(lio_backend *b, uint64_t before)
{
    b->queued_bytes = 0;
    uint64_t batch = b->stats.flushed - before;
    if (batch > b->stats.largest_batch)
        b->stats.largest_batch = batch;
    return batch;
}

int lio_flush(lio_backend *b)
{
    int error = check_caller(b);
    if (error != 0)
        return error;
    uint64_t before = b->stats.flushed;
    __atomic_store_n(&b->unsubmitted, 0, __ATOMIC_RELAXED);
    error = b->vtable->submit(b);
    uint64_t batch = note_batch(b, before);
    int told = tell_of_leftovers(b);
    if (error == 0)
        error = told;
    return error < 0 && batch == 0 ? error : (int)batch;
}

int lio_wait(lio_backend *b, int64_t timeout_ns, const lio_completion **completions)
{
    int error = check_caller(b);
    if (error != 0)
        return error;
    if (completions == NULL)
        return -EINVAL;
    b->stats.waits++;
    b->vtable->recycle(b);
    __atomic_store_n(&b->unsubmitted, 0, __ATOMIC_RELAXED);
    /* What is done already (an operation settled by a close) does not have to wait. */
    int64_t deadline = b->store.done_count != 0 ? 0 : deadline_on(b, timeout_ns);
    uint64_t before = b->stats.flushed;
    error = b->vtable->turn(b, deadline);
    note_batch(b, before);
    if (error < 0 && error != -EINTR && b->store.done_count == 0) {
        tell_of_leftovers(b);
        return error;
    }
    uint32_t count = lio_store_hand_out(&b->store, b->records);
    b->stats.completed += count;
    b->vtable->handed_out(b);
    if (b->woken) {
        b->woken = false;
        b->stats.wakeups++;
        b->records[count++] = (lio_completion){LIO_ID_WAKE, 0, -1, -1};
    }
    if (error == -EINTR)
        b->records[count++] = (lio_completion){LIO_ID_SIGNAL, -EINTR, -1, -1};
    if (b->vtable->packets != NULL)
        count += b->vtable->packets(b, &b->records[count]);
    tell_of_leftovers(b);
    *completions = b->records;
    return (int)count;
}

const lio_completion *lio_records(const lio_backend *b)
{
    return b->records;
}

int lio_wait_ready(lio_backend *b, int64_t timeout_ns)
{
    int error = check_phase(b);
    if (error != 0)
        return error;
    __atomic_add_fetch(&b->waiters, 1, __ATOMIC_SEQ_CST);
    int ready = __atomic_load_n(&b->unsubmitted, __ATOMIC_SEQ_CST) != 0
                    ? 1
                    : b->vtable->wait_ready(b, timeout_ns);
    __atomic_sub_fetch(&b->waiters, 1, __ATOMIC_SEQ_CST);
    return ready;
}

int lio_wake(lio_backend *b)
{
    int error = check_phase(b);
    return error != 0 ? error : b->vtable->wake(b);
}

/* -- descriptors ------------------------------------------------------------------- */

/* Ends what is queued on a descriptor: those operations never reach the kernel. */
static int settle_queued(lio_backend *b, lio_fd_entry *entry)
{
    int count = 0;
    uint32_t number = entry->ops.head;
    while (number != LIO_NO_SLOT) {
        lio_slot *slot = lio_slot_at(&b->store, number);
        uint32_t next = slot->fd_next;
        if (slot->state == LIO_STATE_QUEUED) {
            int64_t result = slot->moved != 0 ? (int64_t)slot->moved : -ECANCELED;
            b->stats.cancelled += result == -ECANCELED;
            lio_store_complete(&b->store, number, result, -1, -1);
        }
        count++;
        number = next;
    }
    return count;
}

/* The same for what moves bytes to it, and whose end is asked for if it is submitted. */
static int settle_to(lio_backend *b, lio_fd fd)
{
    int count = 0;
    for (uint32_t number = 0; b->store.pairs != 0 && number < b->store.fresh; number++) {
        const lio_slot *slot = lio_slot_at(&b->store, number);
        if (!lio_slot_reaches(slot, fd) || slot->op.fd == fd)
            continue;
        if (slot->state == LIO_STATE_QUEUED) {
            b->stats.cancelled++;
            lio_store_complete(&b->store, number, -ECANCELED, -1, -1);
        } else if (slot->state == LIO_STATE_SUBMITTED) {
            lio_store_cancelling(&b->store, number);
            b->vtable->cancel(b, number);
        }
        count++;
    }
    return count;
}

/* Which file a number names now. 0 or a negative errno. */
static int identify(lio_backend *b, lio_fd fd, uint64_t identity[2])
{
#if defined(_WIN32)
    (void)b;
    identity[0] = (uint64_t)fd;
    identity[1] = 0;
#else
    struct stat st;
    b->stats.syscalls++;
    if (fstat((int)fd, &st) != 0)
        return -errno;
    identity[0] = (uint64_t)st.st_dev;
    identity[1] = (uint64_t)st.st_ino;
#endif
    return 0;
}

/* Whether a number still names the file that was claimed under it. */
static bool is_claimed(lio_backend *b, const lio_fd_entry *entry, lio_fd fd)
{
    uint64_t identity[2];
    if (b->vtable->is_claimed != NULL)
        return b->vtable->is_claimed(b, entry, fd);
    return identify(b, fd, identity) == 0 &&
           memcmp(identity, entry->identity, sizeof identity) == 0;
}

/* Whether it names another file than the one that was claimed last. */
static bool is_stranger(lio_backend *b, lio_fd fd)
{
    const lio_fd_entry *entry = lio_fd_find(&b->store, fd);
    return entry != NULL && (entry->lost || (entry->adopted && !is_claimed(b, entry, fd)));
}

int lio_adopt(lio_backend *b, lio_fd fd)
{
    int error = check_caller(b);
    if (error != 0)
        return error;
    if (fd < 0 || fd > INT32_MAX)
        return -EBADF;
    lio_fd_entry *entry = lio_fd_get(&b->store, fd);
    if (entry == NULL)
        return -ENOMEM;
    uint64_t identity[2];
    error = identify(b, fd, identity);
    if (error != 0)
        return error;
    if (entry->adopted) {
        if (is_claimed(b, entry, fd))
            return 1;
        /* The number was closed behind our back and is used again: whatever still waits
         * there waits for a file that is gone. */
        error = lio_release_fd(b, fd);
        if (error < 0 && error != -EBADF) /* that one says just this */
            return error;
    }
    int adopted = b->vtable->adopt(b, entry, fd);
    if (adopted < 0)
        return adopted;
    if (adopted > 0)
        memcpy(entry->identity, identity, sizeof identity);
    entry->adopted = adopted > 0;
    entry->lost = 0;
    return adopted;
}

int lio_still_adopted(lio_backend *b, lio_fd fd)
{
    int error = check_caller(b);
    if (error != 0)
        return error;
    return is_stranger(b, fd) ? -EBADF : 0;
}

int lio_received(lio_backend *b, lio_fd fd, uint64_t wanted, int64_t count)
{
    int error = check_caller(b);
    if (error != 0)
        return error;
    lio_fd_entry *entry = lio_fd_find(&b->store, fd);
    if (entry != NULL && entry->adopted && b->vtable->received != NULL)
        b->vtable->received(entry, wanted, count);
    return 0;
}

int lio_release_fd(lio_backend *b, lio_fd fd)
{
    int error = check_caller(b);
    if (error != 0)
        return error;
    if (fd < 0)
        return -EBADF;
    lio_fd_entry *entry =
        b->store.pairs == 0 ? lio_fd_find(&b->store, fd) : lio_fd_get(&b->store, fd);
    if (entry == NULL)
        return b->store.pairs == 0 ? 0 : -ENOMEM;
    int to = settle_to(b, fd), settled = settle_queued(b, entry) + to;
    if (entry->adopted || entry->ops.head != LIO_NO_SLOT || entry->armed || to != 0) {
        error = b->vtable->release_fd(b, entry, fd);
        entry->adopted = 0;
        entry->generation++;
    }
    entry->lost = 0; /* last: the backend may only now have found that it is */
    if (error != 0)
        return error;
    error = settled != 0 ? tell_waiters(b) : 0;
    return error < 0 ? error : settled;
}

int lio_close_fd(lio_backend *b, lio_fd fd)
{
    int error = check_caller(b);
    if (error != 0)
        return error;
    /* Somebody closed the claimed file behind our back and the number is another's by now:
     * that one is not ours to close. */
    bool stranger = is_stranger(b, fd);
    error = lio_release_fd(b, fd);
    if (error < 0 || stranger)
        return error < 0 ? error : -EBADF;
#if defined(_WIN32)
    b->stats.syscalls++;
    return lio_close_handle(fd);
#else
    b->stats.syscalls++;
    /* Linux, and POSIX since 2024: the number is free even after EINTR. */
    return close((int)fd) == 0 || errno == EINTR ? 0 : -errno;
#endif
}

/* -- looking ----------------------------------------------------------------------- */

intptr_t lio_port(const lio_backend *b)
{
#if defined(_WIN32)
    return b->wake_fd;
#else
    (void)b;
    return -ENOTSUP;
#endif
}

int lio_pool(const lio_backend *b, void **base, size_t *size)
{
    if (b == NULL || base == NULL || size == NULL)
        return -EINVAL;
    if (b->phase != LIO_PHASE_OPEN)
        return b->phase == LIO_PHASE_NEW ? -ENXIO : -ESHUTDOWN;
    *base = b->pool;
    *size = b->pool_size;
    return 0;
}

uint32_t lio_pool_receive_max(const lio_backend *b)
{
    return b->receive_max;
}

int lio_get_stats(const lio_backend *b, lio_stats *stats)
{
    if (b == NULL || stats == NULL)
        return -EINVAL;
    *stats = b->stats;
    stats->in_flight = b->store.taken;
    stats->capacity = b->store.capacity;
    stats->spins = b->spin.moments;
    stats->spin_hits = b->spin.hits;
    return 0;
}
