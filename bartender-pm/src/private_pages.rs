//! Which pages of the view are the program's own copies beside the home's: how much memory the view takes.
//!
//! A page counts once however often it is changed, so a program whose pages fit keeps them. What is counted decides
//! only when pages are given back, never what they hold: a page that nobody told of, or that went unnoticed, costs
//! memory or a fault.

use crate::newest::PAGE;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use std::ops::Range;

/// A set of pages, by home offset.
#[derive(Debug, Default)]
pub(crate) struct PrivatePages {
    /// A bit for each page of the home, as far up as any was added.
    bits: Mutex<Vec<u64>>,
    /// Bits that are set, for readers without the lock.
    count: AtomicU64,
}

impl PrivatePages {
    /// Pages in it.
    #[inline]
    pub(crate) fn len(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Adds the pages in which these offsets lie.
    pub(crate) fn add(&self, offsets: impl Iterator<Item = u64>) {
        let mut bits = self.bits.lock();
        let mut new = 0;
        for offset in offsets {
            let (word, bit) = place(offset);
            if word >= bits.len() {
                bits.resize(word + 1, 0);
            }
            new += u64::from(bits[word] & bit == 0);
            bits[word] |= bit;
        }
        self.count.fetch_add(new, Ordering::Relaxed);
    }

    /// Takes out the pages that lie in `range`.
    pub(crate) fn remove(&self, range: Range<u64>) {
        let mut bits = self.bits.lock();
        let end = range.end.min(bits.len() as u64 * 64 * PAGE);
        let mut gone = 0;
        for offset in (range.start.next_multiple_of(PAGE)..end).step_by(PAGE as usize) {
            let (word, bit) = place(offset);
            gone += u64::from(bits[word] & bit != 0);
            bits[word] &= !bit;
        }
        self.count.fetch_sub(gone, Ordering::Relaxed);
    }
}

/// Word and bit of the page in which an offset lies.
fn place(offset: u64) -> (usize, u64) {
    let page = offset / PAGE;
    ((page / 64) as usize, 1 << (page % 64))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "many steps")]
        fn it_is_a_set_of_pages(steps in prop::collection::vec((any::<bool>(), 0u64..300, 0u64..100), 1..40)) {
            let (ours, mut twin) = (PrivatePages::default(), BTreeSet::new());
            for (add, first, n) in steps {
                let pages = first..first + n;
                if add {
                    ours.add(pages.clone().map(|page| page * PAGE + page % PAGE));
                    twin.extend(pages);
                } else {
                    ours.remove(pages.start * PAGE..pages.end * PAGE);
                    twin.retain(|page| !pages.contains(page));
                }
                prop_assert_eq!(ours.len(), twin.len() as u64);
            }
        }
    }
}
