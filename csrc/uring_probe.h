/* uring_probe: what this kernel's io_uring offers. */
#ifndef LIO_URING_PROBE_H
#define LIO_URING_PROBE_H

#include "backend.h"
#include "uring_ring.h"

void lio_uring_probe(uint32_t without, lio_probe_result *result);
/* Which opcodes there are; -ENOTSUP when one is missing that we cannot do without. */
int lio_uring_probe_opcodes(lio_ring *ring, uint8_t offered[URING_OP_LAST]);
/* Makes the table of registered files, and makes sure that it lets go of files at once. */
int lio_uring_register_files(lio_ring *ring, uint32_t count);
int lio_uring_update_file(lio_ring *ring, uint32_t index, int32_t file);

#endif
