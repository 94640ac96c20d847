/* Each function does what its text in the header says, and fails as that says. */
#include "check.h"
#include <unistd.h>

static void blocks(void) {
    CHECK(bt_free(NULL) == 0 && bt_usable_size(NULL) == 0);
    void *none = bt_malloc(0), *other = bt_malloc(0);
    CHECK(none && other && none != other && bt_usable_size(none) > 0);
    CHECK(bt_free(none) == 0 && bt_free(other) == 0);
    FAILS(bt_free(other) == -1, EINVAL);
    CHECK(strstr(bt_errmsg(), "twice"));
    /* Volatile: the compiler warns of such sizes. */
    volatile size_t most = (size_t)-1, half = most / 2, much = (size_t)1 << 40;
    FAILS(bt_malloc(most) == NULL, ENOMEM);
    FAILS(bt_malloc(half) == NULL, ENOMEM);
    FAILS(bt_malloc(much) == NULL, ENOMEM);
    FAILS(bt_calloc(much, much) == NULL, ENOMEM);
    FAILS(bt_realloc(NULL, most) == NULL, ENOMEM);
    FAILS(bt_aligned_alloc(4096, most) == NULL, ENOMEM);
    size_t sizes[] = {1, 8, 9, 24, 100, 1000, 1024, 1025, 5000, 65536, 65537, 300000, 3000000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t size = sizes[i];
        char *block = bt_malloc(size);
        CHECK(block && (size_t)block % (size > 8 ? 16 : 8) == 0);
        CHECK(bt_usable_size(block) >= size);
        memset(block, 0x5a, size);
        CHECK(bt_free(block) == 0);
        char *zero = bt_calloc(size, 1);
        CHECK(zero);
        for (size_t at = 0; at < size; at++)
            CHECK(zero[at] == 0);
        zero[0] = 7;
        char *more = bt_realloc(zero, 3 * size);
        CHECK(more && more[0] == 7 && bt_usable_size(more) >= 3 * size);
        CHECK(bt_realloc(more, bt_usable_size(more)) == more);
        if (size > 1)
            FAILS(bt_free(more + 1) == -1, EINVAL);
        char *less = bt_realloc(more, 1);
        CHECK(less && less[0] == 7);
        CHECK((less = bt_realloc(less, 0)) && bt_free(less) == 0);
        for (size_t align = 1; align <= (size_t)2 << 20; align *= 2) {
            void *aligned = bt_aligned_alloc(align, size);
            CHECK(aligned && (size_t)aligned % align == 0);
            CHECK(bt_usable_size(aligned) >= size && bt_free(aligned) == 0);
        }
    }
    /* A long block at the end of the region gets longer where it is. */
    char *vector = bt_malloc(200000);
    CHECK(vector && bt_realloc(vector, 400000) == vector);
    CHECK(bt_usable_size(vector) >= 400000 && bt_free(vector) == 0);
    FAILS(bt_aligned_alloc(0, 8) == NULL, EINVAL);
    FAILS(bt_aligned_alloc(48, 8) == NULL, EINVAL);
    FAILS(bt_aligned_alloc((size_t)4 << 20, 8) == NULL, EINVAL);
    int local;
    FAILS(bt_free(&local) == -1, EINVAL);
    FAILS(bt_usable_size(&local) == 0, EINVAL);
    FAILS(bt_realloc(&local, 8) == NULL, EINVAL);
    /* Until it is full; then there is room again. */
    void *all[64];
    size_t count = 0;
    while (count < 64 && (all[count] = bt_malloc(8 << 20)))
        count++;
    CHECK(count < 64 && errno == ENOMEM && strstr(bt_errmsg(), "full"));
    while (count)
        CHECK(bt_free(all[--count]) == 0);
    void *again = bt_malloc(8 << 20);
    CHECK(again && bt_free(again) == 0);
}

static void roots(void) {
    char name[64] = "x";
    char *block = bt_malloc(100);
    FAILS(bt_root_get(NULL, "nobody") == NULL, ENOENT);
    FAILS(bt_root_get(NULL, NULL) == NULL, EINVAL);
    FAILS(bt_root_set(NULL, "", block) == -1, EINVAL);
    memset(name, 'x', 56);
    FAILS(bt_root_set(NULL, name, block) == -1, ENAMETOOLONG);
    name[55] = 0;
    CHECK(bt_root_set(NULL, name, block + 99) == 0 && bt_root_get(NULL, name) == block + 99);
    CHECK(bt_root_set(NULL, name, NULL) == 0);
    FAILS(bt_root_get(NULL, name) == NULL, ENOENT);
    CHECK(bt_root_set(NULL, name, NULL) == 0);
    FAILS(bt_root_set(NULL, "local", name) == -1, EINVAL);
    for (int i = 0; i < 300; i++) {
        snprintf(name, sizeof name, "root %d", i);
        CHECK(bt_root_set(NULL, name, block + i % 100) == 0);
    }
    for (int i = 0; i < 300; i++) {
        snprintf(name, sizeof name, "root %d", i);
        CHECK(bt_root_get(NULL, name) == block + i % 100);
        if (i)
            CHECK(bt_root_set(NULL, name, NULL) == 0);
    }
    CHECK(bt_free(block) == 0);
    FAILS(bt_root_set(NULL, "freed", block) == -1, EINVAL);
    FAILS(bt_check(NULL) == -1, EBADMSG);
    CHECK(strstr(bt_errmsg(), "root 0"));
    CHECK(bt_root_set(NULL, "root 0", NULL) == 0 && bt_check(NULL) == 0);
}

static void durable(void) {
    char *block = bt_calloc(1, 1000), local[8];
    CHECK(block && bt_persist(NULL, block, 1000) == 0 && bt_persist(NULL, block, 0) == 0);
    CHECK(bt_persist(NULL, NULL, 0) == 0 && bt_persistv(NULL, NULL, 0) == 0);
    FAILS(bt_persist(NULL, NULL, 8) == -1, EINVAL);
    FAILS(bt_persist(NULL, local, 8) == -1, EINVAL);
    FAILS(bt_persist(NULL, block, bt_usable_size(block) + 1) == -1, EINVAL);
    bt_range ranges[] = {{block, 8}, {local, 8}};
    FAILS(bt_persistv(NULL, ranges, 2) == -1, EINVAL);
    FAILS(bt_persistv(NULL, NULL, 2) == -1, EINVAL);
    size_t large = 20 << 20;
    char *long_one = bt_malloc(large);
    memset(long_one, 3, large);
    bt_range whole = {long_one, large};
    FAILS(bt_persistv(NULL, &whole, 1) == -1, EFBIG);
    CHECK(bt_persist(NULL, long_one, large) == 0 && bt_free(long_one) == 0);
    CHECK(bt_free(block) == 0);
}

static void transactions(void) {
    char json[2048];
    long *block = bt_calloc(4, sizeof *block);
    CHECK(block && bt_persist(NULL, block, 32) == 0);
    bt_tx *tx = bt_tx_begin(NULL);
    CHECK(tx && bt_tx_add(tx, block, 32) == 0 && bt_tx_add(tx, block, 8) == 0);
    CHECK(bt_tx_add(tx, block, 0) == 0);
    FAILS(bt_tx_add(tx, block, 1 << 20) == -1, EINVAL);
    FAILS(bt_tx_add(NULL, block, 8) == -1, EINVAL);
    block[0] = 1, block[3] = 4;
    void *made = bt_tx_malloc(tx, 50);
    CHECK(made && bt_tx_free(tx, block) == 0 && bt_tx_free(tx, NULL) == 0);
    FAILS(bt_tx_free(tx, block) == -1, EINVAL);
    FAILS(bt_tx_free(tx, block + 1) == -1, EINVAL);
    FAILS(bt_close(NULL) == -1, EBUSY);
    FAILS(bt_gc(NULL, NULL) == -1, EBUSY);
    CHECK(bt_stats_json(NULL, json, sizeof json) > 0 && strstr(json, "\"open_transactions\":1"));
    CHECK(bt_tx_abort(tx) == 0);
    CHECK(block[0] == 0 && block[3] == 0 && bt_usable_size(block) >= 32);
    FAILS(bt_free(made) == -1, EINVAL);
    FAILS(bt_tx_abort(NULL) == -1, EINVAL);
    FAILS(bt_tx_commit(NULL) == -1, EINVAL);

    CHECK(tx = bt_tx_begin(NULL));
    CHECK(bt_tx_add(tx, block, 32) == 0);
    block[0] = 5;
    long *moved = bt_tx_realloc(tx, block, 4000);
    CHECK(moved && moved != block && moved[0] == 5);
    CHECK(bt_tx_realloc(tx, NULL, 10) != NULL);
    CHECK(bt_tx_commit(tx) == 0 && moved[0] == 5);
    FAILS(bt_free(block) == -1, EINVAL);

    /* Too long for the log: as if it had been aborted. */
    CHECK(tx = bt_tx_begin(NULL));
    CHECK(bt_tx_add(tx, moved, 8) == 0 && bt_tx_malloc(tx, 20 << 20));
    moved[0] = 6;
    FAILS(bt_tx_commit(tx) == -1, EFBIG);
    CHECK(moved[0] == 5 && bt_free(moved) == 0);
}

static void files(const char *path) {
    char other[512], json[8];
    snprintf(other, sizeof other, "%s.other", path);
    FAILS(bt_malloc(8) == NULL, EBADF);
    FAILS(bt_close(NULL) == -1, EBADF);
    FAILS(bt_open(NULL, 0, 0) == NULL, EINVAL);
    FAILS(bt_open(path, 0, 77) == NULL, EINVAL);
    FAILS(bt_open(path, 0, BT_EXISTING) == NULL, ENOENT);
    FAILS(bt_open("/nowhere/at/all", 0, 0) == NULL, ENOENT);
    bt_heap *heap = bt_open(path, 64 << 20, BT_NEW);
    CHECK(heap && bt_default_get() == heap);
    FAILS(bt_open(path, 0, 0) == NULL, EBUSY);
    FAILS(bt_open(path, 0, BT_NEW) == NULL, EEXIST);
    bt_heap *second = bt_open(other, 64 << 20, 0);
    CHECK(second && bt_default_get() == heap);
    void *here = bt_malloc(16), *there = bt_heap_malloc(second, 16);
    CHECK(here && there && bt_usable_size(here) == 16);
    FAILS(bt_free(there) == -1, EINVAL);
    FAILS(bt_heap_free(second, here) == -1, EINVAL);
    CHECK(bt_heap_usable_size(second, there) == 16);
    CHECK((there = bt_heap_realloc(second, there, 1000)) && bt_heap_free(second, there) == 0);
    CHECK((there = bt_heap_calloc(second, 10, 10)) && bt_heap_free(second, there) == 0);
    CHECK((there = bt_heap_aligned_alloc(second, 4096, 10)) && bt_heap_free(second, there) == 0);
    CHECK(bt_default_set(second) == 0 && bt_default_get() == second);
    CHECK((there = bt_malloc(16)) && bt_heap_free(second, there) == 0);
    CHECK(bt_default_set(heap) == 0 && bt_free(here) == 0);
    CHECK(bt_close(second) == 0);
    FAILS(bt_close(second) == -1, EBADF);
    FAILS(bt_heap_malloc(second, 8) == NULL, EBADF);
    FAILS(bt_check(second) == -1, EBADF);
    int length = bt_stats_json(NULL, NULL, 0);
    CHECK(length > 20 && bt_stats_json(heap, json, sizeof json) == length);
    CHECK(strlen(json) == 7 && json[0] == '{');
    CHECK(unlink(other) == 0);
    FILE *file = fopen(other, "w");
    CHECK(file && fprintf(file, "%8192s", "no region") > 0 && fclose(file) == 0);
    FAILS(bt_open(other, 0, 0) == NULL, EINVAL);
    CHECK(unlink(other) == 0);
}

/* What is free goes back to the system and is there again when it is needed. */
static void purge(void) {
    uint64_t bytes = 0;
    char *keep = bt_malloc(1000), *large = bt_malloc(8 << 20);
    CHECK(keep && large);
    memset(keep, 1, 1000);
    memset(large, 2, 8 << 20);
    CHECK(bt_free(large) == 0 && bt_purge(NULL, &bytes) == 0 && bt_purge(NULL, NULL) == 0);
    CHECK(bytes == 0 || bytes >= 8 << 20);
    for (int i = 0; i < 1000; i++)
        CHECK(keep[i] == 1);
    CHECK(large = bt_malloc(8 << 20));
    memset(large, 3, 8 << 20);
    CHECK(bt_free(large) == 0 && bt_free(keep) == 0);
}

/* What was not persisted is gone, however the program ends. */
static void close_keeps_nothing(const char *path) {
    long *block = bt_calloc(2, sizeof *block);
    CHECK(block && bt_persist(NULL, block, 16) == 0 && bt_root_set(NULL, "kept", block) == 0);
    block[0] = 1;
    CHECK(bt_persist(NULL, block, 8) == 0);
    block[1] = 2;
    CHECK(bt_close(NULL) == 0);
    CHECK(bt_default_get() == NULL);
    CHECK(bt_open(path, 0, 0));
    CHECK(bt_root_get(NULL, "kept") == block && block[0] == 1 && block[1] == 0);
    CHECK(bt_close(NULL) == 0);
}

int main(int argc, char **argv) {
    CHECK(argc == 2 && bt_errmsg()[0] == 0);
    files(argv[1]);
    blocks();
    roots();
    durable();
    transactions();
    purge();
    close_keeps_nothing(argv[1]);
    return 0;
}
