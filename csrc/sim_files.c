/* sim_files.c: files in plain memory. A name leads to its file as long as the backend lives. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "sim.h"

#define FILE_SIZE_MAX ((uint64_t)1 << 30) /* EFBIG beyond */

static sim_inode *named(const lio_sim *sim, const char *name)
{
    sim_inode *inode = sim->inodes;
    while (inode != NULL && strcmp(inode->name, name) != 0)
        inode = inode->next;
    return inode;
}

static sim_inode *create(lio_sim *sim, const char *name)
{
    sim_inode *inode = calloc(1, sizeof *inode);
    if (inode == NULL)
        return NULL;
    inode->name = strdup(name);
    if (inode->name == NULL) {
        free(inode);
        return NULL;
    }
    inode->number = ++sim->next_inode;
    inode->next = sim->inodes;
    sim->inodes = inode;
    return inode;
}

int lio_sim_open(lio_backend *b, const char *name, int flags)
{
    if (b == NULL || name == NULL || *name == '\0' || b->phase != LIO_PHASE_OPEN)
        return b == NULL || name == NULL || *name == '\0' ? -EINVAL : -ENXIO;
    if (strcmp(b->vtable->name, "sim") != 0)
        return -ENOTSUP;
    lio_sim *sim = lio_sim_of(b);
    sim_inode *inode = named(sim, name);
    if (inode != NULL && flags & O_CREAT && flags & O_EXCL)
        return -EEXIST;
    if (inode == NULL && !(flags & O_CREAT))
        return -ENOENT;
    if (inode == NULL && (inode = create(sim, name)) == NULL)
        return -ENOMEM;
    sim_object *file;
    int fd = lio_sim_add(sim, &file, SIM_FILE, SOCK_STREAM);
    if (fd < 0)
        return fd;
    file->inode = inode;
    file->flags = flags;
    if (flags & O_TRUNC && (flags & O_ACCMODE) != O_RDONLY)
        inode->size = 0;
    return fd;
}

/* Bytes between the old end and the new one are zero. */
static int resize(sim_inode *inode, uint64_t size)
{
    if (size > FILE_SIZE_MAX)
        return -EFBIG;
    if (size > inode->room) {
        uint64_t room = inode->room * 2 > size ? inode->room * 2 : size;
        char *bytes = realloc(inode->bytes, (size_t)room);
        if (bytes == NULL)
            return -ENOSPC;
        inode->bytes = bytes;
        inode->room = (size_t)room;
    }
    if (size > inode->size)
        memset(inode->bytes + inode->size, 0, (size_t)size - inode->size);
    inode->size = (size_t)size;
    return 0;
}

static int64_t read_piece(const sim_inode *inode, void *to, size_t length, uint64_t offset)
{
    if (offset >= inode->size)
        return 0;
    size_t count =
        inode->size - (size_t)offset < length ? inode->size - (size_t)offset : length;
    if (count != 0)
        memcpy(to, inode->bytes + offset, count);
    return (int64_t)count;
}

static int64_t write_piece(sim_inode *inode, const void *from, size_t length, uint64_t offset)
{
    if (length == 0)
        return 0;
    if (offset > FILE_SIZE_MAX || length > FILE_SIZE_MAX - offset)
        return -EFBIG;
    int error = offset + length > inode->size ? resize(inode, offset + length) : 0;
    if (error != 0)
        return error;
    memcpy(inode->bytes + offset, from, length);
    return (int64_t)length;
}

static int64_t transfer(sim_object *file, const lio_op *op, bool writes)
{
    bool vectored = op->opcode == LIO_READV_AT || op->opcode == LIO_WRITEV_AT;
    bool placed = op->opcode != LIO_READ && op->opcode != LIO_WRITE;
    const lio_iovec one = {op->buf, (size_t)op->len};
    const lio_iovec *pieces = vectored ? op->buf : &one;
    size_t count = vectored ? (size_t)op->len : 1;
    int how = file->flags & O_ACCMODE;
    if (how == (writes ? O_RDONLY : O_WRONLY))
        return -EBADF;
    if (placed && op->offset < 0)
        return -EINVAL;
    uint64_t offset = placed ? (uint64_t)op->offset : file->position;
    if (writes && file->flags & O_APPEND)
        offset = file->inode->size;
    int64_t moved = 0;
    for (size_t i = 0; i < count; i++) {
        int64_t part = writes ? write_piece(file->inode, pieces[i].base, pieces[i].len,
                                            offset + (uint64_t)moved)
                              : read_piece(file->inode, pieces[i].base, pieces[i].len,
                                           offset + (uint64_t)moved);
        if (part < 0 && moved == 0)
            return part;
        if (part > 0)
            moved += part;
        if (part < 0 || (size_t)part < pieces[i].len)
            break;
    }
    if (!placed)
        file->position = offset + (uint64_t)moved;
    return moved;
}

lio_attempt lio_sim_try_file(lio_backend *b, sim_object *file, lio_slot *slot)
{
    const lio_op *op = &slot->op;
    (void)b;
    switch (op->opcode) {
    case LIO_READ:
    case LIO_READ_AT:
    case LIO_READV_AT:
        return sim_done(transfer(file, op, false));
    case LIO_WRITE:
    case LIO_WRITE_AT:
    case LIO_WRITEV_AT:
        return sim_done(transfer(file, op, true));
    case LIO_FSYNC:
    case LIO_FDATASYNC:
        return sim_done(0);
    case LIO_TRUNCATE:
        if (op->offset < 0 || (file->flags & O_ACCMODE) == O_RDONLY)
            return sim_done(-EINVAL);
        return sim_done(resize(file->inode, (uint64_t)op->offset));
    default:
        return sim_done(lio_opcode_is_file(op->opcode) ? -ENOTDIR : -ENOTSOCK);
    }
}
