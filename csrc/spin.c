/* spin.c: the record that decides. A hit earns one, a miss costs two: it stays on as long as
 * two moments of three are hits, about where it stops to pay. */
#include "spin.h"

#include "lio_errno.h"
#if !defined(_WIN32)
#include <unistd.h>
#endif

#include "backend.h"

enum {
    CREDIT_AT_FIRST = 8,
    CREDIT_MAX = 16,
    MISS_COSTS = 2,
    WANTED_AT_FIRST = 4,
    WANTED_MAX = 1024,
    /* A sleep of so many moments, waking up included, might have been one moment. */
    SHORT_SLEEP = 4,
};

int lio_spin_init(lio_spin *spin, int32_t us)
{
    if (us > LIO_SPIN_US_MAX)
        return -EINVAL;
    *spin = (lio_spin){.wanted = WANTED_AT_FIRST};
    spin->limit_ns = us < 0 ? 0 : INT64_C(1000) * (us == 0 ? LIO_SPIN_US : us);
    return 0;
}

/* On the only CPU nobody could make an event while we watch. What counts is how many there
 * are, not how many we may run on: with one of several to ourselves it pays best. */
static bool is_alone(lio_spin *spin)
{
    if (spin->cpus == 0) {
#if defined(_WIN32)
        spin->cpus = 1;
#else
        long cpus = sysconf(_SC_NPROCESSORS_ONLN);
        spin->cpus = cpus < 1 ? 1 : (uint32_t)cpus;
#endif
    }
    return spin->cpus == 1;
}

void lio_spin_slept(lio_spin *spin, int64_t ns)
{
    if (ns > SHORT_SLEEP * spin->limit_ns) {
        spin->short_ones /= 2;
        return;
    }
    if (++spin->short_ones < spin->wanted)
        return;
    spin->short_ones = 0;
    if (is_alone(spin))
        spin->limit_ns = 0;
    else
        spin->credit = CREDIT_AT_FIRST;
}

void lio_spin_watched(lio_spin *spin, bool hit)
{
    spin->moments++;
    spin->hits += hit;
    if (hit) {
        if (spin->credit < CREDIT_MAX)
            spin->credit++;
        else
            spin->wanted = WANTED_AT_FIRST;
        return;
    }
    spin->credit -= spin->credit < MISS_COSTS ? spin->credit : MISS_COSTS;
    if (spin->credit == 0 && spin->wanted < WANTED_MAX)
        spin->wanted *= 2;
}

int64_t lio_spin_until(const lio_spin *spin, int64_t deadline_ns)
{
    int64_t until = lio_now() + spin->limit_ns;
    return until < deadline_ns ? until : deadline_ns;
}
