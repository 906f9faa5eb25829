/* faults_posix.c: TCP is broken by the kernel's own reset (connect to AF_UNSPEC: the peer gets
 * a RST), a local socket by a shutdown in both directions. What had arrived is still read, then
 * one operation has ECONNRESET, and after it receives find the end and sends EPIPE, as on Linux
 * after a RST. */
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "faults_os.h"

bool lio_fault_file(lio_fd fd, uint64_t identity[2])
{
    struct stat st;
    if (fstat((int)fd, &st) != 0)
        return false;
    identity[0] = (uint64_t)st.st_dev;
    identity[1] = (uint64_t)st.st_ino;
    return true;
}

bool lio_fault_connection(lio_fd fd, lio_connection *found)
{
    found->fd = fd;
    return lio_fault_file(fd, found->identity);
}

bool lio_fault_concerns(const lio_connection *broken, const lio_connection *found)
{
    return memcmp(broken->identity, found->identity, sizeof found->identity) == 0;
}

enum lio_medium lio_fault_medium(lio_fd fd)
{
    struct stat st;
    int type = 0;
    socklen_t length = sizeof type;
    if (fstat((int)fd, &st) != 0)
        return LIO_MEDIUM_OTHER;
    if (S_ISREG(st.st_mode))
        return LIO_MEDIUM_FILE;
    if (S_ISFIFO(st.st_mode))
        return LIO_MEDIUM_PIPE;
    bool streams = S_ISSOCK(st.st_mode) &&
                   getsockopt((int)fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 &&
                   type == SOCK_STREAM;
    return streams ? LIO_MEDIUM_STREAM : LIO_MEDIUM_OTHER;
}

static bool is_connected(lio_fd fd)
{
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    return getpeername((int)fd, (struct sockaddr *)&peer, &length) == 0;
}

bool lio_fault_break(lio_backend *b, lio_fd fd)
{
    struct sockaddr_storage own;
    socklen_t length = sizeof own;
    const struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    if (!is_connected(fd))
        return false;
    b->stats.syscalls += 2;
    if (getsockname((int)fd, (struct sockaddr *)&own, &length) == 0 &&
        (own.ss_family == AF_INET || own.ss_family == AF_INET6) &&
        connect((int)fd, &nowhere, sizeof nowhere) == 0)
        return true;
    return shutdown((int)fd, SHUT_RDWR) == 0;
}

void lio_fault_tell_of_reset(lio_slot *slot, bool told, bool sends)
{
    slot->result = !told ? -ECONNRESET : sends ? -EPIPE : 0;
}
