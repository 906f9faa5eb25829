/* fast.c: trio_lio._fast, the way of an operation of a socket, from the call to the task that
 * it wakes, without the interpreter in between.
 *
 * For CPython; trio_lio/_plain.py does the same in Python, and runs wherever this module was
 * not built. Only the usual case is here. Where anything else comes up, a function here has
 * done nothing and says None, and the method that called it does it all in Python.
 *
 * The C core is another library: its functions come as addresses, see configure().
 */
#define Py_LIMITED_API 0x030A0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(_WIN32)
#include <winsock2.h>
#else
#include <netinet/in.h>
#include <sys/socket.h>
#endif

#include "lio.h"

/* Of the core; the last two are among what trio_lio/_ffi_build.py adds to lio.h. */
typedef int push_function(lio_backend *b, uint64_t id, const lio_op *op);
typedef int send_all_function(lio_backend *b, uint64_t id, intptr_t fd, void *buf,
                              uint64_t len);
typedef int wait_function(lio_backend *b, double seconds);

enum name {
    NAME_CONTEXT_RUNNER,
    NAME_CONTEXT_TASK,
    NAME_ENTER_RUN,
    NAME_FILENO,
    NAME_HAND_OVER,
    NAME_HELD,
    NAME_LARGE,
    NAME_MANAGER,
    NAME_OTHER_EVENTS,
    NAME_OTHER_WAIT,
    NAME_SHUT,
    NAME_SOCK,
    NAME_VALUE,
    NAME_COUNT
};

static const char *const names[NAME_COUNT] = {
    [NAME_CONTEXT_RUNNER] = "runner",
    [NAME_CONTEXT_TASK] = "task",
    [NAME_ENTER_RUN] = "enter_run",
    [NAME_FILENO] = "fileno",
    [NAME_HAND_OVER] = "hand_over",
    [NAME_HELD] = "_held",
    [NAME_LARGE] = "_lio_large",
    [NAME_MANAGER] = "_lio_manager",
    [NAME_OTHER_EVENTS] = "process_other_events",
    [NAME_OTHER_WAIT] = "get_other_events",
    [NAME_SHUT] = "_did_shutdown_SHUT_WR",
    [NAME_SOCK] = "_sock",
    [NAME_VALUE] = "_value",
};

typedef struct {
    push_function *push;
    send_all_function *send_all;
    wait_function *wait;
    long long default_size;
    int kind_receive, kind_receive_from, kind_write, kind_send_all;
    PyObject *socket_type;
    PyObject *family_of; /* of a socket.socket: the plain number */
    PyObject *manager_base, *operation_base;
    PyObject *names[NAME_COUNT];
} module_state;

typedef struct {
    PyObject base;
    unsigned long long id;
    unsigned long long want;
    int kind;
    PyObject *manager;
    PyObject *task;
    PyObject *keep;
    PyObject *control;
    PyObject *raise_cancel;
    PyObject *message;
} operation;

typedef struct {
    PyObject base;
    PyObject *handle; /* keeps the backend */
    lio_backend *backend;
    const lio_completion *records;
    long record_count;
    const char *pool;
    long receive_max;     /* the most that a receive from the pool brings */
    unsigned long thread; /* the one of the run */
    long unprocessed;     /* records of the last wait */
    PyObject *operations; /* list of all, by id */
    PyObject *free;       /* list of those that are not in use */
    /* Of the run, once it has begun: */
    PyObject *reschedule;
    PyObject *context; /* what Trio keeps for this thread, a dict */
    PyObject *runner;
} manager;

static void replace(PyObject **place, PyObject *value)
{
    PyObject *before = *place;
    Py_XINCREF(value);
    *place = value;
    Py_XDECREF(before);
}

/* -- operations -------------------------------------------------------------------- */

/* What is sent first to a coroutine that awaits this is None, and next what its task is woken
 * with, which never is. So an operation is its own iterator and needs no state: it may be in
 * use again when a task whose wait was cancelled has not run yet. */
static PySendResult operation_send(PyObject *self, PyObject *value, PyObject **result)
{
    operation *op = (operation *)self;
    bool parks = value == Py_None && op->message != NULL;
    *result = parks ? op->message : value;
    Py_INCREF(*result);
    return parks ? PYGEN_NEXT : PYGEN_RETURN;
}

static PyObject *operation_iternext(PyObject *self)
{
    operation *op = (operation *)self;
    Py_XINCREF(op->message);
    return op->message;
}

/* For CPython 3.12 and later, which ask for it by name. */
static PyObject *operation_send_by_name(PyObject *self, PyObject *value)
{
    PyObject *result;
    if (operation_send(self, value, &result) == PYGEN_NEXT)
        return result;
    /* Called, not set as it is: the value may be a tuple. */
    PyObject *stop = PyObject_CallFunctionObjArgs(PyExc_StopIteration, result, NULL);
    Py_DECREF(result);
    if (stop != NULL) {
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
    }
    return NULL;
}

static PyObject *operation_itself(PyObject *self)
{
    Py_INCREF(self);
    return self;
}

static int operation_traverse(PyObject *self, visitproc visit, void *arg)
{
    operation *op = (operation *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(op->manager);
    Py_VISIT(op->task);
    Py_VISIT(op->keep);
    Py_VISIT(op->control);
    Py_VISIT(op->raise_cancel);
    Py_VISIT(op->message);
    return 0;
}

static int operation_clear(PyObject *self)
{
    operation *op = (operation *)self;
    Py_CLEAR(op->manager);
    Py_CLEAR(op->task);
    Py_CLEAR(op->keep);
    Py_CLEAR(op->control);
    Py_CLEAR(op->raise_cancel);
    Py_CLEAR(op->message);
    return 0;
}

static void deallocate(PyObject *self, int (*clear)(PyObject *))
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static void operation_dealloc(PyObject *self)
{
    deallocate(self, operation_clear);
}

static PyMethodDef operation_methods[] = {
    {"send", operation_send_by_name, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef operation_members[] = {
    {"id", T_ULONGLONG, offsetof(operation, id), 0, NULL},
    {"want", T_ULONGLONG, offsetof(operation, want), 0, NULL},
    {"kind", T_INT, offsetof(operation, kind), 0, NULL},
    {"manager", T_OBJECT, offsetof(operation, manager), 0, NULL},
    {"task", T_OBJECT, offsetof(operation, task), 0, NULL},
    {"keep", T_OBJECT, offsetof(operation, keep), 0, NULL},
    {"control", T_OBJECT, offsetof(operation, control), 0, NULL},
    {"raise_cancel", T_OBJECT, offsetof(operation, raise_cancel), 0, NULL},
    {"message", T_OBJECT, offsetof(operation, message), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot operation_slots[] = {
    {Py_tp_traverse, operation_traverse}, {Py_tp_clear, operation_clear},
    {Py_tp_dealloc, operation_dealloc},   {Py_am_await, operation_itself},
    {Py_am_send, operation_send},         {Py_tp_iter, operation_itself},
    {Py_tp_iternext, operation_iternext}, {Py_tp_methods, operation_methods},
    {Py_tp_members, operation_members},   {0, NULL},
};

static PyType_Spec operation_spec = {
    .name = "trio_lio._fast.OperationBase",
    .basicsize = sizeof(operation),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = operation_slots,
};

/* -- IPv4 addresses ------------------------------------------------------------------ */

/* Four numbers and three points, as inet_pton has it. False: something else. */
static bool read_host(const char *text, Py_ssize_t length, unsigned char host[4])
{
    int part = 0, digits = 0;
    unsigned value = 0;
    for (Py_ssize_t i = 0; i <= length; i++) {
        bool point = i == length || text[i] == '.';
        if (point) {
            if (digits == 0 || part == 4)
                return false;
            host[part++] = (unsigned char)value;
            digits = 0;
            value = 0;
        } else if (text[i] < '0' || text[i] > '9' || (digits != 0 && value == 0)) {
            return false; /* a leading zero might mean octal */
        } else {
            value = value * 10 + (unsigned)(text[i] - '0');
            if (++digits > 3 || value > 255)
                return false;
        }
    }
    return part == 4;
}

static PyObject *write_host(const unsigned char host[4])
{
    char text[16];
    Py_ssize_t length = 0;
    for (int i = 0; i < 4; i++) {
        if (i != 0)
            text[length++] = '.';
        if (host[i] >= 100)
            text[length++] = (char)('0' + host[i] / 100);
        if (host[i] >= 10)
            text[length++] = (char)('0' + host[i] / 10 % 10);
        text[length++] = (char)('0' + host[i] % 10);
    }
    return PyUnicode_FromStringAndSize(text, length);
}

/* Of a tuple (host, port) with a host in numbers. False: something else, right or wrong. */
static bool read_address(PyObject *address, struct sockaddr_in *into)
{
    if (!PyTuple_CheckExact(address) || PyTuple_Size(address) != 2)
        return false;
    PyObject *host = PyTuple_GetItem(address, 0), *port = PyTuple_GetItem(address, 1);
    if (!PyUnicode_CheckExact(host) || !PyLong_CheckExact(port))
        return false;
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(host, &length);
    long number = PyLong_AsLong(port);
    memset(into, 0, sizeof *into);
    if (text == NULL || number < 0 || number > 0xffff ||
        !read_host(text, length, (unsigned char *)&into->sin_addr))
        return false;
#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__OpenBSD__) ||                      \
    defined(__NetBSD__) || defined(__DragonFly__)
    into->sin_len = sizeof *into;
#endif
    into->sin_family = AF_INET;
    /* By hand, as htons is a function of a library on Windows. */
    unsigned char *bytes = (unsigned char *)&into->sin_port;
    bytes[0] = (unsigned char)(number >> 8);
    bytes[1] = (unsigned char)(number & 0xff);
    return true;
}

/* (bytes, (host, port)), or NULL without an exception: not an IPv4 address. */
static PyObject *datagram_of(const char *pool, const lio_completion *record)
{
    lio_msg msg;
    struct sockaddr_in from;
    memcpy(&msg, pool + record->detail, offsetof(lio_msg, addr));
    if (msg.addr_len != sizeof from)
        return NULL;
    memcpy(&from, pool + record->detail + offsetof(lio_msg, addr), sizeof from);
    if (from.sin_family != AF_INET)
        return NULL;
    const unsigned char *port = (const unsigned char *)&from.sin_port;
    PyObject *host = write_host((const unsigned char *)&from.sin_addr);
    if (host == NULL)
        return NULL;
    return Py_BuildValue("y#(Ni)", pool + record->data, (Py_ssize_t)record->result, host,
                         port[0] << 8 | port[1]);
}

/* -- a turn ------------------------------------------------------------------------ */

/* A new reference to what the task is woken with; None: it is not. */
static PyObject *value_of(const module_state *state, manager *m, operation *op,
                          const lio_completion *record)
{
    if (op->kind == state->kind_receive && record->data >= 0)
        return PyBytes_FromStringAndSize(m->pool + record->data, (Py_ssize_t)record->result);
    if (op->kind == state->kind_send_all && record->result >= 0 &&
        (uint64_t)record->result == op->want) {
        Py_CLEAR(op->keep);
        return PyLong_FromLongLong(record->result);
    }
    if (op->kind == state->kind_receive_from && record->data >= 0 && record->detail >= 0) {
        PyObject *datagram = datagram_of(m->pool, record);
        if (datagram != NULL || PyErr_Occurred())
            return datagram;
    }
    PyObject *result = PyLong_FromLongLong(record->result);
    PyObject *data = PyLong_FromLongLong(record->data);
    PyObject *detail = PyLong_FromLongLong(record->detail);
    PyObject *value = NULL;
    if (result != NULL && data != NULL && detail != NULL)
        value = PyObject_CallMethodObjArgs((PyObject *)m, state->names[NAME_VALUE],
                                           (PyObject *)op, result, data, detail, NULL);
    Py_XDECREF(result);
    Py_XDECREF(data);
    Py_XDECREF(detail);
    if (value != NULL && value != Py_None) {
        Py_CLEAR(op->keep);
        Py_CLEAR(op->control);
    }
    return value;
}

static int wake(manager *m, operation *op, PyObject *value)
{
    PyObject *task = op->task;
    op->task = NULL;
    Py_CLEAR(op->raise_cancel);
    int error = PyList_Append(m->free, (PyObject *)op);
    if (error == 0) {
        PyObject *done = PyObject_CallFunctionObjArgs(
            m->reschedule, task == NULL ? Py_None : task, value, NULL);
        error = done == NULL ? -1 : 0;
        Py_XDECREF(done);
    }
    Py_XDECREF(task);
    return error;
}

static int process(const module_state *state, manager *m, const lio_completion *record)
{
    if (record->id > LIO_ID_MAX) {
        PyObject *done = PyObject_CallMethod(
            (PyObject *)m, "process_note", "LLLL", (long long)record->id,
            (long long)record->result, (long long)record->data, (long long)record->detail);
        Py_XDECREF(done);
        return done == NULL ? -1 : 0;
    }
    PyObject *found = PyList_GetItem(m->operations, (Py_ssize_t)record->id);
    if (found == NULL)
        return -1;
    Py_INCREF(found);
    int error = -1;
    PyObject *value = value_of(state, m, (operation *)found, record);
    if (value != NULL)
        error = value == Py_None ? 0 : wake(m, (operation *)found, value);
    Py_XDECREF(value);
    Py_DECREF(found);
    return error;
}

static PyObject *manager_get_events(PyObject *self, PyTypeObject *type, PyObject *const *args,
                                    Py_ssize_t count, PyObject *keywords)
{
    const module_state *state = PyType_GetModuleState(type);
    manager *m = (manager *)self;
    if (count != 1 || keywords != NULL) {
        PyErr_SetString(PyExc_TypeError, "get_events takes the time-out, and nothing else");
        return NULL;
    }
    double seconds = PyFloat_AsDouble(args[0]);
    if (seconds == -1.0 && PyErr_Occurred())
        return NULL;
    lio_backend *b = m->backend;
    int found = -ENXIO;
    if (b != NULL) {
        /* The manager may be closed meanwhile, by garbage collection in another thread. */
        PyObject *handle = m->handle;
        Py_INCREF(handle);
        Py_BEGIN_ALLOW_THREADS;
        found = state->wait(b, seconds);
        Py_END_ALLOW_THREADS;
        Py_DECREF(handle);
    }
    PyObject *number = PyLong_FromLong(found);
    if (number == NULL || found == 0)
        return number;
    if (found > 0) {
        assert(found <= m->record_count);
        m->unprocessed = found;
        return number;
    }
    PyObject *events =
        PyObject_CallMethodObjArgs(self, state->names[NAME_OTHER_WAIT], args[0], number, NULL);
    Py_DECREF(number);
    return events;
}

static PyObject *manager_process_events(PyObject *self, PyTypeObject *type,
                                        PyObject *const *args, Py_ssize_t count,
                                        PyObject *keywords)
{
    const module_state *state = PyType_GetModuleState(type);
    manager *m = (manager *)self;
    if (count != 1 || keywords != NULL) {
        PyErr_SetString(PyExc_TypeError, "process_events takes the events, and nothing else");
        return NULL;
    }
    bool counted = PyLong_CheckExact(args[0]);
    long due = m->unprocessed;
    if (counted && due == 0)
        Py_RETURN_NONE;
    if (m->reschedule == NULL) {
        PyObject *done = PyObject_CallMethodObjArgs(self, state->names[NAME_ENTER_RUN], NULL);
        if (done == NULL)
            return NULL;
        Py_DECREF(done);
    }
    if (!counted)
        return PyObject_CallMethodObjArgs(self, state->names[NAME_OTHER_EVENTS], args[0], NULL);
    /* Until the last one is, nobody may wait again: their bytes are in the pool. */
    long done = 0;
    while (done < due && process(state, m, &m->records[done]) == 0)
        done++;
    m->unprocessed = 0;
    if (done < due)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *manager_use(PyObject *self, PyObject *args)
{
    manager *m = (manager *)self;
    PyObject *handle;
    unsigned long long backend, records, pool;
    long count, receive_max;
    if (!PyArg_ParseTuple(args, "OKKlKl:use", &handle, &backend, &records, &count, &pool,
                          &receive_max))
        return NULL;
    replace(&m->handle, handle);
    m->backend = (lio_backend *)(uintptr_t)backend;
    m->records = (const lio_completion *)(uintptr_t)records;
    m->record_count = count;
    m->pool = (const char *)(uintptr_t)pool;
    m->receive_max = receive_max;
    m->thread = PyThread_get_thread_ident();
    Py_RETURN_NONE;
}

static PyObject *manager_belong_to(PyObject *self, PyObject *args)
{
    manager *m = (manager *)self;
    PyObject *reschedule, *context, *runner;
    if (!PyArg_ParseTuple(args, "OO!O:belong_to", &reschedule, &PyDict_Type, &context, &runner))
        return NULL;
    replace(&m->reschedule, reschedule);
    replace(&m->context, context);
    replace(&m->runner, runner);
    Py_RETURN_NONE;
}

static PyObject *manager_leave(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    manager *m = (manager *)self;
    m->backend = NULL;
    replace(&m->handle, NULL);
    replace(&m->reschedule, NULL);
    replace(&m->context, NULL);
    replace(&m->runner, NULL);
    m->unprocessed = 0;
    Py_RETURN_NONE;
}

static int manager_traverse(PyObject *self, visitproc visit, void *arg)
{
    manager *m = (manager *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(m->handle);
    Py_VISIT(m->operations);
    Py_VISIT(m->free);
    Py_VISIT(m->reschedule);
    Py_VISIT(m->context);
    Py_VISIT(m->runner);
    return 0;
}

static int manager_clear(PyObject *self)
{
    manager *m = (manager *)self;
    m->backend = NULL;
    Py_CLEAR(m->handle);
    Py_CLEAR(m->operations);
    Py_CLEAR(m->free);
    Py_CLEAR(m->reschedule);
    Py_CLEAR(m->context);
    Py_CLEAR(m->runner);
    return 0;
}

static void manager_dealloc(PyObject *self)
{
    deallocate(self, manager_clear);
}

static PyObject *manager_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                             PyObject *Py_UNUSED(keywords))
{
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *self = allocate(type, 0);
    if (self == NULL)
        return NULL;
    manager *m = (manager *)self;
    m->operations = PyList_New(0);
    m->free = PyList_New(0);
    if (m->operations == NULL || m->free == NULL)
        Py_CLEAR(self);
    return self;
}

#define AS_FUNCTION(f) (PyCFunction)(void (*)(void))(f)
#define BY_TYPE (METH_METHOD | METH_FASTCALL | METH_KEYWORDS)

static PyMethodDef manager_methods[] = {
    {"get_events", AS_FUNCTION(manager_get_events), BY_TYPE, NULL},
    {"process_events", AS_FUNCTION(manager_process_events), BY_TYPE, NULL},
    {"use", manager_use, METH_VARARGS, NULL},
    {"belong_to", manager_belong_to, METH_VARARGS, NULL},
    {"leave", manager_leave, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef manager_members[] = {
    {"operations", T_OBJECT, offsetof(manager, operations), READONLY, NULL},
    {"free", T_OBJECT, offsetof(manager, free), READONLY, NULL},
    {"unprocessed", T_LONG, offsetof(manager, unprocessed), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot manager_slots[] = {
    {Py_tp_new, manager_new},
    {Py_tp_traverse, manager_traverse},
    {Py_tp_clear, manager_clear},
    {Py_tp_dealloc, manager_dealloc},
    {Py_tp_methods, manager_methods},
    {Py_tp_members, manager_members},
    {0, NULL},
};

static PyType_Spec manager_spec = {
    .name = "trio_lio._fast.ManagerBase",
    .basicsize = sizeof(manager),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = manager_slots,
};

/* -- beginning an operation ---------------------------------------------------------- */

static PyObject *not_the_usual(void)
{
    PyErr_Clear();
    Py_RETURN_NONE;
}

/* The manager of the run that the caller is in, if the socket is adopted there; borrowed from
 * the socket. */
static manager *manager_of(const module_state *state, PyObject *sock)
{
    if ((PyObject *)Py_TYPE(sock) != state->socket_type)
        return NULL;
    PyObject *found = PyObject_GetAttr(sock, state->names[NAME_MANAGER]);
    if (found == NULL)
        return NULL;
    bool ours = PyObject_TypeCheck(found, (PyTypeObject *)state->manager_base);
    Py_DECREF(found);
    manager *m = (manager *)found;
    if (!ours || m->context == NULL || m->thread != PyThread_get_thread_ident())
        return NULL;
    PyObject *runner = PyDict_GetItemWithError(m->context, state->names[NAME_CONTEXT_RUNNER]);
    return runner != NULL && runner == m->runner ? m : NULL;
}

static bool is_false(PyObject *object, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(object, name);
    if (value == NULL)
        return false;
    int truth = PyObject_IsTrue(value);
    Py_DECREF(value);
    return truth == 0;
}

/* -1: closed, or an error. */
static lio_fd fd_of(const module_state *state, PyObject *sock)
{
    PyObject *inner = PyObject_GetAttr(sock, state->names[NAME_SOCK]);
    if (inner == NULL)
        return -1;
    PyObject *number = PyObject_CallMethodObjArgs(inner, state->names[NAME_FILENO], NULL);
    Py_DECREF(inner);
    if (number == NULL)
        return -1;
    lio_fd fd = (lio_fd)PyLong_AsSsize_t(number);
    Py_DECREF(number);
    return fd;
}

static void give_back(manager *m, operation *op)
{
    Py_CLEAR(op->keep);
    Py_CLEAR(op->task);
    if (PyList_Append(m->free, (PyObject *)op) != 0)
        PyErr_Clear(); /* one less to use */
    Py_DECREF(op);
}

/* A new reference, of the current task's. */
static operation *take(const module_state *state, manager *m, int kind)
{
    Py_ssize_t last = PyList_Size(m->free) - 1;
    PyObject *task = PyDict_GetItemWithError(m->context, state->names[NAME_CONTEXT_TASK]);
    if (last < 0 || task == NULL)
        return NULL; /* making one is not the usual */
    PyObject *found = PyList_GetItem(m->free, last);
    if (found == NULL)
        return NULL;
    Py_INCREF(found);
    if (PyList_SetSlice(m->free, last, last + 1, NULL) != 0) {
        Py_DECREF(found);
        return NULL;
    }
    operation *op = (operation *)found;
    op->kind = kind;
    replace(&op->task, task);
    return op;
}

/* What may be received from the pool, as a number of bytes; 0: not the usual. */
static long long size_of(const module_state *state, const manager *m, PyObject *asked)
{
    long long size = state->default_size;
    if (asked != Py_None)
        size = PyLong_CheckExact(asked) ? PyLong_AsLongLong(asked) : 0;
    return size > 0 && size <= m->receive_max ? size : 0;
}

/* An operation that is queued, of the current task's; or None, and nothing has happened. */
static PyObject *begin(const module_state *state, PyObject *sock, manager *m, int kind,
                       PyObject *keep, lio_op *op)
{
    op->op_flags = LIO_OP_EXCLUSIVE;
    op->fd = fd_of(state, sock);
    operation *taken = op->fd < 0 ? NULL : take(state, m, kind);
    if (taken == NULL)
        return not_the_usual();
    if (keep != NULL)
        replace(&taken->keep, keep);
    if (state->push(m->backend, taken->id, op) != 0) {
        give_back(m, taken);
        return not_the_usual();
    }
    return (PyObject *)taken;
}

static PyObject *begin_receive(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    const module_state *state = PyModule_GetState(module);
    manager *m = count == 2 ? manager_of(state, args[0]) : NULL;
    if (m == NULL || !is_false(args[0], state->names[NAME_LARGE]))
        return not_the_usual();
    lio_op op = {.opcode = LIO_RECV};
    op.len = (uint64_t)size_of(state, m, args[1]);
    if (op.len == 0)
        return not_the_usual();
    return begin(state, args[0], m, state->kind_receive, NULL, &op);
}

static PyObject *begin_receive_from(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    const module_state *state = PyModule_GetState(module);
    manager *m = count == 2 && args[1] != Py_None ? manager_of(state, args[0]) : NULL;
    if (m == NULL)
        return not_the_usual();
    lio_op op = {.opcode = LIO_RECVFROM};
    op.len = (uint64_t)size_of(state, m, args[1]);
    if (op.len == 0)
        return not_the_usual();
    return begin(state, args[0], m, state->kind_receive_from, NULL, &op);
}

static PyObject *begin_send(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    const module_state *state = PyModule_GetState(module);
    manager *m = count == 2 && PyBytes_CheckExact(args[1]) ? manager_of(state, args[0]) : NULL;
    if (m == NULL)
        return not_the_usual();
    lio_op op = {.opcode = LIO_SEND,
                 .buf = PyBytes_AsString(args[1]),
                 .len = (uint64_t)PyBytes_Size(args[1])};
    return begin(state, args[0], m, state->kind_write, args[1], &op);
}

static bool is_ipv4(const module_state *state, PyObject *sock)
{
    PyObject *inner = PyObject_GetAttr(sock, state->names[NAME_SOCK]);
    if (inner == NULL)
        return false;
    PyObject *family = PyObject_CallFunctionObjArgs(state->family_of, inner, NULL);
    Py_DECREF(inner);
    if (family == NULL)
        return false;
    long number = PyLong_AsLong(family);
    Py_DECREF(family);
    return number == AF_INET;
}

static PyObject *begin_send_to(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    const module_state *state = PyModule_GetState(module);
    manager *m = count == 3 && PyBytes_CheckExact(args[1]) ? manager_of(state, args[0]) : NULL;
    struct sockaddr_in to;
    if (m == NULL || !read_address(args[2], &to) || !is_ipv4(state, args[0]))
        return not_the_usual();
    lio_op op = {.opcode = LIO_SENDTO,
                 .buf = PyBytes_AsString(args[1]),
                 .len = (uint64_t)PyBytes_Size(args[1]),
                 .addr = &to,
                 .addr_len = sizeof to};
    return begin(state, args[0], m, state->kind_write, args[1], &op);
}

/* Handed over at once, as it is much. */
static void hand_over(const module_state *state, manager *m)
{
    PyObject *done =
        PyObject_CallMethodObjArgs((PyObject *)m, state->names[NAME_HAND_OVER], NULL);
    if (done == NULL)
        PyErr_WriteUnraisable((PyObject *)m); /* it goes with the next wait */
    Py_XDECREF(done);
}

static operation *send_all(const module_state *state, PyObject *sock, PyObject *data)
{
    manager *m = manager_of(state, sock);
    lio_fd fd = m == NULL ? -1 : fd_of(state, sock);
    operation *op = fd < 0 ? NULL : take(state, m, state->kind_send_all);
    if (op == NULL)
        return NULL;
    replace(&op->keep, data);
    op->want = (uint64_t)PyBytes_Size(data);
    int code = state->send_all(m->backend, op->id, fd, PyBytes_AsString(data), op->want);
    if (code < 0) {
        give_back(m, op);
        return NULL;
    }
    if (code > 0)
        hand_over(state, m);
    return op;
}

static PyObject *begin_send_all(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    const module_state *state = PyModule_GetState(module);
    if (count != 3 || !PyBytes_CheckExact(args[1]) || PyBytes_Size(args[1]) == 0)
        return not_the_usual();
    PyObject *detector = args[2];
    PyObject *held = state->names[NAME_HELD];
    if (detector != Py_None) {
        if (!is_false(args[0], state->names[NAME_SHUT]) || !is_false(detector, held) ||
            PyObject_SetAttr(detector, held, Py_True) != 0)
            return not_the_usual();
    }
    operation *op = send_all(state, args[0], args[1]);
    if (op != NULL)
        return (PyObject *)op;
    PyErr_Clear();
    if (detector != Py_None && PyObject_SetAttr(detector, held, Py_False) != 0)
        return NULL;
    return not_the_usual();
}

/* -- the module ---------------------------------------------------------------------- */

static PyObject *configure(PyObject *module, PyObject *args)
{
    module_state *state = PyModule_GetState(module);
    unsigned long long push, send_all_at, wait;
    PyObject *socket_type, *family_of;
    if (!PyArg_ParseTuple(args, "(KKK)(iiii)OOL:configure", &push, &send_all_at, &wait,
                          &state->kind_receive, &state->kind_receive_from, &state->kind_write,
                          &state->kind_send_all, &socket_type, &family_of,
                          &state->default_size))
        return NULL;
    state->push = (push_function *)(uintptr_t)push;
    state->send_all = (send_all_function *)(uintptr_t)send_all_at;
    state->wait = (wait_function *)(uintptr_t)wait;
    replace(&state->socket_type, socket_type);
    replace(&state->family_of, family_of);
    Py_RETURN_NONE;
}

static int make_type(PyObject *module, PyType_Spec *spec, const char *name, PyObject **place)
{
    *place = PyType_FromModuleAndSpec(module, spec, NULL);
    return *place == NULL ? -1 : PyModule_AddObjectRef(module, name, *place);
}

static int module_exec(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    for (int i = 0; i < NAME_COUNT; i++) {
        state->names[i] = PyUnicode_InternFromString(names[i]);
        if (state->names[i] == NULL)
            return -1;
    }
    if (make_type(module, &operation_spec, "OperationBase", &state->operation_base) != 0)
        return -1;
    return make_type(module, &manager_spec, "ManagerBase", &state->manager_base);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = PyModule_GetState(module);
    Py_VISIT(state->socket_type);
    Py_VISIT(state->family_of);
    Py_VISIT(state->manager_base);
    Py_VISIT(state->operation_base);
    return 0;
}

static int module_clear(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->socket_type);
    Py_CLEAR(state->family_of);
    Py_CLEAR(state->manager_base);
    Py_CLEAR(state->operation_base);
    for (int i = 0; i < NAME_COUNT; i++)
        Py_CLEAR(state->names[i]);
    return 0;
}

static void module_free(void *module)
{
    module_clear(module);
}

static PyMethodDef functions[] = {
    {"configure", configure, METH_VARARGS, NULL},
    {"begin_receive", AS_FUNCTION(begin_receive), METH_FASTCALL, NULL},
    {"begin_receive_from", AS_FUNCTION(begin_receive_from), METH_FASTCALL, NULL},
    {"begin_send_to", AS_FUNCTION(begin_send_to), METH_FASTCALL, NULL},
    {"begin_send", AS_FUNCTION(begin_send), METH_FASTCALL, NULL},
    {"begin_send_all", AS_FUNCTION(begin_send_all), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,   .m_name = "trio_lio._fast", .m_size = sizeof(module_state),
    .m_methods = functions,  .m_slots = module_slots,    .m_traverse = module_traverse,
    .m_clear = module_clear, .m_free = module_free,
};

PyMODINIT_FUNC PyInit__fast(void)
{
    return PyModuleDef_Init(&definition);
}
