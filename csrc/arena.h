/* arena.h: memory for what receives from the pool bring. There are two arenas, and they take
 * turns: one holds the records that were handed out, the other takes what comes meanwhile. */
#ifndef LIO_ARENA_H
#define LIO_ARENA_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define LIO_ARENA_SIZE ((size_t)1024 * 1024)
#define LIO_RECEIVE_MAX 65536u

typedef struct lio_arena {
    char *base; /* of both: 2 * LIO_ARENA_SIZE */
    size_t used;
    uint32_t which; /* 0 or 1 */
} lio_arena;

/* Keeps records aligned for a lio_msg. */
static inline size_t lio_arena_rounded(size_t size)
{
    return (size + 63) & ~(size_t)63;
}

/* Room for `size` bytes, or NULL. Taken only by lio_arena_keep. */
static inline char *lio_arena_room(const lio_arena *arena, size_t size)
{
    if (size > LIO_ARENA_SIZE - arena->used)
        return NULL;
    return arena->base + arena->which * LIO_ARENA_SIZE + arena->used;
}

static inline void lio_arena_keep(lio_arena *arena, size_t size)
{
    arena->used += lio_arena_rounded(size);
    assert(arena->used <= LIO_ARENA_SIZE);
}

/* The records of the last wait are no longer read. Where nothing came since, the same memory
 * serves again, which the processor still has in its cache. */
static inline void lio_arena_recycle(lio_arena *arena)
{
    if (arena->used == 0)
        arena->which = 0;
}

/* All that this arena holds is being read now; what comes before the next wait goes into the
 * other one, whose records that wait's beginning ended. */
static inline void lio_arena_handed_out(lio_arena *arena)
{
    if (arena->used != 0) {
        arena->which ^= 1;
        arena->used = 0;
    }
}

#endif
