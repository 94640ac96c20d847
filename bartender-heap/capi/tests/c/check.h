/* What the test programs share: a check that says where it failed. */
#ifndef CHECK_H
#define CHECK_H

#include <bartender.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(x)                                                                       \
    do {                                                                               \
        if (!(x)) {                                                                    \
            fprintf(stderr, "%s:%d: %s (errno %d, %s)\n", __FILE__, __LINE__, #x,      \
                    errno, bt_errmsg());                                               \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

/* A call that has to fail with `number`, and to say something. */
#define FAILS(x, number)                                                               \
    do {                                                                               \
        errno = 0;                                                                     \
        CHECK(x);                                                                      \
        CHECK(errno == (number));                                                      \
        CHECK(strlen(bt_errmsg()) > 5);                                                \
    } while (0)

#endif
