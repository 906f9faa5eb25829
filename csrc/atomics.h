/* atomics.h: the __atomic builtins of gcc and clang, as far as they are used here, for a
 * compiler that has none. A full barrier at each side is more than any of them asks for. */
#ifndef LIO_ATOMICS_H
#define LIO_ATOMICS_H

#if defined(_MSC_VER) && !defined(__clang__)
#include <winsock2.h>

#define __ATOMIC_RELAXED 0
#define __ATOMIC_RELEASE 3
#define __ATOMIC_SEQ_CST 5
#define __atomic_load_n(at, order) (MemoryBarrier(), *(at))
#define __atomic_store_n(at, value, order) (MemoryBarrier(), *(at) = (value), MemoryBarrier())
/* Of an int. */
#define __atomic_add_fetch(at, more, order)                                                    \
    (InterlockedExchangeAdd((volatile LONG *)(at), (more)) + (more))
#define __atomic_sub_fetch(at, less, order) __atomic_add_fetch(at, -(less), order)
#define __atomic_exchange_n(at, value, order)                                                  \
    InterlockedExchange((volatile LONG *)(at), (value))
#endif
#endif
