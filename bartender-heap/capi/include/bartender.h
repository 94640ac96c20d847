/* bartender.h: malloc, named roots and transactions in persistent memory.
 *
 * A region is a file: on persistent memory (DAX), on a disk, or in shared
 * memory. A program that opens it gets ordinary memory at an ordinary address,
 * the same on every run, so a pointer stored in it is good for ever.
 *
 * === What survives =========================================================
 *
 *   STORES DO NOT SURVIVE BY THEMSELVES. A store goes into a private picture of
 *   the region. It becomes durable when its bytes are named in bt_persist,
 *   bt_persistv, or bt_tx_add followed by bt_tx_commit, and that call returns 0.
 *
 * After a crash at any instant (of the program; of the machine, where the region
 * lies on a disk or on persistent memory) the region holds exactly what those
 * calls made durable. A call during which the crash came has happened wholly or
 * not at all.
 *
 * bt_close MAKES NOTHING DURABLE EITHER. What was not persisted before it is
 * gone, as in a crash. (A program need not close: ending without it is a crash
 * too, and the next open has to look for what is live.) A clean close does
 * remember which blocks are allocated; after a crash a block is allocated if
 * the named roots lead to it in what is durable, and free if not.
 *
 * The three rules of a program that is safe at every instant:
 *
 *   1. Persist a block's bytes before, or in the same call as, the pointer that
 *      links it.
 *   2. Persist the bytes that unlink a block before you free it, or free it with
 *      bt_tx_free. A block that was freed may be handed out again at once, while
 *      durable data still lead to it.
 *   3. Change several things that belong together in one bt_persistv, or in a
 *      transaction.
 *
 * === Pointers ==============================================================
 *
 * A named root (bt_root_set) is where the next run begins. A block lives as long
 * as a chain of pointers leads to it from a named root: any 8-byte aligned word
 * in a live block that is an address inside of another one counts, as pointers to
 * the middle do; one to the first byte behind a block does not. A number that
 * happens to look like an address keeps a block too many; that harms nobody.
 * Pointers stored in any other form (xor-ed, compressed, tagged above the
 * address) are not found.
 *
 * === Errors ================================================================
 *
 * A call that fails returns NULL or -1, sets errno, and bt_errmsg() says what
 * happened. Nothing else has changed then. Any call may fail with
 *   EBADF  the heap was closed, or there is no default heap;
 *   EIO    an I/O error, or an error inside of bartender. After an I/O error the
 *          region takes no more changes: what was persisted is safe, open the
 *          region again. Whether the call that met it is durable, the next open
 *          tells.
 *   EPERM  the process is a child of fork(), whose parent has opened the region.
 *          The child does not have the region's memory: touching it is an access to
 *          nothing, and blocks it allocates lie there.
 *
 * === Threads ===============================================================
 *
 * All functions may be called by any number of threads at once, but for those
 * that say otherwise. Data are the program's to lock. bt_malloc and bt_free of
 * common sizes take no lock and execute no locked instruction.
 *
 * === The heap that is meant ================================================
 *
 * A program with one region need not name it: the heap that is opened first is
 * the default heap. bt_malloc(size) and its family work in the default heap;
 * bt_heap_malloc(heap, size) and its family in any. All other functions take a
 * heap, and NULL means the default heap.
 */
#ifndef BARTENDER_H
#define BARTENDER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define BT_ALLOCATES(size) __attribute__((malloc, alloc_size size, warn_unused_result))
#define BT_CHECKED __attribute__((warn_unused_result))
#else
#define BT_ALLOCATES(size)
#define BT_CHECKED
#endif

/* An open region and the heap in it. */
typedef struct bt_heap bt_heap;

/* An open transaction. */
typedef struct bt_tx bt_tx;

/* === Opening and closing ================================================= */

/* bt_open: the region does not exist yet: fail with ENOENT. */
#define BT_EXISTING 1u
/* bt_open: the file exists already: fail with EEXIST. */
#define BT_NEW 2u
/* bt_open: hand blocks out in random order within their superblocks, as long as
 * the region is open: what lies beside a block is then hard to foresee. */
#define BT_RANDOM_ORDER 4u

/* Opens the region at `path`, or creates it. After a crash it is recovered, and
 * the live blocks are found.
 *
 * `max_size`  bytes that the region may ever have, 0 for 64 GiB. Of a new region
 *             only; an old one keeps its own. The file grows as it is used.
 * `flags`     0, or BT_EXISTING or BT_NEW, and BT_RANDOM_ORDER with any of them.
 *
 * Returns the heap, which becomes the default heap if there is none.
 * Errors: ENOENT, EEXIST as above; EBUSY it is open in another process or in
 *         this one; EINVAL arguments that make no sense, a file that is no
 *         region, or one that holds the typed data of a Rust program; EADDRINUSE
 *         something lies where the region has to be (a copy of it is open? such
 *         a region cannot be moved); EBADMSG it is damaged; ENOTSUP a newer
 *         version wrote it; ENOMEM no memory to look after one so large; and
 *         what open(2) says. The data are as they were.
 * Cost:   after a clean close that of reading the allocator's state; after a
 *         crash in addition the log is replayed and each live block looked at
 *         (some ten nanoseconds for a small one, on two cores). A new region
 *         has its log written: max_size / 8, at least 4 and at most 64 MiB.
 * Crash:  there is no region, or an empty one, or the whole. */
bt_heap *bt_open(const char *path, uint64_t max_size, unsigned flags) BT_CHECKED;

/* Closes a heap: pointers into it lead nowhere afterwards. Stores that were not
 * persisted are gone (see above). No other thread may be in the heap.
 *
 * Returns 0 or -1.
 * Errors: EBUSY transactions are open: it stays open. EIO: the heap is closed
 *         all the same, what was persisted is safe, and the next open recovers.
 *         EBADF it was closed before.
 * Cost:   what the log holds is taken home, two to four barriers.
 * Crash:  as without the call. */
int bt_close(bt_heap *heap);

/* Makes `heap` the default heap; NULL: there is none. No thread may use the
 * default heap meanwhile. Returns 0 or -1. */
int bt_default_set(bt_heap *heap);

/* The default heap, or NULL. Fails never. */
bt_heap *bt_default_get(void);

/* === Blocks ============================================================== */

/* Blocks are aligned to 16 bytes (of up to 8 bytes: to 8), and hold whatever
 * bytes were there before. Size 0 gives a block of the smallest size, a pointer
 * that differs from all others. None of these functions makes a block durable:
 * after a crash it exists if something durable leads to it.
 *
 * Errors: ENOMEM the region is full up to its maximum size, or the size is more
 *         than there can be; ENOSPC the disk is full; EINVAL of freeing and the
 *         like: the pointer is not (or not any more) the start of a block of this
 *         heap, and nothing has changed.
 * Cost:   of up to 1 KiB some nanoseconds, and of longer ones not many more; no
 *         system call, no barrier, no lock. For each 64 KiB of new space a lock;
 *         above 64 KiB a lock for each; and for each 64 MiB of new space that
 *         nothing was persisted in between, one barrier.
 * Crash:  blocks that nothing durable leads to are free. */

/* A block of `size` bytes, or NULL. */
void *bt_malloc(size_t size) BT_ALLOCATES((1));
void *bt_heap_malloc(bt_heap *heap, size_t size) BT_ALLOCATES((2));

/* A block of `count` times `size` zero bytes, or NULL; ENOMEM also if that
 * overflows. The zeroes are a store like others. */
void *bt_calloc(size_t count, size_t size) BT_ALLOCATES((1, 2));
void *bt_heap_calloc(bt_heap *heap, size_t count, size_t size) BT_ALLOCATES((2, 3));

/* `ptr` with room for `size` bytes: itself, if it has that room and not much more
 * than twice of it; or itself, where it is longer than 64 KiB and there is room
 * behind it; or another block with its first bytes, and `ptr` is freed.
 * NULL for `ptr`: as bt_malloc. Size 0 frees nothing. On failure `ptr` stays.
 *
 * Mind rule 2: where durable data lead to `ptr`, use bt_tx_realloc. */
void *bt_realloc(void *ptr, size_t size) BT_CHECKED;
void *bt_heap_realloc(bt_heap *heap, void *ptr, size_t size) BT_CHECKED;

/* A block of `size` bytes at a multiple of `alignment`, a power of two up to
 * 2 MiB (else EINVAL), or NULL. `size` need not be a multiple. */
void *bt_aligned_alloc(size_t alignment, size_t size) BT_ALLOCATES((2));
void *bt_heap_aligned_alloc(bt_heap *heap, size_t alignment, size_t size) BT_ALLOCATES((3));

/* Gives a block back, at once. NULL is none. Mind rule 2.
 *
 * Returns 0 or -1; a block that was freed before is told from one that was not,
 * unless it has been handed out again meanwhile. */
int bt_free(void *ptr);
int bt_heap_free(bt_heap *heap, void *ptr);

/* Bytes that may be used of a block, at least what was asked for; 0 for NULL, and
 * with errno set for what is no block. */
size_t bt_usable_size(void *ptr);
size_t bt_heap_usable_size(bt_heap *heap, void *ptr);

/* === Named roots ========================================================= */

/* Sets the root `name` (1 to 55 bytes) to `ptr`, an address in a live block of
 * this heap, durably; NULL removes it. What `ptr` leads to is not made durable:
 * do that before.
 *
 * Returns 0 or -1.
 * Errors: EINVAL not in a live block, or an empty name; ENAMETOOLONG; ENOMEM.
 * Cost:   one barrier and a look at the roots' names. Roots are few.
 * Crash:  the old root or the new one. */
int bt_root_set(bt_heap *heap, const char *name, void *ptr) BT_CHECKED;

/* The root `name`; NULL with ENOENT if there is none. Cost: a lock and a look at
 * the roots' names. */
void *bt_root_get(bt_heap *heap, const char *name);

/* === Making stores durable =============================================== */

/* A range of bytes in one block. */
typedef struct bt_range {
    void *ptr;
    size_t len;
} bt_range;

/* Makes `len` bytes at `ptr`, all in one live block, durable as they are now. No
 * other thread may store to them meanwhile.
 *
 * Returns 0 when they are durable, or -1. With `len` 0 it does nothing.
 * Errors: EINVAL the range is not in a block, or goes beyond its end.
 * Cost:   one barrier, and a copy of the bytes: about a third of a microsecond
 *         on persistent memory, one synchronous write on a disk, which threads
 *         that wait share.
 * Crash:  all of the bytes or none, up to "atomic_bytes" of bt_stats_json;
 *         longer ranges go in pieces from their start, each all or none. */
int bt_persist(bt_heap *heap, const void *ptr, size_t len) BT_CHECKED;

/* Makes `count` ranges durable at once, in whichever blocks of this heap.
 *
 * Returns 0 when all of them are durable, or -1.
 * Errors: as bt_persist; EFBIG together they are too long for the log, and none
 *         is durable.
 * Cost:   as bt_persist: one barrier, however many ranges.
 * Crash:  all of the ranges or none. */
int bt_persistv(bt_heap *heap, const bt_range *ranges, size_t count) BT_CHECKED;

/* === Transactions ======================================================== */

/* A transaction remembers the old bytes of the ranges that were added, and makes
 * their new bytes durable at once. It locks nothing: nobody else may change its
 * ranges until it ends. A thread may have several. One thread at a time uses a
 * transaction; it ends with bt_tx_commit or bt_tx_abort, after which its pointer
 * leads nowhere. A transaction of a program that ends has not happened. */

/* Begins a transaction. Returns NULL on failure. Cost: an allocation by malloc. */
bt_tx *bt_tx_begin(bt_heap *heap) BT_CHECKED;

/* Adds a range, in one live block: call it before the first store to the range.
 * Ranges may overlap.
 *
 * Returns 0 or -1; the transaction goes on in either case.
 * Errors: as bt_persist.
 * Cost:   a copy of the bytes. */
int bt_tx_add(bt_tx *tx, void *ptr, size_t len) BT_CHECKED;

/* A block of `size` bytes, all of which the commit makes durable; an abort frees
 * it. Returns NULL on failure; cost and errors as bt_malloc. */
void *bt_tx_malloc(bt_tx *tx, size_t size) BT_ALLOCATES((2));

/* As bt_realloc, but that a new block is one of bt_tx_malloc and `ptr` is freed by
 * the commit. Mind that it may return `ptr` itself, whose bytes it does not add. */
void *bt_tx_realloc(bt_tx *tx, void *ptr, size_t size) BT_CHECKED;

/* Frees a block when the commit is durable; an abort leaves it. NULL is none.
 * Returns 0 or -1: EINVAL it is no block, free, or was freed in this transaction
 * already. */
int bt_tx_free(bt_tx *tx, void *ptr);

/* Makes the transaction durable, and ends it.
 *
 * Returns 0 when it is durable; or -1, and then it was aborted.
 * Errors: EFBIG its bytes are too long for the log.
 * Cost:   as bt_persistv, and the frees.
 * Crash:  all of it or nothing. */
int bt_tx_commit(bt_tx *tx) BT_CHECKED;

/* Takes the transaction back, and ends it: the ranges have their old bytes, its
 * blocks are free. Returns 0, or -1 for NULL. Cost: a copy of the old bytes. */
int bt_tx_abort(bt_tx *tx);

/* === Looking after a heap ================================================ */

/* What a collection found. */
typedef struct bt_gc_report {
    uint64_t blocks; /* blocks freed */
    uint64_t bytes;  /* their usable bytes */
    uint64_t live_blocks;
    uint64_t live_bytes;
} bt_gc_report;

/* Frees all blocks to which no named root leads, neither in the program's memory
 * nor in what is durable. Pointers that only variables hold (on the stack, in
 * static or ordinary memory) do not count: call it at a quiet point, such as the
 * start of the program. No other thread may be in the heap, nor change its data,
 * meanwhile. Opening after a crash does the same by itself.
 *
 * `report` may be NULL.
 * Returns 0 or -1. Errors: EBUSY transactions are open.
 * Cost:   a checkpoint, each live block looked at, a free of each one found.
 * Crash:  as without the call, and opening collects. */
int bt_gc(bt_heap *heap, bt_gc_report *report);

/* Gives free space back to the system, 64 KiB and more in one piece: the file gets
 * holes there, and the memory goes. The heap does the same by itself, more
 * slowly, while much is free. `bytes` may be NULL, or gets how many.
 *
 * Returns 0 or -1. Other threads go on meanwhile.
 * Cost:   a checkpoint, and two system calls for each piece.
 * Crash:  free space has no content; nothing else is touched. */
int bt_purge(bt_heap *heap, uint64_t *bytes);

/* Checks that the heap's own data are consistent and that named roots lead to
 * live blocks. The program's data have no types, so they are not checked; blocks
 * that no root leads to are no error. As for other threads: see bt_gc.
 *
 * Returns 0, or -1 with EBADMSG, and bt_errmsg() names the place.
 * Cost:   each live block looked at; nothing is changed. */
int bt_check(bt_heap *heap);

/* Writes numbers about the heap as one JSON object of unsigned integers to `buf`,
 * at most `len` bytes with the final zero, as snprintf does: live_blocks,
 * live_bytes, reserved_bytes (in superblocks and runs), reserved_peak, free_bytes,
 * returned_bytes (free and given back to the system), table_bytes, home_bytes, max_bytes, file_bytes, dram_bytes, thread_superblocks,
 * global_superblocks, large_runs, remote_frees, roots, open_transactions, atomic_bytes,
 * opened_blocks, opened_by_marking (0 or 1), opened_microseconds.
 *
 * Returns the length without the zero, whatever fitted, or -1.
 * Cost:   the global lock and a look at each superblock. Numbers of threads that
 *         are at work are a moment old. */
int bt_stats_json(bt_heap *heap, char *buf, size_t len);

/* What the last call of this thread that failed met, in words that say what to do
 * next; "" before the first one. Good until the next one that fails. Fails never. */
const char *bt_errmsg(void);

#ifdef __cplusplus
}
#endif

#endif /* BARTENDER_H */
