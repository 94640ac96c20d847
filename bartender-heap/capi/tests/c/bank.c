/* Transfers in transactions, killed at any instant: no cent is lost or made.
 * `bank REGION run` transfers on four threads until it is killed and prints after
 * each hundred; `bank REGION check N` checks and prints how many there were. */
#include "check.h"
#include <pthread.h>

#define ACCOUNTS 32
#define THREADS 4

struct receipt {
    long cents;
    char text[56];
};

struct account {
    long cents;
    struct receipt *last;
};

struct bank {
    struct account *accounts[ACCOUNTS];
    unsigned long made[THREADS];
};

static struct bank *bank;
static pthread_mutex_t lock[ACCOUNTS], out = PTHREAD_MUTEX_INITIALIZER;

static void create(void) {
    bt_tx *tx = bt_tx_begin(NULL);
    CHECK(tx && (bank = bt_tx_malloc(tx, sizeof *bank)));
    memset(bank, 0, sizeof *bank);
    for (int i = 0; i < ACCOUNTS; i++) {
        CHECK(bank->accounts[i] = bt_tx_malloc(tx, sizeof(struct account)));
        *bank->accounts[i] = (struct account){1000, NULL};
    }
    CHECK(bt_tx_commit(tx) == 0);
    CHECK(bt_root_set(NULL, "bank", bank) == 0);
}

static unsigned long check(void) {
    long sum = 0;
    unsigned long made = 0;
    for (int i = 0; i < ACCOUNTS; i++) {
        struct account *account = bank->accounts[i];
        sum += account->cents;
        if (account->last) {
            char text[56];
            snprintf(text, sizeof text, "%ld cents to account %d", account->last->cents, i);
            CHECK(strcmp(text, account->last->text) == 0);
            CHECK(bt_usable_size(account->last) >= sizeof(struct receipt));
        }
    }
    for (int i = 0; i < THREADS; i++)
        made += bank->made[i];
    CHECK(sum == 1000 * ACCOUNTS);
    return made;
}

static void transfer(int from, int to, long cents, unsigned long *made, int abort) {
    struct account *a = bank->accounts[from], *b = bank->accounts[to];
    bt_tx *tx = bt_tx_begin(NULL);
    CHECK(tx);
    CHECK(bt_tx_add(tx, &a->cents, sizeof a->cents) == 0);
    CHECK(bt_tx_add(tx, b, sizeof *b) == 0);
    CHECK(bt_tx_add(tx, made, sizeof *made) == 0);
    a->cents -= cents;
    b->cents += cents;
    CHECK(bt_tx_free(tx, b->last) == 0);
    CHECK(b->last = bt_tx_malloc(tx, sizeof *b->last));
    b->last->cents = cents;
    snprintf(b->last->text, sizeof b->last->text, "%ld cents to account %d", cents, to);
    ++*made;
    if (abort)
        CHECK(bt_tx_abort(tx) == 0);
    else
        CHECK(bt_tx_commit(tx) == 0);
}

static void *run(void *number) {
    int thread = *(int *)number;
    unsigned long state = 88172645463325252ul + (unsigned long)thread;
    for (;;) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        int from = (int)(state % ACCOUNTS), to = (int)(state / 64 % ACCOUNTS);
        if (from == to)
            continue;
        pthread_mutex_lock(&lock[from < to ? from : to]);
        pthread_mutex_lock(&lock[from < to ? to : from]);
        transfer(from, to, (long)(state >> 20 & 63), &bank->made[thread], state % 5 == 0);
        pthread_mutex_unlock(&lock[from]);
        pthread_mutex_unlock(&lock[to]);
        if (bank->made[thread] % 100 == 0) {
            pthread_mutex_lock(&out);
            printf("%lu\n", bank->made[thread]);
            fflush(stdout);
            pthread_mutex_unlock(&out);
        }
    }
    return NULL;
}

int main(int argc, char **argv) {
    CHECK(argc >= 3);
    CHECK(bt_open(argv[1], 64 << 20, 0));
    bank = bt_root_get(NULL, "bank");
    if (!bank)
        create();
    CHECK(bt_check(NULL) == 0);
    unsigned long made = check();
    if (strcmp(argv[2], "check") == 0) {
        CHECK(argc == 4 && made >= strtoul(argv[3], NULL, 10));
        bt_gc_report report;
        CHECK(bt_gc(NULL, &report) == 0);
        CHECK(check() == made && report.live_blocks <= 2 + 2 * ACCOUNTS);
        printf("%lu\n", made);
        CHECK(bt_close(NULL) == 0);
        return 0;
    }
    pthread_t threads[THREADS];
    int numbers[THREADS];
    for (int i = 0; i < ACCOUNTS; i++)
        pthread_mutex_init(&lock[i], NULL);
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&threads[i], NULL, run, &numbers[i]) == 0);
    }
    pthread_join(threads[0], NULL);
}
