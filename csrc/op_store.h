/* op_store: the slots of in-flight operations, and what is known of each descriptor.
 *
 * A slot is an operation's home from push to hand-out. It never moves while the kernel may
 * point into it: the store grows by chunks. A caller's id finds its slot through a hash
 * table; the kernel's answer finds it through a token of slot and generation, so that a
 * late answer cannot reach whoever uses the slot next.
 */
#ifndef LIO_OP_STORE_H
#define LIO_OP_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "lio.h"

#define LIO_NO_SLOT UINT32_MAX

enum lio_state {
    LIO_STATE_FREE,
    LIO_STATE_QUEUED,     /* pushed, or to be handed over once more */
    LIO_STATE_SUBMITTED,  /* the kernel (or the poller) has it */
    LIO_STATE_CANCELLING, /* submitted, and its end was asked for */
    LIO_STATE_DONE,       /* has a result, waits to be handed out */
    LIO_STATE_COUNT
};

/* Where a slot is linked besides its descriptor's list. A backend owns PARKED. */
enum lio_list_kind {
    LIO_LIST_NONE,
    LIO_LIST_FREE,
    LIO_LIST_QUEUE,
    LIO_LIST_GATE,
    LIO_LIST_PARKED,
    LIO_LIST_DONE,
    LIO_LIST_HELD,  /* of faults.c: done, and kept back */
    LIO_LIST_LATER, /* of faults.c: queued, and not for this hand-over */
};

/* slot->fault */
enum lio_fault_mark {
    LIO_FAULT_DECIDED = 1,
    LIO_FAULT_WAITED = 2, /* left out of a hand-over: its caller takes it for begun */
    LIO_FAULT_RESET = 4,  /* was under way when its connection was reset: ended by that */
};

typedef struct lio_slot {
    lio_op op;
    uint64_t id;
    uint64_t moved; /* LIO_OP_ALL: bytes sent by earlier submissions */
    uint64_t cut;   /* of faults.c: where this submission ends, if beyond `moved` */
    int64_t result;
    int64_t data;
    int64_t detail;
    uint32_t generation;
    uint8_t state;  /* enum lio_state */
    uint8_t linked; /* enum lio_list_kind */
    uint8_t stage;  /* the backend's own; not 0 once the operation was with the kernel */
    uint8_t holds_gate;
    uint8_t cancel_due;        /* the backend's own: the kernel has not been asked yet */
    uint8_t by_number;         /* the backend's own: lio_slot_extra.identity is filled */
    uint8_t fault;             /* enum lio_fault_mark */
    uint32_t next, prev;       /* on the list that `linked` names */
    uint32_t fd_next, fd_prev; /* on the descriptor's list */
    uint32_t aux;              /* the backend's own */
} lio_slot;

/* What the kernel may read and write besides the caller's buffers. Apart from the slots,
 * because most operations never touch it. */
typedef struct lio_slot_extra {
    union {
        uint8_t bytes[192]; /* a msghdr and an iovec, a timespec, an OVERLAPPED */
        uint64_t align;
    } os;
    uint64_t identity[2][2]; /* the backend's own: which files op.fd and op.fd2 named */
    uint32_t addr_len;
    uint32_t reserved;
    uint8_t addr[LIO_ADDR_MAX];
} lio_slot_extra;

typedef struct lio_list {
    uint32_t head, tail;
} lio_list;

/* One descriptor: its operations in order of push, and what the backend keeps of it. */
typedef struct lio_fd_entry {
    lio_list ops;
    lio_list gate;        /* sends that wait for their turn */
    uint32_t gate_holder; /* the send under way, or LIO_NO_SLOT */
    uint32_t generation;  /* of the registration */
    uint8_t adopted;
    uint8_t ready;        /* backend: what is known to be due */
    uint8_t armed;        /* backend: what the kernel watches for us */
    uint8_t stream;       /* backend: a stream socket */
    uint8_t lost;         /* claimed, and found to be another file's since; until released */
    uint8_t remembered;   /* backend: which file this is, better than by `identity` */
    uint8_t answers;      /* backend: what is sent next answers what came */
    uint8_t lookout;      /* backend: a poll of its own is with the kernel */
    uint64_t identity[2]; /* backend: which file this was at lio_adopt */
    uint32_t round;       /* backend: when that was last seen to be true */
    lio_list parked[2];   /* backend: readers, writers */
} lio_fd_entry;

#define LIO_CHUNK_SLOTS 256u
#define LIO_FD_CHUNK 256u

typedef struct lio_store {
    lio_slot **chunks;
    lio_slot_extra **extras;
    uint32_t chunk_count;
    uint32_t capacity; /* slots that may be taken */
    uint32_t taken;
    uint32_t fresh; /* slots from here on were never used, and their memory not touched */
    lio_list free_slots;
    lio_list queue;
    lio_list later; /* of faults.c: what a full queue has no room for */
    lio_list done;
    uint32_t queued, done_count;
    uint32_t pairs;  /* slots of operations on two descriptors */
    uint32_t *index; /* hash table of slot numbers + 1, by id; 0: empty */
    uint32_t index_mask;
    lio_fd_entry **fds;
    uint32_t fd_chunks;
} lio_store;

int lio_store_init(lio_store *store, uint32_t capacity);
int lio_store_grow(lio_store *store, uint32_t more);
void lio_store_free(lio_store *store);

static inline lio_slot *lio_slot_at(const lio_store *store, uint32_t number)
{
    return &store->chunks[number / LIO_CHUNK_SLOTS][number % LIO_CHUNK_SLOTS];
}

static inline lio_slot_extra *lio_extra_at(const lio_store *store, uint32_t number)
{
    return &store->extras[number / LIO_CHUNK_SLOTS][number % LIO_CHUNK_SLOTS];
}

/* The slot of an id in flight, or LIO_NO_SLOT. */
uint32_t lio_store_find(const lio_store *store, uint64_t id);
/* -ENOBUFS, -EEXIST, -ENOMEM (a descriptor number never seen), or the slot, queued. */
int64_t lio_store_push(lio_store *store, uint64_t id, const lio_op *op);
/* Takes a queued operation back: the slot is free, as if it had never been. */
void lio_store_take_back(lio_store *store, uint32_t number);
/* The next operation to hand over, now SUBMITTED, or LIO_NO_SLOT. A send whose turn has
 * not come on its descriptor is set aside at the gate, still QUEUED. */
uint32_t lio_store_next(lio_store *store);
/* Puts back what a backend took and could not hand over, or what must go once more. */
void lio_store_requeue(lio_store *store, uint32_t number, bool first);
void lio_store_cancelling(lio_store *store, uint32_t number);
/* Records a result. Opens the gate for the next send of the descriptor. */
void lio_store_complete(lio_store *store, uint32_t number, int64_t result, int64_t data,
                        int64_t detail);
/* Moves all that is done into `records`; returns how many. Their slots are free after. */
uint32_t lio_store_hand_out(lio_store *store, lio_completion *records);

/* What the kernel carries for us: the generation in the upper half. */
static inline uint64_t lio_store_token(const lio_slot *slot, uint32_t number)
{
    return (uint64_t)slot->generation << 32 | number;
}
/* The slot of a token, or LIO_NO_SLOT when that operation is over. */
uint32_t lio_store_resolve(const lio_store *store, uint64_t token);

/* The entry of a descriptor, or NULL: never seen (find), no memory (get). */
lio_fd_entry *lio_fd_find(const lio_store *store, lio_fd fd);
lio_fd_entry *lio_fd_get(lio_store *store, lio_fd fd);

/* Keeps one that is done back, and gives it out after all. */
void lio_store_hold(lio_store *store, lio_list *held, uint32_t number);
void lio_store_unhold(lio_store *store, lio_list *held, uint32_t number);

void lio_list_append(lio_store *store, lio_list *list, uint32_t number,
                     enum lio_list_kind kind);
void lio_list_remove(lio_store *store, lio_list *list, uint32_t number);

/* Whether an opcode works on a descriptor that it names in op.fd. */
bool lio_opcode_has_fd(uint8_t opcode);
/* Whether an opcode names a path: in op.path, which begins at op.fd. */
bool lio_opcode_has_path(uint8_t opcode);
/* Whether op.buf is an array of lio_iovec. */
static inline bool lio_opcode_is_vectored(uint8_t opcode)
{
    return opcode == LIO_READV_AT || opcode == LIO_WRITEV_AT || opcode == LIO_SENDMSG ||
           opcode == LIO_RECVMSG;
}
/* Whether an opcode moves bytes to op.fd2. Such an operation is on the list of op.fd only. */
static inline bool lio_opcode_has_fd2(uint8_t opcode)
{
    return opcode == LIO_TEE || opcode == LIO_SPLICE;
}
/* How much of a send is to go down now. */
static inline uint64_t lio_slot_to_send(const lio_slot *slot)
{
    return (slot->cut > slot->moved ? slot->cut : slot->op.len) - slot->moved;
}
/* Whether an operation in flight moves bytes to this descriptor. */
static inline bool lio_slot_reaches(const lio_slot *slot, lio_fd fd)
{
    return slot->state != LIO_STATE_FREE && slot->state != LIO_STATE_DONE &&
           lio_opcode_has_fd2(slot->op.opcode) && slot->op.fd2 == fd;
}
static inline bool lio_opcode_sends(uint8_t opcode)
{
    return opcode == LIO_SEND || opcode == LIO_SENDMSG || opcode == LIO_SENDTO;
}

#endif
