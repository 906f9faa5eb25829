#include "timer_heap.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "lio_errno.h"

int lio_timers_reserve(lio_timer_heap *heap, uint32_t capacity)
{
    if (capacity <= heap->room)
        return 0;
    lio_timer *timers = realloc(heap->timers, (size_t)capacity * sizeof *timers);
    if (timers == NULL)
        return -ENOMEM;
    heap->timers = timers;
    heap->room = capacity;
    return 0;
}

void lio_timers_free(lio_timer_heap *heap)
{
    free(heap->timers);
    memset(heap, 0, sizeof *heap);
}

static bool is_before(const lio_timer *one, const lio_timer *other)
{
    if (one->deadline != other->deadline)
        return one->deadline < other->deadline;
    return (int32_t)(one->sequence - other->sequence) < 0;
}

static void put(lio_timer_heap *heap, lio_store *store, uint32_t at, lio_timer timer)
{
    heap->timers[at] = timer;
    lio_slot_at(store, timer.number)->aux = at + 1;
}

/* Finds the place for `timer`, starting from the hole at `at`. */
static void settle(lio_timer_heap *heap, lio_store *store, uint32_t at, lio_timer timer)
{
    while (at > 0 && is_before(&timer, &heap->timers[(at - 1) / 2])) {
        put(heap, store, at, heap->timers[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= heap->count)
            break;
        if (child + 1 < heap->count &&
            is_before(&heap->timers[child + 1], &heap->timers[child]))
            child++;
        if (!is_before(&heap->timers[child], &timer))
            break;
        put(heap, store, at, heap->timers[child]);
        at = child;
    }
    put(heap, store, at, timer);
}

void lio_timers_add(lio_timer_heap *heap, lio_store *store, uint32_t number, int64_t deadline)
{
    assert(heap->count < heap->room);
    assert(lio_slot_at(store, number)->aux == 0);
    lio_timer timer = {deadline, number, heap->sequence++};
    uint32_t hole = heap->count++;
    settle(heap, store, hole, timer);
}

void lio_timers_remove(lio_timer_heap *heap, lio_store *store, uint32_t number)
{
    lio_slot *slot = lio_slot_at(store, number);
    assert(slot->aux != 0 && slot->aux <= heap->count);
    uint32_t hole = slot->aux - 1;
    assert(heap->timers[hole].number == number);
    slot->aux = 0;
    lio_timer last = heap->timers[--heap->count];
    if (hole != heap->count)
        settle(heap, store, hole, last);
}
