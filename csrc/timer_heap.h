/* timer_heap: deadlines of slots in a binary heap, for backends whose kernel has no timers
 * of its own. A slot's place is kept in slot->aux (0: not here), so that it can leave early. */
#ifndef LIO_TIMER_HEAP_H
#define LIO_TIMER_HEAP_H

#include "op_store.h"

typedef struct lio_timer {
    int64_t deadline;
    uint32_t number;
    uint32_t sequence; /* equal deadlines end in the order in which they were set */
} lio_timer;

typedef struct lio_timer_heap {
    lio_timer *timers;
    uint32_t count, room;
    uint32_t sequence;
} lio_timer_heap;

/* Room for one timer per slot. 0 or -ENOMEM, and then all is as it was. */
int lio_timers_reserve(lio_timer_heap *heap, uint32_t capacity);
void lio_timers_free(lio_timer_heap *heap);
void lio_timers_add(lio_timer_heap *heap, lio_store *store, uint32_t number, int64_t deadline);
void lio_timers_remove(lio_timer_heap *heap, lio_store *store, uint32_t number);

/* The earliest deadline, INT64_MAX if there is none. */
static inline int64_t lio_timers_first(const lio_timer_heap *heap)
{
    return heap->count == 0 ? INT64_MAX : heap->timers[0].deadline;
}

#endif
