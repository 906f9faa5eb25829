#include "uring_pool.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backend.h"

#define MSG_COUNT 512u /* a power of two */
#define FIRST_LIVE 32u
/* Buffers start at different offsets of a page and of the cache's sets; a stride that is a
 * power of two would put the heads of all into the same few cache lines. */
#define STRIDE (LIO_POOL_BUFFER + 4096u + 64u)
#define RING_BYTES(pool) ((pool)->buffers * sizeof(struct uring_buf))

int lio_uring_pool_init(lio_uring_pool *pool, uint32_t capacity, size_t reserve)
{
    memset(pool, 0, sizeof *pool);
    pool->buffers = FIRST_LIVE;
    while (pool->buffers < 256 && pool->buffers < capacity)
        pool->buffers *= 2;
    size_t buffers_size = (size_t)pool->buffers * STRIDE;
    pool->size = buffers_size + MSG_COUNT * sizeof(lio_msg) + reserve;
    pool->base = mmap(NULL, pool->size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pool->base == MAP_FAILED) {
        pool->base = NULL;
        return -errno;
    }
    pool->msgs = (lio_msg *)(void *)(pool->base + buffers_size);
    pool->held = malloc(pool->buffers * sizeof *pool->held);
    pool->spare = malloc(pool->buffers * sizeof *pool->spare);
    if (pool->held == NULL || pool->spare == NULL) {
        lio_uring_pool_free(pool, false);
        return -ENOMEM;
    }
    return 0;
}

void lio_uring_pool_free(lio_uring_pool *pool, bool forked)
{
    if (pool->ring != NULL && !forked)
        munmap(pool->ring, RING_BYTES(pool));
    if (pool->base != NULL)
        munmap(pool->base, pool->size);
    free(pool->held);
    free(pool->spare);
    memset(pool, 0, sizeof *pool);
}

static void give(lio_uring_pool *pool, uint32_t buffer)
{
    if (!pool->ring_registered) {
        pool->spare[pool->spare_count++] = (uint16_t)buffer;
        return;
    }
    struct uring_buf *entry = &pool->ring[pool->ring_tail & (pool->buffers - 1)];
    entry->addr = (uint64_t)(uintptr_t)lio_uring_pool_at(pool, buffer);
    entry->len = LIO_POOL_BUFFER;
    entry->bid = (uint16_t)buffer;
    pool->ring_tail++;
}

static void publish(lio_uring_pool *pool)
{
    if (pool->ring_registered)
        __atomic_store_n(&pool->ring[0].resv, pool->ring_tail, __ATOMIC_RELEASE);
}

int lio_uring_pool_register(lio_uring_pool *pool, lio_ring *ring)
{
    void *memory = mmap(NULL, RING_BYTES(pool), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    struct uring_buf_reg reg = {.ring_addr = (uint64_t)(uintptr_t)memory,
                                .ring_entries = pool->buffers,
                                .bgid = LIO_POOL_GROUP};
    int error = madvise(memory, RING_BYTES(pool), MADV_DONTFORK) == 0 ? 0 : -errno;
    if (error == 0)
        error = lio_ring_register(ring, URING_REGISTER_PBUF_RING, &reg, 1);
    if (error != 0) {
        munmap(memory, RING_BYTES(pool));
        return error;
    }
    pool->ring = memory;
    pool->ring_registered = true;
    lio_uring_pool_more(pool);
    return 0;
}

void lio_uring_pool_more(lio_uring_pool *pool)
{
    uint32_t wanted = pool->live == 0 ? FIRST_LIVE : pool->live * 2;
    if (wanted > pool->buffers)
        wanted = pool->buffers;
    while (pool->live < wanted)
        give(pool, pool->live++);
    publish(pool);
}

char *lio_uring_pool_at(const lio_uring_pool *pool, uint32_t buffer)
{
    assert(buffer < pool->buffers);
    return pool->base + (size_t)buffer * STRIDE;
}

uint32_t lio_uring_pool_take(lio_uring_pool *pool)
{
    if (pool->spare_count == 0)
        lio_uring_pool_more(pool);
    return pool->spare_count == 0 ? LIO_NO_BUFFER : pool->spare[--pool->spare_count];
}

void lio_uring_pool_untake(lio_uring_pool *pool, uint32_t buffer)
{
    give(pool, buffer);
}

int64_t lio_uring_pool_hold(lio_uring_pool *pool, uint32_t buffer)
{
    assert(pool->held_count < pool->buffers);
    pool->held[pool->held_count++] = (uint16_t)buffer;
    return lio_uring_pool_at(pool, buffer) - pool->base;
}

void lio_uring_pool_drop(lio_uring_pool *pool, uint32_t buffer)
{
    give(pool, buffer);
    publish(pool);
}

bool lio_uring_pool_msg_full(const lio_uring_pool *pool)
{
    return pool->msg_tail - pool->msg_head == MSG_COUNT;
}

lio_msg *lio_uring_pool_msg(lio_uring_pool *pool, int64_t *detail)
{
    if (lio_uring_pool_msg_full(pool))
        return NULL;
    lio_msg *msg = &pool->msgs[pool->msg_tail++ & (MSG_COUNT - 1)];
    *detail = (char *)msg - pool->base;
    return msg;
}

void lio_uring_pool_recycle(lio_uring_pool *pool)
{
    pool->msg_head = pool->msg_handed;
    if (pool->held_handed == 0)
        return;
    for (uint32_t i = 0; i < pool->held_handed; i++)
        give(pool, pool->held[i]);
    publish(pool);
    /* What a close settled since the last hand-out has not been read yet. */
    pool->held_count -= pool->held_handed;
    memmove(pool->held, pool->held + pool->held_handed, pool->held_count * sizeof *pool->held);
    pool->held_handed = 0;
}

void lio_uring_pool_handed_out(lio_uring_pool *pool)
{
    pool->held_handed = pool->held_count;
    pool->msg_handed = pool->msg_tail;
}
