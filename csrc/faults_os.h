/* faults_os.h: what faults.c has to know of a platform's files and connections. */
#ifndef LIO_FAULTS_OS_H
#define LIO_FAULTS_OS_H

#if defined(_WIN32)
#include <winsock2.h>
#endif

#include "backend.h"

enum lio_medium { LIO_MEDIUM_OTHER, LIO_MEDIUM_STREAM, LIO_MEDIUM_PIPE, LIO_MEDIUM_FILE };

enum lio_medium lio_fault_medium(lio_fd fd);
/* Which file a number names, as well as can be told; false: none. */
bool lio_fault_file(lio_fd fd, uint64_t identity[2]);

typedef struct lio_connection {
    lio_fd fd;
    uint64_t identity[2]; /* on Windows of its own address and its peer's; 0: has none now */
} lio_connection;

/* Which connection a number names, broken or not; false: none. */
bool lio_fault_connection(lio_fd fd, lio_connection *found);
/* Whether `found` is one that was broken, or where that can be told the other end of it. */
bool lio_fault_concerns(const lio_connection *broken, const lio_connection *found);
/* Breaks a connection as if its network had. Whether it did. */
bool lio_fault_break(lio_backend *b, lio_fd fd);
/* The result of an operation on a connection that was reset. told: not the first. */
void lio_fault_tell_of_reset(lio_slot *slot, bool told, bool sends);

#endif
