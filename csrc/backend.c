/* backend.c: which backends this build has, in order of preference; probing; choice. */
#include "backend.h"

#include <stdlib.h>
#include <string.h>

#include "lio_errno.h"

#if defined(__linux__)
extern const lio_vtable lio_uring_vtable;
extern const lio_vtable lio_epoll_vtable;
#elif defined(_WIN32)
extern const lio_vtable lio_iocp_vtable;
#endif
#if defined(LIO_KQUEUE)
extern const lio_vtable lio_kqueue_vtable;
#endif

const lio_vtable *const lio_vtables[] = {
#if defined(__linux__)
    &lio_uring_vtable,
    &lio_epoll_vtable,
#elif defined(_WIN32)
    &lio_iocp_vtable,
#endif
#if defined(LIO_KQUEUE)
    &lio_kqueue_vtable,
#endif
    NULL,
};

/* Only for those who ask for one by name. */
#if !defined(_WIN32)
extern const lio_vtable lio_sim_vtable;
#endif

static const lio_vtable *const unlisted[] = {
#if !defined(_WIN32)
    &lio_sim_vtable,
#endif
    NULL,
};

static const char *const capability_names[] = {
    "single_issuer",  "defer_taskrun", "taskrun_flag", "coop_taskrun",
    "submit_all",     "cqsize",        "no_sqarray",   "ext_arg",
    "buf_ring",       "fixed_files",   "no_iowait",    "wipe_on_fork",
    "edge_triggered", "file_pool",     "pwait2",       "user_event",
};
#define CAPABILITY_COUNT (sizeof capability_names / sizeof *capability_names)

const char *lio_capability_name(unsigned bit)
{
    return bit < CAPABILITY_COUNT ? capability_names[bit] : NULL;
}

const char *lio_backend_name(unsigned index)
{
    unsigned count = sizeof lio_vtables / sizeof *lio_vtables - 1;
    return index < count ? lio_vtables[index]->name : NULL;
}

const lio_vtable *lio_vtable_find(const char *name)
{
    const lio_vtable *const *const tables[] = {lio_vtables, unlisted};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        for (const lio_vtable *const *at = tables[i]; *at != NULL; at++) {
            if (strcmp((*at)->name, name) == 0)
                return *at;
        }
    }
    return NULL;
}

int lio_parse_without(const char *names, uint32_t *without)
{
    *without = 0;
    while (names != NULL && *names != '\0') {
        size_t length = strcspn(names, ",");
        unsigned bit = 0;
        while (bit < CAPABILITY_COUNT && (strlen(capability_names[bit]) != length ||
                                          strncmp(capability_names[bit], names, length) != 0))
            bit++;
        if (bit == CAPABILITY_COUNT)
            return -EINVAL;
        *without |= 1u << bit;
        names += length + (names[length] == ',');
    }
    return 0;
}

static int probe(const lio_vtable *vtable, uint32_t without, lio_probe_result *result)
{
    memset(result, 0, sizeof *result);
    vtable->probe(without, result);
    if (result->error == 0)
        result->capabilities |= lio_probe_fork_guard() & ~without;
    return 0;
}

int lio_probe(const char *name, const lio_options *options, lio_probe_result *result)
{
    uint32_t without;
    int error = lio_parse_without(options == NULL ? NULL : options->without, &without);
    if (error != 0)
        return error;
    const lio_vtable *vtable = name == NULL ? NULL : lio_vtable_find(name);
    return vtable == NULL ? -ENOENT : probe(vtable, without, result);
}

/* Whether a refusal means that the kernel does not offer the backend here, rather than
 * that something ran out. */
static bool is_refusal(int error)
{
    return error == -EPERM || error == -EACCES || error == -ENOSYS || error == -EINVAL ||
           error == -ENOTSUP;
}

int lio_create(const char *name, const lio_options *options, lio_backend **backend)
{
    uint32_t without;
    int error = lio_parse_without(options == NULL ? NULL : options->without, &without);
    if (error != 0)
        return error;
    const lio_vtable *chosen = NULL;
    if (name != NULL) {
        /* Asked for by name: init tries it out in earnest, and nothing else would do. */
        chosen = lio_vtable_find(name);
        if (chosen == NULL)
            return -ENOENT;
    } else {
        error = -ENOTSUP;
        for (const lio_vtable *const *at = lio_vtables; *at != NULL; at++) {
            lio_probe_result found;
            probe(*at, without, &found);
            error = found.error;
            chosen = *at;
            if (!is_refusal(error))
                break;
        }
        if (error != 0)
            return error;
    }
    lio_spin spin;
    error = lio_spin_init(&spin, options == NULL ? 0 : options->spin_us);
    if (error != 0)
        return error;
    lio_backend *b = calloc(1, sizeof *b);
    if (b == NULL)
        return -ENOMEM;
    b->spin = spin;
    b->vtable = chosen;
    b->wake_fd = -1;
    b->without = without;
    if (options != NULL) {
        b->seed = options->seed;
        b->virtual_time = options->virtual_time != 0;
        error = options->faults == NULL ? 0 : lio_faults_attach(b, options->faults);
    }
    if (error != 0) {
        free(b);
        return error;
    }
    *backend = b;
    return 0;
}

int lio_replace(lio_backend *b, const char *name)
{
    if (b == NULL || name == NULL)
        return -EINVAL;
    if (b->phase != LIO_PHASE_NEW)
        return b->phase == LIO_PHASE_OPEN ? -EALREADY : -ESHUTDOWN;
    const lio_vtable *chosen = lio_vtable_find(name);
    if (chosen == NULL)
        return -ENOENT;
    b->capabilities = 0;
    if (b->faults != NULL)
        lio_faults_replace(b, chosen);
    else
        b->vtable = chosen;
    return 0;
}
