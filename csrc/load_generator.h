/* load_generator: connections that load a server in one of a few ways, and what they found:
 * requests, errors, latencies. One thread, no Python, no global state. Results are 0 or
 * positive, errors are negative errno values. */
#ifndef LIO_LOAD_GENERATOR_H
#define LIO_LOAD_GENERATOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* 32 buckets for every power of two: a latency is known to 3 percent, up to 68 seconds. */
enum { LIO_LOAD_BUCKETS = 1024 };

enum lio_load_kind {
    LIO_LOAD_ECHO,      /* each connection sends a message and waits for it to come back */
    LIO_LOAD_RECONNECT, /* the same, once, on a connection that was opened for it */
    LIO_LOAD_DATAGRAMS, /* the same, each message a datagram */
    LIO_LOAD_SINK,      /* the server sends unasked; every message_bytes are a request */
};

/* Zeroed is the default of everything but connections, message_bytes and the address. */
typedef struct lio_load_options {
    const char *host; /* numeric IPv4 or IPv6; NULL: path */
    const char *path; /* of a UNIX stream socket */
    uint16_t port;
    uint32_t connections;
    uint32_t message_bytes;
    uint64_t requests;   /* ends after so many measured ones; 0: no limit */
    int64_t duration_ns; /* ends after so long a measurement; 0: no limit */
    int64_t warm_up_ns;  /* not counted, beside the first answer on each connection */
    int64_t patience_ns; /* without any byte or connection; 0: ten seconds */
    int32_t server_pid;  /* whose CPU time to read; 0: nobody's */
    uint32_t kind;       /* enum lio_load_kind */
    uint32_t idle;       /* connections besides: answered once, silent from then on */
    /* Requests a second, due at even intervals whether the server keeps up or not: a latency
     * then counts from when its request was due. 0: each request follows an answer. */
    uint32_t rate;
    /* Nonzero: never sleeps, so that latencies have none of this thread's waking up in them.
     * Always so at a fixed rate. */
    uint32_t awake;
} lio_load_options;

enum lio_load_phase {
    LIO_LOAD_CONNECTING,
    LIO_LOAD_WARMING_UP,
    LIO_LOAD_MEASURING,
    LIO_LOAD_DRAINING, /* waits for the last answers, asks nothing more */
    LIO_LOAD_ENDED,
};

/* For another thread to look at (atomic loads, relaxed) while the load runs. */
typedef struct lio_load_progress {
    uint32_t stop;  /* set it to end early: what was measured until then counts */
    uint32_t phase; /* enum lio_load_phase */
    uint32_t connected;
    uint32_t reserved;
    uint64_t requests; /* measured */
    uint64_t bytes;    /* that came back in measured requests */
    uint64_t errors;
} lio_load_progress;

typedef struct lio_load_result {
    uint64_t requests;
    uint64_t bytes;
    int64_t elapsed_ns;    /* of the measurement */
    int64_t server_cpu_ns; /* user and system, all threads, during the measurement */
    uint64_t errors;       /* connections lost, for whatever reason; corrupt ones among them */
    uint64_t corrupt;      /* the server sent something else than it was sent */
    int32_t first_error;   /* negative errno: -EBADMSG for corrupt, -EPIPE for an early end */
    int32_t reserved;
    uint64_t latency_max_ns;
    uint64_t latency_sum_ns;
    uint64_t latencies[LIO_LOAD_BUCKETS];
} lio_load_result;

/* Connects all and has each answered once, lets them warm up, measures, drains, closes.
 * progress may be NULL. A lost connection is counted, and the others go on. Errors: what
 * connecting failed with; -ETIMEDOUT when nothing moved for patience_ns (with what was measured
 * until then); -EINVAL, -ENAMETOOLONG for options; -ESRCH for server_pid; -EMFILE, -ENOMEM. A
 * datagram that gets lost ends its connection's part. */
int lio_load_run(const lio_load_options *options, lio_load_progress *progress,
                 lio_load_result *result);

/* The latency that percent of the requests did not exceed, in nanoseconds; 0 without any. */
double lio_load_percentile(const lio_load_result *result, double percent);
/* The smallest latency of a bucket; that of LIO_LOAD_BUCKETS ends the last one. */
uint64_t lio_load_bucket_start(uint32_t bucket);

#ifdef __cplusplus
}
#endif
#endif
