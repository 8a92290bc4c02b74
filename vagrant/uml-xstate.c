/* For user-mode Linux on processors with more vector state than it knows (AMX).

   The kernel takes a process's vector state (PTRACE_SETREGSET, NT_X86_XSTATE) at its full size
   only, which is beyond the room that Linux 6.1 as a process has for it: its first program is
   killed ("ptrace set fp regs failed"). Loaded before libc, this gives the state its full size; of
   what has no room in user-mode Linux the process is given the initial state. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

enum { XSTATE = 0x202, FIELDS_AT = 512, KNOWN_FIELDS = 0x2ff };

static char state[1 << 16] __attribute__((aligned(64)));

typedef long (*ptrace_call)(enum __ptrace_request, int, void *, void *);

static void keep_known(char *of) {
    uint64_t fields;
    memcpy(&fields, of + FIELDS_AT, sizeof fields);
    fields &= KNOWN_FIELDS;
    memcpy(of + FIELDS_AT, &fields, sizeof fields);
}

long ptrace(enum __ptrace_request request, ...) {
    static ptrace_call next;
    va_list rest;
    va_start(rest, request);
    int pid = va_arg(rest, int);
    void *address = va_arg(rest, void *);
    void *data = va_arg(rest, void *);
    va_end(rest);
    if (!next)
        next = (ptrace_call)dlsym(RTLD_NEXT, "ptrace");
    int reads = request == PTRACE_GETREGSET, writes = request == PTRACE_SETREGSET;
    if (address != (void *)XSTATE || !(reads || writes))
        return next(request, pid, address, data);
    struct iovec *room = data;
    struct iovec full = {state, sizeof state};
    long status = next(PTRACE_GETREGSET, pid, address, &full);
    if (status || full.iov_len < FIELDS_AT + sizeof(uint64_t))
        return status;
    size_t size = room->iov_len < full.iov_len ? room->iov_len : full.iov_len;
    if (reads) {
        keep_known(state);
        memcpy(room->iov_base, state, size);
        room->iov_len = size;
        return 0;
    }
    memcpy(state, room->iov_base, size);
    keep_known(state);
    return next(request, pid, address, &full);
}
