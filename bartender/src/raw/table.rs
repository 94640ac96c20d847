//! A hash table with open addressing in the layout of [`RawTable`]: probing by groups of
//! 16 control bytes, as in Google's SwissTable and the `hashbrown` crate.
//!
//! It finds, claims and erases buckets by hash. It promises that a table has always an
//! empty bucket (so that a search ends), that the mirrored control bytes agree, and that a
//! failed or panicking operation leaves the table as it was. It does not hash or compare, and does
//! not care for the entries' contents: a claimed bucket is filled by who claimed it.

use super::group::{Bits, Group};
use super::{Ordinary, Store};
use bartender_heap::layout::RawTable;
use std::alloc::Layout;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

const GROUP: usize = RawTable::GROUP as usize;
const EMPTY: u8 = RawTable::CTRL_EMPTY;
const DELETED: u8 = RawTable::CTRL_DELETED;

/// A table of entries `E`.
///
/// Invariant: either `mask == 0` and there is no block, or the block at `ptr` is laid out as
/// [`RawTable`] says for `mask + 1` buckets, `items` of them are full (their entries are
/// initialised), and `growth_left + items` + deleted ones = 7/8 of the buckets.
#[repr(transparent)]
pub(crate) struct Table<E> {
    raw: RawTable,
    entries: PhantomData<E>,
}

/// Entries that may be there before a table of so many buckets grows.
const fn room(buckets: usize) -> usize {
    buckets / 8 * 7
}

/// Buckets for `entries` entries, `None` when no address space would do.
fn buckets_for(entries: usize) -> Option<usize> {
    if entries <= room(GROUP) {
        return Some(GROUP);
    }
    (entries.checked_mul(8)? / 7 + 1).checked_next_power_of_two()
}

#[inline]
fn tag(hash: u64) -> u8 {
    (hash >> 57) as u8
}

impl<E> Table<E> {
    /// A table without a block.
    pub(crate) const fn new(seed: u64) -> Self {
        const { assert!(size_of::<E>() != 0, "a table of entries without a size") };
        let ptr = align_of::<E>() as u64;
        Table {
            raw: RawTable {
                ptr,
                mask: 0,
                items: 0,
                growth_left: 0,
                seed,
            },
            entries: PhantomData,
        }
    }

    /// Full buckets.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.raw.items as usize
    }

    /// Entries that fit before the table grows.
    pub(crate) fn capacity(&self) -> usize {
        (self.raw.items + self.raw.growth_left) as usize
    }

    /// Entries that may come before the table grows.
    #[inline]
    pub(crate) fn growth_left(&self) -> usize {
        self.raw.growth_left as usize
    }

    /// The hash function's seed.
    #[inline]
    pub(crate) fn seed(&self) -> u64 {
        self.raw.seed
    }

    /// Buckets, 0 without a block.
    #[inline]
    fn buckets(&self) -> usize {
        match self.raw.mask {
            0 => 0,
            mask => mask as usize + 1,
        }
    }

    #[inline]
    fn control(&self) -> *mut u8 {
        ptr::with_exposed_provenance_mut(self.raw.ptr as usize)
    }

    /// Where the entries begin in a block of so many buckets.
    #[inline]
    const fn entries_at(buckets: usize) -> usize {
        // Buckets are a multiple of `GROUP`.
        if align_of::<E>() <= GROUP {
            buckets + GROUP
        } else {
            (buckets + GROUP).next_multiple_of(align_of::<E>())
        }
    }

    /// The block of a table of so many buckets, `None` when no address space would do.
    fn layout(buckets: usize) -> Option<Layout> {
        let entries = buckets.checked_mul(size_of::<E>())?;
        let align = align_of::<E>().max(GROUP);
        let control = buckets.checked_add(GROUP + align)?;
        let size = Self::entries_at(buckets).checked_add(entries)?;
        control.checked_add(entries)?;
        Layout::from_size_align(size, align).ok()
    }

    /// The block that is there.
    pub(crate) fn block(&self) -> Option<(NonNull<u8>, Layout)> {
        let layout = match self.buckets() {
            0 => return None,
            buckets => Self::layout(buckets).expect("the layout of a block that exists"),
        };
        Some((NonNull::new(self.control())?, layout))
    }

    /// Says where the block is from now on, which has been copied there byte by byte.
    ///
    /// # Safety
    ///
    /// It has.
    pub(crate) unsafe fn set_block(&mut self, block: NonNull<u8>) {
        self.raw.ptr = block.as_ptr().expose_provenance() as u64;
    }

    /// The entry of a bucket.
    ///
    /// # Safety
    ///
    /// There is a block and it has this bucket.
    #[inline]
    pub(crate) unsafe fn bucket(&self, index: usize) -> NonNull<E> {
        debug_assert!(index < self.buckets());
        let at = Self::entries_at(self.raw.mask as usize + 1);
        // SAFETY: the entry lies in the block, by the caller's word.
        unsafe { NonNull::new_unchecked(self.control().add(at).cast::<E>().add(index)) }
    }

    /// The full bucket whose entry has this hash and is `equal`.
    #[inline(always)]
    pub(crate) fn find(&self, hash: u64, mut equal: impl FnMut(&E) -> bool) -> Option<usize> {
        if self.raw.items == 0 {
            return None;
        }
        let mask = self.raw.mask as usize;
        let control = self.control();
        let tag = tag(hash);
        let mut at = hash as usize & mask;
        let mut stride = 0;
        // Most entries are a place or two behind where the search begins, in a line of their own: it comes beside that
        // of the control bytes.
        // SAFETY: `at <= mask`.
        bartender_heap::prefetch(unsafe { self.bucket(at) }.as_ptr());
        loop {
            // SAFETY: `at <= mask`, and 16 control bytes more than buckets are there.
            let group = unsafe { Group::load(control.add(at)) };
            for bit in group.matches(tag) {
                let index = (at + bit) & mask;
                // SAFETY: a bucket with a tag is full: its entry is initialised.
                if equal(unsafe { self.bucket(index).as_ref() }) {
                    return Some(index);
                }
            }
            if !group.matches(EMPTY).is_empty() {
                return None;
            }
            stride += GROUP;
            at = (at + stride) & mask;
        }
    }

    /// The first bucket for this hash that is empty or deleted. There is a block.
    pub(crate) fn vacant(&self, hash: u64) -> usize {
        let mask = self.raw.mask as usize;
        let mut at = hash as usize & mask;
        let mut stride = 0;
        loop {
            // SAFETY: `at <= mask`, and 16 control bytes more than buckets are there.
            let group = unsafe { Group::load(self.control().add(at)) };
            if let Some(bit) = group.high().first() {
                return (at + bit) & mask;
            }
            stride += GROUP;
            at = (at + stride) & mask;
        }
    }

    /// Sets a control byte, and its mirror.
    ///
    /// # Safety
    ///
    /// The bucket exists.
    unsafe fn set_control(&self, index: usize, byte: u8, store: impl Store) {
        let set = |i: usize| {
            // SAFETY: `i` is below `buckets + 16`.
            unsafe {
                let at = self.control().add(i);
                store.change(at, 1);
                *at = byte;
            }
        };
        set(index);
        if index < GROUP {
            set(self.buckets() + index);
        }
    }

    /// Whether a bucket is deleted rather than never used.
    unsafe fn is_deleted(&self, index: usize) -> bool {
        // SAFETY: the caller says that the bucket exists.
        unsafe { *self.control().add(index) == DELETED }
    }

    /// Makes room for `extra` entries. `hash` is asked for each entry's hash if they must move.
    ///
    /// # Safety
    ///
    /// `this` may be changed, and is where `store` says.
    pub(crate) unsafe fn reserve<S: Store>(
        this: *mut Self,
        extra: usize,
        hash: impl Fn(&E) -> u64,
        store: S,
    ) -> Result<(), S::Error> {
        // SAFETY: nobody else changes it meanwhile.
        let table = unsafe { &*this };
        if extra <= table.raw.growth_left as usize {
            return Ok(());
        }
        let wanted = table
            .len()
            .checked_add(extra)
            .ok_or_else(|| store.too_large())?;
        // Few entries and no room: it is full of deleted ones, and the same size will do.
        let wanted = if wanted <= room(table.buckets()) / 2 {
            room(table.buckets())
        } else {
            wanted.max(room(table.buckets()) + 1)
        };
        // SAFETY: the caller's word is passed on.
        unsafe { Self::rebuild(this, wanted, hash, store) }
    }

    /// Moves to a new block with room for `wanted` entries.
    ///
    /// # Safety
    ///
    /// As [`reserve`](Self::reserve); `wanted` is not below the number of entries.
    pub(crate) unsafe fn rebuild<S: Store>(
        this: *mut Self,
        wanted: usize,
        hash: impl Fn(&E) -> u64,
        store: S,
    ) -> Result<(), S::Error> {
        /// Gives the new block back when a hash function panics.
        struct Undo<S: Store>(S, NonNull<u8>, Layout);
        impl<S: Store> Drop for Undo<S> {
            fn drop(&mut self) {
                // SAFETY: the block was allocated with this layout and is in no table.
                unsafe { self.0.free(self.1, self.2) }
            }
        }

        let buckets = buckets_for(wanted).ok_or_else(|| store.too_large())?;
        let layout = Self::layout(buckets).ok_or_else(|| store.too_large())?;
        let undo = Undo(store, store.alloc(layout)?, layout);
        let block = undo.1.as_ptr();
        // SAFETY: nobody else changes it meanwhile.
        let old = unsafe { &*this };
        let new = Table::<E> {
            raw: RawTable {
                ptr: block.expose_provenance() as u64,
                mask: buckets as u64 - 1,
                items: old.raw.items,
                growth_left: (room(buckets) - old.len()) as u64,
                seed: old.raw.seed,
            },
            entries: PhantomData,
        };
        // SAFETY: the block has so many control bytes, then `buckets` places for entries. Each
        // entry is moved to an empty one; the old ones are forgotten with their block.
        unsafe {
            block.write_bytes(EMPTY, buckets + GROUP);
            for from in old.full() {
                let hash = hash(from.as_ref());
                let index = new.vacant(hash);
                *block.add(index) = tag(hash);
                if index < GROUP {
                    *block.add(buckets + index) = tag(hash);
                }
                new.bucket(index).copy_from_nonoverlapping(from, 1);
            }
        }
        std::mem::forget(undo);
        let freed = old.block();
        // SAFETY: the caller says that the table may be changed; the old block is in no table
        // after.
        unsafe {
            store.wrote(block, layout.size());
            store.change(this.cast(), size_of::<RawTable>() - size_of::<u64>());
            (*this).raw = new.raw;
            if let Some((block, layout)) = freed {
                store.free(block, layout);
            }
        }
        Ok(())
    }

    /// Moves to a smaller block if one has room for the entries and for `capacity`, or gives the block back when no room is
    /// wanted.
    ///
    /// # Safety
    ///
    /// As [`reserve`](Self::reserve).
    pub(crate) unsafe fn shrink<S: Store>(
        this: *mut Self,
        capacity: usize,
        hash: impl Fn(&E) -> u64,
        store: S,
    ) -> Result<(), S::Error> {
        // SAFETY: nobody else changes it meanwhile.
        let table = unsafe { &*this };
        let wanted = table.len().max(capacity);
        if wanted == 0 {
            let freed = table.block();
            // SAFETY: the caller says that the table may be changed; the block, in which no entry is, is in no table
            // after.
            unsafe {
                if let Some((block, layout)) = freed {
                    store.change(this.cast(), size_of::<RawTable>() - size_of::<u64>());
                    *this = Table::new((*this).seed());
                    store.free(block, layout);
                }
            }
            return Ok(());
        }
        match buckets_for(wanted) {
            // SAFETY: the caller's word is passed on.
            Some(buckets) if buckets < table.buckets() => unsafe {
                Self::rebuild(this, wanted, hash, store)
            },
            _ => Ok(()),
        }
    }

    /// Takes a bucket for an entry with this hash, whose contents are the caller's.
    ///
    /// # Safety
    ///
    /// As [`reserve`](Self::reserve), which was called for it; there is no equal entry, and the bucket is the
    /// [vacant](Self::vacant) one for it.
    pub(crate) unsafe fn claim(this: *mut Self, index: usize, hash: u64, store: impl Store) {
        // SAFETY: the caller says that the table may be changed, and which bucket it is.
        unsafe {
            let reused = (*this).is_deleted(index);
            (*this).set_control(index, tag(hash), store);
            Self::count(this, store);
            (*this).raw.items += 1;
            (*this).raw.growth_left -= u64::from(!reused);
        }
    }

    /// Says that the counts change.
    unsafe fn count(this: *mut Self, store: impl Store) {
        // SAFETY: the caller says that the table may be changed; the two counts are neighbours.
        unsafe { store.change((&raw mut (*this).raw.items).cast(), 16) };
    }

    /// Makes a full bucket empty. Its entry is the caller's.
    ///
    /// # Safety
    ///
    /// The table may be changed, and is where `store` says; the bucket is full.
    pub(crate) unsafe fn erase(this: *mut Self, index: usize, store: impl Store) {
        // SAFETY: 16 control bytes can be read from each bucket's on.
        unsafe {
            let mask = (*this).raw.mask as usize;
            let group = |at: usize| Group::load((*this).control().add(at & mask)).matches(EMPTY);
            let before: Bits = group(index.wrapping_sub(GROUP));
            let after: Bits = group(index);
            // In a run of 16 buckets without an empty one some search may have gone on
            // past this one: it must not end here from now on.
            let run = before.0.leading_zeros() + after.0.trailing_zeros();
            let (byte, left) = if run >= GROUP as u32 {
                (DELETED, 0)
            } else {
                (EMPTY, 1)
            };
            (*this).set_control(index, byte, store);
            Self::count(this, store);
            (*this).raw.items -= 1;
            (*this).raw.growth_left += left;
        }
    }

    /// Makes all buckets empty. The entries are the caller's.
    ///
    /// # Safety
    ///
    /// The table may be changed, and is where `store` says.
    pub(crate) unsafe fn clear(this: *mut Self, store: impl Store) {
        // SAFETY: the block has so many control bytes.
        unsafe {
            let buckets = (*this).buckets();
            if buckets == 0 {
                return;
            }
            let control = (*this).control();
            store.change(control, buckets + GROUP);
            control.write_bytes(EMPTY, buckets + GROUP);
            Self::count(this, store);
            (*this).raw.items = 0;
            (*this).raw.growth_left = room(buckets) as u64;
        }
    }

    /// Zeroes the bytes of the block that belong to no entry.
    ///
    /// # Safety
    ///
    /// The block may be written, and nobody is told.
    pub(crate) unsafe fn zero_vacant(&mut self) {
        let buckets = self.buckets();
        if buckets == 0 {
            return;
        }
        let (end, entries) = (buckets + GROUP, Self::entries_at(buckets));
        // SAFETY: the block has so many control bytes, then a gap, then the entries, of which none is in a bucket
        // that is empty or deleted.
        unsafe {
            let control = self.control();
            control.add(end).write_bytes(0, entries - end);
            for index in (0..buckets).filter(|index| *control.add(*index) >= DELETED) {
                self.bucket(index).write_bytes(0, 1);
            }
        }
    }

    /// The entries of the full buckets, in the order of the buckets.
    #[inline]
    pub(crate) fn full(&self) -> Full<E> {
        let (bits, entries) = match self.buckets() {
            0 => (Bits(0), NonNull::dangling()),
            // SAFETY: a block has at least 32 control bytes, and a first bucket.
            _ => unsafe { (Bits(!Group::load(self.control()).high().0), self.bucket(0)) },
        };
        Full {
            control: self.control(),
            entries: entries.as_ptr(),
            bits,
            left: self.len(),
        }
    }

    /// The bucket of an entry that [`full`](Self::full) gave.
    pub(crate) fn index_of(&self, entry: NonNull<E>) -> usize {
        let first = self.control().addr() + Self::entries_at(self.raw.mask as usize + 1);
        (entry.addr().get() - first) / size_of::<E>()
    }
}

impl<E> Table<E> {
    /// An owned table with as many buckets as `raw` and its seed, all empty. They are to be filled as `raw`'s are.
    pub(crate) fn like(raw: &RawTable) -> Self {
        let mut table = Table::new(raw.seed);
        if raw.mask != 0 {
            let buckets = raw.mask as usize + 1;
            let layout = Self::layout(buckets).expect("as many entries were stored");
            let block = super::sure(Ordinary.alloc(layout));
            // SAFETY: the block has so many control bytes.
            unsafe { block.write_bytes(EMPTY, buckets + GROUP) };
            table.raw.mask = raw.mask;
            table.raw.growth_left = room(buckets) as u64;
            // SAFETY: an empty table's block has nothing but control bytes.
            unsafe { table.set_block(block) };
        }
        table
    }

    /// Puts an entry into an empty bucket of an owned table, whose control byte is `tag` then.
    ///
    /// # Safety
    ///
    /// The bucket exists and is empty; the tag is that of the entry's hash, and the bucket one in which it is looked for.
    pub(crate) unsafe fn fill(&mut self, index: usize, tag: u8, entry: E) {
        // SAFETY: the caller's promise.
        unsafe {
            self.bucket(index).write(entry);
            self.set_control(index, tag, Ordinary);
        }
        self.raw.items += 1;
        self.raw.growth_left -= 1;
    }

    /// Takes over the buckets of `raw` that were deleted, when those that were full have been filled.
    ///
    /// # Safety
    ///
    /// The table was made like `raw`, whose block is at `block`, with each of its entries in the same bucket.
    pub(crate) unsafe fn finish_like(&mut self, raw: &RawTable, block: *const u8) {
        for index in 0..self.buckets() {
            // SAFETY: both have so many control bytes.
            unsafe {
                if block.add(index).read() == DELETED {
                    self.set_control(index, DELETED, Ordinary);
                }
            }
        }
        self.raw.growth_left = raw.growth_left;
    }

    /// Gives an owned table's block back. The entries are the caller's.
    ///
    /// # Safety
    ///
    /// The table is owned, and is not used after.
    pub(crate) unsafe fn free_owned(&mut self) {
        if let Some((block, layout)) = self.block() {
            // SAFETY: an owned table's block is ordinary memory.
            unsafe { Ordinary.free(block, layout) }
        }
    }
}

/// Iterator over the entries of a table's full buckets. It borrows nothing: who uses it
/// sees to it that the table is not changed meanwhile, but for buckets it has passed.
pub(crate) struct Full<E> {
    control: *mut u8,
    entries: *mut E,
    bits: Bits,
    left: usize,
}

impl<E> Full<E> {
    /// The same entries again.
    pub(crate) fn again(&self) -> Self {
        Full {
            control: self.control,
            entries: self.entries,
            bits: self.bits,
            left: self.left,
        }
    }
}

impl<E> Iterator for Full<E> {
    type Item = NonNull<E>;

    #[inline]
    fn next(&mut self) -> Option<NonNull<E>> {
        if self.left == 0 {
            return None;
        }
        while self.bits.is_empty() {
            // SAFETY: entries are left, so this is not the last group, and whole groups
            // divide the buckets.
            unsafe {
                self.control = self.control.add(GROUP);
                self.entries = self.entries.add(GROUP);
                self.bits = Bits(!Group::load(self.control).high().0);
            }
        }
        let bit = self.bits.next()?;
        self.left -= 1;
        // SAFETY: the bucket is in the block.
        Some(unsafe { NonNull::new_unchecked(self.entries.add(bit)) })
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}
