/* The library loaded while the program runs, as plugins and other languages do,
 * and used by a thread that was there before. */
#include <bartender.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* As CHECK, without a function of the library. */
#define LOADED(x)                                                                      \
    do {                                                                               \
        if (!(x)) {                                                                    \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                     \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

static pthread_barrier_t loaded;
static void *(*mal)(size_t);
static int (*give)(void *);

static void *work(void *unused) {
    (void)unused;
    pthread_barrier_wait(&loaded);
    char *blocks[1000];
    for (int round = 0; round < 10; round++) {
        for (size_t i = 0; i < 1000; i++) {
            LOADED((blocks[i] = mal(i)) && (size_t)blocks[i] % (i > 8 ? 16 : 8) == 0);
            memset(blocks[i], (int)i, i);
        }
        for (size_t i = 0; i < 1000; i++) {
            LOADED(i == 0 || blocks[i][i - 1] == (char)i);
            LOADED(give(blocks[i]) == 0);
        }
    }
    LOADED(give(&loaded) == -1);
    return NULL;
}

/* A function of the library as what it is: C has no cast for that. */
#define FIND(to, name)                                                                 \
    do {                                                                               \
        void *found = dlsym(library, name);                                            \
        LOADED(found);                                                                 \
        memcpy(&to, &found, sizeof found);                                             \
    } while (0)

int main(int argc, char **argv) {
    LOADED(argc == 3);
    pthread_t early;
    LOADED(pthread_barrier_init(&loaded, NULL, 2) == 0);
    LOADED(pthread_create(&early, NULL, work, NULL) == 0);
    void *library = dlopen(argv[2], RTLD_NOW | RTLD_LOCAL);
    if (!library)
        fprintf(stderr, "%s\n", dlerror());
    LOADED(library);
    bt_heap *(*start)(const char *, uint64_t, unsigned);
    int (*end)(bt_heap *);
    FIND(start, "bt_open");
    FIND(end, "bt_close");
    FIND(mal, "bt_malloc");
    FIND(give, "bt_free");
    bt_heap *heap = start(argv[1], 64 << 20, BT_NEW);
    LOADED(heap);
    pthread_barrier_wait(&loaded);
    LOADED(give(mal(100)) == 0);
    LOADED(pthread_join(early, NULL) == 0);
    LOADED(end(heap) == 0);
    return 0;
}
