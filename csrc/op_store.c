#include "op_store.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "lio_errno.h"

#if !defined(NDEBUG)
/* The life of an operation. Row: from; column: to. */
static const bool transitions[LIO_STATE_COUNT][LIO_STATE_COUNT] = {
    [LIO_STATE_FREE] = {[LIO_STATE_QUEUED] = true},
    [LIO_STATE_QUEUED] = {[LIO_STATE_FREE] = true,      /* taken back */
                          [LIO_STATE_SUBMITTED] = true, /* flushed */
                          [LIO_STATE_DONE] = true},     /* settled by a close */
    [LIO_STATE_SUBMITTED] = {[LIO_STATE_QUEUED] = true, /* once more: no buffer, short send */
                             [LIO_STATE_CANCELLING] = true,
                             [LIO_STATE_DONE] = true},
    [LIO_STATE_CANCELLING] = {[LIO_STATE_DONE] = true},
    [LIO_STATE_DONE] = {[LIO_STATE_FREE] = true},
};
#endif

static void set_state(lio_slot *slot, enum lio_state to)
{
    assert(transitions[slot->state][to]);
    slot->state = (uint8_t)to;
}

bool lio_opcode_has_path(uint8_t opcode)
{
    switch (opcode) {
    case LIO_OPENAT:
    case LIO_STATX:
    case LIO_LINKAT:
    case LIO_SYMLINKAT:
    case LIO_RENAMEAT:
    case LIO_UNLINKAT:
    case LIO_MKDIRAT:
        return true;
    default:
        return false;
    }
}

bool lio_opcode_has_fd(uint8_t opcode)
{
    return opcode != LIO_NOP && opcode != LIO_TIMEOUT && opcode != LIO_SOCKET &&
           !lio_opcode_has_path(opcode);
}

/* -- lists ------------------------------------------------------------------------- */

void lio_list_append(lio_store *store, lio_list *list, uint32_t number, enum lio_list_kind kind)
{
    lio_slot *slot = lio_slot_at(store, number);
    assert(slot->linked == LIO_LIST_NONE && kind != LIO_LIST_NONE);
    slot->linked = (uint8_t)kind;
    slot->next = LIO_NO_SLOT;
    slot->prev = list->tail;
    if (list->tail == LIO_NO_SLOT)
        list->head = number;
    else
        lio_slot_at(store, list->tail)->next = number;
    list->tail = number;
}

static void list_prepend(lio_store *store, lio_list *list, uint32_t number,
                         enum lio_list_kind kind)
{
    lio_slot *slot = lio_slot_at(store, number);
    assert(slot->linked == LIO_LIST_NONE);
    slot->linked = (uint8_t)kind;
    slot->prev = LIO_NO_SLOT;
    slot->next = list->head;
    if (list->head == LIO_NO_SLOT)
        list->tail = number;
    else
        lio_slot_at(store, list->head)->prev = number;
    list->head = number;
}

void lio_list_remove(lio_store *store, lio_list *list, uint32_t number)
{
    lio_slot *slot = lio_slot_at(store, number);
    assert(slot->linked != LIO_LIST_NONE);
    if (slot->prev == LIO_NO_SLOT)
        list->head = slot->next;
    else
        lio_slot_at(store, slot->prev)->next = slot->next;
    if (slot->next == LIO_NO_SLOT)
        list->tail = slot->prev;
    else
        lio_slot_at(store, slot->next)->prev = slot->prev;
    slot->linked = LIO_LIST_NONE;
}

static void fd_link(lio_store *store, lio_fd_entry *entry, uint32_t number)
{
    lio_slot *slot = lio_slot_at(store, number);
    slot->fd_next = LIO_NO_SLOT;
    slot->fd_prev = entry->ops.tail;
    if (entry->ops.tail == LIO_NO_SLOT)
        entry->ops.head = number;
    else
        lio_slot_at(store, entry->ops.tail)->fd_next = number;
    entry->ops.tail = number;
}

static void fd_unlink(lio_store *store, lio_fd_entry *entry, uint32_t number)
{
    lio_slot *slot = lio_slot_at(store, number);
    if (slot->fd_prev == LIO_NO_SLOT)
        entry->ops.head = slot->fd_next;
    else
        lio_slot_at(store, slot->fd_prev)->fd_next = slot->fd_next;
    if (slot->fd_next == LIO_NO_SLOT)
        entry->ops.tail = slot->fd_prev;
    else
        lio_slot_at(store, slot->fd_next)->fd_prev = slot->fd_prev;
}

/* -- descriptors ------------------------------------------------------------------- */

lio_fd_entry *lio_fd_find(const lio_store *store, lio_fd fd)
{
    if (fd < 0 || (size_t)fd / LIO_FD_CHUNK >= store->fd_chunks)
        return NULL;
    lio_fd_entry *chunk = store->fds[(size_t)fd / LIO_FD_CHUNK];
    return chunk == NULL ? NULL : &chunk[(size_t)fd % LIO_FD_CHUNK];
}

lio_fd_entry *lio_fd_get(lio_store *store, lio_fd fd)
{
    lio_fd_entry *found = lio_fd_find(store, fd);
    if (found != NULL)
        return found;
    if (fd < 0 || fd > INT32_MAX)
        return NULL;
    uint32_t chunk = (uint32_t)fd / LIO_FD_CHUNK;
    if (chunk >= store->fd_chunks) {
        uint32_t wanted = store->fd_chunks ? store->fd_chunks * 2 : 4;
        if (wanted <= chunk)
            wanted = chunk + 1;
        /* Fresh pages cost nothing until they are used: a number that no file can have is
         * not worth 64 MB. */
        lio_fd_entry **fds = calloc(wanted, sizeof *fds);
        if (fds == NULL)
            return NULL;
        if (store->fds != NULL)
            memcpy(fds, store->fds, store->fd_chunks * sizeof *fds);
        free(store->fds);
        store->fds = fds;
        store->fd_chunks = wanted;
    }
    lio_fd_entry *entries = calloc(LIO_FD_CHUNK, sizeof *entries);
    if (entries == NULL)
        return NULL;
    const lio_list empty = {LIO_NO_SLOT, LIO_NO_SLOT};
    for (uint32_t i = 0; i < LIO_FD_CHUNK; i++) {
        entries[i].ops = entries[i].gate = empty;
        entries[i].parked[0] = entries[i].parked[1] = empty;
        entries[i].gate_holder = LIO_NO_SLOT;
    }
    store->fds[chunk] = entries;
    return &entries[(uint32_t)fd % LIO_FD_CHUNK];
}

/* -- ids --------------------------------------------------------------------------- */

static uint32_t home_of(const lio_store *store, uint64_t id)
{
    return (uint32_t)(id * UINT64_C(0x9E3779B97F4A7C15) >> 32) & store->index_mask;
}

static uint32_t index_place(const lio_store *store, uint64_t id)
{
    uint32_t at = home_of(store, id);
    while (store->index[at] != 0 && lio_slot_at(store, store->index[at] - 1)->id != id)
        at = (at + 1) & store->index_mask;
    return at;
}

uint32_t lio_store_find(const lio_store *store, uint64_t id)
{
    uint32_t entry = store->index[index_place(store, id)];
    return entry == 0 ? LIO_NO_SLOT : entry - 1;
}

/* Linear probing without tombstones: what comes after a hole moves into it if it may. */
static void index_remove(lio_store *store, uint64_t id)
{
    uint32_t hole = index_place(store, id);
    assert(store->index[hole] != 0);
    for (uint32_t at = (hole + 1) & store->index_mask; store->index[at] != 0;
         at = (at + 1) & store->index_mask) {
        uint32_t home = home_of(store, lio_slot_at(store, store->index[at] - 1)->id);
        if (((at - home) & store->index_mask) < ((at - hole) & store->index_mask))
            continue;
        store->index[hole] = store->index[at];
        hole = at;
    }
    store->index[hole] = 0;
}

/* -- slots ------------------------------------------------------------------------- */

static int grow_index(lio_store *store, uint32_t capacity)
{
    uint32_t size = 64;
    while (size < capacity * 2)
        size *= 2;
    if (store->index != NULL && size <= store->index_mask + 1)
        return 0;
    uint32_t *fresh = calloc(size, sizeof *fresh);
    if (fresh == NULL)
        return -ENOMEM;
    uint32_t *old = store->index;
    uint32_t old_size = old == NULL ? 0 : store->index_mask + 1;
    store->index = fresh;
    store->index_mask = size - 1;
    for (uint32_t i = 0; i < old_size; i++) {
        if (old[i] != 0)
            fresh[index_place(store, lio_slot_at(store, old[i] - 1)->id)] = old[i];
    }
    free(old);
    return 0;
}

static int add_chunk(lio_store *store)
{
    uint32_t count = store->chunk_count;
    lio_slot **chunks = realloc(store->chunks, (count + 1) * sizeof *chunks);
    if (chunks == NULL)
        return -ENOMEM;
    store->chunks = chunks;
    lio_slot_extra **extras = realloc(store->extras, (count + 1) * sizeof *extras);
    if (extras == NULL)
        return -ENOMEM;
    store->extras = extras;
    chunks[count] = calloc(LIO_CHUNK_SLOTS, sizeof **chunks);
    extras[count] = calloc(LIO_CHUNK_SLOTS, sizeof **extras);
    if (chunks[count] == NULL || extras[count] == NULL) {
        free(chunks[count]);
        free(extras[count]);
        return -ENOMEM;
    }
    store->chunk_count = count + 1;
    return 0;
}

int lio_store_grow(lio_store *store, uint32_t more)
{
    if (more > UINT32_MAX / 4 - store->capacity)
        return -EINVAL;
    uint32_t capacity = store->capacity + more;
    int error = grow_index(store, capacity);
    while (error == 0 && store->chunk_count * LIO_CHUNK_SLOTS < capacity)
        error = add_chunk(store);
    if (error == 0)
        store->capacity = capacity;
    return error;
}

int lio_store_init(lio_store *store, uint32_t capacity)
{
    const lio_list empty = {LIO_NO_SLOT, LIO_NO_SLOT};
    memset(store, 0, sizeof *store);
    store->free_slots = store->queue = store->later = store->done = empty;
    int error = lio_store_grow(store, capacity);
    if (error != 0)
        lio_store_free(store);
    return error;
}

void lio_store_free(lio_store *store)
{
    for (uint32_t i = 0; i < store->chunk_count; i++) {
        free(store->chunks[i]);
        free(store->extras[i]);
    }
    for (uint32_t i = 0; i < store->fd_chunks; i++)
        free(store->fds[i]);
    free(store->chunks);
    free(store->extras);
    free(store->fds);
    free(store->index);
    memset(store, 0, sizeof *store);
}

int64_t lio_store_push(lio_store *store, uint64_t id, const lio_op *op)
{
    if (store->taken == store->capacity)
        return -ENOBUFS;
    uint32_t place = index_place(store, id);
    if (store->index[place] != 0)
        return -EEXIST;
    lio_fd_entry *entry = NULL;
    if (lio_opcode_has_fd(op->opcode) && (entry = lio_fd_get(store, op->fd)) == NULL)
        return op->fd < 0 || op->fd > INT32_MAX ? -EBADF : -ENOMEM;
    uint32_t number = store->free_slots.head;
    if (number != LIO_NO_SLOT)
        lio_list_remove(store, &store->free_slots, number);
    else
        number = store->fresh++;
    assert(number < store->chunk_count * LIO_CHUNK_SLOTS);
    lio_slot *slot = lio_slot_at(store, number);
    slot->op = *op;
    slot->id = id;
    slot->moved = slot->cut = 0;
    slot->stage = 0;
    slot->holds_gate = 0;
    slot->cancel_due = 0;
    slot->by_number = 0;
    slot->fault = 0;
    slot->aux = 0;
    if (op->addr_len != 0) {
        lio_slot_extra *extra = lio_extra_at(store, number);
        memcpy(extra->addr, op->addr, op->addr_len);
        extra->addr_len = op->addr_len;
    }
    set_state(slot, LIO_STATE_QUEUED);
    store->index[place] = number + 1;
    store->taken++;
    store->pairs += lio_opcode_has_fd2(op->opcode);
    store->queued++;
    lio_list_append(store, &store->queue, number, LIO_LIST_QUEUE);
    if (entry != NULL)
        fd_link(store, entry, number);
    return number;
}

static lio_fd_entry *entry_of(const lio_store *store, const lio_slot *slot)
{
    return lio_opcode_has_fd(slot->op.opcode) ? lio_fd_find(store, slot->op.fd) : NULL;
}

/* Off the descriptor's list, and off the gate: the next send may go. */
static void leave_fd(lio_store *store, uint32_t number)
{
    lio_slot *slot = lio_slot_at(store, number);
    lio_fd_entry *entry = entry_of(store, slot);
    if (entry == NULL)
        return;
    fd_unlink(store, entry, number);
    if (!slot->holds_gate)
        return;
    slot->holds_gate = 0;
    entry->gate_holder = LIO_NO_SLOT;
    uint32_t next = entry->gate.head;
    if (next != LIO_NO_SLOT) {
        lio_list_remove(store, &entry->gate, next);
        lio_slot_at(store, next)->holds_gate = 1;
        entry->gate_holder = next;
        list_prepend(store, &store->queue, next, LIO_LIST_QUEUE);
    }
}

static void unlink_queued(lio_store *store, uint32_t number)
{
    lio_slot *slot = lio_slot_at(store, number);
    if (slot->linked == LIO_LIST_GATE)
        lio_list_remove(store, &entry_of(store, slot)->gate, number);
    else
        lio_list_remove(store, slot->linked == LIO_LIST_LATER ? &store->later : &store->queue,
                        number);
    store->queued--;
}

static void free_slot(lio_store *store, uint32_t number)
{
    lio_slot *slot = lio_slot_at(store, number);
    set_state(slot, LIO_STATE_FREE);
    slot->generation++;
    store->taken--;
    store->pairs -= lio_opcode_has_fd2(slot->op.opcode);
    /* The last to leave is the first to be used again: it is still in the cache. */
    list_prepend(store, &store->free_slots, number, LIO_LIST_FREE);
}

void lio_store_take_back(lio_store *store, uint32_t number)
{
    lio_slot *slot = lio_slot_at(store, number);
    assert(slot->state == LIO_STATE_QUEUED && slot->moved == 0);
    unlink_queued(store, number);
    leave_fd(store, number);
    index_remove(store, slot->id);
    free_slot(store, number);
}

uint32_t lio_store_next(lio_store *store)
{
    uint32_t number;
    while ((number = store->queue.head) != LIO_NO_SLOT) {
        lio_slot *slot = lio_slot_at(store, number);
        lio_list_remove(store, &store->queue, number);
        if (lio_opcode_sends(slot->op.opcode) && !slot->holds_gate) {
            lio_fd_entry *entry = lio_fd_find(store, slot->op.fd);
            if (entry->gate_holder != LIO_NO_SLOT) {
                lio_list_append(store, &entry->gate, number, LIO_LIST_GATE);
                continue;
            }
            entry->gate_holder = number;
            slot->holds_gate = 1;
        }
        store->queued--;
        set_state(slot, LIO_STATE_SUBMITTED);
        return number;
    }
    return LIO_NO_SLOT;
}

void lio_store_requeue(lio_store *store, uint32_t number, bool first)
{
    set_state(lio_slot_at(store, number), LIO_STATE_QUEUED);
    store->queued++;
    if (first)
        list_prepend(store, &store->queue, number, LIO_LIST_QUEUE);
    else
        lio_list_append(store, &store->queue, number, LIO_LIST_QUEUE);
}

void lio_store_cancelling(lio_store *store, uint32_t number)
{
    set_state(lio_slot_at(store, number), LIO_STATE_CANCELLING);
}

void lio_store_complete(lio_store *store, uint32_t number, int64_t result, int64_t data,
                        int64_t detail)
{
    lio_slot *slot = lio_slot_at(store, number);
    if (slot->state == LIO_STATE_QUEUED)
        unlink_queued(store, number);
    set_state(slot, LIO_STATE_DONE);
    leave_fd(store, number);
    /* The id is free again only when its completion was handed out. */
    slot->generation++;
    slot->result = result;
    slot->data = data;
    slot->detail = detail;
    lio_list_append(store, &store->done, number, LIO_LIST_DONE);
    store->done_count++;
}

void lio_store_hold(lio_store *store, lio_list *held, uint32_t number)
{
    lio_list_remove(store, &store->done, number);
    store->done_count--;
    lio_list_append(store, held, number, LIO_LIST_HELD);
}

void lio_store_unhold(lio_store *store, lio_list *held, uint32_t number)
{
    lio_list_remove(store, held, number);
    lio_list_append(store, &store->done, number, LIO_LIST_DONE);
    store->done_count++;
}

uint32_t lio_store_hand_out(lio_store *store, lio_completion *records)
{
    uint32_t count = 0;
    uint32_t number;
    while ((number = store->done.head) != LIO_NO_SLOT) {
        lio_slot *slot = lio_slot_at(store, number);
        lio_list_remove(store, &store->done, number);
        records[count].id = slot->id;
        records[count].result = slot->result;
        records[count].data = slot->data;
        records[count].detail = slot->detail;
        count++;
        index_remove(store, slot->id);
        free_slot(store, number);
    }
    store->done_count = 0;
    return count;
}

uint32_t lio_store_resolve(const lio_store *store, uint64_t token)
{
    uint32_t number = (uint32_t)token;
    if (number >= store->chunk_count * LIO_CHUNK_SLOTS)
        return LIO_NO_SLOT;
    const lio_slot *slot = lio_slot_at(store, number);
    bool live = slot->state == LIO_STATE_SUBMITTED || slot->state == LIO_STATE_CANCELLING;
    return live && slot->generation == (uint32_t)(token >> 32) ? number : LIO_NO_SLOT;
}
