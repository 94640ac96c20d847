/* Threads that come and go, hand blocks on and give them back elsewhere, beside
 * others that make theirs durable. */
#include "check.h"
#include <pthread.h>

#define THREADS 4
#define SLOTS 512
#define ROUNDS 20

static unsigned char *shared[SLOTS];
static size_t sizes[SLOTS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *work(void *number) {
    unsigned seed = *(unsigned *)number;
    for (int i = 0; i < 4000; i++) {
        seed = seed * 1664525 + 1013904223;
        size_t size = 1 + (seed >> 8) % (seed % 16 ? 300 : 20000);
        unsigned slot = (seed >> 4) % SLOTS;
        unsigned char *new = bt_malloc(size);
        CHECK(new && bt_usable_size(new) >= size);
        CHECK((size_t)new % (size > 8 ? 16 : 8) == 0);
        memset(new, (int)slot, size);
        if (i % 64 == 0)
            CHECK(bt_persist(NULL, new, size) == 0);
        pthread_mutex_lock(&lock);
        unsigned char *old = shared[slot];
        size_t length = sizes[slot];
        shared[slot] = new;
        sizes[slot] = size;
        pthread_mutex_unlock(&lock);
        for (size_t at = 0; old && at < length; at++)
            CHECK(old[at] == (unsigned char)slot);
        if (old && i % 3 == 0) {
            CHECK(old = bt_realloc(old, length * 2));
            CHECK(old[length - 1] == (unsigned char)slot);
        }
        CHECK(bt_free(old) == 0);
    }
    /* Another thread's failure is not ours. */
    if (*(unsigned *)number % 2)
        FAILS(bt_free((char *)number) == -1, EINVAL);
    else
        CHECK(bt_errmsg()[0] == 0);
    return NULL;
}

int main(int argc, char **argv) {
    CHECK(argc == 2 && bt_open(argv[1], 256 << 20, BT_NEW));
    char json[1024];
    for (unsigned round = 0; round < ROUNDS; round++) {
        pthread_t threads[THREADS];
        unsigned numbers[THREADS];
        for (unsigned i = 0; i < THREADS; i++) {
            numbers[i] = round * THREADS + i;
            CHECK(pthread_create(&threads[i], NULL, work, &numbers[i]) == 0);
        }
        for (unsigned i = 0; i < THREADS; i++)
            CHECK(pthread_join(threads[i], NULL) == 0);
    }
    unsigned live = 0;
    for (unsigned slot = 0; slot < SLOTS; slot++)
        live += shared[slot] != NULL;
    char expected[64];
    snprintf(expected, sizeof expected, "\"live_blocks\":%u,", live);
    CHECK(bt_stats_json(NULL, json, sizeof json) > 0 && strstr(json, expected));
    CHECK(bt_check(NULL) == 0);
    bt_gc_report report;
    CHECK(bt_gc(NULL, &report) == 0 && report.blocks == live && report.live_blocks == 0);
    CHECK(bt_close(NULL) == 0);
    return 0;
}
