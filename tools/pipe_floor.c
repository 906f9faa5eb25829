/* pipe_floor: what `bench files` measures as F6, in C: 64 MiB through cat, without Python.
 *
 *   cc -O2 -o pipe_floor tools/pipe_floor.c && ./pipe_floor [MIB]
 *
 * Prints MiB/s twice: with the output in pieces of 64 KiB that are joined at the end, which is
 * what trio.run_process does with it, and with the output read into one piece of memory that
 * was there and in use before. */
#define _GNU_SOURCE /* pipe2 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PIECE = 65536 };

static void must(bool ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static pid_t start_cat(int *to, int *from)
{
    int in[2], out[2];
    must(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0, "pipe");
    pid_t child = fork();
    must(child >= 0, "fork");
    if (child == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        execlp("cat", "cat", (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    must(fcntl(in[1], F_SETFL, O_NONBLOCK) == 0 && fcntl(out[0], F_SETFL, O_NONBLOCK) == 0,
         "fcntl");
    *to = in[1];
    *from = out[0];
    return child;
}

/* Reads what there is, into `whole` if that is given, else into pieces. */
static size_t read_some(int from, char *whole, char **pieces, size_t *sizes, size_t *count)
{
    char *memory = whole == NULL ? malloc(PIECE) : whole;
    ssize_t got = read(from, memory, PIECE);
    must(got > 0 || errno == EAGAIN, "read");
    if (whole != NULL || got <= 0) {
        if (whole == NULL)
            free(memory);
        return got > 0 ? (size_t)got : 0;
    }
    pieces[*count] = realloc(memory, (size_t)got);
    sizes[(*count)++] = (size_t)got;
    return (size_t)got;
}

static double through_cat(const char *data, size_t size, char *whole)
{
    char **pieces = calloc(size, sizeof *pieces);
    size_t *sizes = calloc(size, sizeof *sizes);
    must(pieces != NULL && sizes != NULL, "calloc");
    size_t sent = 0, got = 0, count = 0;
    double start = now();
    int to, from;
    pid_t child = start_cat(&to, &from);
    while (got < size) {
        struct pollfd fds[2] = {{.fd = from, .events = POLLIN},
                                {.fd = sent < size ? to : -1, .events = POLLOUT}};
        must(poll(fds, 2, -1) > 0, "poll");
        if (fds[1].revents) {
            ssize_t went = write(to, data + sent, size - sent);
            must(went >= 0 || errno == EAGAIN, "write");
            sent += went > 0 ? (size_t)went : 0;
            if (sent == size)
                close(to);
        }
        if (fds[0].revents)
            got += read_some(from, whole == NULL ? NULL : whole + got, pieces, sizes, &count);
    }
    close(from);
    waitpid(child, NULL, 0);
    if (whole == NULL) {
        char *joined = malloc(size), *end = joined;
        must(joined != NULL, "malloc");
        for (size_t i = 0; i < count; i++) {
            memcpy(end, pieces[i], sizes[i]);
            end += sizes[i];
            free(pieces[i]);
        }
        must(memcmp(joined, data, size) == 0, "other bytes came back");
        free(joined);
    }
    double seconds = now() - start;
    free(pieces);
    free(sizes);
    return seconds;
}

int main(int argc, char **argv)
{
    size_t mib = argc > 1 ? strtoul(argv[1], NULL, 10) : 64, size = mib << 20;
    char *data = malloc(size), *whole = malloc(size + PIECE);
    must(mib != 0 && data != NULL && whole != NULL, "memory");
    memset(data, 'x', size);
    memset(whole, 'y', size + PIECE);
    printf("%.1f ", (double)mib / through_cat(data, size, NULL));
    printf("%.1f\n", (double)mib / through_cat(data, size, whole));
    return 0;
}
