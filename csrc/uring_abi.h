/* uring_abi.h: the kernel's io_uring interface as far as we use it, by our own names.
 *
 * The build machine's linux/io_uring.h may be older than the kernel we run on, so nothing is
 * taken from it. Layouts and values are the kernel's user ABI (include/uapi/linux/io_uring.h);
 * the assertions at the end are checked on every target that compiles this.
 */
#ifndef LIO_URING_ABI_H
#define LIO_URING_ABI_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

enum {
    URING_NR_SETUP = 425,
    URING_NR_ENTER = 426,
    URING_NR_REGISTER = 427,
};

enum uring_setup {
    URING_SETUP_CQSIZE = 1u << 3,
    URING_SETUP_CLAMP = 1u << 4,
    URING_SETUP_SUBMIT_ALL = 1u << 7,
    URING_SETUP_COOP_TASKRUN = 1u << 8,
    URING_SETUP_TASKRUN_FLAG = 1u << 9,
    URING_SETUP_SINGLE_ISSUER = 1u << 12,
    URING_SETUP_DEFER_TASKRUN = 1u << 13,
    URING_SETUP_NO_SQARRAY = 1u << 16,
};

enum uring_feature {
    URING_FEAT_SINGLE_MMAP = 1u << 0,
    URING_FEAT_NODROP = 1u << 1,
    URING_FEAT_SUBMIT_STABLE = 1u << 2,
    URING_FEAT_FAST_POLL = 1u << 5,
    URING_FEAT_EXT_ARG = 1u << 8,
    URING_FEAT_CQE_SKIP = 1u << 11,
    URING_FEAT_NO_IOWAIT = 1u << 17,
};

enum uring_enter {
    URING_ENTER_GETEVENTS = 1u << 0,
    URING_ENTER_EXT_ARG = 1u << 3,
    URING_ENTER_NO_IOWAIT = 1u << 7,
};

enum uring_sq_flag {
    URING_SQ_CQ_OVERFLOW = 1u << 1,
    URING_SQ_TASKRUN = 1u << 2,
};

enum uring_register {
    URING_UNREGISTER_FILES = 3,
    URING_REGISTER_EVENTFD = 4,
    URING_REGISTER_FILES_UPDATE = 6,
    URING_REGISTER_PROBE = 8,
    URING_REGISTER_FILES2 = 13,
    URING_REGISTER_IOWQ_MAX_WORKERS = 19,
    URING_REGISTER_PBUF_RING = 22,
};

enum { URING_RSRC_REGISTER_SPARSE = 1u << 0 };
enum { URING_OP_SUPPORTED = 1u << 0 };

enum uring_sqe_flag {
    URING_SQE_FIXED_FILE = 1u << 0,
    URING_SQE_ASYNC = 1u << 4,
    URING_SQE_BUFFER_SELECT = 1u << 5,
    URING_SQE_CQE_SKIP_SUCCESS = 1u << 6,
};

enum uring_cqe_flag { URING_CQE_BUFFER = 1u << 0 };
enum { URING_CQE_BUFFER_SHIFT = 16 };

enum { URING_FSYNC_DATASYNC = 1u << 0 };

enum { URING_OFF_SQ_RING = 0, URING_OFF_CQ_RING = 0x8000000, URING_OFF_SQES = 0x10000000 };

enum uring_op {
    URING_OP_NOP = 0,
    URING_OP_READV = 1,
    URING_OP_WRITEV = 2,
    URING_OP_FSYNC = 3,
    URING_OP_POLL_ADD = 6,
    URING_OP_SENDMSG = 9,
    URING_OP_RECVMSG = 10,
    URING_OP_TIMEOUT = 11,
    URING_OP_ACCEPT = 13,
    URING_OP_ASYNC_CANCEL = 14,
    URING_OP_CONNECT = 16,
    URING_OP_OPENAT = 18,
    URING_OP_CLOSE = 19,
    URING_OP_STATX = 21,
    URING_OP_READ = 22,
    URING_OP_WRITE = 23,
    URING_OP_SEND = 26,
    URING_OP_RECV = 27,
    URING_OP_SPLICE = 30,
    URING_OP_TEE = 33,
    URING_OP_SHUTDOWN = 34,
    URING_OP_RENAMEAT = 35,
    URING_OP_UNLINKAT = 36,
    URING_OP_MKDIRAT = 37,
    URING_OP_SYMLINKAT = 38,
    URING_OP_LINKAT = 39,
    URING_OP_SOCKET = 45,
    URING_OP_FTRUNCATE = 55,
    URING_OP_BIND = 56,
    URING_OP_LISTEN = 57,
    URING_OP_LAST = 64, /* as far as our probe looks */
};

struct uring_sqe {
    uint8_t opcode;
    uint8_t flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t off;  /* also addr2 */
    uint64_t addr; /* also splice_off_in */
    uint32_t len;
    uint32_t op_flags;
    uint64_t user_data;
    uint16_t buf_group;
    uint16_t personality;
    int32_t splice_fd_in;
    uint64_t addr3;
    uint64_t pad;
};

struct uring_cqe {
    uint64_t user_data;
    int32_t res;
    uint32_t flags;
};

struct uring_sq_offsets {
    uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, resv1;
    uint64_t user_addr;
};

struct uring_cq_offsets {
    uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1;
    uint64_t user_addr;
};

struct uring_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd;
    uint32_t resv[3];
    struct uring_sq_offsets sq_off;
    struct uring_cq_offsets cq_off;
};

struct uring_getevents_arg {
    uint64_t sigmask;
    uint32_t sigmask_sz;
    uint32_t min_wait_usec;
    uint64_t ts;
};

struct uring_timespec {
    int64_t tv_sec;
    int64_t tv_nsec;
};

struct uring_rsrc_register {
    uint32_t nr, flags;
    uint64_t resv2, data, tags;
};

struct uring_files_update {
    uint32_t offset, resv;
    uint64_t fds;
};

struct uring_buf_reg {
    uint64_t ring_addr;
    uint32_t ring_entries;
    uint16_t bgid, flags;
    uint64_t resv[3];
};

/* The ring of provided buffers is an array of these; the tail lies over the first one's
 * resv. */
struct uring_buf {
    uint64_t addr;
    uint32_t len;
    uint16_t bid, resv;
};

struct uring_probe_op {
    uint8_t op, resv;
    uint16_t flags;
    uint32_t resv2;
};

struct uring_probe {
    uint8_t last_op, ops_len;
    uint16_t resv;
    uint32_t resv2[3];
    struct uring_probe_op ops[URING_OP_LAST];
};

static_assert(sizeof(struct uring_sqe) == 64, "io_uring_sqe");
static_assert(offsetof(struct uring_sqe, user_data) == 32, "io_uring_sqe.user_data");
static_assert(offsetof(struct uring_sqe, buf_group) == 40, "io_uring_sqe.buf_group");
static_assert(offsetof(struct uring_sqe, splice_fd_in) == 44, "io_uring_sqe.splice_fd_in");
static_assert(sizeof(struct uring_cqe) == 16, "io_uring_cqe");
static_assert(sizeof(struct uring_params) == 120, "io_uring_params");
static_assert(offsetof(struct uring_params, sq_off) == 40, "io_uring_params.sq_off");
static_assert(offsetof(struct uring_params, cq_off) == 80, "io_uring_params.cq_off");
static_assert(sizeof(struct uring_getevents_arg) == 24, "io_uring_getevents_arg");
static_assert(sizeof(struct uring_rsrc_register) == 32, "io_uring_rsrc_register");
static_assert(sizeof(struct uring_files_update) == 16, "io_uring_files_update");
static_assert(sizeof(struct uring_buf_reg) == 40, "io_uring_buf_reg");
static_assert(sizeof(struct uring_buf) == 16, "io_uring_buf");
static_assert(sizeof(struct uring_probe_op) == 8, "io_uring_probe_op");
static_assert(offsetof(struct uring_probe, ops) == 16, "io_uring_probe.ops");

#endif
