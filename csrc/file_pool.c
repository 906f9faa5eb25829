#include "file_pool.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "backend.h"

#define STACK_SIZE ((size_t)256 * 1024)

typedef struct job_list {
    lio_file_job *head, *tail;
} job_list;

struct lio_file_pool {
    pthread_mutex_t mutex;
    pthread_cond_t work;   /* something is queued, or all is over */
    pthread_cond_t change; /* a job finished, or a thread ended */
    job_list queued, finished;
    uint32_t queued_count;
    uint32_t idle, living;
    uint32_t started;
    pthread_t threads[LIO_FILE_THREADS];
    void (*notify)(void *);
    void *argument;
    bool closing;
    bool abandoned; /* nobody takes results any more */
};

static void list_append(job_list *list, lio_file_job *job)
{
    job->next = NULL;
    job->prev = list->tail;
    if (list->tail == NULL)
        list->head = job;
    else
        list->tail->next = job;
    list->tail = job;
}

static void list_remove(job_list *list, lio_file_job *job)
{
    if (job->prev == NULL)
        list->head = job->next;
    else
        job->prev->next = job->next;
    if (job->next == NULL)
        list->tail = job->prev;
    else
        job->next->prev = job->prev;
}

/* Locking can only fail by a mistake of ours. */
static void lock(lio_file_pool *pool)
{
    int error = pthread_mutex_lock(&pool->mutex);
    assert(error == 0);
    (void)error;
}

static void unlock(lio_file_pool *pool)
{
    int error = pthread_mutex_unlock(&pool->mutex);
    assert(error == 0);
    (void)error;
}

/* -- the threads ------------------------------------------------------------------- */

/* Takes a job off the queue, or NULL when there will be no more. With the lock held. */
static lio_file_job *next_job(lio_file_pool *pool)
{
    pool->idle++;
    while (pool->queued.head == NULL && !pool->closing)
        pthread_cond_wait(&pool->work, &pool->mutex);
    pool->idle--;
    lio_file_job *job = pool->queued.head;
    if (job == NULL)
        return NULL;
    list_remove(&pool->queued, job);
    pool->queued_count--;
    job->state = LIO_JOB_RUNNING;
    return job;
}

static void *work(void *argument)
{
    lio_file_pool *pool = argument;
    lio_file_job *job;
    lock(pool);
    while ((job = next_job(pool)) != NULL) {
        unlock(pool);
        int64_t result = lio_file_job_perform(job);
        lock(pool);
        if (pool->abandoned) {
            lio_discard_result(job->op.opcode, result);
            break;
        }
        job->result = result;
        job->state = LIO_JOB_FINISHED;
        /* One wake-up is enough for all that is finished until the owner looks. */
        bool first = pool->finished.head == NULL;
        list_append(&pool->finished, job);
        pthread_cond_broadcast(&pool->change);
        if (first)
            pool->notify(pool->argument);
    }
    pool->living--;
    pthread_cond_broadcast(&pool->change);
    unlock(pool);
    return NULL;
}

/* Signals are the program's: they must never end up in a thread that it does not know. */
static int start_thread(lio_file_pool *pool)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    int error = pthread_attr_init(&attributes);
    if (error != 0)
        return -error;
    sigfillset(&all);
    error = pthread_attr_setstacksize(&attributes, STACK_SIZE);
    if (error == 0)
        error = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (error == 0) {
        error = pthread_create(&pool->threads[pool->started], &attributes, work, pool);
        int restored = pthread_sigmask(SIG_SETMASK, &before, NULL);
        assert(restored == 0);
        (void)restored;
    }
    pthread_attr_destroy(&attributes);
    if (error != 0)
        return -error;
    pool->started++;
    pool->living++;
    return 0;
}

/* -- the owner's side -------------------------------------------------------------- */

lio_file_pool *lio_file_pool_new(void (*notify)(void *), void *argument)
{
    lio_file_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL)
        return NULL;
    pthread_condattr_t attributes;
    if (pthread_condattr_init(&attributes) != 0) {
        free(pool);
        return NULL;
    }
#if !defined(__APPLE__)
    int clock = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    assert(clock == 0);
    (void)clock;
#endif
    bool ok = pthread_mutex_init(&pool->mutex, NULL) == 0;
    ok = ok && pthread_cond_init(&pool->work, NULL) == 0;
    ok = ok && pthread_cond_init(&pool->change, &attributes) == 0;
    pthread_condattr_destroy(&attributes);
    if (!ok) {
        free(pool);
        return NULL;
    }
    pool->notify = notify;
    pool->argument = argument;
    return pool;
}

int lio_file_pool_add(lio_file_pool *pool, lio_file_job *job)
{
    int error = 0;
    lock(pool);
    assert(!pool->closing);
    if (pool->idle <= pool->queued_count && pool->started < LIO_FILE_THREADS)
        error = start_thread(pool);
    if (pool->started != 0) {
        error = 0; /* those that there are will get to it */
        job->state = LIO_JOB_QUEUED;
        list_append(&pool->queued, job);
        pool->queued_count++;
        pthread_cond_signal(&pool->work);
    }
    unlock(pool);
    return error;
}

bool lio_file_pool_cancel(lio_file_pool *pool, lio_file_job *job)
{
    lock(pool);
    bool queued = job->state == LIO_JOB_QUEUED;
    if (queued) {
        list_remove(&pool->queued, job);
        pool->queued_count--;
        job->state = LIO_JOB_IDLE;
    }
    unlock(pool);
    return queued;
}

void lio_file_pool_finish(lio_file_pool *pool, lio_file_job *job)
{
    lock(pool);
    assert(job->state == LIO_JOB_RUNNING || job->state == LIO_JOB_FINISHED);
    while (job->state != LIO_JOB_FINISHED)
        pthread_cond_wait(&pool->change, &pool->mutex);
    list_remove(&pool->finished, job);
    job->state = LIO_JOB_IDLE;
    unlock(pool);
}

lio_file_job *lio_file_pool_take(lio_file_pool *pool)
{
    lock(pool);
    lio_file_job *job = pool->finished.head;
    if (job != NULL) {
        list_remove(&pool->finished, job);
        job->state = LIO_JOB_IDLE;
    }
    unlock(pool);
    return job;
}

/* Waits until all threads have ended. With the lock held. */
static bool wait_for_threads(lio_file_pool *pool, int64_t patience_ns)
{
#if defined(__APPLE__)
    const clockid_t clock = CLOCK_REALTIME; /* conditions know no other there */
#else
    const clockid_t clock = CLOCK_MONOTONIC;
#endif
    struct timespec until;
    int error = clock_gettime(clock, &until);
    assert(error == 0);
    until.tv_sec += (time_t)(patience_ns / 1000000000);
    until.tv_nsec += (long)(patience_ns % 1000000000);
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    while (pool->living != 0 && error == 0)
        error = pthread_cond_timedwait(&pool->change, &pool->mutex, &until);
    return pool->living == 0;
}

static void destroy(lio_file_pool *pool)
{
    pthread_cond_destroy(&pool->work);
    pthread_cond_destroy(&pool->change);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

bool lio_file_pool_close(lio_file_pool *pool, int64_t patience_ns)
{
    lock(pool);
    assert(pool->queued.head == NULL);
    pool->closing = true;
    pthread_cond_broadcast(&pool->work);
    bool ended = wait_for_threads(pool, patience_ns);
    pool->abandoned = !ended;
    for (lio_file_job *job = pool->finished.head; job != NULL; job = job->next)
        lio_discard_result(job->op.opcode, job->result);
    pool->finished.head = pool->finished.tail = NULL;
    unlock(pool);
    for (uint32_t i = 0; i < pool->started; i++) {
        if (ended)
            pthread_join(pool->threads[i], NULL);
        else
            pthread_detach(pool->threads[i]);
    }
    if (ended)
        destroy(pool);
    return ended; /* else the pool itself stays too, for the thread that will come back */
}

void lio_file_pool_forget(lio_file_pool *pool)
{
    /* A thread that is not here may hold the lock for ever. */
    free(pool);
}
