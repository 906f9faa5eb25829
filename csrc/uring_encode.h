/* uring_encode: an operation as a submission entry. */
#ifndef LIO_URING_ENCODE_H
#define LIO_URING_ENCODE_H

#include "op_store.h"
#include "uring_abi.h"

/* The kernel's opcode for one of ours. */
uint8_t lio_uring_opcode(uint8_t opcode);
/* Fills all of an entry but user_data and the choice of fixed file and buffer. */
void lio_uring_encode(struct uring_sqe *sqe, const lio_slot *slot, lio_slot_extra *extra);
/* Whether the operation receives into a buffer that nobody has chosen yet. */
bool lio_uring_wants_pool(const lio_op *op);
uint64_t lio_uring_pool_length(const lio_op *op);
/* Points a receive at one of our buffers. */
void lio_uring_point_at(struct uring_sqe *sqe, const lio_slot *slot, lio_slot_extra *extra,
                        void *buffer);
void lio_uring_encode_poll(struct uring_sqe *sqe, lio_fd fd, uint32_t lio_poll_mask);
/* What LIO_POLL answers, from the kernel's mask; 0: nothing of what was wanted, for the
 * kernel reports a half-close by the peer to writers too. */
uint32_t lio_uring_poll_result(uint32_t wanted, int32_t revents);
/* The message header that a LIO_RECVMSG or LIO_RECVFROM left in the slot. */
void lio_uring_read_msg(const lio_slot *slot, const lio_slot_extra *extra, lio_msg *msg);

#endif
