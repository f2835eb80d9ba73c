/* LD_PRELOAD: memory as a kernel with pages of 16 KiB hands it out (Raspberry Pi 5), on one with smaller pages.
 *
 * Such a kernel refuses madvise() with EINVAL when the address is not on a page; the length it rounds up by itself, so
 * nothing is done about that here. sysconf() and getpagesize() say 16384. It is on as soon as it is loaded: a worker
 * inherits LD_PRELOAD, and no variable that a switch could be. With -DSEEN_AS_SMALL, sysconf() is left alone.
 *
 * gcc -O2 -fPIC -shared -o pages16k.so pages16k.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 16384

int madvise(void *address, size_t length, int advice) {
    if ((uintptr_t)address % PAGE) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_madvise, address, length, advice);
}

#ifndef SEEN_AS_SMALL /* else programs take the pages for smaller ones than they are */
long sysconf(int name) {
    static long (*next)(int);
    if (name == _SC_PAGESIZE) /* glibc's _SC_PAGE_SIZE is the same number */
        return PAGE;
    if (!next)
        next = (long (*)(int))dlsym(RTLD_NEXT, "sysconf");
    return next(name);
}

int getpagesize(void) {
    return PAGE;
}
#endif
