/* A linked list that survives SIGKILL. `list REGION append` appends numbers until
 * it is killed, and prints each when it is durable; `list REGION check N` finds at
 * least N of them, in order, and prints how many. */
#include "check.h"

struct node {
    struct node *next;
    unsigned long number;
    unsigned long copy[6];
};

struct list {
    struct node *first, *last;
    unsigned long count;
};

static struct list *list(void) {
    struct list *list = bt_root_get(NULL, "list");
    if (!list) {
        CHECK(errno == ENOENT);
        CHECK(list = bt_calloc(1, sizeof *list));
        CHECK(bt_persist(NULL, list, sizeof *list) == 0);
        CHECK(bt_root_set(NULL, "list", list) == 0);
    }
    return list;
}

static unsigned long check(struct list *list) {
    unsigned long count = 0;
    struct node *last = NULL;
    for (struct node *node = list->first; node; node = node->next) {
        CHECK(node->number == count);
        for (int i = 0; i < 6; i++)
            CHECK(node->copy[i] == count + i);
        last = node;
        count++;
    }
    CHECK(count == list->count && last == list->last);
    return count;
}

int main(int argc, char **argv) {
    CHECK(argc >= 3);
    CHECK(bt_open(argv[1], 64 << 20, 0));
    CHECK(bt_check(NULL) == 0);
    struct list *all = list();
    unsigned long count = check(all);
    if (strcmp(argv[2], "check") == 0) {
        CHECK(argc == 4 && count >= strtoul(argv[3], NULL, 10));
        printf("%lu\n", count);
        CHECK(bt_close(NULL) == 0);
        return 0;
    }
    for (;; count++) {
        /* Litter, which nobody ever links. */
        void *litter = bt_malloc(count % 3000);
        CHECK(litter);
        struct node *node = bt_malloc(sizeof *node);
        CHECK(node);
        node->next = NULL;
        node->number = count;
        for (int i = 0; i < 6; i++)
            node->copy[i] = count + i;
        struct node **link = all->last ? &all->last->next : &all->first;
        bt_range ranges[] = {{node, sizeof *node}, {link, sizeof *link}, {all, sizeof *all}};
        *link = node;
        all->last = node;
        all->count++;
        CHECK(bt_persistv(NULL, ranges, 3) == 0);
        printf("%lu\n", count + 1);
        fflush(stdout);
        if (count % 7)
            CHECK(bt_free(litter) == 0);
    }
}
