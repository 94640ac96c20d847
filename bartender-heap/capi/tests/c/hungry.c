/* A program that takes much memory, under AddressSanitizer: binary trees, vectors
 * that grow, large blocks, and a close with everything persisted; then it opens
 * again and finds all. */
#include "check.h"

struct tree {
    struct tree *left, *right;
    unsigned long key, value;
};

static unsigned long next(unsigned long *state) {
    *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
    return *state;
}

static void insert(struct tree **at, unsigned long key) {
    while (*at)
        at = key < (*at)->key ? &(*at)->left : &(*at)->right;
    struct tree *node = bt_calloc(1, sizeof *node);
    CHECK(node);
    node->key = key;
    node->value = ~key;
    CHECK(bt_persist(NULL, node, sizeof *node) == 0);
    *at = node;
    CHECK(bt_persist(NULL, at, sizeof *at) == 0);
}

static unsigned long count(const struct tree *tree) {
    if (!tree)
        return 0;
    CHECK(tree->value == ~tree->key);
    return 1 + count(tree->left) + count(tree->right);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    const unsigned long nodes = 50000, words = 4 << 20;
    CHECK(bt_open(argv[1], 1 << 30, BT_NEW));
    struct tree **root = bt_calloc(1, sizeof *root);
    CHECK(root && bt_persist(NULL, root, sizeof *root) == 0);
    CHECK(bt_root_set(NULL, "tree", root) == 0);
    unsigned long state = 42;
    for (unsigned long i = 0; i < nodes; i++)
        insert(root, next(&state));

    /* 32 MiB by growing: the last one is longer than a record may be. */
    unsigned long *vector = NULL, length = 0, room = 0;
    while (length < words) {
        if (length == room) {
            room = room ? 2 * room : 100;
            CHECK(vector = bt_realloc(vector, room * sizeof *vector));
        }
        vector[length] = length * 3;
        length++;
    }
    CHECK(bt_persist(NULL, vector, length * sizeof *vector) == 0);
    CHECK(bt_root_set(NULL, "vector", vector) == 0);

    /* Litter of all sizes, 200 MB of it, some of which is given back. */
    for (unsigned long i = 0; i < 3000; i++) {
        size_t size = next(&state) % 140000;
        char *litter = bt_malloc(size);
        CHECK(litter);
        memset(litter, 1, size);
        if (i % 2)
            CHECK(bt_free(litter) == 0);
    }
    bt_gc_report report;
    CHECK(bt_gc(NULL, &report) == 0);
    CHECK(report.blocks == 1500 && report.live_blocks == nodes + 3);
    CHECK(bt_close(NULL) == 0);

    CHECK(bt_open(argv[1], 0, BT_EXISTING));
    root = bt_root_get(NULL, "tree");
    CHECK(root && count(*root) == nodes);
    vector = bt_root_get(NULL, "vector");
    CHECK(vector);
    for (unsigned long i = 0; i < words; i++)
        CHECK(vector[i] == i * 3);
    CHECK(bt_check(NULL) == 0 && bt_close(NULL) == 0);
    return 0;
}
