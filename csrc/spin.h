/* spin: whether to look for a moment before sleeping.
 *
 * To put a CPU to sleep and wake it can cost more, in time and in work, than to watch until
 * the next event comes: by several times on a virtual machine. It is worth it while events
 * follow each other closely, and a waste otherwise, so the record of the last waits decides:
 * a few sleeps in a row that hardly lasted turn it on, and moments that end with nothing seen
 * turn it off, each time for longer. A program that waits for long never spins. */
#ifndef LIO_SPIN_H
#define LIO_SPIN_H

#include <stdbool.h>
#include <stdint.h>

#include "lio.h"

typedef struct lio_spin {
    int64_t limit_ns;    /* how long a moment is; 0: never */
    uint32_t credit;     /* 0: off */
    uint32_t short_ones; /* sleeps that hardly lasted, of late */
    uint32_t wanted;     /* so many of them turn it on */
    uint32_t cpus;       /* 0: not asked yet */
    uint64_t moments;    /* spent watching */
    uint64_t hits;       /* of those, ended by an event */
} lio_spin;

/* us 0: the default; negative: never. -EINVAL: more than LIO_SPIN_US_MAX. */
int lio_spin_init(lio_spin *spin, int32_t us);

static inline bool lio_spin_is_on(const lio_spin *spin)
{
    return spin->credit != 0;
}

/* Whether it is off, but may be turned on by what the next sleep tells. */
static inline bool lio_spin_learns(const lio_spin *spin)
{
    return spin->credit == 0 && spin->limit_ns != 0;
}

/* A sleep is over that lasted so long. */
void lio_spin_slept(lio_spin *spin, int64_t ns);
/* A moment is over, with an event or without. */
void lio_spin_watched(lio_spin *spin, bool hit);
/* When a moment that begins now is over; no later than deadline_ns. */
int64_t lio_spin_until(const lio_spin *spin, int64_t deadline_ns);

#endif
