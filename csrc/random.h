/* random: a generator of our own (splitmix64), so that a seed means the same everywhere. */
#ifndef LIO_RANDOM_H
#define LIO_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

typedef struct lio_random {
    uint64_t state;
} lio_random;

static inline uint64_t lio_random_next(lio_random *random)
{
    uint64_t z = random->state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

/* 0 to bound - 1; the bias of a bound below 2^32 does not show. */
static inline uint64_t lio_random_below(lio_random *random, uint64_t bound)
{
    return lio_random_next(random) % bound;
}

/* Draws nothing where the answer is certain, so that a chance of 0 changes no other. */
static inline bool lio_random_chance(lio_random *random, double chance)
{
    if (chance <= 0 || chance >= 1)
        return chance >= 1;
    return (double)(lio_random_next(random) >> 11) * 0x1p-53 < chance;
}

#endif
