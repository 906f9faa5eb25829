/* faults.c: a bad network on purpose, as a layer between lio.c and a backend.
 *
 * It has the shape of a backend, and passes everything on to the real one. What it changes on
 * the way a seed decides, and stays within what a kernel may do:
 *
 * short_io. Before an operation is handed over its length is cut, on what is a stream of
 * bytes: stream sockets, pipes, regular files. Datagrams are never cut, nor a receive that
 * asks for all (MSG_WAITALL). A send that asks for all (LIO_OP_ALL) goes down in parts: the
 * backend finds it short and goes on with it.
 *
 * reset. Before a transfer is handed over, its connection is broken in earnest: how, and what
 * its operations come to after it, is the platform's matter (faults_posix.c, iocp_faults.c).
 *
 * delay. A completion is kept back for some turns, or for a time. Its bytes are copied from
 * the backend's pool to a place at the pool's end that is ours (b->pool_reserve): the backend
 * uses its own again. As long as anything is kept back no wait says that the time ran out,
 * since a virtual clock above us would then go on as if nothing were coming: it ends as if
 * by a signal instead.
 *
 * queue_full. A hand-over leaves some of what is queued behind, the last ones, for the next
 * one, as when the kernel's queue is full. Their numbers may be other files' by then: those
 * end with EBADF.
 *
 * cancel_race. A cancel that loses: the backend learns of it some turns late, and the
 * operation may have its result before. A cancel that wins: an operation, and what is queued
 * after it, begins one hand-over late, and a cancel that comes meanwhile ends it with
 * ECANCELED although it could have been done.
 *
 * interrupt, overflow. A wait ends by a signal that was none; a wait brings one completion,
 * and the others come with the next. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "faults_os.h"
#if !defined(_WIN32)
#include <sys/socket.h>
#endif

#include "atomics.h"
#include "backend.h"
#include "lio_errno.h"
#include "random.h"

#define DELAY_TURNS 8u
#define CANCEL_TURNS 4u
#define STEP_NS INT64_C(1000000)
#define BLOCKS 16u
#define MESSAGE_ROOM ((sizeof(lio_msg) + 63) & ~(size_t)63)
#define BLOCK_SIZE (MESSAGE_ROOM + 65536)
#define DEAD_MAX 256u
#define SEEN_MAX 256u

enum block_state { BLOCK_FREE, BLOCK_HELD, BLOCK_READY, BLOCK_OUT };

typedef struct late_cancel {
    uint32_t number, generation;
    uint64_t turn; /* when the backend learns of it */
} late_cancel;

typedef struct dead_connection {
    lio_connection connection;
    bool told; /* one operation had the ECONNRESET */
} dead_connection;

typedef struct lio_fault_state {
    lio_vtable vtable; /* this layer's, with the backend's name */
    const lio_vtable *inner;
    lio_faults config;
    lio_random random;
    uint64_t turn;
    lio_list held; /* done, and kept back: slot->moved says until which turn or time */
    late_cancel *late;
    uint32_t late_count, late_room;
    dead_connection dead[DEAD_MAX]; /* the last ones */
    uint32_t dead_count;
    lio_connection seen[SEEN_MAX]; /* the last ones, by number */
    bool left_behind;              /* by the last hand-over */
    uint8_t blocks[BLOCKS];        /* enum block_state */
    int busy;                      /* something is held or late; atomic */
} lio_fault_state;

static bool is_held_back(const lio_fault_state *f)
{
    return f->held.head != LIO_NO_SLOT || f->late_count != 0 || f->left_behind;
}

/* -- what an operation is about ---------------------------------------------------- */

static bool is_on_socket(uint8_t opcode)
{
    return opcode == LIO_RECV || opcode == LIO_RECVMSG || opcode == LIO_RECVFROM ||
           lio_opcode_sends(opcode);
}

static bool is_transfer(uint8_t opcode)
{
    return is_on_socket(opcode) || (opcode >= LIO_READ && opcode <= LIO_WRITEV_AT);
}

/* -- resets ------------------------------------------------------------------------ */

/* On Windows a connection that was ended from both sides does not know its peer any more. */
static bool connection_of(lio_fault_state *f, lio_fd fd, lio_connection *found)
{
    lio_connection *seen = &f->seen[(uint64_t)fd / 4 % SEEN_MAX];
    if (!lio_fault_connection(fd, found))
        return false;
    if (found->identity[1] != 0)
        *seen = *found;
    else if (seen->fd == fd && seen->identity[0] == found->identity[0])
        *found = *seen;
    return true;
}

static dead_connection *find_dead(lio_fault_state *f, lio_fd fd)
{
    lio_connection found;
    uint32_t count = f->dead_count < DEAD_MAX ? f->dead_count : DEAD_MAX;
    if (count == 0 || !connection_of(f, fd, &found))
        return NULL;
    for (uint32_t i = 0; i < count; i++) {
        if (lio_fault_concerns(&f->dead[i].connection, &found))
            return &f->dead[i];
    }
    return NULL;
}

/* Whether the connection is broken now. */
static bool break_connection(lio_backend *b, lio_fd fd)
{
    const lio_vtable *inner = b->faults->inner;
    int answer = inner->reset == NULL ? 0 : inner->reset(b, fd);
    return answer != 0 ? answer > 0 : lio_fault_break(b, fd);
}

static void maybe_reset(lio_backend *b, const lio_op *op)
{
    lio_fault_state *f = b->faults;
    dead_connection fresh = {.told = false};
    if (f->config.reset == 0 || !connection_of(f, op->fd, &fresh.connection) ||
        !lio_random_chance(&f->random, f->config.reset) || find_dead(f, op->fd) != NULL ||
        !break_connection(b, op->fd))
        return;
    f->dead[f->dead_count++ % DEAD_MAX] = fresh;
    b->stats.resets++;
}

/* What a transfer on a connection that was reset comes to. */
static void tell_of_reset(lio_fault_state *f, lio_slot *slot)
{
    bool cancelled = slot->result == -ECANCELED && !(slot->fault & LIO_FAULT_RESET);
    if (!is_transfer(slot->op.opcode) || slot->result > 0 || cancelled ||
        slot->result == -EBADF)
        return;
    dead_connection *dead = find_dead(f, slot->op.fd);
    if (dead == NULL)
        return;
    bool sends = lio_opcode_sends(slot->op.opcode) || slot->op.opcode == LIO_WRITE;
    if (slot->result == 0 && (sends || slot->op.len == 0))
        return;
    lio_fault_tell_of_reset(slot, dead->told, sends);
    if (slot->result < 0)
        slot->data = -1; /* an end has a place in the pool, for none of its bytes */
    dead->told = true;
}

/* -- short transfers --------------------------------------------------------------- */

static bool can_be_short(const lio_op *op, enum lio_medium medium)
{
    const uint32_t harmless = MSG_PEEK
#if defined(MSG_NOSIGNAL)
                              | MSG_NOSIGNAL
#endif
#if defined(MSG_DONTWAIT)
                              | MSG_DONTWAIT
#endif
#if defined(MSG_MORE)
                              | MSG_MORE
#endif
#if defined(MSG_CMSG_CLOEXEC)
                              | MSG_CMSG_CLOEXEC
#endif
        ;
    if (medium == LIO_MEDIUM_OTHER)
        return false;
    return !is_on_socket(op->opcode) || (op->flags & ~harmless) == 0;
}

static void maybe_cut(lio_backend *b, lio_slot *slot, enum lio_medium medium)
{
    lio_fault_state *f = b->faults;
    lio_op *op = &slot->op;
    bool pooled_message = op->opcode == LIO_RECVMSG && op->buf == NULL;
    uint64_t length = pooled_message ? op->buf_len : op->len; /* or a number of pieces */
    length -= slot->moved;
    if (length < 2 || !can_be_short(op, medium) ||
        !lio_random_chance(&f->random, f->config.short_io))
        return;
    /* A byte or a few, as often as anything else. */
    uint64_t most = lio_random_below(&f->random, 2) == 0 && length > 16 ? 16 : length - 1;
    uint64_t cut = 1 + lio_random_below(&f->random, most);
    if (op->op_flags & LIO_OP_ALL)
        slot->cut = slot->moved + cut;
    else if (pooled_message)
        op->buf_len = cut;
    else
        op->len = cut;
    b->stats.short_ios++;
}

/* Decides for what was pushed since, in the order of the pushes. */
static void decide(lio_backend *b)
{
    lio_store *store = &b->store;
    for (uint32_t number = store->queue.head; number != LIO_NO_SLOT;) {
        lio_slot *slot = lio_slot_at(store, number);
        number = slot->next;
        /* A send in parts, before its next one. */
        bool goes_on =
            slot->op.op_flags & LIO_OP_ALL && slot->moved != 0 && slot->moved >= slot->cut;
        if (slot->fault & LIO_FAULT_DECIDED && !goes_on)
            continue;
        slot->fault |= LIO_FAULT_DECIDED;
        if ((slot->stage != 0 && !goes_on) || !is_transfer(slot->op.opcode))
            continue;
        enum lio_medium medium = lio_fault_medium(slot->op.fd);
        if (medium == LIO_MEDIUM_STREAM && !goes_on)
            maybe_reset(b, &slot->op);
        maybe_cut(b, slot, medium);
    }
}

/* -- a full queue ------------------------------------------------------------------ */

/* Which descriptors an operation names; how many. */
static int files_of(const lio_op *op, lio_fd fds[2])
{
    int count = 0;
    if (lio_opcode_has_fd(op->opcode) || (lio_opcode_has_path(op->opcode) && op->fd >= 0))
        fds[count++] = op->fd;
    if (lio_opcode_has_fd2(op->opcode) ||
        ((op->opcode == LIO_LINKAT || op->opcode == LIO_RENAMEAT) && op->fd2 >= 0))
        fds[count++] = op->fd2;
    return count;
}

/* What an operation on these descriptors would reach. Of an adopted one that is the file that
 * was adopted, whatever the number names by now. */
static void note_files(const lio_backend *b, const lio_op *op, uint64_t files[2][2])
{
    lio_fd fds[2];
    int count = files_of(op, fds);
    memset(files, 0, 2 * sizeof *files);
    for (int i = 0; i < count; i++) {
        const lio_fd_entry *entry = lio_fd_find(&b->store, fds[i]);
        if (entry != NULL && entry->adopted)
            memcpy(files[i], entry->identity, sizeof entry->identity);
        else
            (void)lio_fault_file(fds[i], files[i]);
    }
}

/* Whether that is what it was when the operation was left behind. */
static bool has_its_files(const lio_backend *b, uint32_t number)
{
    uint64_t now[2][2];
    note_files(b, &lio_slot_at(&b->store, number)->op, now);
    return memcmp(now, lio_extra_at(&b->store, number)->identity, sizeof now) == 0;
}

static void leave_behind(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    lio_list_remove(&b->store, &b->store.queue, number);
    lio_list_append(&b->store, &b->store.later, number, LIO_LIST_LATER);
    /* What was with the backend has such notes already. */
    if (slot->stage == 0 && !(slot->fault & LIO_FAULT_WAITED))
        note_files(b, &slot->op, lio_extra_at(&b->store, number)->identity);
    slot->fault |= LIO_FAULT_WAITED;
}

/* What was left behind once goes now, before what came since. */
static void take_up(lio_backend *b)
{
    lio_store *store = &b->store;
    b->faults->left_behind = false;
    for (uint32_t number = store->queue.head; number != LIO_NO_SLOT;) {
        const lio_slot *slot = lio_slot_at(store, number);
        uint32_t next = slot->next;
        if (slot->fault & LIO_FAULT_WAITED && slot->stage == 0 && !has_its_files(b, number))
            lio_store_complete(store, number, -EBADF, -1, -1);
        number = next;
    }
}

/* The first that the queue has no room for now, or LIO_NO_SLOT. */
static uint32_t first_without_room(lio_backend *b)
{
    lio_fault_state *f = b->faults;
    uint32_t fresh = 0, first = LIO_NO_SLOT, at = 0;
    for (uint32_t n = b->store.queue.head; n != LIO_NO_SLOT;
         n = lio_slot_at(&b->store, n)->next)
        fresh += !(lio_slot_at(&b->store, n)->fault & LIO_FAULT_WAITED);
    bool full = fresh != 0 && lio_random_chance(&f->random, f->config.queue_full);
    uint32_t room = full ? (uint32_t)lio_random_below(&f->random, fresh) : fresh;
    b->stats.queue_fulls += full;
    for (uint32_t n = b->store.queue.head; n != LIO_NO_SLOT && first == LIO_NO_SLOT;
         n = lio_slot_at(&b->store, n)->next) {
        const lio_slot *slot = lio_slot_at(&b->store, n);
        if (slot->fault & LIO_FAULT_WAITED)
            continue;
        bool late = slot->stage == 0 && lio_random_chance(&f->random, f->config.cancel_race);
        if (at++ == room || late)
            first = n;
    }
    return first;
}

/* Hides what the queue has no room for. All of it may wait, and only once. */
static void fill_queue(lio_backend *b)
{
    lio_fault_state *f = b->faults;
    if (f->config.queue_full == 0 && f->config.cancel_race == 0)
        return;
    take_up(b);
    for (uint32_t number = first_without_room(b); number != LIO_NO_SLOT;) {
        uint32_t next = lio_slot_at(&b->store, number)->next;
        leave_behind(b, number);
        number = next;
    }
}

static void empty_queue(lio_backend *b)
{
    lio_store *store = &b->store;
    uint32_t number;
    b->faults->left_behind = store->later.head != LIO_NO_SLOT;
    while ((number = store->later.head) != LIO_NO_SLOT) {
        lio_list_remove(store, &store->later, number);
        lio_list_append(store, &store->queue, number, LIO_LIST_QUEUE);
    }
}

/* -- completions that are kept back ------------------------------------------------ */

static char *block_at(const lio_backend *b, uint32_t block)
{
    return b->pool + b->pool_size - b->pool_reserve + block * BLOCK_SIZE;
}

/* Whether a completion points into the pool. In the detail of what failed is no place. */
static bool has_data(const lio_slot *slot)
{
    return slot->result >= 0 && (slot->data >= 0 || slot->detail >= 0);
}

/* Copies what a completion points to, so that the backend can use its memory again. */
static bool keep_data(lio_backend *b, lio_slot *slot)
{
    lio_fault_state *f = b->faults;
    uint32_t block = 0;
    if (!has_data(slot))
        return true;
    while (block < BLOCKS && f->blocks[block] != BLOCK_FREE)
        block++;
    if (block == BLOCKS)
        return false;
    char *place = block_at(b, block);
    if (slot->detail >= 0) {
        memcpy(place, b->pool + slot->detail, sizeof(lio_msg));
        slot->detail = place - b->pool;
    }
    if (slot->data >= 0) {
        /* With MSG_TRUNC the result tells of more than there is. */
        uint64_t size = (uint64_t)slot->result;
        uint64_t asked = slot->op.opcode == LIO_RECVMSG ? slot->op.buf_len : slot->op.len;
        size = size < asked ? size : asked;
        size = size < b->receive_max ? size : b->receive_max;
        assert(size <= BLOCK_SIZE - MESSAGE_ROOM);
        memcpy(place + MESSAGE_ROOM, b->pool + slot->data, size);
        slot->data = place + MESSAGE_ROOM - b->pool;
    }
    f->blocks[block] = BLOCK_HELD;
    return true;
}

static void set_block_of(lio_backend *b, const lio_slot *slot, enum block_state state)
{
    int64_t offset = slot->detail >= 0 ? slot->detail : slot->data;
    if (has_data(slot))
        b->faults->blocks[(b->pool + offset - block_at(b, 0)) / (int64_t)BLOCK_SIZE] =
            (uint8_t)state;
}

static bool hold(lio_backend *b, uint32_t number, uint64_t until)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    if (!keep_data(b, slot))
        return false;
    slot->moved = until;
    lio_store_hold(&b->store, &b->faults->held, number);
    return true;
}

static uint64_t delayed_until(lio_fault_state *f)
{
    if (f->config.latency_ns > 0)
        return (uint64_t)lio_now() + 1 +
               lio_random_below(&f->random, (uint64_t)f->config.latency_ns);
    return f->turn + 1 + lio_random_below(&f->random, DELAY_TURNS);
}

/* Looks at what was completed since `last` was the last of those that are done. */
static void inspect(lio_backend *b, uint32_t last)
{
    lio_fault_state *f = b->faults;
    uint32_t number =
        last == LIO_NO_SLOT ? b->store.done.head : lio_slot_at(&b->store, last)->next;
    while (number != LIO_NO_SLOT) {
        lio_slot *slot = lio_slot_at(&b->store, number);
        uint32_t next = slot->next;
        tell_of_reset(f, slot);
        if (lio_random_chance(&f->random, f->config.delay) && hold(b, number, delayed_until(f)))
            b->stats.delays++;
        number = next;
    }
}

static void give_out(lio_backend *b, uint32_t number)
{
    set_block_of(b, lio_slot_at(&b->store, number), BLOCK_READY);
    lio_store_unhold(&b->store, &b->faults->held, number);
}

static void give_out_due(lio_backend *b)
{
    lio_fault_state *f = b->faults;
    bool by_time = f->config.latency_ns > 0;
    uint64_t now = by_time && f->held.head != LIO_NO_SLOT ? (uint64_t)lio_now() : f->turn;
    for (uint32_t number = f->held.head; number != LIO_NO_SLOT;) {
        const lio_slot *slot = lio_slot_at(&b->store, number);
        uint32_t next = slot->next;
        /* What an overflow left over has 0: it waited for a turn, and this is one. */
        if (slot->moved <= now)
            give_out(b, number);
        number = next;
    }
}

static void maybe_overflow(lio_backend *b)
{
    lio_fault_state *f = b->faults;
    if (b->store.done_count < 2 || !lio_random_chance(&f->random, f->config.overflow))
        return;
    uint32_t number = lio_slot_at(&b->store, b->store.done.head)->next;
    bool any = false;
    while (number != LIO_NO_SLOT) {
        uint32_t next = lio_slot_at(&b->store, number)->next;
        any = hold(b, number, 0) || any;
        number = next;
    }
    b->stats.overflows += any;
    b->stats.overflow += any;
}

/* -- cancels ----------------------------------------------------------------------- */

static bool make_late(lio_backend *b, uint32_t number)
{
    lio_fault_state *f = b->faults;
    if (!lio_random_chance(&f->random, f->config.cancel_race))
        return false;
    if (f->late_count == f->late_room) {
        uint32_t room = f->late_room == 0 ? 16 : f->late_room * 2;
        late_cancel *late = realloc(f->late, room * sizeof *late);
        if (late == NULL)
            return false;
        f->late = late;
        f->late_room = room;
    }
    uint64_t turn = f->turn + 1 + lio_random_below(&f->random, CANCEL_TURNS);
    f->late[f->late_count++] =
        (late_cancel){number, lio_slot_at(&b->store, number)->generation, turn};
    b->stats.cancel_races++;
    return true;
}

static int cancel_now(lio_backend *b, uint32_t number)
{
    uint32_t last = b->store.done.tail;
    int error = b->faults->inner->cancel(b, number);
    inspect(b, last);
    return error;
}

static void forward_late(lio_backend *b, uint64_t turn)
{
    lio_fault_state *f = b->faults;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < f->late_count; i++) {
        const late_cancel late = f->late[i];
        const lio_slot *slot = lio_slot_at(&b->store, late.number);
        if (slot->generation != late.generation || slot->state != LIO_STATE_CANCELLING)
            continue; /* it ended before */
        if (late.turn > turn)
            f->late[kept++] = late;
        else
            cancel_now(b, late.number);
    }
    f->late_count = kept;
}

/* -- the shape of a backend -------------------------------------------------------- */

/* A thread that waits elsewhere must not wait for what is kept back here. */
static int tell(lio_backend *b, int answer)
{
    lio_fault_state *f = b->faults;
    __atomic_store_n(&f->busy, is_held_back(f), __ATOMIC_SEQ_CST);
    if (is_held_back(f) && __atomic_load_n(&b->waiters, __ATOMIC_SEQ_CST) != 0)
        f->inner->wake(b);
    return answer;
}

static int faults_init(lio_backend *b)
{
    b->pool_reserve = BLOCKS * BLOCK_SIZE;
    return b->faults->inner->init(b);
}

static int submit(lio_backend *b)
{
    decide(b);
    uint32_t last = b->store.done.tail;
    fill_queue(b);
    int error = b->faults->inner->submit(b);
    empty_queue(b);
    inspect(b, last);
    return error;
}

static int faults_submit(lio_backend *b)
{
    return tell(b, submit(b));
}

static int turn_once(lio_backend *b, int64_t deadline_ns)
{
    decide(b);
    uint32_t last = b->store.done.tail;
    fill_queue(b);
    if (b->store.later.head != LIO_NO_SLOT || b->store.done_count != 0)
        deadline_ns = 0;
    int error = b->faults->inner->turn(b, deadline_ns);
    empty_queue(b);
    inspect(b, last);
    maybe_overflow(b);
    return error;
}

static void next_turn(lio_backend *b)
{
    lio_fault_state *f = b->faults;
    f->turn++;
    give_out_due(b);
    forward_late(b, f->turn);
}

static int64_t now_of(const lio_backend *b)
{
    const lio_vtable *inner = b->faults->inner;
    return inner->now == NULL ? lio_now() : inner->now(b);
}

static int turn(lio_backend *b, int64_t deadline_ns)
{
    lio_fault_state *f = b->faults;
    next_turn(b);
    if (deadline_ns != 0 && b->store.done_count == 0 &&
        lio_random_chance(&f->random, f->config.interrupt)) {
        int error = submit(b);
        b->stats.interrupts++;
        return error != 0 ? error : -EINTR;
    }
    for (;;) {
        bool busy = is_held_back(f);
        int64_t until = deadline_ns;
        if (b->store.done_count != 0)
            until = 0;
        else if (busy && deadline_ns != 0)
            until = f->config.latency_ns > 0 ? now_of(b) + STEP_NS : 0;
        int error = turn_once(b, until);
        if (error != 0 || b->store.done_count != 0 || b->woken || b->packet_count != 0)
            return error;
        if (!busy && !is_held_back(f))
            return 0; /* the time ran out */
        next_turn(b);
        if (b->store.done_count != 0)
            return 0;
        bool over = deadline_ns == 0 || (deadline_ns != INT64_MAX && now_of(b) >= deadline_ns);
        if (over && is_held_back(f))
            return -EINTR; /* something is coming yet */
        if (over)
            deadline_ns = 0;
    }
}

static int faults_turn(lio_backend *b, int64_t deadline_ns)
{
    return tell(b, turn(b, deadline_ns));
}

static int faults_cancel(lio_backend *b, uint32_t number)
{
    return tell(b, make_late(b, number) ? 0 : cancel_now(b, number));
}

static int faults_release_fd(lio_backend *b, lio_fd_entry *entry, lio_fd fd)
{
    lio_fault_state *f = b->faults;
    forward_late(b, UINT64_MAX);                  /* whoever closes waits for them */
    f->seen[(uint64_t)fd / 4 % SEEN_MAX].fd = -1; /* the number may be another's next */
    return tell(b, f->inner->release_fd(b, entry, fd));
}

static void faults_recycle(lio_backend *b)
{
    lio_fault_state *f = b->faults;
    for (uint32_t i = 0; i < BLOCKS; i++) {
        if (f->blocks[i] == BLOCK_OUT)
            f->blocks[i] = BLOCK_FREE;
    }
    f->inner->recycle(b);
}

static void faults_handed_out(lio_backend *b)
{
    lio_fault_state *f = b->faults;
    for (uint32_t i = 0; i < BLOCKS; i++) {
        if (f->blocks[i] == BLOCK_READY)
            f->blocks[i] = BLOCK_OUT;
    }
    f->inner->handed_out(b);
}

static int faults_wait_ready(lio_backend *b, int64_t timeout_ns)
{
    if (__atomic_load_n(&b->faults->busy, __ATOMIC_SEQ_CST) != 0)
        return 1;
    return b->faults->inner->wait_ready(b, timeout_ns);
}

static void faults_close(lio_backend *b, bool forked)
{
    lio_fault_state *f = b->faults;
    if (!forked)
        forward_late(b, UINT64_MAX);
    while (f->held.head != LIO_NO_SLOT) /* for the backend to throw away with the rest */
        give_out(b, f->held.head);
    f->inner->close(b, forked);
}

static bool is_chance(double value)
{
    return value >= 0 && value <= 1;
}

void lio_faults_replace(lio_backend *b, const lio_vtable *inner)
{
    lio_fault_state *f = b->faults;
    f->inner = inner;
    f->vtable = *inner;
    f->vtable.init = faults_init;
    f->vtable.submit = faults_submit;
    f->vtable.turn = faults_turn;
    f->vtable.cancel = faults_cancel;
    f->vtable.release_fd = faults_release_fd;
    f->vtable.recycle = faults_recycle;
    f->vtable.handed_out = faults_handed_out;
    f->vtable.wait_ready = faults_wait_ready;
    f->vtable.close = faults_close;
    b->vtable = &f->vtable;
}

int lio_faults_attach(lio_backend *b, const lio_faults *faults)
{
    const double chances[] = {faults->short_io,    faults->reset,     faults->delay,
                              faults->cancel_race, faults->interrupt, faults->overflow,
                              faults->queue_full};
    for (size_t i = 0; i < sizeof chances / sizeof *chances; i++) {
        if (!is_chance(chances[i]))
            return -EINVAL;
    }
    /* A wait that always ends by a signal is none. */
    if (faults->latency_ns < 0 || faults->interrupt == 1)
        return -EINVAL;
    lio_fault_state *f = calloc(1, sizeof *f);
    if (f == NULL)
        return -ENOMEM;
    f->config = *faults;
    f->random.state = faults->seed;
    f->held = (lio_list){LIO_NO_SLOT, LIO_NO_SLOT};
    b->faults = f;
    lio_faults_replace(b, b->vtable);
    return 0;
}

void lio_faults_detach(lio_backend *b)
{
    if (b->faults == NULL)
        return;
    free(b->faults->late);
    free(b->faults);
    b->faults = NULL;
}
